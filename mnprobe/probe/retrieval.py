"""Bidirectional retrieval: Recall@k with ties by expectation, and exact chance."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, Number, Whole, as_number, as_whole, as_wholes
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe._arrays import TOLERANCE, unit_sides
from mnprobe.probe._blocks import Layout, count_negatives, similarity_blocks, tied_positives

__all__ = [
    "TOLERANCE",
    "DirectionRecall",
    "Recall",
    "chance_recall",
    "checked_tolerance",
    "expected_hit",
    "own_rows",
    "paired_ranks",
    "recall_at_k",
    "true_recall_at_k",
]


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
        k: number of neighbors, at least 1; more than the size of the gallery means the whole gallery.
        exclude_own: exclude the query's own episode from its gallery.
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
    mismatched = np.flatnonzero((own >= 0) & (groups_e[own] != groups_u))
    if len(mismatched):
        name = names[int(codes_u[mismatched[0]])]
        raise ProbeError(
            f"episode {name!r} has one group on side {sides[0]} and another on side "
            f"{sides[1]}: its own pair is no positive"
        )
    return own


@dataclass(frozen=True, kw_only=True)
class DirectionRecall:
    """Retrieval in one direction.

    Attributes:
        hits: for each k, the expected hit (0 to 1) of each query that can hit at all.
        queries: row of each such query; those without an item of their group in the gallery are left out.
        tied: for each such query, whether its best positive ties with items of other groups, so that only chance
            can decide between them.
        chance: for each k, the exact expectation under random ranking.
        n_gallery: number of items that each query is ranked against (without its own, if that is excluded).
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
    """Recall@k (hit rate) of cosine retrieval u to e and e to u: whether one of the k nearest is of the query's group.

    Candidates whose similarity is within `tolerance` of the query's best positive are tied with it, and the expected
    hit over random orders of the tied ones is taken: with a items of other groups above, q positives and t others tied,
    1 - C(t, k - a) / C(q + t, k - a). For k = 1 this is |M & P| / |M|, M the set of nearest items, P the positives.
    The value does not depend on the order of the items.

    Both directions come from one product, in blocks: memory is a few blocks and the normalized features.

    Args:
        z_u: observed actions in the shared space (n, d), at any scale; a row of zeros is equally near to all.
        z_e: executed actions in the shared space (m, d).
        groups_u: group of each u (instruction, episode or task).
        groups_e: group of each e; `groups_u` when not given (then both sides need equally many rows).
        k: values of k to report, one or several.
        exclude_own: exclude the query's own episode from its gallery.
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
        restore = np.argsort(order.numpy())  # from sorted rows to the caller's order
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
    """Probability that a random order of the tied items has a positive among the first k.

    Args:
        above: items of other groups that are nearer than the best positive.
        tied_same: positives tied with the best one (itself included, so at least 1).
        tied_other: items of other groups tied with it.
        k: number of neighbors.

    >>> import numpy as np
    >>> expected_hit(np.array([0, 0, 1]), np.array([1, 2, 1]), np.array([0, 1, 1]), 1)
    array([1.        , 0.66666667, 0.        ])
    """
    left = k - above
    miss = np.ones(len(above))
    for drawn in range(min(k, int(tied_other.max(initial=0)) + 1)):  # beyond, the probability of a miss is 0
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
    shares = {n: torch.zeros(len(query), dtype=torch.float64) for n in ks}
    for part, similar in similarity_blocks(query, gallery):
        same = ids_q[part, None] == ids_g[None, :]
        nearest = similar.topk(max(ks), dim=1).values
        for n in ks:
            edge = nearest[:, n - 1 : n]
            above = similar > edge + tolerance
            tied = (similar >= edge - tolerance) & ~above
            share = (n - above.sum(1)) / tied.sum(1).double()
            shares[n][part] = ((above & same).sum(1) + share * (tied & same).sum(1)).double().cpu()
    return {n: float((shares[n][able] / positives[able]).mean()) for n in ks}


def paired_ranks(
    z_u: Array,
    z_e: Array,
    *,
    tolerance: Number = TOLERANCE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank (1 = nearest) of row i's own partner, u to e and e to u; ties share their mean rank.

    Only row i counts as correct, so items of one instruction lower each other's rank. Source: specs/measuring.md, 3.

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
    for rows, similar in similarity_blocks(u, e):
        part = everyone[rows]
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
