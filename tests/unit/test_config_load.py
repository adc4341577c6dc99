"""All sources together: precedence, origins, contradictions, what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_netmon.config.load import Loaded, find_file, load
from otel_netmon.config.model import Config, Destination
from otel_netmon.config.origins import Origin
from otel_netmon.errors import ConfigError

NOWHERE = "/nonexistent/otel-netmon/config.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def build(
    file: Path | None = None,
    flags: dict[str, str | list[str]] | None = None,
    sets: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> Loaded:
    return load(str(file) if file else None, flags or {}, sets, environ or {}, NOWHERE)


def refused(
    file: Path | None = None,
    flags: dict[str, str | list[str]] | None = None,
    sets: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(file, flags, sets, environ)
    return str(caught.value).splitlines()


def test_nothing_given_is_the_default() -> None:
    assert build() == (Config(), {}, (), None)


def test_explicit_key_beats_flag_beats_environment_beats_default(file: Path) -> None:
    environ = {"OTEL_EXPORTER_PROMETHEUS_PORT": "1"}
    flags: dict[str, str | list[str]] = {"--prometheus": "localhost:2"}
    file.write_text("prometheus:\n  listen: localhost:3\n")
    sets = ("prometheus.listen=localhost:4",)

    def listen(loaded: Loaded) -> tuple[str, Origin]:
        return loaded.config.prometheus.listen, loaded.origins["prometheus.listen"]

    assert listen(build(environ=environ)) == ("127.0.0.1:1", Origin("environment", "OTEL_EXPORTER_PROMETHEUS_PORT"))
    assert listen(build(None, flags, environ=environ)) == ("localhost:2", Origin("flag", "--prometheus"))
    assert listen(build(file, flags, environ=environ)) == ("localhost:3", Origin("file", f"{file}:2:11"))
    assert listen(build(file, flags, sets, environ=environ)) == (
        "localhost:4",
        Origin("set", "--set prometheus.listen"),
    )


def test_an_overridden_flag_is_warned_about(file: Path) -> None:
    file.write_text("interfaces: {include: [eth0]}\n")
    loaded = build(file, {"--interface": ["eth1"]})
    assert loaded.config.interfaces.include == ("eth0",)
    assert loaded.warnings == (f"--interface has no effect on interfaces.include: {file}:1:23 sets it",)
    assert build(file, {"--interface": ["eth0"]}).warnings == ()


def test_a_flag_turns_its_exporter_on() -> None:
    loaded = build(
        None, {"--prometheus": "localhost:1", "--otlp-endpoint": "http://c"}, environ={"OTEL_METRICS_EXPORTER": "none"}
    )
    assert loaded.config.prometheus.enabled
    assert loaded.config.otlp.enabled
    assert loaded.origins["otlp.enabled"] == Origin("flag", "--otlp-endpoint")


def test_mappings_merge_entry_by_entry(file: Path) -> None:
    file.write_text("otlp: {headers: {B: file, c: file}}\n")
    loaded = build(
        file, None, ("otlp.headers.c=set", "otlp.headers.d.e=set"), environ={"OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=2"}
    )
    assert loaded.config.otlp.headers == {"a": "1", "b": "file", "c": "set", "d.e": "set"}
    assert {name: origin.kind for name, origin in loaded.origins.items()} == {
        "otlp.headers.a": "environment",
        "otlp.headers.b": "file",
        "otlp.headers.c": "set",
        "otlp.headers.d.e": "set",
    }


def test_set_reads_text_by_the_type_of_the_key() -> None:
    config = build(
        None,
        None,
        (
            "flows.top_k=1",
            "flows.top_k=7",
            "interfaces.include=a,b*",
            "interfaces.namespaces=",
            "otlp.endpoint=null",
            "resource.attributes=a=1,b=%2C",
            "resource.attributes.c.d=x=y, z",
            "probes.xdp.enabled=true",
        ),
        environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ignored"},
    ).config
    assert config.flows.top_k == 7
    assert config.interfaces.include == ("a", "b*")
    assert config.interfaces.namespaces == ()
    assert config.otlp.endpoint is None
    assert config.resource.attributes == {"a": "1", "b": ",", "c.d": "x=y, z"}
    assert config.probes.xdp.enabled is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flows.top_k", "--set flows.top_k: expected KEY=VALUE"),
        (
            "probes.dsn.enabled=true",
            "--set probes.dsn.enabled: unknown key 'probes.dsn.enabled'; did you mean probes.dns.enabled?",
        ),
        ("flows.topk=1", "--set flows.topk: unknown key 'flows.topk'; did you mean flows.top_k?"),
        ("flows=1", "--set flows: unknown key 'flows'; it is a section, set one of its keys"),
        ("flows.top_k=x", "--set flows.top_k: expected an integer from 0 to 100000, got 'x'"),
        ("otlp.headers.=x", "--set otlp.headers.: unknown key 'otlp.headers.'; did you mean otlp.headers?"),
        ("otlp.headers.a b=x", "--set otlp.headers.a b: 'a b' is not a header name"),
        ("flows.top_k.x=1", "--set flows.top_k.x: unknown key 'flows.top_k.x'; did you mean flows.top_k?"),
        (
            "otlp.destinations=x",
            (
                "--set otlp.destinations: unknown key 'otlp.destinations'; it holds sections under names of your choice, "
                "set otlp.destinations.NAME.KEY"
            ),
        ),
        (
            "otlp.destinations.b=http://b",
            "--set otlp.destinations.b: unknown key 'otlp.destinations.b'; it is a section, set one of its keys",
        ),
        (
            "otlp.destinations.B.endpoint=http://b",
            (
                "--set otlp.destinations.B.endpoint: unknown key 'otlp.destinations.B.endpoint'; a destination's name has "
                "1 to 32 of a-z, 0-9, _ and -, the first of a-z and 0-9"
            ),
        ),
        (
            "otlp.destinations.b.signals=metrics,spans",
            "--set otlp.destinations.b.signals: expected a list of metrics, traces, logs, got 'spans'",
        ),
        (
            "otlp.proxy=http://[REDACTED]@p:1",
            "--set otlp.proxy: the user is [REDACTED], the mask of print-config: write the secret itself, or ${env:NAME}",
        ),
    ],
)
def test_a_wrong_set(text: str, expected: str) -> None:
    assert refused(None, None, (text,)) == [expected]


def test_problems_of_all_sources_are_told_at_once(file: Path) -> None:
    file.write_text("flows:\n  top_k: x\n  qqqq: 1\n")
    assert refused(file, {"--prometheus": "x"}, ("a=1",), environ={"OTEL_NETMON_LOG_LEVEL": "x"}) == [
        f"{file}:2:10: flows.top_k: expected an integer from 0 to 100000, got 'x'",
        f"{file}:3:3: unknown key 'flows.qqqq'; flows has top_k",
        "--set a: unknown key 'a'",
        "--prometheus: the port is missing: write HOST:PORT",
        "environment variable OTEL_NETMON_LOG_LEVEL: expected one of debug, info, warning, error, got 'x'",
    ]


def test_a_flood_of_problems_is_cut(file: Path) -> None:
    file.write_text("".join(f"q{number}: 1\n" for number in range(100)))
    lines = refused(file)
    assert len(lines) == 21
    assert lines[-1] == "80 further problems are not shown"


def test_a_stronger_endpoint_drops_the_signal_endpoint() -> None:
    environ = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://g"}
    assert build(environ=environ).config.otlp.metrics_target() == "http://m/x"
    loaded = build(None, {"--otlp-endpoint": "http://f/"}, environ=environ)
    assert loaded.config.otlp.metrics_target() == "http://f/v1/metrics"
    assert "otlp.metrics_endpoint" not in loaded.origins
    assert loaded.warnings == (
        "environment variable OTEL_EXPORTER_OTLP_METRICS_ENDPOINT has no effect: --otlp-endpoint sets otlp.endpoint",
    )


def test_contradictions(file: Path) -> None:
    file.write_text("otlp:\n  client_key: /k\n  endpoint: collector:4317\n")
    assert refused(file) == [
        f"{file}:2:15: otlp.client_key needs otlp.client_certificate too",
        f"{file}:3:13: otlp.endpoint: 'collector:4317' has no http:// or https://, which otlp.protocol http/protobuf needs",
    ]
    config = build(file, None, ("otlp.protocol=grpc", "otlp.client_certificate=/c")).config
    assert config.otlp.metrics_target() == "collector:4317"


def test_destinations_merge_key_by_key_over_all_sources(file: Path) -> None:
    file.write_text("otlp:\n  destinations:\n    backup:\n      endpoint: http://file\n      timeout_seconds: 3\n")
    loaded = build(
        file,
        sets=("otlp.destinations.backup.timeout_seconds=4", "otlp.destinations.backup.headers.X-Key=a b"),
        environ={"OTEL_NETMON_OTLP_DESTINATIONS_BACKUP_ENDPOINT": "http://e", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        | {"OTEL_NETMON_OTLP_DESTINATIONS_BACKUP_SIGNALS": "metrics"},
    )
    start = "otlp.destinations.backup."
    assert loaded.config.otlp.destinations == {
        "backup": Destination(
            endpoint="http://file", timeout_seconds=4.0, headers={"x-key": "a b"}, signals=("metrics",)
        )
    }
    assert loaded.config.otlp.compression == "none"
    assert loaded.origins[start + "endpoint"] == Origin("file", f"{file}:4:17")
    assert loaded.origins[start + "timeout_seconds"].kind == "set"
    assert loaded.origins[start + "headers.x-key"] == Origin("set", f"--set {start}headers.X-Key")
    assert loaded.origins[start + "signals"].kind == "environment"


def test_the_receivers_by_name() -> None:
    sets = ("otlp.destinations.b.endpoint=http://b", "otlp.destinations.b.signals=logs")
    otlp = build(None, None, sets).config.otlp
    assert list(otlp.receivers()) == ["default", "b"]
    assert otlp.receivers()["default"] is otlp
    only = build(None, None, (*sets, "otlp.signals=")).config.otlp
    assert list(only.receivers()) == ["b"]
    assert build(None, None, (*sets, "otlp.enabled=false")).config.otlp.receivers() == {}


def test_what_a_destination_lacks(file: Path) -> None:
    file.write_text("otlp:\n  destinations:\n    a:\n      client_key: /k\n    b: {endpoint: 'b:4317'}\n")
    assert refused(file) == [
        f"{file}:4:19: otlp.destinations.a: otlp.destinations.a.endpoint is missing",
        f"{file}:4:19: otlp.destinations.a.client_key needs otlp.destinations.a.client_certificate too",
        (
            f"{file}:5:19: otlp.destinations.b.endpoint: 'b:4317' has no http:// or https://, "
            "which otlp.destinations.b.protocol http/protobuf needs"
        ),
    ]


def test_the_limit_of_destinations_counts_all_sources() -> None:
    sets = tuple(f"otlp.destinations.d{n}.endpoint=http://d{n}" for n in range(16))
    assert len(build(None, None, sets).config.otlp.destinations) == 16
    environ = {"OTEL_NETMON_OTLP_DESTINATIONS_E_ENDPOINT": "http://e"}
    assert refused(None, None, sets, environ) == ["otlp.destinations: there are 17, at most 16 are possible"]


@pytest.mark.parametrize(
    ("sets", "signal", "first", "target"),
    [
        (("b.endpoint=HTTP://LOCALHOST:4318/",), "metrics", "otlp", "HTTP://LOCALHOST:4318/v1/metrics"),
        (("b.endpoint=http://x", "b.traces_endpoint=http://localhost:4318/v1/traces"), "traces", "otlp", ""),
        (("b.endpoint=http://x", "c.endpoint=http://x:80"), "metrics", "otlp.destinations.b", "http://x:80/v1/metrics"),
        (
            ("b.endpoint=x:1", "b.protocol=grpc", "c.endpoint=http://x:1", "c.protocol=grpc"),
            "metrics",
            "otlp.destinations.b",
            "http://x:1",
        ),
    ],
)
def test_a_receiver_that_gets_a_signal_twice_is_refused(
    sets: tuple[str, ...], signal: str, first: str, target: str
) -> None:
    section = f"otlp.destinations.{sets[-1][0]}"
    key = f"{section}.traces_endpoint" if signal == "traces" else f"{section}.endpoint"
    assert refused(None, None, tuple(f"otlp.destinations.{each}" for each in sets)) == [
        (
            f"--set {key}: {section}: {first} sends {signal} to {target or 'http://localhost:4318/v1/traces'} already; "
            "name another endpoint or other signals"
        )
    ]


@pytest.mark.parametrize(
    "sets",
    [
        ("b.endpoint=http://localhost:4318", "b.headers.x-scope-orgid=b"),
        ("b.endpoint=http://u:p@localhost:4318",),
        ("b.endpoint=http://localhost:4318", "b.client_certificate=/c", "b.client_key=/k"),
        ("b.endpoint=http://localhost:4318", "b.metrics_endpoint=http://m", "b.signals=metrics"),
        ("b.endpoint=http://localhost:4318", "b.signals="),
        ("b.endpoint=http://localhost:4318/other",),
        ("b.endpoint=http://localhost",),
        ("b.endpoint=http://[::1]:4318", "c.endpoint=http://u[x]@[::1]:4318"),
        (
            "b.endpoint=x:1",
            "b.protocol=grpc",
            "b.signals=logs",
            "c.endpoint=x:1",
            "c.protocol=grpc",
            "c.signals=traces",
        ),
    ],
)
def test_two_receivers_that_differ(sets: tuple[str, ...]) -> None:
    assert "b" in build(None, None, tuple(f"otlp.destinations.{each}" for each in sets)).config.otlp.destinations


def test_a_stronger_endpoint_of_a_destination_drops_its_signal_endpoint(file: Path) -> None:
    file.write_text("otlp: {destinations: {b: {endpoint: 'http://f'}}}\n")
    loaded = build(file, environ={"OTEL_NETMON_OTLP_DESTINATIONS_B_LOGS_ENDPOINT": "http://e"})
    assert loaded.config.otlp.destinations["b"].target("logs") == "http://f/v1/logs"
    assert loaded.warnings == (
        (
            "environment variable OTEL_NETMON_OTLP_DESTINATIONS_B_LOGS_ENDPOINT has no effect: "
            f"{file}:1:37 sets otlp.destinations.b.endpoint"
        ),
    )


def test_a_receiver_that_a_flag_names_gets_metrics() -> None:
    environ = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_TRACES_EXPORTER": "none"}
    assert build(environ=environ).config.otlp.signals == ("logs",)
    loaded = build(None, {"--otlp-endpoint": "http://c"}, environ=environ)
    assert loaded.config.otlp.signals == ("metrics", "logs")
    assert loaded.origins["otlp.signals"] == Origin("flag", "--otlp-endpoint")
    own = {"OTEL_NETMON_OTLP_SIGNALS": "traces"}
    assert build(None, {"--otlp-endpoint": "http://c"}, environ=own).config.otlp.signals == ("traces",)


def test_receivers_that_get_nothing_are_warned_about() -> None:
    sets = ("otlp.destinations.b.endpoint=http://b", "otlp.destinations.b.signals=", "otlp.signals=")
    nothing = "otlp.destinations.b gets nothing: its signals are empty"
    assert build(None, None, sets).warnings == (nothing,)
    assert build(None, None, (*sets, "prometheus.enabled=false")).warnings == (
        nothing,
        "nothing will be exported: otlp.signals is empty and prometheus.enabled is false",
    )


def test_a_password_in_an_endpoint_is_masked_in_the_message() -> None:
    assert "hush" not in refused(None, {"--otlp-endpoint": "user:hush@collector:4317"})[0]


def test_nothing_to_export_is_warned_about() -> None:
    assert build(environ={"OTEL_SDK_DISABLED": "true"}).warnings == (
        "nothing will be exported: otlp.enabled and prometheus.enabled are both false",
    )


def test_the_file_is_found(tmp_path: Path) -> None:
    default = tmp_path / "default.yaml"
    assert find_file(None, {}, str(default)) is None
    default.touch()
    assert find_file(None, {}, str(default)) == str(default)
    assert find_file(None, {"OTEL_NETMON_CONFIG": ""}, str(default)) == str(default)
    assert find_file(None, {"OTEL_NETMON_CONFIG": "/e"}, str(default)) == "/e"
    assert find_file("/c", {"OTEL_NETMON_CONFIG": "/e"}, str(default)) == "/c"


def test_a_named_file_must_exist() -> None:
    assert refused(None, None, (), environ={"OTEL_NETMON_CONFIG": "/nonexistent/x.yaml"}) == [
        (
            "cannot read the configuration file '/nonexistent/x.yaml': No such file or directory; "
            "name a readable file with --config"
        )
    ]


def test_loading_stays_small(file: Path) -> None:
    """The supervisor loads the configuration and writes its log: no heavy import, at most 12 MB of its own (PSS about 13)."""
    file.write_text("interfaces: {include: [eth0]}\nflows: {top_k: 5}\n")
    program = f"""
import json, sys
from otel_netmon.config.load import load
from otel_netmon.config import reload
from otel_netmon.selfmon.journal import Journal
loaded = load({str(file)!r}, {{}}, [], {{}})
Journal("info", "json").info("config.loaded")
with open("/proc/self/smaps_rollup") as rollup:
    # Not Pss, which depends on how many other interpreters run at the moment.
    own = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
heavy = [name for name in ("structlog", "asyncio", "numpy", "opentelemetry", "pyroute2", "rich") if name in sys.modules]
print(json.dumps([loaded.config.flows.top_k, heavy, own / 1024]))
"""
    # A coverage measurement starts in every child that inherits these, and is no part of what is measured here.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    top_k, heavy, megabytes = json.loads(done.stdout)
    assert top_k == 5
    assert heavy == []
    assert megabytes < 12
    assert json.loads(done.stderr)["event"] == "config.loaded"
