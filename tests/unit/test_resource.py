"""The agent's resource: what is detected, and what wins over it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from otel_netmon import __version__
from otel_netmon.otel.resource import build_resource, host_attributes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host's /etc and /proc."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")
    (tmp_path / "etc/os-release").write_text(
        "# a comment = none\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME='Debian'\nVERSION_ID=12\n\nbroken\n"
    )
    return tmp_path


def test_detects_service_and_host(root: Path) -> None:
    resource = build_resource({}, root)
    attributes = dict(resource)
    instance = uuid.UUID(str(attributes.pop("service.instance.id")))
    assert (instance.version, instance.variant) == (5, uuid.RFC_4122)
    assert str(attributes.pop("host.arch")) in {"amd64", "arm64", "arm32", "x86", "ppc64", "s390x", "riscv64"}
    assert attributes == {
        "service.name": "otel-netmon",
        "service.version": __version__,
        "host.name": os.uname().nodename,
        "host.id": "0123456789abcdef0123456789abcdef",
        "os.type": "linux",
        "os.name": "Debian",
        "os.version": "12",
        "os.description": f"Debian GNU/Linux 12 (bookworm), kernel {os.uname().release}",
    }


def test_the_instance_is_stable_in_a_boot_and_new_in_the_next(root: Path) -> None:
    def instance() -> object:
        return build_resource({}, root)["service.instance.id"]

    first = instance()
    assert instance() == first
    (root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    second = instance()
    (root / "etc/machine-id").write_text("fedcba9876543210fedcba9876543210\n")
    assert len({first, second, instance()}) == 3


def test_configured_attributes_win(root: Path) -> None:
    attributes = build_resource({"service.name": "mine", "host.id": "x", "team": "\udcff"}, root)
    assert (attributes["service.name"], attributes["host.id"], attributes["team"]) == ("mine", "x", "\udcff")


def test_a_container_without_these_files_has_the_rest(tmp_path: Path) -> None:
    attributes = build_resource({}, tmp_path)
    assert "host.id" not in attributes
    assert "os.name" not in attributes
    assert attributes["os.description"] == f"Linux, kernel {os.uname().release}"
    assert uuid.UUID(str(attributes["service.instance.id"])).version == 5


def test_os_release_is_found_in_its_second_place(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("NAME=Other\n")
    assert build_resource({}, tmp_path)["os.name"] == "Other"


def test_this_host_is_detected() -> None:
    assert build_resource({})["os.type"] == "linux"


def test_only_the_place_holds_for_other_processes_of_the_host(root: Path) -> None:
    configured = {
        "service.name": "edge-monitor",
        "k8s.pod.name": "netmon-x7k2p",
        "k8s.node.name": "node-3",
        "k8s.cluster.name": "blue",
        "cloud.region": "eu-west-1",
        "deployment.environment.name": "production",
        "team": "network",
        "host.name": "node-3.example",
    }
    found = host_attributes(build_resource(configured, root))
    assert found.keys() == {
        *("host.name", "host.id", "host.arch", "os.type", "os.name", "os.version", "os.description"),
        *("k8s.node.name", "k8s.cluster.name", "cloud.region", "deployment.environment.name"),
    }
    assert found["host.name"] == "node-3.example"
