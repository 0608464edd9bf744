"""Debiased centred kernel alignment: independent features give 0 on average; may be negative and is never clipped."""

from dataclasses import dataclass
from typing import ClassVar

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Rows
from mnprobe.analysis.similarity.gram import gram, u_centred
from mnprobe.analysis.similarity.index import MatrixIndex
from mnprobe.core.arrays import Array

__all__ = ["DebiasedCKA", "debiased_cka"]


@dataclass(frozen=True, kw_only=True)
class DebiasedCKA(MatrixIndex):
    """HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with linear kernels, by U-centring.

    Each HSIC_1 is unbiased, their ratio is so up to order 1/N. The self terms are sums of squares, so no root of a
    negative number is ever asked for.
    """

    about: ClassVar[About] = About(
        name="debiased_cka",
        title="debiased CKA",
        symbol="CKA (debiased)",
        formula="HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)), K = X X^T, L = Y Y^T",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Song et al. 2012 (JMLR 13), equation 5; Szekely and Rizzo 2014 (arXiv 1310.2926), U-centring",
        smallest=4,
        unbiased=True,
        remark="may be negative, which says: nothing above chance",
    )

    def matrix(self, values: Rows) -> Rows:
        """The U-centred Gram matrix."""
        return u_centred(gram(values))


def debiased_cka(x: Array, y: Array) -> float:
    """Debiased linear CKA of x (N, p) and y (N, q), N >= 4; see `DebiasedCKA`.

    >>> x = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [1.0, 5.0]]
    >>> round(debiased_cka(x, x), 12)
    1.0
    """
    return DebiasedCKA().score(x, y)
