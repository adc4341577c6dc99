/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TLS sessions of OpenSSL, and which TCP connection each is on. A session is an SSL object of a process. Nothing in user
 * space says reliably whose socket it writes to (it may write to memory, and the application sends that), so the packets
 * do: what leaves the thread that has just written, begins with a record of application data and is as long as what was
 * written becomes when it is sealed, is of this session.
 */
#ifndef NETMON_SESSIONS_H
#define NETMON_SESSIONS_H

#define SESSIONS_MAX 16384 /* the loader sets the real size */
#define WRITERS_MAX 4096

#define TLS_RECORD_HEADER 5
#define TLS_SEALED 23 /* RFC 8446, 5.2; application data */
#define RECORDS_MAX 4
#define TLS_FRAGMENT_MAX 16384 /* RFC 8446, 5.1 */
#define TLS_SEAL_MIN 16	       /* a tag alone, or a nonce and a short tag */
#define TLS_SEAL_MAX 80	       /* a vector, a MAC and padding: RFC 5246, 6.2.3.2 */

struct session_key {
	u64 ssl; /* its address */
	u32 tgid;
	u32 reserved; /* 0 */
};

struct session {
	u64 cgroup;
	u64 cookie; /* of the socket, 0 as long as it is not known */
	u64 inside; /* where on the stack of its thread the call returns to that is
                 going on, 0: none */
	u32 local[4];
	u32 remote[4];
	u32 stamp; /* tells those apart that are at one address, one after the other
              */
	u16 local_port;
	u16 remote_port;
	u8 begun; /* it was seen from its begin on */
	u8 used;  /* octets were seen */
	u8 reserved[2];
};

/* What a thread has written last to a session that is on nobody knows which connection. */
struct writer {
	struct session_key key;
	u32 stamp;
	u32 octets; /* 0: nothing */
};

/* The one that was silent for longest goes first. */
BPF_TABLE("lru_hash", struct session_key, struct session, sessions, SESSIONS_MAX);
BPF_TABLE("lru_hash", u64, struct writer, writers, WRITERS_MAX); /* by the kernel's address of the thread */
BPF_TABLE("percpu_array", u32, u64, session_counts, NETMON_SESSIONS_NUMBER);

static __always_inline void session_count(u32 what)
{
	u64 *count = session_counts.lookup(&what);

	if (count)
		__sync_fetch_and_add(count, 1); /* a softirq may come in between */
}

/* What stands for an end of a session where records have addresses: the port tells which end. */
static __always_inline void session_address(u32 *address, const struct session_key *key, const struct session *session)
{
	address[0] = key->ssl;
	address[1] = key->ssl >> 32;
	address[2] = key->tgid;
	address[3] = session->stamp;
}

/* Tells user space what is known of a session; ended: nothing more comes of it. Gives 0 where the ring had no place. */
static __always_inline int session_tell(const struct session_key *key, const struct session *session, u32 ended)
{
	struct {
		struct netmon_message message;
		struct netmon_session session;
	} record = {};

	record.message.time_ns = bpf_ktime_get_ns();
	record.message.cgroup = session->cgroup;
	__builtin_memcpy(record.message.source, session->local, 16);
	__builtin_memcpy(record.message.destination, session->remote, 16);
	record.message.source_port = session->local_port;
	record.message.destination_port = session->remote_port;
	record.message.captured_length = record.message.payload_length = sizeof(record.session);
	record.message.protocol = 6;
	record.message.kind = NETMON_MESSAGE_SESSION;
	record.message.direction = NETMON_TRANSMIT;
	session_address(record.session.address, key, session);
	record.session.cookie = session->cookie;
	record.session.ended = ended;
	session_count(NETMON_SESSIONS_RECORDS);
	if (!messages.ringbuf_output(&record, sizeof(record), BPF_RB_NO_WAKEUP))
		return 1;
	session_count(NETMON_SESSIONS_LOST_RING);
	return 0;
}

/* Offset of the payload of a TCP packet, 0 where it is none. A packet of a socket begins with its IP header. */
static __always_inline u32 session_payload(struct __sk_buff *skb, struct session *ends)
{
	u8 header[40];
	u32 at = 20;
	u8 offset;

	if (bpf_skb_load_bytes(skb, 0, header, 20))
		return 0;
	if (header[0] >> 4 == 4) {
		if (header[9] != 6)
			return 0;
		ends->local[2] = ends->remote[2] = bpf_htonl(0xffff);
		__builtin_memcpy(&ends->local[3], header + 12, 4);
		__builtin_memcpy(&ends->remote[3], header + 16, 4);
		at = (header[0] & 15) << 2;
	} else {
		if (header[6] != 6 || bpf_skb_load_bytes(skb, 0, header, 40))
			return 0;
		__builtin_memcpy(ends->local, header + 8, 16);
		__builtin_memcpy(ends->remote, header + 24, 16);
		at = 40;
	}
	if (bpf_skb_load_bytes(skb, at, &ends->local_port, 2) ||
	    bpf_skb_load_bytes(skb, at + 2, &ends->remote_port, 2) || bpf_skb_load_bytes(skb, at + 12, &offset, 1))
		return 0;
	return at + ((offset >> 4) << 2);
}

/*
 * Whether a payload has a record of so many octets, or of the first of them: the first one that is there, unless the end
 * of the handshake goes with it.
 */
static __always_inline int session_fits(struct __sk_buff *skb, u32 at, u32 octets)
{
	u8 head[TLS_RECORD_HEADER];
	u32 i;

#pragma unroll
	for (i = 0; i < RECORDS_MAX; i++) {
		u32 length;

		if (bpf_skb_load_bytes(skb, at, head, TLS_RECORD_HEADER) || head[1] != 3)
			return 0;
		length = head[3] << 8 | head[4];
		if (head[0] == TLS_SEALED && length >= octets + TLS_SEAL_MIN && length <= octets + TLS_SEAL_MAX)
			return 1;
		at += TLS_RECORD_HEADER + length;
	}
	return 0;
}

/*
 * A packet leaves a socket in the context of whoever sent it, mostly: then it may tell whose session is on this
 * connection.
 */
static __always_inline void session_packet(struct __sk_buff *skb)
{
	u64 task = bpf_get_current_task();
	struct writer *writer = writers.lookup(&task);
	struct session ends = {};
	struct session *session;
	struct session_key key;
	u32 at;

	if (!writer || !writer->octets)
		return;
	at = session_payload(skb, &ends);
	if (!at || !session_fits(skb, at, writer->octets))
		return;
	writer->octets = 0;
	key = writer->key;
	session = sessions.lookup(&key);
	if (!session || session->stamp != writer->stamp || session->cookie)
		return;
	__builtin_memcpy(session->local, ends.local, 16);
	__builtin_memcpy(session->remote, ends.remote, 16);
	session->local_port = ends.local_port;
	session->remote_port = ends.remote_port;
	session->cookie = bpf_get_socket_cookie(skb);
	if (session_tell(&key, session, 0))
		session_count(NETMON_SESSIONS_PLACED);
	else
		session->cookie = 0; /* to be told with another packet */
}

#endif
