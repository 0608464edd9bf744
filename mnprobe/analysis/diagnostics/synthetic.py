"""Synthetic features of known alignment with the labels of real episodes."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnprobe.probe import FeaturePair

__all__ = ["WIDTH", "apart", "dealt", "identity", "noise", "rotation", "twin_of", "whitened", "with_features"]

WIDTH = 64
"""Numbers per episode of planted features."""


def with_features(pair: FeaturePair, u: NDArray[np.floating], e: NDArray[np.floating]) -> FeaturePair:
    """The same episodes with other features."""
    return replace(pair, u=np.ascontiguousarray(u, np.float32), e=np.ascontiguousarray(e, np.float32))


def noise(pair: FeaturePair, rng: np.random.Generator) -> FeaturePair:
    """Independent normal numbers on both sides: nothing to find."""
    u, e = rng.standard_normal((2, len(pair.items), WIDTH))
    return with_features(pair, u, e)


def dealt(pair: FeaturePair, rng: np.random.Generator) -> FeaturePair:
    """The user's features, but each e is given to a random other episode: each side as it is, nothing shared."""
    return with_features(pair, pair.u, pair.e[rng.permutation(len(pair.items))])


def identity(pair: FeaturePair, rng: np.random.Generator, *, one_hot: bool = False) -> FeaturePair:
    """Features that carry the instruction's identity and nothing else, by unrelated codes on the two sides.

    A random code of `WIDTH` numbers per instruction, or one place of its own per instruction (in another order on the
    other side).
    """
    codes = np.unique(pair.items.instructions, return_inverse=True)[1].reshape(-1)
    count = int(codes.max()) + 1
    if one_hot:
        table = np.eye(count)
        return with_features(pair, table[codes], table[rng.permutation(count)][codes])
    u, e = rng.standard_normal((2, count, WIDTH))
    return with_features(pair, u[codes], e[codes])


def rotation(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random orthogonal matrix (uniform, by QR with the signs of R's diagonal: Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    return np.asarray(q * np.sign(np.diag(r)))


def whitened(values: NDArray[np.floating], components: int) -> NDArray[np.float64]:
    """The first principal components (N, <= components), each of variance 1; without those that are only rounding."""
    rows = np.asarray(values, np.float64)
    rows = rows - rows.mean(axis=0)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    rank = min(components, int((s > 1e-5 * max(float(s[0]), 1e-300)).sum()))
    return np.asarray(u[:, :rank] * np.sqrt(len(rows)))


def twin_of(pair: FeaturePair, rng: np.random.Generator, components: int) -> FeaturePair:
    """The user's u (whitened) on one side, the same under a random rotation on the other: all there is to find."""
    u = whitened(pair.u, components)
    return with_features(pair, u, u @ rotation(u.shape[1], rng))


def apart(values: NDArray[np.floating], *, most: int) -> NDArray[np.int64]:
    """Rows that differ clearly: each next one is the farthest from those taken, while it is far enough.

    Far enough is three quarters of the median distance: no model could tell rows apart that are nearly equal.

    >>> apart(np.array([[0.0], [0.001], [1.0], [2.0]]), most=10).tolist()
    [0, 2, 3]
    """
    rows = np.asarray(values, np.float64)
    distance = np.sqrt(np.maximum(((rows[:, None] - rows[None]) ** 2).sum(-1), 0.0))
    limit = max(0.75 * float(np.median(distance[~np.eye(len(rows), dtype=np.bool_)])), 1e-6) if len(rows) > 1 else 0.0
    taken = [0]
    nearest = distance[0].copy()
    while len(taken) < most and nearest.max() >= limit and limit > 0:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance[taken[-1]])
    return np.sort(np.array(taken, dtype=np.int64))
