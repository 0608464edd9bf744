"""Private helpers: studentized block means, and weights of matched blocks."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, as_array, as_weights, check_finite
from mnprobe.core.errors import FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, as_outcomes, encode_labels

__all__ = ["Matched", "as_marks", "match_weights", "matched"]

_SAME = 1e-9


def block_sums(values: NDArray[Any], codes: NDArray[np.int64], blocks: int) -> NDArray[np.float64]:
    """The sum of the values of each block, blocks numbered from 0."""
    return np.bincount(codes, values.astype(np.float64), blocks).astype(np.float64)


def studentized(sums: NDArray[np.float64], weights: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
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


class Matched(NamedTuple):
    """Items of the blocks that hold both labels, both labels weighing the same in each block."""

    values: NDArray[np.float64]
    labels: NDArray[np.bool_]
    blocks: NDArray[np.str_]
    weights: NDArray[np.float64]


def match_weights(labels: Labels, blocks: Labels) -> NDArray[np.float64]:
    """Weights under which both labels weigh min(ones, others) in every block; 0 in blocks that hold one label only.

    Raises FeatureError for labels that are no outcome (True or False, 1 or 0), and for counts that differ.

    >>> match_weights(np.array([True, False, False, True]), ["a", "a", "a", "b"]).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    marks = as_marks(labels)
    (codes,), names = encode_labels(as_labels(blocks, len(marks), "blocks"))
    ones = block_sums(marks, codes, len(names))
    others = block_sums(~marks, codes, len(names))
    least = np.minimum(ones, others)
    own = np.where(marks, ones[codes], others[codes])
    return np.asarray(least[codes] / own, dtype=np.float64)


def as_marks(labels: Labels, rows: int | None = None) -> NDArray[np.bool_]:
    """Outcomes of any make as True and False; FeatureError for one that is not known."""
    outcomes = as_outcomes(labels, rows, "labels")
    unknown = np.flatnonzero(outcomes < 0)
    if len(unknown):
        raise FeatureError(
            f"labels: {len(unknown)} of {len(outcomes)} are not known, the first in row {unknown[0]}; leave these "
            "items out"
        )
    return np.asarray(outcomes == 1)


def matched(values: Array, labels: Labels, blocks: Labels, weights: Array | None) -> Matched:
    """Check and keep what can be compared.

    Raises ProbeError when counts differ, or weights differ between the labels of a block; FeatureError for values that
    are not finite, labels that are no outcome, and weights below 0.
    """
    found = as_array(values, "values").astype(np.float64)
    marks = as_marks(labels)
    if found.ndim != 1 or len(marks) != len(found) or (weights is not None and np.shape(weights) != found.shape):
        raise ProbeError(f"values, labels and weights must be one number per item, got {found.shape}, {marks.shape}")
    check_finite(found[:, None], "values")
    names = as_labels(blocks, len(found), "blocks").astype(str)
    mass = match_weights(marks, names) if weights is None else as_weights(weights, len(found))
    (codes,), labels_of_blocks = encode_labels(names)
    one, other = (
        block_sums(np.where(marks == side, mass, 0.0), codes, len(labels_of_blocks)) for side in (True, False)
    )
    if not np.allclose(one, other, rtol=1e-6, atol=1e-12 * max(float(mass.max(initial=0.0)), 1e-300)):
        worst = int(np.argmax(np.abs(one - other)))
        raise ProbeError(
            f"both sets must weigh the same in every block; {labels_of_blocks[worst]!r} has {one[worst]:.4g} and "
            f"{other[worst]:.4g}. match_weights makes such weights"
        )
    keep = mass > 0
    return Matched(found[keep], marks[keep], names[keep], mass[keep])
