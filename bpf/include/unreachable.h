/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ICMP and ICMPv6 errors that quote a TCP segment. No socket hook shows them: what tc sees on an interface, and what the
 * kernel sends from here, is kept for a while, and a connection that fails looks whether one was about it. The map is one for
 * both images. An LRU: a flood of errors costs others their reason, never a count.
 */
#ifndef NETMON_UNREACHABLE_H
#define NETMON_UNREACHABLE_H

#define ICMP_DEST_UNREACH 3
#define ICMPV6_DEST_UNREACH 1
#define PROTOCOL_ICMP 1
#define PROTOCOL_ICMPV6 58

struct unreachable_key {
	u32 local[4];
	u32 remote[4];
	u16 local_port;
	u16 remote_port;
	u32 reserved; /* 0 */
};

struct unreachable {
	u64 time_ns;
	u8 type;
	u8 code;
	u8 reserved[6];
};

BPF_TABLE("lru_hash", struct unreachable_key, struct unreachable, unreachable, 4096);

/* Keeps what the error at this offset quotes, if it is a TCP segment over the same version of IP. */
static __always_inline void unreachable_note(struct __sk_buff *skb, u32 at, const int v6)
{
	struct unreachable_key key = {};
	struct unreachable value = {};
	u8 head[2], quoted[40], ports[4];
	u32 length;

	if (bpf_skb_load_bytes(skb, at, head, 2) || head[0] != (v6 ? ICMPV6_DEST_UNREACH : ICMP_DEST_UNREACH))
		return;
	at += 8;
	if (v6) {
		if (bpf_skb_load_bytes(skb, at, quoted, 40) || quoted[0] >> 4 != 6 || quoted[6] != PROTOCOL_TCP)
			return;
		__builtin_memcpy(key.local, quoted + 8, 16);
		__builtin_memcpy(key.remote, quoted + 24, 16);
		length = 40;
	} else {
		if (bpf_skb_load_bytes(skb, at, quoted, 20) || quoted[0] >> 4 != 4 || quoted[9] != PROTOCOL_TCP)
			return;
		key.local[2] = key.remote[2] = bpf_htonl(0xffff);
		__builtin_memcpy(&key.local[3], quoted + 12, 4);
		__builtin_memcpy(&key.remote[3], quoted + 16, 4);
		length = (quoted[0] & 15) << 2;
	}
	if (bpf_skb_load_bytes(skb, at + length, ports, 4))
		return;
	__builtin_memcpy(&key.local_port, ports, 2);
	__builtin_memcpy(&key.remote_port, ports + 2, 2);
	value.time_ns = bpf_ktime_get_ns();
	value.type = head[0];
	value.code = head[1];
	unreachable.update(&key, &value);
}

#endif
