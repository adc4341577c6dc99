"""Program images: what bcc compiled, kept so that it can be loaded without bcc.

An image is one JSON file: the instructions of each program with map references by index (LD_IMM64, source register 1,
the index as immediate), the map definitions, and the hash of sources and constants it was made from. Programs that use
only user-API hooks need no relocation to the kernel at hand, so one image runs on every kernel.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from otel_netmon.abi.enums import (
    ABI_VERSION,
    LATE_DEFAULTS,
    LATE_MARK,
    PROGRAM_DNS,
    PROGRAM_ERRORS,
    PROGRAM_HTTP,
    PROGRAM_HTTP2,
    PROGRAM_STREAM,
    Late,
)
from otel_netmon.errors import ImageError
from otel_netmon.kernel import syscalls

FORMAT = 1
LD_IMM64 = 0x18
PSEUDO_MAP_FD = 1

PACKAGE = Path(__file__).resolve().parent.parent
SHIPPED = PACKAGE / "images"

SOURCES: dict[str, dict[str, int]] = {
    "tc_monitor": {
        "netmon_receive": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_transmit": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_dns": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_errors": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_stream": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_http": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_http2": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_quiet": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_sweep": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_mark": syscalls.PROG_TYPE_SCHED_CLS,
        "netmon_clock": syscalls.PROG_TYPE_SCHED_CLS,
    },
    "xdp_monitor": {"netmon_xdp": syscalls.PROG_TYPE_XDP},
    "socket_monitor": {
        "netmon_sockops": syscalls.PROG_TYPE_SOCK_OPS,
        "netmon_ingress": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_egress": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_connect4": syscalls.PROG_TYPE_CGROUP_SOCK_ADDR,
        "netmon_connect6": syscalls.PROG_TYPE_CGROUP_SOCK_ADDR,
        "netmon_accept4": syscalls.PROG_TYPE_CGROUP_SOCK_ADDR,
        "netmon_accept6": syscalls.PROG_TYPE_CGROUP_SOCK_ADDR,
        "netmon_bind4": syscalls.PROG_TYPE_CGROUP_SOCK,
        "netmon_bind6": syscalls.PROG_TYPE_CGROUP_SOCK,
        "netmon_socket": syscalls.PROG_TYPE_CGROUP_SOCK,
        "netmon_release": syscalls.PROG_TYPE_CGROUP_SOCK,
        "netmon_dns": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_stream": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_http": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_http2": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_quiet": syscalls.PROG_TYPE_SCHED_CLS,
    },
    "drop_monitor": {
        "netmon_drop": syscalls.PROG_TYPE_RAW_TRACEPOINT,
        "netmon_drop_any": syscalls.PROG_TYPE_RAW_TRACEPOINT,
    },
    "plaintext_monitor": {
        "netmon_ssl_read": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_write": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_read_ex": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_write_ex": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_write_ex2": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_sendfile": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_return": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_new": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_free": syscalls.PROG_TYPE_KPROBE,
        "netmon_ssl_renew": syscalls.PROG_TYPE_KPROBE,
        "netmon_stream": syscalls.PROG_TYPE_KPROBE,
        "netmon_http": syscalls.PROG_TYPE_KPROBE,
        "netmon_http2": syscalls.PROG_TYPE_KPROBE,
        "netmon_sealed": syscalls.PROG_TYPE_CGROUP_SKB,
        "netmon_quiet": syscalls.PROG_TYPE_SCHED_CLS,
    },
}
"""Image name (bpf/NAME.c) -> its programs and their types."""

CGROUP_HOOKS: dict[str, int] = {
    "netmon_sockops": syscalls.ATTACH_CGROUP_SOCK_OPS,
    "netmon_ingress": syscalls.ATTACH_CGROUP_INET_INGRESS,
    "netmon_egress": syscalls.ATTACH_CGROUP_INET_EGRESS,
    "netmon_connect4": syscalls.ATTACH_CGROUP_INET4_CONNECT,
    "netmon_connect6": syscalls.ATTACH_CGROUP_INET6_CONNECT,
    "netmon_accept4": syscalls.ATTACH_CGROUP_INET4_GETPEERNAME,
    "netmon_accept6": syscalls.ATTACH_CGROUP_INET6_GETPEERNAME,
    "netmon_bind4": syscalls.ATTACH_CGROUP_INET4_POST_BIND,
    "netmon_bind6": syscalls.ATTACH_CGROUP_INET6_POST_BIND,
    "netmon_socket": syscalls.ATTACH_CGROUP_INET_SOCK_CREATE,
    "netmon_release": syscalls.ATTACH_CGROUP_INET_SOCK_RELEASE,
    "netmon_sealed": syscalls.ATTACH_CGROUP_INET_EGRESS,
}
"""Program -> the hook of a cgroup it is for (enum bpf_attach_type): it is loaded for that one and attached there."""


def attach_type(name: str, program: Program) -> int:
    """Gives the hook that a program is loaded for, 0 where its type has one only.

    Those for packets of sockets are loaded for one hook and attached to both: they call the same programs, and from Linux 6.18 on
    only programs for the same hook may call each other.
    """
    return 0 if program.kind == syscalls.PROG_TYPE_CGROUP_SKB else CGROUP_HOOKS.get(name, 0)


TAIL_CALLS: dict[str, tuple[str, int]] = {
    "netmon_dns": ("message_programs", PROGRAM_DNS),
    "netmon_errors": ("message_programs", PROGRAM_ERRORS),
    "netmon_stream": ("message_programs", PROGRAM_STREAM),
    "netmon_http": ("message_programs", PROGRAM_HTTP),
    "netmon_http2": ("message_programs", PROGRAM_HTTP2),
}
"""Program -> the program array and the slot by which others call it."""


FALLBACKS: dict[str, dict[Late, int]] = {"netmon_sockops": {Late.NETNS: 0}}
"""Program -> late constants with which kernels take it that lack a helper: sockops has network namespaces from Linux 5.15 on."""


class MapDefinition(NamedTuple):
    """What BPF_MAP_CREATE needs; sizes in bytes, kind is enum bpf_map_type."""

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Program(NamedTuple):
    """One program: its type (enum bpf_prog_type) and its instructions, 8 bytes each."""

    kind: int
    instructions: bytes


class Image(NamedTuple):
    """A compiled bpf/NAME.c."""

    name: str
    hash: str
    compiler: str
    constants: Mapping[str, int]
    maps: tuple[MapDefinition, ...]
    programs: Mapping[str, Program]

    def dump(self) -> str:
        """The image as JSON text, the same bytes for the same image."""
        fields = {
            "format": FORMAT,
            "abi": ABI_VERSION,
            "name": self.name,
            "hash": self.hash,
            "compiler": self.compiler,
            "constants": dict(self.constants),
            "maps": [m._asdict() for m in self.maps],
            "programs": {
                name: {"kind": p.kind, "instructions": base64.b64encode(p.instructions).decode()}
                for name, p in sorted(self.programs.items())
            },
        }
        return json.dumps({**fields, "digest": _digest(fields)}, indent=1, sort_keys=True) + "\n"


def _digest(fields: Mapping[str, object]) -> str:
    """SHA-256 of everything an image says: a flipped bit would be another program, and might even load."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def parse(text: str, origin: str) -> Image:
    """Reads an image; origin names it in errors.

    Raises:
        ImageError: the text is damaged, of another format, or for another ABI version.
    """
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT or raw["abi"] != ABI_VERSION:
            raise ImageError(
                f"{origin}: image format {raw['format']}, ABI {raw['abi']}; this agent reads {FORMAT} and {ABI_VERSION}",
                "delete it from the cache, it will be compiled again",
            )
        if raw.pop("digest") != _digest(raw):
            raise ValueError("the digest does not fit the content")
        programs = {
            name: Program(int(p["kind"]), base64.b64decode(p["instructions"], validate=True))
            for name, p in raw["programs"].items()
        }
        if any(not p.instructions or len(p.instructions) % 8 for p in programs.values()):
            raise ValueError("instructions are not a multiple of 8 bytes")
        return Image(
            name=str(raw["name"]),
            hash=str(raw["hash"]),
            compiler=str(raw["compiler"]),
            constants={str(k): int(v) for k, v in raw["constants"].items()},
            maps=tuple(MapDefinition(**m) for m in raw["maps"]),
            programs=programs,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(
            f"{origin}: damaged program image ({error})", "delete it, it will be compiled again"
        ) from error


def source_directory() -> Path:
    """Where bpf/*.c lies: inside the installed package, or beside it in a checkout."""
    for candidate in (PACKAGE / "_bpf", PACKAGE.parent / "bpf"):
        if (candidate / "tc_monitor.c").is_file():
            return candidate
    raise ImageError("the sources bpf/*.c are not installed", "reinstall otel-netmon")


def source_hash(sources: Path, name: str, constants: Mapping[str, int]) -> str:
    """SHA-256 over bpf/NAME.c, every header, the constants and the format: the key of the cache."""
    digest = hashlib.sha256(f"{FORMAT} {ABI_VERSION} {name} {json.dumps(dict(constants), sort_keys=True)}\n".encode())
    headers = sorted(p for folder in ("include", "shim") for p in (sources / folder).rglob("*.h"))
    for path in [sources / f"{name}.c", *headers]:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(sources)} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def load(path: Path) -> Image | None:
    """Reads an image file; None where there is none."""
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: {error}", "check the file, or delete it") from error
    return parse(text, str(path))


def save(image: Image, path: Path) -> None:
    """Writes an image file whole or not at all."""
    import tempfile  # only the compiler writes images

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".image-")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(image.dump())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cache_path(directory: Path, name: str, digest: str) -> Path:
    """Where the cache keeps an image."""
    return directory / f"{name}-{digest[:32]}.json"


def patch(instructions: bytes, map_fds: tuple[int, ...], late: Mapping[Late, int]) -> bytes:
    """Puts map file descriptors and late constants into a program's instructions."""
    code = bytearray(instructions)
    values = {**LATE_DEFAULTS, **late}
    at = 0
    while at < len(code):
        if code[at] == LD_IMM64:
            if code[at + 1] >> 4 == PSEUDO_MAP_FD:
                index = int.from_bytes(code[at + 4 : at + 8], "little")
                code[at + 4 : at + 8] = map_fds[index].to_bytes(4, "little")
            elif code[at + 1] >> 4 == 0:
                mark = (
                    int.from_bytes(code[at + 4 : at + 8], "little")
                    | int.from_bytes(code[at + 12 : at + 16], "little") << 32
                )
                if mark & ~0xFF == LATE_MARK:
                    value = values[Late(mark & 0xFF)]
                    code[at + 4 : at + 8] = (value & 0xFFFFFFFF).to_bytes(4, "little")
                    code[at + 12 : at + 16] = (value >> 32).to_bytes(4, "little")
            at += 8
        at += 8
    return bytes(code)
