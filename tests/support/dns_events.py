"""What the kernel tells of DNS, as readers give it: records of the ring, and open queries."""

from __future__ import annotations

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, MessageKind, TcpFlags
from otel_netmon.readers.messages import Messages, OpenQueries
from support import dns_messages as d
from support.rows import address

MS = 1_000_000
SECOND = 1_000_000_000
CLIENT, SERVER = "192.0.2.10", "203.0.113.53"
PORT = 40000
ETH0, VETH = 2, 7


def end(text: str, port: int) -> bytes:
    """Address and port as the analysis has them."""
    return address(text) + port.to_bytes(2, "big")


def record(payload: bytes, kind: MessageKind, **fields: int | str) -> bytes:
    """A record of the ring; from server to client at eth0, received, unless the fields say otherwise."""
    head = np.zeros((), layout.MESSAGE)
    source, destination = str(fields.pop("source", SERVER)), str(fields.pop("destination", CLIENT))
    head["source"], head["destination"] = (np.frombuffer(address(each), "u1") for each in (source, destination))
    head["source_port"], head["destination_port"] = 53, PORT
    head["protocol"], head["kind"], head["ifindex"], head["direction"] = 17, kind, ETH0, Direction.RECEIVE
    head["payload_length"] = head["captured_length"] = len(payload)
    for name, value in fields.items():
        head[name] = value
    return head.tobytes() + payload


def answer(payload: bytes, first_ns: int, time_ns: int, **fields: int | str) -> bytes:
    """A response over UDP with the query that the kernel found for it."""
    made = {"request_time_ns": first_ns, "first_request_time_ns": first_ns, "time_ns": time_ns, **fields}
    return record(payload, MessageKind.DNS_ANSWER, **made)


def response(payload: bytes, time_ns: int, **fields: int | str) -> bytes:
    """A response over UDP without one."""
    return record(payload, MessageKind.DNS_RESPONSE, time_ns=time_ns, **fields)


class TcpConnection:
    """Segments of one connection, in order."""

    def __init__(self, port: int = PORT, **fields: int | str) -> None:
        self._ports = {True: (port, 53), False: (53, port)}
        self._next = {True: 0xFFFFFFF0, False: 7}
        self._fields = fields

    def client(self, data: bytes, time_ns: int, **fields: int | str) -> bytes:
        return self._segment(True, data, time_ns, fields)

    def server(self, data: bytes, time_ns: int, **fields: int | str) -> bytes:
        return self._segment(False, data, time_ns, fields)

    def _segment(self, from_client: bool, data: bytes, time_ns: int, fields: dict[str, int | str]) -> bytes:
        source, destination = self._ports[from_client]
        sequence = self._next[from_client]
        self._next[from_client] = (sequence + len(data)) & 0xFFFFFFFF
        made: dict[str, int | str] = {
            "source": CLIENT if from_client else SERVER,
            "destination": SERVER if from_client else CLIENT,
            "source_port": source,
            "destination_port": destination,
            "direction": Direction.TRANSMIT if from_client else Direction.RECEIVE,
            "protocol": 6,
            "sequence": sequence,
            "tcp_flags": TcpFlags.ACK,
            "time_ns": time_ns,
        }
        return record(data, MessageKind.DNS_SEGMENT, **(made | self._fields | fields))


def prefixed(message: bytes) -> bytes:
    """A message as it is in a stream."""
    return len(message).to_bytes(2, "big") + message


def messages(*records: bytes) -> Messages:
    """Records as the reader gives them: behind each other, with the space that the ring leaves between them."""
    data = bytearray()
    starts, heads = [], []
    for each in records:
        data += bytes(8)
        starts.append(len(data) + layout.MESSAGE.itemsize)
        heads.append(np.frombuffer(each[: layout.MESSAGE.itemsize], layout.MESSAGE))
        data += each + bytes(-len(each) % 8)
    return Messages(
        np.concatenate(heads) if heads else np.empty(0, layout.MESSAGE), bytes(data), np.array(starts, np.int64)
    )


def open_queries(*rows: tuple[np.void, np.void]) -> OpenQueries:
    """Rows of ``open_query``."""
    return OpenQueries(
        np.array([key for key, _ in rows], layout.QUERY_KEY), np.array([query for _, query in rows], layout.QUERY)
    )


def open_query(identifier: int, name: str, first_ns: int, kind: int = d.A, **fields: int) -> tuple[np.void, np.void]:
    """An open query of the client at eth0, transmitted, unless the fields say otherwise."""
    key, query = np.zeros(1, layout.QUERY_KEY)[0], np.zeros(1, layout.QUERY)[0]
    key["client"], key["server"] = (np.frombuffer(address(each), "u1") for each in (CLIENT, SERVER))
    key["client_port"], key["server_port"], key["id"] = PORT, 53, identifier
    key["ifindex"], key["direction"] = ETH0, Direction.TRANSMIT
    octets = d.question(name, kind)
    query["first_ns"] = query["last_ns"] = first_ns
    query["header_flags"], query["question_length"] = d.QUERY_FLAGS, len(octets)
    query["question"][: len(octets)] = np.frombuffer(octets, "u1")
    for field, value in fields.items():
        (key if field in key.dtype.names else query)[field] = value
    return key, query
