"""bpf(2), membarrier(2) and what else the standard library lacks, by ctypes.

Numbers and attribute layouts are those of include/uapi/linux/bpf.h, which is user API. Every call raises OSError with
the kernel's errno; nothing here decides what an error means.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

_SYSCALLS = {
    "x86_64": (321, 324, 298),
    "aarch64": (280, 283, 241),
    "riscv64": (280, 283, 241),
    "s390x": (351, 356, 331),
    "ppc64le": (361, 365, 319),
}
_BPF, _MEMBARRIER, _PERF_EVENT_OPEN = _SYSCALLS.get(platform.machine(), (-1, -1, -1))
_libc = ctypes.CDLL(None, use_errno=True)
_ATTR_SIZE = 128

# enum bpf_cmd
MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
PROG_LOAD = 5
PROG_TEST_RUN = 10
PROG_GET_NEXT_ID = 11
MAP_GET_NEXT_ID = 12
PROG_GET_FD_BY_ID = 13
MAP_GET_FD_BY_ID = 14
OBJ_GET_INFO_BY_FD = 15
RAW_TRACEPOINT_OPEN = 17
MAP_LOOKUP_BATCH = 24
MAP_DELETE_BATCH = 27
LINK_CREATE = 28
LINK_GET_NEXT_ID = 31
ENABLE_STATS = 32

# enum bpf_prog_type
PROG_TYPE_KPROBE = 2
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_CGROUP_SKB = 8
PROG_TYPE_CGROUP_SOCK = 9
PROG_TYPE_SOCK_OPS = 13
PROG_TYPE_RAW_TRACEPOINT = 17
PROG_TYPE_CGROUP_SOCK_ADDR = 18

# enum bpf_attach_type
ATTACH_CGROUP_INET_INGRESS = 0
ATTACH_CGROUP_INET_EGRESS = 1
ATTACH_CGROUP_INET_SOCK_CREATE = 2
ATTACH_CGROUP_SOCK_OPS = 3
ATTACH_CGROUP_INET4_CONNECT = 10
ATTACH_CGROUP_INET6_CONNECT = 11
ATTACH_CGROUP_INET4_POST_BIND = 12
ATTACH_CGROUP_INET6_POST_BIND = 13
ATTACH_CGROUP_INET4_GETPEERNAME = 29
ATTACH_CGROUP_INET6_GETPEERNAME = 30
ATTACH_CGROUP_INET_SOCK_RELEASE = 34
ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47

MEMBARRIER_CMD_GLOBAL = 1

BPF_F_BEFORE = 1 << 3

BPF_F_NO_PREALLOC = 1
MAP_TYPE_HASH = 1
MAP_TYPE_ARRAY = 2


def bpf(command: int, attribute: bytes | bytearray) -> int:
    """Calls bpf(2) with an attribute of at most 128 bytes; the kernel may write into the bytearray given."""
    if _BPF < 0:
        raise OSError(38, f"bpf(2) has no known number on {platform.machine()}")
    if isinstance(attribute, bytearray) and len(attribute) == _ATTR_SIZE:
        buffer = (ctypes.c_char * _ATTR_SIZE).from_buffer(attribute)
    else:
        buffer = (ctypes.c_char * _ATTR_SIZE).from_buffer(bytearray(bytes(attribute).ljust(_ATTR_SIZE, b"\0")))
    result: int = _libc.syscall(_BPF, command, ctypes.byref(buffer), _ATTR_SIZE)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def rcu_grace_period() -> None:
    """Returns when every kernel program that ran at the time of the call has ended.

    membarrier(2) with MEMBARRIER_CMD_GLOBAL is synchronize_rcu(); it needs no privilege. Raises OSError where the
    kernel refuses it (nohz_full CPUs).
    """
    result: int = _libc.syscall(_MEMBARRIER, MEMBARRIER_CMD_GLOBAL, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = "") -> int:
    """Creates a map and gives its file descriptor (close-on-exec)."""
    return bpf(
        MAP_CREATE,
        struct.pack("<IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0, name.encode()[:15]),
    )


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Gives the value of a key, or None. Per-CPU maps: value_size is the sum over possible CPUs."""
    k = ctypes.create_string_buffer(key, len(key))
    v = ctypes.create_string_buffer(value_size)
    try:
        bpf(MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0))
    except FileNotFoundError:
        return None
    return v.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Writes one entry."""
    k = ctypes.create_string_buffer(key, len(key))
    v = ctypes.create_string_buffer(value, len(value))
    bpf(MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(v), flags))


def map_delete(fd: int, key: bytes) -> bool:
    """Deletes one entry; tells whether it was there."""
    k = ctypes.create_string_buffer(key, len(key))
    try:
        bpf(MAP_DELETE_ELEM, struct.pack("<IIQQ", fd, 0, ctypes.addressof(k), 0))
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Gives the keys of a hash one by one, a call each; one that is deleted meanwhile may begin them anew."""
    key = ctypes.create_string_buffer(key_size)
    following = ctypes.create_string_buffer(key_size)
    begin = 0
    while True:
        try:
            bpf(MAP_GET_NEXT_KEY, struct.pack("<IxxxxQQ", fd, begin, ctypes.addressof(following)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield following.raw
        key.raw, begin = following.raw, ctypes.addressof(key)


def map_lookup_batch(fd: int, resume: int, token: int, keys: int, values: int, count: int) -> tuple[int, bool]:
    """One BPF_MAP_LOOKUP_BATCH (kernel 5.6) into memory at the addresses given.

    Args:
        resume: address of the token of the previous call, 0 for the first.
        token: address that receives the new token.
        keys, values: addresses of room for count entries.
        count: entries that fit.

    Returns:
        the number of entries written, and whether the map has been read to its end.

    Raises:
        OSError: ENOSPC when one hash bucket holds more than count entries.
    """
    attribute = bytearray(_ATTR_SIZE)
    struct.pack_into("<QQQQIIQQ", attribute, 0, resume, token, keys, values, count, fd, 0, 0)
    try:
        bpf(MAP_LOOKUP_BATCH, attribute)
    except FileNotFoundError:
        return struct.unpack_from("<I", attribute, 32)[0], True
    return struct.unpack_from("<I", attribute, 32)[0], False


class VerifierRefusal(Exception):
    """BPF_PROG_LOAD failed: errno and the verifier's log."""

    def __init__(self, error: OSError, log: str) -> None:
        super().__init__(f"{error.strerror}: {log[-2000:]}" if log else error.strerror)
        self.errno = error.errno or 0
        self.log = log


def program_load(
    kind: int, instructions: bytes, name: str, log_level: int = 0, licence: str = "GPL", attach_type: int = 0
) -> tuple[int, str]:
    """Loads a program; gives its file descriptor and the verifier's log (empty at log level 0).

    Args:
        kind: enum bpf_prog_type.
        instructions: 8 bytes each.
        name: at most 15 characters are kept.
        log_level: 0 none, 1 the verifier's way, 4 its statistics.
        licence: helpers for GPL programs need one.
        attach_type: enum bpf_attach_type of the hook, where a kind has several that differ in what they may do.

    Raises:
        VerifierRefusal: with the log of a second try at level 1.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    legal = ctypes.create_string_buffer(licence.encode())

    def attempt(level: int, size: int) -> tuple[int, str]:
        log = ctypes.create_string_buffer(size) if level else None
        attribute = struct.pack(
            "<IIQQIIQII16sII",
            kind,
            len(instructions) // 8,
            ctypes.addressof(code),
            ctypes.addressof(legal),
            level,
            size if log else 0,
            ctypes.addressof(log) if log else 0,
            0,
            0,
            name.encode()[:15],
            0,
            attach_type,
        )
        try:
            return bpf(PROG_LOAD, attribute), (log.value.decode(errors="replace") if log else "")
        except OSError as error:
            raise VerifierRefusal(error, log.value.decode(errors="replace") if log else "") from error

    try:
        return attempt(log_level, 1 << 16)
    except VerifierRefusal as refusal:
        if refusal.errno in (1, 7, 12):  # EPERM, E2BIG, ENOMEM say nothing in a log
            raise
        return attempt(1, 1 << 24)


def link_create(program: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program by a link; target is an ifindex in this thread's network namespace, or a cgroup's fd."""
    return bpf(LINK_CREATE, struct.pack("<IIII", program, target, attach_type, flags))


# linux/perf_event.h
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
_PERF_ATTR_SIZE = 72  # PERF_ATTR_SIZE_VER1


def uprobe_open(kind: int, path: str, offset: int, program: int, *, returns: bool) -> int:
    """Runs a program at an instruction of a file, in every process that has it mapped or will have (kernel 4.17).

    Args:
        kind: the number in /sys/bus/event_source/devices/uprobe/type.
        path: of the file.
        offset: of the instruction in the file.
        program: loaded as PROG_TYPE_KPROBE.
        returns: run when the function that begins there returns, instead.

    Returns:
        a file descriptor; the probe ends when it is closed, with the process that holds it at the latest.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attribute = ctypes.create_string_buffer(_PERF_ATTR_SIZE)
    struct.pack_into("<IIQ", attribute, 0, kind, _PERF_ATTR_SIZE, int(returns))
    struct.pack_into("<QQ", attribute, 56, ctypes.addressof(name), offset)
    # All processes; the processor that is named counts events, the program runs on any.
    fd: int = _libc.syscall(_PERF_EVENT_OPEN, ctypes.byref(attribute), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        fcntl.ioctl(fd, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


class TestRun:
    """Reusable BPF_PROG_TEST_RUN of one program with a frame and a struct __sk_buff: about 4 us a call.

    Args:
        program: fd of a sched_cls program.
        room: the longest frame in bytes.
    """

    SKB_SIZE = 192  # struct __sk_buff up to hwtstamp; older kernels accept trailing zeros
    CB_OFFSET = 48
    TSTAMP_OFFSET = 152

    def __init__(self, program: int, room: int) -> None:
        self._frame_bytes = bytearray(max(room, 1))
        self._frame = (ctypes.c_char * max(room, 1)).from_buffer(self._frame_bytes)
        self._skb_bytes = bytearray(self.SKB_SIZE)
        self._skb = (ctypes.c_char * self.SKB_SIZE).from_buffer(self._skb_bytes)
        self._out_bytes = bytearray(self.SKB_SIZE)
        self._out = (ctypes.c_char * self.SKB_SIZE).from_buffer(self._out_bytes)
        self._attr = bytearray(_ATTR_SIZE)
        self._attr_c = (ctypes.c_char * _ATTR_SIZE).from_buffer(self._attr)
        self._program = program
        self._address = ctypes.addressof(self._frame)
        self._pack = struct.Struct("<IIIIQQIIII QQ".replace(" ", "")).pack_into
        self._context = struct.Struct("<5I").pack_into
        self._time = struct.Struct("<Q").pack_into
        self._skb_address = ctypes.addressof(self._skb)
        self._out_address = ctypes.addressof(self._out)
        self._attr_pointer = ctypes.byref(self._attr_c)

    def run(
        self, frame: bytes | memoryview, cb: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0), time_ns: int = 0
    ) -> int:
        """Runs the program once on the frame; gives its return value (as unsigned 32 bits)."""
        length = len(frame)
        self._frame_bytes[:length] = frame
        self._context(self._skb_bytes, self.CB_OFFSET, *cb)
        self._time(self._skb_bytes, self.TSTAMP_OFFSET, time_ns)
        self._pack(
            self._attr, 0, self._program, 0, length, 0, self._address, 0, 1, 0,
            self.SKB_SIZE, self.SKB_SIZE, self._skb_address, self._out_address,
        )  # fmt: skip
        if _libc.syscall(_BPF, PROG_TEST_RUN, self._attr_pointer, _ATTR_SIZE) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        result: int = struct.unpack_from("<I", self._attr, 4)[0]
        return result

    def repeat(self, frame: bytes, times: int) -> int:
        """Runs the program many times in one call; gives the mean time of a run in ns as the kernel measured it."""
        self._frame_bytes[: len(frame)] = frame
        self._context(self._skb_bytes, self.CB_OFFSET, 0, 0, 0, 0, 0)
        self._pack(
            self._attr, 0, self._program, 0, len(frame), 0, self._address, 0, times, 0,
            self.SKB_SIZE, 0, self._skb_address, 0,
        )  # fmt: skip
        if _libc.syscall(_BPF, PROG_TEST_RUN, self._attr_pointer, _ATTR_SIZE) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        mean: int = struct.unpack_from("<I", self._attr, 36)[0]
        return mean

    def cb(self) -> tuple[int, ...]:
        """The five words of __sk_buff.cb as the program left them."""
        return struct.unpack_from("<5I", self._out_bytes, self.CB_OFFSET)


class ProgramInfo(NamedTuple):
    """From struct bpf_prog_info; missed_runs are those that did not happen because the program ran already on that CPU."""

    id: int
    name: str
    run_time_ns: int
    run_count: int
    verified_instructions: int
    missed_runs: int = 0


def program_info(fd: int) -> ProgramInfo:
    """BPF_OBJ_GET_INFO_BY_FD of a program; run figures are zero unless the kernel's statistics are on."""
    info = ctypes.create_string_buffer(232)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)))
    raw = info.raw
    return ProgramInfo(
        id=struct.unpack_from("<I", raw, 4)[0],
        name=raw[64:80].split(b"\0")[0].decode(errors="replace"),
        run_time_ns=struct.unpack_from("<Q", raw, 192)[0],
        run_count=struct.unpack_from("<Q", raw, 200)[0],
        verified_instructions=struct.unpack_from("<I", raw, 216)[0],
        missed_runs=struct.unpack_from("<Q", raw, 208)[0],
    )


def ids(command: int) -> Iterator[int]:
    """Walks the ids of all programs, maps or links (PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, LINK_GET_NEXT_ID)."""
    last = 0
    while True:
        attribute = bytearray(_ATTR_SIZE)
        struct.pack_into("<I", attribute, 0, last)
        try:
            bpf(command, attribute)
        except FileNotFoundError:
            return
        last = struct.unpack_from("<I", attribute, 4)[0]
        yield last


def possible_cpus() -> int:
    """Number of CPUs that per-CPU values have room for (/sys/devices/system/cpu/possible)."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        text = file.read().strip()
    return max(int(part.split("-")[-1]) for part in text.split(",")) + 1
