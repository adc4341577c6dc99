"""Any legal name comes back, any damaged message is read or refused with a reason, and dnspython agrees.

The default is 100,000 damaged messages. ``NETMON_FUZZ_MESSAGES=1000000 pytest tests/property/test_dns_decode.py`` reads a
million; ``NETMON_FUZZ_SEED`` repeats a run by the seed that a failure names.
"""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
from collections import Counter
from struct import pack
from typing import get_args

import dns.message
import dns.name
import dns.rdata
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.nsbase
import dns.rdtypes.svcbbase
import dns.rrset
from dns.rdtypes.svcbbase import ParamKey
from hypothesis import given, strategies as st

from otel_netmon.decode.dns import Fault, Message, decode
from otel_netmon.decode.dns_records import V4_MAPPED, RecordData, Service
from support import dns_messages as d
from support.dns_damage import HEADER, damaged, seeds

MESSAGES = int(os.environ.get("NETMON_FUZZ_MESSAGES", "100000"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
ORACLE_EVERY = 20

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=127).filter(
    lambda labels: sum(map(len, labels)) + len(labels) < 255
)
PLAIN_LABELS = st.lists(st.from_regex(rb"[a-zA-Z0-9_-]{1,15}", fullmatch=True), max_size=12)
NAMES = st.one_of(LABELS, PLAIN_LABELS)


def faults() -> set[str]:
    return {each for part in get_args(Fault) for each in (get_args(part) or (part,))}


@given(labels=NAMES, kind=st.integers(0, 65535), cls=st.integers(0, 65535), identifier=st.integers(0, 65535))
def test_any_legal_name_comes_back(labels: list[bytes], kind: int, cls: int, identifier: int) -> None:
    made = decode(d.message(identifier, d.QUERY_FLAGS, [d.labels(*labels) + pack(">HH", kind, cls)]))
    assert isinstance(made, Message)
    assert (made.id, made.fault, made.question_count) == (identifier, None, 1)
    (question,) = made.questions
    assert (question.type, question.cls) == (kind, cls)
    assert question.name.isascii()
    assert question.name.isprintable()
    text = question.name if question.name == "." else question.name + "."
    assert dns.name.from_text(text).labels == (*labels, b"")


@given(names=st.lists(PLAIN_LABELS, min_size=1, max_size=30))
def test_compressed_names_come_back(names: list[list[bytes]]) -> None:
    """The oracle compresses, whatever the case; every owner and every target is what was put in."""
    written = [dns.name.Name((*labels, b"")) for labels in names]
    made = dns.message.make_response(dns.message.make_query(written[0], "ANY"))
    for owner, target in zip(written, reversed(written), strict=True):
        made.answer.append(dns.rrset.from_rdata(owner, 60, dns.rdata.from_text("IN", "CNAME", target.to_text())))
    read = decode(made.to_wire(max_size=65535))
    assert isinstance(read, Message)
    assert read.fault is None
    assert [(each.name.lower(), str(each.data).lower()) for each in read.answers] == [
        (text_of(owner), text_of(target)) for owner, target in zip(written, reversed(written), strict=True)
    ]


def text_of(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


@given(data=st.binary(max_size=120), header=st.booleans())
def test_any_octets_are_a_message_or_a_fault(data: bytes, header: bool) -> None:
    octets = pack(">HHHHHH", 1, 0x8180, 1, 2, 1, 1) + data if header else data
    made = decode(octets)
    if isinstance(made, str):
        assert made in faults()
    for length in (len(octets), len(octets) + 1):
        agrees(octets, decode(octets, length), length)


def agrees(octets: bytes, made: Message | Fault, length: int | None = None) -> None:
    """What is read here dnspython reads alike, and what it reads without complaint is read here.

    Not compared: updates (RFC 2136), for which dnspython has rules of its own, and operation codes that are none.
    """
    if len(octets) < HEADER or octets[2] >> 3 & 15 in {3, 5, *range(7, 16)}:
        return
    other = dns.message.from_wire(
        octets, keyring=False, one_rr_per_rrset=True, ignore_trailing=True, continue_on_error=True
    )
    errors = [error.exception for error in other.errors]
    if isinstance(made, str):
        assert errors or (made == "pointer" and points_into_header(octets)), made
        return
    assert made.id == other.id
    assert made.flags & 15 == other.rcode() & 15
    questions = [(plain(each.name), int(each.rdtype), int(each.rdclass)) for each in other.question]
    read = len(questions) if made.fault is None else len(made.questions)
    assert list(made.questions) == questions[:read]
    if made.fault is not None:
        other_class = b"\x80\x01" in octets  # IN with cache flush (RFC 6762): dnspython does not read such data
        assert errors or other_class or (made.fault == "pointer" and points_into_header(octets)), made.fault
    elif not made.cut and not any(isinstance(error, dns.message.BadTSIG) for error in errors):
        # An error leaves out a record whose data is not read here, or not so strictly.
        compared = ALL_READ if not errors else ALL_READ - {d.SVCB, d.HTTPS}
        assert read_answers(made, compared) == oracle_answers(other, compared)
        if not errors:
            assert made.rcode == other.rcode()
            assert (-1 if made.edns is None else made.edns.version) == other.edns


ALL_READ = {d.A, d.AAAA, d.CNAME, d.PTR, d.SVCB, d.HTTPS}
Answer = tuple[str, int, int, RecordData]


def points_into_header(octets: bytes) -> bool:
    """Whether something may be a pointer into the header: dnspython takes one, though no name can stand there."""
    return any(octets[at] == 0xC0 and octets[at + 1] < HEADER for at in range(HEADER, len(octets) - 1))


def plain(name: dns.name.Name) -> str:
    """The name by our escapes: dnspython puts a backslash before more than it must."""
    return ".".join("".join(map(octet_text, label)) for label in name.labels[:-1]) or "."


def octet_text(octet: int) -> str:
    if octet in b".\\":
        return f"\\{chr(octet)}"
    return chr(octet) if 0x21 <= octet < 0x7F else f"\\{octet:03d}"


def read_answers(made: Message, types: set[int]) -> list[Answer]:
    return [(e.name, e.type, e.ttl, e.data) for e in made.answers if e.cls == d.IN and e.type in types]


def oracle_answers(other: dns.message.Message, types: set[int]) -> list[Answer]:
    found: list[Answer] = []
    for rrset in other.answer:
        if rrset.rdclass == d.IN and rrset.rdtype in types:
            (data,) = rrset
            found.append((plain(rrset.name), int(rrset.rdtype), rrset.ttl, value_of(data)))
    return found


def value_of(data: dns.rdata.Rdata) -> RecordData:
    match data:
        case dns.rdtypes.IN.A.A():
            return V4_MAPPED + ipaddress.ip_address(data.address).packed
        case dns.rdtypes.IN.AAAA.AAAA():
            return ipaddress.ip_address(data.address).packed
        case dns.rdtypes.svcbbase.SVCBBase():
            return Service(data.priority, plain(data.target), hints(data))
        case dns.rdtypes.nsbase.NSBase():
            return plain(data.target)
    raise AssertionError(data)


def hints(data: dns.rdtypes.svcbbase.SVCBBase) -> tuple[bytes, ...]:
    listed = [data.params.get(key) for key in (ParamKey.IPV4HINT, ParamKey.IPV6HINT)]
    addresses = [ipaddress.ip_address(each) for parameter in listed if parameter for each in parameter.addresses]
    return tuple(each.packed if each.version == 6 else V4_MAPPED + each.packed for each in addresses)


def test_damaged_messages() -> None:
    generator = random.Random(SEED)  # noqa: S311 - repeatable damage, no secret
    messages = damaged(generator)
    outcomes: Counter[str] = Counter()
    for number in range(MESSAGES):
        octets = next(messages)
        try:
            made = decode(octets)
            outcomes[made if isinstance(made, str) else made.fault or "read"] += 1
            if number % ORACLE_EVERY == 0:
                agrees(octets, made)
        except Exception as error:
            raise AssertionError(f"NETMON_FUZZ_SEED={SEED}: {octets!r}") from error
    assert outcomes.total() == MESSAGES
    assert set(outcomes) == {"read", *faults()}, "the damage does not reach every fault"


def test_the_seeds_are_read() -> None:
    for octets in seeds():
        made = decode(octets)
        assert isinstance(made, Message)
        assert made.fault is None
        agrees(octets, made)
