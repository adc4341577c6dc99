/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* protocol_stats: the rows for what is in no flow. A per-CPU hash: the rows are few and hot under a flood. */
#ifndef NETMON_COUNTERS_H
#define NETMON_COUNTERS_H

BPF_TABLE("percpu_hash", struct netmon_protocol_key, struct netmon_counters, protocol_stats, 8192);
BPF_TABLE("array", u32, struct netmon_state, agent_state, 1);

static __always_inline u32 unknown_zero(void)
{
	u32 only = 0;
	struct netmon_state *state = agent_state.lookup(&only);

	return state ? state->zero : 0;
}

static __always_inline void count_row(const struct packet *p, u8 kind, u32 ifindex, u8 direction,
				      const struct netmon_counters *amount)
{
	struct netmon_protocol_key key = {};
	struct netmon_counters *row;

	key.ifindex = ifindex;
	key.ethertype = p->ethertype;
	key.reason = kind == NETMON_KIND_UNPARSED ? p->reason : 0;
	key.protocol = kind == NETMON_KIND_UNPARSED ? 0 : p->flow.protocol;
	key.direction = direction;
	key.namespace = late_namespace();
	key.kind = kind;
	row = protocol_stats.lookup(&key);
	if (!row) {
		struct netmon_counters zero = {};

		protocol_stats.insert(&key, &zero);
		row = protocol_stats.lookup(&key);
		if (!row) {
			u32 only = 0;
			struct netmon_state *state = agent_state.lookup(&only);

			if (state)
				__sync_fetch_and_add(&state->lost_rows, 1);
			return; /* still in hook_totals */
		}
	}
	row->packets += amount->packets;
	row->bytes += amount->bytes;
	row->extra_packets += amount->extra_packets;
	row->extra_bytes += amount->extra_bytes;
}

#endif
