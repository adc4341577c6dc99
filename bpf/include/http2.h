/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * HTTP/2 (RFC 9113), live: the headers of frames are followed through the segments. What leaves the kernel are these headers
 * and the payload of all frames but DATA, of which user space is told how long it is. Where a header is missing, the next
 * segment that begins like a frame is taken for one.
 */
#ifndef NETMON_HTTP2_H
#define NETMON_HTTP2_H

#define HTTP2_HEADER_LENGTH 9
#define HTTP2_PREFACE_LENGTH 24
#define HTTP2_STEPS_MAX 16	  /* headers, octets of cut headers and records of one run of the program */
#define HTTP2_FRAME_MAX 16384	  /* unless the other side allows more */
#define HTTP2_KEPT_MAX 65536	  /* of a payload that leaves the kernel */
#define HTTP2_OTHER_KEPT_MAX 1024 /* likewise, of a frame without a header block */

#define HTTP2_DATA 0
#define HTTP2_HEADERS 1
#define HTTP2_PRIORITY 2
#define HTTP2_RST_STREAM 3
#define HTTP2_SETTINGS 4
#define HTTP2_PUSH_PROMISE 5
#define HTTP2_PING 6
#define HTTP2_WINDOW_UPDATE 8
#define HTTP2_CONTINUATION 9
#define HTTP2_END_STREAM 1

/* What is to come in a direction, in the upper bits of stream_stage: below these octets of a cut header that were seen. */
#define HTTP2_IN_KEPT 9	     /* a payload that leaves, up to stream_next */
#define HTTP2_IN_LEFT_OUT 10 /* one that does not */

static __always_inline u8 http2_stage(u32 what, u32 seen)
{
	return what | seen << NETMON_STREAM_HEADER_SHIFT;
}

/* Whether these octets are a frame's header as writers make them. */
static __always_inline int http2_likely(const u8 *head)
{
	u32 length = (u32)head[0] << 16 | be16(head + 1);
	u32 stream = (u32)be16(head + 5) << 16 | be16(head + 7);
	u32 type = head[3];

	if (length > HTTP2_FRAME_MAX || type > HTTP2_CONTINUATION || (head[4] & ~0x2d) || stream >> 31)
		return 0;
	if (type == HTTP2_WINDOW_UPDATE)
		return length == 4;
	if (type == HTTP2_SETTINGS || type == HTTP2_PING || type == 7)
		return !stream && (type == HTTP2_PING ? length == 8 : type == 7 ? length >= 8 : length % 6 == 0);
	if (type == HTTP2_PRIORITY || type == HTTP2_RST_STREAM)
		return stream && length == (type == HTTP2_PRIORITY ? 5 : 4);
	return !!stream;
}

/* Whether a segment begins with the preface of a client. */
static __always_inline int http2_begins(struct __sk_buff *skb, struct message_scratch *s)
{
	u64 preface[3];

	return s->told >= HTTP2_PREFACE_LENGTH && !payload_load(skb, s->offset, preface, HTTP2_PREFACE_LENGTH) &&
	       preface[0] == 0x5448202a20495250ULL && preface[1] == 0x0a0d302e322f5054ULL &&
	       preface[2] == 0x0a0d0a0d4d530a0dULL;
}

/*
 * Whether a segment of a connection that was not seen from its begin on may be HTTP/2: a frame of the connection, or a head
 * that begins with a pseudo-header field. User space looks closer.
 */
static __always_inline int http2_continues(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u8 head[16];

	if ((flow->sequence_state & NETMON_SEQUENCE_INITIAL) || s->told < sizeof(head) - 3 ||
	    payload_load(skb, s->offset, head, sizeof(head) - 3) || !http2_likely(head))
		return 0;
	if (head[3] == HTTP2_HEADERS)
		return (head[4] & 0x2c) == 4 && head[9] > 0x81 && head[9] < 0x8f;
	return head[3] == HTTP2_WINDOW_UPDATE || head[3] == HTTP2_PING;
}

/* Both directions are followed from here on; begun: the segment begins with the preface. */
static __always_inline void http2_open(struct message_scratch *s, stream_state *flow, stream_state *other, u32 begun)
{
	flow->stream_looked = 0;
	flow->stream_handed = begun ? HTTP2_PREFACE_LENGTH : 0;
	flow->stream_next = s->message.sequence + flow->stream_handed;
	flow->stream_stage = http2_stage(NETMON_STREAM_HTTP2, begun ? HTTP2_IN_KEPT : 0);
	if (!other || (other->stream_stage & NETMON_STREAM_HTTP2))
		return;
	/* What the other side has said before were whole frames; a server may speak first. */
	other->stream_handed = other->stream_looked = 0;
	other->stream_next = other->next_sequence;
	other->stream_stage = http2_stage(begun ? NETMON_STREAM_HTTP2 : NETMON_STREAM_HTTP2_LOST, 0);
	other->sequence_state &= ~(NETMON_SEQUENCE_DECIDED | NETMON_SEQUENCE_SKIP);
}

/* The next step hands over so many octets from s->from on, and tells so many; what follows them is at `after`. */
static __always_inline void http2_flush(struct message_scratch *s, u32 captured, u32 told, u32 after)
{
	s->octets = captured;
	s->told = told;
	s->after = after;
	s->flush = 1;
}

static __always_inline void http2_emit(struct __sk_buff *skb, struct message_scratch *s)
{
	u32 left = s->octets, told = s->told;
	u32 captured = left < NETMON_MESSAGE_BYTES_MAX ? left : NETMON_MESSAGE_BYTES_MAX;
	u32 from = s->from;

	s->offset = s->packet.headers + from;
	s->message.sequence = s->packet.sequence + from;
	s->message.payload_length = captured == left ? told : captured;
	s->message.tcp_flags = s->closes ? s->flags : s->flags & ~(TCP_FIN | TCP_RST);
	if (!message_load(skb, s, captured))
		message_emit(s, NETMON_MESSAGE_STREAM, NETMON_COUNT_STREAM_SEGMENTS);
	s->octets = left - captured;
	s->told = told - captured;
	s->from = from + captured;
	if (captured == left) {
		s->flush = 0;
		s->from = s->after;
	}
}

/*
 * A header is over, and its payload begins at s->at. Of one that does not leave, and ends its stream, the length is told when
 * its last octet has passed; of others, that end nothing, at once.
 */
static __always_inline void http2_payload(struct message_scratch *s, stream_state *flow, u32 length, u32 is_left_out,
					  u32 ends)
{
	u32 at = s->at, end = at + length, carried = s->carried;

	s->seen = 0;
	if (end <= carried) {
		if (is_left_out && length)
			http2_flush(s, at - s->from, end - s->from, end);
		s->at = end;
		return;
	}
	flow->stream_next = s->packet.sequence + end;
	s->ended = 1;
	if (!is_left_out) {
		s->seen = HTTP2_IN_KEPT;
		http2_flush(s, carried - s->from, carried - s->from, carried);
	} else {
		s->seen = HTTP2_IN_LEFT_OUT;
		http2_flush(s, at - s->from, (ends ? at : end) - s->from, carried);
		if (!ends)
			length = 0; /* it was told */
	}
	flow->stream_looked = length >> 16;
	flow->stream_handed = length;
}

static __always_inline u32 http2_is_left_out(u32 type, u32 length)
{
	if (type == HTTP2_HEADERS || type == HTTP2_PUSH_PROMISE || type == HTTP2_CONTINUATION)
		return length > HTTP2_KEPT_MAX;
	return type == HTTP2_DATA || length > HTTP2_OTHER_KEPT_MAX;
}

/* One header, or an octet of one that is cut. */
static __always_inline void http2_header(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 at = s->at, seen = s->seen;
	u8 head[16] = {};

	if (!seen && s->carried - at >= HTTP2_HEADER_LENGTH) {
		u32 length;

		if (payload_load(skb, s->packet.headers + at, head, HTTP2_HEADER_LENGTH)) {
			s->ended = 1;
			return;
		}
		length = (u32)head[0] << 16 | be16(head + 1);
		s->at = at + HTTP2_HEADER_LENGTH;
		http2_payload(s, flow, length, http2_is_left_out(head[3], length), head[4] & HTTP2_END_STREAM);
		return;
	}
	if (payload_load(skb, s->packet.headers + at, head, 1)) {
		s->ended = 1;
		return;
	}
	if (seen == 0)
		flow->stream_looked = head[0];
	else if (seen == 1)
		flow->stream_handed = (u16)head[0] << 8;
	else if (seen == 2)
		flow->stream_handed |= head[0];
	else if (seen == 3)
		s->what = http2_is_left_out(head[0], (u32)flow->stream_looked << 16 | flow->stream_handed)
				  ? NETMON_STREAM_HTTP2_LEAVES
				  : NETMON_STREAM_HTTP2;
	s->at = at + 1;
	s->seen = seen + 1;
	if (s->seen == HTTP2_HEADER_LENGTH)
		http2_payload(s, flow, (u32)flow->stream_looked << 16 | flow->stream_handed,
			      s->what == NETMON_STREAM_HTTP2_LEAVES, 1);
}

/* Where in a segment the next header is. */
static __always_inline void http2_enter(struct __sk_buff *skb, struct message_scratch *s, stream_state *flow)
{
	u32 at = flow->stream_next - s->packet.sequence;
	u32 carried = s->carried;
	u32 length = (u32)flow->stream_looked << 16 | flow->stream_handed;
	u8 head[16] = {};

	s->what = flow->stream_stage & ((1 << NETMON_STREAM_HEADER_SHIFT) - 1);
	s->seen = flow->stream_stage >> NETMON_STREAM_HEADER_SHIFT;
	s->from = s->at = at;
	s->flush = s->ended = s->closes = 0;
	if (s->what == NETMON_STREAM_HTTP2_LOST || ((s32)at < 0 && carried)) {
		if (s->what != NETMON_STREAM_HTTP2_LOST)
			message_count(NETMON_COUNT_STREAM_LOST_ORDER, 1);
		s->what = NETMON_STREAM_HTTP2_LOST;
		s->seen = 0;
		s->from = s->at = 0;
		if (carried < HTTP2_HEADER_LENGTH || payload_load(skb, s->packet.headers, head, HTTP2_HEADER_LENGTH) ||
		    !http2_likely(head)) {
			s->ended = 1;
			s->from = carried;
			return;
		}
		s->what = NETMON_STREAM_HTTP2;
	} else if (s->seen == HTTP2_IN_KEPT) {
		s->from = at > length ? at - length : 0; /* behind what comes once more */
		if (at > carried) {
			s->ended = 1;
			if (s->from < carried)
				http2_flush(s, carried - s->from, carried - s->from, carried);
			else
				s->from = carried;
		} else {
			s->seen = 0;
		}
	} else if (s->seen == HTTP2_IN_LEFT_OUT) {
		if (at > carried || !carried) {
			s->ended = 1;
			s->from = carried;
		} else {
			s->from = at - length;
			if (length)
				http2_flush(s, 0, length, at);
			s->seen = 0;
		}
	} else if (at >= carried) {
		s->ended = 1;
		s->from = carried;
	}
}

/* What is known at the end of a segment. */
static __always_inline void http2_leave(struct message_scratch *s, stream_state *flow)
{
	if (s->seen < HTTP2_HEADER_LENGTH && s->at <= s->carried && s->what != NETMON_STREAM_HTTP2_LOST)
		flow->stream_next = s->packet.sequence + s->at;
	flow->stream_stage = http2_stage(s->what, s->seen);
	if (s->seen == HTTP2_IN_LEFT_OUT)
		flow->sequence_state |= NETMON_SEQUENCE_SKIP;
	else
		flow->sequence_state &= ~NETMON_SEQUENCE_SKIP;
	if (s->flags & (TCP_FIN | TCP_RST))
		flow->sequence_state |= NETMON_SEQUENCE_DECIDED;
}

static __always_inline void http2(struct __sk_buff *skb)
{
	struct message_scratch *s = message_scratch_of(skb);
	stream_state *flow;
	u32 i;

	if (!s)
		return;
	flow = stream_of(s, &s->packet.flow);
	if (!flow)
		return;
	if (!s->resumes) {
		http2_enter(skb, s, flow);
		s->resumes = 1;
	}
	for (i = 0; i < HTTP2_STEPS_MAX;) {
		if (s->flush) {
			http2_emit(skb, s);
		} else if (!s->ended && s->at < s->carried) {
			http2_header(skb, s, flow);
		} else if (!s->ended) {
			s->ended = 1;
			if (s->from < s->carried)
				http2_flush(s, s->carried - s->from, s->carried - s->from, s->carried);
		} else if (!s->closes && (s->flags & (TCP_FIN | TCP_RST))) {
			s->closes = 1;
			s->from = s->carried;
			http2_flush(s, 0, 0, s->carried);
		} else {
			http2_leave(s, flow);
			return;
		}
		/* Linux 5.10 wants a jump back, and the compiler may let this fall into the loop's begin. */
		asm volatile("%0 += 1\ngoto +0" : "+r"(i));
	}
	message_programs.call(skb, NETMON_PROGRAM_HTTP2);
	/* More frames than programs may call each other for: what follows is looked for. */
	message_count(NETMON_COUNT_STREAM_LOST_ORDER, 1);
	flow->stream_stage = http2_stage(NETMON_STREAM_HTTP2_LOST, 0);
}

#endif
