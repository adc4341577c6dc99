"""Interfaces that come, go, are renamed and move while the agent runs: each attached, counted exactly, and nothing kept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent, agent, command
from support.bpf_objects import mark, wait_nothing_left
from support.netns import NetNs, add_veth, namespace, namespaces, run, veth_pair
from support.traffic import datagrams, gained, handed_over, on_page

pytestmark = pytest.mark.kernel

PAIRS = 60
PACKETS = 1009
PAYLOAD = 100
SECONDS = 30.0


def rows(running: Agent) -> dict[str, dict[str, Any]]:
    """The interfaces of /status by name."""
    return {row["name"]: row for row in running.status()["interfaces"]}


def names(running: Agent) -> set[str]:
    return set(rows(running))


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def many(netns: NetNs, far: NetNs, verb: str) -> None:
    """Adds or deletes PAIRS veth pairs in one go, as fast as the kernel can."""
    tail = f"type veth peer name b%d netns {far.name}" if verb == "add" else ""
    batch = "".join(f"link {verb} a{number} {tail.replace('%d', str(number))}\n" for number in range(PAIRS))
    done = subprocess.run(netns.command("ip", "-batch", "-"), input=batch.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pairs_by_the_hundred_come_and_go() -> None:
    since = mark()
    with namespaces(2) as (host, far):
        expected = {f"a{number}" for number in range(PAIRS)}
        add_veth(host, far, "first", "b-first", subnet=1)
        with agent(enter=host.command(), interval=0.3) as running:
            assert names(running) == {"first"}
            pids = (running.pid, running.pipeline_pid())
            before = [open_files(pid) for pid in pids]
            for _ in range(2):
                many(host, far, "add")
                running.wait(lambda: names(running) == expected | {"first"}, SECONDS, f"{PAIRS} more")
                for row in rows(running).values():
                    assert row["hooks"] == {"tc_receive": "tcx", "tc_transmit": "tcx"}, row
                many(host, far, "delete")
                running.wait(lambda: names(running) == {"first"}, SECONDS, f"{PAIRS} fewer")
            pair = add_veth(host, far, "late", "b-late")
            running.wait(lambda: names(running) == {"first", "late"}, SECONDS, "the late one")
            base = host.counters("late")
            datagrams(host, far, pair.right_address, PACKETS, PAYLOAD)
            truth = gained(host.counters("late"), base)
            assert truth["transmit"] == (PACKETS, PACKETS * (42 + PAYLOAD))
            running.wait(lambda: handed_over(running, "late") == truth, SECONDS, f"{truth}")
            page = running.get("/metrics")
            assert on_page(page, "flow") == truth
            assert on_page(page, "protocol", network_interface_name="late") == truth
            host.run("ip", "link", "delete", "late")
            running.wait(lambda: names(running) == {"first"}, SECONDS, "the first one alone")
            running.wait(lambda: [open_files(pid) for pid in pids] == before, SECONDS, f"{before} open files")
            assert (running.pid, running.pipeline_pid()) == pids  # the same two processes all the time
            probes = {probe["name"]: probe["state"] for probe in running.status()["probes"]}
            assert probes["flows"] == "ok"
            assert running.stop() == 0
    wait_nothing_left(since)


def test_a_rename_goes_on_under_the_new_name() -> None:
    with (
        veth_pair() as (left, right, pair),
        agent("--interface", "l*", enter=left.command(), interval=0.3) as running,
    ):
        base = left.counters(pair.left)
        datagrams(left, right, pair.right_address, PACKETS, PAYLOAD)
        left.run("ip", "link", "set", pair.left, "down")
        left.run("ip", "link", "set", pair.left, "name", "lrenamed")
        left.run("ip", "link", "set", "lrenamed", "up")
        left.run("ip", "neighbour", "replace", pair.right_address, "lladdr", right.links()[pair.right]["address"],
                 "dev", "lrenamed", "nud", "permanent")  # fmt: skip
        running.wait(lambda: names(running) == {"lrenamed"}, SECONDS, "the new name")
        datagrams(left, right, pair.right_address, PACKETS, PAYLOAD)
        truth = gained(left.counters("lrenamed"), base)
        assert truth["transmit"][0] == 2 * PACKETS
        running.wait(lambda: handed_over(running, "lrenamed") == truth, SECONDS, f"{truth}")
        assert on_page(running.get("/metrics"), "protocol", network_interface_name="lrenamed") == truth
        assert running.events("interface.renamed")[0]["old_name"] == pair.left
        assert not running.events("interface.removed")
        # A name that matches nothing any more is let go, and taken up again when it comes back.
        left.run("ip", "link", "set", "lrenamed", "name", "other")
        running.wait(lambda: names(running) == set(), SECONDS, "an empty list")
        left.run("ip", "link", "set", "other", "name", "lagain")
        running.wait(lambda: names(running) == {"lagain"}, SECONDS, "the third name")


def test_an_interface_that_moves_into_a_followed_namespace() -> None:
    since = mark()
    with veth_pair() as (left, right, pair), namespace() as target:
        options = ["--interface", "*", "--set", f"interfaces.namespaces={target.name}"]
        with agent(*options, enter=left.command(), interval=0.3) as running:
            running.wait(lambda: names(running) == {pair.left}, SECONDS, "the interface")
            base = left.counters(pair.left)
            datagrams(left, right, pair.right_address, PACKETS, PAYLOAD)
            left.run("ip", "link", "set", pair.left, "netns", target.name)
            running.wait(
                lambda: [row["namespace"] for row in rows(running).values()] == [target.name], SECONDS, "the move"
            )
            target.run("ip", "address", "add", f"{pair.left_address}/24", "dev", pair.left)
            target.run("ip", "link", "set", pair.left, "up")
            target.run("ip", "neighbour", "replace", pair.right_address, "lladdr",
                       right.links()[pair.right]["address"], "dev", pair.left, "nud", "permanent")  # fmt: skip
            datagrams(target, right, pair.right_address, PACKETS, PAYLOAD)
            truth = gained(target.counters(pair.left), base)  # the counters move with the device
            each = (PACKETS, PACKETS * (42 + PAYLOAD))
            assert truth["transmit"] == (2 * each[0], 2 * each[1])
            running.wait(lambda: handed_over(running, pair.left)["transmit"] == each, SECONDS, f"{each}")
            page = running.get("/metrics")
            moved = on_page(page, "protocol", network_interface_name=pair.left, netmon_network_namespace=target.name)
            assert moved["transmit"] == each
            assert on_page(page, "flow") == truth
            assert rows(running)[pair.left]["hooks"] == {"tc_receive": "tcx", "tc_transmit": "tcx"}
            assert running.stop() == 0
    wait_nothing_left(since)


def test_the_rows_of_an_interface_that_is_gone_leave_the_kernel() -> None:
    """Containers come and go for months; the table has 8192 rows for all that are no flows."""
    arp = b"\x02\0\0\0\0\x09\x02\0\0\0\0\x01\x08\x06" + bytes(28)
    with namespaces(2) as (host, far), agent(enter=host.command(), interval=0.3) as running:

        def rows_used() -> int:
            return running.total("netmon_bpf_map_entries", netmon_bpf_map_name="protocol_stats")

        add_veth(host, far, "guest", "peer")
        running.wait(lambda: names(running) == {"guest"}, SECONDS, "the interface")
        host.send_frames("guest", [arp])
        running.wait(lambda: rows_used() == 1, SECONDS, "its row")
        host.run("ip", "link", "delete", "guest")
        running.wait(lambda: names(running) == set(), SECONDS, "an empty list")
        running.wait(lambda: rows_used() == 0, 3.0, "an empty table")


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_a_followed_namespace_that_is_deleted_really_ends(attach: str) -> None:
    """As long as anybody holds it open its interfaces would live on, and with them the far end of each pair."""
    with namespace() as host, namespace() as guest:
        add_veth(host, guest, "outer", "inner")
        options = ["--interface", "inner", "--set", f"interfaces.namespaces={guest.name}"]
        options += ["--set", f"probes.flows.attach={attach}"]
        with agent(*options, enter=host.command(), interval=0.3) as running:
            running.wait(lambda: names(running) == {"inner"}, SECONDS, "the interface")
            files = open_files(running.pipeline_pid())
            run("ip", "netns", "delete", guest.name)
            try:
                running.wait(lambda: names(running) == set(), SECONDS, "an empty list")
                running.wait(lambda: "outer" not in host.links(), SECONDS, "end of the far end of the pair")
                running.wait(lambda: open_files(running.pipeline_pid()) < files, SECONDS, "a closed file")
            finally:
                run("ip", "netns", "add", guest.name)  # for the end of the block


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    with veth_pair() as (left, _, pair):
        done = subprocess.run(
            left.command(*command("run", "--interface", "nosuch0", "--set", "otlp.enabled=false")),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert done.returncode == 78
        assert "interface nosuch0 does not exist" in done.stderr
        assert "there are: left, lo" in done.stderr
        assert "Traceback" not in done.stderr
        options = ["--interface", "later", "--set", "interfaces.allow_missing=true"]
        with agent(*options, enter=left.command(), interval=0.3) as running:
            assert names(running) == set()
            left.run("ip", "link", "set", pair.left, "down")
            left.run("ip", "link", "set", pair.left, "name", "later")
            running.wait(lambda: names(running) == {"later"}, SECONDS, "the interface")
