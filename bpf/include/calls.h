/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Calls of a process that write to a TLS session or read from it: from its registers at their begin and end to a segment
 * for the programs that follow HTTP.
 */
#ifndef NETMON_CALLS_H
#define NETMON_CALLS_H

#define CALLS_MAX 16384
#define OCTETS_MAX 0x7fffffff /* SSL_write() takes an int */

/* struct pt_regs of x86-64, the context of these programs; arguments are where the System V ABI has them. */
struct registers {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

/*
 * A call that has begun: by its thread and where on the stack its arguments end, since a BIO may be a session, too. A
 * library that is found under two device numbers has two probes at one place: the second one finds the same key.
 */
struct call_key {
	u64 thread;
	u64 stack;
};
struct call {
	struct session_key session;
	u64 buffer;
	u64 octets_at; /* where it says how many, 0: it returns them */
	u64 is_write;
};
BPF_TABLE("lru_hash", struct call_key, struct call, calls, CALLS_MAX);

/*
 * Of a CPU: the call that is looked at. Where the kernel preempts tasks, another one may come in between; that one is
 * left out.
 */
struct looking {
	u64 owner; /* the kernel's address of the thread, 0: none */
	u64 buffer;
	u32 acknowledgment;
	u32 reserved;
};
BPF_TABLE("percpu_array", u32, struct looking, looking, 1);

static __always_inline struct looking *looking_here(void)
{
	u32 only = 0;

	return looking.lookup(&only);
}

static __always_inline struct looking *looking_begin(void)
{
	struct looking *here = looking_here();
	u64 task = bpf_get_current_task();

	if (!here)
		return 0;
	if (!*(volatile u64 *)&here->owner) {
		*(volatile u64 *)&here->owner = task;
		if (*(volatile u64 *)&here->owner == task) /* and no other's that came at once */
			return here;
	}
	session_count(NETMON_SESSIONS_BUSY);
	return 0;
}

static __always_inline void looking_end(void)
{
	struct looking *here = looking_here();

	if (here)
		*(volatile u64 *)&here->owner = 0;
}

static __always_inline int payload_load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	struct looking *here = looking_here();

	if (!here)
		return -1;
	if (!bpf_probe_read_user(to, length, (void *)(here->buffer + offset - NO_HEADERS)))
		return 0;
	session_count(NETMON_SESSIONS_UNREADABLE);
	return -1;
}

static __always_inline int acknowledgment_load(struct __sk_buff *skb, const struct message_scratch *s, u32 *to)
{
	struct looking *here = looking_here();

	if (!here)
		return -1;
	*to = bpf_htonl(here->acknowledgment);
	return 0;
}

/* ---- directions */

/* Zero: what a direction begins as. */
BPF_TABLE("array", u32, struct netmon_flow, flow_zero, 1);

static __always_inline void flow_direction(struct netmon_flow_key *key, const struct session_key *of,
					   const struct session *session, u8 direction)
{
	__builtin_memset(key, 0, sizeof(*key));
	session_address(key->source, of, session);
	session_address(key->destination, of, session);
	key->source_port = bpf_htons(direction == NETMON_TRANSMIT ? NETMON_SESSION_LOCAL : NETMON_SESSION_REMOTE);
	key->destination_port = bpf_htons(direction == NETMON_TRANSMIT ? NETMON_SESSION_REMOTE : NETMON_SESSION_LOCAL);
	key->protocol = PROTOCOL_TCP;
	key->direction = direction;
}

static __always_inline struct netmon_flow *flow_make(const struct netmon_flow_key *key, u8 begun)
{
	struct netmon_flow *flow = flow_table.lookup((struct netmon_flow_key *)key);
	u32 only = 0;
	struct netmon_flow *zero;

	if (flow)
		return flow;
	zero = flow_zero.lookup(&only);
	if (!zero)
		return 0;
	flow_table.insert((struct netmon_flow_key *)key, zero);
	flow = flow_table.lookup((struct netmon_flow_key *)key);
	if (flow) {
		flow->first_ns = bpf_ktime_get_ns();
		flow->next_sequence = 1;
		flow->sequence_state = NETMON_SEQUENCE_NEXT | (begun ? NETMON_SEQUENCE_INITIAL : 0);
	}
	return flow;
}

/* ---- segments */

/* Which program looks at so many octets more; see where_to_look(). */
static __always_inline u32 flow_look(const struct netmon_flow *flow, u32 sequence, u32 octets)
{
	u32 state = flow->sequence_state;

	if (state & NETMON_SEQUENCE_DECIDED)
		return LOOK_NOWHERE;
	if (octets && (state & NETMON_SEQUENCE_SKIP) && (s32)(sequence + octets - flow->stream_next) < 0)
		return LOOK_NOWHERE;
	return LOOK_STREAM + state / NETMON_SEQUENCE_HTTP_CLIENT;
}

/* Has a program look at octets of the process's memory; none, with FIN: at the end of the session. */
static __always_inline void segment(struct registers *ctx, const struct session_key *key, const struct session *session,
				    u64 buffer, u32 octets, u8 direction, u8 tcp_flags)
{
	u32 only = 0;
	struct message_scratch *s;
	struct netmon_flow *flow, *other;
	struct looking *here = looking_begin();
	u32 sequence, look;

	if (!here)
		return;
	s = message_scratch.lookup(&only);
	if (!s)
		goto out;
	flow_direction(&s->other, key, session, !direction);
	flow_direction(&s->packet.flow, key, session, direction);
	other = flow_make(&s->other, session->begun);
	flow = flow_make(&s->packet.flow, session->begun);
	if (!flow || !other)
		goto out;
	sequence = flow->next_sequence;
	flow->next_sequence = sequence + octets;
	flow->packets++;
	flow->bytes += octets;
	look = flow_look(flow, sequence, octets);
	if (look == LOOK_NOWHERE)
		goto out;
	here->buffer = buffer;
	here->acknowledgment = other->next_sequence;
	s->packet.network_offset = 0;
	s->packet.network_length = 0;
	s->packet.headers = NO_HEADERS;
	s->packet.sequence = sequence;
	s->packet.tcp_flags = TCP_ACK | tcp_flags;
	s->packet.tcp = 1;
	s->packet.tcp_header = NO_HEADERS;
	s->packet.look = look;
	s->length = NO_HEADERS + octets;
	s->protocols = 0;
	if (look == LOOK_STREAM)
		message_programs.call(ctx, NETMON_PROGRAM_STREAM);
	else
		message_programs.call(ctx, NETMON_PROGRAM_HTTP);
out:
	looking_end();
}

/* ---- sessions */

static __always_inline struct session *session_make(const struct session_key *key, u8 begun)
{
	struct session fresh = {};

	fresh.cgroup = bpf_get_current_cgroup_id();
	fresh.stamp = bpf_ktime_get_ns() >> 10;
	fresh.begun = begun;
	if (!sessions.insert((struct session_key *)key, &fresh))
		session_count(NETMON_SESSIONS_SEEN);
	return sessions.lookup((struct session_key *)key);
}

/* ---- calls */

/* Whether a call for this session is inside of another one, which tells what it does: one form may call the other. */
static __always_inline int call_is_inside(const struct session *session, const struct call_key *at)
{
	struct call_key outer = {};

	if (!session->inside || at->stack >= session->inside)
		return 0;
	outer.thread = at->thread;
	outer.stack = session->inside;
	return !!calls.lookup(&outer);
}

static __always_inline void call_begin(struct registers *ctx, u64 is_write, u64 octets, u64 octets_at)
{
	struct call_key at = {};
	struct call call = {};
	struct session *session;
	struct writer writer = {};
	u64 task;

	at.thread = bpf_get_current_pid_tgid();
	at.stack = ctx->sp + sizeof(u64); /* without the return address */
	call.session.ssl = ctx->di;
	call.session.tgid = at.thread >> 32;
	call.buffer = ctx->si;
	call.octets_at = octets_at;
	call.is_write = is_write;
	session = sessions.lookup(&call.session);
	if (!session)
		session = session_make(&call.session, 0);
	if (!session || call_is_inside(session, &at))
		return;
	session->inside = at.stack;
	calls.update(&at, &call);
	if (!is_write || session->cookie)
		return;
	writer.key = call.session;
	writer.stamp = session->stamp;
	writer.octets = octets > TLS_FRAGMENT_MAX ? TLS_FRAGMENT_MAX : octets;
	task = bpf_get_current_task();
	writers.update(&task, &writer);
}

static __always_inline void call_end(struct registers *ctx)
{
	struct call_key at = {};
	struct call call, *begun;
	struct session *session;
	s64 returned = (s32)ctx->ax;
	u64 octets = returned;

	at.thread = bpf_get_current_pid_tgid();
	at.stack = ctx->sp;
	begun = calls.lookup(&at);
	if (!begun)
		return;
	call = *begun;
	calls.delete(&at);
	session = sessions.lookup(&call.session);
	if (!session)
		return; /* so many others came in between */
	session->inside = 0;
	if (returned <= 0)
		return;
	if (call.octets_at && bpf_probe_read_user(&octets, sizeof(octets), (void *)call.octets_at)) {
		session_count(NETMON_SESSIONS_UNREADABLE);
		return;
	}
	if (!octets || octets > OCTETS_MAX)
		return;
	session_count(NETMON_SESSIONS_CALLS);
	session->used = 1;
	segment(ctx, &call.session, session, call.buffer, octets, call.is_write ? NETMON_TRANSMIT : NETMON_RECEIVE, 0);
}

/* A session is over, or may be on another connection from now on. */
static __always_inline void call_no_more(struct registers *ctx, u32 is_over)
{
	struct netmon_flow_key way = {};
	struct session_key key = {};
	struct session *present, session;
	struct netmon_flow *flow;
	u8 direction = NETMON_TRANSMIT;

	key.ssl = ctx->di;
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	present = sessions.lookup(&key);
	if (!present || (!present->used && !is_over))
		return;
	session = *present;
	sessions.delete(&key);
	session_count(NETMON_SESSIONS_ENDED);
	if (!session.used)
		return;
	session_tell(&key, &session, 1);
	flow_direction(&way, &key, &session, NETMON_RECEIVE);
	flow = flow_table.lookup(&way);
	if (flow && (flow->sequence_state & NETMON_SEQUENCE_HTTP_SERVER))
		direction = NETMON_RECEIVE;
	segment(ctx, &key, &session, 0, 0, direction, TCP_FIN);
}

#endif
