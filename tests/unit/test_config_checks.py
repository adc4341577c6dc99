"""Single values: addresses, endpoints, interface names, headers."""

from __future__ import annotations

import pytest

from otel_netmon.config import checks
from otel_netmon.config.model import SIGNALS, Destination, Interfaces, Otlp, SignalName


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("localhost:80", ("localhost", 80)),
        ("my-host.example.:80", ("my-host.example.", 80)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert checks.split_host_port(text) == expected
    assert checks.listen(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the host is missing: write 127.0.0.1:PORT, or 0.0.0.0:PORT or [::]:PORT for every address"),
        (":9464", "the host is missing: write 127.0.0.1:PORT, or 0.0.0.0:PORT or [::]:PORT for every address"),
        ("host", "the port is missing: write HOST:PORT"),
        ("host:", "the port is missing: write HOST:PORT"),
        ("host:65536", "the port is not from 0 to 65535"),
        ("host:123456", "the port is not from 0 to 65535"),
        ("::1:80", "expected host:port or [v6]:port"),
        ("host:http", "expected host:port or [v6]:port"),
        ("u@host:1", "expected host:port or [v6]:port"),
        ("[::g]:1", "[::g] is not an IPv6 address"),
        ("[]:1", "[] is not an IPv6 address"),
        ("1.2.3:1", "1.2.3 is not an IPv4 address"),
        ("-a:1", "'-a' is not a host name"),
        ("a..b:1", "'a..b' is not a host name"),
        ("a b:1", "'a b' is not a host name"),
        ("é:1", "'é' is not a host name"),
    ],
)
def test_what_is_not_host_and_port(text: str, fault: str) -> None:
    assert checks.listen(text) == fault


@pytest.mark.parametrize(
    "text",
    ["http://c:4318", "HTTPS://c/otlp/v1/metrics", "http://[::1]:4318/", "http://u:p@c", "c:4317", "c", "10.0.0.1:1"],
)
def test_endpoints(text: str) -> None:
    assert checks.endpoint(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected a URL like http://collector:4318"),
        ("http://a b", "expected a URL like http://collector:4318"),
        ("http://[::1", "expected a URL like http://collector:4318"),
        ("http://", "the host is missing"),
        ("http:///v1", "the host is missing"),
        ("http://c:0", "the port is not from 1 to 65535"),
        ("http://c:", "the port is not from 1 to 65535"),
        ("http://c:99999", "the port is not from 1 to 65535"),
        ("grpc://c", "the scheme grpc:// is not http:// or https://"),
        ("http://c?q=1", "a query or fragment has no meaning in an OTLP endpoint"),
        ("http://c#x", "a query or fragment has no meaning in an OTLP endpoint"),
        ("http://1.2.3.4.5", "1.2.3.4.5 is not an IPv4 address"),
        (
            "http://u:[REDACTED]@c",
            "the user is [REDACTED], the mask of print-config: write the secret itself, or ${env:NAME}",
        ),
    ],
)
def test_what_is_no_endpoint(text: str, fault: str) -> None:
    assert checks.endpoint(text) == fault


@pytest.mark.parametrize("text", ["http://p", "http://u:p@p:3128", "HTTP://[::1]:8080/"])
def test_proxies(text: str) -> None:
    assert checks.proxy(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected a URL like http://proxy:3128"),
        ("p:3128", "the proxy itself is spoken to without TLS: write http://HOST:PORT"),
        ("https://p", "the proxy itself is spoken to without TLS: write http://HOST:PORT"),
        ("socks5://p:1080", "the scheme socks5:// is not http:// or https://"),
        ("http://p/x", "a path has no meaning in a proxy's URL"),
        ("http://p?x", "a query or fragment has no meaning in a proxy's URL"),
    ],
)
def test_what_is_no_proxy(text: str, fault: str) -> None:
    assert checks.proxy(text) == fault


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("HTTP://u:P@Host/X", ("http", "u:P", "host", 80, "/X")),
        ("https://[::1]:1", ("https", "", "[::1]", 1, "")),
        ("c:4317", ("", "", "c", 4317, "")),
        ("c", ("", "", "c", None, "")),
    ],
)
def test_the_parts_of_an_endpoint(text: str, parts: tuple[object, ...]) -> None:
    assert checks.endpoint(text) is None
    assert checks.endpoint_parts(text) == parts


@pytest.mark.parametrize("name", ["a", "0", "back-up_2", "a" * 32])
def test_destination_names(name: str) -> None:
    assert checks.destination(name) is None


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a.b", "a" * 33, "é", "a\n", "default"])
def test_what_is_no_destination_name(name: str) -> None:
    assert checks.destination(name) is not None


def test_a_password_is_masked_and_nothing_else() -> None:
    assert checks.mask_userinfo("http://u:p@c:1/a@b") == "http://[REDACTED]@c:1/a@b"
    assert checks.mask_userinfo("u:p@c:1") == "[REDACTED]@c:1"
    assert checks.mask_userinfo("http://c/a@b") == "http://c/a@b"


@pytest.mark.parametrize("text", ["eth0", "veth*", "wl[pn]?", "a.very-long*name_pattern", "ü"])
def test_interface_patterns(text: str) -> None:
    assert checks.interface_pattern(text) is None


@pytest.mark.parametrize("text", ["", "a/b", "a b", "a\n", "abcdefghijklmnop", "üüüüüüüü"])
def test_what_matches_no_interface(text: str) -> None:
    assert checks.interface_pattern(text) is not None


@pytest.mark.parametrize(
    ("text", "good"), [("blue", True), ("/proc/1/ns/net", True), ("a/b", False), ("", False), ("..", False)]
)
def test_namespaces(text: str, good: bool) -> None:
    assert (checks.namespace(text) is None) is good


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("x-key", "v w", True),
        ("x", "", True),
        ("", "v", False),
        ("a:b", "v", False),
        ("a", "v\r\nx: y", False),
        ("a", "é", False),
    ],
)
def test_headers(name: str, value: str, good: bool) -> None:
    assert (checks.header(name, value) is None) is good


def test_the_mask_is_no_header_value() -> None:
    assert checks.header("a", "[REDACTED]") == (
        "the value is [REDACTED], the mask of print-config: write the secret itself, or ${env:NAME}"
    )


def test_interfaces_are_selected_by_pattern_and_exclusion() -> None:
    section = Interfaces(include=("eth?", "veth1", "lo", "BR0"), exclude=("lo", "eth9"))
    names = ("eth0", "eth9", "eth10", "veth1", "lo", "br0", "BR0")
    assert [name for name in names if section.selects(name)] == ["eth0", "veth1", "BR0"]
    assert section.literal_names() == ("veth1", "BR0")


@pytest.mark.parametrize(
    ("otlp", "target"),
    [
        (Otlp(), "http://localhost:4318/v1/metrics"),
        (Otlp(protocol="grpc"), "http://localhost:4317"),
        (Otlp(endpoint="http://c/otlp/"), "http://c/otlp/v1/metrics"),
        (Otlp(endpoint="http://c:4317", protocol="grpc"), "http://c:4317"),
        (Otlp(endpoint="http://c", metrics_endpoint="http://m"), "http://m"),
        (Otlp(endpoint="http://c", traces_endpoint="http://t", logs_endpoint="http://l"), "http://c/v1/metrics"),
    ],
)
def test_where_metrics_go(otlp: Otlp, target: str) -> None:
    assert otlp.metrics_target() == otlp.target("metrics") == target


@pytest.mark.parametrize("signal", SIGNALS)
def test_where_a_signal_goes(signal: SignalName) -> None:
    assert Otlp().target(signal) == f"http://localhost:4318/v1/{signal}"
    assert Otlp(protocol="grpc").target(signal) == "http://localhost:4317"
    assert Destination(endpoint="https://d/x/").target(signal) == f"https://d/x/v1/{signal}"
    own = Destination(
        endpoint="https://d", metrics_endpoint="http://m", traces_endpoint="http://t", logs_endpoint="http://l"
    )
    assert own.target(signal) == f"http://{signal[0]}"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("dns.google", True),
        ("DNS.Google.", True),
        ("resolver", True),
        ("", False),
        (".", False),
        ("a..b", False),
        ("192.0.2.1", False),
        ("*.dns.google", False),
        ("https://dns.google", False),
        ("a." * 127 + "a", False),
    ],
)
def test_domain_names(text: str, good: bool) -> None:
    assert (checks.domain_name(text) is None) == good
