"""HTTP/1 against h11: what h11 writes is followed however it is cut, what h11 reads is read alike, and damage is counted."""

from __future__ import annotations

import os
import random
import re
import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.decode.http1_heads import (
    HEAD_OCTETS_MAX,
    METHOD_OCTETS_MAX,
    REGISTERED_METHODS,
    read_request,
    request_body,
)
from otel_netmon.decode.http_fields import field_text
from support.http_messages import CLIENT, SERVER, Conversation, chunks, request, response

HEADS = int(os.environ.get("NETMON_FUZZ_HEADS", "200000"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
CONVERSATIONS = HEADS // 20

TOKENS = st.text("!#$%&'*+-.^_`|~0123456789ABCxyz", min_size=1, max_size=20).filter(lambda text: text != "PRI")
TARGETS = st.text(st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=300)
BODIES = st.lists(st.binary(min_size=1, max_size=300), max_size=3)
STATUSES = st.integers(200, 599)


class Exchange(NamedTuple):
    """What both sides say; a body that is None has no framing at all."""

    method: str
    target: str
    sent: list[bytes]
    sent_in_chunks: bool
    interim: list[int]
    status: int
    answered: list[bytes]
    answered_in_chunks: bool


EXCHANGES = st.lists(
    st.builds(
        Exchange,
        st.one_of(st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "DELETE"]), TOKENS),
        st.one_of(st.just("*"), st.just("/"), TARGETS.map(lambda text: f"/{text}"), st.just("http://a.example/b")),
        BODIES,
        st.booleans(),
        st.lists(st.sampled_from([100, 102, 103]), max_size=2),
        STATUSES,
        BODIES,
        st.booleans(),
    ).filter(lambda exchange: exchange.method != "CONNECT"),
    min_size=1,
    max_size=5,
)


def framing(parts: list[bytes], in_chunks: bool) -> list[tuple[str, str]]:
    return [("Transfer-Encoding", "chunked")] if in_chunks else [("Content-Length", str(sum(map(len, parts))))]


def written(exchanges: list[Exchange]) -> tuple[bytes, bytes]:
    """Both directions of a connection, as two ends of h11 write them and take them from each other."""
    client, server = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    sent = answered = b""
    for each in exchanges:
        fields = [("Host", "a.example"), *framing(each.sent, each.sent_in_chunks)]
        said = client.send(h11.Request(method=each.method, target=each.target, headers=fields)) or b""
        for part in each.sent:
            said += client.send(h11.Data(data=part)) or b""
        said += client.send(h11.EndOfMessage()) or b""
        server.receive_data(said)
        while not isinstance(server.next_event(), h11.EndOfMessage):
            pass
        back = b""
        for status in each.interim:
            back += server.send(h11.InformationalResponse(status_code=status, headers=[])) or b""
        fields = framing(each.answered, each.answered_in_chunks)
        back += server.send(h11.Response(status_code=each.status, headers=fields)) or b""
        if each.method != "HEAD" and each.status not in (204, 304):
            for part in each.answered:
                back += server.send(h11.Data(data=part)) or b""
        back += server.send(h11.EndOfMessage()) or b""
        client.receive_data(back)
        while not isinstance(client.next_event(), h11.EndOfMessage):
            pass
        client.start_next_cycle()
        server.start_next_cycle()
        sent, answered = sent + said, answered + back
    return sent, answered


def check(records: list[HttpRequest], exchanges: list[Exchange]) -> None:
    assert len(records) == len(exchanges)
    for record, each in zip(records, exchanges, strict=True):
        has_body = each.method != "HEAD" and each.status not in (204, 304)
        assert (record.method, record.target, record.host) == (each.method, each.target, "a.example")
        assert (record.status, record.interim, record.outcome) == (each.status, tuple(each.interim), "answered")
        assert record.request_body_octets == sum(map(len, each.sent))
        assert record.response_body_octets == (sum(map(len, each.answered)) if has_body else 0)
        assert (record.client, record.server, record.unknown) == (CLIENT, SERVER, ())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


@settings(max_examples=300, deadline=None)
@given(EXCHANGES, st.lists(st.integers(0), max_size=8), st.lists(st.integers(0), max_size=8))
def test_what_h11_writes_is_followed_however_it_is_cut(
    exchanges: list[Exchange], sent_cuts: list[int], answered_cuts: list[int]
) -> None:
    sent, answered = written(exchanges)
    talk = Conversation().say(True, cut(sent, sent_cuts)).say(False, cut(answered, answered_cuts))
    check(talk.records, exchanges)
    assert not talk.counts


EVERY_KIND = [
    Exchange("GET", "/", [], False, [], 200, [b"12345"], False),
    Exchange("POST", "http://a.example/b", [b"12", b"x" * 17], True, [100], 404, [b"a" * 300, b"b"], True),
    Exchange("HEAD", "/c", [], False, [], 200, [b"12345"], False),
    Exchange("OPTIONS", "*", [], False, [103, 103], 304, [], False),
    Exchange("PURGE", "/d", [b"HTTP/1.1 200 OK\r\n\r\n"], False, [], 503, [b"GET / HTTP/1.1\r\n\r\n"], True),
]


def test_what_h11_writes_is_followed_cut_at_every_octet() -> None:
    sent, answered = written(EVERY_KIND)
    for place in range(1, len(sent)):
        check(Conversation().say(True, cut(sent, [place])).server(answered).records, EVERY_KIND)
    for place in range(1, len(answered)):
        check(Conversation().client(sent).say(False, cut(answered, [place])).records, EVERY_KIND)
    single = Conversation().say(True, cut(sent, list(range(len(sent)))))
    check(single.say(False, cut(answered, list(range(len(answered))))).records, EVERY_KIND)


# ------------------------------------------------------------------------------------------------------------- damage
CORPUS = [
    request("GET /a?b=c", "Host: a.example", "Accept: */*", "Cookie: a=b; c=d", "Connection: keep-alive"),
    request("POST /a", "Host: a.example", "Content-Type: text/plain", body=b"12345"),
    request("PUT /a", "Host: a", "Transfer-Encoding: chunked", body=chunks(b"12345", b"67", trailer="A: b\r\n")),
    request("GET http://a.example/b HTTP/1.0", "Host: a.example", "Proxy-Connection: close"),
    request("OPTIONS *", "Host: a", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    request("CONNECT a.example:443", "Host: a.example:443"),
    request("GET /ws", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
    request("GET /folded", "Host: a", "X: b", " c", "\td"),
    request("GET /lf", "Host: a", end="\n"),
    b"\r\n" + request("DELETE /a", "Host: a", "Content-Length: 0"),
    b"GET /old\r\n",
]
ANSWERS = [
    response(200, body=b"12345"),
    response(200, "Transfer-Encoding: chunked", body=chunks(b"12345", b"67")),
    response(100) + response(304, "Content-Length: 5"),
    response(101, "Connection: Upgrade", "Upgrade: websocket") + b"\x81\5hello",
    response(
        206, "Content-Type: multipart/byteranges; boundary=a", body=b"--a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n--a--\r\n"
    ),
    b"HTTP/1.0 200 OK\r\n\r\n<html>",
]
SPLICES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"\xff",
    b"HTTP/1.1",
    b"Host: b\r\n",
    b"chunked",
    b"\r\n\r\n",
]
SPLICES += [
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"0",
    b"-1",
    b"9" * 20,
    b"x" * 70,
    b"Expect: 100-continue\r\n",
]


def damaged(message: bytes, generator: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(generator.randrange(1, 4)):
        place = generator.randrange(len(data) + 1)
        kind = generator.randrange(5)
        if kind == 0:
            data[place:place] = generator.choice(SPLICES)
        elif kind == 1:
            del data[place : place + generator.randrange(1, 12)]
        elif kind == 2 and place < len(data):
            data[place] = generator.randrange(256)
        elif kind == 3:
            data = data[:place]
        else:
            other = generator.choice(CORPUS)
            data[place : place + 5] = other[: generator.randrange(len(other))]
    return bytes(data)


def read_by_h11(data: bytes) -> h11.Request | None:
    """The request that h11 sees in octets; None: more are needed, or they are none."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_OCTETS_MAX)
    try:
        server.receive_data(data)
        event = server.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def is_recognised(wanted: h11.Request) -> bool:
    """Whether it is taken for HTTP/1 without its port: methods that nobody registered are, with one of its versions."""
    if wanted.method in REGISTERED_METHODS:
        return True
    return wanted.method != b"PRI" and len(wanted.method) <= METHOD_OCTETS_MAX and wanted.http_version < b"2"


def compare(wanted: h11.Request, head_octets: bytes) -> None:
    fields = dict(wanted.headers)
    octets = head_octets.lstrip(b"\r\n")
    head = read_request(re.split(rb"(?<=\n)\r?\n", octets, maxsplit=1)[0] + b"\n")
    assert head is not None
    assert (head.method.encode(), head.target.encode()) == (wanted.method, wanted.target)
    # A folded value is joined by one space here, by as many as there were in h11.
    assert (head.fields.host or "").split() == field_text(fields.get(b"host", b"")).split()
    if b"transfer-encoding" in fields:
        # h11 believes in chunks of HTTP/1.0; RFC 9112, section 6.1, does not.
        assert request_body(head) == ("invalid" if wanted.http_version <= b"1.0" else "chunked")
    else:
        assert request_body(head) == int(fields.get(b"content-length", b"0"))


def heads(generator: random.Random) -> Iterator[bytes]:
    for _ in range(HEADS):
        yield damaged(generator.choice(CORPUS), generator)


@pytest.mark.timeout(1800)
def test_damaged_heads_are_read_as_h11_does_or_counted() -> None:
    generator = random.Random(SEED)  # noqa: S311 - octets, not secrets
    agreed = 0
    for number, data in enumerate(heads(generator)):
        said = f"NETMON_FUZZ_SEED={SEED}, head {number}: {data!r}"
        try:
            wanted = read_by_h11(data)
            talk = Conversation().client(data)
            records = talk.finish()
            if data.strip(b"\r\n"):
                assert records or talk.counts
            if wanted is not None and is_recognised(wanted):
                agreed += 1
                assert records
                compare(wanted, data)
        except AssertionError as error:
            raise AssertionError(said) from error
    assert agreed > HEADS // 20


@pytest.mark.timeout(1800)
def test_damaged_conversations_stay_within_their_bounds() -> None:
    generator = random.Random(SEED)  # noqa: S311
    for number in range(CONVERSATIONS):
        talk = Conversation()
        given_octets = 0
        for _ in range(generator.randrange(1, 12)):
            from_client = generator.random() < 0.5
            octets = generator.choice([1, 7, 100, 100_000])
            kind = generator.random()
            if talk.over:
                break
            if kind < 0.8:
                message = generator.choice(CORPUS if from_client else ANSWERS)
                data = damaged(message, generator) if generator.random() < 0.7 else message
                place = generator.randrange(len(data) + 1)
                talk.say(from_client, [piece for piece in (data[:place], data[place:]) if piece])
                given_octets += len(data)
            elif kind < 0.9:
                talk.gap(from_client, octets)
                given_octets += octets
            else:
                talk.end(from_client, reset=generator.random() < 0.3)
                break
        records = talk.finish()
        said = f"NETMON_FUZZ_SEED={SEED}, conversation {number}"
        assert sum(each.request_body_octets + each.response_body_octets for each in records) <= given_octets, said
        for each in records:
            assert each.request_first_ns <= each.request_last_ns, said
            assert (each.response_first_ns is None) == (each.response_last_ns is None), said
            if each.response_first_ns is not None and each.response_last_ns is not None:
                assert each.response_first_ns <= each.response_last_ns, said
            assert each.outcome != "answered" or each.status is not None or each.version == "0.9", said
