"""The hooks of a cgroup, attached and refused: what the probe says of itself, and that the rest works."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from otel_netmon.abi.enums import Late
from otel_netmon.cgroup_attachments import NO_NETNS, ORDER, CgroupAttachments
from otel_netmon.config.model import Config, ConnectionsProbe, Probes
from otel_netmon.errors import KernelLacksError
from otel_netmon.kernel import image, syscalls
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.loading import load_images
from otel_netmon.readers.connections import tcp_reader
from otel_netmon.selfmon.journal import Journal
from support.bpf_objects import mark, wait_nothing_left
from support.netns import namespace
from support.programs import shipped
from support.socket_programs import cgroup, inside_cgroup

pytestmark = pytest.mark.kernel

SMALL = {"connection_stats": 61, "udp_stats": 7, "connections": 1 << 16, "udp_records": 4096}
ATTACH_WITHOUT_LINK = 8  # BPF_PROG_ATTACH
RETURNS_1 = bytes.fromhex("b7000000010000009500000000000000")

HOOKS = set(image.CGROUP_HOOKS) & set(image.SOURCES["socket_monitor"])


@pytest.fixture
def folder() -> Iterator[Path]:
    with cgroup() as made:
        yield made


def config(path: Path | str) -> Config:
    return Config(probes=Probes(connections=ConnectionsProbe(cgroup=str(path))))


class Refusing(LoadedImage):
    """A kernel that refuses some programs, or those that want the cookie of the network namespace."""

    def __init__(self, *refused: str, netns: bool = True) -> None:
        super().__init__(shipped("socket_monitor"), SMALL)
        self.refused = refused
        self.netns = netns

    def program(self, name: str, late: Mapping[Late, int] | None = None) -> int:
        if name in self.refused or (name == "netmon_sockops" and not self.netns and (late or {}).get(Late.NETNS) != 0):
            raise KernelLacksError(f"the kernel refused the program {name}: as told")
        return super().program(name, late)


def test_every_program_is_attached_and_gone_at_the_end(folder: Path) -> None:
    since = mark()
    loaded = Refusing()
    attachments = CgroupAttachments(config(folder), loaded)
    assert set(ORDER) == HOOKS
    assert attachments.hooks == {name.removeprefix("netmon_"): "attached" for name in ORDER}
    assert attachments.state() == ("ok", "", "")
    with namespace() as netns, inside_cgroup(folder):
        made = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.bind(("127.0.0.1", 0))
        reader = tcp_reader({name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()})
        assert len(reader.read().live) == 1
        reader.close()
        made.close()
    attachments.close()
    loaded.close()
    wait_nothing_left(since)


@pytest.mark.parametrize("refused", sorted(HOOKS - {"netmon_sockops", "netmon_release"}))
def test_a_hook_that_is_refused_is_told_and_the_rest_is_attached(folder: Path, refused: str) -> None:
    loaded = Refusing(refused)
    attachments = CgroupAttachments(config(folder), loaded)
    short = refused.removeprefix("netmon_")
    assert {hook for hook, state in attachments.hooks.items() if state != "attached"} == {short}
    state, reason, detail = attachments.state()
    assert (state, reason) == ("degraded", "kernel_refuses")
    assert detail.startswith(f"{short}: kernel_refuses; the kernel refused the program {refused}")
    attachments.close()
    loaded.close()


def test_without_sockops_the_probe_is_off(folder: Path) -> None:
    loaded = Refusing("netmon_sockops")
    attachments = CgroupAttachments(config(folder), loaded)
    assert attachments.hooks == {"sockops": "kernel_refuses"}
    assert attachments.state()[:2] == ("off", "kernel_refuses")
    attachments.close()
    loaded.close()


def test_without_release_nothing_makes_rows_that_only_release_ends(folder: Path) -> None:
    loaded = Refusing("netmon_release")
    attachments = CgroupAttachments(config(folder), loaded)
    without = {hook for hook, state in attachments.hooks.items() if state == "needs_release"}
    assert without == {"connect4", "connect6", "bind4", "bind6", "socket"}
    assert attachments.state()[:2] == ("degraded", "kernel_refuses")
    with namespace() as netns, inside_cgroup(folder):
        with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.connect(listening.getsockname())
                listening.accept()[0].close()
        reader = tcp_reader({name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()})
        assert len(reader.drain()) == 3  # both ends, and the listener
        assert not len(reader.read().live)
        reader.close()
    attachments.close()
    loaded.close()


def test_a_kernel_without_the_helper_gets_the_variant(folder: Path) -> None:
    loaded = Refusing(netns=False)
    attachments = CgroupAttachments(config(folder), loaded)
    assert attachments.state() == ("ok", "", NO_NETNS)
    assert any("netns=0" in name for name in loaded.programs())
    attachments.close()
    loaded.close()


def test_a_program_that_wants_to_be_alone_keeps_its_hook(folder: Path) -> None:
    """Attached without BPF_F_ALLOW_MULTI: ours at that hook is refused, the others are attached."""
    foreign, _ = syscalls.program_load(syscalls.PROG_TYPE_CGROUP_SKB, RETURNS_1, "alone")
    cgroup_fd = os.open(folder, os.O_RDONLY)
    syscalls.bpf(ATTACH_WITHOUT_LINK, struct.pack("<IIII", cgroup_fd, foreign, 0, 0))
    loaded = Refusing()
    attachments = CgroupAttachments(config(folder), loaded)
    assert attachments.hooks["ingress"] == "another_program_attached"
    assert attachments.state()[:2] == ("degraded", "another_program_attached")
    attachments.close()
    loaded.close()
    os.close(foreign)
    os.close(cgroup_fd)


@pytest.mark.parametrize("where", ["absent", "folder"])
def test_what_is_no_cgroup_v2_is_told(tmp_path: Path, where: str) -> None:
    path = tmp_path / "nothing" if where == "absent" else tmp_path
    loaded = Refusing()
    attachments = CgroupAttachments(config(path), loaded)
    assert attachments.state()[:2] == ("off", "no_cgroup2")
    attachments.close()
    loaded.close()


def test_without_cgroup_v2_the_probe_is_off_and_its_maps_are_not_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("otel_netmon.loading.find_cgroup2", lambda: None)
    images = load_images(Config(), Journal("info", "json"))
    try:
        assert images.failed["connections"] == ("no_cgroup2", "cgroup v2 is not mounted")
        assert "socket_monitor" not in images.loaded
        assert "tc_monitor" in images.loaded
        assert CgroupAttachments(Config(), images.loaded.get("socket_monitor")).state() == ("ok", "", "")
    finally:
        images.close()
    capsys.readouterr()
