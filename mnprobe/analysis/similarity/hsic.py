"""HSIC_1: the unbiased estimator of the Hilbert-Schmidt independence criterion, written out as published."""

import numpy as np

from mnprobe.analysis.similarity.arrays import Rows
from mnprobe.core.errors import TooFewSamples

__all__ = ["hsic_1"]


def hsic_1(one: Rows, other: Rows) -> float:
    """The unbiased estimator of HSIC from two (N, N) matrices, symmetric or not (Song et al. 2012, equation 5)."""
    n = len(one)
    if n < 4:
        raise TooFewSamples(f"HSIC_1 needs at least 4 rows, got {n}")
    k, m = one - np.diag(np.diagonal(one)), other - np.diag(np.diagonal(other))
    total = float(np.einsum("ij,ji->", k, m)) + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * float(k.sum(axis=0) @ m.sum(axis=1))) / (n * (n - 3))
