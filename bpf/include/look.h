/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Whether a packet may carry a message that is told by its content, by what is known of its direction. */
#ifndef NETMON_LOOK_H
#define NETMON_LOOK_H

#define PAYLOAD_CUT 0xffffffffU /* the IP packet ends inside the transport header: no receiver takes it */

/* Octets behind the transport header by the IP header, of a frame of this length. */
static __always_inline u32 transport_payload(const struct packet *p, u32 length)
{
	u32 header = p->headers - p->network_offset;
	u32 network = p->network_length;
	u32 present = length - p->network_offset;

	/* Offloads leave the IP length at 0 where it does not fit (BIG TCP, TSO seen by a capture); some headers lie. */
	if (!network || network > present)
		network = present;
	return network >= header ? network - header : PAYLOAD_CUT;
}

/*
 * 1 where a packet of a direction in this state may carry one: a TCP segment with payload or the end of a connection, a UDP
 * datagram. Without a branch, as the verifier would follow both ways to the end.
 */
static __always_inline u8 may_be_message(u32 protocol, u8 tcp_flags, u32 payload, u8 state)
{
	u32 is_udp = ((protocol ^ PROTOCOL_UDP) - 1) >> 31;
	u64 any = payload | (tcp_flags & (TCP_FIN | TCP_RST)) | is_udp;
	u8 open = ~(u32)state / NETMON_SEQUENCE_DECIDED & 1;

	if (!late_streams())
		return LOOK_NOWHERE;
	asm volatile("%0 += %1\n%0 >>= 32" : "+r"(any) : "r"(0xffffffffULL));
	return any & open;
}

/* Likewise of a direction that is known: which program looks at it. end is the sequence number behind the payload. */
static __always_inline u8 where_to_look(u32 protocol, u8 tcp_flags, u32 end, u32 payload, u32 state, u32 stream_next)
{
	u32 look = may_be_message(protocol, tcp_flags, payload, state);
	u32 goes_on, is_before, skips;

	if (!late_http() || state < NETMON_SEQUENCE_SKIP)
		return look;
	/* Of HTTP/1, what ends before stream_next is skipped, but for the end of a connection; without a branch, likewise. */
	goes_on = ((tcp_flags & (TCP_FIN | TCP_RST)) - 1U) >> 31; /* neither */
	is_before = (end - stream_next) >> 31;
	skips = state / NETMON_SEQUENCE_SKIP & is_before & goes_on;
	return look * (skips ^ 1) * (LOOK_STREAM + state / NETMON_SEQUENCE_HTTP_CLIENT);
}

#endif
