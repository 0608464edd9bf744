"""The null: which rows move, that cached matrices give what recomputing gives, p, the level, the maximum."""

import numpy as np
import pytest

from mnprobe.analysis.similarity import (
    INDICES,
    SCHEMES,
    balanced_rows,
    calibrate,
    calibrated_level,
    column_values,
    exchange,
    make_index,
    p_value,
    similarity_test,
)
from mnprobe.analysis.similarity.infonce import first_return
from mnprobe.core.errors import ConfigError, ProbeError, TooFewSamples

OPTIONS = {"minibatch_cka": {"batch": 16}, "mutual_knn": {"k": 5}, "cknna": {"k": 5}}
CASES = [(name, OPTIONS.get(name, {})) for name in INDICES.names() if name != "infonce"]
CASES += [
    ("mutual_knn", {"k": 5, "outside": True}),
    ("cknna", {"k": 5, "outside": True}),
    ("rsa", {"distance": "euclidean"}),
]


def orders_of(scheme, sides, count=6, seed=0):
    _, _, tasks, instructions = sides
    return exchange(scheme, tasks=tasks, instructions=instructions, n=60).orders(count, seed)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_cached_nulls_equal_recomputing(name, options, scheme, sides):
    x, y, _, groups = sides
    index = make_index(name, options)
    orders = orders_of(scheme, sides)
    naive = [index.score(x, y[order], groups) for order in orders]
    np.testing.assert_allclose(index.relation(x, y, groups).values(orders), naive, atol=1e-9)
    values, null = column_values(index, [index.ready(x, groups), None], index.ready(y, groups), orders)
    np.testing.assert_allclose(null[0], naive, atol=1e-9)
    assert values[0] == pytest.approx(index.score(x, y, groups), abs=1e-12)
    assert np.isnan(values[1])
    assert np.isnan(null[1]).all()


def test_permuting_the_bound_moves_held_out_rows_under_fixed_heads(sides):
    x, y, _, groups = sides
    index = make_index("infonce", {"steps": 60, "dim": 32})
    relation = index.relation(x, y, groups)
    orders = orders_of("instructions", sides)
    for order, value in zip(orders, relation.values(orders), strict=True):
        inner = first_return(order, relation.test)
        logits = relation.logits[:, inner]  # held-out z_e in their new places
        losses = []
        for batch in relation.draws:
            s = logits[np.ix_(batch, batch)]
            rows = -np.log(np.exp(np.diag(s)) / np.exp(s).sum(1))
            columns = -np.log(np.exp(np.diag(s)) / np.exp(s).sum(0))
            losses.append((rows.mean() + columns.mean()) / 2)
        assert value == pytest.approx(np.log(relation.draws.shape[1]) - np.mean(losses), abs=1e-9)


def test_an_induced_permutation_stays_in_its_stratum():
    generator = np.random.default_rng(0)
    stratum = generator.integers(0, 3, 40)
    kept = np.sort(generator.choice(40, 17, replace=False))
    for order in exchange("within-task", tasks=stratum, n=40).orders(20, 1):
        inner = first_return(order, kept)
        assert sorted(inner) == list(range(17))
        assert (stratum[kept][inner] == stratum[kept]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_orders_are_permutations_that_keep_what_the_scheme_says(scheme, sides):
    _, _, tasks, instructions = sides
    orders = orders_of(scheme, sides, 50)
    assert (np.sort(orders, axis=1) == np.arange(60)).all()
    same_task, same_instruction = tasks[orders] == tasks, instructions[orders] == instructions
    assert same_task.all() == (scheme in ("within-task", "within-instruction", "instructions-within-task"))
    assert same_instruction.all() == (scheme == "within-instruction")
    if scheme.startswith("instructions"):
        for group in range(12):
            rows = np.flatnonzero(instructions == group)
            came = orders[:, rows]
            assert (instructions[came] == instructions[came[:, :1]]).all()
            assert (np.diff(came, axis=1) > 0).all()  # episodes keep their inner order


def test_the_same_seed_draws_the_same_orders(sides):
    assert (orders_of("free", sides, seed=3) == orders_of("free", sides, seed=3)).all()
    assert (orders_of("free", sides, seed=3) != orders_of("free", sides, seed=4)).any()


def test_every_permutation_of_blocks_comes_equally_often():
    instructions = np.repeat(np.arange(8), 2)
    orders = exchange("instructions", instructions=instructions, n=16).orders(8000, 0)
    first = np.bincount(instructions[orders[:, 0]], minlength=8)
    assert (abs(first - 1000) < 5 * np.sqrt(1000 * 7 / 8)).all()


def test_blocks_of_other_sizes_do_not_mix():
    instructions = np.array([0] * 3 + [1] * 3 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 3 + [6] * 2 + [7] * 3)
    sizes = np.bincount(instructions)
    orders = exchange("instructions", instructions=instructions, n=20).orders(40, 0)
    assert (sizes[instructions[orders]] == sizes[instructions]).all()


def test_balancing_keeps_equally_many_episodes_and_most_instructions():
    generator = np.random.default_rng(0)
    instructions = generator.permutation(np.repeat(np.arange(10), [9, 9, 7, 7, 6, 6, 6, 6, 2, 1]))
    rows = balanced_rows(instructions, seed=1)
    counts = np.bincount(instructions[rows], minlength=10)
    assert counts.tolist() == [6] * 8 + [0, 0]
    assert (np.diff(rows) > 0).all()
    assert (balanced_rows(instructions, seed=1) == rows).all()
    assert (balanced_rows(instructions, seed=2) != rows).any()


@pytest.mark.parametrize(
    ("scheme", "labels", "message"),
    [
        ("instructions", [0, 0, 1, 1, 2, 2, 3, 3], r"at least 8 that can move; 4 of 4 can"),
        ("instructions", [0, 1, 1, 2, 2, 2, 3, 3], r"at least 8 that can move; 2 of 4 can"),
        ("within-instruction", [0, 1, 2, 3, 4, 5, 6, 7], r"0 of 8 episodes can change places"),
        ("within-instruction", [0, 0, 1, 1, 2, 2, 3, 3], r"fewer than 40 different permutations"),
    ],
)
def test_too_little_to_permute_is_refused(scheme, labels, message):
    with pytest.raises(TooFewSamples, match=message):
        exchange(scheme, instructions=labels, n=8)


def test_wrong_schemes_and_missing_labels_are_refused():
    with pytest.raises(ConfigError, match="permute must be one of free, within-task"):
        exchange("blocks", n=8)
    with pytest.raises(ConfigError, match="needs the task of every row"):
        exchange("within-task", n=8)
    with pytest.raises(ConfigError, match="an instruction must belong to one task"):
        exchange("instructions-within-task", tasks=[0, 1] * 8, instructions=[0] * 16, n=16)


def test_p_counts_the_observed_pairing_and_ties():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert float(p_value(np.array(0.35), null)) == pytest.approx(2 / 5)
    assert float(p_value(np.array(0.4), null)) == pytest.approx(2 / 5)
    assert float(p_value(np.array(0.4 + 1e-13), null)) == pytest.approx(2 / 5)  # rounding
    assert float(p_value(np.array(0.5), null)) == pytest.approx(1 / 5)
    assert float(p_value(np.array(0.15), null, higher_is_alike=False)) == pytest.approx(2 / 5)


@pytest.mark.parametrize("count", [19, 20, 99, 100, 999])
@pytest.mark.parametrize("higher", [True, False])
def test_beyond_the_level_means_p_of_at_most_5_percent(count, higher):
    generator = np.random.default_rng(count)
    null = generator.standard_normal(count)
    level = calibrated_level(null, higher_is_alike=higher)
    sign = 1 if higher else -1
    for value in generator.standard_normal(200) * 1.5:
        assert (sign * value > sign * level) == (p_value(np.array(value), null, higher_is_alike=higher) <= 0.05 + 1e-12)


def test_too_few_permutations_for_a_level_are_refused():
    with pytest.raises(ConfigError, match=r"at least 19 for p <= 0\.05, got 18"):
        calibrated_level(np.zeros(18))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_planted_pairing_is_found(scheme, sides):
    x, y, tasks, instructions = sides
    found = similarity_test(
        make_index("debiased_cka"),
        x,
        y,
        permute=scheme,
        tasks=tasks,
        instructions=instructions,
        permutations=199,
    )
    assert found.p <= 0.01
    assert found.value > found.null_95 > found.null_mean
    assert found.null.shape == (199,)


def test_a_distance_is_tested_downwards(sides):
    found = similarity_test(make_index("procrustes_distance"), *sides[:2], permutations=99)
    assert found.p == 0.01
    assert found.value < found.null_95 < found.null_mean
    same = similarity_test(make_index("procrustes"), *sides[:2], permutations=99)
    np.testing.assert_allclose(found.null, 2 - 2 * same.null, atol=1e-12)


def test_instructions_alone_are_no_evidence_within_instructions():
    """Sides that share nothing but the instruction agree freely, and not within it."""
    generator = np.random.default_rng(0)
    instructions = np.repeat(np.arange(12), 6)
    latent = generator.standard_normal((12, 5))[instructions]
    x, y = (latent + 0.3 * generator.standard_normal((72, 5)) for _ in range(2))
    p = {
        scheme: similarity_test(
            make_index("debiased_cka"), x, y, permute=scheme, instructions=instructions, permutations=199
        ).p
        for scheme in ("free", "instructions", "within-instruction")
    }
    assert p["free"] <= 0.01
    assert p["instructions"] <= 0.01
    assert p["within-instruction"] > 0.05


def slow_max_p(value, null):
    """Westfall and Young, written out."""
    cells = np.concatenate([value[..., None], null], axis=-1)
    distance = (cells - cells.mean(-1, keepdims=True)) / cells.std(-1, keepdims=True)
    best = distance.reshape(-1, cells.shape[-1])[:, 1:].max(0)
    return np.array([[(1 + sum(best >= t)) / (1 + len(best)) for t in row] for row in distance[..., 0]])


def test_the_maximum_is_calibrated_by_the_same_permutations():
    generator = np.random.default_rng(2)
    value, null = generator.standard_normal((3, 4)), generator.standard_normal((3, 4, 199))
    value[1, 2] = 9.0
    found = calibrate(value, null)
    np.testing.assert_allclose(found.p_max, slow_max_p(value, null))
    assert found.best == (1, 2)
    assert found.p_max[1, 2] == found.p[1, 2] == 1 / 200
    assert (found.p_max >= found.p - 1e-12).mean() > 0.9  # choosing costs
    np.testing.assert_allclose(found.null_95, calibrated_level(null))
    turned = calibrate(-value, -null, higher_is_alike=False)
    np.testing.assert_allclose(turned.p_max, found.p_max)
    np.testing.assert_allclose(turned.null_95, -found.null_95)


def test_undefined_cells_stay_out_of_the_family():
    generator = np.random.default_rng(2)
    value, null = generator.standard_normal((2, 2)), generator.standard_normal((2, 2, 99))
    value[0, 1] = np.nan
    found = calibrate(value, null)
    assert np.isnan(found.p[0, 1])
    assert np.isnan(found.p_max[0, 1])
    assert np.isfinite(found.p_max).sum() == 3
    with pytest.raises(ProbeError, match="none of the 4 cells has a value"):
        calibrate(np.full((2, 2), np.nan), null)


def test_a_cell_that_cannot_vary_is_never_the_best():
    value, null = np.array([[1.0, 0.5]]), np.zeros((1, 2, 99))
    null[0, 0] = 1.0
    null[0, 1] = np.random.default_rng(0).standard_normal(99) * 0.1
    found = calibrate(value, null)
    assert found.best == (0, 1)
    assert found.p[0, 0] == 1.0


def test_a_refused_cell_is_told_to_the_caller(sides):
    x, y, _, groups = sides
    index = make_index("cca")
    wide = np.random.default_rng(0).standard_normal((60, 58))
    heard = []
    values, null = column_values(
        index,
        [index.ready(x, groups), index.ready(wide, groups)],
        index.ready(y, groups),
        orders_of("free", sides),
        note=lambda row, error: heard.append((row, str(error))),
    )
    assert np.isfinite(values[0])
    assert np.isnan(values[1])
    assert np.isnan(null[1]).all()
    assert heard[0][0] == 1
    assert "58 and 5 dimensions with 60 rows" in heard[0][1]
