"""HSIC_1: the unbiased estimator of the Hilbert-Schmidt independence criterion, written out as published."""

import numpy as np

from mnprobe.analysis.similarity.arrays import Rows, in_range
from mnprobe.core.arrays import Array, as_matrix
from mnprobe.core.errors import FeatureError, ProbeError, TooFewSamples

__all__ = ["hsic_1", "hsic_1_of"]

_TITLE = "HSIC_1"


def hsic_1(one: Array, other: Array) -> float:
    """The unbiased estimator of HSIC from two (N, N) matrices, symmetric or not (Song et al. 2012, equation 5).

    Raises FeatureError for matrices of other shapes, TooFewSamples for N < 4, ProbeError where the value is too large
    for a float64.
    """
    k, m = as_matrix(one, "one"), as_matrix(other, "other")
    if not k.shape == m.shape == (len(k), len(k)):
        raise FeatureError(f"{_TITLE} needs two matrices (N, N), got shapes {k.shape} and {m.shape}")
    k, power = in_range(k, name="one", title=_TITLE, translation=False)
    m, other_power = in_range(m, name="other", title=_TITLE, translation=False)
    with np.errstate(over="ignore"):
        found = float(np.ldexp(hsic_1_of(k, m), power + other_power))
    if not np.isfinite(found):
        raise ProbeError(f"{_TITLE} of these matrices is of a size that float64 cannot hold: divide them by a factor")
    return found


def hsic_1_of(one: Rows, other: Rows) -> float:
    """`hsic_1` of matrices that are known to be finite and of ordinary size."""
    n = len(one)
    if n < 4:
        raise TooFewSamples(f"HSIC_1 needs at least 4 rows, got {n}")
    k, m = one - np.diag(np.diagonal(one)), other - np.diag(np.diagonal(other))
    total = float(np.einsum("ij,ji->", k, m)) + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * float(k.sum(axis=0) @ m.sum(axis=1))) / (n * (n - 3))
