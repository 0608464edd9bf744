"""Rollouts in the live world: its frames are key poses only, and yet each is a keyframe of the recorded episode."""

import csv
import json
import os
import subprocess
import sys

import numpy as np

from mnprobe.data import open_dataset
from mnprobe.worlds.outcomes import read_played
from mnprobe.worlds.record import read_situation
from mnprobe.worlds.rollout import RolloutConfig, read_rollout, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan, open_demos


def _play(folder, demos=None):
    config = RolloutConfig(world="rlbench", world_options={"image_size": 8}, policy="random", max_steps=4)
    plan = RolloutPlan(tasks=("turn_tap",), episodes=2, seed=3, demos=demos)
    return rollout(folder, config, plan, workers=0)


def test_played_episodes_are_recorded_and_can_be_played_again(simulator, tmp_path):
    written = _play(tmp_path / "played")
    dataset = open_dataset(tmp_path / "played")
    assert [outcome.id for outcome in written.outcomes] == [episode.id for episode in dataset]
    for episode, outcome in zip(dataset, written.outcomes, strict=True):
        assert len(episode.keyframes) == max(outcome.steps, 1)
        assert episode.random_seed is not None
        for step in episode.steps():
            assert episode.frame(step.observed).points("wrist").shape == (8, 8, 3)
    again = _play(tmp_path / "again", open_demos(tmp_path / "played"))
    assert [outcome.demo for outcome in again.outcomes] == [episode.id for episode in dataset]
    for first, second in zip(dataset, open_dataset(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(first.frame(0).rgb["front"], second.frame(0).rgb["front"])
    assert simulator.names()[-1] == "shutdown"


def test_a_scene_that_is_not_the_recorded_one_is_told_with_its_outcome(simulator, tmp_path):
    _play(tmp_path / "played")
    assert "note" not in (tmp_path / "played" / "outcomes.csv").read_text().splitlines()[0]
    simulator.CHANGES["discarded placements"] = 1
    again = _play(tmp_path / "again", open_demos(tmp_path / "played"))
    with (tmp_path / "again" / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row, outcome in zip(rows, again.outcomes, strict=True):
        assert row["note"].startswith("the scene is not the recording's: object poses differ by up to ")
        assert outcome.note == row["note"]
    assert read_played(tmp_path / "again") == list(again.outcomes)
    first = open_dataset(tmp_path / "again")[0]
    assert read_situation(first.folder)["rollout"]["outcome"]["note"] == rows[0]["note"]
    assert first.success in (0, 1)  # the readers of outcomes pass the column over


def test_what_the_fork_was_is_recorded(simulator, tmp_path):
    written = _play(tmp_path / "played")
    shared = read_rollout(written.folder)["world"]
    assert shared["hash_randomization"] == sys.flags.hash_randomization
    versions = read_situation(open_dataset(written.folder)[0].folder)["versions"]
    for name in ("rlbench", "rlbench-commit", "rlbench-tasks", "pyrep", "pyrep-commit", "pyrep-code"):
        assert versions[name] == shared["versions"][name]
    assert len(versions["rlbench-tasks"]) == 16


PLAY = """
import json, sys
from pathlib import Path
from mnprobe.data import open_dataset
from mnprobe.worlds.rollout import RolloutConfig, read_rollout, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan
if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    config = RolloutConfig(world="rlbench", world_options={"image_size": 8}, policy="expert")
    rollout(folder, config, RolloutPlan(tasks=("push_buttons",), episodes=2, seed=3), workers=workers)
    played = open_dataset(folder)
    states = [episode.task_low_dim_state.tolist() for episode in played]
    notes = [(episode.folder / "situation.json").read_text().count("PYTHONHASHSEED=0 for") for episode in played]
    world = read_rollout(folder)["world"]
    print(json.dumps([states, notes, world["hash_randomization"], world["PYTHONHASHSEED"]]))
"""


def test_scenes_that_depend_on_the_hash_seed_are_the_same_in_worker_processes(variables, standin_folder, tmp_path):
    script = tmp_path / "play.py"
    script.write_text(PLAY)
    path = os.pathsep.join(filter(None, [str(standin_folder), os.environ.get("PYTHONPATH")]))
    found = {}
    for name, workers, seed in (("workers", 2, None), ("here", 0, "0"), ("other", 0, "random")):
        environment = {**os.environ, **variables, "PYTHONPATH": path}
        environment.pop("PYTHONHASHSEED", None)
        environment |= {} if seed is None else {"PYTHONHASHSEED": seed}
        arguments = [sys.executable, str(script), str(tmp_path / name), str(workers)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
        told = done.stderr.count("push_buttons depend on Python's hash seed")
        assert told == (name == "other")  # once, though two episodes were played
    assert found["workers"] == found["here"]
    assert found["here"][1:] == [[0, 0], 0, "0"]
    assert found["other"][1:] == [[1, 1], 1, "random"]
