"""The environment: OTEL_* as the specification says, OTEL_NETMON_* for every key."""

from __future__ import annotations

import pytest

from otel_netmon.config import environment
from otel_netmon.config.environment_own import Environment
from otel_netmon.config.keys import GROUPS, KEYS


def read(**environ: str) -> Environment:
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
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x", "otlp.traces_endpoint", "http://c/x"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c/x", "otlp.logs_endpoint", "http://c/x"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative", "otlp.temporality", "cumulative"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta", "otlp.temporality", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory", "otlp.temporality", "lowmemory"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "EXPLICIT_bucket_histogram",
            "otlp.histograms",
            "explicit",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
            "otlp.histograms",
            "exponential",
        ),
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
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "stateless",
            "expected one of cumulative, delta, lowmemory, got 'stateless'",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "exponential",
            "expected one of base2_exponential_bucket_histogram, explicit_bucket_histogram, got 'exponential'",
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


SHARED = [("PROTOCOL", "grpc"), ("HEADERS", "a=hush"), ("CERTIFICATE", "/a"), ("TIMEOUT", "5"), ("COMPRESSION", "none")]


@pytest.mark.parametrize(("part", "text"), SHARED)
@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_what_all_signals_of_a_receiver_share_is_not_set_for_one(part: str, text: str, signal: str) -> None:
    name = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{part}"
    key = next(each.key for each in environment.VARIABLES if each.names[-1] == f"OTEL_EXPORTER_OTLP_{part}")
    found = environment.read({name: text})
    assert (found.values, found.problems) == ({}, [])
    assert found.warnings == [
        (
            f"environment variable {name} is ignored: all signals of a receiver share {key}; set OTEL_EXPORTER_OTLP_{part}, "
            f"or a receiver of its own by otlp.destinations.NAME with signals: [{signal}]"
        )
    ]
    assert environment.read({name: text, f"OTEL_{signal.upper()}_EXPORTER": "none"}).warnings == []


@pytest.mark.parametrize(("part", "text"), [("PROTOCOL", "GRPC"), ("HEADERS", "A=hush"), ("TIMEOUT", "2000.0")])
def test_a_signal_that_asks_for_the_same_is_not_warned_about(part: str, text: str) -> None:
    same = {"PROTOCOL": "grpc", "HEADERS": "a=hush", "TIMEOUT": "2000"}[part]
    assert values(**{f"OTEL_EXPORTER_OTLP_TRACES_{part}": text, f"OTEL_EXPORTER_OTLP_{part}": same}) != {}
    default = read(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf", OTEL_EXPORTER_OTLP_LOGS_TIMEOUT="10000")
    assert default == ({}, [], [])


def test_headers_of_metrics_that_reach_another_endpoint_are_warned_about() -> None:
    environ = {"OTEL_EXPORTER_OTLP_METRICS_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m"}
    assert environment.read(environ).warnings == [
        (
            "environment variable OTEL_EXPORTER_OTLP_METRICS_HEADERS counts for traces and logs too, whose endpoint may be "
            "another; keep the headers apart by a receiver of its own, otlp.destinations.NAME with its signals"
        )
    ]
    none = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    assert environment.read({**environ, **none}).warnings == []


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("DESTINATIONS_BACKUP_ENDPOINT", "http://b", "backup.endpoint", "http://b"),
        ("DESTINATIONS__BACKUP__ENDPOINT", "http://b", "backup.endpoint", "http://b"),
        ("_DESTINATIONS__BACKUP_ENDPOINT", "http://b", "backup.endpoint", "http://b"),
        # One word, so that this is not the endpoint of backup_metrics.
        ("DESTINATIONS_BACKUP_METRICS_ENDPOINT", "http://b", "backup.metrics_endpoint", "http://b"),
        ("DESTINATIONS__BACKUP_METRICS__ENDPOINT", "http://b", "backup_metrics.endpoint", "http://b"),
        ("DESTINATIONS__BACK_UP__TIMEOUT_SECONDS", "5", "back_up.timeout_seconds", 5.0),
        ("DESTINATIONS_2_SIGNALS", "logs, traces", "2.signals", ("logs", "traces")),
        ("DESTINATIONS_B_HEADERS", "X=%31", "b.headers.x", "1"),
    ],
)
def test_destinations_by_own_variables(name: str, text: str, key: str, value: object) -> None:
    name = f"OTEL_NETMON_OTLP_{name}"
    assert environment.read({name: text}).values == {f"otlp.destinations.{key}": (value, ("environment", name))}


def test_every_key_of_a_destination_has_a_variable() -> None:
    group = GROUPS["otlp.destinations"]
    for key in group.keys_of("b"):
        found = environment.read({key.variable: "x"})
        told = [*found.values, *(problem for problem in found.problems if "no such configuration key" not in problem)]
        assert len(told) == 1, key.name


@pytest.mark.parametrize(
    "name", ["BACKUP", "BACK_UP_ENDPOINT", "BACKUP_ENDPONT", "_DEFAULT__ENDPOINT", "__ENDPOINT", "B-C_ENDPOINT"]
)
def test_what_is_no_variable_of_a_destination(name: str) -> None:
    name = f"OTEL_NETMON_OTLP_DESTINATIONS_{name}"
    found = environment.read({name: "http://b"})
    assert found.values == {}
    assert found.problems == [
        (
            f"environment variable {name}: there is no such configuration key; write OTEL_NETMON_OTLP__DESTINATIONS__NAME__KEY, "
            f"where NAME may hold single underscores, KEY is one of {', '.join(GROUPS['otlp.destinations'].keys)}"
        )
    ]


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
    [("otlp", True, False), ("prometheus", False, True), ("OTLP, prometheus", True, True), ("none", False, False)],
)
def test_metrics_exporter_chooses(text: str, otlp: bool, prometheus: bool) -> None:
    sent = {"otlp.enabled": True} if otlp else {"otlp.signals": ("traces", "logs")}
    assert values(OTEL_METRICS_EXPORTER=text) == {"prometheus.enabled": prometheus, **sent}


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, ("metrics", "logs")),
        ({"OTEL_LOGS_EXPORTER": "None"}, ("metrics", "traces")),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}, ("metrics",)),
        ({name: "none" for name, _ in environment.EXPORTERS.values()}, ()),
    ],
)
def test_a_signal_without_the_otlp_exporter_is_not_sent(environ: dict[str, str], signals: tuple[str, ...]) -> None:
    found = environment.read(environ)
    assert found.values["otlp.signals"] == (signals, ("environment", " and ".join(environ)))
    assert found.warnings == []


def test_the_otlp_exporter_of_traces_and_logs_is_the_default() -> None:
    assert values(OTEL_TRACES_EXPORTER="otlp", OTEL_LOGS_EXPORTER="otlp") == {}


def test_an_exporter_of_traces_that_is_not_ours_is_warned_about() -> None:
    found = read(OTEL_TRACES_EXPORTER="zipkin")
    assert found.values == {}
    assert found.warnings == [
        "environment variable OTEL_TRACES_EXPORTER: 'zipkin' is ignored: this agent has otlp and none for traces"
    ]


def test_an_exporter_that_is_not_ours_is_warned_about() -> None:
    found = read(OTEL_METRICS_EXPORTER="console")
    assert found.values == {}
    assert found.warnings == [
        (
            "environment variable OTEL_METRICS_EXPORTER: 'console' is ignored: "
            "this agent has otlp, prometheus and none for metrics"
        )
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
