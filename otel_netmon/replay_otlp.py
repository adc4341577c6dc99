"""A capture to a collector: the same analysis and the same points as a live agent's, sent once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.analysis.roles import ephemeral_ports
from otel_netmon.analysis.traffic import Traffic
from otel_netmon.config.checks import FIRST_DESTINATION
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.errors import NetmonError
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.otel import protocols
from otel_netmon.otel.flows import FlowPoints
from otel_netmon.otel.points import Point, Points, Snapshot
from otel_netmon.otel.resource import build_resource
from otel_netmon.readers.flows import FlowReading
from otel_netmon.replay import Session
from otel_netmon.selfmon import logging
from otel_netmon.selfmon.status import OtlpStatus


def send(path: str, config: Config) -> tuple[OtlpStatus, list[dict[str, Any]]]:
    """Sends what a capture holds as netmon.flow.* and netmon.protocol.*.

    Gives what became of the points, and the faults of the file. Bytes are layer-2 bytes, network.interface.name is the name of the file, times are those of the capture.

    Raises:
        CaptureError, PrivilegeError, KernelLacksError: see ``Session``.
        ConfigError: see ``OtlpSink``.
        NetmonError: the collector did not take everything.
    """
    logging.configure(config.log.level, config.log.format)
    session = Session(
        path, Path(config.images.directory), decapsulate=config.probes.flows.decapsulate, ip_lengths=False
    )
    try:
        snapshot = _snapshot(session, "-" if path == "-" else Path(path).name, config.flows.top_k)
    finally:
        session.close()
    sink = OtlpSink(FIRST_DESTINATION, config.otlp, build_resource(config.resource.attributes))
    sink.start()
    sink.offer(snapshot)
    sink.flush(config.export.timeout_seconds)
    sink.shutdown(config.export.shutdown_seconds)
    stats = sink.stats()
    if stats["points_delivered"] != stats["points_offered"]:
        raise NetmonError(
            f"{stats['endpoint']} took {stats['points_delivered']} of {stats['points_offered']} points: {stats['last_error']}",
            "check the endpoint (--otlp-endpoint) and send again",
        )
    return stats, session.faults


def _snapshot(session: Session, name: str, top_k: int) -> Snapshot:
    keys, values = session.flows()
    rows, counters = session.rows()
    start, end = session.first_ns, session.last_ns
    traffic = Traffic(top_k, start, ephemeral_ports())
    nothing = np.empty(0, layout.FLOW_KEY), np.empty(0, layout.FLOW)
    reading = FlowReading(keys, values, *nothing, rows, counters, np.zeros((), layout.STATE), end)
    series = traffic.update(reading, {}, end)
    names = InterfaceNames()
    for key in traffic.totals.counted:
        names.set_name(key.namespace, key.ifindex, name)
    by_protocol = protocols.protocol_points(traffic.totals.counted, names, "netmon.protocol")
    unparsed = by_protocol["netmon.protocol.unparsed"]
    points: dict[str, Points] = {**by_protocol}
    points |= FlowPoints().points(series)
    refused = [
        Point(
            {"network.interface.name": name, "network.io.direction": "receive", "netmon.reason": reason}, count, start
        )
        for reason, count in sorted(session.refused.items())
    ]
    points["netmon.protocol.unparsed"] = [*unparsed, *refused]
    return Snapshot(end, points)
