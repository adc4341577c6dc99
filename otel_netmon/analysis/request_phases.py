"""Where the time of a request went, as whoever waits for it sees that: name, connect, handshake of TLS, the request itself."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import UNKNOWN
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.recent_lookups import NEXT_NS

_PORTS = 1 << 16
_FIRST_STREAMS = (0, 1, 3)
"""Of HTTP/1, of HTTP/2, and of clients that keep the stream 1 for an upgrade (RFC 9113, section 5.1.1)."""


class Phase(enum.IntEnum):
    """Parts of the time, none of which overlaps another."""

    DNS = 0
    CONNECT = 1
    TLS = 2
    SENDING = 3
    WAITING = 4
    RECEIVING = 5


class RequestTimes(NamedTuple):
    """Times of n requests, columns of length n, int64, CLOCK_MONOTONIC.

    Attributes:
        begun_ns: the first octet of the request.
        earlier_ns: when the last request before it began that may have been of the same connection, 0 where none is known.
        sending_ns: how long the request took to its last octet.
        waiting_ns: from there to the first octet of the response, or until the outcome was there.
        receiving_ns: from there to its last octet, UNKNOWN without a response.
    """

    begun_ns: npt.NDArray[np.int64]
    earlier_ns: npt.NDArray[np.int64]
    sending_ns: npt.NDArray[np.int64]
    waiting_ns: npt.NDArray[np.int64]
    receiving_ns: npt.NDArray[np.int64]

    def behind(self, earlier_ns: npt.NDArray[np.int64]) -> RequestTimes:
        """The same behind requests that began at these times, see ``EarlierRequests``."""
        return self._replace(earlier_ns=np.maximum(self.earlier_ns, earlier_ns))


class Waited(NamedTuple):
    """What n requests had to wait for before they began, as far as it is known of their connections; columns of length n.

    Attributes:
        begin_ns: when the connection began, 0 where that is not known.
        established_ns: when its handshake was over, 0 where that was not seen.
        dns_ns, connect_ns, tls_ns: how long each took, UNKNOWN where it was not seen.
        tls_end_ns: when the handshake of TLS was over.
    """

    begin_ns: npt.NDArray[np.int64]
    established_ns: npt.NDArray[np.int64]
    dns_ns: npt.NDArray[np.int64]
    connect_ns: npt.NDArray[np.int64]
    tls_ns: npt.NDArray[np.int64]
    tls_end_ns: npt.NDArray[np.int64]


def times_of(requests: Sequence[HttpRequest]) -> RequestTimes:
    """Gives the times of requests; what was before them is told by their streams alone."""
    begun_ns = np.array([each.request_first_ns for each in requests], np.int64)
    may_be_first = np.array([each.stream in _FIRST_STREAMS for each in requests], np.bool_)
    sent_ns = np.array([max(each.request_first_ns, each.request_last_ns) for each in requests], np.int64)
    over_ns = begun_ns + np.array([each.lasted_ns for each in requests], np.int64)
    sent_ns = np.minimum(sent_ns, over_ns)
    answered = np.array([each.response_first_ns is not None for each in requests], np.bool_)
    first_ns = np.array([each.response_first_ns or 0 for each in requests], np.int64)
    first_ns = np.where(answered, np.clip(first_ns, sent_ns, over_ns), over_ns)
    return RequestTimes(
        begun_ns,
        np.where(may_be_first, 0, begun_ns),
        sent_ns - begun_ns,
        first_ns - sent_ns,
        np.where(answered, over_ns - first_ns, UNKNOWN),
    )


def phases(requests: RequestTimes, waited: Waited) -> npt.NDArray[np.int64]:
    """Gives how long each phase of each request took, shape (len(Phase), n), UNKNOWN where it was not seen.

    What was before the request belongs to it where it is the first of its connection and began at once: nobody waited
    for a connection that was made in advance.
    """
    made = np.full((len(Phase), len(requests.begun_ns)), UNKNOWN, np.int64)
    made[Phase.SENDING], made[Phase.WAITING] = requests.sending_ns, requests.waiting_ns
    made[Phase.RECEIVING] = requests.receiving_ns
    is_first = (waited.begin_ns > 0) & (requests.earlier_ns < waited.begin_ns)
    with_tls = is_first & (waited.tls_ns != UNKNOWN) & (requests.begun_ns - waited.tls_end_ns <= NEXT_NS)
    made[Phase.TLS][with_tls] = waited.tls_ns[with_tls]
    next_ns = np.where(with_tls, waited.tls_end_ns - waited.tls_ns, requests.begun_ns)
    connected = is_first & (waited.connect_ns != UNKNOWN) & (next_ns - waited.established_ns <= NEXT_NS)
    made[Phase.CONNECT][connected] = waited.connect_ns[connected]
    named = connected & (waited.dns_ns != UNKNOWN)
    made[Phase.DNS][named] = waited.dns_ns[named]
    return made


class EarlierRequests:
    """When the last request began, by the port of its client: bounded, and exact but where two clients share a port.

    Then a request may seem not to be the first of its connection.
    """

    def __init__(self) -> None:
        self._last_ns = np.zeros(_PORTS, np.int64)

    def before(self, ports: npt.NDArray[np.uint16], begun_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Takes requests in the order in which they were told; gives when the one before each began, 0 without one."""
        if not len(ports):
            return np.zeros(0, np.int64)
        order = np.argsort(ports, kind="stable")
        sorted_ports = ports[order]
        is_new = np.concatenate([[True], sorted_ports[1:] != sorted_ports[:-1]])
        begun = begun_ns[order]
        earlier = np.empty(len(ports), np.int64)
        earlier[1:] = begun[:-1]
        earlier[is_new] = self._last_ns[sorted_ports[is_new]]
        is_last = np.concatenate([is_new[1:], [True]])
        self._last_ns[sorted_ports[is_last]] = begun[is_last]
        found = np.empty_like(earlier)
        found[order] = earlier
        return found
