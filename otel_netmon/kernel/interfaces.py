"""The table of network interfaces in the agent's namespace and in those it was told to follow, kept by rtnetlink.

A burst of changes is read to its end and then compared with what was known: a veth pair that came and went in between is
no event at all, and hundreds of changes cost one comparison each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from otel_netmon.errors import ConfigError
from otel_netmon.kernel.closing import Closing
from otel_netmon.kernel.followed import FollowedNamespace
from otel_netmon.kernel.namespaces import (
    Namespace,
    current_identity,
    find_namespace,
    opened_in,
    own_namespace,
)

OWN = 0
MAX_NAMESPACES = 255
"""How many namespaces can be followed besides the agent's own: the kernel's keys have one byte for the number."""
PAIR_KINDS = frozenset({"veth", "netkit"})
_ARPHRD_LOOPBACK = 772
_GLOB_CHARACTERS = frozenset("*?[")

Key = tuple[int, int]
"""(namespace number, ifindex): what identifies an interface while it lives."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface.

    Attributes:
        index: ifindex, unique within the namespace.
        name: as the kernel has it; bytes that are not UTF-8 are surrogates.
        namespace: 0 for the agent's own, 1 to 255 for followed ones, each number given anew as late as possible.
        namespace_name: as it was asked for, empty for the agent's own.
        kind: "veth", "bridge", "vlan", ... as `ip -d link` names it, "loopback", or "physical" for a device without one.
        flags: IFF_* bits of netdevice(7).
        type: ARPHRD_* number.
        mtu: in bytes.
        address: link-layer address.
        master: ifindex of the bridge, bond, team or VRF that it is a port of, in the same namespace.
        lower, lower_namespace: the device it is stacked on (vlan, macvlan, a tunnel bound to a device).
        peer, peer_namespace: the other end of a veth or netkit pair.

    `lower_namespace` and `peer_namespace` are None where that namespace is not followed; `lower` and `peer` are then an
    ifindex of somewhere else and identify nothing here.
    """

    index: int
    name: str
    namespace: int
    namespace_name: str
    kind: str
    flags: int
    type: int
    mtu: int
    address: bytes
    master: int | None
    lower: int | None
    lower_namespace: int | None
    peer: int | None
    peer_namespace: int | None

    @property
    def key(self) -> Key:
        """(namespace number, ifindex)."""
        return self.namespace, self.index

    @property
    def lower_key(self) -> Key | None:
        """Where the device below is, None if there is none or its namespace is not followed."""
        return None if self.lower is None or self.lower_namespace is None else (self.lower_namespace, self.lower)

    @property
    def peer_key(self) -> Key | None:
        """Where the other end of the pair is, None if there is none or its namespace is not followed."""
        return None if self.peer is None or self.peer_namespace is None else (self.peer_namespace, self.peer)


@dataclass(frozen=True, slots=True)
class Added:
    """A monitored interface is there."""

    interface: Interface


@dataclass(frozen=True, slots=True)
class Removed:
    """A monitored interface is gone, has left its namespace, or no longer matches; as it was last known."""

    interface: Interface


@dataclass(frozen=True, slots=True)
class Renamed:
    """A monitored interface has another name and is still monitored."""

    interface: Interface
    old_name: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A monitored interface has other flags, MTU, address, master, lower device or peer."""

    interface: Interface
    previous: Interface


Event = Added | Removed | Renamed | Changed


class InterfaceTable(Closing):
    """Interfaces of the agent's own namespace and of the named ones.

    Nothing is opened before the first `refresh`, which reports what is there as `Added`. From then on, whenever one of
    `filenos` is readable call `process`, and call `refresh` on a timer of about a second: it finds namespaces that came,
    and lets go of those whose name went (until then the open files of the table keep such a namespace alive).

    Args:
        namespaces: names under /run/netns or absolute paths; those that do not exist yet are waited for.
        include: shell patterns (fnmatch) for interface names.
        exclude: shell patterns; a name written out in `include` is monitored even if a pattern here matches it.

    Raises:
        ConfigError: more than 255 namespaces.
    """

    def __init__(
        self, namespaces: Sequence[str] = (), include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
    ) -> None:
        self._wanted = tuple(dict.fromkeys(namespaces))
        if len(self._wanted) > MAX_NAMESPACES:
            raise ConfigError(f"{len(self._wanted)} namespaces are listed", f"list at most {MAX_NAMESPACES}")
        self._literals = frozenset(pattern for pattern in include if not _GLOB_CHARACTERS & set(pattern))
        self._include = tuple(pattern for pattern in include if pattern not in self._literals)
        self._exclude = tuple(exclude)
        self._followed: dict[int, FollowedNamespace] = {}
        self._last_number = 0
        self._overruns_before = 0
        self._interfaces: dict[Key, Interface] = {}
        self.generation = 0

    def close(self) -> None:
        """Close every socket and let go of every namespace."""
        for followed in self._followed.values():
            followed.close()
        self._followed.clear()

    @property
    def interfaces(self) -> Mapping[Key, Interface]:
        """Every interface of the followed namespaces, monitored or not; `generation` tells when any of it has changed."""
        return MappingProxyType(self._interfaces)

    @property
    def monitored(self) -> dict[Key, Interface]:
        """The interfaces that match the patterns."""
        return {key: interface for key, interface in self._interfaces.items() if self.matches(interface.name)}

    @property
    def namespaces(self) -> dict[int, Namespace]:
        """The namespaces followed now, by number; the open files stay the table's."""
        return {number: followed.namespace for number, followed in self._followed.items()}

    @property
    def overruns(self) -> int:
        """How often the kernel had to drop notifications, each time repaired by a new dump."""
        return self._overruns_before + sum(followed.monitor.overruns for followed in self._followed.values())

    def filenos(self) -> list[int]:
        """File descriptors to wait on for reading; they change when a namespace comes or goes."""
        return [followed.monitor.fileno() for followed in self._followed.values()]

    def matches(self, name: str) -> bool:
        """Whether an interface of that name is monitored."""
        if name in self._literals:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._include) and not any(
            fnmatchcase(name, pattern) for pattern in self._exclude
        )

    def require_names(self) -> None:
        """Check that every interface name written out in `include` exists in one of the followed namespaces.

        Raises:
            ConfigError: it does not; the remedy lists those that do.
        """
        present = {interface.name for interface in self._interfaces.values()}
        missing = sorted(self._literals - present)
        if missing:
            some = "interface" if len(missing) == 1 else "interfaces"
            verb = "does not exist" if len(missing) == 1 else "do not exist"
            raise ConfigError(
                f"{some} {', '.join(map(_shown, missing))} {verb}",
                f"there are: {', '.join(map(_shown, sorted(present)))}",
            )

    def process(self) -> list[Event]:
        """Read what the kernel has reported since the last call, without waiting, and tell what it amounts to.

        Events come in this order: removed, renamed and changed, added. An interface moved between followed namespaces is
        removed in one and added in the other. If there was anything to read, listed namespaces are looked for too.

        Raises:
            PrivilegeError: a namespace that has come may not be entered.
            RtnetlinkError: the kernel refuses to list the interfaces; the next call lists them again.
        """
        stale, replaced = self._read(self._followed)
        return self._settle(stale, replaced) if stale else []

    def refresh(self) -> list[Event]:
        """Like `process`, and look for listed namespaces that came or went even if no interface has changed.

        Raises:
            PrivilegeError, RtnetlinkError: as `process`.
        """
        return self._settle(*self._read(self._followed))

    def _read(self, numbers: Iterable[int]) -> tuple[set[Key], set[Key]]:
        stale: set[Key] = set()
        replaced: set[Key] = set()
        for number in numbers:
            touched, recreated = self._followed[number].read()
            stale.update((number, index) for index in touched)
            replaced.update((number, index) for index in recreated)
        return stale, replaced

    def _settle(self, stale: set[Key], replaced: set[Key]) -> list[Event]:
        numbers = set(self._followed)
        self._follow_names()
        if numbers != set(self._followed):
            stale |= self._read(self._followed.keys() - numbers)[0]
            # A peer may have come into sight or gone out of it, so every interface is described anew.
            stale.update(self._interfaces)
            for followed in self._followed.values():
                followed.namespace_ids.clear()
        return self._compare(stale | self._look_again(stale), replaced)

    def _look_again(self, stale: Iterable[Key]) -> set[Key]:
        """Ask the kernel anew for the interfaces whose peer or lower device came, went or moved.

        It notifies for the device that changes and not for those that point to it: the end of a veth pair that is made
        first is announced before it has a peer, and the end that stays is silent when the other moves.
        """
        come = {key for key in stale if key not in self._interfaces and self._is_there(key)}
        gone = {key for key in stale if key in self._interfaces and not self._is_there(key)}
        again: set[Key] = set()
        for key in come:
            interface = self._describe(key)
            peer_key = interface.peer_key if interface is not None else None
            peer = self._describe(peer_key) if peer_key is not None else None
            if peer is not None and peer.peer_key != key:
                again.add(peer.key)
        for interface in self._interfaces.values():
            points_away = interface.lower is not None and interface.lower_namespace is None
            if interface.lower_key in gone or interface.peer_key in gone or (points_away and come):
                again.add(interface.key)
        again -= gone
        for number, index in again:
            self._followed[number].read_one(index)
        return again

    def _is_there(self, key: Key) -> bool:
        number, index = key
        return number in self._followed and index in self._followed[number].links

    def _compare(self, stale: Iterable[Key], replaced: Collection[Key]) -> list[Event]:
        removed: list[Event] = []
        altered: list[Event] = []
        added: list[Event] = []
        for key in sorted(stale):
            before, after = self._interfaces.get(key), self._describe(key)
            if before == after and key not in replaced:
                continue
            self.generation += 1
            if after is None:
                del self._interfaces[key]
            else:
                self._interfaces[key] = after
            was = before is not None and self.matches(before.name)
            stays = after is not None and self.matches(after.name)
            if before is not None and after is not None and was and stays and key not in replaced:
                altered.extend(_alterations(before, after))
                continue
            if before is not None and was:
                removed.append(Removed(before))
            if after is not None and stays:
                added.append(Added(after))
        return removed + altered + added

    def _follow_names(self) -> None:
        """Open the listed namespaces that are there and not followed, let go of those that are no longer there."""
        if OWN not in self._followed:
            self._followed[OWN] = FollowedNamespace(own_namespace())
        for name in self._wanted:
            identity = current_identity(name)
            held = next((n for n, followed in self._followed.items() if followed.namespace.name == name), None)
            if held is not None and self._followed[held].namespace.identity != identity:
                self._let_go(held)
                held = None
            known = {followed.namespace.identity for followed in self._followed.values()}
            if held is None and identity is not None and identity not in known:
                self._follow(name)

    def _follow(self, name: str) -> None:
        namespace = find_namespace(name)
        if namespace is None:
            return
        try:
            followed = opened_in(namespace, lambda: FollowedNamespace(namespace))
        except BaseException:
            namespace.close()
            raise
        self._last_number = self._next_number()
        self._followed[self._last_number] = followed

    def _next_number(self) -> int:
        number = self._last_number
        while True:
            number = number % MAX_NAMESPACES + 1
            if number not in self._followed:
                return number

    def _let_go(self, number: int) -> None:
        followed = self._followed.pop(number)
        self._overruns_before += followed.monitor.overruns
        followed.close()

    def _describe(self, key: Key) -> Interface | None:
        number, index = key
        followed = self._followed.get(number)
        link = followed.links.get(index) if followed is not None else None
        if followed is None or link is None:
            return None
        is_pair = link.kind in PAIR_KINDS
        elsewhere = None if link.link is None else self._number_of(number, link.link_netnsid)
        return Interface(
            index=index,
            name=link.name,
            namespace=number,
            namespace_name=followed.namespace.name,
            kind=link.kind or ("loopback" if link.type == _ARPHRD_LOOPBACK else "physical"),
            flags=link.flags,
            type=link.type,
            mtu=link.mtu,
            address=link.address,
            master=link.master,
            lower=None if is_pair else link.link,
            lower_namespace=None if is_pair else elsewhere,
            peer=link.link if is_pair else None,
            peer_namespace=elsewhere if is_pair else None,
        )

    def _number_of(self, number: int, namespace_id: int | None) -> int | None:
        """Our number of the namespace that namespace `number` knows as `namespace_id`."""
        if namespace_id is None:
            return number
        return self._followed[number].find_namespace_id(namespace_id, self._followed)


def _alterations(before: Interface, after: Interface) -> list[Event]:
    events: list[Event] = []
    if before.name != after.name:
        events.append(Renamed(after, before.name))
    if any(getattr(before, field) != getattr(after, field) for field in Interface.__slots__ if field != "name"):
        events.append(Changed(after, before))
    return events


def _shown(name: str) -> str:
    return repr(name) if not name.isprintable() or " " in name else name
