"""The CCA family: mean CCA, SVCCA, PWCCA and ridge CCA on held-out episodes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity._arrays import Codes, Rows, components
from mnprobe.analysis.similarity.base import About, Index, Relation
from mnprobe.core.arrays import Array, settle
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.labels import Labels
from mnprobe.core.seeds import check_seed

__all__ = [
    "CCA",
    "PWCCA",
    "SVCCA",
    "Basis",
    "MeanCorrelation",
    "RidgeCCA",
    "basis",
    "cca",
    "check_dimensions",
    "check_variance",
    "cross",
    "folds_of",
    "pwcca",
    "ridge_cca",
    "svcca",
]


_SHARE = "a share to keep, above 0 and at most 1"


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns `q` (N, r) that span the kept part of the centered features, and these in it: `c` (r, D)."""

    q: Rows
    c: Rows


def check_variance(index: Any) -> None:
    """ConfigError unless the option `variance` of an index is above 0 and at most 1."""
    given = index.variance
    settle(index, positive={"variance": _SHARE})
    if index.variance > 1:
        raise ConfigError(f"variance must be {_SHARE}, got {given!r}")


def basis(values: Rows, variance: float, *, title: str) -> Basis:
    """The fewest principal components whose variance reaches the share `variance`; the one that crosses it is kept."""
    u, s, vt = components(values, title=title)
    share = np.cumsum(s**2) / np.sum(s**2)
    count = len(s) if variance == 1 else min(int(np.searchsorted(share, variance - 1e-12)) + 1, len(s))
    return Basis(u[:, :count], s[:count, None] * vt[:count])


def check_dimensions(one: Basis, other: Basis, *, title: str) -> None:
    """TooFewSamples where the kept dimensions of both sides together reach N: every correlation would be 1."""
    n, p, q = len(one.q), one.q.shape[1], other.q.shape[1]
    if p + q >= n:
        raise TooFewSamples(
            f"{title}: {p} and {q} dimensions with {n} rows give canonical correlations of 1 whatever the features are "
            f"(p + q >= N). Keep less variance (option variance), take more episodes, or use ridge_cca, which is "
            "cross-validated"
        )


def cross(one: Basis, other: Basis, order: Codes | None) -> Rows:
    """Inner products of both bases, (p, q), with the other side's rows in `order`."""
    return np.asarray(one.q.T @ (other.q if order is None else other.q[order]))


class MeanCorrelation(Relation):
    """The mean singular value of the product of two orthonormal bases."""

    def __init__(self, one: Basis, other: Basis) -> None:
        self.one, self.other = one, other

    def value(self, order: Codes | None = None) -> float:
        """See `Relation.value`."""
        return float(np.linalg.svd(cross(self.one, self.other, order), compute_uv=False).mean())


class _CanonicalIndex(Index):
    """Canonical correlations of orthonormal bases; the option `variance`, where there is one, reduces each side."""

    def prepare(self, values: Rows, groups: Codes) -> Basis:
        """An orthonormal basis of the kept principal components, and the features in it."""
        return basis(values, getattr(self, "variance", 1.0), title=self.about.title)

    def relate(self, one: Basis, other: Basis) -> Relation:
        """See `Index.relate`; TooFewSamples where p + q >= N."""
        check_dimensions(one, other, title=self.about.title)
        return self._relation(one, other)

    @classmethod
    def _relation(cls, one: Basis, other: Basis) -> Relation:
        return MeanCorrelation(one, other)


@dataclass(frozen=True, kw_only=True)
class CCA(_CanonicalIndex):
    """Mean of the canonical correlations over the smaller rank; refused where p + q >= N."""

    about: ClassVar[About] = About(
        name="cca",
        title="mean canonical correlation",
        symbol="CCA",
        formula="(1/r) sum_i rho_i, rho = singular values of Q_X^T Q_Y, r = min(rank X, rank Y)",
        low=0.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation", "linear"}),
        source="Hotelling 1936; Kornblith et al. 2019 (arXiv 1905.00414), table 1",
        smallest=4,
        remark="biased upwards by about sqrt((p + q) / N); refused where p + q >= N",
    )


def cca(x: Array, y: Array) -> float:
    """Mean canonical correlation of x (N, p) and y (N, q); see `CCA`.

    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(cca(x, x @ [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]]), 12)
    1.0
    """
    return CCA().score(x, y)


@dataclass(frozen=True, kw_only=True)
class SVCCA(_CanonicalIndex):
    """Mean canonical correlation after each side is reduced to the components that hold `variance` of its variance.

    The component that crosses the threshold is kept. Refused where the kept dimensions together reach N.
    """

    variance: float = 0.99

    about: ClassVar[About] = About(
        name="svcca",
        title="SVCCA",
        symbol="SVCCA",
        formula="mean of the canonical correlations of the principal components that hold 99 % of the variance",
        low=0.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Raghu et al. 2017 (arXiv 1706.05806), section 2.1",
        smallest=4,
        remark="biased upwards by about sqrt((p + q) / N) in kept dimensions; refused where p + q >= N",
    )

    def __post_init__(self) -> None:
        check_variance(self)


def svcca(x: Array, y: Array, *, variance: float = 0.99) -> float:
    """SVCCA of x (N, p) and y (N, q); see `SVCCA`.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(svcca(x, 2 * x + 1), 12)
    1.0
    """
    return SVCCA(variance=variance).score(x, y)


@dataclass(frozen=True, kw_only=True)
class PWCCA(_CanonicalIndex):
    """sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, over the side with fewer dimensions (x where equal).

    h_i are that side's canonical variates, x_j its centered features. `variance` below 1 reduces each side to its
    principal components first, which is needed where p + q >= N.
    """

    variance: float = 1.0

    about: ClassVar[About] = About(
        name="pwcca",
        title="PWCCA",
        symbol="PWCCA",
        formula="sum_i a_i rho_i / sum_i a_i, a_i = sum_j |<h_i, x_j>|, h_i canonical variates of the smaller side",
        low=0.0,
        high=1.0,
        invariances=frozenset({"scale", "translation"}),
        source="Morcos et al. 2018 (arXiv 1806.05759), section 3.2",
        smallest=4,
        remark="weights depend on the smaller side's own axes, so rotating it changes the value; biased as SVCCA",
    )

    def __post_init__(self) -> None:
        check_variance(self)

    @classmethod
    def _relation(cls, one: Basis, other: Basis) -> Relation:
        return _WeightedCorrelation(one, other)


class _WeightedCorrelation(MeanCorrelation):
    def value(self, order: Codes | None = None) -> float:
        u, rho, vt = np.linalg.svd(cross(self.one, self.other, order), full_matrices=False)
        first = self.one.q.shape[1] <= self.other.q.shape[1]
        carried = u.T @ self.one.c if first else vt @ self.other.c
        weight = np.abs(carried).sum(axis=1)
        return float(weight @ rho / weight.sum())


def pwcca(x: Array, y: Array, *, variance: float = 1.0) -> float:
    """PWCCA of x (N, p) and y (N, q); see `PWCCA`.

    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(pwcca(x, 2 * x + 1), 12)
    1.0
    """
    return PWCCA(variance=variance).score(x, y)


_CHUNK = 64  # permutations worked on at once


@dataclass(frozen=True, kw_only=True)
class RidgeCCA(Index):
    """Mean held-out correlation of the first `dims` canonical directions, by cross-validation over groups.

    Each side is first reduced to `pcs` principal components, at most a quarter of N (of all episodes, but without
    looking at the other side, so nothing about the pairing leaks). In each of `folds` folds ridge CCA is fitted on the
    others: both covariances get `ridge` times their mean variance on the diagonal. The held-out variates of all folds,
    centered by training means, are pooled, and correlated direction by direction. Whole groups are held out together.
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
        settle(self, wholes={"pcs": 1, "dims": 1, "folds": 2, "seed": 0}, positive={"ridge": "positive"})
        check_seed(self.seed)

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
    """W (..., p, p) with W^T (C + ridge tr(C)/p I) W = I for the covariance C of centered rows (..., n, p)."""
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
