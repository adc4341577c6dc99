"""TLS sessions in processes, and the TCP connections that they are on. Bounded.

What is written to a session and read from it is told with an address that stands for the session. Where its connection is, the
kernel tells when it has seen it: mostly before the first request is over, sometimes right behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import SESSION_LOCAL
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.http_records import UNPLACED, HttpRequest

SESSIONS_MAX = 65_536

_ADDRESS = np.dtype([("address", "u1", 16)])
_END = np.dtype([("address", "u1", 16), ("port", ">u2")])


class Place(NamedTuple):
    """A session's connection: address and port of both ends, 18 octets each in network order, and the process's cgroup."""

    local: bytes
    remote: bytes
    cgroup: int


_NOWHERE = Place(UNPLACED, UNPLACED, 0)


class TlsSessions:
    """Where sessions are.

    Args:
        limit: how many are known; the one that was placed first is forgotten first.

    Attributes:
        forgotten: how many were, for a place.
    """

    def __init__(self, limit: int = SESSIONS_MAX) -> None:
        self.forgotten = 0
        self._limit = limit
        self._places: dict[bytes, Place] = {}
        self._leaving: list[bytes] = []

    def __len__(self) -> int:
        return len(self._places)

    def take(self, heads: npt.NDArray[Any], sessions: npt.NDArray[Any]) -> list[bytes]:
        """Takes records of kind SESSION, of a drain; gives the addresses of those that have ended.

        What ended in the drain before is forgotten: all that is told of it is told now.
        """
        for address in self._leaving:
            self._places.pop(address, None)
        self._leaving = []
        for head, session in zip(heads, sessions, strict=True):
            address = session["address"].tobytes()
            if session["cookie"]:
                self._places[address] = Place(_end(head, "source"), _end(head, "destination"), int(head["cgroup"]))
            if session["ended"]:
                self._leaving.append(address)
        while len(self._places) > self._limit:
            del self._places[next(iter(self._places))]
            self.forgotten += 1
        return list(self._leaving)

    def knows(self, heads: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether the connection of each record's session is known; shape (n,)."""
        if not len(heads):
            return np.empty(0, np.bool_)
        first, inverse = group(_addresses(heads))
        known = [heads["source"][at].tobytes() in self._places for at in first.tolist()]
        return np.array(known, np.bool_)[inverse]

    def placed(self, heads: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Gives heads with the ends of their connections in the place of their sessions, all 0 where they are not known."""
        if not len(heads):
            return heads
        first, inverse = group(_addresses(heads))
        found = [self._places.get(heads["source"][at].tobytes(), _NOWHERE) for at in first.tolist()]
        local, remote = (
            np.frombuffer(b"".join(ends), _END)[inverse]
            for ends in ([each.local for each in found], [each.remote for each in found])
        )
        from_here = heads["source_port"] == SESSION_LOCAL
        made = heads.copy()
        for name, here, there in (("source", local, remote), ("destination", remote, local)):
            made[name] = np.where(from_here[:, None], here["address"], there["address"])
            made[f"{name}_port"] = np.where(from_here, here["port"], there["port"])
        made["cgroup"] = np.array([each[2] for each in found], np.uint64)[inverse]
        return made

    def knows_request(self, request: HttpRequest) -> bool:
        """Whether the connection of a request's session is known."""
        return request.client[:16] in self._places

    def placed_request(self, request: HttpRequest) -> HttpRequest:
        """Gives a request of a session with the ends of its connection."""
        local, remote, cgroup = self._places.get(request.client[:16], _NOWHERE)
        is_local = int.from_bytes(request.client[16:], "big") == SESSION_LOCAL
        client, server = (local, remote) if is_local else (remote, local)
        seen = request.connection
        if seen is not None:
            seen = seen._replace(client=client, server=server, cgroup=cgroup)
        return request._replace(client=client, server=server, connection=seen, is_secure=True)

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        places = self._places.values()
        return {
            "addresses": b"".join(self._places),
            "local": b"".join([place.local for place in places]),
            "remote": b"".join([place.remote for place in places]),
            "cgroups": np.array([place.cgroup for place in places], np.uint64),
            "forgotten": self.forgotten,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was."""
        self.forgotten = state["forgotten"]
        for at, cgroup in enumerate(state["cgroups"].tolist()):
            ends = slice(at * 18, at * 18 + 18)
            self._places[state["addresses"][at * 16 : at * 16 + 16]] = Place(
                state["local"][ends], state["remote"][ends], cgroup
            )


def _addresses(heads: npt.NDArray[Any]) -> npt.NDArray[Any]:
    addresses = np.zeros(len(heads), _ADDRESS)
    addresses["address"] = heads["source"]
    return addresses


def _end(head: Any, side: str) -> bytes:
    return bytes(head[side].tobytes()) + int(head[f"{side}_port"]).to_bytes(2, "big")
