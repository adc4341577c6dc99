/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * flow_table: one row a direction, conversation and interface, exact.
 * A shared hash with atomic adds: it costs what a per-CPU hash costs at one flow, half of it at 60,000, and its memory
 * does not grow with the number of CPUs. Preallocated: rows lie side by side, which is a third of the cost at 60,000.
 * A replay makes it without (BPF_F_NO_PREALLOC) and larger.
 */
#ifndef NETMON_FLOWS_H
#define NETMON_FLOWS_H

#define FLOW_TABLE_ENTRIES 65536 /* the loader sets the real size */
#define FULL_BACKOFF_JIFFIES 16	 /* after a refused insert: at 344 ns an attempt, a flood must not try each time */

BPF_TABLE("hash", struct netmon_flow_key, struct netmon_flow, flow_table, FLOW_TABLE_ENTRIES);

/* A lookup that finds nothing in a full table touches two cold cache lines and their page tables; this touches one warm. */
BPF_TABLE("array", u32, struct netmon_filter, flow_filter, 1);

static __always_inline u8 *filter_slot(struct netmon_filter *filter, const struct netmon_flow_key *key)
{
	const u32 *word = (const u32 *)key;
	u64 mix = word[3] | (u64)word[7] << 32;

	mix = (mix ^ mix >> 31) * 0x9e3779b97f4a7c15;
	mix ^= word[9] | (u64)(word[8] ^ word[10]) << 32;
	mix = (mix ^ mix >> 29) * 0xbf58476d1ce4e5b9;
	mix ^= (word[2] ^ (u64)word[1] << 16 ^ (u64)word[0] << 32) +
	       (word[6] ^ (u64)word[5] << 16 ^ (u64)word[4] << 32);
	mix = (mix ^ mix >> 27) * 0x94d049bb133111eb;
	return &filter->slots[mix >> 46];
}

static __always_inline void filter_set(const struct netmon_flow_key *key)
{
	u32 only = 0;
	struct netmon_filter *filter = flow_filter.lookup(&only);

	if (filter)
		*filter_slot(filter, key) = 1;
}

/* 0 where the flow is certainly not in the table. */
static __always_inline int filter_allows(const struct netmon_flow_key *key)
{
	u32 only = 0;
	struct netmon_filter *filter = flow_filter.lookup(&only);

	return !filter || filter->marking || *filter_slot(filter, key);
}

static __always_inline u64 flow_clock(struct __sk_buff *skb)
{
	return late_replay() ? skb->tstamp : bpf_jiffies64();
}

/*
 * Retransmitted segments by the sequence numbers of one direction: a segment that occupies sequence space below the
 * highest already seen, unless it repeats one octet alone: a keep-alive (RFC 9293, 3.8.4), or the data behind a probe of
 * a zero window (3.8.6.1). A SYN with another initial sequence number is a new connection on the same ports. Packets of
 * one direction are handled in order by one CPU at a time.
 */
static __always_inline void tcp_sequence(struct netmon_flow *flow, const struct packet *p, u32 payload, u32 segments)
{
	u8 flags = p->tcp_flags;
	u32 sequence = p->sequence;
	u32 space = payload + !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
	u32 end = sequence + space;

	if (flow->tcp_flags != (flow->tcp_flags | flags))
		flow->tcp_flags |= flags;
	if (flags & TCP_RST)
		__sync_fetch_and_add(&flow->resets, 1);
	if (payload == PAYLOAD_CUT)
		return;
	if (flags & TCP_SYN) {
		if ((flow->sequence_state & NETMON_SEQUENCE_INITIAL) && flow->initial_sequence == sequence) {
			flow->retransmits += segments;
			if ((s32)(end - flow->next_sequence) > 0)
				flow->next_sequence = end;
			return;
		}
		flow->initial_sequence = sequence;
		flow->sequence_state = NETMON_SEQUENCE_NEXT | NETMON_SEQUENCE_INITIAL |
				       (flags & TCP_ACK ? NETMON_SEQUENCE_SERVER : NETMON_SEQUENCE_CLIENT);
		flow->next_sequence = end;
		flow->stream_handed = 0;
		flow->stream_looked = flow->stream_stage = 0;
	} else if (!(flow->sequence_state & NETMON_SEQUENCE_NEXT)) {
		flow->sequence_state |= NETMON_SEQUENCE_NEXT;
		flow->next_sequence = end;
	} else {
		s32 ahead = sequence - flow->next_sequence;

		if (space && ahead < 0 && !(ahead == -1 && (payload > 1 || !(flags & (TCP_FIN | TCP_RST)))))
			flow->retransmits += segments;
		/* A bare ACK counts too: what it follows was sent. A reset does not: it may echo the other side's number. */
		if (!(flags & TCP_RST) && (s32)(end - flow->next_sequence) > 0)
			flow->next_sequence = end;
	}
}

/* Says where to look, if anywhere. 1: counted in a flow; 0: it had no place. */
static __always_inline int count_flow(struct __sk_buff *skb, struct packet *p, u32 length, u32 payload,
				      const struct netmon_counters *amount)
{
	struct netmon_flow *flow;
	u64 now = flow_clock(skb);
	u32 only = 0;
	int counts;
	struct netmon_state *state = agent_state.lookup(&only);

	if (!state)
		return 0;
	if (now < state->full_until && !filter_allows(&p->flow))
		return 0;
	flow = flow_table.lookup(&p->flow);
	if (!flow) {
		struct netmon_flow fresh = {};
		int error;

		if (now < state->full_until)
			return 0;
		fresh.packets = amount->packets;
		fresh.bytes = amount->bytes;
		fresh.extra_packets = amount->extra_packets;
		fresh.extra_bytes = amount->extra_bytes;
		fresh.first_ns = late_replay() ? now : bpf_ktime_get_ns();
		fresh.last = now;
		if (p->flow.flags & NETMON_FLOW_FORWARDED)
			fresh.ingress_ifindex = skb->ingress_ifindex;
		if (p->tcp)
			tcp_sequence(&fresh, p, payload, amount->packets + amount->extra_packets);
		p->look = may_be_message(p->flow.protocol, p->tcp_flags, payload, fresh.sequence_state);
		error = flow_table.insert(&p->flow, &fresh);
		if (!error) {
			__sync_fetch_and_add(&state->inserts, 1);
			filter_set(&p->flow);
			return 1;
		}
		flow = flow_table.lookup(&p->flow); /* another CPU made it meanwhile */
		if (!flow) {
			if (!late_replay())
				state->full_until = now + FULL_BACKOFF_JIFFIES;
			__sync_fetch_and_add(&state->full_events, 1);
			return 0;
		}
	}
	/* A row that closes counts nothing any more, but a connection that begins anew in it is looked at as any other. */
	counts = !flow->closing;
	if (counts) {
		__sync_fetch_and_add(&flow->packets, amount->packets);
		__sync_fetch_and_add(&flow->bytes, amount->bytes);
		if (amount->extra_packets) {
			__sync_fetch_and_add(&flow->extra_packets, amount->extra_packets);
			__sync_fetch_and_add(&flow->extra_bytes, amount->extra_bytes);
		}
		if (flow->last != now)
			flow->last = now;
		if (p->flow.flags & NETMON_FLOW_FORWARDED)
			flow->ingress_ifindex = skb->ingress_ifindex;
	}
	if (p->tcp)
		tcp_sequence(flow, p, payload, amount->packets + amount->extra_packets);
	p->look = where_to_look(p->flow.protocol, p->tcp_flags, p->sequence + payload, payload, flow->sequence_state,
				flow->stream_next);
	return counts;
}

#endif
