/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* udp_stats: one row a UDP socket, by its cookie, from socket() to close(). Datagrams are counted as their socket sees them. */
#ifndef NETMON_UDP_H
#define NETMON_UDP_H

BPF_TABLE("hash", u64, struct netmon_udp, udp_stats, 16384); /* the loader sets the real size */
BPF_TABLE("array", u32, struct netmon_udp, udp_zero, 1);     /* a new row; nobody writes it */

/* Sockets closed lately, by cookie: a datagram may still be on its way to one, and must not make a row that nobody ends. */
#define UDP_CLOSED 4096
BPF_TABLE("array", u32, u64, udp_closed, UDP_CLOSED);

static __always_inline struct netmon_udp *udp_make(u64 cookie)
{
	u32 only = 0;
	struct netmon_udp *zero = udp_zero.lookup(&only);
	struct netmon_udp *row;

	if (!zero || udp_stats.insert(&cookie, zero))
		return udp_stats.lookup(&cookie);
	row = udp_stats.lookup(&cookie);
	if (!row)
		return 0;
	row->cookie = cookie;
	row->begin_ns = bpf_ktime_get_ns();
	connection_count(NETMON_CONNECTIONS_UDP_OPENED);
	return row;
}

/* The row of a socket that was there before the programs were, or was made by the kernel. */
static __always_inline struct netmon_udp *udp_adopt(struct __sk_buff *skb, u64 cookie)
{
	u32 only = 0, slot = cookie % UDP_CLOSED;
	u64 *full = udp_full.lookup(&only);
	u64 *closed = udp_closed.lookup(&slot);
	u64 now = bpf_jiffies64();
	struct netmon_udp *row;

	if (!full || !closed || now < *full || *closed == cookie)
		return 0;
	row = udp_make(cookie);
	if (!row) {
		*full = now + FULL_BACKOFF_JIFFIES;
		return 0;
	}
	row->cgroup = bpf_skb_cgroup_id(skb);
	row->flags = NETMON_CONNECTION_ADOPTED;
	return row;
}

static __always_inline void udp_without_row(u8 direction, u64 packets, u64 bytes)
{
	u32 place = NETMON_TOTALS_UDP, what = NETMON_CONNECTIONS_UDP_NO_PLACE;
	struct netmon_connection_totals *totals = connection_totals.lookup(&place);
	u64 *count = connection_counts.lookup(&what);

	if (!totals || !count)
		return;
	__sync_fetch_and_add(count, packets);
	if (direction == NETMON_RECEIVE) {
		__sync_fetch_and_add(&totals->packets_received, packets);
		__sync_fetch_and_add(&totals->bytes_received, bytes);
	} else {
		__sync_fetch_and_add(&totals->packets_sent, packets);
		__sync_fetch_and_add(&totals->bytes_sent, bytes);
	}
}

/* An address of the packet as a row has it; from_source tells which. */
static __always_inline int udp_address(struct __sk_buff *skb, const struct segment *s, const int from_source,
				       u32 *address)
{
	if (s->v6)
		return bpf_skb_load_bytes(skb, from_source ? 8 : 24, address, 16);
	v4_mapped(address, 0);
	return bpf_skb_load_bytes(skb, from_source ? 12 : 16, &address[3], 4);
}

/* The first datagram makes its peer the row's, and its direction the role. Of two at once one counts as somebody else's. */
static __always_inline void udp_begin(struct __sk_buff *skb, const struct segment *s, struct netmon_udp *row,
				      const u8 direction)
{
	const int sent = direction == NETMON_TRANSMIT;

	if (udp_address(skb, s, sent, row->local) || udp_address(skb, s, !sent, row->remote))
		return;
	row->local_port = sent ? s->source_port : s->destination_port;
	row->remote_port = sent ? s->destination_port : s->source_port;
	row->role = sent ? NETMON_ROLE_CLIENT : NETMON_ROLE_SERVER;
}

/* Whether a datagram is from or to the row's peer. */
static __always_inline int udp_is_peer(struct __sk_buff *skb, const struct segment *s, const struct netmon_udp *row,
				       const u8 direction)
{
	const int sent = direction == NETMON_TRANSMIT;
	u8 *data = (u8 *)(long)skb->data;
	u32 address[4];
	u32 *at;

	if (row->remote_port != (sent ? s->destination_port : s->source_port))
		return 0;
	if (data + 40 <= (u8 *)(long)skb->data_end && !s->v6) {
		at = (u32 *)(data + (sent ? 16 : 12));
		return row->remote[3] == at[0] && row->remote[2] == bpf_htonl(0xffff) && !row->remote[1] &&
		       !row->remote[0];
	}
	if (udp_address(skb, s, !sent, address))
		return 0;
	return row->remote[3] == address[3] && row->remote[2] == address[2] && row->remote[1] == address[1] &&
	       row->remote[0] == address[0];
}

static __always_inline void udp_datagram(struct __sk_buff *skb, const struct segment *s, const u8 direction)
{
	u64 cookie = socket_cookie(skb);
	struct netmon_udp *row = udp_stats.lookup(&cookie);
	u64 packets = segment_many(skb), bytes = s->payload;

	if (!row)
		row = udp_adopt(skb, cookie);
	if (!row || (row->flags & NETMON_CONNECTION_ENDED)) {
		udp_without_row(direction, packets, bytes);
		return;
	}
	if (!row->role)
		udp_begin(skb, s, row, direction);
	if (udp_is_peer(skb, s, row, direction)) {
		if (direction == NETMON_RECEIVE) {
			__sync_fetch_and_add(&row->packets_received, packets);
			__sync_fetch_and_add(&row->bytes_received, bytes);
		} else {
			__sync_fetch_and_add(&row->packets_sent, packets);
			__sync_fetch_and_add(&row->bytes_sent, bytes);
		}
	} else if (direction == NETMON_RECEIVE) {
		__sync_fetch_and_add(&row->other_packets_received, packets);
		__sync_fetch_and_add(&row->other_bytes_received, bytes);
	} else {
		__sync_fetch_and_add(&row->other_packets_sent, packets);
		__sync_fetch_and_add(&row->other_bytes_sent, bytes);
	}
}

/* The socket is closed. One that never had a datagram leaves no record. */
static __always_inline void udp_close(u64 cookie)
{
	struct netmon_udp *row = udp_stats.lookup(&cookie);
	u32 slot = cookie % UDP_CLOSED;
	u64 *closed = udp_closed.lookup(&slot);

	if (closed)
		*closed = cookie;
	if (!row || (row->flags & NETMON_CONNECTION_ENDED))
		return;
	if (!row->role) {
		connection_count(NETMON_CONNECTIONS_UDP_UNUSED);
		udp_stats.delete(&cookie);
		return;
	}
	row->closer_tgid = bpf_get_current_pid_tgid() >> 32;
	row->end_ns = bpf_ktime_get_ns();
	if (udp_records.ringbuf_output(row, sizeof(*row), connection_wakeup(1, sizeof(*row)))) {
		connection_count(NETMON_CONNECTIONS_UDP_RING_FULL);
		asm volatile("" ::: "memory");
		row->flags |= NETMON_CONNECTION_ENDED;
		return;
	}
	connection_count(NETMON_CONNECTIONS_UDP_RECORDS);
	udp_stats.delete(&cookie);
}

#endif
