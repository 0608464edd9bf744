import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.probe import Items, Partition, balanced_draw, check_no_overlap, hold_out, measurable_sides
from mnprobe.probe.outcome_balance import NEEDED, shared_training
from mnprobe.probe.splits import forbidden_overlap, has_partitions


def items_of(counts, *, tasks=None, partitions=None, success_u=None, success_e=None):
    """counts: episodes per instruction; task t holds instructions 2t and 2t + 1 unless given."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Items.of(
        ids=[f"ep{i}" for i in range(len(labels))],
        instructions=[f"i{label}" for label in labels],
        tasks=[f"t{label // 2 if tasks is None else tasks[label]}" for label in labels],
        partitions=partitions,
        success_u=success_u,
        success_e=success_e,
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=6, max_size=9), st.integers(0, 99))
def test_nothing_overlaps_and_nothing_is_lost(counts, seed):
    items = items_of([2, *counts, 3])
    for holdout, kind in (("episodes", "episode"), ("instructions", "instruction"), ("tasks", "task")):
        found = hold_out(items, holdout, seed=seed, validation_share=0.0)
        groups = items.groups(kind)
        assert not set(groups[found.train]) & set(groups[found.test])
        assert sorted([*found.train, *found.test]) == list(range(len(items)))
        assert found.validation.size == 0
        if holdout == "episodes":
            assert set(items.instructions[found.test]) <= set(items.instructions[found.train])


def test_shares_and_seeds_arrive():
    items = items_of([10] * 10)
    assert len(hold_out(items, "episodes").test) == 30
    assert len(hold_out(items, "episodes", test_share=0.5).test) == 50
    assert len(hold_out(items, "instructions", test_share=0.4).test) == 40
    for holdout in ("episodes", "instructions", "tasks"):
        sets = [tuple(hold_out(items, holdout, seed=seed).test) for seed in (0, 0, 1, 2)]
        assert sets[0] == sets[1]
        assert len(set(sets)) > 1


def test_held_out_instructions_are_spread_over_tasks():
    items = items_of([3] * 12, tasks=[0] * 6 + [1] * 6)
    for seed in range(8):
        test = hold_out(items, "instructions", seed=seed, test_share=0.34).test
        assert {task: len(set(items.instructions[test][items.tasks[test] == task])) for task in ("t0", "t1")} == {
            "t0": 2,
            "t1": 2,
        }


def test_validation_comes_from_the_training_set_by_the_same_rule():
    items = items_of([10] * 10)
    for holdout, kind in (("episodes", "episode"), ("instructions", "instruction")):
        plain, found = hold_out(items, holdout), hold_out(items, holdout, validation_share=0.25)
        assert found.test.tolist() == plain.test.tolist()
        assert sorted([*found.train, *found.validation]) == plain.train.tolist()
        assert not set(items.groups(kind)[found.train]) & set(items.groups(kind)[found.validation])


def test_partitions_of_the_data_set_decide():
    partitions = ["train", "train", "val", "test"] * 6
    items = items_of([4] * 5 + [4], partitions=partitions)
    found = hold_out(items, "episodes", seed=3)
    assert set(items.partitions[found.train]) == {"train"}
    assert set(items.partitions[found.test]) == {"test"}
    assert len(found.train) == 12
    held = hold_out(items, "instructions", seed=3)
    assert set(items.partitions[held.train]) == {"train"}
    assert set(items.partitions[held.test]) == {"test"}
    without_train = items_of([4] * 6, partitions=["val", "val", "val", "test"] * 6)
    found = hold_out(without_train, "episodes")
    assert found.train.tolist() == [row for row in range(24) if row % 4 < 3]
    assert found.test.tolist() == [row for row in range(24) if row % 4 == 3]
    without_test = items_of([4] * 6, partitions=["train", "train", "train", "val"] * 6)
    assert set(without_test.partitions[hold_out(without_test, "episodes").test]) == {"val"}
    with pytest.raises(FeatureError, match=r"partitions: 6 of 24 rows have none, the first is row 2"):
        items_of([4] * 6, partitions=["train", "train", "", "test"] * 6)


def test_test_episodes_of_unknown_instructions_are_left_out_and_said():
    items = items_of([2, 2, 2, 1], partitions=["train", "test"] * 3 + ["test"])
    found = hold_out(items, "episodes")
    assert found.test.tolist() == [1, 3, 5]
    assert "1 test episodes of instructions that training has not seen" in found.note


def test_overlap_is_refused_with_its_groups():
    items = items_of([2, 2, 2])
    rows = np.arange(6)
    bad = Partition(holdout="instructions", train=rows[:3], validation=rows[:0], test=rows[3:])
    with pytest.raises(ProbeError, match=r"1 instructions are in the training and in the test set.*'i1'"):
        check_no_overlap(items, bad)
    worse = Partition(holdout="episodes", train=rows[:3], validation=rows[2:3], test=rows[3:])
    with pytest.raises(ProbeError, match=r"1 episodes are in the training and in the validation set.*'ep2'"):
        check_no_overlap(items, worse)
    check_no_overlap(items, Partition(holdout="episodes", train=rows[:3], validation=rows[:0], test=rows[3:]))


def worded_alike(per=6, **outcomes):
    """Four tasks of two instructions; tasks 0 and 1 have one wording in common."""
    words = [["open", "a0"], ["open", "a1"], ["b0", "b1"], ["c0", "c1"]]
    rows = [(f"t{task}", word) for task in range(4) for word in words[task] for _ in range(per)]
    return Items.of(
        ids=[f"ep{i}" for i in range(len(rows))],
        instructions=[word for _, word in rows],
        tasks=[task for task, _ in rows],
        **outcomes,
    )


def test_held_out_tasks_may_share_a_wording_which_is_noted():
    items = worded_alike()
    noted = 0
    for seed in range(12):
        found = hold_out(items, "tasks", seed=seed)
        assert not set(items.tasks[found.train]) & set(items.tasks[found.test])
        shared = set(items.instructions[found.train]) & set(items.instructions[found.test])
        assert shared <= {"open"}
        expected = "1 instructions occur in more than one task ('open'), so that episodes of new tasks may be told in "
        assert found.note == (expected + "words that training has seen" if shared else "")
        noted += bool(shared)
    assert 0 < noted < 12


@pytest.mark.parametrize(
    ("holdout", "found"),
    [
        ("episodes", {}),
        ("instructions", {"instructions": ["open"]}),
        ("tasks", {}),
    ],
)
def test_one_rule_says_what_may_not_be_shared(holdout, found):
    items = worded_alike(per=1)
    labels = {"ids": items.ids, "instructions": items.instructions, "tasks": items.tasks}
    train, test = items.tasks == "t0", items.tasks == "t1"
    assert forbidden_overlap(holdout, train, test, **labels) == found
    assert forbidden_overlap(holdout, np.flatnonzero(train), np.flatnonzero(test), **labels) == found
    own = {"episodes": ["ep0", "ep1"]} | ({"instructions": ["a0", "open"]} if holdout == "instructions" else {})
    own |= {"tasks": ["t0"]} if holdout == "tasks" else {}
    assert forbidden_overlap(holdout, train, train, **labels) == own
    with pytest.raises(ConfigError, match="holdout must be one of episodes, instructions, tasks, got 'words'"):
        forbidden_overlap("words", train, test, **labels)


@pytest.mark.parametrize("partitions", [["train", "holdout"] * 3, ["train", ""] * 3, ["Train", "test"] * 3])
def test_an_unknown_partition_does_not_turn_the_rule_off(partitions):
    fields = {name: getattr(items_of([3, 3]), name) for name in ("ids", "instructions", "tasks")}
    outcomes = np.full(6, -1, np.int8)
    items = Items(**fields, partitions=np.array(partitions, object), success_u=outcomes, success_e=outcomes)
    with pytest.raises(FeatureError, match="partitions must be one of train, val, test in every row, or '' in all"):
        has_partitions(items)


@pytest.mark.parametrize(
    ("given", "train", "test"),
    [
        (("training", "validation"), "train", "val"),
        (("train", "valid"), "train", "val"),
        (("Train", "Test"), "train", "test"),
        (("train ", "testing"), "train", "test"),
        ((b"training", b"dev"), "train", "val"),
    ],
)
def test_partitions_by_other_names_are_mapped_and_noted(given, train, test):
    items = items_of([6] * 5, partitions=[given[0]] * 2 + [given[1]] + [given[0], given[1], given[0]] * 9)
    found = hold_out(items, "episodes")
    assert set(items.partitions[found.train]) == {train}
    assert set(items.partitions[found.test]) == {test}
    (note,) = items.notes
    assert note.startswith("partitions: ")
    assert f"is read as {test!r}" in note or given[1] == test


@pytest.mark.parametrize(
    ("counts", "holdout", "text"),
    [
        ([5, 5, 5], "instructions", "at least 4 instructions .2 to train, 2 to test., found 3"),
        ([1, 1, 1], "episodes", "found 3 and 0 among 3 episodes of 3 instructions"),
        ([4, 4], "tasks", "at least 2 tasks .1 to train, 1 to test., found 1: 't0'"),
    ],
)
def test_too_few_say_how_many(counts, holdout, text):
    with pytest.raises(TooFewSamples, match=text):
        hold_out(items_of(counts), holdout)


def test_impossible_settings_are_quoted():
    with pytest.raises(ConfigError, match="test_share must lie between 0 and 1, got 0"):
        hold_out(items_of([2, 2]), "episodes", test_share=0.0)
    with pytest.raises(FeatureError, match="episode ids must be unique; 'a' repeat"):
        Items.of(ids=["a", "a"])
    with pytest.raises(FeatureError, match=r"success_e: row 1 \(b\): an outcome is 1, 0 or -1"):
        Items.of(ids=["a", "b"], success_e=[1, 2])


# success against failure -------------------------------------------------------------------------------------------


@pytest.fixture
def outcomes():
    """Ten instructions, 12 episodes each; execution fails more in later tasks, recognition at random."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(10), 12)
    success_e = (rng.random(120) > labels / 14).astype(int)
    return items_of([12] * 10, success_u=rng.integers(0, 2, 120), success_e=success_e)


def histogram(items, rows):
    return {str(name): int((items.instructions[rows] == name).sum()) for name in np.unique(items.instructions[rows])}


@pytest.mark.parametrize("holdout", ["episodes", "instructions", "tasks"])
@pytest.mark.parametrize("with_partitions", [False, True])
def test_success_and_failure_differ_in_nothing_but_the_outcome(holdout, with_partitions, outcomes):
    items = outcomes
    if with_partitions:
        fields = {name: getattr(items, name) for name in ("ids", "instructions", "tasks", "success_u", "success_e")}
        items = Items.of(**fields, partitions=(["train"] * 8 + ["test"] * 4) * 10)
    for draw in range(5):
        drawn = balanced_draw(items, holdout, sides=["understanding", "execution"], draw=draw, test_share=0.4)
        assert len({(len(part.train), len(part.test)) for part in drawn.values()}) == 1
        for side, outcome in (("understanding", items.success_u), ("execution", items.success_e)):
            good, bad = drawn[f"{side}-success"], drawn[f"{side}-failure"]
            assert set(outcome[[*good.train, *good.test]]) == {1}
            assert set(outcome[[*bad.train, *bad.test]]) == {0}
            assert histogram(items, good.train) == histogram(items, bad.train)
            assert histogram(items, good.test) == histogram(items, bad.test)
            if holdout == "episodes":
                assert set(histogram(items, good.test)) <= set(histogram(items, good.train))
            if with_partitions:
                assert set(items.partitions[good.train]) == {"train"}
                assert set(items.partitions[bad.test]) == {"test"}


def test_a_wording_of_two_tasks_is_matched_within_each_of_them():
    items = worded_alike(per=8, success_e=[1, 0] * 32)
    for draw in range(8):
        drawn = balanced_draw(items, "tasks", sides=["execution"], draw=draw)
        good, bad = drawn["execution-success"], drawn["execution-failure"]
        for part in (good, bad):
            assert not set(items.tasks[part.train]) & set(items.tasks[part.test])
        for one, other in ((good.train, bad.train), (good.test, bad.test)):
            pairs = [sorted(zip(items.tasks[rows], items.instructions[rows], strict=True)) for rows in (one, other)]
            assert pairs[0] == pairs[1]


def test_draws_differ_and_repeat(outcomes):
    rows = [
        tuple(balanced_draw(outcomes, "episodes", sides=["execution"], draw=draw)["execution-success"].test)
        for draw in (0, 0, 1, 2)
    ]
    assert rows[0] == rows[1]
    assert len(set(rows)) == 3


def test_the_shared_probe_never_sees_what_is_tested(outcomes):
    for holdout, kind in (("episodes", "episode"), ("instructions", "instruction"), ("tasks", "task")):
        drawn = balanced_draw(outcomes, holdout, sides=["understanding", "execution"], test_share=0.2)
        train = shared_training(outcomes, holdout, drawn)
        groups = outcomes.groups(kind)
        assert len(train) > 0
        for part in drawn.values():
            assert not set(groups[train]) & set(groups[part.test])


def test_too_few_matched_episodes_say_how_many():
    success = [1] * 40
    success[0] = success[10] = 0
    items = items_of([10] * 4, success_e=success)
    with pytest.raises(TooFewSamples, match=rf"38 successes and 2 failures give only .* at least {NEEDED} of 2"):
        balanced_draw(items, "episodes", sides=["execution"])


def test_missing_outcomes_are_said_for_each_side():
    items = items_of([5, 5], success_u=[-1] * 10, success_e=[1] * 10)
    sides, missing = measurable_sides(items)
    assert sides == []
    assert missing[0].startswith("understanding outcomes: 0 of 10 episodes known")
    assert missing[1].startswith("execution outcomes: 10 successes and 0 failures among 10")
    assert measurable_sides(items_of([5, 5], success_e=[-1] * 10))[1][1] == (
        "execution outcomes: 0 of 10 episodes known; give --outcomes to mnprobe extract"
    )
