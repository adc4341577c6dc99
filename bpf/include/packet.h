/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The general parser: link layers, IPv4 with options, IPv6 with extension chains, fragments, tunnels.
 * It reads through frame_load(ctx, offset, to, length), which the including program defines for its context
 * (0: the bytes were there), so XDP, tc and replay share every line. It trusts no length it has not checked.
 */
#ifndef NETMON_PACKET_H
#define NETMON_PACKET_H

#define LINK_LAYERS_MAX 8  /* VLAN tags, MPLS labels, PPPoE, LLC before the network layer */
#define INNER_LAYERS_MAX 2 /* the same inside a tunnel */
#define IPV6_EXTENSIONS_MAX 8
#define ENCAPSULATIONS_MAX 4 /* with decapsulate: levels opened */

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_TEB 0x6558 /* transparent Ethernet bridging: an Ethernet frame follows */
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_MPLS 0x8847
#define ETHERTYPE_MPLS_MULTICAST 0x8848
#define ETHERTYPE_PPPOE_SESSION 0x8864
#define ETHERTYPE_SVLAN 0x88a8

#define PROTOCOL_IPIP 4
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_DCCP 33
#define PROTOCOL_IPV6 41
#define PROTOCOL_GRE 47
#define GRE_ERSPAN 0x88be
#define GRE_ERSPAN_III 0x22eb
#define GTP_EXTENSIONS_MAX 2
#define PROTOCOL_SCTP 132
#define PROTOCOL_UDPLITE 136

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Where a message may be that is told by its content: nowhere, anything, requests of HTTP/1, responses. */
#define LOOK_NOWHERE 0
#define LOOK_STREAM 1
#define LOOK_HTTP_CLIENT 2
#define LOOK_HTTP_SERVER 3

/* What the parser found. Offsets are from the start of the frame as the hook hands it over. */
struct packet {
	struct netmon_flow_key flow;
	u32 network_offset;
	u32 network_length; /* by the IP header: total length (IPv6: 40 + payload length); 0 where the header says 0 */
	u32 headers;	    /* bytes before the transport payload: what every segment of a super-packet repeats */
	u32 sequence;
	u16 ethertype;
	u8 kind;
	u8 reason;
	u8 tcp_flags;
	u8 tcp;	       /* a TCP header was there, of a length that one can have */
	u8 tcp_header; /* ... that length, otherwise undefined */
	u8 look;       /* set when the packet is counted: it may carry a message that is told by its content */
};

static __always_inline u16 be16(const u8 *at)
{
	return at[0] << 8 | at[1];
}

static __always_inline void unreadable(struct packet *p, u8 reason)
{
	p->kind = NETMON_KIND_UNPARSED;
	p->reason = reason;
}

/* EtherTypes that get a row of their own; the rest share one, so that nobody can fill the table with them. */
static __always_inline u16 known_ethertype(u16 type)
{
	switch (type) {
	case ETHERTYPE_IPV4:
	case ETHERTYPE_IPV6:
	case ETHERTYPE_ARP:
	case ETHERTYPE_VLAN:
	case ETHERTYPE_SVLAN:
	case ETHERTYPE_MPLS:
	case ETHERTYPE_MPLS_MULTICAST:
	case ETHERTYPE_PPPOE_SESSION:
	case 0x8035: /* RARP */
	case 0x8137: /* IPX */
	case 0x8809: /* slow protocols: LACP */
	case 0x8863: /* PPPoE discovery */
	case 0x888e: /* EAPOL */
	case 0x88a2: /* AoE */
	case 0x88cc: /* LLDP */
	case 0x88e5: /* MACsec */
	case 0x88f7: /* PTP */
	case 0x8906: /* FCoE */
	case 0x8915: /* RoCE */
	case 0x9000: /* loopback test */
		return type;
	}
	return type < 0x600 ? 1 : 0; /* 1: an IEEE 802.3 length, LLC follows */
}

/*
 * IPv6 headers that another header follows (RFC 8200, 4; RFC 6275; RFC 7401; RFC 5533). Mobility, HIP and Shim6 messages
 * end the packet in practice, with "no next header" behind them: then they are its protocol.
 */
static __always_inline int is_extension(u8 protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 51 || protocol == 60 ||
	       protocol == 135 || protocol == 139 || protocol == 140;
}

static __always_inline void transport(CONTEXT *ctx, struct packet *p, u32 offset, u32 zero)
{
	u8 header[16];
	u8 protocol = p->flow.protocol;

	p->headers = offset;
	if (protocol == PROTOCOL_TCP) {
		if (frame_load(ctx, offset, header, 16) == 0 && header[12] >= 5 << 4) {
			p->tcp = 1 | zero;
			p->flow.source_port = *(u16 *)header;
			p->flow.destination_port = *(u16 *)(header + 2);
			p->sequence = bpf_ntohl(*(u32 *)(header + 4));
			p->tcp_flags = header[13];
			p->tcp_header = (header[12] >> 4) << 2;
			p->headers = offset + p->tcp_header;
			return;
		}
	} else if (protocol != PROTOCOL_UDP && protocol != PROTOCOL_SCTP && protocol != PROTOCOL_UDPLITE &&
		   protocol != PROTOCOL_DCCP) {
		return;
	}
	if (frame_load(ctx, offset, header, 4) == 0) {
		p->flow.source_port = *(u16 *)header;
		p->flow.destination_port = *(u16 *)(header + 2);
		p->headers = offset + 8;
	}
}

/* Gives the offset behind the IPv4 header, 0 if it cannot be read; changes p only if it can. */
static __always_inline u32 ipv4(CONTEXT *ctx, struct packet *p, u32 offset, u8 *reason, u32 zero)
{
	u8 header[20];
	u32 length;

	*reason = NETMON_REASON_SHORT_IPV4;
	if (frame_load(ctx, offset, header, 20))
		return 0;
	*reason = NETMON_REASON_IPV4_VERSION;
	if (header[0] >> 4 != 4)
		return 0;
	*reason = NETMON_REASON_IPV4_HEADER_LENGTH;
	length = (header[0] & 15) << 2;
	if (length < 20)
		return 0;
	p->kind = NETMON_KIND_FLOW;
	p->ethertype = ETHERTYPE_IPV4;
	p->network_offset = offset;
	p->network_length = be16(header + 2);
	p->tcp = zero;
	p->flow.source[0] = p->flow.source[1] = p->flow.destination[0] = p->flow.destination[1] = 0;
	p->flow.source[2] = p->flow.destination[2] = bpf_htonl(0xffff);
	p->flow.source[3] = *(u32 *)(header + 12);
	p->flow.destination[3] = *(u32 *)(header + 16);
	p->flow.source_port = p->flow.destination_port = zero;
	p->flow.protocol = header[9];
	if ((be16(header + 6) & 0x1fff) == 0)
		transport(ctx, p, offset + length, zero);
	else
		p->headers = offset + length; /* a later fragment: it has no ports */
	return offset + length;
}

static __always_inline u32 ipv6(CONTEXT *ctx, struct packet *p, u32 offset, u8 *reason, u32 zero)
{
	u8 header[40];
	u8 next, whole = 1;
	int i;

	*reason = NETMON_REASON_SHORT_IPV6;
	if (frame_load(ctx, offset, header, 40))
		return 0;
	*reason = NETMON_REASON_IPV6_VERSION;
	if (header[0] >> 4 != 6)
		return 0;
	p->kind = NETMON_KIND_FLOW;
	p->ethertype = ETHERTYPE_IPV6;
	p->network_offset = offset;
	p->network_length = be16(header + 4);
	if (p->network_length || header[6] == 59)
		p->network_length += 40;
	p->tcp = zero;
	__builtin_memcpy(p->flow.source, header + 8, 16);
	__builtin_memcpy(p->flow.destination, header + 24, 16);
	p->flow.source_port = p->flow.destination_port = zero;
	next = header[6];
	offset += 40;
	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		u8 extension[4];

		if (!is_extension(next) || frame_load(ctx, offset, extension, 4))
			break;
		if (next >= 135 && extension[0] == 59)
			break;
		if (next == 44) {
			offset += 8;
			if ((be16(extension + 2) & 0xfff8) != 0) {
				next = extension[0];
				whole = 0;
				break;
			}
		} else if (next == 51) {
			offset += (extension[1] + 2) << 2; /* AH counts in 4-byte units, RFC 4302 */
		} else {
			offset += (extension[1] + 1) << 3;
		}
		next = extension[0];
	}
	p->flow.protocol = next;
	if (whole)
		transport(ctx, p, offset, zero);
	else
		p->headers = offset;
	return offset;
}

/* Octets of a tag between two EtherTypes, the second included; 0: this is no tag. */
static __always_inline u32 tag_length(u16 type)
{
	switch (type) {
	case ETHERTYPE_VLAN:
	case ETHERTYPE_SVLAN:
	case 0x9100: /* two VLAN tags before there was 802.1ad */
	case 0x9200:
		return 4;
	case 0x8926: /* VN-Tag */
		return 6;
	case 0x893f: /* E-Tag, IEEE 802.1BR */
		return 8;
	case 0x88e7: /* I-Tag, IEEE 802.1ah: the customer's addresses are part of it */
		return 18;
	case 0x8903: /* FabricPath: the addresses of the frame inside are part of it */
		return 16;
	}
	return 0;
}

/* Walks link layers from offset; leaves the EtherType of the network layer and its offset. 0: cannot be read. */
static __always_inline int link_layers(CONTEXT *ctx, u16 *ethertype, u32 *offset, u8 *reason, const int most)
{
	u16 type = *ethertype;
	u32 at = *offset;
	u8 header[8];
	int i;

	for (i = 0; i < most; i++) {
		u32 tag = tag_length(type);

		if (tag) {
			*reason = NETMON_REASON_SHORT_VLAN;
			if (frame_load(ctx, at + tag - 2, header, 2))
				return 0;
			type = be16(header);
			at += tag;
		} else if (type == ETHERTYPE_MPLS || type == ETHERTYPE_MPLS_MULTICAST) {
			*reason = NETMON_REASON_SHORT_MPLS;
			if (frame_load(ctx, at, header, 4))
				return 0;
			at += 4;
			if (header[2] &
			    1) { /* bottom of stack: the payload tells itself by its first nibble (RFC 4928) */
				if (frame_load(ctx, at, header, 1))
					return 0;
				if (header[0] >> 4 == 4)
					type = ETHERTYPE_IPV4;
				else if (header[0] >> 4 == 6)
					type = ETHERTYPE_IPV6;
				break;
			}
		} else if (type == ETHERTYPE_PPPOE_SESSION) {
			u16 ppp;
			u32 length = 8;

			*reason = NETMON_REASON_SHORT_PPPOE;
			if (frame_load(ctx, at, header, 8))
				return 0;
			ppp = be16(header + 6);
			if (ppp & 0x100) { /* one octet (RFC 1661, 6.5): not allowed here (RFC 2516), and met */
				ppp >>= 8;
				length = 7;
			}
			if (ppp == 0x0021)
				type = ETHERTYPE_IPV4;
			else if (ppp == 0x0057)
				type = ETHERTYPE_IPV6;
			else
				break; /* LCP and its kind: no network layer */
			at += length;
			break;
		} else if (type < 0x600) {
			*reason = NETMON_REASON_SHORT_LLC;
			if (frame_load(ctx, at, header, 3))
				return 0;
			if (header[0] != 0xaa || header[1] != 0xaa || header[2] != 3)
				break; /* LLC without SNAP: spanning tree and its kind */
			if (frame_load(ctx, at, header, 8))
				return 0;
			type = be16(header + 6);
			at += 8;
			if (type < 0x600)
				break;
		} else {
			break;
		}
	}
	if (i == most && type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6) {
		*reason = NETMON_REASON_DEEP_LINK_LAYER;
		return 0;
	}
	*ethertype = type;
	*offset = at;
	return 1;
}

static __always_inline int is_tunnel_port(u16 port)
{
	return port == 4789 || port == 8472 || port == 4790 || port == 6081 || port == 2152;
}

/* Whether inner() may find a packet in this one. */
static __always_inline int may_be_tunnel(const struct packet *p)
{
	return p->flow.protocol == PROTOCOL_IPIP || p->flow.protocol == PROTOCOL_IPV6 ||
	       p->flow.protocol == PROTOCOL_GRE ||
	       (p->flow.protocol == PROTOCOL_UDP && is_tunnel_port(bpf_ntohs(p->flow.destination_port)));
}

/* By the first nibble of a packet at offset, which nothing else tells; 0 where it is not IP. */
static __always_inline u16 bare_ip(CONTEXT *ctx, u32 offset)
{
	u8 first;

	if (frame_load(ctx, offset, &first, 1))
		return 0;
	if (first >> 4 == 4)
		return ETHERTYPE_IPV4;
	return first >> 4 == 6 ? ETHERTYPE_IPV6 : 0;
}

/* ERSPAN inside of GRE: type I has no header of its own and no sequence number, II 8 octets, III 12 or 20. */
static __always_inline u16 erspan(CONTEXT *ctx, u16 protocol, u8 flags, u32 *offset)
{
	u8 last;

	if (protocol == GRE_ERSPAN) {
		if (flags & 0x10)
			*offset += 8;
		return ETHERTYPE_TEB;
	}
	if (protocol != GRE_ERSPAN_III)
		return protocol;
	if (frame_load(ctx, *offset + 11, &last, 1))
		return 0;
	*offset += last & 1 ? 20 : 12;
	return ETHERTYPE_TEB;
}

/* GTP-U (3GPP TS 29.281), version 1: user data is a message of type 255; extension headers tell their length. */
static __always_inline u16 gtp(CONTEXT *ctx, const u8 *header, u32 *offset)
{
	u32 at = *offset + 8;
	u8 tail[4], length;
	int i;

	if ((header[0] & 0xf0) != 0x30 || header[1] != 255)
		return 0;
	if (header[0] & 7) {
		if (frame_load(ctx, at, tail, 4))
			return 0;
		at += 4;
		if (!(header[0] & 4))
			tail[3] = 0;
		for (i = 0; i < GTP_EXTENSIONS_MAX && tail[3]; i++) {
			if (frame_load(ctx, at, &length, 1) || !length)
				return 0;
			at += length * 4;
			if (frame_load(ctx, at - 1, tail + 3, 1))
				return 0;
		}
		if (tail[3])
			return 0;
	}
	*offset = at;
	return bare_ip(ctx, at);
}

/* Where an inner packet begins, by protocol or tunnel port: gives its EtherType, 0 where there is none. */
static __always_inline u16 inner(CONTEXT *ctx, const struct packet *p, u32 *offset)
{
	u8 header[8];
	u32 at = *offset;

	if (p->flow.protocol == PROTOCOL_IPIP)
		return ETHERTYPE_IPV4;
	if (p->flow.protocol == PROTOCOL_IPV6)
		return ETHERTYPE_IPV6;
	if (p->flow.protocol == PROTOCOL_GRE) { /* RFC 2784, RFC 2890 */
		if (frame_load(ctx, at, header, 4) || (header[0] & 0x40) || (header[1] & 7))
			return 0; /* source routes (RFC 1701) and version 1 (PPTP) are not opened */
		at += 4;
		if (header[0] & 0x80)
			at += 4;
		if (header[0] & 0x20)
			at += 4;
		if (header[0] & 0x10)
			at += 4;
		*offset = at;
		return erspan(ctx, be16(header + 2), header[0], offset);
	}
	if (p->flow.protocol == PROTOCOL_UDP) {
		u16 port = bpf_ntohs(p->flow.destination_port);

		at += 8;
		if (!is_tunnel_port(port))
			return 0;
		if (frame_load(ctx, at, header, 8))
			return 0;
		if (port == 6081) { /* Geneve, RFC 8926 */
			*offset = at + 8 + ((header[0] & 0x3f) << 2);
			return header[0] >> 6 ? 0 : be16(header + 2);
		}
		if (port == 2152) {
			*offset = at;
			return gtp(ctx, header, offset);
		}
		*offset =
			at +
			8; /* VXLAN, RFC 7348; a port of its own where it may tell another protocol inside (VXLAN-GPE) */
		if (!(header[0] & 0x08))
			return 0;
		return port == 4790 && (header[0] & 0x04) && header[3] != 3 ? bare_ip(ctx, at + 8) : ETHERTYPE_TEB;
	}
	return 0;
}

static __always_inline u32 network(CONTEXT *ctx, struct packet *p, u16 type, u32 offset, u8 *reason, u32 zero)
{
	if (type == ETHERTYPE_IPV4)
		return ipv4(ctx, p, offset, reason, zero);
	return ipv6(ctx, p, offset, reason, zero);
}

static __always_inline void decapsulate(CONTEXT *ctx, struct packet *p, u32 offset, u32 zero)
{
	u8 ethernet[14], reason;
	int i;

	for (i = 0; i < ENCAPSULATIONS_MAX; i++) {
		u16 type = inner(ctx, p, &offset);

		if (type == ETHERTYPE_TEB) {
			if (frame_load(ctx, offset, ethernet, 14))
				return;
			type = be16(ethernet + 12);
			offset += 14;
		} else if (type < 0x600) {
			return;
		}
		if (!link_layers(ctx, &type, &offset, &reason, INNER_LAYERS_MAX) ||
		    (type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6))
			return; /* not IP inside, or cut: the flow stays the outer one */
		offset = network(ctx, p, type, offset, &reason, zero);
		if (!offset)
			return;
	}
}

/*
 * Reads a frame that begins with an Ethernet header (l2_length 14) or an IP header (0). zero is 0, but not for the
 * verifier: with offsets and fields it does not know, it sees that all the ways through the parser end alike and follows
 * one.
 */
static __always_inline void parse(CONTEXT *ctx, struct packet *p, u32 zero)
{
	u8 header[14], reason = NETMON_REASON_NONE;
	u32 offset = late_l2_length();
	u16 type;

	p->headers = 0;
	p->tcp = 0;
	p->sequence = 0;
	p->tcp_flags = 0;
	p->network_length = 0;
	p->network_offset = 0;
	p->ethertype = 0;
	p->reason = NETMON_REASON_NONE;
	p->flow.protocol = 0;
	if (offset) {
		if (frame_load(ctx, 0, header, 14))
			return unreadable(p, NETMON_REASON_SHORT_ETHERNET);
		type = be16(header + 12);
	} else {
		if (frame_load(ctx, 0, header, 1))
			return unreadable(p, NETMON_REASON_SHORT_IPV4);
		type = header[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	}
	offset += zero;
	if (!link_layers(ctx, &type, &offset, &reason, LINK_LAYERS_MAX))
		return unreadable(p, reason);
	if (type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6) {
		p->kind = NETMON_KIND_OTHER;
		p->ethertype = known_ethertype(type);
		return;
	}
	offset = network(ctx, p, type, offset, &reason, zero);
	if (!offset)
		return unreadable(p, reason);
	if (late_decapsulate())
		decapsulate(ctx, p, offset, zero);
}

#endif
