/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Appended to tc_monitor.c by kernel_cost.py: three programs that differ only in what they do with a frame whose
 * source address they have just changed, so that BENCH_FLOWS flows are visited in a scattered order; and two that differ
 * only in what they do with a DNS message whose id they have just changed.
 */
BPF_TABLE("percpu_hash", struct netmon_flow_key, u64, bare_table, 131072);
BPF_TABLE("percpu_array", u32, u64, bench_turn, 2);

static __always_inline int next_flow(struct __sk_buff *skb)
{
	u32 turn_index = 0, flows_index = 1;
	u64 *turn = bench_turn.lookup(&turn_index), *flows = bench_turn.lookup(&flows_index);
	u8 *data = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;

	if (!turn || !flows || data + 42 > end)
		return 0;
	*turn += 7919; /* a prime: neighbours in time are not neighbours in the table */
	*(u32 *)(data + 26) = (u32)(*turn & *flows);
	return 1;
}

int bench_empty(struct __sk_buff *skb)
{
	next_flow(skb);
	return VERDICT;
}

int bench_bare(struct __sk_buff *skb)
{
	struct netmon_flow_key key;
	u8 *data, *end;
	u64 *count, zero = 0;

	if (!next_flow(skb))
		return VERDICT;
	data = (u8 *)(long)skb->data;
	end = (u8 *)(long)skb->data_end;
	if (data + 42 > end)
		return VERDICT;
	*(u64 *)key.source = *(u64 *)key.destination = 0;
	key.source[2] = key.destination[2] = bpf_htonl(0xffff);
	key.source[3] = *(u32 *)(data + 26);
	key.destination[3] = *(u32 *)(data + 30);
	key.source_port = *(u16 *)(data + 34);
	key.destination_port = *(u16 *)(data + 36);
	key.ifindex = skb->ifindex;
	key.protocol = data[23];
	key.direction = key.namespace = key.flags = 0;
	count = bare_table.lookup(&key);
	if (count)
		*count += 1;
	else
		bare_table.update(&key, &zero);
	return VERDICT;
}

int bench_flows(struct __sk_buff *skb)
{
	next_flow(skb);
	return monitor(skb, NETMON_RECEIVE);
}

/* The id of a message in UDP over IPv4 is the turn: queries with new ids, or their answers. */
static __always_inline int next_message(struct __sk_buff *skb)
{
	u32 turn_index = 0;
	u64 *turn = bench_turn.lookup(&turn_index);
	u8 *data = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;

	if (!turn || data + 44 > end)
		return 0;
	*(u16 *)(data + 42) = bpf_htons(*turn);
	*turn += 1;
	return 1;
}

int bench_message(struct __sk_buff *skb)
{
	next_message(skb);
	return VERDICT;
}

int bench_dns(struct __sk_buff *skb)
{
	u8 *data = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;

	next_message(skb);
	if (data + 44 <= end && *(u16 *)(data + 36) == bpf_htons(53))
		return monitor(skb, NETMON_TRANSMIT);
	return monitor(skb, NETMON_RECEIVE);
}
