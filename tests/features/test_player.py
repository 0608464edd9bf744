"""ARP as a player: it sees what is recorded, decides as the policy does, and refuses what does not fit."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.data import open_dataset
from mnprobe.features.extractors.arp import ARPExtractor
from mnprobe.features.extractors.base import ExtractorSpec
from mnprobe.features.inputs import arrays_of_frame, arrays_of_frame_data
from mnprobe.features.policy import ARPPlayer
from mnprobe.features.selection import CheckpointQuery, select_checkpoints
from mnprobe.models.arp import save_arp
from mnprobe.models.untrained import untrained_arp, write_untrained
from mnprobe.worlds import Situation, make_world
from mnprobe.worlds.play import play
from mnprobe.worlds.policy import PolicySpec, make_policy
from mnprobe.worlds.record import record_episode

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for model in ("arp", "viclip"):
        write_untrained(folder / f"{model}.safetensors", model, "tiny", 0)
    return folder


@pytest.fixture(scope="module")
def world():
    made = make_world("tabletop", image_size=24)
    yield made
    made.close()


@pytest.fixture(scope="module")
def player(weights, world):
    return make_policy("arp", PolicySpec(world=world, checkpoint=weights / "arp.safetensors"))


class Careful:
    """Plays what the player says, out of reach of anything to collide with; keeps what it saw and thought."""

    name = "careful"

    def __init__(self, player):
        self.player, self.seen, self.hidden = player, [], []

    def start(self, observation, seed):
        self.player.start(observation, seed)

    def act(self, observation):
        self.seen.append(arrays_of_frame_data(observation.frame, CAMERAS))
        inputs = self.player._inputs.observation(self.seen[-1:], [observation.instruction])
        self.hidden.append(self.player.policy.act(inputs).hidden["e"][0].numpy())
        pose = self.player.act(observation)
        return replace(pose, position=pose.position.clip([0, -0.3, 1.1], [0.4, 0.3, 1.4]), ignore_collisions=True)


def test_what_is_recorded_is_what_was_seen_and_thought(world, player, weights, tmp_path):
    careful = Careful(player)
    played = play(world, careful, partial(world.reset, "open_drawer", 1, 3), seed=0, max_steps=3)
    situation = Situation(task="open_drawer", variation=1, seed=3)
    record_episode(tmp_path, world, situation, instructions=played.instructions, episode=0)
    episode = open_dataset(tmp_path)[0]
    assert len(episode.keyframes) == played.steps == len(careful.hidden) == 3
    for step, seen in zip(episode.steps(), careful.seen, strict=True):
        again = arrays_of_frame(episode.frame(step.observed), CAMERAS)
        np.testing.assert_array_equal(again.state, seen.state)
        for camera in CAMERAS:
            np.testing.assert_array_equal(again.rgb[camera], seen.rgb[camera])
            np.testing.assert_array_equal(again.points[camera], seen.points[camera])
            assert again.points[camera].dtype == seen.points[camera].dtype == np.float32
    spec = ExtractorSpec(checkpoint=weights / "arp.safetensors", options=ARPExtractor.option_defaults)
    extractor = ARPExtractor.build(spec)
    features = extractor.compute(extractor.prepare([episode]))[0].layers["e"]
    assert features.keyframe.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    np.testing.assert_allclose(features.values, np.concatenate(careful.hidden), atol=1e-5)


def test_the_action_is_the_policys(world, player):
    observation = world.reset("push_buttons", 2, 0)
    pose = player.act(observation)
    arrays = arrays_of_frame_data(observation.frame, CAMERAS)
    inputs = player._inputs.observation([arrays], [observation.instruction])
    action = player.policy.act(inputs).action[0].numpy()
    np.testing.assert_allclose(pose.to_action(), action, atol=1e-6)
    assert np.linalg.norm(pose.quaternion) == pytest.approx(1, abs=1e-5)


def test_the_number_of_threads_is_left_as_it_was(world, player):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        player.act(world.reset("push_buttons", 0, 0))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_blanked_player_does_not_hear(world, weights, player):
    blank = ARPPlayer(
        PolicySpec(world=world, checkpoint=weights / "arp.safetensors", options={"blank_instruction": True})
    )
    assert (blank.describe()["blank_instruction"], player.describe()["blank_instruction"]) == (True, False)
    arrays = [arrays_of_frame_data(world.reset("push_buttons", 0, 0).frame, CAMERAS)]
    told = [p._inputs.observation(arrays, [text]).language for p in (blank, player) for text in ("push", "open it")]
    assert torch.equal(told[0], told[1])
    assert not torch.equal(told[2], told[3])


def test_the_language_seed_arrives(world, weights, player):
    spec = PolicySpec(world=world, checkpoint=weights / "arp.safetensors", options={"language_seed": 4})
    described = make_policy("arp", spec).describe()
    assert described["language"]["seed"] == 4
    assert described["config"] == player.describe()["config"]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (None, {}, ConfigError, "policy 'arp' needs weights"),
        ("viclip", {}, CheckpointError, "viclip"),
        ("arp", {"blank_instructoin": True}, ConfigError, "Did you mean 'blank_instruction'"),
        ("arp", {"language_weights": "viclip"}, CheckpointError, "no CLIP text branch|language tokens"),
    ],
)
def test_bad_players(world, weights, name, options, error, message):
    if "language_weights" in options:
        options = {"language_weights": str(weights / "viclip.safetensors")}
    checkpoint = None if name is None else weights / f"{name}.safetensors"
    with pytest.raises(error, match=message):
        make_policy("arp", PolicySpec(world=world, checkpoint=checkpoint, options=options))


def test_the_encoder_that_the_policy_was_trained_with(world, tmp_path):
    save_arp(tmp_path / "arp.safetensors", untrained_arp("tiny", 0), step=0, extra={"language": '{"kind": "other"}'})
    with pytest.raises(CheckpointError, match="was trained with the language encoder"):
        make_policy("arp", PolicySpec(world=world, checkpoint=tmp_path / "arp.safetensors"))


def test_a_world_with_too_few_cameras(player):
    lean = make_world("tabletop", image_size=8, cameras=("front", "wrist"))
    with pytest.raises(ConfigError, match="the world gives no camera 'left_shoulder'; the policy looks through front"):
        player.act(lean.reset("push_buttons", 0, 0))
    lean.close()


def _run(path, **steps):
    run = RunDir.create(path)
    for model, numbers in steps.items():
        for step in numbers:
            target = run.checkpoint(model, step)
            kind = "viclip" if model == "viclip" else "arp"
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "viclip":
                write_untrained(target, kind, "tiny", 0)
            else:
                save_arp(target, untrained_arp("tiny", 0), step=step)
    return run


def _choose(run, policy, files=(), **query):
    return select_checkpoints(run, CheckpointQuery(purpose="play", policy=policy, files=files, **query))


def test_the_runs_policies(tmp_path):
    run = _run(tmp_path / "run", arp=[0, 20], other=[7], viclip=[0])
    assert [(c.name, c.step) for c in _choose(run, "arp")] == [("arp", 0), ("arp", 20), ("other", 7)]
    blank = _choose(run, "arp", options={"blank_instruction": True})
    assert [c.name for c in blank] == ["arp-blank", "arp-blank", "other-blank"]
    assert [(c.name, c.step) for c in _choose(run, "arp", models=["other"])] == [("other", 7)]
    with pytest.raises(ConfigError, match="unknown ARP model of the run 'others'"):
        _choose(run, "arp", models=["others"])
    with pytest.raises(ConfigError, match="--model chooses among the run's ARP checkpoints"):
        _choose(run, "expert", models=["other"])
    path = run.checkpoint("arp", 20)
    (mine,) = _choose(run, "arp", [path], name="mine")
    assert (str(mine.id), mine.path) == ("execution/mine/rollouts/step_00000020/trained/", path)
    (expert,) = _choose(run, "expert")
    assert (str(expert.id), expert.path) == ("execution/expert/rollouts/step_00000000/untrained/", None)
    (own,) = _choose(None, "my.module:make", [tmp_path / "step_00000005.pt"])
    assert (own.name, own.step, own.path) == ("make", 5, tmp_path / "step_00000005.pt")


def test_choices_that_are_none(tmp_path):
    run = _run(tmp_path / "run", viclip=[0])
    path = run.checkpoint("viclip", 0)
    with pytest.raises(ConfigError, match="weights of viclip; --policy arp needs ARP's"):
        _choose(run, "arp", [path])
    with pytest.raises(ConfigError, match="has no checkpoints of ARP"):
        _choose(run, "arp")
    with pytest.raises(ConfigError, match="and there is no run"):
        _choose(None, "arp")
    with pytest.raises(ConfigError, match=r"'../x' cannot name a folder"):
        _choose(None, "expert", name="../x")
    with pytest.raises(ConfigError, match="two checkpoints would be step 0 of 'make'"):
        _choose(None, "m:make", [tmp_path / "a", tmp_path / "b"])
