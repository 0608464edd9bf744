"""What a dataset allows to measure is what `mnprobe align` then measures, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import TooFewSamples
from mnprobe.data import open_dataset
from mnprobe.probe import AlignConfig, Items, feasible_measurements, inspect_dataset, pair_arrays
from mnprobe.probe.runs import plan_units


def verdicts(items):
    return {one.what: one.possible for one in feasible_measurements(items)}


def planned(items, **config):
    """Whether `mnprobe align` plans any fit."""
    try:
        units, _ = plan_units(items, AlignConfig(**config), None)
    except TooFewSamples:
        return False
    return bool(units)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.integers(0, 5), min_size=1, max_size=24),
    parts=st.sampled_from(["none", "half"]),
    tasks=st.integers(1, 3),
)
def test_it_is_what_align_does(words, parts, tasks):
    count = len(words)
    items = Items.of(
        ids=[f"e{number}" for number in range(count)],
        instructions=[f"do {word}" for word in words],
        tasks=[f"task {word % tasks}" for word in words],
        partitions=None if parts == "none" else ["train" if number % 3 else "test" for number in range(count)],
    )
    found = verdicts(items)
    assert found["recall by instruction"] == (len(set(words)) > 1)
    if found["recall by instruction"]:
        for holdout in ("episodes", "instructions", "tasks"):
            assert found[f"held-out {holdout}"] == planned(items, holdout=holdout), holdout
    else:
        assert not planned(items)
        assert found["held-out episodes"] == planned(items, holdout="episodes", pairing="episode")


def test_success_needs_both_outcomes_of_the_same_instructions():
    ids = [str(number) for number in range(48)]
    items = {"ids": ids, "instructions": [f"do {number % 3}" for number in range(48)]}
    what = "success against failure of the policy"
    assert verdicts(Items.of(**items, success_e=[number // 3 % 2 for number in range(48)]))[what]
    assert not verdicts(Items.of(**items, success_e=[1] * 48))[what]
    assert not verdicts(Items.of(**items))[what]
    apart = [int(number % 3 > 0) for number in range(48)]  # no instruction has both
    assert not verdicts(Items.of(**items, success_e=apart))[what]


@pytest.mark.parametrize(
    ("tasks", "possible", "reason"),
    [
        (["open it", "close it"], False, "nothing but the instruction names the task"),
        (["open_it", "Close-it"], False, "nothing but the instruction names the task"),
        ([None, None], False, "no episode names its task"),
        (["door", "door"], False, "there is one task only"),
        (["door", "box"], True, "2 tasks"),
    ],
)
def test_tasks_that_are_only_the_instruction_tell_nothing(tasks, possible, reason):
    items = Items.of(ids=list("abcd"), instructions=["open it", "close it"] * 2, tasks=tasks * 2)
    found = next(one for one in feasible_measurements(items) if one.what == "decomposition by task")
    assert (found.possible, found.reason) == (possible, reason)


def test_the_facts_of_a_dataset(golden):
    facts = inspect_dataset(open_dataset(golden / "hdf5" / "libero"))
    assert facts["episodes_by_instruction"] == {
        "open the middle drawer of the cabinet": 5,
        "put the bowl on the plate": 5,
    }
    possible = {entry["what"] for entry in facts["feasible"] if entry["possible"]}
    assert possible == {
        "recall by instruction",
        "held-out episodes",
        "video models and pixels",
        "policies (--model hook, import)",
    }
    assert facts["next"][0].endswith("--model pixels --camera agentview_rgb")


def test_one_text_is_refused_with_the_pairing_that_can_be_measured():
    draw = np.random.default_rng(0)
    pair = pair_arrays(draw.normal(size=(12, 4)), draw.normal(size=(12, 4)), ["push the block"] * 12)
    with pytest.raises(
        TooFewSamples, match=r"all 12 episodes have the same instruction, 'push the block'.*--pairing episode"
    ):
        plan_units(pair.items, AlignConfig(), None)
    units, notes = plan_units(pair.items, AlignConfig(pairing="episode"), None)
    assert {unit.holdout for unit in units} == {"episodes"}
    assert any(note.startswith("instructions held out: left out") for note in notes)
