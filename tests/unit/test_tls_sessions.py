"""Sessions and their connections: records in any order, bounded, and known again by another process."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SESSION_LOCAL, SESSION_REMOTE
from otel_netmon.analysis.http_records import UNPLACED, HttpRequest
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls_sessions import TlsSessions

LOCAL, REMOTE = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]), bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2])


def address(number: int) -> bytes:
    return number.to_bytes(16, "little")


def record(number: int, *, cookie: int = 7, ended: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    head, session = np.zeros(1, layout.MESSAGE), np.zeros(1, layout.SESSION)
    head["source"], head["destination"] = np.frombuffer(LOCAL, "u1"), np.frombuffer(REMOTE, "u1")
    head["source_port"], head["destination_port"], head["cgroup"] = 40000 + number, 443, 11
    session["address"], session["cookie"], session["ended"] = np.frombuffer(address(number), "u1"), cookie, ended
    return head, session


def taken(sessions: TlsSessions, *records: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> list[bytes]:
    if not records:
        return sessions.take(np.zeros(0, layout.MESSAGE), np.zeros(0, layout.SESSION))
    return sessions.take(np.concatenate([each[0] for each in records]), np.concatenate([each[1] for each in records]))


def heads(*from_here: tuple[int, bool]) -> npt.NDArray[Any]:
    made = np.zeros(len(from_here), layout.MESSAGE)
    for head, (number, is_local) in zip(made, from_here, strict=True):
        head["source"] = head["destination"] = np.frombuffer(address(number), "u1")
        head["source_port"] = SESSION_LOCAL if is_local else SESSION_REMOTE
        head["destination_port"] = SESSION_REMOTE if is_local else SESSION_LOCAL
    return made


def ends(head: Any) -> tuple[bytes, int, bytes, int, int]:
    return (
        head["source"].tobytes(),
        int(head["source_port"]),
        head["destination"].tobytes(),
        int(head["destination_port"]),
        int(head["cgroup"]),
    )


def test_records_get_the_ends_of_their_connections() -> None:
    sessions = TlsSessions()
    assert taken(sessions, record(1), record(2)) == []
    asked = heads((1, True), (2, False), (3, True))
    assert sessions.knows(asked).tolist() == [True, True, False]
    placed = sessions.placed(asked)
    assert ends(placed[0]) == (LOCAL, 40001, REMOTE, 443, 11)
    assert ends(placed[1]) == (REMOTE, 443, LOCAL, 40002, 11)
    assert ends(placed[2]) == (bytes(16), 0, bytes(16), 0, 0)
    assert ends(asked[0])[0] == address(1), "what was asked about is as it was"


def test_requests_likewise() -> None:
    sessions = TlsSessions()
    taken(sessions, record(1))
    seen = ConnectionInfo(
        0, 0, b"", b"", roles_known=True, begun=True, start_ns=0, direction=1, ingress_ifindex=0, cgroup=0
    )

    def of(number: int, port: int) -> HttpRequest:
        other = SESSION_LOCAL + SESSION_REMOTE - port
        client, server = (address(number) + each.to_bytes(2, "big") for each in (port, other))
        return HttpRequest("2", client, server, "GET", "/", None, 200, "answered", 1, 2, 3, 4, 0, 0, connection=seen)

    local, remote = LOCAL + (40001).to_bytes(2, "big"), REMOTE + (443).to_bytes(2, "big")
    placed = sessions.placed_request(of(1, SESSION_LOCAL))
    assert (placed.client, placed.server, placed.is_secure) == (local, remote, True)
    assert placed.connection is not None
    assert (placed.connection.client, placed.connection.server, placed.connection.cgroup) == (local, remote, 11)
    placed = sessions.placed_request(of(1, SESSION_REMOTE))
    assert (placed.client, placed.server) == (remote, local)
    assert not sessions.knows_request(of(2, SESSION_LOCAL))
    assert sessions.placed_request(of(2, SESSION_LOCAL)).server == UNPLACED


def test_what_ended_is_known_for_the_drain_and_forgotten_with_the_next() -> None:
    sessions = TlsSessions()
    taken(sessions, record(1), record(2))
    assert taken(sessions, record(1, ended=1)) == [address(1)]
    assert sessions.knows(heads((1, True))).all()
    assert taken(sessions) == []
    assert sessions.knows(heads((1, True), (2, True))).tolist() == [False, True]


def test_a_session_may_be_placed_and_end_in_one_record() -> None:
    sessions = TlsSessions()
    assert taken(sessions, record(1, ended=1)) == [address(1)]
    assert sessions.knows(heads((1, True))).all()


def test_one_without_a_connection_is_never_known() -> None:
    sessions = TlsSessions()
    assert taken(sessions, record(1, cookie=0, ended=1)) == [address(1)]
    assert not sessions.knows(heads((1, True))).any()
    assert len(sessions) == 0


def test_the_number_is_bounded_and_what_it_costs_is_counted() -> None:
    sessions = TlsSessions(limit=5)
    taken(sessions, *[record(number) for number in range(1, 8)])
    assert (len(sessions), sessions.forgotten) == (5, 2)
    assert sessions.knows(heads((2, True), (3, True))).tolist() == [False, True]


def test_another_process_goes_on() -> None:
    sessions, other = TlsSessions(), TlsSessions()
    taken(sessions, *[record(number) for number in range(1, 4)])
    other.restore(sessions.state())
    asked = heads((1, True), (3, False))
    assert (other.placed(asked) == sessions.placed(asked)).all()


def test_nothing_of_nothing() -> None:
    sessions = TlsSessions()
    assert len(sessions.knows(heads())) == len(sessions.placed(heads())) == 0
