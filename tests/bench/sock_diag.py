"""What it takes to ask sock_diag for every TCP socket of a namespace: 65,536 ends of connections.

    python -m bench.sock_diag --connections 32768

The connections are made by several processes, each of which may open only so many files. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator

from otel_netmon.kernel.namespaces import entered, find_namespace, open_sock_diag
from otel_netmon.readers.sock_diag import SockDiagReader
from support.netns import NetNs, namespace

ROUNDS = 5
FILES_EACH = 16_000
LIMIT_SECONDS = 0.3


@contextlib.contextmanager
def connections(netns: NetNs, count: int) -> Iterator[None]:
    """Connections over the loopback interface of a namespace, held by processes of their own."""
    holders: list[int] = []
    try:
        while count > 0:
            share = min(count, FILES_EACH // 2)
            read, write = os.pipe()
            holder = os.fork()
            if holder == 0:
                _hold(netns, f"127.0.0.{len(holders) + 2}", share, write)
            holders.append(holder)
            os.close(write)
            if os.read(read, 1) != b"x":
                raise SystemExit("the connections could not be made: ulimit -n")
            os.close(read)
            count -= share
        yield
    finally:
        for holder in holders:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)


def _hold(netns: NetNs, address: str, count: int, ready: int) -> None:
    try:
        found = find_namespace(netns.name)
        if found is None:
            return
        ends: list[socket.socket] = []
        with entered(found):
            listener = socket.create_server((address, 0), backlog=1024)
            for _ in range(count):
                ends.append(socket.create_connection(listener.getsockname()))
                ends.append(listener.accept()[0])
        os.write(ready, b"x")
        signal.pause()
    finally:
        os._exit(1)


def main() -> int:
    """Prints the times; exit code 1 if a mean is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=32_768)
    wanted: int = parser.parse_args().connections
    worst = 0.0
    with namespace() as netns, connections(netns, wanted):
        found = find_namespace(netns.name)
        if found is None:
            raise SystemExit("the namespace has gone")
        with contextlib.closing(SockDiagReader(open_sock_diag(found))) as reader:
            found.close()
            for info in (False, True):
                took = []
                for _ in range(ROUNDS):
                    began = time.perf_counter()
                    rows = reader.tcp(info=info)
                    took.append(time.perf_counter() - began)
                    if len(rows) < 2 * wanted:
                        raise SystemExit(f"{len(rows)} of {2 * wanted} sockets")
                worst = max(worst, sum(took) / ROUNDS)
                mean = sum(took) / ROUNDS
                print(
                    f"{'with tcp_info' if info else 'ends and states'}: {len(rows):,} sockets in {mean * 1e3:.0f} ms "
                    f"({min(took) * 1e3:.0f} to {max(took) * 1e3:.0f}), {mean / len(rows) * 1e6:.1f} us each, "
                    f"{rows.nbytes / 1e6:.1f} MB"
                )
    return 1 if worst > LIMIT_SECONDS else 0


if __name__ == "__main__":
    raise SystemExit(main())
