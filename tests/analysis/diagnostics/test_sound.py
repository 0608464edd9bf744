"""A sound pipeline passes; what cannot be checked says why; oracles agree with slow ways."""

from dataclasses import replace

import numpy as np
import pytest

from mnprobe.analysis.diagnostics import CHECKS, Subject, broken, sampled, sanity_suite
from mnprobe.analysis.diagnostics.reference import block_null, label_null, slow_chance
from mnprobe.analysis.diagnostics.synthetic import dealt, identity, rotation, twin_of, whitened
from mnprobe.probe import chance_recall, pair_arrays


def test_a_sound_pipeline_passes_every_check(subject):
    checks = sanity_suite(replace(subject, seeds=1))
    assert [check.name for check in checks] == list(CHECKS)
    assert not broken(checks)
    wanted = dict.fromkeys(CHECKS, "pass") | {
        f"your features, {held} held out": "reported" for held in ("episodes", "instructions")
    }
    wanted |= {f"sample sizes, {held} held out": "look" for held in ("episodes", "instructions")}
    assert {check.name: check.status for check in checks} == wanted


def test_the_same_data_give_the_same_report(subject):
    names = ["random features, episodes held out"]
    assert sanity_suite(subject, only=names) == sanity_suite(subject, only=names)


@pytest.mark.parametrize("spread", [1e-4, 1e4])
def test_the_size_of_the_users_features_does_not_matter(subject, spread):
    pair = replace(subject.pair, u=(subject.pair.u * spread + spread).astype(np.float32))
    names = ["shuffled pairs, episodes held out", "u against itself, rotated"]
    names += ["similarity indices of u and itself, rotated"]
    statuses = [check.status for check in sanity_suite(replace(subject, pair=pair), only=names)]
    assert statuses == ["pass"] * 3


def test_one_instruction_makes_checks_not_possible_and_says_why():
    rng = np.random.default_rng(0)
    pair = pair_arrays(*rng.standard_normal((2, 20, 4)), ["open"] * 20)
    checks = {check.name: check for check in sanity_suite(Subject(pair=pair, seeds=1, permutations=99))}
    assert checks["random features, episodes held out"].status == "not possible"
    assert "1 instructions" in checks["random features, episodes held out"].found
    assert not broken(checks.values())


def test_few_instructions_get_more_seeds_so_that_the_check_can_fail(subject):
    rows = np.flatnonzero(np.isin(subject.pair.items.instructions, [f"do {k}" for k in range(4)]))
    pair = replace(subject.pair, u=subject.pair.u[rows], e=subject.pair.e[rows], items=subject.pair.items.take(rows))
    few = replace(subject, pair=pair, seeds=1, permutations=99)
    (sound,) = sanity_suite(few, only=["id-only features, instructions held out"])
    assert sound.status == "pass"
    assert sound.numbers["seeds"] >= 14
    assert sound.numbers["high"] < 1


def test_a_check_that_could_not_fail_is_not_possible(subject):
    rows = np.array([0, 1, 2, 8, 9, 10])
    pair = replace(subject.pair, u=subject.pair.u[rows], e=subject.pair.e[rows], items=subject.pair.items.take(rows))
    (check,) = sanity_suite(replace(subject, pair=pair, seeds=1), only=["random features, episodes held out"])
    assert check.status == "not possible"
    assert "even a perfect score could be chance" in check.found


def test_instructions_with_one_episode_each_are_not_possible():
    rng = np.random.default_rng(0)
    pair = pair_arrays(*rng.standard_normal((2, 5, 4)), list("abcde"))
    (check,) = sanity_suite(Subject(pair=pair), only=["id-only features, episodes held out"])
    assert check.status == "not possible"
    assert "needs at least 2 training and 2 test episodes" in check.found


def test_collapsed_features_of_the_user_are_no_fault_of_the_pipeline(subject):
    n = len(subject.pair.items)
    names = [name for name in CHECKS if any(word in name for word in ("shuffled", "rotated", "your features", "u and"))]
    pair = replace(subject.pair, u=np.ones((n, 6), np.float32), e=np.ones((n, 3), np.float32))
    checks = {check.name: check for check in sanity_suite(replace(subject, pair=pair, seeds=1), only=names)}
    assert not broken(checks.values())
    assert checks["u against itself, rotated"].status == "not possible"
    assert checks["copies in your features"].status == "look"
    assert "u and e cannot tell one episode from another" in checks["copies in your features"].meaning


def test_repeated_rows_are_reported_and_do_not_break_the_rotation_check(subject):
    u = subject.pair.u.copy()
    u = u[np.arange(len(u)) // 4 * 4]
    chosen = ["copies in your features", "u against itself, rotated", "similarity indices of u and itself, rotated"]
    copies, twin, indices = sanity_suite(replace(subject, pair=replace(subject.pair, u=u)), only=chosen)
    assert copies.status == "look"
    assert copies.numbers["equal_u"] > 0
    assert copies.numbers["equal_e"] == 0
    assert (twin.status, indices.status) == ("pass", "pass")


def test_untrained_weights_stand_beside(subject):
    rng = np.random.default_rng(1)
    before = replace(subject.pair, u=rng.standard_normal(subject.pair.u.shape).astype(np.float32))
    (check,) = sanity_suite(replace(subject, untrained=before, seeds=1), only=["your features, episodes held out"])
    assert check.status == "reported"
    assert check.numbers["value"] > check.numbers["untrained"] + 0.2
    assert check.meaning == ""
    (same,) = sanity_suite(replace(subject, untrained=subject.pair, seeds=1), only=["your features, episodes held out"])
    assert same.numbers["value"] == same.numbers["untrained"]
    assert "more than half" in same.meaning


@pytest.mark.parametrize("k", [1, 3, 50])
def test_chance_by_counting_equals_the_closed_form(k):
    groups = list("aaaabbcddd")
    assert slow_chance(groups, k) == pytest.approx(chance_recall(groups, k=k))


@pytest.mark.parametrize("clusters", [False, True])
def test_a_null_mean_is_chance_and_its_alarms_are_as_rare_as_promised(clusters):
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(6), 5)
    alarms, ps = 0, []
    for _ in range(200):
        z_u, z_e = rng.standard_normal((2, 30, 4))
        if clusters:  # as the features of a good model: one place per group
            z_u = z_u[groups] + 0.01 * z_u
        null = label_null([(z_u, z_e, groups)], 99, rng)
        value = _slow_recall(z_u, z_e, groups)
        alarms += not null.holds(value)
        ps.append(null.p(value))
    assert alarms <= 10  # at most 2 % = 4 are expected; more than 10 have a chance below 1 in 200
    assert np.mean(np.array(ps) <= 0.1) <= 0.15
    assert null.mean == pytest.approx(1 / 6)
    many = label_null([(z_u, z_e, groups)], 20_000, rng)
    assert many.values.mean() == pytest.approx(1 / 6, abs=0.003)
    assert (many.values.std() > 0.06) == clusters


def test_whole_groups_are_dealt_where_rows_are_equal():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(4), [1, 2, 3, 10])
    values = []
    for _ in range(300):
        u, e = rng.standard_normal((2, 4, 3))
        null = block_null([(u[groups], e[groups], groups)], 49, rng)
        values.append(_slow_recall(u[groups], e[groups], groups))
    assert null.mean == 0.25
    assert np.mean(values) == pytest.approx(0.25, abs=0.06)  # and not the sum of squared shares, 0.445


def _slow_recall(z_u, z_e, groups):
    hits = []
    for one, other in ((z_u, z_e), (z_e, z_u)):
        for i, row in enumerate(one):
            cosine = [row @ item / np.linalg.norm(row) / np.linalg.norm(item) for item in other]
            hits.append(groups[int(np.argmax(cosine))] == groups[i])
    return float(np.mean(hits))


def test_planted_features_are_what_they_claim(pair):
    rng = np.random.default_rng(0)
    q = rotation(6, rng)
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=1e-12)
    white = whitened(pair.u, 5)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(5), atol=1e-10)
    moved = dealt(pair, rng)
    np.testing.assert_array_equal(np.sort(moved.e, axis=0), np.sort(pair.e, axis=0))
    np.testing.assert_array_equal(moved.u, pair.u)
    assert (moved.e != pair.e).any()
    for one_hot in (False, True):
        codes = identity(pair, rng, one_hot=one_hot)
        assert len(np.unique(codes.u, axis=0)) == len(np.unique(codes.e, axis=0)) == 12
    twin = twin_of(pair, rng, 5)
    np.testing.assert_allclose(twin.u @ twin.u.T, twin.e @ twin.e.T, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "count", "noise", "heavy"), [(600, 60, 0.05, 0), (600, 60, 1, 1.5), (96, 12, 0.3, 0), (240, 8, 0.3, 2)]
)
def test_a_sound_pipeline_finds_the_rotation_of_features_of_any_kind(n, count, noise, heavy):
    rng = np.random.default_rng(n)
    rows = np.arange(n) % count
    u = rng.standard_normal((count, 32))[rows] @ rng.standard_normal((32, 100)) + noise * rng.standard_normal((n, 100))
    u *= np.exp(heavy * rng.standard_normal((n, 1)))
    pair = pair_arrays(u, u[:, :5], [f"do {k}" for k in rows])
    (check,) = sanity_suite(Subject(pair=pair, seeds=1), only=["u against itself, rotated"])
    assert check.status == "pass", check


def test_a_large_store_is_sampled_evenly_over_instructions():
    rng = np.random.default_rng(0)
    labels = np.array(["often"] * 500 + [f"do {i % 20}" for i in range(400)])
    pair = pair_arrays(*rng.standard_normal((2, 900, 3)), labels, ids=[f"e{i}" for i in range(900)])
    few = sampled(pair, most=210)
    counts = np.unique(few.items.instructions, return_counts=True)[1]
    assert len(few.items) == 210
    assert counts.min() == counts.max() == 10
    place = {name: i for i, name in enumerate(pair.items.ids)}
    rows = [place[name] for name in few.items.ids]
    np.testing.assert_array_equal(few.u, pair.u[rows])
    assert sampled(pair, most=900) is pair
