"""Block permutation: outcomes drawn anew among the episodes of each instruction."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.statistics._studentised import share_as_large, studentised
from mnprobe.analysis.statistics.matching import matched
from mnprobe.core.arrays import Array, as_whole, power_near_one
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed

__all__ = ["Test", "permutation_test"]

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
    studentise: bool = True,
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
        studentise: divide by the standard error; False for the plain difference.
        resamples: K, permutations.
        seed: of the permutations.

    Raises:
        ProbeError: weights differ between the labels of a block, or fewer than 2 blocks have both labels.
        FeatureError: values that are not finite, labels that are no outcome, weights below 0.
        ConfigError: resamples or seed are impossible.

    Source: Good 2005, chapter 3; studentised: Janssen 1997, Chung and Romano 2013 (Annals of Statistics 41).

    >>> hit, blocks = np.array([1.0, 1, 0, 0] * 3), np.repeat(["a", "b", "c"], 4)
    >>> permutation_test(hit, np.array([True, True, False, False] * 3), blocks, studentise=False, resamples=199).value
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
        return studentised(sums, mass, scale) if studentise else np.abs(sums.sum(-1) / mass.sum())

    drawn = []
    for start in range(0, resamples, max(1, _CELLS // len(score))):
        count = min(max(1, _CELLS // len(score)), resamples - start)
        keys = rng.random((count, len(score))) + codes  # sorting these exchanges within blocks and nowhere else
        drawn.append(statistic(score[np.argsort(keys, axis=1)]))
    p = share_as_large(float(statistic(score[None])[0]), np.concatenate(drawn))
    return Test(p, float(signed @ score / mass.sum()) / unit, resamples, len(names))
