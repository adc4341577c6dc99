"""Receivers of OTLP in this process that decode what arrives and answer what a test wants: errors, rejections, silence."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_netmon.export.requests import Signal

REQUESTS: dict[Signal, type[Message]] = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}


@dataclass(frozen=True)
class Answer:
    """What an HTTP receiver says; ``wait`` is waited for first."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/x-protobuf"
    headers: tuple[tuple[str, str], ...] = ()
    wait: threading.Event | None = None


@dataclass(frozen=True)
class Failure:
    """What a gRPC receiver says instead of a response.

    Attributes:
        status_details: the trailer ``grpc-status-details-bin``; none is sent where it is None.
    """

    code: grpc.StatusCode
    details: str = "as the test wants it"
    status_details: bytes | None = None


@dataclass
class Request:
    """What arrived.

    Attributes:
        path: of the URL, or the gRPC method.
        body: decoded as the signal that the path names, as metrics where it names none.
        connection: number of the HTTP connection it came by, from 1; 0 for gRPC.
    """

    path: str
    headers: dict[str, str]
    body: Any
    connection: int = 0

    @property
    def values(self) -> list[int]:
        """Values of all sums, in order."""
        return [
            point.as_int
            for resource_metrics in self.body.resource_metrics
            for scope_metrics in resource_metrics.scope_metrics
            for metric in scope_metrics.metrics
            for point in metric.sum.data_points
        ]


@dataclass
class Receiver:
    """A running receiver.

    Attributes:
        requests: everything that arrived, refused or not.
        answers: what the next requests are told, in order; then the last of them again.
        connections: HTTP connections that were opened.
    """

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    connections: int = 0
    _taken: int = 0

    def next_answer(self, default: Any) -> Any:
        if not self.answers:
            return default
        self._taken += 1
        return self.answers[min(self._taken, len(self.answers)) - 1]

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])


def partial_success(rejected: int, message: str) -> ExportMetricsServiceResponse:
    """A response that rejects points."""
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = rejected
    response.partial_success.error_message = message
    return response


def _decoded(path: str, body: bytes) -> Message:
    of_path = [request for signal, request in REQUESTS.items() if path in (signal.path, signal.method)]
    message = (of_path or [ExportMetricsServiceRequest])[0]()
    message.ParseFromString(body)
    return message


@contextlib.contextmanager
def http_receiver(port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """OTLP over HTTP on 127.0.0.1; its answers are of the type Answer."""
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)
            receiver.connections += 1
            self._number = receiver.connections

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Request(self.path, headers, _decoded(self.path, body), self._number))
            answer: Answer = receiver.next_answer(Answer())
            if answer.wait is not None:
                answer.wait.wait()
            with contextlib.suppress(OSError):  # the client may have given up
                self.send_response(answer.status)
                for name, value in (*answer.headers, ("Content-Type", answer.content_type)):
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a handshake that a test wants to fail, a client that gave up
                super().handle()

        def log_message(self, *_args: Any) -> None:
            """A test reads what it wants from ``requests``."""

    class HttpServer(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = HttpServer(("127.0.0.1", port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver = Receiver(f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for connection in connections:  # those kept alive would be served on
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def grpc_receiver(
    credentials: grpc.ServerCredentials | None = None,
    address: str = "127.0.0.1:0",
    compression: grpc.Compression | None = None,
) -> Iterator[Receiver]:
    """OTLP over gRPC on 127.0.0.1 or another address; its answers are responses, bytes, status codes or Failures."""

    class Services(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, handler_call_details: Any) -> Any:
            method = handler_call_details.method
            if all(method != signal.method for signal in Signal):
                return None

            def export(body: bytes, context: grpc.ServicerContext) -> bytes:
                metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
                receiver.requests.append(Request(method, metadata, _decoded(method, body)))
                return _reply(receiver.next_answer(b""), context)

            return grpc.unary_unary_rpc_method_handler(export)

    server = grpc.server(
        ThreadPoolExecutor(max_workers=4), options=(("grpc.max_send_message_length", -1),), compression=compression
    )
    server.add_generic_rpc_handlers((Services(),))
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    place = address if address.startswith("unix:") else f"{'https' if credentials else 'http'}://127.0.0.1:{port}"
    receiver = Receiver(place)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _reply(answer: Any, context: grpc.ServicerContext) -> bytes:
    if isinstance(answer, grpc.StatusCode):
        answer = Failure(answer)
    if isinstance(answer, Failure):
        if answer.status_details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", answer.status_details),))
        context.abort(answer.code, answer.details)
    if isinstance(answer, threading.Event):
        answer.wait()
        return b""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns as soon as ``condition()`` holds; fails when it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s"
        time.sleep(0.005)
