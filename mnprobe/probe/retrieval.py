"""Bidirectional nearest-neighbour retrieval: Recall@k with ties by expectation, never an N x N matrix in memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, Number, Whole, as_number, as_whole, as_wholes
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe._arrays import TOLERANCE, unit_sides
from mnprobe.probe._blocks import Layout, count_negatives, tied_positives
from mnprobe.probe.chance import chance_recall, own_rows

__all__ = ["TOLERANCE", "DirectionRecall", "Recall", "checked_tolerance", "expected_hit", "recall_at_k"]


@dataclass(frozen=True, kw_only=True)
class DirectionRecall:
    """Retrieval in one direction.

    Attributes:
        hits: for each k, the expected hit (0 to 1) of each query that can hit at all.
        queries: row of each such query; those without an item of their group in the gallery are left out.
        tied: for each such query, whether its best positive ties with items of other groups, so that only chance
            can decide between them.
        chance: for each k, the exact expectation under random ranking.
        n_gallery: items that each query is ranked against (less its own one, when that is left out).
    """

    hits: dict[int, NDArray[np.float64]]
    queries: NDArray[np.int64]
    tied: NDArray[np.bool_]
    chance: dict[int, float]
    n_gallery: int

    def recall(self, k: int = 1) -> float:
        """Recall@k: mean expected hit rate."""
        return float(self.hits[k].mean())

    @property
    def tied_share(self) -> float:
        """Share of queries that a tie decides; a large share means collapsed features."""
        return float(self.tied.mean())


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Recall in both directions; `recall(k)` is their mean, the paper's alignment score at k = 1."""

    u2e: DirectionRecall
    e2u: DirectionRecall
    ks: tuple[int, ...] = field(default=(1,))

    def recall(self, k: int = 1) -> float:
        """Mean of both directions."""
        return (self.u2e.recall(k) + self.e2u.recall(k)) / 2

    def chance(self, k: int = 1) -> float:
        """Mean chance level of both directions."""
        return (self.u2e.chance[k] + self.e2u.chance[k]) / 2

    @property
    def tied_share(self) -> float:
        """Share of queries that a tie decides, mean of both directions."""
        return (self.u2e.tied_share + self.e2u.tied_share) / 2


def recall_at_k(
    z_u: Array,
    z_e: Array,
    groups_u: Labels,
    groups_e: Labels | None = None,
    *,
    k: Any = (1, 5, 10),
    exclude_own: bool = False,
    ids_u: Labels | None = None,
    ids_e: Labels | None = None,
    tolerance: Number = TOLERANCE,
    block: Whole | None = None,
) -> Recall:
    """Recall@k (hit rate) of cosine retrieval u to e and e to u: is one of the k nearest of the query's group?

    Candidates whose similarity lies within `tolerance` of the query's best positive are tied with it, and the expected
    hit over random orders of the tied ones is taken: with a items of other groups above, q positives and t others tied,
    1 - C(t, k - a) / C(q + t, k - a). For k = 1 this is |M & P| / |M|, M the set of nearest items, P the positives.
    The value does not depend on the order of the items.

    Both directions come from one product, in blocks: memory is a few blocks beside the normalised features.

    Args:
        z_u: observed actions in the shared space (n, d), at any scale; a row of zeros is as near to all.
        z_e: executed actions in the shared space (m, d).
        groups_u: group of each u (instruction, episode or task).
        groups_e: group of each e; `groups_u` when not given (then both sides need equally many rows).
        k: neighbour counts to report, one or several.
        exclude_own: leave the query's own episode out of its gallery.
        ids_u: episode of each u, to know its own; row numbers when not given.
        ids_e: episode of each e; row numbers when not given.
        tolerance: largest difference of cosine similarities that counts as a tie; 0 for exact equality.
        block: rows of u per block; chosen for some 64 MiB per block when not given.

    Raises:
        ConfigError: k or tolerance is impossible.
        FeatureError: shapes, counts or values do not fit, or all rows of a side share one direction up to rounding.
        ProbeError: no query has an item of its group on the other side, or ids repeat where the own is left out.

    Source: paper, section 2.2; ties by expectation as in specs/measuring.md, section 3.

    >>> import torch
    >>> recall_at_k(torch.eye(4), torch.eye(4), ["a", "b", "c", "d"], k=[1]).recall(1)
    1.0
    """
    ks = as_wholes(k, "k")
    if block is not None and as_whole(block, "block") < 1:
        raise ConfigError(f"block must be at least 1 row, got {block!r}")
    u, e, tolerance = unit_sides(z_u, z_e, ("z_u", "z_e"), checked_tolerance(tolerance))
    labels_u = as_labels(groups_u, len(u), "groups_u")
    labels_e = labels_u if groups_e is None else as_labels(groups_e, len(e), "groups_e")
    labels_e = as_labels(labels_e, len(e), "groups_e")
    codes_u, codes_e = encode_labels(labels_u, labels_e)[0]
    own_e = own_rows(ids_u, ids_e, codes_u, codes_e) if exclude_own else None
    layout = Layout.of(codes_u, codes_e, own_e)
    sorted_u, sorted_e = u[layout.order_u.to(u.device)], e[layout.order_e.to(e.device)]
    positives = tied_positives(sorted_u, sorted_e, layout, tolerance)
    negatives = count_negatives(
        sorted_u, sorted_e, layout, positives, tolerance, None if block is None else as_whole(block, "block")
    )
    directions = []
    for side, query, gallery, ids in (
        ("u", labels_u, labels_e, (ids_u, ids_e)),
        ("e", labels_e, labels_u, (ids_e, ids_u)),
    ):
        order = layout.order_u if side == "u" else layout.order_e
        restore = np.argsort(order.numpy())  # from sorted rows back to the caller's
        tied_same = (positives.tied_u if side == "u" else positives.tied_e).cpu().numpy()[restore]
        above = (negatives.above_u if side == "u" else negatives.above_e)[restore]
        tied_other = (negatives.tied_u if side == "u" else negatives.tied_e)[restore]
        able = tied_same > 0
        if not able.any():
            raise ProbeError(
                f"none of {len(query)} queries ({side}) has an item of its group on the other side"
                + (" but its own" if exclude_own else "")
                + ": retrieval needs shared groups."
            )
        hits = {n: expected_hit(above[able], tied_same[able], tied_other[able], n) for n in ks}
        directions.append(
            DirectionRecall(
                hits=hits,
                queries=np.flatnonzero(able),
                tied=tied_other[able] > 0,
                chance={
                    n: chance_recall(query, gallery, k=n, exclude_own=exclude_own, ids_query=ids[0], ids_gallery=ids[1])
                    for n in ks
                },
                n_gallery=len(gallery) - int(exclude_own),
            )
        )
    return Recall(u2e=directions[0], e2u=directions[1], ks=ks)


def expected_hit(
    above: NDArray[np.int64], tied_same: NDArray[np.int64], tied_other: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Chance that a random order of the tied items puts a positive among the first k.

    Args:
        above: items of other groups that are nearer than the best positive.
        tied_same: positives tied with the best one (itself included, so at least 1).
        tied_other: items of other groups tied with it.
        k: neighbour count.

    >>> import numpy as np
    >>> expected_hit(np.array([0, 0, 1]), np.array([1, 2, 1]), np.array([0, 1, 1]), 1)
    array([1.        , 0.66666667, 0.        ])
    """
    left = k - above
    miss = np.ones(len(above))
    for drawn in range(min(k, int(tied_other.max(initial=0)) + 1)):  # beyond, a miss is impossible already
        others = np.maximum(tied_other - drawn, 0)
        step = others / np.maximum(tied_same + others, 1)
        miss = np.where(drawn < left, miss * step, miss)
    return np.where(left > 0, 1.0 - miss, 0.0)


def checked_tolerance(tolerance: Any) -> float:
    """A difference of cosines of at least 0; ConfigError otherwise."""
    number = as_number(tolerance)
    if not 0 <= number < np.inf:
        raise ConfigError(f"tolerance must be >= 0, got {tolerance!r}")
    return number
