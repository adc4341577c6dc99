"""DNS messages, whole or cut by a capture, as records: RFC 1035, section 4; EDNS, RFC 6891; SVCB and HTTPS, RFC 9460.

Pure: octets in, a record or the reason why there is none out.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Literal, NamedTuple

from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns_names import EndOfData, NameFault, Suffixes, UnreadableName, read_name
from otel_netmon.decode.dns_records import (
    Edns,
    Record,
    RecordFault,
    UnreadableRecord,
    read_answers,
    read_opt,
    skip_records,
)

Fault = Literal[NameFault, RecordFault, "short_header", "short_question", "short_record", "opcode"]
"""Why a message, or the rest of one, cannot be read: the faults of names and records; it ends inside the header, a
question or a record, though nothing was cut off; an operation code that is not assigned."""

HEADER_OCTETS = 12
RESPONSE_FLAG = 0x8000
TRUNCATED_FLAG = 0x0200

_HEADER = Struct(">HHHHHH").unpack_from
_PAIR = Struct(">HH").unpack_from
_ASSIGNED_OPCODES = frozenset(numbers.OPCODE_NAMES)

_KNOWN_QUESTIONS = 1024
_KNOWN_QUESTION_ENDS = HEADER_OCTETS + 68
"""Longer questions are read each time: so the cache takes at most about 2 MB, whatever is asked."""


class Question(NamedTuple):
    """One entry of the question section; the name as in ``decode.dns_names``."""

    name: str
    type: int
    cls: int

    @property
    def type_name(self) -> str:
        """``A``, ``HTTPS``, …, ``TYPEn``."""
        return numbers.type_name(self.type)

    @property
    def class_name(self) -> str:
        """``IN``, …, ``CLASSn``."""
        return numbers.class_name(self.cls)


class Message(NamedTuple):
    """A message.

    Attributes:
        id: as in the header.
        flags: the second 16 bits of the header.
        rcode: the response code, extended by EDNS where the OPT record was read.
        question_count, answer_count: what the header says, not what was read.
        questions: those read; the first one, by which queries and responses are paired, always, if there is one.
        answers: the records of the answer section read.
        edns: None without an OPT record, or where it was not read.
        cut: the capture ends before the message does; what is here was whole.
        fault: why what follows could not be read; None if nothing is wrong.
    """

    id: int
    flags: int
    rcode: int
    question_count: int
    answer_count: int
    questions: tuple[Question, ...]
    answers: tuple[Record, ...]
    edns: Edns | None
    cut: bool
    fault: Fault | None

    @property
    def is_response(self) -> bool:
        """Whether the QR bit is set."""
        return self.flags & RESPONSE_FLAG != 0

    @property
    def opcode(self) -> int:
        """Operation code, 0 for a lookup."""
        return self.flags >> 11 & 15

    @property
    def header_rcode(self) -> int:
        """The four bits of the response code that stand in the header."""
        return self.flags & 15

    @property
    def rcode_name(self) -> str:
        """``NOERROR``, ``NXDOMAIN``, …, ``RCODEn``."""
        return numbers.rcode_name(self.rcode)

    @property
    def is_truncated(self) -> bool:
        """Whether the server left something out because it did not fit (the TC bit)."""
        return self.flags & TRUNCATED_FLAG != 0


def decode(data: bytes, length: int | None = None) -> Message | Fault:
    """Reads a message.

    Args:
        data: its octets from the header on; what stands behind the last record is not looked at.
        length: octets of the whole message where the capture may have cut it; None: `data` is all of it.

    Returns:
        The message, or why there is none: the header or the first question cannot be read, or the operation code is
        none (``opcode``) and there is not the one question that nearly every message has. A message cut inside them
        gives ``short_header`` or ``short_question`` as well: there is nothing whole to tell.
    """
    if len(data) < HEADER_OCTETS:
        return "short_header"
    identifier, flags, question_count, answer_count, authority_count, additional_count = _HEADER(data)
    if flags >> 11 & 15 not in _ASSIGNED_OPCODES and question_count != 1:
        return "opcode"
    suffixes: Suffixes = {}
    questions: list[Question] = []
    offset = HEADER_OCTETS
    cut = False
    fault: Fault | None = None
    if question_count == 1:
        # Almost every message. A name without pointers ends with the first zero, unless one stands in a label.
        offset = data.find(0, HEADER_OCTETS) + 5
        known = _known_question(data[HEADER_OCTETS:offset]) if HEADER_OCTETS < offset <= _KNOWN_QUESTION_ENDS else None
        if known is not None:
            questions.append(known)
    if not questions and question_count:
        try:
            offset = _read_questions(data, question_count, suffixes, questions)
        except EndOfData:
            cut = length is not None and length > len(data)
            fault = None if cut else "short_question"
        except UnreadableName as error:
            fault = error.fault
        if not questions:
            return fault or "short_question"
    answers: list[Record] = []
    rcode = flags & 15
    edns = None
    if not cut and fault is None and (answer_count or authority_count or additional_count):
        try:
            asked = questions[0].name if questions else None
            offset = read_answers(data, offset, answer_count, asked, suffixes, answers)
            if additional_count:
                offset = skip_records(data, offset, authority_count, suffixes)
                edns, extension = read_opt(data, offset, additional_count, suffixes)
                rcode |= extension << 4
            elif authority_count:
                skip_records(data, offset, authority_count, suffixes)
        except EndOfData:
            cut = length is not None and length > len(data)
            fault = None if cut else "short_record"
        except (UnreadableName, UnreadableRecord) as error:
            fault = error.fault
    return Message(
        identifier, flags, rcode, question_count, answer_count, tuple(questions), tuple(answers), edns, cut, fault
    )


def read_question(octets: bytes) -> Question | None:
    """Gives the question that these octets are; None if they are not exactly one whose name has no pointer."""
    try:
        name, end = read_name(octets, 0, {})
    except (EndOfData, UnreadableName):
        return None
    return Question(name, *_PAIR(octets, end)) if end + 4 == len(octets) else None


_known_question = lru_cache(_KNOWN_QUESTIONS)(read_question)


def _read_questions(data: bytes, count: int, suffixes: Suffixes, found: list[Question]) -> int:
    """Appends the questions to `found`, so that those before a fault or a cut are there; gives the offset behind them."""
    offset = HEADER_OCTETS
    for _ in range(count):
        name, offset = read_name(data, offset, suffixes)
        if offset + 4 > len(data):
            raise EndOfData
        found.append(Question(name, *_PAIR(data, offset)))
        offset += 4
    return offset
