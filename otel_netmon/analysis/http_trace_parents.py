"""The traceparent fields of many requests at once: W3C Trace Context, section 3.2.

Almost all are of version 00 and have their 55 octets at known places, so they are read as columns; the others one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.decode.http1_heads import read_request
from otel_netmon.decode.http_fields import TraceParent, trace_parent

_MARKS = (b"arent:", b"ARENT:")
"""Of the name: how else capitals are set does not matter to them."""
_LINE = np.frombuffer(b"\ntraceparent: ", np.uint8)
_LOWER = np.uint8(0x20)
_RANDOM = b"rv:"
_OCTETS = 55
_DASHES = (2, 35, 52)
_HEX = np.full(256, 0xFF, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class TraceParents(NamedTuple):
    """Of n requests.

    Attributes:
        exist: bool, whether they have a parent.
        sampled: bool, its flag.
        trace_ids: uint8, shape (n, 16), zero without a parent.
        states: tracestate of those whose tracestate has a randomness of its own, by place.
    """

    exist: npt.NDArray[np.bool_]
    sampled: npt.NDArray[np.bool_]
    trace_ids: npt.NDArray[np.uint8]
    states: dict[int, str]

    def where(self, which: npt.NDArray[np.intp]) -> TraceParents:
        """Those at these places."""
        moved = {at: place for place, at in enumerate(which.tolist())} if self.states else {}
        states = {moved[at]: state for at, state in self.states.items() if at in moved}
        return TraceParents(self.exist[which], self.sampled[which], self.trace_ids[which], states)


def parents_of_requests(requests: Sequence[HttpRequest]) -> TraceParents:
    """Gives the parents of requests that are whole."""
    found = _none(len(requests))
    for at, request in enumerate(requests):
        _set(found, at, trace_parent(request.traceparent), request.tracestate)
    return found


def may_name_parent(head: bytes) -> bool:
    """Whether there is a traceparent in a head, as far as that is told without reading it."""
    return any(mark in head for mark in _MARKS)


def parents_of_heads(
    data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], marked: npt.NDArray[np.bool_]
) -> TraceParents:
    """Gives the parents of requests of HTTP/1.

    Args:
        data: their heads are parts of it, from ``starts`` to ``ends``.
        marked: which are looked at: those of which ``may_name_parent`` is true, or not known.
    """
    found = _none(len(starts))
    asked = np.flatnonzero(marked)
    if not len(asked):
        return found
    begins, stops = starts.tolist(), ends.tolist()
    find = data.find
    lower, upper = _MARKS
    listed = asked.tolist()
    spots = [find(lower, begins[at], stops[at]) for at in listed]
    spots = [find(upper, begins[at], stops[at]) if spot < 0 else spot for spot, at in zip(spots, listed, strict=True)]
    places = np.array(spots, np.int64)
    present, places = asked[places >= 0], places[places >= 0]
    if not len(present):
        return found
    values = places + len(lower) + 1
    plain = values + _OCTETS < ends[present]  # a line end follows
    octets = np.frombuffer(data, np.uint8)[values[plain, None] + np.arange(-len(_LINE), _OCTETS + 1)]
    good = _read_plain(found, present[plain], octets)
    odd = np.concatenate([present[~plain], present[plain][~good]])
    for at in odd.tolist():
        _read_one(found, at, data[begins[at] : stops[at]])
    for at in present[plain][good].tolist():
        if find(_RANDOM, begins[at], stops[at]) >= 0:
            _read_one(found, at, data[begins[at] : stops[at]])
    return found


def _none(number: int) -> TraceParents:
    exist, sampled = np.zeros((2, number), np.bool_)
    return TraceParents(exist, sampled, np.zeros((number, 16), np.uint8), {})


def _read_plain(
    found: TraceParents, places: npt.NDArray[np.intp], octets: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Reads values of version 00, shape (n, 70): with the name before each, and the octet behind; gives which are such."""
    begins = (octets[:, 0] == _LINE[0]) & (octets[:, 1 : len(_LINE)] | _LOWER == _LINE[1:]).all(axis=1)
    octets = octets[:, len(_LINE) :]
    nibbles = _HEX[octets[:, :_OCTETS]]
    dashes = octets[:, _DASHES] == ord("-")
    digits = np.delete(nibbles, _DASHES, axis=1)
    good = (
        begins
        & dashes.all(axis=1)
        & (digits < 16).all(axis=1)
        & (digits[:, :2] == 0).all(axis=1)
        & digits[:, 2:34].any(axis=1)
        & digits[:, 34:50].any(axis=1)
        & np.isin(octets[:, _OCTETS], (13, 10))
    )
    chosen = places[good]
    found.exist[chosen] = True
    found.sampled[chosen] = digits[good, -1] & 1
    found.trace_ids[chosen] = digits[good, 2:34:2] << 4 | digits[good, 3:34:2]
    result: npt.NDArray[np.bool_] = good
    return result


def _read_one(found: TraceParents, at: int, octets: bytes) -> None:
    head = read_request(octets, is_whole=False)
    if head is not None:
        _set(found, at, trace_parent(head.fields.traceparent), head.fields.tracestate)


def _set(found: TraceParents, at: int, parent: TraceParent | None, state: str | None) -> None:
    if parent is not None:
        found.exist[at], found.sampled[at] = True, parent.is_sampled
        found.trace_ids[at] = np.frombuffer(parent.trace_id, np.uint8)
        if state is not None:
            found.states[at] = state
