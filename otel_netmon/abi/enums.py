"""Numbers shared with the kernel programs, as plain Python: the supervisor imports this, so no numpy here.

Source: bpf/include/netmon_abi.h and bpf/include/late.h; tests/kernel/test_abi.py compares them.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

ABI_VERSION = 3

HOOK_SLOTS = 1024
HOOK_NAMESPACE_STRIDE = 331

FLOW_KEY_SIZE = 44
SWEEP_KEYS_MAX = 64
QUIET_KEYS_MAX = 8
SWEEP_HEADER_SIZE = 16
FILTER_SIZE = 8 + 262144

NAMESPACE_SOCKET = 255
"""The namespace of messages that were seen at a socket."""

FLOW_FORWARDED = 1

SEQUENCE_INITIAL = 2
SEQUENCE_CLIENT = 4
SEQUENCE_SERVER = 8
SEQUENCE_DECIDED = 16
SEQUENCE_HTTP_CLIENT = 64
SEQUENCE_HTTP_SERVER = 128

PROGRAM_DNS = 0
PROGRAM_TUNNEL = 1
PROGRAM_ERRORS = 7
PROGRAM_STREAM = 2
PROGRAM_HTTP = 3
PROGRAM_HTTP2 = 4
PORT_FILTER_BITS = 512
PORTS_SIZE = PORT_FILTER_BITS // 8 + 65536
MESSAGE_BYTES_MAX = 4096
QUESTION_BYTES_MAX = 259

RTT_BUCKETS = 16
RTT_LOWEST_EXPONENT = -15  # bucket 0 ends at two to this in seconds
TOTALS_UDP = 56
TOTALS_NUMBER = 57


class Direction(IntEnum):
    """Which way a frame crossed the interface, seen from the host (semconv network.io.direction)."""

    RECEIVE = 0
    TRANSMIT = 1


class Kind(IntEnum):
    """What a frame was counted as."""

    FLOW = 0
    OVERFLOW = 1
    OTHER = 2
    UNPARSED = 3
    OVERFLOW_FORWARDED = 4


class Reason(IntEnum):
    """Why a frame could not be read."""

    NONE = 0
    SHORT_ETHERNET = 1
    SHORT_VLAN = 2
    SHORT_MPLS = 3
    SHORT_PPPOE = 4
    SHORT_LLC = 5
    DEEP_LINK_LAYER = 6
    SHORT_IPV4 = 7
    IPV4_VERSION = 8
    IPV4_HEADER_LENGTH = 9
    SHORT_IPV6 = 10
    IPV6_VERSION = 11


class PortProtocol(IntFlag):
    """What may be on a port of message_ports."""

    DNS = 1
    MDNS = 2
    LLMNR = 4
    NO_PORT = 128


class MessageKind(IntEnum):
    """What a record of the ring buffer messages is."""

    DNS_ANSWER = 1
    DNS_RESPONSE = 2
    DNS_SEGMENT = 3
    MDNS = 4
    LLMNR = 5
    STREAM = 6
    QUIC = 7
    DTLS = 8
    HTTP = 9
    SESSION = 10


class SessionCount(IntEnum):
    """What became of TLS sessions whose plaintext is seen; the index of session_counts."""

    SEEN = 0
    PLACED = 1
    ENDED = 2
    CALLS = 3
    BUSY = 4
    UNREADABLE = 5
    RECORDS = 6
    LOST_RING = 7
    NUMBER = 8


SESSION_LOCAL = 1
SESSION_REMOTE = 2
"""Ports of the two ends of a session in records of what was written and read."""


class HttpFlags(IntFlag):
    """What is known of the end of an exchange of HTTP/1, of a record of kind HTTP."""

    REQUEST_OPEN = 1
    RESPONSE_OPEN = 2
    CHUNKED = 4
    COMPLETE = 8
    CLIENT_RESET = 16
    SERVER_RESET = 32
    CLOSED = 64
    QUIET = 128
    HANDED_OVER = 256
    WHOLE = 512


class MessageCount(IntEnum):
    """Index of message_counts: what was seen on message ports and what became of it."""

    DNS_QUERIES = 0
    DNS_RETRIES = 1
    DNS_ANSWERS = 2
    DNS_RESPONSES = 3
    DNS_SEGMENTS = 4
    MDNS = 5
    LLMNR = 6
    LOST_RING = 7
    LOST_CACHE = 8
    LOST_COALESCED = 9
    NOT_DNS_SHORT = 10
    NOT_DNS_HEADER = 11
    NOT_DNS_QUESTION = 12
    STREAM_SEGMENTS = 13
    QUIC = 14
    DTLS = 15
    STREAM_LOST_RING = 16
    STREAM_LOST_ORDER = 17
    STREAM_LOST_LIMIT = 18
    STREAM_LOST_COALESCED = 19
    STREAM_NOTHING = 20
    HTTP_REQUESTS = 21
    HTTP_LOST_RING = 22
    HTTP_LOST_TABLE = 23
    HTTP_WHOLE = 24
    HTTP_LOST_LIMIT = 25
    STREAM_LOST_TABLE = 26
    STREAM_LOST_EARLY = 27
    LOST_NESTED = 28
    STREAM_LOST_NESTED = 29
    NUMBER = 30


class Role(IntEnum):
    """Who opened a connection or conversation, told by the socket hooks, never by a port."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2
    LISTENER = 3
    NUMBER = 4


class Who(IntEnum):
    """How sure the process of a connection is."""

    NOBODY = 0
    LISTENER = 1
    CLOSER = 2
    OPENER = 3


class Ending(IntEnum):
    """How a TCP connection ended; from REFUSED on it was never established."""

    NONE = 0
    FIN_LOCAL = 1
    FIN_REMOTE = 2
    RESET_LOCAL = 3
    RESET_REMOTE = 4
    TIMED_OUT = 5
    UNKNOWN = 6
    REFUSED = 7
    CONNECT_TIMED_OUT = 8
    HOST_UNREACHABLE = 9
    NET_UNREACHABLE = 10
    NOT_SENT = 11
    ABANDONED = 12
    CONNECT_UNKNOWN = 13
    NUMBER = 14


class Retransmit(IntEnum):
    """Why a segment was sent again: the index of a connection's retransmits."""

    FAST = 0
    TIMEOUT = 1
    TAIL_LOSS = 2
    SYN = 3
    SYN_ACK = 4
    OTHER = 5
    NUMBER = 6


class ConnectionFlags(IntFlag):
    """What the programs noted about a connection; ENDED and ADOPTED are for the reader."""

    ENDED = 1
    ADOPTED = 2
    SENT = 4
    FIN_RECEIVED = 8
    FIN_ACKED = 16
    EXPIRED = 32
    RECOVERS = 64


class ConnectionCount(IntEnum):
    """Index of connection_counts: what became of connections and UDP sockets."""

    OPENED = 0
    NO_PLACE = 1
    RECORDS = 2
    RING_FULL = 3
    UNUSED = 4
    UDP_OPENED = 5
    UDP_NO_PLACE = 6
    UDP_RECORDS = 7
    UDP_RING_FULL = 8
    UDP_UNUSED = 9
    UNTOLD = 10
    NUMBER = 11


class TcpState(IntEnum):
    """States of a TCP socket as the kernel numbers them (BPF_TCP_* in include/uapi/linux/bpf.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


class TcpFlags(IntFlag):
    """TCP header flags, RFC 9293 section 3.1."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


DROPS_CORE = 512
DROPS_SUBSYSTEMS = 3
DROPS_SUBSYSTEM = 128
DROPS_SLOTS = 1024
"""Layout of struct netmon_drops."""


class Late(IntEnum):
    """Late constants: 64-bit immediates that the loader replaces; the value is the low byte of the mark."""

    NAMESPACE = 1
    L2_LENGTH = 2
    DECAPSULATE = 3
    REPLAY = 4
    FAST_PATH = 5
    WAKEUP = 6
    NETNS = 7
    STREAMS = 8
    HANDSHAKE_BYTES = 9
    HTTP = 10
    MESSAGES = 16


LATE_MARK = 0x4E45544D4F4E0000
LATE_DEFAULTS: dict[Late, int] = {
    Late.NAMESPACE: 0,
    Late.L2_LENGTH: 14,
    Late.DECAPSULATE: 0,
    Late.REPLAY: 0,
    Late.FAST_PATH: 1,
    Late.WAKEUP: 1 << 14,
    Late.NETNS: 1,
    Late.STREAMS: 0,
    Late.HANDSHAKE_BYTES: 1 << 14,
    Late.HTTP: 0,
    Late.MESSAGES: 0,
}

PROTOCOL_TCP = 6

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD

ETHERTYPE_NAMES: dict[int, str] = {
    0x0000: "other",
    0x0001: "llc",
    0x0800: "ipv4",
    0x0806: "arp",
    0x8035: "rarp",
    0x8100: "vlan",
    0x8137: "ipx",
    0x86DD: "ipv6",
    0x8809: "slow_protocols",
    0x8847: "mpls",
    0x8848: "mpls_multicast",
    0x8863: "pppoe_discovery",
    0x8864: "pppoe_session",
    0x888E: "eapol",
    0x88A2: "aoe",
    0x88A8: "svlan",
    0x88CC: "lldp",
    0x88E5: "macsec",
    0x88F7: "ptp",
    0x8906: "fcoe",
    0x8915: "roce",
    0x9000: "ethernet_loopback",
}
"""network.type of a frame by its EtherType (IEEE 802 numbers); 0 is any other, 1 an IEEE 802.3 length."""

PROTOCOL_NAMES: dict[int, str] = {
    0: "hopopt",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    8: "egp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    43: "ipv6-route",
    44: "ipv6-frag",
    46: "rsvp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    59: "ipv6-nonxt",
    60: "ipv6-opts",
    88: "eigrp",
    89: "ospf",
    94: "ipip-old",
    97: "etherip",
    103: "pim",
    108: "ipcomp",
    112: "vrrp",
    115: "l2tp",
    132: "sctp",
    135: "mobility",
    136: "udplite",
    137: "mpls-in-ip",
    139: "hip",
    140: "shim6",
}
"""network.transport by IANA protocol number; a number without a name is its decimal text."""


def protocol_name(number: int) -> str:
    """Gives the name of an IANA protocol number, or the number as text."""
    return PROTOCOL_NAMES.get(number, str(number))


def hook_slot(ifindex: int, namespace: int, direction: int) -> int:
    """Index of an interface and direction in the map hook_totals."""
    return ((ifindex + namespace * HOOK_NAMESPACE_STRIDE) % HOOK_SLOTS) * 2 + direction
