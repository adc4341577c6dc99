"""The agent ends at random moments, by a signal or by kill -9 of each of its processes: what stays behind, and who noticed.

    python -m bench.leaves_nothing --rounds 100 --seed 1

Needs root. Each round starts the agent on two veth ends with one way of attaching (TCX links, clsact filters, TCX and generic XDP), ends
it at a moment between its exec and some time after it is ready, and looks for programs, maps, links, filters, qdiscs, pins and processes
of it. Programs of somebody else, attached before it and after it, must have seen every packet. A filter of clsact outlives kill -9 by
its nature: the next start removes it, and that start is part of the round.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from pyroute2 import IPRoute

from otel_netmon.kernel import syscalls
from otel_netmon.kernel.namespaces import find_namespace, opened_in
from support.agent import Agent, agent
from support.bpf_objects import (
    BEFORE_OTHERS,
    GENERIC_XDP,
    TCX_NEXT,
    XDP_PASS,
    Counting,
    counting,
    mark,
    wait_nothing_left,
)
from support.netns import NetNs, Veth, add_veth, namespaces
from support.traffic import datagrams

MODES: dict[str, tuple[str, ...]] = {
    "tcx": ("--set", "probes.flows.attach=tcx"),
    "clsact": ("--set", "probes.flows.attach=clsact"),
    "xdp": ("--set", "probes.xdp.enabled=true", "--set", "probes.xdp.mode=generic"),
}
ENDS = ("SIGTERM", "SIGINT", "kill supervisor", "kill pipeline", "kill both")
PACKETS = 23
LATEST_SECONDS = 1.2
SECONDS = 20.0
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3


class Place(NamedTuple):
    """Two pairs between two namespaces; somebody else's programs are on the left end of the first and see its packets.

    Attributes:
        received, sent: those that see every packet that `watched.left` receives or sends.
    """

    left: NetNs
    right: NetNs
    watched: Veth
    other: Veth
    received: list[Counting]
    sent: list[Counting]

    def send(self) -> None:
        """PACKETS datagrams in each direction."""
        datagrams(self.left, self.right, self.watched.right_address, PACKETS, 100)
        datagrams(self.right, self.left, self.watched.left_address, PACKETS, 100)


class Outcome(NamedTuple):
    """One round: what was tried, and how long until nothing was left."""

    mode: str
    end: str
    moment: float
    ready: bool
    seconds: float


@contextmanager
def place() -> Iterator[Place]:
    """The namespaces, with foreign programs: XDP, TCX in both directions, and clsact filters in both directions."""
    with ExitStack() as stack:
        left, right = stack.enter_context(namespaces(2))
        watched = add_veth(left, right, "left", "right", subnet=0)
        other = add_veth(left, right, "xleft", "xright", subnet=1)
        xdp = stack.enter_context(counting(syscalls.PROG_TYPE_XDP, XDP_PASS))
        xdp.attach(left, "left", syscalls.ATTACH_XDP, GENERIC_XDP)
        receive, send, receive_filter, send_filter = (
            stack.enter_context(counting(syscalls.PROG_TYPE_SCHED_CLS, TCX_NEXT)) for _ in range(4)
        )
        receive.attach(left, "left", syscalls.ATTACH_TCX_INGRESS)
        send.attach(left, "left", syscalls.ATTACH_TCX_EGRESS)
        for program, parent in ((receive_filter, INGRESS), (send_filter, EGRESS)):
            _add_filter(left, "left", program, parent)
        yield Place(left, right, watched, other, [xdp, receive, receive_filter], [send, send_filter])


def _add_filter(netns: NetNs, interface: str, program: Counting, parent: int) -> None:
    index = netns.index(interface)
    if "clsact" not in netns.run("tc", "qdisc", "show", "dev", interface):
        netns.run("tc", "qdisc", "add", "dev", interface, "clsact")
    found = find_namespace(netns.name)
    assert found is not None
    route = opened_in(found, IPRoute)
    try:
        route.tc(
            "add-filter", "bpf", index, 1,
            fd=program.program, name="foreign", parent=parent, direct_action=True, prio=7,
        )  # fmt: skip
    finally:
        route.close()
        found.close()


def hooks(netns: NetNs) -> dict[str, Any]:
    """Everything attached to the interfaces of a namespace that `ip` and `tc` can tell."""
    listed: dict[str, Any] = {}
    for name, link in netns.links().items():
        listed[name] = {
            "xdp": link.get("xdp"),
            "qdiscs": json.loads(netns.run("tc", "-json", "qdisc", "show", "dev", name) or "[]"),
            **{
                way: json.loads(netns.run("tc", "-json", "filter", "show", "dev", name, way) or "[]")
                for way in ("ingress", "egress")
            },
        }
    return listed


def wait(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Polls; fails with what is the case instead."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def play(where: Place, mode: str, end: str, moment: float, late_first: bool) -> Outcome:
    """One round; an AssertionError says what was left behind or not seen.

    Args:
        moment: seconds after the agent's exec at which it is ended.
        late_first: whether the foreign program that comes after the agent's goes before it at the hook.
    """
    since, before = mark(), hooks(where.left)
    seen = [program.packets for program in (*where.received, *where.sent)]
    options = ["--interface", "left", "--interface", "xleft", *MODES[mode]]
    rounds = 0
    with agent(*options, enter=where.left.command(), wait_ready=False) as running:
        exec_at = time.monotonic()
        time.sleep(moment)  # which moment it is, is the point; nothing is decided by it
        with counting(syscalls.PROG_TYPE_SCHED_CLS, TCX_NEXT) as late:
            for hook in (syscalls.ATTACH_TCX_INGRESS, syscalls.ATTACH_TCX_EGRESS):
                late.attach(where.left, "left", hook, BEFORE_OTHERS if late_first else 0)
            where.send()
            rounds += 1
            ready = bool(running.events("agent.ready"))
            ended_at = time.monotonic()
            _end(running, end)
            if mode == "clsact" and end in ("kill supervisor", "kill both"):
                _sweep(where, options)
            where.send()
            rounds += 1
            wait(
                lambda: late.packets == 2 * rounds * PACKETS,
                lambda: f"the late program saw {late.packets} of {2 * rounds * PACKETS}",
            )
    wait_nothing_left(since, SECONDS)
    wait(lambda: hooks(where.left) == before, lambda: f"hooks were\n{before}\nand are\n{hooks(where.left)}")
    wait(
        lambda: [p.packets for p in (*where.received, *where.sent)] == [s + rounds * PACKETS for s in seen],
        lambda: (
            f"foreign programs: {seen} before, {rounds * PACKETS} packets each, "
            f"{[p.packets for p in (*where.received, *where.sent)]} after"
        ),
    )
    return Outcome(mode, end, ended_at - exec_at, ready, time.monotonic() - ended_at)


def _end(running: Agent, end: str) -> None:
    """Ends the agent in that way and waits until no process of it lives."""
    pipeline = running.members() - {running.pid}
    if end == "kill both":
        for pid in (*pipeline, running.pid):
            _kill(pid)
    elif end == "kill supervisor":
        _kill(running.pid)
    elif end == "kill pipeline":
        for pid in pipeline:
            _kill(pid)
        # It stays as it was, with another pipeline; or it ends, if it was not ready yet.
        if pipeline and running.events("agent.ready"):
            running.wait_event("pipeline.died")
        if running.process.poll() is None:
            running.process.terminate()
    else:
        running.process.send_signal(signal.Signals[end])
    running.process.wait(SECONDS)
    wait(lambda: not running.members(), lambda: f"processes live on: {running.members()}")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself a moment ago


def _sweep(where: Place, options: list[str]) -> None:
    with agent(*options, enter=where.left.command()) as next_one:
        assert next_one.stop() == 0


def main() -> int:
    """Plays the rounds; exit code 1 if any left something behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="of the choices; printed, so that a run can be repeated")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)  # noqa: S311 - choices that can be repeated, no secrets
    done: collections.Counter[tuple[str, str]] = collections.Counter()
    before_ready, slowest = 0, 0.0
    with place() as where:
        for number in range(1, arguments.rounds + 1):
            mode, end = chance.choice(list(MODES)), chance.choice(ENDS)
            moment, late_first = chance.uniform(0, LATEST_SECONDS), chance.random() < 0.5
            try:
                outcome = play(where, mode, end, moment, late_first)
            except AssertionError as error:
                print(f"round {number}: {mode}, {end}, {moment:.3f} s after exec: {error}")
                return 1
            done[mode, end] += 1
            before_ready += not outcome.ready
            slowest = max(slowest, outcome.seconds)
            if number % 10 == 0:
                print(f"{number} rounds, nothing left", flush=True)
    for (mode, end), count in sorted(done.items()):
        print(f"  {mode:<8} {end:<16} {count}")
    print(
        f"{arguments.rounds} rounds, {before_ready} of them ended before the agent was ready: nothing left, nobody else disturbed"
    )
    print(f"longest time from the end to nothing left: {slowest:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
