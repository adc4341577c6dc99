"""Every connection in the right row: how many, whose, and how they ended. Real sockets in namespaces and cgroups made here."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import ConnectionCount, Ending, Role, Who
from otel_netmon.enrich.addresses import address_text
from support.netns import NetNs, Veth, add_veth, namespaces
from support.socket_programs import Rows, Worker, cgroup, root_cgroup, socket_programs, worker

pytestmark = pytest.mark.kernel

SHORT, REFUSED, RESET, TIMED_OUT, UNREACHABLE = 10_007, 1_009, 503, 211, 101
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
IPTABLES = {4: "iptables", 6: "ip6tables"}
SO_COOKIE, SO_NETNS_COOKIE = 57, 71
SILENT_PORT = 82
FAILURES = (
    (REFUSED, False, 81, "ECONNREFUSED", Ending.REFUSED),
    (TIMED_OUT, False, SILENT_PORT, "ETIMEDOUT", Ending.CONNECT_TIMED_OUT),
    (UNREACHABLE, True, 81, "EHOSTUNREACH", Ending.HOST_UNREACHABLE),
)
"""How many in all, whether the address is nobody's, the port, what connect() gives, and what becomes of the row."""
NO_LINGER = struct.pack("ii", 1, 0)


def quick_to_give_up(netns: NetNs, interface: str) -> None:
    """A SYN is repeated once, and neighbours are asked again after a twentieth of a second."""
    netns.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
    netns.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
    for family in ("ipv4", "ipv6"):
        netns.run("sysctl", "-qw", f"net.{family}.neigh.{interface}.retrans_time_ms=50")


def silent(netns: NetNs, family: int) -> None:
    """Segments to SILENT_PORT are dropped."""
    netns.run(IPTABLES[family], "-A", "INPUT", "-p", "tcp", "--dport", str(SILENT_PORT), "-j", "DROP")


def netns_cookie(netns: NetNs) -> int:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def places(rows: Rows) -> Counter[tuple[Any, ...]]:
    """How many rows there are of each process, namespace, cgroup, role, family and ending."""
    return Counter(
        (
            int(row["tgid"]),
            int(row["netns"]),
            int(row["cgroup"]),
            Role(int(row["role"])),
            4 if address_text(bytes(row["remote"])).count(".") else 6,
            Ending(int(row["ending"])),
        )
        for row in rows
    )


def test_every_connection_is_in_the_right_row() -> None:
    """Three processes in two namespaces and two cgroups, IPv4 and IPv6, and a server in a third of each: difference 0."""
    with contextlib.ExitStack() as stack:
        one, two, far = stack.enter_context(namespaces(3, ipv6=True))
        blue, green, red = (stack.enter_context(cgroup()) for _ in range(3))
        programs = stack.enter_context(socket_programs(root_cgroup()))
        ways: dict[str, Veth] = {}
        for number, near in enumerate((one, two)):
            ways[near.name] = add_veth(near, far, right_name=f"right{number}", subnet=number, ipv6=True)
            quick_to_give_up(near, "left")
        for family in (4, 6):
            silent(far, family)
        clients = [stack.enter_context(worker(*where)) for where in ((blue, one), (blue, two), (green, two))]
        homes = [(client, near) for client, near in zip(clients, (one, two, two), strict=True)]
        server = stack.enter_context(worker(red, far))
        programs.processes = {server.pid, *(client.pid for client in clients)}
        ports = {
            family: server.do("listen", family=family, address="" if family == 4 else "::")["port"] for family in (4, 6)
        }
        expected: Counter[tuple[Any, ...]] = Counter()

        def share(whole: int, part: int) -> int:
            """Of six parts: three clients, two families."""
            return whole // 6 + (part < whole % 6)

        def expect(who: Worker, near: NetNs, role: Role, family: int, ending: Ending, count: int) -> None:
            expected[who.pid, netns_cookie(near), who.cgroup, role, family, ending] += count

        for part in range(6):
            (client, near), family = homes[part % 3], (4, 6)[part // 3]
            way = ways[near.name]
            there = way.right_address if family == 4 else way.right_address6
            count = share(SHORT, part)
            server.tell("accept", port=ports[family], count=count)
            assert client.do("connect", family=family, address=there, port=ports[family], count=count) == {
                "ends": {"connected": count}
            }
            server.done()
            expect(client, near, Role.CLIENT, family, Ending.FIN_LOCAL, count)
            expect(server, far, Role.SERVER, family, Ending.FIN_REMOTE, count)
            count = share(RESET, part)
            server.tell("accept", port=ports[family], count=count)
            client.do("connect", family=family, address=there, port=ports[family], count=count, reset=True)
            server.done()
            expect(client, near, Role.CLIENT, family, Ending.RESET_LOCAL, count)
            expect(server, far, Role.SERVER, family, Ending.RESET_REMOTE, count)
        for family, (whole, nobody, port, name, ending) in product((4, 6), FAILURES):
            waiting = []
            for part, (client, near) in enumerate(homes, start=0 if family == 4 else 3):
                way = ways[near.name]
                there = way.right_address if family == 4 else way.right_address6
                address = f"{there[:-1]}77" if nobody else there
                count = share(whole, part)
                client.tell("attempt", family=family, address=address, port=port, count=count)
                waiting.append((client, {"ends": {name: count}}))
                expect(client, near, Role.CLIENT, family, ending, count)
            for client, answer in waiting:
                assert client.done() == answer, (family, port)
        rows = programs.wait_ended(expected.total())
        assert places(rows) == expected
        assert expected.total() == 2 * (SHORT + RESET) + REFUSED + TIMED_OUT + UNREACHABLE
        assert len(np.unique(rows["cookie"])) == len(rows)
        assert not len(programs.live())
        counts = programs.counts()
        assert counts[ConnectionCount.RING_FULL] == counts[ConnectionCount.NO_PLACE] == 0
        assert counts[ConnectionCount.RECORDS] >= len(rows)
        early = rows["ending"] == Ending.RESET_REMOTE  # the reset may come before accept()
        assert set(rows["who"][~early].tolist()) == {Who.OPENER}
        assert set(rows["who"][early].tolist()) <= {Who.OPENER, Who.LISTENER}
        assert not programs.totals()["connections"].any()
