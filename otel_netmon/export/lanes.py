"""How a receiver is for one signal: when it is tried next, and what was last told about it."""

from __future__ import annotations

from typing import Final, Literal

from otel_netmon.export.backoff import Backoff
from otel_netmon.export.requests import Outcome, Signal
from otel_netmon.export.storage import Source
from otel_netmon.selfmon.journal import EventLog

_REMEDIES = {
    "connection": "start a receiver at this endpoint, or name another one as the endpoint",
    "tls": "certificate, client_certificate and insecure say what is trusted; http:// in the endpoint is without TLS",
    "timeout": "look at the way to the receiver, or raise timeout_seconds",
}
"""By the reason of an outcome; the keys are those of the destination, of ``otlp`` for the first one."""

_REMEDY = "the receiver says what it lacks; it is tried again until it answers"

State = Literal["starting", "delivering", "failing", "rejected"]

NOT_IMPLEMENTED: Final = frozenset({"404", "UNIMPLEMENTED"})
"""Status of a receiver that does not know a signal."""


def reason_of(outcome: Outcome) -> str:
    """The word under which refused items are counted."""
    return "not_implemented" if outcome.status in NOT_IMPLEMENTED else outcome.reason


class Lane:
    """A signal's way to the receiver.

    Args:
        signal: which.
        source: what is sent.
        backoff: the waits between two attempts.

    Attributes:
        not_before: no attempt until then.
        unanswered: the last attempt got no answer at all.
        state: since the last attempt.
    """

    def __init__(self, signal: Signal, source: Source, backoff: Backoff) -> None:
        self.signal = signal
        self.source = source
        self._backoff = backoff
        self.not_before = float("-inf")
        self._asked_until = float("-inf")
        self.unanswered = False
        self.state: State = "starting"
        self._told = ""

    def hurry(self) -> None:
        """Leaves of the wait what the receiver asked for."""
        self.unanswered, self.not_before = False, self._asked_until

    def postpone(self, outcome: Outcome, now: float, log: EventLog) -> None:
        """An attempt failed for the moment: the next one waits."""
        wait, asked = self._backoff.next(outcome.retry_after_seconds)
        self.not_before, self._asked_until = now + wait, now + asked
        self.state = "failing"
        if self._is_news(""):
            told = {"signal": self.signal.word, "reason": outcome.reason, "detail": outcome.detail}
            log.warning("otlp.failing", **told, remedy=_REMEDIES.get(outcome.reason, _REMEDY))

    def answered(self, outcome: Outcome, log: EventLog) -> None:
        """A request was taken or refused for good."""
        self._backoff.reset()
        word = self.signal.word
        if outcome.kind == "refused":
            self.state, reason = "rejected", reason_of(outcome)
            if self._is_news(reason):
                remedy = {"remedy": f"take {word} out of otlp.signals"} if reason == "not_implemented" else {}
                log.warning("otlp.rejected", signal=word, reason=reason, detail=outcome.detail, **remedy)
            return
        self.state = "delivering"
        if outcome.rejected or outcome.warning:
            if self._is_news("in part"):
                log.warning("otlp.rejected", signal=word, items=outcome.rejected, message=outcome.warning)
        elif self._is_news(""):
            log.info("otlp.delivering", signal=word)

    def _is_news(self, detail: str) -> bool:
        """Whether this was not what was told last: one line for a change, never one for each request."""
        told, self._told = self._told, f"{self.state} {detail}"
        return told != self._told
