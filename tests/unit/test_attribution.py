"""Whose spans are, from which side they are told, and what took the time of requests: by the connections that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.abi.enums import Role
from otel_netmon.analysis.connection_index import TCP, UNKNOWN, ConnectionIndex, ends_between, turned
from otel_netmon.analysis.recent_handshakes import RecentHandshakes
from otel_netmon.analysis.recent_lookups import Numbers
from otel_netmon.analysis.request_phases import RequestTimes
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.spans import Description, Sought, SpanBatch, SpanKind, StatusCode
from otel_netmon.sources.attribution import Attribution
from support.connection_rows import MS, SECOND, adopted, connection, datagrams, joined
from support.rows import address
from support.tls_handshakes import handshake

CLIENT, SERVER = "192.0.2.7", "192.0.2.8"
TIME = 1000 * SECOND


def end(octets: bytes, port: int) -> bytes:
    return octets + port.to_bytes(2, "big")


def batch(kinds: list[SpanKind], ports: list[int], **sought: Any) -> Sought:
    """Spans of connections from CLIENT, a port each, to port 443 of SERVER."""
    number = len(kinds)
    identifiers = np.arange(number * 16, dtype=np.uint8).reshape(number, 16)
    times = np.full(number, TIME, np.int64)
    ends = ends_between([end(address(CLIENT), port) for port in ports], [end(address(SERVER), 443)] * number, TCP)
    made = SpanBatch(
        names=["name"] * number,
        kinds=np.array(kinds, np.uint8),
        trace_ids=identifiers,
        span_ids=identifiers[:, :8],
        parent_span_ids=np.zeros((number, 8), np.uint8),
        flags=np.zeros(number, np.uint32),
        start_time_unix_nano=times.astype(np.uint64),
        end_time_unix_nano=times.astype(np.uint64),
        attributes=[encode({"own": port}, Tag.SPAN) for port in ports],
        statuses=np.zeros(number, np.uint8),
        messages=[""] * number,
    )
    return Sought(made, ends, times, **sought)


class Known:
    """Connections by the port of the client of which one end is local, or both; a process is its own port."""

    def __init__(self, clients: tuple[int, ...] = (), servers: tuple[int, ...] = (), **fields: Any) -> None:
        made = {"begin_ns": TIME - 50 * MS, "handshake_ns": 20 * MS, **fields}
        rows = [connection(CLIENT, SERVER, ports=(port, 443), **made) for port in clients]
        rows += [connection(SERVER, CLIENT, ports=(443, port), role=Role.SERVER, **made) for port in servers]
        self.index = ConnectionIndex()
        self.read(joined(*rows), [*clients, *[1000 + port for port in servers]])

    def read(self, rows: npt.NDArray[Any], numbers: list[int]) -> None:
        self.index.read(rows, np.array(numbers, np.uint64), datagrams()[:0], np.zeros(0, np.uint64), TIME + SECOND)

    def told(self, *sought: Sought, lookups: Any = None, handshakes: Any = None) -> list[SpanBatch]:
        resource = lambda number: b"%d" % number if number else b""  # noqa: E731
        return Attribution(self.index, resource, lookups, handshakes).told(sought)


def attributes(told: SpanBatch, at: int = 0) -> dict[str, Value]:
    return dict(AttributeSet(told.attributes[at]).items())


# ---------------------------------------------------------------------------------------------------------------- whose
def test_each_kind_asks_for_its_own_end() -> None:
    known = Known(clients=(5, 7), servers=(5, 11))
    made = known.told(batch([SpanKind.CLIENT, SpanKind.SERVER], [5, 5]), batch([SpanKind.SERVER], [7]))
    assert [list(each.resources) for each in made] == [[b"5", b"1005"], [b""]]
    assert [each.kinds.tolist() for each in made] == [[SpanKind.CLIENT, SpanKind.SERVER], [SpanKind.SERVER]]


def test_what_either_side_may_tell_is_told_from_the_one_that_is_known() -> None:
    known = Known(clients=(5,), servers=(5, 7))
    plain = batch([SpanKind.CLIENT], [7])
    either = batch([SpanKind.CLIENT] * 3, [5, 7, 11], either_side=True)
    made = known.told(plain, either)
    assert [list(each.resources) for each in made] == [[b""], [b"5", b"1007", b""]]
    assert made[0].kinds.tolist() == [SpanKind.CLIENT]
    assert made[1].kinds.tolist() == [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.CLIENT]
    assert either.batch.kinds.tolist() == [SpanKind.CLIENT] * 3


def test_a_socket_without_a_process_tells_the_side_too() -> None:
    known = Known()
    known.read(connection(CLIENT, SERVER, ports=(5, 443), begin_ns=TIME), [0])
    (made,) = known.told(batch([SpanKind.SERVER], [5], either_side=True))
    assert made.kinds.tolist() == [SpanKind.CLIENT]
    assert list(made.resources) == [b""]


def test_what_is_told_from_the_other_side_is_described_anew() -> None:
    """Of a 404: an error of the client alone."""

    def describe(at: int, of_server: bool) -> Description:
        return Description(f"{at} {of_server}", encode({"at": at}, Tag.SPAN), "" if of_server else "404")

    kinds = [SpanKind.SERVER, SpanKind.SERVER, SpanKind.CLIENT]
    (made,) = Known(clients=(5,), servers=(7, 11)).told(batch(kinds, [5, 7, 11], either_side=True, describe=describe))
    assert made.kinds.tolist() == [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.SERVER]
    assert made.names == ["0 False", "name", "2 True"]
    assert [attributes(made, at) for at in range(3)] == [{"at": 0}, {"own": 7}, {"at": 2}]
    assert made.statuses.tolist() == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]
    assert made.messages == ["404", "", ""]
    assert list(made.resources) == [b"5", b"1007", b"1011"]


def test_where_both_ends_are_known_the_side_stays() -> None:
    """A connection over the loopback: what its interface told."""
    known = Known(clients=(5,), servers=(5,))
    for kind, resource in ((SpanKind.CLIENT, b"5"), (SpanKind.SERVER, b"1005")):
        (made,) = known.told(batch([kind], [5], either_side=True))
        assert (made.kinds.tolist(), list(made.resources)) == ([kind], [resource])


def test_ends_that_nobody_knows() -> None:
    """Of a session of TLS whose connection was not found."""
    nowhere = ends_between([bytes(18)], [bytes(18)], TCP)
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        sought = batch([kind], [5], either_side=True, requests=requests())._replace(ends=nowhere)
        (made,) = Known(clients=(5,), servers=(5,)).told(sought, lookups=Lookups())
        assert (made.kinds.tolist(), list(made.resources)) == ([kind], [b""])
        assert "netmon.http.retransmits" not in attributes(made)


def test_nothing_asks_for_nothing() -> None:
    assert Known().told() == []


def test_ends_turned_twice_are_the_same() -> None:
    ends = ends_between([end(address(CLIENT), 5)], [end(address(SERVER), 443)], TCP)
    assert int(turned(ends)["local_port"][0]) == 443
    assert (turned(turned(ends)) == ends).all()


# ------------------------------------------------------------------------------------------------- where the time went
def column(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def requests(number: int = 1, **fields: Any) -> RequestTimes:
    made = RequestTimes(
        begun_ns=np.full(number, TIME),
        earlier_ns=np.zeros(number, np.int64),
        sending_ns=np.full(number, 1 * MS),
        waiting_ns=np.full(number, 7 * MS),
        receiving_ns=np.full(number, 2 * MS),
    )
    return made._replace(**fields)


class Lookups:
    """A lookup of 31 ms before every connection; notes what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def waited(
        self,
        addresses: npt.NDArray[np.uint8],
        begin_ns: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint64],
        numbers_of: Numbers,
    ) -> npt.NDArray[np.int64]:
        for octets, begin, number in zip(addresses, begin_ns.tolist(), numbers.tolist(), strict=True):
            self.asked.append((octets.tobytes().hex()[-8:], begin - TIME, number))
        if self.asked:
            asked = ends_between([end(address(CLIENT), 5)] * 2, [end(address(SERVER), 443)] * 2, TCP)
            assert numbers_of(asked, column(TIME, 0)).tolist() == [5, 0]
        return np.full(len(addresses), 31 * MS)


OWN: dict[str, Value] = {
    "netmon.http.time.sending": 0.001,
    "netmon.http.time.waiting": 0.007,
    "netmon.http.time.receiving": 0.002,
}


def test_the_first_request_of_a_connection_waited_for_it_and_for_the_name() -> None:
    lookups = Lookups()
    (made,) = Known(clients=(5,), out_of_order=13).told(
        batch([SpanKind.CLIENT], [5], requests=requests()), lookups=lookups
    )
    assert attributes(made) == {
        "own": 5,
        "netmon.http.time.dns": 0.031,
        "netmon.http.time.connect": 0.02,
        **OWN,
        "netmon.http.time.total": 0.061,
        "netmon.http.time.longest": "dns",
        "netmon.http.retransmits": 0,
        "netmon.http.out_of_order": 13,
    }
    assert lookups.asked == [("c0000208", -50 * MS, 5)]


@pytest.mark.parametrize(
    ("known", "changed"),
    [
        (Known(clients=(5,)), requests(earlier_ns=column(TIME - 50 * MS))),
        (Known(clients=(5,), begin_ns=TIME - SECOND - 20 * MS - 1), requests()),
    ],
    ids=["not the first", "of a connection that was made in advance"],
)
def test_a_request_that_did_not_wait_for_its_connection(known: Known, changed: RequestTimes) -> None:
    (made,) = known.told(batch([SpanKind.CLIENT], [5], requests=changed), lookups=Lookups())
    assert {key: value for key, value in attributes(made).items() if "time" in key} == {
        **OWN,
        "netmon.http.time.total": 0.01,
        "netmon.http.time.longest": "waiting",
    }
    assert attributes(made)["netmon.http.retransmits"] == 0


def test_a_request_of_a_connection_that_was_open_before_the_agent() -> None:
    known = Known()
    known.read(adopted(local=CLIENT, remote=SERVER, ports=(5, 443), begin_ns=TIME - 50 * MS), [5])
    lookups = Lookups()
    (made,) = known.told(batch([SpanKind.CLIENT], [5], requests=requests()), lookups=lookups)
    assert "netmon.http.time.connect" not in attributes(made)
    assert lookups.asked == []


def test_the_server_knows_the_handshake_and_no_lookup() -> None:
    lookups = Lookups()
    (made,) = Known(servers=(5,)).told(batch([SpanKind.SERVER], [5], requests=requests()), lookups=lookups)
    assert attributes(made)["netmon.http.time.connect"] == 0.02
    assert attributes(made)["netmon.http.time.longest"] == "connect"
    assert "netmon.http.time.dns" not in attributes(made)
    assert lookups.asked == []


def test_the_handshake_of_tls_of_the_connection() -> None:
    recent = RecentHandshakes()
    made = handshake()
    ends = made.connection._replace(client=end(address(CLIENT), 5), server=end(address(SERVER), 443))
    recent.take([made._replace(connection=ends, start_ns=TIME - 29 * MS, finished_ns=TIME - 2 * MS)])
    for kind, known in ((SpanKind.CLIENT, Known(clients=(5,))), (SpanKind.SERVER, Known(servers=(5,)))):
        (told,) = known.told(batch([kind], [5], requests=requests()), handshakes=recent)
        found = attributes(told)
        assert (found["netmon.http.time.tls"], found["netmon.http.time.connect"]) == (0.027, 0.02)
        assert (found["netmon.http.time.total"], found["netmon.http.time.longest"]) == (0.057, "tls")
        (told,) = known.told(batch([kind], [5], requests=requests(earlier_ns=column(TIME - 1))), handshakes=recent)
        assert "netmon.http.time.tls" not in attributes(told)


def test_what_the_client_waited_for_is_on_a_span_that_is_told_from_its_side() -> None:
    known = Known(clients=(5,))
    sought = batch([SpanKind.SERVER], [5], requests=requests(), either_side=True)
    (made,) = known.told(sought, lookups=Lookups())
    assert made.kinds.tolist() == [SpanKind.CLIENT]
    assert attributes(made)["netmon.http.time.dns"] == 0.031


def test_a_request_without_a_response_and_without_a_connection() -> None:
    sought = batch(
        [SpanKind.CLIENT], [5], requests=requests(receiving_ns=column(UNKNOWN), waiting_ns=column(3 * SECOND))
    )
    expected: dict[str, Value] = {
        "own": 5,
        "netmon.http.time.sending": 0.001,
        "netmon.http.time.waiting": 3.0,
        "netmon.http.time.total": 3.001,
        "netmon.http.time.longest": "waiting",
    }
    (made,) = Known().told(sought, lookups=Lookups())
    assert attributes(made) == expected
    (made,) = Attribution(None, lambda _: b"").told([sought])
    assert attributes(made) == expected
    assert list(made.resources) == []


def test_spans_of_several_probes_keep_their_places() -> None:
    known = Known(clients=(5, 7), servers=(11,))
    made = known.told(
        batch([SpanKind.CLIENT], [11]),
        batch([SpanKind.CLIENT, SpanKind.SERVER], [5, 11], requests=requests(2, sending_ns=column(1 * MS, 90 * MS))),
        batch([SpanKind.CLIENT] * 2, [7, 5]),
    )
    assert [list(each.resources) for each in made] == [[b""], [b"5", b"1011"], [b"7", b"5"]]
    assert [attributes(made[1], at)["netmon.http.time.longest"] for at in (0, 1)] == ["connect", "sending"]
    assert [attributes(made[2], at) for at in (0, 1)] == [{"own": 7}, {"own": 5}]
