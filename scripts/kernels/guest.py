"""Runs the agent on one kernel and checks it by what the kernel itself says; as root, in a guest or on the running kernel.

Three rounds on a veth pair of its own, each with a known number of datagrams from another network namespace:

1. defaults, ended by SIGTERM: the link comes up only after `ready`, so the agent has seen all that its counters count;
   and a known number of TCP connections over loopback
2. with native XDP, the supervisor ended by SIGKILL: links go with it, filters of clsact may stay
3. with generic XDP, ended by SIGTERM: what round 2 left has been swept
"""

from __future__ import annotations

import argparse
import json
import platform
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.kernels import inventory
from scripts.kernels.network import HEADERS, INTERFACE, PAYLOAD, Pair, counters
from scripts.kernels.observed import Agent

DATAGRAMS = {4: 10_007, 6: 503}
FEWER_DATAGRAMS = {4: 1_009, 6: 101}
CONNECTIONS, REFUSED = 503, 101
DIRECTIONS = ("receive", "transmit")
TYPES = {4: "ipv4", 6: "ipv6"}

READY_SECONDS = 60.0  # under emulation the imports alone take 10 s
COUNTED_SECONDS = 20.0
STOP_SECONDS = 20.0
VERIFIER_BUDGET = 50_000  # instructions that the verifier may process for one program
GONE_SECONDS = 10.0  # the kernel frees programs and maps a grace period after the last reference


class Report:
    """Checks with what was expected and what was found, and figures without a verdict."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def equal(self, name: str, expected: object, found: object) -> None:
        self.checks.append({"name": name, "ok": expected == found, "expected": expected, "found": found})

    def failed(self, name: str, why: str) -> None:
        self.checks.append({"name": name, "ok": False, "expected": "no failure", "found": why})


def settled(read: Callable[[], object], wanted: object, seconds: float) -> object:
    """Reads until it gives what is wanted or the time is over; gives what was read last."""
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


class Rounds:
    """The three rounds on one pair; `alone` says that nobody else loads programs on this kernel."""

    def __init__(self, report: Report, pair: Pair, folder: Path, alone: bool) -> None:
        self._report = report
        self._pair = pair
        self._folder = folder
        self._alone = alone
        self._before = inventory.loaded()
        self._images = tempfile.mkdtemp(prefix="images-")  # an empty cache: what loads is shipped, or says so

    def _start(self, name: str, sets: list[str]) -> tuple[Agent, inventory.Objects]:
        with socket.socket() as probe:  # a free port in this namespace
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        agent = Agent(INTERFACE, port, self._folder / f"{name}.log", [f"images.directory={self._images}", *sets])
        try:
            ready, seconds = agent.wait_ready(READY_SECONDS)
        except BaseException:
            agent.abandon(agent.processes())
            raise
        self._report.figures[f"{name}.ready_seconds"] = seconds
        self._report.equal(f"{name}: images are the shipped ones", {"shipped"}, set(ready["images"].values()))
        return agent, inventory.held_by(agent.processes())

    def _count(self, name: str, agent: Agent, datagrams: dict[int, int], metrics: list[str]) -> None:
        """Sends, and compares what arrived, what each metric says, and the bytes."""
        for version, count in datagrams.items():
            self._report.equal(f"{name}: IPv{version} datagrams delivered", count, self._pair.send(version, count))
        for metric in metrics:
            for version, count in datagrams.items():
                labels = {
                    "network_interface_name": INTERFACE,
                    "network_io_direction": "receive",
                    "network_transport": "udp",
                    "network_type": TYPES[version],
                }
                packets = settled(
                    lambda: agent.total(f"netmon_{metric}_packets_total", **labels),  # noqa: B023 - used at once
                    count,
                    COUNTED_SECONDS,
                )
                self._report.equal(f"{name}: netmon.{metric}.packets of IPv{version} UDP", count, packets)
                octets = agent.total(f"netmon_{metric}_io_bytes_total", **labels)
                length = HEADERS[version] + len(PAYLOAD)
                self._report.equal(f"{name}: netmon.{metric}.io of IPv{version} UDP", count * length, octets)

    def _all_packets(self, name: str, agent: Agent) -> None:
        """What the agent counted since the link came up, of every protocol, against the interface's own counters."""

        def differences() -> dict[str, int]:
            truth = counters()
            return {
                side: agent.total("netmon_protocol_packets_total", network_io_direction=side) - truth[side]
                for side in DIRECTIONS
            }

        # IPv6 announces itself on a new link for some seconds: read until both sides stand still and agree.
        none = dict.fromkeys(DIRECTIONS, 0)
        found = settled(differences, none, COUNTED_SECONDS)
        self._report.equal(f"{name}: all packets counted, less those of the interface's own counters", none, found)
        self._report.figures["packets"] = counters()
        self._report.figures["packets_by_protocol"] = {
            f"{labels['network_io_direction']} {labels['network_type']} {labels.get('network_transport', '')}".strip(): count
            for labels, count in agent.samples("netmon_protocol_packets_total")
        }

    def _connections(self, name: str, agent: Agent) -> None:
        """Connections over loopback, and refused ones: what the hooks of the cgroup make of them, of both ends."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            for _ in range(CONNECTIONS):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    accepted, _ = server.accept()
                    client.shutdown(socket.SHUT_WR)
                    accepted.recv(1)
                    accepted.close()
        for _ in range(REFUSED):
            with socket.socket() as client:
                client.connect_ex(("127.0.0.1", port))
        for role, failure, count in (
            ("client", "", CONNECTIONS),
            ("server", "", CONNECTIONS),
            ("client", "refused", REFUSED),
        ):
            labels = {"network_tcp_handshake_role": role, "server_port": str(port)}

            def told() -> int:
                return sum(
                    value
                    for have, value in agent.samples("netmon_tcp_handshake_duration_seconds_count")
                    if labels.items() <= have.items() and have.get("error_type", "") == failure  # noqa: B023 - used at once
                )

            title = f"refused connections of the {role}" if failure else f"connections of the {role}"
            self._report.equal(f"{name}: {title}", count, settled(told, count, COUNTED_SECONDS))
        probes = {probe["name"]: probe["state"] for probe in json.loads(agent.page("/status"))["probes"]}
        self._report.equal(f"{name}: state of the probe connections", "ok", probes.get("connections"))

    def _attached(self, name: str, agent: Agent, held: inventory.Objects, xdp: str | None) -> dict[str, str]:
        """Compares how the agent says its hooks are attached with what the kernel shows there; gives the former."""
        status = json.loads(agent.page("/status"))
        self._report.figures[f"{name}.probes"] = status["probes"]
        (row,) = (row for row in status["interfaces"] if row["name"] == INTERFACE)
        hooks: dict[str, str] = row["hooks"]
        for direction in DIRECTIONS:
            tcx = inventory.tcx_programs(self._pair.index, direction)
            expected = {"tcx": 0 if tcx is None else 1, "clsact": 1 if tcx is None else 0}
            found = {
                "tcx": len(held.program & set(tcx or [])),
                "clsact": len(held.program & set(inventory.filter_programs(INTERFACE, direction))),
            }
            self._report.equal(f"{name}: programs of ours at tc {direction}", expected, found)
            kind = "clsact" if tcx is None else "tcx"
            self._report.equal(f"{name}: /status says how tc {direction} is attached", kind, hooks[f"tc_{direction}"])
        modes = [mode for mode, number in inventory.xdp_programs(INTERFACE).items() if number in held.program]
        self._report.equal(f"{name}: XDP programs of ours", [xdp] if xdp else [], modes)
        self._report.equal(f"{name}: /status says how XDP is attached", xdp, hooks.get("xdp"))
        return hooks

    def _gone(self, name: str, held: inventory.Objects) -> None:
        """Nothing that the agent held is left, and in a guest nothing at all that was not there before."""
        nothing = inventory.Objects(frozenset(), frozenset(), frozenset())
        left = settled(lambda: inventory.loaded() & held, nothing, GONE_SECONDS)
        self._report.equal(f"{name}: programs, maps and links left", nothing.counts(), _counts(left))
        if self._alone:
            new = settled(lambda: inventory.loaded() - self._before, nothing, GONE_SECONDS)
            self._report.equal(f"{name}: anything new in the kernel", nothing.counts(), _counts(new))
        for direction in DIRECTIONS:
            self._report.equal(
                f"{name}: filters left at tc {direction}", [], inventory.filter_programs(INTERFACE, direction)
            )
        self._report.equal(f"{name}: clsact qdisc left", False, inventory.has_clsact(INTERFACE))
        self._report.equal(f"{name}: XDP programs left", {}, inventory.xdp_programs(INTERFACE))

    def orderly(self) -> None:
        name = "orderly"
        agent, held = self._start(name, [])
        pids = agent.processes()
        try:
            self._report.figures["hooks"] = self._attached(name, agent, held, None)
            self._report.figures["objects"] = held.counts()
            self._report.figures["programs"] = [inventory.program(number)._asdict() for number in sorted(held.program)]
            self._pair.up()
            self._count(name, agent, DATAGRAMS, ["protocol"])
            self._all_packets(name, agent)
            self._connections(name, agent)
            self._report.equal(f"{name}: exit code after SIGTERM", 0, agent.stop(STOP_SECONDS))
        except BaseException:
            agent.abandon(pids)
            raise
        self._gone(name, held)

    def killed(self) -> None:
        name = "killed"
        agent, held = self._start(name, ["probes.xdp.enabled=true", "probes.xdp.mode=native"])
        pids = agent.processes()
        try:
            hooks = self._attached(name, agent, held, "native")
            self._report.figures["hooks"]["xdp native"] = hooks["xdp"]
            self._count(name, agent, FEWER_DATAGRAMS, ["protocol", "xdp"])
            self._report.equal(f"{name}: exit code after SIGKILL", -9, agent.kill())
        except BaseException:
            agent.abandon(pids)
            raise
        alive = settled(lambda: [pid for pid in pids if _is_alive(pid)], [], STOP_SECONDS)
        self._report.equal(f"{name}: processes of the agent left", [], alive)
        if alive:
            agent.abandon(pids)
        if hooks["tc_receive"] == "tcx":
            self._gone(name, held)
            return
        # A filter belongs to the interface and outlives every process; the next start has to sweep it.
        filters = {direction: inventory.filter_programs(INTERFACE, direction) for direction in DIRECTIONS}
        self._report.figures["filters_left_by_kill"] = {side: len(found) for side, found in filters.items()}
        theirs = sorted(number for found in filters.values() for number in found)
        left = settled(lambda: sorted((inventory.loaded() & held).program), theirs, GONE_SECONDS)
        self._report.equal(f"{name}: programs left are those of the filters", theirs, left)
        self._report.equal(f"{name}: links left", [], sorted((inventory.loaded() & held).link))
        self._report.equal(f"{name}: XDP programs left", {}, inventory.xdp_programs(INTERFACE))

    def after(self) -> None:
        name = "after the kill"
        agent, held = self._start(name, ["probes.xdp.enabled=true", "probes.xdp.mode=generic"])
        pids = agent.processes()
        try:
            hooks = self._attached(name, agent, held, "generic")
            self._report.figures["hooks"]["xdp generic"] = hooks["xdp"]
            for direction in DIRECTIONS:
                foreign = set(inventory.filter_programs(INTERFACE, direction)) - held.program
                self._report.equal(f"{name}: filters of the killed agent at tc {direction}", [], sorted(foreign))
            self._count(name, agent, FEWER_DATAGRAMS, ["protocol", "xdp"])
            self._report.equal(f"{name}: exit code after SIGTERM", 0, agent.stop(STOP_SECONDS))
        except BaseException:
            agent.abandon(pids)
            raise
        self._gone(name, held)


def _counts(objects: object) -> object:
    return objects.counts() if isinstance(objects, inventory.Objects) else objects


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run(folder: Path, alone: bool) -> dict[str, Any]:
    """All rounds and the verifier's report; a round that breaks off is a failed check, the others still run."""
    report = Report()
    start = time.monotonic()
    verifier = subprocess.run(
        [sys.executable, "-m", "scripts.kernels.verifier"], capture_output=True, text=True, check=False
    )
    programs: list[dict[str, Any]] = []
    if verifier.returncode:
        report.failed("the verifier's report", verifier.stderr[-800:])
    else:
        programs = json.loads(verifier.stdout)
    for each in programs:
        name = f"{each['program']} ({each['variant']})"
        report.equal(f"verifier: {name} loads", None, each.get("refused"))
        if "processed" in each:
            within = each["processed"] is not None and each["processed"] <= VERIFIER_BUDGET
            report.equal(f"verifier: {name} takes at most {VERIFIER_BUDGET} instructions", True, within)
    with Pair() as pair:
        rounds = Rounds(report, pair, folder, alone)
        for round_ in (rounds.orderly, rounds.killed, rounds.after):
            try:
                round_()
            except Exception:  # noqa: BLE001 - whatever it is, it is this round's result
                report.failed(f"{round_.__name__}: runs to its end", traceback.format_exc()[-2000:])
    return {
        "kernel": platform.release(),
        "ok": all(check["ok"] for check in report.checks),
        "seconds": round(time.monotonic() - start, 1),
        "checks": report.checks,
        "figures": report.figures,
        "verifier": programs,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="receives result.json and the agent's logs")
    parser.add_argument("--alone", action="store_true", help="nobody else loads eBPF programs here: a guest")
    arguments = parser.parse_args()
    result = run(arguments.folder, arguments.alone)
    text = json.dumps(result, default=sorted)  # sets become lists
    (arguments.folder / "result.json").write_text(text)
    print(text)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
