"""One direction of an HTTP/1 connection, octet by octet: RFC 9112.

Pure and incremental: octets in the order of the stream go in, in pieces of any size, and events come out. What is kept is
bounded by one head; of bodies nothing is kept. A piece is the data of one segment: where the order of messages is lost, the
next one is looked for at the begin of a piece, because who sends a message almost always begins a segment with it.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Literal, NamedTuple

from otel_netmon.decode.http1_bodies import BodyReader, ChunkedBody, LengthBody, OpenBody
from otel_netmon.decode.http1_heads import (
    HEAD_OCTETS_MAX,
    Body,
    RequestHead,
    ResponseHead,
    begins_request,
    begins_response,
    may_be_field,
    read_request,
    read_response,
)

__all__ = [
    "Begin",
    "Content",
    "End",
    "Event",
    "Fault",
    "Http1Reader",
    "begins_http1",
    "begins_request",
    "begins_response",
]

FaultReason = Literal["not_http", "head_too_long", "cut_head", "body", "gap"]
"""What comes is no message; a head is longer than what is kept of one, and known as far as that; a head is known as far as
octets are missing, or the direction ended; chunks that are none, or fields that leave open where a body ends; a gap behind
which nobody knows where the next message begins."""

_HEAD_END = re.compile(rb"\n\r*\n")
_TAIL_OCTETS = 4
"""Of a head that is not kept: in them its end is found if it comes in two pieces, up to three carriage returns."""


class Begin(NamedTuple):
    """The first octet of a message."""


class Content(NamedTuple):
    """Octets behind a head, `octets` of them content, the others its framing."""

    octets: int


class End(NamedTuple):
    """The last octet of a message."""


class Fault(NamedTuple):
    """Something is other than it should be; to be counted."""

    reason: FaultReason


Event = Begin | RequestHead | ResponseHead | Content | End | Fault


class _State(Enum):
    LOST = auto()
    """Where a message begins is not known."""
    HEAD = auto()
    """A message begins here, or has begun."""
    LONG_HEAD = auto()
    """Here is the rest of a head that is not kept."""
    BODY = auto()
    OPAQUE = auto()
    """What follows is no HTTP/1."""


def begins_http1(data: bytes) -> bool | None:
    """Whether octets are the begin of a request or a response; None: there are too few."""
    request, response = begins_request(data), begins_response(data)
    return True if request or response else None if request is None or response is None else False


class Http1Reader:
    """One direction of a connection.

    ``feed``, ``gap`` and ``end`` say what comes next; after each of them ``next`` is called until it gives nothing. When it
    gives a head, ``expect`` is told what follows that. A message that the end of the direction cut off has no End.

    Args:
        is_request: whether it is the client's direction.
        begun: whether the first octet is the first of the connection.

    Attributes:
        may_begin: whether a message may begin inside a body that ends with the connection, because the client sent another
            request behind it. The owner sets it.
        has_strayed: since the last head octets came of which nobody knows what they belong to.
    """

    __slots__ = (
        "_at",
        "_begins",
        "_body",
        "_data",
        "_gap",
        "_has_begun",
        "_has_ended",
        "_is_checked",
        "_is_cut",
        "_is_loose",
        "_is_request",
        "_is_start",
        "_partial",
        "_pending",
        "_scanned",
        "_state",
        "_told",
        "has_strayed",
        "may_begin",
    )

    def __init__(self, *, is_request: bool, begun: bool = False) -> None:
        self.may_begin = self.has_strayed = False
        self._is_request = is_request
        self._begins = begins_request if is_request else begins_response
        self._state = _State.HEAD if begun else _State.LOST
        self._data = b""
        self._at = 0
        self._is_start = False  # nothing of the piece was read
        self._gap = 0
        self._has_ended = False
        self._pending: list[Event] = []
        self._partial = bytearray()  # a head, or what may be the begin of one
        self._scanned = 0
        self._has_begun = False
        self._is_checked = False  # the first line is one
        self._is_cut = False  # the head that was given last goes on, nobody knows how far
        self._body: BodyReader = LengthBody(0)
        self._told = 0  # octets of the body
        self._is_loose = False  # nobody knows where the body ends: it does where another message begins

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return len(self._partial) + len(self._data)

    @property
    def is_in_step(self) -> bool:
        """Whether it is known, or will be, where the next message begins."""
        return self._state is not _State.LOST and not (self._state is _State.BODY and self._is_loose)

    def feed(self, data: bytes) -> None:
        """Takes the octets of the next segment."""
        self._data, self._at, self._is_start = data, 0, True

    def gap(self, octets: int) -> None:
        """Takes that so many octets are missing."""
        self._gap = octets

    def end(self) -> None:
        """Takes that nothing follows."""
        self._has_ended = True

    @property
    def rest(self) -> bytes:
        """What was fed and not read."""
        return self._data[self._at :]

    def take_rest(self) -> bytes:
        """Gives what was fed and not read."""
        rest, self._data, self._at = self.rest, b"", 0
        return rest

    def expect(self, body: Body) -> None:
        """Takes what follows the head that was given last."""
        if body == "opaque":
            self._state = _State.OPAQUE
            return
        if self._is_cut:
            body = "invalid"
        self._is_loose = body == "invalid" or (body == "close" and self._state is _State.LONG_HEAD)
        if self._state is not _State.LONG_HEAD:
            self._state = _State.BODY
        self._told = 0
        if isinstance(body, int):
            self._body = LengthBody(body)
        else:
            self._body = ChunkedBody() if body == "chunked" else OpenBody()
        if body == "invalid" and not self._is_cut:
            self._pending.append(Fault("body"))

    def cut(self) -> None:
        """Takes that the head that has begun is over, though its end did not come: it was answered."""
        if self._state is _State.HEAD and self._has_begun:
            fault = self._cut_head()
            if fault is not None:
                self._pending.insert(0, fault)

    def expect_headless(self) -> None:
        """Takes that all that follows is the content of one message (HTTP/0.9)."""
        self._forget_head()
        self._state, self._is_loose, self._told = _State.BODY, False, 0
        self._body = OpenBody()

    def next(self) -> Event | None:
        """Gives the next event; None: more octets are needed."""
        while True:
            if self._pending:
                return self._pending.pop(0)
            if self._state is _State.BODY and self._body.is_over:
                return self._end_message()
            if self._state is _State.OPAQUE:
                return None
            if self._at < len(self._data):
                event = self._read()
            elif self._gap:
                event = self._pass_gap()
            elif self._has_ended:
                event, self._has_ended = self._pass_end(), False
            else:
                self._data, self._at = b"", 0
                return None
            if event is not None:
                return event

    def _read(self) -> Event | None:
        if self._state is _State.HEAD:
            return self._read_head()
        if self._state is _State.BODY:
            return self._read_body()
        if self._state is _State.LONG_HEAD:
            return self._skip_head()
        self._look_for_head()
        return None

    def _consume(self) -> bytes:
        """What is left of the piece."""
        data = self._data[self._at :] if self._at else self._data
        self._at, self._is_start = len(self._data), False
        return data

    def _look_for_head(self) -> None:
        is_start = self._is_start
        piece = self._consume()
        if not is_start:
            self.has_strayed = True
            return
        partial = bytes(self._partial)
        self._partial.clear()
        for data in (partial + piece, piece) if partial else (piece,):
            verdict = self._begins(data)
            if verdict:
                self._data, self._at = data, 0
                self._state, self._is_checked = _State.HEAD, True
            elif verdict is None:
                self._partial += data
            if verdict is not False:
                return
        self.has_strayed = True

    def _read_head(self) -> Event | None:
        if not self._has_begun:
            data, at = self._data, self._at
            while at < len(data) and data[at] in b"\r\n":
                at += 1
            self._at = at
            if at == len(data):
                return None
            self._has_begun = True
            return Begin()
        if not self._partial:
            end = _HEAD_END.search(self._data, self._at)
            if end is not None and end.end() - self._at <= HEAD_OCTETS_MAX:
                head = self._data[self._at : end.end()]
                if self._is_checked or self._begins(head):
                    self._at, self._is_start = end.end(), False
                    return self._give_head(head)
                return self._lose()
        before = len(self._partial)
        piece, is_start = self._data[self._at :], self._is_start
        self._partial += piece
        self._consume()
        if not self._is_checked:
            verdict = self._begins(bytes(self._partial))
            if verdict is False:
                self._partial.clear()
                if before and is_start:
                    self.feed(piece)  # what was kept was nothing, but this may be the begin of a message
                return self._lose()
            self._is_checked = verdict is True
        return self._search_partial()

    def _search_partial(self) -> Event | None:
        """The head out of what is kept, if its end is there."""
        partial = self._partial
        end = _HEAD_END.search(partial, self._scanned)
        length = end.end() if end is not None else len(partial)
        if length > HEAD_OCTETS_MAX:
            head = bytes(partial[:HEAD_OCTETS_MAX])
            self._data, self._at = bytes(partial[HEAD_OCTETS_MAX:]), 0
            self._forget_head()
            self._partial += head[-_TAIL_OCTETS:]
            given = self._parse(head, is_whole=False)
            if given is None:
                return self._lose()
            self._state = _State.LONG_HEAD
            self._pending.append(given)
            return Fault("head_too_long")
        if end is not None:
            head = bytes(partial[:length])
            self._data, self._at = bytes(partial[length:]), 0
            return self._give_head(head)
        line_end = -1 if self._scanned else partial.find(b"\n")
        if line_end >= 0 and self._is_request and not may_be_field(bytes(partial[line_end + 1 :])):
            line = bytes(partial[: line_end + 1])
            simple = read_request(line)
            if simple is not None and simple.version == "0.9":
                self._data, self._at = bytes(partial[line_end + 1 :]), 0
                return self._give_head(line)
        self._scanned = max(self._scanned, partial.rfind(b"\n", self._scanned))
        return None

    def _parse(self, head: bytes, *, is_whole: bool) -> RequestHead | ResponseHead | None:
        return read_request(head, is_whole=is_whole) if self._is_request else read_response(head, is_whole=is_whole)

    def _give_head(self, head: bytes) -> Event:
        """A whole head; behind the line of HTTP/0.9 it takes back what is no field of it."""
        given = self._parse(head, is_whole=True)
        if given is None:
            return self._lose()
        if given.version == "0.9":
            self._data, self._at = head[head.index(b"\n") + 1 :] + self._data[self._at :], 0
        self._forget_head()
        return given

    def _forget_head(self) -> None:
        self._partial.clear()
        self._scanned = 0
        self._has_begun = self._is_checked = self._is_cut = False

    def _lose(self) -> Fault:
        """What is here is no message; at the begin of a piece it is looked at as such, otherwise it is dropped."""
        if not self._is_start:
            self._consume()
        self._forget_head()
        self._state = _State.LOST
        return Fault("not_http")

    def _skip_head(self) -> Content:
        tail = bytes(self._partial)
        view = tail + self._consume()
        end = _HEAD_END.search(view)
        self._partial.clear()
        if end is None:
            self._partial += view[-_TAIL_OCTETS:]
        else:
            self._data, self._at = view[end.end() :], 0
            self._state = _State.BODY
        return Content(0)

    def _read_body(self) -> Event | None:
        body = self._body
        if (
            self._is_start
            and (self._is_loose or (self.may_begin and isinstance(body, OpenBody)))
            and self._begins(self._data)
        ):
            return self._end_message()
        self._at, self._is_start = body.take(self._data, self._at), False
        return self._tell_content()

    def _tell_content(self) -> Event:
        body = self._body
        content = Content(body.octets - self._told)
        self.has_strayed |= self._is_loose
        self._told = body.octets
        if body.is_broken:
            self._body = OpenBody()
            self._told = 0
            self._is_loose = True
            self._pending.append(Fault("body"))
        return content

    def _end_message(self) -> End:
        self._forget_head()
        self._state, self._is_loose = _State.HEAD, False
        return End()

    def _pass_gap(self) -> Event | None:
        octets, self._gap = self._gap, 0
        if self._state is _State.BODY:
            self._gap = octets - self._body.gap(octets)
            return self._tell_content()
        if self._state is _State.LONG_HEAD:
            self._partial.clear()
            self._state, self._body, self._is_loose = _State.BODY, OpenBody(), True
            return Fault("gap")
        if self._state is _State.HEAD:
            cut = self._cut_head()
            if cut is None:
                self._forget_head()
                self._state = _State.LOST
                return Fault("gap")
            return cut
        self._partial.clear()
        return None

    def _pass_end(self) -> Event | None:
        if self._state is _State.HEAD:
            return self._cut_head() or (self._lose() if self._partial else None)
        if self._state is _State.BODY and isinstance(self._body, OpenBody):
            return self._end_message()
        return None

    def _cut_head(self) -> Fault | None:
        """Gives what there is of a head that does not go on."""
        given = self._parse(bytes(self._partial), is_whole=False) if self._partial else None
        if given is None:
            return None
        self._forget_head()
        self._is_cut = True
        self._pending.append(given)
        return Fault("cut_head")
