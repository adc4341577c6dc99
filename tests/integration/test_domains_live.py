"""The names behind addresses through the whole agent: one address that programs in several cgroups know by different names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver
from support.socket_programs import cgroup

pytestmark = pytest.mark.kernel

SHARED, LOOPBACK = "198.18.0.101", "127.0.0.1"
CLIENT_KIND = 3

WEB = """
import http.server, sys, threading

class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", self.path[1:])
        self.end_headers()
        self.wfile.write(bytes(int(self.path[1:])))
    def log_message(self, *_):
        pass

address, *ports = sys.argv[1:]
for port in ports:
    server = http.server.ThreadingHTTPServer((address, int(port)), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


class Shop(NamedTuple):
    """A name that all have one address, and who fetches its page: so many times, each by a lookup and a connection."""

    name: str
    port: int
    octets: int
    times: int
    asks_resolver: bool

    @property
    def domain(self) -> str:
        return self.name.partition(".")[2]


SHOPS = (
    Shop("www.shop.test", 8081, 9973, 7, asks_resolver=False),
    Shop("www.mail.test", 8082, 101, 11, asks_resolver=False),
    Shop("www.video.test", 8083, 50_021, 5, asks_resolver=True),
)
"""The first two ask the server of names, the last one a resolver of the host, which is in a cgroup of its own as well."""


def fetch_all(near: NetNs, pair: Veth, folder: Path) -> None:
    """One after the other, each in a cgroup of its own."""
    for name, port, octets, times, asks_resolver in SHOPS:
        resolv = folder / f"resolv.{port}"
        resolv.write_text(f"nameserver {LOOPBACK if asks_resolver else pair.right_address}\noptions timeout:10\n")
        url = f"http://{name}:{port}/{octets}"
        with cgroup() as own:
            # A mount namespace of its own, for its resolv.conf.
            script = (
                f"echo $$ > {own}/cgroup.procs && mount --bind {resolv} /etc/resolv.conf &&"
                f" for _ in $(seq {times}); do curl -sf --noproxy '*' -m 20 -o /dev/null {url} || exit 1; done"
            )
            near.run("unshare", "--mount", "sh", "-c", script)


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def running(command: Sequence[str], folder: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that lives as long as this, in a cgroup where one is given."""
    if folder is not None:
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder), *command]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def names(where: NetNs, address: str, *options: str, folder: Path | None = None) -> Iterator[None]:
    """A dnsmasq at an address, once it listens."""
    common = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"]
    own = ["--pid-file", "--bind-interfaces", "--cache-size=0", f"--listen-address={address}", *options]
    with running(where.command(*common, *own), folder):
        deadline = time.monotonic() + 20
        with where.socket(2, 1) as probe:
            while probe.connect_ex((address, 53)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield


@contextmanager
def world(near: NetNs, far: NetNs, pair: Veth) -> Iterator[None]:
    """A server of names and pages at the far end, a resolver at the near one."""
    far.run("ip", "address", "add", f"{SHARED}/32", "dev", pair.right)
    answers = [f"--address=/{shop.domain}/{SHARED}" for shop in SHOPS]
    with ExitStack() as stack:
        stack.enter_context(names(far, pair.right_address, *answers))
        folder = stack.enter_context(cgroup())
        stack.enter_context(names(near, LOOPBACK, f"--server={pair.right_address}", folder=folder))
        web = far.command(sys.executable, "-c", WEB, SHARED, *(str(shop.port) for shop in SHOPS))
        process = stack.enter_context(running(web))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield


def by_direction(found: Agent, metric: str, **labels: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for have, value in found.samples(metric, **labels):
        counted[have["network_io_direction"]] += int(value)
    return +counted


def connections(receiver: Receiver) -> Counter[tuple[int, Any]]:
    """Spans of connections that were made to SHARED, by port and netmon.domain."""
    found: Counter[tuple[int, Any]] = Counter()
    for request in list(receiver.requests):
        if request.path != "/v1/traces":
            continue
        for group in request.body.resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    have = {each.key: each.value for each in span.attributes}
                    if (span.name, span.kind) != ("TCP connection", CLIENT_KIND):
                        continue
                    if have["server.address"].string_value == SHARED:
                        domain = have["netmon.domain"].string_value if "netmon.domain" in have else None
                        found[have["server.port"].int_value, domain] += 1
    return found


def begun(found: Agent) -> dict[str, int]:
    """Connections that were made, by domain of those that have one address."""
    domains = {*(shop.domain for shop in SHOPS), "(several)"}
    samples = found.samples("netmon_domain_connections_total", network_io_direction="transmit")
    return {have["netmon_domain"]: int(value) for have, value in samples if have.get("netmon_domain") in domains}


def test_each_cgroup_knows_a_shared_address_by_its_own_name(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    """Bytes by domain are those of the flows to the address; only the port says which of them were whose."""
    near, far, pair = link
    settings = (f"interfaces.namespaces={near.name}", "spans.share=1", "spans.limit_per_second=100000")
    words = [word for each in settings for word in ("--set", each)]
    with (
        world(near, far, pair),
        http_receiver() as receiver,
        agent(
            *("--interface", pair.left, "--interface", "lo", *words),
            *("--otlp-endpoint", receiver.endpoint),
            otlp=True,
        ) as told,
    ):
        fetch_all(near, pair, tmp_path)

        def flows(**labels: str) -> Counter[str]:
            return by_direction(told, "netmon_flow_io_bytes_total", server_address=SHARED, **labels)

        def domains(name: str) -> Counter[str]:
            return by_direction(told, "netmon_domain_io_bytes_total", netmon_domain=name)

        made = {shop.domain: shop.times for shop in SHOPS}
        told.wait(lambda: begun(told) == made, 30, "every connection")
        told.wait(lambda: connections(receiver).total() >= sum(made.values()), 30, "spans of connections")
        assert connections(receiver) == {(shop.port, shop.domain): shop.times for shop in SHOPS}
        told.wait(lambda: sum(map(domains, made), Counter[str]()) == flows(), 30, "the last packets")
        for shop in SHOPS:
            assert domains(shop.domain) == flows(server_port=str(shop.port))
            assert domains(shop.domain)["receive"] > shop.octets * shop.times


def test_without_connections_the_names_are_those_of_the_address(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    """Nobody knows a cgroup then: an address with several names says so, for what begins when it has them."""
    near, far, pair = link
    settings = (f"interfaces.namespaces={near.name}", "probes.connections.enabled=false")
    words = [word for each in settings for word in ("--set", each)]
    with world(near, far, pair), agent("--interface", pair.left, "--interface", "lo", *words) as told:
        fetch_all(near, pair, tmp_path)
        expected = {"shop.test": SHOPS[0].times, "(several)": SHOPS[1].times + SHOPS[2].times}
        told.wait(lambda: sum(begun(told).values()) == sum(expected.values()), 30, "every connection")
        assert begun(told) == expected
