"""Interfaces as the running kernel has them, compared with what `ip` says about them."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from otel_netmon.errors import ConfigError, PrivilegeError
from otel_netmon.kernel.interfaces import Added, Changed, Event, Interface, InterfaceTable, Removed, Renamed
from otel_netmon.kernel.link_monitor import LinkMonitor
from otel_netmon.kernel.namespaces import (
    current_identity,
    entered,
    find_namespace,
    open_netdev,
    opened_in,
    own_namespace,
)
from otel_netmon.readers.netdev import Counters, NetdevReader
from support.netns import NetNs, add_veth, namespace, namespaces, open_files, own_links, run, veth_pair

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = 10


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


def of(table: InterfaceTable, netns: NetNs) -> dict[str, Interface]:
    return {each.name: each for each in table.interfaces.values() if each.namespace_name == netns.name}


def assert_as_ip_says(table: InterfaceTable, netns: NetNs) -> None:
    ours, theirs = of(table, netns), netns.links()
    assert set(ours) == set(theirs)
    for name, link in theirs.items():
        assert_same(ours[name], link, {each["ifindex"]: each["ifname"] for each in theirs.values()})


def assert_same(interface: Interface, link: dict[str, Any], names: dict[int, str]) -> None:
    assert interface.index == link["ifindex"]
    assert interface.mtu == link["mtu"]
    assert interface.address.hex(":") == link["address"]
    assert bool(interface.flags & 1) == ("UP" in link["flags"])
    assert names.get(interface.master or 0) == link.get("master")
    kind = link.get("linkinfo", {}).get("info_kind")
    assert interface.kind == (kind or ("loopback" if "LOOPBACK" in link["flags"] else "physical"))
    points_to = interface.peer if kind == "veth" else interface.lower
    if kind == "vxlan":
        assert names.get(points_to or 0) == link["linkinfo"]["info_data"].get("link")
        return
    if "link" in link:
        assert names.get(points_to or 0) == link["link"]
    else:
        assert points_to == link.get("link_index")


def names_of(events: list[Event], kind: type[Event]) -> list[str]:
    return [event.interface.name for event in events if isinstance(event, kind)]


def wait_readable(table: InterfaceTable) -> None:
    readable, _, _ = select.select(table.filenos(), [], [], DEADLINE_SECONDS)
    assert readable


def test_the_hosts_own_interfaces() -> None:
    with InterfaceTable() as table:
        events = table.refresh()
        links = own_links()
        assert sorted(names_of(events, Added)) == sorted(links)
        names = {link["ifindex"]: name for name, link in links.items()}
        for interface in table.interfaces.values():
            assert (interface.namespace, interface.namespace_name) == (0, "")
            assert_same(interface, links[interface.name], names)
        assert table.process() == []


def test_life_of_a_veth_pair_in_two_namespaces() -> None:
    with namespaces(2) as (one, two), InterfaceTable([one.name, two.name]) as table:
        table.refresh()
        add_veth(one, two)
        wait_readable(table)
        events = table.process()
        assert sorted(names_of(events, Added)) == ["left", "right"]
        left, right = of(table, one)["left"], of(table, two)["right"]
        assert left.peer_key == right.key
        assert right.peer_key == left.key
        assert left.lower is None

        one.run("ip", "link", "add", "bridge", "type", "bridge")
        one.run("ip", "link", "set", "left", "master", "bridge")
        events = table.process()
        assert names_of(events, Added) == ["bridge"]
        assert names_of(events, Changed) == ["left"]
        assert of(table, one)["left"].master == of(table, one)["bridge"].index
        one.run("ip", "link", "set", "left", "nomaster")
        assert names_of(table.process(), Removed) == []
        assert of(table, one)["left"].master is None

        one.run("ip", "link", "delete", "left")
        assert sorted(names_of(table.process(), Removed)) == ["left", "right"]
        assert_as_ip_says(table, one)
        assert_as_ip_says(table, two)


def test_a_move_between_followed_namespaces() -> None:
    with veth_pair() as (one, two, _), InterfaceTable([one.name, two.name]) as table:
        table.refresh()
        one.run("ip", "link", "set", "left", "netns", two.name)
        events = table.process()
        assert [(type(each), each.interface.name, each.interface.namespace_name) for each in events] == [
            (Removed, "left", one.name),
            (Changed, "right", two.name),
            (Added, "left", two.name),
        ]
        left, right = of(table, two)["left"], of(table, two)["right"]
        assert (left.peer_key, right.peer_key) == (right.key, left.key)
        assert_as_ip_says(table, one)
        assert_as_ip_says(table, two)


def test_a_peer_that_moves_out_of_sight_and_back() -> None:
    with veth_pair() as (one, two, _), InterfaceTable([one.name]) as table:
        table.refresh()
        assert of(table, one)["left"].peer_key is None
        two.run("ip", "link", "set", "right", "netns", one.name)
        table.process()
        assert of(table, one)["left"].peer_key == of(table, one)["right"].key
        one.run("ip", "link", "set", "right", "netns", two.name)
        table.process()
        assert of(table, one)["left"].peer_key is None
        assert_as_ip_says(table, one)


def test_the_id_of_a_dead_namespace_given_to_a_followed_one() -> None:
    with namespace() as watched, InterfaceTable([watched.name]) as table:
        with namespace() as passing:
            add_veth(watched, passing)
            table.refresh()
            assert of(table, watched)["left"].peer_key is None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "left" in of(table, watched):
            assert time.monotonic() < deadline
            select.select(table.filenos(), [], [], 0.1)
            table.process()
        with namespace() as other:
            table.refresh()
            add_veth(watched, other, "near", "far")
            table.process()
            assert of(table, watched)["near"].peer_key is None


def test_a_vxlan_device_and_the_device_below() -> None:
    with veth_pair() as (one, two, _), InterfaceTable([one.name]) as table:
        one.run("ip", "link", "add", "vx", "type", "vxlan", "id", "5", "dstport", "4789", "dev", "left")
        table.refresh()
        tunnel = of(table, one)["vx"]
        assert (tunnel.kind, tunnel.lower_key, tunnel.peer) == ("vxlan", of(table, one)["left"].key, None)
        one.run("ip", "link", "add", "free", "type", "vxlan", "id", "6", "dstport", "4790")
        table.process()
        assert of(table, one)["free"].lower is None
        assert_as_ip_says(table, one)
        assert two.name not in {each.namespace_name for each in table.interfaces.values()}


def test_renaming_within_into_and_out_of_the_patterns() -> None:
    with namespace() as one, InterfaceTable([one.name], include=["web*", "exact"], exclude=["*t", "webx"]) as table:
        table.refresh()
        one.run("ip", "link", "add", "web1", "type", "bridge")
        assert names_of(table.process(), Added) == ["web1"]
        one.run("ip", "link", "set", "web1", "name", "web2")
        (renamed,) = table.process()
        assert isinstance(renamed, Renamed)
        assert (renamed.old_name, renamed.interface.name) == ("web1", "web2")
        one.run("ip", "link", "set", "web2", "name", "webx")
        assert names_of(table.process(), Removed) == ["web2"]
        one.run("ip", "link", "set", "webx", "name", "exact")
        assert names_of(table.process(), Added) == ["exact"]
        assert [each.name for each in table.monitored.values()] == ["exact"]


def test_an_index_used_again_within_a_burst_is_another_interface() -> None:
    with namespace() as one, InterfaceTable([one.name]) as table:
        one.run("ip", "link", "add", "first", "index", "50", "type", "bridge")
        table.refresh()
        one.run("ip", "link", "delete", "first")
        one.run("ip", "link", "add", "second", "index", "50", "type", "bridge")
        events = table.process()
        assert [(type(each), each.interface.name) for each in events] == [(Removed, "first"), (Added, "second")]


def test_pairs_by_the_hundred_come_go_and_flash() -> None:
    with namespaces(2) as (one, two), InterfaceTable([one.name, two.name]) as table:
        table.refresh()
        names = [f"p{number}" for number in range(100)]
        batch(one, [f"link add {name} type veth peer name q{name} netns {two.name}" for name in names])
        events = table.process()
        assert sorted(names_of(events, Added)) == sorted([*names, *(f"q{name}" for name in names)])
        assert_as_ip_says(table, one)
        assert_as_ip_says(table, two)
        for name in names:
            assert of(table, one)[name].peer_key == of(table, two)[f"q{name}"].key
        batch(one, [f"link {verb}" for name in names for verb in (f"add flash{name} type veth", f"delete flash{name}")])
        assert table.process() == []
        batch(one, [f"link delete {name}" for name in names])
        events = table.process()
        assert len(names_of(events, Removed)) == len(events) == 200
        assert table.overruns == 0


def test_an_overrun_is_counted_and_repaired() -> None:
    with namespace() as one, InterfaceTable([one.name]) as table:
        one.run("ip", "link", "add", "stays", "type", "bridge")
        one.run("ip", "link", "add", "goes", "type", "bridge")
        table.refresh()
        group = socket.socket(fileno=os.dup(table.filenos()[1]))
        with group:
            group.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        one.run("ip", "link", "delete", "goes")
        batch(one, [f"link add p{number} type bridge" for number in range(50)])
        events = table.process()
        assert table.overruns == 1
        assert names_of(events, Removed) == ["goes"]
        assert len(names_of(events, Added)) == 50
        assert_as_ip_says(table, one)
        one.run("ip", "link", "delete", "stays")
        assert names_of(table.process(), Removed) == ["stays"]


def test_a_dump_amid_changes_misses_nothing_that_stays() -> None:
    stable = {f"p{number}" for number in range(50)}
    with namespace() as one:
        batch(one, [f"link add {name} type bridge" for name in stable])
        found = find_namespace(one.name)
        assert found is not None
        monitor = opened_in(found, LinkMonitor)
        found.close()
        script = "while :; do ip link add churn type bridge; ip link delete churn; done"
        churn = one.start("sh", "-c", script)
        try:
            with monitor:
                seen = 0
                deadline = time.monotonic() + DEADLINE_SECONDS
                while seen < 20:
                    assert time.monotonic() < deadline
                    assert stable <= {link.name for link in monitor.dump()}
                    seen += sum(not change.removed for change in monitor.read().changes)
        finally:
            churn.kill()
            churn.wait()


def test_namespaces_come_go_and_come_again() -> None:
    with InterfaceTable(["nm-test-later"], include=["lo", "one"]) as table:
        assert names_of(table.refresh(), Added) == ["lo"]
        for number in (1, 2):
            run("ip", "netns", "add", "nm-test-later")
            try:
                assert [(each.interface.name, each.interface.namespace) for each in table.refresh()] == [("lo", number)]
                run("ip", "-netns", "nm-test-later", "link", "add", "one", "type", "bridge")
                assert names_of(table.process(), Added) == ["one"]
                assert set(table.namespaces) == {0, number}
            finally:
                run("ip", "netns", "delete", "nm-test-later")
            assert sorted(names_of(table.refresh(), Removed)) == ["lo", "one"]
            assert len(table.filenos()) == 1


def test_one_namespace_under_several_names_is_followed_once() -> None:
    with namespace() as one:
        sleeper = one.start("sleep", "60")
        try:
            path = f"/proc/{sleeper.pid}/ns/net"
            deadline = time.monotonic() + DEADLINE_SECONDS
            while current_identity(path) != current_identity(one.name):
                assert time.monotonic() < deadline
            with InterfaceTable([path, one.name, f"/proc/{os.getpid()}/ns/net"]) as table:
                table.refresh()
                assert {number: each.name for number, each in table.namespaces.items()} == {0: "", 1: path}
                sleeper.kill()
                sleeper.wait()
                assert names_of(table.refresh(), Removed) == ["lo"]
                table.refresh()
                assert {number: each.name for number, each in table.namespaces.items()} == {0: "", 2: one.name}
        finally:
            sleeper.kill()
            sleeper.wait()


def test_names_that_are_no_namespaces(tmp_path: os.PathLike[str]) -> None:
    plain = os.path.join(tmp_path, "plain")
    with open(plain, "wb"):
        assert find_namespace(plain) is None
    assert find_namespace("/proc/self/ns/mnt") is None
    assert find_namespace("nm-test-absent") is None
    for name in ("", "a/b", ".", ".."):
        with pytest.raises(ConfigError, match="names no network namespace"):
            find_namespace(name)
    with pytest.raises(ConfigError, match="256 namespaces"):
        InterfaceTable([f"n{number}" for number in range(256)])


def test_literal_names_must_exist() -> None:
    with InterfaceTable(include=["lo", "nm9", "nm8", "absent*"]) as table:
        table.refresh()
        with pytest.raises(ConfigError, match=r"interfaces nm8, nm9 do not exist; there are: .*lo") as caught:
            table.require_names()
        assert caught.value.exit_code == 78
    with InterfaceTable(include=["lo"], exclude=["*"]) as table:
        table.refresh()
        table.require_names()
        assert [each.name for each in table.monitored.values()] == ["lo"]


def test_the_thread_comes_back_after_an_error() -> None:
    with namespace() as one:
        found = find_namespace(one.name)
        assert found is not None
        home = current_identity("/proc/thread-self/ns/net")
        inside = None
        try:
            with entered(found):
                inside = current_identity("/proc/thread-self/ns/net")
                raise ZeroDivisionError
        except ZeroDivisionError:
            assert inside == found.identity
        assert current_identity("/proc/thread-self/ns/net") == home
        found.close()


NO_WAY_BACK = """
import os, sys
from otel_netmon.kernel.namespaces import entered, find_namespace
with entered(find_namespace(sys.argv[1])):
    os.setuid(65534)
print("went on")
"""

NO_WAY_IN = """
import os, sys
from otel_netmon.errors import PrivilegeError
from otel_netmon.kernel.interfaces import InterfaceTable
os.setuid(65534)
table = InterfaceTable([sys.argv[1]])
try:
    table.refresh()
except PrivilegeError as error:
    print(error)
    sys.exit(error.exit_code)
"""

IMPORTS = """
import sys
import otel_netmon.kernel.interfaces
print(sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_the_process_ends_when_the_thread_cannot_come_back() -> None:
    with namespace() as one:
        done = python(NO_WAY_BACK, one.name)
        assert done.returncode == 1
        assert f"cannot return from network namespace '{one.name}'" in done.stderr
        assert done.stdout == ""


def test_without_the_capability_a_namespace_is_refused_with_a_remedy() -> None:
    with namespace() as one:
        done = python(NO_WAY_IN, one.name)
        assert (done.returncode, done.stderr) == (PrivilegeError.exit_code, "")
        assert one.name in done.stdout
        assert "CAP_SYS_ADMIN" in done.stdout


def test_the_table_needs_the_standard_library_only() -> None:
    # -S: without what the environment's site packages import into every process.
    done = subprocess.run([sys.executable, "-S", "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['__main__', 'otel_netmon']", done.stderr


def test_counters_of_proc_net_dev_are_those_of_ip() -> None:
    with veth_pair() as (one, two, pair):
        found = find_namespace(one.name)
        assert found is not None
        fd = open_netdev(found)
        found.close()
        try:
            reader = NetdevReader(fd)
            assert reader.read()["left"] == Counters(0, 0, 0, 0, 0, 0, 0, 0)
            frame = bytes.fromhex("ffffffffffff020000000001 88b5").ljust(64, b"\0")
            one.send_frames("left", [frame] * 23)
            two.send_frames("right", [frame + bytes(36)] * 7)
            # Nobody has asked for frames of this type: the kernel counts them as received, then as dropped.
            wanted = Counters(700, 7, 0, 7, 64 * 23, 23, 0, 0)
            assert reader.read()["left"] == wanted
            stats = one.statistics(pair.left)
            columns = ("bytes", "packets", "errors", "dropped")
            assert tuple(stats[way][column] for way in ("rx", "tx") for column in columns) == wanted
            assert one.counters(pair.left) == (700, 7, 64 * 23, 23)
            one.send_frames("lo", [frame])
            assert reader.read()["lo"].receive_packets == 1
        finally:
            os.close(fd)


def test_hundreds_of_interfaces_and_odd_names_in_proc_net_dev() -> None:
    odd = [b"\xff\xfe", b"a\x01\x1c", b"1234567", b"-", b"|bytes", b"\xc3\xbc\"'{}"]
    with namespace() as one:
        batch(one, [f"link add longinterface{number} type bridge" for number in range(10, 99)])
        for name in odd:
            subprocess.run([*one.command("ip", "link", "add", "name"), name, "type", "bridge"], check=True)
        found = find_namespace(one.name)
        assert found is not None
        fd = open_netdev(found)
        found.close()
        with InterfaceTable([one.name]) as table:
            table.refresh()
            try:
                reader = NetdevReader(fd)
                assert set(reader.read()) == set(of(table, one))
                assert {os.fsdecode(name) for name in odd} < set(reader.read())
                batch(one, [f"link delete longinterface{number}" for number in range(10, 60)])
                table.process()
                assert set(reader.read()) == set(of(table, one))
            finally:
                os.close(fd)


def test_own_namespace_is_where_the_thread_is() -> None:
    own = own_namespace()
    try:
        assert own.identity == current_identity("/proc/self/ns/net")
        # No way in is needed, hence no capability.
        assert opened_in(own, lambda: current_identity("/proc/thread-self/ns/net")) == own.identity
    finally:
        own.close()


def batch(netns: NetNs, lines: list[str]) -> None:
    subprocess.run(netns.command("ip", "-batch", "-"), input="\n".join(lines).encode(), check=True)
