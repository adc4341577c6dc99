"""What holds for the keep rule whatever comes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings, strategies as st

from otel_netmon.analysis.sampling import KeepRule, Reason, threshold_for, threshold_text

SECOND = 10**9
SLOW_NS = 10**9
KEPT = (Reason.ERROR, Reason.SLOW, Reason.FIRST, Reason.UNIFORM)

SPANS = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from([0, 1, SLOW_NS - 1, SLOW_NS, 1 << 62]), st.booleans()), max_size=40
)
BATCHES = st.lists(st.tuples(SPANS, st.integers(-2 * SECOND, 5 * SECOND)), max_size=12)


@settings(max_examples=250, deadline=None)
@given(
    batches=BATCHES,
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    limit=st.integers(0, 60),
    max_kinds=st.integers(1, 10),
    live=st.booleans(),
    randomness=st.none() | st.integers(0, 3),
    data=st.data(),
)
def test_every_span_is_kept_or_counted_in_the_order_of_the_rule(
    batches: list[Any],
    share: float,
    limit: int,
    max_kinds: int,
    live: bool,
    randomness: int | None,
    data: st.DataObject,
) -> None:
    rule = KeepRule(share, limit, slow_ns=None if live else SLOW_NS, max_kinds=max_kinds, seed=3)
    produced = kept = 0
    now = passed = 0
    for spans, step in batches:
        now += step
        passed += max(0, step)
        kinds = [kind for kind, _, _ in spans]
        durations = np.array([duration for _, duration, _ in spans], np.int64)
        errors = np.array([error for _, _, error in spans], np.bool_)
        own: npt.NDArray[np.uint64] | None = None
        if randomness is not None:  # few values: many spans of one trace
            own = np.array(
                data.draw(st.lists(st.integers(0, randomness), min_size=len(spans), max_size=len(spans))), np.uint64
            ) << np.uint64(54)
        decision = rule.decide(kinds, durations, errors, now, own)
        produced += len(spans)
        kept += int(decision.keep.sum())
        reason = decision.reason

        assert (decision.keep == np.isin(reason, KEPT)).all()
        assert int(rule.counts.sum()) == produced
        assert int(rule.counts[list(KEPT)].sum()) == kept
        assert kept <= limit + limit * passed / SECOND

        slow = durations >= SLOW_NS
        limited = reason == Reason.RATE_LIMITED
        assert np.isin(reason[errors], (Reason.ERROR, Reason.RATE_LIMITED)).all(), "an error is never sampled out"
        if not live:
            assert np.isin(reason[slow & ~errors], (Reason.SLOW, Reason.RATE_LIMITED)).all()
            if limited[slow & ~errors].any():
                assert not np.isin(reason, (Reason.FIRST, Reason.UNIFORM)).any()
        if limited[errors].any():
            assert (reason[decision.keep] == Reason.ERROR).all()
        if share == 1.0:
            assert not (reason == Reason.SAMPLED_OUT).any()
        if limited.any() and len(spans):
            assert limit == 0 or int(decision.keep.sum()) == kept_at_most(rule, decision.keep)

        assert (decision.probability[decision.keep] > 0).all()
        assert (decision.probability <= 1).all()
        if own is not None:
            assert (own[decision.keep] >= decision.threshold[decision.keep]).all()
        assert len(rule._rows) <= max_kinds
        assert len(set(rule._rows.values())) == len(rule._rows)


def kept_at_most(rule: KeepRule, keep: npt.NDArray[np.bool_]) -> int:
    """Where something was shed, not one more span could have been kept, but for those that may come of classes above."""
    awaited = int(np.maximum(rule._came_before - rule._came, 0).sum())
    return int(keep.sum()) + max(0, rule._credit // SECOND - awaited)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 64),
    share=st.sampled_from([0.05, 0.2, 1.0]),
    limit=st.sampled_from([50, 500, 10**6]),
    errors=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_probabilities_estimate_what_was_produced(seed: int, share: float, limit: int, errors: float) -> None:
    rule = KeepRule(share, limit, slow_ns=SLOW_NS, seed=seed)
    failed = np.random.default_rng(0).random(1000) < errors
    rounds = 20
    estimates = []
    variance = 0.0
    for number in range(rounds):
        decision = rule.decide([0] * 1000, np.full(1000, 1), failed, number * SECOND)
        weights = 1 / decision.probability[decision.keep]
        estimates.append(float(weights.sum()))
        variance += float((weights * (weights - 1)).sum())
        if (decision.reason == Reason.UNIFORM).sum() == 0:
            return  # the limit was used up by errors: nothing is told of the rest
    mean = sum(estimates) / rounds
    assert abs(mean - 1000) < 6 * math.sqrt(variance) / rounds + 1


@settings(max_examples=300, deadline=None)
@given(probability=st.floats(min_value=2.0**-56, max_value=1.0), digits=st.integers(1, 14))
def test_thresholds_are_as_precise_as_asked_for(probability: float, digits: int) -> None:
    threshold = threshold_for(probability, digits)
    text = threshold_text(threshold)
    assert 0 <= threshold < 1 << 56
    assert int(text.ljust(14, "0"), 16) == threshold
    assert len(text) <= 14
    assert text == "0" or not text.endswith("0")
    told = ((1 << 56) - threshold) / (1 << 56)
    # The last digit is off by a half at most, and the first one that counts is the first that is not f.
    assert abs(told - probability) <= max(probability * 8 * 16.0**-digits, 2.0**-57)
