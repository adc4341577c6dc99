/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Messages at an interface: the state of a direction is in the row of its flow. */
#ifndef NETMON_AT_INTERFACE_H
#define NETMON_AT_INTERFACE_H

#define MESSAGE_SCRATCHES 2 /* of packets; of the reader, whose test runs a packet may interrupt */
#define READER_SCRATCH 1

typedef struct netmon_flow stream_state;

#define MESSAGE_ADD(count, many) (*(count) += (many))

#include "messages.h"

/* Bottom halves are off: no packet interrupts another on its CPU. */
static __always_inline struct message_scratch *message_scratch_of(struct __sk_buff *skb)
{
	u32 only = 0;

	return message_scratch.lookup(&only);
}

/* What a record says of where its packet was seen, beside the interface. */
static __always_inline void message_seen_at(struct __sk_buff *skb, struct message_scratch *s)
{
	s->message.ingress_ifindex = s->packet.flow.flags & NETMON_FLOW_FORWARDED ? skb->ingress_ifindex : 0;
	s->message.cgroup = 0;
}

static __always_inline stream_state *stream_of(struct message_scratch *s, const struct netmon_flow_key *key)
{
	return flow_table.lookup((struct netmon_flow_key *)key);
}

static __always_inline stream_state *stream_of_packet(struct message_scratch *s)
{
	return flow_table.lookup(&s->packet.flow);
}

/* The flow of the other direction, and s->other its key; a mirror port and a replay receive both. */
static __always_inline stream_state *stream_other(struct message_scratch *s)
{
	const struct netmon_flow_key *key = &s->packet.flow;
	struct netmon_flow_key *other = &s->other;
	stream_state *flow;

	__builtin_memcpy(other->source, key->destination, 16);
	__builtin_memcpy(other->destination, key->source, 16);
	other->ifindex = key->ifindex;
	other->source_port = key->destination_port;
	other->destination_port = key->source_port;
	other->protocol = key->protocol;
	other->namespace = key->namespace;
	other->direction = NETMON_RECEIVE;
	other->flags = 0;
	if (!late_replay()) {
		other->direction = !key->direction;
		flow = flow_table.lookup(other);
		if (flow || key->direction == NETMON_TRANSMIT)
			return flow;
		other->flags = NETMON_FLOW_FORWARDED;
		flow = flow_table.lookup(other);
		if (flow)
			return flow;
		other->flags = 0;
		other->direction = NETMON_RECEIVE;
	}
	return flow_table.lookup(other);
}

/*
 * Calls the program for what may be in this packet; returns where there is none. All accounting is done before: nothing
 * runs behind the program that is called. What needs a decision is left to it, because here the verifier would follow it
 * once for each way through the parser.
 */
static __always_inline void message(struct __sk_buff *skb, const struct packet *p, u32 length, u8 protocols)
{
	struct message_scratch *s;
	u32 only = 0;

	if (!protocols && !(late_streams() && p->look != LOOK_NOWHERE))
		return;
	s = message_scratch.lookup(&only);
	if (!s)
		return;
	s->packet.flow = p->flow;
	s->packet.network_offset = p->network_offset;
	s->packet.network_length = p->network_length;
	s->packet.headers = p->headers;
	s->packet.sequence = p->sequence;
	s->packet.tcp_flags = p->tcp_flags;
	s->packet.tcp = p->tcp;
	s->packet.tcp_header = p->tcp_header;
	s->packet.look = p->look;
	s->length = length;
	s->protocols = protocols;
	if (late_replay()) {
		s->skipped = message_piece_skips(skb);
		message_tell_headers(skb, p->tcp ? p->headers : 0);
	}
	if (protocols & NETMON_PORT_NONE)
		message_programs.call(skb, NETMON_PROGRAM_ERRORS);
	message_call(skb, protocols, p->look);
}

/* At interfaces the edge rule of user space tells what counts. */
static __always_inline int stream_is_told_elsewhere(const stream_state *flow)
{
	return 0;
}

static __always_inline int dns_is_told_elsewhere(struct message_scratch *s, const struct netmon_query_key *key,
						 const int is_query)
{
	return 0;
}

/* The packet with SYN tells where a connection begins. */
static __always_inline u16 dns_begins(struct message_scratch *s)
{
	return 0;
}

#endif
