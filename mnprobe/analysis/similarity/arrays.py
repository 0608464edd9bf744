"""Checking and small algebra on features: rows are episodes, all in float64."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import FeatureError, ProbeError

__all__ = ["Codes", "Rows", "as_codes", "as_rows", "centred", "components", "unit_rows"]

Rows = NDArray[np.float64]
Codes = NDArray[np.int64]


def as_rows(values: ArrayLike, name: str) -> Rows:
    """Features as a finite (N, D) float64 array; FeatureError with the shape or the first bad row."""
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiub":
        raise FeatureError(
            f"{name} must hold numbers, one row per episode, shape (episodes, width); got shape {array.shape} of type "
            f"{array.dtype}. Pool tokens to one vector per episode first, e.g. FeatureFile.layer(...).pooled('mean')"
        )
    rows = array.astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise FeatureError(
            f"{name}: {int((~finite).sum())} of {len(rows)} rows hold NaN or infinity, the first is row "
            f"{int(np.argmin(finite))}. Extract these features again"
        )
    return rows


def as_codes(groups: ArrayLike | None, rows: int) -> Codes:
    """Numbers 0, 1, ... for groups; every row its own where there are none."""
    if groups is None:
        return np.arange(rows)
    labels: NDArray[Any] = np.asarray(groups)
    if labels.shape != (rows,):
        raise FeatureError(f"groups must give one label per row: {rows} rows, labels of shape {labels.shape}")
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def centred(values: Rows) -> Rows:
    """Columns with their means taken off."""
    return np.asarray(values - values.mean(axis=0))


def unit_rows(values: Rows) -> Rows:
    """Rows scaled to length 1; a row of zeros stays zero."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1.0))


def components(values: Rows, *, title: str) -> tuple[Rows, Rows, Rows]:
    """Singular value decomposition U, S, V^T of the centred features, without directions that are only rounding.

    Raises ProbeError when nothing is left: all rows equal.
    """
    u, s, vt = np.linalg.svd(centred(values), full_matrices=False)
    scale = float(np.linalg.norm(values))
    kept = s > max(values.shape) * np.finfo(np.float64).eps * max(scale, 1e-300)
    if not kept.any():
        raise ProbeError(f"{title} is not defined for these features: all {len(values)} rows are equal")
    return u[:, kept], s[kept], vt[kept]
