"""Multiple testing: p-values corrected over a family."""

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, as_array
from mnprobe.core.errors import ProbeError

__all__ = ["benjamini_hochberg", "holm"]


def holm(p: Array) -> NDArray[np.float64]:
    """Holm's step-down correction: the chance of even one false finding in the family stays below the level.

    With p sorted upwards, p_(i) becomes max over j <= i of (m - j + 1) p_(j), at most 1. NaN (not tested) stays NaN and
    does not count as a member of the family. Holds for any dependence between the tests.

    Raises ProbeError for a number outside [0, 1]. Source: Holm 1979, Scandinavian Journal of Statistics 6.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    found, tested, order = _sorted(p)
    m = len(order)
    stepped = np.maximum.accumulate(found[tested][order] * (m - np.arange(m)))
    return _put_back(found, tested, order, stepped)


def benjamini_hochberg(p: Array) -> NDArray[np.float64]:
    """Benjamini and Hochberg's step-up correction: the expected share of false findings among the findings is limited.

    With p sorted upwards, p_(i) becomes min over j >= i of m p_(j) / j, at most 1. NaN stays NaN and does not count.
    Holds for independent and for positively dependent tests.

    Raises ProbeError for a number outside [0, 1]. Source: Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.04, 0.04]
    """
    found, tested, order = _sorted(p)
    m = len(order)
    stepped = np.minimum.accumulate((found[tested][order] * m / np.arange(1, m + 1))[::-1])[::-1]
    return _put_back(found, tested, order, stepped)


def _sorted(p: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    found = as_array(p, "p").astype(np.float64)
    tested = ~np.isnan(found)
    if found.ndim != 1 or not ((found[tested] >= 0) & (found[tested] <= 1)).all():
        raise ProbeError(f"p-values must be a list of numbers from 0 to 1, got {found.tolist()!r}")
    return found, tested, np.argsort(found[tested], kind="stable").astype(np.int64)


def _put_back(
    found: NDArray[np.float64],
    tested: NDArray[np.bool_],
    order: NDArray[np.int64],
    stepped: NDArray[np.float64],
) -> NDArray[np.float64]:
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(stepped, 1.0)
    out = found.copy()
    out[tested] = corrected
    return out
