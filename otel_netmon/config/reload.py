"""What a new configuration changes in a running agent. Pure: two configurations in, a plan out.

The supervisor calls ``attempt`` on SIGHUP. A broken file keeps the old configuration; a good one is compared key by key, and each
changed key says how far the change reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from otel_netmon.config.keys import ORDER, Group
from otel_netmon.config.load import Loaded
from otel_netmon.config.model import Config
from otel_netmon.config.origins import members_of, value_of
from otel_netmon.config.values import Key, Value
from otel_netmon.errors import ConfigError


class Reach(IntEnum):
    """How far a change reaches; a plan does what its farthest change needs."""

    NOTHING = 0
    """Nothing to do."""
    LIVE = 1
    """The running processes take it over: attach and detach interfaces. No count is lost."""
    PIPELINE = 2
    """The pipeline process starts anew with the same maps: programs stay attached, the kernel's cumulative counts stay."""
    PROGRAMS = 3
    """Programs are loaded anew with other constants or maps: counts begin at zero, as after a restart."""


_REACH: dict[str, Reach] = {
    "interfaces": Reach.LIVE,
    "probes.flows": Reach.PROGRAMS,
    "probes.flows.idle_seconds": Reach.PIPELINE,
    "probes.xdp": Reach.PROGRAMS,
    "probes.interfaces": Reach.PIPELINE,
    "probes.dns": Reach.PROGRAMS,
    "probes.dns.timeout_seconds": Reach.PIPELINE,
    "probes.dns.name_labels": Reach.PIPELINE,
    "probes.connections": Reach.PROGRAMS,
    "probes.connections.compare_seconds": Reach.PIPELINE,
    "probes.connections.reset_burst_per_second": Reach.PIPELINE,
    "probes.connections.connect_failures_per_second": Reach.PIPELINE,
    "probes.netstat": Reach.PIPELINE,
    "probes.drops": Reach.PROGRAMS,
    "probes.tls": Reach.PIPELINE,
    "probes.tls.enabled": Reach.PROGRAMS,
    "probes.tls.handshake_bytes": Reach.PROGRAMS,
    "probes.http": Reach.PIPELINE,
    "probes.http.enabled": Reach.PROGRAMS,
    "probes.tls_plaintext": Reach.PROGRAMS,
    "spans": Reach.PIPELINE,
    "flows": Reach.PIPELINE,
    "messages": Reach.PROGRAMS,
    "limits": Reach.PIPELINE,
    "export": Reach.PIPELINE,
    "otlp": Reach.PIPELINE,
    "prometheus": Reach.PIPELINE,
    "resource": Reach.PIPELINE,
    "images": Reach.LIVE,  # the next load uses them
    "log": Reach.PIPELINE,
}


class Change(NamedTuple):
    """One key with another value. ``old`` and ``new`` may be secrets: log ``key`` only where it says so.

    A section of a group that came or went (``otlp.destinations.backup``) is one change, with None for both values.
    """

    key: str
    old: Value
    new: Value
    reach: Reach
    secret: bool


class Plan(NamedTuple):
    """All changes between two configurations, in the order of the model."""

    changes: tuple[Change, ...]

    @property
    def reach(self) -> Reach:
        """The farthest reach of all changes; ``NOTHING`` when there are none."""
        return max((change.reach for change in self.changes), default=Reach.NOTHING)

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections with a change: ``interfaces``, ``probes.flows``."""
        return tuple(dict.fromkeys(change.key.rpartition(".")[0] for change in self.changes))

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys that changed."""
        return tuple(change.key for change in self.changes)


class Attempt(NamedTuple):
    """The outcome of a reload.

    Attributes:
        loaded: what is in effect from now on: the new configuration, or the old one when ``error`` is set.
        plan: what changed; empty when ``error`` is set.
        error: why the new configuration was refused, or None.
    """

    loaded: Loaded
    plan: Plan
    error: ConfigError | None


def compare(old: Config, new: Config) -> Plan:
    """What has to be done to get from one configuration to the other."""
    changes: list[Change] = []
    for _, item in ORDER:
        if isinstance(item, Key):
            changes += _change(item, old, new)
        elif isinstance(item, Group):
            before, after = members_of(old, item), members_of(new, item)
            for member in sorted({*before, *after}):
                if member in before and member in after:
                    changes += [change for key in item.keys_of(member) for change in _change(key, old, new)]
                else:
                    name = f"{item.name}.{member}"
                    changes.append(Change(name, None, None, reach_of(name), secret=False))
    return Plan(tuple(changes))


def _change(key: Key, old: Config, new: Config) -> list[Change]:
    before, after = value_of(old, key.name), value_of(new, key.name)
    return [] if before == after else [Change(key.name, before, after, reach_of(key.name), key.secret)]


def reach_of(name: str) -> Reach:
    """How far a change of this dotted key reaches: the entry of the key itself or of its nearest section."""
    while name not in _REACH:
        name = name.rpartition(".")[0]
    return _REACH[name]


def attempt(current: Loaded, read: Callable[[], Loaded]) -> Attempt:
    """Read the configuration again and compare.

    Args:
        current: what is in effect.
        read: reads all sources again, for example ``partial(load, …)`` with the arguments of the start.
    """
    try:
        loaded = read()
    except ConfigError as error:
        return Attempt(current, Plan(()), error)
    return Attempt(loaded, compare(current.config, loaded.config), None)
