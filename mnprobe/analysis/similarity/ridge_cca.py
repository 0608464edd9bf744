"""Ridge CCA on held-out episodes: a linear probe in closed form, with no optimiser and no seed of its own but folds."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows, components
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.analysis.similarity.options import set_number, set_seed, set_whole
from mnprobe.core.arrays import Array
from mnprobe.core.errors import TooFewSamples
from mnprobe.core.labels import Labels

__all__ = ["RidgeCCA", "folds_of", "ridge_cca"]

_CHUNK = 64  # permutations worked on at once


@dataclass(frozen=True, kw_only=True)
class RidgeCCA(Index):
    """Mean held-out correlation of the first `dims` canonical directions, by cross-validation over groups.

    Each side is first reduced to `pcs` principal components, at most a quarter of N (of all episodes, but without
    looking at the other side, so nothing about the pairing leaks). In each of `folds` folds ridge CCA is fitted on the
    others: both covariances get `ridge` times their mean variance on the diagonal. The held-out variates of all folds,
    centred by training means, are pooled, and correlated direction by direction. Whole groups are held out together.
    """

    pcs: int = 32
    dims: int = 10
    ridge: float = 0.1
    folds: int = 5
    seed: int = 0

    about: ClassVar[About] = About(
        name="ridge_cca",
        title="ridge CCA, held out",
        symbol="held-out correlation",
        formula="(1/d) sum_i corr(a_i, b_i) on held-out episodes, a = U^T Wx x, b = V^T Wy y of ridge CCA",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Vinod 1976 (Journal of Econometrics 4), canonical ridge; held out as in DESIGN 6",
        smallest=8,
        unbiased=True,
    )

    def __post_init__(self) -> None:
        for name, least in (("pcs", 1), ("dims", 1), ("folds", 2)):
            set_whole(self, name, least)
        set_number(self, "ridge", "positive")
        set_seed(self)

    def prepare(self, values: Rows, groups: Codes) -> "_Scores":
        """Leading principal component scores of mean square 1."""
        u, s, _ = components(values, title=self.about.title)
        count = min(self.pcs, len(values) // 4, len(s))
        scores = u[:, :count] * s[:count]
        return _Scores(np.asarray(scores / np.sqrt(np.mean(scores**2))), groups)

    def relate(self, one: "_Scores", other: "_Scores") -> Relation:
        """See `Index.relate`; TooFewSamples for fewer than two groups."""
        return _Held(one.values, other.values, folds_of(one.groups, self.folds, self.seed), self)


@dataclass(frozen=True)
class _Scores:
    values: Rows
    groups: Codes


def folds_of(groups: Codes, folds: int, seed: int) -> Codes:
    """The fold of each row: whole groups, in random order by `seed`, each into the fold that is smallest so far.

    >>> sorted(np.bincount(folds_of(np.array([0, 0, 1, 1, 2, 2]), 3, 0)).tolist())
    [2, 2, 2]
    """
    sizes = np.bincount(groups)
    present = np.flatnonzero(sizes)
    if len(present) < 2:
        raise TooFewSamples(f"cross-validation needs at least 2 groups, got {len(present)}")
    filled = np.zeros(min(folds, len(present)), dtype=np.int64)
    fold = np.zeros(len(sizes), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(present)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[group] = int(np.argmin(filled))
        filled[fold[group]] += sizes[group]
    return np.asarray(fold[groups])


class _Held(Relation):
    def __init__(self, one: Rows, other: Rows, fold: Codes, index: RidgeCCA) -> None:
        self.other, self.index = other, index
        self.dims = min(index.dims, one.shape[1], other.shape[1])
        self.parts = []
        for number in range(int(fold.max()) + 1):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if len(train) < 3:
                raise TooFewSamples(
                    f"{index.about.title}: {len(train)} rows are left to fit on when the largest group is held out, "
                    "at least 3 are needed"
                )
            mean = one[train].mean(axis=0)
            white = _whitener(one[train] - mean, index.ridge)
            self.parts.append((train, test, (one[train] - mean) @ white, (one[test] - mean) @ white))

    def value(self, order: Codes | None = None) -> float:
        rows = np.arange(len(self.other)) if order is None else order
        return float(self.values(rows[None])[0])

    def values(self, orders: NDArray[np.int64]) -> Rows:
        chunks = [self._values(orders[start : start + _CHUNK]) for start in range(0, len(orders), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    def _values(self, orders: NDArray[np.int64]) -> Rows:
        sums = np.zeros((3, len(orders), self.dims))
        for train, test, fitted, held in self.parts:
            other = self.other[orders[:, train]]
            mean = other.mean(axis=1, keepdims=True)
            white = _whitener(other - mean, self.index.ridge)
            cross = np.einsum("np,knq->kpq", fitted, (other - mean) @ white, optimize=True)
            u, _, vt = np.linalg.svd(cross, full_matrices=False)
            a = held @ u[:, :, : self.dims]
            b = (self.other[orders[:, test]] - mean) @ white @ vt[:, : self.dims].transpose(0, 2, 1)
            sums += [(a * b).sum(axis=1), (a * a).sum(axis=1), (b * b).sum(axis=1)]
        size = np.sqrt(sums[1] * sums[2])
        return np.asarray((sums[0] / np.where(size > 0, size, 1.0)).mean(axis=1))


def _whitener(values: Rows, ridge: float) -> Rows:
    """W (..., p, p) with W^T (C + ridge tr(C)/p I) W = I for the covariance C of centred rows (..., n, p)."""
    covariance = np.swapaxes(values, -1, -2) @ values / values.shape[-2]
    width = values.shape[-1]
    level = np.trace(covariance, axis1=-2, axis2=-1)[..., None, None] / width
    lower = np.linalg.cholesky(covariance + (ridge * level + 1e-12) * np.eye(width))
    return np.asarray(np.swapaxes(np.linalg.inv(lower), -1, -2))


def ridge_cca(
    x: Array,
    y: Array,
    groups: Labels | None = None,
    *,
    pcs: int = 32,
    dims: int = 10,
    ridge: float = 0.1,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Held-out ridge CCA of x (N, p) and y (N, q); `groups` (N,) are held out as a whole; see `RidgeCCA`.

    >>> x = np.random.default_rng(0).standard_normal((80, 3))
    >>> ridge_cca(x, x @ [[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) > 0.99
    True
    """
    return RidgeCCA(pcs=pcs, dims=dims, ridge=ridge, folds=folds, seed=seed).score(x, y, groups)
