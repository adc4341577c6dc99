/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The raw tracepoint skb/kfree_skb: packets that the kernel dropped, by its reason. Kernels before 5.17 hand over no reason;
 * they do not attach a program that reads it, but the other one.
 */
#include <uapi/linux/bpf.h>

#include "netmon_abi.h"

#define ARGUMENT_REASON 2 /* after the packet and the place in the kernel */
#define UNKNOWN_SLOT (NETMON_DROPS_SLOTS - 1)

BPF_TABLE("percpu_array", u32, struct netmon_drops, drop_counts, 1);

static __always_inline u64 slot_of(u64 reason)
{
	u64 subsystem = (reason & 0xffffffff) >> 16, number = reason & 0xffff;

	if (!subsystem)
		return number < NETMON_DROPS_CORE ? number : UNKNOWN_SLOT;
	if (subsystem > NETMON_DROPS_SUBSYSTEMS || number >= NETMON_DROPS_SUBSYSTEM)
		return UNKNOWN_SLOT;
	return NETMON_DROPS_CORE + (subsystem - 1) * NETMON_DROPS_SUBSYSTEM + number;
}

static __always_inline int count(u64 slot)
{
	u32 only = 0;
	struct netmon_drops *drops = drop_counts.lookup(&only);

	/* An interrupt may drop a packet while this runs: before 6.1 the program may run again on this CPU then. */
	asm volatile("%0 &= 0x3ff" : "+r"(slot)); /* the verifier's bound; no slot is beyond it */
	if (drops)
		__sync_fetch_and_add(&drops->packets[slot], 1);
	return 0;
}

int netmon_drop(struct bpf_raw_tracepoint_args *ctx)
{
	return count(slot_of(ctx->args[ARGUMENT_REASON]));
}

int netmon_drop_any(struct bpf_raw_tracepoint_args *ctx)
{
	return count(UNKNOWN_SLOT);
}
