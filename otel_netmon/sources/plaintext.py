"""What processes write to OpenSSL and read from it: requests of HTTP and gRPC inside of TLS, for the HTTP probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from otel_netmon.abi.enums import SESSION_LOCAL, SESSION_REMOTE, MessageCount, MessageKind, SessionCount
from otel_netmon.analysis.http_columns import HttpRecords
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tls_sessions import TlsSessions
from otel_netmon.config.model import Config
from otel_netmon.kernel import syscalls
from otel_netmon.readers.http import HttpQuiet
from otel_netmon.readers.messages import MessageCounts, Messages, http_messages, parse_messages
from otel_netmon.readers.ring import RingAlarm, RingReader
from otel_netmon.readers.sessions import SessionCounts, live_sessions, session_records
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources.http import HttpSource
from otel_netmon.sources.streams import CONNECTIONS_MAX, OCTETS_MAX

_FAR = 1 << 62
_LOCAL, _REMOTE = (port.to_bytes(2, "big") for port in (SESSION_LOCAL, SESSION_REMOTE))
_LOST = (MessageCount.HTTP_LOST_RING, MessageCount.STREAM_LOST_RING)


class PlaintextSource:
    """Takes what the programs at OpenSSL tell, and gives requests to the HTTP probe.

    A request whose session is on no known connection waits for one drain: in the ring the connection may be told behind it. What is
    saved at the end of a cycle has none that waits.

    Args:
        maps: of plaintext_monitor: name to file descriptor and number of entries.
        programs: that are loaded of it, by name.
        config: the configuration.
        http: who counts requests.

    Attributes:
        alarm: tells that the ring is filling up.
    """

    def __init__(
        self, maps: Mapping[str, tuple[int, int]], programs: Mapping[str, int], config: Config, http: HttpSource
    ) -> None:
        self._http = http
        self._ring = RingReader(*maps["messages"])
        self.alarm = RingAlarm(maps["messages"][0])
        cpus = syscalls.possible_cpus()
        self._message_counts = MessageCounts(maps["message_counts"][0], cpus)
        self._session_counts = SessionCounts(maps["session_counts"][0], cpus)
        self._quiet = HttpQuiet(*maps["http_connections"], programs["netmon_quiet"], config.probes.http.timeout_seconds)
        self._connections = Connections(http.recognisers(), CONNECTIONS_MAX, OCTETS_MAX, keeps_over=False)
        self._sessions = TlsSessions()
        self._sessions_map = maps["sessions"]
        self._live = 0
        self._late: list[Messages] = []
        self._late_requests: list[HttpRequest] = []
        self._consumed = 0
        self._missing = _FAR
        self._messages = self._message_counts.read()
        self._counted = self._session_counts.read()

    def drain(self, *, counting: bool = False) -> None:
        """Empties the ring.

        Args:
            counting: for a cycle: read what the kernel counted, too, and let nothing wait.
        """
        now_ns = time.monotonic_ns()
        self._quiet.run(now_ns)
        if counting:
            self._messages, self._counted = self._message_counts.read(), self._session_counts.read()
            self._live = live_sessions(self._sessions_map[0])
        messages = parse_messages(self._ring.drain())
        self._consumed += len(messages.heads)
        if counting:
            self._missing = max(0, min(self._missing, self._produced - self._consumed))
        ended = self._sessions.take(*session_records(messages))
        http = messages.where(messages.heads["kind"] == MessageKind.HTTP)
        self._tell(http, self._follow(messages, http, ended, now_ns), now_ns, at_once=counting)

    def _follow(self, messages: Messages, http: Messages, ended: list[bytes], now_ns: int) -> list[HttpRequest]:
        """What connections that are followed have finished."""
        found: list[Any] = []
        for seen, segment in HttpRecords.begun(http_messages(http)) if len(http.heads) else ():
            found += self._connections.feed(seen, segment)
        for seen, segment in stream_segments(messages):
            found += self._connections.feed(seen, segment)
        for address in ended:
            found += self._connections.close(0, 0, address + _LOCAL, address + _REMOTE, now_ns)
        found += self._connections.advance(now_ns)
        return [each for each in found if isinstance(each, HttpRequest)]

    def _tell(self, http: Messages, requests: list[HttpRequest], now_ns: int, *, at_once: bool) -> None:
        """Tells what waited, and what is known now or must not wait."""
        known = self._sessions.knows(http.heads) | at_once
        now: list[HttpRequest] = []
        later: list[HttpRequest] = []
        for request in requests:
            (now if at_once or self._sessions.knows_request(request) else later).append(request)
        for part in (*self._late, http.where(known)):
            self._http.take_secure(part._replace(heads=self._sessions.placed(part.heads)), (), now_ns)
        placed = [self._sessions.placed_request(each) for each in self._late_requests + now]
        self._http.take_secure(http.part(slice(0)), placed, now_ns)
        self._late, self._late_requests = [http.where(~known)], later

    @property
    def _produced(self) -> int:
        messages, sessions = self._messages, self._counted
        made = messages[MessageCount.STREAM_SEGMENTS] + messages[MessageCount.HTTP_REQUESTS]
        return made + sessions[SessionCount.RECORDS] - self._lost

    @property
    def _lost(self) -> int:
        return sum(self._messages[what] for what in _LOST) + self._counted[SessionCount.LOST_RING]

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of calls, sessions and records before requests are made of them, by stage and signal."""
        messages, counted = self._messages, self._counted
        busy, unreadable = counted[SessionCount.BUSY], counted[SessionCount.UNREADABLE]
        seen, ended = counted[SessionCount.SEEN], counted[SessionCount.ENDED]
        missing, counts = self._missing, self._connections.counts
        return {
            ("kernel", "tls_calls"): StageStatus(
                delivered=max(0, counted[SessionCount.CALLS] - busy - unreadable),
                dropped={"busy": busy, "unreadable": unreadable},
            ),
            ("kernel", "tls_sessions"): StageStatus(
                delivered=min(seen, ended + self._live),
                dropped={
                    "table_full": max(0, seen - ended - self._live) + self._sessions.forgotten,
                },
            ),
            ("kernel", "tls_messages"): StageStatus(
                delivered=self._produced + self._lost,
                dropped={
                    "table_full": messages[MessageCount.HTTP_LOST_TABLE],
                    "limit": messages[MessageCount.HTTP_LOST_LIMIT],
                },
            ),
            ("ring", "tls_messages"): StageStatus(
                delivered=self._consumed,
                dropped={"ring_full": self._lost, "pipeline_died": missing if missing < _FAR else 0},
            ),
            ("decode", "tls_connections"): StageStatus(
                delivered=counts["connections"] - counts["evicted_connections"],
                dropped={"evicted": counts["evicted_connections"]},
            ),
        }

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        return {
            "tls_sessions": (self._live, self._sessions_map[1]),
            "tls_http_connections": (self._quiet.live, self._quiet.capacity),
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {
            "plaintext": {"consumed": self._consumed},
            "plaintext.sessions": self._sessions.state(),
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self._consumed = state["plaintext"]["consumed"]
        self._sessions.restore(state["plaintext.sessions"])
