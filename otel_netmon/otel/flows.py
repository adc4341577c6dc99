"""Conversations to points of netmon.flow.io and netmon.flow.packets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Direction, protocol_name
from otel_netmon.analysis.flows import BYTES, CONVERSATION, PACKETS
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import AttributeSet, Tag, encode_one
from otel_netmon.otel.points import NumberSeries
from otel_netmon.otel.series_sets import OVERFLOW

DIRECTIONS = {int(d): d.name.lower() for d in Direction}

_TAG = Tag.NUMBER_DATA_POINT
_WORDS = CONVERSATION.itemsize // 4


class FlowPoints:
    """Makes the points of each cycle; a conversation's attributes are encoded once while it keeps its place."""

    def __init__(self) -> None:
        self._keys = np.empty(0, CONVERSATION)
        self._slots = np.empty(0, np.intp)
        self._sets: list[AttributeSet] = []
        self._rest = [
            AttributeSet.of({**OVERFLOW, "network.io.direction": name}) for _, name in sorted(DIRECTIONS.items())
        ]

    def points(self, reading: SeriesReading) -> Mapping[str, NumberSeries]:
        """Gives the points of one cycle: one overflow point a direction, then each conversation."""
        self._follow(reading)
        attributes: Sequence[AttributeSet] = [*self._rest, *self._sets]
        return {
            name: NumberSeries(
                attributes, reading.starts_ns, np.concatenate([reading.rest[:, counter], reading.values[counter]])
            )
            for name, counter in (("netmon.flow.io", BYTES), ("netmon.flow.packets", PACKETS))
        }

    def _follow(self, reading: SeriesReading) -> None:
        """Brings the attribute sets to the series of this reading."""
        if np.array_equal(reading.slots, self._slots):
            changed = np.flatnonzero((_words(reading.keys) != _words(self._keys)).any(axis=1)).tolist()
            if changed:
                self._sets = list(self._sets)
                for index, key in zip(changed, _rows(reading.keys[changed]), strict=True):
                    self._sets[index] = attribute_set(key)
        else:
            known = dict(zip(_rows(self._keys), self._sets, strict=True))
            self._sets = [known.get(key) or attribute_set(key) for key in _rows(reading.keys)]
        self._keys, self._slots = reading.keys, reading.slots


def attribute_set(conversation: bytes) -> AttributeSet:
    """The identity of a conversation (36 bytes of analysis.flows.CONVERSATION); server.port is left out where there is none."""
    return AttributeSet(
        _address("client.address", conversation[:16])
        + _address("server.address", conversation[16:32])
        + _rest_of(conversation[32:36])
    )


@functools.lru_cache(256)
def _address(key: str, address: bytes) -> bytes:
    return encode_one(key, address_text(address), _TAG)


@functools.lru_cache(256)
def _rest_of(part: bytes) -> bytes:
    """Transport, direction and port from server_port (big-endian), protocol and direction."""
    encoded = encode_one("network.transport", protocol_name(part[2]), _TAG)
    encoded += encode_one("network.io.direction", DIRECTIONS[part[3]], _TAG)
    port = int.from_bytes(part[:2], "big")
    return encoded + encode_one("server.port", port, _TAG) if port else encoded


def _words(keys: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(keys).view("<u4").reshape(len(keys), _WORDS)


def _rows(keys: npt.NDArray[Any]) -> list[bytes]:
    data, size = keys.tobytes(), CONVERSATION.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]
