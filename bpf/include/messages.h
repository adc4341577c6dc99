/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Message heads: which packets may carry one, how they get to the program that knows the protocol, and how that program
 * hands a record to user space. The protocols are programs of their own, reached by a tail call, so that the verifier
 * looks at each apart and a packet without a message pays one look at its ports.
 */
#ifndef NETMON_MESSAGES_H
#define NETMON_MESSAGES_H

/* skb->cb[index], as one load: the compiler would compute an address in the context, which the verifier refuses. */
#define control(skb, index)                                                                                            \
	({                                                                                                             \
		u64 word;                                                                                              \
		asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(word) : "r"(skb), "i"(48 + 4 * (index)));                 \
		(u32) word;                                                                                            \
	})

/* A socket by its cookie, and whom it talks to. */
struct socket_peer {
	u64 cookie;
	u32 address[4];
	u16 port;
	u16 reserved[3]; /* 0 */
};

/* Per CPU, filled for the program that is called next. A record is message and what of payload is used. */
struct message_scratch {
	struct netmon_message message;
	u8 payload[NETMON_MESSAGE_BYTES_MAX];
	struct netmon_query query;
	struct packet packet;
	u32 length;  /* of the frame on the wire */
	u32 offset;  /* of the payload in the frame */
	u32 skipped; /* in a replay: payload that came in earlier pieces of the packet */
	u8 protocols;
	struct netmon_flow_key other; /* the flow of the other direction */
	struct netmon_flow_key key;   /* of http_connections */
	u64 now;
	u32 carried; /* octets of payload */
	u32 acknowledgment;
	/* What is kept here instead of in a register is one state for the verifier, whatever way led to it. */
	volatile u64 newlines;	/* in a word of a head: the upper bit of each octet that may be one */
	volatile u64 left;	/* octets of a body, as its head says */
	volatile u32 at;	/* how far into the payload the next record header is, or into a head what is read */
	volatile u32 octets;	/* of the payload, to be handed over */
	volatile u32 told;	/* length of the payload, as it is told; of a head */
	volatile u32 end;	/* of a head, 0 if it is not there */
	volatile u32 length_at; /* where the Content-Length of a head is, 0 if it has none */
	volatile u8 flags;	/* TCP flags, as they are told */
	volatile u8 seen;	/* octets of a cut record header */
	volatile u8 ended;	/* nothing behind `octets` may leave */
	volatile u8 chunked;	/* a head says so */
	volatile u32 skip_to;	/* of HTTP: see http.h */
	volatile u16 captured;	/* of a head, before this segment */
	volatile u16 how;
	volatile u8 acts;
	volatile u8 from_server;
	volatile u8 is_long;	   /* a head that is not read to its end */
	volatile u32 from;	   /* of HTTP/2, see http2.h: where what is handed over next begins */
	volatile u32 after;	   /* what is at its end */
	volatile u8 flush;	   /* it is handed over in the next step */
	volatile u8 what;	   /* NETMON_STREAM_HTTP2* */
	volatile u8 closes;	   /* FIN or RST are told */
	volatile u8 resumes;	   /* the program has called itself */
	struct socket_peer socket; /* whose state is looked up */
	u64 unannounced;	   /* bytes in the ring since its consumer was called by this CPU */
};

/*
 * A test run takes less of a frame than a super-packet of TCP has. A replay gives the rest in further pieces, each behind
 * the same headers: cb[2] tells how much of the payload came before this piece, cb[3] whether more follows. The program
 * answers in cb[2] how long the headers are, if it looks into the segment.
 */
#define message_piece_skips(skb) control(skb, 2)
#define message_piece_goes_on(skb) control(skb, 3)

static __always_inline void message_tell_headers(struct __sk_buff *skb, u64 headers)
{
	asm volatile("*(u32 *)(%0 + 56) = %1" : : "r"(skb), "r"(headers) : "memory");
}

BPF_TABLE("array", u32, struct netmon_ports, message_ports, 1);
BPF_TABLE("percpu_array", u32, struct message_scratch, message_scratch, MESSAGE_SCRATCHES);
BPF_TABLE("percpu_array", u32, u64, message_counts, NETMON_COUNT_NUMBER);
BPF_PROG_ARRAY(message_programs, 8);
BPF_RINGBUF_OUTPUT(messages, (1 << 20) / PAGE_SIZE); /* the loader sets the real size */

static __always_inline int port_may_have_messages(const struct netmon_ports *ports, u64 port)
{
	return ports->filter[port >> 6 & 7] >> (port & 63) & 1;
}

/* A port as an index: Linux 5.10's verifier forgets the width of what it has seen turned round. */
static __always_inline u64 port_index(u16 port)
{
	u64 index = bpf_ntohs(port);

	asm volatile("%0 &= 0xffff" : "+r"(index));
	return index;
}

/* NETMON_PORT_* of both ports of a packet. */
static __always_inline u8 message_protocols(u16 source_port, u16 destination_port)
{
	u32 only = 0;
	struct netmon_ports *ports = message_ports.lookup(&only);
	u64 source = port_index(source_port);
	u64 destination = port_index(destination_port);

	if (!ports || (!port_may_have_messages(ports, source) && !port_may_have_messages(ports, destination)))
		return 0;
	return ports->protocols[source] | ports->protocols[destination];
}

/* Both ways of seeing packets have these. */
static __always_inline struct message_scratch *message_scratch_of(struct __sk_buff *skb);
static __always_inline void message_seen_at(struct __sk_buff *skb, struct message_scratch *s);

/* Calls the program for what may be in this packet, by its ports and then by what its direction was found to carry. */
static __always_inline void message_call(struct __sk_buff *skb, u8 protocols, u8 look)
{
	if (protocols)
		message_programs.call(skb, NETMON_PROGRAM_DNS);
	else if (!late_http() || look == LOOK_STREAM)
		message_programs.call(skb, NETMON_PROGRAM_STREAM);
	else
		message_programs.call(skb, NETMON_PROGRAM_HTTP);
}

static __always_inline u64 message_clock(struct __sk_buff *skb)
{
	return late_replay() ? skb->tstamp : bpf_ktime_get_ns();
}

/* Makes a further piece look like a segment of its own. */
static __always_inline void message_skip(struct packet *p, u32 skipped)
{
	u32 headers = p->headers - p->network_offset;

	p->sequence += skipped + !!(p->tcp_flags & TCP_SYN);
	p->tcp_flags &= ~TCP_SYN;
	if (p->network_length)
		p->network_length = p->network_length > headers + skipped ? p->network_length - skipped : headers;
}

/* In the program that was called: the packet that message() saw, with the head of its record begun. 0: there is none. */
static __always_inline struct message_scratch *message_begin(struct __sk_buff *skb)
{
	struct message_scratch *s = message_scratch_of(skb);
	struct packet *p;

	if (!s)
		return 0;
	p = &s->packet;
	if (late_replay() && s->skipped)
		message_skip(p, s->skipped);
	if (!p->tcp && p->flow.protocol != PROTOCOL_UDP)
		return 0;
	s->offset = p->headers;
	s->message.time_ns = message_clock(skb);
	s->message.request_time_ns = s->message.first_request_time_ns = 0;
	message_seen_at(skb, s);
	__builtin_memcpy(s->message.source, p->flow.source, 16);
	__builtin_memcpy(s->message.destination, p->flow.destination, 16);
	s->message.ifindex = p->flow.ifindex;
	s->message.sequence = p->tcp ? p->sequence : 0;
	s->message.acknowledgment = s->message.initial_sequence = 0;
	s->message.sequence_state = 0;
	s->message.tcp_flags = p->tcp ? p->tcp_flags : 0;
	s->message.payload_length = transport_payload(p, s->length); /* or PAYLOAD_CUT */
	s->message.retries = 0;
	s->message.source_port = p->flow.source_port;
	s->message.destination_port = p->flow.destination_port;
	s->message.protocol = p->flow.protocol;
	s->message.direction = p->flow.direction;
	s->message.namespace = p->flow.namespace;
	return s;
}

/*
 * Octets of what is looked at, and its acknowledgment in network order; not 0: they are not to be had. Where that is no packet,
 * the including program has its own way.
 */
#ifndef PAYLOAD_ELSEWHERE
static __always_inline int payload_load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	return bpf_skb_load_bytes(skb, offset, to, length);
}

static __always_inline int acknowledgment_load(struct __sk_buff *skb, const struct message_scratch *s, u32 *to)
{
	return bpf_skb_load_bytes(skb, s->packet.headers - s->packet.tcp_header + 8, to, 4);
}
#endif

/* How much of the payload is in the frame, and belongs to the packet. */
static __always_inline u32 message_present(struct __sk_buff *skb, const struct message_scratch *s)
{
	u32 frame = skb->len > s->offset ? skb->len - s->offset : 0;

	return s->message.payload_length < frame ? s->message.payload_length : frame;
}

static __always_inline void message_count(u32 what, u64 many)
{
	u64 *count = message_counts.lookup(&what);

	if (count)
		MESSAGE_ADD(count, many);
}

/*
 * What the header of a UDP datagram says about its payload; gives how much of that is here and fits into a record. What is
 * behind the first datagram of a super-packet is counted as lost.
 */
static __always_inline u32 message_datagram(struct __sk_buff *skb, struct message_scratch *s, u32 lost)
{
	u32 captured = message_present(skb, s);
	u16 length;

	if (bpf_skb_load_bytes(skb, s->offset - 4, &length, 2))
		return 0;
	length = bpf_ntohs(length);
	if (length >= 8) /* a jumbogram says 0 (RFC 2675); of a fragmented datagram this is more than is here */
		s->message.payload_length = length - 8;
	if (!late_replay() && skb->gso_size && skb->gso_size < s->message.payload_length) {
		message_count(lost, (s->message.payload_length - 1) / skb->gso_size);
		s->message.payload_length = skb->gso_size;
	}
	if (captured > s->message.payload_length)
		captured = s->message.payload_length;
	return captured < NETMON_MESSAGE_BYTES_MAX ? captured : NETMON_MESSAGE_BYTES_MAX;
}

/* Fills the record with this much of the payload, NETMON_MESSAGE_BYTES_MAX at most; not 0: that was not to be had. */
static __always_inline int message_load(struct __sk_buff *skb, struct message_scratch *s, u64 length)
{
	s->message.captured_length = length;
	if (!length)
		return 0;
	/* No change. A comparison the compiler would do in another register than the call takes. */
	asm volatile("%0 += -1\n%0 &= 0xfff\n%0 += 1" : "+r"(length));
	return payload_load(skb, s->offset, s->payload, length);
}

/* The consumer comes by itself each second; it is called when this CPU alone has filled its share of the ring's first part. */
static __always_inline u64 message_wakeup(struct message_scratch *s, u64 length)
{
	s->unannounced += length;
	if (s->unannounced < late_wakeup())
		return BPF_RB_NO_WAKEUP;
	s->unannounced = 0;
	return BPF_RB_FORCE_WAKEUP;
}

/* Hands the record to user space; what is its count among NETMON_COUNT_*. */
static __always_inline void message_emit(struct message_scratch *s, u8 kind, u32 what)
{
	u64 length = s->message.captured_length;

	s->message.kind = kind;
	message_count(what, 1);
	asm volatile("%0 &= 0x1fff" : "+r"(length));
	if (length > NETMON_MESSAGE_BYTES_MAX)
		return;
	/* Copied once more than a reservation would, but reservations are of constant size: the ring would be half empty. */
	if (messages.ringbuf_output(&s->message, sizeof(s->message) + length,
				    message_wakeup(s, sizeof(s->message) + length)))
		message_count(kind < NETMON_MESSAGE_STREAM ? NETMON_COUNT_LOST_RING : NETMON_COUNT_STREAM_LOST_RING, 1);
}

#endif
