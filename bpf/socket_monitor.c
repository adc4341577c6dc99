/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Hooks of a cgroup v2: TCP connections and UDP sockets of its processes, in every network namespace. Every program gives 1:
 * the call goes on, the packet passes. No option of a socket is changed.
 */
#include <uapi/linux/bpf.h>

#include "netmon_abi.h"
#include "late.h"

#define CONTEXT struct __sk_buff
#define PASS 1

static __always_inline int frame_load(struct __sk_buff *skb, u32 offset, void *to, const u32 length)
{
	return bpf_skb_load_bytes(skb, offset, to, length);
}

#include "packet.h"
#include "look.h"
#include "unreachable.h"
#include "connections.h"
#include "at_socket.h"
#include "life.h"
#include "segments.h"
#include "udp.h"
#include "dns.h"
#include "http2.h"
#include "stream.h"
#include "http.h"
#include "socket_messages.h"

int netmon_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_RTT_CB:
		life_rtt(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		life_state(ctx);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		life_retransmit(ctx);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		life_timeout(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		life_connect(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		life_active(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		life_passive(ctx);
		break;
	case BPF_SOCK_OPS_TIMEOUT_INIT:
		if (!ctx->is_fullsock)
			life_request(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		life_listen(ctx);
		break;
	}
	return PASS;
}

/* ---- packets */

int netmon_ingress(struct __sk_buff *skb)
{
	struct segment s = {};

	if (!segment_read(skb, &s))
		return PASS;
	if (s.protocol == PROTOCOL_TCP) {
		socket_segment(skb, &s, NETMON_RECEIVE, segment_received(skb, &s));
	} else if (s.protocol == PROTOCOL_UDP) {
		udp_datagram(skb, &s, NETMON_RECEIVE);
		socket_datagram(skb, &s, NETMON_RECEIVE);
	}
	return PASS;
}

int netmon_egress(struct __sk_buff *skb)
{
	struct segment s = {};

	if (!segment_read(skb, &s))
		return PASS;
	if (s.protocol == PROTOCOL_TCP) {
		segment_sent(skb, &s);
		socket_segment(skb, &s, NETMON_TRANSMIT, 0);
	} else if (s.protocol == PROTOCOL_UDP) {
		udp_datagram(skb, &s, NETMON_TRANSMIT);
		socket_datagram(skb, &s, NETMON_TRANSMIT);
	} else if (s.protocol == (s.v6 ? PROTOCOL_ICMPV6 : PROTOCOL_ICMP))
		unreachable_note(skb, s.at, s.v6);
	return PASS;
}

/* ---- messages: called for a packet in the place of what follows, as in tc_monitor.c */

int netmon_dns(struct __sk_buff *skb)
{
	dns(skb);
	message_release(skb);
	return PASS;
}

int netmon_stream(struct __sk_buff *skb)
{
	stream(skb);
	message_release(skb);
	return PASS;
}

int netmon_http(struct __sk_buff *skb)
{
	http(skb);
	message_release(skb);
	return PASS;
}

int netmon_http2(struct __sk_buff *skb)
{
	http2(skb);
	message_release(skb);
	return PASS;
}

/* Run by the reader: a program of tc, which may give a number. */
int netmon_quiet(struct __sk_buff *skb)
{
	return http_quiet_keys(skb);
}

/* ---- processes */

static __always_inline int is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && ctx->protocol == PROTOCOL_TCP;
}

/* connect() begins; what the socket had before failed before a SYN was sent. */
static __always_inline struct netmon_connection *connecting(struct bpf_sock_addr *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_make(cookie);

	if (row && row->role == NETMON_ROLE_CLIENT && !(row->flags & NETMON_CONNECTION_SENT)) {
		connection_end(row, NETMON_ENDING_NOT_SENT);
		row = connection_make(cookie);
	}
	if (!row)
		return 0; /* sockops counts it */
	row->begin_ns = bpf_ktime_get_ns();
	row->netns = bpf_get_netns_cookie(ctx);
	connection_take_process(row, NETMON_WHO_OPENER);
	row->role = NETMON_ROLE_CLIENT;
	row->state = row->previous_state = BPF_TCP_CLOSE;
	return row;
}

int netmon_connect4(struct bpf_sock_addr *ctx)
{
	struct netmon_connection *row = is_tcp(ctx) ? connecting(ctx) : 0;

	if (row) {
		row->family = AF_INET;
		v4_mapped(row->remote, ctx->user_ip4);
		row->remote_port = ctx->user_port;
	}
	return PASS;
}

int netmon_connect6(struct bpf_sock_addr *ctx)
{
	struct netmon_connection *row = is_tcp(ctx) ? connecting(ctx) : 0;
	const volatile struct bpf_sock_addr *fields = ctx;

	if (row) {
		row->family = AF_INET6;
		row->remote[0] = fields->user_ip6[0];
		row->remote[1] = fields->user_ip6[1];
		row->remote[2] = fields->user_ip6[2];
		row->remote[3] = fields->user_ip6[3];
		row->remote_port = fields->user_port;
	}
	return PASS;
}

/* accept() asks for the name of the peer in the process that will have the connection; so does getpeername(). */
static __always_inline void accepting(struct bpf_sock_addr *ctx)
{
	struct netmon_connection *row = connection_of(socket_cookie(ctx));

	if (!row || row->role != NETMON_ROLE_SERVER || row->who == NETMON_WHO_OPENER)
		return;
	if (!row->netns)
		row->netns = bpf_get_netns_cookie(ctx);
	connection_take_process(row, NETMON_WHO_OPENER);
}

int netmon_accept4(struct bpf_sock_addr *ctx)
{
	if (is_tcp(ctx))
		accepting(ctx);
	return PASS;
}

int netmon_accept6(struct bpf_sock_addr *ctx)
{
	if (is_tcp(ctx))
		accepting(ctx);
	return PASS;
}

/* bind(): who will listen. */
static __always_inline void bound(struct bpf_sock *ctx)
{
	struct netmon_connection *row;

	if (ctx->type != SOCK_STREAM || ctx->protocol != PROTOCOL_TCP)
		return;
	row = connection_make(socket_cookie(ctx));
	if (!row || row->role || row->who)
		return;
	row->begin_ns = bpf_ktime_get_ns();
	row->netns = bpf_get_netns_cookie(ctx);
	connection_take_process(row, NETMON_WHO_OPENER);
	row->state = row->previous_state = BPF_TCP_CLOSE;
}

int netmon_bind4(struct bpf_sock *ctx)
{
	bound(ctx);
	return PASS;
}

int netmon_bind6(struct bpf_sock *ctx)
{
	bound(ctx);
	return PASS;
}

/* socket() of UDP: a TCP socket is met when it binds, connects or is accepted. */
int netmon_socket(struct bpf_sock *ctx)
{
	struct netmon_udp *row;

	if (ctx->type != SOCK_DGRAM || ctx->protocol != PROTOCOL_UDP)
		return PASS;
	row = udp_make(socket_cookie(ctx));
	if (!row)
		return PASS;
	row->netns = bpf_get_netns_cookie(ctx);
	connection_take_process(row, NETMON_WHO_OPENER);
	return PASS;
}

/* The last descriptor is closed: what happens to the connection from now on, the process asked for. */
static __always_inline void released(struct bpf_sock *ctx)
{
	u64 cookie = socket_cookie(ctx);
	struct netmon_connection *row = connection_of(cookie);
	struct unplaced *unplaced;

	if (!row) {
		unplaced = connections_unplaced.lookup(&cookie);
		if (unplaced)
			unplaced->released = 1;
		else
			streams_close(cookie); /* no hook tells its end */
		return;
	}
	row->closer_tgid = bpf_get_current_pid_tgid() >> 32;
	if (row->role == NETMON_ROLE_SERVER && row->who < NETMON_WHO_CLOSER)
		connection_take_process(row, NETMON_WHO_CLOSER);
	row->released = 1;
	if (!row->role) {
		connection_count(NETMON_CONNECTIONS_UNUSED);
		connection_stats.delete(&cookie);
	} else if (row->role == NETMON_ROLE_CLIENT && !(row->flags & NETMON_CONNECTION_SENT)) {
		connection_end(row, NETMON_ENDING_NOT_SENT);
	}
}

int netmon_release(struct bpf_sock *ctx)
{
	if (ctx->protocol == PROTOCOL_TCP)
		released(ctx);
	else if (ctx->protocol == PROTOCOL_UDP)
		udp_close(socket_cookie(ctx));
	return PASS;
}
