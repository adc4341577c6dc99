"""Lookups, handshakes and requests seen at the sockets of local processes (messages.vantage host), through the whole agent.

Nothing is attached to an interface. Whoever is to be remote is in a cgroup of its own, which is not observed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.agent import Agent, agent
from support.netns import NetNs, namespace, veth_pair
from support.otlp_receiver import Receiver, http_receiver
from support.socket_programs import cgroup
from support.talkers import CLIENT_KIND, EXECUTABLE, HTTP_PORT, SERVER_KIND, Many, client, server, spans

pytestmark = pytest.mark.kernel

REQUESTS, KEPT_ALIVE, HANDSHAKES, LOOKUPS, TCP_LOOKUPS, UNANSWERED = 31, 23, 13, 101, 17, 7
NOBODY = (None, None)


class Case(NamedTuple):
    """Who is observed, and whether both are in one network namespace."""

    client: bool
    server: bool
    one_namespace: bool


@contextlib.contextmanager
def watching(folder: Path, *settings: str) -> Iterator[tuple[Agent, Receiver]]:
    """The agent at the sockets of a cgroup; every span goes to a receiver of this test."""
    every = (
        "messages.vantage=host",
        f"probes.connections.cgroup={folder}",
        "probes.flows.enabled=false",
        "probes.dns.timeout_seconds=1",
        "spans.share=1",
        "spans.limit_per_second=100000",
        "spans.slow_seconds=1000",
        *settings,
    )
    words = [word for each in every for word in ("--set", each)]
    with (
        http_receiver() as receiver,
        agent("--interface", "lo", *words, "--otlp-endpoint", receiver.endpoint, otlp=True) as running,
    ):
        yield running, receiver


@contextlib.contextmanager
def places(case: Case) -> Iterator[tuple[NetNs, NetNs, str]]:
    """Where the client and the server are, and the server's address."""
    if case.one_namespace:
        with namespace() as one:
            yield one, one, "127.0.0.1"
    else:
        with veth_pair() as (near, far, pair):
            yield near, far, pair.right_address


CASES = {
    "loopback": Case(client=True, server=True, one_namespace=True),
    "two namespaces": Case(client=True, server=True, one_namespace=False),
    "a remote server": Case(client=True, server=False, one_namespace=False),
    "a remote client": Case(client=False, server=True, one_namespace=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_end_that_is_observed_tells_its_own(case: Case, tmp_path: Path) -> None:
    many = Many(REQUESTS, KEPT_ALIVE, HANDSHAKES, LOOKUPS, TCP_LOOKUPS, UNANSWERED)
    with cgroup() as observed, cgroup() as others, places(case) as (near, far, address):
        folders = [observed if is_seen else others for is_seen in (case.client, case.server)]
        with (
            watching(observed) as (running, receiver),
            server(far, address, tmp_path, folders[1]) as serving,
            client(near, address, many, folders[0]) as asker,
        ):
            asking = (asker, EXECUTABLE) if case.client else NOBODY
            expected: Counter[tuple[str, int, Any, Any]] = Counter(
                {("DNS lookup", CLIENT_KIND, *asking): LOOKUPS + TCP_LOOKUPS + UNANSWERED}
            )
            if case.client:
                expected["TLS handshake", CLIENT_KIND, asker, EXECUTABLE] = HANDSHAKES
                expected["GET", CLIENT_KIND, asker, EXECUTABLE] = REQUESTS + KEPT_ALIVE
            else:
                expected["TLS handshake", SERVER_KIND, serving, EXECUTABLE] = HANDSHAKES
            if case.server:
                expected["GET", SERVER_KIND, serving, EXECUTABLE] = REQUESTS + KEPT_ALIVE
            running.wait(lambda: spans(receiver).total() >= expected.total(), 40, "all spans")
            assert spans(receiver) == expected
            sides = {"client": case.client, "server": case.server}
            for side, is_seen in sides.items():
                name = f"http_{side}_request_duration_seconds_count"
                assert running.total(name) == (REQUESTS + KEPT_ALIVE if is_seen else 0)
            assert running.total("dns_lookup_duration_seconds_count", error_type="timeout") == UNANSWERED
            assert running.total("dns_lookup_duration_seconds_count") == LOOKUPS + TCP_LOOKUPS + UNANSWERED
            assert running.total("netmon_tls_handshake_duration_seconds_count") == HANDSHAKES
            states = {each["name"]: each["state"] for each in running.status()["probes"]}
            assert {states[name] for name in ("dns", "tls", "http", "connections")} == {"ok"}


def inside(folder: Path, *command: str) -> list[str]:
    """The command that runs another one in a cgroup."""
    return ["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh", *command]


NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format told '$request_method $status';
  access_log {folder}/access.log told;
  keepalive_requests 100000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:8081; listen 127.0.0.1:8082 http2;
    location /ok {{ return 200 "body"; }}
    location /gone {{ return 410; }}
    root {folder};
    location /large {{ }}
  }}
}}
"""


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("h2load")), reason="nginx and h2load are not installed")
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_many_connections_at_once_count_at_both_ends(version: str, tmp_path: Path) -> None:
    """Packets that are received interrupt those that are sent; bodies of 3 MB come as super-packets."""
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path))
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    tmp_path.chmod(0o755)
    port = 8081 if version == "1.1" else 8082
    with (
        cgroup() as observed,
        namespace() as where,
        watching(observed, f"probes.dns.ring_bytes={1 << 25}") as (running, _),
    ):
        words = inside(
            observed,
            "nginx",
            "-p",
            str(tmp_path),
            "-c",
            str(tmp_path / "nginx.conf"),
            "-e",
            str(tmp_path / "error.log"),
        )
        with where.serving("127.0.0.1", port, *words):
            for often, more in ((4001, ["-c29"]), (211, ["-c1"]), (17, ["-c1", "/large"])):
                paths = [more.pop()] if more[-1].startswith("/") else ["/ok?token=secret", "/gone"]
                if version == "1.1":
                    more.append("--h1")
                load = ["h2load", "-n", str(often), *more, *[f"http://127.0.0.1:{port}{path}" for path in paths]]
                where.run(*inside(observed, *load))
        log = Counter(tuple(line.split()) for line in (tmp_path / "access.log").read_text().splitlines())
        assert sum(log.values()) == 4001 + 211 + 17

        def requests(side: str) -> Counter[tuple[str, ...]]:
            found: Counter[tuple[str, ...]] = Counter()
            for have, value in running.samples(f"http_{side}_request_duration_seconds_count"):
                if have.get("otel_metric_overflow") is None:
                    assert have["network_protocol_version"] == version
                    found[have["http_request_method"], have["http_response_status_code"]] += int(value)
            return +found

        for side in ("client", "server"):
            running.becomes(lambda side=side: requests(side), log)  # type: ignore[misc]
        lost = {
            (have["netmon_stage"], have["netmon_signal"], have["netmon_reason"]): value
            for have, value in running.samples("netmon_pipeline_items_total", netmon_outcome="dropped")
            if have["netmon_stage"] in ("kernel", "ring") and value
        }
        assert not lost


def test_connections_that_are_older_than_the_agent_are_followed(tmp_path: Path) -> None:
    program = """
import http.client, json, sys
(address, port, requests) = json.loads(sys.argv[1])
connection = http.client.HTTPConnection(address, port, timeout=20)
connection.request("GET", "/before")
assert connection.getresponse().read() == b"ok"
print("connected", flush=True)
sys.stdin.readline()
for _ in range(requests):
    connection.request("GET", "/item")
    assert connection.getresponse().read() == b"ok"
print("done", flush=True)
sys.stdin.read()
"""
    with cgroup() as observed, namespace() as where, server(where, "127.0.0.1", tmp_path, observed):
        words = where.command(
            *inside(observed, sys.executable, "-c", program, json.dumps(["127.0.0.1", HTTP_PORT, REQUESTS]))
        )
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as talking:
            assert talking.stdin is not None
            assert talking.stdout is not None
            assert talking.stdout.readline() == b"connected\n"
            with watching(observed) as (running, _):
                talking.stdin.write(b"go\n")
                talking.stdin.flush()
                assert talking.stdout.readline() == b"done\n"
                for side in ("client", "server"):
                    name = f"http_{side}_request_duration_seconds_count"
                    running.becomes(lambda name=name: running.total(name), REQUESTS)  # type: ignore[misc]
            talking.kill()


def test_the_vantage_changes_while_the_agent_runs(tmp_path: Path) -> None:
    """At interfaces first, then at sockets: each request is told at one vantage, and flows are counted in either."""
    file = tmp_path / "agent.yaml"
    many = Many(REQUESTS, 0, 0, 0, 0, 0)
    with cgroup() as observed, veth_pair() as (near, far, pair):
        address = pair.right_address

        def configure(vantage: str) -> None:
            probes = f"probes: {{connections: {{cgroup: {observed}}}}}"
            file.write_text(f"messages: {{vantage: {vantage}}}\n{probes}\ninterfaces: {{namespaces: [{far.name}]}}\n")

        def requests() -> dict[str, int]:
            return {side: running.total(f"http_{side}_request_duration_seconds_count") for side in ("client", "server")}

        configure("interface")
        with (
            agent("--config", str(file), "--interface", pair.right) as running,
            server(far, address, tmp_path, observed),
        ):
            with client(near, address, many, observed):
                running.becomes(requests, {"client": 0, "server": REQUESTS})
            configure("host")
            before = running.pipeline_pid()
            running.process.send_signal(signal.SIGHUP)
            running.wait(lambda: _serves_anew(running, before), 30, "a pipeline for the other programs")
            with client(near, address, many, observed):
                running.becomes(requests, {"client": REQUESTS, "server": REQUESTS})
            assert running.total("netmon_flow_packets_total")


def _serves_anew(running: Agent, before: int) -> bool:
    try:
        running.status()
    except ConnectionError:
        return False
    return bool(running.events("config.reloaded")) and running.pipeline_pid() != before
