"""What a random ranking would score on this very test set, exactly."""

import numpy as np

from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["chance_recall"]


def chance_recall(
    groups_query: Labels,
    groups_gallery: Labels | None = None,
    *,
    k: int = 1,
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
        ConfigError: k < 1.
        ProbeError: no query has an item of its group in the gallery.

    Source: hypergeometric distribution; specs/measuring.md, section 3.

    >>> chance_recall(["a"] * 100 + [f"b{i // 5}" for i in range(100)])  # one group of 100, twenty of 5
    0.2625
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k!r}")
    query = as_labels(groups_query, len(groups_query), "groups_query")
    gallery = query if groups_gallery is None else as_labels(groups_gallery, len(groups_gallery), "groups_gallery")
    (codes_query, codes_gallery), names = encode_labels(query, gallery)
    positives = np.bincount(codes_gallery, minlength=len(names))[codes_query].astype(np.float64)
    size = np.full(len(query), float(len(gallery)))
    if exclude_own:
        rows_query = np.arange(len(query)) if ids_query is None else as_labels(ids_query, len(query), "ids_query")
        rows_gallery = (
            np.arange(len(gallery)) if ids_gallery is None else as_labels(ids_gallery, len(gallery), "ids_gallery")
        )
        (own_query, own_gallery), _ = encode_labels(rows_query, rows_gallery)
        present = np.isin(own_query, own_gallery)
        size -= present
        positives -= present
    able = positives > 0
    if not able.any():
        raise ProbeError(f"none of {len(query)} queries has an item of its group in the gallery of {len(gallery)}")
    size, positives = size[able], positives[able]
    miss = np.ones(len(size))
    for drawn in range(min(k, len(gallery))):
        miss *= np.maximum(size - positives - drawn, 0.0) / np.maximum(size - drawn, 1.0)
    return float(np.mean(1.0 - miss))
