"""HTTP/1.1 as a client of one kind of request needs it: build the request, read the answer. Pure: no socket, no clock.

RFC 9110, RFC 9112. The standard library's http.client costs 0.9 MB (it brings the email package), has no deadline over a whole
exchange, and takes an interim answer for the final one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Final

MAX_HEAD_BYTES: Final = 64 << 10
"""Status line and headers, and again the trailers of a chunked body."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9]{2})(?: ([^\r\n]*))?")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_PREFIX = b"HTTP/1."


class NotHttpError(Exception):
    """What arrived is no answer of HTTP/1; the message says what it looks like, as far as that is known."""


class TooLargeError(Exception):
    """Head or body of the answer is beyond its limit."""


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Request line and headers with the empty line after them. All values are ASCII without line ends."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


class AnswerReader:
    """Takes the bytes of one answer as they come.

    Args:
        limit: bytes of the body, also after decompression.
        tunnel: the request was CONNECT: an answer of 2xx has no body.

    Attributes:
        started: a byte of an answer arrived.
        status: of the final answer; 0 before its head is there. Interim answers (1xx but 101) are stepped over.
        phrase: the reason phrase.
        headers: names in lower case; the values of one name are joined by a comma.
        complete: nothing more belongs to the answer.
        reusable: the connection can carry another request.
    """

    def __init__(self, limit: int, *, tunnel: bool = False) -> None:
        self.started = False
        self.status = 0
        self.phrase = ""
        self.headers: dict[str, str] = {}
        self.complete = False
        self.reusable = False
        self._limit = limit
        self._tunnel = tunnel
        self._buffer = bytearray()
        self._searched = 0
        self._body = bytearray()
        self._chunked = False
        self._left: int | None = None
        """Bytes of the body, or of the chunk, that are still to come; None: until the connection closes."""
        self._in_trailers = False
        self._whole = False

    def feed(self, data: bytes) -> None:
        """Bytes that arrived.

        Raises:
            NotHttpError: this is no HTTP/1 answer.
            TooLargeError: head or body is beyond its limit.
        """
        self.started = True
        self._buffer += data
        while not self.complete and self._step():
            pass
        if self.complete and self._buffer:
            self._buffer.clear()
            self.reusable = False  # more than was asked for: who knows what the next bytes belong to

    def finish(self, *, broken: bool = False) -> None:
        """Nothing more comes. The answer is complete, if its head was there; ``content`` tells whether the body is.

        Args:
            broken: the connection did not end in order, or nobody waits any longer.
        """
        if self.status and not self.complete:
            self._end(whole=self._left is None and not self._chunked and not broken, reusable=False)

    def content(self) -> bytes | None:
        """The body, decompressed; None where it was cut short or is compressed in a way that is damaged or not known.

        Raises:
            TooLargeError: it is beyond the limit.
        """
        if not self._whole:
            return None
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding in ("identity", "") or not self._body:
            return bytes(self._body)
        if coding not in ("gzip", "x-gzip"):
            return None
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            plain = inflate.decompress(bytes(self._body), self._limit + 1)
        except zlib.error:
            return None
        if len(plain) > self._limit:
            raise TooLargeError("too much for an answer")
        return plain if inflate.eof else None

    def _step(self) -> bool:
        """Takes one piece off the buffer; False when more bytes are needed for it."""
        if not self.status:
            return self._take_head()
        if self._in_trailers:
            return self._take_trailer()
        if self._chunked and not self._left:
            return self._take_chunk_line()
        return self._take_body()

    def _take_head(self) -> bool:
        if not self._buffer.startswith(_PREFIX[: len(self._buffer)]):
            raise NotHttpError(_guess(self._buffer))
        end = _HEAD_END.search(self._buffer, max(0, self._searched - 3))
        self._searched = len(self._buffer) if end is None else 0
        if (len(self._buffer) if end is None else end.start()) > MAX_HEAD_BYTES:
            raise TooLargeError("too much for an answer")
        if end is None:
            return False
        head = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        # A line that begins with a space goes on with the one before it (RFC 9112, section 5.2).
        first, *lines = re.split(rb"\r?\n", re.sub(rb"\r?\n[ \t]+", b" ", head))
        line = _STATUS_LINE.fullmatch(first)
        if line is None:
            raise NotHttpError("an unknown status line")
        status = int(line[2])
        if 100 <= status < 200 and status != 101:
            return True
        self.status, self.phrase = status, (line[3] or b"").decode("latin-1")
        for each in lines:
            if field := _HEADER_LINE.fullmatch(each):
                name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
                self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self._frame(int(line[1]))
        return True

    def _frame(self, minor: int) -> None:
        """How long the body is (RFC 9112, section 6.3), and what becomes of the connection (section 9.3)."""
        connection = {option.strip().lower() for option in self.headers.get("connection", "").split(",")}
        self.reusable = "close" not in connection if minor else "keep-alive" in connection
        lengths = {length.strip() for length in self.headers.get("content-length", "").split(",")} - {""}
        codings = self.headers.get("transfer-encoding", "").lower().split(",")
        if self.status in (101, 204, 304) or (self._tunnel and 200 <= self.status < 300):
            self._end(whole=True, reusable=self.reusable and self.status != 101)
        elif codings != [""]:
            self._chunked = codings[-1].strip() == "chunked"
            self.reusable = self.reusable and self._chunked and not lengths
        elif lengths:
            length = lengths.pop()
            if lengths or re.fullmatch(r"[0-9]+", length, re.ASCII) is None:
                self._end(whole=False, reusable=False)
                return
            self._left = int(length) if len(length) < 16 else 1 << 62
            if self._left > self._limit:
                raise TooLargeError("too much for an answer")
            if not self._left:
                self._end(whole=True, reusable=self.reusable)
        else:
            self.reusable = False

    def _end(self, *, whole: bool, reusable: bool) -> None:
        self.complete, self._whole, self.reusable = True, whole, reusable

    def _take_body(self) -> bool:
        if not self._buffer:
            return False
        piece = self._buffer if self._left is None else self._buffer[: self._left]
        if len(self._body) + len(piece) > self._limit:
            raise TooLargeError("too much for an answer")
        self._body += piece
        taken = len(piece)
        del self._buffer[:taken]
        if self._left is not None:
            self._left -= taken
            if not self._left and not self._chunked:
                self._end(whole=True, reusable=self.reusable)
        return True

    def _line(self) -> bytes | None:
        """The next line without its end; None where it is not whole yet."""
        end = self._buffer.find(b"\n")
        if (len(self._buffer) if end < 0 else end) > MAX_HEAD_BYTES:
            raise TooLargeError("too much for an answer")
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _take_chunk_line(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line and self._left == 0:
            self._left = None  # the line end after a chunk's data
            return True
        size = _CHUNK_LINE.fullmatch(line)
        if size is None or self._left == 0:
            self._end(whole=False, reusable=False)
            return True
        self._left = int(size[1], 16)
        self._in_trailers = not self._left
        return True

    def _take_trailer(self) -> bool:
        line = self._line()
        if line == b"":
            self._end(whole=True, reusable=self.reusable)
        return line is not None


def _guess(data: bytearray) -> str:
    """What bytes are that are not HTTP/1, for the one who has to find the wrong port."""
    if data.startswith((b"\x15\x03", b"\x16\x03")):
        return "TLS: the receiver wants https://"
    if data.startswith(b"\x00\x00") and data[3:5] == b"\x04\x00":
        return "HTTP/2, as gRPC speaks it: is this the port of OTLP over gRPC? Otherwise set the protocol to grpc"
    return "unknown bytes"
