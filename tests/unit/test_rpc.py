"""What a gRPC call was, from the request that carried it."""

from __future__ import annotations

from typing import Any

import pytest

from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.rpc import GrpcCall, call_of, error_type, status_name
from support.tcp_talk import CLIENT, SERVER

MILLISECOND = 1_000_000


def request(**fields: Any) -> HttpRequest:
    made = HttpRequest(
        "2",
        CLIENT,
        SERVER,
        "POST",
        "/pkg.Service/Method",
        "x",
        200,
        "answered",
        0,
        1,
        2,
        3,
        5,
        5,
        is_grpc=True,
        grpc_status=0,
    )
    return made._replace(**fields)


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("/pkg.Service/Method", "pkg.Service/Method"),
        ("/prefix/pkg.Service/Method", "prefix/pkg.Service/Method"),
        ("/grpc.health.v1.Health/Check", "grpc.health.v1.Health/Check"),
        ("/Service/", None),
        ("/Service", None),
        ("Service/Method", None),
        ("/Service/Method?token=secret", None),
        ("/Service/Meth od", None),
        ("/Sérvice/Method", None),
        ("/S/" + "m" * 300, None),
        ("/a/b/c/d/e/f", None),
        ("", None),
        (None, None),
    ],
)
def test_methods(target: str | None, method: str | None) -> None:
    assert call_of(request(target=target)) == GrpcCall(method, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "OK"),
        ({"grpc_status": 5}, "NOT_FOUND"),
        ({"grpc_status": 99}, "99"),
        ({"grpc_status": None}, "UNKNOWN"),
        ({"grpc_status": None, "unknown": ("grpc_status",)}, None),
        ({"grpc_status": None, "status": None, "unknown": ("status",)}, None),
        ({"grpc_status": None, "status": 404}, "UNIMPLEMENTED"),
        ({"grpc_status": None, "status": 403}, "PERMISSION_DENIED"),
        ({"grpc_status": None, "status": 503}, "UNAVAILABLE"),
        ({"grpc_status": None, "status": 418}, "UNKNOWN"),
        ({"grpc_status": None, "outcome": "reset", "error_code": 0}, "INTERNAL"),
        ({"grpc_status": None, "outcome": "reset", "error_code": 7}, "UNAVAILABLE"),
        ({"grpc_status": None, "outcome": "reset", "error_code": 8}, "CANCELLED"),
        ({"grpc_status": None, "outcome": "reset", "error_code": 11}, "RESOURCE_EXHAUSTED"),
        ({"grpc_status": None, "outcome": "reset", "error_code": 0xDEADBEEF}, "INTERNAL"),
        ({"grpc_status": None, "outcome": "reset"}, "UNAVAILABLE"),
        ({"grpc_status": None, "outcome": "no_response"}, "UNAVAILABLE"),
        ({"grpc_status": None, "outcome": "timeout"}, None),
        ({"grpc_status": None, "outcome": "incomplete"}, None),
        ({"grpc_status": 13, "outcome": "incomplete"}, "INTERNAL"),
    ],
)
def test_status(fields: dict[str, Any], status: str | None) -> None:
    made = call_of(request(**fields)).status
    assert (None if made is None else status_name(made)) == status


@pytest.mark.parametrize(
    ("waited_ms", "timeout_ms", "status"),
    [(100, 100, "DEADLINE_EXCEEDED"), (97, 100, "DEADLINE_EXCEEDED"), (50, 100, "CANCELLED"), (100, None, "CANCELLED")],
)
def test_a_client_that_gave_up(waited_ms: int, timeout_ms: int | None, status: str) -> None:
    timeout_ns = None if timeout_ms is None else timeout_ms * MILLISECOND
    made = call_of(
        request(
            grpc_status=None,
            status=None,
            outcome="reset",
            error_code=8,
            end_ns=waited_ms * MILLISECOND,
            grpc_timeout_ns=timeout_ns,
        )
    )
    assert made.status is not None
    assert status_name(made.status) == status


@pytest.mark.parametrize(
    ("status", "outcome", "client", "server"),
    [
        (0, "answered", None, None),
        (5, "answered", "NOT_FOUND", None),
        (14, "answered", "UNAVAILABLE", "UNAVAILABLE"),
        (99, "answered", "99", "99"),
        (None, "answered", None, None),
        (None, "timeout", "timeout", "timeout"),
        (None, "incomplete", "incomplete", "incomplete"),
    ],
)
def test_errors(status: int | None, outcome: Outcome, client: str | None, server: str | None) -> None:
    assert error_type(status, outcome, is_server=False) == client
    assert error_type(status, outcome, is_server=True) == server


def test_a_method_is_recognised_unless_the_server_says_no() -> None:
    assert call_of(request()).is_recognised
    assert call_of(request(grpc_status=5)).is_recognised
    assert not call_of(request(grpc_status=12)).is_recognised
    assert not call_of(request(target="/x")).is_recognised
