"""Intervals of differences: by hand, by coverage, and what they are called."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, t

from mnprobe.analysis.audit.effects import (
    MARGIN,
    Difference,
    decide,
    decide_level,
    from_intervals,
    from_pairs,
    over_seeds,
    over_trainings,
)
from mnprobe.analysis.audit.finding_text import answer, unsaid
from mnprobe.analysis.statistics import detectable_difference
from mnprobe.analysis.tables.alignment import mean_over_seeds, t_interval
from mnprobe.core.errors import ConfigError, FeatureError, TooFewSamples


def test_paired_interval_by_hand():
    # b = 4 gained, c = 1 lost, n = 20: half an episode added to each of the four cells (Agresti and Min 2005).
    before = [0] * 4 + [1] + [0] * 10 + [1] * 5
    after = [1] * 4 + [0] + [0] * 10 + [1] * 5
    made = from_pairs(before, after)
    gained, lost = 4.5 / 22, 1.5 / 22
    half = 1.959964 * math.sqrt((gained + lost - (gained - lost) ** 2) / 22)
    assert made.value == pytest.approx(3 / 20)
    assert (made.low, made.high) == pytest.approx((gained - lost - half, gained - lost + half), abs=1e-6)


def test_paired_interval_covers():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        draws = generator.choice([-1, 0, 1], size=30, p=[0.1, 0.6, 0.3])
        made = from_pairs((draws == -1).astype(float).tolist(), (draws == 1).astype(float).tolist())
        hits += made.low <= 0.2 <= made.high
    assert 0.93 <= hits / 2000 <= 0.98


def test_no_episode_that_differs_is_still_no_certainty():
    made = from_pairs([1, 0, 1, 0], [1, 0, 1, 0])
    assert made.low < -0.2
    assert made.high > 0.2
    assert answer(made) == "cannot be told from n = 4 episodes"


def test_students_interval_against_scipy():
    values = [0.1, 0.4, 0.35, 0.2]
    wanted = t.interval(0.95, 3, loc=np.mean(values), scale=np.std(values, ddof=1) / 2)
    assert t_interval(values) == pytest.approx(wanted)
    assert all(math.isnan(end) for end in t_interval([0.5]))


def test_trainings_that_agree_leave_the_interval_over_episodes():
    sampling = from_intervals((0.2, 0.1, 0.35), (0.4, 0.25, 0.5), n="40 episodes")
    alike = over_trainings([0.2, 0.3, 0.1], [0.4, 0.5, 0.3], sampling)
    assert (alike.low, alike.high) == pytest.approx((sampling.low, sampling.high))
    apart = over_trainings([0.2, 0.3, 0.1], [0.3, 0.5, 0.4], sampling)
    low, _ = t_interval([0.1, 0.2, 0.3])
    assert apart.low == pytest.approx(0.2 - math.hypot(0.2 - low, sampling.value - sampling.low))
    assert apart.n == "3 trainings on 40 episodes"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.3, "yes"),
        (-0.3, -0.01, "no, the reverse"),
        (-0.04, 0.04, "no"),
        (-0.04, 0.06, "cannot be told from n = 9 episodes"),
        (math.nan, math.nan, "cannot be told from n = 9 episodes"),
    ],
)
def test_verdicts(low, high, verdict):
    made = Difference(before=0.1, after=0.2, value=0.1, low=low, high=high, n="9 episodes", basis="")
    assert answer(made) == verdict


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.01, 0.19, "more"),  # the three triples on which the two former rules disagreed,
        (-0.01, 0.21, "undecided"),  # whatever their p (0.2, 0.03, 0.9)
        (-0.05, 0.05, "none"),
        (0.01, 0.02, "more"),  # a difference that is there, however small
        (-0.02, -0.01, "less"),
        (0.0, 0.04, "none"),  # an end at 0 excludes nothing
        (0.0, 0.06, "undecided"),
        (-0.05000001, 0.05, "undecided"),
        (-0.05, 0.05000001, "undecided"),
        (0.0, 0.0, "none"),
        (5e-324, 0.5, "more"),
        (-math.inf, math.inf, "undecided"),
        (math.nan, math.nan, "undecided"),
        (0.1, math.nan, "undecided"),
        (math.nan, -0.1, "undecided"),
    ],
)
def test_the_one_rule(low, high, decision):
    mirrored = {"more": "less", "less": "more"}.get(decision, decision)
    assert (decide(low, high), decide(-high, -low)) == (decision, mirrored)
    assert decide_level(low, high, 0.0) == (decision if low != 5e-324 else "undecided")
    assert Difference(before=0, after=0, value=0, low=low, high=high, n="", basis="").decision == decision
    assert MARGIN == 0.05


def test_the_rule_refuses_what_is_no_interval_and_no_margin():
    assert decide(-0.1, 0.1, margin=0.1) == "none"
    with pytest.raises(ConfigError, match=r"must not be above the high end, got 0\.2 and 0\.1"):
        decide(0.2, 0.1)
    for margin in (0.0, -0.05, math.nan, math.inf, "0.05"):
        with pytest.raises(ConfigError, match="margin must be a finite number above 0"):
            decide(0.0, 0.1, margin=margin)
    for end in ("0.1", True, [0.1]):
        with pytest.raises(ConfigError, match="high must be a number"):
            decide(0.0, end)
    assert decide(np.float32(0.1), torch.tensor(0.2)) == "more"
    assert decide(None, pd.NA) == decide(np.float32("nan"), 0.1) == "undecided"
    with pytest.raises(ConfigError, match="comparisons must be at least 1"):
        from_pairs([0, 1], [1, 1]).over(0)


def test_simultaneous_intervals_by_hand():
    # Agresti and Min with another quantile
    before, after = [0] * 4 + [1] + [0] * 10 + [1] * 5, [1] * 4 + [0] + [0] * 10 + [1] * 5
    pairs = from_pairs(before, after)
    center, half = (pairs.low + pairs.high) / 2, (pairs.high - pairs.low) / 2
    half *= norm.ppf(1 - 0.025 / 8) / norm.ppf(0.975)
    wide = pairs.over(8)
    assert (wide.low, wide.high) == pytest.approx((center - half, center + half))
    # each share on the scale of log-odds, then Zou and Donner
    low, high = (0.4, 0.25, 0.55), (0.7, 0.5, 0.85)
    made = from_intervals(low, high, n="", degrees=9).over(5)
    ratio = t.ppf(1 - 0.005, 9) / t.ppf(0.975, 9)

    def stretched(value, end):
        odds = [math.log(share / (1 - share)) for share in (value, end)]
        return 1 / (1 + math.exp(-(odds[0] + ratio * (odds[1] - odds[0]))))

    a_high, b_low = stretched(0.4, 0.55), stretched(0.7, 0.5)
    assert made.low == pytest.approx(0.3 - math.hypot(0.7 - b_low, a_high - 0.4))
    # over trainings: each part with its own quantile
    gaps = [0.1, 0.2, 0.3]
    sampling = from_intervals(low, high, n="", degrees=9)
    over = over_trainings([0.1, 0.1, 0.1], [0.2, 0.3, 0.4], sampling).over(5)
    own = t.ppf(1 - 0.005, 2) * np.std(gaps, ddof=1) / math.sqrt(3)
    assert over.high == pytest.approx(0.2 + math.hypot(own, made.high - made.value))
    for one in (pairs, sampling, over):
        assert repr(one.over(1).over(5)) == repr(one.over(5))  # since Python 3.13, NaN differs from NaN
        assert one.over(5).low <= one.over(1).low < one.over(1).high <= one.over(5).high


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (3, 0.1), (10, 0.1), (10, 0.0)])
def test_an_interval_over_seeds_contains_the_planted_difference(seeds, spread):
    """Seeds differ in mean and by instruction; each difference is measured on 36 instructions with 8 episodes."""
    generator = np.random.default_rng(7)
    truth, times, factor = 0.07, 600, t.ppf(0.975, 35) / 6
    found = []
    for _ in range(times):
        means = truth + spread * generator.standard_normal(seeds)
        cells = means[:, None] + 0.25 * generator.standard_normal((seeds, 36))
        cells = cells + 0.5 / np.sqrt(8) * generator.standard_normal((seeds, 36))
        ends = [
            (row.mean(), row.mean() - half, row.mean() + half) for row in cells if (half := factor * row.std(ddof=1))
        ]
        made = over_seeds([from_intervals((0.0, 0.0, 0.0), limits, n="288", degrees=35) for limits in ends])
        wide = made.over(4)
        found.append((made.low <= truth <= made.high, wide.low <= truth <= wide.high))
    single, four = np.mean(found, axis=0)
    assert single > 0.95 - 2 * np.sqrt(0.95 * 0.05 / times)
    assert four > 1 - 0.05 / 4 - 2 * np.sqrt(0.0125 / times)
    if seeds == 10:  # with two or three, the error of the episodes is often the larger one: 100 and 99 %
        assert single < (0.95 if spread else 0.99) + 2 * np.sqrt(0.95 * 0.05 / times)


def test_a_few_seeds_that_agree_by_chance_do_not_make_an_interval_of_width_zero():
    outcomes = [0, 1] * 20
    alike = [from_pairs([0] * 40, outcomes), from_pairs(outcomes, [1] * 40)]  # + 0.5 in both
    made = over_seeds(alike, what="seed pairs")
    error = np.sqrt(np.mean([((one.high - one.low) / 2 / 1.959964) ** 2 for one in alike]))
    assert made.value == 0.5
    assert made.high - made.value == pytest.approx(t.ppf(0.975, 1) * error / np.sqrt(2), rel=1e-5)
    assert made.decision == "undecided"
    assert over_seeds(alike * 5).decision == "more"


def test_one_seed_has_no_interval_and_shows_its_own():
    made = over_seeds([from_pairs([0] * 40, [1] * 40)], what="seed pairs")
    assert made.one_seed
    assert math.isnan(made.low)
    assert made.shown[0] > 0.8
    assert made.over(4).shown == made.shown
    assert (made.decision, made.n) == ("undecided", "1 seed pair on 40 episodes")
    assert answer(made) == "one pair, no answer"
    assert unsaid(made) == ""
    with pytest.raises(TooFewSamples, match="at least one seed"):
        over_seeds([])


def test_an_undecided_difference_names_the_one_that_would_have_been_seen():
    made = Difference(before=0.1, after=0.2, value=0.1, low=-0.1, high=0.3, n="", basis="", degrees=19)
    error = 0.2 / t.ppf(0.975, 19)
    assert made.seen == pytest.approx(detectable_difference(error, 20))
    assert unsaid(made) == f"one of {100 * made.seen:.0f} points would mostly have been seen"
    four = made.over(4)
    assert four.seen == pytest.approx(detectable_difference(error, 20, level=0.05 / 4))
    decided = Difference(before=0.1, after=0.2, value=0.1, low=0.05, high=0.3, n="", basis="")
    unknown = Difference(before=0.1, after=0.2, value=0.1, low=math.nan, high=math.nan, n="", basis="")
    assert unsaid(decided) == unsaid(unknown) == ""


def test_means_over_seeds_by_hand():
    table = pd.DataFrame(
        {"k": ["b", "a", "b"], "value": [0.2, 0.5, 0.4], "ci_low": [0.1, 0.4, 0.3], "ci_high": [0.3, 0.6, 0.6], "n": 7}
    )
    found = mean_over_seeds(table, ["k"])
    assert found["k"].tolist() == ["b", "a"]
    np.testing.assert_allclose(found[["value", "ci_low", "ci_high"]], [[0.3, 0.2, 0.45], [0.5, 0.4, 0.6]])
    assert found["n_trainings"].tolist() == [2, 1]
    assert found["sd_trainings"].iloc[0] == pytest.approx(math.sqrt(0.02))
    assert math.isnan(found["sd_trainings"].iloc[1])
    assert mean_over_seeds(table[:0], ["k"]).empty


def test_pairs_come_as_arrays_of_any_make_one_for_one():
    before, after = [0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]
    base = from_pairs(before, after)
    for make in (torch.tensor, pd.Series, lambda x: np.array(x, ">i2"), lambda x: np.array(x, bool)):
        assert repr(from_pairs(make(before), make(after))) == repr(base)
    with pytest.raises(FeatureError, match="after must hold one number for each of 6 rows"):
        from_pairs(before, after[:1])
    with pytest.raises(TooFewSamples, match="at least one pair"):
        over_trainings([], [], base)
