"""Rollouts in the live world: its frames are key poses only, and yet each is a keyframe of the recorded episode."""

import numpy as np

from mnprobe.data import open_dataset
from mnprobe.worlds.rollout import RolloutConfig, rollout
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
