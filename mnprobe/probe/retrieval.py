"""Bidirectional retrieval: Recall@k with ties by expectation, and exact chance."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.arrays import Array, Number, Whole, as_number, as_whole, as_wholes
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed
from mnprobe.probe._arrays import TOLERANCE, unit_sides
from mnprobe.probe._blocks import Layout, count_negatives, similarity_blocks, tied_positives

__all__ = [
    "GALLERY",
    "LARGE",
    "TOLERANCE",
    "DirectionRecall",
    "Recall",
    "chance_recall",
    "checked_tolerance",
    "expected_hit",
    "gallery_draws",
    "gallery_size",
    "own_rows",
    "paired_ranks",
    "recall_at_k",
    "true_recall_at_k",
]

LARGE = 100_000
"""With more items than this, queries are ranked against random galleries unless told otherwise."""

GALLERY = 20_000
"""Size of these galleries."""

_LEAST_DRAWS = 3


def gallery_size(gallery: Whole | None, items: int) -> int | None:
    """How many of `items` a query is ranked against, where that is not all of them; None for all.

    `gallery` is a number of items, 0 for all of them, None for `GALLERY` where there are more than `LARGE`.

    Raises ConfigError for another `gallery`.

    >>> gallery_size(None, 1_000_000), gallery_size(None, 100_000), gallery_size(500, 1000), gallery_size(0, 1_000_000)
    (20000, None, 500, None)
    """
    if gallery is None:
        return GALLERY if items > LARGE else None
    size = as_whole(gallery, "gallery")
    if size < 0 or size == 1:
        raise ConfigError(f"gallery must be at least 2 items, or 0 for all of them, got {gallery!r}")
    return size if 0 < size < items else None


def gallery_draws(size: int, items: int) -> int:
    """How many random galleries there are: enough for every item to be in one, and at least three.

    >>> gallery_draws(20_000, 1_000_000), gallery_draws(500, 600)
    (50, 3)
    """
    return max(_LEAST_DRAWS, -(-items // size))


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
    present = np.zeros(len(query), dtype=bool)
    if exclude_own:
        present = own_rows(ids_query, ids_gallery, codes_query, codes_gallery, ("query", "gallery")) >= 0
    positives = np.bincount(codes_gallery, minlength=len(names))[codes_query] - present
    able = positives > 0
    if not able.any():
        raise ProbeError(f"none of {len(query)} queries has an item of its group in the gallery of {len(gallery)}")
    return float(np.mean(_chances(positives[able], len(gallery) - present[able], count)))


def _chances(positives: NDArray[Any], size: NDArray[Any], k: int) -> NDArray[np.float64]:
    """1 - C(N - P, k) / C(N, k) of each query, with P positives in a gallery of N."""
    miss = np.ones(len(size))
    for drawn in range(min(k, int(size.max(initial=0)))):
        miss *= np.maximum(size - positives - drawn, 0.0) / np.maximum(size - drawn, 1.0)
    return 1.0 - miss


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
    (codes_u, codes_e), names = _episodes(ids_u, ids_e, len(groups_u), len(groups_e), sides)
    for side, codes in zip(sides, (codes_u, codes_e), strict=True):
        counts = np.bincount(codes, minlength=len(names))
        if counts.max(initial=0) > 1:
            name = names[int(counts.argmax())]
            raise ProbeError(f"leaving the own episode out needs one row per episode; {name!r} is twice on side {side}")
    own = _rows_of(codes_u, codes_e)
    mismatched = np.flatnonzero((own >= 0) & (groups_e[own] != groups_u))
    if len(mismatched):
        name = names[int(codes_u[mismatched[0]])]
        raise ProbeError(
            f"episode {name!r} has one group on side {sides[0]} and another on side "
            f"{sides[1]}: its own pair is no positive"
        )
    return own


def _episodes(
    ids_u: Labels | None, ids_e: Labels | None, n_u: int, n_e: int, sides: tuple[str, str] = ("u", "e")
) -> Any:
    """Numbers of the episodes of both sides, and their names; rows are their own ids where none are given."""
    given = zip((ids_u, ids_e), (n_u, n_e), sides, strict=True)
    return encode_labels(*(np.arange(n) if ids is None else as_labels(ids, n, f"ids_{side}") for ids, n, side in given))


def _rows_of(codes_u: NDArray[np.int64], codes_e: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each u the row of e of the same episode, or -1."""
    row = np.full(int(max(codes_u.max(initial=0), codes_e.max(initial=0))) + 1, -1)
    row[codes_e] = np.arange(len(codes_e))
    return np.asarray(row[codes_u])


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
        draws: number of random galleries; 1 where the gallery is all items.
    """

    hits: dict[int, NDArray[np.float64]]
    queries: NDArray[np.int64]
    tied: NDArray[np.bool_]
    chance: dict[int, float]
    n_gallery: int
    draws: int = 1

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
    gallery: Whole | None = None,
    seed: Whole = 0,
) -> Recall:
    """Recall@k (hit rate) of cosine retrieval u to e and e to u: whether one of the k nearest is of the query's group.

    Candidates whose similarity is within `tolerance` of the query's best positive are tied with it, and the expected
    hit over random orders of the tied ones is taken: with a items of other groups above, q positives and t others tied,
    1 - C(t, k - a) / C(q + t, k - a). For k = 1 this is |M & P| / |M|, M the set of nearest items, P the positives.
    The value does not depend on the order of the items.

    Both directions come from one product, in blocks: memory is a few blocks and the normalized features.

    Products grow with the square of the number of items. Where there are more than 100,000, or `gallery` asks for it,
    the items are dealt at random into sets of `gallery` items, at least three, and those of each set are ranked against
    each other: every item is a query, with its own partner in its gallery. Hits and chance of a query in several sets
    are its means over them. Recall falls with the size of the gallery, and so does its chance.

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
        gallery: items that each query is ranked against; 0 for all, `GALLERY` of more than `LARGE` when not given.
        seed: of the random galleries.

    Raises:
        ConfigError: k, tolerance or gallery is impossible.
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
    rows = None if block is None else as_whole(block, "block")
    size = gallery_size(gallery, max(len(u), len(e)))
    if size is None:
        found = [_ranked(u, e, codes_u, codes_e, own_e, tolerance, rows)]
    else:
        partner = _rows_of(*_episodes(ids_u, ids_e, len(u), len(e))[0])
        found = [
            _ranked(u, e, codes_u, codes_e, own_e, tolerance, rows, part)
            for part in _random_sets(len(u), len(e), partner, size, check_seed(seed))
        ]
    sides = [_direction([ranks[side] for ranks in found], ks, exclude_own, side) for side in (0, 1)]
    return Recall(u2e=sides[0], e2u=sides[1], ks=ks)


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """Queries of one side, each ranked against one gallery; one number for each query.

    `rows` are the queries among `total` rows, `above` and `tied_other` count items of other groups above the best
    positive and tied with it, `tied_same` positives tied with it, `positives` and `candidates` what is in the gallery.
    """

    total: int
    rows: NDArray[np.int64]
    above: NDArray[np.int64]
    tied_same: NDArray[np.int64]
    tied_other: NDArray[np.int64]
    positives: NDArray[np.int64]
    candidates: NDArray[np.int64]
    n_gallery: int


def _ranked(
    u: Tensor,
    e: Tensor,
    codes_u: NDArray[np.int64],
    codes_e: NDArray[np.int64],
    own_e: NDArray[np.int64] | None,
    tolerance: float,
    block: int | None,
    part: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[_Ranks, _Ranks]:
    """Both sides ranked against each other; of all rows, or of those of `part`."""
    totals, chosen = (len(u), len(e)), part
    if chosen is None:
        chosen = (np.arange(len(u)), np.arange(len(e)))
    else:
        u, e = (side[torch.from_numpy(rows).to(side.device)] for side, rows in zip((u, e), chosen, strict=True))
        codes_u, codes_e = codes_u[chosen[0]], codes_e[chosen[1]]
        if own_e is not None:
            place = np.full(totals[1] + 1, -1)  # the last one for those without their own
            place[chosen[1]] = np.arange(len(chosen[1]))
            own_e = place[own_e[chosen[0]]]
    layout = Layout.of(codes_u, codes_e, own_e)
    sorted_u, sorted_e = u[layout.order_u.to(u.device)], e[layout.order_e.to(e.device)]
    best = tied_positives(sorted_u, sorted_e, layout, tolerance)
    others = count_negatives(sorted_u, sorted_e, layout, best, tolerance, block)
    present = [np.zeros(len(codes), dtype=bool) for codes in (codes_u, codes_e)]
    if own_e is not None:
        present[0], present[1][own_e[own_e >= 0]] = own_e >= 0, True
    groups = int(max(codes_u.max(), codes_e.max())) + 1

    def of(side: int) -> _Ranks:
        order = (layout.order_u, layout.order_e)[side]
        restore = np.argsort(order.numpy())  # from sorted rows to the caller's order
        query, gallery = ((codes_u, codes_e), (codes_e, codes_u))[side]
        return _Ranks(
            total=totals[side],
            rows=chosen[side],
            above=(others.above_u, others.above_e)[side][restore],
            tied_same=(best.tied_u, best.tied_e)[side].cpu().numpy()[restore],
            tied_other=(others.tied_u, others.tied_e)[side][restore],
            positives=np.bincount(gallery, minlength=groups)[query] - present[side],
            candidates=len(gallery) - present[side],
            n_gallery=len(gallery),
        )

    return of(0), of(1)


def _direction(found: list[_Ranks], ks: tuple[int, ...], exclude_own: bool, side: int) -> DirectionRecall:
    """Hits and chance of all queries; means over galleries for those that were in several."""
    times = np.zeros(found[0].total)
    tied = np.zeros(found[0].total, dtype=bool)
    hits, chances = ({k: np.zeros(found[0].total) for k in ks} for _ in range(2))
    for ranks in found:
        able = ranks.tied_same > 0
        rows = ranks.rows[able]
        times[rows] += 1
        tied[rows] |= ranks.tied_other[able] > 0
        for k in ks:
            hits[k][rows] += expected_hit(ranks.above[able], ranks.tied_same[able], ranks.tied_other[able], k)
            chances[k][rows] += _chances(ranks.positives[able], ranks.candidates[able], k)
    queries = np.flatnonzero(times)
    if not len(queries):
        raise ProbeError(
            f"none of {found[0].total} queries ({'ue'[side]}) has an item of its group on the other side"
            + (" but its own" if exclude_own else "")
            + ": retrieval needs shared groups."
        )
    return DirectionRecall(
        hits={k: hits[k][queries] / times[queries] for k in ks},
        queries=queries,
        tied=tied[queries],
        chance={k: float(np.mean(chances[k][queries] / times[queries])) for k in ks},
        n_gallery=found[0].n_gallery - int(exclude_own),
        draws=len(found),
    )


def _random_sets(
    n_u: int, n_e: int, partner_e: NDArray[np.int64], size: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of u and of e of each set, at most `size` of either: those of the smaller side with their partners.

    Rows that were in no set before come first; each set for itself is drawn from all rows with equal probability.
    """
    rng = np.random.default_rng(seed)
    few, many = min(n_u, n_e), max(n_u, n_e)
    partner = partner_e
    if n_u > n_e:
        partner = np.full(n_e, -1)
        known = np.flatnonzero(partner_e >= 0)
        partner[partner_e[known]] = known
    used_few, used_many = np.zeros(few, dtype=bool), np.zeros(many, dtype=bool)
    for _ in range(gallery_draws(size, many)):
        rows = _take(rng, used_few, min(size, few), used_few[:0].astype(np.int64))
        mates = np.unique(partner[rows])
        mates = mates[mates >= 0]
        others = _take(rng, used_many, min(size, many) - len(mates), mates)
        used_many[mates] = True
        both = np.sort(rows), np.sort(np.concatenate([mates, others]))
        yield both if n_u <= n_e else both[::-1]


def _take(
    rng: np.random.Generator, used: NDArray[np.bool_], count: int, without: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`count` random rows without some, unused ones first; they are then used."""
    order = rng.permutation(len(used))
    order = order[np.argsort(used[order], kind="stable")]
    rows = order[~np.isin(order, without)][:count]
    used[rows] = True
    return rows


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
