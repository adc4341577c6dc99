"""Applications instrumented with OpenTelemetry and the agent at one collector: their spans and ours are one tree.

The client is ``requests`` and the server a WSGI application, or both are of gRPC, with the instrumentation of OpenTelemetry's
Python, its SDK and exporters: nothing of them is known to the agent but the ``traceparent`` on the wire.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.agent import agent
from support.collectors import Collector, otelcol
from support.netns import NetNs, Veth, veth_pair
from support.points import Span

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

PORT = 8089
REQUESTS = 37
FAILS_EVERY = 5
SERVER_KIND, CLIENT_KIND = 2, 3
OURS = "otel_netmon"

SDK = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

name, path, address, port, requests = json.loads(sys.argv[1])
provider = TracerProvider(
    resource=Resource.create({"service.name": name}), sampler=ParentBased(TraceIdRatioBased(0.5))
)
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"unix:{path}", insecure=True)))
trace.set_tracer_provider(provider)
"""

WSGI_SERVER = """
from wsgiref.simple_server import WSGIRequestHandler, make_server
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass

def application(environment, start_response):
    status = environment["PATH_INFO"].split("/")[1]
    start_response(f"{status} as asked", [("Content-Length", "2")])
    return [b"ok"]

server = make_server(address, port, OpenTelemetryMiddleware(application), handler_class=Quiet)
print("ready", flush=True)
for _ in range(requests):
    server.handle_request()
"""

REQUESTS_CLIENT = """
import requests as http
from opentelemetry.instrumentation.requests import RequestsInstrumentor

RequestsInstrumentor().instrument()
session = http.Session()
session.trust_env = False

def ask(fails):
    session.get(f"http://{address}:{port}/{500 if fails else 200}/item", timeout=10)
"""

GRPC_SERVER = """
import threading
from concurrent.futures import ThreadPoolExecutor
import grpc
from opentelemetry.instrumentation.grpc import server_interceptor

asked = threading.Semaphore(0)

def add(request, context):
    asked.release()
    if request == b"fail":
        context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
    return b"ok"

server = grpc.server(ThreadPoolExecutor(2), interceptors=[server_interceptor()])
methods = {"Add": grpc.unary_unary_rpc_method_handler(add)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Cart", methods),))
server.add_insecure_port(f"{address}:{port}")
server.start()
print("ready", flush=True)
for _ in range(requests):
    asked.acquire()
server.stop(10).wait()
"""

GRPC_CLIENT = """
import grpc
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient

GrpcInstrumentorClient().instrument()
add = grpc.insecure_channel(f"{address}:{port}", (("grpc.enable_http_proxy", 0),)).unary_unary("/shop.Cart/Add")

def ask(fails):
    try:
        add(b"fail" if fails else b"fine", timeout=10)
    except grpc.RpcError:
        assert fails
"""

ASKING = """
tracer = trace.get_tracer("application")
for number in range(1, requests + 1):
    with tracer.start_as_current_span("work") as span:
        fails = number % int(sys.argv[2]) == 0
        ask(fails)
        print(f"{span.get_span_context().trace_id:032x} {int(span.is_recording())} {int(fails)}", flush=True)
"""

END = """
provider.shutdown()
print("done", flush=True)
sys.stdin.read()
"""


class Kind(NamedTuple):
    """A kind of application, and what our spans of it say: name, status, and its values of what goes well and of what fails."""

    client: str
    server: str
    name: str
    status: str
    values: tuple[int | str, int | str]


KINDS = {
    "HTTP": Kind(REQUESTS_CLIENT, WSGI_SERVER, "GET", "http.response.status_code", (200, 500)),
    "gRPC": Kind(GRPC_CLIENT, GRPC_SERVER, "shop.Cart/Add", "rpc.response.status_code", ("OK", "UNAVAILABLE")),
}


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def application(where: NetNs, program: str, *arguments: Any) -> Iterator[subprocess.Popen[str]]:
    line = where.command(sys.executable, "-c", program, json.dumps(arguments), str(FAILS_EVERY))
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def lines(running: subprocess.Popen[str], last: str) -> list[str]:
    """What it says until a word."""
    assert running.stdout is not None
    found: list[str] = []
    while not found or found[-1] != last:
        line = running.stdout.readline()
        assert line, f"it ended after {found}"
        found.append(line.strip())
    return found[:-1]


def watched(where: NetNs, interface: str, collector: Collector) -> Any:
    settings = [f"interfaces.namespaces={where.name}", f"interfaces.include={interface}", "spans.share=1"]
    settings += ["spans.limit_per_second=10000", "spans.slow_seconds=1000"]
    words = [word for each in settings for word in ("--set", each)]
    return agent(*words, "--otlp-endpoint", collector.http, otlp=True)


def trees(collector: Collector, traces: set[str]) -> dict[str, list[Span]]:
    """The spans of the applications' traces."""
    found: dict[str, list[Span]] = defaultdict(list)
    for span in collector.spans():
        if span.trace_id in traces:
            found[span.trace_id].append(span)
    return found


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_our_spans_are_in_the_traces_of_instrumented_applications(
    kind: Kind, link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    """One agent where the client is, another one where the server is; half of the traces are not recorded."""
    near, far, pair = link
    path = tmp_path / "collector.sock"
    with ExitStack() as stack:
        collector = stack.enter_context(otelcol(tmp_path, all_signals=True, socket_path=path))
        for where, interface in ((near, pair.left), (far, pair.right)):
            stack.enter_context(watched(where, interface, collector))
        arguments = (str(path), pair.right_address, PORT, REQUESTS)
        server = stack.enter_context(application(far, SDK + kind.server + END, "shop", *arguments))
        assert lines(server, "ready") == []
        client = stack.enter_context(application(near, SDK + kind.client + ASKING + END, "browser", *arguments))
        asked = [line.split() for line in lines(client, "done")]
        lines(server, "done")
        failed = {trace: fails == "1" for trace, _, fails in asked}
        recorded = {trace for trace, is_recorded, _ in asked if is_recorded == "1"}
        assert len(failed) == REQUESTS
        assert 0 < len(recorded) < REQUESTS
        deadline = time.monotonic() + 120
        while sum(map(len, trees(collector, recorded).values())) < 5 * len(recorded):
            assert time.monotonic() < deadline, Counter((s.scope, s.name, s.kind) for s in collector.spans())
            time.sleep(0.05)
        found = trees(collector, set(failed))
    assert set(found) == recorded, "a trace that is not recorded has no span of ours either"
    for trace, spans in found.items():
        ours = {span.kind: span for span in spans if span.scope == OURS}
        theirs = {span.kind: span for span in spans if span.scope != OURS}
        assert (len(ours), len(theirs), len(spans)) == (2, 3, 5)
        asking, serving = theirs[CLIENT_KIND], theirs[SERVER_KIND]
        assert serving.parent_id == asking.span_id
        for side, service in ((CLIENT_KIND, "browser"), (SERVER_KIND, "shop")):
            span = ours[side]
            assert span.parent_id == asking.span_id
            assert span.name == kind.name
            assert span.attributes[kind.status] == kind.values[failed[trace]]
            assert span.attributes.get("error.type") == (str(kind.values[1]) if failed[trace] else None)
            assert theirs[side].resource["service.name"] == service
            # The client's begins before its first octet is on the wire and ends behind the last one.
            assert asking.start_time <= span.start_time <= span.end_time <= asking.end_time
        assert len({span.span_id for span in spans}) == 5
