import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp

from mnprobe.analysis.statistics import (
    cluster_jackknife,
    cluster_jackknife_difference,
    detectable_difference,
    effective_blocks,
    expected_error,
    power_at,
    standard_error,
)
from mnprobe.core.errors import ConfigError


def test_equal_clusters_give_students_interval():
    """With one item per cluster the jackknife of a mean is the classical standard error."""
    values = np.random.default_rng(0).normal(size=14)
    low, high = ttest_1samp(values, 0).confidence_interval(0.9)
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
    assert found.high - whole == pytest.approx(t(5).ppf(0.975) * error)


def test_a_difference_is_paired_by_cluster():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(10), 4)
    shift = rng.normal(size=10)[clusters]  # what both share cancels
    one, other = shift + 0.2 + 0.01 * rng.normal(size=40), shift + 0.01 * rng.normal(size=40)
    found = cluster_jackknife_difference(one, other, clusters)
    assert found.high - found.low < 0.05
    assert found.low < 0.2 < found.high
    assert standard_error(one, other, clusters) == pytest.approx((found.high - found.low) / 2 / t(9).ppf(0.975))


def test_shares_stay_inside_and_ends_are_open_where_nothing_varies():
    values = np.array([1.0] * 19 + [0.0])
    found = cluster_jackknife(values, np.arange(20), shares=True)
    assert 0 < found.low < 0.95 < found.high < 1
    every = cluster_jackknife(np.ones(5), np.arange(5), shares=True)
    assert (round(every.low, 3), every.high) == (0.478, 1.0)
    none = cluster_jackknife(np.zeros(5), np.arange(5), shares=True)
    assert (none.low, round(none.high, 3)) == (0.0, 0.522)


def test_few_clusters_are_said():
    assert "takes at least 2" in cluster_jackknife(np.ones(3), list("aaa")).note
    assert "not to be relied on" in cluster_jackknife(np.arange(4.0), list("aabb")).note
    with pytest.raises(ConfigError, match="level"):
        cluster_jackknife(np.ones(3), list("abc"), level=1.0)


@pytest.mark.parametrize("blocks", [6, 15, 60])
def test_power_is_scipys_noncentral_t(blocks):
    bound = t(blocks - 1).ppf(0.975)
    expected = nct(blocks - 1, 2.5).sf(bound) + nct(blocks - 1, 2.5).cdf(-bound)
    assert power_at(0.25, 0.1, blocks) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("blocks", [4, 12, 40])
def test_the_detectable_difference_has_its_power(blocks):
    assert power_at(detectable_difference(0.03, blocks), 0.03, blocks) == pytest.approx(0.8, abs=1e-6)
    assert power_at(
        detectable_difference(0.03, blocks, power=0.5, level=0.01), 0.03, blocks, level=0.01
    ) == pytest.approx(0.5, abs=1e-6)


def test_unequal_blocks_show_less():
    assert effective_blocks(np.ones(9)) == 9
    assert effective_blocks(np.array([8.0] + [1.0] * 8)) == pytest.approx(256 / 72)
    assert detectable_difference(0.1, 3.56) > detectable_difference(0.1, 9)


def test_power_needs_blocks_and_an_error():
    assert np.isnan(detectable_difference(0.1, 1))
    assert np.isnan(detectable_difference(np.nan, 10))
    assert detectable_difference(0.0, 10) == 0.0
    assert power_at(100.0, 0.1, 10) == 1.0
    with pytest.raises(ConfigError, match="power"):
        detectable_difference(0.1, 10, power=1.0)


def test_the_error_from_counts_is_that_of_simulated_hits():
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(12), rng.integers(4, 12, 12))
    labels = rng.random(len(blocks)) < 0.4
    slope = rng.normal(size=(4000, 12)) * 0.1
    from mnprobe.analysis.statistics import match_weights

    weights = match_weights(labels, blocks)
    share = np.where(labels, weights, -weights) / weights[labels].sum()
    chance = np.clip(0.5 + np.where(labels, slope[:, blocks], 0.0), 0, 1)
    drawn = (rng.random((4000, len(blocks))) < chance) @ share
    assert expected_error(labels, blocks, rate=0.5, spread=0.1) == pytest.approx(drawn.std(), rel=0.05)
    with pytest.raises(ConfigError, match="rate"):
        expected_error(labels, blocks, rate=2.0)
