"""Captures of DNS as resolvers and clients make it, with what is in them known beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from struct import pack
from typing import Any, NamedTuple

from support import dns_messages as dns, frames as f
from support.capture_files import NANOSECONDS, pcap_header, pcap_record

START = 1_700_000_000
SECOND = 1_000_000_000
CLIENT, SERVER = f.A4, f.B4
CLIENT6, SERVER6 = f.A6, f.B6


class Packet(NamedTuple):
    """A frame and its time in ns since the beginning of the capture."""

    time_ns: int
    frame: bytes


def write(path: Path, packets: Iterable[Packet]) -> str:
    """Writes a pcap with nanoseconds; gives its path."""
    with path.open("wb") as file:
        file.write(pcap_header(magic=NANOSECONDS, snapshot=1 << 18))
        for time_ns, frame in packets:
            file.write(pcap_record(frame, START + time_ns // SECOND, time_ns % SECOND))
    return str(path)


def udp(message: bytes, *, back: bool = False, port: int = 40000, server_port: int = 53, six: bool = False) -> bytes:
    """A message in an Ethernet frame, from the client or back to it."""
    ports = (server_port, port) if back else (port, server_port)
    client, server = (CLIENT6, SERVER6) if six else (CLIENT, SERVER)
    ends = (server, client) if back else (client, server)
    if six:
        return f.ethernet(f.ipv6(f.udp(message, *ports), f.UDP, *ends), f.IPV6)
    return f.ethernet(f.ipv4(f.udp(message, *ports), f.UDP, *ends))


def tcp(payload: bytes, sequence: int, *, back: bool = False, port: int = 40001, flags: int = f.ACK) -> bytes:
    """A segment of a connection to port 53."""
    ports = (53, port) if back else (port, 53)
    ends = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    segment = f.tcp(payload, *ports, sequence=sequence, flags=flags)
    total = 20 + len(segment)
    return f.ethernet(f.ipv4(segment, f.TCP, *ends, total=total if total < 65536 else 0))


def framed(message: bytes) -> bytes:
    """A message behind its length, as over TCP."""
    return pack(">H", len(message)) + message


def expected(identifier: int, name: str, **fields: Any) -> dict[str, Any]:
    """An entry of replay's list: an answered lookup over UDP unless told otherwise."""
    return {
        "client": CLIENT,
        "client_port": 40000,
        "server": SERVER,
        "server_port": 53,
        "transport": "udp",
        "id": identifier,
        "qname": name,
        "qtype": "A",
        "rcode": "NOERROR",
        "answers": 1,
        "duration_ms": 1.0,
        "retries": 0,
        "outcome": "answered",
        **fields,
    }


TIMEOUT = {"rcode": None, "answers": 0, "duration_ms": None, "outcome": "timeout"}
UNMATCHED = {"duration_ms": None, "outcome": "unmatched_response"}


def answer(identifier: int, name: str, *addresses: str, kind: int = dns.A, rcode: int = 0) -> bytes:
    """A response with these addresses."""
    return dns.response(identifier, name, *[dns.address(each) for each in addresses], kind=kind, rcode=rcode)
