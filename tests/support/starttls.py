"""Servers that go over to TLS when they are asked to, as far as clients need them for that."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.netns import NetNs

_MYSQL_GREETING = (
    b"\x0a8.0.0-test\0" + bytes(4) + b"saltsalt\0" + b"\xff\xff" + b"\x21" + b"\2\0" + b"\xff\xc1" + b"\x15" + bytes(10)
) + b"saltsaltsalt\0mysql_native_password\0"


def _line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(1)
        if not more:
            break
        data += more
    return data


def _smtp(connection: socket.socket) -> None:
    connection.sendall(b"220 mx.example ESMTP\r\n")
    _line(connection)
    connection.sendall(b"250-mx.example\r\n250 STARTTLS\r\n")
    _line(connection)
    connection.sendall(b"220 go ahead\r\n")


def _imap(connection: socket.socket) -> None:
    connection.sendall(b"* OK ready\r\n")
    tag = _line(connection).split()[0]
    connection.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n" + tag + b" OK\r\n")
    tag = _line(connection).split()[0]
    connection.sendall(tag + b" OK begin\r\n")


def _pop3(connection: socket.socket) -> None:
    connection.sendall(b"+OK ready\r\n")
    _line(connection)
    connection.sendall(b"+OK begin\r\n")


def _postgres(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"S")


def _mysql(connection: socket.socket) -> None:
    connection.sendall(len(_MYSQL_GREETING).to_bytes(3, "little") + b"\0" + _MYSQL_GREETING)
    connection.recv(36)


PROTOCOLS: dict[str, Callable[[socket.socket], None]] = {
    "smtp": _smtp,
    "imap": _imap,
    "pop3": _pop3,
    "postgres": _postgres,
    "mysql": _mysql,
}
"""By the names that ``openssl s_client -starttls`` has for them."""


@contextmanager
def serving(where: NetNs, address: str, port: int, protocol: str, certificate: Path) -> Iterator[None]:
    """Serves connections one after the other; each ends behind its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with plain, suppress(OSError):
                plain.settimeout(10)
                PROTOCOLS[protocol](plain)
                with context.wrap_socket(plain, server_side=True) as sealed:
                    while sealed.recv(1000):
                        pass

    with where.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((address, port))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
