"""The reader of HTTP/1.1 answers: the standard library is the oracle, and no bytes make it hang or raise anything unforeseen."""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import zlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.export.http1 import MAX_HEAD_BYTES, AnswerReader, NotHttpError, TooLargeError, request_head

LIMIT = 1000


def read(data: bytes, *, ended: bool = False, tunnel: bool = False) -> AnswerReader:
    reader = AnswerReader(LIMIT, tunnel=tunnel)
    reader.feed(data)
    if ended:
        reader.finish()
    return reader


def test_the_request_head() -> None:
    head = request_head("POST", "/v1/metrics", {"host": "x:1", "content-length": "3"})
    assert head == b"POST /v1/metrics HTTP/1.1\r\nhost: x:1\r\ncontent-length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", True),
        (b"HTTP/1.1 200 OK\nContent-Length:3\n\nabc", 200, b"abc", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1", 200, b"abc", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 503, b"", True),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, b"", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n0\r\nX: y\r\n\r\n", 200, b"abc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.1 200 OK\r\nbroken line\r\nContent-Length: 1\r\n\r\na", 200, b"a", True),
    ],
)  # fmt: skip
def test_answers(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    for reader in (read(data), AnswerReader(LIMIT)):
        if not reader.started:
            for at in range(len(data)):  # one byte at a time
                if not reader.complete:
                    reader.feed(data[at : at + 1])
        assert reader.complete
        assert (reader.status, reader.content()) == (status, body)
        if not data.endswith(b"abcHTTP/1.1"):  # bytes behind the answer are seen only with it
            assert reader.reusable == reusable
    assert read(data).reusable == reusable


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", None),
    ],
)
def test_the_end_of_the_connection_completes_an_answer_whose_head_was_there(data: bytes, body: bytes | None) -> None:
    reader = read(data, ended=True)
    assert (reader.complete, reader.reusable, reader.content()) == (True, False, body)


def test_a_break_is_no_end_of_a_body_without_a_length() -> None:
    reader = read(b"HTTP/1.1 503 No\r\n\r\nabc")
    reader.finish(broken=True)
    assert (reader.complete, reader.status, reader.content()) == (True, 503, None)


@pytest.mark.parametrize("data", [b"", b"HT", b"HTTP/1.1 200 OK\r\nContent-Len", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_without_a_head_there_is_no_answer(data: bytes) -> None:
    reader = read(data, ended=True)
    assert (reader.complete, reader.status) == (False, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    ],
)
def test_a_broken_frame_ends_the_answer_and_the_connection(data: bytes) -> None:
    reader = read(data)
    assert (reader.complete, reader.reusable, reader.status, reader.content()) == (True, False, 200, None)


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x46", "TLS"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "unknown bytes"),
        (b"HTTP/2 200\r\n\r\n", "unknown bytes"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "unknown status line"),
        (b"HTTP/1.1 20 Odd\r\n\r\n", "unknown status line"),
        (b"HTTP/1.1\r\n\r\n", "unknown status line"),
        (b"X", "unknown bytes"),
    ],
)
def test_what_is_not_http_is_told_at_its_first_byte(data: bytes, looks_like: str) -> None:
    with pytest.raises(NotHttpError, match=looks_like):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * (LIMIT + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"y" * (LIMIT + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"y" * (MAX_HEAD_BYTES + 1),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_kept(data: bytes) -> None:
    with pytest.raises(TooLargeError):
        read(data)


def test_bodies_are_decompressed_up_to_the_limit() -> None:
    def compressed(plain: bytes, coding: str = "gzip", cut: int = 0) -> AnswerReader:
        body = gzip.compress(plain)
        body = body[: len(body) - cut]
        return read(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (coding.encode(), len(body), body)
        )

    assert compressed(b"x" * LIMIT).content() == b"x" * LIMIT
    assert compressed(b"text", "X-GZIP").content() == b"text"
    assert compressed(b"text", cut=9).content() is None
    assert compressed(b"text", "br").content() is None
    with pytest.raises(TooLargeError):
        compressed(b"x" * (LIMIT + 1)).content()
    plain = read(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    assert plain.content() is None
    empty = read(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n")
    assert empty.content() == b""


def test_a_tunnel_has_no_body() -> None:
    reader = read(b"HTTP/1.1 200 Connection established\r\nContent-Length: 9\r\n\r\n", tunnel=True)
    assert (reader.complete, reader.status) == (True, 200)
    assert not read(b"HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n", tunnel=True).complete


def test_continued_and_repeated_headers() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\nA: b\r\n  c\r\nx: 1\r\nX:2\r\nContent-Length: 0\r\n\r\n")
    assert (reader.headers["a"], reader.headers["x"]) == ("b c", "1, 2")


class _Canned(socket.socket):
    """What http.client reads from."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def makefile(self, *_args: Any, **_kwargs: Any) -> Any:
        return io.BytesIO(self._data)


tokens = st.text("abcdefghijXYZ0123456789-", min_size=1, max_size=10)
bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@given(
    st.integers(400, 599), st.dictionaries(tokens, st.text("abc xyz;=,", max_size=20), max_size=5), bodies, st.data()
)
def test_answers_are_read_as_the_standard_library_reads_them(
    status: int, headers: dict[str, str], pieces: list[bytes], data: st.DataObject
) -> None:
    lines = [f"X-{name}: {value}" for name, value in headers.items()]
    if data.draw(st.booleans()):
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        body = b"".join(pieces)
        lines.append(f"Content-Length: {len(body)}")
    answer = "\r\n".join([f"HTTP/1.1 {status} Some Words", *lines, "", ""]).encode() + body
    with _Canned(answer) as canned:
        expected = http.client.HTTPResponse(canned, method="POST")
        expected.begin()
        ours = AnswerReader(LIMIT)
        cut = data.draw(st.integers(0, len(answer)))
        ours.feed(answer[:cut])
        if not ours.complete:
            ours.feed(answer[cut:])
        assert ours.complete
        assert (ours.status, ours.phrase, ours.content()) == (status, "Some Words", expected.read())
        for name in headers:
            assert ours.headers[f"x-{name}".lower()] == ", ".join(
                value.strip() for value in expected.headers.get_all(f"x-{name}", [])
            )
        assert ours.reusable


pieces_of_http = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"\r\n", b"\n", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"5\r\n", b"0\r\n", b"abc",
     b"Connection: close", b"Content-Encoding: gzip", b"HTTP/1.1 100 x\r\n\r\n", zlib.compress(b"x")]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.one_of(pieces_of_http, st.binary(max_size=8)), max_size=12), st.booleans())
def test_any_bytes_are_an_answer_or_one_of_two_errors(pieces: list[bytes], tunnel: bool) -> None:
    reader = AnswerReader(LIMIT, tunnel=tunnel)
    try:
        for piece in pieces:
            if not reader.complete:
                reader.feed(piece)
        reader.finish()
        if reader.complete:
            reader.content()
    except (NotHttpError, TooLargeError):
        return
    assert reader.complete == bool(reader.status)
