"""What the kernel holds of eBPF, asked without the agent's own code: bpf(2) by ctypes, /proc/PID/fdinfo, and tc of iproute2."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["program", "map", "link"]

_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_ATTRIBUTE = 128
# enum bpf_cmd of include/uapi/linux/bpf.h
_NEXT_ID: dict[Kind, int] = {"program": 11, "map": 12, "link": 31}
_PROGRAM_BY_ID = 13
_INFO_BY_FD = 15
_PROGRAM_QUERY = 16
_TCX = {"receive": 46, "transmit": 47}

_FDINFO: dict[str, Kind] = {"prog_id": "program", "map_id": "map", "link_id": "link"}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attribute: bytearray) -> int:
    buffer = (ctypes.c_char * len(attribute)).from_buffer(attribute)
    result: int = _libc.syscall(_BPF, command, ctypes.byref(buffer), len(attribute))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _attribute(layout: str, *values: int) -> bytearray:
    return bytearray(struct.pack(layout, *values).ljust(_ATTRIBUTE, b"\0"))


class Objects(NamedTuple):
    """Ids of programs, maps and links."""

    program: frozenset[int]
    map: frozenset[int]
    link: frozenset[int]

    def __and__(self, other: Objects) -> Objects:
        return Objects(*(mine & theirs for mine, theirs in zip(self, other, strict=True)))

    def __sub__(self, other: Objects) -> Objects:
        return Objects(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {kind: len(ids) for kind, ids in self._asdict().items()}


def loaded() -> Objects:
    """Everything that the kernel holds now, whoever it belongs to."""
    return Objects(*(frozenset(_walk(_NEXT_ID[kind])) for kind in _NEXT_ID))


def _walk(command: int) -> Iterable[int]:
    last = 0
    while True:
        attribute = _attribute("<I", last)
        try:
            _bpf(command, attribute)
        except FileNotFoundError:
            return
        last = struct.unpack_from("<I", attribute, 4)[0]
        yield last


def held_by(pids: Iterable[int]) -> Objects:
    """What these processes hold open, from /proc/PID/fdinfo (the ids stand there since Linux 5.8)."""
    found: dict[Kind, set[int]] = {"program": set(), "map": set(), "link": set()}
    for pid in pids:
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            try:
                text = path.read_text()
            except FileNotFoundError:  # closed since the folder was listed
                continue
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in _FDINFO:
                    found[_FDINFO[name]].add(int(value))
    return Objects(*(frozenset(found[kind]) for kind in _NEXT_ID))


class Program(NamedTuple):
    """From struct bpf_prog_info; `verified` is how many instructions the verifier walked, 0 before Linux 5.16."""

    id: int
    name: str
    instructions: int
    machine_code_bytes: int
    verified: int


def program(identifier: int) -> Program:
    """Describes a loaded program; `instructions` counts them after the verifier's rewriting."""
    fd = _bpf(_PROGRAM_BY_ID, _attribute("<I", identifier))
    try:
        info = ctypes.create_string_buffer(232)
        _bpf(_INFO_BY_FD, _attribute("<IIQ", fd, len(info), ctypes.addressof(info)))
    finally:
        os.close(fd)
    raw = info.raw
    return Program(
        identifier,
        raw[64:80].split(b"\0")[0].decode(),
        struct.unpack_from("<I", raw, 20)[0] // 8,
        struct.unpack_from("<I", raw, 16)[0],
        struct.unpack_from("<I", raw, 216)[0],
    )


def tcx_programs(ifindex: int, direction: str) -> list[int] | None:
    """Program ids at one TCX hook in their order, or None where the kernel has no TCX."""
    room = (ctypes.c_uint32 * 64)()
    attribute = _attribute("<IIIIQI", ifindex, _TCX[direction], 0, 0, ctypes.addressof(room), len(room))
    try:
        _bpf(_PROGRAM_QUERY, attribute)
    except FileNotFoundError:  # a kernel with TCX and nothing attached there
        return []
    except OSError as error:
        if error.errno == 22:
            return None
        raise
    return list(room[: struct.unpack_from("<I", attribute, 24)[0]])


def _json(*command: str) -> list[dict[str, Any]]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return result


def has_clsact(interface: str) -> bool:
    """Whether the interface has a clsact qdisc."""
    return any(row["kind"] == "clsact" for row in _json("tc", "-j", "qdisc", "show", "dev", interface))


def filter_programs(interface: str, direction: str) -> list[int]:
    """Program ids of the bpf filters of the clsact qdisc in one direction."""
    if not has_clsact(interface):
        return []
    side = {"receive": "ingress", "transmit": "egress"}[direction]
    rows = _json("tc", "-j", "filter", "show", "dev", interface, side)
    return [row["options"]["prog"]["id"] for row in rows if "prog" in row.get("options", {})]


def xdp_programs(interface: str) -> dict[str, int]:
    """Program ids by XDP mode: native, generic."""
    (row,) = _json("ip", "-j", "-d", "link", "show", "dev", interface)
    modes = {1: "native", 2: "generic", 3: "offloaded"}
    xdp = row.get("xdp", {})
    return {modes.get(xdp.get("mode"), str(xdp.get("mode"))): xdp["prog"]["id"]} if "prog" in xdp else {}
