"""Nothing secret of requests leaves the agent, and what is left in its memory is no more than the captured heads."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import hpack
import pytest

from support import http2_frames as f
from support.agent import agent
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Answer, Receiver, http_receiver
from support.process_memory import OWN, RINGS, found_in_memory

pytestmark = pytest.mark.kernel

PORT = 8091
REQUESTS = 40
IN_HEADS = ("query", "authorization", "cookie", "path")
IN_BODIES = ("request", "response")

Hidden = dict[str, list[str]]


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


def say(one: socket.socket, other: socket.socket, data: bytes) -> None:
    """Sends, and waits until it is there."""
    one.sendall(data)
    left = len(data)
    while left:
        left -= len(other.recv(left))


def ask_in_http1(client: socket.socket, server: socket.socket, hidden: Hidden, numbers: range) -> None:
    for number in numbers:
        mine = {place: each[number] for place, each in hidden.items()}
        lines = [
            f"POST /users/{mine['path']}/orders?token={mine['query']} HTTP/1.1",
            "Host: shop.example",
            f"Cookie: session={mine['cookie']}",
            f"Authorization: Bearer {mine['authorization']}",
            f"Content-Length: {len(mine['request'])}",
        ]
        say(client, server, "\r\n".join([*lines, "", mine["request"]]).encode())
        status = "503 No" if number % 2 else "200 OK"
        body = mine["response"]
        say(server, client, f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def ask_in_http2(client: socket.socket, server: socket.socket, hidden: Hidden, numbers: range) -> None:
    of_client, of_server = hpack.Encoder(), hpack.Encoder()
    say(client, server, f.PREFACE + f.settings())
    say(server, client, f.settings())
    for place, number in enumerate(numbers):
        mine, stream = {place: each[number] for place, each in hidden.items()}, 2 * place + 1
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/users/{mine['path']}/orders?token={mine['query']}"),
        ]
        fields += [(":authority", "shop.example"), ("authorization", f"Bearer {mine['authorization']}")]
        fields += [("cookie", f"session={mine['cookie']}")]
        head = f.headers(stream, of_client.encode(fields, huffman=False))
        say(client, server, head + f.data(stream, mine["request"].encode(), end=True))
        head = f.headers(stream, of_server.encode([(":status", "503" if place % 2 else "200")]))
        say(server, client, head + f.data(stream, mine["response"].encode(), end=True))


def spooled(folder: Path) -> bytes:
    """All that a spool holds, as it is and inflated."""
    octets = b"".join([each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()])
    inflated = b""
    for match in re.finditer(b"\x1f\x8b\x08", octets):
        with contextlib.suppress(zlib.error):  # three octets that are no begin
            inflated += zlib.decompressobj(31).decompress(octets[match.start() :])
    return octets + inflated


def sent(receiver: Receiver) -> bytes:
    """All that was sent by OTLP."""
    return b"".join([str(each.headers).encode() + each.body.SerializeToString() for each in list(receiver.requests)])


@pytest.mark.parametrize("side", ["client", "server"])
def test_no_secret_leaves_and_bodies_are_not_even_read(
    side: str, link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    near, far, pair = link
    where, interface = (near, pair.left) if side == "client" else (far, pair.right)
    hidden = {place: [secrets.token_hex(16) for _ in range(REQUESTS)] for place in IN_HEADS + IN_BODIES}
    everything = {each.encode() for place in hidden.values() for each in place}
    with http_receiver() as receiver, far.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        receiver.answers = [Answer(503)]
        listener.bind((pair.right_address, PORT))
        listener.listen()
        options = ["--interface", interface, "--set", f"interfaces.namespaces={where.name}", "--set", "spans.share=1"]
        options += ["--set", "spans.limit_per_second=10000", "--set", "otlp.protocol=http/protobuf"]
        options += ["--otlp-endpoint", receiver.endpoint, "--set", f"export.spool.directory={tmp_path}"]
        options += ["--set", "probes.http.learn_routes=true", "--set", "log.level=debug"]
        with agent(*options, otlp=True) as running:
            for half, ask in enumerate((ask_in_http1, ask_in_http2)):
                with near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                    client.connect((pair.right_address, PORT))
                    with listener.accept()[0] as server:
                        ask(client, server, hidden, range(half * REQUESTS // 2, (half + 1) * REQUESTS // 2))
            metric = f"http_{side}_request_duration_seconds_count"
            running.wait(lambda: running.total(metric) == REQUESTS, 60, "all requests")
            running.wait(lambda: b"/users/{" in spooled(tmp_path), 60, "the spans in the spool")
            in_spool = spooled(tmp_path)
            receiver.answers = [Answer()]
            running.wait(lambda: b"/users/{" in sent(receiver), 60, "the spans")
            told = running.get("/metrics") + running.get("/status") + running.log_text
            memory = found_in_memory(running.pipeline_pid(), everything)
            supervisor = found_in_memory(running.pid, everything)
    found = told.encode() + sent(receiver) + in_spool
    assert [each for each in everything if each in found] == []
    bodies = {each.encode() for place in IN_BODIES for each in hidden[place]}
    assert memory[RINGS] & bodies == memory[OWN] & bodies == set()
    assert supervisor[RINGS] | supervisor[OWN] == set()
    # The search finds what is there: the ring holds captured heads until it comes round.
    assert memory[RINGS] == everything - bodies
