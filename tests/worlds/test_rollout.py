"""Rollouts: what is played, what is written, what survives a kill, what is refused."""

import dataclasses
import fcntl
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.worlds import KeyPose, make_world
from mnprobe.worlds.outcomes import Outcome, read_played, write_outcomes
from mnprobe.worlds.policy import ExpertPolicy, PolicySpec, RandomPolicy, make_policy
from mnprobe.worlds.record import read_situation
from mnprobe.worlds.rollout import ROLLOUT_FILE, RolloutConfig, read_rollout, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan, open_demos

SMALL = {"image_size": 16}
TASKS = ("open_drawer", "push_buttons")
DOWN = np.array([0.0, 1.0, 0.0, 0.0])


def _play(folder, *, policy="expert", episodes=1, tasks=TASKS, workers=0, films=0, demos=None, seed=7, **config):
    chosen = RolloutConfig(world_options=SMALL, policy=policy, **config)
    plan = RolloutPlan(tasks=tasks, episodes=episodes, seed=seed, demos=demos)
    return rollout(folder, chosen, plan, workers=workers, films=films)


def _tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


@pytest.fixture
def player(monkeypatch):
    """Make a policy of a function observation -> pose; gives the name that `--policy` would have."""

    def make(act, name="own"):
        class Own:
            def __init__(self, spec):
                self.name = name

            def describe(self):
                return {"policy": self.name}

            def start(self, observation, seed):
                self.seed = seed

            def act(self, observation):
                return act(observation)

        module = ModuleType("players_of_a_test")
        module.Own = Own
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:Own"

    return make


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """The expert on two tasks, two episodes each, in one process."""
    folder = tmp_path_factory.mktemp("solved") / "expert"
    return folder, _play(folder, episodes=2, films=1)


def test_the_expert_succeeds_and_the_dataset_tells(solved):
    folder, written = solved
    assert [(o.reason, o.success, o.repeat) for o in written.outcomes] == [("success", 1, 0)] * 4
    assert (written.played, written.kept) == (4, 0)
    dataset = open_dataset(folder)
    assert [episode.success for episode in dataset] == [1] * 4
    assert [episode.id for episode in dataset] == [outcome.id for outcome in read_played(folder)]
    assert list(written.outcomes) == read_played(folder)
    assert dataset[1].instruction == "open the middle drawer"


def test_every_executed_key_pose_is_a_keyframe_with_what_was_seen(solved):
    folder, written = solved
    for episode, outcome in zip(open_dataset(folder), written.outcomes, strict=True):
        assert len(episode.keyframes) == outcome.steps > 1
        looked = [step.observed for step in episode.steps()]
        for camera in ("front", "left_shoulder", "right_shoulder", "wrist"):
            assert set(looked) <= set(episode.frames_on_disk(camera, "rgb"))
            assert set(looked) == set(episode.frames_on_disk(camera, "depth"))
        assert len(episode.frames_on_disk("front")) >= 16


def test_what_the_folder_says_about_itself(solved):
    folder, _ = solved
    said = read_rollout(folder)
    assert (said["world"]["name"], said["world"]["image_size"], said["world"]["renderer"]) == ("tabletop", 16, "rays")
    assert (said["policy"]["name"], said["checkpoint_sha256"], said["max_steps"]) == ("expert", "", 25)
    note = read_situation(open_dataset(folder)[0].folder)
    assert (note["task"], note["variation"], note["seed"], note["rollout"]["outcome"]["steps"]) == (
        *("open_drawer", 0, 7),
        read_played(folder)[0].steps,
    )


def test_films_of_the_first_episodes(solved):
    folder, written = solved
    assert [path.name for path in written.films] == [
        "open_drawer-episode0-success.gif",
        "push_buttons-episode0-success.gif",
    ]
    episode = open_dataset(folder)[0]
    with Image.open(written.films[0]) as film:
        assert film.size == (2 * 16 + 8, 2 * 16 + 8)
        assert film.convert("RGB").getpixel((1, 1)) == (0, 128, 0)
        assert film.n_frames > 10  # equal pictures are one, shown longer
        shown = 0
        for number in range(film.n_frames):
            film.seek(number)
            shown += film.info["duration"]
    assert shown == 50 * (len(episode) - 1) + 1000


def test_worker_processes_write_the_same_bytes(solved, tmp_path):
    folder, written = solved
    again = _play(tmp_path / "two", episodes=2, films=1, workers=2)
    assert again.outcomes == written.outcomes
    assert _tree(tmp_path / "two") == _tree(folder)


def test_finished_episodes_are_kept_and_more_are_added(tmp_path):
    _play(tmp_path / "a", tasks=("push_buttons",))
    before = _tree(tmp_path / "a")
    more = _play(tmp_path / "a", episodes=2)
    assert (more.played, more.kept) == (3, 1)
    after = _tree(tmp_path / "a")
    assert {name: after[name] for name in before if name != "outcomes.csv"} == {
        name: content for name, content in before.items() if name != "outcomes.csv"
    }
    assert [outcome.id for outcome in read_played(tmp_path / "a")] == [
        *("open_drawer/0/episode0", "open_drawer/1/episode1", "push_buttons/0/episode0", "push_buttons/1/episode1")
    ]
    assert _play(tmp_path / "a", tasks=("push_buttons",)).played == 0
    assert len(read_played(tmp_path / "a")) == 4


def test_interrupted_anywhere_it_ends_as_if_nothing_had_happened(tmp_path, player):
    calls = iter(range(100))
    stop = {3}

    def act(observation):
        if next(calls) in stop:
            raise KeyboardInterrupt
        return _above(observation)

    name = player(act)
    play = {"policy": name, "max_steps": 2, "episodes": 2}
    with pytest.raises(KeyboardInterrupt):
        _play(tmp_path / "stopped", **play)
    assert [(o.id, o.reason) for o in read_played(tmp_path / "stopped")] == [("open_drawer/0/episode0", "step limit")]
    assert len(open_dataset(tmp_path / "stopped")) == 1
    done = _play(tmp_path / "stopped", **play)
    assert (done.played, done.kept) == (3, 1)
    _play(tmp_path / "whole", **play)
    assert _tree(tmp_path / "stopped") == _tree(tmp_path / "whole")


def test_what_a_killed_process_left_is_removed(tmp_path):
    _play(tmp_path / "a", tasks=("push_buttons",))
    episodes = tmp_path / "a/push_buttons/all_variations/episodes"
    part = episodes / ".episode1.99999999.part"
    part.mkdir()
    (part / "low_dim_obs.pkl").write_bytes(b"half")
    (tmp_path / "a/outcomes.csv").unlink()
    assert _play(tmp_path / "a", tasks=("push_buttons",)).played == 0
    assert not part.exists()
    assert len(read_played(tmp_path / "a")) == 1


def _above(observation):
    x, y, z = np.asarray(observation.frame.gripper_pose)[:3]
    return KeyPose(position=np.array([x, y, z - 0.02]), quaternion=DOWN, gripper_open=True)


@pytest.mark.parametrize(
    ("position", "quaternion", "reason", "steps"),
    [
        ([np.nan, 0, 1], DOWN, "invalid action", 0),
        ([0.2, np.inf, 1], DOWN, "invalid action", 0),
        ([0.2, 0, 1], 3 * DOWN, "invalid action", 0),
        ([0.2, 0, 1], np.zeros(4), "invalid action", 0),
        ([0.2, 0], DOWN, "invalid action", 0),
        ([0.2, 0, 9], DOWN, "unreachable pose", 1),
    ],
)
def test_an_action_that_is_none_is_an_outcome(tmp_path, player, position, quaternion, reason, steps):
    pose = KeyPose(position=np.array(position, float), quaternion=np.array(quaternion, float), gripper_open=True)
    written = _play(tmp_path / "a", policy=player(lambda _: pose), tasks=("push_buttons",), films=1)
    outcome = written.outcomes[0]
    assert (outcome.reason, outcome.success, outcome.steps) == (reason, 0, steps)
    episode = open_dataset(tmp_path / "a")[0]
    assert (len(episode), episode.keyframes, episode.success) == (2, (1,), 0)
    assert len(episode.steps()) == 1
    for camera in ("front", "left_shoulder", "right_shoulder", "wrist"):
        assert episode.frame(0).points(camera).shape == (16, 16, 3)
    assert episode.frames_on_disk("front") == (0, 1)
    assert written.films[0].name == "push_buttons-episode0-failure.gif"


def test_a_later_failure_keeps_what_was_executed(tmp_path, player):
    poses = iter([True, True, False])

    def act(observation):
        good = _above(observation)
        return good if next(poses) else KeyPose(position=good.position * np.nan, quaternion=DOWN, gripper_open=True)

    outcome = _play(tmp_path / "a", policy=player(act), tasks=("push_buttons",)).outcomes[0]
    assert (outcome.reason, outcome.steps) == ("invalid action", 2)
    assert len(open_dataset(tmp_path / "a")[0].keyframes) == 2


def test_the_step_limit_can_be_lower(tmp_path, player):
    outcome = _play(tmp_path / "a", policy=player(_above), tasks=("push_buttons",), max_steps=3).outcomes[0]
    assert (outcome.reason, outcome.steps) == ("step limit", 3)


def test_initial_states_of_demonstrations(solved, tmp_path, player):
    folder, _ = solved
    name = player(_above)
    played = _play(tmp_path / "again", policy=name, episodes=None, demos=open_demos(folder), max_steps=1, seed=3)
    demos, episodes = open_dataset(folder), open_dataset(tmp_path / "again")
    assert [outcome.demo for outcome in played.outcomes] == [demo.id for demo in demos]
    assert [outcome.seed for outcome in played.outcomes] == [7, 8, 7, 8]
    for demo, episode in zip(demos, episodes, strict=True):
        assert episode.instruction == demo.instruction
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(episode.frame(0).rgb[camera], demo.frame(0).rgb[camera])
            np.testing.assert_array_equal(episode.frame(0).depth[camera], demo.frame(0).depth[camera])


def test_other_configurations_are_refused(tmp_path, player):
    folder = tmp_path / "a"
    _play(folder, policy=player(_above), tasks=("push_buttons",), max_steps=2)
    before = _tree(folder)
    with pytest.raises(ConfigError, match=r"another configuration \(max_steps was 2, now 1\)"):
        _play(folder, policy=player(_above), tasks=("push_buttons",), max_steps=1)
    with pytest.raises(ConfigError, match=r"policy.name was 'own', now 'expert'"):
        _play(folder, tasks=("push_buttons",), max_steps=2)
    larger = RolloutConfig(world_options={"image_size": 17}, policy=player(_above), max_steps=2)
    with pytest.raises(ConfigError, match=r"world\.image_size was 16, now 17"):
        rollout(folder, larger, RolloutPlan(tasks=("push_buttons",), episodes=1, seed=7), workers=0)
    (tmp_path / "weights").write_bytes(b"1")
    with pytest.raises(ConfigError, match="checkpoint_sha256 was '', now '6b86"):
        _play(folder, policy=player(_above), max_steps=2, checkpoint=tmp_path / "weights")
    with pytest.raises(ConfigError, match=r"played from another situation \(policy_seed was .*; seed was 7, now 8\)"):
        _play(folder, policy=player(_above), tasks=("push_buttons",), max_steps=2, seed=8)
    assert _tree(folder) == before


def test_folders_that_hold_other_things_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file; rollouts need a folder"):
        _play(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"holds file and no rollout\.json"):
        _play(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / ROLLOUT_FILE).write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*damaged.rollout.json"):
        _play(tmp_path / "damaged")
    (tmp_path / "damaged" / ROLLOUT_FILE).write_text('{"schema": "other"}')
    with pytest.raises(DataError, match="schema 'other'"):
        _play(tmp_path / "damaged")


def test_two_commands_do_not_play_into_one_folder(tmp_path):
    _play(tmp_path / "a", tasks=("push_buttons",))
    with (tmp_path / "a/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is playing into this folder"):
            _play(tmp_path / "a", tasks=("push_buttons",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"policy": "expret"}, "unknown policy 'expret'. Did you mean 'expert'"),
        ({"policy": "json:dumps_"}, "unknown name in module 'json': 'dumps_'"),
        ({"policy": "math:pi"}, "policy 'math:pi' is a float; a function or class that makes one is needed"),
        ({"policy": "types:SimpleNamespace.x"}, "unknown name in module"),
        ({"policy": "arp"}, "policy 'arp' needs weights"),
        ({"policy": "expert", "policy_options": {"fast": 1}}, "policy 'expert' has no options, got fast"),
        ({"max_steps": 0}, "--max-steps must be from 1 to 25, got 0"),
        ({"max_steps": 26}, "--max-steps must be from 1 to 25, got 26"),
        ({"tasks": ("open_drawr",)}, "unknown task of world 'tabletop': 'open_drawr'. Did you mean 'open_drawer'"),
        ({"films": -1}, "--film must be 0 or more, got -1"),
    ],
)
def test_bad_requests(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        _play(tmp_path / "a", **config)
    assert not (tmp_path / "a").exists()


def test_weights_where_none_are_needed_or_there_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.weights: there is no such file"):
        _play(tmp_path / "a", checkpoint=tmp_path / "no.weights")
    (tmp_path / "x").write_text("")
    for policy in ("expert", "random"):
        with pytest.raises(ConfigError, match=f"policy '{policy}' has no weights"):
            _play(tmp_path / "a", policy=policy, checkpoint=tmp_path / "x")


def test_a_policy_must_be_one(tmp_path, player):
    with pytest.raises(ConfigError, match=r"policy 'builtins:str' made a str without name, describe, start, act"):
        _play(tmp_path / "a", policy="builtins:str")
    with pytest.raises(ConfigError, match=r"policy 'own' answered with a list; act\(\) returns a KeyPose"):
        _play(tmp_path / "a", policy=player(lambda _: [0.2, 0, 1]))


@pytest.fixture(scope="module")
def world():
    made = make_world("tabletop", image_size=8)
    yield made
    made.close()


def test_random_draws_follow_from_the_seed(world):
    policy = make_policy("random", PolicySpec(world=world))
    observation = world.reset("push_buttons", 0, 0)

    def draws(seed):
        policy.start(observation, seed)
        return [policy.act(observation) for _ in range(40)]

    first, second, other = draws(1), draws(1), draws(2)
    actions = np.stack([pose.to_action() for pose in first])
    np.testing.assert_array_equal(actions, np.stack([pose.to_action() for pose in second]))
    assert not np.array_equal(actions, np.stack([pose.to_action() for pose in other]))
    assert (actions[:, :3] >= [-0.3, -0.5, 0.77]).all()
    assert (actions[:, :3] <= [0.7, 0.5, 1.6]).all()
    x, y = actions[:, 3:5].T
    np.testing.assert_allclose(1 - 2 * (x**2 + y**2), -1, atol=1e-12)  # third column's z: the hand points down
    assert set(actions[:, 7]) == {0.0, 1.0}
    assert isinstance(policy, RandomPolicy)


def test_the_expert_stays_when_it_has_no_more_to_do(world):
    policy = ExpertPolicy(PolicySpec(world=world))
    observation = world.reset("push_buttons", 0, 0)
    policy.start(observation, 0)
    for _ in world.expert():
        policy.act(observation)
    pose = policy.act(observation)
    np.testing.assert_array_equal(pose.position, np.asarray(observation.frame.gripper_pose)[:3])
    assert pose.gripper_open == bool(observation.frame.gripper_open)


def test_the_policy_of_the_documentation_plays(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "rollouts.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "documented_policy.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "documented_policy", raising=False)
    options = {"policy": "documented_policy:Higher", "policy_options": {"reach": 0.01}, "max_steps": 3}
    outcomes = _play(tmp_path / "a", tasks=("push_buttons",), workers=1, **options).outcomes
    assert [(outcome.reason, outcome.steps) for outcome in outcomes] == [("step limit", 3)]
    assert read_rollout(tmp_path / "a")["policy"] == {
        "name": "higher",
        "from": "documented_policy:Higher",
        "policy": "higher",
        "reach": 0.01,
    }


def test_a_note_is_a_column_only_where_there_is_one(tmp_path):
    plain = Outcome(id="t/0/episode0", success=1, steps=3, reason="success", task="t", variation=0, seed=0)
    write_outcomes(tmp_path, [plain])
    assert (tmp_path / "outcomes.csv").read_text() == (
        "id,success,steps,reason,task,variation,seed,repeat,demo\nt/0/episode0,1,3,success,t,0,0,0,\n"
    )
    noted = dataclasses.replace(plain, id="t/0/episode1", note='not the recorded scene, by 0.3 "m"')
    write_outcomes(tmp_path, [plain, noted])
    assert (tmp_path / "outcomes.csv").read_text().splitlines()[0].endswith(",demo,note")
    assert read_played(tmp_path) == [plain, noted]
    assert "note" not in plain.to_dict()
    assert noted.to_dict()["note"] == noted.note
