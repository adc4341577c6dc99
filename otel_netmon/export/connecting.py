"""From a host and a port to a connection, within a deadline: look the name up, try its addresses.

Addresses are tried in the resolver's order, the next one a quarter of a second after the last or as soon as that one failed (RFC
8305, section 5), so that an address that swallows every packet costs a quarter of a second and not the whole time.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from typing import Final

from otel_netmon.export.streams import READ, WRITE, Waiter

STAGGER_SECONDS: Final = 0.25

Address = tuple[int, tuple[str, int]]
"""Family and what ``connect`` takes."""


class _Lookup:
    """One name asked for on a thread of its own, for getaddrinfo(3) takes no deadline and cannot be called off."""

    def __init__(self, host: str, port: int) -> None:
        self.ended, self._sign = socket.socketpair()
        self.addresses: list[Address] = []
        self.error: OSError | None = None
        threading.Thread(target=self._ask, args=(host, port), name="lookup", daemon=True).start()

    def _ask(self, host: str, port: int) -> None:
        try:
            self.addresses = _addresses(host, port)
        except OSError as error:
            self.error = error
        except UnicodeError as error:  # a label of more than 63 bytes
            self.error = socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host name: {error}")
        finally:
            self._sign.close()


def _addresses(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # as an int only without IPv6


class Connector:
    """Opens connections, one at a time. A lookup that outlives its deadline goes on, and the next attempt waits for its end."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self._lookups: dict[tuple[str, int], _Lookup] = {}

    def connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """A connected, non-blocking socket.

        Raises:
            socket.gaierror: the name has no address.
            OSError: no address answered; the error is the last one's.
            TimeoutError: the deadline passed.
            CancelledError: it was called off.
        """
        return self._race(self._resolve(host, port, deadline), deadline)

    def _resolve(self, host: str, port: int, deadline: float) -> list[Address]:
        try:
            return _addresses(host, port, socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            pass  # a name, or nothing that is either: the lookup tells
        key = (host, port)
        lookup = self._lookups.get(key) or self._lookups.setdefault(key, _Lookup(host, port))
        self._waiter.wait({lookup.ended.fileno(): READ}, deadline)
        del self._lookups[key]
        lookup.ended.close()
        if lookup.error is not None:
            raise lookup.error
        return lookup.addresses

    def close(self) -> None:
        """Give back what lookups hold that nobody waits for any more."""
        for lookup in self._lookups.values():
            lookup.ended.close()
        self._lookups.clear()

    def _race(self, addresses: list[Address], deadline: float) -> socket.socket:
        waiting = list(addresses)
        trying: dict[int, socket.socket] = {}
        failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        try:
            while waiting or trying:
                if waiting:
                    try:
                        begun = _begin(*waiting.pop(0))
                    except OSError as error:  # no route, no such family: the next one, at once
                        failure = error
                        continue
                    trying[begun.fileno()] = begun
                step = min(deadline, time.monotonic() + STAGGER_SECONDS) if waiting else deadline
                try:
                    ready = self._waiter.wait(dict.fromkeys(trying, WRITE), step)
                except TimeoutError:
                    if step < deadline:
                        continue
                    raise
                for descriptor in ready:
                    tried = trying.pop(descriptor)
                    code = tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return tried
                    failure = OSError(code, os.strerror(code))
                    tried.close()
            raise failure
        finally:
            for other in trying.values():
                other.close()


def _begin(family: int, address: tuple[str, int]) -> socket.socket:
    """A socket that connects."""
    begun = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        begun.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        begun.close()
        raise
    return begun
