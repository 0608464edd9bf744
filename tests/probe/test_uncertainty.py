import math

import numpy as np
import pytest
from scipy import stats

from mnprobe.core.errors import ConfigError
from mnprobe.probe import cluster_bootstrap, cluster_difference, spread


def expanded(level, clusters):
    """Quantiles of the expanded percentile interval, from distributions of SciPy."""
    reach = math.sqrt(clusters / (clusters - 1)) * stats.t(clusters - 1).ppf((1 + level) / 2)
    return [stats.norm.cdf(-reach), stats.norm.cdf(reach)]


def slow_bootstrap(values, clusters, resamples, seed, level):
    """The same draws of whole clusters, pooled one by one."""
    names = sorted(set(clusters))
    rng = np.random.default_rng(seed)
    statistics = []
    for picks in rng.integers(len(names), size=(resamples, len(names))):
        rows = [i for pick in picks for i, c in enumerate(clusters) if c == names[pick]]
        statistics.append(np.nanmean(values[rows], axis=0).mean())
    return np.quantile(statistics, expanded(level, len(names)))


@pytest.mark.parametrize("columns", [1, 2])
def test_interval_equals_the_explicit_loop(columns, rng):
    clusters = [f"c{i}" for i in rng.integers(0, 9, 40)]
    values = rng.random((40, columns))
    values[rng.random(values.shape) < 0.1] = np.nan
    found = cluster_bootstrap(values, clusters, resamples=60, seed=4, level=0.8)
    assert (found.low, found.high) == pytest.approx(slow_bootstrap(values, clusters, 60, 4, 0.8))
    assert found.n_clusters == len(set(clusters))


@pytest.mark.parametrize("clusters", [5, 10, 30])
def test_interval_covers_the_truth_as_often_as_it_says(rng, clusters):
    covered = 0
    for seed in range(300):
        means = rng.normal(0.5, 0.1, clusters)
        values = np.repeat(means, 5) + rng.normal(0, 0.05, 5 * clusters)
        found = cluster_bootstrap(values, np.repeat(np.arange(clusters), 5), resamples=400, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_a_difference_is_taken_on_the_same_clusters(rng):
    hardness = np.repeat(rng.normal(0, 5.0, 20), 4)  # much larger than the difference, and equal on both sides
    clusters = np.repeat(np.arange(20), 4)
    one, other = hardness + 0.3 + rng.normal(0, 0.2, 80), hardness + rng.normal(0, 0.2, 80)
    found = cluster_difference(one, other, clusters)
    assert 0 < found.low < (one - other).mean() < found.high < 0.5
    assert cluster_bootstrap(one, clusters).high - cluster_bootstrap(one, clusters).low > 3
    names, statistics = np.arange(20), []
    for picks in np.random.default_rng(7).integers(20, size=(50, 20)):
        rows = np.concatenate([np.flatnonzero(clusters == names[pick]) for pick in picks])
        statistics.append(one[rows].mean() - other[rows].mean())
    found = cluster_difference(one, other, clusters, resamples=50, seed=7, level=0.9)
    assert (found.low, found.high) == pytest.approx(np.quantile(statistics, expanded(0.9, 20)))


def test_weights_make_small_test_sets_count_as_much_as_large_ones():
    values = np.array([1.0, 0.0, 0.0, 0.0])  # one test set of one query, one of three
    weights = np.array([1.0, 1 / 3, 1 / 3, 1 / 3])
    same = np.zeros(4, dtype=int)
    for order in (same, np.arange(4)):
        clusters = np.concatenate([order, order + 10])  # twice the same, so that there are clusters to draw
        found = cluster_bootstrap(np.tile(values, 2), clusters, weights=np.tile(weights, 2))
        assert found.low - 1e-9 <= 0.5 <= found.high + 1e-9
        assert (found.high - found.low < 1e-9) == (order is same)


@pytest.mark.parametrize(("value", "clusters"), [(1.0, 4), (0.0, 4), (1.0, 54)])
def test_hits_without_exception_leave_room_for_one(value, clusters):
    found = cluster_bootstrap(np.full(clusters, value), np.arange(clusters), hits=True)
    exact = stats.binomtest(round(value) * clusters, clusters).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    middle = cluster_bootstrap(np.full(clusters, 0.25), np.arange(clusters), hits=True)
    assert middle.low == middle.high == 0.25  # ties: every query has the same expected hit


def test_whole_clusters_are_drawn(rng):
    values = np.repeat(rng.random(10), 50)  # no variation inside: 10 independent numbers, not 500
    wide = cluster_bootstrap(values, np.repeat(np.arange(10), 50))
    narrow = cluster_bootstrap(values, np.arange(500))
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


def test_few_clusters_carry_a_note():
    values = np.array([0.0, 1.0, 1.0, 0.0])
    none = cluster_bootstrap(values, ["a"] * 4)
    assert math.isnan(none.low)
    assert none.note == "no interval: it takes at least 2 instructions, there is 1"
    few = cluster_bootstrap(values, ["a", "a", "b", "b"])
    assert "only 2 instructions in the test set" in few.note
    assert cluster_bootstrap(np.arange(9.0), np.arange(9)).note == ""


@pytest.mark.parametrize("change", [{"level": 1.0}, {"resamples": 0}])
def test_impossible_settings_are_quoted(change):
    with pytest.raises(ConfigError, match="level must lie in"):
        cluster_bootstrap(np.ones(3), [1, 2, 3], **change)


def test_spread():
    assert spread(np.array([1.0, 3.0])) == pytest.approx(2**0.5)
    assert math.isnan(spread(np.array([1.0])))
