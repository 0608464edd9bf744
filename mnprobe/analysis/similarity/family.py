"""Many cells at once (layers by layers, checkpoints by checkpoints): one null sample for all, and p for the maximum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnprobe.analysis.similarity.arrays import Rows, ordinary
from mnprobe.analysis.similarity.index import Index, MatrixIndex
from mnprobe.analysis.similarity.null import calibrated_level, p_value
from mnprobe.core.arrays import Array, as_array
from mnprobe.core.errors import FeatureError, ProbeError

__all__ = ["Family", "calibrate", "column_values"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Values (rows, columns) with their null; NaN where a cell is not defined.

    Attributes:
        value: the index in each cell.
        null_mean, null_sd, null_95: of each cell's null sample; null_95 is the calibrated level.
        p: of each cell by itself.
        p_max: of each cell when it was chosen among all: the share of permutations whose best cell is at least as far
            beyond its own null. Only this may be quoted for a maximum.
        best: row and column of the cell that is farthest beyond its null.
    """

    value: Rows
    null_mean: Rows
    null_sd: Rows
    null_95: Rows
    p: Rows
    p_max: Rows
    best: tuple[int, int]


def column_values(
    index: Index,
    ones: Sequence[Any],
    other: Any,
    orders: Array,
    *,
    note: Callable[[int, ProbeError], None] | None = None,
) -> tuple[Rows, Rows]:
    """One column of cells: values (R,) and null samples (R, K) of the prepared sides `ones` against `other`.

    A side that is None, and a pair for which the index is not defined, give NaN; `note` is told of the latter.
    """
    orders = as_array(orders, "orders")
    if orders.ndim != 2 or orders.dtype.kind not in "iu":
        raise FeatureError(f"orders must be rows of whole numbers (K, N), got shape {orders.shape} of {orders.dtype}")
    values, null = np.full(len(ones), np.nan), np.full((len(ones), len(orders)), np.nan)
    known = [row for row, one in enumerate(ones) if one is not None]
    if other is None or not known:
        return values, null
    if isinstance(index, MatrixIndex):
        whole = np.concatenate([np.arange(orders.shape[1])[None], orders])
        found = index.permuted([ones[row] for row in known], other, whole)
        values[known], null[known] = found[:, 0], found[:, 1:]
        return values, null
    for row in known:
        try:
            relation = index.relate(ones[row], other)
            values[row], null[row] = relation.value(), relation.values(orders)
        except ProbeError as error:
            values[row] = np.nan
            if note is None:
                raise
            note(row, error)
    return values, null


def calibrate(value: Array, null: Array, *, higher_is_alike: bool = True) -> Family:
    """From values (R, C) and null samples (R, C, K), all of the same K permutations, to p of cells and of the maximum.

    The maximum is taken over cells in units of each cell's own null: (value - mean) / deviation, both over the K
    permutations and the observed pairing together, so that the observed one is treated as any other and the test stays
    exact (Westfall and Young 1993, single-step max T).

    Raises ProbeError when no cell is defined, FeatureError for shapes that do not fit.
    """
    value, null = as_array(value, "value").astype(np.float64), as_array(null, "null").astype(np.float64)
    if value.ndim != 2 or null.ndim != 3 or null.shape[:2] != value.shape:
        raise FeatureError(f"value and null must be (R, C) and (R, C, K), got shapes {value.shape} and {null.shape}")
    defined = np.isfinite(value) & np.isfinite(null).all(axis=-1)
    if not defined.any():
        raise ProbeError(f"none of the {value.size} cells has a value, so there is nothing to calibrate")
    sign = 1.0 if higher_is_alike else -1.0
    cells = null[defined]
    everything = sign * np.concatenate([value[defined][:, None], cells], axis=1)
    power = np.array([ordinary(size) for size in np.abs(everything).max(axis=1)], dtype=np.int64)
    everything, near_one = np.ldexp(everything, -power[:, None]), np.ldexp(cells, -power[:, None])
    mean, deviation = everything.mean(axis=1, keepdims=True), everything.std(axis=1, keepdims=True)
    size = np.minimum(np.abs(everything).max(axis=1, keepdims=True), 1e-3)
    flat = deviation <= 1e-12 * np.maximum(np.abs(mean), size)
    distance = np.where(flat, 0.0, (everything - mean) / np.where(flat, 1.0, deviation))
    best_of_null = distance[:, 1:].max(axis=0)

    def spread(numbers: Rows) -> Rows:
        found = np.full(value.shape, np.nan)
        found[defined] = numbers
        return found

    beyond = spread(distance[:, 0])
    row, column = np.unravel_index(int(np.nanargmax(beyond)), value.shape)
    return Family(
        value=spread(value[defined]),
        null_mean=spread(np.ldexp(near_one.mean(axis=1), power)),
        null_sd=spread(np.ldexp(near_one.std(axis=1), power)),
        null_95=spread(calibrated_level(cells, higher_is_alike=higher_is_alike)),
        p=spread(p_value(value[defined], cells, higher_is_alike=higher_is_alike)),
        p_max=spread(p_value(distance[:, 0], np.broadcast_to(best_of_null, cells.shape))),
        best=(int(row), int(column)),
    )
