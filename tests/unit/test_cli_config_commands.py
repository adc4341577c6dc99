"""check, print-config and schema, and the options that all commands with a configuration share."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from otel_netmon.cli import options, output
from otel_netmon.cli.main import main
from otel_netmon.config.keys import GROUPS, KEYS


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests, no configuration file of its own."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("otel_netmon.config.load.load.__defaults__", ("/nonexistent",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("interfaces:\n  include: [lo]\n  exclude: []\notlp:\n  headers: {key: hush}\n")
    return path


def test_print_config_is_yaml_with_origins(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    assert main(["print-config", "--config", str(file), "--prometheus", "[::1]:0", "--set", "flows.top_k=5"]) == 0
    captured = capsys.readouterr()
    tree = yaml.safe_load(captured.out)
    assert tree["interfaces"]["include"] == ["lo"]
    assert tree["otlp"]["headers"] == {"key": "[REDACTED]"}
    found = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert f"include: [lo] # file {file}:2:12" in found
    assert 'endpoint: "http://collector:4318" # environment OTEL_EXPORTER_OTLP_ENDPOINT' in found
    assert 'listen: "[::1]:0" # flag --prometheus' in found
    assert "top_k: 5 # --set flows.top_k" in found
    assert "idle_seconds: 60.0 # default" in found
    assert captured.err == (
        "otel-netmon: warning: environment variable OTEL_EXPORTER_OTLP_TIMEOUT is ignored: "
        "10 ms: expected a number from 0.1 to 3600, got 0.01 seconds\n"
    )


def test_print_config_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config", "--json", "--config", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["interfaces.include"] == {"value": ["lo"], "origin": "file", "source": f"{file}:2:12"}
    assert document["otlp.headers.key"]["value"] == "[REDACTED]"
    assert main(["print-config", "--json", "--show-secrets", "--config", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["otlp.headers.key"]["value"] == "hush"


def test_a_broken_configuration_is_78_with_line_and_column(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("flows:\n  topk: 5\n  top_k: x\n")
    expected = [
        f"{file}:2:3: unknown key 'flows.topk'; did you mean flows.top_k?",
        f"{file}:3:10: flows.top_k: expected an integer from 0 to 100000, got 'x'",
    ]
    for command in ("check", "print-config"):
        assert main([command, "--config", str(file)]) == 78
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines() == [f"otel-netmon: error: {line}" for line in expected]
    assert main(["check", "--json", "--config", str(file)]) == 78
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"valid": False, "problems": expected}
    assert captured.err == ""


def test_check_says_what_would_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(file)]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        "what state detail",
        f"configuration ok {file}",
        "interfaces 1 lo",
        "probe flows on",
        "probe xdp off",
        "probe interfaces on",
        "otlp on metrics traces logs to http://localhost:4318 (http/protobuf)",
        "prometheus on http://127.0.0.1:9464/metrics",
    ]


def test_check_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--config", str(file), "--otlp-endpoint", "http://u:hush@c"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "valid": True,
        "problems": [],
        "file": str(file),
        "warnings": [],
        "interfaces": {"include": ["lo"], "exclude": [], "namespaces": [], "selected": ["lo"]},
        "probes": {"flows": True, "xdp": False, "interfaces": True},
        "otlp": {
            "protocol": "http/protobuf",
            "target": "http://[REDACTED]@c/v1/metrics",
            "targets": {signal: f"http://[REDACTED]@c/v1/{signal}" for signal in ("metrics", "traces", "logs")},
        },
        "destinations": {},
        "spool": None,
        "prometheus": {"listen": "127.0.0.1:9464"},
    }


def test_check_tells_destinations_and_the_spool(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        "interfaces: {include: [lo], exclude: []}\n"
        "export: {spool: {directory: /var/spool/otel-netmon}}\n"
        "otlp:\n  signals: []\n  destinations:\n"
        "    idle: {endpoint: 'http://i', signals: []}\n"
        "    backup: {endpoint: 'http://u:hush@b/', signals: [traces, metrics], logs_endpoint: 'http://l'}\n"
        "    events: {endpoint: 'e:4317', signals: [logs], protocol: grpc}\n"
    )
    assert main(["check", "--config", str(file)]) == 0
    captured = capsys.readouterr()
    assert [" ".join(line.split()) for line in captured.out.splitlines() if line.startswith(("otlp", "spool"))] == [
        "otlp on nothing is sent (http/protobuf)",
        "otlp backup on traces metrics to http://[REDACTED]@b (http/protobuf)",
        "otlp events on logs to e:4317 (grpc)",
        "otlp idle on nothing is sent (http/protobuf)",
        "spool on /var/spool/otel-netmon, at most 268,435,456 bytes each",
    ]
    assert captured.err == "otel-netmon: warning: otlp.destinations.idle gets nothing: its signals are empty\n"
    assert main(["check", "--json", "--config", str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["destinations"]) == ["backup", "events", "idle"]
    assert report["spool"] == {"directory": "/var/spool/otel-netmon", "max_bytes": 268435456}
    assert main(["check", "--config", str(file), "--set", "otlp.enabled=false"]) == 0
    assert "otlp backup" not in capsys.readouterr().out


def test_check_looks_at_the_files_of_every_receiver(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("otlp:\n  destinations:\n    b: {endpoint: 'https://b', certificate: /nonexistent/ca.pem}\n")
    assert main(["check", "--config", str(file)]) == 78
    assert capsys.readouterr().err == (
        f"otel-netmon: error: {file}:3:45: otlp.destinations.b.certificate: "
        "the file '/nonexistent/ca.pem' cannot be read\n"
    )


def test_check_looks_at_this_host_unless_told_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--interface", "nope0", "--set", "otlp.certificate=/nonexistent/ca.pem", "--set"]
    wrong += ["interfaces.allow_missing=false"]
    assert main(["check", *wrong]) == 78
    assert capsys.readouterr().err.splitlines() == [
        (
            "otel-netmon: error: --interface: interfaces.include: there is no interface 'nope0'; "
            "interfaces.allow_missing: true waits for one"
        ),
        "otel-netmon: error: --set otlp.certificate: otlp.certificate: the file '/nonexistent/ca.pem' cannot be read",
    ]
    assert main(["check", "--set", "interfaces.namespaces=/nonexistent/net"]) == 78
    assert "there is no network namespace '/nonexistent/net'" in capsys.readouterr().err
    assert main(["check", "--no-host", *wrong]) == 0
    assert main(["check", "--interface", "nope0", "--set", "interfaces.allow_missing=true"]) == 0


def test_schema_knows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    for key in KEYS.values():
        node = schema["$defs"]["Config"]
        for part in key.name.split("."):
            assert node["additionalProperties"] is False
            node = node["properties"][part]
            if "$ref" in node:
                node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        assert node["description"] == key.description
        if key.kind in ("integer", "number"):
            assert (node["minimum"], node["maximum"]) == (key.minimum, key.maximum)
        if key.kind == "list" and key.choices:
            assert node["items"] == {"enum": sorted(key.choices)}


def test_schema_of_a_group_is_that_of_its_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    for group in GROUPS.values():
        node = definitions["Config"]
        for part in group.name.split("."):
            node = node["properties"][part]
            if "$ref" in node:
                node = definitions[node["$ref"].rpartition("/")[2]]
        pattern = re.compile(node["propertyNames"]["pattern"])
        assert pattern.search("a-1_") is not None
        assert [name for name in ("", "-a", "A", "a.b", "a" * 33, "é") if pattern.search(name)] == []
        assert node["maxProperties"] == group.max_members
        section = definitions[node["additionalProperties"]["$ref"].rpartition("/")[2]]
        assert section["additionalProperties"] is False
        assert set(section["properties"]) == set(group.keys)
        assert section["required"] == [name for name, key in group.keys.items() if key.required] != []


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("0.25", 0.25)])
def test_duration(text: str, seconds: float) -> None:
    parser = argparse.ArgumentParser()
    options.add_duration_argument(parser)
    assert parser.parse_args(["--duration", text]).duration == seconds
    assert parser.parse_args([]).duration is None


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_what_is_no_duration(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    options.add_duration_argument(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--duration", text])
    assert f"expected a positive number of seconds, got {text!r}" in capsys.readouterr().err


def test_a_table_is_aligned_and_shows_nothing_unprintable() -> None:
    stream = io.StringIO()
    output.print_table(("name", "n"), [("a\x1b[2J", 5), (None, 1234), (True, False)], right=("n",), stream=stream)
    assert stream.getvalue() == "name         n\na\\x1b[2J     5\n-         1234\nyes         no\n"


@pytest.mark.parametrize(
    ("terminal", "environ", "wanted"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_colour_only_where_a_person_reads_it(terminal: bool, environ: dict[str, str], wanted: bool) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    assert output.colour_wanted(stream, environ) is wanted
    assert output.paint("x", "red", wanted) == ("\x1b[31mx\x1b[0m" if wanted else "x")
