"""Handshakes to series of netmon.tls.handshake.duration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.duration_series import DurationReading, DurationSeries
from otel_netmon.analysis.name_table import NameTable
from otel_netmon.analysis.tls_handshakes import Outcome, TlsHandshake
from otel_netmon.decode.tls_numbers import alert_name

SERIES = np.dtype(
    [
        ("server", "<u8"),
        ("protocol", "<u8"),
        ("version", "<u2"),
        ("cipher", "<u2"),
        ("error", "<u2"),
        ("answered", "u1"),
        ("resumed", "u1"),
    ]
)
"""The identity of a series: names by their numbers, protocol 0 without one; version and cipher where answered is 1."""

RESUMED_UNKNOWN = 2
NO_ERROR = 0xFFFF
_ERRORS: dict[Outcome, int] = {"closed": 0x100, "reset": 0x101, "not_tls": 0x102, "timed_out": 0x103}
_SEALED_ALERT = 0x104
_ERROR_TEXTS = {0x100: "closed", 0x101: "reset", 0x102: "not_tls", 0x103: "timeout", _SEALED_ALERT: "sealed_alert"}
_ATTRIBUTES = {
    "server": "server.address",
    "version": "tls.protocol.version",
    "cipher": "tls.cipher",
    "protocol": "tls.next_protocol",
    "error": "error.type",
}
_PROTOCOLS_MAX = 64


class HandshakeSeries(NamedTuple):
    """One cycle's series, and the names of their numbers."""

    reading: DurationReading
    servers: Mapping[int, str]
    protocols: Mapping[int, str]


class TlsSeries:
    """Keeps the series of handshakes.

    Args:
        bounds: upper bounds of the explicit buckets in seconds.
        server_names: how many servers are told apart; all others are ``other``.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a handshake for so long ends.
    """

    def __init__(self, bounds: Sequence[float], server_names: int, start_ns: int, idle_ns: int) -> None:
        self._series = DurationSeries("tls", SERIES, _ATTRIBUTES, bounds, start_ns, idle_ns)
        self.servers = NameTable(server_names, idle_ns)
        self._protocols = NameTable(_PROTOCOLS_MAX, idle_ns)
        self._now_ns = start_ns

    def __len__(self) -> int:
        return len(self._series)

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series."""
        self._series.set_limit(limit)

    def add(self, handshakes: Sequence[TlsHandshake], servers: Sequence[str], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts handshakes that came to an end; gives the row of each in the distributions, for exemplars.

        One that failed counts with the time until then.

        Args:
            servers: the name of each one's server.
            now_ns: Unix time.
        """
        self._now_ns = now_ns
        keys = np.zeros(len(handshakes), SERIES)
        seconds = np.empty(len(handshakes))
        for at, (handshake, server) in enumerate(zip(handshakes, servers, strict=True)):
            keys[at] = self._identity(handshake, server, now_ns)
            seconds[at] = lasted_ns(handshake) / 1e9
        return self._series.add(keys, seconds, now_ns)

    def offer_exemplars(self, *columns: Any) -> None:
        """See ``DurationSeries.offer_exemplars``."""
        self._series.offer_exemplars(*columns)

    def reading(self) -> HandshakeSeries:
        """The series as they stand."""
        return HandshakeSeries(self._series.reading(), self.servers.texts, self._protocols.texts)

    def end_cycle(self, servers: Sequence[int] = ()) -> None:
        """Ends a cycle, whose reading was taken, and makes room.

        Args:
            servers: numbers of names that are told elsewhere too.
        """
        self._series.end_cycle()
        keys = self._series.reading().series.keys
        self.servers.end_cycle({*servers, *keys["server"].tolist()}, self._now_ns)
        self._protocols.end_cycle(set(keys["protocol"].tolist()), self._now_ns)

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own."""
        return self._series.folded

    def distinct(self) -> dict[str, float]:
        """See ``DurationSeries.distinct``."""
        return self._series.distinct()

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {**self._series.state(), "tls.servers": self.servers.state(), "tls.protocols": self._protocols.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first handshake."""
        self._series.restore(state)
        self.servers.restore(state["tls.servers"])
        self._protocols.restore(state["tls.protocols"])

    def _identity(self, handshake: TlsHandshake, server: str, now_ns: int) -> tuple[int, ...]:
        answer = handshake.answer
        alpn = answer.alpn if answer is not None else None
        return (
            self.servers.number(server, now_ns),
            0 if alpn is None else self._protocols.number(alpn, now_ns),
            0 if answer is None else answer.version,
            0 if answer is None else answer.cipher,
            error_number(handshake),
            answer is not None,
            RESUMED_UNKNOWN if handshake.resumed is None else handshake.resumed,
        )


def lasted_ns(handshake: TlsHandshake) -> int:
    """How long it took until both sides sealed, or until it failed."""
    end_ns = handshake.finished_ns if handshake.outcome == "established" else None
    return max(0, (handshake.end_ns if end_ns is None else end_ns) - handshake.start_ns)


def error_number(handshake: TlsHandshake) -> int:
    """What error.type stands for: a number that ``error_text`` knows, NO_ERROR for none."""
    if handshake.outcome == "established":
        return NO_ERROR
    if handshake.outcome == "alert":
        description = handshake.alerts[-1].description
        return _SEALED_ALERT if description is None else description
    return _ERRORS.get(handshake.outcome, NO_ERROR)


def error_text(number: int) -> str:
    """The value of error.type."""
    return _ERROR_TEXTS.get(number) or alert_name(number)
