"""The shipped programs in the running kernel, fed frame by frame through BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, Late, hook_slot
from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel import image, links, loader, syscalls
from otel_netmon.kernel.namespaces import find_namespace
from otel_netmon.readers.maps import ArrayReader, HashReader
from support.netns import NetNs

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = 1  # the interface a test run pretends, in any namespace


class Key(NamedTuple):
    """A flow as a person names it."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int


class Row(NamedTuple):
    """A row of protocol_stats."""

    kind: int
    ethertype: int
    protocol: int
    reason: int


class Seen(NamedTuple):
    """What one frame became: a flow, or a row."""

    flow: Key | None = None
    row: Row | None = None


def shipped(name: str) -> image.Image:
    """The image of that name that ships."""
    found = image.load(image.SHIPPED / f"{name}.json")
    assert found is not None
    return found


class XdpRun:
    """BPF_PROG_TEST_RUN of an XDP program; its context is another one than that of syscalls.TestRun."""

    def __init__(self, program: int, room: int) -> None:
        self._program = program
        self._frame, self._out = bytearray(room), bytearray(room)
        self._addresses = [ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (self._frame, self._out)]

    def run(self, frame: bytes) -> int:
        self._frame[: len(frame)] = frame
        attribute = bytearray(128)
        struct.pack_into("<IIIIQQI", attribute, 0, self._program, 0, len(frame), len(self._out), *self._addresses, 1)
        syscalls.bpf(syscalls.PROG_TEST_RUN, attribute)
        result, _, size = struct.unpack_from("<III", attribute, 4)
        assert self._out[:size] == frame, "the program changed the frame"
        return int(result)


class Programs(AbstractContextManager["Programs"]):
    """A loaded image with its maps, and the means to run frames through it.

    Args:
        source: the image; by default the shipped one of that name.
        sizes, flags: as in LoadedImage.
    """

    def __init__(
        self,
        source: str | image.Image,
        *,
        sizes: Mapping[str, int] | None = None,
        flags: Mapping[str, int] | None = None,
    ) -> None:
        loader.raise_memlock()
        self.image = shipped(source) if isinstance(source, str) else source
        self.loaded = loader.LoadedImage(self.image, sizes, flags)
        self._runs: dict[int, syscalls.TestRun] = {}
        self._cpus = syscalls.possible_cpus()
        entries = {name: definition.max_entries for name, definition in self.loaded.definitions.items()}
        maps = self.loaded.maps
        if "flow_table" in maps:
            self.flow_reader = HashReader(maps["flow_table"], layout.FLOW_KEY, layout.FLOW, entries["flow_table"])
        if "protocol_stats" in maps:
            self.row_reader = HashReader(
                maps["protocol_stats"], layout.PROTOCOL_KEY, layout.COUNTERS, entries["protocol_stats"], self._cpus
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.loaded.close()

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """File descriptor and max_entries of each map, as the pipeline is handed them."""
        return {name: (fd, self.loaded.definitions[name].max_entries) for name, fd in self.loaded.maps.items()}

    def program(self, name: str, /, **late: int) -> int:
        """The fd of a program with these late constants, named as in Late without regard to case."""
        return self.loaded.program(name, {Late[constant.upper()]: value for constant, value in late.items()})

    @contextmanager
    def attached(
        self, netns: NetNs, interface: str = "lo", directions: Iterable[Direction] = Direction, **late: int
    ) -> Iterator[None]:
        """The programs at an interface of a network namespace, as long as this lasts; late: as in ``program``."""
        found = find_namespace(netns.name)
        assert found is not None
        names = {Direction.RECEIVE: "netmon_receive", Direction.TRANSMIT: "netmon_transmit"}
        with ExitStack() as stack:
            stack.callback(found.close)
            for direction in directions:
                program = self.program(names[direction], **late)
                link = links.attach_tcx(found, netns.index(interface), direction, program)
                stack.callback(links.detach, link)
            yield

    def runner(self, name: str = "netmon_receive", /, **late: int) -> syscalls.TestRun:
        """What runs a tc program; the same one for the same program."""
        fd = self.program(name, **late)
        if fd not in self._runs:
            self._runs[fd] = syscalls.TestRun(fd, 4096)
        return self._runs[fd]

    def _run(self, name: str, late: Mapping[str, int]) -> Callable[[bytes], int]:
        if self.image.programs[name].kind == syscalls.PROG_TYPE_XDP:
            return XdpRun(self.program(name, **late), 4096).run
        return self.runner(name, **late).run

    # ---- maps as people read them

    def flows(self, namespace: int | None = None) -> dict[Key, dict[str, int]]:
        """flow_table by key; rows that differ only in interface, direction or flags must not exist."""
        keys, values = self.flow_reader.read()
        if namespace is not None:
            keys, values = keys[keys["namespace"] == namespace], values[keys["namespace"] == namespace]
        found = {
            Key(
                int(key["protocol"]),
                address_text(key["source"].tobytes()),
                int(key["source_port"]),
                address_text(key["destination"].tobytes()),
                int(key["destination_port"]),
            ): {name: int(value[name]) for name in layout.FLOW.names or ()}
            for key, value in zip(keys, values, strict=True)
        }
        assert len(found) == len(keys), "two rows of one flow"
        return found

    def rows(self, namespace: int | None = None) -> dict[Row, dict[str, int]]:
        """protocol_stats by key, summed over CPUs."""
        found = {}
        for key, per_cpu in zip(*self.row_reader.read(), strict=True):
            if namespace is not None and key["namespace"] != namespace:
                continue
            row = Row(int(key["kind"]), int(key["ethertype"]), int(key["protocol"]), int(key["reason"]))
            assert row not in found, "two rows of one key"
            found[row] = {name: int(per_cpu[name].sum()) for name in layout.COUNTERS.names or ()}
        return found

    def totals(self, direction: Direction = Direction.RECEIVE, ifindex: int = LOOPBACK) -> dict[str, int]:
        """hook_totals of one side, summed over CPUs."""
        reader = ArrayReader(self.loaded.maps["hook_totals"], layout.COUNTERS, self._cpus)
        per_cpu = reader.read(hook_slot(ifindex, 0, direction))
        return {name: int(per_cpu[name].sum()) for name in layout.COUNTERS.names or ()}

    def state(self) -> dict[str, int]:
        """agent_state."""
        value = ArrayReader(self.loaded.maps["agent_state"], layout.STATE).read(0)
        return {name: int(value[name]) for name in layout.STATE.names or ()}

    def clear(self) -> None:
        """Empty flow_table, protocol_stats and the totals of loopback."""
        if "flow_table" in self.loaded.maps:
            self.flow_reader.delete(self.flow_reader.read()[0].copy())
            for direction in Direction:
                slot = hook_slot(LOOPBACK, 0, direction).to_bytes(4, "little")
                zeros = bytes(layout.COUNTERS.itemsize * self._cpus)
                syscalls.map_update(self.loaded.maps["hook_totals"], slot, zeros)
        self.row_reader.delete(self.row_reader.read()[0].copy())

    def seen(self, namespace: int | None = None) -> Counter[Seen]:
        """Frames by what they became; flows, rows and totals must tell of the same frames."""
        found: Counter[Seen] = Counter()
        for row, counters in self.rows(namespace).items():
            found[Seen(row=row)] += counters["packets"]
        if "flow_table" in self.loaded.maps:
            for key, flow in self.flows(namespace).items():
                found[Seen(flow=key)] += flow["packets"]
            if namespace is None:
                assert sum(found.values()) == sum(self.totals(direction)["packets"] for direction in Direction)
        return found

    def one(self, frame: bytes, name: str = "netmon_receive", /, **late: int) -> Seen:
        """Run one frame through empty maps and tell what it became."""
        self.clear()
        self._run(name, late)(frame)
        ((what, times),) = self.seen().items()
        assert times == 1
        return what

    def many(self, frames: Iterable[bytes], name: str = "netmon_receive", /, **late: int) -> Counter[Seen]:
        """Run frames through empty maps and tell what they became."""
        self.clear()
        run = self._run(name, late)
        for frame in frames:
            run(frame)
        return self.seen()

    def dump(self) -> dict[str, Any]:
        """All that the maps hold but the times, for comparing two ways to the same."""
        found: dict[str, Any] = {
            "rows": {
                key.tobytes(): tuple(int(per_cpu[name].sum()) for name in layout.COUNTERS.names or ())
                for key, per_cpu in zip(*self.row_reader.read(), strict=True)
            }
        }
        if "flow_table" in self.loaded.maps:
            counted = [name for name in layout.FLOW.names or () if name not in ("first_ns", "last")]
            found["flows"] = {
                key.tobytes(): tuple(int(value[name]) for name in counted)
                for key, value in zip(*self.flow_reader.read(), strict=True)
            }
            found["totals"] = [self.totals(direction) for direction in Direction]
        return found


def set_context(run: syscalls.TestRun, **fields: int) -> None:
    """Write 32-bit fields of struct __sk_buff for the runs that follow: ingress_ifindex, ifindex, gso_segs, gso_size."""
    offsets = {"ingress_ifindex": 36, "ifindex": 40, "gso_segs": 164, "gso_size": 176}
    for name, value in fields.items():
        np.frombuffer(run._skb_bytes, "<u4")[offsets[name] // 4] = value
