import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import chi2, nct, t

from mnprobe.analysis.statistics import (
    detectable_difference,
    effective_blocks,
    expected_error,
    match_weights,
    power_at,
)
from mnprobe.core.errors import ConfigError


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


def _integrated(shift, degrees, level):
    """Power of the noncentral t by integrating over the estimated standard error instead of over the mean."""
    bound, scale = t(degrees).ppf(1 - level / 2) / np.sqrt(degrees), 2 * chi2(degrees).pdf(1.0) * np.exp(0.5)

    def at(x):
        density = scale * x ** (degrees - 1) * np.exp(-x * x / 2)  # of the chi distribution
        return (ndtr(shift - bound * x) + ndtr(-shift - bound * x)) * density

    return quad(at, 0, 12, epsabs=1e-10, limit=300)[0]


@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
@pytest.mark.parametrize("blocks", [2, 2.05, 2.3, 2.5, 4])
def test_power_with_few_blocks_is_that_of_numerical_integration(blocks, level):
    shifts = (0.0, 3.0, 7.0, 8.0, 15.0, 22.0, 38.0, 90.0)  # of several, scipy's nctdtr is NaN
    expected = [_integrated(shift, blocks - 1, level) for shift in shifts]
    np.testing.assert_allclose([power_at(x, 1.0, blocks, level=level) for x in shifts], expected, atol=1e-7)


@pytest.mark.parametrize(("blocks", "level"), [(2, 0.05), (2.2, 0.05), (2.5, 0.05), (2, 0.05 / 6), (3, 0.05 / 6)])
def test_with_few_blocks_a_difference_of_that_size_is_found_in_80_of_100_simulated_cases(blocks, level):
    rng = np.random.default_rng(1)
    difference = detectable_difference(1.0, blocks, level=level)
    errors = np.sqrt(rng.chisquare(blocks - 1, 200_000) / (blocks - 1))
    found = np.abs(rng.normal(difference, 1.0, 200_000)) / errors > t(blocks - 1).ppf(1 - level / 2)
    assert found.mean() == pytest.approx(0.8, abs=0.004)


def test_the_detectable_difference_falls_without_jumps_as_blocks_are_added():
    found = [detectable_difference(1.0, blocks) for blocks in np.arange(2.0, 4.0, 0.1)]
    steps = np.diff(np.log(found))
    assert (steps < 0).all()
    assert (np.diff(steps) > 0).all()


def test_unequal_blocks_show_less():
    assert effective_blocks(np.ones(9)) == 9
    assert effective_blocks(np.array([8.0] + [1.0] * 8)) == pytest.approx(256 / 72)
    assert detectable_difference(0.1, 3.56) > detectable_difference(0.1, 9)


def test_power_needs_blocks_and_an_error():
    assert np.isnan(detectable_difference(0.1, 1))
    assert np.isnan(detectable_difference(np.nan, 10))
    assert np.isnan(detectable_difference(0.0, 10))
    assert power_at(100.0, 0.1, 10) == 1.0
    with pytest.raises(ConfigError, match="power"):
        detectable_difference(0.1, 10, power=1.0)


def test_the_error_from_counts_is_that_of_simulated_hits():
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(12), rng.integers(4, 12, 12))
    labels = rng.random(len(blocks)) < 0.4
    slope = rng.normal(size=(4000, 12)) * 0.1
    weights = match_weights(labels, blocks)
    share = np.where(labels, weights, -weights) / weights[labels].sum()
    chance = np.clip(0.5 + np.where(labels, slope[:, blocks], 0.0), 0, 1)
    drawn = (rng.random((4000, len(blocks))) < chance) @ share
    assert expected_error(labels, blocks, rate=0.5, spread=0.1) == pytest.approx(drawn.std(), rel=0.05)
    with pytest.raises(ConfigError, match="rate"):
        expected_error(labels, blocks, rate=2.0)
