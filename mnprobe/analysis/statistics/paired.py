"""Two measurements of the same episodes: their difference, interval, block-flip test and what could be seen."""

from dataclasses import dataclass

import numpy as np

from mnprobe.analysis.statistics._studentised import block_sums
from mnprobe.analysis.statistics.flips import flip_test
from mnprobe.analysis.statistics.power import detectable_of, effective_blocks
from mnprobe.core.arrays import Array, as_array, as_weights, as_whole
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe.uncertainty import cluster_jackknife_difference, standard_error

__all__ = ["PairedContrast", "paired_contrast"]


@dataclass(frozen=True, kw_only=True)
class PairedContrast:
    """Mean of one minus mean of the other over the same items; fields as in `OutcomeContrast`."""

    value: float
    low: float
    high: float
    error: float
    p: float
    detectable: float
    n: int
    n_blocks: int
    note: str


def paired_contrast(
    one: Array,
    other: Array,
    blocks: Labels,
    *,
    weights: Array | None = None,
    shares: bool = False,
    resamples: int = 1999,
    seed: int = 0,
) -> PairedContrast:
    """Mean of `one` minus mean of `other`, item by item (the claim and a control on the same episodes).

    Items that have no number on one side (NaN) are left out of both. Blocks are instructions. `shares` as in
    `cluster_jackknife_difference`. The test takes ten times `resamples` flips.

    Raises ProbeError when fewer than 2 blocks have items of both, FeatureError for infinite numbers, counts that differ
    or weights below 0.

    >>> scores = np.linspace(0, 1, 16)
    >>> paired_contrast(scores + 0.25, scores, list("aabbccddeeffgghh"), resamples=99).value
    0.25
    """
    if as_whole(resamples, "resamples") < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples!r}")
    first, second = as_array(one, "one").astype(np.float64), as_array(other, "other").astype(np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ProbeError(f"both measurements must have one number per item, got {first.shape} and {second.shape}")
    endless = np.flatnonzero(np.isinf(first) | np.isinf(second))
    if len(endless):
        raise FeatureError(f"{len(endless)} items have infinite numbers, the first is row {endless[0]}")
    names = as_labels(blocks, len(first), "blocks").astype(str)
    mass = as_weights(weights, len(first))
    keep = ~np.isnan(first) & ~np.isnan(second) & (mass > 0)
    first, second, names, mass = first[keep], second[keep], names[keep], mass[keep]
    if not len(names):
        raise ProbeError(f"none of {len(keep)} items has a number on both sides")
    (codes,), _ = encode_labels(names)
    resamples = 10 * as_whole(resamples, "resamples")
    test = flip_test(first - second, names, weights=mass, resamples=resamples, seed=seed)
    interval = cluster_jackknife_difference(first, second, names, weights=mass, shares=shares)
    error = standard_error(first, second, names, weights=mass)
    return PairedContrast(
        value=test.value,
        low=interval.low,
        high=interval.high,
        error=error,
        p=test.p,
        detectable=detectable_of(first - second, error, effective_blocks(block_sums(mass, codes, test.n_blocks))),
        n=len(first),
        n_blocks=test.n_blocks,
        note=interval.note,
    )
