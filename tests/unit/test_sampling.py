"""The keep rule, case by case; thresholds against the table of the specification."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.analysis.latency import KindLatency
from otel_netmon.analysis.sampling import (
    Decision,
    KeepRule,
    Reason,
    threshold_for,
    threshold_text,
    trace_randomness,
)

SECOND = 10**9
MS = 10**6


def decide(
    rule: KeepRule,
    kinds: Sequence[Hashable],
    durations_ms: float | Sequence[float] | npt.NDArray[np.float64] = 1.0,
    errors: Sequence[int] = (),
    now: float = 0.0,
    randomness: Sequence[int] | None = None,
) -> Decision:
    """Decides on spans, by default of a millisecond; errors are given by their numbers."""
    durations = np.broadcast_to(np.asarray(durations_ms, np.float64) * MS, len(kinds)).astype(np.int64)
    failed = np.zeros(len(kinds), np.bool_)
    failed[list(errors)] = True
    own = None if randomness is None else np.array(randomness, np.uint64)
    return rule.decide(kinds, durations, failed, round(now * SECOND), own)


def reasons(decision: Decision) -> list[Reason]:
    return [Reason(code) for code in decision.reason]


def test_errors_slow_ones_and_firsts_are_kept_and_nothing_else() -> None:
    rule = KeepRule(0.0, 100, slow_ns=50 * MS)
    decision = decide(rule, ["a", "a", "b", "a", "b", "b"], [1, 50, 60, 49, 1, 1], errors=[4])
    assert reasons(decision) == [
        Reason.FIRST,
        Reason.SLOW,
        Reason.SLOW,
        Reason.SAMPLED_OUT,
        Reason.ERROR,
        Reason.SAMPLED_OUT,
    ]
    assert decision.keep.tolist() == [True, True, True, False, True, False]
    assert decision.probability.tolist() == [1, 1, 1, 0, 1, 0]
    assert rule.counts.tolist() == [1, 2, 1, 0, 2, 0]
    again = decide(rule, ["a", "b"])
    assert reasons(again) == [Reason.SAMPLED_OUT, Reason.SAMPLED_OUT]


def test_everything_is_kept_with_a_share_of_one() -> None:
    rule = KeepRule(1.0, 100)
    decision = decide(rule, ["a"] * 100)
    assert decision.keep.all()
    assert reasons(decision) == [Reason.FIRST] + [Reason.UNIFORM] * 99
    assert decision.probability.tolist() == [1.0] * 100


def test_the_share_is_what_the_randomness_says() -> None:
    rule = KeepRule(0.25, 100)
    decide(rule, ["a"])
    least = 3 << 54
    decision = decide(rule, ["a"] * 4, randomness=[least - 1, least, 0, (1 << 56) - 1])
    assert decision.keep.tolist() == [False, True, False, True]
    assert decision.threshold.tolist() == [least] * 4
    assert decision.probability.tolist() == [0.25] * 4


def test_over_the_limit_the_share_goes_first_then_firsts_then_slow_ones_then_errors() -> None:
    kinds = ["old"] * 9 + ["new", "newer", "newest"]
    durations = [1, 1, 1, 99, 99, 99, 1, 1, 1, 1, 1, 1]
    expected = {
        12: {Reason.ERROR: 3, Reason.SLOW: 3, Reason.FIRST: 3, Reason.UNIFORM: 3},
        10: {Reason.ERROR: 3, Reason.SLOW: 3, Reason.FIRST: 3, Reason.UNIFORM: 1},
        8: {Reason.ERROR: 3, Reason.SLOW: 3, Reason.FIRST: 2},
        5: {Reason.ERROR: 3, Reason.SLOW: 2},
        2: {Reason.ERROR: 2},
        1: {Reason.ERROR: 1},
    }
    for limit, kept in expected.items():
        rule = KeepRule(1.0, limit, slow_ns=50 * MS, seed=limit)
        decide(rule, ["old"])
        decision = decide(rule, kinds, durations, errors=[6, 7, 8], now=60)
        codes, counts = np.unique(decision.reason, return_counts=True)
        found = dict(zip(map(Reason, codes.tolist()), counts.tolist(), strict=True))
        assert found.pop(Reason.RATE_LIMITED, 0) == 12 - limit
        assert found == kept
        assert rule.counts.sum() == 13


def test_a_limit_of_nothing() -> None:
    rule = KeepRule(1.0, 0)
    decision = decide(rule, ["a", "b"], errors=[0])
    assert reasons(decision) == [Reason.RATE_LIMITED] * 2
    assert not decision.keep.any()


def test_within_a_class_the_greatest_randomness_stays_and_says_how_likely_that_was() -> None:
    rule = KeepRule(1.0, 2)
    decide(rule, ["a"])
    decision = decide(rule, ["a"] * 4, now=10, randomness=[5 << 50, 9 << 50, 7 << 50, 8 << 50])
    assert decision.keep.tolist() == [False, True, False, True]
    assert decision.threshold.tolist() == [(7 << 50) + 1] * 4
    assert decision.probability[1] == pytest.approx(1 - 7 / 64)


def test_spans_of_one_trace_over_the_limit_go_in_order() -> None:
    rule = KeepRule(1.0, 2)
    decide(rule, ["a"])
    decision = decide(rule, ["a"] * 4, errors=range(4), now=10, randomness=[9] * 4)
    assert decision.keep.tolist() == [True, True, False, False]
    assert (decision.threshold <= 9).all(), "what was kept is not below the threshold"


def test_the_limit_is_a_second_and_a_burst_of_one_second() -> None:
    rule = KeepRule(1.0, 10)
    for now, kept in [(0.0, 10), (0.0, 0), (0.05, 0), (0.1, 1), (0.35, 2), (0.4, 1), (99.0, 10), (98.0, 0), (98.1, 1)]:
        assert np.count_nonzero(decide(rule, ["a"] * 20, now=now).keep) == kept, now
    assert rule.counts.sum() == 180


def kept_of(decision: Decision) -> dict[Reason, int]:
    codes, counts = np.unique(decision.reason[decision.keep], return_counts=True)
    return dict(zip(map(Reason, codes.tolist()), counts.tolist(), strict=True))


def test_what_is_shed_first_leaves_room_for_errors_of_another_probe() -> None:
    """In each round a batch of one probe, and behind it one of another; what came in a round is awaited in the next one."""
    rule = KeepRule(1.0, 100, slow_ns=50 * MS)
    rounds = []
    for at in (0.0, 1.0, 1.99, 3.0):
        busy = decide(rule, ["busy"] * 1000, [60] * 200 + [1] * 800, now=at)
        other = decide(rule, ["other"] * 31, errors=range(23), now=at)
        rounds.append((kept_of(busy), kept_of(other)))
    assert rounds[0] == ({Reason.SLOW: 100}, {})
    for (busy_kept, other_kept), places in zip(rounds[1:], (100, 99, 100), strict=True):
        assert (busy_kept, other_kept) == ({Reason.SLOW: places - 23}, {Reason.ERROR: 23})
    assert kept_of(decide(rule, ["busy"] * 1000, now=4)) == {}, "77 slow ones and 23 errors may come"
    assert kept_of(decide(rule, ["busy"] * 1000, now=5)) == {Reason.UNIFORM: 100}, "none came in the round before"


def test_a_pause_and_a_clock_that_goes_back_await_nothing() -> None:
    for pause in (2.5, -1.0):
        rule = KeepRule(1.0, 100)
        decide(rule, ["a"] * 50, errors=range(50), now=10)
        assert np.count_nonzero(decide(rule, ["a"] * 50, now=10 + pause).keep) == 50


def test_a_kind_of_which_none_was_kept_has_its_first_later() -> None:
    rule = KeepRule(0.0, 1)
    assert reasons(decide(rule, ["a", "b"], errors=[0])) == [Reason.ERROR, Reason.RATE_LIMITED]
    assert reasons(decide(rule, ["b", "b", "a"], now=5)) == [Reason.FIRST, Reason.SAMPLED_OUT, Reason.SAMPLED_OUT]
    assert reasons(decide(rule, ["b"], now=10)) == [Reason.SAMPLED_OUT]


def test_kinds_are_forgotten_the_longest_unseen_first() -> None:
    rule = KeepRule(0.0, 1000, max_kinds=3)
    decide(rule, ["a", "b", "c"])
    decide(rule, ["a"])
    assert reasons(decide(rule, ["d"])) == [Reason.FIRST]
    assert rule.evicted_kinds == 1
    assert reasons(decide(rule, ["a", "c", "d"])) == [Reason.SAMPLED_OUT] * 3
    assert reasons(decide(rule, ["b"])) == [Reason.FIRST], "it was the one to go"


def test_more_kinds_at_once_than_are_remembered() -> None:
    rule = KeepRule(0.0, 1000, max_kinds=3)
    decision = decide(rule, list("abcdeabcde"))
    assert reasons(decision) == [Reason.FIRST] * 5 + [Reason.SAMPLED_OUT] * 5
    assert reasons(decide(rule, list("abc"))) == [Reason.SAMPLED_OUT] * 3
    assert reasons(decide(rule, list("de"))) == [Reason.FIRST] * 2
    assert rule.evicted_kinds == 2
    assert len(rule._rows) == 3
    assert sorted(rule._rows.values()) == [0, 1, 2]


def test_a_kind_without_a_place_takes_nothing_from_the_others() -> None:
    rule = KeepRule(0.0, 1, max_kinds=1)
    assert reasons(decide(rule, ["a", "b"], errors=[1])) == [Reason.RATE_LIMITED, Reason.ERROR]
    assert reasons(decide(rule, ["a"], now=5)) == [Reason.FIRST], "that one of b was kept says nothing of a"
    rule = KeepRule(0.0, 100, max_kinds=1)
    decide(rule, ["a"])
    assert reasons(decide(rule, ["a", "b", "b"])) == [Reason.SAMPLED_OUT, Reason.FIRST, Reason.SAMPLED_OUT]


def test_a_kind_does_not_inherit_the_percentile_of_the_one_before() -> None:
    rule = KeepRule(0.0, 10**6, max_kinds=1)
    decide(rule, ["a"] * 1000)
    assert reasons(decide(rule, ["b", "b"], 1000.0)) == [Reason.FIRST, Reason.SAMPLED_OUT]
    assert reasons(decide(rule, ["b"], 1000.0)) == [Reason.SAMPLED_OUT]


def test_numbers_are_kinds_too() -> None:
    rule = KeepRule(0.0, 100)
    kinds = np.array([7, 5, 7, 9], np.uint16)
    decision = rule.decide(kinds, np.full(4, MS), np.zeros(4, np.bool_), 0)
    assert reasons(decision) == [Reason.FIRST, Reason.FIRST, Reason.SAMPLED_OUT, Reason.FIRST]
    assert decide(rule, [5, 9]).keep.tolist() == [False, False]


def test_nothing_to_decide() -> None:
    rule = KeepRule(0.5, 100)
    decision = decide(rule, [])
    assert len(decision.keep) == len(decision.reason) == len(decision.probability) == 0
    assert decide(rule, ["a"]).keep.tolist() == [True]


def test_the_slowest_hundredth_of_a_kind_is_slow() -> None:
    generator = np.random.default_rng(5)
    rule = KeepRule(0.0, 10**6)
    batch = 1000
    slow = 0
    for number in range(100):
        durations = generator.lognormal(0, 1, batch) * np.where(np.arange(batch) % 2, 1.0, 1000.0)
        decision = decide(
            rule, ["fast" if at % 2 else "slow" for at in range(batch)][::-1], durations[::-1], now=number
        )
        if number >= 10:
            slow += int(np.count_nonzero(decision.reason == Reason.SLOW))
    assert 0.007 < slow / (90 * batch) < 0.011
    assert reasons(decide(rule, ["fast", "slow"], 50.0, now=200)) == [Reason.SLOW, Reason.SAMPLED_OUT]


def test_no_kind_is_slow_before_a_hundred_are_known() -> None:
    rule = KeepRule(0.0, 10**6)
    decide(rule, ["a"] * 99)
    assert reasons(decide(rule, ["a"], 1000.0)) == [Reason.SAMPLED_OUT]
    assert reasons(decide(rule, ["a"], 1000.0)) == [Reason.SLOW]


def test_errors_do_not_move_the_percentile() -> None:
    rule = KeepRule(0.0, 10**6)
    decide(rule, ["a"] * 1000)
    decide(rule, ["a"] * 1000, 5000.0, errors=range(1000))
    assert reasons(decide(rule, ["a"], 10.0)) == [Reason.SLOW]


def test_the_percentile_follows_the_present() -> None:
    rule = KeepRule(0.0, 10**6)
    decide(rule, ["a"] * 8000)
    assert reasons(decide(rule, ["a"], 10.0)) == [Reason.SLOW]
    decide(rule, ["a"] * 1000, 10.0)
    assert reasons(decide(rule, ["a"], 10.0)) == [Reason.SAMPLED_OUT], "ten milliseconds are usual now"
    for _ in range(10):
        decide(rule, ["a"] * 8000, 1.0)
    assert reasons(decide(rule, ["a"], 10.0)) == [Reason.SLOW]


def test_latency_counts_never_overflow() -> None:
    latency = KindLatency(2)
    rows = np.zeros(300_000, np.intp)
    rows[::3] = 1
    rows[::7] = -1
    latency.learn(rows, np.full(300_000, MS))
    assert (latency._counts.sum(axis=1) <= 8192).all()
    assert (latency._counts.sum(axis=1) > 4000).all()
    assert np.count_nonzero(latency._counts) == 2
    assert latency.above(np.array([0, 1, -1]), np.full(3, 2 * MS)).tolist() == [True, True, False]


def test_durations_of_every_size() -> None:
    latency = KindLatency(1)
    extremes = np.array([0, -5, 1, 511, 512, 2**40, 2**62], np.int64)
    latency.learn(np.zeros(700, np.intp), np.tile(extremes, 100))
    assert latency._counts.sum() == 700
    assert not latency.above(np.zeros(7, np.intp), extremes).any()


@pytest.mark.parametrize(
    ("one_in", "texts"),
    [
        (1, ("0", "0", "0")),
        (2, ("8", "8", "8")),
        (3, ("aab", "aaab", "aaaab")),
        (4, ("c", "c", "c")),
        (5, ("ccd", "cccd", "ccccd")),
        (8, ("e", "e", "e")),
        (10, ("e66", "e666", "e6666")),
        (16, ("f", "f", "f")),
        (100, ("fd71", "fd70a", "fd70a4")),
        (1000, ("ffbe7", "ffbe77", "ffbe76d")),
        (10_000, ("fff972", "fff9724", "fff97247")),
        (100_000, ("ffff584", "ffff583a", "ffff583a5")),
        (1_000_000, ("ffffef4", "ffffef39", "ffffef391")),
    ],
)
def test_thresholds_as_the_specification_has_them(one_in: int, texts: tuple[str, str, str]) -> None:
    assert tuple(threshold_text(threshold_for(1 / one_in, digits)) for digits in (3, 4, 5)) == texts
    assert threshold_for(1 / one_in) == threshold_for(1 / one_in, 4)


def test_the_ends_of_the_range_of_thresholds() -> None:
    assert threshold_text(threshold_for(2.0**-56)) == "f" * 14
    assert threshold_text(threshold_for(2.0**-55)) == "f" * 13 + "e"
    assert threshold_text(1) == "00000000000001"
    assert threshold_text(threshold_for(1 - 2.0**-53, 14)) == "00000000000008"


@pytest.mark.parametrize(
    "arguments", [(0.0, 4), (1.1, 4), (-0.1, 4), (2.0**-57, 4), (0.5, 0), (0.5, 15), (float("nan"), 4)]
)
def test_impossible_thresholds(arguments: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="a probability from"):
        threshold_for(*arguments)


def test_randomness_of_trace_ids() -> None:
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    assert trace_randomness(ids).tolist() == [0x090A0B0C0D0E0F, 0x191A1B1C1D1E1F]
    wide = np.full((3, 40), 0xFF, np.uint8)
    assert trace_randomness(wide[:, 4:20]).tolist() == [(1 << 56) - 1] * 3


def test_impossible_rules() -> None:
    for arguments in ((0.5, -1, None, 10), (0.5, 1, None, 0)):
        with pytest.raises(ValueError, match="limit_per_second must be"):
            KeepRule(*arguments)
    with pytest.raises(ValueError, match="a probability from"):
        KeepRule(1.5, 10)


def test_a_seed_makes_it_the_same_again() -> None:
    def kept(seed: int | None) -> npt.NDArray[np.bool_]:
        rule = KeepRule(0.5, 10**6, seed=seed)
        return np.concatenate([decide(rule, ["a"] * 300).keep for _ in range(2)])

    assert (kept(1) == kept(1)).all()
    assert (kept(1) != kept(2)).any()
    assert (kept(None) != kept(None)).any()
    assert (kept(1)[:300] != kept(1)[300:]).any()
