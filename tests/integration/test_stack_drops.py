"""What the network stack drops, told by the whole agent: by the kernel's counters of a namespace, and by its reasons."""

from __future__ import annotations

import contextlib
import signal
import socket

import pytest

from support.agent import agent
from support.bpf_objects import mark, wait_nothing_left
from support.netns import NetNs, namespace

pytestmark = pytest.mark.kernel

DATAGRAMS = 1009
CLIENTS = 23
SECONDS = 20.0


def refused_datagrams(netns: NetNs) -> None:
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(DATAGRAMS):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(b"x", ("127.0.0.1", 9))


def test_drops_by_counter_and_by_reason() -> None:
    since = mark()
    with namespace() as host, agent(enter=host.command(), interval=0.3) as running:
        refused_datagrams(host)
        labels = {"netmon_reason": "no_port", "network_type": "ipv4"}
        running.wait(
            lambda: running.total("netmon_stack_drops_total", **labels) == DATAGRAMS, SECONDS, "every datagram"
        )
        reasons = {labels["netmon_reason"]: value for labels, value in running.samples("netmon_kernel_drops_total")}
        assert max(reasons.values()) >= DATAGRAMS
        with host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, contextlib.ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(CLIENTS):
                client = stack.enter_context(host.socket(socket.AF_INET, socket.SOCK_STREAM))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(listener.getsockname())
            overflows = {"netmon_reason": "accept_queue"}
            running.wait(
                lambda: running.total("netmon_tcp_listen_overflows_total", **overflows) >= CLIENTS - 3,
                SECONDS,
                "overflows",
            )
        states = {probe["name"]: probe["state"] for probe in running.status()["probes"]}
        assert (states["netstat"], states["drops"]) == ("ok", "ok")
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_nothing_left(since)


def test_probes_that_are_off_tell_nothing() -> None:
    arguments = ("--set", "probes.netstat.enabled=false", "--set", "probes.drops.enabled=false")
    with namespace() as host, agent(*arguments, enter=host.command(), interval=0.3) as running:
        states = {probe["name"]: (probe["state"], probe["reason"]) for probe in running.status()["probes"]}
        assert states["netstat"] == states["drops"] == ("off", "not_enabled")
        page = running.get("/metrics")
        assert "netmon_probe_state" in page
        assert not [name for name in ("netmon_stack_", "netmon_kernel_drops", "netmon_tcp_listen") if name in page]
