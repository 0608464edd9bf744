"""Block permutation and block flips: against scipy, against every arrangement, and their laws."""

import itertools

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_test

from mnprobe.analysis.statistics import flip_test, match_weights, outcome_contrast, paired_contrast, permutation_test
from mnprobe.core.errors import ConfigError, ProbeError


@pytest.fixture
def data(rng):
    blocks = np.repeat(list("abcdef"), 8)
    labels = np.tile([True, True, True, False, False, False, False, False], 6)
    return rng.random(48) + 0.1 * labels, labels, blocks


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_one_block_pair_is_scipys_independent_test(rng):
    """With two copies of one block that move apart, only the plain difference of a single block has a scipy twin."""
    values, labels = rng.random(9), np.array([True] * 4 + [False] * 5)
    scipys = scipy_test(
        (values[labels], values[~labels]),
        lambda x, y: abs(x.mean() - y.mean()),
        alternative="greater",
        n_resamples=np.inf,
    ).pvalue
    blocks = np.array(["a"] * 9 + ["b"] * 2)  # the second block is constant and adds nothing
    both = np.r_[values, 0.5, 0.5]
    found = permutation_test(
        both, np.r_[labels, True, False], blocks, studentize=False, resamples=20000, seed=1,
        weights=np.r_[np.where(labels, 5 / 4, 1.0), 1e-9, 1e-9],
    )  # fmt: skip
    assert found.p == pytest.approx(scipys, abs=0.012)


def test_exchange_within_blocks_is_every_arrangement(rng):
    """Three blocks of 2 + 1: the plain statistic over all 27 arrangements."""
    values, blocks = rng.random(9), np.repeat(list("abc"), 3)
    labels = np.tile([True, False, False], 3)
    weights = match_weights(labels, blocks)
    signed = np.where(labels, weights, -weights)
    observed = abs(signed @ values)
    arranged = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=3):
        rows = np.concatenate([np.array(order) + 3 * k for k, order in enumerate(orders)])
        arranged.append(abs(signed @ values[rows]) >= observed - 1e-12)
    found = permutation_test(values, labels, blocks, studentize=False, resamples=20000)
    assert found.p == pytest.approx(np.mean(arranged), abs=0.012)
    assert found.value == pytest.approx(signed @ values / 3)


@pytest.mark.parametrize("studentize", [True, False])
def test_flips_are_all_signs(rng, studentize):
    values, blocks = rng.random(10) - 0.3, list("aabbccddee")
    sums = values.reshape(5, 2).sum(1)

    def statistic(d):
        if not studentize:
            return abs(d.sum())
        without = [(d.sum() - one) / 8 for one in d]
        error = np.sqrt(4 / 5 * sum((one - d.sum() / 10) ** 2 for one in without))
        return abs(d.sum() / 10) / error

    every = [statistic(sums * np.array(signs)) for signs in itertools.product([1, -1], repeat=5)]
    exact = np.mean(np.array(every) >= statistic(sums) - 1e-9)
    found = flip_test(values, blocks, studentize=studentize, resamples=20000)
    assert found.p == pytest.approx(exact, abs=0.012)
    assert found.n_blocks == 5


def test_the_least_p_is_one_over_k_plus_one(data):
    _, labels, blocks = data
    values = labels.astype(float)
    assert permutation_test(values, labels, blocks, resamples=99).p == pytest.approx(0.01)
    assert flip_test(np.ones(30), np.repeat(np.arange(30), 1), resamples=199).p == pytest.approx(1 / 200)


def test_equal_values_give_one(data):
    _, labels, blocks = data
    assert permutation_test(np.full(48, 0.7), labels, blocks, resamples=49).p == 1.0
    assert flip_test(np.zeros(8), list("aabbccdd"), resamples=49).p == 1.0


def test_names_of_blocks_order_of_items_and_scale_change_nothing(data, rng):
    values, labels, blocks = data
    found = permutation_test(values, labels, blocks, resamples=999)
    order = rng.permutation(48)
    again = permutation_test(values[order], labels[order], blocks[order], resamples=999)
    assert again.value == pytest.approx(found.value)
    assert again.p == pytest.approx(found.p, abs=0.06)
    assert permutation_test(3 + 2 * values, labels, blocks, resamples=999).p == found.p
    assert permutation_test(values, ~labels, blocks, resamples=999).value == pytest.approx(-found.value)


def test_seed_and_number_of_resamples_arrive(data):
    values, labels, blocks = data
    same, other = (permutation_test(values, labels, blocks, resamples=199, seed=seed).p for seed in (0, 5))
    assert same == permutation_test(values, labels, blocks, resamples=199).p != other
    ends = values[::-1] + 0.03
    assert len({paired_contrast(values, ends, blocks, resamples=99, seed=seed).p for seed in range(6)}) > 1
    with pytest.raises(ConfigError, match="resamples"):
        permutation_test(values, labels, blocks, resamples=0)


def test_many_items_are_done_in_parts(monkeypatch, data):
    import mnprobe.analysis.statistics.permutation as module

    values, labels, blocks = data
    whole = permutation_test(values, labels, blocks, resamples=50)
    monkeypatch.setattr(module, "_CELLS", 48 * 7)
    assert permutation_test(values, labels, blocks, resamples=50) == whole


def test_blocks_with_one_outcome_are_left_out_and_unequal_weights_refused(data):
    values, labels, blocks = data
    longer = permutation_test(np.r_[values, 9.0], np.r_[labels, True], np.append(blocks, "g"), resamples=99)
    assert longer.value == pytest.approx(permutation_test(values, labels, blocks, resamples=99).value)
    with pytest.raises(ProbeError, match="weigh the same in every block"):
        permutation_test(values, labels, blocks, weights=np.ones(48))
    with pytest.raises(ProbeError, match="there are 1"):
        permutation_test(values[:8], labels[:8], blocks[:8])


def test_a_contrast_holds_all_of_it_together(data):
    values, labels, blocks = data
    found = outcome_contrast(values, labels, blocks, resamples=499)
    slow = np.mean([values[labels & (blocks == b)].mean() - values[~labels & (blocks == b)].mean() for b in "abcdef"])
    assert found.value == pytest.approx(slow)
    assert found.low < found.value < found.high
    assert (found.n_one, found.n_other, found.n_blocks) == (18, 30, 6)
    assert found.detectable > 2 * found.error
    assert found.p_within == permutation_test(values, labels, blocks, resamples=499).p


def test_one_instruction_gives_a_difference_and_no_test(data):
    values, labels, blocks = (one[:8] for one in data)
    found = outcome_contrast(values, labels, blocks)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.p_blocks, found.p_within, found.detectable]).all()
    assert "one instruction only" in found.note
    with pytest.raises(ProbeError, match="nothing to compare"):
        outcome_contrast(values, np.ones(8, bool), blocks)


def test_paired_items_without_a_number_are_left_out():
    one, other = np.array([1.0, np.nan, 0.5, 0.7]), np.array([0.5, 0.2, 0.5, np.nan])
    found = paired_contrast(one, other, list("aabb"), resamples=19)
    assert (found.value, found.n, found.n_blocks) == (0.25, 2, 2)
    with pytest.raises(ProbeError, match="one number per item"):
        paired_contrast(one, other[:2], list("aabb"))
