"""What following a connection costs: in the kernel a segment and a connection, and the agent at thousands of connections a second.

    python -m bench.connections --rates 3000 20000 --seconds 10

In the kernel by BPF statistics, net of what they cost themselves (the empty program, measured in the same way). The agent follows a
cgroup of its own with the load; every connection must be counted. CPU time is net of what it takes without one. Needs root and gcc.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.dns import cpu_seconds, program_ns, statistics
from bench.resident import usage
from otel_netmon.kernel import syscalls
from support import frames
from support.agent import Agent, agent
from support.netns import NetNs, namespace, veth_pair
from support.programs import Programs
from support.socket_programs import SocketPrograms, cgroup, inside_cgroup, observed, root_cgroup

SOURCE = Path(__file__).with_suffix(".c")
HANDSHAKES = "netmon_tcp_handshake_duration_seconds_count"
EMPTY = bytes.fromhex("b7000000010000009500000000000000")  # r0 = 1; exit
ROUNDS = 20_000
BULK_OCTETS = 1 << 30
INTERVAL = 5.0
REST_SECONDS = 12.0
SOFTIRQ = ("netmon_ingress", "netmon_egress")


def compile_load(folder: Path) -> Path:
    """The generator of connections."""
    load = folder / "connections"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(load), str(SOURCE)], check=True)
    return load


def times(programs: SocketPrograms) -> dict[str, tuple[int, int]]:
    """Runs and ns of each program so far."""
    found = {name.partition(",")[0]: syscalls.program_info(fd) for name, fd in programs.loaded.programs().items()}
    return {name: (info.run_count, info.run_time_ns) for name, info in found.items()}


def statistics_ns() -> float:
    """What a run of the empty program is said to take: the two clocks around it."""
    program, _ = syscalls.program_load(syscalls.PROG_TYPE_CGROUP_SKB, EMPTY, "empty")
    frame = frames.ethernet(frames.ipv4(frames.udp(b"x"), frames.UDP))
    syscalls.TestRun(program, 200).repeat(frame, 1_000_000)
    info = syscalls.program_info(program)
    return info.run_time_ns / info.run_count


@contextmanager
def counted(programs: SocketPrograms, into: dict[str, tuple[int, float]], empty: float) -> Iterator[None]:
    """Runs and net ns of each program meanwhile."""
    before = times(programs)
    yield
    for name, (runs, time_ns) in times(programs).items():
        ran = runs - before[name][0]
        if ran:
            into[name] = (ran, time_ns - before[name][1] - ran * empty)


def in_the_kernel(load: Path) -> dict[str, object]:
    """Ns a segment of established connections, a datagram, and a connection."""
    report: dict[str, object] = {}
    with statistics(), observed() as programs, veth_pair() as (near, far, way):
        empty = statistics_ns()
        report["ns of the measurement itself, taken off"] = round(empty, 1)
        for title, job in (("bulk", bulk), ("request and answer", ping_pong), ("datagrams", datagrams)):
            spent: dict[str, tuple[int, float]] = {}
            with counted(programs, spent, empty):
                job(near, far, way.right_address)
            runs = sum(spent[name][0] for name in SOFTIRQ)
            report[f"{title}: ns a packet of a socket"] = {
                **{name.removeprefix("netmon_"): round(spent[name][1] / spent[name][0], 1) for name in SOFTIRQ},
                "all hooks": round(sum(ns for _, ns in spent.values()) / runs, 1),
            }
        spent = {}
        near.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
        count = 5003
        with counted(programs, spent, empty):
            near.run(str(load), "127.0.0.1", str(count), "2000")
        report["a connection, both ends on this host: ns"] = {
            **{name.removeprefix("netmon_"): round(ns / count) for name, (_, ns) in sorted(spent.items())},
            "all hooks": round(sum(ns for _, ns in spent.values()) / count),
        }
        assert len(programs.wait_ended(len(programs.ended()))) >= 2 * count
    with Programs("socket_monitor") as loaded:
        report["BPF_PROG_TEST_RUN, net ns"] = test_runs(loaded)
    return report


def test_runs(loaded: Programs) -> dict[str, int]:
    """Packets that need no row of a connection, and datagrams."""
    program, _ = syscalls.program_load(syscalls.PROG_TYPE_CGROUP_SKB, EMPTY, "empty")
    packets = {
        "acknowledgement": frames.ethernet(frames.ipv4(frames.tcp(b"", flags=frames.ACK), frames.TCP)),
        "datagram": frames.ethernet(frames.ipv4(frames.udp(bytes(64)), frames.UDP)),
    }
    empty = syscalls.TestRun(program, 200)
    result = {}
    for title, frame in packets.items():
        for name in SOFTIRQ:
            run = syscalls.TestRun(loaded.program(name), 200)
            nets = sorted(run.repeat(frame, 300_000) - empty.repeat(frame, 300_000) for _ in range(9))
            result[f"{title}, {name.removeprefix('netmon_')}"] = nets[4]
    return result


def bulk(near: NetNs, far: NetNs, address: str) -> None:
    """One connection, as fast as it goes."""
    with far.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((address, 0))
        listening.listen()

        def receive() -> None:
            end, _ = listening.accept()
            with end:
                while end.recv(1 << 20):
                    pass

        reader = threading.Thread(target=receive)
        reader.start()
        with near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(listening.getsockname())
            piece = bytes(1 << 18)
            for _ in range(BULK_OCTETS // len(piece)):
                client.sendall(piece)
        reader.join()


def ping_pong(near: NetNs, far: NetNs, address: str) -> None:
    """One connection, 100 octets there and back again."""
    with far.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((address, 0))
        listening.listen()
        with near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(listening.getsockname())
            end, _ = listening.accept()
            with end:
                for _ in range(ROUNDS):
                    client.send(bytes(100))
                    end.send(end.recv(200))
                    client.recv(200)


def datagrams(near: NetNs, far: NetNs, address: str) -> None:
    """One client and one server."""
    with (
        far.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        near.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((address, 0))
        client.connect(server.getsockname())
        for _ in range(ROUNDS):
            client.send(bytes(100))
            data, peer = server.recvfrom(200)
            server.sendto(data, peer)
            client.recv(200)


def at_rate(running: Agent, netns: NetNs, load: Path, rate: int, many: int) -> dict[str, float]:
    """Figures of one run, from its start until all of it is told."""
    pipeline = running.pipeline_pid()
    counts = running.total(HANDSHAKES), program_ns(running), cpu_seconds(pipeline), cpu_seconds(running.pid)
    began = time.monotonic()
    took = float(netns.run(str(load), "127.0.0.1", str(many), str(rate)))
    time.sleep(2 * INTERVAL)
    after = program_ns(running), cpu_seconds(pipeline), cpu_seconds(running.pid)
    return {
        "took": took,
        "seconds": time.monotonic() - began,
        "counted": running.total(HANDSHAKES) - counts[0],
        "programs ns": after[0] - counts[1],
        "pipeline CPU s": after[1] - counts[2],
        "supervisor CPU s": after[2] - counts[3],
    }


def main() -> int:
    """Prints the figures as JSON; 1 where a connection was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[3000, 20_000])
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        load = compile_load(Path(folder))
        report = in_the_kernel(load)
        with namespace() as netns, cgroup() as group, inside_cgroup(group):
            netns.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
            netns.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
            enter = ["sh", "-c", f'echo $$ > "{root_cgroup()}/cgroup.procs" && exec "$@"', "sh", *netns.command()]
            option = ("--set", f"probes.connections.cgroup={group}")
            with agent(*option, enter=enter, interval=INTERVAL) as running:
                netns.run(str(load), "127.0.0.1", "5003", "5000")  # what is loaded and learnt with the first of all
                time.sleep(2 * INTERVAL)
                before = cpu_seconds(running.pipeline_pid())
                time.sleep(REST_SECONDS)
                rest = (cpu_seconds(running.pipeline_pid()) - before) / REST_SECONDS
                for rate in arguments.rates:
                    many = round(rate * arguments.seconds)
                    found = at_rate(running, netns, load, rate, many)
                    net = found["pipeline CPU s"] - rest * found["seconds"]
                    exact = exact and found["counted"] == 2 * many
                    report[f"{rate} connections/s asked for"] = {
                        "connections": many,
                        "a second in fact": round(many / found["took"]),
                        "ends counted": int(found["counted"]),
                        "pipeline CPU s": round(net, 3),
                        "us an end in user space": round(net / (2 * many) * 1e6, 2),
                        "supervisor CPU s": round(found["supervisor CPU s"], 3),
                    }
                report["PSS of the pipeline, MB"] = round(usage(running.pipeline_pid())["pss"], 1)
    print(json.dumps(report, indent=1))
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
