"""Attribute sets in their wire form: encoded once when a series begins, copied into every export after that.

Wire format: Protocol Buffers encoding, ``KeyValue`` and ``AnyValue`` of opentelemetry/proto/common/v1/common.proto. A message that
has attributes repeats them under a field number of its own, so the field's tag is an argument.
"""

from __future__ import annotations

import enum
import functools
import operator
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from otel_netmon.otel import prometheus_names
from otel_netmon.otel.text import escaped, label_value, portable_text

Value = str | int | float | bool


class Tag(enum.IntEnum):
    """Tag byte (field number and wire type 2) of the attributes of each message."""

    NUMBER_DATA_POINT = 7 << 3 | 2
    HISTOGRAM_DATA_POINT = 9 << 3 | 2
    EXPONENTIAL_HISTOGRAM_DATA_POINT = 1 << 3 | 2
    SPAN = 9 << 3 | 2
    LOG_RECORD = 6 << 3 | 2
    RESOURCE = 1 << 3 | 2
    EXEMPLAR = 7 << 3 | 2


def varint(value: int) -> bytes:
    """Base-128 varint; a negative value as its 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    if value < 0x80:
        return value.to_bytes(1, "little")
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def encode(attributes: Mapping[str, Value], tag: int) -> bytes:
    """Attributes as repeated ``KeyValue`` fields with this tag.

    Text is made portable (valid UTF-8 without NUL, see ``text.portable_text``).
    """
    return b"".join([encode_one(key, value, tag) for key, value in attributes.items()])


def encode_one(key: str, value: Value, tag: int) -> bytes:
    """One attribute as a ``KeyValue`` field with this tag."""
    if isinstance(value, str):
        data = value.encode() if value.isascii() and "\0" not in value else portable_text(value).encode()
        length = len(data)
        any_value = (b"\x0a" + length.to_bytes(1, "little") if length < 0x80 else b"\x0a" + varint(length)) + data
    elif isinstance(value, bool):
        any_value = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        any_value = b"\x18" + varint(value)
    else:
        any_value = b"\x21" + struct.pack("<d", value)
    return _head(key, len(any_value), tag) + any_value


@functools.lru_cache(4096)
def _head(key: str, length: int, tag: int) -> bytes:
    """All that stands before a value of so many bytes."""
    name = key.encode()
    begin = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(length)
    return tag.to_bytes(1, "little") + varint(len(begin) + length) + begin


class AttributeSet:
    """The identity of a series, immutable, compared by its encoded form: the points' attributes, and the resource they are about.

    A process or container that the agent sees is a resource of its own; what the agent tells about itself and its host has the
    agent's. Prometheus has no resources by series: there, those of another resource are labels.

    Args:
        encoded: attributes of the points as ``encode(…, Tag.NUMBER_DATA_POINT)`` gives them.
        resource: attributes of the resource as ``encode(…, Tag.RESOURCE)`` gives them, without what holds for the whole host
            (see ``resource.host_attributes``); nothing for the agent's own. Sets of one resource should share one object.
    """

    __slots__ = ("_label_fields", "_labels", "_retagged", "encoded", "resource")

    def __init__(self, encoded: bytes, resource: bytes = b"") -> None:
        self.encoded = encoded
        self.resource = resource
        self._labels: str | None = None
        self._label_fields: bytes | None = None
        self._retagged = b""

    @classmethod
    def of(cls, attributes: Mapping[str, Value], resource: Mapping[str, Value] | bytes | None = None) -> AttributeSet:
        """The set of these attributes, in their order; sets asked for again and again are made once.

        For small closed sets. A series that comes and goes is encoded when it begins, and its set kept as long as it is there.

        Args:
            resource: attributes of the resource, or what ``encoded_resource`` made of them; none for the agent's own.
        """
        values = tuple(attributes.values())
        of = resource if isinstance(resource, bytes) else encoded_resource(resource or {})
        return _interned(tuple(attributes), values, tuple(map(type, values)), of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSet) and self.encoded == other.encoded and self.resource == other.resource

    def __hash__(self) -> int:
        return hash(self.encoded) ^ hash(self.resource)

    def __repr__(self) -> str:
        return f"AttributeSet({dict(self.items())}{f', {dict(self.resource_items())}' if self.resource else ''})"

    def items(self) -> Iterator[tuple[str, Value]]:
        """Keys and values of the points' attributes, decoded."""
        return map(_decode_key_value, key_values(self.encoded))

    def resource_items(self) -> Iterator[tuple[str, Value]]:
        """Keys and values of the resource's attributes, decoded; none for the agent's own."""
        return map(_decode_key_value, key_values(self.resource))

    def with_tag(self, tag: int) -> bytes:
        """The encoded attributes under another tag; the last one asked for is kept."""
        if tag == Tag.NUMBER_DATA_POINT:
            return self.encoded
        if self._retagged[:1] != bytes((tag,)):  # of a set without attributes there is nothing to keep
            changed = bytearray(self.encoded)
            at = 0
            while at < len(changed):
                changed[at] = tag
                length, at = _read_varint(self.encoded, at + 1)
                at += length
            self._retagged = bytes(changed)
        return self._retagged

    @property
    def labels(self) -> str:
        """Prometheus label pairs without braces, escaped; see ``prometheus_names.label_pairs``."""
        if self._labels is None:
            found = [(_short_label if len(each) < 0x80 else _label)(each) for each in self._fields()]
            if len({name for name, _ in found}) < len(found):
                found = list(map(_label_text, self.label_pairs()))
            self._labels = ",".join([label for _, label in found if label])
        return self._labels

    @property
    def label_fields(self) -> bytes:
        """Prometheus labels as the fields ``label`` of io.prometheus.client.Metric."""
        if self._label_fields is None:
            found = [(_short_label_field if len(each) < 0x80 else _label_field)(each) for each in self._fields()]
            if len({name for name, _ in found}) < len(found):
                found = list(map(_encoded_label, self.label_pairs()))
            self._label_fields = b"".join([label for _, label in found])
        return self._label_fields

    def label_pairs(self) -> list[tuple[str, str]]:
        """Prometheus label names and values, see ``prometheus_names.label_pairs``: first the points', then the resource's."""
        return prometheus_names.label_pairs([*self.items(), *self.resource_items()])

    def _fields(self) -> list[bytes]:
        """The ``KeyValue`` messages of both."""
        return key_values(self.encoded) + key_values(self.resource) if self.resource else key_values(self.encoded)


def encoded_resource(attributes: Mapping[str, Value]) -> bytes:
    """Attributes of a resource encoded, the same object for the same ones as long as they come again and again."""
    values = tuple(attributes.values())
    return _interned_resource(tuple(attributes), values, tuple(map(type, values))) if attributes else b""


def decoded(encoded: bytes) -> dict[str, Value]:
    """Attributes of which ``encode`` made this, whatever the tag."""
    return dict(map(_decode_key_value, key_values(encoded)))


def key_values(encoded: bytes) -> list[bytes]:
    """The ``KeyValue`` messages of which ``encode`` made this."""
    at = 0
    fields = []
    while at < len(encoded):
        length, at = encoded[at + 1], at + 2
        if length > 0x7F:
            length, at = _read_varint(encoded, at - 1)
        fields.append(encoded[at : at + length])
        at += length
    return fields


def labels_of(sets: Sequence[AttributeSet]) -> list[str]:
    """``labels`` of many; those that were asked for before cost next to nothing."""
    found = list(map(_known_labels, sets))
    return [each.labels for each in sets] if None in found else found


def label_fields_of(sets: Sequence[AttributeSet]) -> list[bytes]:
    """``label_fields`` of many; those that were asked for before cost next to nothing."""
    found = list(map(_known_label_fields, sets))
    return [each.label_fields for each in sets] if None in found else found


_known_labels = operator.attrgetter("_labels")
_known_label_fields = operator.attrgetter("_label_fields")


def encode_label_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Label names and values as ``LabelPair`` messages under field 1, as Metric and Exemplar of io.prometheus.client have them."""
    return b"".join([label for _, label in map(_encoded_label, pairs)])


def _label(key_value: bytes) -> tuple[str, str]:
    """Label name, and the label as text; no text where it is left out."""
    key, value = _decode_key_value(key_value)
    return _label_text((prometheus_names.label_name(key), label_value(value)))


def _label_text(pair: tuple[str, str]) -> tuple[str, str]:
    name, value = pair
    return name, f'{name}="{escaped(value)}"' if value else ""


def _label_field(key_value: bytes) -> tuple[str, bytes]:
    """Label name, and the label as a field; nothing where it is left out."""
    key, value = _decode_key_value(key_value)
    return _encoded_label((prometheus_names.label_name(key), label_value(value)))


def _encoded_label(pair: tuple[str, str]) -> tuple[str, bytes]:
    name, value = pair
    head, data = _label_head(name), value.encode()
    message = head + varint(len(data)) + data
    return name, b"\x0a" + varint(len(message)) + message if value else b""


@functools.cache
def _label_head(name: str) -> bytes:
    return b"\x0a" + varint(len(name)) + name.encode() + b"\x12"


# Only short ones are cached: the memory that hostile text can hold there stays bounded.
_short_label = functools.lru_cache(1024)(_label)
_short_label_field = functools.lru_cache(1024)(_label_field)


@functools.lru_cache(8192)
def _interned(
    keys: tuple[str, ...], values: tuple[Value, ...], _types: tuple[type, ...], resource: bytes
) -> AttributeSet:
    return AttributeSet(encode(dict(zip(keys, values, strict=True)), Tag.NUMBER_DATA_POINT), resource)


@functools.lru_cache(1024)
def _interned_resource(keys: tuple[str, ...], values: tuple[Value, ...], _types: tuple[type, ...]) -> bytes:
    return encode(dict(zip(keys, values, strict=True)), Tag.RESOURCE)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _decode_key_value(data: bytes) -> tuple[str, Value]:
    if len(data) < 0x80 and data[(end := 2 + data[1]) + 2] == 0x0A:  # text, and no length takes more than one byte
        return data[2:end].decode(), data[end + 4 :].decode()
    length, at = _read_varint(data, 1)
    key = data[at : at + length].decode()
    _, at = _read_varint(data, at + length + 1)
    field = data[at]
    if field == 0x0A:
        length, at = _read_varint(data, at + 1)
        return key, data[at : at + length].decode()
    if field == 0x21:
        return key, float(struct.unpack_from("<d", data, at + 1)[0])
    number, _ = _read_varint(data, at + 1)
    if field == 0x10:
        return key, bool(number)
    return key, number - (1 << 64) if number >> 63 else number
