/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * connection_stats: one row a TCP socket, by its cookie, from the first hook that meets it to the moment it is closed. Then it
 * becomes a record of the ring buffer connections. What the kernel counts itself is taken from the socket and never counted
 * again, so a row that was made late, or read at any time, is right.
 *
 * Who writes what: sockops runs with the socket locked and owns the row but for a few fields. Hooks in a process own who
 * (tgid, comm, cgroup) and released, the hooks for packets own the counts of packets and the marks they set. Nobody reads,
 * changes and writes back a field of another.
 */
#ifndef NETMON_CONNECTIONS_H
#define NETMON_CONNECTIONS_H

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

#define SYN_TIMES 8192
#define FULL_BACKOFF_JIFFIES 16 /* as for flows: an insert that is refused costs more than all the rest */

/* Bits of netmon_connection.noticed, written by what is run for received segments alone. */
#define NOTICED_FIN 1
#define NOTICED_OVER 2

/* The loader sets the real sizes. */
BPF_TABLE("hash", u64, struct netmon_connection, connection_stats, 65536);
BPF_TABLE("array", u32, struct netmon_connection, connection_zero, 1); /* a new row; nobody writes it */
BPF_TABLE("percpu_array", u32, struct netmon_connection_totals, connection_totals, NETMON_TOTALS_NUMBER);
BPF_TABLE("percpu_array", u32, u64, connection_counts, NETMON_CONNECTIONS_NUMBER);
BPF_RINGBUF_OUTPUT(connections, (1 << 20) / PAGE_SIZE);
BPF_RINGBUF_OUTPUT(udp_records, (1 << 18) / PAGE_SIZE);

/* When the SYN of a server's connection came, by cookie: a slot is overwritten by the next one, and then the time is not known. */
struct syn_time {
	u64 cookie;
	u64 time_ns;
};
BPF_TABLE("array", u32, struct syn_time, syn_times, SYN_TIMES);

/* Of a CPU: bytes put into each ring since its consumer was called. */
struct connection_scratch {
	u64 unannounced[2];
};
BPF_TABLE("percpu_array", u32, struct connection_scratch, connection_scratch, 1);

/* Jiffies up to which no row is made for a datagram. */
BPF_TABLE("array", u32, u64, udp_full, 1);

/* Which socket listens: the process that an accepted connection belongs to until somebody accepts it. */
struct listener_key {
	u64 netns;
	u32 local[4];
	u16 port;
	u16 reserved[3]; /* 0 */
};
struct listener {
	u64 cookie; /* 0: sockets of several processes listen here */
	u64 many;
};
BPF_TABLE("hash", struct listener_key, struct listener, listeners, 4096);

/*
 * What is kept of a connection without a place in connection_stats, so that its end can be told in connection_totals. Made
 * when it is needed (BPF_F_NO_PREALLOC): the loader gives it four times the entries of the table.
 */
struct unplaced {
	u32 fin_sequence;
	u8 role;
	u8 expired;
	u8 released;
	u8 reset_received;
	u8 reset_sent;
	u8 fin_seen;
	u8 established;
	u8 reserved;
};
BPF_F_TABLE("hash", u64, struct unplaced, connections_unplaced, 65536, BPF_F_NO_PREALLOC);

/* bcc declares it with 32 bits. */
static u64 (*socket_cookie)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;

static __always_inline void connection_count(u32 what)
{
	u64 *count = connection_counts.lookup(&what);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct connection_scratch *connection_scratch_here(void)
{
	u32 only = 0;

	return connection_scratch.lookup(&only);
}

/* As message_wakeup(): the consumer comes each second, and is called when this CPU has filled its share of the ring. */
static __always_inline u64 connection_wakeup(u32 ring, u32 length)
{
	struct connection_scratch *scratch = connection_scratch_here();

	if (!scratch)
		return BPF_RB_NO_WAKEUP;
	scratch->unannounced[ring] += length;
	if (scratch->unannounced[ring] < late_wakeup())
		return BPF_RB_NO_WAKEUP;
	scratch->unannounced[ring] = 0;
	return BPF_RB_FORCE_WAKEUP;
}

/*
 * The row of a socket, unless it has ended and waits for its reader. The compiler must not know why it is 0: where the caller
 * tested the flag in its place, the verifier before Linux 6.12 did not see that the row is there.
 */
static __always_inline struct netmon_connection *connection_of(u64 cookie)
{
	struct netmon_connection *row = connection_stats.lookup(&cookie);

	if (row && (row->flags & NETMON_CONNECTION_ENDED))
		row = 0;
	asm volatile("" : "+r"(row));
	return row;
}

/* The row of a socket, made if there is none; 0: it has no place. */
static __always_inline struct netmon_connection *connection_make(u64 cookie)
{
	u32 only = 0;
	struct netmon_connection *zero = connection_zero.lookup(&only);
	struct netmon_connection *row;
	int refused;

	if (!zero)
		return 0;
	refused = connection_stats.insert(&cookie, zero);
	row = connection_stats.lookup(&cookie); /* it is there, or there is no place */
	if (!row)
		return 0;
	if (!refused) {
		row->cookie = cookie;
		connection_count(NETMON_CONNECTIONS_OPENED);
	}
	if (row->flags & NETMON_CONNECTION_ENDED)
		row = 0;
	asm volatile("" : "+r"(row));
	return row;
}

/* A connection has no place: its role is kept, if there is room for that. */
static __always_inline void connection_unplaced(u64 cookie, u8 role)
{
	struct unplaced fresh = {};

	fresh.role = role;
	fresh.established = role == NETMON_ROLE_SERVER;
	connection_count(NETMON_CONNECTIONS_NO_PLACE);
	if (connections_unplaced.update(&cookie, &fresh))
		connection_count(NETMON_CONNECTIONS_UNTOLD);
}

static __always_inline u64 connection_place(u8 role, u8 ending)
{
	return role * NETMON_ENDING_NUMBER + ending;
}

/* The process that runs now, as that of a row. */
#define connection_take_process(row, sure)                                                                             \
	do {                                                                                                           \
		(row)->tgid = bpf_get_current_pid_tgid() >> 32;                                                        \
		(row)->cgroup = bpf_get_current_cgroup_id();                                                           \
		bpf_get_current_comm((row)->comm, sizeof((row)->comm));                                                \
		(row)->who = (sure);                                                                                   \
	} while (0)

/*
 * Takes what the kernel has counted, from a struct bpf_tcp_sock or bpf_sock_ops. SYN and FIN take a place in sequence space like
 * an octet of payload: they are taken out.
 */
#define connection_refresh(row, socket)                                                                                \
	do {                                                                                                           \
		u64 received = (socket)->bytes_received, acked = (socket)->bytes_acked;                                \
                                                                                                                       \
		if (received && ((row)->flags & NETMON_CONNECTION_FIN_RECEIVED))                                       \
			received--;                                                                                    \
		if (acked && (row)->role == NETMON_ROLE_CLIENT)                                                        \
			acked--;                                                                                       \
		if (acked && ((row)->flags & NETMON_CONNECTION_FIN_ACKED))                                             \
			acked--;                                                                                       \
		(row)->bytes_received = received;                                                                      \
		(row)->bytes_sent = acked;                                                                             \
		(row)->segments_received = (socket)->segs_in;                                                          \
		(row)->segments_sent = (socket)->segs_out;                                                             \
		(row)->data_received = (socket)->data_segs_in;                                                         \
		(row)->data_sent = (socket)->data_segs_out;                                                            \
	} while (0)

static __always_inline void v4_mapped(u32 *address, u32 v4)
{
	address[0] = address[1] = 0;
	address[2] = bpf_htonl(0xffff);
	address[3] = v4;
}

/* Hands an ended row to user space and deletes it; without a place in the ring it stays, marked, and its reader deletes it. */
static __always_inline void connection_end(struct netmon_connection *row, u8 ending)
{
	u64 cookie = row->cookie;

	row->ending = ending;
	row->end_ns = bpf_ktime_get_ns();
	if (connections.ringbuf_output(row, sizeof(*row), connection_wakeup(0, sizeof(*row)))) {
		connection_count(NETMON_CONNECTIONS_RING_FULL);
		asm volatile("" ::: "memory"); /* whoever sees the mark sees the rest */
		row->flags |= NETMON_CONNECTION_ENDED;
		return;
	}
	connection_count(NETMON_CONNECTIONS_RECORDS);
	connection_stats.delete(&cookie);
}

/* Index of the bucket of an RTT: from 2^-15 s on each is twice as wide as the one before. */
static __always_inline u32 rtt_bucket(u32 us)
{
	u64 steps = ((u64)us * 68719) >> 21; /* in 2^-15 s: 68719 / 2^16 = 2^20 / 10^6 */
	u32 bucket = 0;

	if (steps >= 1 << 14)
		return NETMON_RTT_BUCKETS - 1;
	if (steps >= 1 << 8) {
		steps >>= 8;
		bucket += 8;
	}
	if (steps >= 1 << 4) {
		steps >>= 4;
		bucket += 4;
	}
	if (steps >= 1 << 2) {
		steps >>= 2;
		bucket += 2;
	}
	if (steps >= 1 << 1) {
		steps >>= 1;
		bucket += 1;
	}
	return bucket + steps;
}

/* A sample of the smoothed RTT, in eighths of a microsecond as the kernel keeps it. */
static __always_inline void rtt_sample(struct netmon_connection *row, u32 srtt)
{
	u32 us = srtt >> 3;
	u64 bucket;

	if (!srtt)
		return;
	row->rtt_us = us;
	if (!row->rtt_count || us < row->rtt_min_us)
		row->rtt_min_us = us;
	if (us > row->rtt_max_us)
		row->rtt_max_us = us;
	row->rtt_count++;
	row->rtt_sum_us += us;
	bucket = rtt_bucket(us);
	asm volatile("%0 &= 15" : "+r"(bucket));
	row->rtt_buckets[bucket]++;
}

#endif
