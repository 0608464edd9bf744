"""Block permutation with instructions as blocks: the two sides of whole instructions change places."""

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.statistics._studentised import block_sums, share_as_large, studentised
from mnprobe.analysis.statistics.permutation import Test
from mnprobe.core.arrays import Array, as_vector, as_weights, as_whole, power_near_one
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed

__all__ = ["flip_test"]


def flip_test(
    differences: Array,
    blocks: Labels,
    *,
    weights: Array | None = None,
    studentise: bool = True,
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
        studentise: divide by the standard error of leaving out one block; False for the plain mean.
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
        studentise=studentise,
        resamples=as_whole(resamples, "resamples"),
        seed=check_seed(seed),
    )
    return test._replace(value=test.value / unit)


def flip_sums(
    sums: NDArray[np.float64], weights: NDArray[np.float64], *, studentise: bool, resamples: int, seed: int
) -> Test:
    """`flip_test` on the weighted sum of the differences of each block and its weight."""
    used = weights > 0
    sums, weights = sums[used], weights[used]
    if len(sums) < 2:
        raise ProbeError(f"a test that flips blocks needs at least 2 of them, there are {len(sums)}")
    signs = 2.0 * np.random.default_rng([seed, 12]).integers(0, 2, size=(resamples, len(sums))) - 1.0
    both = np.concatenate([sums[None], signs * sums])
    scale = float(np.abs(sums).sum() / weights.sum())
    statistic = studentised(both, weights, scale) if studentise else np.abs(both.sum(-1) / weights.sum())
    p = share_as_large(float(statistic[0]), statistic[1:])
    return Test(p, float(sums.sum() / weights.sum()), resamples, len(sums))
