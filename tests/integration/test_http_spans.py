"""Spans of requests at a receiver of OTLP: children in the traces of the applications that asked, without anything secret."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from support.agent import agent
from support.http_servers.running import PORT, python, server
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver, wait_until

pytestmark = pytest.mark.kernel

REQUESTS = 101
SERVER, CLIENT = 2, 3


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


def spans(receiver: Receiver) -> list[Any]:
    return [
        span
        for request in receiver.requests
        if request.path.endswith("/traces")
        for resource in request.body.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def value_of(span: Any, key: str) -> Any:
    for each in span.attributes:
        if each.key == key:
            return getattr(each.value, str(each.value.WhichOneof("value")))
    return None


@pytest.mark.parametrize("side", ["server", "client"])
def test_requests_are_spans_in_the_traces_of_their_clients(side: str, link: tuple[NetNs, NetNs, Veth]) -> None:
    near, far, pair = link
    interface, where = (pair.right, far) if side == "server" else (pair.left, near)
    hidden = [secrets.token_hex(16) for _ in range(REQUESTS)]
    with http_receiver() as receiver, server(python, far, pair.right_address):
        options = ["--interface", interface, "--set", f"interfaces.namespaces={where.name}"]
        options += ["--set", "probes.http.routes=/s/{status}/{size}/{kind}/users/{id}", "--set", "spans.share=1"]
        options += ["--set", "spans.limit_per_second=10000", "--set", "otlp.protocol=http/protobuf"]
        options += ["--set", "probes.connections.enabled=false"]  # spans of requests alone
        options += ["--otlp-endpoint", f"http://127.0.0.1:{receiver.port}"]
        with (
            agent(*options, otlp=True) as running,
            contextlib.closing(http.client.HTTPConnection(pair.right_address, PORT)) as connection,
        ):
            connection.sock = near.socket(socket.AF_INET, socket.SOCK_STREAM)
            connection.sock.connect((pair.right_address, PORT))
            for number, secret in enumerate(hidden, 1):
                fields = {"Authorization": f"Bearer {secret}", "Cookie": f"session={secret}"}
                if number % 3:
                    fields["traceparent"] = f"00-{number:032x}-{number:016x}-0{number % 3 - 1}"
                    fields["tracestate"] = "vendor=kept"
                status = 503 if number % 10 == 0 else 200
                path = f"/s/{status}/{number}/l/users/{secret}?token={secret}"
                connection.request("POST", path, secret, fields)
                assert connection.getresponse().read() == b"x" * number
            recorded = [number for number in range(1, REQUESTS + 1) if number % 3 != 1]
            wait_until(lambda: len(spans(receiver)) >= len(recorded))
            pages = running.get("/metrics") + running.get("/status") + running.log_text
        found = spans(receiver)
        told = str([request.body for request in receiver.requests])
    assert len(found) == len(recorded)
    by_size = {value_of(span, "http.response.body.size"): span for span in found}
    assert sorted(by_size) == recorded
    for number, span in by_size.items():
        assert span.kind == (SERVER if side == "server" else CLIENT)
        assert span.name == "POST /s/{status}/{size}/{kind}/users/{id}"
        assert value_of(span, "url.path") == "/s/{status}/{size}/{kind}/users/{id}"
        assert value_of(span, "http.request.body.size") == 32
        failed = number % 10 == 0
        assert value_of(span, "error.type") == ("503" if failed else None)
        assert (span.status.code == 2) == failed
        if number % 3:
            assert (span.trace_id.hex(), span.parent_span_id.hex()) == (f"{number:032x}", f"{number:016x}")
            assert span.trace_state == "ot=th:0,vendor=kept"
        else:
            assert span.parent_span_id == b""
    assert [secret for secret in hidden if secret in told + pages] == []
