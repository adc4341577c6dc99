"""Connections: which packets are of which, whose protocol is what, who gets what in which order, and what is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from otel_netmon.analysis.tcp_connections import ANEW, LATE_EVERY_NS, ConnectionInfo, Connections, Follower, Recogniser
from otel_netmon.analysis.tcp_stream import GAP_NS
from support.tcp_talk import CLIENT, SERVER, NotingFollower, Packet, Talk

ASK, ANSWER = b"ASK: what", b"ANSWER: that"


def begins(magic: bytes, data: bytes) -> bool | None:
    if data[: len(magic)] == magic[: len(data)]:
        return True if len(data) >= len(magic) else None
    return False


CLIENT_SPEAKS = Recogniser("client", lambda data: begins(b"ASK:", data), NotingFollower)
SERVER_SPEAKS = Recogniser("server", lambda data: begins(b"220 ", data), NotingFollower, "server")
EITHER_SPEAKS = Recogniser("either", lambda data: begins(b"FRAME", data), NotingFollower, "either", joined_only=True)
ALL = (CLIENT_SPEAKS, SERVER_SPEAKS, EITHER_SPEAKS)


def feed(connections: Connections, packets: Iterable[Packet]) -> list[Any]:
    return [record for seen, segment in packets for record in connections.feed(seen, segment)]


def followed(packets: Iterable[Packet]) -> NotingFollower:
    """The one follower that this makes."""
    connections = Connections(ALL)
    records = feed(connections, packets) + connections.finish()
    assert len(records) == 1
    follower = records[0]
    assert isinstance(follower, NotingFollower)
    return follower


def exchange(talk: Talk) -> list[Packet]:
    return [*talk.open(), *talk.say(True, ASK), *talk.say(False, ANSWER)]


def test_both_directions_in_their_order_and_their_ends() -> None:
    talk = Talk()
    packets = exchange(talk) + talk.say(True, ASK) + [talk.fin(True)] + talk.say(False, ANSWER) + [talk.fin(False)]
    follower = followed(packets)
    assert follower.info == ConnectionInfo(0, 1, CLIENT, SERVER, True, True, packets[0][1].time_ns, 0, 0, 0)
    assert follower.calls == [
        ("data", True, ASK),
        ("data", False, ANSWER),
        ("data", True, ASK),
        ("end", True, False),
        ("data", False, ANSWER),
        ("end", False, False),
    ]


def test_times_are_those_of_the_packets() -> None:
    talk = Talk()
    packets = [*exchange(talk), talk.fin(True)]
    follower = followed(packets)
    times = [segment.time_ns for _, segment in packets]
    assert follower.times == [*times[2:], times[-1]]


@pytest.mark.parametrize("size", range(1, 6))
def test_what_begins_in_segments_of_a_few_octets(size: int) -> None:
    talk = Talk()
    follower = followed([*talk.open(), *talk.say(True, ASK, size)])
    assert follower.calls == [("data", True, ASK)]


def test_the_client_is_who_speaks_as_one_whoever_opened_the_connection() -> None:
    talk = Talk()
    follower = followed([*talk.open(), *talk.say(False, ASK), *talk.say(True, ANSWER)])
    assert (follower.info.client, follower.info.server) == (SERVER, CLIENT)
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER)]


def test_a_protocol_in_which_the_server_speaks_first() -> None:
    talk = Talk()
    follower = followed([*talk.open(), *talk.say(False, b"220 hello"), *talk.say(True, b"EHLO")])
    assert (follower.info.client, follower.info.begun) == (CLIENT, True)
    assert follower.calls == [("data", False, b"220 hello"), ("data", True, b"EHLO")]


def test_joined_in_the_middle_of_an_answer() -> None:
    talk = Talk()
    follower = followed([*talk.say(False, b"rest of a body"), *talk.say(True, ASK), *talk.say(False, ANSWER)])
    assert (follower.info.client, follower.info.roles_known, follower.info.begun) == (CLIENT, True, False)
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER)]


def test_frames_of_a_connection_joined_in_the_middle_tell_no_roles() -> None:
    talk = Talk()
    follower = followed([*talk.say(False, b"FRAME 1"), *talk.say(True, b"FRAME 2")])
    assert (follower.info.client, follower.info.roles_known) == (SERVER, False)
    assert Connections(ALL).finish() == []
    talk = Talk()
    connections = Connections(ALL)
    assert feed(connections, [*talk.open(), *talk.say(False, b"FRAME 1")]) + connections.finish() == []


def test_roles_by_the_answer_to_the_syn() -> None:
    talk = Talk()
    _, answer = talk.open()
    follower = followed([answer, *talk.say(True, ASK)])
    assert (follower.info.client, follower.info.begun) == (CLIENT, True)
    talk = Talk()
    talk.syn(True)
    follower = followed([talk.syn(False), *reversed(talk.say(True, ASK, 5))])
    assert follower.calls == [("data", True, ASK)]


def test_simultaneous_open() -> None:
    talk = Talk()
    client = talk.syn(True)
    server = talk.syn(False)
    seen, segment = server
    crossing = seen, segment._replace(flags=2, acknowledgment=None)
    follower = followed([client, crossing, server, *talk.say(True, ASK), *talk.say(False, ANSWER)])
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER)]


def test_behind_what_another_protocol_says_first() -> None:
    talk = Talk()
    packets = [*talk.open(), *talk.say(True, b"\5\1\0"), *talk.say(False, b"\5\0"), *talk.say(True, ASK)]
    follower = followed([*packets, *talk.say(False, ANSWER)])
    assert follower.info.begun is False
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER)]


@pytest.mark.parametrize("swap", [True, False])
def test_segments_that_were_swapped_before_anything_else_was_seen(*, swap: bool) -> None:
    talk = Talk()
    packets = talk.say(True, ASK, 5)
    follower = followed(packets[::-1] if swap else packets)
    assert follower.calls == [("data", True, ASK)]


def test_a_lost_answer_is_told_before_what_follows_it() -> None:
    talk = Talk()
    packets = exchange(talk)
    talk.lose(False, 1000)
    packets += talk.say(False, b"tail")
    packets += talk.say(True, ASK)
    follower = followed(packets)
    assert follower.calls == [
        ("data", True, ASK),
        ("data", False, ANSWER),
        ("gap", False, 1000),
        ("data", False, b"tail"),
        ("data", True, ASK),
    ]


def test_a_gap_that_nobody_acknowledges_is_given_up_in_time() -> None:
    talk = Talk()
    connections = Connections(ALL)
    feed(connections, exchange(talk))
    talk.lose(False, 7)
    feed(connections, talk.say(False, b"tail"))
    assert connections.octets == 4
    connections.advance(talk.time_ns + GAP_NS)
    assert connections.octets == 0
    assert connections.finish()[0].calls[-2:] == [("gap", False, 7), ("data", False, b"tail")]


def test_what_was_lost_before_a_protocol_is_known() -> None:
    talk = Talk()
    packets = talk.open() + talk.say(True, b"noise")
    talk.lose(True, 9)
    follower = followed([*packets, *talk.say(True, ASK)])
    assert follower.calls == [("data", True, ASK)]


def test_a_new_connection_between_the_same_ends() -> None:
    talk = Talk()
    connections = Connections(ALL)
    assert feed(connections, exchange(talk)) == []
    first = feed(connections, exchange(Talk(numbers=(5, 6))))
    assert [record.said(True) for record in first] == [ASK]
    assert len(connections.finish()) == 1
    assert connections.counts["connections"] == 2


def test_a_connection_whose_server_answers_with_another_number() -> None:
    talk, again = Talk(), Talk(numbers=(0xFFFFFFF0, 777))
    again.syn(True)
    follower = followed([*talk.open(), again.syn(False), *again.say(True, ASK), *again.say(False, ANSWER)])
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER)]


def test_a_reset_ends_one_direction_and_what_is_on_its_way_still_comes() -> None:
    talk = Talk()
    late = exchange(talk)
    reset = talk.reset(True)
    follower = followed([*late, reset, *talk.say(False, b"more")])
    assert follower.calls[1:] == [("data", False, ANSWER), ("end", True, True), ("data", False, b"more")]


def test_both_ends_finish_a_connection_at_once_and_copies_of_its_packets_do_not_begin_another() -> None:
    talk = Talk()
    packets = [*exchange(talk), talk.fin(False), talk.fin(True)]
    connections = Connections(ALL)
    assert len(feed(connections, packets)) == 1
    assert feed(connections, packets) == []
    assert connections.finish() == []


class Upgrading(NotingFollower):
    """Hands over behind the octets UP, to itself or to what is recognised then."""

    __slots__ = ("_over",)

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        mine, upgrade, rest = data.partition(b"UP!")
        super().data(from_client, mine + upgrade, time_ns)
        if upgrade:
            self.records.append(self)
            self.successor = NotingFollower(self.info) if rest.startswith(b"x") else ANEW
            if rest:
                self.rest.append((from_client, rest, time_ns))


UPGRADING = Recogniser("upgrading", lambda data: begins(b"TUNNEL", data), Upgrading)


def test_a_successor_gets_the_rest_and_all_that_follows() -> None:
    talk = Talk()
    connections = Connections((UPGRADING,))
    packets = [*talk.open(), *talk.say(True, b"TUNNEL"), *talk.say(False, b"UP!x1"), *talk.say(True, b"2")]
    first, second = feed(connections, packets) + connections.finish()
    assert first.calls == [("data", True, b"TUNNEL"), ("data", False, b"UP!")]
    assert second.calls == [("data", False, b"x1"), ("data", True, b"2")]


@pytest.mark.parametrize("rest", [b"", b"noise"])
def test_what_follows_a_tunnel_is_recognised_anew(rest: bytes) -> None:
    talk = Talk()
    connections = Connections((UPGRADING, *ALL))
    packets = [*talk.open(), *talk.say(True, b"TUNNEL"), *talk.say(False, b"UP!" + rest), *talk.say(True, ASK)]
    first, second = feed(connections, [*packets, *talk.say(False, ANSWER)]) + connections.finish()
    assert first.calls == [("data", True, b"TUNNEL"), ("data", False, b"UP!")]
    assert second.said(True) == ASK
    assert second.said(False) == rest + ANSWER


class Brief(NotingFollower):
    """Wants nothing behind the first answer."""

    __slots__ = ()

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        super().data(from_client, data, time_ns)
        if self.done:
            self.records.append(self)

    @property
    def done(self) -> bool:
        return bool(self.said(False))


def test_directions_of_which_nothing_matters_are_told() -> None:
    talk = Talk()
    unwanted: list[tuple[bytes, bytes]] = []
    connections = Connections(
        ALL, look_segments=2, unwanted=lambda seen: unwanted.append((seen.source, seen.destination))
    )
    feed(connections, talk.open() + talk.say(False, b"noise"))
    assert unwanted == []
    feed(connections, talk.say(False, b"noise") + talk.say(True, b"noise") + talk.say(False, b"noise"))
    assert unwanted == [(SERVER, CLIENT)] * 2
    feed(connections, talk.say(True, b"noise"))
    assert unwanted == [(SERVER, CLIENT)] * 2 + [(CLIENT, SERVER)]
    assert feed(connections, exchange(Talk(numbers=(5, 6)))) == []
    assert len(connections.finish()) == 1


def test_another_connection_is_told_by_the_first_number_of_its_segments() -> None:
    talk, again = Talk(), Talk(numbers=(5, 6))
    connections = Connections(ALL)
    told = [
        (seen, segment._replace(first=other.first(seen.source == CLIENT), opens=seen.source == CLIENT))
        for other in (talk, again)
        for seen, segment in exchange(other)[2:]
    ]
    first = feed(connections, told)
    second = connections.finish()
    assert [record.calls for record in first] == [record.calls for record in second]
    assert (first[0].info.begun, len(second)) == (True, 1)


def test_who_opens_is_told_by_its_segments() -> None:
    talk = Talk()
    told = [(seen, segment._replace(opens=seen.source == SERVER)) for seen, segment in talk.say(False, b"FRAME 1")]
    follower = followed(told)
    assert (follower.info.client, follower.info.roles_known) == (SERVER, True)


def test_who_is_done_gets_nothing_more_until_another_connection_begins() -> None:
    talk = Talk()
    connections = Connections((Recogniser("brief", CLIENT_SPEAKS.begins, Brief),))
    records = feed(connections, exchange(talk))
    assert [record.calls for record in records] == [[("data", True, ASK), ("data", False, ANSWER)]]
    assert feed(connections, exchange(talk)[2:]) == []
    assert len(feed(connections, exchange(Talk(numbers=(5, 6))))) == 1
    assert connections.finish() == []


def test_what_is_nobodys_is_not_kept() -> None:
    talk = Talk()
    connections = Connections(ALL, look_segments=3)
    packets = talk.open()
    for number in range(3):
        packets += talk.say(True, b"noise %d" % number) + talk.say(False, b"more noise")
    feed(connections, packets[:-1])
    assert connections.octets > 0
    feed(connections, packets[-1:] + talk.say(True, ASK))
    assert (connections.octets, len(connections)) == (0, 1)
    assert connections.finish() == []


def test_a_request_is_found_beside_a_long_answer() -> None:
    talk = Talk()
    connections = Connections(ALL, look_segments=3)
    packets = talk.say(False, bytes(50_000)) + talk.say(True, ASK) + talk.say(False, ANSWER)
    records = feed(connections, packets) + connections.finish()
    assert [record.calls for record in records] == [[("data", True, ASK), ("data", False, ANSWER)]]


def test_connections_are_bounded_in_number() -> None:
    connections = Connections(ALL, connections_max=7)
    for number in range(19):
        records = feed(connections, exchange(Talk(CLIENT[:16] + number.to_bytes(2, "big"))))
        assert len(records) == (number >= 7)
    assert (len(connections), connections.counts["evicted_connections"]) == (7, 12)


def test_connections_are_bounded_in_octets() -> None:
    connections = Connections(ALL, octets_max=50_000)
    records = []
    for number in range(13):
        talk = Talk(CLIENT[:16] + number.to_bytes(2, "big"))
        packets = exchange(talk)
        talk.lose(False, 1)
        records += feed(connections, packets + talk.say(False, bytes(10_000), 10_000))
        assert connections.octets <= 50_000
    assert (len(records), connections.counts["evicted_connections"]) == (8, 8)
    assert [call[2] for call in records[0].calls if call[0] == "gap"] == [1]


def test_silent_connections_are_forgotten() -> None:
    connections = Connections(ALL, idle_ns=1000)
    talk = Talk()
    feed(connections, exchange(talk))
    assert connections.advance(talk.time_ns + 999) == []
    assert len(connections.advance(talk.time_ns + 1000)) == 1
    assert len(connections) == 0


def test_no_connection_is_made_of_packets_without_octets() -> None:
    talk = Talk()
    connections = Connections(ALL)
    assert feed(connections, [talk.fin(True), talk.reset(False)]) == []
    assert len(connections) == 0


def test_a_follower_has_to_say_all() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Follower()  # type: ignore[abstract]


def test_followers_are_told_the_time_now_and_then() -> None:
    """What is late is told while its connection lives."""

    class Late(NotingFollower):
        def advance(self, now_ns: int) -> None:
            self.records.append(now_ns)

    connections = Connections([Recogniser("late", lambda data: begins(b"ASK:", data), Late)])
    feed(connections, exchange(Talk()))
    told = [connections.advance(LATE_EVERY_NS + at) for at in (0, LATE_EVERY_NS - 1, LATE_EVERY_NS)]
    assert told == [[LATE_EVERY_NS], [], [2 * LATE_EVERY_NS]]


def test_a_connection_that_is_known_to_be_over_ends_in_both_directions() -> None:
    talk = Talk()
    connections = Connections(ALL)
    assert feed(connections, exchange(talk)) == []
    ((seen, _), *_) = exchange(Talk())
    (follower,) = connections.close(seen.namespace, seen.ifindex, SERVER, CLIENT, 7)
    assert follower.calls == [("data", True, ASK), ("data", False, ANSWER), ("end", True, False), ("end", False, False)]
    assert len(connections) == 0
    assert connections.close(seen.namespace, seen.ifindex, SERVER, CLIENT, 7) == []


def test_what_waits_behind_a_gap_is_told_before_the_end() -> None:
    talk = Talk()
    connections = Connections(ALL)
    packets = exchange(talk)
    lost, behind = talk.say(True, b"lost"), talk.say(True, b"behind")
    assert feed(connections, [*packets, *behind]) == []
    assert len(lost) == 1
    seen = packets[0][0]
    (follower,) = connections.close(seen.namespace, seen.ifindex, CLIENT, SERVER, 7)
    assert follower.calls[2:5] == [("gap", True, 4), ("data", True, b"behind"), ("end", True, False)]
