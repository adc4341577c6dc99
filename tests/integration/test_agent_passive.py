"""Promise P1: traffic is the same byte for byte with the agent on and off, and programs of others see all of it in any order."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from otel_netmon.kernel import syscalls
from support.agent import Agent, agent
from support.bpf_objects import BEFORE_OTHERS, GENERIC_XDP, TCX_NEXT, TCX_PASS, XDP_PASS, Counting, counting
from support.netns import NetNs, Veth, veth_pair
from support.traffic import datagrams, handed_over, transfer, udp_frame

pytestmark = pytest.mark.kernel

DATAGRAMS = 1009
TRANSFER = 5_000_011
FRAMES = 1009
SECONDS = 20.0

WAYS: dict[str, tuple[str, ...]] = {
    "tcx": ("--set", "probes.flows.attach=tcx"),
    "clsact": ("--set", "probes.flows.attach=clsact"),
    "xdp": ("--set", "probes.xdp.enabled=true", "--set", "probes.xdp.mode=generic"),
}
Place = tuple[NetNs, NetNs, Veth]


@contextmanager
def on_both_ends(place: Place, way: str) -> Iterator[list[Agent]]:
    """An agent in each of the two namespaces."""
    left, right, _ = place
    with ExitStack() as stack:
        yield [stack.enter_context(agent(*WAYS[way], enter=side.command())) for side in (left, right)]


def strange_frames() -> list[bytes]:
    """Frames of every kind that the parser knows and of kinds that nobody knows, the same in every run."""
    chance = random.Random(20)  # noqa: S311 - no secrets
    ethernet = bytes.fromhex("020000000009020000000001")
    ipv4 = udp_frame("198.18.0.1", "198.18.0.2", 1000, 2000, 200)[14:]
    ipv6 = struct.pack(">IHBB16s16s", 6 << 28, 60, 0, 64, bytes(15) + b"\1", bytes(15) + b"\2")
    extension = bytes([17, 0, 1, 4, 0, 0, 0, 0]) + struct.pack(">HHHH", 1, 2, 52, 0) + bytes(44)
    kinds = [
        b"\x08\x00" + ipv4,
        b"\x08\x00" + ipv4[:6] + b"\x20\x07" + ipv4[8:],  # a later fragment
        b"\x08\x00\x4f" + ipv4[1:20] + bytes(40) + ipv4[20:],  # options
        b"\x08\x00" + ipv4[:11],  # too short
        b"\x81\x00\x00\x2a\x08\x00" + ipv4,  # 802.1Q
        b"\x88\xa8\x00\x07\x81\x00\x00\x2a\x08\x00" + ipv4,  # 802.1ad
        b"\x88\x47\x00\x01\x01\x40" + ipv4,  # MPLS
        b"\x88\x64\x11\x00\x00\x01\x00\xba\x00\x21" + ipv4,  # PPPoE
        b"\x86\xdd" + ipv6 + extension,
        b"\x08\x06" + bytes.fromhex("0001080006040001") + bytes(20),  # ARP
        b"\x88\xb5" + b"an experiment",
        b"\x00\x26\x42\x42\x03" + bytes(35),  # LLC
    ]
    return [ethernet + kind + chance.randbytes(chance.randrange(0, 300)) for kind in chance.choices(kinds, k=FRAMES)]


def captured(source: NetNs, target: NetNs, pair: Veth, frames: list[bytes], path: Path) -> list[bytes]:
    """What tcpdump on the far end has of the frames."""
    dump = target.start(
        "tcpdump",
        "-i",
        pair.right,
        "-w",
        str(path),
        "-U",
        "--immediate-mode",
        "-s",
        "4096",
        "-B",
        "16384",
        "-Z",
        "root",
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not (path.exists() and path.stat().st_size >= 24):
            assert time.monotonic() < deadline, "tcpdump does not start"
            time.sleep(0.02)
        source.send_frames(pair.left, frames)
        while len(found := records(path)) < len(frames):
            assert time.monotonic() < deadline, f"{len(found)} of {len(frames)} frames arrived"
            time.sleep(0.02)
        return found
    finally:
        dump.terminate()
        dump.wait(SECONDS)


def records(path: Path) -> list[bytes]:
    """Frames of a pcap file in this machine's byte order; a last one that is not whole is not read yet."""
    data = path.read_bytes()
    found, at = [], 24
    while at + 16 <= len(data):
        length, original = struct.unpack_from("=II", data, at + 8)
        assert length == original
        if at + 16 + length > len(data):
            break
        found.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return found


def test_frames_arrive_byte_for_byte(tmp_path: Path) -> None:
    frames = strange_frames()
    with veth_pair() as (left, right, pair):
        assert captured(left, right, pair, frames, tmp_path / "off.pcap") == frames
        for way in WAYS:
            with on_both_ends((left, right, pair), way) as running:
                assert captured(left, right, pair, frames, tmp_path / f"{way}.pcap") == frames
                for each in running:
                    (row,) = (row for row in each.status()["interfaces"] if row["name"] in (pair.left, pair.right))
                    assert way in row["hooks"].values() or row["hooks"]["xdp"] == "generic"


def test_connections_and_datagrams_are_the_same() -> None:
    def load(place: Place) -> tuple[bytes, bytes]:
        left, right, pair = place
        _, received = transfer(left, right, pair.right_address, TRANSFER)
        return received, datagrams(left, right, pair.right_address, DATAGRAMS, 333)

    with veth_pair() as place:
        alone = load(place)
        for way in WAYS:
            with on_both_ends(place, way):
                assert load(place) == alone


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ("before", TCX_NEXT),
        ("before", TCX_PASS),
        ("after", TCX_NEXT),
        ("after", TCX_PASS),
        ("first after", TCX_NEXT),
        ("first after", TCX_PASS),
    ],
)
def test_a_foreign_tc_program_and_ours_see_every_packet(order: str, verdict: int) -> None:
    with veth_pair() as place, counting(syscalls.PROG_TYPE_SCHED_CLS, verdict) as foreign, ExitStack() as stack:
        left, right, pair = place
        if order == "before":
            attach(foreign, left, pair.left)
        running = stack.enter_context(agent("--interface", pair.left, enter=left.command(), interval=0.3))
        if order != "before":
            attach(foreign, left, pair.left, BEFORE_OTHERS if order == "first after" else 0)
        datagrams(left, right, pair.right_address, DATAGRAMS, 100)
        datagrams(right, left, pair.left_address, DATAGRAMS, 100)
        running.wait(lambda: foreign.packets == 2 * DATAGRAMS, SECONDS, f"all packets, but {foreign.packets}")
        if order == "first after" and verdict == TCX_PASS:
            # It has asked to be first and ends the matter: nobody after it is asked. That is told, not hidden.
            running.wait(
                lambda: [value for _, value in running.samples("netmon_coverage_ratio")] == [0, 0],
                SECONDS,
                "coverage 0",
            )
            return
        each = (DATAGRAMS, DATAGRAMS * 142)
        running.wait(
            lambda: handed_over(running, pair.left) == {"receive": each, "transmit": each},
            5.0,
            f"all packets of ours, but {handed_over(running, pair.left)}",
        )


def attach(foreign: Counting, netns: NetNs, interface: str, flags: int = 0) -> None:
    for hook in (syscalls.ATTACH_TCX_INGRESS, syscalls.ATTACH_TCX_EGRESS):
        foreign.attach(netns, interface, hook, flags)


def test_a_foreign_xdp_program_stays_and_ours_says_why_it_is_off() -> None:
    """An interface has room for one XDP program: who came first keeps it, and the rest of the agent runs."""
    with veth_pair() as (left, right, pair), counting(syscalls.PROG_TYPE_XDP, XDP_PASS) as foreign:
        foreign.attach(left, pair.left, syscalls.ATTACH_XDP, GENERIC_XDP)
        options = ["--interface", pair.left, "--set", "probes.xdp.enabled=true", "--set", "probes.xdp.mode=generic"]
        with agent(*options, enter=left.command(), interval=0.3) as running:
            datagrams(right, left, pair.left_address, DATAGRAMS, 100)
            running.wait(lambda: foreign.packets == DATAGRAMS, SECONDS, f"all packets, but {foreign.packets}")
            each = (DATAGRAMS, DATAGRAMS * 142)
            running.wait(lambda: handed_over(running, pair.left)["receive"] == each, SECONDS, "all packets of ours")
            (row,) = running.status()["interfaces"]
            assert row["hooks"] == {
                "tc_receive": "tcx",
                "tc_transmit": "tcx",
                "xdp": "another_program_attached",
            }
            probes = {probe["name"]: probe for probe in running.status()["probes"]}
            assert probes["flows"]["state"] == "ok"
            assert (probes["xdp"]["state"], probes["xdp"]["reason"]) == ("off", "another_program_attached")
            assert pair.left in probes["xdp"]["detail"]
            states = {
                labels["netmon_probe"]: (labels["netmon_state"], labels.get("netmon_reason"))
                for labels, _ in running.samples("netmon_probe_state_ratio")
            }
            assert states["xdp"] == ("off", "another_program_attached")
            assert states["flows"] == ("ok", None)
