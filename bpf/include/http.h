/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * HTTP/1 (RFC 9112), live: one record a request, told with the last octet of its response. Of both heads the kernel reads
 * where they end and how long the body is, so that it knows by sequence numbers where the next one begins: bodies are not
 * looked at, and what looks like a head in them is none. Where it cannot know (pipelining, octets that are missing where a
 * head is expected), the connection is handed over whole and user space reads it.
 */
#ifndef NETMON_HTTP_FOLLOWING_H
#define NETMON_HTTP_FOLLOWING_H

#define HTTP_HEAD_MAX 1024
#define HTTP_PIECES_MAX 512 /* a head that goes on behind so much is long */
#define HTTP_LINES_MAX 48
#define HTTP_LINE_MAX 512
#define HTTP_READ_BEHIND 24	  /* octets that may be read behind a head, a word at a time */
#define HTTP_SKIP_MAX 0x40000000U /* sequence numbers are compared within 2^31 */
#define HTTP_STATUS_END 12	  /* "HTTP/1.1 200" */

/* Where a connection is. */
#define HTTP_IDLE 0	   /* a request is expected */
#define HTTP_IN_REQUEST 1  /* the head of the request has begun */
#define HTTP_IN_BODY 2	   /* the head is over, and the body goes on to request_next */
#define HTTP_ASKED 3	   /* a response is expected */
#define HTTP_IN_RESPONSE 4 /* the head of the response has begun */
#define HTTP_ANSWERING 5   /* it is over, and the body goes on to response_next and so many octets as are left */
#define HTTP_OPEN_ANSWER 6 /* likewise, nobody knows how far */

/* What becomes of a segment: s->acts. For the verifier each is done in one place, whatever led to it. */
#define HTTP_READ 1    /* the head that goes on at s->at */
#define HTTP_TELL 2    /* the exchange, with s->how added to its flags */
#define HTTP_SKIP 4    /* what ends before s->skip_to, in this direction */
#define HTTP_UNSKIP 8  /* nothing any more */
#define HTTP_LEAVE 16  /* the connection: it is looked at anew */
#define HTTP_DECIDE 32 /* ... it is over */
#define HTTP_WHOLE 64  /* ... user space takes it, with this segment */
#define HTTP_AGAIN 128 /* there is more in this segment */

#define HTTP_EVERY_OCTET 0x0101010101010101ULL
#define HTTP_LOWER_CASE 0x2020202020202020ULL
#define HTTP_CONTENT_ 0x2d746e65746e6f63ULL /* "content-" */
#define HTTP_LENGTH 0x3a6874676e656cULL	    /* "length:" */
#define HTTP_TRANSFER 0x726566736e617274ULL /* "transfer" */
#define HTTP_ENCODIN 0x6e69646f636e652dULL  /* "-encodin" */
#define HTTP_VERSION 0x2e312f50545448ULL    /* "HTTP/1." */
#define HTTP_7_OCTETS 0x00ffffffffffffffULL
#define HTTP_LAST_CHUNK 0x0a0d0a0d30ULL /* "0" and two line ends */
#define HTTP_LINE_END 0x0a0dULL
#define HTTP_HTTP 0x50545448U /* "HTTP" */
#define HTTP_HEAD 0x44414548U /* "HEAD" */
#define HTTP_CONN 0x4e4e4f43U /* "CONN" */

/* A connection: who asks and who answers, and the exchange that is open. message, http and heads[0] are the record. */
struct http_connection {
	struct netmon_message message;
	struct netmon_http http;
	u8 heads[2][HTTP_HEAD_MAX + HTTP_READ_BEHIND]; /* of the request, of the response */
	struct netmon_flow_key client;		       /* the flows of both directions */
	struct netmon_flow_key server;
	u64 left;	    /* octets of the response behind response_next */
	u64 last_ns;	    /* when the exchange was last looked at */
	u64 packets;	    /* of the flow of a body, when http_quiet() asked last */
	u32 request_begin;  /* sequence number of the first octet of the request */
	u32 request_next;   /* ... where its head goes on, or what follows the request */
	u32 response_begin; /* likewise of the response; what is before it is in http.response_octets */
	u32 response_next;
	u16 captured[2]; /* of heads */
	u8 phase;
	u8 asked; /* the phase before the response */
	u8 reserved[2];
	u8 room[HTTP_PIECES_MAX]; /* never used: the verifier adds up the bounds of a head that comes in pieces */
};

BPF_TABLE("hash", struct netmon_flow_key, struct http_connection, http_connections, 4096);
BPF_TABLE("array", u32, struct http_connection, http_fresh, 1); /* all zero: what an entry begins as */

/* The key is that of the client's flow, without what the server's packets do not tell. */
static __always_inline void http_key(const struct netmon_flow_key *flow, int of_server, struct netmon_flow_key *key)
{
	__builtin_memcpy(key->source, of_server ? flow->destination : flow->source, 16);
	__builtin_memcpy(key->destination, of_server ? flow->source : flow->destination, 16);
	key->ifindex = flow->ifindex;
	key->source_port = of_server ? flow->destination_port : flow->source_port;
	key->destination_port = of_server ? flow->source_port : flow->destination_port;
	key->protocol = PROTOCOL_TCP;
	key->direction = of_server ? !flow->direction : flow->direction;
	key->namespace = flow->namespace;
	key->flags = 0;
}

/* Keys are in the scratch: what is on the stack the verifier takes for something to tell states by. */
static __always_inline struct http_connection *http_find(struct message_scratch *s, int of_server)
{
	struct http_connection *c;

	if (!of_server && !s->packet.flow.flags)
		return http_connections.lookup(&s->packet.flow);
	http_key(&s->packet.flow, of_server, &s->key);
	c = http_connections.lookup(&s->key);
	if (c || !of_server || s->packet.flow.direction != NETMON_RECEIVE)
		return c;
	s->key.direction = NETMON_RECEIVE; /* a mirror port receives both */
	return http_connections.lookup(&s->key);
}

static __always_inline void http_forget(struct message_scratch *s, struct http_connection *c)
{
	http_key(&c->client, 0, &s->key);
	http_connections.delete(&s->key);
}

/* The state of a direction: which bits it loses and gets. */
static __always_inline void http_mark(struct message_scratch *s, const struct netmon_flow_key *key, u8 without, u8 with)
{
	stream_state *flow = stream_of(s, key);

	if (flow)
		flow->sequence_state = (flow->sequence_state & ~without) | with;
}

#define HTTP_BITS (NETMON_SEQUENCE_HTTP_CLIENT | NETMON_SEQUENCE_HTTP_SERVER | NETMON_SEQUENCE_SKIP)

/* Nothing in this direction that ends before a sequence number is looked at, or all is. */
static __always_inline void http_skip(struct message_scratch *s, const struct netmon_flow_key *key, u32 next, int skip)
{
	stream_state *flow = stream_of(s, key);

	if (!flow)
		return;
	flow->stream_next = next;
	if (skip)
		flow->sequence_state |= NETMON_SEQUENCE_SKIP;
	else
		flow->sequence_state &= ~NETMON_SEQUENCE_SKIP;
}

/*
 * Reads a head: s->end is set to where it ends, 0 if that is not here, s->length_at to where the value of its
 * Content-Length begins. A word at a time looks for newlines, and where there is one for what the line begins with.
 */
static __always_inline void http_scan(struct message_scratch *s, const u8 *head, u32 length)
{
	u32 i;

	s->newlines = 0;
	s->at = s->end = s->length_at = 0;
	s->chunked = 0;
	s->told = length;
	for (i = 0; i < HTTP_HEAD_MAX / 8 + HTTP_LINES_MAX;) {
		u64 newlines = s->newlines;
		u64 at = s->at;

		if (!newlines) {
			u64 word;

			if (at >= s->told)
				break;
			asm volatile("" : "+r"(at));
			if (at > HTTP_HEAD_MAX - 8)
				break;
			word = *(const u64 *)(head + at) ^ HTTP_EVERY_OCTET * '\n';
			s->newlines = (word - HTTP_EVERY_OCTET) & ~word & HTTP_EVERY_OCTET * 0x80;
			s->at = at + 8;
		} else {
			u64 lowest = newlines & -newlines;
			u64 first, second;

			/* Which octet: the multiplication moves its number to the top. */
			at += ((lowest >> 7) * 0x0001020304050607ULL >> 56) - 8;
			s->newlines = newlines & (newlines - 1);
			asm volatile("" : "+r"(at));
			if (at >= HTTP_HEAD_MAX || at >= s->told)
				break;
			if (head[at] == '\n') { /* or an octet behind one, which the test of a word takes for it */
				u32 left = s->told - at;

				if (left > 1 && head[at + 1] == '\n') {
					s->end = at + 2;
					break;
				}
				if (left > 2 && head[at + 1] == '\r' && head[at + 2] == '\n') {
					s->end = at + 3;
					break;
				}
				first = *(const u64 *)(head + at + 1) | HTTP_LOWER_CASE;
				second = *(const u64 *)(head + at + 9) | HTTP_LOWER_CASE;
				if (first == HTTP_CONTENT_ && (second & HTTP_7_OCTETS) == HTTP_LENGTH)
					s->length_at = at + 16;
				else if (first == HTTP_TRANSFER && second == HTTP_ENCODIN)
					s->chunked = 1;
			}
		}
		/* Linux 5.10 wants a jump back, and the compiler may let this fall into the loop's begin. */
		asm volatile("%0 += 1\ngoto +0" : "+r"(i));
	}
}

/* The number behind Content-Length in s->left; what is none is 0. */
static __always_inline void http_content_length(struct message_scratch *s, const u8 *head)
{
	u32 i;

	s->left = 0;
	s->at = s->length_at;
	for (i = 0; i < 20;) {
		u64 at = s->at;
		u8 octet;

		asm volatile("" : "+r"(at));
		if (at > HTTP_HEAD_MAX)
			break;
		octet = head[at];
		if (octet >= '0' && octet <= '9')
			s->left = s->left * 10 + (octet - '0');
		else if (octet != ' ' && octet != '\t')
			break;
		s->at = at + 1;
		asm volatile("%0 += 1\ngoto +0" : "+r"(i));
	}
}

/* Tells the exchange; flags are added to what is known of it. fin is 1 where the server's last number is that of a FIN. */
static __always_inline void http_tell(struct message_scratch *s, struct http_connection *c, u64 now, u16 flags, u32 fin)
{
	volatile u16 *captured = &c->captured[0];
	u64 head = *captured;
	u64 length;

	asm volatile("%0 &= 0x7ff" : "+r"(head));
	if (head > HTTP_HEAD_MAX)
		head = HTTP_HEAD_MAX;
	if (c->phase == HTTP_ANSWERING && !(flags & NETMON_HTTP_COMPLETE)) {
		stream_state *flow = stream_of(s, &c->server);

		/* Of what is skipped, the flow knows how much there was. */
		if (flow && (s32)(flow->next_sequence - fin - c->response_next) < 0)
			c->response_next = flow->next_sequence - fin;
	}
	c->http.response_octets += c->response_next - c->response_begin;
	c->response_begin = c->response_next;
	c->http.flags |= flags;
	c->http.request_octets = c->request_next - c->request_begin;
	c->message.time_ns = now;
	c->message.captured_length = c->message.payload_length = sizeof(c->http) + head;
	c->phase = HTTP_IDLE;
	length = sizeof(c->message) + sizeof(c->http) + head;
	message_count(NETMON_COUNT_HTTP_REQUESTS, 1);
	if (messages.ringbuf_output(&c->message, length, message_wakeup(s, length)))
		message_count(NETMON_COUNT_HTTP_LOST_RING, 1);
}

static __always_inline void http_leave_flow(struct message_scratch *s, const struct netmon_flow_key *key, u8 with,
					    u8 stage)
{
	stream_state *flow = stream_of(s, key);

	if (!flow)
		return;
	flow->stream_handed = 0;
	flow->stream_looked = 0;
	flow->stream_stage = stage;
	flow->sequence_state = (flow->sequence_state & ~HTTP_BITS) | with;
}

static __always_inline void http_leave(struct message_scratch *s, struct http_connection *c, u8 with, u8 stage)
{
	http_leave_flow(s, &c->client, with, stage);
	http_leave_flow(s, &c->server, with, stage);
	http_forget(s, c);
}

/* A request begins at this octet of the payload. */
static __always_inline void http_begin(struct __sk_buff *skb, struct message_scratch *s, struct http_connection *c,
				       u32 at)
{
	if (acknowledgment_load(skb, s, &s->acknowledgment))
		return;
	s->acknowledgment = bpf_ntohl(s->acknowledgment);
	__builtin_memset(&c->http, 0, sizeof(c->http));
	c->http.request_first_ns = s->now;
	c->request_begin = c->request_next = s->packet.sequence + at;
	c->response_begin = c->response_next = s->acknowledgment;
	c->message.sequence = c->request_begin;
	c->message.acknowledgment = s->acknowledgment;
	c->message.tcp_flags = s->packet.tcp_flags;
	c->captured[0] = c->captured[1] = 0;
	c->left = 0;
}

static __always_inline void http_from_client(struct __sk_buff *skb, struct message_scratch *s,
					     struct http_connection *c)
{
	u32 at = c->request_next - s->packet.sequence;
	u8 phase = c->phase;

	s->at = at;
	if ((s32)at < 0) { /* octets are missing where a head may be */
		s->acts = HTTP_WHOLE;
	} else if (at >= s->carried) { /* seen before, or in a body */
		if (at != s->carried)
			return;
		s->acts = HTTP_UNSKIP;
		if (phase == HTTP_IN_BODY) {
			c->http.request_last_ns = s->now;
			c->phase = HTTP_ASKED;
		}
	} else if (phase == HTTP_ASKED && (c->http.flags & NETMON_HTTP_REQUEST_OPEN)) {
		c->http.request_last_ns = s->now;
		c->request_next = s->packet.sequence + s->carried;
	} else if (phase == HTTP_IN_REQUEST) {
		s->acts = HTTP_READ;
	} else if (phase == HTTP_IDLE) {
		http_begin(skb, s, c, at);
		s->acts = HTTP_READ;
	} else if (phase == HTTP_OPEN_ANSWER) { /* the next request tells that it is over */
		s->how = NETMON_HTTP_COMPLETE;
		s->acts = HTTP_TELL | HTTP_AGAIN;
	} else { /* a request before the one before it is answered */
		s->acts = HTTP_WHOLE;
	}
}

/* What is left of a response is skipped, as far as sequence numbers reach at a time. */
static __always_inline void http_skip_body(struct message_scratch *s, struct http_connection *c)
{
	u64 left = c->left < HTTP_SKIP_MAX ? c->left : HTTP_SKIP_MAX;

	c->http.response_octets += c->response_next - c->response_begin;
	c->response_begin = c->response_next;
	c->response_next += left;
	c->left -= left;
	s->skip_to = c->response_next;
	s->acts = HTTP_SKIP;
}

static __always_inline void http_from_server(struct message_scratch *s, struct http_connection *c)
{
	u32 at = c->response_next - s->packet.sequence;
	u32 end = s->packet.sequence + s->carried;
	u8 phase = c->phase;

	s->at = at;
	if (phase == HTTP_OPEN_ANSWER || phase == HTTP_IDLE) {
		if ((s32)(end - c->response_next) > 0) {
			c->response_next = end;
			c->http.response_last_ns = s->now;
		}
	} else if (phase == HTTP_ANSWERING) {
		if ((s32)(end - c->response_next) < 0)
			return;
		if (c->left) {
			http_skip_body(s, c);
		} else {
			c->http.response_last_ns = s->now;
			s->how = NETMON_HTTP_COMPLETE;
			s->acts = HTTP_TELL | HTTP_UNSKIP;
		}
	} else if ((s32)at < 0) {
		s->acts = HTTP_WHOLE;
	} else if (at < s->carried) {
		if (phase != HTTP_IN_RESPONSE) {
			c->http.response_first_ns = s->now;
			c->asked = phase;
		}
		s->acts = HTTP_READ;
	}
}

/* Takes what of a head is in this segment, and reads the head; 0 where that is beyond the kernel. */
static __always_inline int http_read(struct __sk_buff *skb, struct message_scratch *s, struct http_connection *c,
				     u32 from_server)
{
	u64 which = from_server;
	volatile u16 *have;
	u64 captured, octets;
	u8 *head;

	/* Without branches, and by way of memory: each way that differs the verifier would follow through the loops. */
	asm volatile("%0 &= 1" : "+r"(which));
	have = (volatile u16 *)c->captured + which;
	asm volatile("%0 *= %1" : "+r"(which) : "i"(sizeof(c->heads[0])));
	head = (u8 *)c->heads + which;
	s->captured = *have;
	s->octets = s->carried - s->at;
	if (s->octets > HTTP_HEAD_MAX - s->captured)
		s->octets = HTTP_HEAD_MAX - s->captured;
	captured = s->captured;
	octets = s->octets;
	asm volatile("%0 &= 0x3ff" : "+r"(captured));
	asm volatile("%0 += -1\n%0 &= 0x3ff\n%0 += 1" : "+r"(octets));
	if (captured > HTTP_PIECES_MAX || payload_load(skb, s->offset + s->at, head + captured, octets))
		return 0;
	*have = s->captured + s->octets;
	http_scan(s, head, *have);
	/* Nobody reads it to its end. */
	s->is_long = !s->end && (*have > HTTP_PIECES_MAX || s->at < s->told);
	s->left = 0;
	if (s->end && s->length_at && !s->chunked)
		http_content_length(s, head);
	s->left += s->end;
	return 1;
}

/* What the head of a request says. */
static __always_inline void http_request(struct message_scratch *s, struct http_connection *c)
{
	u32 end = s->packet.sequence + s->carried;
	u32 next = c->request_begin + s->left;

	if (s->end && !s->chunked && s->left <= HTTP_SKIP_MAX) {
		if ((s32)(end - next) > 0) { /* another one behind it */
			c->captured[0] = s->captured;
			if (!s->captured)
				c->phase = HTTP_IDLE; /* it begins in this segment */
			s->acts = HTTP_WHOLE;
			return;
		}
		c->request_next = next;
		c->phase = end == next ? HTTP_ASKED : HTTP_IN_BODY;
		if (end != next) {
			s->skip_to = next;
			s->acts = HTTP_SKIP;
		}
	} else {
		c->request_next = end;
		c->phase = s->end || s->is_long ? HTTP_ASKED : HTTP_IN_REQUEST;
		if (c->phase == HTTP_ASKED)
			c->http.flags |= NETMON_HTTP_REQUEST_OPEN;
	}
	if (s->end) {
		c->captured[0] = s->end; /* nothing of the body is told */
		c->http.request_head = s->end;
	}
	c->http.request_last_ns = s->now;
}

/* What the head of a response says. */
static __always_inline void http_response(struct message_scratch *s, struct http_connection *c)
{
	const u8 *head = c->heads[1];
	u32 method = *(u32 *)c->heads[0];
	u32 seen = s->packet.sequence + s->carried - c->response_begin;
	u32 status;

	c->phase = HTTP_IN_RESPONSE;
	c->http.response_last_ns = s->now;
	c->response_next = c->response_begin + seen;
	if (c->captured[1] >= HTTP_STATUS_END && (*(u64 *)head & HTTP_7_OCTETS) != HTTP_VERSION) {
		c->phase = c->asked; /* user space may know what this is */
		c->response_next = c->response_begin;
		s->acts = HTTP_WHOLE;
		return;
	}
	if (!s->end && !s->is_long)
		return;
	status = (head[9] - '0') * 100 + (head[10] - '0') * 10 + (head[11] - '0');
	if (s->is_long && status < 200) {
		c->phase = c->asked;
		c->response_next = c->response_begin;
		s->acts = HTTP_WHOLE;
	} else if (status < 200 && status != 101) {
		c->http.interim = status;
		c->http.interims++;
		c->http.response_first_ns = c->http.response_last_ns = 0;
		c->response_begin += s->end;
		c->response_next = c->response_begin;
		c->captured[1] = 0;
		c->phase = c->asked;
		if (seen > s->end)
			s->acts = HTTP_AGAIN;
	} else {
		c->http.status = status;
		c->http.response_head = s->end;
		s->how = NETMON_HTTP_COMPLETE;
		if (status == 101 || (method == HTTP_CONN && status < 300)) {
			s->how |= NETMON_HTTP_HANDED_OVER;
			s->acts = HTTP_TELL | HTTP_LEAVE;
			return;
		}
		if (method == HTTP_HEAD || status == 204 || status == 304) {
			s->left = s->end;
		} else if (!s->end || s->chunked || !s->length_at) {
			c->phase = HTTP_OPEN_ANSWER;
			c->http.flags |= NETMON_HTTP_RESPONSE_OPEN | (s->chunked ? NETMON_HTTP_CHUNKED : 0);
			return;
		}
		if (s->left <= seen) {
			c->response_next = c->response_begin + s->left;
			s->acts = HTTP_TELL;
		} else {
			c->phase = HTTP_ANSWERING;
			c->left = s->left - seen;
			http_skip_body(s, c);
		}
	}
}

/*
 * Whether a segment ends with the last chunk of a response in chunks. A chunk before it, or the head, ends right before; where
 * the last chunk comes in pieces, or has trailers, what comes next tells that the response is over.
 */
static __always_inline int http_last_chunk(struct __sk_buff *skb, struct message_scratch *s,
					   const struct http_connection *c)
{
	u64 tail = 0;

	if (c->phase != HTTP_OPEN_ANSWER || !(c->http.flags & NETMON_HTTP_CHUNKED) ||
	    s->packet.sequence + s->carried != c->response_next)
		return 0;
	if (s->carried == 5)
		return !payload_load(skb, s->offset, &tail, 5) && tail == HTTP_LAST_CHUNK;
	return s->carried >= 7 && !payload_load(skb, s->offset + s->carried - 7, &tail, 7) &&
	       tail == (HTTP_LAST_CHUNK << 16 | HTTP_LINE_END);
}

/* A FIN or RST, behind the payload of its segment. */
static __always_inline void http_close(struct message_scratch *s, struct http_connection *c, u32 from_server)
{
	u8 is_reset = s->packet.tcp_flags & TCP_RST;
	u8 phase = c->phase;

	if (!is_reset && !from_server && phase != HTTP_IDLE)
		return; /* it may still be answered */
	if (!(s->acts & HTTP_TELL) && phase != HTTP_IDLE) {
		s->how = is_reset ? (from_server ? NETMON_HTTP_SERVER_RESET : NETMON_HTTP_CLIENT_RESET)
				  : NETMON_HTTP_CLOSED;
		if (phase == HTTP_OPEN_ANSWER && !is_reset)
			s->how |= NETMON_HTTP_COMPLETE;
		s->acts |= HTTP_TELL;
	}
	s->acts |= HTTP_DECIDE;
}

/* What was decided about a segment. */
static __always_inline void http_act(struct __sk_buff *skb, struct message_scratch *s, struct http_connection *c)
{
	if (s->acts & HTTP_WHOLE) {
		/* What the request was before goes ahead; an exchange whose response has begun is told as it is. */
		s->how = c->phase < HTTP_IN_RESPONSE ? NETMON_HTTP_WHOLE : 0;
		if (c->phase != HTTP_IDLE)
			s->acts |= HTTP_TELL;
		message_count(NETMON_COUNT_HTTP_WHOLE, 1);
	}
	if (s->acts & HTTP_TELL)
		http_tell(s, c, s->now, s->how, s->from_server && (s->packet.tcp_flags & TCP_FIN));
	if (s->acts & (HTTP_SKIP | HTTP_UNSKIP))
		http_skip(s, &s->packet.flow, s->skip_to, s->acts & HTTP_SKIP);
	if (s->acts & (HTTP_LEAVE | HTTP_DECIDE | HTTP_WHOLE))
		http_leave(s, c, s->acts & HTTP_DECIDE ? NETMON_SEQUENCE_DECIDED : 0,
			   s->acts & HTTP_WHOLE ? NETMON_STREAM_WHOLE : 0);
	if (s->acts & HTTP_WHOLE)
		message_programs.call(skb, NETMON_PROGRAM_STREAM);
	if (s->acts & HTTP_AGAIN)
		message_programs.call(skb, NETMON_PROGRAM_HTTP);
}

/* Whether the first line ends as a request line does; where its end is not here, it may. */
static __always_inline int http_is_request(struct __sk_buff *skb, struct message_scratch *s)
{
	u64 octets = s->carried;
	u32 i;

	if (octets > HTTP_LINE_MAX)
		octets = HTTP_LINE_MAX;
	asm volatile("%0 += -1\n%0 &= 0x1ff\n%0 += 1" : "+r"(octets));
	if (payload_load(skb, s->offset, s->payload, octets))
		return 0;
	s->told = octets;
	s->at = 0;
	for (i = 0; i < HTTP_LINE_MAX / 8;) {
		u64 at = s->at, word, lowest;

		asm volatile("" : "+r"(at));
		if (at >= s->told || at > HTTP_LINE_MAX - 8)
			break;
		word = *(const u64 *)(s->payload + at) ^ HTTP_EVERY_OCTET * '\n';
		lowest = (word - HTTP_EVERY_OCTET) & ~word & HTTP_EVERY_OCTET * 0x80;
		if (lowest) {
			lowest &= -lowest;
			at += (lowest >> 7) * 0x0001020304050607ULL >> 56;
			asm volatile("" : "+r"(at));
			if (at >= s->told)
				break;
			if (at < 9 || at >= HTTP_LINE_MAX)
				return 0;
			/* "HTTP/1.1" and a newline of one octet or two */
			return (*(const u64 *)(s->payload + at - 8) & HTTP_7_OCTETS) == HTTP_VERSION ||
			       (*(const u64 *)(s->payload + at - 9) & HTTP_7_OCTETS) == HTTP_VERSION;
		}
		s->at = at + 8;
		asm volatile("%0 += 1\ngoto +0" : "+r"(i));
	}
	return 1;
}

/* The connection of a flow whose segment is a request; made where there is none. */
static __always_inline struct http_connection *http_recognise(struct __sk_buff *skb, struct message_scratch *s)
{
	struct http_connection *c;
	u32 only = 0;

	if (!http_is_request(skb, s) || !message_begin(skb))
		return 0;
	http_key(&s->packet.flow, 0, &s->key);
	c = http_connections.lookup(&s->key);
	if (c && c->phase != HTTP_IDLE) { /* of another connection on these ports, or its flows were forgotten */
		s->how = c->phase == HTTP_OPEN_ANSWER ? NETMON_HTTP_COMPLETE : NETMON_HTTP_CLOSED;
		s->acts = HTTP_TELL | HTTP_AGAIN;
		return c;
	}
	if (!c) {
		struct http_connection *fresh = http_fresh.lookup(&only);

		if (fresh)
			http_connections.insert(&s->key, fresh);
		c = http_connections.lookup(&s->key);
		if (!c) {
			message_count(NETMON_COUNT_HTTP_LOST_TABLE, 1);
			return 0;
		}
	}
	__builtin_memcpy(&c->message, &s->message, sizeof(c->message));
	c->message.kind = NETMON_MESSAGE_HTTP;
	__builtin_memcpy(&c->client, &s->packet.flow, sizeof(c->client));
	stream_other(s);
	__builtin_memcpy(&c->server, &s->other, sizeof(c->server));
	c->phase = HTTP_IDLE;
	c->request_next = s->packet.sequence;
	http_mark(s, &c->client, HTTP_BITS | NETMON_SEQUENCE_DECIDED, NETMON_SEQUENCE_HTTP_CLIENT);
	http_mark(s, &c->server, HTTP_BITS | NETMON_SEQUENCE_DECIDED, NETMON_SEQUENCE_HTTP_SERVER);
	return c;
}

/* The connection of a response in a flow that is not known to have any. */
static __always_inline struct http_connection *http_recognise_answer(struct message_scratch *s)
{
	struct http_connection *c = http_find(s, 1);

	if (!c)
		return 0;
	__builtin_memcpy(&c->server, &s->packet.flow, sizeof(c->server));
	http_mark(s, &c->server, HTTP_BITS | NETMON_SEQUENCE_DECIDED, NETMON_SEQUENCE_HTTP_SERVER);
	return c;
}

/* The connection of a segment of which nobody knew that it is HTTP. */
static __always_inline struct http_connection *http_new(struct __sk_buff *skb, struct message_scratch *s)
{
	if (s->carried < 4 || payload_load(skb, s->offset, s->payload, 4))
		return 0;
	s->from_server = *(u32 *)s->payload == HTTP_HTTP;
	return s->from_server ? http_recognise_answer(s) : http_recognise(skb, s);
}

static __always_inline void http(struct __sk_buff *skb)
{
	struct message_scratch *s = message_scratch_of(skb);
	struct http_connection *c;

	if (!s)
		return;
	s->offset = s->packet.headers;
	s->carried = transport_payload(&s->packet, s->length);
	if (s->carried == PAYLOAD_CUT)
		return;
	s->now = bpf_ktime_get_ns();
	s->acts = 0;
	s->how = 0;
	s->from_server = s->packet.look == LOOK_HTTP_SERVER;
	if (s->packet.look == LOOK_STREAM) {
		c = http_new(skb, s);
	} else {
		c = http_find(s, s->from_server);
		if (!c) /* it had no place, or was forgotten: what comes next is looked at */
			http_mark(s, &s->packet.flow, HTTP_BITS, 0);
	}
	if (!c)
		return;
	c->last_ns = s->now;
	if (s->carried && !s->acts) {
		if (s->from_server)
			http_from_server(s, c);
		else
			http_from_client(skb, s, c);
	}
	if (s->acts & HTTP_READ) {
		s->acts = 0;
		if (!http_read(skb, s, c, s->from_server))
			return;
		if (s->from_server)
			http_response(s, c);
		else
			http_request(s, c);
	}
	if (s->from_server && !s->acts && http_last_chunk(skb, s, c)) {
		s->how = NETMON_HTTP_COMPLETE;
		s->acts = HTTP_TELL;
	}
	if ((s->packet.tcp_flags & (TCP_FIN | TCP_RST)) && !(s->acts & (HTTP_WHOLE | HTTP_AGAIN)))
		http_close(s, c, s->from_server);
	if (s->acts)
		http_act(skb, s, c);
}

/* An exchange of which nothing was seen for so long is told, a connection without one is forgotten; times in ns. */
static __always_inline int http_quiet(struct message_scratch *s, const struct netmon_flow_key *key, u64 now, u64 quiet,
				      u64 forget)
{
	struct http_connection *c = http_connections.lookup((struct netmon_flow_key *)key);
	stream_state *flow;
	s64 since;

	if (!c)
		return 0;
	since = now - c->last_ns; /* negative where another CPU has looked at it meanwhile */
	if (since < (s64)(c->phase == HTTP_OPEN_ANSWER ? quiet : forget))
		return 0;
	if (c->phase == HTTP_ANSWERING || c->phase == HTTP_IN_BODY) { /* of bodies nothing is looked at but the flow */
		flow = stream_of(s, c->phase == HTTP_ANSWERING ? &c->server : &c->client);
		if (flow && flow->packets != c->packets) {
			c->packets = flow->packets;
			c->last_ns = now;
			return 0;
		}
	}
	if (c->phase != HTTP_IDLE)
		http_tell(s, c, now, NETMON_HTTP_QUIET, 0);
	if (since >= (s64)forget)
		http_leave(s, c, 0, 0);
	return 1;
}

#define HTTP_QUIET_KEYS_MAX 8

/*
 * Run by the reader through BPF_PROG_TEST_RUN, never attached: the frame is 16 bytes of padding, then keys of
 * http_connections; cb[0] how many. Tells exchanges of which nothing was seen for cb[1] ms although their end is not known,
 * and forgets connections of which nothing was seen for cb[2] ms.
 */
static __always_inline int http_quiet_keys(struct __sk_buff *skb)
{
	struct netmon_flow_key key;
	u32 count = control(skb, 0);
	u64 quiet = (u64)control(skb, 1) * 1000000;
	u64 forget = (u64)control(skb, 2) * 1000000;
	u64 now = bpf_ktime_get_ns();
	u32 which = READER_SCRATCH;
	struct message_scratch *s = message_scratch.lookup(&which);
	int i, changed = 0;

	if (!s)
		return 0;
	for (i = 0; i < HTTP_QUIET_KEYS_MAX; i++) {
		asm volatile("" : "+r"(i));
		if (i >= count || bpf_skb_load_bytes(skb, 16 + i * sizeof(key), &key, sizeof(key)))
			break;
		changed += http_quiet(s, &key, now, quiet, forget);
	}
	return changed;
}

#endif
