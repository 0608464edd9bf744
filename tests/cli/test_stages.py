"""Stages of a study: their commands, order, time left, and what happens where one fails."""

import re

import numpy as np
import pytest

from mnprobe.cli.stages import Estimate, StageRun, cost_of, run_stages
from mnprobe.cli.study import STUDIES, Stage, study_stages
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features


def test_of_commands_side_by_side_one_failure_ends_all(tmp_path, capfd):
    logs = tmp_path / "logs"
    stages = [Stage("checks", [["--version"], ["report", "--run", str(tmp_path / "none")], ["doctor"]])]
    with pytest.raises(SystemExit) as end:
        run_stages(stages, logs=logs, at_once=3, optional=lambda command: False, result=lambda commands: "")
    assert end.value.code == 2
    told = capfd.readouterr()
    assert "none` failed with exit code 2. Its last lines:" in told.err
    assert "not a run of mnprobe" in told.err
    assert str(logs / "report-") in told.err
    assert " by the clock" not in told.out
    assert len(list(logs.iterdir())) == 3

    few = [Stage("checks", stages[0].commands[:2])]
    run_stages(few, logs=logs, at_once=1, optional=lambda command: True, result=lambda commands: commands[0][0])
    told = capfd.readouterr().out
    assert re.search(r"; --version; report left out, see .*/report-[0-9a-f]+.log$", told.strip())


def test_time_left_follows_from_costs_and_is_corrected_by_what_was_measured():
    commands = [["demos", "--train", "50"], ["train", "--updates", "90"], ["success"], ["curve"]]
    runs = [
        StageRun(number=number, stage=Stage(command[0], [command]), at_once=2)
        for number, command in enumerate(commands, start=1)
    ]
    costs = [cost_of(command) for command in commands]
    estimate = Estimate(runs)
    assert estimate.after(runs[0]) == sum(costs[1:])
    runs[0].took = 2 * costs[0] + 10  # twice the cost, with the ten seconds that the costs are trusted for
    assert estimate.after(runs[0]) == pytest.approx(2 * sum(costs[1:]))
    assert estimate.left(runs[1], [], [commands[1]]) == pytest.approx(2 * costs[1])
    runs[1].took = 0.1  # kept from before: tells nothing
    assert estimate.after(runs[1]) == pytest.approx(2 * sum(costs[2:]))


def test_the_cost_of_a_stage_is_that_of_its_longest_command_or_of_all_shared_out():
    longest, short = ["train", "--updates", "900"], ["success"]
    assert cost_of(longest) > 10 * cost_of(short)
    for commands, cost in (([longest, short], cost_of(longest)), ([short] * 4, 2 * cost_of(short))):
        assert StageRun(number=1, stage=Stage("", commands), at_once=2).cost == cost


def test_the_stages_of_several_pairs_say_which_pair(tmp_path):
    stages = study_stages(STUDIES["reference"], tmp_path, seed=None, device="auto", probe_steps=None)
    titles = [stage.title for stage in stages]
    assert (titles[0], titles[1], titles[-4], titles[-1]) == (
        *("demonstrations", "pair 1: training", "pair 10: outcomes", "report"),
    )
    assert len(set(titles)) == len(titles)
    assert max(map(len, titles)) <= 22


def test_a_command_with_worker_processes_ends_when_it_is_done(tmp_path, capfd):
    """Workers of joblib that wait for more would hold up the end of a process for five minutes."""
    run = RunDir.create(tmp_path / "run")
    episodes = {
        "id": [f"e{number}" for number in range(24)],
        "instruction": [f"do {number % 6}" for number in range(24)],
    }
    for model, side in (("viclip", "understanding"), ("arp", "execution")):
        values = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
        write_features(
            run.features(model, "demos", 0), layers={side[0]: values}, episodes=episodes, model=model, side=side
        )
    command = [
        "align",
        "--run",
        str(run.path),
        "--steps",
        "1",
        "--seeds",
        "2",
        "--splits",
        "1",
        "--dim",
        "2",
        "--jobs",
        "2",
    ]
    stage = Stage("alignment", [[*command, "--holdout", "episodes", "--no-shuffled"]])
    run_stages([stage], logs=tmp_path, at_once=1, optional=lambda command: False, result=lambda commands: "")
    seconds = float(re.search(r"\(alignment\): ([0-9.]+) s by the clock", capfd.readouterr().out)[1])
    assert run.results("alignment").is_file()
    assert seconds < 240
