"""The examples of docs/decisions/0041-edge-rule.md."""

from __future__ import annotations

import pytest

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import TUNNEL_KINDS, Edge, EdgeRule, edge_rule
from otel_netmon.kernel.interfaces import Interface, Key

RX, TX = Direction.RECEIVE, Direction.TRANSMIT
LO, ETH0, ETH1, BR0, BOND0, VLAN, VETH, PEER, OTHER = range(1, 10)


def interface(
    index: int,
    kind: str = "physical",
    *,
    namespace: int = 0,
    master: int | None = None,
    lower: Key | None = None,
    peer: Key | None = None,
) -> Interface:
    return Interface(
        index=index,
        name=f"{kind}{index}",
        namespace=namespace,
        namespace_name="",
        kind=kind,
        flags=1,
        type=1,
        mtu=1500,
        address=b"",
        master=master,
        lower=None if lower is None else lower[1],
        lower_namespace=None if lower is None else lower[0],
        peer=None if peer is None else peer[1],
        peer_namespace=None if peer is None else peer[0],
    )


def rule(*interfaces: Interface, without: set[int] | None = None, decapsulate: bool = False) -> EdgeRule:
    """The rule with every interface monitored but those of the given indexes in namespace 0."""
    monitored = {each.key for each in interfaces if each.namespace or each.index not in (without or set())}
    return edge_rule(interfaces, monitored, decapsulate=decapsulate)


def counted(
    given: EdgeRule, *path: tuple[int, Direction] | tuple[int, Direction, int], namespace: int = 0
) -> list[int]:
    """The indexes of the sightings that count, for a path of (ifindex, direction, ingress ifindex)."""
    found = []
    for index, direction, *ingress in path:
        edge = given.edges.get((namespace, index))
        if edge is not None and edge.counts(direction, *ingress):
            found.append(index)
    return found


def test_a_host_counts_what_it_sends_and_receives() -> None:
    host = rule(interface(LO, "loopback"), interface(ETH0))
    assert counted(host, (ETH0, TX)) == [ETH0]
    assert counted(host, (ETH0, RX)) == [ETH0]
    assert host.edges[0, LO] == Edge(count_receive=False, count_transmit=True, counted=frozenset({LO, ETH0}))
    assert counted(host, (LO, TX), (LO, RX)) == [LO]


def test_a_container_behind_a_bridge() -> None:
    devices = (interface(ETH0), interface(BR0, "bridge"), interface(VETH, "veth", master=BR0))
    out = ((VETH, RX), (BR0, RX), (ETH0, TX, BR0))
    back = ((ETH0, RX), (BR0, TX, ETH0), (VETH, TX, ETH0))
    everything = rule(*devices)
    assert counted(everything, *out) == [VETH]
    assert counted(everything, *back) == [ETH0]
    assert counted(everything, (BR0, TX), (VETH, TX)) == [VETH]
    without_port = rule(*devices, without={VETH})
    assert counted(without_port, *out) == [BR0]
    assert counted(without_port, *back) == [ETH0]
    without_bridge = rule(*devices, without={BR0})
    assert counted(without_bridge, *out) == [VETH]
    assert counted(without_bridge, *back) == [ETH0]
    only_uplink = rule(*devices, without={BR0, VETH})
    assert counted(only_uplink, *out) == [ETH0]
    assert counted(only_uplink, *back) == [ETH0]


def test_bridged_from_port_to_port() -> None:
    devices = (interface(BR0, "bridge"), interface(VETH, "veth", master=BR0), interface(OTHER, "veth", master=BR0))
    path = ((VETH, RX), (OTHER, TX, VETH))
    assert counted(rule(*devices), *path) == [VETH]
    half = rule(*devices, without={VETH})
    assert counted(half, *path) == [OTHER]
    assert half.partial == {(0, BR0)}
    assert rule(*devices, without={VETH, OTHER}).partial == frozenset()


def test_vlans_on_a_bond() -> None:
    devices = (
        interface(ETH0, master=BOND0),
        interface(ETH1, master=BOND0),
        interface(BOND0, "bond"),
        interface(VLAN, "vlan", lower=(0, BOND0)),
    )
    everything = rule(*devices)
    assert counted(everything, (ETH1, RX), (BOND0, RX), (VLAN, RX)) == [ETH1]
    assert counted(everything, (VLAN, TX), (BOND0, TX), (ETH0, TX)) == [ETH0]
    no_bond = rule(*devices, without={BOND0})
    assert counted(no_bond, (ETH1, RX), (VLAN, RX)) == [ETH1]
    no_slaves = rule(*devices, without={ETH0, ETH1})
    assert counted(no_slaves, (BOND0, RX), (VLAN, RX)) == [BOND0]
    alone = rule(*devices, without={ETH0, ETH1, BOND0})
    assert counted(alone, (VLAN, RX)) == counted(alone, (VLAN, TX)) == [VLAN]
    assert rule(*devices, without={ETH0}).partial == {(0, BOND0)}


def test_routed_from_a_vlan_that_is_not_monitored() -> None:
    devices = (interface(ETH0), interface(VLAN, "vlan", lower=(0, ETH0)), interface(ETH1))
    assert counted(rule(*devices, without={VLAN}), (ETH0, RX), (ETH1, TX, VLAN)) == [ETH0]


def test_macvlan_in_a_followed_namespace() -> None:
    container = interface(OTHER, "macvlan", namespace=1, lower=(0, ETH0))
    assert not rule(interface(ETH0), container).edges[1, OTHER].count_receive
    assert rule(interface(ETH0), container, without={ETH0}).edges[1, OTHER].count_receive


def test_a_pair_counts_where_it_transmits() -> None:
    near, far = interface(VETH, "veth", peer=(1, PEER)), interface(PEER, "veth", namespace=1, peer=(0, VETH))
    both = rule(near, far)
    for key in (near.key, far.key):
        assert both.edges[key].counts(TX)
        assert not both.edges[key].counts(RX)
    one = rule(near, far, without={VETH})
    assert one.edges[far.key].counts(RX)
    assert one.edges[far.key].counts(TX)


def test_a_router_counts_what_it_forwards_once() -> None:
    router = rule(interface(ETH0), interface(ETH1))
    assert counted(router, (ETH0, RX), (ETH1, TX, ETH0)) == [ETH0]
    one_side = rule(interface(ETH0), interface(ETH1), without={ETH0})
    assert counted(one_side, (ETH1, TX, ETH0)) == [ETH1]


def test_a_router_in_a_container_between_two_pairs() -> None:
    """The ends outside are monitored, those inside are not: what comes in by them was counted outside."""
    left, left_in = interface(VETH, "veth", peer=(1, 2)), interface(2, "veth", namespace=1, peer=(0, VETH))
    out = interface(3, "physical", namespace=1)
    given = edge_rule([left, left_in, out], [left.key, out.key], decapsulate=False)
    assert counted(given, (VETH, TX)) == [VETH]
    assert counted(given, (3, TX, 2), namespace=1) == []


def test_half_monitored_pairs_are_told() -> None:
    near, far = interface(VETH, "veth", peer=(1, PEER)), interface(PEER, "veth", namespace=1, peer=(0, VETH))
    assert rule(interface(ETH0), near, far, without={VETH}).half_pairs == {far.key}
    assert rule(interface(ETH0), near, far).half_pairs == frozenset()
    assert rule(interface(LO, "loopback"), near, far, without={VETH}).half_pairs == frozenset()


@pytest.mark.parametrize("kind", ["wireguard", "tun", "xfrm", "vti"])
def test_what_is_encrypted_and_what_carries_it_are_two_packets(kind: str) -> None:
    devices = (interface(ETH0), interface(ETH1), interface(OTHER, kind))
    given = rule(*devices, decapsulate=True)
    assert counted(given, (OTHER, TX), (ETH0, TX)) == [OTHER, ETH0]
    assert counted(given, (ETH0, RX)) == [ETH0]
    assert counted(given, (OTHER, RX), (ETH1, TX, OTHER)) == [OTHER]
    assert counted(rule(*devices, without={OTHER}), (ETH1, TX, OTHER)) == [ETH1]


def test_macsec_is_an_edge() -> None:
    given = rule(interface(ETH0), interface(OTHER, "macsec", lower=(0, ETH0)))
    assert counted(given, (OTHER, RX)) == counted(given, (OTHER, TX)) == [OTHER]


@pytest.mark.parametrize("kind", sorted(TUNNEL_KINDS))
def test_tunnels_are_edges_unless_the_parser_opens_them(kind: str) -> None:
    for tunnel in (interface(OTHER, kind), interface(OTHER, kind, lower=(0, ETH0))):
        closed = rule(interface(ETH0), interface(ETH1, "veth"), tunnel)
        assert counted(closed, (OTHER, TX), (ETH0, TX)) == [OTHER, ETH0]
        opened = rule(interface(ETH0), interface(ETH1, "veth"), tunnel, decapsulate=True)
        assert counted(opened, (OTHER, TX), (ETH0, TX)) == [ETH0]
        assert counted(opened, (ETH0, RX), (OTHER, RX), (ETH1, TX, OTHER)) == [ETH0]
        assert not opened.partial
        alone = rule(interface(ETH0), interface(ETH1, "veth"), tunnel, decapsulate=True, without={ETH0})
        assert counted(alone, (OTHER, TX)) == [OTHER]


def test_a_tunnel_bound_to_nothing_leaves_a_container_by_its_pair() -> None:
    pair = interface(VETH, "veth", namespace=1, peer=(7, 7))
    tunnel = interface(OTHER, "vxlan", namespace=1)
    assert not rule(pair, tunnel, decapsulate=True).edges[tunnel.key].count_receive


def test_pppoe() -> None:
    devices = (interface(ETH0), interface(ETH1), interface(OTHER, "ppp"))
    given = rule(*devices)
    assert counted(given, (ETH0, RX), (OTHER, RX), (ETH1, TX, OTHER)) == [ETH0]
    assert counted(given, (ETH1, RX), (OTHER, TX, ETH1), (ETH0, TX, ETH1)) == [ETH1]
    serial = rule(interface(LO, "loopback"), interface(OTHER, "ppp"))
    assert counted(serial, (OTHER, RX)) == [OTHER]


def test_an_open_vswitch() -> None:
    switch, inside = interface(BR0, "openvswitch"), interface(OTHER, "openvswitch")
    given = rule(switch, inside, interface(ETH0, master=BR0), interface(VETH, "veth", master=BR0))
    assert counted(given, (OTHER, TX), (ETH0, TX)) == [ETH0]
    assert counted(given, (ETH0, RX), (OTHER, RX)) == [ETH0]
    assert counted(given, (ETH0, RX), (VETH, TX, ETH0)) == [ETH0]
    assert not given.partial


def test_a_vrf() -> None:
    given = rule(interface(ETH0, master=OTHER), interface(ETH1, master=OTHER), interface(OTHER, "vrf"))
    assert counted(given, (ETH0, RX), (ETH1, TX, OTHER)) == [ETH0]
    assert counted(given, (OTHER, TX), (ETH1, TX)) == [ETH1]


def test_what_an_ifb_gives_back_was_seen_before() -> None:
    given = rule(interface(ETH0), interface(OTHER, "ifb"), without={OTHER})
    assert counted(given, (ETH0, TX), (ETH0, TX, OTHER)) == [ETH0]
    assert counted(rule(interface(ETH0), interface(OTHER, "ifb")), (ETH0, RX), (OTHER, TX, ETH0)) == [ETH0]


def test_keys_that_are_no_interface_are_left_out() -> None:
    assert edge_rule([interface(ETH0)], [(0, ETH0), (3, 3)], decapsulate=False).edges.keys() == {(0, ETH0)}
    assert edge_rule([], [], decapsulate=True) == EdgeRule({}, frozenset(), frozenset())
