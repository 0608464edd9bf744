"""PWCCA: canonical correlations weighted by how much of the features each direction carries."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows
from mnprobe.analysis.similarity.canonical import Basis, basis, check_variance, cross, refuse_saturation
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.core.arrays import Array

__all__ = ["PWCCA", "pwcca"]


@dataclass(frozen=True, kw_only=True)
class PWCCA(Index):
    """sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, over the side with fewer dimensions (x where equal).

    h_i are that side's canonical variates, x_j its centred features. `variance` below 1 reduces each side to its
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

    def prepare(self, values: Rows, groups: Codes) -> Basis:
        """An orthonormal basis of the kept components, and the features in it."""
        return basis(values, self.variance, title=self.about.title)

    def relate(self, one: Basis, other: Basis) -> Relation:
        """See `Index.relate`; TooFewSamples where p + q >= N."""
        refuse_saturation(one, other, title=self.about.title)
        return _Weighted(one, other)


class _Weighted(Relation):
    def __init__(self, one: Basis, other: Basis) -> None:
        self.one, self.other = one, other

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
