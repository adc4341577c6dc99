"""Heads of HTTP/1 messages, whole or cut: RFC 9112, sections 2 to 6; HTTP/0.9, RFC 1945, section 4.1.

Pure: octets in, records out. What servers and clients of the field accept is accepted: bare line feeds, folded fields, empty
lines before a message, any white space between the words of the first line, any method that is a token.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from otel_netmon.decode.http_fields import ContentLength, content_length, elements, field_text, is_grpc

HEAD_OCTETS_MAX = 1 << 16
METHOD_OCTETS_MAX = 64

HeadVersion = Literal["0.9", "1.0", "1.1"]

BodyKind = Literal["chunked", "close", "opaque", "invalid"]
"""Chunks; all to the end of the connection; what follows is no HTTP/1 any more; the fields contradict themselves, so that no
recipient can know where it ends."""

Body = int | BodyKind
"""What follows a head: so many octets, or as its kind says."""

REGISTERED_METHODS = frozenset(
    b"""ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR
    MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PUT QUERY REBIND REPORT SEARCH
    TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL""".split()
)
"""IANA's registry of methods, without PRI, which is no request (RFC 9113, section 3.4)."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_BEGINS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(:|$)")
_EMPTY_LINES = re.compile(rb"[\r\n]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_VERSION = re.compile(rb"HTTP/(\d)\.(\d+)", re.IGNORECASE)
_TARGET_BEGINS = (b"/", b"http://", b"https://")
_STATUS = re.compile(rb"[ \t\r\n]*(?:HTTP/([^ \t\r\n]{0,16})|ICY)[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
"""Clients take any version that a server says."""
_STATUS_PREFIX = re.compile(
    rb"[ \t\r\n]*(?:H?|HT|HTT|HTTP|HTTP/[^ \t\r\n]{0,16}[ \t]*\d{0,2}|I|IC|ICY[ \t]*\d{0,2})", re.IGNORECASE
)
_STATUS_OCTETS_MAX = 64
_FIELD = re.compile(
    rb"^(host|traceparent|tracestate|content-length|content-type|transfer-encoding|connection|upgrade|expect)"
    rb"[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)


class Fields(NamedTuple):
    """The fields of a head that are looked at.

    Attributes:
        host, traceparent, tracestate: as sent, the first where there are several; several tracestate are joined by commas.
        length: of the body by Content-Length.
        codings: of Transfer-Encoding in lower case, without ``identity``, which RFC 2616 had.
        upgrade: the protocols of Upgrade in lower case, if Connection says that it is meant.
        expects_continue: the body is sent only when a 100 has come.
        is_grpc: by the Content-Type.
    """

    host: str | None
    traceparent: str | None
    tracestate: str | None
    length: ContentLength
    codings: tuple[bytes, ...]
    upgrade: tuple[bytes, ...]
    expects_continue: bool
    is_grpc: bool


class RequestHead(NamedTuple):
    """A request line and its fields; is_whole is False where the head goes on and the rest is not known.

    Where not even the request line is whole, `target` is as much of it as there is, and cut_line True.
    """

    method: str
    target: str
    version: HeadVersion
    fields: Fields
    is_whole: bool
    cut_line: bool = False


class ResponseHead(NamedTuple):
    """A status line and its fields; is_whole as of ``RequestHead``."""

    status: int
    version: HeadVersion
    fields: Fields
    is_whole: bool


_NO_FIELDS = Fields(None, None, None, None, (), (), False, False)


def begins_request(data: bytes) -> bool | None:
    """Whether octets are the begin of a request; None: there are too few."""
    begin = _EMPTY_LINES.match(data).end()  # type: ignore[union-attr]  # it matches nothing as well
    token = _TOKEN.match(data, begin)
    if token is None:
        return None if begin == len(data) else False
    end = token.end()
    if end - begin > METHOD_OCTETS_MAX:
        return False
    if end == len(data):
        return None
    if data[end] not in b" \t":
        return False
    line_end = data.find(b"\n", end)
    if line_end >= 0:
        return _request_line(data[begin:line_end]) is not None or _begins_without_version(data, begin, line_end)
    if _CONTROL.search(data, end):
        return False
    if token[0] in REGISTERED_METHODS and data[end : end + 16].lstrip().startswith(_TARGET_BEGINS):
        return True
    return None if len(data) - begin < HEAD_OCTETS_MAX else False


def may_be_field(data: bytes) -> bool:
    """Whether these octets, from the begin of a line on, are the begin of a field, as far as they go."""
    return _FIELD_BEGINS.match(data) is not None


def begins_response(data: bytes) -> bool | None:
    """Whether octets are the begin of a response; None: there are too few."""
    if _STATUS.match(data):
        # Three digits at the end may be the first of four.
        return True
    return None if len(data) < _STATUS_OCTETS_MAX and _STATUS_PREFIX.fullmatch(data) else False


def read_request(head: bytes, *, is_whole: bool = True) -> RequestHead | None:
    """Reads a head from its request line on; None where that is none.

    Args:
        head: with all its line ends if it is whole.
        is_whole: False: it may end anywhere, and what is behind its last line end is not told.
    """
    line_end = head.find(b"\n")
    if line_end < 0:
        return _cut_request_line(head)
    line = _request_line(head[:line_end])
    if (line is None or line[2] == "0.9") and _begins_without_version(head, 0, line_end):
        method, target = head[:line_end].split()
        version: HeadVersion = "1.0"
    elif line is None:
        return None
    else:
        method, target, version = line
    fields = _NO_FIELDS if version == "0.9" else read_fields(head, line_end + 1)
    return RequestHead(method.decode("ascii"), field_text(target), version, fields, is_whole)


def read_response(head: bytes, *, is_whole: bool = True) -> ResponseHead | None:
    """Reads a head from its status line on; as ``read_request``."""
    match = _STATUS.match(head)
    if match is None:
        return None
    fields = read_fields(head, head.find(b"\n", match.end()) + 1 or len(head))
    return ResponseHead(int(match[2]), "1.0" if match[1] == b"1.0" else "1.1", fields, is_whole)


def read_fields(head: bytes, offset: int) -> Fields:
    """Reads the fields that stand behind the first line; a last line without its end is not read."""
    found: dict[bytes, list[bytes]] = {}
    for match in _FIELD.finditer(head, offset, head.rfind(b"\n") + 1):
        value = match[2]
        if b"\n" in value:
            value = b" ".join([line.strip() for line in value.split(b"\n")])
        found.setdefault(match[1].lower(), []).append(value.strip())
    if not found:
        return _NO_FIELDS
    upgrade = found.get(b"upgrade", [])
    if upgrade and b"upgrade" not in elements(found.get(b"connection", [])):
        upgrade = []
    codings = found.get(b"transfer-encoding", [])
    return Fields(
        _first_text(found, b"host"),
        _first_text(found, b"traceparent"),
        field_text(b",".join(found[b"tracestate"])) if b"tracestate" in found else None,
        content_length(found.get(b"content-length", [])),
        tuple([coding for coding in elements(codings) if coding != b"identity"]) if codings else (),
        elements(upgrade),
        b"100-continue" in elements(found.get(b"expect", [])),
        is_grpc(found.get(b"content-type", [b""])[0]),
    )


def request_body(head: RequestHead) -> Body:
    """Gives what follows the head of a request (RFC 9112, section 6.3)."""
    fields = head.fields
    if fields.codings:
        return "chunked" if fields.codings[-1] == b"chunked" and head.version == "1.1" else "invalid"
    return fields.length or 0


def response_body(head: ResponseHead, request: RequestHead | None) -> Body:
    """Gives what follows the head of a response to a request, to any but HEAD and CONNECT if that is not known."""
    status, fields = head.status, head.fields
    method = request.method if request is not None else None
    if status == 101 or (method == "CONNECT" and 200 <= status < 300):
        return "opaque"
    if status < 200 or status in (204, 304) or method == "HEAD":
        return 0
    if fields.codings:
        return "chunked" if fields.codings[-1] == b"chunked" and head.version == "1.1" else "close"
    return "close" if fields.length is None or fields.length == "invalid" else fields.length


def _first_text(found: dict[bytes, list[bytes]], name: bytes) -> str | None:
    return field_text(found[name][0]) if name in found else None


def _request_line(line: bytes) -> tuple[bytes, bytes, HeadVersion] | None:
    """Method, target and version of a request line without its line feed."""
    words = line.split()
    if len(words) < 2:
        return None
    method = words[0]
    if len(method) > METHOD_OCTETS_MAX or _TOKEN.fullmatch(method) is None or method == b"PRI":
        return None
    if len(words) == 2:
        is_simple = method == b"GET" and words[1].startswith(_TARGET_BEGINS) and not _CONTROL.search(line)
        return (method, words[1], "0.9") if is_simple else None
    is_registered = method in REGISTERED_METHODS
    for word in words[2:]:
        match = _VERSION.fullmatch(word)
        if match is not None and (match[1] in b"01" or is_registered):
            target = words[1] if word is words[2] else _between(line, method, word)
            return method, target, "1.0" if match[1] == b"0" or match.groups() == (b"1", b"0") else "1.1"
    if is_registered and words[2][:5].upper() == b"HTTP/":
        return method, words[1], "1.1"
    return None


def _begins_without_version(data: bytes, begin: int, line_end: int) -> bool | None:
    """Whether a request begins here that says everything but its version: fields follow; None: they may."""
    words = data[begin:line_end].split()
    if len(words) != 2 or words[0] not in REGISTERED_METHODS or _CONTROL.search(data, begin, line_end):
        return False
    if line_end + 1 == len(data):
        return None
    field = _FIELD_BEGINS.match(data, line_end + 1)
    return False if field is None else True if field[1] else None


def _between(line: bytes, method: bytes, version: bytes) -> bytes:
    """A target with white space in it, as it stands between the method and the version."""
    begin = line.index(method) + len(method)
    return line[begin : line.index(version, begin)].strip()


def _cut_request_line(line: bytes) -> RequestHead | None:
    """What is known of a request line without an end."""
    if not begins_request(line):
        return None
    words = line.split()
    is_target_whole = len(words) > 2
    return RequestHead(
        words[0].decode("ascii"), field_text(words[1]), "1.1", _NO_FIELDS, is_whole=False, cut_line=not is_target_whole
    )
