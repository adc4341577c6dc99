"""A resolver that does what a name tells it to, and a client that asks it; both count.

The first label of a name is a word and a number: ``ok7.shop.example`` is answered, ``lost7.shop.example`` is not. See ``Resolver``.
"""

from __future__ import annotations

import contextlib
import math
import re
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from support.netns import NetNs

RCODES = {"ok": 0, "nx": 3, "fail": 2, "refused": 5}
_PLAIN = {word.encode(): code for word, code in RCODES.items()}
_QUERY_WORD = re.compile(rb"[a-z]+")
_A = bytes([0, 1, 0, 1])
WAIT_SECONDS = 10.0
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


def word_of(name: str) -> str:
    """The word of a name."""
    found = re.match(r"[a-z]+", name)
    assert found is not None, name
    return found[0]


class Resolver:
    """Answers queries over UDP and TCP in a thread of its own.

    ``ok``, ``nx``, ``fail``, ``refused``: with this code. ``lost``: never. ``late``: when ``release`` is called, or when it was held
    for so long as is given. ``twice``: two times. ``wrongid``, ``wrongname``: with another one, and then right. ``again``: only the second copy. ``cut``: truncated over
    UDP, whole over TCP.

    Attributes:
        answered: answers that were right and in time, by transport and code.
        words: queries over UDP, by word.
        released: late answers that were sent.
    """

    def __init__(
        self,
        namespace: NetNs,
        addresses: Sequence[str],
        ports: Sequence[int],
        answer: str,
        hold_seconds: float | None = None,
    ) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.words: Counter[str] = Counter()
        self.released = 0
        self._answer = answer
        self._record = bytes([0xC0, 12]) + _A + (300).to_bytes(4, "big") + bytes([0, 4]) + socket.inet_aton(answer)
        self._hold_seconds = hold_seconds
        self._held: deque[tuple[float, socket.socket, bytes, Any]] = deque()
        self._copies: Counter[tuple[Any, bytes]] = Counter()
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for port in ports:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    made = namespace.socket(family, kind)
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 25)  # nothing is lost however slow this is
                    made.bind((address, port))
                    if kind == socket.SOCK_STREAM:
                        made.listen(64)
                    self._register(made, "accept" if kind == socket.SOCK_STREAM else "datagram")
        self._wake, self._woken = socket.socketpair()
        self._register(self._woken, "stop")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _register(self, made: socket.socket, what: str) -> None:
        self._sockets.append(made)
        self._selector.register(made, selectors.EVENT_READ, what)

    def release(self) -> int:
        """Answers the late ones; gives how many."""
        return self._release(math.inf)

    def _release(self, until: float) -> int:
        number = 0
        while self._held and self._held[0][0] <= until:
            _, sender, octets, client = self._held.popleft()
            sender.sendto(octets, client)
            number += 1
        self.released += number
        return number

    def stop(self) -> None:
        """Ends the thread."""
        self._wake.send(b"x")
        self._thread.join()
        for each in (*self._sockets, self._wake):
            each.close()

    def _run(self) -> None:
        while True:
            ready_now = self._selector.select(None if self._hold_seconds is None else 0.05)
            if self._hold_seconds is not None:
                self._release(time.monotonic() - self._hold_seconds)
            for key, _ in ready_now:
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if key.data == "stop":
                    return
                if key.data == "accept":
                    self._register(ready.accept()[0], "stream")
                elif key.data == "datagram":
                    octets, client = ready.recvfrom(65535)
                    self._datagram(ready, octets, client)
                else:
                    self._stream(ready)

    def _stream(self, ready: socket.socket) -> None:
        try:
            prefix = ready.recv(2, socket.MSG_WAITALL)
        except ConnectionResetError:
            prefix = b""
        if len(prefix) < 2:
            self._selector.unregister(ready)
            ready.close()
            return
        query = dns.message.from_wire(ready.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL))
        octets = self._made(query).to_wire()
        self.answered["tcp", self._code(query)] += 1
        ready.sendall(len(octets).to_bytes(2, "big") + octets)

    def _datagram(self, ready: socket.socket, octets: bytes, client: Any) -> None:
        found = _QUERY_WORD.match(octets, 13)
        word = b"" if found is None else found[0]
        self.words[word.decode()] += 1
        code = _PLAIN.get(word)
        end = octets.find(b"\0", 12) + 5
        if code is None or octets[end - 4 : end] != _A:
            self._odd(ready, octets, client)
            return
        # Made of octets: thousands a second.
        answers = bytes([0, 1, 0, 1 if code == 0 else 0, 0, 0, 0, 0])
        self.answered["udp", code] += 1
        head = octets[:2] + bytes([0x81, 0x80 | code]) + answers
        ready.sendto(head + octets[12:end] + (self._record if code == 0 else b""), client)

    def _odd(self, ready: socket.socket, octets: bytes, client: Any) -> None:
        def send(message: dns.message.Message) -> None:
            ready.sendto(message.to_wire(), client)

        query = dns.message.from_wire(octets)
        word = word_of(str(query.question[0].name))
        answer = self._made(query)
        if word == "lost":
            return
        if word == "late":
            self._held.append((time.monotonic(), ready, answer.to_wire(), client))
            return
        if word == "again":
            self._copies[client, octets] += 1
            if self._copies[client, octets] < 2:
                return
        if word == "wrongid":
            wrong = self._made(query)
            wrong.id = (query.id + 1) % 65536
            send(wrong)
        if word == "wrongname":
            other = dns.message.make_query("evil.shop.example", "A", id=query.id)
            send(dns.message.make_response(other))
        if word == "cut":
            answer.flags |= dns.flags.TC
            answer.answer = []
        self.answered["udp", self._code(query)] += 1
        send(answer)
        if word == "twice":
            send(answer)

    @staticmethod
    def _code(query: dns.message.Message) -> int:
        return RCODES.get(word_of(str(query.question[0].name)), 0)

    def _made(self, query: dns.message.Message) -> dns.message.Message:
        made = dns.message.make_response(query)
        made.set_rcode(dns.rcode.Rcode(self._code(query)))
        question = query.question[0]
        if made.rcode() == dns.rcode.NOERROR and question.rdtype == dns.rdatatype.A:
            made.answer = [dns.rrset.from_text(question.name, 300, "IN", "A", self._answer)]
        return made


@contextlib.contextmanager
def resolver(
    namespace: NetNs, addresses: Sequence[str], ports: Sequence[int], answer: str, hold_seconds: float | None = None
) -> Iterator[Resolver]:
    """A resolver that runs."""
    running = Resolver(namespace, addresses, ports, answer, hold_seconds)
    try:
        yield running
    finally:
        running.stop()


class Client:
    """Asks from sockets of its own, one after the other, and waits for each right answer that is to come.

    Attributes:
        answered: right answers, by transport and code.
        asked: lookups, by transport and word.
    """

    def __init__(self, namespace: NetNs, server: str, port: int = 53) -> None:
        self._namespace = namespace
        self._family = socket.AF_INET6 if ":" in server else socket.AF_INET
        self._server = (server, port)
        self._socket = namespace.socket(self._family, socket.SOCK_DGRAM)
        self._socket.connect(self._server)
        self._socket.settimeout(WAIT_SECONDS)
        self._number = 0
        self.answered: Counter[tuple[str, int]] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def ask(self, word: str, many: int = 1, *, transport: str = "udp") -> None:
        """Looks up so many names of a word."""
        for _ in range(many):
            self._number += 1
            query = dns.message.make_query(f"{word}{self._number}.shop.example", "A", id=self._number % 65536)
            self.asked[transport, word] += 1
            if transport == "tcp":
                self._over_tcp(query)
                continue
            self._socket.send(query.to_wire())
            if word == "again":
                self._socket.send(query.to_wire())
            if word not in {"lost", "late"}:
                self._receive(query, 2 if word == "twice" else 1)
            if word == "cut":
                self._over_tcp(query)

    def receive_late(self, many: int) -> None:
        """Takes answers that nobody waits for any more."""
        for _ in range(many):
            self._socket.recv(65535)

    def _receive(self, query: dns.message.Message, copies: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while copies:
            assert time.monotonic() < deadline
            reply = dns.message.from_wire(self._socket.recv(65535))
            if query.is_response(reply):
                copies -= 1
                self.answered["udp", reply.rcode()] += not copies

    def _over_tcp(self, query: dns.message.Message) -> None:
        with self._namespace.socket(self._family, socket.SOCK_STREAM) as stream:
            stream.settimeout(WAIT_SECONDS)
            stream.connect(self._server)
            octets = query.to_wire()
            stream.sendall(len(octets).to_bytes(2, "big") + octets)
            length = int.from_bytes(stream.recv(2, socket.MSG_WAITALL), "big")
            reply = dns.message.from_wire(stream.recv(length, socket.MSG_WAITALL))
            assert query.is_response(reply)
            self.answered["tcp", reply.rcode()] += 1
