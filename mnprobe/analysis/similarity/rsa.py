"""Representational similarity analysis: correlation of pairwise distances."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from scipy.stats import rankdata

from mnprobe.analysis.similarity._arrays import Rows, centered, rounding, squared_distances, undefined, varying
from mnprobe.analysis.similarity.base import About, MatrixIndex
from mnprobe.analysis.similarity.neighbors import NO_ANGLE, angles
from mnprobe.core.arrays import Array
from mnprobe.core.errors import ConfigError, ProbeError

__all__ = ["RSA", "rsa"]

Distance = Literal["cosine", "correlation", "euclidean"]
Correlation = Literal["spearman", "pearson"]


@dataclass(frozen=True, kw_only=True)
class RSA(MatrixIndex):
    """Correlation between the upper triangles of the two representational dissimilarity matrices.

    `distance`: "cosine" (1 - cos), "correlation" (1 - Pearson over the features) or "euclidean". `correlation`:
    "spearman" (ties share their mean rank) or "pearson". Other tools have other defaults: say both with the number.
    """

    distance: Distance = "cosine"
    correlation: Correlation = "spearman"

    about: ClassVar[About] = About(
        name="rsa",
        title="RSA",
        symbol="RSA",
        formula="Spearman correlation of the upper triangles of D_X and D_Y, D_ij = 1 - cos(x_i, x_j)",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale"}),
        source="Kriegeskorte et al. 2008 (Frontiers in Systems Neuroscience 2:4), figure 1",
        smallest=4,
        unbiased=True,
        remark="cosines depend on the origin: adding a vector to all rows changes it",
    )

    def __post_init__(self) -> None:
        for name, known in (("distance", get_args(Distance)), ("correlation", get_args(Correlation))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def matrix(self, values: Rows) -> Rows:
        """Centred ranks (or distances) of all pairs, both triangles, 0 on the diagonal."""
        upper = np.triu_indices(len(values), 1)
        pairs = _dissimilarities(values, self.distance)[upper]
        largest = float(np.abs(pairs).max())
        if not largest > self._least(values):
            raise self._no_distances(values)
        pairs = np.round(pairs / largest, 12)
        numbers = rankdata(pairs) if self.correlation == "spearman" else pairs  # rounding: equal ones must tie
        found = np.zeros((len(values), len(values)))
        found[upper] = numbers - numbers.mean()
        return found + found.T

    def size(self, values: Rows) -> float:
        """Ranks, and distances over the largest one, are of the order of 1."""
        return 1.0

    def _no_distances(self, values: Rows) -> ProbeError:
        if self.distance == "euclidean" or not varying(values).any():
            return undefined(values, self.about.title)
        return ProbeError(
            f"{self.about.title} is not defined for these features: all {len(values)} rows point the same way, as far "
            f"as float64 can tell by their {self.distance} distances. Take off an offset that is far larger than what "
            "the rows differ by, or choose distance=euclidean"
        )

    def _least(self, values: Rows) -> float:
        """Distances that are all below this are rounding errors."""
        if self.distance == "euclidean":
            return 1e-12 * float(np.linalg.norm(centered(values))) + 8 * rounding(values)
        return NO_ANGLE


def _dissimilarities(values: Rows, distance: Distance) -> Rows:
    if distance == "euclidean":
        return np.sqrt(squared_distances(values))
    return angles(_without_own_mean(values) if distance == "correlation" else values)


def _without_own_mean(values: Rows) -> Rows:
    """Rows with their own means taken off; a row of equal numbers becomes zero, whatever its mean is rounded to."""
    rows = np.asarray(values - values.mean(axis=1, keepdims=True))
    rows[(values == values[:, :1]).all(axis=1)] = 0.0
    return rows


def rsa(x: Array, y: Array, *, distance: Distance = "cosine", correlation: Correlation = "spearman") -> float:
    """RSA of x (N, p) and y (N, q); see `RSA`.

    >>> x = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [1.0, 5.0]]
    >>> round(rsa(x, x), 12)
    1.0
    """
    return RSA(distance=distance, correlation=correlation).score(x, y)
