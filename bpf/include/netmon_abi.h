/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The contract between the kernel programs and otel_netmon/abi: every struct and enum that crosses, and nothing else.
 * Fixed width, big to small, explicit padding, never packed. Addresses are 16 bytes in network order, IPv4 as
 * v4-mapped IPv6 (RFC 4291, 2.5.5.2). Ports are in network order, everything else in host order.
 * otel_netmon/abi/layout.py holds the same as numpy dtypes; a test compiles this file and compares.
 */
#ifndef NETMON_ABI_H
#define NETMON_ABI_H

#ifdef NETMON_ABI_STANDALONE
#include <linux/types.h>
#endif

#define NETMON_ABI_VERSION 1

/* hook_totals is indexed by ((ifindex + namespace * STRIDE) % SLOTS) * 2 + direction */
#define NETMON_HOOK_SLOTS 1024
#define NETMON_HOOK_NAMESPACE_STRIDE 331

enum netmon_direction {
	NETMON_RECEIVE = 0,
	NETMON_TRANSMIT = 1,
};

/* What a frame was counted as; the kind of a row of protocol_stats. */
enum netmon_kind {
	NETMON_KIND_FLOW =
		0, /* an IP packet: counted in flow_table, never in protocol_stats (XDP has no flows: there it is) */
	NETMON_KIND_OVERFLOW = 1,	    /* an IP packet whose flow had no place in flow_table */
	NETMON_KIND_OTHER = 2,		    /* a frame that is not IP: by its EtherType */
	NETMON_KIND_UNPARSED = 3,	    /* a frame that could not be read: by its reason */
	NETMON_KIND_OVERFLOW_FORWARDED = 4, /* as NETMON_KIND_OVERFLOW, of a forwarded packet */
};

/* Why a frame could not be read. */
enum netmon_reason {
	NETMON_REASON_NONE = 0,
	NETMON_REASON_SHORT_ETHERNET = 1,
	NETMON_REASON_SHORT_VLAN = 2,
	NETMON_REASON_SHORT_MPLS = 3,
	NETMON_REASON_SHORT_PPPOE = 4,
	NETMON_REASON_SHORT_LLC = 5,
	NETMON_REASON_DEEP_LINK_LAYER = 6,
	NETMON_REASON_SHORT_IPV4 = 7,
	NETMON_REASON_IPV4_VERSION = 8,
	NETMON_REASON_IPV4_HEADER_LENGTH = 9,
	NETMON_REASON_SHORT_IPV6 = 10,
	NETMON_REASON_IPV6_VERSION = 11,
};

/* netmon_flow_key.flags */
#define NETMON_FLOW_FORWARDED 1 /* transmitted, but not made here: it came in by an interface of this namespace */

/* netmon_flow.sequence_state */
#define NETMON_SEQUENCE_NEXT 1	  /* next_sequence is known */
#define NETMON_SEQUENCE_INITIAL 2 /* initial_sequence is known */
#define NETMON_SEQUENCE_CLIENT 4  /* the last SYN came without ACK: the source opens */
#define NETMON_SEQUENCE_SERVER 8  /* the last SYN came with ACK: the source was asked */

/* One direction of one conversation at one interface: 44 bytes. */
struct netmon_flow_key {
	__u32 source[4];
	__u32 destination[4];
	__u32 ifindex;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;	/* IANA protocol number, the last of an IPv6 extension chain */
	__u8 direction; /* enum netmon_direction */
	__u8 namespace; /* number given by the agent, 0 its own */
	__u8 flags;	/* NETMON_FLOW_* */
};

/*
 * packets and bytes are what the hook was handed (one GSO or GRO super-packet is one); the wire had
 * packets + extra_packets segments and bytes + extra_bytes layer-2 bytes. All cumulative.
 */
struct netmon_counters {
	__u64 packets;
	__u64 bytes;
	__u64 extra_packets;
	__u64 extra_bytes;
};

/*
 * 72 bytes. In the kernel's hash element the key ends and the value begins in the second cache line: what every packet
 * touches comes first and fits in the rest of that line.
 */
struct netmon_flow {
	__u64 packets;
	__u64 bytes;
	__u64 last; /* jiffies64 of the last packet; in a replay the capture's time in ns */
	__u32 next_sequence;
	__u16 tcp_flags;     /* every flag seen, RFC 9293 order, FIN = 1 */
	__u8 sequence_state; /* NETMON_SEQUENCE_* */
	__u8 closing;	     /* set by the sweep: counts nothing any more and will be deleted */
	__u64 extra_packets; /* as in netmon_counters */
	__u64 extra_bytes;
	__u64 first_ns; /* CLOCK_MONOTONIC of the first packet; in a replay the capture's time */
	__u32 initial_sequence;
	__u32 retransmits;     /* segments below the highest sequence number already seen in this direction */
	__u32 resets;	       /* segments with RST */
	__u32 ingress_ifindex; /* forwarded packets: the interface by which the last one came in */
};

struct netmon_protocol_key {
	__u32 ifindex;
	__u16 ethertype; /* 0x0800, 0x86dd, …; 0 where it is none of those the parser knows */
	__u16 reason;	 /* enum netmon_reason */
	__u8 protocol;	 /* IANA protocol number */
	__u8 direction;
	__u8 namespace;
	__u8 kind; /* enum netmon_kind */
};

/*
 * The one entry of flow_filter: which flows may be in flow_table, by a hash of their key. Consulted only while the table
 * refuses flows; a slot that is set in vain costs a lookup, and one that is not set although its flow is in the table
 * costs that flow its detail, never a count.
 */
#define NETMON_FILTER_SLOTS 262144
struct netmon_filter {
	__u64 marking; /* not 0 while the reader marks it anew: allows every flow */
	__u8 slots[NETMON_FILTER_SLOTS];
};

/* The one entry of agent_state. */
struct netmon_state {
	__u64 full_until;  /* jiffies64 up to which no insert into flow_table is tried */
	__u64 inserts;	   /* flows made */
	__u64 full_events; /* inserts refused because flow_table was full */
	__u64 lost_rows;   /* packets for which protocol_stats had no place either: they are in hook_totals alone */
	__u64 jiffies;	   /* both clocks, read together by the program netmon_clock */
	__u64 monotonic_ns;
	__u64 zero; /* never written: the verifier cannot know its value, see unknown_zero() */
};

#endif
