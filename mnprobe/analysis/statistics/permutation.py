"""Block permutation tests within and between instructions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.statistics._blocks import block_sums, matched, share_as_large, studentized
from mnprobe.core.arrays import Array, as_vector, as_weights, as_whole, power_near_one
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed

__all__ = ["Test", "flip_test", "permutation_test"]

_CELLS = 4_000_000  # numbers held at once


class Test(NamedTuple):
    """A two-sided p-value (b + 1) / (K + 1), the value tested, K, and the number of blocks that take part."""

    p: float
    value: float
    resamples: int
    n_blocks: int


def permutation_test(
    values: Array,
    labels: Labels,
    blocks: Labels,
    *,
    weights: Array | None = None,
    studentize: bool = True,
    resamples: int = 1999,
    seed: int = 0,
) -> Test:
    """Is mean(values | label) - mean(values | no label) larger than when labels are exchanged within blocks?

    The null hypothesis: within an instruction, the outcome says nothing about the score. The statistic is the weighted
    difference, divided by its standard error of leaving out one block at a time: scores that share a gallery depend on
    each other inside an instruction, and the plain difference would then be called significant too often (own probes:
    8 % in place of 5 %; benchmarks/calibration.py).

    Args:
        values: score of each item (n,).
        labels: True for one set (successes), False for the other.
        blocks: the instruction of each item. Blocks with one label only are left out: they say nothing.
        weights: of each item; within each block both labels must weigh the same (see `match_weights`, the default).
        studentize: divide by the standard error; False for the plain difference.
        resamples: K, permutations.
        seed: of the permutations.

    Raises:
        ProbeError: weights differ between the labels of a block, or fewer than 2 blocks have both labels.
        FeatureError: values that are not finite, labels that are no outcome, weights below 0.
        ConfigError: resamples or seed are impossible.

    Source: Good 2005, chapter 3; studentized: Janssen 1997, Chung and Romano 2013 (Annals of Statistics 41).

    >>> hit, blocks = np.array([1.0, 1, 0, 0] * 3), np.repeat(["a", "b", "c"], 4)
    >>> permutation_test(hit, np.array([True, True, False, False] * 3), blocks, studentize=False, resamples=199).value
    1.0
    """
    if as_whole(resamples, "resamples") < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples!r}")
    resamples = as_whole(resamples, "resamples")
    found = matched(values, labels, blocks, weights)
    (codes,), names = encode_labels(as_labels(found.blocks, len(found.values), "blocks"))
    if len(names) < 2:
        raise ProbeError(f"a permutation test needs 2 blocks that hold both labels, there are {len(names)}")
    order = np.argsort(codes, kind="stable")
    unit, of_weights = power_near_one(found.values), power_near_one(found.weights)
    codes, score = codes[order], found.values[order] * unit
    largest, apart = float(np.abs(score).max()), float(np.ptp(score))
    if 1e-12 * largest < apart < 1e-3 * largest:  # what all have in common weighs alike on both sides
        score = score - score.min()
    signed = (np.where(found.labels, found.weights, -found.weights) * of_weights)[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    mass = np.add.reduceat(np.abs(signed), starts) / 2
    scale = float(np.abs(score).max())
    rng = np.random.default_rng([check_seed(seed), 11])

    def statistic(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.add.reduceat(rows * signed, starts, axis=-1)
        return studentized(sums, mass, scale) if studentize else np.abs(sums.sum(-1) / mass.sum())

    drawn = []
    for start in range(0, resamples, max(1, _CELLS // len(score))):
        count = min(max(1, _CELLS // len(score)), resamples - start)
        keys = rng.random((count, len(score))) + codes  # sorting these exchanges within blocks and nowhere else
        drawn.append(statistic(score[np.argsort(keys, axis=1)]))
    p = share_as_large(float(statistic(score[None])[0]), np.concatenate(drawn))
    return Test(p, float(signed @ score / mass.sum()) / unit, resamples, len(names))


def flip_test(
    differences: Array,
    blocks: Labels,
    *,
    weights: Array | None = None,
    studentize: bool = True,
    resamples: int = 1999,
    seed: int = 0,
) -> Test:
    """Is the weighted mean of differences 0, when whole blocks change sign at random?

    The null hypothesis: in an instruction drawn at random, a difference of either sign is as likely. Episodes of one
    instruction need not be independent, and instructions may differ in how large their difference is. With G blocks no
    p below 2 / 2^G is possible: 6 instructions are the least for p < 0.05.

    Args:
        differences: one number per item (n,), such as score with minus score without the instruction; for unpaired
            items of two sets see `outcome_contrast`.
        blocks: the instruction of each item.
        weights: of each item in the mean; equal when not given.
        studentize: divide by the standard error of leaving out one block; False for the plain mean.
        resamples: K, random signs for all blocks.
        seed: of the signs.

    Raises ProbeError with fewer than 2 blocks, ConfigError when resamples < 1, FeatureError for counts that differ, for
    numbers that are not finite, and for weights below 0.
    Source: Fisher 1935, section 21; Cameron, Gelbach and Miller 2008 (wild cluster bootstrap, null imposed).

    >>> flip_test(np.ones(12), list("abcdefghijkl"), resamples=999).p < 0.01
    True
    """
    if as_whole(resamples, "resamples") < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples!r}")
    found = as_vector(differences, "differences", finite=True)
    (codes,), names = encode_labels(as_labels(blocks, len(found), "blocks"))
    mass = as_weights(weights, len(found))
    mass = mass * power_near_one(mass)
    unit = power_near_one(found)
    test = flip_sums(
        block_sums(found * unit * mass, codes, len(names)),
        block_sums(mass, codes, len(names)),
        studentize=studentize,
        resamples=as_whole(resamples, "resamples"),
        seed=check_seed(seed),
    )
    return test._replace(value=test.value / unit)


def flip_sums(
    sums: NDArray[np.float64], weights: NDArray[np.float64], *, studentize: bool, resamples: int, seed: int
) -> Test:
    """`flip_test` on the weighted sum of the differences of each block and its weight."""
    used = weights > 0
    sums, weights = sums[used], weights[used]
    if len(sums) < 2:
        raise ProbeError(f"a test that flips blocks needs at least 2 of them, there are {len(sums)}")
    signs = 2.0 * np.random.default_rng([seed, 12]).integers(0, 2, size=(resamples, len(sums))) - 1.0
    both = np.concatenate([sums[None], signs * sums])
    scale = float(np.abs(sums).sum() / weights.sum())
    statistic = studentized(both, weights, scale) if studentize else np.abs(both.sum(-1) / weights.sum())
    p = share_as_large(float(statistic[0]), statistic[1:])
    return Test(p, float(sums.sum() / weights.sum()), resamples, len(sums))
