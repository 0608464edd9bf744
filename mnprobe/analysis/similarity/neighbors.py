"""Nearest-neighbor indices: mutual kNN and CKNNA, ties shared."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mnprobe.analysis.similarity._arrays import Codes, Rows, squared_distances, unit_rows
from mnprobe.analysis.similarity.base import About, Index, Relation
from mnprobe.analysis.similarity.cka import hsic_1_of
from mnprobe.core.arrays import Array, settle
from mnprobe.core.errors import ConfigError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels

__all__ = [
    "CKNNA",
    "NO_ANGLE",
    "MutualKNN",
    "angles",
    "check_k",
    "cknna",
    "closeness",
    "cosines",
    "keeps_groups",
    "mutual_knn",
    "nearest",
    "weights",
]

NO_ANGLE = 1e-24
"""Angles (1 - cosine) that are all below this are rounding: the rows point the same way."""

_NARROW = 1e-3  # cosines that are all within this of 1 are computed in another way
_TIE = 1e-9  # cosines that differ by less are equal up to rounding


def cosines(values: Rows) -> Rows:
    """Cosine similarities of all rows, (N, N)."""
    unit = unit_rows(values)
    return np.asarray(unit @ unit.T)


def angles(values: Rows) -> Rows:
    """1 - cosine of all rows, (N, N), with its digits also where all rows point almost the same way.

    Rows far from 0 in relation to their differences have cosines that float64 cannot tell from 1; half the squared
    distance of the rows at length 1 is the same number, and keeps its digits.
    """
    unit = unit_rows(values)
    found = np.asarray(1.0 - unit @ unit.T)
    return found if found.max() > _NARROW else squared_distances(unit) / 2


def closeness(values: Rows, similarity: Rows) -> Rows:
    """What ranks neighbours: `similarity` (cosines), or where all are almost 1, 1 minus the angles over the largest."""
    if 1.0 - similarity.min() > _NARROW:
        return similarity
    found = angles(values)
    largest = float(found.max())
    return 1.0 - found / largest if largest > NO_ANGLE else similarity


def check_k(index: Any, least: int = 1) -> None:
    """ConfigError unless the option `k` of an index is a whole number of at least `least`."""
    given = index.k
    settle(index, wholes=("k",))
    if index.k < least:
        raise ConfigError(f"k must be a whole number of neighbours, at least {least}, got {given!r}")


def weights(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    """How far row j is one of the k nearest of row i, (N, N): 1 or 0, and a share where the k-th place is tied.

    Shares make the overlap of two such matrices the expectation over random tie-breaks, so that collapsed features
    score what chance gives and not 1. The diagonal is 0; with `groups` so are all rows of the own group.

    Raises TooFewSamples when some row has fewer than k candidates.
    """
    candidates = _candidates(similarity, k, groups, title=title)
    least = np.partition(candidates, -k, axis=1)[:, -k, None]
    above = candidates > least + _TIE
    tied = (candidates >= least - _TIE) & ~above
    left = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(axis=1, keepdims=True)))


def nearest(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    """1 where row j is as near to row i as its k-th neighbor or nearer, else 0: all that are tied count."""
    candidates = _candidates(similarity, k, groups, title=title)
    least = np.partition(candidates, -k, axis=1)[:, -k, None]
    return np.asarray((candidates >= least - _TIE).astype(np.float64))


def keeps_groups(groups: Codes, order: Codes) -> bool:
    """True when `order` carries groups to whole groups, so that neighbors outside them stay outside.

    >>> keeps_groups(np.array([0, 0, 1, 1]), np.array([3, 2, 0, 1]))
    True
    >>> keeps_groups(np.array([0, 0, 1]), np.array([0, 2, 1]))
    False
    """
    pairs = np.unique(groups.astype(np.int64) * (int(groups.max()) + 1) + groups[order])
    return len(pairs) == len(np.unique(groups))


def _candidates(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    n = len(similarity)
    own = np.eye(n, dtype=bool) if groups is None else groups[:, None] == groups[None, :]
    most = n - int(own.sum(axis=1).max())
    if most < k:
        where = "" if groups is None else " outside its own group"
        raise TooFewSamples(
            f"{title} with k = {k} needs {k} other rows{where} for every row, but one of these {n} rows has {most}. "
            f"Choose a smaller k" + ("" if groups is None else ", or neighbours inside the group too")
        )
    return np.where(own, -np.inf, similarity)


@dataclass(frozen=True, kw_only=True)
class MutualKNN(Index):
    """Mean over episodes of the share of the `k` nearest neighbors that both sides have in common.

    Neighbors by cosine, the episode itself left out; a tied last place is shared, which is the expectation over random
    tie-breaks. With `outside`, only neighbors of other groups count: those of the same instruction agree trivially.
    No values are clipped first, as the original tool does, since that would depend on the axes.
    """

    held = 2

    k: int = 10
    outside: bool = False

    about: ClassVar[About] = About(
        name="mutual_knn",
        title="mutual k nearest neighbours",
        symbol="mutual kNN",
        formula="(1/N) sum_i |N_X(i) & N_Y(i)| / k",
        low=0.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale"}),
        source="Huh et al. 2024 (arXiv 2405.07987), appendix A, equations 11 and 12",
        smallest=3,
        remark="chance is k / (N - 1), so it is not comparable between different N",
    )

    def __post_init__(self) -> None:
        check_k(self)
        settle(self, truths=("outside",))

    def prepare(self, values: Rows, groups: Codes) -> "_Neighbors":
        """Neighbor weights, and what is needed to find others under other groups."""
        similarity = closeness(values, cosines(values))
        mask = weights(similarity, self.k, groups if self.outside else None, title=self.about.title)
        return _Neighbors(similarity, mask, groups)

    def relate(self, one: "_Neighbors", other: "_Neighbors") -> Relation:
        """See `Index.relate`."""
        return _Overlap(one, other, self)


@dataclass(frozen=True)
class _Neighbors:
    similarity: Rows
    mask: Rows
    groups: Codes


class _Overlap(Relation):
    """Looks up only the entries that the first side's neighbors name."""

    def __init__(self, one: _Neighbors, other: _Neighbors, index: MutualKNN) -> None:
        self.row, self.column = np.nonzero(one.mask)
        self.weight = one.mask[self.row, self.column]
        self.one, self.other, self.index = one, other, index

    def value(self, order: Codes | None = None) -> float:
        mask = self.other.mask
        row, column = self.row, self.column
        if order is not None and (not self.index.outside or keeps_groups(self.one.groups, order)):
            row, column = order[row], order[column]
        elif order is not None:  # other rows are now of the own group: ranked again, from cached similarities
            similarity = self.other.similarity.take(order, 0).take(order, 1)
            mask = weights(similarity, self.index.k, self.one.groups, title=self.index.about.title)
        return float(self.weight @ mask[row, column]) / (self.index.k * len(mask))


def mutual_knn(x: Array, y: Array, *, k: int = 10, outside: Labels | None = None) -> float:
    """Mutual k nearest neighbors of x (N, p) and y (N, q); `outside` (N,) groups whose own members do not count.

    >>> mutual_knn([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [[0.0, 3.0], [0.1, 2.0], [1.0, 0.0]], k=1)
    1.0
    """
    return MutualKNN(k=k, outside=outside is not None).score(x, y, outside)


@dataclass(frozen=True, kw_only=True)
class CKNNA(Index):
    """HSIC_1 of the cosine Gram matrices, kept only where j is among the `k` nearest of i on both sides.

    Divided by the root of the same of each side with itself. Kept matrices are not symmetric (neighbors need not
    be mutual), and tr(KL) then counts reciprocal pairs, as in the published estimator. All neighbors tied for the last
    place count. With `outside`, only neighbors of other groups.
    """

    held = 2

    k: int = 10
    outside: bool = False

    about: ClassVar[About] = About(
        name="cknna",
        title="CKNNA",
        symbol="CKNNA",
        formula="HSIC_1(M*K, M*L) / sqrt(HSIC_1(M_X*K, M_X*K) HSIC_1(M_Y*L, M_Y*L)), M = M_X*M_Y of k neighbours",
        low=-np.inf,
        high=np.inf,
        invariances=frozenset({"orthogonal", "scale"}),
        source="Huh et al. 2024 (arXiv 2405.07987), appendix A, equations 17 to 21; HSIC_1 of Song et al. 2012",
        smallest=4,
        remark="between 0 and 1 in practice, but nothing bounds it; with all neighbours it is debiased CKA of cosines. "
        "Swapping the sides changes it slightly, as neighbours need not be mutual",
    )

    def __post_init__(self) -> None:
        check_k(self, least=2)
        settle(self, truths=("outside",))

    def prepare(self, values: Rows, groups: Codes) -> "_Side":
        """Cosines, the neighbor mask, and the self term."""
        similarity = cosines(values)
        near = closeness(values, similarity)
        mask = nearest(near, self.k, groups if self.outside else None, title=self.about.title)
        return _Side(similarity, near, mask, groups, self._own(similarity, mask))

    def relate(self, one: "_Side", other: "_Side") -> Relation:
        """See `Index.relate`."""
        return _Masked(one, other, self)

    def _own(self, similarity: Rows, mask: Rows) -> float:
        own = hsic_1_of(mask * similarity, mask * similarity)
        if not own > 1e-14:
            raise ProbeError(
                f"{self.about.title} with k = {self.k} is not defined for these features: a self term is {own:.3g}, "
                "and its root is needed. Choose another k, or mutual_knn"
            )
        return own


@dataclass(frozen=True)
class _Side:
    similarity: Rows
    near: Rows
    mask: Rows
    groups: Codes
    own: float


class _Masked(Relation):
    def __init__(self, one: _Side, other: _Side, index: CKNNA) -> None:
        self.one, self.other, self.index = one, other, index
        self.row, self.column = np.nonzero(one.mask)
        self.values_one = one.similarity[self.row, self.column]

    def value(self, order: Codes | None = None) -> float:
        one, other, own = self.one, self.other, self.other.own
        row, column = self.row, self.column
        if order is not None:
            row, column = order[row], order[column]
        if order is None or not self.index.outside or keeps_groups(one.groups, order):
            kept = other.mask[row, column] > 0
        else:
            similarity = other.similarity.take(order, 0).take(order, 1)
            near = other.near.take(order, 0).take(order, 1)
            mask = nearest(near, self.index.k, one.groups, title=self.index.about.title)
            kept = mask[self.row, self.column] > 0
            own = self.index._own(similarity, mask)
        cross = _sparse_hsic_1(
            self.row[kept],
            self.column[kept],
            self.values_one[kept],
            other.similarity[row[kept], column[kept]],
            len(one.mask),
        )
        return cross / float(np.sqrt(one.own) * np.sqrt(own))


def _sparse_hsic_1(row: Codes, column: Codes, one: Rows, other: Rows, n: int) -> float:
    """The same for two matrices that are zero but at the same places (row, column), never on the diagonal."""
    place = row * n + column  # ascending
    mirror = column * n + row
    spot = np.minimum(np.searchsorted(place, mirror), max(len(place) - 1, 0))
    mutual = place[spot] == mirror
    trace = float(one[mutual] @ other[spot[mutual]])
    sums = np.bincount(column, one, n) @ np.bincount(row, other, n)
    found = (trace + one.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 * sums / (n - 2)) / (n * (n - 3))
    return float(found)


def cknna(x: Array, y: Array, *, k: int = 10, outside: Labels | None = None) -> float:
    """CKNNA of x (N, p) and y (N, q); `outside` (N,) groups whose own members do not count.

    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(cknna(x, 5 * x), 12)
    1.0
    """
    return CKNNA(k=k, outside=outside is not None).score(x, y, outside)
