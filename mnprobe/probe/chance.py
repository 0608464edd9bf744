"""What a random ranking would score on this very test set, exactly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Whole, as_whole
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["chance_recall", "own_rows"]


def chance_recall(
    groups_query: Labels,
    groups_gallery: Labels | None = None,
    *,
    k: Whole = 1,
    exclude_own: bool = False,
    ids_query: Labels | None = None,
    ids_gallery: Labels | None = None,
) -> float:
    """Expected Recall@k (hit rate) when the gallery is ranked at random: the mean of 1 - C(N - P, k) / C(N, k).

    N is the gallery size, P the number of items of the query's group in it. It is not 1/N when groups repeat: for one
    gallery it is the sum of squared group shares. Queries without any item of their group in the gallery cannot hit;
    they are left out, as `recall_at_k` leaves them out.

    Args:
        groups_query: group of each query.
        groups_gallery: group of each gallery item; the queries' own groups when not given.
        k: how many neighbours count, at least 1; more than the gallery holds counts as the whole gallery.
        exclude_own: leave the query's own episode out of its gallery.
        ids_query: the id of each query, to find its own item; row numbers when not given.
        ids_gallery: the id of each gallery item; row numbers when not given.

    Raises:
        ConfigError: k is no whole number of at least 1.
        FeatureError: a label is missing.
        ProbeError: no query has an item of its group in the gallery, or ids repeat where the own is left out.

    Source: hypergeometric distribution; specs/measuring.md, section 3.

    >>> chance_recall(["a"] * 100 + [f"b{i // 5}" for i in range(100)])  # one group of 100, twenty of 5
    0.2625
    """
    count = as_whole(k, "k")
    if count < 1:
        raise ConfigError(f"k must be at least 1, got {k!r}")
    query = as_labels(groups_query, None, "groups_query")
    gallery = query if groups_gallery is None else as_labels(groups_gallery, None, "groups_gallery")
    (codes_query, codes_gallery), names = encode_labels(query, gallery)
    if not len(query) or not len(gallery):
        raise ProbeError(f"chance needs queries and a gallery, got {len(query)} and {len(gallery)} items")
    positives = np.bincount(codes_gallery, minlength=len(names))[codes_query].astype(np.float64)
    size = np.full(len(query), float(len(gallery)))
    if exclude_own:
        present = own_rows(ids_query, ids_gallery, codes_query, codes_gallery, ("query", "gallery")) >= 0
        size -= present
        positives -= present
    able = positives > 0
    if not able.any():
        raise ProbeError(f"none of {len(query)} queries has an item of its group in the gallery of {len(gallery)}")
    size, positives = size[able], positives[able]
    miss = np.ones(len(size))
    for drawn in range(min(count, len(gallery))):
        miss *= np.maximum(size - positives - drawn, 0.0) / np.maximum(size - drawn, 1.0)
    return float(np.mean(1.0 - miss))


def own_rows(
    ids_u: Labels | None,
    ids_e: Labels | None,
    groups_u: NDArray[np.int64],
    groups_e: NDArray[np.int64],
    sides: tuple[str, str] = ("u", "e"),
) -> NDArray[np.int64]:
    """For each u the row of e with the same id, or -1; rows are their own ids where none are given.

    Raises ProbeError for ids that repeat on a side, and for an episode that is of two groups.
    """
    labels_u: NDArray[Any] = (
        np.arange(len(groups_u)) if ids_u is None else as_labels(ids_u, len(groups_u), f"ids_{sides[0]}")
    )
    labels_e: NDArray[Any] = (
        np.arange(len(groups_e)) if ids_e is None else as_labels(ids_e, len(groups_e), f"ids_{sides[1]}")
    )
    (codes_u, codes_e), names = encode_labels(labels_u, labels_e)
    for side, codes in zip(sides, (codes_u, codes_e), strict=True):
        counts = np.bincount(codes, minlength=len(names))
        if counts.max(initial=0) > 1:
            name = names[int(counts.argmax())]
            raise ProbeError(f"leaving the own episode out needs one row per episode; {name!r} is twice on side {side}")
    row = np.full(len(names), -1)
    row[codes_e] = np.arange(len(codes_e))
    own = row[codes_u]
    strange = np.flatnonzero((own >= 0) & (groups_e[own] != groups_u))
    if len(strange):
        name = names[int(codes_u[strange[0]])]
        raise ProbeError(
            f"episode {name!r} has one group on side {sides[0]} and another on side "
            f"{sides[1]}: its own pair is no positive"
        )
    return own
