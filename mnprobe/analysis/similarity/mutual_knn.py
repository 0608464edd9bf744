"""Mutual k nearest neighbours: do both models have the same episodes near an episode?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.analysis.similarity.neighbours import check_k, closeness, cosines, keeps_groups, weights
from mnprobe.analysis.similarity.options import set_flag
from mnprobe.core.arrays import Array
from mnprobe.core.labels import Labels

__all__ = ["MutualKNN", "mutual_knn"]


@dataclass(frozen=True, kw_only=True)
class MutualKNN(Index):
    """Mean over episodes of the share of the `k` nearest neighbours that both sides have in common.

    Neighbours by cosine, the episode itself left out; a tied last place is shared, which is the expectation over random
    tie-breaks. With `outside`, only neighbours of other groups count: those of the same instruction agree trivially.
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
        set_flag(self, "outside")

    def prepare(self, values: Rows, groups: Codes) -> "_Neighbours":
        """Neighbour weights, and what is needed to find others under other groups."""
        similarity = closeness(values, cosines(values))
        mask = weights(similarity, self.k, groups if self.outside else None, title=self.about.title)
        return _Neighbours(similarity, mask, groups)

    def relate(self, one: "_Neighbours", other: "_Neighbours") -> Relation:
        """See `Index.relate`."""
        return _Overlap(one, other, self)


@dataclass(frozen=True)
class _Neighbours:
    similarity: Rows
    mask: Rows
    groups: Codes


class _Overlap(Relation):
    """Looks up only the entries that the first side's neighbours name."""

    def __init__(self, one: _Neighbours, other: _Neighbours, index: MutualKNN) -> None:
        self.row, self.column = np.nonzero(one.mask)
        self.weight = one.mask[self.row, self.column]
        self.one, self.other, self.index = one, other, index

    def value(self, order: Codes | None = None) -> float:
        mask = self.other.mask
        row, column = self.row, self.column
        if order is not None and (not self.index.outside or keeps_groups(self.one.groups, order)):
            row, column = order[row], order[column]
        elif order is not None:  # other rows are now of the own group: ranked anew, from cached similarities
            similarity = self.other.similarity.take(order, 0).take(order, 1)
            mask = weights(similarity, self.index.k, self.one.groups, title=self.index.about.title)
        return float(self.weight @ mask[row, column]) / (self.index.k * len(mask))


def mutual_knn(x: Array, y: Array, *, k: int = 10, outside: Labels | None = None) -> float:
    """Mutual k nearest neighbours of x (N, p) and y (N, q); `outside` (N,) groups whose own members do not count.

    >>> mutual_knn([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [[0.0, 3.0], [0.1, 2.0], [1.0, 0.0]], k=1)
    1.0
    """
    return MutualKNN(k=k, outside=outside is not None).score(x, y, outside)
