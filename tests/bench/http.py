"""What a request of HTTP/1 costs: h2load against nginx at fixed rates and flat out, every request counted.

    python -m bench.http --rates 2000 20000 --seconds 5

The agent stands at the server's end of a veth pair. CPU time of the pipeline is net of what it takes without a request; that in
the kernel is the run time of its programs (BPF statistics), net of what the same requests cost with the probe off. Rate 0 is flat
out. Needs root, nginx and h2load.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.dns import cpu_seconds, program_ns, statistics
from bench.resident import usage
from support.agent import Agent, agent
from support.netns import NetNs, veth_pair

REQUESTS = "http_server_request_duration_seconds_count"
PORT = 8080
CLIENTS = 8
PATHS = ("/", "/a?x=1", "/b/c", "/users/7", "/missing")
REST_SECONDS = 12.0
INTERVAL = 5.0
NGINX = """
worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; {paths}
  server {{ listen 0.0.0.0:{port}; location / {{ return 200 "hello world, this is a body\\n"; }} location /missing {{ return 404; }} }}
}}
"""


@contextmanager
def nginx(server: NetNs, address: str, folder: Path) -> Iterator[None]:
    """Answers every request itself."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, paths=paths, port=PORT))
    with server.serving(address, PORT, "nginx", "-p", str(folder), "-c", str(configuration)):
        yield


def h2load(client: NetNs, address: str, many: int, rate: int, folder: Path) -> dict[str, float]:
    """Asks so often, at this rate if it is not 0; gives what it says of it."""
    urls = folder / "urls"
    urls.write_text("".join(f"http://{address}:{PORT}{path}\n" for path in PATHS))
    paced = [f"--rps={rate / CLIENTS:g}"] if rate else []
    output = client.run("h2load", "--h1", "-n", str(many), "-c", str(CLIENTS), *paced, "-i", str(urls))
    done, per_second = re.search(r"(\d+) done", output), re.search(r"([\d.]+) req/s", output)
    if done is None or per_second is None:
        raise RuntimeError(f"h2load does not tell what it did: {output}")
    return {"completed": float(done[1]), "requests/s": float(per_second[1])}


def measure(running: Agent, client: NetNs, address: str, rate: int, many: int, folder: Path) -> dict[str, float]:
    """Figures of one run, from its start until all of it is told."""
    pipeline = running.pipeline_pid()
    counted, kernel, before = running.total(REQUESTS), program_ns(running), cpu_seconds(pipeline)
    began = time.monotonic()
    said = h2load(client, address, many, rate, folder)
    # Nothing is asked of the agent meanwhile: a page costs more than a thousand requests.
    time.sleep(2 * INTERVAL)
    after = cpu_seconds(pipeline)
    return {
        **said,
        "counted": running.total(REQUESTS) - counted,
        "seconds": time.monotonic() - began,
        "pipeline CPU s": after - before,
        "programs ns": program_ns(running) - kernel,
    }


def rest_of(running: Agent) -> float:
    """CPU time of the pipeline a second while nothing happens."""
    before = cpu_seconds(running.pipeline_pid())
    time.sleep(REST_SECONDS)
    return (cpu_seconds(running.pipeline_pid()) - before) / REST_SECONDS


def main() -> int:
    """Prints the figures as JSON; 1 where a request was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[2000, 20_000, 0])
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    exact = True
    with tempfile.TemporaryDirectory() as text, veth_pair() as (left, right, pair):
        folder, address = Path(text), pair.right_address
        folder.chmod(0o755)
        options = ["--interface", pair.right, "--set", f"interfaces.namespaces={right.name}"]
        without = {}
        with nginx(right, address, folder):
            off = [*options, "--set", "probes.http.enabled=false", "--set", "probes.tls.enabled=false"]
            with agent(*off, interval=INTERVAL) as running, statistics():
                for rate in arguments.rates:
                    many = round((rate or 20_000) * arguments.seconds)
                    without[rate] = measure(running, left, address, rate, many, folder)
            with agent(*options, interval=INTERVAL) as running:
                h2load(left, address, 5003, 5000, folder)  # what is loaded and learnt with the first of all
                time.sleep(2 * INTERVAL)
                rest = rest_of(running)
                for rate in arguments.rates:
                    many = round((rate or 20_000) * arguments.seconds)
                    found = measure(running, left, address, rate, many, folder)
                    with statistics():
                        kernel = measure(running, left, address, rate, many, folder)
                    exact = exact and found["counted"] == found["completed"] == many
                    used = found["pipeline CPU s"] - rest * found["seconds"]
                    report[f"{rate} requests/s" if rate else "flat out"] = {
                        "requests": many,
                        "counted": int(found["counted"]),
                        "requests/s": round(found["requests/s"]),
                        "requests/s with the probe off": round(without[rate]["requests/s"]),
                        "pipeline CPU s": round(used, 3),
                        "us a request in user space": round(used / many * 1e6, 2),
                        "ns a request in the kernel, flow accounting included": round(kernel["programs ns"] / many),
                        "of that for HTTP": round((kernel["programs ns"] - without[rate]["programs ns"]) / many),
                    }
                report["PSS of the pipeline, MB"] = round(usage(running.pipeline_pid())["pss"], 1)
    print(json.dumps(report, indent=1))
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
