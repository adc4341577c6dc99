"""One budget of series: examples worked by hand, and what holds for every budget."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings, strategies as st

from otel_netmon.analysis.budget import Family, share


def test_everybody_gets_what_he_wants_if_there_is_enough() -> None:
    families = [Family("flow", 10, 100, 500), Family("dns", 1, 0, 30)]
    assert share(10_000, families) == {"flow": 500, "dns": 30}
    assert share(530, families) == {"flow": 500, "dns": 30}


def test_by_weight_when_all_want_more() -> None:
    families = [Family("flow", 5, 0, 9999), Family("dns", 3, 0, 9999), Family("http", 2, 0, 9999)]
    assert share(1000, families) == {"flow": 500, "dns": 300, "http": 200}


def test_what_one_leaves_goes_to_the_others_by_weight() -> None:
    families = [Family("flow", 5, 0, 9999), Family("dns", 3, 0, 20), Family("http", 2, 0, 9999)]
    assert share(1000, families) == {"flow": 700, "dns": 20, "http": 280}


def test_a_minimum_beats_the_weight() -> None:
    families = [Family("flow", 98, 0, 9999), Family("interfaces", 2, 100, 9999)]
    assert share(1000, families) == {"flow": 900, "interfaces": 100}
    assert share(10_000, families) == {"flow": 9800, "interfaces": 200}, "it counts towards its share"


def test_a_minimum_that_is_not_wanted_is_not_given() -> None:
    assert share(10, [Family("a", 1, 8, 2), Family("b", 1, 0, 99)]) == {"a": 2, "b": 8}


def test_minimums_beyond_the_limit_go_by_weight() -> None:
    families = [Family("a", 1, 50, 99), Family("b", 3, 50, 99), Family("c", 1, 50, 99)]
    assert share(120, families) == {"a": 50, "b": 50, "c": 20}
    assert share(40, families) == {"a": 0, "b": 40, "c": 0}
    assert share(150, families) == {"a": 50, "b": 50, "c": 50}


def test_the_last_series_go_to_who_has_least_for_its_weight() -> None:
    assert share(10, [Family(name, 1, 0, 99) for name in "abc"]) == {"a": 4, "b": 3, "c": 3}
    assert share(5, [Family("a", 1, 0, 3), Family("b", 1, 0, 99)]) == {"a": 3, "b": 2}
    assert share(2, [Family("a", 0.1, 0, 9), Family("b", 0.9, 0, 9), Family("c", 0.8, 0, 9)]) == {
        "a": 0,
        "b": 1,
        "c": 1,
    }


def test_nothing_to_share() -> None:
    assert share(10, []) == {}
    assert share(0, [Family("a", 1, 3, 9)]) == {"a": 0}
    assert share(10, [Family("a", 1, 3, 0)]) == {"a": 0}


@pytest.mark.parametrize(
    "family",
    [
        Family("a", 0, 0, 1),
        Family("a", -1, 0, 1),
        Family("a", float("nan"), 0, 1),
        Family("a", float("inf"), 0, 1),
        Family("a", 1, -1, 1),
        Family("a", 1, 0, -1),
    ],
)
def test_impossible_families(family: Family) -> None:
    with pytest.raises(ValueError, match="weight must be above 0"):
        share(10, [family])


def test_impossible_questions() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        share(-1, [])
    with pytest.raises(ValueError, match="stands twice"):
        share(1, [Family("a", 1, 0, 1), Family("a", 1, 0, 1)])


FAMILIES = st.lists(
    st.builds(
        Family,
        name=st.uuids().map(str),
        weight=st.one_of(st.integers(1, 100), st.floats(min_value=1e-3, max_value=1e3)),
        minimum=st.integers(0, 400),
        wanted=st.integers(0, 3000),
    ),
    max_size=12,
    unique_by=lambda family: family.name,
)


@settings(max_examples=400, deadline=None)
@given(limit=st.integers(0, 12_000), families=FAMILIES)
@example(limit=12, families=[Family("a", 1, 0, 8), Family("b", 1, 8, 8)])
def test_whatever_is_shared(limit: int, families: list[Family]) -> None:
    shares = share(limit, families)
    assert shares == share(limit, list(families))
    assert list(shares) == [family.name for family in families]
    assert sum(shares.values()) == min(limit, sum(family.wanted for family in families))
    for family in families:
        assert 0 <= shares[family.name] <= family.wanted
    floors = {family.name: min(family.minimum, family.wanted) for family in families}
    if sum(floors.values()) > limit:
        order = sorted(families, key=lambda family: -family.weight)
        short = [shares[family.name] < floors[family.name] for family in order if floors[family.name]]
        assert short == sorted(short), "who comes later in the order of weight is short first"
        return
    for family in families:
        assert shares[family.name] >= floors[family.name]
    for poor in families:
        if shares[poor.name] < poor.wanted:
            one_more = (shares[poor.name] + 1) / Fraction(poor.weight)
            for rich in families:
                if shares[rich.name] > floors[rich.name]:
                    assert shares[rich.name] / Fraction(rich.weight) <= one_more, "nobody has what is due to another"
