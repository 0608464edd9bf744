"""CKA with a Gaussian kernel whose width follows the data; debiased unless asked otherwise."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Rows, centred, rounding, varying
from mnprobe.analysis.similarity.gram import double_centred, squared_distances, u_centred
from mnprobe.analysis.similarity.index import ROUNDED, MatrixIndex
from mnprobe.analysis.similarity.options import set_flag, set_number
from mnprobe.core.arrays import Array
from mnprobe.core.errors import ProbeError

__all__ = ["RBFCKA", "rbf_cka"]


@dataclass(frozen=True, kw_only=True)
class RBFCKA(MatrixIndex):
    """CKA with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma = `width` times the median distance between rows.

    Numbers from tools with another rule for sigma are not comparable (some take sigma = 1 whatever the scale).
    """

    width: float = 1.0
    debiased: bool = True

    about: ClassVar[About] = About(
        name="rbf_cka",
        title="RBF CKA",
        symbol="CKA (RBF)",
        formula="as CKA with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma = width * median_{i<j} |x_i - x_j|",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Kornblith et al. 2019 (arXiv 1905.00414), section 3; debiased as debiased_cka",
        smallest=4,
        unbiased=True,
    )

    def __post_init__(self) -> None:
        set_number(self, "width", "a positive multiple of the median distance")
        set_flag(self, "debiased")

    def matrix(self, values: Rows) -> Rows:
        """The centred kernel matrix."""
        distances = squared_distances(values)
        middle = float(np.median(np.sqrt(distances[np.triu_indices(len(values), 1)])))
        if not middle > max(1e-7 * float(np.linalg.norm(centred(values))), 4 * rounding(values)):
            raise ProbeError(
                f"{self.about.title}: more than half of all distances between these {len(values)} rows are zero, so "
                f"the median gives no width{'' if varying(values).any() else ' (collapsed embeddings?)'}"
            )
        kernel = np.exp(-distances / (2 * (self.width * middle) ** 2))
        return u_centred(kernel) if self.debiased else double_centred(kernel)

    def size(self, values: Rows) -> float:
        """A kernel's entries lie between 0 and 1; an offset leaves of them what it does of distances."""
        return 1.0 + ROUNDED * rounding(values) / float(np.linalg.norm(centred(values)))


def rbf_cka(x: Array, y: Array, *, width: float = 1.0, debiased: bool = True) -> float:
    """RBF CKA of x (N, p) and y (N, q); see `RBFCKA`.

    >>> x = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [1.0, 5.0]]
    >>> round(rbf_cka(x, x), 12)
    1.0
    """
    return RBFCKA(width=width, debiased=debiased).score(x, y)
