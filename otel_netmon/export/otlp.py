"""Snapshots to a collector by OTLP, on a thread of its own so that a slow or absent collector delays nothing.

Values are cumulative: a snapshot that was not delivered is made good by the next one, and a newer snapshot replaces one that still
waits. Every point is accounted for: offered = delivered + dropped by reason + pending.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import structlog
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from otel_netmon.config.checks import mask_userinfo
from otel_netmon.config.model import Otlp
from otel_netmon.export import otlp_transport
from otel_netmon.export.otlp_transport import Observer
from otel_netmon.otel import metrics_data
from otel_netmon.otel.points import Snapshot
from otel_netmon.selfmon.status import OtlpStatus

_log = structlog.get_logger(__name__)

MAX_POINTS_PER_REQUEST = 8192
"""Some 1.5 MB: a gRPC receiver takes 4 MiB by default, an HTTP receiver 20 MiB."""


class OtlpSink:
    """Sends snapshots to one collector.

    Args:
        settings: the configuration's ``otlp`` section.
        resource: the agent's resource.
        max_points_per_request: a larger snapshot goes out in several requests.

    Raises:
        ConfigError: the settings name something that cannot be used.
    """

    def __init__(
        self, settings: Otlp, resource: Resource, *, max_points_per_request: int = MAX_POINTS_PER_REQUEST
    ) -> None:
        self._settings = settings
        self._resource = resource
        self._max_points = max_points_per_request
        self._target = otlp_transport.target_of(settings)
        otlp_transport.check_tls_files(settings)
        self._observer = Observer()
        self._exporter: MetricExporter | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._waiting: Snapshot | None = None
        self._waiting_points = 0
        self._exporting_points = 0
        self._offered = 0
        self._delivered = 0
        self._dropped: Counter[str] = Counter()
        self._offered_snapshots = 0
        self._finished_snapshots = 0
        self._delivered_snapshots = 0
        self._last_error: str | None = None
        self._last_success: int | None = None
        self._stopping = False
        self._abandoned = threading.Event()
        self._state = "starting"

    def start(self) -> None:
        """Build the exporter and begin to send. A collector that is absent is tried again with every snapshot."""
        otlp_transport.route_stock_logs()
        if self._settings.protocol == "grpc":
            from otel_netmon.export import otlp_grpc as transport
        else:
            from otel_netmon.export import otlp_http as transport  # type: ignore[no-redef]
        exporter = transport.build(self._settings, self._target, self._observer)
        self._exporter = exporter
        self._thread = threading.Thread(target=self._work, args=(exporter,), name="otlp", daemon=True)
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot; never blocks. One that still waits is replaced and counted as ``superseded``."""
        points = metrics_data.count_points(snapshot)
        with self._changed:
            self._offered += points
            if self._stopping:
                self._dropped["shutdown"] += points
                return
            if self._waiting is not None:
                self._dropped["superseded"] += self._waiting_points
            self._waiting, self._waiting_points = snapshot, points
            self._offered_snapshots += 1
            self._changed.notify_all()

    def flush(self, deadline_s: float) -> bool:
        """Wait until the newest snapshot has been sent.

        Returns:
            Whether the collector took it within ``deadline_s`` seconds.
        """
        with self._changed:
            newest = self._offered_snapshots
            self._changed.wait_for(lambda: self._finished_snapshots >= newest or self._abandoned.is_set(), deadline_s)
            return self._delivered_snapshots >= newest

    def shutdown(self, deadline_s: float) -> None:
        """Send what waits, then stop; returns within ``deadline_s`` seconds. What is not sent by then is counted as dropped."""
        deadline = time.monotonic() + deadline_s
        with self._changed:
            if self._abandoned.is_set():
                return
            self._stopping = True
            self._changed.notify_all()
        if self._exporter is None or self._thread is None:
            self._abandon()
            return
        # The stock exporter waits between its tries; its own shutdown ends that wait, for which a little time is kept.
        self._thread.join(deadline_s - min(0.5, deadline_s / 4))
        self._abandon()
        self._exporter.shutdown()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def stats(self) -> OtlpStatus:
        """A consistent copy of all counts."""
        with self._changed:
            return OtlpStatus(
                endpoint=mask_userinfo(self._target),
                protocol=self._settings.protocol,
                points_offered=self._offered,
                points_delivered=self._delivered,
                points_dropped=dict(self._dropped),
                points_pending=self._waiting_points + self._exporting_points,
                requests=self._observer.requests,
                last_error=self._last_error,
                last_success_unix_nano=self._last_success,
            )

    def _work(self, exporter: MetricExporter) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._stopping)
                snapshot = self._waiting
                if snapshot is None or self._abandoned.is_set():
                    return
                number = self._offered_snapshots
                self._exporting_points, self._waiting, self._waiting_points = self._waiting_points, None, 0
            complete = True
            for points, data in metrics_data.batches(snapshot, self._resource, self._max_points):
                complete &= self._send(exporter, points, data)
            with self._changed:
                self._finished_snapshots = number
                if complete:
                    self._delivered_snapshots = number
                self._changed.notify_all()

    def _send(self, exporter: MetricExporter, points: int, data: MetricsData) -> bool:
        """Send one request's worth and account for it; whether the collector took it."""
        if self._abandoned.is_set():
            return False  # its points were counted when it was abandoned
        self._observer.reset()
        try:
            taken = exporter.export(data) is MetricExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever a snapshot does to the encoder, the next one is sent; told below
            _log.exception("otlp.export_raised", error=repr(error))
            self._observer.raised(error)
            taken = False
        failure: tuple[str, str] | None = self._observer.failure
        if failure is None and not taken:
            failure = ("internal", "the exporter failed although the collector took the request")
        with self._changed:
            if self._abandoned.is_set():
                return False
            self._exporting_points -= points
            if failure is None:
                rejected = min(self._observer.rejected, points)
                self._delivered += points - rejected
                if rejected:
                    self._dropped["rejected"] += rejected
                self._last_success = time.time_ns()
            else:
                self._dropped[failure[0]] += points
                self._last_error = f"{failure[0]}: {failure[1]}"
        self._report(failure)
        return failure is None

    def _report(self, failure: tuple[str, str] | None) -> None:
        """Log once when the state changes, never for each request."""
        state = (
            "failing" if failure else "warned" if self._observer.rejected or self._observer.message else "delivering"
        )
        if state == self._state:
            return
        self._state = state
        where = {"endpoint": mask_userinfo(self._target), "protocol": self._settings.protocol}
        if failure:
            _log.warning("otlp.failing", reason=failure[0], detail=failure[1], **where)
        elif state == "warned":
            _log.warning("otlp.rejected", points=self._observer.rejected, message=self._observer.message, **where)
        else:
            _log.info("otlp.delivering", **where)

    def _abandon(self) -> None:
        """Count what is under way or waits as dropped; the thread counts nothing any more."""
        with self._changed:
            self._abandoned.set()
            left = self._waiting_points + self._exporting_points
            self._waiting, self._waiting_points, self._exporting_points = None, 0, 0
            if left:
                self._dropped["shutdown"] += left
            self._changed.notify_all()
