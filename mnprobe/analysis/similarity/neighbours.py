"""Nearest neighbours by cosine, with ties shared, and on request only those outside the own group."""

from typing import Any

import numpy as np

from mnprobe.analysis.similarity.arrays import Codes, Rows, unit_rows
from mnprobe.analysis.similarity.gram import squared_distances
from mnprobe.analysis.similarity.options import set_whole
from mnprobe.core.errors import TooFewSamples

__all__ = ["NO_ANGLE", "angles", "check_k", "closeness", "cosines", "keeps_groups", "nearest", "weights"]

NO_ANGLE = 1e-24
"""Angles (1 - cosine) that are all below this are rounding: the rows point the same way."""

_NARROW = 1e-3  # cosines that are all within this of 1 are computed in another way
_TIE = 1e-9  # cosines that differ by less are equal up to rounding


def cosines(values: Rows) -> Rows:
    """Cosine similarities of all rows, (N, N)."""
    unit = unit_rows(values)
    return np.asarray(unit @ unit.T)


def angles(values: Rows) -> Rows:
    """1 - cosine of all rows, (N, N), with its digits also where all rows point almost the same way.

    Rows far from 0 beside their differences have cosines that float64 cannot tell from 1; half the squared distance of
    the rows at length 1 is the same number, and keeps its digits.
    """
    unit = unit_rows(values)
    found = np.asarray(1.0 - unit @ unit.T)
    return found if found.max() > _NARROW else squared_distances(unit) / 2


def closeness(values: Rows, similarity: Rows) -> Rows:
    """What ranks neighbours: `similarity` (cosines), or where all are almost 1, 1 minus the angles over the largest."""
    if 1.0 - similarity.min() > _NARROW:
        return similarity
    found = angles(values)
    largest = float(found.max())
    return 1.0 - found / largest if largest > NO_ANGLE else similarity


def check_k(index: Any, least: int = 1) -> None:
    """ConfigError for an index whose option `k` is no number of neighbours that can be."""
    set_whole(index, "k", least, what="a whole number of neighbours, at least")


def weights(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    """How far row j is one of the k nearest of row i, (N, N): 1 or 0, and a share where the k-th place is tied.

    Shares make the overlap of two such matrices the expectation over random tie-breaks, so that collapsed features
    score what chance gives and not 1. The diagonal is 0; with `groups` so are all rows of the own group.

    Raises TooFewSamples when some row has fewer than k candidates.
    """
    candidates = _candidates(similarity, k, groups, title=title)
    least = np.partition(candidates, -k, axis=1)[:, -k, None]
    above = candidates > least + _TIE
    tied = (candidates >= least - _TIE) & ~above
    left = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(axis=1, keepdims=True)))


def nearest(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    """1 where row j is as near to row i as its k-th neighbour or nearer, else 0: all that are tied count."""
    candidates = _candidates(similarity, k, groups, title=title)
    least = np.partition(candidates, -k, axis=1)[:, -k, None]
    return np.asarray((candidates >= least - _TIE).astype(np.float64))


def keeps_groups(groups: Codes, order: Codes) -> bool:
    """True when `order` carries groups to whole groups, so that neighbours outside them stay outside.

    >>> keeps_groups(np.array([0, 0, 1, 1]), np.array([3, 2, 0, 1]))
    True
    >>> keeps_groups(np.array([0, 0, 1]), np.array([0, 2, 1]))
    False
    """
    pairs = np.unique(groups.astype(np.int64) * (int(groups.max()) + 1) + groups[order])
    return len(pairs) == len(np.unique(groups))


def _candidates(similarity: Rows, k: int, groups: Codes | None, *, title: str) -> Rows:
    n = len(similarity)
    own = np.eye(n, dtype=bool) if groups is None else groups[:, None] == groups[None, :]
    most = n - int(own.sum(axis=1).max())
    if most < k:
        where = "" if groups is None else " outside its own group"
        raise TooFewSamples(
            f"{title} with k = {k} needs {k} other rows{where} for every row, but one of these {n} rows has {most}. "
            f"Choose a smaller k" + ("" if groups is None else ", or neighbours inside the group too")
        )
    return np.where(own, -np.inf, similarity)
