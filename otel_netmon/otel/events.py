"""What happens to the agent itself as events: a probe that changes its state, detail that is shed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.spans import Event, Severity
from otel_netmon.selfmon.status import ProbeStatus

PROBE_STATE = "netmon.probe.state_changed"
SERIES_FOLDED = "netmon.series.folded"
QUIET_CYCLES = 30
"""So many cycles without anything folded end a time of shedding."""

_State = tuple[str, str, str]


class AgentEvents:
    """Tells changes once."""

    def __init__(self) -> None:
        self._probes: dict[str, _State] = {}
        self._quiet: dict[str, int] = {}

    def probes(self, probes: Iterable[ProbeStatus], now_ns: int) -> list[Event]:
        """Events for the probes whose state is another one now; at the start for those that lack something."""
        events = []
        for probe in probes:
            state = (probe["state"], probe["reason"], probe["detail"])
            before = self._probes.get(probe["name"])
            self._probes[probe["name"]] = state
            fine = state[0] == "ok" or state[1] == "not_enabled"
            if (before is None and fine) or (before is not None and before[:2] == state[:2]):
                continue
            attributes: dict[str, Value] = {"netmon.probe": probe["name"], "netmon.state": state[0]}
            if state[1]:
                attributes["netmon.reason"] = state[1]
            why = f": {state[2] or state[1]}" if state[1] else ""
            events.append(
                _event(
                    PROBE_STATE,
                    now_ns,
                    Severity.INFO if fine else Severity.WARN,
                    f"probe {probe['name']} is {state[0]}{why}",
                    attributes,
                )
            )
        return events

    def folded(self, folded: Mapping[str, int], limit: int, now_ns: int) -> list[Event]:
        """An event for each family that begins to shed detail.

        Args:
            folded: attribute sets without a series of their own in this cycle, by family.
            limit: the budget.
        """
        events = []
        for family, count in folded.items():
            if not count:
                if family in self._quiet:
                    self._quiet[family] += 1
                    if self._quiet[family] >= QUIET_CYCLES:
                        del self._quiet[family]
                continue
            if family not in self._quiet:
                events.append(
                    _event(
                        SERIES_FOLDED,
                        now_ns,
                        Severity.WARN,
                        f"{count} attribute sets of the family {family} have no series of their own and are counted in the "
                        f"point with otel.metric.overflow; limits.series is {limit}",
                        {"netmon.series.family": family},
                    )
                )
            self._quiet[family] = 0
        return events


def _event(name: str, now_ns: int, severity: Severity, body: str, attributes: Mapping[str, Value]) -> Event:
    return Event(name, now_ns, severity, body, encode(attributes, Tag.LOG_RECORD))
