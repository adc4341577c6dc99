"""Header blocks, their table, and what is known of it where it was not seen from the begin."""

from __future__ import annotations

import logging
import subprocess
import sys

import hpack
import pytest

from otel_netmon.decode.hpack_fields import LIST_OCTETS_MAX, TABLE_OCTETS_MAX, FieldReader, Fields
from support import http2_frames as f

REQUEST = [
    (":method", "PUT"),
    (":scheme", "http"),
    (":path", "/things/7"),
    (":authority", "example:8080"),
    ("content-type", "application/grpc+proto"),
    ("cookie", "a=secret1"),
    ("authorization", "Bearer secret2"),
    ("traceparent", "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"),
    ("tracestate", "a=1"),
    ("tracestate", "b=2"),
]
PATH, AUTHORITY, METHOD_GET, STATUS_200, STATUS = 4, 1, 2, 8, 8
FIRST_DYNAMIC = 62


def fields(made: Fields | str) -> Fields:
    assert isinstance(made, Fields), made
    return made


def read(*blocks: bytes, begun: bool = True) -> Fields:
    """The fields of the last block."""
    reader = FieldReader(begun=begun)
    return [fields(reader.read(block)) for block in blocks][-1]


def test_the_fields_that_are_wanted() -> None:
    made = read(hpack.Encoder().encode(REQUEST))
    assert made == Fields(
        method="PUT",
        path="/things/7",
        authority="example:8080",
        protocol=None,
        status=None,
        host=None,
        is_grpc=True,
        traceparent="00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01",
        tracestate="a=1,b=2",
        grpc_status=None,
        grpc_timeout_ns=None,
        unknown=0,
        is_head=True,
    )
    trailers = read(hpack.Encoder().encode([("grpc-status", "14"), ("grpc-message", "secret")]))
    assert (trailers.grpc_status, trailers.is_head) == (14, False)


@pytest.mark.parametrize("huffman", [True, False])
def test_the_table_is_carried_over_requests(huffman: bool) -> None:
    encoder, reader = hpack.Encoder(), FieldReader(begun=True)
    first = fields(reader.read(encoder.encode(REQUEST, huffman=huffman)))
    for number in range(200):
        block = encoder.encode([*REQUEST, ("x-request-id", f"{number:032x}")], huffman=huffman)
        assert fields(reader.read(block)) == first
    assert fields(reader.read(encoder.encode(REQUEST))) == first


def test_what_was_not_seen_is_unknown_and_no_error() -> None:
    encoder = hpack.Encoder()
    encoder.encode(REQUEST)
    reader = FieldReader(begun=False)
    made = fields(reader.read(encoder.encode(REQUEST)))
    assert (made.method, made.path, made.authority, made.traceparent, made.unknown) == (None, None, None, None, 9)
    assert made.is_head
    other = [("x-first", "1"), *REQUEST[:2], (":path", "/other"), *REQUEST[3:]]
    made = fields(reader.read(encoder.encode(other)))
    assert (made.path, made.authority, made.unknown) == ("/other", None, 8)
    made = fields(reader.read(encoder.encode(other)))
    assert (made.path, made.authority, made.unknown) == ("/other", None, 8)
    assert fields(reader.read(f.literal(PATH, b"/third") + f.indexed(FIRST_DYNAMIC))).path == "/third"


def test_a_value_of_an_unknown_name_is_nobodys() -> None:
    """As in a capture that begins behind the first request: the name is an entry, the value a literal."""
    reader = FieldReader(begun=False)
    made = fields(reader.read(f.indexed(3) + f.literal(66, b"00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01")))
    assert (made.method, made.traceparent, made.unknown) == ("POST", None, 1)
    made = fields(reader.read(f.indexed(FIRST_DYNAMIC)))
    assert (made.traceparent, made.unknown) == (None, 1)


def test_a_table_that_is_not_seen_whole_may_be_any_size() -> None:
    """A writer never refers to what has left its table, so remembering more gives no other answer."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 16384
    encoder.encode([])
    reader = FieldReader(begun=False)
    listed = [(f"x-{number}", "v" * 50) for number in range(100)]
    reader.read(encoder.encode([(":path", "/far"), *listed]))
    assert fields(reader.read(encoder.encode([(":path", "/far")]))).path == "/far"


def test_table_size_updates() -> None:
    encoder, reader = hpack.Encoder(), FieldReader(begun=True)
    expected = fields(reader.read(encoder.encode(REQUEST)))
    for size in (0, 4096, 100, 200, 65536, 4096, 1):
        encoder.header_table_size = size
        for _ in range(3):
            assert fields(reader.read(encoder.encode(REQUEST))) == expected
    assert fields(reader.read(f.table_size(0) + f.table_size(4096) + f.literal(PATH, b"/a"))).path == "/a"
    assert fields(reader.read(f.indexed(FIRST_DYNAMIC))).path == "/a"
    assert reader.read(f.table_size(0) + f.indexed(FIRST_DYNAMIC)) == "index"


def test_an_entry_larger_than_the_table_empties_it() -> None:
    reader = FieldReader(begun=True)
    reader.read(f.literal(PATH, b"/a"))
    assert fields(reader.read(f.literal(b"x", bytes(5000)))).path is None
    assert reader.read(f.indexed(FIRST_DYNAMIC)) == "index"


def test_a_table_larger_than_what_is_kept() -> None:
    reader = FieldReader(begun=True)
    made = fields(reader.read(f.table_size(1 << 24) + f.literal(PATH, b"/first")))
    assert made.path == "/first"
    for number in range(3):
        reader.read(f.literal(b"x-%d" % number, bytes(30000)))
        assert reader.octets <= TABLE_OCTETS_MAX
    made = fields(reader.read(f.indexed(FIRST_DYNAMIC + 3) + f.indexed(STATUS_200)))
    assert (made.path, made.status, made.unknown) == (None, 200, 1)


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (f.indexed(0), "index"),
        (f.indexed(62), "index"),
        (f.indexed(1 << 20), "index"),
        (f.literal(70, b"x"), "index"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x01", "coding"),
        (b"\xff\x80", "coding"),
        (b"\x40", "coding"),
        (b"\x40\x05abc", "coding"),
        (b"\x44\x05abc", "coding"),
        (b"\x44\x82\xff\xff", "coding"),  # Huffman: more than 7 bits of padding
        (b"\x44\x81\x1e", "coding"),  # padding that is not all ones
        (b"\x44\x84\xff\xff\xff\xfc", "coding"),  # the end of string in a string
        (f.indexed(2) + f.table_size(4096), "coding"),
        (f.table_size(1 << 32), "table_size"),
        (f.literal(PATH, b"/" * 30000) + f.indexed(61) * 3, None),
    ],
)
def test_faults(block: bytes, fault: str | None) -> None:
    for begun in (True, False):
        reader = FieldReader(begun=begun)
        made = reader.read(block)
        if fault == "index" and not begun and block in (f.indexed(62), f.literal(70, b"x")):
            assert fields(made).unknown == 1
        else:
            assert made == fault if fault is not None else isinstance(made, Fields)


def test_after_a_fault_the_table_is_unknown() -> None:
    reader = FieldReader(begun=True)
    reader.read(f.literal(PATH, b"/a"))
    assert reader.read(f.literal(PATH, b"/b") + f.indexed(0)) == "index"
    assert fields(reader.read(f.indexed(FIRST_DYNAMIC))).unknown == 1
    assert fields(reader.read(f.literal(PATH, b"/c"))).path == "/c"
    assert fields(reader.read(f.indexed(FIRST_DYNAMIC))).path == "/c"


def test_a_header_bomb_is_refused() -> None:
    reader = FieldReader(begun=True)
    reader.read(f.literal(PATH, b"/" * 4000))
    assert reader.read(f.indexed(FIRST_DYNAMIC) * 16000) == "list_size"
    assert LIST_OCTETS_MAX == 1 << 16


def test_no_secret_stays() -> None:
    """Neither in the table nor with the blocks that are known by heart."""
    encoder, reader = hpack.Encoder(), FieldReader(begun=True)
    for _ in range(3):
        reader.read(encoder.encode(REQUEST, huffman=False))
        reader.read(f.indexed(2) + f.literal(b"x-token", b"secret3", index=False))
    kept = repr([reader._table.dynamic_entries, reader._known])
    assert "secret" not in kept
    assert "/things/7" in kept


def test_the_package_writes_nothing_down(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    read(hpack.Encoder().encode(REQUEST))
    assert not [record for record in caplog.records if record.name.startswith("hpack")]


def test_blocks_are_known_by_heart_while_the_table_stays() -> None:
    encoder, reader = hpack.Encoder(), FieldReader(begun=True)
    encoder.encode(REQUEST)
    reader.read(hpack.Encoder().encode(REQUEST))
    block = encoder.encode(REQUEST)
    made = reader.read(block)
    assert reader.read(block) is made
    assert isinstance(made, Fields)
    reader.read(f.literal(PATH, b"/other"))
    with_other = fields(reader.read(block))  # the same octets are other entries now
    assert with_other != made
    for number in range(1000):
        reader.read(f.literal(PATH, b"/%d" % number, index=False))
    assert reader.octets < 70_000 + TABLE_OCTETS_MAX


def test_values_that_are_no_text_or_number() -> None:
    made = read(f.literal(PATH, b"/\xff\x00") + f.literal(STATUS, b"20x") + f.literal(b"grpc-status", "²".encode()))
    assert (made.path, made.status, made.grpc_status) == ("/\\xff\x00", None, None)
    assert read(f.literal(PATH, "/ä".encode())).path == "/ä"


def test_the_package_is_loaded_with_the_first_connection() -> None:
    script = """
import sys
from collections import Counter
from otel_netmon.analysis import http2
from otel_netmon.decode.http2 import Direction, begins_http2
begins_http2(b"GET /")
print("hpack" in sys.modules)
Direction(Counter(), begun=True)
print("hpack" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
