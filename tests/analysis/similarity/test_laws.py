"""Every registered index keeps what it declares: range, direction, invariances (and no others), symmetry of meaning."""

import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import spearmanr

from mnprobe.analysis.similarity import INDICES, About, Index, Invariance, make_index
from mnprobe.core.errors import FeatureError, ProbeError, TooFewSamples, TooLittleMemory

NAMES = INDICES.names()
QUICK = {
    "infonce": {"steps": 150, "dim": 64},
    "minibatch_cka": {"batch": 16},
    "mutual_knn": {"k": 5},
    "cknna": {"k": 5},
}


def build(name):
    return make_index(name, QUICK.get(name))


def change(kind, values, seed):
    generator = np.random.default_rng(seed)
    width = values.shape[1]
    if kind == "orthogonal":
        return values @ np.linalg.qr(generator.standard_normal((width, width)))[0]
    if kind == "scale":
        return 8.0 * values
    if kind == "translation":
        return values + generator.standard_normal(width)
    return values @ (generator.standard_normal((width, width)) + np.diag(np.arange(1.0, width + 1)))


@pytest.mark.parametrize("name", NAMES)
def test_the_declaration_is_complete(name):
    about = build(name).about
    assert isinstance(about, About)
    assert about.name == name
    assert all((about.title, about.symbol, about.formula, about.source))
    assert about.low < about.high
    assert about.smallest >= 3


@pytest.mark.parametrize("kind", Invariance.__args__)
@pytest.mark.parametrize("name", NAMES)
def test_declared_invariances_hold_and_others_do_not(name, kind, sides):
    x, y, _, groups = sides
    index = build(name)
    before = index.score(x, y, groups)
    changes = [abs(index.score(change(kind, x, 1), y, groups) - before)]
    changes += [abs(index.score(x, change(kind, y, 2), groups) - before)]
    if kind in index.about.invariances:
        assert max(changes) <= index.about.tolerance * max(1.0, abs(before))
    elif (name, kind) != ("infonce", "linear"):  # there the ridge alone makes a difference, and a small one
        assert max(changes) > 3 * index.about.tolerance


@pytest.mark.parametrize("name", [name for name in NAMES if name != "infonce"])  # its probe is tested elsewhere
def test_values_lie_in_the_range_and_equal_sides_are_most_alike(name, sides):
    x, y, _, groups = sides
    index = build(name)
    about = index.about
    same, related = index.score(x, x, groups), index.score(x, y, groups)
    unrelated = index.score(x, np.random.default_rng(3).standard_normal(y.shape), groups)
    for value in (same, related, unrelated):
        assert about.low - 1e-9 <= value <= about.high + 1e-9
    sign = 1 if about.higher_is_alike else -1
    assert sign * same > sign * related > sign * unrelated
    best = about.high if about.higher_is_alike else about.low
    if math.isfinite(best):
        assert same == pytest.approx(best, abs=0.02 if name == "ridge_cca" else 1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("infonce", "cknna")])
def test_the_order_of_the_sides_does_not_matter(name, sides):
    x, y, _, groups = sides
    index = build(name)
    assert index.score(x, y, groups) == pytest.approx(index.score(y, x, groups), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("infonce", "ridge_cca", "minibatch_cka")])
def test_the_order_of_the_episodes_does_not_matter(name, sides):
    x, y, _, groups = sides
    order = np.random.default_rng(5).permutation(len(x))
    index = build(name)
    assert index.score(x[order], y[order], groups[order]) == pytest.approx(index.score(x, y, groups), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if build(name).about.unbiased])
def test_what_is_called_unbiased_is_zero_on_average(name):
    index = build(name)
    generator = np.random.default_rng(0)
    values = [index.score(generator.standard_normal((40, 60)), generator.standard_normal((40, 30))) for _ in range(60)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values)) + 1e-3


def test_what_is_called_biased_is_so():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((100, 768)), generator.standard_normal((100, 768))
    assert make_index("cka").score(x, y) == pytest.approx(0.89, abs=0.01)  # as measured for specs/measuring.md
    assert abs(make_index("debiased_cka").score(x, y)) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_float32_features_give_the_same_value(name, sides):
    x, y, _, groups = sides
    index = build(name)
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert index.score(x, y, groups) == index.score(x.astype(float), y.astype(float), groups)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mutual_knn", "infonce")])
def test_collapsed_features_are_refused(name, sides):
    _, y, _, groups = sides
    with pytest.raises(ProbeError, match=r"not defined|zero, so the median"):
        build(name).score(np.full((60, 3), 2.5), y, groups)


@pytest.mark.parametrize("name", NAMES)
def test_input_errors_say_what_was_given(name, sides):
    x, y, _, _ = sides
    index = build(name)
    with pytest.raises(FeatureError, match=r"x must hold numbers, one row per episode.*shape \(60,\)"):
        index.score(x[:, 0], y)
    with pytest.raises(FeatureError, match="got 60 and 59 rows"):
        index.score(x, y[:59])
    broken = y.copy()
    broken[7, 1] = np.nan
    with pytest.raises(FeatureError, match="y: 1 of 60 rows hold NaN or infinity, the first is row 7"):
        index.score(x, broken)
    with pytest.raises(FeatureError, match="groups must give one label per row: 60 rows, 2 labels"):
        index.score(x, y, groups=[1, 2])
    few = index.about.smallest - 1
    with pytest.raises(TooFewSamples, match=f"at least {few + 1} rows, x has {few}"):
        index.score(x[:few], y[:few])


@pytest.mark.parametrize("name", NAMES)
def test_prepared_sides_serve_many_partners(name, sides):
    x, y, _, groups = sides
    index = build(name)
    assert isinstance(index, Index)
    one, other = index.ready(x, groups), index.ready(y, groups)
    assert index.relate(one, other).value() == pytest.approx(index.score(x, y, groups), abs=1e-12)
    assert index.relate(one, one).value() == pytest.approx(index.score(x, x, groups), abs=1e-12)


@pytest.mark.parametrize("name", ["debiased_cka", "cka", "rbf_cka", "rsa", "mutual_knn", "cknna"])
def test_matrices_that_fit_no_machine_are_told_before_they_are_made(name):
    x = np.arange(1e6)[:, None]
    needed = (
        r"matrices of 1000000 x 1000000 numbers at once and needs about \d+\.\d GiB of memory; \d+\.\d GiB can be had"
    )
    with pytest.raises(TooLittleMemory, match=needed) as told:
        build(name).score(x, x)
    assert "minibatch_cka (`mnprobe compare --index minibatch_cka`)" in str(told.value)
    with pytest.raises(TooLittleMemory, match=needed):
        build(name).ready(x)


def test_minibatch_cka_needs_no_matrix_of_all_episodes_and_gives_the_same_without(sides, monkeypatch):
    x, y, _, _ = sides
    index, order = build("minibatch_cka"), np.random.default_rng(0).permutation(60)
    whole = index.relation(x, y)
    module = importlib.import_module("mnprobe.analysis.similarity.cka")
    monkeypatch.setattr(module, "_WHOLE", 10)
    monkeypatch.setattr(module, "_BLOCK", 600)  # two batches at a time
    parts = index.relation(x, y)
    assert not parts.one.is_gram
    assert parts.value() == pytest.approx(whole.value(), abs=1e-12)
    assert parts.value(order) == pytest.approx(whole.value(order), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if "translation" in build(name).about.invariances])
def test_rows_that_lose_their_difference_to_an_offset_are_told_apart_from_equal_ones(name, sides):
    _, y, _, groups = sides
    index = build(name)
    one_hot = np.eye(3)[np.arange(60) % 3]
    assert index.score(1e9 + one_hot, y, groups) == pytest.approx(
        index.score(one_hot, y, groups), abs=max(1e-4, index.about.tolerance)
    )
    for offset in (1e13, 1e17):
        with pytest.raises(ProbeError, match=r"too few digits are left\. Take the offset off"):
            index.score(offset + one_hot, y, groups)


def test_directions_that_are_only_the_rounding_of_an_offset_do_not_count(sides):
    _, y, _, _ = sides
    plane = y[:, :2] @ np.random.default_rng(0).standard_normal((2, 6))  # rank 2 in 6 columns
    for name in ("cca", "pwcca", "svcca", "procrustes", "ridge_cca"):
        index = build(name)
        assert index.score(1e9 + plane, y) == pytest.approx(index.score(plane, y), abs=1e-4)


def test_neighbors_and_cosine_distances_keep_their_digits_far_from_zero(sides):
    """Cosines of 1e7 + x are 1 to nine digits; their order is that of exact arithmetic."""
    x, y = np.round(sides[0], 3)[:20, :3], sides[1][:20]
    exact = [[Fraction(value).limit_denominator(1000) + 10**7 for value in row] for row in x.tolist()]

    def angle(a, b):  # 1 - cos^2, which orders as 1 - cos does
        ab, aa, bb = (sum(i * j for i, j in zip(*pair, strict=True)) for pair in ((a, b), (a, a), (b, b)))
        return 1 - ab * ab / (aa * bb)

    angles = [[angle(a, b) for b in exact] for a in exact]
    nearest = [set(sorted((j for j in range(20) if j != i), key=lambda j: angles[i][j])[:5]) for i in range(20)]
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    others = [set(np.argsort(-np.delete(row, i))[:5] + (np.argsort(-np.delete(row, i))[:5] >= i))
              for i, row in enumerate(unit @ unit.T)]  # fmt: skip
    expected = np.mean([len(a & b) / 5 for a, b in zip(nearest, others, strict=True)])
    assert make_index("mutual_knn", {"k": 5}).score(1e7 + x, y) == pytest.approx(expected, abs=1e-12)
    upper = np.triu_indices(20, 1)
    pairs = [float(angles[i][j] * 10**16) for i, j in zip(*upper, strict=True)]
    expected = spearmanr(pairs, (1 - unit @ unit.T)[upper]).statistic
    assert make_index("rsa").score(1e7 + x, y) == pytest.approx(expected, abs=1e-3)
