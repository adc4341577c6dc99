"""Requests that are over, as columns: what metrics and the keep rule need of all of them; one becomes whole where it is kept.

They come from two sides: out of records of the ring in which the kernel tells a request of HTTP/1 with its response, and as
``HttpRequest`` from connections that had to be followed octet by octet, those of HTTP/2 among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import HttpFlags, TcpFlags
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.http1_exchange import unknown_fields
from otel_netmon.analysis.http_alike import AlikeRequests
from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.http_trace_parents import TraceParents, parents_of_heads, parents_of_requests
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.decode.http1_heads import read_request
from otel_netmon.readers.messages import HttpMessages

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ANSWERED, NO_RESPONSE, RESET, TIMEOUT, INCOMPLETE = range(len(OUTCOMES))
UNKNOWN = -1
"""A size or a time that nobody knows."""

# Integers: each operation of an enumeration costs as much as one with a column.
_OVER = int(HttpFlags.COMPLETE | HttpFlags.HANDED_OVER)
_RESETS = int(HttpFlags.CLIENT_RESET | HttpFlags.SERVER_RESET)
_RESPONSE_OPEN, _CLOSED, _QUIET = int(HttpFlags.RESPONSE_OPEN), int(HttpFlags.CLOSED), int(HttpFlags.QUIET)
_WHOLE = int(HttpFlags.WHOLE)


@dataclass(frozen=True, slots=True, eq=False)
class HttpColumns:
    """n requests.

    Attributes:
        places: intp, among the sights of an ``AlikeRequests``.
        client_ports: uint16.
        begun_ns: int64, the first octet of the request.
        status: uint16, 0 without one.
        outcome: uint8, a place in OUTCOMES.
        lasted_ns: int64, as ``HttpRequest.lasted_ns``.
        first_byte_ns, request_body, response_body: int64, UNKNOWN where that is not known.
        servers: uint8, shape (n, 18): address and port in network order, all 0 where they are not known.
        secure: bool, through TLS.
        parents: what their traceparent says.
        whole: gives those at some places, intp, whole.
    """

    places: npt.NDArray[np.intp]
    client_ports: npt.NDArray[np.uint16]
    begun_ns: npt.NDArray[np.int64]
    status: npt.NDArray[np.uint16]
    outcome: npt.NDArray[np.uint8]
    lasted_ns: npt.NDArray[np.int64]
    first_byte_ns: npt.NDArray[np.int64]
    request_body: npt.NDArray[np.int64]
    response_body: npt.NDArray[np.int64]
    servers: npt.NDArray[np.uint8]
    secure: npt.NDArray[np.bool_]
    parents: TraceParents
    whole: Callable[[npt.NDArray[np.intp]], list[HttpRequest]]

    def __len__(self) -> int:
        return len(self.places)

    def where(self, chosen: npt.NDArray[np.bool_]) -> HttpColumns:
        """Those that are chosen, shape (n,)."""
        if chosen.all():
            return self
        which = np.flatnonzero(chosen)
        return HttpColumns(
            self.places[which],
            self.client_ports[which],
            self.begun_ns[which],
            self.status[which],
            self.outcome[which],
            self.lasted_ns[which],
            self.first_byte_ns[which],
            self.request_body[which],
            self.response_body[which],
            self.servers[which],
            self.secure[which],
            self.parents.where(which),
            lambda places: self.whole(which[places]),
        )


class HttpRecords:
    """Records of kind HTTP.

    Attributes:
        heads: layout.MESSAGE, of the client's direction; http: layout.HTTP.

    Args:
        is_secure: they went through TLS.
    """

    def __init__(self, messages: HttpMessages, *, is_secure: bool = False) -> None:
        self._is_secure = is_secure
        self.heads, self.http = messages.heads, messages.http
        self._data, self._starts = messages.data, messages.starts
        self._ends = messages.starts + messages.lengths
        self._outcomes = _outcomes(messages.http)
        answered = self._outcomes == ANSWERED
        self._bodies = [_body(messages.http, side, answered) for side in ("request", "response")]

    def columns(self, alike: AlikeRequests) -> HttpColumns:
        """Gives the columns of all."""
        heads, http, outcome = self.heads, self.http, self._outcomes
        answered = outcome == ANSWERED
        begun = http["request_first_ns"].astype(np.int64)
        end = np.where(answered, http["response_last_ns"], heads["time_ns"]).astype(np.int64)
        waited = http["response_first_ns"].astype(np.int64) - http["request_last_ns"].astype(np.int64)
        places, marked = alike.of_heads(self._data, self._starts, self._ends)
        return HttpColumns(
            places=places,
            client_ports=heads["source_port"].astype(np.uint16),
            begun_ns=begun,
            status=http["status"].astype(np.uint16),
            outcome=outcome,
            lasted_ns=np.maximum(end - begun, 0),
            first_byte_ns=np.where(http["response_first_ns"] > 0, np.maximum(waited, 0), UNKNOWN),
            request_body=self._bodies[0],
            response_body=self._bodies[1],
            servers=_ends(heads["destination"], heads["destination_port"]),
            secure=np.full(len(heads), self._is_secure),
            parents=parents_of_heads(self._data, self._starts, self._ends, marked),
            whole=self._whole,
        )

    @staticmethod
    def begun(messages: HttpMessages) -> list[tuple[Seen, Segment]]:
        """Gives the requests that had begun on connections that are handed over whole, as what comes before all else."""
        found = []
        for at in np.flatnonzero(messages.http["flags"] & _WHOLE).tolist():
            head, http = messages.heads[at], messages.http[at]
            seen = Seen(
                int(head["namespace"]),
                int(head["ifindex"]),
                int(head["direction"]),
                int(head["ingress_ifindex"]),
                int(head["cgroup"]),
                _end(head, "source"),
                _end(head, "destination"),
            )
            octets = messages.head(at)
            segment = Segment(
                int(http["request_first_ns"]),
                int(head["sequence"]),
                int(head["acknowledgment"]),
                TcpFlags.ACK,
                max(int(http["request_octets"]), len(octets)),
                octets,
            )
            found.append((seen, segment))
        return found

    def _whole(self, places: npt.NDArray[np.intp]) -> list[HttpRequest]:
        seen, http = self.heads[places], self.http[places]
        connections = [
            ConnectionInfo(
                namespace,
                ifindex,
                client.tobytes(),
                server.tobytes(),
                roles_known=True,
                begun=False,
                start_ns=begun_ns,
                direction=direction,
                ingress_ifindex=ingress,
                cgroup=cgroup,
            )
            for client, server, begun_ns, direction, ingress, cgroup, namespace, ifindex in zip(
                _ends(seen["source"], seen["source_port"]),
                _ends(seen["destination"], seen["destination_port"]),
                http["request_first_ns"].tolist(),
                *[seen[name].tolist() for name in ("direction", "ingress_ifindex", "cgroup", "namespace", "ifindex")],
                strict=True,
            )
        ]
        rows = zip(places.tolist(), http.tolist(), seen["time_ns"].tolist(), connections, strict=True)
        return [self._request(*row) for row in rows]

    def _request(self, at: int, http: tuple[int, ...], told_ns: int, connection: ConnectionInfo) -> HttpRequest:
        """One request; http: the fields of layout.HTTP."""
        asked_ns, asked_last_ns, begun_ns, last_ns, asked_octets, octets, asked_head, own_head, status, *rest = http
        interim, interims, _, _ = rest
        head = read_request(self._data[int(self._starts[at]) : int(self._ends[at])], is_whole=asked_head > 0)
        fields = head.fields if head is not None else None
        return HttpRequest(
            version=head.version if head is not None else "1.1",
            client=connection.client,
            server=connection.server,
            method=head.method if head is not None else None,
            target=head.target if head is not None else None,
            host=fields.host if fields is not None else None,
            status=status or None,
            outcome=OUTCOMES[self._outcomes[at]],
            request_first_ns=asked_ns,
            request_last_ns=asked_last_ns,
            response_first_ns=begun_ns or None,
            response_last_ns=last_ns if begun_ns else None,
            request_body_octets=max(0, asked_octets - asked_head),
            response_body_octets=max(0, octets - own_head),
            interim=(interim,) if interims else (),
            traceparent=fields.traceparent if fields is not None else None,
            tracestate=fields.tracestate if fields is not None else None,
            unknown=self._unknown(at) + (unknown_fields(head) if head is not None else ("method", "target", "host")),
            end_ns=told_ns,
            connection=connection,
            is_secure=self._is_secure,
        )

    def _unknown(self, at: int) -> tuple[str, ...]:
        names = ("request_body_octets", "response_body_octets")
        return tuple([name for name, sizes in zip(names, self._bodies, strict=True) if sizes[at] == UNKNOWN])


def columns_of(requests: Sequence[HttpRequest], alike: AlikeRequests) -> HttpColumns:
    """Gives the columns of requests that are whole."""
    servers = np.frombuffer(b"".join([each.server for each in requests]), np.uint8).reshape(-1, 18)
    return HttpColumns(
        places=np.array([alike.of_request(each) for each in requests], np.intp),
        client_ports=np.array([int.from_bytes(each.client[16:], "big") for each in requests], np.uint16),
        begun_ns=np.array([each.request_first_ns for each in requests], np.int64),
        status=np.array([each.status or 0 for each in requests], np.uint16),
        outcome=np.array([OUTCOMES.index(each.outcome) for each in requests], np.uint8),
        lasted_ns=np.array([each.lasted_ns for each in requests], np.int64),
        first_byte_ns=np.array([_or_unknown(each.first_byte_ns) for each in requests], np.int64),
        request_body=np.array([_size(each, "request_body_octets") for each in requests], np.int64),
        response_body=np.array([_size(each, "response_body_octets") for each in requests], np.int64),
        servers=servers,
        secure=np.array([each.is_secure for each in requests], np.bool_),
        parents=parents_of_requests(requests),
        whole=lambda places: [requests[at] for at in places.tolist()],
    )


def _or_unknown(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _size(request: HttpRequest, name: str) -> int:
    if request.outcome != "answered" or name in request.unknown:
        return UNKNOWN
    return int(getattr(request, name))


def _outcomes(http: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Places in OUTCOMES of records, by how the kernel saw them end."""
    flags, has_status = http["flags"], http["status"] > 0
    quiet = flags & _QUIET > 0
    return np.select(
        [
            flags & _OVER > 0,
            flags & _RESETS > 0,
            has_status & quiet & (flags & _RESPONSE_OPEN > 0),
            has_status,
            flags & _CLOSED > 0,
            quiet,
        ],
        [ANSWERED, RESET, ANSWERED, INCOMPLETE, NO_RESPONSE, TIMEOUT],
        INCOMPLETE,
    ).astype(np.uint8)


def _body(http: npt.NDArray[Any], side: str, answered: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    head, octets = http[f"{side}_head"].astype(np.int64), http[f"{side}_octets"].astype(np.int64)
    return np.where(answered & (head > 0), np.maximum(octets - head, 0), UNKNOWN)


def _end(head: Any, side: str) -> bytes:
    return bytes(head[side].tobytes()) + int(head[f"{side}_port"]).to_bytes(2, "big")


def _ends(addresses: npt.NDArray[Any], ports: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    octets = np.empty((len(ports), 18), np.uint8)
    octets[:, :16] = addresses
    octets[:, 16:] = np.ascontiguousarray(ports).view(np.uint8).reshape(-1, 2)
    return octets
