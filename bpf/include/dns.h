/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * DNS (RFC 1035). Over UDP a query waits in dns_cache, and the response of the same id and question takes it out: one
 * record a lookup. Over TCP the segments go to user space as they are. Multicast DNS and LLMNR go there message by
 * message: many may answer one query.
 */
#ifndef NETMON_DNS_H
#define NETMON_DNS_H

#define DNS_HEADER_LENGTH 12
#define DNS_LABEL_MAX 63
#define DNS_NAME_MAX 255
#define DNS_QUESTION_TAIL 4	  /* type and class */
#define DNS_SEGMENT_RECORDS_MAX 4 /* records of one TCP super-packet: 16 KiB of its payload */

#define DNS_RESPONSE 0x8000
#define DNS_TRUNCATED 0x0200

BPF_TABLE("hash", struct netmon_query_key, struct netmon_query, dns_cache, 16384);

/*
 * Whether it may be the header of a message: its operation code is assigned, or it has one question as nearly every message
 * does. A server answers other codes with NOTIMP (RFC 1035, 4.1.1).
 */
static __always_inline int dns_header_may_be(u16 flags, u16 questions)
{
	u8 opcode = flags >> 11 & 15;

	return (opcode <= 6 && opcode != 3) || questions == bpf_htons(1);
}

/*
 * Whether a message of this length can have as many records as its header says. A question takes 5 bytes at least, a record
 * 11. A truncated response may count records that it left out.
 */
static __always_inline int dns_counts_fit(const u16 *header, u32 length)
{
	u32 questions = bpf_ntohs(header[2]);
	u32 records = (u32)bpf_ntohs(header[3]) + bpf_ntohs(header[4]) + bpf_ntohs(header[5]);

	if ((header[1] & bpf_htons(DNS_RESPONSE | DNS_TRUNCATED)) == bpf_htons(DNS_RESPONSE | DNS_TRUNCATED))
		return 1;
	return DNS_HEADER_LENGTH + questions * 5 + records * 11 <= length;
}

/*
 * Takes the first question into s->query.question and gives its length, 0 where there is none that can be read: its name
 * has a label of more than 63 bytes or a pointer (there is nothing before it to point to), or is longer than 255.
 */
static __always_inline u32 dns_question(struct __sk_buff *skb, struct message_scratch *s, u64 room)
{
	volatile u16 *length = &s->query.question_length; /* for the verifier, what comes from memory is one state */
	u64 at = 0;
	int i;

	*length = 0;
	asm volatile("%0 &= 0xffff" : "+r"(room));
	if (room > NETMON_QUESTION_BYTES_MAX)
		room = NETMON_QUESTION_BYTES_MAX;
	if (room < 1 + DNS_QUESTION_TAIL ||
	    bpf_skb_load_bytes(skb, s->offset + DNS_HEADER_LENGTH, s->query.question, room))
		return 0;
	for (i = 0; i < DNS_NAME_MAX / 2 + 1; i++) {
		u8 label;

		asm volatile("%0 &= 0xff" : "+r"(at));
		label = s->query.question[at];
		at += label + 1;
		if (!label) {
			*length = at + DNS_QUESTION_TAIL;
			break;
		}
		if (label > DNS_LABEL_MAX || at >= DNS_NAME_MAX)
			break;
	}
	return *length <= room ? *length : 0;
}

/* ASCII letters in lower case, eight at a time. Lengths of labels are below the letters. */
static __always_inline u64 dns_lower(u64 word)
{
	u64 low = word & 0x7f7f7f7f7f7f7f7f;
	u64 from_a = low + 0x3f3f3f3f3f3f3f3f;	/* bit 7: at least 'A' */
	u64 above_z = low + 0x2525252525252525; /* bit 7: behind 'Z' */
	u64 capital = (from_a & ~above_z) & ~word & 0x8080808080808080;

	return word | capital >> 2;
}

static __always_inline u64 dns_mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 29;
}

static __always_inline u64 dns_question_hash(const struct netmon_query *query)
{
	const u64 *words = (const u64 *)query->question;
	const volatile u16 *length = &query->question_length;
	u64 name = *length - DNS_QUESTION_TAIL;
	u64 hash = name;
	const u8 *tail;
	u64 rest;
	u32 i;

	for (i = 0; i < DNS_NAME_MAX / 8; i++) {
		if (i * 8 + 8 > name)
			break;
		hash = dns_mix(hash, dns_lower(words[i]));
	}
	name = *length - DNS_QUESTION_TAIL;
	asm volatile("%0 &= 0xff" : "+r"(name));
	rest = words[name / 8] & ((1ULL << (name & 7) * 8) - 1);
	tail = query->question + name; /* type and class are no text: they stay as they are */
	hash = dns_mix(hash, dns_lower(rest));
	return dns_mix(hash, tail[0] | tail[1] << 8 | tail[2] << 16 | (u64)tail[3] << 24);
}

/* A query over UDP: remembered, or counted with the one that it repeats. */
static __always_inline void dns_query(struct message_scratch *s, struct netmon_query_key *key, u16 flags)
{
	struct netmon_query *open;

	message_count(NETMON_COUNT_DNS_QUERIES, 1);
	s->query.first_ns = s->query.last_ns = s->message.time_ns;
	s->query.cgroup = s->message.cgroup;
	s->query.ingress_ifindex = s->message.ingress_ifindex;
	s->query.retries = 0;
	s->query.header_flags = flags;
	s->query.reserved = 0;
	if (!dns_cache.insert(key, &s->query))
		return;
	open = dns_cache.lookup(key); /* it is there, or there is no place */
	if (!open) {
		message_count(NETMON_COUNT_LOST_CACHE, 1);
		return;
	}
	open->last_ns = s->message.time_ns;
	__sync_fetch_and_add(&open->retries, 1);
	message_count(NETMON_COUNT_DNS_RETRIES, 1);
}

/*
 * The open query that a response belongs to, taken out of dns_cache: 1, with what the record says of it. Whoever deletes
 * it owns it: of two answers, or of an answer and the timeout in user space, one.
 */
static __always_inline int dns_take_query(struct message_scratch *s, struct netmon_query_key *key)
{
	struct netmon_query *open = 0;
	u64 last_ns, first_ns, cgroup;
	u32 ingress_ifindex, retries;

	if (!late_replay()) {
		key->direction = !s->message.direction;
		open = dns_cache.lookup(key);
	}
	if (!open && s->message.direction == NETMON_RECEIVE) {
		key->direction = NETMON_RECEIVE; /* a mirror port receives both, and so does a replay */
		open = dns_cache.lookup(key);
	}
	if (!open)
		return 0;
	last_ns = open->last_ns;
	first_ns = open->first_ns;
	cgroup = open->cgroup;
	ingress_ifindex = open->ingress_ifindex;
	retries = open->retries;
	if (dns_cache.delete(key))
		return 0;
	s->message.request_time_ns = last_ns;
	s->message.first_request_time_ns = first_ns;
	s->message.cgroup = cgroup;
	s->message.ingress_ifindex = ingress_ifindex;
	s->message.retries = retries;
	s->message.direction = key->direction;
	return 1;
}

static __always_inline void dns_datagram(struct __sk_buff *skb, struct message_scratch *s)
{
	struct netmon_query_key key = {};
	u32 captured = message_datagram(skb, s, NETMON_COUNT_LOST_COALESCED);
	u16 header[6], flags;
	u32 question;
	int fits;

	if (captured < DNS_HEADER_LENGTH || bpf_skb_load_bytes(skb, s->offset, header, DNS_HEADER_LENGTH)) {
		message_count(NETMON_COUNT_NOT_DNS_SHORT, 1);
		return;
	}
	fits = dns_counts_fit(header, s->message.payload_length);
	flags = bpf_ntohs(header[1]);
	if (!dns_header_may_be(flags, header[2]) ||
	    (!fits && !((flags & DNS_RESPONSE) && (s->protocols & NETMON_PORT_DNS)))) {
		message_count(NETMON_COUNT_NOT_DNS_HEADER, 1);
		return;
	}
	if (!(s->protocols & NETMON_PORT_DNS)) {
		if (message_load(skb, s, captured))
			return;
		if (s->protocols & NETMON_PORT_MDNS)
			message_emit(s, NETMON_MESSAGE_MDNS, NETMON_COUNT_MDNS);
		else
			message_emit(s, NETMON_MESSAGE_LLMNR, NETMON_COUNT_LLMNR);
		return;
	}
	question = header[2] ? dns_question(skb, s, captured - DNS_HEADER_LENGTH) : 0;
	if (!question && !(flags & DNS_RESPONSE)) {
		message_count(NETMON_COUNT_NOT_DNS_QUESTION, 1);
		return;
	}
	key.question_hash = question ? dns_question_hash(&s->query) : 0;
	key.ifindex = s->message.ifindex;
	key.id = bpf_ntohs(header[0]);
	key.direction = s->message.direction;
	key.namespace = s->message.namespace;
	if (!(flags & DNS_RESPONSE)) {
		__builtin_memcpy(key.client, s->message.source, 16);
		__builtin_memcpy(key.server, s->message.destination, 16);
		key.client_port = s->message.source_port;
		key.server_port = s->message.destination_port;
		if (!dns_is_told_elsewhere(s, &key, 1))
			dns_query(s, &key, flags);
		return;
	}
	__builtin_memcpy(key.client, s->message.destination, 16);
	__builtin_memcpy(key.server, s->message.source, 16);
	key.client_port = s->message.destination_port;
	key.server_port = s->message.source_port;
	if (message_load(skb, s, captured))
		return;
	if (question && dns_take_query(s, &key))
		message_emit(s, NETMON_MESSAGE_DNS_ANSWER, NETMON_COUNT_DNS_ANSWERS); /* whatever its header counts */
	else if (question && dns_is_told_elsewhere(s, &key, 0))
		return;
	else if (fits)
		message_emit(s, NETMON_MESSAGE_DNS_RESPONSE, NETMON_COUNT_DNS_RESPONSES);
	else
		message_count(NETMON_COUNT_NOT_DNS_HEADER, 1);
}

/* Segments with payload, and those that begin or end a connection. */
static __always_inline void dns_segment(struct __sk_buff *skb, struct message_scratch *s)
{
	u32 whole = s->message.payload_length;
	u32 left = message_present(skb, s);
	u16 flags = s->message.tcp_flags;
	int i;

	if (!whole && !(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return;
	if (flags & TCP_SYN)
		s->message.sequence++;
	flags |= dns_begins(s);
	if (late_replay() && message_piece_goes_on(skb)) {
		flags &= ~TCP_FIN;
		whole = left;
	}
#pragma unroll /* as a loop it would be entered in the middle, which Linux 5.10 refuses */
	for (i = 0; i < DNS_SEGMENT_RECORDS_MAX; i++) {
		u32 captured = left < NETMON_MESSAGE_BYTES_MAX ? left : NETMON_MESSAGE_BYTES_MAX;
		int last = captured == left || i == DNS_SEGMENT_RECORDS_MAX - 1;

		s->message.payload_length = last ? whole : captured;
		s->message.tcp_flags = last ? flags : flags & ~TCP_FIN;
		if (message_load(skb, s, captured))
			return;
		message_emit(s, NETMON_MESSAGE_DNS_SEGMENT, NETMON_COUNT_DNS_SEGMENTS);
		if (last)
			return;
		s->offset += captured;
		s->message.sequence += captured;
		flags &= ~TCP_SYN;
		whole -= captured;
		left -= captured;
	}
}

static __always_inline void dns(struct __sk_buff *skb)
{
	struct message_scratch *s = message_begin(skb);

	if (!s)
		return;
	if (s->message.payload_length == PAYLOAD_CUT)
		message_count(NETMON_COUNT_NOT_DNS_SHORT, 1);
	else if (!s->packet.tcp)
		dns_datagram(skb, s);
	else if (s->protocols & NETMON_PORT_DNS)
		dns_segment(skb, s);
}

#endif
