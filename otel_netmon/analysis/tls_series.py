"""Handshakes to series of netmon.tls.handshake.duration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.name_table import NameTable
from otel_netmon.analysis.series_family import DistributionSeries
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


class TlsSeries(DistributionSeries):
    """Keeps the series of handshakes.

    Args:
        bounds: upper bounds of the explicit buckets in seconds.
        server_names: how many servers are told apart; all others are ``other``.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a handshake for so long ends.
    """

    def __init__(self, bounds: Sequence[float], server_names: int, start_ns: int, idle_ns: int) -> None:
        names = {"server": server_names, "protocol": _PROTOCOLS_MAX}
        super().__init__("tls", SERIES, _ATTRIBUTES, {"durations": bounds}, names, start_ns, idle_ns)

    @property
    def servers(self) -> NameTable:
        """The names of servers, for what else tells them."""
        return self._names["server"]

    def add(self, handshakes: Sequence[TlsHandshake], servers: Sequence[str], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts handshakes that came to an end; gives the row of each in the distributions, for exemplars.

        One that failed counts with the time until then.

        Args:
            servers: the name of each one's server.
            now_ns: Unix time.
        """
        keys = np.zeros(len(handshakes), SERIES)
        seconds = np.empty(len(handshakes))
        for at, (handshake, server) in enumerate(zip(handshakes, servers, strict=True)):
            keys[at] = self._identity(handshake, server, now_ns)
            seconds[at] = lasted_ns(handshake) / 1e9
        return self._count_each(keys, seconds, now_ns)

    def _identity(self, handshake: TlsHandshake, server: str, now_ns: int) -> tuple[int, ...]:
        answer = handshake.answer
        alpn = answer.alpn if answer is not None else None
        return (
            self.servers.number(server, now_ns),
            0 if alpn is None else self._names["protocol"].number(alpn, now_ns),
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
