"""CKNNA: alignment of Gram matrices where both sides have a neighbour, and nowhere else."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows
from mnprobe.analysis.similarity.hsic import hsic_1_of
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.analysis.similarity.neighbours import check_k, closeness, cosines, keeps_groups, nearest
from mnprobe.analysis.similarity.options import set_flag
from mnprobe.core.arrays import Array
from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import Labels

__all__ = ["CKNNA", "cknna"]


@dataclass(frozen=True, kw_only=True)
class CKNNA(Index):
    """HSIC_1 of the cosine Gram matrices, kept only where j is among the `k` nearest of i on both sides.

    Divided by the root of the same with each side beside itself. Kept matrices are not symmetric (neighbours need not
    be mutual), and tr(KL) then counts reciprocal pairs, as in the published estimator. All neighbours tied for the last
    place count. With `outside`, only neighbours of other groups.
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
        set_flag(self, "outside")

    def prepare(self, values: Rows, groups: Codes) -> "_Side":
        """Cosines, the neighbour mask, and the self term."""
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
