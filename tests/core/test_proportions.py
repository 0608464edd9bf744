import numpy as np
import pytest
from scipy.stats import binomtest

from mnprobe.core.errors import ProbeError
from mnprobe.core.proportions import mcnemar, mean_interval, mean_paired_interval, paired_interval, wilson_interval


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_against_scipy(confidence):
    for n in (1, 2, 7, 25, 400):
        for successes in sorted({0, 1, n // 3, n - 1, n}):
            expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
            found = wilson_interval(successes, n, confidence=confidence)
            np.testing.assert_allclose(found, [expected.low, expected.high], atol=1e-12)
            assert 0 <= found[0] <= successes / n <= found[1] <= 1


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_no_interval_for_what_is_no_proportion(successes, n, confidence):
    with pytest.raises(ProbeError, match=f"no interval for {successes} successes of {n}"):
        wilson_interval(successes, n, confidence=confidence)


def test_the_mean_interval_covers_the_mean():
    generator = np.random.default_rng(0)
    shares, counts = np.array([0.05, 0.5, 0.6, 0.95]), [25, 10, 40, 25]
    hits = 0
    for _ in range(1000):
        low, high = mean_interval(generator.binomial(counts, shares).tolist(), counts)
        hits += low <= shares.mean() <= high
    assert 0.93 <= hits / 1000 <= 0.98


def test_the_mean_interval_of_equal_tasks_shrinks_with_their_number():
    widths = [high - low for low, high in (mean_interval([12] * tasks, [25] * tasks) for tasks in (1, 4, 16))]
    np.testing.assert_allclose(widths[0] / widths[1], 2, rtol=1e-6)
    np.testing.assert_allclose(widths[0] / widths[2], 4, rtol=1e-6)
    with pytest.raises(ProbeError, match="no interval for 1 success counts of 0 tasks"):
        mean_interval([1], [])


@pytest.mark.parametrize(
    ("table", "expected"),
    [  # both, lost, gained, neither
        ((36, 2, 12, 0), (0.0569, 0.3404)),  # an example of Newcombe 1998
        ((0, 0, 0, 50), (-0.0714, 0.0714)),  # only one limit of each Wilson interval (0 of 50: up to 0.0714) counts
        ((50, 0, 0, 0), (-0.0714, 0.0714)),
    ],
)
def test_paired_interval_gives_known_numbers(table, expected):
    np.testing.assert_allclose(paired_interval(*table), expected, atol=2e-4)


def test_paired_interval_mirrors_when_before_and_after_change_places():
    low, high = paired_interval(10, 7, 3, 5)
    np.testing.assert_allclose(paired_interval(10, 3, 7, 5), (-high, -low))


@pytest.mark.parametrize(("n", "shares"), [(20, (0.5, 0.3, 0.05, 0.15)), (60, (0.3, 0.1, 0.1, 0.5))])
def test_paired_interval_covers(n, shares):
    draw = np.random.default_rng(0)
    true = shares[2] - shares[1]
    limits = np.array([paired_interval(*map(int, table)) for table in draw.multinomial(n, shares, size=2000)])
    covered = np.mean((limits[:, 0] <= true) & (true <= limits[:, 1]))
    assert 0.93 <= covered <= 0.985


def test_mean_paired_interval_covers_and_is_narrower_than_its_parts():
    draw = np.random.default_rng(1)
    shares = [(0.6, 0.2, 0.05, 0.15), (0.3, 0.1, 0.1, 0.5), (0.2, 0.5, 0.0, 0.3)]
    true = np.mean([share[2] - share[1] for share in shares])
    hits = 0
    for _ in range(1000):
        tables = [tuple(map(int, draw.multinomial(15, share))) for share in shares]
        low, high = mean_paired_interval(tables)
        hits += low <= true <= high
    assert hits >= 930
    assert high - low < min(b - a for a, b in (paired_interval(*table) for table in tables))
    assert mean_paired_interval([(3, 1, 2, 4)]) == pytest.approx(paired_interval(3, 1, 2, 4))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 9), (9, 3), (20, 20), (0, 12)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(lost, gained):
    expected = 1.0 if lost + gained == 0 else binomtest(lost, lost + gained).pvalue
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_impossible_counts_are_refused():
    with pytest.raises(ProbeError, match="no interval for the difference"):
        paired_interval(0, 0, 0, 0)
    with pytest.raises(ProbeError, match="no interval for the difference"):
        paired_interval(1, -1, 0, 0)
    with pytest.raises(ProbeError, match="no classes at all"):
        mean_paired_interval([])
    with pytest.raises(ProbeError, match="-1 lost"):
        mcnemar(-1, 0)
