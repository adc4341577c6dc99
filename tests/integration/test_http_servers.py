"""HTTP/1 as servers and clients of the field speak it: what the agent counts is what the servers say that they answered."""

from __future__ import annotations

import http.client
import random
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.agent import Agent, agent
from support.http_loads import ROUTES as ROUTES_OF_LOADS, counts, curl, h2load, nginx, wrk
from support.http_servers.running import PORT, Kind, go, java, node, python, server
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

COUNT = "http_server_request_duration_seconds_count"
ROUTES = "/s/{status}/{size}/{kind}/users/{id},POST /s/{status}/{size}/{kind}/{rest...}"
CONNECTIONS = 5
REQUESTS = 1009
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")

Key = tuple[str, str, str]


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


def path_of(generator: random.Random) -> str:
    status = generator.choice([200, 201, 204, 304, 404, 500])
    size = generator.choice([0, 1, 300, 2000, 50_000])
    what = generator.choice(["users/{}", "items/{}/parts", "users/{}/orders"]).format(generator.randrange(10**6))
    return f"/s/{status}/{size}/{generator.choice('cl')}/{what}"


def ask(where: NetNs, address: str, seed: int, many: int) -> None:
    """Sends requests of all kinds on one connection after the other."""
    generator = random.Random(seed)  # noqa: S311 - requests, not secrets
    connection = http.client.HTTPConnection(address, PORT)
    for number in range(many):
        if connection.sock is None:
            connection.sock = where.socket(socket.AF_INET, socket.SOCK_STREAM)
            connection.sock.settimeout(60)
            connection.sock.connect((address, PORT))
        method = generator.choice(METHODS)
        fields = {
            "Cookie": f"c={generator.random()}",
            "traceparent": f"00-{seed:016x}{number + 1:016x}-{number + 1:016x}-01",
        }
        body: bytes | list[bytes] | None = None
        if method in {"POST", "PUT", "PATCH"}:
            parts = [generator.randbytes(generator.choice([1, 700, 9000])) for _ in range(generator.randrange(3))]
            body = parts if generator.random() < 0.5 else b"".join(parts)
        connection.request(method, path_of(generator), body, fields, encode_chunked=isinstance(body, list))
        connection.getresponse().read()
        if generator.random() < 0.02:
            connection.close()
    connection.close()


def route_of(method: str, path: str) -> str:
    parts = path.split("/")
    if len(parts) == 7 and parts[5] == "users":
        return "/s/{status}/{size}/{kind}/users/{id}"
    return "/s/{status}/{size}/{kind}/{rest...}" if method == "POST" else ""


def counted(running: Agent) -> Counter[Key]:
    """Requests by method, status and route."""
    found: Counter[Key] = Counter()
    for labels, value in running.samples(COUNT):
        if "http_request_method" in labels:
            key = labels["http_request_method"], labels["http_response_status_code"], labels.get("http_route", "")
            found[key] += int(value)
        else:
            assert value == 0  # what no series had a place for
    return +found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", [python, node, go, java], ids=lambda kind: kind.__name__)
def test_every_request_is_counted_as_its_server_says(kind: Kind, link: tuple[NetNs, NetNs, Veth]) -> None:
    client, far, pair = link
    address = pair.right_address
    options = ["--interface", pair.right, "--set", f"interfaces.namespaces={far.name}"]
    with (
        server(kind, far, address) as lines,
        agent(*options, "--set", f"probes.http.routes={ROUTES}") as running,
    ):
        threads = [
            threading.Thread(
                target=ask,
                args=(client, address, seed, REQUESTS // CONNECTIONS + (seed == 0) * (REQUESTS % CONNECTIONS)),
            )
            for seed in range(CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
        running.wait(lambda: len(lines()) >= REQUESTS, 60, "the lines of the server")
        running.wait(lambda: sum(counted(running).values()) >= REQUESTS, 60, "all requests")
        said = Counter((method, status, route_of(method, path)) for method, status, path, *_ in lines())
        assert sum(said.values()) == REQUESTS
        assert counted(running) == said
        assert running.total("http_client_request_duration_seconds_count") == 0
        dropped = running.samples(
            "netmon_pipeline_items_total", netmon_signal="http_messages", netmon_outcome="dropped"
        )
        assert sum(value for _, value in dropped) == 0


def h2load_of_http1(where: NetNs, address: str, many: int, folder: Path) -> None:
    h2load(where, address, many, folder, "--h1")


def h2load_of_http2(where: NetNs, address: str, many: int, folder: Path) -> None:
    h2load(where, address, many, folder, "-m", "10")


@pytest.mark.parametrize("load", [wrk, curl, h2load_of_http1, h2load_of_http2], ids=lambda load: load.__name__)
def test_every_request_of_a_load_is_counted_as_nginx_logs_it(
    load: Callable[[NetNs, str, int, Path], None], link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    """In great numbers: ``make bench ARGS=http_counts``."""
    program = load.__name__.partition("_")[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    client, far, pair = link
    options = ["--interface", pair.right, "--set", f"interfaces.namespaces={far.name}"]
    options += ["--set", f"probes.dns.ring_bytes={1 << 24}", "--set", f"probes.http.routes={ROUTES_OF_LOADS}"]
    with (
        nginx(far, pair.right_address, tmp_path, http2=load is h2load_of_http2) as log,
        agent(*options) as running,
    ):
        load(client, pair.right_address, REQUESTS, tmp_path)
        running.wait(lambda: len(log()) >= REQUESTS, 60, "the log")
        running.wait(lambda: counted(running).total() >= REQUESTS, 60, "all requests")
        assert counted(running) == counts(log())
