"""What is in the kernel by bpf(2): objects left by an agent, and small foreign programs that count beside its own.

An object is the agent's by its name, is of one run by its id (ids only grow), and is left over when no living process holds it:
other agents may run on the same machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from otel_netmon.kernel import syscalls
from otel_netmon.kernel.image import SOURCES
from otel_netmon.kernel.namespaces import find_namespace, opened_in
from support.netns import NetNs

PROGRAM_NAMES = frozenset(name[:15] for programs in SOURCES.values() for name in programs)
_MAPS = ("flow_table", "protocol_stats", "hook_totals", "agent_state", "dns_cache", "messages", "unreachable")
_SOCKET_MAPS = ("connection_stats", "udp_stats", "connection_totals", "connection_counts", "connections", "listeners")
MAP_NAMES = frozenset(name[:15] for name in (*_MAPS, *_SOCKET_MAPS))
BPF_FOLDER = Path("/sys/fs/bpf")

XDP_PASS = 2
TCX_NEXT = -1
TCX_PASS = 0

BEFORE_OTHERS = 1 << 3  # BPF_F_BEFORE without a relative program: the first of the hook
GENERIC_XDP = 1 << 1  # XDP_FLAGS_SKB_MODE

_LINK_GET_FD_BY_ID = 30
_FDINFO = re.compile(r"^(prog_id|map_id|link_id):\t(\d+)$", re.MULTILINE)
_KINDS = {"prog_id": "program", "map_id": "map", "link_id": "link"}


class Found(NamedTuple):
    """One object of the kernel; the name of a link is that of its program."""

    kind: str
    id: int
    name: str


class Mark(NamedTuple):
    """The highest ids at a moment, and the files pinned then."""

    ids: dict[str, int]
    pins: frozenset[Path]


_WALKS = {
    "program": (syscalls.PROG_GET_NEXT_ID, syscalls.PROG_GET_FD_BY_ID),
    "map": (syscalls.MAP_GET_NEXT_ID, syscalls.MAP_GET_FD_BY_ID),
    "link": (syscalls.LINK_GET_NEXT_ID, _LINK_GET_FD_BY_ID),
}


def mark() -> Mark:
    """Now."""
    ids = {kind: max(syscalls.ids(walk), default=0) for kind, (walk, _) in _WALKS.items()}
    return Mark(ids, _pins())


def left_over(since: Mark) -> list[Found | Path]:
    """The agent's objects made since then that no living process holds, and files pinned since then."""
    names = {found.id: found.name for found in _objects("program", 0)}
    mine: list[Found] = [found for found in _objects("program", since.ids["program"]) if found.name in PROGRAM_NAMES]
    mine += [found for found in _objects("map", since.ids["map"]) if found.name in MAP_NAMES]
    for link in _objects("link", since.ids["link"]):
        program = int(link.name)
        if names.get(program, "") in PROGRAM_NAMES:
            mine.append(link._replace(name=names[program]))
    held = _held()
    pinned = [path for path in _pins() - since.pins if not path.is_dir()]
    return [found for found in mine if (found.kind, found.id) not in held] + pinned


def wait_nothing_left(since: Mark, seconds: float = 10.0) -> None:
    """The kernel frees objects a moment after their last holder is gone; fails with what stays."""
    deadline = time.monotonic() + seconds
    while left := left_over(since):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)


def _objects(kind: str, above: int) -> list[Found]:
    walk, open_by_id = _WALKS[kind]
    result = []
    for number in list(syscalls.ids(walk)):
        if number <= above:
            continue
        try:
            fd = syscalls.bpf(open_by_id, struct.pack("<III", number, 0, 0))
        except FileNotFoundError:
            continue  # gone since
        try:
            result.append(Found(kind, number, _name(kind, fd)))
        finally:
            os.close(fd)
    return result


def _name(kind: str, fd: int) -> str:
    info = bytearray(232)
    buffer = (ctypes.c_char * len(info)).from_buffer(info)
    syscalls.bpf(syscalls.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), ctypes.addressof(buffer)))
    if kind == "link":
        return str(struct.unpack_from("<I", info, 8)[0])  # struct bpf_link_info: type, id, prog_id
    offset = 64 if kind == "program" else 24  # name in struct bpf_prog_info and bpf_map_info
    return bytes(info[offset : offset + 16]).split(b"\0")[0].decode(errors="replace")


def _held() -> set[tuple[str, int]]:
    held: set[tuple[str, int]] = set()
    for folder in Path("/proc").glob("[0-9]*/fdinfo"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for entry in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    text = (folder / entry).read_text()
                    held.update((_KINDS[key], int(number)) for key, number in _FDINFO.findall(text))
    return held


def _pins() -> frozenset[Path]:
    return frozenset(BPF_FOLDER.rglob("*")) if BPF_FOLDER.is_dir() else frozenset()


# ------------------------------------------------------------------------------------------------- foreign programs
def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, immediate)


class Counting:
    """A program of somebody else that counts every packet it is asked about and gives one verdict.

    Args:
        kind: BPF_PROG_TYPE_SCHED_CLS or BPF_PROG_TYPE_XDP.
        verdict: what it returns.
    """

    def __init__(self, kind: int, verdict: int) -> None:
        self._map = syscalls.map_create(2, 4, 8, 1, name="foreign")  # BPF_MAP_TYPE_ARRAY
        code = b"".join(
            [
                _instruction(0x62, 10, 0, -4, 0),  # key = 0
                _instruction(0x18, 1, 1, 0, self._map) + _instruction(0),
                _instruction(0xBF, 2, 10) + _instruction(0x07, 2, 0, 0, -4),
                _instruction(0x85, immediate=1),  # bpf_map_lookup_elem
                _instruction(0x15, 0, 0, 2, 0),  # never: the entry exists
                _instruction(0xB7, 1, 0, 0, 1) + _instruction(0xDB, 0, 1, 0, 0),  # atomic add
                _instruction(0xB7, 0, 0, 0, verdict) + _instruction(0x95),
            ]
        )
        self.program, _ = syscalls.program_load(kind, code, "foreign")
        self.links: list[int] = []

    @property
    def packets(self) -> int:
        """How many it has been asked about."""
        value = syscalls.map_lookup(self._map, b"\0\0\0\0", 8)
        assert value is not None
        return int.from_bytes(value, "little")

    def attach(self, netns: NetNs, interface: str, hook: int, flags: int = 0) -> None:
        """Attach by a link that lives as long as this object.

        Args:
            hook: ATTACH_XDP, ATTACH_TCX_INGRESS or ATTACH_TCX_EGRESS of ``kernel.syscalls``.
        """
        index = netns.index(interface)
        self.links.append(inside(netns, lambda: syscalls.link_create(self.program, index, hook, flags)))

    def close(self) -> None:
        """Detach and let go."""
        for fd in (*self.links, self.program, self._map):
            os.close(fd)


@contextlib.contextmanager
def counting(kind: int, verdict: int) -> Iterator[Counting]:
    """A foreign program, gone at the end."""
    program = Counting(kind, verdict)
    try:
        yield program
    finally:
        program.close()


def inside(netns: NetNs, opener: Callable[[], int]) -> int:
    """What ``opener`` gives when it is called inside the namespace."""
    found = find_namespace(netns.name)
    assert found is not None, f"namespace {netns.name} is gone"
    try:
        return opened_in(found, opener)
    finally:
        found.close()
