/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The life of a TCP connection as sockops tells it: opened, established, its RTT and retransmits, and how it ended. */
#ifndef NETMON_LIFE_H
#define NETMON_LIFE_H

/* Fields of the context are read one by one: two at once the verifier refuses. */
typedef const volatile struct bpf_sock_ops operation;

#define LIFE_FLAGS                                                                                                     \
	(BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG |                        \
	 BPF_SOCK_OPS_RTO_CB_FLAG)
/* Of a connection without a row. */
#define LIFE_FLAGS_UNPLACED (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG)

/* Calls are added to those that others asked for. */
static __always_inline void life_follow(struct bpf_sock_ops *ctx, u32 flags)
{
	u32 present = ((operation *)ctx)->bpf_sock_ops_cb_flags;

	if ((present & flags) != flags)
		bpf_sock_ops_cb_flags_set(ctx, present | flags);
}

static __always_inline u64 life_netns(struct bpf_sock_ops *ctx)
{
	return late_netns() ? bpf_get_netns_cookie(ctx) : 0;
}

static __always_inline void life_addresses(operation *ctx, u32 *local, u32 *remote)
{
	if (ctx->family == AF_INET) {
		u32 mine = ctx->local_ip4, theirs = ctx->remote_ip4;

		asm volatile(""
			     : "+r"(mine), "+r"(theirs)); /* or both ways share a load at an address that is computed */
		v4_mapped(local, mine);
		v4_mapped(remote, theirs);
	} else {
		local[0] = ctx->local_ip6[0];
		local[1] = ctx->local_ip6[1];
		local[2] = ctx->local_ip6[2];
		local[3] = ctx->local_ip6[3];
		remote[0] = ctx->remote_ip6[0];
		remote[1] = ctx->remote_ip6[1];
		remote[2] = ctx->remote_ip6[2];
		remote[3] = ctx->remote_ip6[3];
	}
}

/* The remote port lies in the upper half, in network order. */
static __always_inline void life_ends(operation *ctx, struct netmon_connection *row)
{
	row->family = ctx->family;
	life_addresses(ctx, row->local, row->remote);
	row->local_port = bpf_htons(ctx->local_port);
	row->remote_port = ctx->remote_port >> 16;
}

static __always_inline void life_refresh(operation *ctx, struct netmon_connection *row)
{
	connection_refresh(row, ctx);
	row->refreshed = bpf_jiffies64();
}

static __always_inline struct netmon_connection_totals *life_totals(u8 role, u8 ending)
{
	u32 place = connection_place(role, ending);
	struct netmon_connection_totals *totals = connection_totals.lookup(&place);

	if (totals)
		__sync_fetch_and_add(&totals->connections, 1);
	return totals;
}

/* ---- opened and established */

/* Messages are looked for from the first octet of each direction on. What is acknowledged of a client is its SYN as well. */
static __always_inline void life_streams(operation *ctx, u64 cookie, const u8 role)
{
	u32 local[4], remote[4];
	u64 acked = ctx->bytes_acked, received = ctx->bytes_received;

	if (!late_messages())
		return;
	life_addresses(ctx, local, remote);
	streams_open(cookie, local, remote, bpf_htons(ctx->local_port) | (ctx->remote_port & 0xffff0000),
		     ctx->snd_una - (u32)acked - (role == NETMON_ROLE_SERVER), ctx->rcv_nxt - (u32)received - 1, role);
}

/* connect() sends the SYN: addresses and ports are known. */
static __always_inline void life_connect(struct bpf_sock_ops *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_of(cookie);

	if (!row)
		row = connection_make(cookie);
	if (!row) {
		connection_unplaced(cookie, NETMON_ROLE_CLIENT);
		life_follow(ctx, LIFE_FLAGS_UNPLACED);
		return;
	}
	if (row->role != NETMON_ROLE_CLIENT) { /* no hook saw connect(): the kernel's own socket */
		row->role = NETMON_ROLE_CLIENT;
		row->begin_ns = bpf_ktime_get_ns();
		row->netns = life_netns(ctx);
	}
	life_ends(ctx, row);
	row->flags |= NETMON_CONNECTION_SENT;
	row->previous_state = BPF_TCP_CLOSE;
	row->state = BPF_TCP_SYN_SENT;
	life_follow(ctx, LIFE_FLAGS);
}

static __always_inline void life_active(struct bpf_sock_ops *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_of(cookie);
	struct unplaced *unplaced;
	u64 now = bpf_ktime_get_ns();

	life_streams(ctx, cookie, NETMON_ROLE_CLIENT);
	if (!row) {
		unplaced = connections_unplaced.lookup(&cookie);
		if (unplaced) {
			unplaced->established = 1;
			life_totals(NETMON_ROLE_CLIENT, NETMON_ENDING_NONE);
			return;
		}
		row = connection_make(cookie); /* its SYN was sent before there were programs */
		if (!row)
			return;
		row->role = NETMON_ROLE_CLIENT;
		row->begin_ns = now;
		row->netns = life_netns(ctx);
		row->previous_state = BPF_TCP_SYN_SENT;
		row->state = BPF_TCP_ESTABLISHED;
		life_follow(ctx, LIFE_FLAGS);
	}
	row->established_ns = now;
	row->handshake_ns = now - row->begin_ns; /* the SYN is sent by connect() itself */
	life_ends(ctx, row);
	if (!row->rtt_count)
		rtt_sample(row, ((operation *)ctx)->srtt_us);
	life_refresh(ctx, row);
}

/* The SYN has come and the request for a connection is made; the connection will have its cookie. */
static __always_inline void life_request(struct bpf_sock_ops *ctx)
{
	u64 cookie = socket_cookie(ctx);
	u32 slot = cookie % SYN_TIMES;
	struct syn_time *time = syn_times.lookup(&slot);

	if (!time)
		return;
	time->time_ns = bpf_ktime_get_ns();
	time->cookie = cookie;
}

static __always_inline struct netmon_connection *life_listener(struct listener_key *key, int family)
{
	struct listener *found = listeners.lookup(key);

	if (!found) {
		key->local[0] = key->local[1] = key->local[2] = key->local[3] = 0;
		found = listeners.lookup(key);
	}
	if (!found && family == AF_INET) {
		key->local[2] = bpf_htonl(0xffff);
		found = listeners.lookup(key);
	}
	if (!found || !found->cookie)
		return 0;
	return connection_of(found->cookie);
}

static __always_inline void life_passive(struct bpf_sock_ops *ctx)
{
	operation *fields = ctx;
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_make(cookie);
	struct netmon_connection *listening;
	struct listener_key key = {};
	struct syn_time *time;
	u32 srtt = fields->srtt_us;
	u32 slot = cookie % SYN_TIMES;
	u64 now;

	life_streams(fields, cookie, NETMON_ROLE_SERVER);
	if (!row) {
		connection_unplaced(cookie, NETMON_ROLE_SERVER);
		life_totals(NETMON_ROLE_SERVER, NETMON_ENDING_NONE);
		life_follow(ctx, LIFE_FLAGS_UNPLACED);
		return;
	}
	now = bpf_ktime_get_ns();
	row->role = NETMON_ROLE_SERVER;
	row->netns = life_netns(ctx);
	life_ends(ctx, row);
	row->begin_ns = row->established_ns = now;
	time = syn_times.lookup(&slot);
	if (time && time->cookie == cookie) {
		row->begin_ns = time->time_ns;
		row->handshake_ns = now - time->time_ns;
	} else if (srtt) { /* measured from the SYN-ACK, which was sent once */
		row->handshake_ns = (u64)srtt * 125;
		row->begin_ns = now - row->handshake_ns;
	}
	row->retransmits[NETMON_RETRANSMIT_SYN_ACK] = fields->total_retrans;
	rtt_sample(row, srtt);
	life_refresh(ctx, row);
	if (late_netns()) {
		key.netns = row->netns;
		__builtin_memcpy(key.local, row->local, 16);
		key.port = row->local_port;
		listening = life_listener(&key, row->family);
		if (listening && listening->who) {
			row->tgid = listening->tgid;
			row->cgroup = listening->cgroup;
			__builtin_memcpy(row->comm, listening->comm, 16);
			row->who = NETMON_WHO_LISTENER;
		}
	}
	row->previous_state = BPF_TCP_SYN_RECV;
	row->state = fields->state; /* SYN_RECV still: the change is told next */
	life_follow(ctx, LIFE_FLAGS);
}

static __always_inline void life_listen(struct bpf_sock_ops *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_of(cookie);
	struct netmon_connection *other;
	struct listener_key key = {};
	struct listener fresh = {}, *present;

	if (!row)
		row = connection_make(cookie);
	life_follow(ctx, LIFE_FLAGS_UNPLACED);
	if (!row)
		return; /* it is no connection */
	if (!row->begin_ns)
		row->begin_ns = bpf_ktime_get_ns();
	row->role = NETMON_ROLE_LISTENER;
	row->netns = life_netns(ctx);
	life_ends(ctx, row);
	row->previous_state = BPF_TCP_CLOSE;
	row->state = BPF_TCP_LISTEN;
	if (!late_netns())
		return; /* addresses alone do not tell listeners of several namespaces apart */
	key.netns = row->netns;
	__builtin_memcpy(key.local, row->local, 16);
	key.port = row->local_port;
	fresh.cookie = cookie;
	fresh.many = 1;
	if (!listeners.insert(&key, &fresh))
		return;
	present = listeners.lookup(&key);
	if (!present || present->cookie == cookie)
		return;
	__sync_fetch_and_add(&present->many, 1);
	other = connection_of(present->cookie);
	if (!other || other->tgid != row->tgid)
		present->cookie = 0;
}

static __always_inline void life_unlisten(struct netmon_connection *row)
{
	struct listener_key key = {};
	struct listener *present;

	key.netns = row->netns;
	__builtin_memcpy(key.local, row->local, 16);
	key.port = row->local_port;
	present = listeners.lookup(&key);
	if (!present)
		return;
	if (present->many <= 1) {
		listeners.delete(&key);
		return;
	}
	__sync_fetch_and_add(&present->many, -1);
	if (present->cookie == row->cookie)
		present->cookie = 0;
}

/* ---- while it lives */

static __always_inline void life_rtt(struct bpf_sock_ops *ctx)
{
	struct netmon_connection *row = connection_of(socket_cookie(ctx));
	u32 srtt = ((operation *)ctx)
			   ->args[1]; /* the new one, from 6.10 on; before that there is only the one it replaces */

	if (!row)
		return;
	rtt_sample(row, srtt ? srtt : ((operation *)ctx)->srtt_us);
	life_refresh(ctx, row);
}

/* The retransmission timer ran out; what lies beyond snd_una now is sent again because of it. */
static __always_inline void life_timeout(struct bpf_sock_ops *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_of(cookie);
	operation *fields = ctx;
	struct unplaced *unplaced;

	if (!row) {
		unplaced = connections_unplaced.lookup(&cookie);
		if (unplaced && fields->args[2])
			unplaced->expired = 1;
		return;
	}
	row->timeouts++;
	row->recovery_point = fields->snd_nxt;
	row->flags |= fields->args[2] ? NETMON_CONNECTION_EXPIRED : NETMON_CONNECTION_RECOVERS;
}

static __always_inline u32 life_retransmit_kind(operation *ctx, struct netmon_connection *row)
{
	if (ctx->state == BPF_TCP_SYN_SENT)
		return NETMON_RETRANSMIT_SYN;
	if (row->flags & NETMON_CONNECTION_RECOVERS) {
		if ((s32)(ctx->snd_una - row->recovery_point) < 0)
			return NETMON_RETRANSMIT_TIMEOUT;
		row->flags &= ~NETMON_CONNECTION_RECOVERS;
	}
	/* A probe is sent while nothing is held to be lost; whatever else is sent again was marked lost before. */
	return ctx->lost_out ? NETMON_RETRANSMIT_FAST : NETMON_RETRANSMIT_TAIL_LOSS;
}

static __always_inline void life_retransmit(struct bpf_sock_ops *ctx)
{
	struct netmon_connection *row = connection_of(socket_cookie(ctx));
	u64 kind;

	if (!row)
		return;
	kind = life_retransmit_kind(ctx, row);
	asm volatile("%0 &= 7" : "+r"(kind));
	if (kind < NETMON_RETRANSMIT_NUMBER)
		row->retransmits[kind] += ((operation *)ctx)->args[1];
}

/* ---- the end */

/* What was noted of a connection until it came to CLOSE. */
struct marks {
	u64 begin_ns;
	u8 expired;
	u8 released;
	u8 reset_received;
	u8 reset_sent;
	u8 probes;
	u8 icmp_type;
	u8 icmp_code;
};

/* The ICMP error about this connection since it began: its ending, 0 where there is none. */
static __always_inline u8 life_unreachable(operation *ctx, struct marks *marks)
{
	struct unreachable_key key = {};
	struct unreachable *error;
	u8 code;

	life_addresses(ctx, key.local, key.remote);
	key.local_port = bpf_htons(ctx->local_port);
	key.remote_port = ctx->remote_port >> 16;
	error = unreachable.lookup(&key);
	if (!error || error->time_ns < marks->begin_ns)
		return 0;
	code = error->code;
	marks->icmp_type = error->type;
	marks->icmp_code = code;
	if (error->type == ICMPV6_DEST_UNREACH) { /* RFC 4443, 3.1 */
		if (code == 4)
			return NETMON_ENDING_REFUSED;
		return code == 0 ? NETMON_ENDING_NET_UNREACHABLE : NETMON_ENDING_HOST_UNREACHABLE;
	}
	if (code == 3) /* RFC 792, RFC 1122, 3.2.2.1 */
		return NETMON_ENDING_REFUSED;
	if (code == 0 || code == 6 || code == 9 || code == 11)
		return NETMON_ENDING_NET_UNREACHABLE;
	return NETMON_ENDING_HOST_UNREACHABLE;
}

static __always_inline u8 life_failed(operation *ctx, struct marks *marks)
{
	u8 told;

	if (marks->reset_received && !marks->expired)
		return NETMON_ENDING_REFUSED;
	told = life_unreachable(ctx, marks);
	if (told)
		return told;
	if (marks->expired)
		return NETMON_ENDING_CONNECT_TIMED_OUT;
	return marks->released ? NETMON_ENDING_ABANDONED : NETMON_ENDING_CONNECT_UNKNOWN;
}

/*
 * How an established connection came to CLOSE. The timer says so itself. A FIN of this side that was acknowledged makes it
 * orderly. RST behind a probe without an answer is the kernel's own farewell. From ESTABLISHED and CLOSE_WAIT there is no
 * orderly way: without RST from there, the close() of the process sent one, since data was left unread or SO_LINGER asked
 * for it; without either, probes of a closed window had no answer.
 */
static __always_inline u8 life_ended(const struct marks *marks, u8 old)
{
	if (marks->expired)
		return NETMON_ENDING_TIMED_OUT;
	if (marks->reset_received)
		return NETMON_ENDING_RESET_REMOTE;
	if (marks->reset_sent)
		return marks->probes && !marks->released ? NETMON_ENDING_TIMED_OUT : NETMON_ENDING_RESET_LOCAL;
	if (old == BPF_TCP_LAST_ACK)
		return NETMON_ENDING_FIN_REMOTE;
	if (old == BPF_TCP_FIN_WAIT2 || old == BPF_TCP_CLOSING)
		return NETMON_ENDING_FIN_LOCAL;
	if (old == BPF_TCP_FIN_WAIT1)
		return NETMON_ENDING_UNKNOWN;
	return marks->released ? NETMON_ENDING_RESET_LOCAL : NETMON_ENDING_TIMED_OUT;
}

static __always_inline int life_is_orderly(u8 ending)
{
	return ending == NETMON_ENDING_FIN_LOCAL || ending == NETMON_ENDING_FIN_REMOTE;
}

/* Whether the FIN of the other side was taken, so that bytes_received has it. */
static __always_inline int life_fin_taken(operation *ctx, u8 old, u8 seen, u32 sequence)
{
	return old == BPF_TCP_CLOSE_WAIT || old == BPF_TCP_LAST_ACK || old == BPF_TCP_CLOSING ||
	       (seen && sequence == ctx->rcv_nxt);
}

/* Where RST is still to be sent, messages end with it. */
static __always_inline void life_streams_end(u64 cookie, const struct marks *marks, u8 ending)
{
	if (ending != NETMON_ENDING_RESET_LOCAL || marks->reset_sent)
		streams_close(cookie);
}

static __always_inline void life_close_unplaced(operation *ctx, u64 cookie, u8 old)
{
	struct unplaced *unplaced = connections_unplaced.lookup(&cookie);
	u64 received = ctx->bytes_received, acked = ctx->bytes_acked;
	struct netmon_connection_totals *totals;
	struct marks marks = {};
	u8 ending;

	if (!unplaced)
		return; /* it was there before the programs were, or is no connection */
	marks.expired = unplaced->expired;
	marks.released = unplaced->released;
	marks.reset_received = unplaced->reset_received;
	marks.reset_sent = unplaced->reset_sent;
	ending = unplaced->established ? life_ended(&marks, old) : life_failed(ctx, &marks);
	if (acked && unplaced->role == NETMON_ROLE_CLIENT)
		acked--;
	if (acked && life_is_orderly(ending))
		acked--;
	if (received && life_fin_taken(ctx, old, unplaced->fin_seen, unplaced->fin_sequence))
		received--;
	totals = life_totals(unplaced->role, ending);
	life_streams_end(cookie, &marks, ending);
	connections_unplaced.delete(&cookie);
	if (!totals)
		return;
	__sync_fetch_and_add(&totals->bytes_received, received);
	__sync_fetch_and_add(&totals->bytes_sent, acked);
	__sync_fetch_and_add(&totals->packets_received, ctx->data_segs_in);
	__sync_fetch_and_add(&totals->packets_sent, ctx->data_segs_out);
	__sync_fetch_and_add(&totals->retransmits, ctx->total_retrans);
}

static __always_inline void life_close(operation *ctx, struct netmon_connection *row, u8 old)
{
	struct marks marks = {};
	u32 told = 0;
	u8 ending;
	int i;

	marks.begin_ns = row->begin_ns;
	marks.expired = !!(row->flags & NETMON_CONNECTION_EXPIRED);
	marks.released = row->released;
	marks.reset_received = row->reset_received;
	marks.reset_sent = row->reset_sent;
	marks.probes = row->probes;
	if (row->established_ns) {
		ending = life_ended(&marks, old);
	} else {
		ending = life_failed(ctx, &marks);
		row->icmp_type = marks.icmp_type;
		row->icmp_code = marks.icmp_code;
	}
	life_streams_end(row->cookie, &marks, ending);
	if (ending == NETMON_ENDING_RESET_LOCAL)
		row->reset_sent = 1; /* it follows */
	if (life_is_orderly(ending))
		row->flags |= NETMON_CONNECTION_FIN_ACKED;
	if (life_fin_taken(ctx, old, row->noticed & NOTICED_FIN, row->fin_sequence))
		row->flags |= NETMON_CONNECTION_FIN_RECEIVED;
	life_refresh(ctx, row);
#pragma unroll
	for (i = 0; i < NETMON_RETRANSMIT_OTHER; i++)
		told += row->retransmits[i];
	row->retransmits[NETMON_RETRANSMIT_OTHER] = ctx->total_retrans - told;
	row->previous_state = old;
	row->state = BPF_TCP_CLOSE;
	connection_end(row, ending);
}

static __always_inline void life_closed(struct bpf_sock_ops *ctx, u64 cookie, u8 old)
{
	struct netmon_connection *row = connection_of(cookie);

	if (old == BPF_TCP_CLOSE)
		return;
	if (!row) {
		life_close_unplaced(ctx, cookie, old);
		return;
	}
	if (old != BPF_TCP_LISTEN) {
		life_close(ctx, row, old);
		return;
	}
	if (late_netns())
		life_unlisten(row);
	row->previous_state = old;
	row->state = BPF_TCP_CLOSE;
	connection_end(row, NETMON_ENDING_NONE);
}

static __always_inline void life_state(struct bpf_sock_ops *ctx)
{
	operation *fields = ctx;
	u64 cookie = socket_cookie(ctx);
	u8 old = fields->args[0], new = fields->args[1];
	struct netmon_connection *row;

	if (new == BPF_TCP_CLOSE) {
		life_closed(ctx, cookie, old);
		return;
	}
	row = connection_of(cookie);
	if (!row)
		return;
	row->previous_state = old;
	row->state = new;
	if (new == BPF_TCP_FIN_WAIT2)
		row->flags |= NETMON_CONNECTION_FIN_ACKED;
	else if (new == BPF_TCP_CLOSE_WAIT || new == BPF_TCP_CLOSING)
		row->flags |= NETMON_CONNECTION_FIN_RECEIVED;
	else
		return;
	life_refresh(ctx, row);
}

#endif
