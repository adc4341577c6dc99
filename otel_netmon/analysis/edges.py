"""The edge rule: which sightings of a packet count in flow metrics that carry no interface attribute.

A packet is seen once at every monitored interface that it crosses, and once a direction. Such metrics count it where it is
first seen. Pure: the interfaces in, the rule out. docs/decisions/0041-edge-rule.md has the reasons, a table of examples, and
the paths for which the rule is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from otel_netmon.abi.enums import Direction
from otel_netmon.kernel.interfaces import PAIR_KINDS, Interface, Key

STACKED_KINDS = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"})
"""Their frames cross the device below unchanged, or with a tag that the parser reads."""

TUNNEL_KINDS = frozenset({"vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl"})
"""What they carry can be read from the outer packet, by ``decapsulate``."""

OPAQUE_KINDS = frozenset({"macsec", "batadv"})
"""Stacked devices whose frames cannot be read at the device below; they are edges, as WireGuard, TUN and XFRM devices."""

RELAY_KIND = "ifb"
"""Packets that leave an ifb go on where the redirection took them, and were seen there."""


@dataclass(frozen=True, slots=True)
class Edge:
    """What counts at one interface.

    Attributes:
        count_receive: packets that it receives.
        count_transmit: packets that it transmits, if they were made here or came in by an interface not among `counted`.
        counted: ifindexes in the same namespace; what came in by them has been counted before.
    """

    count_receive: bool
    count_transmit: bool
    counted: frozenset[int]

    def counts(self, direction: Direction, ingress_ifindex: int = 0) -> bool:
        """Whether a packet seen here counts.

        Args:
            direction: which way it crossed the interface.
            ingress_ifindex: for a transmitted packet the interface by which it came in (``__sk_buff.ingress_ifindex``),
                0 if it was made in this namespace.
        """
        if direction is Direction.RECEIVE:
            return self.count_receive
        return self.count_transmit and ingress_ifindex not in self.counted


@dataclass(frozen=True, slots=True)
class EdgeRule:
    """The rule for a set of monitored interfaces.

    Attributes:
        edges: by (namespace number, ifindex), one for every monitored interface.
        partial: devices above others of which only some are monitored. A packet that crosses such a device, and below it
            only an interface that is not monitored, can be missed: monitor all ports of a bridge, or none.
        half_pairs: monitored ends of veth pairs whose other end is known, is not monitored, and shares its namespace with
            monitored interfaces. A packet counted at one of those is counted again when it comes out here.
    """

    edges: Mapping[Key, Edge]
    partial: frozenset[Key]
    half_pairs: frozenset[Key]


def edge_rule(interfaces: Iterable[Interface], monitored: Collection[Key], *, decapsulate: bool) -> EdgeRule:
    """The edge rule for the monitored ones among all interfaces of the followed namespaces.

    Args:
        interfaces: every interface known, monitored or not: the others tell how the monitored ones hang together.
        monitored: (namespace number, ifindex) of those whose packets are seen.
        decapsulate: whether flows are keyed by the inner headers of tunnels. If not, a tunnel device is an edge: what it
            carries and what carries that are two packets of two flows.
    """
    topology = _Topology(interfaces, frozenset(monitored), decapsulate=decapsulate)
    counted: dict[int, set[int]] = {}
    for (namespace, index), interface in topology.interfaces.items():
        if topology.is_seen(interface) or interface.kind == RELAY_KIND:
            counted.setdefault(namespace, set()).add(index)
    frozen = {namespace: frozenset(indexes) for namespace, indexes in counted.items()}
    edges: dict[Key, Edge] = {}
    for key in topology.monitored:
        interface = topology.interfaces[key]
        is_edge = not topology.is_seen_below(interface)
        is_seen_before = interface.kind == "loopback" or topology.has_monitored_peer(interface)
        edges[key] = Edge(is_edge and not is_seen_before, is_edge, frozen[key[0]])
    return EdgeRule(edges, topology.partial(), topology.half_pairs())


class _Topology:
    """Which interface lies on which, and below which of them a packet is seen."""

    def __init__(self, interfaces: Iterable[Interface], monitored: frozenset[Key], *, decapsulate: bool) -> None:
        self.interfaces = {interface.key: interface for interface in interfaces}
        self.monitored = monitored & self.interfaces.keys()
        self._decapsulate = decapsulate
        self._ports: dict[Key, list[Interface]] = {}
        self._switch_ports: dict[int, list[Interface]] = {}
        for interface in self.interfaces.values():
            master = self._master(interface)
            if master is not None and master.kind not in OPAQUE_KINDS:
                self._ports.setdefault(master.key, []).append(interface)
                if master.kind == "openvswitch":
                    self._switch_ports.setdefault(master.namespace, []).append(interface)
        self._wires = {namespace: self._wires_of(namespace) for namespace in {key[0] for key in self.interfaces}}
        self._below: dict[Key, frozenset[Key]] = {}

    def is_seen(self, interface: Interface) -> bool:
        """Whether packets through it are seen: at itself, at the other end of its pair, or below it."""
        return self._is_seen_here(interface) or self.is_seen_below(interface)

    def is_seen_below(self, interface: Interface) -> bool:
        """Whether packets through it are seen, at least in part, at devices that it lies on."""
        return any(self._is_seen_here(self.interfaces[key]) for key in self._all_below(interface))

    def has_monitored_peer(self, interface: Interface) -> bool:
        return interface.peer_key in self.monitored

    def partial(self) -> frozenset[Key]:
        """Devices seen below, but not on every way."""
        return frozenset(
            key
            for key, interface in self.interfaces.items()
            if self.is_seen_below(interface) and not self._is_covered(interface, frozenset())
        )

    def half_pairs(self) -> frozenset[Key]:
        found: set[Key] = set()
        for key in self.monitored:
            peer_key = self.interfaces[key].peer_key
            if peer_key in self.interfaces and peer_key not in self.monitored:
                others = (other for other in self.monitored if other != key and other[0] == peer_key[0])
                if any(self.interfaces[other].kind != "loopback" for other in others):
                    found.add(key)
        return frozenset(found)

    def _is_seen_here(self, interface: Interface) -> bool:
        return interface.key in self.monitored or self.has_monitored_peer(interface)

    def _is_covered(self, interface: Interface, above: frozenset[Key]) -> bool:
        """Whether every way through it is seen below it; `above` are those it was reached from."""
        below = [lower for lower in self._lowers(interface) if lower.key not in above]
        above |= {interface.key}
        return bool(below) and all(self._is_seen_here(lower) or self._is_covered(lower, above) for lower in below)

    def _all_below(self, interface: Interface) -> frozenset[Key]:
        """Every device below, at any depth. Bridged tunnels make circles, in which none is below itself."""
        known = self._below.get(interface.key)
        if known is None:
            found: set[Key] = set()
            waiting = list(self._lowers(interface))
            while waiting:
                lower = waiting.pop()
                if lower.key not in found and lower.key != interface.key:
                    found.add(lower.key)
                    waiting.extend(self._lowers(lower))
            known = self._below[interface.key] = frozenset(found)
        return known

    def _lowers(self, interface: Interface) -> Iterator[Interface]:
        """The devices directly below: ports, the lower device, or what may carry a tunnel."""
        yield from self._ports.get(interface.key, ())
        if interface.kind == "openvswitch":
            # An internal port of the switch is no port's master, but reaches all of them.
            yield from (port for port in self._switch_ports.get(interface.namespace, ()) if port.key != interface.key)
        lower = None if interface.lower_key is None else self.interfaces.get(interface.lower_key)
        if interface.kind in STACKED_KINDS:
            if lower is not None:
                yield lower
        elif self._is_read_below(interface):
            if lower is not None:
                yield lower
            elif interface.lower is None:
                yield from self._wires[interface.namespace]

    def _is_read_below(self, interface: Interface) -> bool:
        # The parser always goes through PPPoE; for the other carriers of PPP see the decision record.
        return interface.kind == "ppp" or (self._decapsulate and interface.kind in TUNNEL_KINDS)

    def _wires_of(self, namespace: int) -> list[Interface]:
        """Where the packets of a tunnel that is bound to no device may leave.

        Those are the devices with an address of their own that stand on hardware; in a namespace without hardware, as a
        container's, the ends of its pairs.
        """
        free = []
        for interface in self.interfaces.values():
            if interface.namespace == namespace:
                master = self._master(interface)
                if master is None or master.kind == "vrf":
                    free.append(interface)
        wired = [each for each in free if self._is_wired(each, frozenset())]
        return wired or [each for each in free if each.kind in PAIR_KINDS]

    def _is_wired(self, interface: Interface, above: frozenset[Key]) -> bool:
        if interface.kind == "physical":
            return True
        below = list(self._ports.get(interface.key, ()))
        if interface.kind in STACKED_KINDS and interface.lower_key in self.interfaces:
            below.append(self.interfaces[interface.lower_key])
        above |= {interface.key}
        return any(lower.key not in above and self._is_wired(lower, above) for lower in below)

    def _master(self, interface: Interface) -> Interface | None:
        return None if interface.master is None else self.interfaces.get((interface.namespace, interface.master))
