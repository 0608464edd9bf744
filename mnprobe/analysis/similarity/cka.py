"""Linear centred kernel alignment, as first published: biased upwards where N is small beside the widths."""

from dataclasses import dataclass
from typing import ClassVar

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Rows
from mnprobe.analysis.similarity.gram import double_centred, gram
from mnprobe.analysis.similarity.index import MatrixIndex
from mnprobe.core.arrays import Array

__all__ = ["LinearCKA", "linear_cka"]


@dataclass(frozen=True, kw_only=True)
class LinearCKA(MatrixIndex):
    """<HKH, HLH> / (|HKH| |HLH|) with K = X X^T, L = Y Y^T."""

    about: ClassVar[About] = About(
        name="cka",
        title="linear CKA",
        symbol="CKA",
        formula="<HKH, HLH>_F / (|HKH|_F |HLH|_F), K = X X^T, L = Y Y^T, H = I - 11^T/N",
        low=0.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Kornblith et al. 2019 (arXiv 1905.00414), equation 5",
        smallest=3,
        remark="biased upwards: independent features of width 768 give 0.89 at N = 100. Prefer debiased_cka",
    )

    def matrix(self, values: Rows) -> Rows:
        """The centred Gram matrix."""
        return double_centred(gram(values))


def linear_cka(x: Array, y: Array) -> float:
    """Linear CKA of x (N, p) and y (N, q); see `LinearCKA`.

    >>> round(linear_cka([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]], [[0.0, 2.0], [2.0, 0.0], [6.0, 4.0]]), 12)
    1.0
    """
    return LinearCKA().score(x, y)
