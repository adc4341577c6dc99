"""A receiver of OTLP: what it is offered goes out on a thread of its own, so that a slow or absent receiver delays nothing.

Every item is accounted for, for each signal: offered = delivered + dropped by reason + pending. ``delivery`` decides what is sent
when; this module gives it a thread, a beginning and an end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from otel_netmon.config.checks import mask_userinfo
from otel_netmon.config.model import Receiver
from otel_netmon.export import otlp_transport
from otel_netmon.export.delivery import Attempt, Delivery, Terms
from otel_netmon.export.encoders import Encoders, encoders
from otel_netmon.export.lanes import State
from otel_netmon.export.requests import Signal, Transport
from otel_netmon.export.spool import Spool
from otel_netmon.otel.points import Snapshot
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.selfmon.status import OtlpStatus, StageStatus

_log = structlog.get_logger(__name__)

AFTER_DEFECT_SECONDS: Final = 1.0
"""Rest after an error that nobody expected, so that it is not made a thousand times a second."""

_WORST: Final[tuple[State, ...]] = ("failing", "rejected", "delivering", "starting")


class OtlpSink:
    """Sends to one receiver.

    Attributes:
        on_base: called by the worker when ``base`` has changed; to be set before ``start``.

    Args:
        name: of the receiver, for people.
        settings: of the receiver.
        resource: the agent's resource.
        spool: keeps on disk what is not delivered; it is closed by ``shutdown``. None: metrics wait as the newest snapshot, spans
            and events as far as ``queue_bytes`` reach.
        transport: makes the way to the receiver.
        encode: makes what makes the requests.
        clock: monotonic seconds.
        draw: gives a number in [0, 1), for the jitter of the waits.

    Raises:
        ConfigError: the settings name something that cannot be used.
    """

    def __init__(
        self,
        name: str,
        settings: Receiver,
        resource: Mapping[str, str],
        *,
        spool: Spool | None = None,
        transport: Callable[[Receiver], Transport] = otlp_transport.build,
        encode: Callable[[Receiver, Mapping[str, str]], Encoders] = encoders,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._settings = settings
        self._clock = clock
        self._endpoint = mask_userinfo(settings.target(settings.signals[0] if settings.signals else "metrics"))
        self._transport = transport(settings)
        self._spool = spool
        self._delivery = Delivery(
            self._transport,
            encode(settings, resource),
            spool,
            Terms(
                signals=[signal for signal in Signal if signal.word in settings.signals],
                delta=settings.temporality != "cumulative",
                timeout_seconds=settings.timeout_seconds,
                queue_bytes=settings.queue_bytes,
                where={"destination": name, "endpoint": self._endpoint, "protocol": settings.protocol},
            ),
            clock=clock,
            draw=draw,
        )
        self._changed = threading.Condition(self._delivery.lock)
        self._thread: threading.Thread | None = None
        self.on_base: Callable[[], None] | None = None
        self._woken = False
        self._stopping = False
        self._lost_before = 0

    # ---- what comes

    def start(self) -> None:
        """Begins to send."""
        self._thread = threading.Thread(target=self._work, name=f"otlp-{self.name}", daemon=True)
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Hands over a snapshot; never blocks. Without a spool it replaces one that waits, which counts as ``superseded``."""
        self._delivery.offer(snapshot)
        self._wake()

    def offer_spans(self, batch: SpanBatch) -> None:
        """Hands over finished spans; never blocks. Without room the oldest are dropped and count as ``queue_full``."""
        self._delivery.offer_spans(batch)
        self._wake()

    def offer_events(self, events: Sequence[Event]) -> None:
        """Hands over events, as ``offer_spans`` does spans."""
        self._delivery.offer_events(events)
        self._wake()

    def send_now(self) -> None:
        """Lets nothing wait for more of its kind or for the next try, unless the receiver asked for it; never blocks."""
        self._delivery.hurry()
        self._wake()

    # ---- the end

    def flush(self, deadline_s: float) -> bool:
        """Waits until everything that was offered is answered, what is in the spool included.

        Returns:
            Whether it was within ``deadline_s`` seconds, and nothing was lost since the last flush.
        """
        self.send_now()
        with self._changed:
            answered = self._changed.wait_for(lambda: self._delivery.pending() == 0 or self._ended(), deadline_s)
            lost = self._delivery.lost()
            lost_since, self._lost_before = lost - self._lost_before, lost
            return answered and self._delivery.pending() == 0 and lost_since == 0

    def shutdown(self, deadline_s: float) -> None:
        """Sends what waits, then stops; returns within ``deadline_s`` seconds.

        What is not sent by then stays in the spool, or counts as dropped. Where the receiver is away and there is a spool, nothing
        is waited for.
        """
        deadline = self._clock() + deadline_s
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        self.send_now()
        if self._thread is not None:
            # A send under way is ended at the last moment, and a little time kept to write what waits to the spool.
            self._thread.join(max(0.0, deadline_s - min(0.5, deadline_s / 4)))
        with self._changed:
            self._delivery.stop_sending()
            self._wake()
        closer = threading.Thread(target=self._transport.close, name=f"otlp-{self.name}-close", daemon=True)
        closer.start()
        for thread in (self._thread, closer):
            if thread is not None:
                thread.join(max(0.0, deadline - self._clock()))
        self._delivery.close()
        if self._thread is None and self._spool is not None:
            self._spool.close()
        with self._changed:
            self._changed.notify_all()

    def _ended(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    # ---- what is known

    def stats(self) -> OtlpStatus:
        """A consistent copy of all counts."""
        with self._changed:
            delivery, health = self._delivery, self._delivery.health
            metrics = delivery.ledger[Signal.METRICS].status()
            return OtlpStatus(
                name=self.name,
                endpoint=self._endpoint,
                protocol=self._settings.protocol,
                state=min(health.states.values(), key=_WORST.index, default="starting"),
                points_offered=metrics["offered"],
                points_delivered=metrics["delivered"],
                points_dropped=metrics["dropped"],
                points_pending=metrics["pending"],
                spans=delivery.ledger[Signal.TRACES].status(),
                log_records=delivery.ledger[Signal.LOGS].status(),
                queue_bytes=delivery.queue_bytes,
                spool=health.spool,
                requests=health.requests,
                last_error=health.last_error,
                last_success_unix_nano=health.last_success_unix_nano,
            )

    def take_attempts(self) -> list[Attempt]:
        """The attempts since the last call."""
        attempts = self._delivery.attempts
        return [attempts.popleft() for _ in range(len(attempts))]

    @property
    def base(self) -> Snapshot | None:
        """The snapshot from which the next differences are told, None where none are or nothing was sent yet."""
        return self._delivery.base if self._settings.temporality != "cumulative" else None

    def resume(self, base: Snapshot) -> None:
        """Goes on from the base of an earlier process; before ``start``."""
        self._delivery.base = base

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What netmon.pipeline.items tells: delivered and dropped by stage (queue, spool, export) and signal."""
        with self._changed:
            return {
                (stage, signal.items): status
                for signal, account in self._delivery.ledger.items()
                if signal is Signal.METRICS or account.offered
                for stage, status in account.stages(has_spool=self._spool is not None).items()
            }

    # ---- the worker

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _work(self) -> None:
        base = self.base
        try:
            while True:
                try:
                    wake = self._delivery.step()
                    if self.on_base is not None and self.base is not base:
                        base = self.base
                        self.on_base()
                except Exception as error:  # noqa: BLE001 - a defect must not end the export for good; told here
                    _log.exception("otlp.worker_failed", destination=self.name, error=repr(error))
                    wake = self._clock() + AFTER_DEFECT_SECONDS
                with self._changed:
                    self._changed.notify_all()  # a flush may wait for this
                    if self._stopping and self._finished():
                        return
                    left = None if wake is None else max(0.0, wake - self._clock())
                    self._changed.wait_for(lambda: self._woken, left)
                    self._woken = False
        finally:
            if self._spool is not None:
                self._spool.close()

    def _finished(self) -> bool:
        """Whether a worker that is to stop has nothing left to do."""
        if not self._delivery.sending:
            return not self._woken
        if self._delivery.pending() == 0:
            return True
        # What is safe on disk is not worth a wait.
        return self._delivery.in_memory() == 0 and self._delivery.failing
