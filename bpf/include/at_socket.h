/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Messages at a socket, in whatever network namespace: the packets that its cgroup sees. Addresses are those that the process
 * knows, also where packets have others (NAT). Each socket sees for itself, so that a connection between two local processes
 * is seen twice: requests of HTTP count at both ends; lookups and handshakes, which have no side, only where the client is.
 */
#ifndef NETMON_AT_SOCKET_H
#define NETMON_AT_SOCKET_H

#define MESSAGE_SCRATCHES 4 /* of packets, and of the reader */
#define READER_SCRATCH 3

/*
 * What a process sends is seen with interrupts and bottom halves on: a packet that is received may interrupt it on its CPU, and
 * so may another process where the kernel is preemptible.
 */
#define MESSAGE_ADD(count, many) __sync_fetch_and_add(count, many)

/* A direction of a connection. The fields are those of netmon_flow. */
struct socket_stream {
	u64 packets; /* with payload, FIN or RST */
	u32 next_sequence;
	u32 initial_sequence;
	u32 stream_next;
	u16 stream_handed;
	u8 stream_looked;
	u8 stream_stage;
	u8 sequence_state;
	u8 told_elsewhere; /* the client is a socket that is seen as well */
	u8 reserved[6];
};
typedef struct socket_stream stream_state;

/* A connection, or what a UDP socket has with a peer: made when it is established, or at its first payload. */
struct socket_streams {
	struct socket_stream directions[2]; /* by enum netmon_direction */
	u32 local[4];
	u32 remote[4];
	u16 local_port;
	u16 remote_port;
	u8 over; /* nothing is looked for in either direction, so that no program can begin to */
	u8 reserved[3];
};

/* The loader sets the real size; made as they are needed. */
BPF_F_TABLE("hash", u64, struct socket_streams, socket_streams, 65536, BPF_F_NO_PREALLOC);
/* When a client that is seen here began: that of a connection, a lookup, a conversation. By a hash of what it is known by. */
BPF_TABLE("lru_hash", u64, u64, told_clients, 16384);
#define TOLD_CONNECTION_NS 10000000000ULL /* client and server are established within a round trip, or a lost segment */
#define TOLD_LOOKUP_NS 60000000000ULL

/* Jiffies up to which no place is tried to be made. */
BPF_TABLE("array", u32, u64, streams_full, 1);

/* How many packets want each of the scratches on this CPU: who sees 1 after having added 1 has it. */
BPF_TABLE("percpu_array", u32, u64, message_claims, READER_SCRATCH);

#include "messages.h"

/* Of datagrams that are QUIC or DTLS. No hook tells the end of a conversation; one that is evicted is looked at anew. */
BPF_TABLE("lru_hash", struct socket_peer, struct socket_streams, datagram_streams, 8192);

/* ---- the scratch of a packet */

static __always_inline struct message_scratch *message_scratch_of(struct __sk_buff *skb)
{
	u32 which = control(skb, 0);

	return message_scratch.lookup(&which);
}

/* A scratch for this packet and the programs that are called for it; 0: there is none left, which is counted. */
static __always_inline struct message_scratch *message_claim(struct __sk_buff *skb, u32 lost)
{
	u32 which;
	u64 *claims;

#pragma unroll
	for (which = 0; which < READER_SCRATCH; which++) {
		u32 key = which;

		claims = message_claims.lookup(&key);
		if (!claims)
			return 0;
		__sync_fetch_and_add(claims, 1);
		if (*(volatile u64 *)claims == 1) {
			asm volatile("*(u32 *)(%0 + 48) = %1" : : "r"(skb), "r"((u64)which) : "memory");
			return message_scratch.lookup(&key);
		}
		__sync_fetch_and_add(claims, -1);
	}
	message_count(lost, 1);
	return 0;
}

/* Behind the last program of a packet. Of a socket that is closed RST is the last that is sent: then its state goes. */
static __always_inline void message_release(struct __sk_buff *skb)
{
	u32 which = control(skb, 0);
	struct message_scratch *s = message_scratch.lookup(&which);
	u64 *claims = message_claims.lookup(&which);

	if (s && (s->packet.tcp_flags & TCP_RST) && s->packet.flow.direction == NETMON_TRANSMIT) {
		u64 cookie = s->packet.flow.ifindex | (u64)s->packet.flow.flags << 32;

		socket_streams.delete(&cookie);
	}
	if (claims)
		__sync_fetch_and_add(claims, -1);
}

static __always_inline void message_seen_at(struct __sk_buff *skb, struct message_scratch *s)
{
	s->message.ingress_ifindex = 0;
	s->message.cgroup = s->packet.flow.direction == NETMON_TRANSMIT ? bpf_skb_cgroup_id(skb) : 0;
}

/* ---- the state of a direction */

/* Computed: each way of a branch would be followed to the end. */
static __always_inline stream_state *stream_in(struct socket_streams *streams, u64 direction)
{
	if (!streams)
		return 0;
	asm volatile("%0 &= 1\n%0 *= %1" : "+r"(direction) : "i"(sizeof(stream_state)));
	return (stream_state *)((u8 *)streams + direction);
}

static __always_inline stream_state *stream_of(struct message_scratch *s, const struct netmon_flow_key *key)
{
	s->socket.cookie = key->ifindex | (u64)key->flags << 32;
	return stream_in(socket_streams.lookup(&s->socket.cookie), key->direction);
}

static __always_inline stream_state *datagram_of(struct message_scratch *s)
{
	const struct netmon_flow_key *key = &s->packet.flow;

	s->socket.cookie = key->ifindex | (u64)key->flags << 32;
	__builtin_memcpy(s->socket.address, key->direction ? key->destination : key->source, 16);
	s->socket.port = key->direction ? key->destination_port : key->source_port;
	return stream_in(datagram_streams.lookup(&s->socket), key->direction);
}

static __always_inline stream_state *stream_of_packet(struct message_scratch *s)
{
	return s->packet.tcp ? stream_of(s, &s->packet.flow) : datagram_of(s);
}

static __always_inline stream_state *stream_other(struct message_scratch *s)
{
	const struct netmon_flow_key *key = &s->packet.flow;
	struct netmon_flow_key *other = &s->other;

	__builtin_memcpy(other->source, key->destination, 16);
	__builtin_memcpy(other->destination, key->source, 16);
	other->ifindex = key->ifindex;
	other->source_port = key->destination_port;
	other->destination_port = key->source_port;
	other->protocol = key->protocol;
	other->direction = !key->direction;
	other->namespace = key->namespace;
	other->flags = key->flags;
	return stream_of(s, other);
}

/* ---- who tells what has no side */

static __always_inline u64 client_mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 29;
}

/* By its address alone: on the way to the server that of the server may be changed (NAT). */
static __always_inline u64 client_hash(const u32 *address, u16 port, u64 what)
{
	u64 hash = client_mix(what, address[0] | (u64)address[1] << 32);

	hash = client_mix(hash, address[2] | (u64)address[3] << 32);
	return client_mix(hash, port);
}

static __always_inline int client_is_told(u64 hash, u64 now, u64 within)
{
	u64 *began = told_clients.lookup(&hash);

	return began && (s64)(now - *began) < (s64)within; /* negative where another CPU told it meanwhile */
}

static __always_inline int stream_is_told_elsewhere(const stream_state *flow)
{
	return flow->told_elsewhere && flow->stream_stage != NETMON_STREAM_WHOLE;
}

/* Whether the client of a lookup over UDP is seen as well, so that what its server sees of it is not told. */
static __always_inline int dns_is_told_elsewhere(struct message_scratch *s, const struct netmon_query_key *key,
						 const int is_query)
{
	u64 now = s->message.time_ns;
	u64 hash;

	if (s->message.direction == (is_query ? NETMON_TRANSMIT : NETMON_RECEIVE) && !is_query)
		return 0;
	hash = client_hash(key->client, key->client_port, client_mix(key->question_hash, key->id));
	if (is_query && s->message.direction == NETMON_TRANSMIT) {
		told_clients.update(&hash, &now);
		return 0;
	}
	return client_is_told(hash, now, TOLD_LOOKUP_NS);
}

/* TCP_SYN where a segment has the first octets of its direction. */
static __always_inline u16 dns_begins(struct message_scratch *s)
{
	const stream_state *flow = stream_of(s, &s->packet.flow);

	return flow && (flow->sequence_state & NETMON_SEQUENCE_INITIAL) &&
			       flow->initial_sequence + 1 == s->message.sequence
		       ? TCP_SYN
		       : 0;
}

/* ---- connections begin and end */

#define STREAM_BEGUN (NETMON_SEQUENCE_NEXT | NETMON_SEQUENCE_INITIAL)

/* A connection is established; its ends are those of its row, sent and received the sequence numbers of both SYN. */
static __always_inline void streams_open(u64 cookie, const u32 *local, const u32 *remote, u32 ports, u32 sent,
					 u32 received, const u8 role)
{
	struct socket_streams fresh = {};
	stream_state *out = &fresh.directions[NETMON_TRANSMIT], *in = &fresh.directions[NETMON_RECEIVE];
	u64 now, hash;

	__builtin_memcpy(fresh.local, local, 16);
	__builtin_memcpy(fresh.remote, remote, 16);
	fresh.local_port = ports;
	fresh.remote_port = ports >> 16;
	out->initial_sequence = sent;
	in->initial_sequence = received;
	out->next_sequence = sent + 1;
	in->next_sequence = received + 1;
	now = bpf_ktime_get_ns();
	if (role == NETMON_ROLE_CLIENT) {
		out->sequence_state = STREAM_BEGUN | NETMON_SEQUENCE_CLIENT;
		in->sequence_state = STREAM_BEGUN | NETMON_SEQUENCE_SERVER;
		hash = client_hash(local, fresh.local_port, PROTOCOL_TCP);
		told_clients.update(&hash, &now);
	} else {
		out->sequence_state = STREAM_BEGUN | NETMON_SEQUENCE_SERVER;
		in->sequence_state = STREAM_BEGUN | NETMON_SEQUENCE_CLIENT;
		hash = client_hash(remote, fresh.remote_port, PROTOCOL_TCP);
		out->told_elsewhere = in->told_elsewhere = client_is_told(hash, now, TOLD_CONNECTION_NS);
	}
	if (socket_streams.update(&cookie, &fresh))
		message_count(NETMON_COUNT_STREAM_LOST_TABLE, 1);
}

static __always_inline void streams_close(u64 cookie)
{
	if (late_messages())
		socket_streams.delete(&cookie);
}

#endif
