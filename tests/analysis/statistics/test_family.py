import numpy as np
import pytest
from scipy.stats import false_discovery_control

from mnprobe.analysis.statistics import benjamini_hochberg, holm
from mnprobe.core.errors import ProbeError


@pytest.mark.parametrize("seed", range(5))
def test_benjamini_hochberg_is_scipys(seed):
    p = np.random.default_rng(seed).random(23) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), rtol=1e-12)


def _slow_holm(p):
    """By the definition: reject in order while p_(i) <= level / (m - i + 1); the smallest level that rejects."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, worst = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        worst = max(worst, (len(p) - place) * p[i])
        out[i] = min(worst, 1.0)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_slow_loop(seed):
    p = np.random.default_rng(seed).random(17) ** 2
    np.testing.assert_allclose(holm(p), _slow_holm(list(p)), rtol=1e-12)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_what_was_not_tested_stays_so_and_does_not_count(correct):
    found = correct(np.array([0.02, np.nan, 0.5]))
    np.testing.assert_allclose(found[[0, 2]], correct(np.array([0.02, 0.5])))
    assert np.isnan(found[1])
    assert len(correct(np.array([]))) == 0


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_no_correction_lowers_p_or_changes_the_order(correct):
    p = np.random.default_rng(0).random(30)
    found = correct(p)
    assert (found >= p).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    with pytest.raises(ProbeError, match="from 0 to 1"):
        correct(np.array([1.5]))
