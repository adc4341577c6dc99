"""A capture through the same bytecode: BPF_PROG_TEST_RUN of the tc program, one call a frame, time from the capture."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Kind, Late, Reason, protocol_name
from otel_netmon.decode.capture import Capture, to_ethernet
from otel_netmon.enrich.addresses import address_text
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import loader, syscalls
from otel_netmon.readers.maps import HashReader, sum_over_cpus

FLOW_ENTRIES = 1 << 20  # made on demand: BPF_F_NO_PREALLOC
FRAME_BYTES_MAX = 3520  # what BPF_PROG_TEST_RUN takes of a frame with 4 KiB pages; headers lie far below it
ETHERNET_BYTES = 14
SHORT_IP_BELOW = ETHERNET_BYTES + 40
FRAME_BYTES_MIN = 15  # it wants a byte behind the Ethernet header


class Session:
    """One capture in the kernel: its own maps, filled frame by frame.

    Args:
        path: pcap or pcapng, ``-`` for standard input.
        cache: folder of compiled program images.
        decapsulate: key flows by the innermost headers.
        ip_lengths: count IP lengths as the bytes of flows; otherwise layer-2 lengths.

    Attributes:
        read: packet records in the file.
        refused: those that could not be given to the program, by reason.
        faults: where the file itself is broken.
        first_ns, last_ns: the earliest and the latest Unix time of a frame, 0 where none has one.

    Raises:
        CaptureError: the file is no capture.
        PrivilegeError, KernelLacksError: BPF is not to be had.
    """

    def __init__(self, path: str, cache: Path, *, decapsulate: bool, ip_lengths: bool) -> None:
        self.read = 0
        self.refused: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.first_ns = self.last_ns = 0
        loader.require_privilege()
        source, _ = loader.obtain("tc_monitor", cache)
        self._loaded = loader.LoadedImage(
            source, {"flow_table": FLOW_ENTRIES}, {"flow_table": syscalls.BPF_F_NO_PREALLOC}
        )
        try:
            program = self._loaded.program("netmon_receive", {Late.REPLAY: 1, Late.DECAPSULATE: int(decapsulate)})
            with Capture(path) as capture:
                self._feed(capture, program, int(ip_lengths))
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

    def _feed(self, capture: Capture, program: int, ip_lengths: int) -> None:
        run = syscalls.TestRun(program, FRAME_BYTES_MAX).run
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
            if len(frame) > FRAME_BYTES_MAX:
                frame = frame[:FRAME_BYTES_MAX]
            elif len(frame) < FRAME_BYTES_MIN:
                frame = bytes(frame).ljust(FRAME_BYTES_MIN, b"\0")
            run(frame, (min(length, 0xFFFFFFFF), ip_lengths, 0, 0, 0), time_ns)
        self.read, self.first_ns, self.last_ns = read, first, last


class Replay(NamedTuple):
    """What a capture held.

    Attributes:
        read: packet records in the file.
        counted: frames the programs could read.
        unparsed: the others, by reason; read = counted + the sum of unparsed.
        flows: one direction each, with IP lengths as bytes.
        flows_without_place: IP packets counted apart from flows, because the table was full.
        faults: where the file itself is broken: offset in bytes, and why.
    """

    read: int
    counted: int
    unparsed: dict[str, int]
    flows: list[dict[str, Any]]
    flows_without_place: int
    faults: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """The object that ``replay --output json`` prints."""
        result: dict[str, Any] = {
            "packets": {"read": self.read, "counted": self.counted, "unparsed": self.unparsed},
            "flows": self.flows,
        }
        if self.flows_without_place:
            result["packets"]["without_flow"] = self.flows_without_place
        if self.faults:
            result["faults"] = self.faults
        return result


def replay(path: str, cache: Path, decapsulate: bool = False) -> Replay:
    """Runs every frame of a capture through the tc program and reads the maps.

    Raises:
        CaptureError, PrivilegeError, KernelLacksError: see ``Session``.
        NetmonError: the kernel counted other than what it was given (never seen; checked every time).
    """
    session = Session(path, cache, decapsulate=decapsulate, ip_lengths=True)
    try:
        return _collect(session)
    finally:
        session.close()


def _short_ip(ethertype: bytes, length: int) -> str | None:
    """The kernel's test run refuses an IP frame without a whole IP header; the program would give this reason."""
    if ethertype == b"\x08\x00" and length < ETHERNET_BYTES + 20:
        return Reason.SHORT_IPV4.name.lower()
    if ethertype == b"\x86\xdd" and length < ETHERNET_BYTES + 40:
        return Reason.SHORT_IPV6.name.lower()
    return None


def _collect(session: Session) -> Replay:
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
    return Replay(session.read, counted, dict(sorted(unparsed.items())), flows, without_flow, session.faults)


def default_cache() -> Path:
    """Where replay keeps compiled images when nothing is configured."""
    return Path(os.environ.get("OTEL_NETMON_IMAGES_DIRECTORY") or "/var/cache/otel-netmon")
