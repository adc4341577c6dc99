/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What no field of a TCP socket tells: segments that came out of order, windows that closed, RST and FIN as they come. A
 * segment without payload and with nothing of this costs a look at its header; one with payload, the row.
 */
#ifndef NETMON_SEGMENTS_H
#define NETMON_SEGMENTS_H

#define REFRESH_JIFFIES 32 /* a connection that only receives has no round trips: its counts are taken so often */
#define EARLY_BLOCKS 4	   /* as many as a SACK option can tell */
#define SEQUENCE_KNOWN 1
#define SEQUENCE_EARLY 2
#define TCP_STATE_FLAGS (TCP_SYN | TCP_FIN | TCP_RST)

/* A transport header in the packet of a socket; at is its offset from the IP header. */
struct segment {
	u32 at;
	u32 sequence;
	u32 payload;
	u16 source_port;
	u16 destination_port;
	u16 window; /* as it is on the wire */
	u8 flags;
	u8 protocol;
	u8 v6;
};

/* The rare case: IPv4 options, IPv6 extension headers, headers outside of the linear part. 0: nothing that is counted. */
static __always_inline int segment_load(struct __sk_buff *skb, struct segment *s)
{
	u8 header[40];
	int i;

	if (bpf_skb_load_bytes(skb, 0, header, 20))
		return 0;
	if (header[0] >> 4 == 4) {
		s->v6 = 0;
		s->at = (header[0] & 15) << 2;
		s->protocol = header[9];
		if (be16(header + 6) & 0x1fff)
			return 0;
	} else {
		s->v6 = 1;
		s->at = 40;
		s->protocol = header[6];
		for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
			if (!is_extension(s->protocol) || bpf_skb_load_bytes(skb, s->at, header, 4))
				break;
			if (s->protocol == 44 && (be16(header + 2) & 0xfff8))
				return 0;
			if (s->protocol == 44)
				s->at += 8;
			else if (s->protocol == 51)
				s->at += (header[1] + 2) << 2;
			else
				s->at += (header[1] + 1) << 3;
			s->protocol = header[0];
		}
	}
	if (s->protocol == PROTOCOL_TCP) {
		if (bpf_skb_load_bytes(skb, s->at, header, 16))
			return 0;
		s->sequence = bpf_ntohl(*(u32 *)(header + 4));
		s->flags = header[13];
		s->window = *(u16 *)(header + 14);
		s->payload = skb->len - s->at - ((header[12] >> 4) << 2);
	} else if (s->protocol == PROTOCOL_UDP) {
		if (bpf_skb_load_bytes(skb, s->at, header, 8))
			return 0;
		s->payload = skb->len - s->at - 8;
	} else {
		return 1;
	}
	s->source_port = *(u16 *)header;
	s->destination_port = *(u16 *)(header + 2);
	return 1;
}

static __always_inline int segment_read(struct __sk_buff *skb, struct segment *s)
{
	u8 *data = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;
	u8 *at;

	if (data + 36 > end)
		return segment_load(skb, s);
	if (data[0] == 0x45 && !(*(u16 *)(data + 6) & bpf_htons(0x1fff))) {
		s->v6 = 0;
		s->at = 20;
		s->protocol = data[9];
		at = data + 20;
	} else if (data[0] >> 4 == 6 && data + 56 <= end) {
		s->v6 = 1;
		s->at = 40;
		s->protocol = data[6];
		at = data + 40;
	} else {
		return segment_load(skb, s);
	}
	if (s->protocol == PROTOCOL_TCP) {
		s->sequence = bpf_ntohl(*(u32 *)(at + 4));
		s->flags = at[13];
		s->window = *(u16 *)(at + 14);
		s->payload = skb->len - s->at - ((at[12] >> 4) << 2);
	} else if (s->protocol == PROTOCOL_UDP) {
		s->payload = skb->len - s->at - 8;
	} else {
		return segment_load(skb, s);
	}
	s->source_port = *(u16 *)at;
	s->destination_port = *(u16 *)(at + 2);
	return 1;
}

/* How many segments or datagrams of the wire this packet stands for. */
static __always_inline u32 segment_many(struct __sk_buff *skb)
{
	u32 many = skb->gso_segs;

	return many > 1 ? many : 1;
}

/* The TCP socket of a packet; 0: it has none that is more than a request or a memory of a connection. */
static __always_inline struct bpf_tcp_sock *segment_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk ? bpf_tcp_sock(sk) : 0;
}

/* Moves on what is expected next, over the blocks that came early and are reached. */
static __always_inline void segment_expect(struct netmon_connection *row, u32 next)
{
	int round, i, left = 0;

	if (row->sequence_state & SEQUENCE_EARLY) {
#pragma unroll
		for (round = 0; round < EARLY_BLOCKS; round++) {
			left = 0;
#pragma unroll
			for (i = 0; i < EARLY_BLOCKS; i++) {
				if (row->early_first[i] == row->early_end[i])
					continue;
				left = 1;
				if ((s32)(next - row->early_first[i]) < 0)
					continue;
				if ((s32)(row->early_end[i] - next) > 0)
					next = row->early_end[i];
				row->early_end[i] = row->early_first[i];
			}
			if (!left)
				break;
		}
		if (!left)
			row->sequence_state = SEQUENCE_KNOWN;
	}
	row->next_sequence = next;
}

/* Remembers a block that came early, joined with those that it touches. Of more than there are places for one is forgotten. */
static __always_inline void segment_early(struct netmon_connection *row, u32 first, u32 end)
{
	int i, place = EARLY_BLOCKS - 1;

#pragma unroll
	for (i = 0; i < EARLY_BLOCKS; i++) {
		if (row->early_first[i] == row->early_end[i]) {
			place = i;
			continue;
		}
		if ((s32)(first - row->early_end[i]) > 0 || (s32)(row->early_first[i] - end) > 0)
			continue;
		if ((s32)(first - row->early_first[i]) > 0)
			first = row->early_first[i];
		if ((s32)(row->early_end[i] - end) > 0)
			end = row->early_end[i];
		row->early_end[i] = row->early_first[i];
		place = i;
	}
#pragma unroll
	for (i = 0; i < EARLY_BLOCKS; i++) {
		if (i == place) {
			row->early_first[i] = first;
			row->early_end[i] = end;
		}
	}
	row->sequence_state = SEQUENCE_KNOWN | SEQUENCE_EARLY;
}

/*
 * Counts a segment that begins behind what is expected next, in the order of arrival: packets queue up while a process
 * holds the socket. Only where blocks were forgotten has the socket's own expectation to tell that a gap is filled.
 */
static __always_inline void segment_order(struct __sk_buff *skb, struct netmon_connection *row, const struct segment *s)
{
	u32 first = s->sequence, end = s->sequence + s->payload;
	struct bpf_tcp_sock *tcp;

	if (!row->sequence_state || (s32)(first - row->next_sequence) > 0) {
		tcp = segment_socket(skb);
		if (!tcp)
			return;
		if (!row->sequence_state) {
			row->sequence_state = SEQUENCE_KNOWN;
			row->next_sequence = tcp->rcv_nxt;
		} else if ((s32)(tcp->rcv_nxt - row->next_sequence) > 0) {
			segment_expect(row, tcp->rcv_nxt);
		}
		if ((s32)(first - row->next_sequence) > 0) {
			__sync_fetch_and_add(&row->out_of_order, segment_many(skb));
			segment_early(row, first, end);
			return;
		}
	}
	if ((s32)(end - row->next_sequence) > 0)
		segment_expect(row, end);
}

static __always_inline void segment_refresh(struct __sk_buff *skb, struct netmon_connection *row)
{
	struct bpf_tcp_sock *tcp = segment_socket(skb);

	if (tcp)
		connection_refresh(row, tcp);
}

/* A segment came to a socket without a row: what its end will ask for. */
static __always_inline void segment_without_row(const struct segment *s, u64 cookie)
{
	struct unplaced *unplaced;

	if (!(s->flags & (TCP_RST | TCP_FIN)))
		return;
	unplaced = connections_unplaced.lookup(&cookie);
	if (!unplaced)
		return;
	if (s->flags & TCP_RST)
		unplaced->reset_received = 1;
	if (s->flags & TCP_FIN) {
		unplaced->fin_sequence = s->sequence + s->payload + 1;
		unplaced->fin_seen = 1;
	}
}

/* Gives the row of the socket, 0 where it has none or none was needed. */
static __always_inline struct netmon_connection *segment_received(struct __sk_buff *skb, const struct segment *s)
{
	struct netmon_connection *row;
	u64 cookie;
	u32 now;

	if (!s->payload && s->window && !(s->flags & (TCP_FIN | TCP_RST)))
		return 0;
	cookie = socket_cookie(skb);
	row = connection_of(cookie);
	if (!row) {
		segment_without_row(s, cookie);
		return 0;
	}
	if (row->role == NETMON_ROLE_LISTENER)
		return 0; /* the ACK that ends a handshake, with data: the connection it makes is not there yet */
	if (s->flags & TCP_RST) {
		row->reset_received = 1;
		return row;
	}
	if (s->flags & TCP_FIN) {
		row->fin_sequence = s->sequence + s->payload + 1;
		row->noticed |= NOTICED_FIN;
	}
	if (!s->window && !(s->flags & TCP_STATE_FLAGS))
		__sync_fetch_and_add(&row->zero_windows_received, 1);
	if (!s->payload || (s->flags & TCP_SYN))
		return row;
	if (row->reset_received)
		row->reset_received = 0; /* that one was not valid, or nothing would come any more */
	segment_order(skb, row, s);
	if (row->released && (row->state == BPF_TCP_FIN_WAIT1 || row->state == BPF_TCP_FIN_WAIT2))
		row->reset_sent =
			1; /* data for a process that closed: the kernel answers with RST (RFC 1122, 4.2.2.13) */
	now = bpf_jiffies64();
	if (now - row->refreshed >= REFRESH_JIFFIES) {
		row->refreshed = now;
		segment_refresh(skb, row);
	}
	return row;
}

/*
 * A keep-alive probe, or one of a closed window, repeats the octet before the first that is not acknowledged (RFC 9293,
 * 3.8.4): no other segment is so. If nothing comes after it and then RST is sent, nobody closed: the other side is gone.
 */
static __always_inline void segment_probe(struct __sk_buff *skb, const struct segment *s)
{
	struct bpf_tcp_sock *tcp = segment_socket(skb);
	struct netmon_connection *row;

	if (!tcp || s->sequence + 1 != tcp->snd_una)
		return;
	row = connection_of(socket_cookie(skb));
	if (!row)
		return;
	if (row->probe_segments != tcp->segs_in) {
		row->probe_segments = tcp->segs_in;
		row->probes = 0;
	}
	if (row->probes < 255)
		row->probes++;
}

static __always_inline void segment_reset_sent(struct __sk_buff *skb, struct netmon_connection *row)
{
	struct bpf_tcp_sock *tcp = segment_socket(skb);

	row->reset_sent = 1;
	if (!tcp || tcp->segs_in != row->probe_segments)
		row->probes = 0;
}

static __always_inline void segment_sent(struct __sk_buff *skb, const struct segment *s)
{
	struct netmon_connection *row;
	struct unplaced *unplaced;
	u64 cookie;

	if (s->window && !(s->flags & TCP_RST)) {
		if (!s->payload && !(s->flags & TCP_STATE_FLAGS))
			segment_probe(skb, s);
		return;
	}
	if (!s->window && (s->flags & (TCP_SYN | TCP_FIN)))
		return;
	cookie = socket_cookie(skb);
	row = connection_of(cookie);
	if (!row) {
		unplaced = s->flags & TCP_RST ? connections_unplaced.lookup(&cookie) : 0;
		if (unplaced)
			unplaced->reset_sent = 1;
		return;
	}
	if (s->flags & TCP_RST)
		segment_reset_sent(skb, row);
	else
		__sync_fetch_and_add(&row->zero_windows_sent, 1);
}

#endif
