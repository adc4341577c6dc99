"""Header blocks of HTTP/2 as the fields that are wanted of them: RFC 7541; RFC 9113, section 8.

Pure. The coding is the package hpack's. What is added here: a connection joined in the middle, whose table holds entries that
were never seen, and a table that remembers no value that is not wanted. Import this module only where header blocks are read:
the package takes 4 MB.
"""

from __future__ import annotations

import functools
import logging
from typing import Literal, NamedTuple

from hpack import (
    Decoder,
    HPACKDecodingError,
    InvalidTableIndexError,
    InvalidTableSizeError,
    OversizedHeaderListError,
)
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from otel_netmon.decode.http_fields import field_text, is_grpc

BlockFault = Literal["index", "list_size", "table_size", "coding"]
"""Why a block cannot be read: an index that no entry has; more fields than LIST_OCTETS_MAX; a table of 2^32 octets or
more; a number, a string, a Huffman code or the order of representations is none."""

LIST_OCTETS_MAX = 1 << 16
"""Of one block, read out, each field with 32 octets more (RFC 9113, section 6.5.2)."""

TABLE_OCTETS_MAX = 1 << 16
"""Kept of one table. Browsers allow a table of so many octets, most others the 4,096 of the RFC; where a writer uses a larger
one, its oldest entries are not known."""

_TABLE_SIZE_MAX = (1 << 32) - 1
_ENTRY_OCTETS = 32
_INDEX_MAX = HeaderTable.STATIC_TABLE_LENGTH + TABLE_OCTETS_MAX // _ENTRY_OCTETS
_UNKNOWN = b"", b""  # no field has an empty name
_INDEX_ZERO, _LONG_INDEX = 0x80, 0xFF
_SIZE_UPDATE, _SIZE_UPDATE_MASK = 0x20, 0xE0
_ADDED, _ADDED_INDEX, _PLAIN_INDEX = 0x40, 0x3F, 0x0F
_CODED, _LONG_STRING = 0x80, 0x7F
_KNOWN_NAMES, _KNOWN_LENGTHS = 256, 4096
_LENGTHS: dict[tuple[int, int], int] = {}  # of decoded strings, by hash and length
_KNOWN_BLOCKS_MAX = 64
_KNOWN_BLOCK_OCTETS = 1024
_TRACESTATE = b"tracestate"
_UNITS_NS = {"H": 3600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 1000, "n": 1}

_WANTED = frozenset(
    (
        b":method",
        b":path",
        b":authority",
        b":protocol",
        b":status",
        b"host",
        b"content-type",
        b"traceparent",
        b"tracestate",
        b"grpc-status",
        b"grpc-timeout",
    )
)


logging.getLogger("hpack").setLevel(logging.WARNING)  # below that it writes down what it reads


class Fields(NamedTuple):
    r"""What is wanted of a header block; None: there is no such field, or it is not known.

    Octets that are no UTF-8 stand as ``\xNN``. Of a field that comes twice the first is taken; of tracestate all, as RFC 9110,
    section 5.2, joins them.

    Attributes:
        host: of the field Host.
        is_grpc: whether there is a Content-Type, and it is that of gRPC.
        protocol: of an extended CONNECT (RFC 8441).
        status, grpc_status, grpc_timeout_ns: None as well if they are no number, or no time.
        unknown: fields that refer to entries of the table that were never seen: their names are not known.
        is_head: whether any field is a pseudo-header field: trailers have none.
    """

    method: str | None
    path: str | None
    authority: str | None
    protocol: str | None
    status: int | None
    host: str | None
    is_grpc: bool
    traceparent: str | None
    tracestate: str | None
    grpc_status: int | None
    grpc_timeout_ns: int | None
    unknown: int
    is_head: bool


class _Table(HeaderTable):
    """A table of which older entries may never have been seen.

    Values that are not wanted are not kept: they may be secrets (Cookie, Authorization).

    Attributes:
        is_whole: whether all its entries were seen and are kept.
        changes: how often an entry was added, or the size set.
    """

    def __init__(self, *, is_whole: bool, size: int) -> None:
        super().__init__()
        self.is_whole = is_whole
        self.changes = 0
        self.maxsize = size

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        if not self.is_whole and len(self.dynamic_entries) < index - self.STATIC_TABLE_LENGTH and index <= _INDEX_MAX:
            return _UNKNOWN
        return super().get_by_index(index)

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        entries = self.dynamic_entries
        size = self._current_size + len(name) + len(value) + _ENTRY_OCTETS
        entries.appendleft((name, value if name in _WANTED else bytes(len(value))))
        while size > self._maxsize and entries:
            old_name, old_value = entries.pop()
            size -= len(old_name) + len(old_value) + _ENTRY_OCTETS
        self._current_size = size

    @property
    def maxsize(self) -> int:
        return super().maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        if newmax > TABLE_OCTETS_MAX:
            self.is_whole = False
        vars(HeaderTable)["maxsize"].__set__(self, min(newmax, TABLE_OCTETS_MAX))

    @property
    def octets(self) -> int:
        return self._current_size


class FieldReader:
    """Reads the header blocks of one direction in order.

    Args:
        begun: whether all blocks of the direction are given, from the first one on.
    """

    __slots__ = ("_decoder", "_known", "_table")

    def __init__(self, *, begun: bool) -> None:
        self._known: dict[
            tuple[int, int], Fields
        ] = {}  # by hash and length of the block, while the table stays as it is
        # Entries leave a table in order, so one that is larger than the writer's gives no other answer.
        self._table = _Table(is_whole=begun, size=HeaderTable.DEFAULT_SIZE if begun else TABLE_OCTETS_MAX)
        self._decoder = Decoder(max_header_list_size=LIST_OCTETS_MAX)
        self._decoder.header_table = self._table
        self._decoder.max_allowed_table_size = _TABLE_SIZE_MAX

    @property
    def octets(self) -> int:
        """How many octets are kept, about."""
        return self._table.octets + len(self._known) * _KNOWN_BLOCK_OCTETS

    def lose(self) -> None:
        """Takes that blocks were lost: from here on no entry of the table is known."""
        size = self._table.maxsize
        self._table = self._decoder.header_table = _Table(is_whole=False, size=size)
        self._known.clear()

    def read(self, block: bytes) -> Fields | BlockFault:
        """Gives the fields of the next block. After a fault the table's entries are not known."""
        mark = hash(block), len(block)
        known = self._known.get(mark)
        if known is not None:
            return known
        table = self._table
        changes = table.changes
        try:
            listed = self._decode(block)
        except HPACKDecodingError as error:
            self.lose()
            return _fault(error)
        fields = _fields(listed, is_whole=table.is_whole)
        if table.changes != changes:
            self._known.clear()
        elif len(self._known) < _KNOWN_BLOCKS_MAX and sum([len(value) for _, value in listed]) <= _KNOWN_BLOCK_OCTETS:
            self._known[mark] = fields
        return fields

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Reads a block out: short indices and short strings, as most are, without the package's detours, from anything else on by it."""
        listed: list[tuple[bytes, bytes]] = []
        octets, at, end = 0, 0, len(block)
        table = self._table
        while at < end:
            first = block[at]
            if first > _INDEX_ZERO:
                if first == _LONG_INDEX:
                    break
                entry = table.get_by_index(first & 0x7F)
                at += 1
            else:
                found = _literal(block, at, table)
                if found is None:
                    break
                entry, at = found
            listed.append(entry)
            octets += len(entry[0]) + len(entry[1]) + _ENTRY_OCTETS
        rest = block[at:]
        if octets > LIST_OCTETS_MAX:
            raise OversizedHeaderListError
        if listed and rest and rest[0] & _SIZE_UPDATE_MASK == _SIZE_UPDATE:
            raise HPACKDecodingError("a table size update behind a field")
        if rest:
            listed += self._decoder.decode(rest, raw=True)
        return listed


def _literal(block: bytes, at: int, table: _Table) -> tuple[tuple[bytes, bytes], int] | None:
    """Reads a literal field (RFC 7541, section 6.2) at an offset; None, and nothing is done, where a number is long or octets are missing.

    A value that is not wanted may come as zeros.
    """
    first = block[at]
    adds = first & _ADDED
    if first == _INDEX_ZERO or (not adds and first & _SIZE_UPDATE):
        return None
    mask = _ADDED_INDEX if adds else _PLAIN_INDEX
    index = first & mask
    if index == mask:
        return None
    at += 1
    if index:
        name = table.get_by_index(index)[0]
    else:
        string = _string(block, at)
        if string is None:
            return None
        raw, coded, at = string
        name = _name(raw) if coded else raw
    string = _string(block, at)
    if string is None:
        return None
    value, coded, at = string
    if coded:
        value = decode_huffman(value) if name in _WANTED else bytes(_decoded_octets(value))
    if adds:
        table.add(name, value)
    return (name, value), at


def _string(block: bytes, at: int) -> tuple[bytes, int, int] | None:
    """The octets of a string (RFC 7541, section 5.2), whether they are of Huffman's code, and where it ends; None as ``_literal``."""
    if at >= len(block):
        return None
    coded, length = block[at] & _CODED, block[at] & _LONG_STRING
    end = at + 1 + length
    return None if length == _LONG_STRING or end > len(block) else (block[at + 1 : end], coded, end)


_name = functools.lru_cache(_KNOWN_NAMES)(decode_huffman)


def _decoded_octets(coded: bytes) -> int:
    """How long a string is that is not wanted; those that come again are known by their hash, and nothing of them is kept."""
    mark = hash(coded), len(coded)
    octets = _LENGTHS.get(mark)
    if octets is None:
        octets = len(decode_huffman(coded))
        if len(_LENGTHS) >= _KNOWN_LENGTHS:
            _LENGTHS.clear()
        _LENGTHS[mark] = octets
    return octets


def _fault(error: HPACKDecodingError) -> BlockFault:
    match error:
        case InvalidTableIndexError():
            return "index"
        case OversizedHeaderListError():
            return "list_size"
        case InvalidTableSizeError():
            return "table_size"
    return "coding"


def _fields(listed: list[tuple[bytes, bytes]], *, is_whole: bool) -> Fields:
    found: dict[bytes, bytes] = {}
    unknown = 0
    is_head = False
    for name, value in listed:
        if name in _WANTED:
            if name not in found:
                found[name] = value
            elif name == _TRACESTATE:
                found[name] += b"," + value
        elif not name and not is_whole:
            unknown += 1
        is_head = is_head or name[:1] == b":"
    text = {name: field_text(value) for name, value in found.items()}.get
    return Fields(
        text(b":method"),
        text(b":path"),
        text(b":authority"),
        text(b":protocol"),
        _number(text(b":status")),
        text(b"host"),
        is_grpc(found.get(b"content-type", b"")),
        text(b"traceparent"),
        text(_TRACESTATE),
        _number(text(b"grpc-status")),
        _timeout_ns(text(b"grpc-timeout")),
        unknown,
        is_head,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) <= 9 else None


def _timeout_ns(text: str | None) -> int | None:
    """Reads a Timeout of gRPC: at most eight digits and a unit."""
    if not text or text[-1] not in _UNITS_NS:
        return None
    number = _number(text[:-1])
    return None if number is None else number * _UNITS_NS[text[-1]]
