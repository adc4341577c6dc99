"""The /status document and its validator."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from otel_netmon import __version__
from otel_netmon.selfmon import status

RATES: status.DirectionStatus = {
    "packets": 1,
    "bytes": 64,
    "skb_packets": 1,
    "skb_bytes": 64,
    "wire_packets": 1,
    "wire_bytes": 64,
    "packets_per_second": 0.5,
    "bytes_per_second": 32.0,
    "coverage": None,
}


NONE: status.SignalStatus = {"offered": 0, "delivered": 0, "dropped": {}, "pending": 0}

RECEIVER: status.OtlpStatus = {
    "name": "backup",
    "endpoint": "http://127.0.0.1:4318",
    "protocol": "http/protobuf",
    "state": "failing",
    "points_offered": 9,
    "points_delivered": 5,
    "points_dropped": {"superseded": 4},
    "points_pending": 0,
    "spans": NONE,
    "log_records": NONE,
    "queue_bytes": 1,
    "spool": {
        "directory": "/s",
        "bytes": 1,
        "max_bytes": 2,
        "records": 1,
        "oldest_unix_nano": None,
        "dropped": {"evicted": 1},
    },
    "requests": 1,
    "last_error": "refused",
    "last_success_unix_nano": None,
}


def document() -> Any:
    """A whole document, as JSON gives it back."""
    built = status.build(
        uptime_seconds=1.23456,
        interval_seconds=10.0,
        probes=[{"name": "xdp", "state": "off", "reason": "not_enabled", "detail": "probes.xdp.enabled is false"}],
        stages={"export": {"delivered": 7, "dropped": {"superseded": 3}}},
        interfaces=[
            {
                "name": "eth0",
                "index": 2,
                "namespace": "",
                "kind": "veth",
                "edge": True,
                "hooks": {"tc_ingress": "tcx"},
                "receive": RATES,
                "transmit": {**RATES, "coverage": 1.0},
            }
        ],
        flows={
            "live": 1,
            "capacity": 65536,
            "top": [
                {
                    "client": "10.0.0.1",
                    "server": "10.0.0.2",
                    "port": None,
                    "transport": "icmp",
                    "direction": "receive",
                    "bytes_per_second": 1.0,
                    "packets_per_second": 1,
                    "bytes": 1,
                    "packets": 1,
                }
            ],
        },
        export={"prometheus": {"listen": "127.0.0.1:9464"}, "destinations": {"backup": RECEIVER}},
        series={
            "active": 204,
            "limit": 10_000,
            "idle_seconds": 300.0,
            "families": [
                {
                    "name": "flows",
                    "metrics": ["netmon.flow.io", "netmon.flow.packets"],
                    "active": 204,
                    "limit": 204,
                    "folded": 3120,
                    "weight": 8.0,
                    "attributes": [{"key": "client.address", "distinct": 3100, "share": 0.98}],
                }
            ],
        },
    )
    return json.loads(json.dumps(built))


def test_a_built_document_keeps_to_its_type() -> None:
    assert status.problems(document()) == []
    assert (document()["version"], document()["uptime_seconds"]) == (__version__, 1.235)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["version"], 1, "status.version: 1 is not str"),
        (["uptime_seconds"], "1", "status.uptime_seconds: '1' is not float"),
        (["uptime_seconds"], float("nan"), "status.uptime_seconds: nan is not float"),
        (["uptime_seconds"], True, "status.uptime_seconds: True is not float"),
        (["probes", 0, "state"], "fine", "status.probes[0].state: 'fine' is none of 'ok', 'degraded', 'off'"),
        (["probes"], {}, "status.probes: {} is not list"),
        (["stages", "export", "dropped", "superseded"], 1.5, "status.stages.export.dropped.superseded: 1.5 is not int"),
        (["stages"], [], "status.stages: [] is not dict"),
        (["interfaces", 0, "edge"], 1, "status.interfaces[0].edge: 1 is not bool"),
        (["interfaces", 0, "index"], True, "status.interfaces[0].index: True is not int"),
        (["interfaces", 0, "receive"], None, "status.interfaces[0].receive: None is no object"),
        (
            ["interfaces", 0, "transmit", "coverage"],
            "all",
            "status.interfaces[0].transmit.coverage: 'all' is not float",
        ),
        (["flows", "top", 0, "port"], "80", "status.flows.top[0].port: '80' is not int"),
        (["export", "otlp"], {}, "status.export.otlp.endpoint: missing"),
        (["surprise"], 1, "status.surprise: unknown"),
        (["series"], None, "status.series: None is no object"),
        (["series", "families", 0, "folded"], 1.5, "status.series.families[0].folded: 1.5 is not int"),
        (["series", "families", 0, "attributes", 0], {}, "status.series.families[0].attributes[0].distinct: missing"),
        (
            ["export", "destinations", "backup", "state"],
            "fine",
            "status.export.destinations.backup.state: 'fine' is none of 'starting', 'delivering', 'failing', 'rejected'",
        ),
        (
            ["export", "destinations", "backup", "spans", "dropped"],
            1,
            "status.export.destinations.backup.spans.dropped: 1 is not dict",
        ),
        (
            ["export", "destinations", "backup", "spool", "bytes"],
            "1",
            "status.export.destinations.backup.spool.bytes: '1' is not int",
        ),
    ],
)
def test_every_departure_is_found_with_its_path(path: list[Any], value: object, problem: str) -> None:
    wrong = copy.deepcopy(document())
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert status.problems(wrong)[0] == problem


def test_an_agent_without_a_budget_of_series_is_understood() -> None:
    older = document()
    del older["series"]
    assert status.problems(older) == []
    older["export"]["destinations"]["backup"]["spool"] = None
    assert status.problems(older) == []


def test_a_missing_key_is_found() -> None:
    wrong = document()
    del wrong["flows"]["live"]
    assert status.problems(wrong) == ["status.flows.live: missing"]
    assert status.problems([]) == ["status: [] is no object"]
