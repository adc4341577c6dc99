/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The contract between the kernel programs and otel_netmon/abi: every struct and enum that crosses, and nothing else.
 * Fixed width, big to small, explicit padding, never packed. Addresses are 16 bytes in network order, IPv4 as
 * v4-mapped IPv6 (RFC 4291, 2.5.5.2). Ports are in network order, everything else in host order.
 * otel_netmon/abi/layout.py holds the same as numpy dtypes; a test compiles this file and compares.
 */
#ifndef NETMON_ABI_H
#define NETMON_ABI_H

#ifdef NETMON_ABI_STANDALONE
#include <linux/types.h>
#endif

#define NETMON_ABI_VERSION 3

/* hook_totals is indexed by ((ifindex + namespace * STRIDE) % SLOTS) * 2 + direction */
#define NETMON_HOOK_SLOTS 1024
#define NETMON_HOOK_NAMESPACE_STRIDE 331

enum netmon_direction {
	NETMON_RECEIVE = 0,
	NETMON_TRANSMIT = 1,
};

/* What a frame was counted as; the kind of a row of protocol_stats. */
enum netmon_kind {
	NETMON_KIND_FLOW =
		0, /* an IP packet: counted in flow_table, never in protocol_stats (XDP has no flows: there it is) */
	NETMON_KIND_OVERFLOW = 1,	    /* an IP packet whose flow had no place in flow_table */
	NETMON_KIND_OTHER = 2,		    /* a frame that is not IP: by its EtherType */
	NETMON_KIND_UNPARSED = 3,	    /* a frame that could not be read: by its reason */
	NETMON_KIND_OVERFLOW_FORWARDED = 4, /* as NETMON_KIND_OVERFLOW, of a forwarded packet */
};

/* Why a frame could not be read. */
enum netmon_reason {
	NETMON_REASON_NONE = 0,
	NETMON_REASON_SHORT_ETHERNET = 1,
	NETMON_REASON_SHORT_VLAN = 2,
	NETMON_REASON_SHORT_MPLS = 3,
	NETMON_REASON_SHORT_PPPOE = 4,
	NETMON_REASON_SHORT_LLC = 5,
	NETMON_REASON_DEEP_LINK_LAYER = 6,
	NETMON_REASON_SHORT_IPV4 = 7,
	NETMON_REASON_IPV4_VERSION = 8,
	NETMON_REASON_IPV4_HEADER_LENGTH = 9,
	NETMON_REASON_SHORT_IPV6 = 10,
	NETMON_REASON_IPV6_VERSION = 11,
};

/*
 * A key or message of this namespace is of no interface but of a socket: ifindex holds the lower 32 bits of its cookie, and
 * flags of a flow's key the next 8. Direction is as the socket sees it.
 */
#define NETMON_NAMESPACE_SOCKET 255

/* netmon_flow_key.flags */
#define NETMON_FLOW_FORWARDED 1 /* transmitted, but not made here: it came in by an interface of this namespace */

/* netmon_flow.sequence_state */
#define NETMON_SEQUENCE_NEXT 1	  /* next_sequence is known */
#define NETMON_SEQUENCE_INITIAL 2 /* initial_sequence is known */
#define NETMON_SEQUENCE_CLIENT 4  /* the last SYN came without ACK: the source opens */
#define NETMON_SEQUENCE_SERVER 8  /* the last SYN came with ACK: the source was asked */
/* ... and not of the sequence: what is looked for in this direction, until its next SYN */
#define NETMON_SEQUENCE_DECIDED 16U	 /* nothing any more */
#define NETMON_SEQUENCE_SKIP 32U	 /* nothing in segments that end before stream_next */
#define NETMON_SEQUENCE_HTTP_CLIENT 64U	 /* requests of HTTP/1 */
#define NETMON_SEQUENCE_HTTP_SERVER 128U /* responses of HTTP/1 */

/* netmon_flow.stream_stage: what the direction was found to carry, and in the upper bits what is still to come */
#define NETMON_STREAM_TLS 1
#define NETMON_STREAM_QUIC 2
#define NETMON_STREAM_DTLS 3
#define NETMON_STREAM_WHOLE 4	      /* HTTP that the kernel cannot follow: all octets are handed over */
#define NETMON_STREAM_HTTP2 8	      /* a bit of these three, which no other has */
#define NETMON_STREAM_HTTP2_LOST 10   /* where a frame begins is not known */
#define NETMON_STREAM_HTTP2_LEAVES 12 /* a cut header, of a frame whose payload does not leave the kernel */
#define NETMON_STREAM_HEADER_SHIFT 4 /* octets of a cut TLS record header that were seen, 0 to 4; HTTP/2: see http2.h */

/* One direction of one conversation at one interface: 44 bytes. */
struct netmon_flow_key {
	__u32 source[4];
	__u32 destination[4];
	__u32 ifindex;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;	/* IANA protocol number, the last of an IPv6 extension chain */
	__u8 direction; /* enum netmon_direction */
	__u8 namespace; /* number given by the agent, 0 its own */
	__u8 flags;	/* NETMON_FLOW_* */
};

/*
 * packets and bytes are what the hook was handed (one GSO or GRO super-packet is one); the wire had
 * packets + extra_packets segments and bytes + extra_bytes layer-2 bytes. All cumulative.
 */
struct netmon_counters {
	__u64 packets;
	__u64 bytes;
	__u64 extra_packets;
	__u64 extra_bytes;
};

/*
 * 80 bytes. In the kernel's hash element the key ends and the value begins in the second cache line: what every packet
 * touches comes first and fits in the rest of that line.
 */
struct netmon_flow {
	__u64 packets;
	__u64 bytes;
	__u64 last; /* jiffies64 of the last packet; in a replay the capture's time in ns */
	__u32 next_sequence;
	__u16 tcp_flags;     /* every flag seen, RFC 9293 order, FIN = 1 */
	__u8 sequence_state; /* NETMON_SEQUENCE_* */
	__u8 closing;	     /* set by the sweep: counts nothing any more and will be deleted */
	__u64 extra_packets; /* as in netmon_counters */
	__u64 extra_bytes;
	__u64 first_ns; /* CLOCK_MONOTONIC of the first packet; in a replay the capture's time */
	__u32 initial_sequence;
	__u32 retransmits;     /* segments below the highest sequence number already seen in this direction */
	__u32 resets;	       /* segments with RST */
	__u32 ingress_ifindex; /* forwarded packets: the interface by which the last one came in */
	__u32 stream_next;   /* TLS: sequence number of the next record header, or of the rest of it where it is cut */
	__u16 stream_handed; /* octets of messages handed to user space; of a WHOLE stream in units of 16 */
	__u8 stream_looked;  /* packets looked at in vain; in a cut TLS record header the upper octet of its length */
	__u8 stream_stage;   /* NETMON_STREAM_* */
};

struct netmon_protocol_key {
	__u32 ifindex;
	__u16 ethertype; /* 0x0800, 0x86dd, …; 0 where it is none of those the parser knows */
	__u16 reason;	 /* enum netmon_reason */
	__u8 protocol;	 /* IANA protocol number */
	__u8 direction;
	__u8 namespace;
	__u8 kind; /* enum netmon_kind */
};

/*
 * The one entry of flow_filter: which flows may be in flow_table, by a hash of their key. Consulted only while the table
 * refuses flows; a slot that is set in vain costs a lookup, and one that is not set although its flow is in the table
 * costs that flow its detail, never a count.
 */
#define NETMON_FILTER_SLOTS 262144
struct netmon_filter {
	__u64 marking; /* not 0 while the reader marks it anew: allows every flow */
	__u8 slots[NETMON_FILTER_SLOTS];
};

/* The one entry of agent_state. */
struct netmon_state {
	__u64 full_until;  /* jiffies64 up to which no insert into flow_table is tried */
	__u64 inserts;	   /* flows made */
	__u64 full_events; /* inserts refused because flow_table was full */
	__u64 lost_rows;   /* packets for which protocol_stats had no place either: they are in hook_totals alone */
	__u64 jiffies;	   /* both clocks, read together by the program netmon_clock */
	__u64 monotonic_ns;
	__u64 zero; /* never written: the verifier cannot know its value, see unknown_zero() */
};

/* What may be on a port: bits of netmon_ports.protocols. */
#define NETMON_PORT_DNS 1    /* RFC 1035, over UDP and TCP */
#define NETMON_PORT_MDNS 2   /* RFC 6762, over UDP */
#define NETMON_PORT_LLMNR 4  /* RFC 4795, over UDP */
#define NETMON_PORT_NONE 128 /* of port 0: packets without ports are looked at, for ICMP errors */

/*
 * The one entry of message_ports. A port is looked at only where its bit in filter is set: one cache line decides about
 * packets that carry no message. All zero: no packet is looked at.
 */
#define NETMON_PORT_FILTER_BITS 512
struct netmon_ports {
	__u64 filter[8];       /* bit port % 64 of word port / 64 % 8, of every port that has protocols */
	__u8 protocols[65536]; /* NETMON_PORT_*, by port in host order */
};

/* Slots of message_programs: who looks at the packets of which protocols. */
#define NETMON_PROGRAM_DNS 0	/* DNS, multicast DNS, LLMNR */
#define NETMON_PROGRAM_TUNNEL 1 /* in a replay: the program itself as it decapsulates */
#define NETMON_PROGRAM_ERRORS 7 /* ICMP and ICMPv6 errors about connections */
#define NETMON_PROGRAM_STREAM 2 /* whatever is on no such port: protocols that are told by their content */
#define NETMON_PROGRAM_HTTP 3	/* what was found to be HTTP/1 */
#define NETMON_PROGRAM_HTTP2 4	/* what was found to be HTTP/2 */

/* What a record of the ring buffer messages is. */
enum netmon_message_kind {
	NETMON_MESSAGE_DNS_ANSWER = 1,	 /* a UDP response and the open query that it answers; carries the response */
	NETMON_MESSAGE_DNS_RESPONSE = 2, /* a UDP response without an open query of this question */
	NETMON_MESSAGE_DNS_SEGMENT = 3,	 /* a piece of one direction of a TCP connection */
	NETMON_MESSAGE_MDNS = 4,	 /* a datagram that looks like multicast DNS, query or response */
	NETMON_MESSAGE_LLMNR = 5,	 /* likewise, link-local multicast name resolution */
	NETMON_MESSAGE_STREAM = 6,	 /* a piece of one direction of a TCP connection that may be TLS or HTTP */
	NETMON_MESSAGE_QUIC = 7,	 /* a datagram that begins with a QUIC Initial packet */
	NETMON_MESSAGE_DTLS = 8,	 /* a datagram of DTLS records, up to the first of application data */
	NETMON_MESSAGE_HTTP =
		9, /* a request of HTTP/1 and its response: carries a netmon_http and the request's head */
	NETMON_MESSAGE_SESSION = 10, /* a TLS session whose plaintext is seen: carries a netmon_session */
};

/* At most this much of a payload in one record; a longer TCP payload becomes several records, up to a limit. */
#define NETMON_MESSAGE_BYTES_MAX 4096

/*
 * A record of the ring buffer messages: 104 bytes, then captured_length bytes of payload. What is said about a packet is
 * said about the one that is carried; of a DNS_ANSWER direction, ingress_ifindex and cgroup are the query's, so that a
 * lookup counts where its query does, answered or not. Times are CLOCK_MONOTONIC, in a replay the capture's.
 */
struct netmon_message {
	__u64 time_ns;
	__u64 request_time_ns;	     /* DNS_ANSWER: the last copy of the query before it; otherwise 0 */
	__u64 first_request_time_ns; /* DNS_ANSWER: the first copy; otherwise 0 */
	__u64 cgroup;		     /* of what a socket sends: the socket's cgroup v2 id; otherwise 0 */
	__u32 source[4];
	__u32 destination[4];
	__u32 ifindex;
	__u32 ingress_ifindex; /* of a forwarded packet that is transmitted: the interface by which it came in; otherwise 0 */
	__u32 sequence;	       /* TCP: sequence number of the first byte of payload (that of a SYN + 1) */
	__u32 acknowledgment;	/* STREAM: as in the header, of the packet that is carried */
	__u32 initial_sequence; /* STREAM: as in netmon_flow, where sequence_state says that it is known */
	__u32 payload_length;	/* by the packet's headers; of several records of a packet: from sequence to its end */
	__u32 retries;		/* DNS_ANSWER: copies of the query after the first */
	__u16 captured_length;	/* at most payload_length */
	__u8 tcp_flags; /* RFC 9293 order, FIN = 1; of several records of a packet FIN is in the last alone; of a DNS_SEGMENT
			   of a socket SYN is in that of the first octets, as the packet with SYN is not seen */
	__u8 sequence_state; /* STREAM: as in netmon_flow, 0 where the packet is in no flow */
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;	/* IANA protocol number: 6 or 17 */
	__u8 kind;	/* enum netmon_message_kind */
	__u8 direction; /* enum netmon_direction */
	__u8 namespace;
};

/* What was seen on message ports and what became of it; the index of message_counts (a per-CPU array of __u64). */
enum netmon_message_count {
	NETMON_COUNT_DNS_QUERIES = 0,	    /* queries over UDP, copies included */
	NETMON_COUNT_DNS_RETRIES = 1,	    /* ... of them copies of an open query */
	NETMON_COUNT_DNS_ANSWERS = 2,	    /* records of kind DNS_ANSWER, those lost included */
	NETMON_COUNT_DNS_RESPONSES = 3,	    /* records of kind DNS_RESPONSE, those lost included */
	NETMON_COUNT_DNS_SEGMENTS = 4,	    /* records of kind DNS_SEGMENT, those lost included */
	NETMON_COUNT_MDNS = 5,		    /* records of kind MDNS, those lost included */
	NETMON_COUNT_LLMNR = 6,		    /* records of kind LLMNR, those lost included */
	NETMON_COUNT_LOST_RING = 7,	    /* ... of those before for which the ring had no place */
	NETMON_COUNT_LOST_CACHE = 8,	    /* queries for which dns_cache had no place: their lookups are not seen */
	NETMON_COUNT_LOST_COALESCED = 9,    /* datagrams behind the first in a super-packet of UDP */
	NETMON_COUNT_NOT_DNS_SHORT = 10,    /* datagrams shorter than a DNS header, packets cut before their payload */
	NETMON_COUNT_NOT_DNS_HEADER = 11,   /* a header that no DNS message has */
	NETMON_COUNT_NOT_DNS_QUESTION = 12, /* a query whose question cannot be read */
	NETMON_COUNT_STREAM_SEGMENTS = 13,  /* records of kind STREAM, those lost included */
	NETMON_COUNT_QUIC = 14,		    /* records of kind QUIC, those lost included */
	NETMON_COUNT_DTLS = 15,		    /* records of kind DTLS, those lost included */
	NETMON_COUNT_STREAM_LOST_RING = 16, /* ... of these three for which the ring had no place */
	NETMON_COUNT_STREAM_LOST_ORDER =
		17, /* TLS segments behind one that is missing: where a record begins is not known */
	NETMON_COUNT_STREAM_LOST_LIMIT = 18,	 /* directions of a TLS handshake that is longer than the limit */
	NETMON_COUNT_STREAM_LOST_COALESCED = 19, /* datagrams behind the first in a super-packet of UDP */
	NETMON_COUNT_STREAM_NOTHING = 20,	 /* directions in which nothing was found */
	NETMON_COUNT_HTTP_REQUESTS = 21,	 /* records of kind HTTP, those lost included */
	NETMON_COUNT_HTTP_LOST_RING = 22,	 /* ... for which the ring had no place */
	NETMON_COUNT_HTTP_LOST_TABLE = 23,	 /* requests for whose connection http_connections had no place */
	NETMON_COUNT_HTTP_WHOLE = 24,		 /* connections of HTTP that are handed over whole */
	NETMON_COUNT_HTTP_LOST_LIMIT = 25,	 /* ... of which one direction was longer than the limit */
	NETMON_COUNT_STREAM_LOST_TABLE = 26,	 /* segments of connections for which socket_streams had no place */
	NETMON_COUNT_STREAM_LOST_EARLY = 27,	 /* segments with payload that came before their connection was there */
	NETMON_COUNT_LOST_NESTED = 28,		 /* packets of DNS that interrupted too many others on their CPU */
	NETMON_COUNT_STREAM_LOST_NESTED = 29,	 /* likewise of other protocols */
	NETMON_COUNT_NUMBER = 30,
};

/* netmon_http.flags */
#define NETMON_HTTP_REQUEST_OPEN 1  /* how long the request is was not known from its head */
#define NETMON_HTTP_RESPONSE_OPEN 2 /* likewise the response: it is chunked, or ends with the connection */
#define NETMON_HTTP_CHUNKED 4	    /* the response is chunked */
#define NETMON_HTTP_COMPLETE 8	    /* the response was seen to its end */
#define NETMON_HTTP_CLIENT_RESET 16
#define NETMON_HTTP_SERVER_RESET 32
#define NETMON_HTTP_CLOSED 64	    /* the server ended the connection */
#define NETMON_HTTP_QUIET 128	    /* told because nothing was seen for long */
#define NETMON_HTTP_HANDED_OVER 256 /* behind this the connection speaks another protocol: 101, or 2xx to CONNECT */
#define NETMON_HTTP_WHOLE 512 /* no end of an exchange: what the octets that are handed over from here on come behind */

/*
 * What the kernel knows of a request of HTTP/1 and its final response: 64 bytes, in a record of kind HTTP before the head of
 * the request. The head of that record is of the packet that the request begins in; its time is when the record was made.
 * Times are as there, 0 where nothing was seen. Octets are of head and body, as they were sent.
 */
struct netmon_http {
	__u64 request_first_ns;
	__u64 request_last_ns;
	__u64 response_first_ns;
	__u64 response_last_ns;
	__u64 request_octets;
	__u64 response_octets;
	__u16 request_head;  /* octets with the empty line; 0: the end was not captured */
	__u16 response_head; /* likewise */
	__u16 status;	     /* 0 without a response */
	__u16 interim;	     /* of the last interim response */
	__u16 interims;
	__u16 flags;	/* NETMON_HTTP_* */
	__u32 reserved; /* 0 */
};

/* The key of dns_cache, 56 bytes: a query over UDP that waits for its answer. */
struct netmon_query_key {
	__u32 client[4];
	__u32 server[4];
	__u64 question_hash; /* of the first question, in lower case */
	__u32 ifindex;
	__u16 client_port;
	__u16 server_port;
	__u16 id;
	__u8 direction; /* of the query */
	__u8 namespace;
	__u32 reserved; /* 0 */
};

#define NETMON_QUESTION_BYTES_MAX 259 /* a name of 255 bytes, type, class */
struct netmon_query {
	__u64 first_ns; /* the first copy; CLOCK_MONOTONIC, in a replay the capture's time */
	__u64 last_ns;	/* the last copy */
	__u64 cgroup;	/* as in netmon_message */
	__u32 ingress_ifindex;
	__u32 retries;	    /* copies after the first */
	__u16 header_flags; /* the second 16 bits of the DNS header */
	__u16 question_length;
	__u32 reserved;	    /* 0 */
	__u8 question[264]; /* name, type, class as on the wire; behind question_length is nothing */
};

/* Who opened: told by the socket hooks, never by a port. */
enum netmon_role {
	NETMON_ROLE_UNKNOWN = 0,  /* it was there before the programs were */
	NETMON_ROLE_CLIENT = 1,	  /* TCP: called connect(); UDP: its first datagram was sent */
	NETMON_ROLE_SERVER = 2,	  /* TCP: was accepted; UDP: its first datagram was received */
	NETMON_ROLE_LISTENER = 3, /* a socket in LISTEN: no connection, but a state that is counted */
	NETMON_ROLE_NUMBER = 4,
};

/* How sure tgid, pid, comm and cgroup are. */
enum netmon_who {
	NETMON_WHO_NOBODY = 0,	 /* not known: all are 0 */
	NETMON_WHO_LISTENER = 1, /* of an accepted connection: the process that called listen() */
	NETMON_WHO_CLOSER = 2,	 /* of an accepted connection: the process that closed it */
	NETMON_WHO_OPENER = 3,	 /* the process that called connect(), accept(), listen(), or made the UDP socket */
};

/* How a TCP connection ended. From REFUSED on it was never established. */
enum netmon_ending {
	NETMON_ENDING_NONE = 0,		     /* it lives */
	NETMON_ENDING_FIN_LOCAL = 1,	     /* orderly, the local side closed first (or both at once) */
	NETMON_ENDING_FIN_REMOTE = 2,	     /* orderly, the remote side closed first */
	NETMON_ENDING_RESET_LOCAL = 3,	     /* this side sent RST */
	NETMON_ENDING_RESET_REMOTE = 4,	     /* the other side sent RST */
	NETMON_ENDING_TIMED_OUT = 5,	     /* established, and then no answer any more */
	NETMON_ENDING_UNKNOWN = 6,	     /* established, and closed by the kernel for a reason that no hook shows */
	NETMON_ENDING_REFUSED = 7,	     /* RST, or ICMP port unreachable, answered the SYN */
	NETMON_ENDING_CONNECT_TIMED_OUT = 8, /* nothing answered the SYN */
	NETMON_ENDING_HOST_UNREACHABLE = 9,  /* by ICMP, see icmp_type and icmp_code */
	NETMON_ENDING_NET_UNREACHABLE = 10,  /* likewise */
	NETMON_ENDING_NOT_SENT = 11,  /* connect() failed before there was a SYN: no route, no free port, a policy */
	NETMON_ENDING_ABANDONED = 12, /* the process closed the socket before the SYN was answered */
	NETMON_ENDING_CONNECT_UNKNOWN = 13, /* the kernel gave the attempt up for a reason that no hook shows */
	NETMON_ENDING_NUMBER = 14,
};

/* Why a segment was sent again; the index of netmon_connection.retransmits. */
enum netmon_retransmit {
	NETMON_RETRANSMIT_FAST = 0,	 /* acknowledgements told that it was lost */
	NETMON_RETRANSMIT_TIMEOUT = 1,	 /* the retransmission timer, and all that is sent again because of it */
	NETMON_RETRANSMIT_TAIL_LOSS = 2, /* a tail loss probe (RFC 8985) */
	NETMON_RETRANSMIT_SYN = 3,
	NETMON_RETRANSMIT_SYN_ACK = 4, /* of connections that were established in the end */
	NETMON_RETRANSMIT_OTHER = 5,
	NETMON_RETRANSMIT_NUMBER = 6,
};

/* netmon_connection.flags and netmon_udp.flags */
#define NETMON_CONNECTION_ENDED 1	 /* the ring had no place: the reader takes the row and deletes it */
#define NETMON_CONNECTION_ADOPTED 2	 /* it was there before the programs were: begin and role are not known */
#define NETMON_CONNECTION_SENT 4	 /* the SYN was sent */
#define NETMON_CONNECTION_FIN_RECEIVED 8 /* the other side has closed */
#define NETMON_CONNECTION_FIN_ACKED 16	 /* this side has closed, and the other side knows */
#define NETMON_CONNECTION_EXPIRED 32	 /* the retransmission timer gave up */
#define NETMON_CONNECTION_RECOVERS 64	 /* recovery_point is set: a timeout is being recovered from */

/* RTT buckets: 0 is below 2^-15 s (30.5 us), i is from 2^(i-16) s to below 2^(i-15) s, the last from 2^-1 s on. */
#define NETMON_RTT_BUCKETS 16

/*
 * A TCP socket: the row of connection_stats, by its cookie, and the record of the ring buffer connections when it has
 * ended. All counts are cumulative over its life. Times are CLOCK_MONOTONIC. A row whose state is 0 is being made.
 */
struct netmon_connection {
	__u64 cookie;	/* of the socket (SO_COOKIE, idiag_cookie) */
	__u64 netns;	/* cookie of its network namespace (SO_NETNS_COOKIE), 0 where the kernel does not tell it */
	__u64 cgroup;	/* cgroup v2 id of the process, see who */
	__u64 begin_ns; /* connect(), the SYN that came, listen(); of an adopted one when it was adopted */
	__u64 established_ns; /* 0: never, or not seen */
	__u64 end_ns;	      /* 0: it lives */
	__u64 handshake_ns;   /* client: connect() to SYN-ACK; server: SYN to the ACK of its SYN-ACK; 0: not known */
	__u64 bytes_received; /* payload that came in order, each octet once */
	__u64 bytes_sent;     /* payload that was acknowledged, each octet once */
	__u64 rtt_sum_us;     /* of the smoothed RTT, taken once a round trip while data flows */
	__u32 local[4];
	__u32 remote[4];
	__u32 tgid;		 /* process, see who */
	__u32 closer_tgid;	 /* the process that closed the last descriptor, 0: not closed yet */
	__u32 segments_received; /* all segments; these four wrap */
	__u32 segments_sent;	 /* retransmits included */
	__u32 data_received;	 /* segments with payload */
	__u32 data_sent;	 /* likewise, retransmits included */
	__u32 rtt_count;	 /* samples in rtt_sum_us and rtt_buckets */
	__u32 rtt_us;		 /* the last sample */
	__u32 rtt_min_us;	 /* 0 without a sample */
	__u32 rtt_max_us;
	__u32 retransmits[6]; /* segments, by enum netmon_retransmit; the sum is the kernel's own count */
	__u32 timeouts;	      /* times the retransmission timer ran out */
	__u32 zero_windows_received; /* segments without SYN, FIN, RST that advertised no window: the other side reads too slowly */
	__u32 zero_windows_sent; /* likewise: this side reads too slowly */
	__u32 out_of_order;	 /* segments with payload that came before one that precedes them */
	__u32 rtt_buckets[16];
	__u32 recovery_point; /* for the programs: sequence number up to which a timeout is recovered from */
	__u32 next_sequence;  /* for the programs: what is expected next of the other side */
	__u32 early_first[4]; /* for the programs: blocks of what came early, begin and end; the same: none */
	__u32 early_end[4];
	__u32 fin_sequence;   /* for the programs: what the FIN of the other side, if one was noticed, ends at */
	__u32 refreshed;      /* for the programs: jiffies when the counts were taken from the socket */
	__u32 probe_segments; /* for the programs: segments received when a probe was sent */
	__u16 local_port;
	__u16 remote_port;
	__u16 flags;	     /* NETMON_CONNECTION_* */
	__u8 role;	     /* enum netmon_role */
	__u8 state;	     /* BPF_TCP_* = TCP_* of the kernel: ESTABLISHED 1 ... CLOSE 7 ... */
	__u8 previous_state; /* the state before this one; of an ended one: the state that was left for CLOSE */
	__u8 ending;	     /* enum netmon_ending */
	__u8 who;	     /* enum netmon_who */
	__u8 icmp_type;	     /* of the ICMP or ICMPv6 error that ended the attempt, 0: none */
	__u8 icmp_code;
	__u8 family;	     /* of the socket: AF_INET 2, AF_INET6 10 (that may speak IPv4: see the addresses) */
	__u8 released;	     /* 1: the last descriptor of the socket was closed */
	__u8 reset_received; /* 1: a segment with RST came */
	__u8 reset_sent;     /* 1: a segment with RST was sent */
	__u8 noticed;	     /* for the programs: 1 a segment with FIN came, 2 no message is looked for any more */
	__u8 sequence_state; /* for the programs: 1 next_sequence is set, 2 there are early blocks */
	__u8 probes;	     /* for the programs: keep-alive probes since then */
	__u8 comm[16];
};

/*
 * A UDP socket: the row of udp_stats, by its cookie, and the record of the ring buffer udp_records when it was closed.
 * A socket has one peer most of the time: remote is the first. With whom else it talks is in flow_table; how much, here.
 */
struct netmon_udp {
	__u64 cookie;
	__u64 netns;
	__u64 cgroup;
	__u64 begin_ns;	      /* when the socket was made; of an adopted one its first datagram since */
	__u64 end_ns;	      /* 0: it lives */
	__u64 bytes_received; /* payload, from and to remote */
	__u64 bytes_sent;
	__u64 packets_received; /* datagrams; of a super-packet each of them */
	__u64 packets_sent;
	__u64 other_bytes_received; /* from and to everybody else */
	__u64 other_bytes_sent;
	__u64 other_packets_received;
	__u64 other_packets_sent;
	__u32 local[4];
	__u32 remote[4];
	__u32 tgid;
	__u32 closer_tgid;
	__u16 local_port;
	__u16 remote_port;
	__u16 flags; /* NETMON_CONNECTION_* */
	__u8 role;   /* enum netmon_role: by the first datagram */
	__u8 who;    /* enum netmon_who */
	__u8 comm[16];
};

/*
 * An entry of connection_totals (a per-CPU array): what had no place in a table.
 * Index role * NETMON_ENDING_NUMBER + ending, of TCP: with ENDING_NONE connections that were established, with any other ending
 * those that ended so. Behind them, NETMON_TOTALS_UDP: datagrams of sockets without a row.
 */
#define NETMON_TOTALS_UDP 56
#define NETMON_TOTALS_NUMBER 57
struct netmon_connection_totals {
	__u64 connections;    /* UDP: 0 */
	__u64 bytes_received; /* as in netmon_connection and netmon_udp; with ENDING_NONE 0 */
	__u64 bytes_sent;
	__u64 packets_received; /* TCP: segments with payload */
	__u64 packets_sent;
	__u64 retransmits;
};

/* What became of connections; the index of connection_counts (a per-CPU array of __u64). */
enum netmon_connections {
	NETMON_CONNECTIONS_OPENED = 0,	     /* rows made in connection_stats */
	NETMON_CONNECTIONS_NO_PLACE = 1,     /* connections without a row: connection_totals has what they were */
	NETMON_CONNECTIONS_RECORDS = 2,	     /* rows that ended and went into the ring */
	NETMON_CONNECTIONS_RING_FULL = 3,    /* rows that ended and stayed, marked, since the ring was full */
	NETMON_CONNECTIONS_UNUSED = 4,	     /* rows of sockets that were bound and closed, no more: no record */
	NETMON_CONNECTIONS_UDP_OPENED = 5,   /* rows made in udp_stats */
	NETMON_CONNECTIONS_UDP_NO_PLACE = 6, /* datagrams of sockets without a row */
	NETMON_CONNECTIONS_UDP_RECORDS = 7,
	NETMON_CONNECTIONS_UDP_RING_FULL = 8,
	NETMON_CONNECTIONS_UDP_UNUSED = 9, /* rows of sockets that were closed without a datagram: no record */
	NETMON_CONNECTIONS_UNTOLD =
		10, /* of those without a row, such as were too many even for their role and end to be told */
	NETMON_CONNECTIONS_NUMBER = 11,
};

/*
 * The one entry of drop_counts: packets that the kernel dropped, by its own number for the reason (enum skb_drop_reason). The
 * core's numbers come first, then those of the subsystems (mac80211, openvswitch, ...), whose number is in the upper 16 bits;
 * the last is for what is none of these.
 */
#define NETMON_DROPS_CORE 512
#define NETMON_DROPS_SUBSYSTEMS 3
#define NETMON_DROPS_SUBSYSTEM 128
#define NETMON_DROPS_SLOTS 1024
struct netmon_drops {
	__u64 packets[1024]; /* NETMON_DROPS_SLOTS */
};

/*
 * What is known of a TLS session in a process, in a record of kind SESSION. The record's addresses and ports are those of its TCP
 * connection, its cgroup that of the process. Records of what was written and read have its address in the place of both addresses,
 * NETMON_SESSION_LOCAL as the port of its own end and NETMON_SESSION_REMOTE as that of the other.
 */
#define NETMON_SESSION_LOCAL 1
#define NETMON_SESSION_REMOTE 2
struct netmon_session {
	__u32 address[4]; /* of the SSL object, the process, and what tells sessions at one place apart */
	__u64 cookie;	  /* of the socket, 0: it is not known, and neither are addresses and ports */
	__u32 ended;	  /* 1: nothing more comes */
	__u32 reserved;
};

/* What became of TLS sessions; the index of session_counts (a per-CPU array of __u64). */
enum netmon_sessions {
	NETMON_SESSIONS_SEEN = 0,	/* sessions that were seen */
	NETMON_SESSIONS_PLACED = 1,	/* ... whose connection is known */
	NETMON_SESSIONS_ENDED = 2,	/* ... that ended; those that are left when there are too many are forgotten */
	NETMON_SESSIONS_CALLS = 3,	/* calls that wrote or read octets */
	NETMON_SESSIONS_BUSY = 4,	/* ... left out: another one was looked at on this CPU */
	NETMON_SESSIONS_UNREADABLE = 5, /* reads of the process's memory that failed */
	NETMON_SESSIONS_RECORDS = 6,	/* records of kind SESSION, those lost included */
	NETMON_SESSIONS_LOST_RING = 7,	/* ... for which the ring had no place */
	NETMON_SESSIONS_NUMBER = 8,
};

#endif
