import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.probe import chance_recall, paired_ranks, recall_at_k, true_recall_at_k
from mnprobe.probe.retrieval import _random_sets, gallery_draws, gallery_size


def slow_recall(z_q, z_g, groups_q, groups_g, k, own=None, tol=1e-5):
    """Mean expected hit over queries that can hit, by sorting and by counting draws of the tied items."""
    z_q = z_q / np.linalg.norm(z_q, axis=1, keepdims=True)
    z_g = z_g / np.linalg.norm(z_g, axis=1, keepdims=True)
    hits = []
    for i in range(len(z_q)):
        sims = [
            (float(z_q[i] @ z_g[j]), groups_g[j] == groups_q[i]) for j in range(len(z_g)) if own is None or j != own[i]
        ]
        if not any(same for _, same in sims):
            continue
        edge = sorted((s for s, _ in sims), reverse=True)[min(k, len(sims)) - 1]  # similarity of the k-th
        above = [same for s, same in sims if s > edge + tol]
        tied = [same for s, same in sims if abs(s - edge) <= tol]
        left = min(k, len(sims)) - len(above)
        miss = 0.0 if any(above) else math.comb(len(tied) - sum(tied), left) / math.comb(len(tied), left)
        hits.append(1.0 - miss)
    return float(np.mean(hits))


def grid(rng, rows, width):
    """Few different vectors, so that ties abound."""
    return rng.integers(-1, 2, size=(rows, width)).astype(np.float32) + np.float32(0.5)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 30])
@pytest.mark.parametrize("block", [None, 1, 4])
def test_recall_equals_the_loops(ties, k, block, rng):
    make = grid if ties else (lambda rng, n, d: rng.normal(size=(n, d)).astype(np.float32))
    z_u, z_e = make(rng, 17, 3), make(rng, 13, 3)
    groups_u, groups_e = rng.integers(0, 5, 17), rng.integers(1, 6, 13)
    found = recall_at_k(z_u, z_e, groups_u, groups_e, k=[k], block=block)
    assert found.u2e.recall(k) == pytest.approx(slow_recall(z_u, z_e, groups_u, groups_e, k))
    assert found.e2u.recall(k) == pytest.approx(slow_recall(z_e, z_u, groups_e, groups_u, k))
    assert found.recall(k) == pytest.approx((found.u2e.recall(k) + found.e2u.recall(k)) / 2)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_own_episode_left_out_equals_the_loops(ties, k, rng):
    make = grid if ties else (lambda rng, n, d: rng.normal(size=(n, d)).astype(np.float32))
    z_u, z_e = make(rng, 14, 3), make(rng, 14, 3)
    groups = rng.integers(0, 5, 14)
    order = rng.permutation(14)
    own = np.argsort(order)
    ids = [f"ep{i}" for i in range(14)]
    found = recall_at_k(
        z_u,
        z_e[order],
        groups,
        groups[order],
        k=[k],
        exclude_own=True,
        ids_u=ids,
        ids_e=[ids[i] for i in order],
        block=5,
    )
    assert found.u2e.recall(k) == pytest.approx(slow_recall(z_u, z_e[order], groups, groups[order], k, own))
    assert found.e2u.recall(k) == pytest.approx(slow_recall(z_e[order], z_u, groups[order], groups, k, order))
    assert found.u2e.n_gallery == 13


def test_ties_count_by_the_share_of_positives_among_the_nearest():
    # 200 constant features, 110 of them in group 0 and ten each in nine others: 0.55**2 + 9 * 0.05**2
    groups = np.array([0] * 110 + [1 + i % 9 for i in range(90)])
    same = torch.ones(200, 8)
    found = recall_at_k(same, same, groups)
    assert found.recall(1) == pytest.approx(0.325)
    assert found.recall(1) == pytest.approx(found.chance(1))
    assert found.recall(10) == pytest.approx(found.chance(10))
    assert found.tied_share == 1.0
    assert recall_at_k(same, same, np.arange(200)).recall(1) == pytest.approx(0.005)


def test_equal_items_of_one_group_are_no_tie_that_matters():
    z = torch.eye(3).repeat_interleave(4, dim=0)
    found = recall_at_k(z, z, np.arange(12) // 4)
    assert found.recall(1) == 1.0
    assert found.tied_share == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_the_items_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    z_u, z_e, groups = grid(rng, 9, 2), grid(rng, 9, 2), rng.integers(0, 3, 9)
    one, two = rng.permutation(9), rng.permutation(9)
    found = recall_at_k(z_u, z_e, groups, k=[1, 2])
    moved = recall_at_k(z_u[one], z_e[two], groups[one], groups[two], k=[1, 2])
    for k in (1, 2):
        assert moved.u2e.recall(k) == pytest.approx(found.u2e.recall(k))
        assert moved.e2u.recall(k) == pytest.approx(found.e2u.recall(k))
        assert_allclose(np.sort(moved.u2e.hits[k]), np.sort(found.u2e.hits[k]))


def test_hits_stand_at_their_queries():
    z = torch.eye(4)
    found = recall_at_k(z, z[[1, 0, 2, 3]], ["a", "b", "c", "d"], ["a", "b", "c", "x"], k=[1])
    assert found.u2e.queries.tolist() == [0, 1, 2]
    assert found.u2e.hits[1].tolist() == [0.0, 0.0, 1.0]
    assert found.e2u.queries.tolist() == [0, 1, 2]


def test_tolerance_arrives():
    z_u = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    z_e = torch.tensor([[1.0, 0.01], [1.0, 0.0]])
    assert recall_at_k(z_u, z_e, [0, 1], k=[1]).u2e.hits[1][0] == 0.0
    assert recall_at_k(z_u, z_e, [0, 1], k=[1], tolerance=1e-3).u2e.hits[1][0] == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_compared_in_float32(dtype, generator):
    z = torch.randn(10, 6, generator=generator).to(dtype)
    assert recall_at_k(z, z, np.arange(10)).recall(1) == 1.0


def test_one_huge_group_goes_through_in_pieces(monkeypatch, rng):
    monkeypatch.setattr("mnprobe.probe._blocks._BLOCK_ENTRIES", 20)
    z_u, z_e = grid(rng, 12, 2), grid(rng, 12, 2)
    groups = np.array([0] * 10 + [1, 2])
    found = recall_at_k(z_u, z_e, groups, k=[1])
    assert found.u2e.recall(1) == pytest.approx(slow_recall(z_u, z_e, groups, groups, 1))
    assert found.e2u.recall(1) == pytest.approx(slow_recall(z_e, z_u, groups, groups, 1))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"k": [0]}, ConfigError, r"at least 1, got \[0\]"),
        ({"tolerance": -1.0}, ConfigError, "tolerance must be >= 0, got -1.0"),
        ({"block": 0}, ConfigError, "block must be at least 1 row, got 0"),
        ({"groups_u": [0, 1]}, FeatureError, "groups_u must give one label per row: 3 rows"),
        ({"groups_u": [0, 1, 2], "groups_e": [7, 8, 9]}, ProbeError, "none of 3 queries"),
        ({"groups_e": [5, 6, 7]}, ProbeError, "none of 3 queries"),
        ({"exclude_own": True}, ProbeError, "but its own"),
        (
            {"exclude_own": True, "ids_u": ["a", "a", "b"], "ids_e": ["a", "b", "c"]},
            ProbeError,
            "'a' is twice on side u",
        ),
        ({"exclude_own": True, "groups_e": [1, 0, 2]}, ProbeError, "'0' has one group on side u and another"),
        ({"z_u": np.full((3, 2), np.nan, np.float32)}, FeatureError, "z_u: 3 of 3 rows hold NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, error, text):
    given = {"z_u": np.eye(3, 2, dtype=np.float32), "z_e": np.eye(3, 2, dtype=np.float32), "groups_u": [0, 1, 2]}
    given |= change
    with pytest.raises(error, match=text):
        recall_at_k(given.pop("z_u"), given.pop("z_e"), given.pop("groups_u"), **given)


# chance ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4, 9])
@pytest.mark.parametrize("exclude_own", [False, True])
def test_chance_equals_counting_every_choice(k, exclude_own):
    groups = ["a", "a", "a", "b", "b", "c"]
    shares = []
    for i, group in enumerate(groups):
        gallery = [j for j in range(6) if not (exclude_own and j == i)]
        if not any(groups[j] == group for j in gallery):
            continue
        chosen = list(itertools.combinations(gallery, min(k, len(gallery))))
        shares.append(np.mean([any(groups[j] == group for j in choice) for choice in chosen]))
    assert chance_recall(groups, k=k, exclude_own=exclude_own) == pytest.approx(np.mean(shares))


def test_chance_of_measured_examples():
    assert chance_recall(np.arange(200) % 20) == pytest.approx(0.05)
    assert chance_recall(np.arange(200)) == pytest.approx(0.005)
    assert chance_recall(["a"] * 100 + [f"b{i // 5}" for i in range(100)]) == pytest.approx(0.2625)


def test_chance_between_different_sides():
    assert chance_recall(["a", "b", "z"], ["a", "a", "b", "c"]) == pytest.approx((0.5 + 0.25) / 2)  # z cannot hit
    own = chance_recall(["a", "b"], ["a", "a", "b", "b"], exclude_own=True, ids_query=[0, 2], ids_gallery=[0, 1, 2, 3])
    assert own == pytest.approx(1 / 3)


def test_chance_is_what_random_rankings_give(rng):
    groups = rng.integers(0, 4, 12)
    z_u, z_e = rng.normal(size=(2, 150, 12, 5)).astype(np.float32)
    scores = [recall_at_k(a, b, groups, k=[1, 3]) for a, b in zip(z_u, z_e, strict=True)]
    for k in (1, 3):
        assert np.mean([score.recall(k) for score in scores]) == pytest.approx(chance_recall(groups, k=k), abs=0.04)


def test_impossible_chance_is_refused():
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        chance_recall(["a"], k=0)
    with pytest.raises(ProbeError, match="none of 2 queries"):
        chance_recall(["a", "b"], exclude_own=True)


# the other two recalls ---------------------------------------------------------------------------------------------


def test_true_recall_equals_the_loops(rng):
    z_q, z_g = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(11, 4)).astype(np.float32)
    groups_q, groups_g = np.arange(9) % 3, np.arange(11) % 3
    sims = (z_q / np.linalg.norm(z_q, axis=1, keepdims=True)) @ (z_g / np.linalg.norm(z_g, axis=1, keepdims=True)).T
    for k, value in true_recall_at_k(z_q, z_g, groups_q, groups_g, k=[1, 3, 11]).items():
        nearest = np.argsort(-sims, axis=1)[:, :k]
        shares = [(groups_g[row] == g).sum() / (groups_g == g).sum() for row, g in zip(nearest, groups_q, strict=True)]
        assert value == pytest.approx(np.mean(shares))
    same = np.ones((6, 2), np.float32)
    assert true_recall_at_k(same, same, [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], k=[2])[2] == pytest.approx(2 / 6)


def test_paired_ranks_equal_sorting_and_share_ties(rng, monkeypatch):
    monkeypatch.setattr("mnprobe.probe._blocks._BLOCK_ENTRIES", 30)
    z_u, z_e = rng.normal(size=(2, 10, 4)).astype(np.float32)
    sims = (z_u / np.linalg.norm(z_u, axis=1, keepdims=True)) @ (z_e / np.linalg.norm(z_e, axis=1, keepdims=True)).T
    forth, back = paired_ranks(z_u, z_e)
    assert forth.tolist() == [1 + (row > row[i]).sum() for i, row in enumerate(sims)]
    assert back.tolist() == [1 + (row > row[i]).sum() for i, row in enumerate(sims.T)]
    assert paired_ranks(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32))[0].tolist() == [3.0] * 5


@pytest.mark.parametrize(("n_u", "n_e", "size"), [(10, 10, 4), (11, 7, 5), (7, 11, 5), (3, 9, 4), (9, 9, 8)])
def test_random_sets_hold_every_row_with_its_partner(n_u, n_e, size, rng):
    partner = rng.permutation(max(n_u, n_e))[:n_u]
    partner[partner >= n_e] = -1
    sets = list(_random_sets(n_u, n_e, partner, size, seed=1))
    assert len(sets) == gallery_draws(size, max(n_u, n_e)) >= 3
    for rows_u, rows_e in sets:
        assert (len(set(rows_u)), len(set(rows_e))) == (min(size, n_u), min(size, n_e))
        few, many = (partner[rows_u], rows_e) if n_u <= n_e else (np.flatnonzero(np.isin(partner, rows_e)), rows_u)
        assert set(few) - {-1} <= set(many)
    if n_u == n_e:
        assert {row for rows, _ in sets for row in rows} == set(range(n_u))


@pytest.mark.parametrize("exclude_own", [False, True])
def test_recall_in_random_galleries_is_the_mean_over_their_sets(exclude_own, rng):
    z_u, z_e, groups = grid(rng, 10, 3), grid(rng, 10, 3), rng.integers(0, 3, 10)
    order = rng.permutation(10)
    ids = np.arange(10)
    found = recall_at_k(
        *(z_u, z_e[order], groups, groups[order]), k=2, exclude_own=exclude_own, ids_u=ids, ids_e=ids[order],
        gallery=4, seed=5,
    )  # fmt: skip
    hits, chances = [{row: [] for row in range(10)} for _ in range(2)]
    for rows_u, rows_e in _random_sets(10, 10, np.argsort(order), 4, 5):
        part = recall_at_k(
            *(z_u[rows_u], z_e[order][rows_e], groups[rows_u], groups[order][rows_e]), k=2, exclude_own=exclude_own,
            ids_u=ids[rows_u], ids_e=ids[order][rows_e],
        ).u2e  # fmt: skip
        for query, hit in zip(part.queries, part.hits[2], strict=True):
            hits[rows_u[query]].append(hit)
            own = ids[order][rows_e] == ids[rows_u[query]]
            left = groups[order][rows_e][~own] if exclude_own else groups[order][rows_e]
            same, size = int((left == groups[rows_u[query]]).sum()), len(left)
            chances[rows_u[query]].append(1 - math.comb(size - same, 2) / math.comb(size, 2))
    able = [row for row in range(10) if hits[row]]
    assert found.u2e.queries.tolist() == able
    assert_allclose(found.u2e.hits[2], [np.mean(hits[row]) for row in able])
    assert found.u2e.chance[2] == pytest.approx(np.mean([np.mean(chances[row]) for row in able]))
    assert (found.u2e.n_gallery, found.u2e.draws) == (4 - exclude_own, 3)


def test_recall_in_random_galleries_is_on_average_that_of_all_galleries(rng):
    """The truth by enumeration: queries and gallery are three of six items, in all twenty ways."""
    z_u, z_e, groups = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), np.array([0, 0, 1, 1, 2, 2])
    subsets = [list(rows) for rows in itertools.combinations(range(6), 3)]
    truth = np.mean([recall_at_k(z_u[rows], z_e[rows], groups[rows], k=1).recall(1) for rows in subsets])
    chance = np.mean([chance_recall(groups[rows]) for rows in subsets])
    found = [recall_at_k(z_u, z_e, groups, k=1, gallery=3, seed=seed) for seed in range(300)]
    assert np.mean([one.recall(1) for one in found]) == pytest.approx(truth, abs=0.02)
    assert np.mean([one.chance(1) for one in found]) == pytest.approx(chance, abs=0.01)


def test_a_gallery_changes_recall_and_chance_together(rng):
    noise = [rng.normal(size=(300, 4)) for _ in range(2)]
    found = recall_at_k(*noise, np.arange(300), k=[1, 5], gallery=50)
    assert found.chance(1) == pytest.approx(1 / 50)
    assert found.chance(5) == pytest.approx(5 / 50)
    assert found.recall(1) == pytest.approx(1 / 50, abs=0.025)
    assert recall_at_k(noise[0], noise[0], np.arange(300), k=1, gallery=50).recall(1) == 1.0
    whole = recall_at_k(*noise, np.arange(300), k=1)
    for gallery in (0, 300, 1000):
        same = recall_at_k(*noise, np.arange(300), k=1, gallery=gallery, seed=3)
        assert (same.recall(1), same.chance(1), same.u2e.n_gallery) == (whole.recall(1), whole.chance(1), 300)


def test_more_than_100_000_items_are_ranked_in_galleries_of_20_000():
    assert gallery_size(None, 100_000) is None
    assert (gallery_size(None, 100_001), gallery_draws(20_000, 100_001)) == (20_000, 6)
    assert gallery_size(0, 1_000_000) is None


@pytest.mark.parametrize("gallery", [-1, 1, 2.5, True, "many"])
def test_an_impossible_gallery_is_refused(gallery):
    with pytest.raises(ConfigError, match="gallery"):
        recall_at_k(np.eye(4), np.eye(4), np.arange(4), gallery=gallery)
