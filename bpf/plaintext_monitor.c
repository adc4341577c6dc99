/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * uprobes at functions of OpenSSL: what a process writes to a TLS session and reads from it, in clear. What one call
 * wrote or read is taken for a TCP segment whose payload is in the memory of the process, and goes the way of all
 * segments: the programs that follow HTTP/1 and HTTP/2 are those of tc. As there, heads leave the kernel and bodies do
 * not. Nothing is written to the process.
 */
#include <uapi/linux/bpf.h>

#include "netmon_abi.h"
#include "late.h"

#define CONTEXT struct __sk_buff
#define PASS 1
#define PAYLOAD_ELSEWHERE

static __always_inline int frame_load(struct __sk_buff *skb, u32 offset, void *to, const u32 length)
{
	return bpf_skb_load_bytes(skb, offset, to, length);
}

#include "packet.h"

#define PAYLOAD_CUT 0xffffffffU
#define NO_HEADERS 20 /* octets that stand for headers, which there are none of */

/* The directions of sessions, as flows none of whose packets is ever lost. The loader sets the real size. */
BPF_TABLE("lru_hash", struct netmon_flow_key, struct netmon_flow, flow_table, 32768);

static __always_inline u32 transport_payload(const struct packet *p, u32 length)
{
	return length - NO_HEADERS;
}

static __always_inline int payload_load(struct __sk_buff *skb, u32 offset, void *to, u32 length);

#include "at_interface.h"
#include "sessions.h"
#include "calls.h"
#include "http2.h"
#include "stream.h"
#include "http.h"

/* ---- functions of OpenSSL */

/* int SSL_read(SSL *, void *, int), and SSL_write() */
int netmon_ssl_read(struct registers *ctx)
{
	call_begin(ctx, 0, (u32)ctx->dx, 0);
	return 0;
}

int netmon_ssl_write(struct registers *ctx)
{
	call_begin(ctx, 1, (u32)ctx->dx, 0);
	return 0;
}

/* int SSL_read_ex(SSL *, void *, size_t, size_t *), and SSL_write_ex() */
int netmon_ssl_read_ex(struct registers *ctx)
{
	if (ctx->cx)
		call_begin(ctx, 0, ctx->dx, ctx->cx);
	return 0;
}

int netmon_ssl_write_ex(struct registers *ctx)
{
	if (ctx->cx)
		call_begin(ctx, 1, ctx->dx, ctx->cx);
	return 0;
}

/* int SSL_write_ex2(SSL *, const void *, size_t, uint64_t, size_t *) */
int netmon_ssl_write_ex2(struct registers *ctx)
{
	if (ctx->r8)
		call_begin(ctx, 1, ctx->dx, ctx->r8);
	return 0;
}

/*
 * ossl_ssize_t SSL_sendfile(SSL *, int, off_t, size_t, int): the kernel seals part of a file. What it is nobody sees, and it
 * is no head.
 */
int netmon_ssl_sendfile(struct registers *ctx)
{
	call_begin(ctx, 1, ctx->cx, 0);
	return 0;
}

/* What any of these returns. */
int netmon_ssl_return(struct registers *ctx)
{
	call_end(ctx);
	return 0;
}

/* What SSL_new() returns. */
int netmon_ssl_new(struct registers *ctx)
{
	struct session_key key = {};

	key.ssl = ctx->ax;
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	if (key.ssl)
		session_make(&key, 1);
	return 0;
}

int netmon_ssl_free(struct registers *ctx)
{
	call_no_more(ctx, 1);
	return 0;
}

/* SSL_clear() and SSL_set_fd(): what follows may be on another connection. */
int netmon_ssl_renew(struct registers *ctx)
{
	call_no_more(ctx, 0);
	return 0;
}

/* ---- called by these in the place of what follows */

int netmon_stream(struct registers *ctx)
{
	stream((struct __sk_buff *)ctx);
	looking_end();
	return 0;
}

int netmon_http(struct registers *ctx)
{
	http((struct __sk_buff *)ctx);
	looking_end();
	return 0;
}

int netmon_http2(struct registers *ctx)
{
	http2((struct __sk_buff *)ctx);
	looking_end();
	return 0;
}

/* ---- packets that leave sockets: a cgroup's hook, like those of socket_monitor */

int netmon_sealed(struct __sk_buff *skb)
{
	session_packet(skb);
	return PASS;
}

/* ---- run by the reader */

int netmon_quiet(struct __sk_buff *skb)
{
	return http_quiet_keys(skb);
}
