"""What the supervisor hands to a pipeline process arrives as it was, each file descriptor as another one of the same file."""

from __future__ import annotations

import os

from otel_netmon.control import Channel
from otel_netmon.handover import DropSetup, Setup, receive_setup


def _file(number: int) -> int:
    fd = os.memfd_create(f"handed-{number}")
    os.write(fd, str(number).encode())
    return fd


def _content(fd: int) -> int:
    return int(os.pread(fd, 16, 0))


def test_a_setup_arrives_whole_and_what_follows_it_waits() -> None:
    files = [_file(number) for number in range(307)]  # more than the kernel takes with one piece
    sent = Setup(
        started_monotonic=12.5,
        started_unix_ns=1_800_000_000_000_000_007,
        namespaces=[(0, "", {"netdev": files[0]}), (7, "left", {"netdev": files[1], "sock_diag": files[2]})],
        maps={"tc_monitor": {f"map{n}": (files[n], n * 2) for n in range(3, 203)}, "xdp_monitor": {}},
        programs={"tc_monitor": {f"program{n}": files[n] for n in range(203, 306)}},
        drops=DropSetup(has_reasons=True, program=files[306], names={2: "NOT_SPECIFIED", 70_000: "OTHER"}),
    )
    supervisor, pipeline = Channel.pair()
    supervisor.send("setup", *sent.packed())
    supervisor.send("interfaces", {"interfaces": []})
    got = receive_setup(pipeline)
    assert got is not None
    assert (got.started_monotonic, got.started_unix_ns) == (12.5, 1_800_000_000_000_000_007)
    assert [(number, name, list(opened)) for number, name, opened in got.namespaces] == [
        (0, "", ["netdev"]),
        (7, "left", ["netdev", "sock_diag"]),
    ]
    assert [_content(fd) for _, _, opened in got.namespaces for fd in opened.values()] == [0, 1, 2]
    maps = got.maps["tc_monitor"]
    assert [(name, _content(fd), entries) for name, (fd, entries) in maps.items()] == [
        (f"map{n}", n, n * 2) for n in range(3, 203)
    ]
    assert got.maps["xdp_monitor"] == {}
    assert [_content(fd) for fd in got.programs["tc_monitor"].values()] == list(range(203, 306))
    assert got.drops is not None
    assert got.drops["has_reasons"]
    assert _content(got.drops["program"]) == 306
    assert got.drops["names"] == {2: "NOT_SPECIFIED", 70_000: "OTHER"}
    assert [message["kind"] for message, _ in pipeline.receive()] == ["interfaces"]
    received = [fd for _, _, opened in got.namespaces for fd in opened.values()]
    received += [fd for fd, _ in maps.values()] + list(got.programs["tc_monitor"].values()) + [got.drops["program"]]
    assert not set(received) & set(files)
    for fd in (*files, *received):
        os.close(fd)
    supervisor.close()
    pipeline.close()


def test_a_supervisor_that_ends_before_has_no_setup() -> None:
    supervisor, pipeline = Channel.pair()
    supervisor.close()
    assert receive_setup(pipeline) is None
    pipeline.close()
