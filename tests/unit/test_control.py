"""What supervisor and pipeline tell each other: whole messages, their file descriptors, and the end."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.control import Channel
from support.netns import open_files

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A channel and the bare socket at its other end."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(right)
    yield left, channel
    left.close()
    channel.close()


def line(number: int, fds: int = 0) -> bytes:
    return json.dumps({"kind": "test", "fds": fds, "number": number}).encode() + b"\n"


def test_messages_arrive_in_order_and_whole(ends: Ends) -> None:
    left, right = ends
    assert list(right.receive()) == []
    for number in range(50):
        left.send("test", {"number": number, "text": "größe\n\0", "list": [1, None, {"a": 2}]})
    received = list(right.receive())
    assert [message["number"] for message, _ in received] == list(range(50))
    assert all(message["text"] == "größe\n\0" and message["list"] == [1, None, {"a": 2}] for message, _ in received)
    assert all(message["kind"] == "test" and fds == [] for message, fds in received)
    assert not right.closed
    right.send("back", {})
    assert [message["kind"] for message, _ in left.receive()] == ["back"]


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(1, 40), max_size=20))
def test_lines_may_come_in_any_pieces(cuts: list[int]) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(right)
    rest = b"".join(line(number) for number in range(8))
    received = []
    for cut in [*cuts, len(rest)]:
        if rest[:cut]:
            left.sendall(rest[:cut])
        rest = rest[cut:]
        received += [message["number"] for message, _ in channel.receive()]
    assert received == list(range(8))
    left.close()
    channel.close()


def test_half_a_line_is_no_message(raw: tuple[socket.socket, Channel]) -> None:
    left, channel = raw
    left.sendall(line(1) + line(2)[:5])
    assert [message["number"] for message, _ in channel.receive()] == [1]
    left.close()
    assert list(channel.receive()) == []
    assert channel.closed


def test_the_end_is_told_after_the_last_message(ends: Ends) -> None:
    left, right = ends
    left.send("last", {})
    left.close()
    assert [message["kind"] for message, _ in right.receive()] == ["last"]
    assert right.closed
    assert list(right.receive()) == []


def test_an_end_that_is_gone_with_unread_data_is_a_plain_end(ends: Ends) -> None:
    """The kernel resets such a socket instead of ending it."""
    left, right = ends
    right.send("never read", {})
    left.close()
    assert list(right.receive()) == []
    assert right.closed
    with pytest.raises(OSError, match="Broken pipe"):
        right.send("test", {})


@pytest.mark.parametrize("count", [1, 2, 16, 252, 253, 254, 600])
def test_file_descriptors_come_with_their_message(ends: Ends, count: int) -> None:
    left, right = ends
    reads = []
    before = open_files()
    pipes = [os.pipe() for _ in range(count)]
    left.send("none", {})
    left.send("fds", {"number": 5}, [write for _, write in pipes])
    left.send("none", {})
    for _, write in pipes:
        os.close(write)
    first, second, third = right.receive()
    assert (first[1], third[1]) == ([], [])
    assert second[0] == {"kind": "fds", "number": 5}
    assert len(second[1]) == count
    for number, fd in enumerate(second[1]):
        os.write(fd, b"%d" % number)
        os.close(fd)
        reads.append(os.read(pipes[number][0], 10))
        os.close(pipes[number][0])
    assert reads == [b"%d" % number for number in range(count)]
    assert open_files() == before


def test_descriptors_of_several_messages_are_not_mixed_up(ends: Ends) -> None:
    left, right = ends
    pipes = [os.pipe() for _ in range(9)]
    for start, count in ((0, 1), (1, 3), (4, 0), (4, 5)):
        left.send("fds", {"start": start}, [write for _, write in pipes[start : start + count]])
    received = list(right.receive())
    assert [len(fds) for _, fds in received] == [1, 3, 0, 5]
    for message, fds in received:
        for number, fd in enumerate(fds):
            assert os.fstat(fd).st_ino == os.fstat(pipes[message["start"] + number][1]).st_ino
            os.close(fd)
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_descriptors_wait_for_the_end_of_their_message(raw: tuple[socket.socket, Channel]) -> None:
    left, channel = raw
    read, write = os.pipe()
    text = line(1, fds=1)
    left.sendmsg([text[:3]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))])
    assert list(channel.receive()) == []
    left.sendall(text[3:])
    ((message, (fd,)),) = channel.receive()
    assert message["number"] == 1
    assert os.fstat(fd).st_ino == os.fstat(write).st_ino
    for each in (fd, read, write):
        os.close(each)


def test_descriptors_of_a_message_that_never_came_whole_are_closed(raw: tuple[socket.socket, Channel]) -> None:
    left, channel = raw
    before = open_files()
    read, write = os.pipe()
    left.sendmsg([line(1, fds=1)[:3]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))])
    os.close(write)
    left.close()
    assert list(channel.receive()) == []
    channel.close()
    assert os.read(read, 1) == b"", "the last copy of the other end is closed"
    os.close(read)
    assert open_files() == before - 2


def test_a_message_larger_than_the_socket_holds(ends: Ends) -> None:
    left, right = ends
    text = "x" * 3_000_000
    sender = threading.Thread(target=left.send, args=("large", {"text": text}))
    sender.start()
    received: list[dict[str, object]] = []
    while not received:
        assert select.select([right.fileno()], [], [], 10)[0]
        received = [message for message, _ in right.receive()]
    sender.join()
    assert received == [{"kind": "large", "text": text}]


def test_an_end_that_does_not_read_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = Channel.pair()
    settimeout = left._socket.settimeout

    class Impatient:
        def __getattr__(self, name: str) -> object:
            return (lambda seconds: settimeout(seconds / 100)) if name == "settimeout" else getattr(real, name)

    real = left._socket
    monkeypatch.setattr(left, "_socket", Impatient())
    with pytest.raises(TimeoutError):
        left.send("large", {"text": "x" * 30_000_000})
    real.close()
    right.close()


def test_the_channel_can_be_waited_on(ends: Ends) -> None:
    left, right = ends
    assert select.select([right.fileno()], [], [], 0)[0] == []
    left.send("test", {})
    assert select.select([right.fileno()], [], [], 5)[0] == [right.fileno()]
