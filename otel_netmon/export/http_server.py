"""The agent's web server: /metrics for Prometheus, /healthz, /readyz and /status for people and orchestrators."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus

import structlog

from otel_netmon.export.http_loop import Limits, Loop, Response, listen_on
from otel_netmon.export.prometheus import MetricsPage, NoSnapshotError
from otel_netmon.otel.points import Snapshot

_log = structlog.get_logger(__name__)


class Server:
    """Serves until stopped.

    Args:
        listen: ``host:port`` or ``[v6]:port``; port 0 takes a free one.
        snapshot_source: the current snapshot, None before the first reading.
        status_source: the document of /status, ready for JSON.
        ready_source: whether everything is attached and measuring.
        resource: resource attributes, for ``target_info``.
        limits: what clients can make the server hold.

    Raises:
        ListenError: the address cannot be bound. It is bound at once, before ``start``.
    """

    def __init__(
        self,
        listen: str,
        snapshot_source: Callable[[], Snapshot | None],
        status_source: Callable[[], Mapping[str, object]],
        ready_source: Callable[[], bool],
        *,
        resource: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._page = MetricsPage(snapshot_source, resource or {})
        self._status_source = status_source
        self._ready_source = ready_source
        self._failing: set[str] = set()
        listener = listen_on(listen)
        self._address = listener.getsockname()[:2]
        self._loop = Loop(listener, self._answer, limits or Limits(), self._page.expire)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        host, port = self._address
        return str(host), int(port)

    @property
    def listening(self) -> str:
        """The address as ``host:port`` or ``[v6]:port``."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._loop.start()

    def stop(self) -> None:
        """Close the listener and all connections; returns when nothing is served any more."""
        self._loop.stop()

    def _answer(self, request: bytes) -> Response:
        """The response to a complete request head."""
        request_line, *header_lines = request.decode("latin-1").splitlines()
        parts = request_line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return Response(HTTPStatus.BAD_REQUEST)
        method, target, _ = parts
        if target.lower().startswith("http://"):  # absolute form, which a server must accept (RFC 9112 section 3.2.2)
            target = "/" + target[7:].partition("/")[2]
        path = target.partition("?")[0]
        routes = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
        }
        route = routes.get(path)
        if route is None:
            return Response(HTTPStatus.NOT_FOUND, f"404 Not Found; there are {' '.join(routes)}\n".encode())
        if method not in {"GET", "HEAD"}:
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, headers=("Allow: GET, HEAD",))
        headers: dict[str, str] = {}
        for line in header_lines:
            name, _, value = (part.strip() for part in line.partition(":"))
            known = headers.get(name.lower())  # the lines of one field are one list (RFC 9110 section 5.3)
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        try:
            response = route(headers)
        except Exception as error:  # noqa: BLE001 - whatever a page raises is told below
            # One page that fails must not end the others; the client and, once until it works again, the log are told.
            if path not in self._failing:
                _log.exception("http.failed", path=path, error=repr(error))
            self._failing.add(path)
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, head_only=method == "HEAD")
        self._failing.discard(path)
        return replace(response, head_only=method == "HEAD")

    def _metrics(self, headers: Mapping[str, str]) -> Response:
        try:
            page = self._page.render(headers.get("accept", ""), headers.get("accept-encoding", ""))
        except NoSnapshotError:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, b"nothing has been read yet\n", headers=("Retry-After: 1",))
        coding = ("Content-Encoding: gzip",) if page.gzip else ()
        return Response(
            HTTPStatus.OK,
            content_type=page.content_type,
            headers=(*coding, "Vary: Accept, Accept-Encoding"),
            pieces=page.pieces,
            length=page.length,
        )

    def _healthz(self, _headers: Mapping[str, str]) -> Response:
        return Response(HTTPStatus.OK, b"ok\n")

    def _readyz(self, _headers: Mapping[str, str]) -> Response:
        if self._ready_source():
            return Response(HTTPStatus.OK, b"ready\n")
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n")

    def _status(self, _headers: Mapping[str, str]) -> Response:
        body = json.dumps(self._status_source(), indent=2, allow_nan=False).encode() + b"\n"
        return Response(HTTPStatus.OK, body, "application/json", ("Cache-Control: no-store",))
