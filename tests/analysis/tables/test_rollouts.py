"""Success per task: means and deviations by hand."""

import json
import math
import statistics

import pytest

from mnprobe.analysis.tables.rollouts import (
    ALL_TASKS,
    SUCCESS_COLUMNS,
    Rollouts,
    find_rollouts,
    format_success,
    success_table,
)
from mnprobe.core.errors import DataError, ProbeError
from mnprobe.core.proportions import mean_interval, wilson_interval
from mnprobe.worlds.outcomes import Outcome, read_played, write_outcomes


def _outcome(task, number, success, *, repeat=0, steps=4, reason=None):
    return Outcome(
        id=f"{task}/0/episode{number}",
        success=success,
        steps=steps,
        reason=reason or ("success" if success else "step limit"),
        task=task,
        variation=0,
        seed=number,
        repeat=repeat,
    )


@pytest.fixture
def played():
    """Two evaluations: open 2/2 and 1/2, push 0/1 and 1/1."""
    return Rollouts(
        world="tabletop",
        model="arp",
        step=1000,
        outcomes=(
            *(_outcome("open", 0, 1), _outcome("open", 1, 1, steps=6)),
            *(_outcome("open", 2, 1, repeat=1), _outcome("open", 3, 0, repeat=1, reason="collision", steps=10)),
            _outcome("push", 0, 0, reason="invalid action", steps=0),
            _outcome("push", 1, 1, repeat=1, steps=3),
        ),
    )


def test_rows_by_hand(played):
    table = success_table([played]).set_index("task")
    row = table.loc["open"]
    assert (row["value"], row["n"], row["successes"], row["repeats"], row["mean_steps"]) == (0.75, 4, 3, 2, 6.0)
    assert (row["ci_low"], row["ci_high"]) == wilson_interval(3, 4)
    assert row["sd_repeats"] == pytest.approx(statistics.stdev([1.0, 0.5]))
    assert (row["collision"], row["step_limit"], row["invalid_action"], row["unreachable_pose"]) == (1, 0, 0, 0)
    mean = table.loc[ALL_TASKS]
    assert (mean["value"], mean["n"], mean["successes"]) == ((0.75 + 0.5) / 2, 6, 4)
    assert mean["sd_repeats"] == pytest.approx(statistics.stdev([(1 + 0) / 2, (0.5 + 1) / 2]))
    assert (mean["ci_low"], mean["ci_high"]) == mean_interval([3, 1], [4, 2])
    assert mean["mean_steps"] == (6.0 + 1.5) / 2


def test_one_evaluation_has_no_deviation(played):
    first = Rollouts(world="w", model="arp", step=0, outcomes=played.outcomes[:2])
    table = success_table([first])
    assert tuple(table.columns) == SUCCESS_COLUMNS
    assert table["repeats"].tolist() == [1, 1]
    assert table["sd_repeats"].isna().all()
    assert table["value"].tolist() == [1.0, 1.0]


def test_text_has_a_row_per_task_and_a_column_per_checkpoint(played):
    other = Rollouts(world="tabletop", model="expert", step=0, outcomes=played.outcomes[4:])
    lines = format_success(success_table([played, other])).split("\n")
    assert [line.split("  ")[0] for line in lines] == ["tabletop: success, %", "open", "push", "all tasks"]
    assert lines[0].split()[3:] == ["arp", "1000", "expert", "0"]
    assert lines[0].index("expert 0") == lines[2].rindex("50.0 ±")
    assert "75.0 ± 35.4 [30.1, 95.4] n=4" in lines[1]
    assert lines[1].endswith("-")
    assert lines[2].count("50.0 ± 70.7 [9.5, 90.5] n=2") == 2


def test_nothing_to_tabulate():
    with pytest.raises(ProbeError, match="`mnprobe rollout` plays them"):
        success_table([])


def _described(folder, world="tabletop"):
    folder.mkdir(parents=True)
    (folder / "rollout.json").write_text(json.dumps({"schema": "mnprobe.rollout/1", "world": {"name": world}}))
    return folder


def test_rollouts_of_a_run_are_found(tmp_path, played):
    for model, step in (("b", 20), ("a", 3), ("b", 3)):
        write_outcomes(_described(tmp_path / model / f"step_{step:08d}", model), played.outcomes)
    (tmp_path / "a/step_00000009").mkdir()  # nothing played yet
    (tmp_path / "a/notes").mkdir()
    found = find_rollouts(tmp_path)
    assert [(entry.world, entry.model, entry.step) for entry in found] == [("a", "a", 3), ("b", "b", 3), ("b", "b", 20)]
    assert found[0].outcomes == played.outcomes
    assert math.isclose(success_table(found)["value"].iloc[0], 0.75)
    assert find_rollouts(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("open/0/episode0,2,4,success,open,0,1,0,", "line 2: success must be 1 or 0, got 2"),
        ("open/0/episode0,1,x,success,open,0,1,0,", "line 2: steps must be a whole number, got 'x'"),
        ("open/0/episode0,1,4,luck,open,0,1,0,", "line 2: reason must be one of success, step limit, .*got 'luck'"),
        ("open/0/episode0,1,4", "line 2: reason, task, variation, seed, repeat, demo missing"),
    ],
)
def test_damaged_outcomes(tmp_path, row, message):
    (tmp_path / "outcomes.csv").write_text(f"id,success,steps,reason,task,variation,seed,repeat,demo\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_played(tmp_path)
    with pytest.raises(DataError, match=r"cannot read the outcomes .*none.outcomes\.csv"):
        read_played(tmp_path / "none")
