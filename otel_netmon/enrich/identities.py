"""Who a connection belongs to, as the resource that its telemetry is about.

service.name is the first of these that is known: the service of systemd (without ".service") that the process runs in, a user's before
the system's; `kernel` for the kernel's threads; the name of the executable; the kernel's name of the process; `unknown_service`.
Neither the command line nor the environment is read, so OTEL_SERVICE_NAME of a process is not known. The identifier of a container
would not be the same for all instances of a service, as the conventions want it, and is told by container.id.

Source: OpenTelemetry semantic conventions, resources service, process, container and k8s.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from otel_netmon.enrich.containers import NOWHERE, Placement

IDENTITIES_MAX = 8192
UNKNOWN_SERVICE = "unknown_service"

Resource = Mapping[str, str | int]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, or where its process is not known a cgroup.

    Attributes:
        number: the same for the same one, also in another pipeline process; never 0.
        pid: in the first PID namespace; 0 where the process is not known.
        command: name of its first thread, or of the thread that the kernel saw; at most 15 bytes.
        start_ticks: see ``procfs.Stat``; 0 where procfs did not have it any more.
        executable: path, as the process sees it; empty where it is not known.
        namespace_pid: its number in its own PID namespace; 0 where it is the same or not known.
        network_namespace: inode; 0 where it is not known.
        kernel_thread: it has no executable.
        placement: container, pod and unit.
    """

    number: int
    pid: int = 0
    command: str = ""
    start_ticks: int = 0
    executable: str = ""
    namespace_pid: int = 0
    network_namespace: int = 0
    kernel_thread: bool = False
    placement: Placement = NOWHERE

    @property
    def service(self) -> str:
        """The name of the service, see above."""
        for unit in (self.placement.user_unit, self.placement.unit):
            if unit.endswith(".service") and not unit.startswith("user@"):
                return unit.removesuffix(".service")
        if self.kernel_thread:
            return "kernel"
        return os.path.basename(self.executable) or self.command or UNKNOWN_SERVICE

    @property
    def container(self) -> str:
        """Identifier of the container; empty where there is none."""
        return self.placement.container_id

    def resource(self) -> dict[str, str | int]:
        """Attributes of the resource, in order; what is not known is left out."""
        attributes: dict[str, str | int] = {
            "service.name": self.service,
            "process.pid": self.pid,
            "process.vpid": self.namespace_pid,
            "process.executable.name": os.path.basename(self.executable),
            "process.executable.path": self.executable,
            **container_resource(self.placement),
            "netmon.systemd.unit": self.placement.user_unit or self.placement.unit,
        }
        return {key: value for key, value in attributes.items() if value}


def container_resource(placement: Placement) -> dict[str, str]:
    """Attributes of the resource of a container and its pod, in order."""
    attributes = {
        "container.id": placement.container_id,
        "container.runtime.name": placement.runtime,
        "k8s.pod.uid": placement.pod_uid,
    }
    return {key: value for key, value in attributes.items() if value}


_IDENTITY_FIELDS = [field.name for field in fields(Identity)]
_PLACEMENT_FIELDS = [field.name for field in fields(Placement)]


class Identities:
    """Identities by number, bounded.

    Args:
        identities_max: how many are kept beside those in use.
    """

    def __init__(self, identities_max: int = IDENTITIES_MAX) -> None:
        self._identities_max = identities_max
        self._identities: dict[int, Identity] = {}  # in the order in which they were seen last
        self._resources: dict[int, Resource] = {}
        self._containers: dict[int, Resource] = {}
        self._in_use: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._identities)

    def keep(self, identity: Identity) -> int:
        """Takes an identity as the one that was seen last; gives its number."""
        self._identities.pop(identity.number, None)
        self._identities[identity.number] = identity
        return identity.number

    def identity(self, number: int) -> Identity:
        """The identity that ``identify`` gave.

        Raises:
            KeyError: it was forgotten since, which happens to none that is in use (see ``set_in_use``).
        """
        return self._identities[number]

    def resource(self, number: int) -> Resource:
        """Attributes of its resource: the same object as long as the identity is known.

        Raises:
            KeyError: as ``identity``.
        """
        known = self._resources.get(number)
        if known is None:
            known = self._resources[number] = MappingProxyType(self._identities[number].resource())
        return known

    def container_of(self, number: int) -> int:
        """The number of the container in which a process is, 0 for none; the same for all its processes, and in another pipeline.

        Raises:
            KeyError: as ``identity``.
        """
        placement = self._identities[number].placement
        if not placement.container_id:
            return 0
        container = number_of("container", placement.runtime, placement.container_id)
        if container not in self._containers:
            self._containers[container] = MappingProxyType(container_resource(placement))
        return container

    def container_resource(self, container: int) -> Resource:
        """Attributes of the resource of a container, by the number that ``container_of`` gave.

        Raises:
            KeyError: as ``identity``.
        """
        return self._containers[container]

    # ---- bounds, and what another process needs to go on

    def set_in_use(self, numbers: Collection[int]) -> None:
        """Takes the numbers, of processes and containers, that must not be forgotten; all others may be."""
        self._in_use = frozenset(numbers)
        self.trim()

    def trim(self) -> None:
        """Forgets what is too much and not in use, first what was not seen for longest."""
        room = self._identities_max + len(self._in_use)
        for number in first_unused(self._identities, room, self._in_use):
            del self._identities[number]
            self._resources.pop(number, None)
        for number in first_unused(self._containers, room, self._in_use):
            del self._containers[number]

    def state(self, numbers: Iterable[int]) -> dict[str, str]:
        """What another process needs to know of these, of processes and containers; those that were forgotten are left out."""
        wanted = list(numbers)
        rows = [_row(self._identities[number]) for number in wanted if number in self._identities]
        containers = [[number, dict(self._containers[number])] for number in wanted if number in self._containers]
        return {"identities": json.dumps(rows), "containers": json.dumps(containers)}

    def restore(self, state: Mapping[str, str]) -> None:
        """Goes on from ``state``."""
        for row in json.loads(state["identities"]):
            identity = Identity(*row)
            self.keep(replace(identity, placement=Placement(*row[-1])))
        for number, attributes in json.loads(state["containers"]):
            self._containers[number] = MappingProxyType(attributes)


def _row(identity: Identity) -> list[Any]:
    """The fields of one; ``dataclasses.astuple`` takes ten times as long, for it copies each."""
    *values, placement = [getattr(identity, name) for name in _IDENTITY_FIELDS]
    return [*values, [getattr(placement, name) for name in _PLACEMENT_FIELDS]]


def first_unused(table: Mapping[Key, Any], room: int, in_use: Container[Key] = ()) -> list[Key]:
    """The first keys that are not in use, as many as are too many."""
    unused = (key for key in table if key not in in_use)
    return list(itertools.islice(unused, max(0, len(table) - room)))


def number_of(*parts: str | int) -> int:
    """64 bits that stand for these parts, never 0."""
    data = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1
