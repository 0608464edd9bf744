"""Each index against an independent computation: slow loops, SciPy, scikit-learn, published special cases."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.cross_decomposition import CCA as SklearnCCA

from mnprobe.analysis.similarity import (
    cca,
    cknna,
    debiased_cka,
    hsic_1,
    infonce_bound,
    linear_cka,
    make_index,
    minibatch_cka,
    mutual_knn,
    procrustes,
    procrustes_distance,
    pwcca,
    rbf_cka,
    ridge_cca,
    rsa,
    svcca,
)
from mnprobe.analysis.similarity.cca import folds_of
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples


def slow_hsic_1(k, m):
    """Song et al. 2012, theorem 2: the mean over all choices of four different rows of a product of kernels."""
    n = len(k)
    terms = [0.0, 0.0, 0.0]
    counts = [0, 0, 0]
    for i in range(n):
        for j in range(n):
            if j == i:
                continue
            terms[0] += k[i, j] * m[i, j]
            counts[0] += 1
            for q in range(n):
                if q in (i, j):
                    continue
                terms[1] += k[i, j] * m[i, q]
                counts[1] += 1
                for r in range(n):
                    if r not in (i, j, q):
                        terms[2] += k[i, j] * m[q, r]
                        counts[2] += 1
    return terms[0] / counts[0] - 2 * terms[1] / counts[1] + terms[2] / counts[2]


def test_debiased_cka_is_the_published_estimator(sides):
    x, y = sides[0][:9], sides[1][:9]
    k, m = x @ x.T, y @ y.T
    assert hsic_1(k, m) == pytest.approx(slow_hsic_1(k, m), rel=1e-10)
    direct = hsic_1(k, m) / math.sqrt(hsic_1(k, k) * hsic_1(m, m))
    assert debiased_cka(x, y) == pytest.approx(direct, abs=1e-12)


def test_debiased_cka_may_be_negative():
    generator = np.random.default_rng(1)
    values = [debiased_cka(generator.standard_normal((10, 5)), generator.standard_normal((10, 5))) for _ in range(20)]
    assert min(values) < -0.05


def test_linear_cka_equals_the_feature_form(sides):
    x, y = (side - side.mean(0) for side in sides[:2])
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(*sides[:2]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_cka_equals_loops(sides, debiased):
    x, y = sides[0][:12], sides[1][:12]
    kernels = []
    for side in (x, y):
        distance = np.array([[math.dist(a, b) for b in side] for a in side])
        sigma = 0.8 * np.median([distance[i, j] for i in range(12) for j in range(i)])
        kernels.append(np.exp(-(distance**2) / (2 * sigma**2)))
    if debiased:
        products = [hsic_1(kernels[i], kernels[j]) for i, j in ((0, 1), (0, 0), (1, 1))]
    else:
        h = np.eye(12) - 1 / 12
        products = [np.trace(kernels[i] @ h @ kernels[j] @ h) for i, j in ((0, 1), (0, 0), (1, 1))]
    expected = products[0] / math.sqrt(products[1] * products[2])
    assert rbf_cka(x, y, width=0.8, debiased=debiased) == pytest.approx(expected, abs=1e-10)


def test_minibatch_cka_averages_numerator_and_self_terms_apart(sides):
    x, y = sides[:2]
    batches = [(x[i : i + 15], y[i : i + 15]) for i in range(0, 60, 15)]
    terms = np.zeros(3)
    for a, b in batches:
        k, m = a @ a.T, b @ b.T
        terms += [hsic_1(k, m), hsic_1(k, k), hsic_1(m, m)]
    assert minibatch_cka(batches) == pytest.approx(terms[0] / math.sqrt(terms[1] * terms[2]), abs=1e-12)


def test_minibatch_cka_with_one_batch_is_debiased_cka(sides):
    assert make_index("minibatch_cka", {"batch": 100}).score(*sides[:2]) == pytest.approx(debiased_cka(*sides[:2]))


def test_minibatch_cka_comes_near_the_whole(sides):
    whole = debiased_cka(*sides[:2])
    assert make_index("minibatch_cka", {"batch": 12, "passes": 200}).score(*sides[:2]) == pytest.approx(whole, abs=0.03)


def test_minibatch_cka_refuses_uneven_batches(sides):
    x, y = sides[:2]
    with pytest.raises(FeatureError, match=r"batch 1 has 8 and 8, those before had 10. Leave a last smaller"):
        minibatch_cka([(x[:10], y[:10]), (x[10:18], y[10:18])])
    with pytest.raises(TooFewSamples, match="batch 0 has 3"):
        minibatch_cka([(x[:3], y[:3])])
    with pytest.raises(TooFewSamples, match="got none"):
        minibatch_cka([])


def slow_neighbors(values, k, groups):
    found = []
    for i, row in enumerate(values):
        cosine = {
            j: float(row @ other) / (np.linalg.norm(row) * np.linalg.norm(other))
            for j, other in enumerate(values)
            if j != i and (groups is None or groups[j] != groups[i])
        }
        found.append(set(sorted(cosine, key=cosine.get, reverse=True)[:k]))
    return found


@pytest.mark.parametrize("outside", [False, True])
def test_mutual_knn_equals_loops(sides, outside):
    x, y, _, groups = sides
    given = groups if outside else None
    one, other = slow_neighbors(x, 6, given), slow_neighbors(y, 6, given)
    expected = np.mean([len(a & b) / 6 for a, b in zip(one, other, strict=True)])
    assert mutual_knn(x, y, k=6, outside=given) == pytest.approx(expected, abs=1e-12)


def test_mutual_knn_of_collapsed_features_is_chance(sides):
    same = np.ones((60, 3))
    assert mutual_knn(same, same, k=6) == pytest.approx(6 / 59)
    assert mutual_knn(same, sides[1], k=6) == pytest.approx(6 / 59)


def test_mutual_knn_shares_a_tied_place():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # rows 0 to 2 tie for each other
    y = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    # of rows 0 to 2 each has two tied neighbours, 1/2 each; row 3 has three (cosine 0), 1/3 each.
    # y: 0 -> 1, 1 -> 0, 2 -> 3, 3 -> 2. Shared: 1/2 + 1/2 + 0 + 1/3
    assert mutual_knn(x, y, k=1) == pytest.approx((0.5 + 0.5 + 0 + 1 / 3) / 4)


def test_mutual_knn_of_all_neighbors_is_one(sides):
    assert mutual_knn(sides[0], sides[1], k=59) == pytest.approx(1.0)
    with pytest.raises(TooFewSamples, match="one of these 60 rows has 59"):
        mutual_knn(sides[0], sides[1], k=60)
    with pytest.raises(TooFewSamples, match="outside its own group for every row, but one of these 60 rows has 55"):
        mutual_knn(sides[0], sides[1], k=56, outside=sides[3])


@pytest.mark.parametrize("outside", [False, True])
def test_cknna_equals_loops(sides, outside):
    x, y, _, groups = sides
    given = groups if outside else None

    def masked(values, mask):
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        return unit @ unit.T * mask

    masks = []
    for side in (x, y):
        mask = np.zeros((60, 60))
        for i, row in enumerate(slow_neighbors(side, 9, given)):
            mask[i, list(row)] = 1
        masks.append(mask)
    both = masks[0] * masks[1]
    cross = hsic_1(masked(x, both), masked(y, both))
    own = [hsic_1(masked(side, mask), masked(side, mask)) for side, mask in zip((x, y), masks, strict=True)]
    assert cknna(x, y, k=9, outside=given) == pytest.approx(cross / math.sqrt(own[0] * own[1]), abs=1e-12)


def test_cknna_with_all_neighbors_is_debiased_cka_of_cosines(sides):
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides[:2])
    k, m = x @ x.T, y @ y.T
    expected = hsic_1(k, m) / math.sqrt(hsic_1(k, k) * hsic_1(m, m))
    assert cknna(x, y, k=59) == pytest.approx(expected, abs=1e-12)


def test_cknna_never_takes_a_root_of_a_negative_number():
    x = np.eye(8)[[0, 0, 1, 1, 2, 2, 3, 3]]
    with pytest.raises(ProbeError, match=r"a self term is .*Choose another k"):
        cknna(np.ones((8, 2)), x, k=2)


def test_cca_equals_scikit_learn(sides):
    generator = np.random.default_rng(0)
    latent = generator.standard_normal((800, 3))
    x = latent @ generator.standard_normal((3, 5)) + generator.standard_normal((800, 5))
    y = latent @ generator.standard_normal((3, 4)) + generator.standard_normal((800, 4))
    a, b = SklearnCCA(n_components=4, max_iter=5000, tol=1e-12).fit(x, y).transform(x, y)
    expected = np.mean([pearsonr(a[:, i], b[:, i]).statistic for i in range(4)])
    assert cca(x, y) == pytest.approx(expected, abs=1e-6)
    assert svcca(x, y, variance=1.0) == pytest.approx(expected, abs=1e-6)


def test_svcca_keeps_the_component_that_crosses_the_threshold(sides):
    x, y = sides[:2]
    reduced = []
    for side in (x, y):
        values, vectors = np.linalg.eigh(np.cov(side.T))
        values, vectors = values[::-1], vectors[:, ::-1]
        count = next(i for i in range(1, len(values) + 1) if values[:i].sum() >= 0.8 * values.sum())
        assert count < len(values)
        reduced.append((side - side.mean(0)) @ vectors[:, :count])
    assert svcca(x, y, variance=0.8) == pytest.approx(cca(*reduced), abs=1e-10)


def test_pwcca_equals_loops(sides):
    x, y = sides[:2]
    qx, qy = (np.linalg.qr(side - side.mean(0))[0] for side in (x, y))
    _, rho, vt = np.linalg.svd(qx.T @ qy, full_matrices=False)
    variates = qy @ vt.T  # y has fewer dimensions
    middle = y - y.mean(0)
    weight = [sum(abs(variates[:, i] @ middle[:, j]) for j in range(5)) for i in range(5)]
    expected = sum(w * r for w, r in zip(weight, rho, strict=True)) / sum(weight)
    assert pwcca(x, y) == pytest.approx(expected, abs=1e-10)
    assert pwcca(y, x) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("function", [cca, partial(svcca, variance=1.0), pwcca])
def test_saturated_cca_is_refused_with_both_numbers(function):
    generator = np.random.default_rng(0)
    with pytest.raises(TooFewSamples, match=r"12 and 8 dimensions with 20 rows give.*ridge_cca"):
        function(generator.standard_normal((20, 12)), generator.standard_normal((20, 8)))
    assert function(generator.standard_normal((21, 12)), generator.standard_normal((21, 8))) < 1


def test_procrustes_equals_scipy(sides):
    x, y = (side - side.mean(0) for side in sides[:2])
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    y = np.pad(y, ((0, 0), (0, 2)))
    turn, _ = orthogonal_procrustes(y, x)
    assert procrustes_distance(*sides[:2]) == pytest.approx(np.linalg.norm(x - y @ turn) ** 2, abs=1e-12)
    assert procrustes(*sides[:2]) == pytest.approx(1 - np.linalg.norm(x - y @ turn) ** 2 / 2, abs=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "correlation", "euclidean"])
@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_rsa_equals_scipy(sides, distance, correlation):
    one, other = (pdist(side, distance) for side in sides[:2])
    test = {"spearman": spearmanr, "pearson": pearsonr}[correlation]
    found = rsa(*sides[:2], distance=distance, correlation=correlation)
    assert found == pytest.approx(test(one, other).statistic, abs=1e-10)


def test_ridge_cca_equals_a_fit_fold_by_fold(sides):
    x, y, _, groups = sides
    fold = folds_of(groups, 4, 3)
    assert all(len(set(fold[groups == group])) == 1 for group in range(12))
    rows = []
    scaled = []
    for side in (x, y):
        middle = side - side.mean(0)
        scores = middle @ np.linalg.svd(middle)[2][:4].T
        scaled.append(scores / np.sqrt(np.mean(scores**2)))
    for number in range(4):
        train, test = fold != number, fold == number
        whitened = []
        for side in scaled:
            mean, covariance = side[train].mean(0), np.cov(side[train].T, bias=True)
            values, vectors = np.linalg.eigh(covariance + 0.5 * np.trace(covariance) / 4 * np.eye(4))
            whitened.append((side - mean) @ vectors / np.sqrt(values))
        u, _, vt = np.linalg.svd(whitened[0][train].T @ whitened[1][train])
        rows.append((whitened[0][test] @ u[:, :3], whitened[1][test] @ vt[:3].T))
    a, b = (np.concatenate(part) for part in zip(*rows, strict=True))
    expected = np.mean((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0)))
    found = ridge_cca(x, y, groups, pcs=4, dims=3, ridge=0.5, folds=4, seed=3)
    assert found == pytest.approx(expected, abs=1e-9)


def test_ridge_cca_is_not_fooled_by_many_dimensions():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((60, 200)), generator.standard_normal((60, 200))
    assert abs(ridge_cca(x, y)) < 0.15


def test_ridge_cca_needs_two_groups(sides):
    with pytest.raises(TooFewSamples, match="at least 2 groups, got 1"):
        ridge_cca(sides[0], sides[1], np.zeros(60))


def test_the_bound_is_the_probes_own(sides):
    """Fitted heads, and `info_nce` on one episode of each held-out group, written out."""
    from mnprobe.analysis.similarity.infonce import InfoNCEBound
    from mnprobe.probe import FitConfig, fit_heads, info_nce

    x, y, _, groups = sides
    index = InfoNCEBound(steps=120, dim=32, tau=0.2, draws=3, batch=5, seed=4)
    fold = folds_of(groups, 2, 4)
    train, test = np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)
    u, e = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))
    fitted = fit_heads(u[train], e[train], groups[train], config=FitConfig(dim=32, steps=120, tau=0.2), seed=4).heads
    z_u, z_e = fitted(u[test], e[test])
    batches = index._draws(groups[test])
    assert batches.shape == (3, 5)
    losses = []
    for batch in batches:
        assert len(set(groups[test][batch])) == 5
        losses.append(info_nce(z_u[batch].double(), z_e[batch].double(), tau=0.2).item())
    assert index.score(x, y, groups) == pytest.approx(math.log(5) - np.mean(losses), abs=1e-6)


def test_the_bound_finds_what_is_there_and_nothing_else():
    generator = np.random.default_rng(0)
    latent = np.repeat(generator.standard_normal((24, 6)), 5, axis=0)
    groups = np.repeat(np.arange(24), 5)
    x = latent @ generator.standard_normal((6, 12)) + 0.2 * generator.standard_normal((120, 12))
    y = latent @ generator.standard_normal((6, 10)) + 0.2 * generator.standard_normal((120, 10))
    found = infonce_bound(x, y, groups, dim=256, steps=200)
    assert 0.5 < found < math.log(12)
    assert infonce_bound(x, generator.standard_normal((120, 10)), groups, dim=256, steps=200) < 0.1
    with pytest.raises(TooFewSamples, match="at least 4 groups, 2 to fit and 2 to test; got 3"):
        infonce_bound(x, y, groups % 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rbf_cka", {"width": 0.0}, "width must be a positive multiple"),
        ("minibatch_cka", {"batch": 3}, "batch must be at least 4"),
        ("mutual_knn", {"k": 0}, "k must be a whole number of neighbours, at least 1, got 0"),
        ("cknna", {"k": 1}, "at least 2, got 1"),
        ("svcca", {"variance": 1.5}, "variance must be a share"),
        ("pwcca", {"variance": 0.0}, "variance must be a share"),
        ("rsa", {"distance": "angle"}, "distance must be one of cosine, correlation, euclidean, got 'angle'"),
        ("ridge_cca", {"folds": 1}, "folds must be at least 2"),
        ("ridge_cca", {"ridge": 0.0}, "ridge must be positive"),
        ("infonce", {"batch": 1}, "batch must be at least 2"),
        ("infonce", {"tau": 0.0}, "tau must be positive"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_index(name, options)
