"""Two other numbers that are also called recall: true recall and the rank of the own pair. Only on request."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, Number, as_wholes
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe._arrays import TOLERANCE, unit_sides
from mnprobe.probe.retrieval import checked_tolerance

__all__ = ["paired_ranks", "true_recall_at_k"]

_BLOCK_ENTRIES = 1 << 24


def true_recall_at_k(
    z_query: Array,
    z_gallery: Array,
    groups_query: Labels,
    groups_gallery: Labels,
    *,
    k: Any = (1, 5, 10),
    tolerance: Number = TOLERANCE,
) -> dict[int, float]:
    """Mean share of a query's positives that are among its k nearest, one direction, ties by expectation.

    Unlike the hit rate of `recall_at_k` it can be at most k / (number of positives). Queries without a positive are
    left out.

    Raises ConfigError for an impossible k (one or several) or tolerance, FeatureError for shapes, counts or values that
    do not fit, ProbeError when no query has a positive.

    >>> z = torch.eye(2).repeat_interleave(2, dim=0)
    >>> true_recall_at_k(z, z, [0, 0, 1, 1], [0, 0, 1, 1], k=[1, 2])
    {1: 0.5, 2: 1.0}
    """
    ks = as_wholes(k, "k")
    names_of_sides = ("z_query", "z_gallery")
    query, gallery, tolerance = unit_sides(z_query, z_gallery, names_of_sides, checked_tolerance(tolerance))
    if max(ks) > len(gallery):
        raise ConfigError(f"k must lie between 1 and the gallery size {len(gallery)}, got {list(ks)!r}")
    (codes_q, codes_g), names = encode_labels(
        as_labels(groups_query, len(query), "groups_query"), as_labels(groups_gallery, len(gallery), "groups_gallery")
    )
    positives = torch.from_numpy(np.bincount(codes_g, minlength=len(names))[codes_q]).double()
    ids_q, ids_g = torch.from_numpy(codes_q).to(query.device), torch.from_numpy(codes_g).to(query.device)
    able = positives > 0
    if not bool(able.any()):
        raise ProbeError(f"none of {len(query)} queries has an item of its group in the gallery of {len(gallery)}")
    found = {n: torch.zeros(len(query), dtype=torch.float64) for n in ks}
    rows = max(1, _BLOCK_ENTRIES // len(gallery))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        similar = query[part] @ gallery.T
        same = ids_q[part, None] == ids_g[None, :]
        nearest = similar.topk(max(ks), dim=1).values
        for n in ks:
            edge = nearest[:, n - 1 : n]
            above = similar > edge + tolerance
            tied = (similar >= edge - tolerance) & ~above
            share = (n - above.sum(1)) / tied.sum(1).double()
            found[n][part] = ((above & same).sum(1) + share * (tied & same).sum(1)).double().cpu()
    return {n: float((found[n][able] / positives[able]).mean()) for n in ks}


def paired_ranks(
    z_u: Array,
    z_e: Array,
    *,
    tolerance: Number = TOLERANCE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank (1 = nearest) of row i's own partner, u to e and e to u; ties share their mean rank.

    Only row i counts as right, so items that share an instruction punish each other. Source: specs/measuring.md, 3.

    Raises FeatureError for shapes or values that do not fit, ConfigError for an impossible tolerance.

    >>> [ranks.tolist() for ranks in paired_ranks(torch.eye(3), torch.eye(3))]
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    u, e, tolerance = unit_sides(z_u, z_e, ("z_u", "z_e"), checked_tolerance(tolerance))
    if u.shape != e.shape:
        raise FeatureError(f"paired ranks need equal shapes, got {tuple(u.shape)} and {tuple(e.shape)}")
    own = (u * e).sum(1)
    everyone = torch.arange(len(u), device=u.device)
    ranks = torch.ones(2, len(u), dtype=torch.float64, device=u.device)
    rows = max(1, _BLOCK_ENTRIES // len(e))
    for start in range(0, len(u), rows):
        part = everyone[start : start + rows]
        similar = u[part] @ e.T
        similar[torch.arange(len(part), device=u.device), part] = -torch.inf
        for side, edge, dim in ((0, own[part, None], 1), (1, own[None, :], 0)):
            above = (similar > edge + tolerance).sum(dim)
            reach = (similar >= edge - tolerance).sum(dim)
            better = above + (reach - above) / 2
            if side == 0:
                ranks[0, part] += better
            else:
                ranks[1] += better
    forth, back = ranks.cpu().numpy()
    return forth, back
