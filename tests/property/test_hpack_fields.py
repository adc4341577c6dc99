"""Header blocks are read as the package hpack reads them, by way of its encoder and with octets changed, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder, Encoder, HPACKDecodingError
from hypothesis import given, settings, strategies as st

from otel_netmon.decode.hpack_fields import _WANTED, LIST_OCTETS_MAX, FieldReader

NAMES = st.sampled_from([*sorted(_WANTED), b"cookie", b"date", b"server", b"x-own", b"x" * 130, b""])
VALUES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"200", b"/a/b", b"application/grpc", b"y" * 200]))
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8)
BLOCKS = st.lists(
    st.tuples(FIELDS, st.booleans(), st.one_of(st.none(), st.tuples(st.integers(0, 400), st.integers(0, 255)))),
    max_size=8,
)


def shown(listed: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes | int]]:
    """Of values that are not wanted the length alone."""
    return [(name, value if name in _WANTED else len(value)) for name, value in listed]


@settings(max_examples=150, deadline=None)
@given(blocks=BLOCKS, sizes=st.lists(st.sampled_from([0, 64, 100, 4096]), max_size=3))
def test_blocks_are_read_as_the_package_does(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, tuple[int, int] | None]], sizes: list[int]
) -> None:
    encoder, reference = Encoder(), Decoder(LIST_OCTETS_MAX)
    reference.max_allowed_table_size = (1 << 32) - 1
    reader = FieldReader(begun=True)
    for fields, huffman, change in blocks:
        if sizes:
            encoder.header_table_size = sizes.pop()
        block = bytearray(encoder.encode(fields, huffman=huffman))
        if change is not None and block:
            block[change[0] % len(block)] = change[1]
        try:
            expected = list(reference.decode(bytes(block), raw=True))
        except HPACKDecodingError:
            assert isinstance(reader.read(bytes(block)), str) or not reader._table.is_whole
            return
        listed, table = reader._decode(bytes(block)), reader._table
        if not table.is_whole:
            return  # the block asks for a larger table than is kept
        assert shown(listed) == shown(expected)
        assert shown(list(table.dynamic_entries)) == shown(list(reference.header_table.dynamic_entries))
        assert table.octets == sum(len(name) + len(value) + 32 for name, value in table.dynamic_entries)
