"""HTTP/2 frames octet by octet, from RFC 9113 and RFC 7541 alone, for tests of the readers."""

from __future__ import annotations

from struct import pack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
NO_ERROR, PROTOCOL_ERROR, CANCEL, REFUSED_STREAM = 0, 1, 8, 7


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """A frame; `length` is what the header says, if not the truth."""
    octets = len(payload) if length is None else length
    return pack(">I", octets)[1:] + pack(">BBI", kind, flags, stream) + payload


def data(stream: int, octets: int | bytes, *, end: bool = False, pad: int | None = None) -> bytes:
    """DATA; of so many zeros if a number is given."""
    body = octets if isinstance(octets, bytes) else bytes(octets)
    payload = body if pad is None else pack(">B", pad) + body + bytes(pad)
    return frame(DATA, payload, stream, (END_STREAM if end else 0) | (0 if pad is None else PADDED))


def headers(
    stream: int,
    block: bytes,
    *,
    end: bool = False,
    complete: bool = True,
    pad: int | None = None,
    priority: bytes | None = None,
) -> bytes:
    """HEADERS; priority: 5 octets."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if complete else 0)
    payload = (priority or b"") + block
    flags |= WITH_PRIORITY if priority is not None else 0
    if pad is not None:
        payload, flags = pack(">B", pad) + payload + bytes(pad), flags | PADDED
    return frame(HEADERS, payload, stream, flags)


def continuation(stream: int, block: bytes, *, complete: bool = True) -> bytes:
    return frame(CONTINUATION, block, stream, END_HEADERS if complete else 0)


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, pack(">I", code), stream)


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    return frame(SETTINGS, b"".join(pack(">HI", *pair) for pair in pairs), 0, ACK if ack else 0)


def goaway(last_stream: int, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, pack(">II", last_stream, code) + debug)


def ping(*, ack: bool = False) -> bytes:
    return frame(PING, b"12345678", 0, ACK if ack else 0)


def window_update(stream: int, increment: int = 65535) -> bytes:
    return frame(WINDOW_UPDATE, pack(">I", increment), stream)


def push_promise(stream: int, promised: int, block: bytes, *, complete: bool = True) -> bytes:
    return frame(PUSH_PROMISE, pack(">I", promised) + block, stream, END_HEADERS if complete else 0)


def integer(number: int, prefix: int, first: int = 0) -> bytes:
    """A number of HPACK behind the bits of `first` (RFC 7541, section 5.1)."""
    limit = (1 << prefix) - 1
    if number < limit:
        return bytes([first | number])
    octets = [first | limit]
    number -= limit
    while number >= 128:
        octets.append(number & 127 | 128)
        number >>= 7
    return bytes([*octets, number])


def indexed(index: int) -> bytes:
    """A field that is an entry of the table."""
    return integer(index, 7, 0x80)


def string(value: bytes) -> bytes:
    """A string without Huffman coding."""
    return integer(len(value), 7) + value


def literal(name: bytes | int, value: bytes, *, index: bool = True) -> bytes:
    """A literal field, its name literal or that of an entry; with `index` it becomes an entry."""
    first, prefix = (0x40, 6) if index else (0x00, 4)
    if isinstance(name, int):
        return integer(name, prefix, first) + string(value)
    return bytes([first]) + string(name) + string(value)


def table_size(octets: int) -> bytes:
    return integer(octets, 5, 0x20)
