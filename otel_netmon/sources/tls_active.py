"""The certificates of servers that show them in nobody's clear: one handshake of the agent's own with each of them a day.

Off unless ``probes.tls.certificate`` is ``active``. It goes to the address where a client on an observed interface was answered and asks
for the name that the client asked for. Nothing is verified, sent or kept but the certificates.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from otel_netmon.analysis.tls_due import Due, DueServers
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.selfmon.status import CertificatesStatus, StageStatus

DEADLINE_SECONDS: Final = 5.0
"""For all of a handshake: who does not answer is not waited for any longer."""

PAUSE_NS: Final = 2_000_000_000
"""From the begin of one handshake to that of the next one, at least."""

_MAPPED = bytes(10) + b"\xff\xff"
_OWN_MAX = 64
_OWN_NS = round(2 * DEADLINE_SECONDS * 1e9)


class Answer(NamedTuple):
    """What a server showed.

    Attributes:
        due: whom was asked.
        chain: its certificates, DER, its own first; before Python 3.13 that one alone. Empty with a failure.
        failure: why there is none: ``refused``, ``unreachable``, ``timed_out``, ``handshake_failed``, ``bad_name``, ``no_certificate``.
    """

    due: Due
    chain: tuple[bytes, ...]
    failure: str = ""


class ActiveCertificates:
    """Asks one server after the other, each on a thread that ends with it; the pipeline waits for none.

    Args:
        limit: how many servers are asked in a day.

    Attributes:
        due: who is to be asked.
        counts: what became of answers, by who takes them: ``read``, ``unreadable``, and failures by reason.
    """

    def __init__(self, limit: int) -> None:
        self.due = DueServers(limit)
        self.counts: Counter[str] = Counter()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._is_under_way = False
        self._next_ns = 0
        self._own: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()  # own port and whom it talks to: since when

    def advance(self, now_ns: int, unix_seconds: float) -> Answer | None:
        """Gives what the server that was asked has answered, if it has; asks the next one, if one is due.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        answer = None
        if self._is_under_way:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return None
            self._is_under_way = False
        if now_ns >= self._next_ns:
            due = self.due.next(unix_seconds)
            if due is not None:
                self._next_ns, self._is_under_way = now_ns + PAUSE_NS, True
                threading.Thread(target=self._ask, args=(due,), name="certificate", daemon=True).start()
        return answer

    def is_own(self, handshake: TlsHandshake) -> bool:
        """Whether a handshake is one of the agent's own, which is nobody's."""
        since = self._own.get((handshake.connection.client[16:], handshake.connection.server))
        return since is not None and 0 <= handshake.start_ns - since <= _OWN_NS

    def stage(self) -> StageStatus:
        """What became of servers that were due."""
        dropped = {reason: many for reason, many in (self.counts + self.due.counts).items() if reason != "read"}
        return StageStatus(delivered=self.counts["read"], dropped=dropped)

    def status(self) -> CertificatesStatus:
        """For /status."""
        stage = self.stage()
        return CertificatesStatus(
            source="active",
            servers=len(self.due),
            waiting=self.due.waiting,
            read=stage["delivered"],
            unread=stage["dropped"],
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on: nobody is asked again because a process died."""
        counts = {f"active.{what}": many for what, many in self.counts.items()}
        refused = {f"due.{what}": many for what, many in self.due.counts.items()}
        return {"tls.asked": self.due.state(), "tls.active": {**counts, **refused}}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was."""
        self.due.restore(state["tls.asked"])
        for key, many in state["tls.active"].items():
            where, _, what = key.partition(".")
            (self.counts if where == "active" else self.due.counts)[what] = many

    def _ask(self, due: Due) -> None:
        answer = Answer(due, (), "failed")  # what is told when this thread dies of a defect, which writes down where
        try:
            answer = ask(due, lambda port: self._note_own(port, due.end))
        finally:
            self._answers.put(answer)

    def _note_own(self, port: int, end: bytes) -> None:
        self._own[port.to_bytes(2, "big"), end] = time.monotonic_ns()
        while len(self._own) > _OWN_MAX:
            self._own.popitem(last=False)


def ask(due: Due, leaves_from: Callable[[int], object]) -> Answer:
    """Shakes hands with a server and gives its certificates.

    Args:
        due: the server.
        leaves_from: told the own port before the first packet leaves.
    """
    import ssl  # a megabyte that only this needs

    deadline = time.monotonic() + DEADLINE_SECONDS
    if due.name is not None and "\\" in due.name:
        return Answer(due, (), "bad_name")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    family, address = _address(due)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            plain.settimeout(DEADLINE_SECONDS)
            plain.bind(("", 0))
            leaves_from(plain.getsockname()[1])
            try:
                plain.connect(address)
            except ConnectionRefusedError:
                return Answer(due, (), "refused")
            except TimeoutError:
                return Answer(due, (), "timed_out")
            except OSError:
                return Answer(due, (), "unreachable")
            plain.settimeout(max(0.1, deadline - time.monotonic()))
            with context.wrap_socket(plain, server_hostname=due.name) as sealed:
                return _shown(due, sealed)
    except TimeoutError:
        return Answer(due, (), "timed_out")
    except OSError:  # ssl.SSLError is one
        return Answer(due, (), "handshake_failed")
    except ValueError:  # the name is none that a hello may have
        return Answer(due, (), "bad_name")


def _shown(due: Due, sealed: Any) -> Answer:
    """The chain where Python gives it without verifying it (from 3.13 on), elsewhere the server's own certificate."""
    if hasattr(sealed, "get_unverified_chain"):
        chain = tuple(sealed.get_unverified_chain())
    else:
        own = sealed.getpeercert(binary_form=True)
        chain = (own,) if own else ()
    return Answer(due, chain, "" if chain else "no_certificate")


def _address(due: Due) -> tuple[int, tuple[Any, ...]]:
    octets, port = due.end[:16], int.from_bytes(due.end[16:], "big")
    if octets.startswith(_MAPPED):
        return socket.AF_INET, (socket.inet_ntop(socket.AF_INET, octets[12:]), port)
    is_of_link = octets[0] == 0xFE and octets[1] & 0xC0 == 0x80
    return socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, octets), port, 0, due.ifindex if is_of_link else 0)
