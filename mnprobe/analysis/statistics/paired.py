"""Two measurements of the same episodes: their difference, interval, block-flip test and what could be seen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.statistics._studentised import block_sums
from mnprobe.analysis.statistics.flips import flip_test
from mnprobe.analysis.statistics.power import detectable_difference, effective_blocks
from mnprobe.core.errors import ProbeError
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
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    blocks: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
    shares: bool = False,
    resamples: int = 1999,
    seed: int = 0,
) -> PairedContrast:
    """Mean of `one` minus mean of `other`, item by item (the claim and a control on the same episodes).

    Items that have no number on one side (NaN) are left out of both. Blocks are instructions. `shares` as in
    `cluster_jackknife_difference`. The test takes ten times `resamples` flips.

    Raises ProbeError when fewer than 2 blocks have items of both.

    >>> scores = np.linspace(0, 1, 16)
    >>> paired_contrast(scores + 0.25, scores, list("aabbccddeeffgghh"), resamples=99).value
    0.25
    """
    names = as_labels(blocks, len(one), "blocks").astype(str)
    if one.shape != other.shape or one.ndim != 1:
        raise ProbeError(f"both measurements must have one number per item, got {one.shape} and {other.shape}")
    mass = np.ones(len(one)) if weights is None else weights
    keep = ~np.isnan(one) & ~np.isnan(other) & (mass > 0)
    one, other, names, mass = one[keep], other[keep], names[keep], mass[keep]
    (codes,), _ = encode_labels(names)
    test = flip_test(one - other, names, weights=mass, resamples=10 * resamples, seed=seed)
    interval = cluster_jackknife_difference(one, other, names, weights=mass, shares=shares)
    error = standard_error(one, other, names, weights=mass)
    return PairedContrast(
        value=test.value,
        low=interval.low,
        high=interval.high,
        error=error,
        p=test.p,
        detectable=detectable_difference(error, effective_blocks(block_sums(mass, codes, test.n_blocks))),
        n=len(one),
        n_blocks=test.n_blocks,
        note=interval.note,
    )
