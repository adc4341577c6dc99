/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* XDP: frames by protocol as the NIC delivers them, before GRO and before the firewall. Always XDP_PASS. */
#include <uapi/linux/bpf.h>

#include "netmon_abi.h"
#include "late.h"

#define CONTEXT struct xdp_md
#define FRAME_OFFSET_MAX 2047 /* headers beyond it are not looked for: the verifier wants a bound */

static __always_inline int frame_load(struct xdp_md *xdp, u32 offset, void *to, const u32 length)
{
	u8 *data = (u8 *)(long)xdp->data;
	u8 *end = (u8 *)(long)xdp->data_end;

	u64 at = offset;

	if (offset > FRAME_OFFSET_MAX)
		return -1;
	asm volatile("%0 &= 0x7ff" : "+r"(at)); /* or the compiler checks one register and adds another */
	data += at;
	if (data + length > end)
		return -1;
	__builtin_memcpy(to, data, length);
	return 0;
}

#include "packet.h"
#include "counters.h"

int netmon_xdp(struct xdp_md *xdp)
{
	struct packet p;
	struct netmon_counters amount = {};

	parse(xdp, &p, unknown_zero());
	amount.packets = 1;
	amount.bytes = xdp->data_end - xdp->data;
	count_row(&p, p.kind, xdp->ingress_ifindex, NETMON_RECEIVE, &amount);
	return XDP_PASS;
}
