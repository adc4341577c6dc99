"""Where requests go, by which proxy, and which settings cannot work: what a transport knows before it sends anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.config.model import Destination, Otlp
from otel_netmon.errors import ConfigError
from otel_netmon.export import otlp_target, otlp_transport, proxy
from otel_netmon.export.otlp_responses import MAX_REQUEST_BYTES
from otel_netmon.export.requests import Request, Signal

PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def place(signal: Signal = Signal.METRICS, **settings: Any) -> tuple[bool, str, str]:
    target = otlp_target.of(Otlp(**settings), signal)
    return target.tls, target.authority, target.path


# ------------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (False, "localhost:4318", "/v1/metrics")),
        ({"endpoint": "http://c:4318"}, (False, "c:4318", "/v1/metrics")),
        ({"endpoint": "http://c:4318/"}, (False, "c:4318", "/v1/metrics")),
        ({"endpoint": "http://c:4318/v1/metrics"}, (False, "c:4318", "/v1/metrics")),
        ({"endpoint": "http://c:4318/v1/traces"}, (False, "c:4318", "/v1/metrics")),
        ({"endpoint": "https://c/otlp"}, (True, "c:443", "/otlp/v1/metrics")),
        ({"endpoint": "HTTP://C"}, (False, "c:80", "/v1/metrics")),
        ({"endpoint": "http://[::1]:4318"}, (False, "[::1]:4318", "/v1/metrics")),
        ({"endpoint": "http://c:1", "metrics_endpoint": "https://m:2"}, (True, "m:2", "/")),
        ({"endpoint": "http://c:1", "metrics_endpoint": "http://m:2/v1/metrics/v1/metrics"},
         (False, "m:2", "/v1/metrics/v1/metrics")),
        ({"metrics_endpoint": "http://m:2/a%20b/\u00e4"}, (False, "m:2", "/a%20b/%C3%A4")),
        ({"protocol": "grpc"}, (False, "localhost:4317", "/")),
        ({"protocol": "grpc", "endpoint": "c:4317"}, (True, "c:4317", "/")),
        ({"protocol": "grpc", "endpoint": "c", "insecure": True}, (False, "c:4317", "/")),
        ({"protocol": "grpc", "endpoint": "[::1]"}, (True, "[::1]:4317", "/")),
        ({"protocol": "grpc", "endpoint": "http://c:4317/x"}, (False, "c:4317", "/")),
        ({"protocol": "grpc", "endpoint": "https://c", "insecure": True}, (True, "c:443", "/")),
    ],
)  # fmt: skip
def test_targets(settings: dict[str, Any], expected: tuple[bool, str, str]) -> None:
    assert place(**settings) == expected


def test_each_signal_has_its_place_and_may_have_its_own() -> None:
    settings: dict[str, Any] = {"endpoint": "http://c:4318/x", "logs_endpoint": "http://l:1/logs"}
    assert [place(signal, **settings)[1:] for signal in Signal] == [
        ("c:4318", "/x/v1/metrics"),
        ("c:4318", "/x/v1/traces"),
        ("l:1", "/logs"),
    ]


def test_a_unix_socket_is_grpcs() -> None:
    target = otlp_target.of(Otlp(protocol="grpc", endpoint="unix:///run/otlp.sock"), Signal.LOGS)
    assert (target.tls, target.socket) == (False, "unix:///run/otlp.sock")
    with pytest.raises(ConfigError, match="no endpoint of OTLP"):
        otlp_target.of(Otlp(endpoint="unix:///run/otlp.sock"), Signal.LOGS)


def test_user_information_becomes_a_header_and_is_not_shown() -> None:
    target = otlp_target.of(Otlp(endpoint="http://us%40er:p%3Aw@c:1"), Signal.METRICS)
    assert target.authorization == "Basic dXNAZXI6cDp3"
    assert "p%3Aw" not in repr(target)
    assert "dXNAZXI" not in repr(target)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"endpoint": "collector:4318"}, "needs a URL"),
        ({"endpoint": "ftp://collector"}, "no endpoint of OTLP"),
        ({"endpoint": "http://collector:99999"}, "no endpoint of OTLP"),
        ({"endpoint": "http://[::1"}, "no endpoint of OTLP"),
        ({"metrics_endpoint": "http://"}, "no endpoint of OTLP"),
        ({"endpoint": "http://c", "proxy": "socks5://p"}, "not the URL of an HTTP proxy"),
        ({"endpoint": "http://c", "proxy": "https://u:hidden@p"}, "not the URL of an HTTP proxy"),
        ({"endpoint": "http://c", "proxy": "http://u:hidden@p:x"}, "not the URL of an HTTP proxy"),
        ({"headers": {"content-length": "1", "te": "x"}}, "sets content-length, te"),
        ({"protocol": "grpc", "headers": {"grpc-timeout": "hidden"}}, "'grpc-timeout', which gRPC cannot send"),
        ({"protocol": "grpc", "headers": {"te": "hidden"}}, "'te', which gRPC cannot send"),
        ({"protocol": "grpc", "headers": {"a~b": "hidden"}}, "'a~b', which gRPC cannot send"),
        ({"protocol": "grpc", "headers": {"key": "hid\tden"}}, "'key', which gRPC cannot send"),
        ({"certificate": "/nowhere/ca.pem"}, "cannot use otlp.certificate /nowhere/ca.pem: No such file"),
        (
            {"protocol": "grpc", "certificate": "/nowhere/ca.pem"},
            "cannot use otlp.certificate /nowhere/ca.pem: No such",
        ),
        ({"client_key": "/nowhere/key.pem"}, "without otlp.client_certificate"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        otlp_transport.build(Otlp(**settings))
    assert caught.value.remedy
    assert "hidden" not in str(caught.value)


def test_files_that_are_no_pem_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    file.write_text("x")
    for settings in ({"certificate": str(file)}, {"client_certificate": str(file)}):
        for protocol in ("http/protobuf", "grpc"):
            with pytest.raises(ConfigError, match=r"cannot use otlp\.(client_)?certificate .*: "):
                otlp_transport.build(Otlp(protocol=protocol, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_transport_shows_no_secret_and_needs_no_receiver(protocol: Any) -> None:
    destination = Destination(
        endpoint="http://user:hidden@c:1", protocol=protocol, headers={"key": "hidden"}, proxy="http://u:hidden@p:1"
    )
    transport = otlp_transport.build(destination)
    assert "hidden" not in repr(transport)
    transport.close()
    assert transport.send(Request(Signal.METRICS, b"", 0), 1.0).reason == "closed"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_request_beyond_the_limit_is_not_sent(protocol: Any, free_port: int) -> None:
    transport = otlp_transport.build(Otlp(endpoint=f"http://127.0.0.1:{free_port}", protocol=protocol))
    outcome = transport.send(Request(Signal.METRICS, bytes(MAX_REQUEST_BYTES + 1), 1), 1.0)
    assert (outcome.kind, outcome.reason) == ("refused", "request_too_large")
    transport.close()


def test_only_what_the_protocol_needs_is_imported() -> None:
    program = (
        "import sys; from otel_netmon.config.model import Otlp; from otel_netmon.export import otlp_transport\n"
        "otlp_transport.build(Otlp()).close()\n"
        "print(sorted({'grpc', 'requests', 'urllib3', 'opentelemetry', 'google.protobuf', 'http.client', 'email'}"
        " & sys.modules.keys()))\n"
        "otlp_transport.build(Otlp(protocol='grpc')).close()\n"
        "print(sorted({'grpc', 'opentelemetry', 'google.protobuf'} & sys.modules.keys()))"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout == "[]\n['grpc']\n"


# ------------------------------------------------------------------------------------------------------------- proxies
def chosen(host: str, configured: str | None = None, *, port: int = 4318, tls: bool = False, **variables: str) -> str:
    found = proxy.choose(configured, tls=tls, host=host, port=port, environment=variables)
    return f"{found.host}:{found.port}" if found else ""


def test_the_variable_of_the_scheme_goes_before_the_one_for_all_and_lower_case_before_upper() -> None:
    assert chosen("c") == ""
    assert chosen("c", http_proxy="http://a:1", https_proxy="http://b:2") == "a:1"
    assert chosen("c", tls=True, http_proxy="http://a:1", https_proxy="http://b:2") == "b:2"
    assert chosen("c", ALL_PROXY="http://a") == "a:80"
    assert chosen("c", http_proxy="", HTTP_PROXY="a:1", ALL_PROXY="http://b:2") == "a:1"
    assert chosen("c", http_proxy="http://a:1", HTTP_PROXY="http://b:2") == "a:1"
    assert chosen("c", "http://[::1]:3", http_proxy="http://a:1") == "::1:3"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1"])
def test_a_proxy_of_the_environment_does_not_lie_between_neighbours(host: str) -> None:
    assert chosen(host, http_proxy="http://a:1") == ""
    assert chosen(host, "http://a:1") == "a:1"


@pytest.mark.parametrize(
    ("no_proxy", "host", "excluded"),
    [
        ("*", "c", True),
        ("c", "c", True),
        ("C", "c.", True),
        ("d", "c", False),
        ("example.com", "otlp.example.com", True),
        (".example.com", "otlp.example.com", True),
        ("*.example.com", "otlp.example.com", True),
        ("example.com", "badexample.com", False),
        ("a, example.com:4318", "otlp.example.com", True),
        ("a example.com:4317", "otlp.example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:4318", "10.1.2.3", True),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]:4318", "fd00::1", True),
        ("1.2.3", "10.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("", "c", False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, excluded: bool) -> None:
    expected = "" if excluded else "a:1"
    assert chosen(host, no_proxy=no_proxy, http_proxy="http://a:1") == expected
    assert chosen(host, "http://a:1", no_proxy=no_proxy) == expected


def test_credentials_of_a_proxy_are_a_header_and_not_shown() -> None:
    found = proxy.choose("http://us%40er:p%20w@a:1", tls=False, host="c", port=1, environment={})
    assert found is not None
    assert found.authorization == "Basic dXNAZXI6cCB3"
    assert "p%20w" not in repr(found)


def test_a_proxy_of_the_environment_that_cannot_be_used_is_told_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"ALL_PROXY: 'socks5://\[REDACTED\]@a' is not"):
        chosen("c", ALL_PROXY="socks5://user:pw@a")
