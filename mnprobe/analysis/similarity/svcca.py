"""SVCCA: canonical correlations between the principal components that hold most of the variance."""

from dataclasses import dataclass
from typing import ClassVar

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows
from mnprobe.analysis.similarity.canonical import Basis, basis, check_variance, refuse_saturation
from mnprobe.analysis.similarity.cca import MeanCorrelation
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.core.arrays import Array

__all__ = ["SVCCA", "svcca"]


@dataclass(frozen=True, kw_only=True)
class SVCCA(Index):
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

    def prepare(self, values: Rows, groups: Codes) -> Basis:
        """An orthonormal basis of the kept components."""
        return basis(values, self.variance, title=self.about.title)

    def relate(self, one: Basis, other: Basis) -> Relation:
        """See `Index.relate`; TooFewSamples where p + q >= N."""
        refuse_saturation(one, other, title=self.about.title)
        return MeanCorrelation(one, other)


def svcca(x: Array, y: Array, *, variance: float = 0.99) -> float:
    """SVCCA of x (N, p) and y (N, q); see `SVCCA`.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> round(svcca(x, 2 * x + 1), 12)
    1.0
    """
    return SVCCA(variance=variance).score(x, y)
