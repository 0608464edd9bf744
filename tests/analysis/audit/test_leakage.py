import math

import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe.analysis.audit.decomposition import decompose, factors_of, oracle_recall, without_means
from mnprobe.analysis.audit.leakage import leakage_table, twins
from mnprobe.core.errors import FeatureError, ProbeError
from mnprobe.probe import FitConfig, Items, pair_arrays, recall_at_k
from mnprobe.probe.scores import HitScores


def _kept(train, test, holdout, ids, instructions, tasks):
    return HitScores(
        about={"understanding": "viclip", "execution": "arp", "source_u": "demos", "source_e": "demos", "step_u": 0,
               "step_e": 0, "holdout": holdout, "mode": "own-probe"},
        splits=np.array(["all"]), seeds=np.array([0]), draws=np.array([0]),
        hits=np.full((1, len(ids), 2), np.nan, np.float32),
        chance=np.ones((1, 2)), train=np.array([train]), test=np.array([test]), ids=np.array(ids),
        instructions=np.array(instructions), tasks=np.array(tasks),
    )  # fmt: skip


@pytest.fixture
def six():
    labels = {
        "ids": [f"e{i}" for i in range(6)],
        "instructions": list("aabbcc"),
        "tasks": ["t", "t", "t", "t", "s", "s"],
    }
    rng = np.random.default_rng(0)
    u, e = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    return labels, u, e


TRAIN, TEST = np.array([1, 0, 1, 0, 1, 0], bool), np.array([0, 1, 0, 1, 0, 1], bool)


@pytest.mark.parametrize(
    ("holdout", "verdict"), [("episodes", "clean"), ("instructions", "overlap"), ("tasks", "overlap")]
)
def test_overlap_is_judged_by_what_is_held_out(six, holdout, verdict):
    labels, *_ = six
    found = leakage_table([_kept(TRAIN, TEST, holdout, **labels)], [None]).iloc[0]
    assert (found["shared_episodes"], found["shared_instructions"], found["shared_tasks"]) == (0, 3, 2)
    assert found["verdict"] == verdict
    assert found["close_u"] == -1


def test_an_episode_on_both_sides_is_an_overlap_whatever_is_held_out(six):
    labels, *_ = six
    found = leakage_table([_kept(TRAIN, TEST | TRAIN, "episodes", **labels)], [None]).iloc[0]
    assert (found["shared_episodes"], found["verdict"]) == (3, "overlap")


def test_planted_copies_are_found(six):
    labels, u, e = six
    u[1], e[3] = u[0], e[2] + 1e-5
    pair = pair_arrays(u, e, labels["instructions"], ids=labels["ids"], tasks=labels["tasks"])
    found = leakage_table([_kept(TRAIN, TEST, "episodes", **labels)], [pair]).iloc[0]
    assert (found["equal_u"], found["close_u"], found["equal_e"], found["close_e"]) == (1, 1, 0, 1)
    assert found["verdict"] == "near-duplicates"


def slow_near(train, test, share):
    """Near copies by loops, in the units that the rows are given in."""

    def spacing(row):
        return min(math.dist(row, other) for other in train if math.dist(row, other) > 1e-5)

    near = 0
    for row in test:
        around = sorted(train, key=lambda other: math.dist(row, other))[:5]
        near += math.dist(row, around[0]) < share * np.median([spacing(other) for other in around])
    return near


def test_near_copies_are_the_slow_loop():
    rng = np.random.default_rng(1)
    train = rng.normal(size=(40, 6))
    train = (train - train.mean(0)) / train.std(0)  # so that twins has nothing to standardise
    test = train[rng.integers(0, 40, 60)] + 10 ** rng.uniform(-4, 0, (60, 1)) * rng.normal(size=(60, 6))
    for share in (0.0125, 0.05, 0.2):
        assert 0 < slow_near(train, test, share) < 60
        assert twins(train, test, close=share) == (0, slow_near(train, test, share))
    assert twins(train, train) == (40, 40)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 64])
def test_independent_rows_are_no_copies_at_any_width(width):
    rng = np.random.default_rng(width)
    centers = rng.standard_normal((20, width))
    spaces = {
        "noise": lambda n: rng.standard_normal((n, width)),
        "heavy tails": lambda n: rng.standard_cauchy((n, width)),
        "low rank": lambda n: rng.standard_normal((n, min(width, 4))) @ np.ones((min(width, 4), width)),
        "clusters": lambda n: centers[rng.integers(0, 20, n)] + 1e-3 * rng.standard_normal((n, width)),
    }
    assert {name: twins(draw(300), draw(100))[1] <= 1 for name, draw in spaces.items()} == dict.fromkeys(spaces, True)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 64])
def test_planted_near_copies_are_found_among_independent_rows(width):
    rng = np.random.default_rng(width)
    train, test = rng.standard_normal((300, width)), rng.standard_normal((100, width))
    exact = 1e-6 if width == 1 else 1e-4  # in one dimension rows come nearer than that by chance
    test[:40] = train[:40] * (1 + exact * rng.standard_normal((40, width)))
    equal, near = twins(train, test)
    assert equal == 0
    assert 35 <= near <= 41


def test_copies_do_not_depend_on_scale_offset_or_make():
    rng = np.random.default_rng(5)
    train, test = rng.standard_normal((100, 8)), rng.standard_normal((60, 8))
    test[:10], test[10:20] = train[:10], train[10:20] + 1e-5 * rng.standard_normal((10, 8))
    scales = np.array([1, 1e200, 1e-200, 1e9, 1, 1, 1, 1])
    for change in (
        lambda x: 1e200 * x, lambda x: 1e-200 * x, lambda x: x * scales, lambda x: x + 1e9, lambda x: x.astype(">f8"),
        lambda x: torch.tensor(x, requires_grad=True), lambda x: pd.DataFrame(x), lambda x: x.tolist(),
        lambda x: np.c_[1e7 * np.ones(len(x)), x], lambda x: x.astype(np.float32),
    ):  # fmt: skip
        assert twins(change(train), change(test)) == (10, 20)
    assert twins(np.array([[0.0], [1.0]]), np.array([[-0.0]])) == (1, 1)


def test_features_that_tell_no_row_from_another_have_no_copies_and_equal_codes_do():
    assert twins(np.full((30, 3), 2.5), np.full((10, 3), 2.5)) == (0, 0)
    codes = np.eye(4)[np.arange(30) % 4]
    assert twins(codes, codes[:9]) == (9, 9)
    with pytest.raises(FeatureError, match="one width, got 3 and 2"):
        twins(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(FeatureError, match="test: 1 of 2 rows hold NaN"):
        twins(np.ones((4, 1)), np.array([[1.0], [np.nan]]))


def test_one_wording_in_two_tasks_is_no_leak_where_tasks_are_held_out(six):
    labels, *_ = six
    labels = labels | {"tasks": ["t", "s", "t", "s", "t", "s"]}
    found = leakage_table([_kept(TRAIN, TEST, "tasks", **labels)], [None]).iloc[0]
    assert (found["shared_instructions"], found["shared_tasks"]) == (3, 0)
    assert (found["verdict"], found["kept_apart"]) == ("clean", "episodes, tasks")


def test_the_oracle_is_retrieval_with_the_factor_as_features():
    rng = np.random.default_rng(2)
    groups, factor = rng.integers(0, 8, 60), rng.integers(0, 3, 60)
    onehot = np.eye(3, dtype=np.float32)[factor]
    for exclude in (False, True):
        retrieved = recall_at_k(onehot, onehot, groups, k=[1], exclude_own=exclude).recall(1)
        exact = oracle_recall(groups, factor, exclude_own=exclude)
        if not exclude:  # retrieval takes the ties of the best positive: the same where every group meets every factor
            sizes = [np.mean([groups[j] == groups[i] for j in range(60) if factor[j] == factor[i]]) for i in range(60)]
            assert exact == pytest.approx(np.mean(sizes))
            assert retrieved == pytest.approx(exact)
        assert 0 < exact < 1
    with pytest.raises(ProbeError, match="none of 3 queries"):
        oracle_recall(["a", "b", "c"], ["x", "x", "x"], exclude_own=True)


def test_factors_go_from_coarse_to_fine_and_none_twice():
    items = Items.of(
        ids=["t/0/e0", "t/0/e1", "t/1/e0", "s/0/e0"], instructions=["put", "place", "take", "open"],
        tasks=["t", "t", "t", "s"],
    )  # fmt: skip
    assert list(factors_of(items)) == ["task", "variation", "instruction"]
    assert list(factors_of(Items.of(ids=["x", "y"], instructions=["a", "b"], tasks=["t", "t"]))) == [
        "task",
        "instruction",
    ]


def test_means_come_from_training_alone():
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    factor, train = np.array(list("aabbcc")), np.array([0, 2, 3])
    rows, seen = without_means(values, factor, train)
    np.testing.assert_allclose(rows[:2], values[:2] - values[0])
    np.testing.assert_allclose(rows[2:4], values[2:4] - values[2:4].mean(0))
    assert seen.tolist() == [True] * 4 + [False] * 2


@pytest.fixture(scope="module")
def decomposed():
    """u and e share the task alone: 6 tasks of 3 instructions."""
    rng = np.random.default_rng(3)
    names = np.repeat(np.arange(18), 12)
    task = rng.normal(size=(6, 8))[names // 3]
    u, e = ((task + 0.2 * rng.normal(size=task.shape)).astype(np.float32) for _ in range(2))
    pair = pair_arrays(
        u, e, [f"do {k}" for k in names], ids=[f"t{k // 3}/{k}/e{i}" for i, k in enumerate(names)],
        tasks=[f"t{k // 3}" for k in names],
    )  # fmt: skip
    rows = np.arange(len(names))
    test = rows[rows % 12 < 4]
    fit = FitConfig(dim=16, steps=60, lr=1e-2)
    return decompose(pair, np.setdiff1d(rows, test), test, fit=fit, seeds=1).set_index(["quantity", "factor"])


def test_features_that_carry_the_task_alone_come_apart_as_they_should(decomposed):
    value = decomposed["value"]
    assert value["right", "task"] > 0.95
    assert value["oracle", "task"] == pytest.approx(1 / 3)
    assert value["oracle", "instruction"] == 1.0
    assert abs(value["recall", "instruction"] - 1 / 3) < 0.15
    assert abs(value["right given coarser", "instruction"] - 1 / 3) < 0.15
    assert decomposed["chance"]["right given coarser", "instruction"] == pytest.approx(1 / 3)
    assert value["without", "task"] < 0.15  # chance 1/18: nothing is left
    assert ("right", "variation") not in decomposed.index  # one wording each: the same cut as the instruction


def test_actions_are_not_joined_as_text():
    """Tasks 1 and 11 with instructions 12 and 2 are as many actions as A and B with p and q: one chance, one value."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 6)).astype(np.float32), rng.normal(size=(80, 6)).astype(np.float32)
    rows = []
    for first, second in ((("1", "12"), ("11", "2")), (("A", "p"), ("B", "q"))):
        kinds = [(first, second, ("x", "y"), ("x", "z"))[i % 4] for i in range(80)]
        pair = pair_arrays(x, y, [words for _, words in kinds], tasks=[task for task, _ in kinds])
        table = decompose(pair, np.arange(40), np.arange(40, 80), fit=FitConfig(dim=8, steps=2), seeds=1)
        rows.append(table.set_index(["quantity", "factor"])[["value", "chance"]].loc["right"])
    pd.testing.assert_frame_equal(*rows, atol=1e-12, rtol=0)
    assert rows[0]["chance"]["instruction"] == 0.25


def test_levels_that_training_has_not_are_said():
    rng = np.random.default_rng(4)
    names = np.repeat(np.arange(6), 6)
    x = rng.normal(size=(36, 4)).astype(np.float32)
    pair = pair_arrays(x, x, [f"do {k}" for k in names], tasks=[f"t{k % 2}" for k in names])
    found = decompose(pair, np.arange(24), np.arange(24, 36), fit=FitConfig(dim=4, steps=3), seeds=1)
    row = found[(found["quantity"] == "without") & (found["factor"] == "instruction")].iloc[0]
    assert np.isnan(row["value"])
    assert row["note"] == "12 test episodes: training has no such instruction"
