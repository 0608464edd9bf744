"""Who lies nearest to each episode on the other side of a shared space, and how near the episode itself lies there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["NEAREST", "nearest_across"]

NEAREST = 3
_ROWS = 512  # at a time, so that N x N cosines never lie in memory


def nearest_across(
    z_u: NDArray[Any], z_e: NDArray[Any], ids: Sequence[str], *, count: int = NEAREST
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
    return _nearest(z_u, z_e, ids, count), _nearest(z_e, z_u, ids, count)


def _nearest(queries: NDArray[Any], gallery: NDArray[Any], ids: Sequence[str], count: int) -> pd.DataFrame:
    names = np.asarray(ids, dtype=object)
    asked, found = np.asarray(queries, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
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
