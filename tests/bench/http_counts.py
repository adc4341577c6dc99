"""Requests as servers and clients of the field make them, counted by method, status, route and role beside the server's own log.

    python -m bench.http_counts --requests 100003 --only wrk-go grpc

An agent stands at each end of a veth pair. Each part is one server under one client. Behind wrk, which names a parent for every
request, all spans of some more are kept, and the duration of each is compared with what the server logs. Needs root, nginx, wrk, curl,
h2load, and Python, Go, Node and Java.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from support import grpc_load
from support.agent import Agent, agent
from support.http_loads import ROUTES, Key, Log, Logged, counts, curl, h2load, logged, nginx, wrk
from support.http_servers.running import PORT, go, java, node, python, server
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver

INTERVAL = 2.0
DEADLINE_S = 60.0
RING_BYTES = 1 << 26  # so that no other load on the machine makes it overflow
SPAN_KIND_SERVER = 2
SIGNALS = ("http_messages", "http_requests", "stream_messages", "tcp_connections")
TOLERANCE, TOLERANCE_NS = 0.05, 200_000
RESOLUTION_NS = {"nginx": 1_000_000}  # of what a server logs; others log ns

Load = Callable[[NetNs, str, int, Path], None]


@dataclass
class Part:
    """A server under a client.

    Attributes:
        joined: whether each request names a parent by which its span is found.
    """

    server: Callable[[NetNs, str, Path], Any]
    load: Load
    joined: bool = False


@contextmanager
def of_languages(kind: Any, where: NetNs, address: str, _: Path) -> Iterator[Log]:
    """A server of ``http_servers``."""
    with server(kind, where, address) as lines:
        yield lambda: logged(lines())


def with_options(load: Callable[..., None], *options: str, **named: Any) -> Load:
    return lambda where, address, many, folder: load(where, address, many, folder, *options, **named)


PARTS: dict[str, Part] = {
    "wrk-nginx": Part(nginx, wrk, joined=True),
    "curl-nginx": Part(nginx, curl),
    "h2load-nginx": Part(nginx, with_options(h2load, "--h1")),
    "h2load-nginx-http2": Part(partial(nginx, http2=True), with_options(h2load, "-m", "10")),
    **{
        f"wrk-{kind.__name__}": Part(partial(of_languages, kind), wrk, joined=True) for kind in (python, go, node, java)
    },
}


# ------------------------------------------------------------------------------------------------------- what is told
def counted(running: Agent, side: str) -> Counter[Key]:
    """Requests by method, status (or the error, where there is none) and route."""
    found: Counter[Key] = Counter()
    for labels, value in running.samples(f"http_{side}_request_duration_seconds_count"):
        method = labels.get("http_request_method", "no series")
        status = labels.get("http_response_status_code") or labels.get("error_type", "")
        found[method, status, labels.get("http_route") or labels.get("url_template", "")] += int(value)
    return +found


def losses(running: Agent, *, of_spans: bool = False) -> dict[str, int]:
    """What the agent says that it dropped, of messages and requests or of spans."""
    found: Counter[str] = Counter()
    for labels, value in running.samples("netmon_pipeline_items_total", netmon_outcome="dropped"):
        name = f"{labels['netmon_stage']}, {labels['netmon_signal']}: {labels['netmon_reason']}"
        is_meant = labels["netmon_signal"] in SIGNALS or (of_spans and labels["netmon_signal"] == "spans")
        if value and is_meant and labels["netmon_reason"] != "not_counted":
            found[name] += int(value)
    return dict(found)


class Durations:
    """Durations of spans of servers by the number that their parent is.

    Attributes:
        by_parent: in ns.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.by_parent: dict[int, int] = {}

    def take(self) -> None:
        """Takes what has arrived."""
        requests = self._receiver.requests
        while requests:
            request = requests.pop(0)
            if not request.path.endswith("/traces"):
                continue
            for resource in request.body.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        if span.kind == SPAN_KIND_SERVER and span.parent_span_id:
                            parent = int.from_bytes(span.parent_span_id, "big")
                            self.by_parent[parent] = span.end_time_unix_nano - span.start_time_unix_nano

    def compared(self, log: Sequence[Logged], resolution_ns: int) -> dict[str, Any]:
        """How many lie within the tolerance of what the server says, and by how much they differ."""
        pairs = [
            (self.by_parent[number], each.took_ns)
            for each in log
            if each.traceparent != "-" and (number := int(each.traceparent.split("-")[2], 16)) in self.by_parent
        ]
        ours, theirs = np.array(pairs, np.int64).T
        over = ours - theirs
        allowed = np.maximum(TOLERANCE * theirs, TOLERANCE_NS)
        within = (over <= allowed + resolution_ns) & (over >= -allowed)
        quantiles = np.quantile(over / 1e3, [0.005, 0.5, 0.99, 0.995])
        return {
            "spans": len(pairs),
            "within 5 % or 200 us": round(float(within.mean()), 5),
            "more than the log, us: q0.5, q50, q99, q99.5": [round(float(each)) for each in quantiles],
            "sum of the spans / of the log": round(float(ours.sum() / max(theirs.sum(), 1)), 4),
        }


# ---------------------------------------------------------------------------------------------------------- one part
@contextmanager
def watched(link: tuple[NetNs, NetNs, Veth]) -> Iterator[dict[str, Agent]]:
    """An agent at each end: one that watches both would count each request at one of them."""
    client, far, pair = link
    common = ["--set", f"probes.http.routes={ROUTES}", "--set", "limits.series=100000"]
    common += ["--set", f"probes.dns.ring_bytes={RING_BYTES}"]

    def at(where: NetNs, interface: str) -> list[str]:
        return ["--interface", interface, "--set", f"interfaces.namespaces={where.name}", *common]

    with (
        agent(*at(client, pair.left), interval=INTERVAL) as near,
        agent(*at(far, pair.right), interval=INTERVAL) as behind,
    ):
        yield {"client": near, "server": behind}


def becomes(running: Agent, read: Callable[[], Any], expected: Any) -> Any:
    """What is told once it is as expected, or the time is up."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := read()) != expected and time.monotonic() < deadline:
        assert running.process.poll() is None, running.log_text[-2000:]
        time.sleep(1)
    return found


def written(log: Log, many: int) -> list[Logged]:
    """What the server logs, once there is so much of it, or the time is up."""
    deadline = time.monotonic() + DEADLINE_S
    while len(lines := log()) < many and time.monotonic() < deadline:
        time.sleep(0.2)
    return lines


def measured(name: str, link: tuple[NetNs, NetNs, Veth], many: int, timed: int) -> dict[str, Any]:
    """Figures of one part; its differences are 0 where all is well."""
    part, (client, far, pair) = PARTS[name], link
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        folder.chmod(0o755)
        log = stack.enter_context(part.server(far, pair.right_address, folder))
        with watched(link) as agents:
            began = time.monotonic()
            part.load(client, pair.right_address, many, folder)
            lasted = time.monotonic() - began
            said = counts(written(log, many))
            report: dict[str, Any] = {"requests": many, "in the log": said.total(), "requests/s": round(many / lasted)}
            for side, running in agents.items():
                found = becomes(running, partial(counted, running, side), said)
                report[f"{side}: counted, kinds, difference"] = [
                    found.total(),
                    len(found),
                    sum(abs(found[key] - said[key]) for key in found.keys() | said.keys()),
                ]
                if found != said:
                    report[f"{side}: more"] = {" ".join(key): often for key, often in (found - said).items()}
                    report[f"{side}: less"] = {" ".join(key): often for key, often in (said - found).items()}
                report[f"{side}: lost"] = losses(running)
        if part.joined:
            report |= durations(link, log, name, timed, folder)
    return report


def durations(link: tuple[NetNs, NetNs, Veth], log: Log, name: str, many: int, folder: Path) -> dict[str, Any]:
    """How spans last compared with what the server logs, one request at a time: what waits for a processor is in no log."""
    client, far, pair = link
    options = ["--interface", pair.right, "--set", f"interfaces.namespaces={far.name}", "--set", "spans.share=1"]
    options += ["--set", "spans.limit_per_second=100000", "--set", "otlp.protocol=http/protobuf"]
    before = len(log())
    with (
        http_receiver() as receiver,
        agent(*options, "--otlp-endpoint", receiver.endpoint, interval=INTERVAL, otlp=True) as running,
    ):
        found = Durations(receiver)
        wrk(client, pair.right_address, many, folder, connections=1)
        lines = written(log, before + many)[before:]

        def told() -> int:
            found.take()
            return len(found.by_parent)

        becomes(running, told, many)
        lost = losses(running, of_spans=True)
    return {**found.compared(lines, RESOLUTION_NS.get(name.partition("-")[2], 0)), "spans lost": lost}


def grpc_calls(link: tuple[NetNs, NetNs, Veth], many: int) -> dict[str, Any]:
    """Figures of a server and a client of gRPC."""
    client, far, pair = link
    address, script = f"{pair.right_address}:{PORT}", grpc_load.__file__
    with watched(link) as agents:
        command = far.command(sys.executable, script, "serve", address)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            began = time.monotonic()
            by_client = grpc_load.counts(client.run(sys.executable, script, "call", address, str(many)))
            lasted = time.monotonic() - began
            by_server = grpc_load.counts(process.communicate()[0])
        report: dict[str, Any] = {
            "calls": many,
            "in the log": by_server.total(),
            "server and client differ by": (by_server - by_client).total() + (by_client - by_server).total(),
            "calls/s": round(many / lasted),
        }
        for side, running in agents.items():

            def told(side: str = side, running: Agent = running) -> Counter[tuple[str, str]]:
                found: Counter[tuple[str, str]] = Counter()
                for labels, value in running.samples(f"rpc_{side}_call_duration_seconds_count"):
                    method = labels.get("rpc_method", "").rpartition("/")[2]
                    found[method, labels.get("rpc_response_status_code") or labels.get("error_type", "")] += int(value)
                return +found

            found = becomes(running, told, by_server)
            difference = (found - by_server) + (by_server - found)
            report[f"{side}: counted, kinds, difference"] = [found.total(), len(found), difference.total()]
            if difference:
                report[f"{side}: differs"] = {" ".join(key): often for key, often in difference.items()}
            report[f"{side}: lost"] = losses(running)
    return report


def main() -> int:
    """Prints the figures as JSON; 1 where a request was not counted, or counted as another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_003)
    parser.add_argument("--timed", type=int, default=10_007)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "grpc"], default=[*PARTS, "grpc"])
    arguments = parser.parse_args()
    exact = True
    for name in arguments.only:
        with veth_pair() as link:
            if name == "grpc":
                report = grpc_calls(link, arguments.requests)
            else:
                report = measured(name, link, arguments.requests, arguments.timed)
        print(json.dumps({name: report}), flush=True)
        sides = [report[f"{side}: counted, kinds, difference"] for side in ("server", "client")]
        exact = exact and all(side[0] == arguments.requests and side[2] == 0 for side in sides)
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
