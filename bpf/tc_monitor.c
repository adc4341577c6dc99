/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TCX or clsact, both directions of an interface: exact flows, and the heads of messages. Every program returns TCX_NEXT
 * (= TC_ACT_UNSPEC), so whatever is attached beside it decides about the packet as if it were not there.
 */
#include <uapi/linux/bpf.h>

#include "netmon_abi.h"
#include "late.h"

#define CONTEXT struct __sk_buff
#define VERDICT -1

static __always_inline int frame_load(struct __sk_buff *skb, u32 offset, void *to, const u32 length)
{
	return bpf_skb_load_bytes(skb, offset, to, length);
}

/*
 * A replay counts a fragment as it is, but looks into the datagram that it is part of, put together in user space: cb[4]
 * tells of a frame that it is counted already, or that it is only to be counted.
 */
#define REPLAY_COUNTED 1
#define REPLAY_COUNT_ONLY 2

#include "packet.h"
#include "counters.h"
#include "look.h"
#include "flows.h"
#include "at_interface.h"
#include "dns.h"
#include "unreachable.h"
#include "http2.h"
#include "stream.h"
#include "http.h"

/* All that the hook saw, by interface and direction, apart from flows: what the sum of the rest is checked against. */
BPF_TABLE("percpu_array", u32, struct netmon_counters, hook_totals, NETMON_HOOK_SLOTS * 2);

/*
 * The common case, read in place: Ethernet or bare IP, IPv4 without options or IPv6 without extensions, no fragment,
 * TCP or UDP, headers in the linear part. Anything else is the general parser's. Both give the same result.
 */
static __always_inline int parse_fast(struct __sk_buff *skb, struct packet *p)
{
	u8 *data = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;
	u32 l2 = late_l2_length();
	u8 *ip = data + l2;
	u8 *at;
	u16 type;

	if (ip + 28 > end)
		return 0;
	if (l2)
		type = *(u16 *)(data + 12);
	else
		type = ip[0] >> 4 == 6 ? bpf_htons(ETHERTYPE_IPV6) : bpf_htons(ETHERTYPE_IPV4);
	if (type == bpf_htons(ETHERTYPE_IPV4)) {
		if (ip[0] != 0x45 || (*(u16 *)(ip + 6) & bpf_htons(0x1fff)))
			return 0;
		p->ethertype = ETHERTYPE_IPV4;
		p->network_length = bpf_ntohs(*(u16 *)(ip + 2));
		*(u64 *)p->flow.source = 0;
		*(u64 *)p->flow.destination = 0;
		p->flow.source[2] = p->flow.destination[2] = bpf_htonl(0xffff);
		p->flow.source[3] = *(u32 *)(ip + 12);
		p->flow.destination[3] = *(u32 *)(ip + 16);
		p->flow.protocol = ip[9];
		at = ip + 20;
	} else if (type == bpf_htons(ETHERTYPE_IPV6)) {
		if (ip + 48 > end || ip[0] >> 4 != 6)
			return 0;
		p->ethertype = ETHERTYPE_IPV6;
		p->network_length = bpf_ntohs(*(u16 *)(ip + 4));
		if (p->network_length)
			p->network_length += 40;
		__builtin_memcpy(p->flow.source, ip + 8, 16);
		__builtin_memcpy(p->flow.destination, ip + 24, 16);
		p->flow.protocol = ip[6];
		at = ip + 40;
	} else {
		return 0;
	}
	if (p->flow.protocol == PROTOCOL_TCP) {
		if (at + 16 > end || at[12] < 5 << 4)
			return 0;
		p->tcp = 1;
		p->sequence = bpf_ntohl(*(u32 *)(at + 4));
		p->tcp_flags = at[13];
		p->tcp_header = (at[12] >> 4) << 2;
		p->headers = (at - data) + p->tcp_header;
	} else if (p->flow.protocol == PROTOCOL_UDP) {
		if (late_decapsulate())
			return 0;
		p->tcp = 0;
		p->sequence = 0;
		p->tcp_flags = 0;
		p->headers = (at - data) + 8;
	} else {
		return 0;
	}
	p->flow.source_port = *(u16 *)at;
	p->flow.destination_port = *(u16 *)(at + 2);
	p->network_offset = l2;
	p->kind = NETMON_KIND_FLOW;
	p->reason = NETMON_REASON_NONE;
	return 1;
}

/* A super-packet of GSO or GRO stands for several frames on the wire, each with the headers again. */
static __always_inline void unfold(struct __sk_buff *skb, const struct packet *p, struct netmon_counters *amount)
{
	u32 segments = skb->gso_segs;
	u32 size = skb->gso_size;
	u32 headers = p->headers;

	if (!size)
		return;
	if (!segments && skb->len > headers)
		segments = (skb->len - headers + size - 1) / size; /* an untrusted source leaves it to the driver */
	if (segments < 2)
		return;
	amount->extra_packets = segments - 1;
	amount->extra_bytes = (u64)(segments - 1) * headers;
}

/*
 * NETMON_FLOW_FORWARDED (1) where the packet came in by an interface, otherwise 0. Without a branch: the verifier would
 * follow both ways to the end.
 */
static __always_inline u8 forwarded(struct __sk_buff *skb)
{
	u64 carry = skb->ingress_ifindex;

	asm volatile("%0 += %1\n%0 >>= 32" : "+r"(carry) : "r"(0xffffffffULL));
	return carry;
}

/* Called when all else is counted: what a reader finds here is already in the rows that it reads next. */
static __always_inline void count_total(u32 ifindex, u8 direction, const struct netmon_counters *amount)
{
	u32 slot =
		((ifindex + (u32)late_namespace() * NETMON_HOOK_NAMESPACE_STRIDE) % NETMON_HOOK_SLOTS) * 2 + direction;
	struct netmon_counters *total = hook_totals.lookup(&slot);

	if (!total)
		return;
	total->packets += 1;
	total->bytes += amount->bytes;
	if (amount->extra_packets) {
		total->extra_packets += amount->extra_packets;
		total->extra_bytes += amount->extra_bytes;
	}
}

/*
 * Messages are found where flows are. In a capture they are found inside of tunnels in any case, as it has no tunnel
 * device that shows them: there the program that decapsulates is called, and told by cb[4] that the packet is counted.
 */
static __always_inline void look_into(struct __sk_buff *skb, const struct packet *p, u32 length)
{
	u8 protocols = message_protocols(p->flow.source_port, p->flow.destination_port);

	if (late_replay() && !late_decapsulate() && !protocols && may_be_tunnel(p)) {
		asm volatile("*(u32 *)(%0 + 64) = %1" : : "r"(skb), "r"(REPLAY_COUNTED) : "memory");
		message_programs.call(skb, NETMON_PROGRAM_TUNNEL);
	}
	message(skb, p, length, protocols);
}

static __always_inline int monitor(struct __sk_buff *skb, const u8 direction)
{
	struct packet p;
	struct netmon_counters amount;
	u32 ifindex = skb->ifindex;
	u32 length = late_replay() ? control(skb, 0) : skb->len;
	u32 payload;

	if (!(late_fast_path() && parse_fast(skb, &p)))
		parse(skb, &p, unknown_zero());

	amount.packets = 1;
	amount.bytes = length;
	amount.extra_packets = 0;
	amount.extra_bytes = 0;
	if (late_replay()) {
		if (control(skb, 1) && p.kind == NETMON_KIND_FLOW) /* the replay asks for IP lengths */
			amount.bytes = p.network_length ? p.network_length : length - p.network_offset;
	} else {
		if (skb->vlan_present)
			amount.bytes += 4; /* the tag was on the wire, the offload took it out of the frame */
		unfold(skb, &p, &amount);
	}

	if (p.kind != NETMON_KIND_FLOW) {
		count_row(&p, p.kind, ifindex, direction, &amount);
		count_total(ifindex, direction, &amount);
		return VERDICT;
	}
	payload = p.tcp ? transport_payload(&p, length) : 0;
	p.flow.ifindex = ifindex;
	p.flow.direction = direction;
	p.flow.namespace = late_namespace();
	p.flow.flags = direction == NETMON_TRANSMIT ? forwarded(skb) : 0;
	p.look = late_replay() ? LOOK_STREAM : LOOK_NOWHERE;
	if (late_replay() && (control(skb, 2) ||
			      control(skb, 4) == REPLAY_COUNTED)) { /* a further piece, a whole datagram, in a tunnel */
		look_into(skb, &p, length);
		return VERDICT;
	}
	if (!count_flow(skb, &p, length, payload, &amount))
		count_row(&p, p.flow.flags ? NETMON_KIND_OVERFLOW_FORWARDED : NETMON_KIND_OVERFLOW, ifindex, direction,
			  &amount);
	count_total(ifindex, direction, &amount);
	if (late_replay() && control(skb, 4) == REPLAY_COUNT_ONLY)
		return VERDICT;
	look_into(skb, &p, length);
	return VERDICT;
}

int netmon_receive(struct __sk_buff *skb)
{
	return monitor(skb, NETMON_RECEIVE);
}

int netmon_transmit(struct __sk_buff *skb)
{
	return monitor(skb, NETMON_TRANSMIT);
}

/* Called by message() in the place of what follows it, with the same packet: DNS, multicast DNS and LLMNR. */
int netmon_dns(struct __sk_buff *skb)
{
	dns(skb);
	return VERDICT;
}

/* Likewise for packets without ports; of those with one port of 0, which a message may be in, the other program hears. */
int netmon_errors(struct __sk_buff *skb)
{
	struct message_scratch *s = message_scratch_of(skb);

	if (!s)
		return VERDICT;
	if (s->packet.flow.protocol == PROTOCOL_ICMP)
		unreachable_note(skb, s->packet.headers, 0);
	else if (s->packet.flow.protocol == PROTOCOL_ICMPV6)
		unreachable_note(skb, s->packet.headers, 1);
	else
		message_programs.call(skb, NETMON_PROGRAM_DNS);
	return VERDICT;
}

/* Called likewise: whatever is told by its content, TLS, HTTP, QUIC and DTLS. */
int netmon_stream(struct __sk_buff *skb)
{
	stream(skb);
	return VERDICT;
}

/* Called likewise for what was found to be HTTP/1. */
int netmon_http(struct __sk_buff *skb)
{
	http(skb);
	return VERDICT;
}

/* Called likewise for what was found to be HTTP/2. */
int netmon_http2(struct __sk_buff *skb)
{
	http2(skb);
	return VERDICT;
}

#define SWEEP_KEYS_MAX 64

/*
 * Run by the reader through BPF_PROG_TEST_RUN, never attached: marks idle flows as closing. The frame is 16 bytes of
 * padding, then up to SWEEP_KEYS_MAX keys; cb[0] how many, cb[1] the idle time in jiffies. After a grace period (the
 * reader asks membarrier(2) for one) nobody adds to a marked row, and its last value can be taken before it is deleted.
 */
int netmon_sweep(struct __sk_buff *skb)
{
	struct netmon_flow_key key;
	u32 count = control(skb, 0);
	u64 idle = control(skb, 1);
	u64 now = bpf_jiffies64();
	int i, marked = 0;

	for (i = 0; i < SWEEP_KEYS_MAX; i++) {
		struct netmon_flow *flow;

		asm volatile("" : "+r"(i)); /* or the compiler counts in bytes and the verifier sees no end */
		if (i >= count || bpf_skb_load_bytes(skb, 16 + i * sizeof(key), &key, sizeof(key)))
			break;
		flow = flow_table.lookup(&key);
		if (flow && (s64)(now - flow->last) >= (s64)idle) { /* negative where another CPU counts meanwhile */
			flow->closing = 1;
			marked++;
		}
	}
	return marked;
}

/* Likewise, with keys of http_connections. */
int netmon_quiet(struct __sk_buff *skb)
{
	return http_quiet_keys(skb);
}

/*
 * Run by the reader like the sweep, with keys that are in flow_table: sets their slots in flow_filter. cb[1] not 0 ends the
 * marking.
 */
int netmon_mark(struct __sk_buff *skb)
{
	struct netmon_flow_key key;
	u32 count = control(skb, 0);
	u32 only = 0;
	struct netmon_filter *filter = flow_filter.lookup(&only);
	int i, marked = 0;

	if (!filter)
		return 0;
	for (i = 0; i < SWEEP_KEYS_MAX; i++) {
		asm volatile("" : "+r"(i));
		if (i >= count || bpf_skb_load_bytes(skb, 16 + i * sizeof(key), &key, sizeof(key)))
			break;
		*filter_slot(filter, &key) = 1;
		marked++;
	}
	if (control(skb, 1))
		filter->marking = 0;
	return marked;
}

/* Also run by the reader: both clocks at once, so that jiffies can be told in seconds. */
int netmon_clock(struct __sk_buff *skb)
{
	u32 only = 0;
	struct netmon_state *state = agent_state.lookup(&only);

	if (state) {
		state->jiffies = bpf_jiffies64();
		state->monotonic_ns = bpf_ktime_get_ns();
	}
	return 0;
}
