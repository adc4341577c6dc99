"""A process that opens sockets as it is told: one JSON object a line on standard input, one a line as the answer.

Started by ``support.socket_programs.Worker``, in the network namespace and cgroup that a test has chosen.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
from typing import Any

Answer = dict[str, Any]
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
AT_ONCE = 256
NO_LINGER = struct.pack("ii", 1, 0)


class Opener:
    """What the commands do."""

    def __init__(self) -> None:
        self._listening: dict[int, socket.socket] = {}
        self._held: list[socket.socket] = []

    def listen(self, family: int, address: str, port: int = 0, share: bool = False) -> Answer:
        """Listens on a port, by default a free one, alone or together with others."""
        server = socket.create_server((address, port), family=FAMILIES[family], backlog=4096, reuse_port=share)
        port = server.getsockname()[1]
        self._listening[port] = server
        return {"port": port}

    def connect(self, family: int, address: str, port: int, count: int, reset: bool = False) -> Answer:
        """Connects so many times, one after the other, and closes at once: orderly, or by RST; tells how it ended."""
        ends: dict[str, int] = {}
        for _ in range(count):
            with socket.socket(FAMILIES[family], socket.SOCK_STREAM) as client:
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                code = client.connect_ex((address, port))
                name = errno.errorcode[code] if code else "connected"
                ends[name] = ends.get(name, 0) + 1
                if not code and not reset:
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)  # its end: the other side has closed as well
        return {"ends": ends}

    def attempt(self, family: int, address: str, port: int, count: int) -> Answer:
        """Connects so many times at once, and waits until each has failed; tells how."""
        ends: dict[str, int] = {}
        left = count
        waiting = select.poll()
        open_now: dict[int, socket.socket] = {}
        while left or open_now:
            while left and len(open_now) < AT_ONCE:
                client = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
                client.setblocking(False)
                assert client.connect_ex((address, port)) == errno.EINPROGRESS
                open_now[client.fileno()] = client
                waiting.register(client, select.POLLOUT)
                left -= 1
            for fd, _ in waiting.poll():
                waiting.unregister(fd)
                with open_now.pop(fd) as client:
                    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                name = errno.errorcode[code] if code else "connected"
                ends[name] = ends.get(name, 0) + 1
        return {"ends": ends}

    def accept(self, port: int, count: int) -> Answer:
        """Takes so many connections; of each waits for the end of the other side and closes."""
        for _ in range(count):
            client, _ = self._listening[port].accept()
            with client, contextlib.suppress(ConnectionResetError):
                client.recv(1)
        return {}

    def hold(self, family: int, address: str, port: int, count: int) -> Answer:
        """Connects so many times and keeps them open."""
        for _ in range(count):
            self._held.append(socket.socket(FAMILIES[family], socket.SOCK_STREAM))
            self._held[-1].connect((address, port))
        return {"held": len(self._held)}

    def drop(self) -> Answer:
        """Closes what is held."""
        for client in self._held:
            client.close()
        self._held.clear()
        return {}

    def udp(self, family: int, address: str, port: int, count: int, octets: int) -> Answer:
        """Sends so many datagrams of one socket, and closes it."""
        with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(bytes(octets), (address, port))
        return {}


def main() -> None:
    opener = Opener()
    tell({"pid": os.getpid()})
    for line in sys.stdin:
        order = json.loads(line)
        tell(getattr(opener, order.pop("do"))(**order))


def tell(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
