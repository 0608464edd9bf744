"""What knowing one thing alone would score: exact Recall@1 of an oracle that ranks by a factor and else at random."""

import numpy as np

from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["oracle_recall"]


def oracle_recall(groups: Labels, factor: Labels, *, exclude_own: bool = False) -> float:
    """Expected Recall@1 when all that is known of an item is its `factor` (such as its task).

    Every query puts the items of its factor first, in random order: its chance of a hit is the number of those that
    are of its group over the number of those. Queries without another item of their group cannot hit and are left out
    (with `exclude_own`).

    Args:
        groups: what counts as a hit (instructions), one per item; queries and gallery are the same items.
        factor: what the oracle knows of each item.
        exclude_own: the query's own item is not in its gallery.

    Raises ProbeError when no query can hit, FeatureError for labels that are missing or counts that differ.

    >>> oracle_recall(["a", "a", "b", "b"], ["task", "task", "task", "task"])  # the factor says nothing: chance
    0.5
    >>> oracle_recall(["a", "a", "b", "b"], ["x", "x", "y", "y"])
    1.0
    """
    (group,), names = encode_labels(as_labels(groups, None, "groups"))
    (known,), levels = encode_labels(as_labels(factor, len(group), "factor"))
    own = int(exclude_own)
    members = np.bincount(group, minlength=len(names))[group] - own
    size = np.bincount(known, minlength=len(levels))[known] - own
    both = (
        np.bincount(group * len(levels) + known, minlength=len(names) * len(levels))[group * len(levels) + known] - own
    )
    able = members > 0
    if not able.any():
        raise ProbeError(f"none of {len(group)} queries has another item of its group")
    rest = len(group) - own
    share = np.where(size > 0, both / np.maximum(size, 1), members / max(rest, 1))  # nothing of its factor: at random
    return float(share[able].mean())
