"""otel-netmon probes: what is told of each, and the records themselves against the images and the catalogue."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.cli.main import main
from otel_netmon.cli.probes import block
from otel_netmon.config.model import Probes
from otel_netmon.kernel import image
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.probes import PROBES


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests, no configuration file of its own."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("otel_netmon.config.load.load.__defaults__", ("/nonexistent",))


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    """What --json gives, by name."""
    assert main(["probes", "--json", *arguments]) == 0
    return {record["name"]: record for record in json.loads(capsys.readouterr().out)}


def test_every_probe_is_told_as_its_record_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    records = listed(capsys)
    assert list(records) == list(PROBES) == list(PROBES | dict.fromkeys(Probes.__struct_fields__))
    for name, probe in PROBES.items():
        told = records[name]
        for field in ("hooks", "programs", "maps", "metrics", "capabilities"):
            assert told[field] == list(getattr(probe, field))
        assert told["summary"] == probe.summary
        assert told["enabled"] == (probe.by_default == "on") == (told["why"] == "")


def test_on_and_off_follow_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("probes:\n  interfaces:\n    enabled: false\n")
    records = listed(
        capsys,
        "--config",
        str(file),
        "--set",
        "probes.xdp.enabled=true",
        "--set",
        "probes.flows.enabled=false",
        "--set",
        "probes.tls_plaintext=openssl",
    )
    assert {name: (record["enabled"], record["why"]) for name, record in records.items()} == {
        "flows": (False, "probes.flows.enabled is false: --set probes.flows.enabled"),
        "dns": (True, ""),
        "tls": (True, ""),
        "http": (True, ""),
        "connections": (True, ""),
        "xdp": (True, ""),
        "interfaces": (False, f"probes.interfaces.enabled is false: file {file}:3:14"),
        "netstat": (True, ""),
        "drops": (True, ""),
        "tls_plaintext": (True, ""),
    }
    off = listed(capsys, "--set", "probes.tls_plaintext=off")["tls_plaintext"]
    assert (off["enabled"], off["why"]) == (False, "probes.tls_plaintext is off: --set probes.tls_plaintext")
    assert listed(capsys)["xdp"]["why"].startswith("attaching native XDP resets the rings")


def test_the_text_names_all_of_it_within_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    records = listed(capsys)
    assert main(["probes"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    words = text.replace(",", " ").split()
    for record in records.values():
        assert set(record["metrics"]) | set(record["programs"]) | set(record["capabilities"]) <= set(words)
    for record in records.values():
        narrow = block(record, 60, colour=False).splitlines()
        assert max(map(len, narrow)) <= 60
        assert narrow[0].split() == [record["name"], "on" if record["enabled"] else "off"]


def test_the_records_name_what_the_images_hold() -> None:
    for name in {name for probe in PROBES.values() for name in (probe.image, probe.host_image)} - {""}:
        made = image.load(image.SHIPPED / f"{name}.json")
        assert made is not None
        sharing = [probe for probe in PROBES.values() if name in (probe.image, probe.host_image)]
        assert {program for probe in sharing for program in probe.programs} == set(made.programs)
        assert {held for probe in sharing for held in probe.maps} == {each.name for each in made.maps}
    for probe in PROBES.values():
        assert probe.image or (probe.programs, probe.maps) == ((), ())


def test_the_records_name_metrics_of_the_catalogue() -> None:
    assert {metric for probe in PROBES.values() for metric in probe.metrics} <= set(CATALOGUE)
