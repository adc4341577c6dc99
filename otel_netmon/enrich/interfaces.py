"""Names of interfaces by (namespace number, ifindex), as attributes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from otel_netmon.kernel.interfaces import Interface, Key

GONE_KEPT = 4096


class InterfaceNames:
    """Keeps the name of every interface, also of those that are gone while their last counts are still exported."""

    def __init__(self) -> None:
        self._names: dict[Key, dict[str, str]] = {}

    def update(self, interfaces: Iterable[Interface]) -> None:
        """Takes the interfaces that are there now."""
        for interface in interfaces:
            self.set_name(*interface.key, interface.name, interface.namespace_name)
        while len(self._names) > GONE_KEPT:
            del self._names[next(iter(self._names))]

    def set_name(self, namespace: int, ifindex: int, name: str, namespace_name: str = "") -> None:
        """Takes the name of one interface, and of its namespace outside the agent's own."""
        attributes = {"network.interface.name": name}
        if namespace_name:
            attributes["netmon.network.namespace"] = namespace_name
        self._names.pop((namespace, ifindex), None)
        self._names[namespace, ifindex] = attributes

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: one line a name, with its key."""
        rows = [[*key, *attributes.values()] for key, attributes in self._names.items()]
        return {"interface_names": json.dumps(rows)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``."""
        for row in json.loads(state["interface_names"]):
            self.set_name(*row)

    def attributes(self, namespace: int, ifindex: int) -> dict[str, str]:
        """Gives network.interface.name, and netmon.network.namespace outside the agent's own; the number if not known."""
        return self._names.get((namespace, ifindex)) or {"network.interface.name": f"#{ifindex}"}
