"""What this kernel lets the agent do, each found out by doing it once and undoing it at once. Versions are never compared.

What is tried are the shipped programs themselves, with maps of their own; packets are counted in a network namespace that
exists for a millisecond. Nothing of the host is changed and nothing is left. Used by ``otel-netmon doctor``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, NamedTuple, TypeVar

from otel_netmon.abi.enums import SWEEP_HEADER_SIZE, Direction, Late, hook_slot
from otel_netmon.errors import KernelLacksError, NetmonError, PrivilegeError
from otel_netmon.kernel import links, syscalls, uprobes
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.kernel.drops import DropMonitor
from otel_netmon.kernel.image import CGROUP_HOOKS, FALLBACKS
from otel_netmon.kernel.link_monitor import LinkMonitor
from otel_netmon.kernel.loader import CAPABILITIES, LoadedImage
from otel_netmon.kernel.namespaces import Namespace, own_namespace

State = Literal["ok", "degraded", "missing"]
Attach = Callable[[Namespace, int, Mapping[Direction, int]], AbstractContextManager[None]]
"""Attaches programs to an interface of a namespace, by ifindex, until the context ends."""
T = TypeVar("T")

TC_PROGRAMS: Mapping[Direction, str] = {Direction.RECEIVE: "netmon_receive", Direction.TRANSMIT: "netmon_transmit"}
PACKETS = 23
"""Sent through the hooks of a trial; a prime, so that a doubled or halved count is seen."""

MAP_TYPES: Mapping[int, str] = {1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash"}
"""enum bpf_map_type of the maps that the programs have."""

_PASS_ON = 0xFFFFFFFF  # TCX_NEXT = TC_ACT_UNSPEC = -1: whatever else is attached decides
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sh14x")
_ANSWER_SECONDS = 2.0
_COUNTERS_SIZE = 32  # struct netmon_counters, packets first
_STATE = struct.Struct("<7Q")  # struct netmon_state
_PROCESSED = re.compile(r"processed (\d+) insns")

_libc = ctypes.CDLL(None, use_errno=True)


class Finding(NamedTuple):
    """One check and what came of it.

    Attributes:
        name: what was checked.
        state: ok; degraded, the probes that are on run without it; missing, they do not.
        found: what is there, or what the kernel said.
        remedy: what to do about it; empty where nothing is to be done.
        exit_code: of the error that the agent would end with for a missing one (see ``errors``), else 0.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    exit_code: int = 0


class NoNamespace(Exception):
    """The kernel refused to make a network namespace."""


def attempt(name: str, trial: Callable[[], str], *, needed: bool = True, blocked_by: Finding | None = None) -> Finding:
    """Runs a trial that gives what it found.

    Args:
        name: of the finding.
        trial: raises OSError or NetmonError where the kernel refuses.
        needed: whether a refusal is missing, or else degraded.
        blocked_by: a finding without which there is nothing to try.
    """
    if blocked_by is not None:
        found = f"not tried: {blocked_by.name} is {blocked_by.state}"
        return Finding(name, "missing", found, "", blocked_by.exit_code) if needed else Finding(name, "degraded", found)
    try:
        return Finding(name, "ok", trial())
    except OSError as refused:
        error = explain(refused)
    except NetmonError as refused:
        error = refused
    if needed:
        return Finding(name, "missing", error.message, error.remedy, error.exit_code)
    return Finding(name, "degraded", error.message, error.remedy)


def explain(error: OSError) -> NetmonError:
    """The refusal of a system call as one of the project's errors."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError("not permitted", f"start with {CAPABILITIES}")
    if error.errno == errno.ENOSYS:
        return KernelLacksError(error.strerror or "no such system call", "use a kernel with CONFIG_BPF_SYSCALL")
    return KernelLacksError(f"refused: {error.strerror}")


# ---- system calls and maps


def bpf_call() -> str:
    """A map is made, written and read by bpf(2)."""
    fd = syscalls.map_create(2, 4, 8, 1)
    try:
        syscalls.map_update(fd, bytes(4), struct.pack("<Q", PACKETS))
        if syscalls.map_lookup(fd, bytes(4), 8) != struct.pack("<Q", PACKETS):
            raise KernelLacksError("a map does not keep what was written to it")
    finally:
        os.close(fd)
    return "usable"


def map_type(kind: int) -> str:
    """A map of this type is made."""
    os.close(syscalls.map_create(kind, 4, 8, 1))
    return "made one"


def batch_calls() -> str:
    """Several entries of a map are read by one call."""
    entries = 3
    fd = syscalls.map_create(syscalls.MAP_TYPE_HASH, 4, 8, entries)
    try:
        for number in range(entries):
            syscalls.map_update(fd, struct.pack("<I", number), struct.pack("<Q", number))
        keys, values, token = (ctypes.c_uint32 * entries)(), (ctypes.c_uint64 * entries)(), (ctypes.c_uint64 * 2)()
        addresses = (ctypes.addressof(token), ctypes.addressof(keys), ctypes.addressof(values))
        got, _ = syscalls.map_lookup_batch(fd, 0, *addresses, entries)
    finally:
        os.close(fd)
    if sorted(zip(keys, values, strict=True)) != [(number, number) for number in range(entries)]:
        raise KernelLacksError(f"a batch call gave {got} of {entries} entries")
    return f"{entries} entries in one call"


def membarrier() -> Finding:
    """Whether a grace period can be had; idle flows leave the table after one."""
    try:
        syscalls.rcu_grace_period()
    except OSError as error:
        return Finding(
            "membarrier", "degraded", f"refused: {error.strerror}", "none needed: a pause of 0.1 s takes its place"
        )
    return Finding("membarrier", "ok", "gives grace periods")


def rtnetlink() -> str:
    """The kernel lists its network devices."""
    with LinkMonitor() as monitor:
        return f"interfaces: {len(monitor.dump())}"


# ---- programs


def program_size(name: str, loaded: LoadedImage, late: Mapping[Late, int] | None = None) -> str:
    """A program is loaded with these late constants; what the verifier had to look at."""
    fd, fallback = loaded.program_that_fits(name, late)
    late = {**(late or {}), **(FALLBACKS[name] if fallback else {})}
    count = syscalls.program_info(fd).verified_instructions
    if not count and (found := _PROCESSED.search(loaded.verifier_report(name, late))):  # before 5.16 only its log tells
        count = int(found[1])
    return f"loaded, {count:,} instructions verified{', without a helper that this kernel lacks' if fallback else ''}"


def test_run(loaded: LoadedImage) -> str:
    """The receive program runs once on a UDP packet, by BPF_PROG_TEST_RUN, and passes it on."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
    frame = bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 9, 9, 8, 0)
    verdict = syscalls.TestRun(loaded.program(TC_PROGRAMS[Direction.RECEIVE]), len(frame)).run(frame)
    if verdict != _PASS_ON:
        raise KernelLacksError(f"the program gave {verdict:#x} and not {_PASS_ON:#x}")
    return "the program runs and passes the packet on"


def read_clocks(loaded: LoadedImage) -> tuple[int, int]:
    """jiffies64 and CLOCK_MONOTONIC in ns, read together in the kernel by the program netmon_clock.

    Raises:
        OSError, NetmonError: it does not run.
    """
    syscalls.TestRun(loaded.program("netmon_clock"), SWEEP_HEADER_SIZE).run(bytes(SWEEP_HEADER_SIZE))
    state = syscalls.map_lookup(loaded.maps["agent_state"], bytes(4), _STATE.size)
    if state is None:
        raise KernelLacksError("the map agent_state has no entry")
    fields = _STATE.unpack(state)
    return fields[4], fields[5]


# ---- hooks


def tcx(loaded: LoadedImage) -> str:
    """Packets are counted by TCX links at both hooks of the loopback interface of a network namespace made for that.

    Where no namespace can be made the links are attached to the own loopback interface and taken off at once.

    Raises:
        KernelLacksError, PrivilegeError: the kernel refuses the links, or the counts are wrong.
    """
    try:
        return in_new_namespace(lambda namespace: _count_packets(loaded, namespace, _tcx_links))
    except NoNamespace:
        namespace = own_namespace()
        try:
            with _tcx_links(namespace, socket.if_nametoindex("lo"), _tc_programs(loaded)):
                return "attached to lo and taken off again; CAP_SYS_ADMIN would let it count packets in a namespace"
        finally:
            namespace.close()


def clsact(loaded: LoadedImage) -> str:
    """The same by filters of a clsact qdisc, which are tried nowhere but in a network namespace made for that.

    Raises:
        KernelLacksError, PrivilegeError: the kernel refuses them, or the counts are wrong.
        NoNamespace: no namespace can be made.
    """
    return in_new_namespace(lambda namespace: _count_packets(loaded, namespace, _clsact_filters))


def cgroup_hooks(loaded: LoadedImage) -> str:
    """Every program of socket_monitor is attached to a cgroup made for that, and the cgroup is deleted again.

    Raises:
        KernelLacksError: there is no cgroup v2, none can be made, or the kernel refuses a hook.
    """
    mount = find_cgroup2()
    if mount is None:
        raise KernelLacksError("cgroup v2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    folder = tempfile.mkdtemp(prefix="otel-netmon-", dir=mount.path)
    hooks = {name: hook for name, hook in CGROUP_HOOKS.items() if name in loaded.image.programs}
    refused = []
    try:
        cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, hook in hooks.items():
                try:
                    links.detach(links.attach_cgroup(cgroup, hook, loaded.program_that_fits(name)[0]))
                except links.Refused as reason:
                    refused.append(f"{name}: {reason.reason}")
        finally:
            os.close(cgroup)
    finally:
        os.rmdir(folder)
    if refused:
        raise KernelLacksError(f"refused: {', '.join(refused)}", "the probe connections runs without these")
    return f"{len(hooks)} hooks of a cgroup made for it"


def drop_hook(loaded: LoadedImage) -> str:
    """The program of drop_monitor is attached to the raw tracepoint kfree_skb and taken off again.

    Raises:
        KernelLacksError: the kernel refuses.
    """
    monitor = DropMonitor(loaded)
    monitor.close()
    state, _, detail = monitor.state()
    if state == "off":
        raise KernelLacksError(detail, "the probe drops is off without it")
    return detail or "attached, with the kernel's reasons"


def uprobe_hook(loaded: LoadedImage) -> str:
    """A program of plaintext_monitor is attached to an instruction of a file that nobody runs, and taken off again.

    Raises:
        KernelLacksError: the kernel refuses.
    """
    push_and_return = b"\x55\xc3"
    with tempfile.NamedTemporaryFile(prefix="otel-netmon-") as file:
        file.write(push_and_return)
        file.flush()
        try:
            os.close(uprobes.attach_uprobe(uprobes.uprobe_type(), file.name, 0, loaded.program("netmon_ssl_read")))
        except links.Refused as refused:
            raise KernelLacksError(
                f"refused: {refused.reason}",
                "the probe tls_plaintext is off without it; it needs CAP_PERFMON, CAP_SYS_ADMIN on some kernels",
            ) from refused
    return "attached to a file that nobody runs"


def in_new_namespace(job: Callable[[Namespace], T]) -> T:
    """Runs a job inside a new network namespace, which goes when the job is done.

    The job has a thread of its own: unshare(2) moves only that one.

    Raises:
        NoNamespace: CAP_SYS_ADMIN is missing, or a limit (user.max_net_namespaces) is reached.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise NoNamespace(os.strerror(ctypes.get_errno()))
            namespace = own_namespace()
            try:
                results.append(job(namespace))
            finally:
                namespace.close()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return results[0]


def _count_packets(loaded: LoadedImage, namespace: Namespace, attach: Attach) -> str:
    loopback = socket.if_nametoindex("lo")
    before = {direction: _packets(loaded, loopback, direction) for direction in TC_PROGRAMS}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        _, flags = _IFREQ.unpack(fcntl.ioctl(sender, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(sender, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))
        sender.bind(("127.0.0.1", 0))
        sender.settimeout(_ANSWER_SECONDS)
        with attach(namespace, loopback, _tc_programs(loaded)):
            for _ in range(PACKETS):
                sender.sendto(b"", sender.getsockname())
                sender.recv(1)
    counted = {direction: _packets(loaded, loopback, direction) - before[direction] for direction in TC_PROGRAMS}
    if any(count != PACKETS for count in counted.values()):
        seen = ", ".join(f"{direction.name.lower()} {count}" for direction, count in counted.items())
        raise KernelLacksError(f"of {PACKETS} packets it counted: {seen}", "this is a defect: please report it")
    return f"{PACKETS} of {PACKETS} packets counted in each direction, in a network namespace made for it"


def _packets(loaded: LoadedImage, ifindex: int, direction: Direction) -> int:
    """What hook_totals says of one side, summed over CPUs."""
    size = _COUNTERS_SIZE * syscalls.possible_cpus()
    key = struct.pack("<I", hook_slot(ifindex, 0, direction))
    per_cpu = syscalls.map_lookup(loaded.maps["hook_totals"], key, size)
    if per_cpu is None:
        raise KernelLacksError("the map hook_totals lacks an entry")
    return sum(struct.unpack_from("<Q", per_cpu, offset)[0] for offset in range(0, size, _COUNTERS_SIZE))


def _tc_programs(loaded: LoadedImage) -> dict[Direction, int]:
    return {direction: loaded.program(name) for direction, name in TC_PROGRAMS.items()}


@contextmanager
def _tcx_links(namespace: Namespace, ifindex: int, programs: Mapping[Direction, int]) -> Iterator[None]:
    with ExitStack() as undo:
        for direction, program in programs.items():
            try:
                link = links.attach_tcx(namespace, ifindex, direction, program)
            except links.Refused as refused:
                if refused.lacks_feature:
                    raise KernelLacksError("this kernel has no TCX", "set probes.flows.attach to auto") from refused
                if refused.reason == "not_permitted":
                    raise PrivilegeError("not permitted", f"start with {CAPABILITIES}") from refused
                raise KernelLacksError(f"refused: {refused.reason}") from refused
            undo.callback(links.detach, link)
        yield


@contextmanager
def _clsact_filters(namespace: Namespace, ifindex: int, programs: Mapping[Direction, int]) -> Iterator[None]:
    from otel_netmon.kernel.clsact import Clsact  # pyroute2, which nothing else here needs

    with Clsact() as filters:
        for direction, program in programs.items():
            filters.attach(namespace, ifindex, direction, program)
        yield
