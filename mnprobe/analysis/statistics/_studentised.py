"""Inside helper: a weighted mean of block contributions, divided by its own jackknife error; many rows at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []

_SAME = 1e-9


def block_sums(values: NDArray[Any], codes: NDArray[np.int64], blocks: int) -> NDArray[np.float64]:
    """The sum of the values of each block, blocks numbered from 0."""
    return np.bincount(codes, values.astype(np.float64), blocks).astype(np.float64)


def studentised(sums: NDArray[np.float64], weights: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """|mean| over its delete-one-block standard error, for rows of block sums (..., blocks) and weights (blocks,).

    Errors below 1e-9 of `scale`, the size of the values, count as that much: where all blocks agree, larger means still
    have larger statistics.
    """
    blocks = sums.shape[-1]
    total, mass = sums.sum(-1, keepdims=True), weights.sum()
    mean = total / mass
    left_out = (total - sums) / (mass - weights)
    error = np.sqrt((blocks - 1) / blocks * ((left_out - mean) ** 2).sum(-1))
    size = np.abs(mean[..., 0])
    least = _SAME * (scale if scale > 0 else 1.0)
    return np.asarray(np.where(size <= least, 0.0, size / np.maximum(error, least)), dtype=np.float64)


def share_as_large(found: float, drawn: NDArray[np.float64]) -> float:
    """(b + 1) / (K + 1), b of K drawn statistics being as large as the found one (but for rounding)."""
    as_large = int((drawn >= found - _SAME * max(1.0, abs(found))).sum())
    return (as_large + 1) / (len(drawn) + 1)
