"""gRPC calls to series, points and spans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.rpc import call_of
from otel_netmon.analysis.rpc_series import RpcSeries
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.rpc import CLIENT_DURATION, SERVER_DURATION, RpcPoints, rpc_spans, server_of
from otel_netmon.otel.spans import SpanKind, StatusCode
from support.tcp_talk import CLIENT, SERVER

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
BOUNDS = (0.1, 1.0)
OVERFLOW = AttributeSet.of({"otel.metric.overflow": True})


def request(method: str = "pkg.S/M", grpc_status: int | None = 0, seconds: float = 0.5, **fields: Any) -> HttpRequest:
    end_ns = round(seconds * SECOND)
    made = HttpRequest(
        "2", CLIENT, SERVER, "POST", f"/{method}", "api.example:50051", 200, "answered", 0, 1, 2, end_ns, 5, 5,
        is_grpc=True, grpc_status=grpc_status, end_ns=end_ns,
    )  # fmt: skip
    return made._replace(**fields)


def series(side: str = "server", names: int = 100) -> RpcSeries:
    made = RpcSeries(side, BOUNDS, names, START, 0)
    made.set_limit(100)
    return made


def add(to: RpcSeries, *requests: HttpRequest, named: bool = False) -> Any:
    servers = [server_of(each) if named else None for each in requests]
    return to.add(requests, [call_of(each) for each in requests], servers, START)


def told(to: RpcSeries, *, is_server: bool) -> dict[AttributeSet, tuple[int, float]]:
    (made,) = RpcPoints(is_server=is_server).points(to.reading()).values()
    return {
        each: (int(count), float(total))
        for each, count, total in zip(made.attributes, made.count, made.sum, strict=True)
    }


def server_set(method: str, **attributes: str) -> AttributeSet:
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    return AttributeSet.of({"rpc.system.name": "grpc", "rpc.method": method, **named})


def test_calls_of_a_server() -> None:
    calls = series()
    add(
        calls,
        request(seconds=0.5),
        request(seconds=0.25),
        request(grpc_status=5),
        request(grpc_status=14),
        request("pkg.S/Nobody", 12),
        request("not a method"),
        request(grpc_status=None, outcome="timeout", status=None),
        request(grpc_status=None, unknown=("grpc_status",)),
    )
    code = "rpc.response.status_code"
    assert told(calls, is_server=True) == {
        OVERFLOW: (0, 0.0),
        server_set("pkg.S/M", **{code: "OK"}): (2, 0.75),
        server_set("pkg.S/M", **{code: "NOT_FOUND"}): (1, 0.5),  # the client's fault, not the server's
        server_set("pkg.S/M", **{code: "UNAVAILABLE", "error.type": "UNAVAILABLE"}): (1, 0.5),
        server_set("_OTHER", **{code: "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED"}): (1, 0.5),
        server_set("_OTHER", **{code: "OK"}): (1, 0.5),
        server_set("pkg.S/M", **{"error.type": "timeout"}): (1, 0.5),
        server_set("pkg.S/M"): (1, 0.5),
    }


def test_calls_of_a_client_name_the_server() -> None:
    calls = series("client")
    ipv6: dict[str, Any] = {"host": "[2001:db8::1]", "server": bytes(15) + b"\1\x20\xfb"}
    add(
        calls,
        request(grpc_status=5),
        request(host="user:secret@api.example"),
        request(host=None),
        request(**ipv6),
        named=True,
    )
    made = told(calls, is_server=False)
    assert sum(count for count, _ in made.values()) == 4
    servers = {
        ("api.example", 50051): "NOT_FOUND",
        ("api.example", 8443): "OK",
        ("192.0.2.2", 8443): "OK",
        ("2001:db8::1", 8443): "OK",
    }
    for (address, port), status in servers.items():
        error: dict[str, Value] = {"error.type": status} if status != "OK" else {}
        named: dict[str, Value] = {
            "server.address": address,
            "server.port": port,
            "rpc.response.status_code": status,
            **error,
        }
        assert AttributeSet.of({"rpc.system.name": "grpc", "rpc.method": "pkg.S/M", **named}) in made


def test_methods_are_bounded() -> None:
    calls = series(names=3)
    add(calls, *[request(f"pkg.S/M{number}") for number in range(23)])
    made = told(calls, is_server=True)
    assert sum(count for count, _ in made.values()) == 23
    assert made[server_set("_OTHER", **{"rpc.response.status_code": "OK"})] == (20, 10.0)


def test_another_process_goes_on() -> None:
    calls = series("client")
    add(calls, request(), named=True)
    other = series("client")
    other.restore(calls.state())
    other.set_limit(100)
    add(other, request(), named=True)
    made = told(other, is_server=False)
    assert sorted(made.values()) == [(0, 0.0), (2, 1.0)]


def test_names_of_the_metrics() -> None:
    assert (
        list(RpcPoints(is_server=True).points(series().reading())) == [SERVER_DURATION] == ["rpc.server.call.duration"]
    )
    assert (
        list(RpcPoints(is_server=False).points(series().reading())) == [CLIENT_DURATION] == ["rpc.client.call.duration"]
    )


# --------------------------------------------------------------------------------------------------------------- spans
def spans(*requests: HttpRequest, is_server: bool = True) -> Any:
    sides = np.full(len(requests), is_server, np.bool_)
    calls = [call_of(each) for each in requests]
    return rpc_spans(requests, calls, sides, KeepRule(1, 1000), START, 0).batch


def test_a_span_of_a_server() -> None:
    batch = spans(request())
    assert batch.names == ["pkg.S/M"]
    assert batch.kinds.tolist() == [SpanKind.SERVER]
    assert batch.statuses.tolist() == [StatusCode.UNSET]
    expected: dict[str, Value] = {
        "rpc.system.name": "grpc",
        "rpc.method": "pkg.S/M",
        "server.address": "api.example",
        "server.port": 50051,
        "client.address": "192.0.2.1",
        "client.port": 40000,
        "network.peer.address": "192.0.2.1",
        "network.peer.port": 40000,
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "rpc.response.status_code": "OK",
    }
    assert batch.attributes == [encode(expected, Tag.SPAN)]
    assert (batch.end_time_unix_nano - batch.start_time_unix_nano).tolist() == [SECOND // 2]


@pytest.mark.parametrize(
    ("fields", "name", "kind", "message"),
    [
        ({"grpc_status": 5}, "pkg.S/M", StatusCode.ERROR, "NOT_FOUND"),
        ({"method": "pkg.S/Nobody", "grpc_status": 12}, "grpc", StatusCode.ERROR, "UNIMPLEMENTED"),
        ({"grpc_status": None, "outcome": "timeout", "status": None}, "pkg.S/M", StatusCode.ERROR, "timeout"),
        ({"grpc_status": None, "unknown": ("grpc_status",)}, "pkg.S/M", StatusCode.UNSET, ""),
    ],
)
def test_spans_of_a_client(fields: dict[str, Any], name: str, kind: StatusCode, message: str) -> None:
    batch = spans(request(**fields), is_server=False)
    assert batch.names == [name]
    assert batch.kinds.tolist() == [SpanKind.CLIENT]
    assert (batch.statuses.tolist(), batch.messages) == ([kind], [message])
    assert (b"rpc.method_original" in batch.attributes[0]) == (name == "grpc")
    assert (b"netmon.http.unknown" in batch.attributes[0]) == ("unknown" in fields)
    assert b"192.0.2.2" in batch.attributes[0]


def test_no_secret_is_in_a_span() -> None:
    secrets: dict[str, Any] = {
        "host": "user:secret@api.example",
        "target": "/pkg.S/M?token=secret",
        "tracestate": "a=b",
    }
    batch = spans(request(**secrets), request(target="/secret token/M"), is_server=False)
    assert b"secret" not in b"".join(batch.attributes)
    assert batch.names == ["grpc", "grpc"]
