"""Messages to records, and what is none."""

from __future__ import annotations

import ipaddress
from struct import pack
from time import process_time

import dns.rcode
import dns.rdatatype
import pytest

from otel_netmon.decode.dns import Fault, Message, Question, decode, read_question
from otel_netmon.decode.dns_names import POINTERS_MAX
from otel_netmon.decode.dns_numbers import class_name, rcode_name, type_name
from otel_netmon.decode.dns_records import Edns, Record, Service
from support import dns_messages as d
from support.rows import address

HEADER = 12


def read(data: bytes, length: int | None = None) -> Message:
    made = decode(data, length)
    assert isinstance(made, Message), made
    return made


def asked(encoded: bytes) -> str:
    """The name of a question with this encoding."""
    made = read(d.message(1, d.QUERY_FLAGS, [encoded + pack(">HH", d.A, d.IN)]))
    assert made.fault is None
    return made.questions[0].name


def test_a_query() -> None:
    made = read(d.message(4660, d.QUERY_FLAGS, [d.question("WwW.Example.com", d.AAAA)], additional=[d.opt(1232)]))
    assert made == Message(
        id=4660,
        flags=0x0100,
        rcode=0,
        question_count=1,
        answer_count=0,
        questions=(Question("WwW.Example.com", d.AAAA, d.IN),),
        answers=(),
        edns=Edns(1232, 0, dnssec_ok=False),
        cut=False,
        fault=None,
    )
    assert not made.is_response
    assert not made.is_truncated
    assert made.opcode == 0
    assert (made.questions[0].type_name, made.questions[0].class_name) == ("AAAA", "IN")


def test_a_response_with_a_chain() -> None:
    alias = d.record(d.pointer(HEADER), d.CNAME, d.labels(b"cdn") + b"", ttl=7)
    data = d.response(
        7,
        "www.example.com",
        alias,
        d.address("192.0.2.1", d.name("cdn"), 11),
        d.address("2001:db8::1", d.name("cdn"), 13),
    )
    made = read(data)
    assert made.is_response
    assert made.answer_count == 3
    assert made.answers == (
        Record("www.example.com", d.CNAME, d.IN, 7, "cdn"),
        Record("cdn", d.A, d.IN, 11, address("192.0.2.1")),
        Record("cdn", d.AAAA, d.IN, 13, address("2001:db8::1")),
    )


def test_names_point_into_each_other() -> None:
    """a.b.example.com points to b.example.com at 34, which points to example.com behind www."""
    answers = (
        d.record(d.pointer(HEADER), d.CNAME, b"\1b" + d.pointer(HEADER + 4)),
        d.record(b"\1a" + d.pointer(HEADER + 21 + 12), d.PTR, d.pointer(HEADER + 4)),
    )
    made = read(d.response(7, "www.example.com", *answers))
    assert made.fault is None
    assert [(each.name, each.data) for each in made.answers] == [
        ("www.example.com", "b.example.com"),
        ("a.b.example.com", "example.com"),
    ]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((), "."),
        ((b"com",), "com"),
        ((b"a.b", b"c"), "a\\.b.c"),
        ((b".",), "\\."),
        ((b"a\\b", b"c"), "a\\\\b.c"),
        ((b"a b", b"c"), "a\\032b.c"),
        ((b"\0", b"\xff"), "\\000.\\255"),
        ((b"_dmarc", b"*", b'$@;"()'), '_dmarc.*.$@;"()'),
        ((b"xn--bcher-kva", b"example"), "xn--bcher-kva.example"),
        (("bücher".encode(), b"local"), "b\\195\\188cher.local"),
        ((b"x" * 63,) * 3 + (b"y" * 61,), ".".join(["x" * 63] * 3 + ["y" * 61])),
    ],
)
def test_names_as_text(labels: tuple[bytes, ...], text: str) -> None:
    assert asked(d.labels(*labels)) == text


def test_the_longest_name_has_255_octets() -> None:
    longest = d.labels(*(b"x" * 63,) * 3, b"y" * 61)
    assert len(longest) == 255
    assert asked(longest)
    assert decode(d.message(1, 0, [d.labels(*(b"x" * 63,) * 3, b"y" * 62) + bytes(4)])) == "long_name"
    by_pointer = d.response(
        1, ".".join(["x" * 63] * 3), d.address("192.0.2.1", d.labels(b"y" * 61)[:-1] + d.pointer(HEADER))
    )
    assert [len(each.name) for each in read(by_pointer).answers] == [253]
    too_long = d.response(
        1, ".".join(["x" * 63] * 3), d.address("192.0.2.1", d.labels(b"y" * 62)[:-1] + d.pointer(HEADER))
    )
    assert read(too_long).fault == "long_name"


def test_many_labels_and_many_pointers() -> None:
    assert asked(d.labels(*[b"x"] * 127)) == ".".join("x" * 127)
    assert decode(d.message(1, 0, [d.labels(*[b"x"] * 128) + bytes(4)])) == "long_name"
    # Every owner points to the one before.
    answers = [d.address("192.0.2.1", b"\1a" + d.pointer(HEADER))]
    offset = HEADER + len(d.question("e"))
    while len(answers) <= POINTERS_MAX:
        answers.append(d.address("192.0.2.1", b"\1a" + d.pointer(offset)))
        offset += len(answers[-1])
    made = read(d.response(1, "e", *answers))
    assert [len(each.name) for each in made.answers] == list(range(3, 3 + 2 * POINTERS_MAX, 2))
    assert made.fault == "pointer"


@pytest.mark.parametrize(
    ("encoded", "fault"),
    [
        (d.pointer(HEADER), "pointer"),  # to itself
        (b"\1a" + d.pointer(HEADER), "pointer"),  # to what it is a part of
        (d.pointer(HEADER + 2), "pointer"),  # forward
        (d.pointer(0x3FFF), "pointer"),
        (d.pointer(0), "pointer"),  # into the header
        (b"\x40a\0", "label_type"),
        (b"\x80a\0", "label_type"),
    ],
)
def test_questions_that_are_none(encoded: bytes, fault: Fault) -> None:
    assert decode(d.message(1, 0, [encoded + pack(">HH", d.A, d.IN)])) == fault


@pytest.mark.parametrize(
    "owner",
    [
        d.pointer(HEADER + 7),  # itself
        b"\1a" + d.pointer(HEADER + 7),
        d.pointer(HEADER + 9),
        b"\1a" + d.pointer(HEADER + 6),  # the last octets of the question: none is a name that ends before this one
        d.pointer(11),
    ],
)
def test_owners_that_are_none(owner: bytes) -> None:
    made = read(d.response(1, "e", d.address("192.0.2.1", owner)))
    assert (made.fault, made.answers, made.answer_count) == ("pointer", (), 1)


def test_two_pointers_at_each_other() -> None:
    first = HEADER + len(d.question("e"))
    second = first + len(d.address("192.0.2.1", d.pointer(0)))
    data = d.response(1, "e", d.address("192.0.2.1", d.pointer(second)), d.address("192.0.2.1", d.pointer(first)))
    assert read(data).fault == "pointer"


def test_a_pointer_to_what_it_lies_in_itself() -> None:
    """The label xy.. is read by one name; inside it stands a pointer back to it, to which the other name leads."""
    start = HEADER + len(d.question("e")) + 12
    around = d.record(d.pointer(HEADER), d.TXT, d.labels(b"xy" + d.pointer(start)))
    outer = d.address("192.0.2.1", d.pointer(start))
    inner = d.address("192.0.2.1", d.pointer(start + 3))
    made = read(d.response(1, "e", around, outer, inner))
    assert [each.name for each in made.answers] == ["e", f"xy\\192\\{start:03d}"]
    assert made.fault == "pointer"
    assert read(d.response(1, "e", around, inner)).fault == "pointer"


def test_short_messages() -> None:
    whole = d.response(1, "e", d.address("192.0.2.1"))
    for size in range(len(whole)):
        made = decode(whole[:size])
        cut = decode(whole[:size], len(whole))
        if size < HEADER:
            assert made == cut == "short_header"
        elif size < HEADER + len(d.question("e")):
            assert made == cut == "short_question"
        else:
            assert read(whole[:size]).fault == "short_record"
            assert read(whole[:size], len(whole))[-2:] == (True, None)
    assert read(whole, len(whole)).cut is False
    assert decode(b"") == "short_header"


def test_what_is_whole_is_told_of_a_cut_message() -> None:
    whole = d.message(
        1,
        d.RESPONSE_FLAGS,
        [d.question("e")],
        [d.address("192.0.2.1"), d.address("192.0.2.2")],
        [],
        [d.opt(extended_rcode=1)],
    )
    without_opt = read(whole[:-1], len(whole))
    assert (without_opt.cut, without_opt.rcode, without_opt.edns, len(without_opt.answers)) == (True, 0, None, 2)
    with_one = read(whole[:-12], len(whole))
    assert [each.data for each in with_one.answers] == [address("192.0.2.1")]
    assert with_one.answer_count == 2
    only_header = read(d.message(1, d.RESPONSE_FLAGS, [d.question("e")], [b"", b""]), 1000)
    assert (only_header.cut, only_header.answers, only_header.answer_count) == (True, (), 2)


def test_trailing_octets_are_not_looked_at() -> None:
    assert read(d.query(1, "e") + b"\xff\xff").fault is None


def test_several_questions_and_none() -> None:
    made = read(
        d.message(1, d.QUERY_FLAGS, [d.question("a.e"), b"\1b" + d.pointer(HEADER + 2) + pack(">HH", d.TXT, d.ANY)])
    )
    assert made.questions == (Question("a.e", d.A, d.IN), Question("b.e", d.TXT, d.ANY))
    assert made.question_count == 2
    none = read(d.message(1, d.RESPONSE_FLAGS | 1))
    assert (none.questions, none.question_count, none.rcode_name) == ((), 0, "FORMERR")


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        (b"", "short_question"),
        (b"\1", "short_question"),
        (d.pointer(200) + bytes(4), "pointer"),
        (b"\x40", "label_type"),
    ],
)
def test_a_message_has_its_first_question_whatever_comes_later(later: bytes, fault: Fault) -> None:
    """By that the kernel has paired: what is wrong behind it ends the message, not the lookup."""
    whole = d.message(1, d.RESPONSE_FLAGS | 3, [d.question("a.e"), later], [b""])
    made = read(whole)
    assert (made.questions, made.question_count, made.answer_count) == ((Question("a.e", d.A, d.IN),), 2, 1)
    assert (made.rcode_name, made.answers, made.cut, made.fault) == ("NXDOMAIN", (), False, fault)
    if fault == "short_question":
        made = read(whole, len(whole) + 1)
        assert (len(made.questions), made.cut, made.fault) == (1, True, None)


def test_the_response_code_is_extended() -> None:
    made = read(d.message(1, d.RESPONSE_FLAGS, [d.question("e")], additional=[d.opt(4096, 1, 0x8000)]))
    assert (made.rcode, made.rcode_name, made.header_rcode) == (16, "BADVERS", 0)
    assert made.edns == Edns(4096, 0, dnssec_ok=True)
    made = read(d.message(1, d.RESPONSE_FLAGS | 7, [d.question("e")], additional=[d.opt(extended_rcode=255)]))
    assert (made.rcode, made.rcode_name, made.header_rcode) == (4087, "RCODE4087", 7)


def test_opt_records_that_are_none() -> None:
    def fault(**sections: list[bytes]) -> Fault | None:
        return read(d.message(1, d.RESPONSE_FLAGS, [d.question("e")], **sections)).fault

    signature = d.record(d.pointer(HEADER), 250, b"")
    assert fault(additional=[signature, d.opt(), signature]) is None
    assert fault(additional=[d.opt(), d.opt()]) == "opt_record"
    assert fault(additional=[d.record(d.pointer(HEADER), d.OPT, b"")]) == "opt_record"
    assert fault(answers=[d.opt()]) == fault(authority=[d.opt()]) == "opt_record"
    assert fault(authority=[d.opt()], additional=[signature]) == "opt_record"


def test_services() -> None:
    made = read(
        d.response(
            1,
            "e",
            d.service(0, "cdn.example"),
            d.service(1, hints=["192.0.2.1", "2001:db8::1", "192.0.2.2"]),
            d.service(16, "t", kind=d.SVCB),
            kind=d.HTTPS,
        )
    )
    assert made.fault is None
    assert [each.data for each in made.answers] == [
        Service(0, "cdn.example", ()),
        Service(1, ".", (address("192.0.2.1"), address("192.0.2.2"), address("2001:db8::1"))),
        Service(16, "t", ()),
    ]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (d.A, b""),
        (d.A, bytes(5)),
        (d.AAAA, bytes(4)),
        (d.CNAME, b""),
        (d.CNAME, b"\1a"),
        (d.CNAME, b"\1a\0\0"),
        (d.PTR, b"\1a\0\0"),
        (d.HTTPS, b"\0"),
        (d.HTTPS, b"\0\1"),
        (d.HTTPS, b"\0\1\1"),
        (d.HTTPS, b"\0\1\0\0"),
        (d.HTTPS, b"\0\1\0" + pack(">HH", 4, 4) + bytes(3)),
        (d.HTTPS, b"\0\1\0" + pack(">HH", 4, 5) + bytes(5)),
        (d.HTTPS, b"\0\1\0" + pack(">HH", 4, 0)),
        (d.SVCB, b"\0\1\0" + pack(">HH", 6, 4) + bytes(4)),
        (d.HTTPS, b"\0\1\0" + pack(">HHHH", 1, 0, 1, 0)),
        (d.HTTPS, b"\0\1\0" + pack(">HHHH", 3, 0, 1, 0)),
    ],
)
def test_record_data_that_is_none(kind: int, data: bytes) -> None:
    made = read(d.response(1, "e", d.address("192.0.2.1"), d.record(d.pointer(HEADER), kind, data)))
    assert made.fault == "record_data"
    assert len(made.answers) == 1


def test_other_types_and_classes_have_no_data() -> None:
    answers = (
        d.record(d.pointer(HEADER), d.TXT, b"\3abc"),
        d.record(d.pointer(HEADER), d.A, b"", cls=d.ANY),
        d.record(d.pointer(HEADER), 3, b"", cls=3),
        d.record(d.pointer(HEADER), d.A, bytes(4), cls=0x8001),
    )
    made = read(d.response(1, "e", *answers))
    assert made.fault is None
    assert [each.data for each in made.answers] == [None, None, None, address("0.0.0.0")]


def test_a_ttl_with_its_top_bit_is_zero() -> None:
    made = read(d.response(1, "e", d.address("192.0.2.1", ttl=2**31 - 1), d.address("192.0.2.1", ttl=2**31)))
    assert [each.ttl for each in made.answers] == [2**31 - 1, 0]


@pytest.mark.parametrize("opcode", range(16))
def test_operation_codes(opcode: int) -> None:
    made = decode(d.message(1, opcode << 11))
    if opcode in {0, 1, 2, 4, 5, 6}:
        assert isinstance(made, Message)
        assert made.opcode == opcode
    else:
        assert made == "opcode"
    asked = read(d.message(1, opcode << 11, [d.question("e")]))
    assert (asked.opcode, len(asked.questions)) == (opcode, 1)


def test_names_of_numbers() -> None:
    assert [type_name(each) for each in (1, 11, 23, 65, 255, 264, 0, 54, 65535)] == [
        *("A", "WKS", "NSAP-PTR", "HTTPS", "ANY", "IPN", "TYPE0", "TYPE54", "TYPE65535")
    ]
    assert [class_name(each) for each in (1, 3, 4, 254, 255, 2, 0x8001)] == [
        *("IN", "CH", "HS", "NONE", "ANY", "CLASS2", "CLASS32769")
    ]
    assert [rcode_name(each) for each in (0, 2, 3, 5, 11, 12, 15, 16, 23, 24, 4095)] == [
        *("NOERROR", "SERVFAIL", "NXDOMAIN", "REFUSED", "DSOTYPENI", "RCODE12", "RCODE15", "BADVERS", "BADCOOKIE"),
        *("RCODE24", "RCODE4095"),
    ]
    for known in dns.rdatatype.RdataType:
        assert type_name(known) == known.name.replace("_", "-").replace("TYPE0", f"TYPE{int(known)}")
    for code in dns.rcode.Rcode:
        assert rcode_name(code) == code.name


def test_questions_by_themselves() -> None:
    assert read_question(d.question("Www.example", d.HTTPS)) == Question("Www.example", d.HTTPS, d.IN)
    assert read_question(d.question(".")) == Question(".", d.A, d.IN)
    assert read_question(d.labels(b"a\0b") + pack(">HH", 0, 0)) == Question("a\\000b", 0, 0)
    assert read_question(d.question("e") + b"\0") is None
    assert read_question(d.question("e")[:-1]) is None
    assert read_question(b"\1a" + d.pointer(0) + bytes(4)) is None


def test_a_zero_inside_a_label_does_not_end_the_name() -> None:
    """The first zero would end a well-formed question of another name: a, type 0x0161, class 0x0000."""
    assert asked(d.labels(b"a", b"\0\1\1a\0\0b")) == "a.\\000\\001\\001a\\000\\000b"
    assert read(d.message(1, 0, [d.labels(b"\0") + pack(">HH", 0, 1)])).questions == (Question("\\000", 0, 1),)


def test_the_work_is_bounded_by_the_octets() -> None:
    """64 KiB of owners that all point to one long name, and of targets that do: each is read once."""
    longest = ".".join(["x"] * 126)
    small, large = (
        d.response(1, longest, *[d.record(d.pointer(HEADER + 2), d.CNAME, d.pointer(HEADER + 2))] * count)
        for count in (400, 4600)
    )
    assert len(large) > 64_000
    assert len(read(large).answers) == 4600

    def cost(data: bytes) -> float:
        begin = process_time()
        for _ in range(5):
            read(data)
        return process_time() - begin

    assert min(cost(large) for _ in range(3)) < 40 * min(cost(small) for _ in range(3))


def test_addresses_are_as_the_kernel_writes_them() -> None:
    made = read(d.response(1, "e", d.address("198.51.100.7")))
    assert made.answers[0].data == ipaddress.ip_address("::ffff:198.51.100.7").packed
