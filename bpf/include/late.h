/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Late constants: 64-bit immediates that the loader replaces before BPF_PROG_LOAD, so that one image serves every
 * variant. The verifier knows their value and removes the branches that cannot be taken: they cost nothing.
 * The low byte is the number in otel_netmon/abi/enums.py.
 */
#ifndef NETMON_LATE_H
#define NETMON_LATE_H

#define NETMON_LATE(name, magic)                                                                                       \
	static __always_inline u64 late_##name(void)                                                                   \
	{                                                                                                              \
		u64 value;                                                                                             \
		asm volatile("%0 = " magic " ll" : "=r"(value));                                                       \
		return value;                                                                                          \
	}

NETMON_LATE(namespace, "0x4e45544d4f4e0001")   /* number of the network namespace the program is attached in */
NETMON_LATE(l2_length, "0x4e45544d4f4e0002")   /* 14 on Ethernet-like devices, 0 where frames begin at the IP header */
NETMON_LATE(decapsulate, "0x4e45544d4f4e0003") /* 1: key flows by the innermost headers */
NETMON_LATE(replay, "0x4e45544d4f4e0004")      /* 1: time and length come from the test run's context */
NETMON_LATE(fast_path, "0x4e45544d4f4e0005")   /* 0: only the general parser (tests compare both) */
NETMON_LATE(wakeup, "0x4e45544d4f4e0006")      /* bytes of messages of one CPU after which the consumer is called */
NETMON_LATE(netns, "0x4e45544d4f4e0007")       /* 1: sockops may ask for the cookie of the network namespace */
NETMON_LATE(streams, "0x4e45544d4f4e0008") /* 1: the program for protocols that are told by their content is there */
NETMON_LATE(handshake_bytes, "0x4e45544d4f4e0009") /* of a direction of a TLS handshake; at most 65535 */
NETMON_LATE(http, "0x4e45544d4f4e000a")		   /* 1: HTTP/1 is followed */
NETMON_LATE(messages, "0x4e45544d4f4e0010")	   /* 1: the hooks of sockets look for messages */

#endif
