"""Names from outside as numbers: bounded, and those that are told keep theirs."""

from __future__ import annotations

from otel_netmon.analysis.name_table import OTHER, NameTable, name_number


def test_names_are_bounded_and_the_others_share_one() -> None:
    names = NameTable(2, 100)
    assert [names.number(name, 10) for name in ("a", "b", "a")] == [name_number(each) for each in ("a", "b", "a")]
    assert names.number("c", 10) == name_number(OTHER)
    assert names.texts == {name_number(each): each for each in (OTHER, "a", "b")}
    assert (len(names), names.folded) == (2, 1)


def test_names_that_are_quiet_make_room_for_others() -> None:
    names = NameTable(8, 1000)
    for name in "abcdefgh":
        names.number(name, 10)
    names.end_cycle((), 20)
    for name in "bcdefgh":
        names.number(name, 30)
    assert names.number("i", 30) == name_number(OTHER)
    names.end_cycle((), 40)
    assert names.number("i", 50) == name_number("i")
    assert names.number("a", 50) == name_number(OTHER)


def test_names_that_are_busy_keep_their_places() -> None:
    names = NameTable(2, 1000)
    for now in range(10, 100, 10):
        assert [names.number(name, now) for name in "abc"] == [name_number(each) for each in ("a", "b", OTHER)]
        names.end_cycle((), now + 5)


def test_idle_names_leave_and_those_that_are_told_keep_their_text() -> None:
    names = NameTable(4, 100)
    names.number("a", 10)
    names.number("b", 150)
    names.end_cycle({name_number("a")}, 200)
    assert len(names) == 1
    assert set(names.texts.values()) == {OTHER, "a", "b"}
    names.end_cycle((), 201)
    assert set(names.texts.values()) == {OTHER, "b"}


def test_another_process_goes_on_with_the_names() -> None:
    names = NameTable(2, 100)
    names.number("a", 10)
    names.number("b", 20)
    names.end_cycle({name_number("gone")}, 30)
    after = NameTable(2, 100)
    after.restore(names.state())
    assert after.texts == names.texts
    assert after.number("c", 40) == name_number(OTHER)
