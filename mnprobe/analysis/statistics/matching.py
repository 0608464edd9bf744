"""Comparing like with like: weights under which two sets weigh the same in every block."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.statistics._studentised import block_sums
from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["Matched", "match_weights", "matched"]


class Matched(NamedTuple):
    """Items of the blocks that hold both labels, both labels weighing the same in each block."""

    values: NDArray[np.float64]
    labels: NDArray[np.bool_]
    blocks: NDArray[np.str_]
    weights: NDArray[np.float64]


def match_weights(labels: NDArray[np.bool_], blocks: Labels) -> NDArray[np.float64]:
    """Weights under which both labels weigh min(ones, others) in every block; 0 in blocks that hold one label only.

    >>> match_weights(np.array([True, False, False, True]), ["a", "a", "a", "b"]).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    (codes,), names = encode_labels(as_labels(blocks, len(labels), "blocks"))
    ones = block_sums(labels, codes, len(names))
    others = block_sums(~labels, codes, len(names))
    least = np.minimum(ones, others)
    own = np.where(labels, ones[codes], others[codes])
    return np.asarray(least[codes] / own, dtype=np.float64)


def matched(
    values: NDArray[np.float64], labels: NDArray[np.bool_], blocks: Labels, weights: NDArray[np.float64] | None
) -> Matched:
    """Check and keep what can be compared; ProbeError when weights differ between the labels of a block."""
    marks = np.asarray(labels, dtype=np.bool_)
    names = as_labels(blocks, len(values), "blocks").astype(str)
    if marks.shape != values.shape or (weights is not None and weights.shape != values.shape):
        raise ProbeError(f"values, labels and weights must be one number per item, got {values.shape}, {marks.shape}")
    mass = match_weights(marks, names) if weights is None else weights
    (codes,), labels_of_blocks = encode_labels(names)
    one, other = (
        block_sums(np.where(marks == side, mass, 0.0), codes, len(labels_of_blocks)) for side in (True, False)
    )
    if not np.allclose(one, other, rtol=1e-6, atol=1e-12):
        worst = int(np.argmax(np.abs(one - other)))
        raise ProbeError(
            f"both sets must weigh the same in every block; {labels_of_blocks[worst]!r} has {one[worst]:.4g} and "
            f"{other[worst]:.4g}. match_weights makes such weights"
        )
    keep = mass > 0
    return Matched(values[keep], marks[keep], names[keep], mass[keep])
