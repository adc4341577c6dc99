"""Between whom a request went, as attributes of its span: server.*, client.*, network.peer.*; what is not known is left out."""

from __future__ import annotations

from otel_netmon.analysis.http_records import UNPLACED, HttpRequest
from otel_netmon.decode.authority import read_authority
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import Value


def end_attributes(request: HttpRequest, *, is_server: bool) -> dict[str, Value]:
    """Gives the attributes; the server is named as the client does, where it does."""
    named = read_authority(request.host)
    placed = request.server != UNPLACED
    attributes: dict[str, Value] = {}
    if named is not None:
        attributes["server.address"] = named.host
    elif placed:
        attributes["server.address"] = address_text(request.server[:16])
    if named is not None and named.port is not None:
        attributes["server.port"] = named.port
    elif placed:
        attributes["server.port"] = _port(request.server)
    if placed:
        peer = request.client if is_server else request.server
        attributes["client.address"] = address_text(request.client[:16])
        attributes["client.port"] = _port(request.client)
        attributes["network.peer.address"] = address_text(peer[:16])
        attributes["network.peer.port"] = _port(peer)
    return attributes


def _port(end: bytes) -> int:
    return int.from_bytes(end[16:], "big")
