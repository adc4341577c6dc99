/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Protocols that are told by their content, on whatever port. A flow is looked at until it is decided, and then costs
 * nothing more. Of TLS (RFC 8446, RFC 5246) what leaves the kernel are handshake records: record headers are followed
 * through the segments, and of the first one that is application data its header is the last that is handed over. Of QUIC
 * (RFC 9000, RFC 9369) it is datagrams with an Initial packet, of DTLS (RFC 6347, RFC 9147) what of TLS.
 * A replay hands over all payload; user space decides, and says so in flow_table.
 */
#ifndef NETMON_STREAM_H
#define NETMON_STREAM_H

#define STREAM_LOOKED_MAX 16
#define STREAM_RECORDS_MAX 8 /* records of one super-packet: 32 KiB of its payload */

#define TLS_HEADER_LENGTH 5
#define TLS_HEADERS_MAX 24   /* record headers of one segment; each octet of a cut one counts */
#define TLS_RECORD_MAX 18432 /* 2^14 + 2048, RFC 5246, 6.2.3 */
#define TLS_FAR 65536	     /* so far behind a missing record header the search is given up */
#define DTLS_HEADER_LENGTH 13
#define DTLS_HEADERS_MAX 8

#define TLS_CHANGE_CIPHER_SPEC 20
#define TLS_ALERT 21
#define TLS_HANDSHAKE 22
#define TLS_APPLICATION_DATA 23
#define TLS_HEARTBEAT 24
#define DTLS_CONNECTION_ID 25

static __always_inline void stream_decide(stream_state *flow)
{
	flow->sequence_state |= NETMON_SEQUENCE_DECIDED;
}

/*
 * Hands over the first octets of the payload, as pieces of a segment that ends where it is told to end; what is told and
 * not there was not captured.
 */
static __always_inline void stream_hand_over(struct __sk_buff *skb, struct message_scratch *s)
{
	u32 i;

	for (i = 0; i < STREAM_RECORDS_MAX;) {
		u32 left = s->octets, told = s->told;
		u32 captured = left < NETMON_MESSAGE_BYTES_MAX ? left : NETMON_MESSAGE_BYTES_MAX;
		int last = captured == left || i == STREAM_RECORDS_MAX - 1;

		s->message.payload_length = last ? told : captured;
		s->message.tcp_flags = last ? s->flags : s->flags & ~TCP_FIN;
		if (message_load(skb, s, captured))
			return;
		message_emit(s, NETMON_MESSAGE_STREAM, NETMON_COUNT_STREAM_SEGMENTS);
		if (last)
			return;
		s->offset += captured;
		s->message.sequence += captured;
		s->octets = left - captured;
		s->told = told - captured;
		/* Linux 5.10 wants a jump back, and the compiler may let this fall into the loop's begin. */
		asm volatile("%0 += 1\ngoto +0" : "+r"(i));
	}
}

/*
 * All payload, the ends of connections that had any, and where no flow knows the first sequence number, its SYN. These
 * functions give 1 where something is to be handed over, with octets, told and flags set.
 */
static __always_inline int stream_replay(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 whole = s->told;

	s->octets = message_present(skb, s);
	if (flow) {
		stream_state *other = stream_other(s);

		if (whole) {
			if (flow->stream_looked != 255)
				flow->stream_looked++;
			if (other) /* who speaks is answered, perhaps by what is not decided yet */
				other->sequence_state &= ~NETMON_SEQUENCE_DECIDED;
		} else if (!flow->stream_looked && !(other && other->stream_looked)) {
			return 0;
		}
	} else if (!whole && !(s->flags & (TCP_SYN | TCP_FIN | TCP_RST))) {
		return 0;
	}
	if (message_piece_goes_on(skb)) {
		s->flags &= ~TCP_FIN;
		s->told = s->octets;
	}
	return 1;
}

/* Whether a record begins that opens a direction: a handshake with a hello, or the alert that refuses one. */
static __always_inline int tls_opens(const u8 *head)
{
	u32 length = be16(head + 3);

	if (head[1] != 3 || head[2] > 4 || length > TLS_RECORD_MAX)
		return 0;
	return (head[0] == TLS_HANDSHAKE && (head[5] == 1 || head[5] == 2) && length >= 4) ||
	       (head[0] == TLS_ALERT && length == 2);
}

/* A ClientHello in the form of SSL 2.0 (RFC 5246, E.2): gives its length, 0 where there is none. */
static __always_inline u32 tls_old_hello(const u8 *head)
{
	if (!(head[0] & 0x80) || head[2] != 1 || !(head[3] == 3 || (head[3] == 0 && head[4] == 2)))
		return 0;
	return 2 + (be16(head) & 0x7fff);
}

/* Whether TLS begins with this segment; then the flow says where its next record header is. */
static __always_inline int tls_begins(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow, u32 length)
{
	int is_first =
		(flow->sequence_state & NETMON_SEQUENCE_INITIAL) && s->message.sequence == flow->initial_sequence + 1;
	u32 record = 0;
	u8 head[6];

	if (!late_handshake_bytes())
		return 0;
	if (length >= 6) {
		if (payload_load(skb, s->offset, head, 6))
			return 0;
		if (!tls_opens(head)) {
			record = is_first ? tls_old_hello(head) : 0;
			if (!record)
				return 0;
		}
	} else if (!is_first || payload_load(skb, s->offset, head, 1) || head[0] != TLS_HANDSHAKE) {
		return 0;
	}
	flow->stream_next = s->message.sequence + record;
	flow->stream_stage = NETMON_STREAM_TLS;
	flow->stream_looked = 0;
	if ((s32)(flow->next_sequence - (s->message.sequence + length)) > 1) /* 1: a FIN */
		message_count(NETMON_COUNT_STREAM_LOST_ORDER, 1);
	return 1;
}

/* One record header, or an octet of one that is cut: s->at goes on to the next one, or what may leave ends before it. */
static __always_inline void tls_header(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 at = s->at, seen = s->seen, left = s->octets - at;
	u32 size = seen || left < TLS_HEADER_LENGTH ? 1 : TLS_HEADER_LENGTH;
	u8 header[8] = {};

	s->ended = 1;
	if (size == 1 ? payload_load(skb, s->offset + at, header, 1)
		      : payload_load(skb, s->offset + at, header, TLS_HEADER_LENGTH)) {
		s->octets = 0;
		return;
	}
	if (!seen && (header[0] == TLS_APPLICATION_DATA || header[0] == TLS_HEARTBEAT)) {
		s->octets = left < TLS_HEADER_LENGTH ? s->octets : at + TLS_HEADER_LENGTH;
		return;
	}
	if (!seen && (header[0] < TLS_CHANGE_CIPHER_SPEC || header[0] > TLS_HANDSHAKE)) {
		s->octets = at;
		return;
	}
	if (size == 1) {
		u32 length = flow->stream_looked << 8 | header[0];

		if ((seen == 1 && header[0] != 3) || (seen == 4 && length > TLS_RECORD_MAX)) {
			s->octets = at;
			return;
		}
		if (seen == 3)
			flow->stream_looked = header[0];
		s->seen = seen == 4 ? 0 : seen + 1;
		s->at = at + 1 + (seen == 4 ? length : 0);
	} else {
		u32 length = be16(header + 3);

		if (header[1] != 3 || length > TLS_RECORD_MAX) {
			s->octets = at;
			return;
		}
		s->at = at + TLS_HEADER_LENGTH + length;
	}
	s->ended = 0;
}

/* Follows the record headers that are in a segment; then s->octets of it may leave. */
static __always_inline void tls_follow(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 at = flow->stream_next - s->message.sequence;
	u32 i;

	if ((s32)at < 0) {
		message_count(NETMON_COUNT_STREAM_LOST_ORDER, 1);
		if ((s32)at < -TLS_FAR)
			stream_decide(flow);
		s->octets = 0;
		return;
	}
	s->at = at;
	s->seen = flow->stream_stage >> NETMON_STREAM_HEADER_SHIFT;
	s->ended = 0;
	for (i = 0; i < TLS_HEADERS_MAX; i++) {
		asm volatile("" : "+r"(i)); /* or it is unrolled */
		if (s->ended || s->at >= s->octets)
			break;
		tls_header(skb, s, flow);
	}
	if (!s->ended && s->at < s->octets) { /* more records than anyone sends in a segment */
		s->octets = s->at;
		s->ended = 1;
	}
	flow->stream_next = s->message.sequence + s->at;
	flow->stream_stage = NETMON_STREAM_TLS | s->seen << NETMON_STREAM_HEADER_SHIFT;
	if (s->ended)
		stream_decide(flow);
}

/* Leaves of s->octets what may still be handed over; the flow is decided when that is less. */
static __always_inline void stream_limit(struct message_scratch *s, stream_state *flow)
{
	u32 handed = flow->stream_handed;
	u32 limit = late_handshake_bytes();
	u32 room = limit > handed ? limit - handed : 0;

	if (s->octets > room) {
		s->octets = room;
		stream_decide(flow);
		message_count(NETMON_COUNT_STREAM_LOST_LIMIT, 1);
	}
	flow->stream_handed = handed + s->octets;
}

/* HTTP that is handed over whole, up to a limit of 1 MiB a direction. */
static __always_inline int stream_whole(struct message_scratch *s, stream_state *flow)
{
	u32 handed = flow->stream_handed + (s->octets + 15) / 16;

	if (handed > 0xffff) {
		stream_decide(flow);
		message_count(NETMON_COUNT_HTTP_LOST_LIMIT, 1);
		return 0;
	}
	flow->stream_handed = handed;
	if (s->flags & (TCP_FIN | TCP_RST))
		stream_decide(flow);
	return 1;
}

/*
 * Whether octets may be HTTP/1: a method in capitals, a space and what a target begins with, or a response. Of a connection
 * that is looked at from its begin on, responses need no looking for.
 */
static __always_inline int stream_may_be_http(struct __sk_buff *skb, struct message_scratch *s)
{
	u8 head[16];
	u32 i;

	if (s->told < sizeof(head) || payload_load(skb, s->offset, head, sizeof(head)))
		return 0;
	if (*(u32 *)head == 0x50545448 || *(u32 *)head == 0x4e4e4f43) /* "HTTP", "CONN" */
		return 1;
#pragma unroll
	for (i = 0; i < sizeof(head) - 1; i++) {
		if (head[i] == ' ')
			return i > 2 && (head[i + 1] == '/' || head[i + 1] == '*' || (head[i + 1] | 0x20) == 'h');
		if ((head[i] < 'A' || head[i] > 'Z') && head[i] != '-')
			return 0;
	}
	return 0;
}

/* Likewise HTTP/2; then both flows say so. */
static __always_inline int stream_may_be_http2(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	int begins = http2_begins(skb, s);
	stream_state *other = 0;

	if (begins || http2_continues(skb, s, flow)) {
		other = stream_other(s);
		http2_open(s, flow, other, begins);
		return 1;
	}
	return 0;
}

static __always_inline void stream_http2(struct __sk_buff *skb, struct message_scratch *s)
{
	s->carried = s->told;
	s->packet.sequence = s->message.sequence;
	s->resumes = 0;
	message_programs.call(skb, NETMON_PROGRAM_HTTP2);
}

/* What was looked at in vain; the flow is decided when it was often. */
static __always_inline void stream_in_vain(stream_state *flow)
{
	if (++flow->stream_looked < STREAM_LOOKED_MAX)
		return;
	stream_decide(flow);
	message_count(NETMON_COUNT_STREAM_NOTHING, 1);
}

static __always_inline int stream_segment(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 whole = s->told;
	u8 is_end = s->flags & (TCP_FIN | TCP_RST);
	stream_state *other = 0;

	s->octets = whole;
	if (late_http() && flow->stream_stage == NETMON_STREAM_WHOLE)
		return (whole || is_end) && stream_whole(s, flow);
	if (late_http() && (flow->stream_stage & NETMON_STREAM_HTTP2)) {
		stream_http2(skb, s);
		return 0;
	}
	if (!flow->stream_stage && (whole ? !flow->stream_looked : is_end))
		other = stream_other(s);
	if (whole && !flow->stream_stage && !tls_begins(skb, s, flow, whole)) {
		if (other && (other->stream_stage & NETMON_STREAM_TLS)) {
			/* A hello is answered by something else: as much of it leaves as of a record header. */
			stream_decide(flow);
			s->octets = whole < TLS_HEADER_LENGTH ? whole : TLS_HEADER_LENGTH;
		} else {
			stream_in_vain(flow);
			if (late_http() && stream_may_be_http2(skb, s, flow)) {
				stream_http2(skb, s);
			} else if (late_http() && stream_may_be_http(skb, s)) {
				s->packet.look = LOOK_STREAM;
				message_programs.call(skb, NETMON_PROGRAM_HTTP);
			}
			return 0;
		}
	} else if (whole) {
		tls_follow(skb, s, flow);
		stream_limit(s, flow);
		if (!s->octets)
			return 0;
	} else if (!is_end || !(flow->stream_stage || (other && other->stream_stage))) {
		return 0;
	}
	if (s->octets < whole)
		s->flags &= ~TCP_FIN;
	else if (is_end)
		stream_decide(flow);
	s->told = s->octets;
	return 1;
}

/* Whether a datagram begins with an Initial packet of a version whose keys are public. */
static __always_inline int quic_initial(const u8 *head)
{
	u32 version = (u32)be16(head + 1) << 16 | be16(head + 3);
	u8 type = head[0] >> 4 & 3;

	if (head[0] >> 6 != 3 || head[5] > 20)
		return 0;
	if (version == 0x6b3343cf) /* version 2 */
		return type == 1;
	return !type && (version == 1 || (version >= 0xff00001d && version <= 0xff000022)); /* and drafts 29 to 34 */
}

static __always_inline int dtls_record(const u8 *head)
{
	return head[1] == 0xfe && head[2] >= 0xfc && head[2] != 0xfe;
}

/* Leaves of s->octets of a datagram the records before application data, and the header of that. */
static __always_inline void dtls_follow(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 i;

	s->at = 0;
	s->ended = 0;
	for (i = 0; i < DTLS_HEADERS_MAX; i++) {
		u8 header[16];
		u32 at = s->at;

		asm volatile("" : "+r"(i));
		if (s->ended || at + DTLS_HEADER_LENGTH > s->octets)
			break;
		if (payload_load(skb, s->offset + at, header, DTLS_HEADER_LENGTH) || !dtls_record(header)) {
			s->octets = at;
			s->ended = 1;
		} else if (header[0] < TLS_CHANGE_CIPHER_SPEC || header[0] > TLS_HANDSHAKE) {
			s->octets = at + DTLS_HEADER_LENGTH;
			s->ended = 1;
		}
		s->at = at + DTLS_HEADER_LENGTH + be16(header + 11);
	}
	if (s->ended && flow)
		stream_decide(flow);
	else if (s->at < s->octets)
		s->octets = s->at;
}

static __always_inline int quic_or_dtls(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u8 stage = flow ? flow->stream_stage : 0;
	u8 head[16];

	if (s->octets <= DTLS_HEADER_LENGTH || payload_load(skb, s->offset, head, DTLS_HEADER_LENGTH + 1))
		return 0;
	if (quic_initial(head))
		return NETMON_STREAM_QUIC;
	if (stage == NETMON_STREAM_DTLS ||
	    (head[0] == TLS_HANDSHAKE && dtls_record(head) && head[13] >= 1 && head[13] <= 3))
		return NETMON_STREAM_DTLS;
	if (flow && stage == NETMON_STREAM_QUIC && head[0] >> 6 == 1) /* a short header: the handshake is over */
		stream_decide(flow);
	return 0;
}

static __always_inline void stream_datagram(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	int what;

	if (!late_handshake_bytes()) {
		if (flow)
			stream_decide(flow);
		return;
	}
	s->octets = message_datagram(skb, s, NETMON_COUNT_STREAM_LOST_COALESCED);
	what = quic_or_dtls(skb, s, flow);
	if (!what) {
		if (flow)
			stream_in_vain(flow);
		return;
	}
	if (what == NETMON_STREAM_DTLS)
		dtls_follow(skb, s, flow);
	if (flow) {
		flow->stream_stage = what;
		stream_limit(s, flow);
	}
	if (!s->octets || message_load(skb, s, s->octets))
		return;
	if (what == NETMON_STREAM_DTLS)
		message_emit(s, NETMON_MESSAGE_DTLS, NETMON_COUNT_DTLS);
	else
		message_emit(s, NETMON_MESSAGE_QUIC, NETMON_COUNT_QUIC);
}

static __always_inline void stream(struct __sk_buff *skb)
{
	struct message_scratch *s = message_begin(skb);
	stream_state *flow;
	u32 acknowledgment;

	if (!s || s->message.payload_length == PAYLOAD_CUT)
		return;
	flow = stream_of_packet(s);
	if (flow ? flow->sequence_state & NETMON_SEQUENCE_DECIDED : !late_replay())
		return;
	if (!s->packet.tcp) {
		stream_datagram(skb, s, flow);
		return;
	}
	if (acknowledgment_load(skb, s, &acknowledgment))
		return;
	s->message.acknowledgment = bpf_ntohl(acknowledgment);
	if (flow) {
		s->message.initial_sequence = flow->initial_sequence;
		s->message.sequence_state = flow->sequence_state;
	}
	if (s->message.tcp_flags & TCP_SYN)
		s->message.sequence++;
	s->told = s->message.payload_length;
	s->flags = s->message.tcp_flags;
	if (late_replay() ? stream_replay(skb, s, flow)
			  : flow && stream_segment(skb, s, flow) && !stream_is_told_elsewhere(flow))
		stream_hand_over(skb, s);
}

#endif
