"""The environment: OTEL_* as the specification says, OTEL_NETMON_* for every key."""

from __future__ import annotations

import pytest

from otel_netmon.config import environment
from otel_netmon.config.keys import KEYS


def read(**environ: str) -> environment.Environment:
    return environment.read(environ)


def values(**environ: str) -> dict[str, object]:
    found = environment.read(environ)
    assert (found.problems, found.warnings) == ([], [])
    return {name: value for name, (value, _) in found.values.items()}


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318", "otlp.endpoint", "http://c:4318"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c/x", "otlp.metrics_endpoint", "http://c/x"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "otlp.protocol", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "GRPC", "otlp.protocol", "grpc"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE", "otlp.insecure", True),
        ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "true", "otlp.insecure", True),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%20b%2Cc", "otlp.headers.api-key", "a b,c"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=b=c", "otlp.headers.a", "b=c"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500", "otlp.timeout_seconds", 2.5),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "100", "otlp.timeout_seconds", 0.1),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "otlp.compression", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none", "otlp.compression", "none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem", "otlp.certificate", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/ca.pem", "otlp.certificate", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem", "otlp.client_certificate", "/c.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "/c.pem", "otlp.client_certificate", "/c.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem", "otlp.client_key", "/k.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/k.pem", "otlp.client_key", "/k.pem"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60000", "export.interval_seconds", 60.0),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "1500", "export.timeout_seconds", 1.5),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0", "prometheus.listen", "0.0.0.0:9464"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "::1", "prometheus.listen", "[::1]:9464"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "80", "prometheus.listen", "127.0.0.1:80"),
        ("OTEL_LOG_LEVEL", "WARN", "log.level", "warning"),
        ("OTEL_LOG_LEVEL", "debug", "log.level", "debug"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=a%C3%A9", "resource.attributes.k8s.pod.name", "aé"),
        ("OTEL_SERVICE_NAME", "edge", "resource.attributes.service.name", "edge"),
    ],
)
def test_a_variable_of_the_specification(name: str, text: str, key: str, expected: object) -> None:
    found = environment.read({name: text})
    assert (found.problems, found.warnings) == ([], [])
    assert found.values == {key: (expected, ("environment", name))}


@pytest.mark.parametrize(
    "part",
    ["PROTOCOL", "INSECURE", "HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"],
)
def test_the_variable_of_the_metrics_signal_wins(part: str) -> None:
    general, special = {
        "PROTOCOL": ("http/protobuf", "grpc"),
        "INSECURE": ("false", "true"),
        "HEADERS": ("a=1", "b=2"),
        "TIMEOUT": ("1000", "2000"),
        "COMPRESSION": ("none", "gzip"),
    }.get(part, ("/a", "/b"))
    alone = environment.read({f"OTEL_EXPORTER_OTLP_METRICS_{part}": special})
    both = environment.read({f"OTEL_EXPORTER_OTLP_METRICS_{part}": special, f"OTEL_EXPORTER_OTLP_{part}": general})
    assert both.values == alone.values
    empty = environment.read({f"OTEL_EXPORTER_OTLP_METRICS_{part}": "", f"OTEL_EXPORTER_OTLP_{part}": general})
    assert empty.values == environment.read({f"OTEL_EXPORTER_OTLP_{part}": general}).values != alone.values


def test_empty_counts_as_unset() -> None:
    names = [name for variable in environment.VARIABLES for name in variable.names]
    names += ["OTEL_SERVICE_NAME", "OTEL_METRICS_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_PROMETHEUS_HOST"]
    names += [key.variable for key in KEYS.values()]
    assert environment.read(dict.fromkeys(names, "")) == ({}, [], [])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        # What somebody writes who read the Python exporter, which takes seconds: not 10 ms, but warned about.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10", "10 ms: expected a number from 0.1 to 3600, got 0.01 seconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "expected a number of milliseconds"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "expected a number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "expected one of grpc, http/protobuf, got 'http/json'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", "expected one of none, gzip, got 'deflate'"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "1", "expected true or false"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "70000", "expected a port number"),
        ("OTEL_LOG_LEVEL", "loud", "expected one of debug, info, warning, error, got 'loud'"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b", "expected name=value,name=value; pair 2 is not name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "the percent-encoding of pair 1 is not UTF-8"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", "every series is cumulative"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
            "histograms have explicit buckets",
        ),
    ],
)
def test_what_cannot_be_read_is_ignored_with_a_warning(name: str, text: str, reason: str) -> None:
    assert environment.read({name: text}) == ({}, [], [f"environment variable {name} is ignored: {reason}"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///x", "the scheme unix:// is not http:// or https://"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hush", "expected name=value,name=value; pair 1 is not name=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%0Ahush", "a header value holds printable ASCII only"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "a b", "'a b' is not a host name"),
        ("OTEL_NETMON_FLOWS_TOP_K", "many", "expected an integer from 0 to 100000, got 'many'"),
        ("OTEL_NETMON_LOG_LEVEL", "\udcff", "the text is not valid Unicode"),
        ("OTEL_NETMON_RESOURCE_ATTRIBUTES", "a=\udcff", "the text is not valid Unicode"),
        (
            "OTEL_NETMON_FLOW_TOP_K",
            "1",
            "there is no such configuration key; did you mean OTEL_NETMON_FLOWS_TOP_K?",
        ),
    ],
)
def test_what_would_send_data_elsewhere_or_is_ours_is_an_error(name: str, text: str, reason: str) -> None:
    found = environment.read({name: text})
    assert found.values == {}
    assert found.warnings == []
    assert found.problems == [f"environment variable {name}: {reason}"]


def test_every_key_has_a_variable_of_its_own() -> None:
    assert len({key.variable for key in KEYS.values()}) == len(KEYS)


def test_own_variables() -> None:
    assert values(
        OTEL_NETMON_EXPORT_INTERVAL_SECONDS="0.5",
        OTEL_NETMON_PROBES__XDP__ENABLED="on",
        OTEL_NETMON_INTERFACES_INCLUDE="eth0, veth*",
        OTEL_NETMON_OTLP_HEADERS="A=1,b=%32",
        OTEL_NETMON_OTLP_ENDPOINT="null",
        OTEL_NETMON_CONFIG="/x",
        OTHER="1",
    ) == {
        "export.interval_seconds": 0.5,
        "probes.xdp.enabled": True,
        "interfaces.include": ("eth0", "veth*"),
        "otlp.headers.a": "1",
        "otlp.headers.b": "2",
        "otlp.endpoint": None,
    }


def test_an_own_variable_beats_the_specification() -> None:
    assert values(OTEL_NETMON_LOG_LEVEL="error", OTEL_LOG_LEVEL="debug") == {"log.level": "error"}


def test_two_spellings_of_one_key_are_an_error() -> None:
    found = read(OTEL_NETMON_FLOWS_TOP_K="1", OTEL_NETMON_FLOWS__TOP_K="2")
    one, other = sorted(["OTEL_NETMON_FLOWS_TOP_K", "OTEL_NETMON_FLOWS__TOP_K"])
    assert found.problems == [f"environment variable {other}: flows.top_k is already set by {one}"]


def test_variables_that_kubernetes_makes_for_a_service_are_not_configuration() -> None:
    links = {
        "OTEL_NETMON_SERVICE_HOST": "10.0.0.1",
        "OTEL_NETMON_SERVICE_PORT": "9464",
        "OTEL_NETMON_SERVICE_PORT_METRICS": "9464",
        "OTEL_NETMON_PORT": "tcp://10.0.0.1:9464",
        "OTEL_NETMON_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        "OTEL_NETMON_PORT_9464_TCP_PROTO": "tcp",
        "OTEL_NETMON_PORT_9464_TCP_PORT": "9464",
        "OTEL_NETMON_PORT_9464_TCP_ADDR": "10.0.0.1",
    }
    assert environment.read(links) == ({}, [], [])


@pytest.mark.parametrize(
    ("text", "otlp", "prometheus"),
    [("otlp", True, False), ("prometheus", False, True), ("otlp, prometheus", True, True), ("none", False, False)],
)
def test_metrics_exporter_chooses(text: str, otlp: bool, prometheus: bool) -> None:
    assert values(OTEL_METRICS_EXPORTER=text) == {"otlp.enabled": otlp, "prometheus.enabled": prometheus}


def test_an_exporter_that_is_not_ours_is_warned_about() -> None:
    found = read(OTEL_METRICS_EXPORTER="console")
    assert found.values == {}
    assert found.warnings == [
        "environment variable OTEL_METRICS_EXPORTER: 'console' is ignored: this agent has otlp, prometheus and none"
    ]


def test_sdk_disabled_is_stronger_than_the_exporter_list() -> None:
    assert values(OTEL_SDK_DISABLED="True", OTEL_METRICS_EXPORTER="otlp") == {
        "otlp.enabled": False,
        "prometheus.enabled": False,
    }
    assert read(OTEL_SDK_DISABLED="1").warnings == [
        "environment variable OTEL_SDK_DISABLED counts as false: expected true or false"
    ]


def test_service_name_beats_resource_attributes() -> None:
    assert values(OTEL_SERVICE_NAME="a", OTEL_RESOURCE_ATTRIBUTES="service.name=b,x=y") == {
        "resource.attributes.service.name": "a",
        "resource.attributes.x": "y",
    }


def test_host_and_port_make_one_address() -> None:
    found = read(OTEL_EXPORTER_PROMETHEUS_HOST="localhost", OTEL_EXPORTER_PROMETHEUS_PORT="1")
    assert found.values == {
        "prometheus.listen": (
            "localhost:1",
            ("environment", "OTEL_EXPORTER_PROMETHEUS_HOST and OTEL_EXPORTER_PROMETHEUS_PORT"),
        )
    }
