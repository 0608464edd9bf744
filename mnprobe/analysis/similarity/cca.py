"""Mean canonical correlation: blind to everything that an invertible linear map can change."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows
from mnprobe.analysis.similarity.canonical import Basis, basis, cross, refuse_saturation
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.core.arrays import Array

__all__ = ["CCA", "MeanCorrelation", "cca"]


@dataclass(frozen=True, kw_only=True)
class CCA(Index):
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

    def prepare(self, values: Rows, groups: Codes) -> Basis:
        """An orthonormal basis of the centred features."""
        return basis(values, 1.0, title=self.about.title)

    def relate(self, one: Basis, other: Basis) -> Relation:
        """See `Index.relate`; TooFewSamples where p + q >= N."""
        refuse_saturation(one, other, title=self.about.title)
        return MeanCorrelation(one, other)


class MeanCorrelation(Relation):
    """The mean singular value of the product of two orthonormal bases."""

    def __init__(self, one: Basis, other: Basis) -> None:
        self.one, self.other = one, other

    def value(self, order: Codes | None = None) -> float:
        """See `Relation.value`."""
        return float(np.linalg.svd(cross(self.one, self.other, order), compute_uv=False).mean())


def cca(x: Array, y: Array) -> float:
    """Mean canonical correlation of x (N, p) and y (N, q); see `CCA`.

    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(cca(x, x @ [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]]), 12)
    1.0
    """
    return CCA().score(x, y)
