"""All sources together: precedence, origins, contradictions, what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_netmon.config.load import Loaded, find_file, load
from otel_netmon.config.model import Config
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
        ("flows.topk=1", "--set flows.topk: unknown key 'flows.topk'; did you mean flows.top_k?"),
        ("flows=1", "--set flows: unknown key 'flows'; it is a section, set one of its keys"),
        ("flows.top_k=x", "--set flows.top_k: expected an integer from 0 to 100000, got 'x'"),
        ("otlp.headers.=x", "--set otlp.headers.: unknown key 'otlp.headers.'; did you mean otlp.headers?"),
        ("otlp.headers.a b=x", "--set otlp.headers.a b: 'a b' is not a header name"),
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
