"""otel-netmon explain --series: the budget, the attribute that explodes, and what to set."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from otel_netmon.cli import explain, explain_routes
from otel_netmon.cli.main import main
from otel_netmon.config.keys import KEYS
from otel_netmon.selfmon import status

HOSTILE = "x\x1b[2J\u202e\n"


def family(name: str = "flows", **parts: Any) -> Any:
    """A family of 1,000 distinct attribute sets that are told apart by the client's address."""
    attributes = [
        {"key": "server.port", "distinct": 12, "share": 0.012},
        {"key": "client.address", "distinct": 990, "share": 0.99},
        {"key": "network.transport", "distinct": 2, "share": 0.002},
    ]
    built = {"name": name, "metrics": ["netmon.flow.io", "netmon.flow.packets"], "active": 204, "limit": 204}
    return {**built, "folded": 898, "weight": 8.0, "attributes": attributes, **parts}


def attributes(**shares: float) -> list[dict[str, Any]]:
    """Attributes of a family with 1,000 sets."""
    names = {"client": "client.address", "server": "server.address", "interface": "network.interface.name"}
    return [
        {"key": names.get(key, key), "distinct": round(1000 * share), "share": share} for key, share in shares.items()
    ]


def budget(*families: Any, limit: int = 10_000, active: int | None = None) -> Any:
    used = sum(each["active"] for each in families)
    return {
        "active": used if active is None else active,
        "limit": limit,
        "idle_seconds": 300.0,
        "families": list(families),
    }


def routes(**parts: Any) -> Any:
    """What an agent tells of the routes of HTTP."""
    learned = [{"template": "/users/{number}", "requests": 12345}, {"template": "/", "requests": 7}]
    built = {"rules": ["GET /users/{id}"], "learning": True, "limit": 256, "refused": 0, "learned": learned}
    return {**built, **parts}


@contextmanager
def agent(series: Any = None, known_routes: Any = None) -> Iterator[str]:
    """A server on loopback whose /status has this budget and these routes; None leaves them out."""
    built = status.build(
        uptime_seconds=1.0,
        interval_seconds=10.0,
        probes=[],
        stages={},
        interfaces=[],
        flows={"live": 0, "capacity": 1, "top": []},
        export={},
        series=series,
        routes=known_routes,
    )
    assert status.problems(built) == []
    body = json.dumps(built).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/status" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """Nothing goes to the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("told", "exploding"),
    [
        (attributes(client=0.99, server=0.01), ("client.address",)),
        # Alone by its share of the sets, although a quarter of its values is just not exceeded by another one.
        (attributes(client=0.5, server=0.125), ("client.address",)),
        # Half of the limit, 102 series for two metrics, are 51 values: below it, far apart or not, nothing explodes.
        (attributes(client=0.051, server=0.05), ()),
        (attributes(client=0.052, server=0.05), ("client.address",)),
        (attributes(server=0.6, client=0.7), ("client.address", "server.address")),
        (attributes(client=0.0), ()),
        ([], ()),
    ],
)
def test_which_attribute_explodes(told: Any, exploding: tuple[str, ...]) -> None:
    assert explain.exploding(family(attributes=told)) == exploding


@pytest.mark.parametrize(
    ("told", "exploding"),
    [
        (attributes(client=0.5, server=0.126), ()),
        (attributes(client=0.49, server=0.01), ()),
        (attributes(client=0.5, server=0.125), ("client.address",)),
    ],
)
def test_far_lower_is_needed_to_explode_below_the_limit(told: Any, exploding: tuple[str, ...]) -> None:
    assert explain.exploding(family(limit=100_000, attributes=told)) == exploding


def test_while_there_is_room_nothing_is_said() -> None:
    assert explain.verdicts_of(budget(family(folded=0))) == []
    assert explain.verdicts_of(budget(family(folded=0), active=5_000)) == []
    found = explain.verdicts_of(budget(family(folded=0), active=5_001))
    assert [verdict.exploding for verdict in found] == [("client.address",)]
    assert explain.verdicts_of(budget(family(folded=0, attributes=[]), active=5_001)) == []


def test_top_k_bounds_flows_while_the_budget_has_room() -> None:
    (verdict,) = explain.verdicts_of(budget(family()))
    assert verdict.reason == "client.address explodes: about 990 values in 1,000 sets, the others at most 12"
    assert [key for key, _ in verdict.remedies] == ["flows.top_k"]


def test_a_full_budget_can_grow() -> None:
    (verdict,) = explain.verdicts_of(budget(family(), limit=205))
    assert [key for key, _ in verdict.remedies] == ["limits.series", "flows.top_k", "limits.series_idle_seconds"]


def test_interfaces_can_be_left_out() -> None:
    told = attributes(interface=0.9, direction=0.002)
    interfaces = family("interfaces", metrics=["system.network.io"], attributes=told)
    (verdict,) = explain.verdicts_of(budget(interfaces))
    assert [key for key, _ in verdict.remedies] == [
        "interfaces.exclude",
        "limits.series",
        "limits.series_idle_seconds",
    ]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            attributes(client=0.03, server=0.02),
            "no attribute alone explodes, it is how they combine, client.address with server.address most",
        ),
        (
            attributes(client=0.7, server=0.6),
            "client.address and server.address explode: each has values for more than half of the limit",
        ),
        (attributes(client=0.9), "client.address explodes: about 900 values in 1,000 sets"),
        ([], "898 attribute sets have no place in its 204 series"),
    ],
)
def test_reasons(told: Any, reason: str) -> None:
    (verdict,) = explain.verdicts_of(budget(family(attributes=told)))
    assert verdict.reason == reason


def test_every_remedy_is_a_key_of_the_configuration() -> None:
    families = [family(), family("interfaces", metrics=["x"], attributes=attributes(interface=0.9))]
    for limit in (1, 10_000):
        for verdict in explain.verdicts_of(budget(*families, limit=limit)):
            assert verdict.remedies
            assert {key for key, _ in verdict.remedies} <= set(KEYS)


def test_sets_are_those_told_or_counted() -> None:
    assert explain.attribute_sets(family()) == 1000
    assert explain.attribute_sets(family(attributes=[])) == 204 // 2 + 898


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    other = family("interfaces", metrics=["system.network.io"], active=24, limit=24, folded=0, weight=4, attributes=[])
    with agent(budget(family(), other)) as url:
        assert main(["explain", "--series", "--url", url]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [" ".join(line.split()) for line in captured.out.splitlines()] == [
        "228 of 10,000 series are in use (limits.series)",
        "898 attribute sets of the last cycle have no series of their own",
        "a series that has not changed for 5 min 0 s ends (limits.series_idle_seconds)",
        "",
        "family active limit folded weight metrics",
        "flows 204 204 898 8 netmon.flow.io netmon.flow.packets",
        "interfaces 24 24 0 4 system.network.io",
        "",
        "flows: distinct values, of about 1,000 attribute sets",
        "attribute about share",
        "client.address 990 99 % exploding",
        "server.port 12 1 %",
        "network.transport 2 0 %",
        "",
        "flows: client.address explodes: about 990 values in 1,000 sets, the others at most 12",
        "flows.top_k is what bounds this family: a larger one exports more flows one by one",
        explain.EXACT,
    ]


def test_enough_room(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(budget(family(folded=0))) as url:
        assert main(["explain", "--series", "--url", url]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "Every attribute set has its series, and there is room."
    assert "exploding" not in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    series = budget(family())
    with agent(series) as url:
        assert main(["explain", "--series", "--json", "--url", url]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "series": series,
        "verdicts": [
            {
                "family": "flows",
                "exploding": ["client.address"],
                "reason": "client.address explodes: about 990 values in 1,000 sets, the others at most 12",
                "remedies": [
                    {
                        "key": "flows.top_k",
                        "effect": "is what bounds this family: a larger one exports more flows one by one",
                    }
                ],
            }
        ],
    }


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour_only_where_it_is_wanted(
    no_color: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    explain.print_page(budget(family(), family("full", folded=0, attributes=[])))
    out = capsys.readouterr().out
    assert ("\x1b[31mflows: client.address explodes" in out) == (not no_color)
    assert ("\x1b" in out) == (not no_color)


def test_what_an_agent_tells_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = [{"key": HOSTILE, "distinct": 990, "share": 0.99}]
    explain.print_page(budget(family(HOSTILE, metrics=[HOSTILE], attributes=told)))
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert len(re.findall(re.escape("x\\x1b[2J\\x202e\\x0a"), out)) == 6


def test_without_a_subject_it_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 2
    assert capsys.readouterr() == (
        "",
        "otel-netmon: error: say what to explain: --series or --routes; see otel-netmon explain --help\n",
    )


def test_nobody_answers(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--series", "--url", f"http://127.0.0.1:{free_port}"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"no agent answers at http://127.0.0.1:{free_port}: " in captured.err


def test_an_agent_without_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(None) as url:
        assert main(["explain", "--series", "--json", "--url", url]) == 1
    assert capsys.readouterr().err == (
        f"otel-netmon: error: the agent at {url} tells nothing of its series; it is an older version, update it\n"
    )


# ---------------------------------------------------------------------------------------------------------------- routes
def test_the_page_of_routes(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(known_routes=routes(refused=23)) as url:
        assert main(["explain", "--routes", "--url", url]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [" ".join(line.split()) for line in captured.out.splitlines()] == [
        "1 rules (probes.http.routes), the one that fits best counts",
        "GET /users/{id}",
        "",
        "2 of 256 templates learned",
        "template requests",
        "/users/{number} 12,345",
        "/ 7",
        f"23 {explain_routes.FULL}",
    ]


def test_routes_that_are_not_learned(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(known_routes=routes(learning=False, learned=[], rules=[HOSTILE])) as url:
        assert main(["explain", "--routes", "--url", url]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == explain_routes.OFF
    assert out.replace("\n", "").isprintable()


def test_routes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(known_routes=routes()) as url:
        assert main(["explain", "--routes", "--json", "--url", url]) == 0
    assert json.loads(capsys.readouterr().out) == routes()


def test_an_agent_that_knows_no_routes(capsys: pytest.CaptureFixture[str]) -> None:
    with agent(budget()) as url:
        assert main(["explain", "--routes", "--url", url]) == 1
    assert "tells nothing of routes" in capsys.readouterr().err
