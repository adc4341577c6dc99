"""Conversations to points of netmon.flow.io and netmon.flow.packets."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.abi.enums import Direction, protocol_name
from otel_netmon.analysis.flows import Conversation, TopConversations
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.points import Point

DIRECTIONS = {int(d): d.name.lower() for d in Direction}


def conversation_attributes(conversation: Conversation) -> dict[str, str | int]:
    """The identity of a conversation; server.port is left out where there is none."""
    attributes: dict[str, str | int] = {
        "client.address": address_text(conversation.client),
        "server.address": address_text(conversation.server),
        "network.transport": protocol_name(conversation.protocol),
        "network.io.direction": DIRECTIONS[conversation.direction],
    }
    if conversation.server_port:
        attributes["server.port"] = conversation.server_port
    return attributes


def flow_points(top: TopConversations) -> Mapping[str, list[Point]]:
    """Gives the points of one cycle: each conversation, and one overflow point a direction."""
    octets, packets = [], []
    for conversation in top.conversations:
        attributes = conversation_attributes(conversation)
        octets.append(Point(attributes, conversation.bytes, conversation.start_ns))
        packets.append(Point(attributes, conversation.packets, conversation.start_ns))
    for rest in top.rest:
        other: dict[str, str | bool] = {
            "otel.metric.overflow": True,
            "network.io.direction": DIRECTIONS[rest.direction],
        }
        octets.append(Point(other, rest.bytes, rest.start_ns))
        packets.append(Point(other, rest.packets, rest.start_ns))
    return {"netmon.flow.io": octets, "netmon.flow.packets": packets}
