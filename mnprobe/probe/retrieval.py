"""Bidirectional nearest-neighbour retrieval: Recall@k with ties by expectation, never an N x N matrix in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe._arrays import as_features
from mnprobe.probe._blocks import Layout, count_negatives, tied_positives
from mnprobe.probe.chance import chance_recall

__all__ = ["TOLERANCE", "DirectionRecall", "Recall", "expected_hit", "recall_at_k"]

TOLERANCE = 2e-6
"""Cosine similarities closer than this count as tied: some ten times the rounding error of a float32 product."""


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
    z_u: Float[Tensor, "n d"] | Float[np.ndarray, "n d"],
    z_e: Float[Tensor, "m d"] | Float[np.ndarray, "m d"],
    groups_u: Labels,
    groups_e: Labels | None = None,
    *,
    k: Sequence[int] = (1, 5, 10),
    exclude_own: bool = False,
    ids_u: Labels | None = None,
    ids_e: Labels | None = None,
    tolerance: float = TOLERANCE,
    block: int | None = None,
) -> Recall:
    """Recall@k (hit rate) of cosine retrieval u to e and e to u: is one of the k nearest of the query's group?

    Candidates whose similarity lies within `tolerance` of the query's best positive are tied with it, and the expected
    hit over random orders of the tied ones is taken: with a items of other groups above, q positives and t others tied,
    1 - C(t, k - a) / C(q + t, k - a). For k = 1 this is |M & P| / |M|, M the set of nearest items, P the positives.
    The value does not depend on the order of the items.

    Both directions come from one product, in blocks: memory is a few blocks beside the normalised features.

    Args:
        z_u: observed actions in the shared space, at any scale.
        z_e: executed actions in the shared space.
        groups_u: group of each u (instruction, episode or task).
        groups_e: group of each e; `groups_u` when not given (then both sides need equally many rows).
        k: neighbour counts to report.
        exclude_own: leave the query's own episode out of its gallery.
        ids_u: episode of each u, to know its own; row numbers when not given.
        ids_e: episode of each e; row numbers when not given.
        tolerance: largest difference of cosine similarities that counts as a tie; 0 for exact equality.
        block: rows of u per block; chosen for some 64 MiB per block when not given.

    Raises:
        ConfigError: k or tolerance is impossible.
        FeatureError: shapes, counts or values do not fit.
        ProbeError: no query has an item of its group on the other side, or ids repeat where the own is left out.

    Source: paper, section 2.2; ties by expectation as in specs/measuring.md, section 3.

    >>> import torch
    >>> recall_at_k(torch.eye(4), torch.eye(4), ["a", "b", "c", "d"], k=[1]).recall(1)
    1.0
    """
    ks = _checked(k, tolerance, block)
    u, e = as_features(z_u, "z_u"), as_features(z_e, "z_e")
    labels_u = as_labels(groups_u, len(u), "groups_u")
    labels_e = labels_u if groups_e is None else as_labels(groups_e, len(e), "groups_e")
    labels_e = as_labels(labels_e, len(e), "groups_e")
    codes_u, codes_e = encode_labels(labels_u, labels_e)[0]
    own_e = _own(ids_u, ids_e, codes_u, codes_e) if exclude_own else None
    layout = Layout.of(codes_u, codes_e, own_e)
    sorted_u = functional.normalize(u[layout.order_u.to(u.device)], dim=1)
    sorted_e = functional.normalize(e[layout.order_e.to(e.device)], dim=1)
    positives = tied_positives(sorted_u, sorted_e, layout, tolerance)
    negatives = count_negatives(sorted_u, sorted_e, layout, positives, tolerance, block)
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
    for drawn in range(k):
        others = np.maximum(tied_other - drawn, 0)
        step = others / np.maximum(tied_same + others, 1)
        miss = np.where(drawn < left, miss * step, miss)
    return np.where(left > 0, 1.0 - miss, 0.0)


def _own(
    ids_u: Labels | None, ids_e: Labels | None, groups_u: NDArray[np.int64], groups_e: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each u the row of e with the same id, or -1."""
    labels_u: NDArray[Any] = np.arange(len(groups_u)) if ids_u is None else as_labels(ids_u, len(groups_u), "ids_u")
    labels_e: NDArray[Any] = np.arange(len(groups_e)) if ids_e is None else as_labels(ids_e, len(groups_e), "ids_e")
    (codes_u, codes_e), names = encode_labels(labels_u, labels_e)
    for side, codes in (("u", codes_u), ("e", codes_e)):
        counts = np.bincount(codes, minlength=len(names))
        if counts.max() > 1:
            name = names[int(counts.argmax())]
            raise ProbeError(f"leaving the own episode out needs one row per episode; {name!r} is twice on side {side}")
    row = np.full(len(names), -1)
    row[codes_e] = np.arange(len(codes_e))
    own = row[codes_u]
    strange = np.flatnonzero((own >= 0) & (groups_e[own] != groups_u))
    if len(strange):
        name = names[int(codes_u[strange[0]])]
        raise ProbeError(f"episode {name!r} has one group on side u and another on side e: its own pair is no positive")
    return own


def _checked(k: Sequence[int], tolerance: float, block: int | None) -> tuple[int, ...]:
    if not k or min(k) < 1:
        raise ConfigError(f"k must be one or more neighbour counts of at least 1, got {list(k)!r}")
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must be >= 0, got {tolerance!r}")
    if block is not None and block < 1:
        raise ConfigError(f"block must be at least 1 row, got {block!r}")
    return tuple(sorted(set(k)))
