"""The tc programs with their message maps: frames in, records out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_netmon.abi.enums import Direction, MessageCount, PortProtocol
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from otel_netmon.readers.messages import MessageCounts, Messages, OpenQueryReader, parse_messages
from otel_netmon.readers.ring import RingReader
from support import frames as f
from support.programs import Programs, set_context

RECORD_KINDS = (
    MessageCount.DNS_ANSWERS,
    MessageCount.DNS_RESPONSES,
    MessageCount.DNS_SEGMENTS,
    MessageCount.MDNS,
    MessageCount.LLMNR,
)
CLIENT_PORT = 40000


class MessagePrograms(Programs):
    """tc_monitor that looks into DNS ports; a replay unless told otherwise, so that a frame's time is the test's.

    Args:
        ports: as ``set_message_ports`` takes them.
        replay, decapsulate, streams, handshake_bytes, http: the late constants.
        sizes: of maps by name.
    """

    def __init__(
        self,
        *,
        ports: Mapping[int, PortProtocol] = DNS_PORTS,
        replay: int = 1,
        decapsulate: int = 0,
        streams: int = 0,
        handshake_bytes: int = 1 << 14,
        http: int = 0,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        chosen = {"flow_table": 4096, "dns_cache": 1024, "messages": 1 << 18, **(sizes or {})}
        super().__init__("tc_monitor", sizes=chosen)
        self.is_replay = bool(replay)
        self._late = {"replay": replay, "decapsulate": decapsulate, "streams": streams, "http": http}
        self.program("netmon_dns", replay=replay)
        if streams:
            self.program("netmon_stream", replay=replay, handshake_bytes=handshake_bytes, http=http)
        if http:
            self.program("netmon_http", http=http)
            self.program("netmon_http2")
        set_message_ports(self.loaded, ports)
        self.ring = RingReader(self.loaded.maps["messages"], chosen["messages"])
        self.open_queries = OpenQueryReader(self.loaded.maps["dns_cache"], chosen["dns_cache"])
        self._counts = MessageCounts(self.loaded.maps["message_counts"], syscalls.possible_cpus())

    def run(
        self,
        frame: bytes,
        time_ns: int = 1,
        direction: Direction = Direction.RECEIVE,
        *,
        ifindex: int = 1,
        ingress_ifindex: int = 0,
        length: int | None = None,
    ) -> None:
        """Runs one frame; length is that on the wire."""
        run = self.runner(("netmon_receive", "netmon_transmit")[direction], **self._late)
        set_context(run, ingress_ifindex=ingress_ifindex, ifindex=ifindex)
        assert run.run(frame, (len(frame) if length is None else length, 1, 0, 0, 0), time_ns) == 0xFFFFFFFF

    def records(self) -> Messages:
        """What the ring held."""
        return parse_messages(self.ring.drain())

    def kinds(self) -> list[int]:
        """The kinds of the records that the ring held."""
        kinds: list[int] = self.records().heads["kind"].tolist()
        return kinds

    def counts(self) -> dict[MessageCount, int]:
        """message_counts without what is 0."""
        return {what: count for what, count in self._counts.read().items() if count}

    def close(self) -> None:
        self.ring.close()
        self.loaded.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def query_frame(message: bytes, port: int = CLIENT_PORT, server_port: int = 53, **ends: Any) -> bytes:
    """A message from the client in UDP over IPv4."""
    return f.ethernet(f.ipv4(f.udp(message, port, server_port), f.UDP, **ends))


def answer_frame(
    message: bytes, port: int = CLIENT_PORT, server_port: int = 53, source: str = f.B4, destination: str = f.A4
) -> bytes:
    """A message to the client in UDP over IPv4."""
    return f.ethernet(f.ipv4(f.udp(message, server_port, port), f.UDP, source, destination))
