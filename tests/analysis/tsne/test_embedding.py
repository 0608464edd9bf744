import logging
import warnings

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from mnprobe.analysis.tsne.embedding import TsneConfig, embed, knn_purity, trust
from mnprobe.analysis.tsne.maps import _standardized, movement
from mnprobe.core.errors import ConfigError, ProbeError, TooFewSamples


@pytest.fixture(scope="module")
def clusters():
    """Eight planted clusters of twelve points in 20 dimensions, and their labels."""
    generator = np.random.default_rng(3)
    centers = 8 * generator.standard_normal((8, 20))
    labels = np.repeat(np.arange(8), 12)
    return centers[labels] + generator.standard_normal((96, 20)), labels


@pytest.fixture(scope="module")
def layout(clusters):
    return embed(clusters[0], TsneConfig(perplexity=8, seed=1))


def test_planted_clusters_are_mixed_before_and_apart_after(clusters, layout):
    points, labels = clusters
    before = np.random.default_rng(0).standard_normal((len(points), 2))
    assert knn_purity(before, labels, 5) < 0.3
    assert knn_purity(layout.coordinates, labels, 5) > 0.98


def test_trustworthiness_is_that_of_scikit_learn_on_the_unreduced_points(clusters, layout):
    assert layout.neighbors == 10
    assert layout.trustworthiness == trustworthiness(clusters[0], layout.coordinates, n_neighbors=10)
    assert layout.trustworthiness > 0.9


def test_the_same_seed_gives_the_same_bits_and_another_does_not(clusters):
    points = np.hstack([clusters[0], clusters[0] ** 2, clusters[0] ** 3])  # 60 columns: through PCA
    first, again = (embed(points, TsneConfig(perplexity=8, seed=1, iterations=30)) for _ in range(2))
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    assert first.kl == again.kl


def test_purity_equals_the_slow_loop(clusters):
    points, labels = clusters
    shares = []
    for row, point in enumerate(points):
        order = np.argsort(((points - point) ** 2).sum(1), kind="stable")
        near = [other for other in order if other != row][:7]
        shares.append(np.mean(labels[near] == labels[row]))
    assert knn_purity(points, labels, 7) == pytest.approx(np.mean(shares), abs=1e-12)


@pytest.mark.parametrize(("count", "effective"), [(4, 1.0), (20, 19 / 3), (96, 30.0)])
def test_perplexity_is_cut_for_few_points(clusters, count, effective):
    found = embed(clusters[0][:count], TsneConfig(perplexity=30, iterations=20, exaggeration_iterations=5))
    assert found.perplexity == pytest.approx(effective)
    assert found.coordinates.shape == (count, 2)
    assert np.isfinite(found.coordinates).all()
    assert found.neighbors < count / 2


def test_every_option_arrives(clusters, monkeypatch):
    import openTSNE

    received = {}

    class Spy(openTSNE.TSNE):
        def __init__(self, **options):
            received.update(options)
            super().__init__(**options)

        def fit(self, points):
            received["columns"] = points.shape[1]
            return super().fit(points)

    monkeypatch.setattr(openTSNE, "TSNE", Spy)
    config = TsneConfig(perplexity=7, seed=11, iterations=13, exaggeration_iterations=3, pca=4, jobs=1, neighbours=6)
    found = embed(clusters[0], config)
    assert received == {
        "perplexity": 7,
        "n_iter": 13,
        "early_exaggeration_iter": 3,
        "initialization": "pca",
        "metric": "euclidean",
        "n_jobs": 1,
        "random_state": 11,
        "columns": 4,
    }
    assert found.neighbors == 6


def test_a_start_arrives_shrunk_with_fewer_iterations(clusters, monkeypatch):
    import openTSNE

    received = {}

    class Spy(openTSNE.TSNE):
        def __init__(self, **options):
            received.update(options)
            super().__init__(**options)

    monkeypatch.setattr(openTSNE, "TSNE", Spy)
    start = np.random.default_rng(0).standard_normal((96, 2)) * 7
    found = embed(clusters[0], TsneConfig(warm_iterations=9, warm_exaggeration_iterations=2), start=start)
    assert (received["n_iter"], received["early_exaggeration_iter"]) == (9, 2)
    np.testing.assert_allclose(received["initialization"], start * 1e-4 / start[:, 0].std())
    assert found.notes == ()  # openTSNE warns of starts that are spread too far
    assert start.std() > 6  # the caller's array is left alone


def test_a_warm_start_stays_nearer_to_the_map_before_than_a_cold_one(clusters, layout):
    moved = clusters[0] + 0.5 * np.random.default_rng(5).standard_normal(clusters[0].shape)
    config = TsneConfig(perplexity=8, seed=1)
    warm = embed(moved, config, start=layout.coordinates)
    turned = layout.coordinates @ np.array([[0.0, -1.0], [1.0, 0.0]])  # a map as good as any, in another place
    cold, warm_turned = embed(moved, config), embed(moved, config, start=turned)
    assert movement(turned, warm_turned.coordinates) < 0.3 < 1.0 < movement(turned, cold.coordinates)
    assert movement(layout.coordinates, warm.coordinates) < 0.3
    assert warm.trustworthiness > cold.trustworthiness - 0.01
    np.testing.assert_array_equal(
        warm.coordinates, embed(moved, config, start=layout.coordinates).coordinates
    )  # the same bits again


def test_the_same_points_stay_where_they_are(clusters, layout):
    again = embed(clusters[0], TsneConfig(perplexity=8, seed=1), start=layout.coordinates)
    assert movement(layout.coordinates, again.coordinates) < 0.15
    labels = clusters[1]
    assert knn_purity(again.coordinates, labels, 5) > 0.98


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.ones((5, 2)), r"must have the shape \(96, 2\), got \(5, 2\)"),
        (np.ones((96, 2)), "finite coordinates that differ"),
        (np.full((96, 2), np.nan), "finite coordinates that differ"),
    ],
)
def test_a_start_that_is_no_map_is_refused(clusters, start, message):
    with pytest.raises(ProbeError, match=message):
        embed(clusters[0], start=start)


def test_one_thread_below_five_thousand_points_unless_told():
    import os

    assert (TsneConfig().threads(4999), TsneConfig(jobs=2).threads(10), TsneConfig(jobs=1).threads(10**6)) == (1, 2, 1)
    assert TsneConfig().threads(5000) == len(os.sched_getaffinity(0))


def test_warnings_become_notes_and_never_errors(clusters, monkeypatch):
    import openTSNE

    class Noisy(openTSNE.TSNE):
        def fit(self, points):
            warnings.warn("something is odd", RuntimeWarning, stacklevel=1)
            logging.getLogger("openTSNE.tsne").warning("and %s too", "this")
            return super().fit(points)

    monkeypatch.setattr(openTSNE, "TSNE", Noisy)
    found = embed(clusters[0][:12], TsneConfig(iterations=5, exaggeration_iterations=5))
    assert set(found.notes) == {"something is odd", "and this too"}


def test_points_that_are_all_the_same_are_drawn_and_said():
    found = embed(np.ones((12, 80)), TsneConfig(iterations=5, exaggeration_iterations=5))
    assert np.isfinite(found.coordinates).all()
    assert "all points are the same" in found.notes[0]


def test_repeated_points_are_no_obstacle(clusters):
    found = embed(np.repeat(clusters[0][:5], 4, axis=0), TsneConfig(iterations=50))
    assert np.isfinite(found.coordinates).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perplexity": 0.5}, "perplexity must be at least 1, got 0.5"),
        ({"perplexity": float("nan")}, "perplexity must be at least 1, got nan"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"pca": 1}, "pca must be 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"jobs": 0}, "jobs must be a number of threads"),
        ({"warm_iterations": 0}, "warm_iterations must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TsneConfig(**options)


def test_bad_points_are_refused(clusters):
    with pytest.raises(TooFewSamples, match="needs at least 4 points, got 3"):
        embed(clusters[0][:3])
    points = clusters[0].copy()
    points[7, 2] = np.nan
    with pytest.raises(ProbeError, match="row 7 of 96"):
        embed(points)
    with pytest.raises(ProbeError, match=r"shape \(96,\)"):
        embed(points[:, 0])


QUICK = TsneConfig(iterations=np.int64(20), exaggeration_iterations=5, perplexity=np.float32(5))


@pytest.mark.parametrize("columns", [1, 3])
def test_points_on_one_line_are_laid_out_in_their_order_and_said_to_be(columns):
    points = np.outer(np.linspace(0, 1, 30) ** 2, np.arange(1, columns + 1))
    found = embed(points, QUICK)
    assert np.isfinite(found.coordinates).all()
    assert found.trustworthiness > 0.9
    assert found.notes == ("all points lie on one line: what the picture shows across it comes from the layout",)
    np.testing.assert_array_equal(found.coordinates, embed(points, QUICK).coordinates)  # the noise has a seed
    assert np.isfinite(embed(points, QUICK, start=found.coordinates).coordinates).all()


@pytest.mark.parametrize("change", [lambda x: 1e200 * x, lambda x: 1e-200 * x, lambda x: 1e9 + x])
def test_points_of_any_size_and_offset_have_the_same_map(clusters, change):
    points = clusters[0][:24]
    same, found = embed(points, QUICK), embed(change(points), QUICK)
    assert found.trustworthiness == pytest.approx(same.trustworthiness, abs=0.02)
    assert movement(same.coordinates, found.coordinates) < 0.01


def test_points_whose_differences_are_lost_are_refused_and_settings_are_whole_numbers():
    with pytest.raises(ProbeError, match="too few digits are left"):
        embed(1e17 + np.random.default_rng(0).random((12, 3)), QUICK)
    assert (type(QUICK.iterations), type(QUICK.perplexity)) == (int, float)
    for wrong in ({"iterations": 2.5}, {"pca": True}, {"perplexity": "30"}, {"jobs": 1.5}):
        with pytest.raises(ConfigError):
            TsneConfig(**wrong)


def test_trust_and_purity_refuse_what_they_cannot_judge(clusters):
    spots = clusters[0][:, :2]
    with pytest.raises(TooFewSamples, match="2 neighbours needs more than 4 points, got 4"):
        trust(spots[:4], spots[:4], 2)
    with pytest.raises(ProbeError, match="a place for each of 96 points, got 95"):
        trust(spots, spots[:95], 2)
    with pytest.raises(TooFewSamples, match="at least 2 points, got 1"):
        knn_purity(spots[:1], ["a"], 3)
    assert knn_purity(1e9 + spots, clusters[1].astype(float), 5) == knn_purity(spots, clusters[1], 5)


def test_raw_features_are_standardized_whatever_one_column_is():
    x = np.random.default_rng(0).normal(size=(30, 3))
    plain = (x - x.mean(0)) / x.std(0)
    np.testing.assert_array_equal(_standardized(x), plain)
    for power in (-200, 200):
        np.testing.assert_allclose(_standardized(x * 10.0**power), plain, atol=1e-12)
    np.testing.assert_allclose(_standardized(np.c_[x, np.full(30, 1e7)]), np.c_[plain, np.zeros(30)], atol=1e-12)
    np.testing.assert_allclose(_standardized(1e9 + x), plain, atol=1e-5)
    jitter = np.c_[x, 1e7 + np.arange(30) % 2].astype(np.float32)  # one step of float32 up and down
    np.testing.assert_array_equal(_standardized(jitter)[:, 3], 0)
