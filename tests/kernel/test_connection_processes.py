"""Whose a connection is: the process that called connect() or accept(), that listens, or that closed; never a guess."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.abi.enums import Late, Role, Who
from support.netns import NetNs, namespace
from support.socket_programs import SocketPrograms, cgroup, inside_cgroup, observed, socket_programs, worker

pytestmark = pytest.mark.kernel

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def netns() -> Iterator[NetNs]:
    with namespace() as made:
        yield made


@contextlib.contextmanager
def listener(netns: NetNs, port: int = 0, share: bool = False) -> Iterator[socket.socket]:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        made.listen()
        yield made


@contextlib.contextmanager
def client_of(netns: NetNs, server: socket.socket) -> Iterator[socket.socket]:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.connect(server.getsockname())
        yield made


def accept_without_a_name(server: socket.socket) -> int:
    """As runtimes call it that ask for no address: nothing tells who took the connection."""
    fd: int = _libc.accept4(server.fileno(), None, None, 0)
    assert fd >= 0
    return fd


def in_child(job: Callable[[], None]) -> int:
    """Runs a job in a fork of this process, to its end; gives its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid


def served(programs: SocketPrograms) -> Any:
    rows = programs.live()
    (row,) = rows[rows["role"] == Role.SERVER]
    return row


def owner(row: Any) -> tuple[Who, int]:
    return Who(int(row["who"])), int(row["tgid"])


def test_who_accepts_has_it(netns: NetNs) -> None:
    """A process that listens hands the socket to another, which accepts: it is that one's."""
    with observed() as programs, listener(netns) as server:
        with client_of(netns, server):
            assert owner(served(programs)) == (Who.LISTENER, os.getpid())
            found: list[Any] = []
            pid = in_child(lambda: found.append(server.accept()))
        (row,) = [row for row in programs.wait_ended(2) if row["role"] == Role.SERVER]
        assert owner(row) == (Who.OPENER, pid)
        assert row["closer_tgid"] == pid


def test_until_it_is_accepted_it_is_the_listeners(netns: NetNs) -> None:
    with observed() as programs, listener(netns) as server, client_of(netns, server):
        row = served(programs)
        assert owner(row) == (Who.LISTENER, os.getpid())
        accepted, _ = server.accept()
        assert owner(served(programs)) == (Who.OPENER, os.getpid())
        accepted.close()


def test_accepted_without_a_name_it_stays_the_listeners_and_ends_as_the_closers(netns: NetNs) -> None:
    with observed() as programs, listener(netns) as server:
        with client_of(netns, server):
            pid = in_child(lambda: os.close(accept_without_a_name(server)))
        (row,) = [row for row in programs.wait_ended(2) if row["role"] == Role.SERVER]
        assert owner(row) == (Who.CLOSER, pid)
        assert row["comm"]


def test_of_two_processes_that_listen_together_none_is_guessed(netns: NetNs) -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(cgroup())
        stack.enter_context(inside_cgroup(folder))
        programs = stack.enter_context(socket_programs(folder))
        server = stack.enter_context(listener(netns, share=True))
        other = stack.enter_context(worker(folder, netns))
        other.do("listen", family=4, address="127.0.0.1", port=server.getsockname()[1], share=True)
        with client_of(netns, server):
            assert owner(served(programs)) == (Who.NOBODY, 0)


def test_a_listener_at_every_address(netns: NetNs) -> None:
    """IPv4 to a socket that listens at any address, of IPv4 and of IPv6."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with observed() as programs, netns.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 0))
            server.listen()
            with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.connect(("127.0.0.1", server.getsockname()[1]))
                assert owner(served(programs)) == (Who.LISTENER, os.getpid())


def test_without_the_cookie_of_the_namespace_nobody_is_guessed(netns: NetNs) -> None:
    """Before Linux 5.15 listeners of two namespaces look alike."""
    with observed(late={Late.NETNS: 0}) as programs, listener(netns) as server, client_of(netns, server):
        assert owner(served(programs)) == (Who.NOBODY, 0)
        accepted, _ = server.accept()
        assert owner(served(programs)) == (Who.OPENER, os.getpid())
        accepted.close()


def test_a_listener_that_is_gone_is_forgotten(netns: NetNs) -> None:
    with observed() as programs:
        with listener(netns) as server:
            port = server.getsockname()[1]
        with listener(netns, port) as server, client_of(netns, server):
            assert owner(served(programs)) == (Who.LISTENER, os.getpid())


def test_a_process_is_told_by_pid_name_and_cgroup(netns: NetNs) -> None:
    with cgroup() as top, cgroup(top) as inner, socket_programs(top) as programs, worker(inner, netns) as other:
        port = other.do("listen", family=4, address="127.0.0.1")["port"]
        other.do("hold", family=4, address="127.0.0.1", port=port, count=1)
        rows = programs.wait_live(lambda rows: len(rows) == 2)
        for row in rows:
            assert (int(row["tgid"]), int(row["cgroup"])) == (other.pid, inner.stat().st_ino)
            assert row["comm"].startswith(b"python")
            assert row["comm"] == Path(f"/proc/{other.pid}/comm").read_bytes().strip()
        other.do("drop")
