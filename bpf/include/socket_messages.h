/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Which packets of sockets may carry a message, and how they get to the program that knows the protocol. */
#ifndef NETMON_SOCKET_MESSAGES_H
#define NETMON_SOCKET_MESSAGES_H

/* Fills the scratch as the parser of tc does. */
static __always_inline void socket_fill(struct __sk_buff *skb, struct message_scratch *s, const struct segment *segment,
					u64 cookie, const u8 direction, u8 protocols, u8 look)
{
	struct packet *p = &s->packet;

	p->flow.ifindex = cookie;
	p->flow.flags = cookie >> 32;
	p->flow.namespace = NETMON_NAMESPACE_SOCKET;
	p->flow.direction = direction;
	p->flow.protocol = segment->protocol;
	p->network_offset = 0;
	p->network_length = 0; /* the frame ends where the packet does */
	p->headers = skb->len - segment->payload;
	p->sequence = segment->sequence;
	p->tcp = segment->protocol == PROTOCOL_TCP;
	p->tcp_flags = p->tcp ? segment->flags : 0;
	p->tcp_header = p->headers - segment->at;
	p->look = look;
	s->length = skb->len;
	s->protocols = protocols;
}

static __always_inline struct socket_streams *streams_no_place(u64 *full)
{
	*full = bpf_jiffies64() + FULL_BACKOFF_JIFFIES;
	message_count(NETMON_COUNT_STREAM_LOST_TABLE, 1);
	return 0;
}

/* A connection that was there before the programs were, or had no place. What its process has closed does not come back. */
static __always_inline struct socket_streams *streams_adopt(struct __sk_buff *skb, const struct segment *segment,
							    u64 cookie, const u8 direction)
{
	const int sent = direction == NETMON_TRANSMIT;
	struct socket_streams fresh = {}, *made;
	struct bpf_sock *sk = skb->sk;
	u32 only = 0, state;
	u64 *full = streams_full.lookup(&only);

	if (!sk || !full)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 0;
	state = sk->state;
	if (state == BPF_TCP_LISTEN || state == BPF_TCP_SYN_SENT)
		message_count(NETMON_COUNT_STREAM_LOST_EARLY, 1);
	if (state != BPF_TCP_ESTABLISHED && state != BPF_TCP_CLOSE_WAIT && state != BPF_TCP_SYN_RECV)
		return 0;
	if (bpf_jiffies64() < *full) {
		message_count(NETMON_COUNT_STREAM_LOST_TABLE, 1);
		return 0;
	}
	if (udp_address(skb, segment, sent, fresh.local) || udp_address(skb, segment, !sent, fresh.remote))
		return 0;
	fresh.local_port = sent ? segment->source_port : segment->destination_port;
	fresh.remote_port = sent ? segment->destination_port : segment->source_port;
	socket_streams.insert(&cookie, &fresh);
	made = socket_streams.lookup(&cookie);
	return made ? made : streams_no_place(full);
}

/* As tcp_sequence() does for a flow. */
static __always_inline void stream_advance(stream_state *state, const struct segment *segment, u32 end)
{
	state->packets++;
	if (segment->flags & TCP_FIN)
		end++;
	if (!(state->sequence_state & NETMON_SEQUENCE_NEXT)) {
		state->sequence_state |= NETMON_SEQUENCE_NEXT;
		state->next_sequence = end;
	} else if (!(segment->flags & TCP_RST) && (s32)(end - state->next_sequence) > 0) {
		state->next_sequence = end;
	}
}

/* row is that of a received segment, where it is known. */
static __always_inline void socket_segment(struct __sk_buff *skb, const struct segment *segment, const u8 direction,
					   struct netmon_connection *row)
{
	const int sent = direction == NETMON_TRANSMIT;
	struct socket_streams *streams;
	struct message_scratch *s;
	stream_state *state;
	u8 protocols, look;
	u64 cookie;
	u32 end;

	if (!late_messages() || (!segment->payload && !(segment->flags & (TCP_FIN | TCP_RST))))
		return;
	if (row && (row->noticed & NOTICED_OVER))
		return;
	cookie = socket_cookie(skb);
	streams = socket_streams.lookup(&cookie);
	if (!streams && segment->payload)
		streams = streams_adopt(skb, segment, cookie, direction);
	if (!streams)
		return;
	if (streams->over) {
		if (row)
			row->noticed |= NOTICED_OVER;
		if (sent && (segment->flags & TCP_RST))
			socket_streams.delete(&cookie);
		return;
	}
	state = &streams->directions[direction];
	end = segment->sequence + segment->payload;
	stream_advance(state, segment, end);
	protocols = message_protocols(streams->local_port, streams->remote_port);
	look = where_to_look(PROTOCOL_TCP, segment->flags, end, segment->payload, state->sequence_state,
			     state->stream_next);
	if (protocols ? state->told_elsewhere : look == LOOK_NOWHERE) {
		if (protocols || (streams->directions[0].sequence_state & streams->directions[1].sequence_state &
				  NETMON_SEQUENCE_DECIDED))
			streams->over = 1;
		if (sent && (segment->flags & TCP_RST))
			socket_streams.delete(&cookie);
		return;
	}
	s = message_claim(skb, protocols ? NETMON_COUNT_LOST_NESTED : NETMON_COUNT_STREAM_LOST_NESTED);
	if (!s)
		return;
	__builtin_memcpy(s->packet.flow.source, sent ? streams->local : streams->remote, 16);
	__builtin_memcpy(s->packet.flow.destination, sent ? streams->remote : streams->local, 16);
	s->packet.flow.source_port = sent ? streams->local_port : streams->remote_port;
	s->packet.flow.destination_port = sent ? streams->remote_port : streams->local_port;
	socket_fill(skb, s, segment, cookie, direction, protocols, look);
	message_call(skb, protocols, look);
	message_release(skb);
}

/* Whether a datagram begins as those of QUIC and DTLS do that may be looked at. */
static __always_inline int datagram_may_begin(struct __sk_buff *skb, const struct segment *segment)
{
	u8 head[16];

	return late_handshake_bytes() && segment->payload > DTLS_HEADER_LENGTH &&
	       !bpf_skb_load_bytes(skb, segment->at + 8, head, DTLS_HEADER_LENGTH + 1) &&
	       (quic_initial(head) || dtls_record(head));
}

/* Where such a datagram is to be looked at; the first one tells who is the client. */
static __always_inline u8 datagram_look(struct __sk_buff *skb, const struct segment *segment, u64 cookie,
					const u8 direction)
{
	const int sent = direction == NETMON_TRANSMIT;
	struct socket_streams fresh = {}, *streams;
	struct socket_peer key = {};
	stream_state *state;
	u64 now, hash;

	if (udp_address(skb, segment, !sent, key.address))
		return LOOK_NOWHERE;
	key.cookie = cookie;
	key.port = sent ? segment->destination_port : segment->source_port;
	streams = datagram_streams.lookup(&key);
	if (!streams) {
		if (udp_address(skb, segment, 1, fresh.local))
			return LOOK_NOWHERE;
		now = bpf_ktime_get_ns();
		hash = client_hash(fresh.local, segment->source_port, PROTOCOL_UDP);
		if (sent) {
			told_clients.update(&hash, &now);
		} else if (client_is_told(hash, now, TOLD_LOOKUP_NS)) {
			fresh.directions[0].sequence_state = fresh.directions[1].sequence_state =
				NETMON_SEQUENCE_DECIDED;
		}
		datagram_streams.update(&key, &fresh);
		streams = datagram_streams.lookup(&key);
		if (!streams) {
			message_count(NETMON_COUNT_STREAM_LOST_TABLE, 1);
			return LOOK_NOWHERE;
		}
	}
	state = &streams->directions[direction];
	return may_be_message(PROTOCOL_UDP, 0, segment->payload, state->sequence_state);
}

/* A field of a socket, as one load: the compiler would compute an address in it, which the verifier refuses. */
#define socket_field(sk, field)                                                                                        \
	({                                                                                                             \
		u64 word;                                                                                              \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                                  \
			     : "=r"(word)                                                                              \
			     : "r"(sk), "i"(__builtin_offsetof(struct bpf_sock, field)));                              \
		(u32) word;                                                                                            \
	})

/* The UDP socket of a datagram if it is connected: it has one peer, as its process knows it. */
static __always_inline struct bpf_sock *datagram_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->state == BPF_TCP_ESTABLISHED ? sk : 0;
}

/*
 * The ends of a datagram, the peer of a connected socket as its process knows it: what leaves has the address that NAT gives it, what
 * is received has that of the process again. 0: they cannot be read.
 */
static __always_inline int datagram_ends(struct __sk_buff *skb, struct message_scratch *s,
					 const struct segment *segment, const u8 direction)
{
	const int sent = direction == NETMON_TRANSMIT;
	struct netmon_flow_key *flow = &s->packet.flow;
	u32 *remote = sent ? flow->destination : flow->source;
	struct bpf_sock *sk = datagram_socket(skb);

	if (udp_address(skb, segment, 1, flow->source) || udp_address(skb, segment, 0, flow->destination))
		return 0;
	flow->source_port = segment->source_port;
	flow->destination_port = segment->destination_port;
	if (!sk)
		return 1;
	if (segment->v6) {
		remote[0] = socket_field(sk, dst_ip6[0]);
		remote[1] = socket_field(sk, dst_ip6[1]);
		remote[2] = socket_field(sk, dst_ip6[2]);
		remote[3] = socket_field(sk, dst_ip6[3]);
	} else {
		remote[3] = socket_field(sk, dst_ip4);
	}
	if (sent)
		flow->destination_port = socket_field(sk, dst_port);
	else
		flow->source_port = socket_field(sk, dst_port);
	return 1;
}

static __always_inline void socket_datagram(struct __sk_buff *skb, const struct segment *segment, const u8 direction)
{
	struct message_scratch *s;
	struct bpf_sock *sk;
	u8 protocols, look = LOOK_NOWHERE;
	u64 cookie;

	if (!late_messages())
		return;
	protocols = message_protocols(segment->source_port, segment->destination_port);
	if (!protocols && direction == NETMON_TRANSMIT) { /* to a port that NAT has put in the place of another? */
		sk = datagram_socket(skb);
		if (sk)
			protocols = message_protocols(0, socket_field(sk, dst_port));
	}
	if (!protocols && !(late_streams() && datagram_may_begin(skb, segment)))
		return;
	cookie = socket_cookie(skb);
	if (!protocols)
		look = datagram_look(skb, segment, cookie, direction);
	if (!protocols && look == LOOK_NOWHERE)
		return;
	s = message_claim(skb, protocols ? NETMON_COUNT_LOST_NESTED : NETMON_COUNT_STREAM_LOST_NESTED);
	if (!s)
		return;
	if (datagram_ends(skb, s, segment, direction)) {
		socket_fill(skb, s, segment, cookie, direction, protocols, look);
		message_call(skb, protocols, look);
	}
	message_release(skb);
}

#endif
