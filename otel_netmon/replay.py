"""A capture through the same bytecode: BPF_PROG_TEST_RUN of the tc program, one call a frame, time from the capture."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROGRAM_TUNNEL,
    PROTOCOL_TCP,
    SEQUENCE_DECIDED,
    Direction,
    Kind,
    Late,
    MessageCount,
    MessageKind,
    Reason,
    protocol_name,
)
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.decode.capture import Capture, to_ethernet
from otel_netmon.decode.fragments import Look, Reassembler, find_fragment
from otel_netmon.enrich.addresses import address_text
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import loader, syscalls
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from otel_netmon.readers.maps import HashReader, sum_over_cpus
from otel_netmon.readers.messages import MessageCounts, Messages, OpenQueries, OpenQueryReader, parse_messages
from otel_netmon.readers.ring import RingReader
from otel_netmon.replay_dns import DnsReplay, lost
from otel_netmon.replay_streams import StreamsReplay

TakeMessages = Callable[[Messages, int], Iterable[Seen]]
"""Is given records of the ring with the capture's time; gives packets of the flows of which nothing more is wanted."""

FLOW_ENTRIES = 1 << 20  # made on demand: BPF_F_NO_PREALLOC
QUERY_ENTRIES = 1 << 20  # likewise: a query without an answer stays to the end of the capture
DRAIN_FRAMES = 128  # between two looks at the ring of 1 MiB: a frame makes at most one record of 4.2 KiB
FRAME_BYTES_MAX = 3520  # what BPF_PROG_TEST_RUN takes of a frame with 4 KiB pages; headers lie far below it
ETHERNET_BYTES = 14
SHORT_IP_BELOW = ETHERNET_BYTES + 40
FRAME_BYTES_MIN = 15  # it wants a byte behind the Ethernet header

_COUNT_AND_LOOK, _LOOK, _COUNT = range(3)
"""What the program does with a frame, cb[4]: REPLAY_* of bpf/tc_monitor.c."""


class Session:
    """One capture in the kernel: its own maps, filled frame by frame.

    Args:
        path: pcap or pcapng, ``-`` for standard input.
        cache: folder of compiled program images.
        decapsulate: key flows by the innermost headers.
        ip_lengths: count IP lengths as the bytes of flows; otherwise layer-2 lengths.
        take_messages: given the records of the ring as they come; None: no packet is looked into.

    Attributes:
        read: packet records in the file.
        refused: those that could not be given to the program, by reason.
        faults: where the file itself is broken.
        fragments: what became of IP fragments, see ``Reassembler``; empty where no packet is looked into.
        first_ns, last_ns: the earliest and the latest Unix time of a frame, 0 where none has one.

    Raises:
        CaptureError: the file is no capture.
        PrivilegeError, KernelLacksError: BPF is not to be had.
    """

    def __init__(
        self,
        path: str,
        cache: Path,
        *,
        decapsulate: bool,
        ip_lengths: bool,
        take_messages: TakeMessages | None = None,
    ) -> None:
        self.read = 0
        self.refused: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.fragments: Counter[str] = Counter()
        self.first_ns = self.last_ns = 0
        loader.require_privilege()
        source, _ = loader.obtain("tc_monitor", cache)
        self._loaded = loader.LoadedImage(
            source,
            {"flow_table": FLOW_ENTRIES, "dns_cache": QUERY_ENTRIES},
            {"flow_table": syscalls.BPF_F_NO_PREALLOC, "dns_cache": syscalls.BPF_F_NO_PREALLOC},
        )
        try:
            late = {Late.REPLAY: 1, Late.STREAMS: int(take_messages is not None)}
            program = self._loaded.program("netmon_receive", {**late, Late.DECAPSULATE: int(decapsulate)})
            if take_messages is not None:
                self._look_into_packets(late)
            with (
                Capture(path) as capture,
                RingReader(self._loaded.maps["messages"], self._loaded.definitions["messages"].max_entries) as ring,
            ):
                self._feed(capture, program, int(ip_lengths), ring, take_messages)
                self.faults = [{"offset": f.offset, "message": f.message} for f in capture.faults]
                if capture.fault_count > len(self.faults):
                    self.faults.append(
                        {
                            "offset": self.faults[-1]["offset"],
                            "message": f"{capture.fault_count} faults, the first shown",
                        }
                    )
                if capture.skipped:
                    self.read += capture.skipped
                    self.refused["damaged_record"] += capture.skipped
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the maps and programs back."""
        self._loaded.close()

    def flows(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Gives keys and values of flow_table in the order of their first packets."""
        keys, values = HashReader(self._loaded.maps["flow_table"], layout.FLOW_KEY, layout.FLOW, FLOW_ENTRIES).read()
        order = np.argsort(values["first_ns"], kind="stable")
        return keys[order], values[order]

    def rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Gives keys and counters of protocol_stats."""
        entries = self._loaded.definitions["protocol_stats"].max_entries
        return sum_over_cpus(
            *HashReader(
                self._loaded.maps["protocol_stats"],
                layout.PROTOCOL_KEY,
                layout.COUNTERS,
                entries,
                syscalls.possible_cpus(),
            ).read()
        )

    def open_queries(self) -> OpenQueries:
        """Gives the DNS queries over UDP that nobody answered to the end of the capture."""
        return OpenQueryReader(self._loaded.maps["dns_cache"], QUERY_ENTRIES).read()

    def message_counts(self) -> dict[MessageCount, int]:
        """Gives what was seen on message ports and what became of it."""
        return MessageCounts(self._loaded.maps["message_counts"], syscalls.possible_cpus()).read()

    def _look_into_packets(self, late: dict[Late, int]) -> None:
        loaded = self._loaded
        loaded.program("netmon_dns", {Late.REPLAY: 1})
        loaded.program("netmon_stream", {Late.REPLAY: 1})
        inside = loaded.program("netmon_receive", {**late, Late.DECAPSULATE: 1})
        slot = PROGRAM_TUNNEL.to_bytes(4, "little")
        syscalls.map_update(loaded.maps["message_programs"], slot, inside.to_bytes(4, "little"))
        set_message_ports(loaded, DNS_PORTS)

    def _feed(
        self,
        capture: Capture,
        program: int,
        ip_lengths: int,
        ring: RingReader,
        take_messages: TakeMessages | None,
    ) -> None:
        test_run = syscalls.TestRun(program, FRAME_BYTES_MAX)
        run = test_run.run
        take = take_messages or _take_nothing
        reassembler = Reassembler()
        looks: list[Look] = []
        read = 0
        first = last = 0
        for time_ns, wire_length, link_type, data in capture:
            read += 1
            if time_ns:
                first = min(first, time_ns) if first else time_ns
                last = max(last, time_ns)
            ethernet = to_ethernet(link_type, data, wire_length)
            if isinstance(ethernet, str):
                self.refused[ethernet] += 1
                continue
            frame, length = ethernet
            if len(frame) < SHORT_IP_BELOW and (short := _short_ip(bytes(frame[12:14]), len(frame))):
                self.refused[short] += 1
                continue
            length = min(length, 0xFFFFFFFF)
            act = _COUNT_AND_LOOK
            if take_messages is not None and (fragment := find_fragment(frame)) is not None:
                act = _COUNT
                looks = reassembler.take(frame, fragment, length, time_ns)
            is_long = len(frame) > FRAME_BYTES_MAX
            if is_long:
                _run_in_pieces(test_run, bytes(frame), length, ip_lengths, time_ns, act)
            else:
                if len(frame) < FRAME_BYTES_MIN:
                    frame = bytes(frame).ljust(FRAME_BYTES_MIN, b"\0")
                run(frame, (length, ip_lengths, 0, 0, act), time_ns)
            if looks:
                for look in looks:
                    _look_into(test_run, look)
                    if ring.waiting:
                        self._decide(take(parse_messages(ring.drain()), time_ns))
                looks = []
            if (is_long or not read % DRAIN_FRAMES) and ring.waiting:
                self._decide(take(parse_messages(ring.drain()), time_ns))
        for look in reassembler.finish():
            _look_into(test_run, look)
            if ring.waiting:
                take(parse_messages(ring.drain()), last)
        if ring.waiting:
            take(parse_messages(ring.drain()), last)
        self.read, self.first_ns, self.last_ns = read, first, last
        self.fragments = reassembler.counts

    def _decide(self, unwanted: Iterable[Seen]) -> None:
        """Lets the kernel look no more into the flows of these packets; one that is inside a tunnel has no row."""
        table = self._loaded.maps["flow_table"]
        for seen in unwanted:
            key = flow_key(seen)
            value = syscalls.map_lookup(table, key, layout.FLOW.itemsize)
            if value is not None:
                flow = np.frombuffer(bytearray(value), layout.FLOW)
                flow["sequence_state"] |= SEQUENCE_DECIDED
                syscalls.map_update(table, key, flow.tobytes())


def flow_key(seen: Seen) -> bytes:
    """Gives the key of flow_table of a TCP packet that was received."""
    source, destination = seen.source, seen.destination
    return struct.pack(
        "<16s16sI2s2sBBBB",
        source[:16],
        destination[:16],
        seen.ifindex,
        source[16:],
        destination[16:],
        PROTOCOL_TCP,
        Direction.RECEIVE,
        seen.namespace,
        0,
    )


def _take_nothing(messages: Messages, time_ns: int) -> Iterable[Seen]:
    """Where no packet is looked into, the ring stays empty."""
    return ()


def _look_into(test_run: syscalls.TestRun, look: Look) -> None:
    """Runs a frame that is counted already."""
    if len(look.frame) > FRAME_BYTES_MAX:
        _run_in_pieces(test_run, look.frame, look.length, 0, look.time_ns, _LOOK)
    else:
        test_run.run(look.frame, (look.length, 0, 0, 0, _LOOK), look.time_ns)


def _run_in_pieces(
    test_run: syscalls.TestRun, frame: bytes, length: int, ip_lengths: int, time_ns: int, act: int
) -> None:
    """Runs a frame that is too long for a test run: once to be counted, and the rest of a segment that is looked into.

    Args:
        length: of the frame on the wire.
        act: what is done with the frame.
    """
    test_run.run(frame[:FRAME_BYTES_MAX], (length, ip_lengths, 0, 1, act), time_ns)
    headers = test_run.cb()[2]
    if not headers:
        return
    room = FRAME_BYTES_MAX - headers
    for skipped in range(room, len(frame) - headers, room):
        begin = headers + skipped
        goes_on = begin + room < len(frame)
        piece = frame[:headers] + frame[begin : begin + room]
        test_run.run(piece, (length - skipped, ip_lengths, skipped, goes_on, _LOOK), time_ns)


class Replay(NamedTuple):
    """What a capture held.

    Attributes:
        read: packet records in the file.
        counted: frames the programs could read.
        unparsed: the others, by reason; read = counted + the sum of unparsed.
        flows: one direction each, with IP lengths as bytes.
        flows_without_place: IP packets counted apart from flows, because the table was full.
        dns: lookups, as ``replay_dns`` gives them.
        tls: handshakes, as ``replay_tls`` gives them.
        http: requests, as ``replay_http`` gives them.
        dns_unparsed: what is on the ports of DNS and is none, or cannot be read, by reason.
        http_unparsed: what of HTTP could not be read or belongs to no request, see ``Http1Follower`` and ``Http2Follower``.
        fragments: what became of IP fragments in search of messages, see ``Reassembler``; flows count each of them.
        messages_lost: what the kernel's maps had no place for, by reason.
        faults: where the file itself is broken: offset in bytes, and why.
    """

    read: int
    counted: int
    unparsed: dict[str, int]
    flows: list[dict[str, Any]]
    flows_without_place: int
    dns: list[dict[str, Any]]
    tls: list[dict[str, Any]]
    http: list[dict[str, Any]]
    dns_unparsed: dict[str, int]
    http_unparsed: dict[str, int]
    fragments: dict[str, int]
    messages_lost: dict[str, int]
    faults: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """The object that ``replay --output json`` prints."""
        result: dict[str, Any] = {
            "packets": {"read": self.read, "counted": self.counted, "unparsed": self.unparsed},
            "flows": self.flows,
            "dns": self.dns,
            "tls": self.tls,
            "http": self.http,
        }
        if self.flows_without_place:
            result["packets"]["without_flow"] = self.flows_without_place
        if self.dns_unparsed:
            result["dns_unparsed"] = self.dns_unparsed
        if self.http_unparsed:
            result["http_unparsed"] = self.http_unparsed
        if self.fragments:
            result["fragments"] = self.fragments
        if self.messages_lost:
            result["messages_lost"] = self.messages_lost
        if self.faults:
            result["faults"] = self.faults
        return result


def replay(path: str, cache: Path, decapsulate: bool = False) -> Replay:
    """Runs every frame of a capture through the tc program and reads the maps.

    Raises:
        CaptureError, PrivilegeError, KernelLacksError: see ``Session``.
        NetmonError: the kernel counted other than what it was given (never seen; checked every time).
    """
    dns, streams = DnsReplay(), StreamsReplay()

    def take(messages: Messages, time_ns: int) -> Iterable[Seen]:
        is_dns = messages.heads["kind"] < MessageKind.STREAM
        if is_dns.any():
            dns.take(messages.where(is_dns), time_ns)
        return () if is_dns.all() else streams.take(messages, time_ns)

    session = Session(path, cache, decapsulate=decapsulate, ip_lengths=True, take_messages=take)
    try:
        return _collect(session, dns, streams)
    finally:
        session.close()


def _short_ip(ethertype: bytes, length: int) -> str | None:
    """The kernel's test run refuses an IP frame without a whole IP header; the program would give this reason."""
    if ethertype == b"\x08\x00" and length < ETHERNET_BYTES + 20:
        return Reason.SHORT_IPV4.name.lower()
    if ethertype == b"\x86\xdd" and length < ETHERNET_BYTES + 40:
        return Reason.SHORT_IPV6.name.lower()
    return None


def _collect(session: Session, dns: DnsReplay, streams: StreamsReplay) -> Replay:
    flows = []
    counted = 0
    for key, value in zip(*session.flows(), strict=True):
        counted += int(value["packets"])
        flows.append(
            {
                "src": address_text(key["source"].tobytes()),
                "sport": int(key["source_port"]),
                "dst": address_text(key["destination"].tobytes()),
                "dport": int(key["destination_port"]),
                "protocol": protocol_name(int(key["protocol"])),
                "packets": int(value["packets"]),
                "bytes": int(value["bytes"]),
                "retransmits": int(value["retransmits"]),
                "resets": int(value["resets"]),
            }
        )
    without_flow = 0
    unparsed = Counter(session.refused)
    for key, row in zip(*session.rows(), strict=True):
        packets = int(row["packets"])
        if key["kind"] == Kind.UNPARSED:
            unparsed[Reason(int(key["reason"])).name.lower()] += packets
        else:
            counted += packets
            if key["ethertype"] in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                without_flow += packets
    if counted + sum(unparsed.values()) != session.read:
        raise NetmonError(
            f"{session.read} frames were read but {counted} counted and {sum(unparsed.values())} unparsed",
            "this is a defect: please report it with the capture",
        )
    counts = session.message_counts()
    tls, http = streams.finish()
    return Replay(
        read=session.read,
        counted=counted,
        unparsed=dict(sorted(unparsed.items())),
        flows=flows,
        flows_without_place=without_flow,
        dns=dns.finish(session.open_queries()),
        tls=tls,
        http=http,
        dns_unparsed=dns.unparsed(counts),
        http_unparsed=dict(sorted((+streams.http.counts).items())),
        fragments=dict(sorted(session.fragments.items())),
        messages_lost=lost(counts),
        faults=session.faults,
    )


def default_cache() -> Path:
    """Where replay keeps compiled images when nothing is configured."""
    return Path(os.environ.get("OTEL_NETMON_IMAGES_DIRECTORY") or "/var/cache/otel-netmon")
