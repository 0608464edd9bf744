"""Who lies nearest to each episode on the other side of a shared space, and how near the episode itself lies there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, as_matrix, as_whole
from mnprobe.core.errors import FeatureError

__all__ = ["NEAREST", "nearest_across"]

NEAREST = 3
_ROWS = 512  # at a time, so that N x N cosines never lie in memory


def nearest_across(
    z_u: Array, z_e: Array, ids: Sequence[str], *, count: int = NEAREST
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The nearest items of the other side by cosine: one table for the rows of z_u, one for those of z_e.

    Args:
        z_u, z_e: (N, D) rows of length 1; row i of both is episode `ids[i]`.
        ids: (N) names of the episodes.
        count: how many neighbours; cut to N.

    Returns:
        Two tables of N rows: neighbour_1, cosine_1 (the nearest) to neighbour_<count>, cosine_<count>, then own_cosine
        and own_rank: where the episode's own counterpart stands among all N (1: nearest; ties count half).

    >>> import numpy as np
    >>> across, _ = nearest_across(np.eye(2), np.eye(2)[::-1], ["a", "b"], count=1)
    >>> across["neighbour_1"].tolist(), across["own_rank"].tolist()
    (['b', 'a'], [2.0, 2.0])
    """
    one, other, count = as_matrix(z_u, "z_u"), as_matrix(z_e, "z_e"), as_whole(count, "count", least=1)
    if not len(one) == len(other) == len(ids) or one.shape != other.shape:
        raise FeatureError(f"z_u and z_e must be of the same {len(ids)} episodes, got {one.shape} and {other.shape}")
    for rows, name in ((one, "z_u"), (other, "z_e")):
        top = np.abs(rows).max(axis=1)
        length = np.where(top <= 1.01, np.linalg.norm(np.minimum(np.abs(rows), 1.01), axis=1), np.inf)
        wrong = np.flatnonzero((np.abs(length - 1) > 1e-2) & (top > 0))  # a row of zeros has no direction, nor a length
        if len(wrong):
            raise FeatureError(f"{name}: rows must have length 1; row {wrong[0]} has {length[wrong[0]]:.3g}")
    return _nearest(one, other, ids, count), _nearest(other, one, ids, count)


def _nearest(asked: NDArray[np.float64], found: NDArray[np.float64], ids: Sequence[str], count: int) -> pd.DataFrame:
    names = np.asarray(ids, dtype=object)
    count = min(count, len(names))
    order, cosines = np.empty((len(names), count), dtype=np.int64), np.empty((len(names), count))
    own, rank = np.empty(len(names)), np.empty(len(names))
    for start in range(0, len(names), _ROWS):
        rows = slice(start, min(start + _ROWS, len(names)))
        similar = asked[rows] @ found.T
        inside = np.arange(len(similar))
        order[rows] = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        cosines[rows] = np.take_along_axis(similar, order[rows], axis=1)
        own[rows] = similar[inside, start + inside]
        nearer, as_near = similar > own[rows, None], similar == own[rows, None]
        rank[rows] = 1 + nearer.sum(axis=1) + (as_near.sum(axis=1) - 1) / 2
    columns: dict[str, Any] = {}
    for place in range(count):
        columns |= {f"neighbour_{place + 1}": names[order[:, place]], f"cosine_{place + 1}": cosines[:, place]}
    return pd.DataFrame(columns | {"own_cosine": own, "own_rank": rank})
