"""What a call of SSL_read() or SSL_write() costs the process that makes it, watched and not, in pairs that take turns.

    python -m bench.plaintext --rounds 31 --exchanges 2000

Both ends of a TLS session are in one process, so that an exchange is four calls. With HTTP each exchange is a request, told at both ends;
what is nothing that is followed is left alone after a few calls. A watch of a place where the kernel has to execute the instruction
alone is shown for comparison. Needs root, gcc and the headers of OpenSSL.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from otel_netmon.abi.enums import Late, MessageCount, SessionCount
from otel_netmon.decode.elf import Elf
from otel_netmon.decode.openssl import Site, openssl_sites
from otel_netmon.kernel import syscalls, uprobes
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.kernel.messages import HTTP2_PROGRAM, HTTP_PROGRAM, STREAM_PROGRAM
from otel_netmon.plaintext_attachments import _BEGIN, _RETURN
from otel_netmon.readers.messages import MessageCounts
from otel_netmon.readers.ring import RingReader
from otel_netmon.readers.sessions import SessionCounts
from support.programs import shipped
from support.tls_talk import Authority

REQUEST = "GET /users/7/items HTTP/1.1\r\nHost: service.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nX-Request: 0123456789\r\n\r\n"
RESPONSE = "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n" + "x" * 64
OTHER = "\x01binary protocol, not one that is followed" + "y" * 80
CALLS = 4
RING = 1 << 24


class Watch:
    """The programs at one library, on and off."""

    def __init__(self, library: Path) -> None:
        self._path = str(library)
        data = library.read_bytes()
        self.sites = openssl_sites(Elf(lambda offset, length: data[offset : offset + length]))
        self.loaded = LoadedImage(shipped("plaintext_monitor"), {"messages": RING, "http_connections": 1024})
        for program in (HTTP_PROGRAM, HTTP2_PROGRAM, STREAM_PROGRAM):
            self.loaded.program(program, {Late.WAKEUP: RING, Late.HANDSHAKE_BYTES: 0, Late.HTTP: 1})
        self.ring = RingReader(self.loaded.maps["messages"], RING)
        self._kind = uprobes.uprobe_type()
        self._fds: list[int] = []

    def on(self) -> None:
        for site in self.sites:
            self._attach(site)

    def on_stepped(self) -> None:
        """A program that does next to nothing, at the begin of SSL_read() and SSL_write() themselves."""
        program = self.loaded.program("netmon_ssl_renew")
        data = Path(self._path).read_bytes()
        functions = Elf(lambda offset, length: data[offset : offset + length])
        for function in functions.functions(("SSL_read", "SSL_write")).values():
            offset = functions.offset(function.address)
            assert offset is not None
            self._fds.append(uprobes.attach_uprobe(self._kind, self._path, offset, program))

    def off(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _attach(self, site: Site) -> None:
        attach = uprobes.attach_uprobe
        if site.what in _RETURN:
            program = self.loaded.program(_RETURN[site.what])
            self._fds.append(attach(self._kind, self._path, site.offset, program, returns=True))
        if (site.what, site.shape) in _BEGIN:
            program = self.loaded.program(_BEGIN[site.what, site.shape])
            self._fds.append(attach(self._kind, self._path, site.offset, program))


def build(folder: Path) -> tuple[Path, Path]:
    """The program, and a copy of the library that only it has mapped."""
    program = folder / "plaintext"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["gcc", "-O2", "-o", str(program), str(source), "-lssl", "-lcrypto"], check=True)
    found = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    original = next(line.split()[2] for line in found.splitlines() if "libssl" in line)
    library = folder / Path(original).name
    library.write_bytes(Path(original).read_bytes())
    return program, library


def measure(
    command: list[str], folder: Path, watch: Watch, switch: Callable[[], None], rounds: int, exchanges: int
) -> tuple[float, float, float]:
    """CPU time of a call without and with: medians; and the median of the differences of neighbours, all in ns."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None

        def run() -> float:
            assert running.stdin is not None
            assert running.stdout is not None
            print(exchanges, file=running.stdin, flush=True)
            return float(running.stdout.readline()) / CALLS

        run()
        plain, watched = [], []
        for _ in range(rounds):
            plain.append(run())
            switch()
            run()  # the first calls find nothing in the caches, and what is no HTTP is decided
            watched.append(run())
            watch.off()
            watch.ring.drain()
        running.stdin.close()
    differences = [with_it - without for with_it, without in zip(watched, plain, strict=True)]
    return statistics.median(plain), statistics.median(watched), statistics.median(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--exchanges", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, library = build(folder)
        certificate = str(Authority(folder).issue(["bench.example"]))
        watch = Watch(library)
        print("sites: " + ", ".join(f"{s.function} {'emulated' if s.is_emulated else 'stepped'}" for s in watch.sites))
        kinds: dict[str, tuple[str, str, Callable[[], None]]] = {
            "HTTP/1.1, one request an exchange": (REQUEST, RESPONSE, watch.on),
            "nothing that is followed": (OTHER, OTHER, watch.on),
            "for comparison: begins of functions that are stepped": (OTHER, OTHER, watch.on_stepped),
        }
        for title, (request, response, switch) in kinds.items():
            command = [str(program), request, response, certificate]
            plain, watched, more = measure(command, folder, watch, switch, arguments.rounds, arguments.exchanges)
            print(f"{title}: {plain:.0f} ns a call without, {watched:.0f} with, {more:+.0f} by pairs")
        cpus = syscalls.possible_cpus()
        calls = SessionCounts(watch.loaded.maps["session_counts"], cpus).read()
        told = MessageCounts(watch.loaded.maps["message_counts"], cpus).read()
        exchanges = arguments.rounds * 2 * arguments.exchanges
        print(
            f"calls {calls[SessionCount.CALLS]}, of {2 * exchanges * CALLS} made while watched; busy {calls[SessionCount.BUSY]}, "
            f"unreadable {calls[SessionCount.UNREADABLE]}; requests told {told[MessageCount.HTTP_REQUESTS]} of {2 * exchanges}, "
            f"of them lost in the ring {told[MessageCount.HTTP_LOST_RING]}"
        )
        complete = (
            calls[SessionCount.CALLS] == 2 * exchanges * CALLS and told[MessageCount.HTTP_REQUESTS] == 2 * exchanges
        )
        return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
