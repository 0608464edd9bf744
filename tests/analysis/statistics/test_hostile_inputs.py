"""Every public function of the statistics, given numbers of every make and size: the right value, or a refusal."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

import mnprobe.analysis.statistics as statistics
from mnprobe.analysis.audit.decomposition import oracle_recall
from mnprobe.analysis.statistics import (
    benjamini_hochberg,
    chance_recall,
    cluster_jackknife,
    cluster_jackknife_difference,
    detectable_difference,
    effective_blocks,
    expected_error,
    flip_test,
    holm,
    match_weights,
    outcome_contrast,
    paired_contrast,
    permutation_test,
    power_at,
    standard_error,
    wilson_interval,
)
from mnprobe.core.errors import ConfigError, FeatureError, MnprobeError

BLOCKS = list("aaabbbcccddd")
MARKS = np.array([True, False, True, False, True, False, True, True, False, False, False, True])
VALUES = np.array([4.0, 1, 7, 2, 9, 3, 8, 6, 5, 0, 2, 9])
OTHER = np.array([3.0, 2, 5, 2, 7, 4, 6, 7, 1, 1, 2, 8])
WEIGHTS = np.array([1.0, 2, 1, 2, 2, 1, 3, 1, 1, 1, 2, 2])

MAKES = {
    "float16": lambda x: x.astype("f2"),
    "big-endian": lambda x: x.astype(">f4"),
    "uint8": lambda x: x.astype("u1"),
    "negative strides": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "list": lambda x: x.tolist(),
    "Series": lambda x: pd.Series(x, index=range(9, 9 + len(x))),
    "nullable": lambda x: pd.Series(x, dtype="Float64"),
    "tensor": torch.tensor,
    "bfloat16 with gradient": lambda x: torch.tensor(x).bfloat16().requires_grad_(),
}
OUTCOMES = {
    "bools": lambda x: x,
    "list": lambda x: x.tolist(),
    "uint8": lambda x: x.astype("u1"),
    "floats": lambda x: x.astype(float),
    "text": lambda x: [str(one).lower() for one in x],
    "tensor": torch.tensor,
    "Series": lambda x: pd.Series(x, index=range(50, 50 + len(x))),
    "nullable": lambda x: pd.Series(x, dtype="boolean"),
}


def slow_difference(values, marks, blocks, weights):
    """Weighted mean over blocks of mean(successes) - mean(failures), the block's weight that of one side."""
    total = mass = 0.0
    for block in set(blocks):
        rows = [i for i, name in enumerate(blocks) if name == block]
        sides = [[i for i in rows if marks[i] == side] for side in (True, False)]
        if all(sides):
            one, other = (sum(values[i] * weights[i] for i in side) for side in sides)
            total, mass = total + one - other, mass + sum(weights[i] for i in sides[0])
    return total / mass


def slow_match(marks, blocks):
    counts = [
        sum(1 for m, b in zip(marks, blocks, strict=True) if (m, b) == one) for one in zip(marks, blocks, strict=True)
    ]
    others = [
        sum(1 for m, b in zip(marks, blocks, strict=True) if (m, b) == (not one[0], one[1]))
        for one in zip(marks, blocks, strict=True)
    ]
    return [min(own, other) / own for own, other in zip(counts, others, strict=True)]


def slow_error(differences, blocks, weights):
    def mean(left_out):
        rows = [i for i, name in enumerate(blocks) if name != left_out]
        return sum(differences[i] * weights[i] for i in rows) / sum(weights[i] for i in rows)

    names = sorted(set(blocks))
    return math.sqrt((len(names) - 1) / len(names) * sum((mean(name) - mean(None)) ** 2 for name in names))


def paired(v, m, b, w):
    found = paired_contrast(v, OTHER, b, weights=w, resamples=49)
    return [found.value, found.error, found.p]


def outcome(v, m, b, w):
    found = outcome_contrast(v, m, b, resamples=49)
    return [found.value, found.error, (found.low + found.high) / 2, found.p_within, found.p_blocks]


CALLS = {  # name: call of (values, marks, blocks, weights)
    "flip_test": lambda v, m, b, w: list(flip_test(v, b, weights=w, resamples=99)),
    "permutation_test": lambda v, m, b, w: list(permutation_test(v, m, b, resamples=99)),
    "paired_contrast": paired,
    "outcome_contrast": outcome,
    "match_weights": lambda v, m, b, w: match_weights(m, b).tolist(),
    "effective_blocks": lambda v, m, b, w: [effective_blocks(w)],
    "expected_error": lambda v, m, b, w: [expected_error(m, b, rate=0.5, weights=w, spread=0.1)],
    "holm": lambda v, m, b, w: holm(w).tolist() if np.size(w) else [],
    "benjamini_hochberg": lambda v, m, b, w: benjamini_hochberg(w).tolist(),
    "cluster_jackknife": lambda v, m, b, w: list(cluster_jackknife(v, b, weights=w)[:2]),
    "cluster_jackknife_difference": lambda v, m, b, w: list(cluster_jackknife_difference(v, OTHER, b, weights=w)[:2]),
    "standard_error": lambda v, m, b, w: [standard_error(v, OTHER, b, weights=w)],
    "chance_recall": lambda v, m, b, w: [chance_recall(b)],
}
NUMBERS_ONLY = {"detectable_difference", "power_at", "wilson_interval"}
RESULTS = {"Interval", "OutcomeContrast", "PairedContrast", "Test"}


def test_every_public_name_is_in_a_table_here():
    assert sorted([*CALLS, *NUMBERS_ONLY, *RESULTS]) == sorted(statistics.__all__)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_every_make(name, make):
    weights = np.array([0.0, 1.0] * 6) if name in ("holm", "benjamini_hochberg") else WEIGHTS
    found = CALLS[name](MAKES[make](VALUES), MARKS, BLOCKS, MAKES[make](weights))
    assert_allclose(found, CALLS[name](VALUES, MARKS, BLOCKS, weights), rtol=1e-12)


@pytest.mark.parametrize("make", OUTCOMES)
@pytest.mark.parametrize("name", ["permutation_test", "outcome_contrast", "match_weights", "expected_error"])
def test_outcomes_of_every_make(name, make):
    assert CALLS[name](VALUES, OUTCOMES[make](MARKS), BLOCKS, WEIGHTS) == CALLS[name](VALUES, MARKS, BLOCKS, WEIGHTS)


def test_values_are_those_of_the_loops():
    weights = slow_match(MARKS, BLOCKS)
    assert_allclose(match_weights(MARKS.tolist(), BLOCKS), weights)
    value = slow_difference(VALUES, MARKS, BLOCKS, weights)
    assert permutation_test(VALUES.astype("u1"), MARKS, BLOCKS, resamples=9).value == pytest.approx(value)
    assert outcome_contrast(torch.tensor(VALUES), MARKS, BLOCKS, resamples=9).value == pytest.approx(value)
    found = paired_contrast(VALUES.astype("u1"), OTHER.astype("u1"), BLOCKS, weights=WEIGHTS.tolist(), resamples=9)
    difference = VALUES - OTHER
    assert found.value == pytest.approx(np.average(difference, weights=WEIGHTS))
    assert found.error == pytest.approx(slow_error(difference, BLOCKS, WEIGHTS))
    assert effective_blocks([2, 1, 1]) == pytest.approx(16 / 6)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300])
def test_scale_changes_no_p_and_scales_the_rest(scale):
    differences = VALUES - OTHER
    plain = flip_test(differences, BLOCKS, resamples=99)
    found = flip_test(differences * scale, BLOCKS, resamples=99)
    assert (found.p, found.value / scale) == pytest.approx((plain.p, plain.value))
    plain, found = (permutation_test(VALUES * one, MARKS, BLOCKS, resamples=99) for one in (1, scale))
    assert (found.p, found.value / scale) == pytest.approx((plain.p, plain.value))
    plain, found = (outcome_contrast(VALUES * one, MARKS, BLOCKS, resamples=99) for one in (1, scale))
    assert (found.p_within, found.p_blocks) == (plain.p_within, plain.p_blocks)
    for name in ("value", "low", "high", "error", "detectable"):
        assert getattr(found, name) / scale == pytest.approx(getattr(plain, name), rel=1e-9)
    plain, found = (paired_contrast(VALUES * one, OTHER * one, BLOCKS, resamples=9) for one in (1, scale))
    for name in ("value", "low", "high", "error", "detectable"):
        assert getattr(found, name) / scale == pytest.approx(getattr(plain, name), rel=1e-9)
    assert found.p == plain.p
    assert effective_blocks(WEIGHTS * scale) == pytest.approx(effective_blocks(WEIGHTS))
    weights = np.where(MARKS, 1.0, 1.0) * match_weights(MARKS, BLOCKS)
    assert expected_error(MARKS, BLOCKS, rate=0.5, weights=weights * scale) == pytest.approx(
        expected_error(MARKS, BLOCKS, rate=0.5, weights=weights)
    )


@pytest.mark.parametrize("offset", [1e5, 1e9, -1e9])
def test_an_offset_of_all_scores_changes_no_test(offset):
    plain, found = (permutation_test(VALUES + one, MARKS, BLOCKS, resamples=199) for one in (0, offset))
    assert found.p == plain.p
    assert found.value == pytest.approx(plain.value, rel=1e-5)
    plain, found = (outcome_contrast(VALUES + one, MARKS, BLOCKS, resamples=99) for one in (0, offset))
    assert (found.p_within, found.p_blocks) == (plain.p_within, plain.p_blocks)
    assert (found.value, found.error) == pytest.approx((plain.value, plain.error), rel=1e-5)


def test_weights_that_differ_are_told_at_every_scale():
    for scale in (1e-30, 1.0, 1e30):
        with pytest.raises(MnprobeError, match="weigh the same in every block"):
            permutation_test(VALUES, MARKS, BLOCKS, weights=scale * WEIGHTS)


WRONG = {
    "values": [VALUES[:5], VALUES[:, None], np.where(VALUES == 4, np.inf, VALUES), ["a"] * 12, None],
    "marks": [MARKS[:5], [None, *MARKS[1:]], [2, *MARKS[1:]], ["maybe"] * 12, VALUES / 9],
    "blocks": [BLOCKS[:5], [None, *BLOCKS[1:]], ["", *BLOCKS[1:]], "a"],
    "weights": [WEIGHTS[:5], -WEIGHTS, WEIGHTS * np.nan, WEIGHTS * np.inf, ["a"] * 12, np.zeros(12)],
}
USED = {
    "flip_test": ("values", "blocks", "weights"),
    "permutation_test": ("values", "marks", "blocks"),
    "paired_contrast": ("values", "blocks", "weights"),
    "outcome_contrast": ("values", "marks", "blocks"),
    "match_weights": ("marks", "blocks"),
    "expected_error": ("marks", "blocks", "weights"),
    "cluster_jackknife": ("blocks", "weights"),
    "standard_error": ("values", "blocks", "weights"),
}


@pytest.mark.parametrize("name", USED)
def test_what_does_not_fit_is_refused(name):
    for part in USED[name]:
        for wrong in WRONG[part]:
            given = {"values": VALUES, "marks": MARKS, "blocks": BLOCKS, "weights": WEIGHTS} | {part: wrong}
            if name in ("paired_contrast", "standard_error") and part == "values" and np.ndim(wrong) == 2:
                continue
            if name == "expected_error" and part == "weights" and not np.any(wrong):
                continue
            with pytest.raises(MnprobeError):
                print(name, part, wrong, CALLS[name](*given.values()))


def test_a_missing_number_is_no_p_of_one_in_a_hundred():
    missing = np.where(VALUES == 4, np.nan, VALUES)
    for call in (lambda: flip_test(missing, BLOCKS), lambda: permutation_test(missing, MARKS, BLOCKS)):
        with pytest.raises(FeatureError, match="1 of 12 rows hold NaN or infinity, the first is row 0"):
            call()
    assert paired_contrast(missing, OTHER, BLOCKS, resamples=9).n == 11


@pytest.mark.parametrize("wrong", [1.5, "5", True, math.nan, None, 0, -1, [9]], ids=repr)
def test_settings_that_cannot_be_are_refused(wrong):
    calls = [
        lambda: flip_test(VALUES, BLOCKS, resamples=wrong),
        lambda: permutation_test(VALUES, MARKS, BLOCKS, resamples=wrong),
        lambda: outcome_contrast(VALUES, MARKS, BLOCKS, resamples=wrong),
        lambda: paired_contrast(VALUES, OTHER, BLOCKS, resamples=wrong),
        lambda: cluster_jackknife(VALUES, BLOCKS, level=wrong),
        lambda: detectable_difference(0.1, 9, power=wrong),
        lambda: power_at(0.1, 0.1, 9, level=wrong),
        lambda: expected_error(MARKS, BLOCKS, rate=-1 if wrong == 0 else wrong),
    ]
    if wrong != 0:
        calls += [
            lambda: flip_test(VALUES, BLOCKS, resamples=9, seed=wrong),
            lambda: permutation_test(VALUES, MARKS, BLOCKS, resamples=9, seed=wrong),
            lambda: outcome_contrast(VALUES, MARKS, BLOCKS, resamples=9, seed=wrong),
            lambda: paired_contrast(VALUES, OTHER, BLOCKS, resamples=9, seed=wrong),
        ]
    for place, call in enumerate(calls):
        with pytest.raises(ConfigError):
            print("call", place, "took", call())
    with pytest.raises(MnprobeError):
        wilson_interval(wrong, 9) if wrong != 0 else wilson_interval(0, 0)
    if wrong in (1.5, 0, -1):
        return
    for call in (lambda: power_at(wrong, 0.1, 9), lambda: detectable_difference(0.1, wrong)):
        with pytest.raises(ConfigError):
            call()


def test_numbers_of_every_make_are_settings():
    assert flip_test(VALUES, BLOCKS, resamples=np.int64(99), seed=np.uint8(3)) == flip_test(
        VALUES, BLOCKS, resamples=99, seed=3
    )
    assert wilson_interval(np.int64(8), torch.tensor(10)) == wilson_interval(8, 10)
    assert power_at(torch.tensor(0.5), np.float64(0.25), np.int64(9)) == power_at(0.5, 0.25, 9)
    assert math.isnan(detectable_difference(math.nan, 9))


def test_few_items():
    for rows in (0, 1, 2):
        for call in (flip_test, lambda v, b: permutation_test(v, MARKS[: len(v)], b)):
            with pytest.raises(MnprobeError):
                call(VALUES[:rows], BLOCKS[:rows])
        with pytest.raises(MnprobeError):
            paired_contrast(VALUES[:rows], OTHER[:rows], BLOCKS[:rows])
    assert match_weights([], []).tolist() == []
    assert holm([]).tolist() == []
    assert effective_blocks([]) == 0.0
    assert oracle_recall(pd.Series([1.0, 1, 2, 2], index=[5, 6, 7, 8]), torch.tensor([1, 1, 2, 2])) == 1.0
    with pytest.raises(MnprobeError, match="4 rows, 2 labels"):
        oracle_recall(list("aabb"), list("ab"))
