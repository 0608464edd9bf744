"""Nearest neighbours by cosine, with ties shared, and on request only those outside the own group."""

import numpy as np

from mnprobe.analysis.similarity.arrays import Codes, Rows, unit_rows
from mnprobe.core.errors import ConfigError, TooFewSamples

__all__ = ["check_k", "cosines", "keeps_groups", "nearest", "weights"]

_TIE = 1e-9  # cosines that differ by less are equal up to rounding


def cosines(values: Rows) -> Rows:
    """Cosine similarities of all rows, (N, N)."""
    unit = unit_rows(values)
    return np.asarray(unit @ unit.T)


def check_k(k: int, least: int = 1) -> None:
    """ConfigError for a number of neighbours that cannot be."""
    if not isinstance(k, int) or isinstance(k, bool) or k < least:
        raise ConfigError(f"k must be a whole number of neighbours, at least {least}, got {k!r}")


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
