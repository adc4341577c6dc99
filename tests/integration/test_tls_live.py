"""TLS through the whole agent: what it tells is what OpenSSL and nginx agreed on and logged."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.decode.tls_ciphers import CIPHER_NAMES
from support import quic_packets as q, tls_messages as t
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.nginx import AVAILABLE, Nginx, Site, nginx
from support.otlp_receiver import Receiver, http_receiver
from support.starttls import PROTOCOLS as PROTOCOLS_OF_STARTTLS, serving
from support.tls_talk import NOT_AFTER, Authority, old_versions

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not AVAILABLE or shutil.which("openssl") is None, reason="needs nginx and openssl"),
]

HANDSHAKES = int(os.environ.get("NETMON_TLS_HANDSHAKES", "211"))
"""Of the large test; any number from 47 on."""

NAME = "secure.example"
CANARY = b"canary-0a1b2c3d4e5f-canary"
COUNT = "netmon_tls_handshake_duration_seconds_count"
PROTOCOLS = {"TLSv1": "1.0", "TLSv1.1": "1.1", "TLSv1.2": "1.2", "TLSv1.3": "1.3"}
VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
REQUEST = b"GET /" + CANARY + b" HTTP/1.0\r\nHost: secure.example\r\n\r\n"


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair(ipv6=True) as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def watched(client: NetNs, pair: Veth, *more: str) -> Iterator[tuple[Agent, Receiver]]:
    """The agent at the client's end of the link, every span kept and sent to a receiver."""
    settings = [
        f"interfaces.namespaces={client.name}",
        "spans.share=1",
        "spans.limit_per_second=100000",
        "spans.slow_seconds=1000",
        *more,
    ]
    words = [word for each in settings for word in ("--set", each)]
    with (
        http_receiver() as receiver,
        agent(
            "--interface", pair.left, *words, "--otlp-endpoint", f"http://127.0.0.1:{receiver.port}", otlp=True
        ) as running,
    ):
        yield running, receiver


def told(receiver: Receiver, path: str) -> list[dict[str, Any]]:
    """Attributes of all spans or log records that came, with their names."""
    found = []
    for request in list(receiver.requests):
        if request.path != path:
            continue
        groups = request.body.resource_spans if path == "/v1/traces" else request.body.resource_logs
        for group in groups:
            for scope in group.scope_spans if path == "/v1/traces" else group.scope_logs:
                for one in scope.spans if path == "/v1/traces" else scope.log_records:
                    attributes = {each.key: _value(each.value) for each in one.attributes}
                    name = one.name if path == "/v1/traces" else one.event_name
                    found.append({"name": name, **attributes})
    return found


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def spans(receiver: Receiver) -> list[dict[str, Any]]:
    return [each for each in told(receiver, "/v1/traces") if each["name"] == "TLS handshake"]


def client_context(authority: Path, version: str, ciphers: str = "ALL", alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    with old_versions():
        made = ssl.create_default_context(cafile=str(authority))
        made.minimum_version = made.maximum_version = VERSIONS[version]
    made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def ask(
    client: NetNs,
    context: ssl.SSLContext,
    end: tuple[str, int],
    name: str | None = NAME,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSession | None:
    """One request; gives the session."""
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect(end)
        with context.wrap_socket(plain, server_hostname=name, session=session) as sealed:
            if sealed.selected_alpn_protocol() == "h2":
                sealed.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4))
                sealed.recv(100)
                # One request in HPACK: GET, /, https, and the name as a literal.
                block = b"\x82\x84\x87\x41" + bytes([len(NAME)]) + NAME.encode()
                sealed.sendall(len(block).to_bytes(3, "big") + b"\1\5" + bytes(3) + b"\1" + block)
                answer = b""
                while b"ok" not in answer:
                    answer += sealed.recv(1000)
            else:
                sealed.sendall(REQUEST)
                while sealed.recv(1000):
                    pass
            return sealed.session


def openssl_names() -> dict[str, str]:
    """IANA's names of suites by OpenSSL's."""
    listed = subprocess.run(
        ["openssl", "ciphers", "-V", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], check=True, capture_output=True, text=True
    ).stdout
    names = {}
    for line in listed.splitlines():
        code, _, name = line.strip().split()[:3]
        high, low = (int(part, 16) for part in code.split(","))
        names[name] = CIPHER_NAMES[high << 8 | low]
    return names


def as_logged(server: Nginx, names: dict[str, str]) -> Counter[tuple[object, ...]]:
    """What nginx logged, in the words of the agent."""
    return Counter(
        (
            int(each.port),
            PROTOCOLS[each.protocol],
            names[each.cipher],
            each.server_name,
            each.reused == "r",
            None if each.alpn == "-" or each.protocol == "TLSv1.3" else each.alpn,
        )
        for each in server.logged()
    )


def as_told(receiver: Receiver) -> Counter[tuple[object, ...]]:
    return Counter(
        (
            span["server.port"],
            span.get("tls.protocol.version"),
            span.get("tls.cipher"),
            span["server.address"],
            span.get("tls.resumed"),
            span.get("tls.next_protocol"),
        )
        for span in spans(receiver)
    )


def test_every_field_is_what_nginx_logged(
    link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    left, right, pair = link
    file, rsa = authority.issue([NAME]), authority.issue([NAME], rsa_bits=2048)
    sites = [
        Site(4430, file, "TLSv1"),
        Site(4431, file, "TLSv1.1"),
        Site(4432, file, "TLSv1.2", http2=True),
        Site(4433, file, "TLSv1.3", http2=True),
        Site(4434, rsa, "TLSv1.2", tickets=False),
        Site(4435, rsa, "TLSv1.2 TLSv1.3", client_authority=authority.file),
    ]
    mine = authority.issue([], subject="client")
    ways = [
        (4430, client_context(authority.file, "1.0")),
        (4431, client_context(authority.file, "1.1")),
        (4432, client_context(authority.file, "1.2", alpn=("h2", "http/1.1"))),
        (4432, client_context(authority.file, "1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", alpn=("http/1.1",))),
        (4433, client_context(authority.file, "1.3", alpn=("h2",))),
        (4434, client_context(authority.file, "1.2", "AES128-SHA")),
        (4434, client_context(authority.file, "1.2", "ECDHE-RSA-AES256-GCM-SHA384")),
        (4435, client_context(authority.file, "1.2")),
        (4435, client_context(authority.file, "1.3")),
    ]
    for _, context in ways[-2:]:
        context.load_cert_chain(mine)
    with nginx(right, pair.right_address, sites, tmp_path) as server, watched(left, pair) as (running, receiver):
        sessions: dict[int, ssl.SSLSession | None] = {}
        for number in range(HANDSHAKES):
            way = number % len(ways)
            port, context = ways[way]
            again = sessions.pop(way, None)
            kept = ask(left, context, (pair.right_address, port), session=again)
            if again is None:
                sessions[way] = kept
        running.becomes(lambda: running.total(COUNT), HANDSHAKES, 60)
        logged = as_logged(server, openssl_names())
        assert logged.total() == HANDSHAKES
        assert len(logged) >= 2 * len(ways) - 1
        running.becomes(lambda: as_told(receiver), logged)
        assert running.items("decode", "tls_handshakes") == Counter(delivered=HANDSHAKES)
        kernel, ring = running.items("kernel", "stream_messages"), running.items("ring", "stream_messages")
        assert kernel == ring
        every = spans(receiver)
        assert {span.get("netmon.tls.client.certificates") for span in every if span["server.port"] == 4435} == {
            2,
            None,
        }
        for span in every:
            assert span["tls.established"]
            assert 0 < span["netmon.tls.server.flight"] < 5
            assert len(span["tls.client.ja3"]) == 32
            in_clear = span["tls.protocol.version"] != "1.3" and not span["tls.resumed"]
            assert span.get("tls.server.not_after") == (f"{NOT_AFTER:%Y-%m-%dT%H:%M:%SZ}" if in_clear else None)
        left_seconds = {int(value) for _, value in running.samples("netmon_tls_certificate_expiry_seconds")}
        assert len(running.samples("netmon_tls_certificate_expiry_seconds")) == 5  # the ports that show one
        assert max(left_seconds) - min(left_seconds) <= 1
        assert abs(max(left_seconds) - (NOT_AFTER.timestamp() - time.time())) < 60
        weak = {have["netmon_tls_weakness"]: int(value) for have, value in running.samples("netmon_tls_weak_total")}
        old = sum(count for key, count in logged.items() if key[1] in ("1.0", "1.1"))
        assert weak["old_version"] == old > 0
        assert weak["wrong_name"] == weak["expired"] == weak["self_signed"] == 0


def test_each_failure_says_what_and_who(link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path) -> None:
    left, right, pair = link
    ended = authority.issue([NAME], not_after=NOT_AFTER.replace(year=2025))
    sites = [
        Site(4432, authority.issue([NAME]), "TLSv1.2"),
        Site(4433, authority.issue([NAME]), "TLSv1.3"),
        Site(4434, ended, "TLSv1.2"),
    ]
    stranger = Authority(tmp_path, "stranger")
    end = pair.right_address
    with (
        nginx(right, end, sites, tmp_path) as server,
        watched(left, pair, "probes.tls.timeout_seconds=1") as (run, got),
    ):
        run.becomes(lambda: run.total(COUNT), 0)
        tries: list[tuple[ssl.SSLContext, int, str]] = [
            *[(client_context(authority.file, "1.1"), 4432, NAME)] * 2,  # wrong version
            *[(client_context(authority.file, "1.3"), 4432, NAME)] * 3,
            *[(client_context(stranger.file, "1.2"), 4432, NAME)] * 5,  # unknown authority
            *[(client_context(stranger.file, "1.3"), 4433, NAME)] * 7,
            *[(client_context(authority.file, "1.2"), 4434, NAME)] * 11,  # ended
            *[(client_context(authority.file, "1.2"), 4432, "other.example")] * 13,  # name
        ]
        for context, port, name in tries:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(left, context, (end, port), name)
        with right.socket(socket.AF_INET, socket.SOCK_STREAM) as deaf:  # never answers
            deaf.bind((end, 4436))
            deaf.listen()
            with left.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:  # and who leaves before
                plain.connect((end, 4436))
                plain.sendall(t.record(t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02C], []))))
            with left.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
                plain.connect((end, 4436))
                plain.sendall(t.record(t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02C], []))))
                run.becomes(lambda: run.total(COUNT, error_type="timeout"), 1)
        with right.socket(socket.AF_INET, socket.SOCK_STREAM) as other:  # speaks something else
            other.bind((end, 4437))
            other.listen()
            with left.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
                plain.connect((end, 4437))
                with other.accept()[0] as served:
                    plain.sendall(t.record(t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02C], []))))
                    served.recv(1000)
                    served.sendall(b"SSH-2.0-nothing\r\n")
                    plain.recv(100)
        errors = Counter(
            protocol_version=2 + 3,
            unknown_ca=5 + 7,
            certificate_expired=11,
            bad_certificate=13,
            timeout=1,
            not_tls=1,
            closed=1,
        )
        found = lambda: Counter(  # noqa: E731
            {key: run.total(COUNT, error_type=key) for key in errors}
        )
        run.becomes(found, errors)
        assert run.total(COUNT) == errors.total()
        assert server.logged() == []
        run.becomes(lambda: len(spans(got)), errors.total())
        by_error = {span["error.type"]: span["netmon.tls.failed_by"] for span in spans(got)}
        assert by_error == {
            "protocol_version": "server",
            "unknown_ca": "client",
            "certificate_expired": "client",
            "bad_certificate": "client",
            "timeout": "server",
            "not_tls": "server",
            "closed": "client",
        }


def test_what_is_weak_and_what_ends_is_told_once(
    link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    left, right, pair = link
    soon = authority.issue([NAME], rsa_bits=2048, not_after=NOT_AFTER.replace(year=time.gmtime().tm_year + 1))
    sites = [Site(4432, soon, "TLSv1 TLSv1.2", "RC4:3DES:AES:aNULL:eNULL")]
    with (
        nginx(right, pair.right_address, sites, tmp_path),
        watched(left, pair, "probes.tls.expiry_warning_days=1000", "probes.tls.minimum_rsa_bits=3072") as (run, got),
    ):
        for _ in range(3):
            ask(left, client_context(authority.file, "1.0", "AES128-SHA"), (pair.right_address, 4432))
        trusting = client_context(authority.file, "1.2", "AECDH-AES128-SHA")
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        ask(left, trusting, (pair.right_address, 4432))
        kinds = Counter({"old_version": 3, "small_key": 3, "anonymous": 1})
        run.becomes(
            lambda: +Counter({have["netmon_tls_weakness"]: int(n) for have, n in run.samples("netmon_tls_weak_total")}),
            kinds,
        )
        events = lambda: Counter(  # noqa: E731
            (each["name"], each.get("netmon.tls.weakness")) for each in told(got, "/v1/logs") if ".tls." in each["name"]
        )
        expected: Counter[tuple[str, str | None]] = Counter({("netmon.tls.weak", kind): 1 for kind in kinds})
        expected["netmon.tls.certificate.expiring", None] = 1
        run.becomes(events, expected)
        (expiring,) = [each for each in told(got, "/v1/logs") if each["name"].endswith("expiring")]
        assert (expiring["server.address"], expiring["server.port"]) == (NAME, 4432)


def test_an_upgrade_behind_other_protocols(link: tuple[NetNs, NetNs, Veth], authority: Authority) -> None:
    left, right, pair = link
    file = authority.issue([NAME])
    with watched(left, pair) as (run, got), ExitStack() as servers:
        for port, protocol in enumerate(PROTOCOLS_OF_STARTTLS, 7000):
            servers.enter_context(serving(right, pair.right_address, port, protocol, file))
            command = ["openssl", "s_client", "-starttls", protocol, "-connect", f"{pair.right_address}:{port}"]
            for _ in range(3):
                done = subprocess.run(
                    left.command("timeout", "10", *command, "-servername", NAME, "-CAfile", str(authority.file)),
                    input=b"Q\n",
                    capture_output=True,
                    check=False,
                )
                assert b"Verification: OK" in done.stdout, (protocol, done.stdout[-500:], done.stderr[-500:])
        run.becomes(lambda: run.total(COUNT), 3 * len(PROTOCOLS_OF_STARTTLS))
        run.becomes(lambda: len(spans(got)), 3 * len(PROTOCOLS_OF_STARTTLS))
        every = spans(got)
        assert Counter(each["server.port"] for each in every) == Counter(
            dict.fromkeys(range(7000, 7000 + len(PROTOCOLS_OF_STARTTLS)), 3)
        )
        assert {(each["server.address"], each["tls.established"], each["tls.protocol.version"]) for each in every} == {
            (NAME, True, "1.2")
        }


def test_a_request_in_the_clear_to_a_port_of_tls(
    link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    left, right, pair = link
    end = (pair.right_address, 4432)
    with (
        nginx(right, end[0], [Site(4432, authority.issue([NAME]), "TLSv1.2")], tmp_path) as server,
        watched(left, pair) as (run, got),
    ):
        ask(left, client_context(authority.file, "1.2"), end)
        run.becomes(lambda: run.total(COUNT), 1)
        for _ in range(3):
            with left.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
                plain.connect(end)
                plain.sendall(b"GET /clear HTTP/1.1\r\nHost: secure.example\r\n\r\n")
                while plain.recv(1000):
                    pass
        run.becomes(lambda: run.total("netmon_tls_weak_total", netmon_tls_weakness="plaintext"), 3)
        assert [each.status for each in server.logged()] == ["200", *["400"] * 3]
        kinds = lambda: [each["netmon.tls.weakness"] for each in told(got, "/v1/logs") if "netmon.tls.weakness" in each]  # noqa: E731
        run.becomes(kinds, ["plaintext"])
        assert run.total(COUNT) == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_nothing_behind_the_handshake_leaves_the_kernel(
    version: str, link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    """A canary in the data, in a client's certificate and in what is no TLS is in no output, and data makes no records."""
    left, right, pair = link
    mine = authority.issue([], subject=CANARY.decode())
    sites = [Site(4432, authority.issue([NAME]), f"TLSv{version}", client_authority=authority.file)]
    end = (pair.right_address, 4432)
    context = client_context(authority.file, version)
    context.load_cert_chain(mine)
    with nginx(right, end[0], sites, tmp_path) as server, watched(left, pair) as (run, got):
        for _ in range(5):
            ask(left, context, end)
        run.becomes(lambda: run.total(COUNT), 5)
        assert len(server.logged()) == 5
        before = run.items("kernel", "stream_messages").total()
        with left.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
            plain.connect(end)
            with context.wrap_socket(plain, server_hostname=NAME) as sealed:
                run.becomes(lambda: run.total(COUNT), 6)
                shaken = run.items("kernel", "stream_messages").total()
                for _ in range(200):
                    sealed.sendall(b"GET /" + CANARY * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                    sealed.recv(1 << 16)
        run.becomes(lambda: run.items("ring", "stream_messages").total() > before, True)
        assert run.items("kernel", "stream_messages").total() - shaken <= 2  # the headers of its first records
        pages = run.get("/metrics") + run.get("/status") + run.log_text
        sent = b"".join(request.body.SerializeToString() for request in got.requests)
        assert CANARY.decode() not in pages
        assert CANARY not in sent


def answers(run: Agent) -> int | None:
    """The handshakes so far, None while nobody answers."""
    try:
        return run.total(COUNT)
    except ConnectionError:
        return None


def test_a_pipeline_that_is_killed_loses_nothing_that_was_told(
    link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    left, right, pair = link
    sites = [Site(4432, authority.issue([NAME]), "TLSv1.2")]
    context = client_context(authority.file, "1.2")
    with nginx(right, pair.right_address, sites, tmp_path), watched(left, pair) as (run, _):
        for _ in range(7):
            ask(left, context, (pair.right_address, 4432))
        run.becomes(lambda: run.total(COUNT), 7)
        time.sleep(1.5)  # a cycle, so that it is saved
        killed = run.pipeline_pid()
        os.kill(killed, signal.SIGKILL)
        run.wait(lambda: answers(run) == 7, 30, "the counts of before")
        for _ in range(13):
            ask(left, context, (pair.right_address, 4432))
        run.becomes(lambda: run.total(COUNT), 20)
        ring = run.items("ring", "stream_messages")
        assert ring.total() == run.items("kernel", "stream_messages").total()


def test_hellos_of_quic_and_dtls_are_counted(link: tuple[NetNs, NetNs, Veth]) -> None:
    left, _, pair = link
    hello = t.handshake(t.CLIENT_HELLO, t.client_hello([0x1301], [t.server_name(b"quic.example")]))
    with watched(left, pair) as (run, _):
        for number in range(5):
            with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for packet in range(2):
                    client.sendto(q.initial(q.crypto(0, hello), bytes([number] * 8), packet), (pair.right_address, 443))
        command = left.command(
            *("openssl", "s_client", "-dtls1_2", "-servername", NAME, "-connect", f"{pair.right_address}:4444")
        )
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as dtls:
            found = lambda: {  # noqa: E731
                (have["network_protocol_name"], have["server_address"]): int(value)
                for have, value in run.samples("netmon_tls_datagram_hellos_total")
                if "server_address" in have
            }
            try:
                run.becomes(found, {("quic", "quic.example"): 5, ("dtls", NAME): 1})
            finally:
                dtls.kill()


def test_without_the_probe_nothing_is_looked_at(
    link: tuple[NetNs, NetNs, Veth], authority: Authority, tmp_path: Path
) -> None:
    left, right, pair = link
    sites = [Site(4432, authority.issue([NAME]), "TLSv1.2")]
    settings = [f"interfaces.namespaces={left.name}", "probes.tls.enabled=false", "probes.http.enabled=false"]
    words = [word for each in settings for word in ("--set", each)]
    with nginx(right, pair.right_address, sites, tmp_path), agent("--interface", pair.left, *words) as run:
        ask(left, client_context(authority.file, "1.2"), (pair.right_address, 4432))
        run.wait(lambda: run.total("netmon_flow_packets_total") > 10, 20, "the flow")
        assert run.samples(COUNT) == []
        assert run.items("ring", "stream_messages") == Counter()
        state = {probe["name"]: probe["state"] for probe in run.status()["probes"]}
        assert state["tls"] == "off"
        assert not any(
            "netmon_stream" in have["netmon_bpf_program_name"]
            for have, _ in run.samples("netmon_bpf_program_runs_total")
        )
