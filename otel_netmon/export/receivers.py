"""All receivers of OTLP: each has a sink, a queue or a spool, and a thread of its own, so that none waits for another."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from msgspec import structs

from otel_netmon.config.checks import FIRST_DESTINATION
from otel_netmon.config.model import Config
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.requests import Signal
from otel_netmon.export.spool import Spool
from otel_netmon.otel.attributes import Value
from otel_netmon.otel.points import Snapshot
from otel_netmon.otel.snapshot_state import restored_snapshot, snapshot_state
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.selfmon.status import ExportStatus, StageStatus

_log = structlog.get_logger(__name__)

_ITEMS = {Signal.METRICS: "metric", Signal.TRACES: "span", Signal.LOGS: "log"}
"""Word for each signal in otel.component.type."""


class Receivers:
    """Every sink that the configuration names.

    Args:
        config: the configuration.
        resource: the agent's resource.

    Attributes:
        told: eventfd that becomes readable when a receiver was told differences, and ``state`` has changed with it; None where
            none are sent.

    Raises:
        ConfigError: a receiver or its spool cannot be used.
    """

    def __init__(self, config: Config, resource: Mapping[str, str]) -> None:
        directory = config.export.spool.directory
        self._settings = config.otlp.receivers()
        self._sinks: dict[str, OtlpSink] = {}
        differences = any(settings.temporality != "cumulative" for settings in self._settings.values())
        self.told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if differences else None
        for name, settings in self._settings.items():
            timeout = min(settings.timeout_seconds, config.export.timeout_seconds)
            spool = (
                Spool(
                    Path(directory) / name,
                    config.export.spool.max_bytes,
                    config.export.spool.sync,
                    # A pipeline whose supervisor was killed holds the folder until its last export is over.
                    wait_seconds=config.export.shutdown_seconds + 1,
                )
                if directory is not None
                else None
            )
            self._sinks[name] = OtlpSink(
                name, structs.replace(settings, timeout_seconds=timeout), resource, spool=spool
            )
            if self.told is not None:
                self._sinks[name].on_base = functools.partial(os.eventfd_write, self.told, 1)

    def start(self) -> None:
        """Begins to send."""
        for sink in self._sinks.values():
            sink.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Hands a snapshot to every receiver that takes metrics; never blocks."""
        for sink in self._sinks.values():
            sink.offer(snapshot)

    def offer_restored(self, snapshot: Snapshot) -> None:
        """Hands over what an earlier process knew when it ended: what it had saved and may not have told.

        Where differences are sent, metrics that are not of the saved state stay as they were told: they have not ended.
        """
        for sink in self._sinks.values():
            base = sink.base
            known = {} if base is None else base.points
            sink.offer(Snapshot(snapshot.time_unix_nano, {**known, **snapshot.points}))

    def offer_spans(self, batch: SpanBatch) -> None:
        """Hands spans to every receiver that takes traces; never blocks."""
        for sink in self._sinks.values():
            sink.offer_spans(batch)

    def offer_events(self, events: Sequence[Event]) -> None:
        """Hands events to every receiver that takes logs; never blocks."""
        for sink in self._sinks.values():
            sink.offer_events(events)

    def send_now(self) -> None:
        """Lets nothing wait for more of its kind or for the next try; never blocks."""
        for sink in self._sinks.values():
            sink.send_now()

    def shutdown(self, seconds: float) -> None:
        """Sends what waits, then stops; what is not sent by then is counted as dropped or stays in its spool."""
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=sink.shutdown, args=(seconds,), name=f"otlp-{name}-end", daemon=True)
            for name, sink in self._sinks.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()) + 0.5)  # each keeps to the time by itself
        for name, sink in self._sinks.items():
            stats = sink.stats()
            _log.info(
                "otlp.stopped",
                destination=name,
                delivered=stats["points_delivered"],
                dropped=stats["points_dropped"],
                pending=stats["points_pending"],
            )

    def endpoints(self) -> dict[str, str]:
        """Where each receiver is, without credentials."""
        return {name: sink.stats()["endpoint"] for name, sink in self._sinks.items()}

    def status(self) -> ExportStatus:
        """The receivers' part of /status."""
        status: ExportStatus = {}
        rows = {name: sink.stats() for name, sink in self._sinks.items()}
        first = rows.pop(FIRST_DESTINATION, None)
        if first is not None:
            status["otlp"] = first
        if rows:
            status["destinations"] = rows
        return status

    def stages(self) -> dict[tuple[str, str, str], StageStatus]:
        """Items delivered and dropped by destination, stage (queue, spool, export) and signal."""
        return {
            (name, stage, signal): status
            for name, sink in self._sinks.items()
            for (stage, signal), status in sink.stages().items()
        }

    def take_attempts(self) -> Iterator[tuple[dict[str, Value], float]]:
        """The attempts since the last call: attributes of otel.sdk.exporter.operation.duration, and seconds."""
        for name, sink in self._sinks.items():
            settings = self._settings[name]
            way = "grpc" if settings.protocol == "grpc" else "http"
            for attempt in sink.take_attempts():
                attributes: dict[str, Value] = {
                    "otel.component.name": name,
                    "otel.component.type": f"otlp_{way}_{_ITEMS[attempt.signal]}_exporter",
                }
                status = attempt.outcome.status
                if status:
                    if way == "grpc":
                        attributes["rpc.response.status_code"] = status
                    else:
                        attributes["http.response.status_code"] = int(status)
                if attempt.outcome.kind != "delivered":
                    attributes["error.type"] = attempt.outcome.reason
                yield attributes, attempt.seconds

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on where differences are sent."""
        return {
            f"otlp.{name}": snapshot_state(base)
            for name, sink in self._sinks.items()
            if (base := sink.base) is not None
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before ``start``."""
        for name, sink in self._sinks.items():
            if self._settings[name].temporality != "cumulative" and f"otlp.{name}" in state:
                sink.resume(restored_snapshot(state[f"otlp.{name}"]))
