import math

import numpy as np
import pytest
from scipy import stats

from mnprobe.core.errors import ConfigError
from mnprobe.probe import cluster_jackknife, cluster_jackknife_difference, spread, standard_error


def test_equal_clusters_give_students_interval():
    """With one item per cluster the jackknife of a mean is the classical standard error."""
    values = np.random.default_rng(0).normal(size=14)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = cluster_jackknife(values, np.arange(14), level=0.9)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_unequal_clusters_are_the_slow_loop():
    rng = np.random.default_rng(1)
    clusters, values, weights = rng.integers(0, 6, 40), rng.random((40, 2)), rng.random(40)
    values[rng.random(40) < 0.2, 1] = np.nan

    def mean(keep):
        columns = []
        for column in values[keep].T:
            here = ~np.isnan(column)
            columns.append(np.average(column[here], weights=weights[keep][here]))
        return np.mean(columns)

    whole = mean(np.ones(40, bool))
    without = np.array([mean(clusters != g) for g in range(6)])
    error = np.sqrt(5 / 6 * np.sum((without - whole) ** 2))
    found = cluster_jackknife(values, clusters, weights=weights)
    masses = [
        np.array([weights[here & (clusters == g)].sum() / weights[here].sum() for g in range(6)])
        for here in ~np.isnan(values).T
    ]
    worth = 1 / np.sum(np.mean(masses, axis=0) ** 2)  # as many equal clusters
    assert 3 < worth < 6
    assert found.high - whole == pytest.approx(stats.t(worth - 1).ppf(0.975) * error)
    share = cluster_jackknife(values, clusters, weights=weights, shares=True)
    scale = 1 / (whole * (1 - whole))
    middle = np.log(whole / (1 - whole)) - (scale * error) ** 2 * (2 * whole - 1) / 2
    ends = middle + np.array([-1, 1]) * stats.t(worth - 1).ppf(0.975) * error * scale
    assert share[:2] == pytest.approx(tuple(1 / (1 + np.exp(-ends))))


def test_a_difference_is_paired_by_cluster():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(10), 4)
    shift = rng.normal(size=10)[clusters]  # what both share cancels
    one, other = shift + 0.2 + 0.01 * rng.normal(size=40), shift + 0.01 * rng.normal(size=40)
    found = cluster_jackknife_difference(one, other, clusters)
    assert found.high - found.low < 0.05
    assert found.low < 0.2 < found.high
    assert standard_error(one, other, clusters) == pytest.approx((found.high - found.low) / 2 / stats.t(9).ppf(0.975))


def test_shares_stay_inside_and_ends_are_open_where_nothing_varies():
    values = np.array([1.0] * 19 + [0.0])
    found = cluster_jackknife(values, np.arange(20), shares=True)
    assert 0 < found.low < 0.95 < found.high < 1
    every = cluster_jackknife(np.ones(5), np.arange(5), shares=True)
    assert (round(every.low, 3), every.high) == (0.478, 1.0)
    none = cluster_jackknife(np.zeros(5), np.arange(5), shares=True)
    assert (none.low, round(none.high, 3)) == (0.0, 0.522)


def test_few_clusters_carry_a_note():
    none = cluster_jackknife(np.ones(3), list("aaa"))
    assert math.isnan(none.low)
    assert none.note == "no interval: it takes at least 2 instructions, there is 1"
    assert cluster_jackknife(np.arange(4.0), list("aabb")).note.startswith("only 2 instructions: the interval")
    assert cluster_jackknife(np.arange(9.0), np.arange(9)).note == ""
    assert cluster_jackknife(np.arange(4.0), np.arange(4), unit="episodes").note.startswith("only 4 episodes: the")
    with pytest.raises(ConfigError, match=r"level must lie in \(0, 1\), got 1.0"):
        cluster_jackknife(np.ones(3), list("abc"), level=1.0)


@pytest.mark.parametrize(("noise", "draws"), [(0.3, 1), (1.0, 3), (4.0, 3)])
def test_single_episodes_of_one_instruction_give_intervals_that_hold(noise, draws):
    """Recall of the episode itself under fitted heads, 400 data sets of 60 episodes: the truth is its mean over all."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(6, 20)), rng.normal(size=(6, 16))
    found = []
    for _ in range(400):
        hidden = rng.normal(size=(60, 6))
        u, e = (hidden @ side + noise * rng.normal(size=(60, side.shape[1])) for side in mixed)
        values = np.full((draws, 60, 2), np.nan)
        for draw in range(draws):
            test, train = np.split(rng.permutation(60), [18])
            z_u, z_e = closed_form(u, e, train)
            near = z_u[test] @ z_e[test].T
            values[draw, test] = np.stack([near.argmax(1), near.argmax(0)], axis=1) == np.arange(18)[:, None]
        units = np.tile(np.arange(60), draws)
        interval = cluster_jackknife(values.reshape(-1, 2), units, shares=True, unit="episodes")
        found.append((np.nanmean(values), interval.low, interval.high))
    value, low, high = np.array(found).T
    covered = (low <= value.mean()) & (value.mean() <= high)
    assert 0.93 <= covered.mean() <= 0.995
    assert 0.05 < value.mean() < 0.95


def closed_form(u, e, train):
    """Whitened and rotated onto each other, with unit rows; fitted on `train`."""
    white = []
    for side in (u - u[train].mean(0), e - e[train].mean(0)):
        values, vectors = np.linalg.eigh(side[train].T @ side[train] / len(train) + 0.1 * np.eye(side.shape[1]))
        white.append(side @ (vectors / np.sqrt(values)))
    left, strength, right = np.linalg.svd(white[0][train].T @ white[1][train] / len(train), full_matrices=False)
    found = white[0] @ left * np.sqrt(strength), white[1] @ right.T * np.sqrt(strength)
    return [z / np.linalg.norm(z, axis=1, keepdims=True) for z in found]


def test_one_instruction_on_one_side_gives_no_interval():
    """Without it that side would be empty, so nothing tells how much it varies."""
    one, other = np.array([1.0, 0.5, np.nan, np.nan]), np.array([np.nan, np.nan, 0.2, 0.4])
    found = cluster_jackknife_difference(one, other, list("aabc"))
    assert math.isnan(found.low)
    assert found.note.endswith("there is 1")


@pytest.mark.parametrize("clusters", [8, 12, 40])
def test_intervals_cover_the_truth_as_often_as_they_say(clusters):
    """Shares of unequal instructions, most of them near 1; 600 data sets."""
    rng = np.random.default_rng(clusters)
    covered = 0
    for _ in range(600):
        sizes = rng.integers(3, 9, clusters)
        rate = rng.beta(4, 1.5, clusters)
        names = np.repeat(np.arange(clusters), sizes)
        hits = (rng.random(len(names)) < rate[names]).astype(float)
        found = cluster_jackknife(hits, names, shares=True)
        covered += found.low <= 4 / 5.5 <= found.high
    assert 0.92 <= covered / 600 <= 0.975


@pytest.mark.parametrize(("value", "clusters"), [(1.0, 4), (0.0, 4), (1.0, 54)])
def test_hits_without_exception_leave_room_for_one(value, clusters):
    found = cluster_jackknife(np.full(clusters, value), np.arange(clusters), shares=True)
    exact = stats.binomtest(round(value) * clusters, clusters).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_equal_sides_leave_room_for_a_difference():
    perfect, names = np.ones(12), np.arange(12)
    assert cluster_jackknife_difference(perfect, perfect, names)[:2] == (0.0, 0.0)
    found = cluster_jackknife_difference(perfect, perfect, names, shares=True)
    room = 1 - 0.025 ** (1 / 12)
    assert (found.low, found.high) == pytest.approx((-room, room))
    whole = cluster_jackknife_difference(perfect, 0 * perfect, names, shares=True)
    assert (whole.low, whole.high) == pytest.approx((1 - 2 * room, 1.0))
    other = np.r_[0.0, np.ones(11)]
    plain, shares = (cluster_jackknife_difference(perfect, other, names, shares=shares) for shares in (False, True))
    assert plain == shares


def test_weights_make_small_test_sets_count_as_much_as_large_ones():
    values = np.array([1.0, 0.0, 0.0, 0.0])  # one test set of one query, one of three
    weights = np.array([1.0, 1 / 3, 1 / 3, 1 / 3])
    for order, varies in ((np.zeros(4, dtype=int), False), (np.arange(4), True)):
        clusters = np.concatenate([order, order + 10])  # twice the same, so that there are clusters to leave out
        found = cluster_jackknife(np.tile(values, 2), clusters, weights=np.tile(weights, 2))
        assert (found.low + found.high) / 2 == pytest.approx(0.5)
        assert (found.high - found.low > 1e-9) == varies


def test_whole_clusters_are_left_out():
    values = np.repeat(np.random.default_rng(5).random(10), 50)  # no variation inside: 10 independent numbers, not 500
    wide = cluster_jackknife(values, np.repeat(np.arange(10), 50))
    narrow = cluster_jackknife(values, np.arange(500))
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


def test_spread():
    assert spread(np.array([1.0, 3.0])) == pytest.approx(2**0.5)
    assert math.isnan(spread(np.array([1.0])))
