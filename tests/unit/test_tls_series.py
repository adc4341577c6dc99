"""Handshakes as series: what was agreed, what has no place, how long each lasted and why it failed."""

from __future__ import annotations

import pytest

from otel_netmon.analysis.cardinality import WHOLE_SET
from otel_netmon.analysis.tls_series import NO_ERROR, TlsSeries, error_number, error_text, lasted_ns
from support.tls_handshakes import ANSWER_13, NOW, SECOND, handshake

UNIX = NOW * SECOND


def series(names: int = 10) -> TlsSeries:
    made = TlsSeries((0.01, 0.1, 1.0), names, UNIX, 3600 * SECOND)
    made.set_limit(100)
    return made


def test_handshakes_are_counted_by_what_was_agreed() -> None:
    made = series()
    every = [
        *[handshake(milliseconds=ms) for ms in (5, 50, 500)],
        handshake(answer=ANSWER_13, chain=()),
        handshake("alert", alert=48),
        handshake("alert", alert=None),
        handshake("timed_out", answer=None, milliseconds=10_000),
    ]
    made.add(every, ["www.example"] * len(every), UNIX + SECOND)
    read = made.reading()
    keys = read.series.keys
    counts = dict(zip(map(bytes, keys), read.distributions[0].count[1:].tolist(), strict=True))
    assert sorted(counts.values()) == [1, 1, 1, 1, 3]
    assert read.distributions[0].count[0] == 0
    assert {error_text(each) for each in keys["error"].tolist() if each != NO_ERROR} == {
        "unknown_ca",
        "sealed_alert",
        "timeout",
    }
    assert {read.names["server"][each] for each in keys["server"].tolist()} == {"www.example"}
    assert {read.names["protocol"][each] for each in keys["protocol"].tolist() if each} == {"h2"}
    assert read.distributions[0].sum.sum() == pytest.approx(0.555 + 0.03 * 3 + 10)


def test_what_has_no_place_is_exact_in_the_rest() -> None:
    made = series(names=3)
    made.set_limit(2)
    for at in range(7):
        made.add([handshake(name=f"n{at}.example")], [f"n{at}.example"], UNIX + at)
    durations = made.reading().distributions[0]
    assert durations.count.sum() == 7
    assert durations.count[0] == 5
    made.end_cycle()
    # Two of the rest had names of their own, the others are one: `other`.
    assert made.folded == 2
    assert made.distinct()[WHOLE_SET] == pytest.approx(4, abs=0.5)


def test_another_process_goes_on_with_the_series() -> None:
    made = series()
    made.add([handshake(), handshake("closed")], ["www.example"] * 2, UNIX + SECOND)
    after = series()
    after.restore(made.state())
    after.add([handshake()], ["www.example"], UNIX + 2 * SECOND)
    read = after.reading()
    assert sorted(read.distributions[0].count.tolist()) == [0, 1, 2]
    assert read.names["server"][int(read.series.keys["server"][0])] == "www.example"


def test_how_long_it_lasted_and_why_it_failed() -> None:
    assert lasted_ns(handshake(milliseconds=20)) == 20_000_000
    assert lasted_ns(handshake("reset", milliseconds=7)) == 7_000_000
    assert error_number(handshake()) == NO_ERROR
    texts = {what: error_text(error_number(handshake(what))) for what in ("closed", "reset", "not_tls", "timed_out")}
    assert texts == {"closed": "closed", "reset": "reset", "not_tls": "not_tls", "timed_out": "timeout"}
    assert error_text(error_number(handshake("alert", alert=40))) == "handshake_failure"
