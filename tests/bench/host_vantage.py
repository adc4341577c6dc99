"""What it costs the kernel to look for messages at sockets (messages.vantage host), beside following connections alone.

    python -m bench.host_vantage --rounds 5

By BPF statistics, net of what they cost themselves, with and without in turn; the median of the rounds and their spread. All hooks of a
cgroup that the load is in, at both ends of a link. Needs root, nginx and h2load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics as stats
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.connections import bulk, counted, datagrams, ping_pong, statistics_ns
from bench.dns import statistics
from otel_netmon.abi.enums import Late
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from support.netns import NetNs, veth_pair
from support.socket_programs import SocketPrograms, observed

MESSAGES = {Late.MESSAGES: 1, Late.STREAMS: 1, Late.HTTP: 1}
REQUESTS = 20_011
PACKETS = ("netmon_ingress", "netmon_egress")
CALLED = ("netmon_dns", "netmon_stream", "netmon_http", "netmon_http2")

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen {address}:8081; location /ok {{ return 200 "body"; }} }}
}}
"""


@contextlib.contextmanager
def programs(*, looks: bool) -> Iterator[SocketPrograms]:
    """The hooks at a cgroup that this process is in."""
    with observed(late=MESSAGES if looks else None, sizes={"messages": 1 << 26}) as made:
        if looks:
            for name in CALLED:
                made.loaded.program(name, {Late.HTTP: 1})
            set_message_ports(made.loaded, DNS_PORTS)
        yield made


def requests(near: NetNs, _: NetNs, address: str) -> None:
    """Requests of HTTP/1 on one connection that stays."""
    near.run("h2load", "--h1", "-n", str(REQUESTS), "-c1", f"http://{address}:8081/ok")


Job = Callable[[NetNs, NetNs, str], None]
JOBS: dict[str, Job] = {
    "bulk": bulk,
    "request and answer of 100 octets, no protocol": ping_pong,
    "datagrams": datagrams,
    "HTTP/1": requests,
}


def measure(job: Job, near: NetNs, far: NetNs, address: str, empty: float, *, looks: bool) -> tuple[float, float]:
    """Ns of all hooks a packet of a socket, and in all."""
    spent: dict[str, tuple[int, float]] = {}
    with programs(looks=looks) as made, counted(made, spent, empty):
        job(near, far, address)
    total = sum(ns for _, ns in spent.values())
    return total / sum(spent[name][0] for name in PACKETS), total


def main() -> int:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, statistics(), veth_pair() as (near, far, way):
        folder, address = Path(name), way.right_address
        folder.chmod(0o755)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, address=address))
        for title, job in JOBS.items():
            found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for _ in range(arguments.rounds):
                for looks in (False, True):
                    empty = statistics_ns()
                    with contextlib.ExitStack() as stack:
                        if job is requests:
                            # The server's sockets are seen, too: it is started in the cgroup of this process.
                            stack.enter_context(_serving(far, address, folder, found, looks, job, near, empty))
                        else:
                            found[looks].append(measure(job, near, far, address, empty, looks=looks))
            line: dict[str, dict[str, object]] = {
                ("with" if looks else "without"): {
                    "ns a packet": [round(min(each)), round(stats.median(each)), round(max(each))],
                }
                for looks, each in ((looks, [ns for ns, _ in values]) for looks, values in found.items())
            }
            if job is requests:
                totals = {looks: stats.median(total for _, total in values) for looks, values in found.items()}
                line["more, ns a request (both ends)"] = {"median": round((totals[True] - totals[False]) / REQUESTS)}
            report[title] = line
    print(json.dumps(report, indent=1).replace("\n   ", " "))
    return 0


@contextlib.contextmanager
def _serving(
    far: NetNs,
    address: str,
    folder: Path,
    found: dict[bool, list[tuple[float, float]]],
    looks: bool,
    job: Job,
    near: NetNs,
    empty: float,
) -> Iterator[None]:
    spent: dict[str, tuple[int, float]] = {}
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with programs(looks=looks) as made, far.serving(address, 8081, *command), counted(made, spent, empty):
        job(near, far, address)
    total = sum(ns for _, ns in spent.values())
    found[looks].append((total / sum(spent[name][0] for name in PACKETS), total))
    yield


if __name__ == "__main__":
    raise SystemExit(main())
