import math

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.probe import cluster_bootstrap, spread


def slow_bootstrap(values, clusters, resamples, seed, level):
    """The same draws of whole clusters, pooled one by one."""
    names = sorted(set(clusters))
    rng = np.random.default_rng(seed)
    statistics = []
    for picks in rng.integers(len(names), size=(resamples, len(names))):
        rows = [i for pick in picks for i, c in enumerate(clusters) if c == names[pick]]
        statistics.append(np.nanmean(values[rows], axis=0).mean())
    return np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])


@pytest.mark.parametrize("columns", [1, 2])
def test_interval_equals_the_explicit_loop(columns, rng):
    clusters = [f"c{i}" for i in rng.integers(0, 9, 40)]
    values = rng.random((40, columns))
    values[rng.random(values.shape) < 0.1] = np.nan
    found = cluster_bootstrap(values, clusters, resamples=60, seed=4, level=0.8)
    assert (found.low, found.high) == pytest.approx(slow_bootstrap(values, clusters, 60, 4, 0.8))
    assert found.n_clusters == len(set(clusters))


def test_interval_covers_the_truth_as_often_as_it_says(rng):
    covered = 0
    for seed in range(150):
        means = rng.normal(0.5, 0.1, 30)
        values = np.repeat(means, 5) + rng.normal(0, 0.05, 150)
        found = cluster_bootstrap(values, np.repeat(np.arange(30), 5), resamples=300, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


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
