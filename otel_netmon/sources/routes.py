"""Why connect() failed before there was a SYN: no hook shows its error, but the routing tables tell whether there is a way."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Ending
from otel_netmon.readers.routes import RouteReader

QUESTIONS_MAX = 64
"""Different addresses that are asked for in one call: 10 us each."""

_ENDINGS = {errno.ENETUNREACH: Ending.NET_UNREACHABLE, errno.EHOSTUNREACH: Ending.HOST_UNREACHABLE}


class LocalFailures:
    """Asks the routing tables of the observed namespaces, a moment after the failure."""

    def __init__(self) -> None:
        self._readers: dict[int, RouteReader] = {}

    def set_namespaces(self, fds: Mapping[int, int]) -> None:
        """Takes sockets of NETLINK_ROUTE opened anew, by number of their namespace; they are taken over."""
        self.close()
        readers = [RouteReader(fd) for fd in fds.values()]
        self._readers = {reader.namespace_cookie: reader for reader in readers if reader.namespace_cookie}
        for reader in readers:
            if not reader.namespace_cookie:
                reader.close()

    def explain(self, records: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Gives the records (layout.CONNECTION) with NOT_SENT told apart where a routing table gives the reason.

        What stays NOT_SENT is of another namespace, or there is a route now: no free port, a policy, or it has come since.
        """
        failed = np.flatnonzero(records["ending"] == Ending.NOT_SENT)
        if not len(failed) or not self._readers:
            return records
        told = records.copy()
        answers: dict[tuple[int, bytes], Ending] = {}
        for place in failed.tolist():
            netns, address = int(records["netns"][place]), records["remote"][place].tobytes()
            ending = answers.get((netns, address))
            if ending is None:
                if len(answers) == QUESTIONS_MAX:
                    break
                ending = answers[netns, address] = self._ask(netns, address)
            told["ending"][place] = ending
        return told

    def _ask(self, netns: int, address: bytes) -> Ending:
        reader = self._readers.get(netns)
        if reader is None:
            return Ending.NOT_SENT
        try:
            return _ENDINGS.get(reader.refusal(address), Ending.NOT_SENT)
        except OSError:  # it does not answer: the reason is not known
            return Ending.NOT_SENT

    def close(self) -> None:
        """Gives the sockets back."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
