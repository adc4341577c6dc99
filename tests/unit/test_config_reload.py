"""What a new configuration changes in a running agent."""

from __future__ import annotations

import msgspec
import pytest

from otel_netmon.config.keys import GROUPS, KEYS
from otel_netmon.config.load import Loaded, load
from otel_netmon.config.model import Config
from otel_netmon.config.reload import Reach, attempt, compare, reach_of
from otel_netmon.errors import ConfigError


def config(*sets: str) -> Config:
    return load(None, {}, sets, {}, "/nonexistent").config


def test_no_change_needs_nothing() -> None:
    plan = compare(config(), config())
    assert (plan.changes, plan.reach, plan.sections) == ((), Reach.NOTHING, ())


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("interfaces.include=eth0", Reach.LIVE),
        ("images.directory=/x", Reach.LIVE),
        ("flows.top_k=1", Reach.PIPELINE),
        ("limits.series=100", Reach.PIPELINE),
        ("limits.series_idle_seconds=1", Reach.PIPELINE),
        ("export.spool.directory=/x", Reach.PIPELINE),
        ("otlp.signals=traces", Reach.PIPELINE),
        ("otlp.headers.a=b", Reach.PIPELINE),
        ("log.level=debug", Reach.PIPELINE),
        ("probes.flows.idle_seconds=5", Reach.PIPELINE),
        ("probes.interfaces.enabled=false", Reach.PIPELINE),
        ("probes.flows.table_entries=9", Reach.PROGRAMS),
        ("probes.flows.decapsulate=true", Reach.PROGRAMS),
        ("probes.xdp.enabled=true", Reach.PROGRAMS),
    ],
)
def test_one_change(text: str, reach: Reach) -> None:
    name = text.partition("=")[0].removesuffix(".a")
    plan = compare(config(), config(text))
    assert plan.keys == (name,)
    assert plan.reach == reach
    assert plan.changes[0].secret == (name == "otlp.headers")


def test_the_farthest_change_decides() -> None:
    plan = compare(
        config(), config("interfaces.include=a", "flows.top_k=1", "probes.xdp.mode=native", "log.level=debug")
    )
    assert plan.keys == ("interfaces.include", "probes.xdp.mode", "flows.top_k", "log.level")
    assert plan.sections == ("interfaces", "probes.xdp", "flows", "log")
    assert plan.reach == Reach.PROGRAMS
    assert plan.changes[2][:3] == ("flows.top_k", 100, 1)


def test_destinations_come_change_and_go() -> None:
    def with_destinations(**endpoints: str) -> Config:
        return config(*(f"otlp.destinations.{name}.endpoint={url}" for name, url in endpoints.items()))

    old = with_destinations(gone="http://g", moved="http://m", same="http://s")
    new = with_destinations(moved="http://n", same="http://s", added="http://a")
    plan = compare(old, new)
    start = "otlp.destinations."
    assert plan.keys == (f"{start}added", f"{start}gone", f"{start}moved.endpoint")
    assert plan.changes[2][:3] == (f"{start}moved.endpoint", "http://m", "http://n")
    assert plan.reach == Reach.PIPELINE
    assert compare(new, new).changes == ()


def test_every_key_has_a_reach() -> None:
    for name in [*KEYS, *(f"{group}.x" for group in GROUPS)]:
        assert reach_of(name) in (Reach.LIVE, Reach.PIPELINE, Reach.PROGRAMS)


def test_a_broken_file_keeps_the_old_configuration() -> None:
    current = load(None, {}, ["flows.top_k=7"], {}, "/nonexistent")

    def broken() -> Loaded:
        return load(None, {}, ["flows.top_k=x"], {}, "/nonexistent")

    outcome = attempt(current, broken)
    assert outcome.loaded is current
    assert outcome.plan.changes == ()
    assert isinstance(outcome.error, ConfigError)
    assert "flows.top_k" in str(outcome.error)


def test_a_good_file_is_compared() -> None:
    current = Loaded(Config(), {}, (), None)
    new = Loaded(msgspec.structs.replace(Config(), flows=config("flows.top_k=1").flows), {}, (), None)
    outcome = attempt(current, lambda: new)
    assert (outcome.loaded, outcome.error, outcome.plan.keys) == (new, None, ("flows.top_k",))
