"""Independent reference values: exact chance and its permutation null."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Null", "block_null", "label_null", "slow_chance"]

_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Null:
    """The mean that chance gives, exactly, and the values that random labels gave.

    `log_count` is the natural logarithm of the number of ways to deal the labels.
    """

    mean: float
    log_count: float
    values: NDArray[np.float64]

    @property
    def low(self) -> float:
        """The smallest value of all permutations."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The largest value of all permutations."""
        return float(self.values.max())

    def p(self, value: float) -> float:
        """Two-sided: twice the smaller of (b + 1) / (K + 1) on either side."""
        room = 1e-9
        more, less = int((self.values >= value - room).sum()), int((self.values <= value + room).sum())
        return min(1.0, 2 * (min(more, less) + 1) / (len(self.values) + 1))

    def holds(self, value: float) -> bool:
        """Whether the value is within the permutations' range."""
        return self.low - 1e-9 <= value <= self.high + 1e-9


def slow_chance(groups: Sequence[Any], k: int = 1) -> float:
    """Mean over queries of the chance that k random items of the gallery hold one of the query's group, by counting.

    >>> slow_chance(["a", "a", "b", "b"])
    0.5
    """
    labels = list(groups)
    n = len(labels)
    k = min(k, n)
    return sum(1 - comb(n - labels.count(label), k) / comb(n, k) for label in labels) / n


def label_null(
    measured: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], permutations: int, rng: np.random.Generator
) -> Null:
    """Recall@1, mean of both directions and of all measurements, when the labels of z_e are permuted.

    z_u keeps its labels: it may lie in one cluster per group, as the features of a good model do. A whole cluster then
    finds the same z_e and is right or wrong together, so that chance varies more than with labels dealt to single z_u.

    Args:
        measured: (z_u, z_e, groups) of each test set. Where z_e has nothing to do with its labels, every such
            permutation is as likely as the true one, so that the true value is beyond all K of them with a chance of
            1 / (K + 1) on either side, whatever the hubs of the space are.
        permutations: K.
        rng: where the dealings come from.
    """
    total = np.zeros(permutations)
    means, ways = [], 0.0
    for z_u, z_e, groups in measured:
        codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
        nearest_e, nearest_u = _nearest(z_u, z_e)
        step = max(1, _BLOCK // len(codes))
        for start in range(0, permutations, step):
            size = min(step, permutations - start)
            dealt = rng.permuted(np.broadcast_to(codes, (size, len(codes))), axis=1)
            forth = (dealt[:, nearest_e] == codes).mean(axis=1)
            back = (dealt == codes[nearest_u]).mean(axis=1)
            total[start : start + size] += (forth + back) / 2
        means.append(slow_chance(codes.tolist()))
        ways += lgamma(len(codes) + 1) - sum(lgamma(count + 1) for count in np.bincount(codes))
    return Null(mean=float(np.mean(means)), log_count=ways, values=total / len(measured))


def block_null(
    measured: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], permutations: int, rng: np.random.Generator
) -> Null:
    """The same where all rows of a group are equal: whole groups are dealt, and chance is 1 / groups, not 1 / items."""
    total = np.zeros(permutations)
    means, ways = [], 0.0
    for z_u, z_e, groups in measured:
        _, first, codes, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        nearest_e, nearest_u = _nearest(z_u[first], z_e[first])
        share, places = counts / len(codes), np.arange(len(counts))
        dealt = rng.permuted(np.broadcast_to(places, (permutations, len(places))), axis=1)
        forth = (nearest_e[dealt] == places) @ share
        back = (dealt == nearest_u) @ share
        total += (forth + back) / 2
        means.append(1 / len(counts))
        ways += lgamma(len(counts) + 1)
    return Null(mean=float(np.mean(means)), log_count=ways, values=total / len(measured))


def _nearest(z_u: NDArray[Any], z_e: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each u the row of its nearest e, for each e that of its nearest u, by cosine in float64."""
    one, other = (
        np.asarray(z, np.float64) / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300) for z in (z_u, z_e)
    )
    cosine = one @ other.T
    return cosine.argmax(axis=1), cosine.argmax(axis=0)
