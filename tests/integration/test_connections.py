"""The connections probe in the whole agent: counts, processes, containers and states as they are, from its page and at a receiver."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent, agent, parse_samples
from support.netns import NetNs, Veth, add_veth, namespaces, veth_pair
from support.otlp_receiver import Receiver, http_receiver
from support.socket_programs import Worker, cgroup, root_cgroup, worker

pytestmark = pytest.mark.kernel

SHORT, REFUSED, RESET, TIMED_OUT, UNREACHABLE = 10_007, 1_009, 503, 211, 101
CLOSED_PORT, SILENT_PORT = random.sample(range(2000, 30_000), 2)  # the agent sees the connections of other runs as well
IPTABLES = {4: "iptables", 6: "ip6tables"}
SECONDS = 40.0
HANDSHAKES = "netmon.tcp.handshake.duration"
EVERY_SPAN = ("spans.share=1.0", "spans.limit_per_second=100000", "spans.slow_seconds=1000")


def options(*settings: str) -> list[str]:
    """Arguments of the agent; it looks at no interface but loopback."""
    every = ("probes.dns.enabled=false", *settings)
    return ["--interface", "lo", *(word for setting in every for word in ("--set", setting))]


@contextlib.contextmanager
def observing(*settings: str, interval: float = 0.5) -> Iterator[tuple[Agent, Receiver]]:
    """An agent that sends every span to a receiver of this test."""
    with (
        http_receiver() as receiver,
        agent(
            *options(*EVERY_SPAN, "otlp.queue_bytes=268435456", *settings), "--otlp-endpoint", receiver.endpoint,
            otlp=True, interval=interval,
        ) as running,
    ):  # fmt: skip
        yield running, receiver


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes of a message of OTLP."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def spans(receiver: Receiver) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """Resource, attributes and span of each that arrived."""
    for request in list(receiver.requests):
        if "trace" not in request.path.lower():
            continue
        for of_resource in request.body.resource_spans:
            resource = plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    yield resource, plain(span.attributes), span


def points(receiver: Receiver, metric: str) -> list[tuple[dict[str, Any], Any]]:
    """Attributes and point of each series of a metric, as the last request has them that has the metric."""
    for request in reversed(list(receiver.requests)):
        if "metrics" not in request.path.lower():
            continue
        found = [
            (plain(point.attributes), point)
            for of_resource in request.body.resource_metrics
            for scope in of_resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in getattr(each, each.WhichOneof("data")).data_points
        ]
        if found:
            return found
    return []


def quick_to_give_up(netns: NetNs, interface: str) -> None:
    """A SYN is repeated once, and neighbours are asked again after a twentieth of a second."""
    netns.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
    netns.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
    for family in ("ipv4", "ipv6"):
        netns.run("sysctl", "-qw", f"net.{family}.neigh.{interface}.retrans_time_ms=50")


def share(whole: int, part: int) -> int:
    """Of six parts: three clients, two families."""
    return whole // 6 + (part < whole % 6)


def address_of(way: Veth, family: int, nobody: bool = False) -> str:
    there = way.right_address if family == 4 else way.right_address6
    return f"{there[:-1]}77" if nobody else there


Kind = tuple[int, str, str, str]
"""Process, role, network type, error.type or how it ended."""


def make_traffic(clients: list[Worker], ways: list[Veth], server: Worker, ports: dict[int, int]) -> Counter[Kind]:
    """Connections of the issue's proof; gives how many spans there must be of each kind."""
    expected: Counter[Kind] = Counter()
    for part in range(6):
        client, way, family = clients[part % 3], ways[part % 3], (4, 6)[part // 3]
        kind = f"ipv{family}"
        for whole, reset, ends in (
            (SHORT, False, ("fin_local", "fin_remote")),
            (RESET, True, ("reset_local", "reset_remote")),
        ):
            count = share(whole, part)
            server.tell("accept", port=ports[family], count=count)
            client.do(
                "connect", family=family, address=address_of(way, family), port=ports[family], count=count, reset=reset
            )
            server.done()
            expected[client.pid, "client", kind, ends[0]] += count
            expected[server.pid, "server", kind, ends[1]] += count
    for family, (whole, nobody, port, code, ending) in product(
        (4, 6),
        (
            (REFUSED, False, CLOSED_PORT, "ECONNREFUSED", "refused"),
            (TIMED_OUT, False, SILENT_PORT, "ETIMEDOUT", "connect_timed_out"),
            (UNREACHABLE, True, CLOSED_PORT, "EHOSTUNREACH", "host_unreachable"),
        ),
    ):
        waiting = []
        for number, (client, way) in enumerate(zip(clients, ways, strict=True), start=0 if family == 4 else 3):
            count = share(whole, number)
            client.tell("attempt", family=family, address=address_of(way, family, nobody), port=port, count=count)
            waiting.append((client, {"ends": {code: count}}))
            expected[client.pid, "client", f"ipv{family}", ending] += count
        for client, answer in waiting:
            assert client.done() == answer
    return expected


def test_every_connection_is_in_the_right_series_and_span() -> None:
    """Three processes in two namespaces and two cgroups, IPv4 and IPv6, and a server in a third of each: difference 0."""
    with contextlib.ExitStack() as stack:
        one, two, far = stack.enter_context(namespaces(3, ipv6=True))
        blue, green, red = (stack.enter_context(cgroup()) for _ in range(3))
        ways = {}
        for number, near in enumerate((one, two)):
            ways[near.name] = add_veth(near, far, right_name=f"right{number}", subnet=number, ipv6=True)
            quick_to_give_up(near, "left")
        for family in (4, 6):
            far.run(IPTABLES[family], "-A", "INPUT", "-p", "tcp", "--dport", str(SILENT_PORT), "-j", "DROP")
        running, receiver = stack.enter_context(observing())
        homes = (one, two, two)
        clients = [
            stack.enter_context(worker(folder, home)) for folder, home in zip((blue, blue, green), homes, strict=True)
        ]
        server = stack.enter_context(worker(red, far))
        ports = {
            family: server.do("listen", family=family, address="" if family == 4 else "::")["port"] for family in (4, 6)
        }
        expected = make_traffic(clients, [ways[home.name] for home in homes], server, ports)
        ours = {server.pid, *(client.pid for client in clients)}

        def told() -> Counter[Kind]:
            found: Counter[Kind] = Counter()
            for resource, attributes, span in spans(receiver):
                if resource.get("process.pid") in ours:
                    role = {3: "client", 2: "server"}[span.kind]
                    found[
                        resource["process.pid"], role, attributes["network.type"], attributes["netmon.tcp.ending"]
                    ] += 1
            return found

        with contextlib.suppress(AssertionError):  # what is wrong then is told below
            running.wait(lambda: told().total() >= expected.total(), SECONDS, "all spans")
        assert told() == expected
        assert expected.total() == 2 * (SHORT + RESET) + REFUSED + TIMED_OUT + UNREACHABLE

        def handshakes() -> Counter[tuple[str, int, str]]:
            found: Counter[tuple[str, int, str]] = Counter()
            for attributes, point in points(receiver, HANDSHAKES):
                port = attributes.get("server.port", 0)
                if port in (*ports.values(), CLOSED_PORT, SILENT_PORT):
                    found[attributes["network.tcp.handshake.role"], port, attributes.get("error.type", "")] += (
                        point.count
                    )
            return found

        wanted: Counter[tuple[str, int, str]] = Counter()
        for (_, role, kind, ending), count in expected.items():
            failure = {"refused": "refused", "connect_timed_out": "timed_out"}.get(ending, "")
            if ending == "host_unreachable":
                wanted[role, CLOSED_PORT, ending] += count
            elif failure:
                wanted[role, SILENT_PORT if failure == "timed_out" else CLOSED_PORT, failure] += count
            else:
                wanted[role, ports[int(kind[-1])], ""] += count
        with contextlib.suppress(AssertionError):
            running.wait(lambda: handshakes() == wanted, SECONDS, "all handshakes")
        assert handshakes() == wanted
        stages = {(side["netmon_stage"], side["netmon_outcome"], side.get("netmon_reason", "")): value
                  for side, value in running.samples("netmon_pipeline_items_total", netmon_signal="connections")}  # fmt: skip
        assert not any(value for (_, outcome, _), value in stages.items() if outcome == "dropped"), stages
        assert running.total("netmon_connection_untracked_total") == 0
        assert not list(running.samples("netmon_tcp_handshake_duration_seconds_count", otel_metric_overflow="true"))


def ss(netns: NetNs) -> Counter[str]:
    """Connections by state."""
    names = {
        "ESTAB": "established", "SYN-SENT": "syn_sent", "SYN-RECV": "syn_received", "FIN-WAIT-1": "fin_wait_1",
        "FIN-WAIT-2": "fin_wait_2", "TIME-WAIT": "time_wait", "CLOSE-WAIT": "close_wait", "LAST-ACK": "last_ack",
        "LISTEN": "listen", "CLOSING": "closing",
    }  # fmt: skip
    return Counter(names[line.split()[0]] for line in netns.run("ss", "-Htan").splitlines())


def states(running: Agent, netns: NetNs) -> Counter[str]:
    samples = parse_samples(running.get("/metrics"), "system_network_connection_count")
    return +Counter(
        {
            labels["network_connection_state"]: int(value)
            for labels, value in samples
            if labels.get("netmon_network_namespace") == netns.name and labels["network_transport"] == "tcp"
        }
    )


def test_the_counts_by_state_are_those_of_ss_at_fifty_moments_of_churn() -> None:
    """At random moments the churn holds its breath, for as long as a reading of each takes."""
    generator = random.Random(5)  # noqa: S311 - variety, not secrets
    with veth_pair() as (left, right, pair), cgroup() as folder:
        quick_to_give_up(left, "left")
        for netns in (left, right):
            netns.run(
                "sysctl", "-qw", "net.ipv4.tcp_fin_timeout=600"
            )  # what nobody accepts stays half closed meanwhile
        right.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(SILENT_PORT), "-j", "DROP")
        with worker(folder, left) as client, worker(folder, right) as server:
            port = server.do("listen", family=4, address="")["port"]
            client.do("hold", family=4, address=pair.right_address, port=port, count=11)
            settings = f"interfaces.namespaces={left.name},{right.name}"
            with agent(*options(settings), interval=0.1) as running:
                seen: Counter[str] = Counter()
                for _ in range(50):
                    what = generator.choice(("hold", "connect", "drop", "accept", "hold"))
                    if what == "hold":
                        client.do(
                            "hold", family=4, address=pair.right_address, port=port, count=generator.randrange(1, 97)
                        )
                    elif what == "connect":
                        reset = generator.random() < 0.3
                        client.do(
                            "hold", family=4, address=pair.right_address, port=port, count=generator.randrange(1, 7)
                        )
                        if reset:
                            client.do("drop")
                    elif what == "drop":
                        client.do("drop")
                    else:
                        client.do("hold", family=4, address=pair.right_address, port=port, count=5)
                        client.do("drop")
                        server.do("accept", port=port, count=3)
                    for netns in (left, right):
                        deadline = time.monotonic() + SECONDS
                        while (have := states(running, netns)) != (want := ss(netns)):
                            assert time.monotonic() < deadline, (netns.name, have, want)
                        seen |= want
                assert {"established", "listen", "time_wait", "fin_wait_2", "close_wait"} <= seen.keys()
                assert seen["established"] > 97


SHORT_LIFE = """
import os, socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
time.sleep(float(sys.argv[3]))
print(os.getpid(), client.getsockname()[1], flush=True)
client.close()
"""


@pytest.mark.parametrize(("seconds", "part"), [(0.11, 1.0), (0.001, 0.95)], ids=["100ms", "1ms"])
def test_process_and_container_of_connections_that_live_briefly(seconds: float, part: float) -> None:
    """Each of a process of its own, which ends with it; in a container by the name of its cgroup."""
    container = secrets.token_hex(32)
    many = 101
    with (
        cgroup(name=f"docker-{container}.scope") as folder,
        veth_pair() as (left, right, pair),
        worker(folder, right) as server,
        observing() as (running, receiver),
    ):
        port = server.do("listen", family=4, address="")["port"]
        server.tell("accept", port=port, count=many)
        script = f'echo $$ > "{folder}/cgroup.procs" && exec "$@"'
        line = ["sh", "-c", script, "sh", sys.executable, "-S", "-c", SHORT_LIFE, pair.right_address, str(port)]
        owners: dict[int, int] = {}
        for _ in range(many):
            pid, local = left.run(*line, str(seconds)).split()
            owners[int(local)] = int(pid)
        server.done()

        def told() -> dict[int, dict[str, Any]]:
            return {
                attributes["client.port"]: resource
                for resource, attributes, span in spans(receiver)
                if attributes["server.port"] == port and span.kind == 3
            }

        running.wait(lambda: len(told()) == len(owners), SECONDS, "a span of each")
        found = told()
        right_ones = [
            local
            for local, pid in owners.items()
            if found[local].get("process.pid") == pid and found[local].get("container.id") == container
        ]
        assert len(right_ones) >= part * len(owners)
        wrong = {local: found[local].get("process.pid") for local in owners.keys() - set(right_ones)}
        assert not any(wrong.values()), "a guess"


def probe(running: Agent) -> dict[str, Any]:
    (found,) = (each for each in running.status()["probes"] if each["name"] == "connections")
    state: dict[str, Any] = found
    return state


def test_a_cgroup_that_is_not_there_is_said_and_the_rest_runs(tmp_path: Path) -> None:
    wrong = tmp_path / "no such cgroup"
    with agent(*options(f"probes.connections.cgroup={wrong}")) as running:
        state = probe(running)
        assert (state["state"], state["reason"]) == ("off", "no_cgroup2")
        assert str(wrong) in state["detail"]
        assert not running.samples("netmon_tcp_handshake_duration_seconds_count")
        assert {each["name"]: each["state"] for each in running.status()["probes"]}["flows"] == "ok"


def test_a_folder_that_is_no_cgroup_is_said(tmp_path: Path) -> None:
    with agent(*options(f"probes.connections.cgroup={tmp_path}")) as running:
        assert probe(running)["state"] == "off"
        assert "no_cgroup2" in json.dumps(probe(running))


def test_only_the_processes_of_the_chosen_cgroup_are_followed() -> None:
    with (
        cgroup() as inside,
        cgroup() as outside,
        veth_pair() as (left, right, pair),
        agent(*options(f"probes.connections.cgroup={inside}"), interval=0.2) as running,
        worker(inside, left) as chosen,
        worker(outside, left) as other,
        worker(outside, right) as server,
    ):
        port = server.do("listen", family=4, address="")["port"]
        for client, count in ((chosen, 23), (other, 31)):
            server.tell("accept", port=port, count=count)
            client.do("connect", family=4, address=pair.right_address, port=port, count=count)
            server.done()
        name = "netmon_tcp_handshake_duration_seconds_count"
        running.wait(lambda: running.total(name) >= 23, SECONDS, "the connections")
        assert {(labels["network_tcp_handshake_role"], value) for labels, value in running.samples(name)} == {
            ("client", 23.0)
        }


def test_a_cgroup_with_an_odd_name_does_no_harm() -> None:
    parent = root_cgroup()
    with (
        cgroup(parent, f'odd "\\ {secrets.token_hex(4)} \udcff') as folder,
        veth_pair() as (left, right, pair),
        agent(*options(), interval=0.2) as running,
        worker(parent, right) as server,
    ):
        port = server.do("listen", family=4, address="")["port"]
        server.tell("accept", port=port, count=7)
        with subprocess.Popen(
            left.command(sys.executable, "-m", "support.socket_worker"), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
        ) as client:  # fmt: skip
            (folder / "cgroup.procs").write_text(str(client.pid))
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdout.readline()
            order = {"do": "connect", "family": 4, "address": pair.right_address, "port": port, "count": 7}
            client.stdin.write(json.dumps(order) + "\n")
            client.stdin.flush()
            client.stdout.readline()
            client.stdin.close()
        server.done()
        name = "netmon_tcp_handshake_duration_seconds_count"
        running.wait(lambda: running.total(name, server_port=str(port)) == 14, SECONDS, "the connections")
        assert probe(running)["state"] == "ok"


def test_a_pipeline_that_is_killed_tells_every_connection_once_or_as_lost() -> None:
    """The next one goes on with the series; what the dead one had taken out of the ring and not saved is counted as that."""
    with (
        cgroup() as folder,
        veth_pair() as (left, right, pair),
        worker(folder, left) as client,
        worker(folder, right) as server,
        agent(*options(), interval=0.3) as running,
    ):
        port = server.do("listen", family=4, address="")["port"]
        name = "netmon_tcp_handshake_duration_seconds_count"
        made = 0
        for round_ in range(3):
            count = 211
            server.tell("accept", port=port, count=count)
            client.do("connect", family=4, address=pair.right_address, port=port, count=count)
            server.done()
            made += count
            subprocess.run(["kill", "-9", str(running.pipeline_pid())], check=True)
            running.wait_event("pipeline.resumed", round_ + 1)

        def accounted() -> bool:
            try:
                told = running.total(name, server_port=str(port))
                lost = running.total(
                    "netmon_pipeline_items_total", netmon_signal="connections", netmon_reason="pipeline_died"
                )
            except ConnectionError:
                return False
            return told <= 2 * made <= told + lost

        running.wait(accounted, SECONDS, f"{2 * made} handshakes, told or lost")


def test_with_a_full_table_all_connections_are_told_as_series_or_as_untracked() -> None:
    with (
        cgroup() as folder,
        veth_pair() as (left, right, pair),
        agent(
            *options(f"probes.connections.cgroup={folder}", "probes.connections.table_entries=7"), interval=0.2
        ) as running,
        worker(folder, left) as client,
        worker(folder, right) as server,
    ):
        port = server.do("listen", family=4, address="")["port"]
        client.do("hold", family=4, address=pair.right_address, port=port, count=31)
        client.do("drop")
        client.do("attempt", family=4, address=pair.right_address, port=CLOSED_PORT, count=23)
        name = "netmon_tcp_handshake_duration_seconds_count"

        def told() -> int:
            return running.total(name) + running.total("netmon_connection_untracked_total")

        running.wait(lambda: told() == 2 * 31 + 23, SECONDS, f"{2 * 31 + 23} connections")
        assert running.total("netmon_connection_untracked_total") > 0
        status = running.status()["connections"]
        assert status["live"] <= status["capacity"] == 7
