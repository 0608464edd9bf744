import dataclasses
import shutil
import warnings

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.data import open_dataset, write_episode
from mnprobe.worlds import rlbench
from mnprobe.worlds.rlbench import RLBench
from mnprobe.worlds.rlbench_random import LegacyStream, same_state
from mnprobe.worlds.rlbench_scene import state_difference, state_note


def global_state():
    return np.random.get_state()  # noqa: NPY002 - what the fence must leave alone


def seeded(seed):
    np.random.seed(seed)  # noqa: NPY002 - what a reference evaluator calls


def since(simulator, name):
    """Names of the calls from the last `name` on."""
    names = simulator.names()
    return names[len(names) - 1 - names[::-1].index(name) :]


@pytest.fixture
def written(tmp_path):
    """Write the frames of a world as an episode, and open it."""

    def write(world, *, random_seed=None, variation=1, task="turn_tap", notes=None):
        frames = [*world.frames(), *world.frames()][:2]
        write_episode(
            tmp_path,
            task=task,
            variation=variation,
            episode=0,
            instructions=["turn right tap"],
            frames=frames,
            random_seed=random_seed,
            **({} if notes is None else {"notes": notes}),
        )
        return open_dataset(tmp_path)[0]

    return write


def test_seed_variation_and_reset_come_in_this_order(world, simulator):
    observation = world.reset("turn_tap", 1, seed=5)
    assert since(simulator, "task_file_to_task_class") == [
        "task_file_to_task_class",
        "get_task",
        "set_variation",
        "reset",
    ]
    assert observation.instructions == ("do variation 1", "another way to say it")
    assert observation.step == 0
    seeded(5)
    assert same_state(simulator.STATES[-1], global_state())
    assert same_state(world.random_seed, global_state())


def test_equal_arguments_give_the_equal_scene(world, simulator, target):
    world.reset("turn_tap", 1, 7)
    first, frame = target(world), world.frames()[0]
    world.reset("close_jar", 3, 8)
    assert not np.array_equal(target(world), first)
    seeded(99)
    world.reset("turn_tap", 1, 7)
    assert np.array_equal(target(world), first)
    assert np.array_equal(world.frames()[0].rgb["front"], frame.rgb["front"])


def test_what_a_fork_prints_does_not_come_into_the_output(world, simulator, capsys):
    world.reset("turn_tap", 1, 7)
    assert capsys.readouterr() == ("", " -> do variation 1\n")


def test_a_task_is_loaded_once_for_consecutive_episodes(world, simulator):
    for task, seed in (("turn_tap", 0), ("turn_tap", 1), ("close_jar", 0), ("turn_tap", 0)):
        world.reset(task, 0, seed)
    assert [args for name, args, _ in simulator.CALLS if name == "get_task"] == [
        ("TurnTap",),
        ("CloseJar",),
        ("TurnTap",),
    ]


def test_the_state_of_a_recorded_episode_is_set_right_before_the_reset(world, simulator, written, target):
    state = LegacyStream.from_seed(1234).state
    state = (state[0], state[1], 77, 1, 0.25)  # all five parts count
    world.reset("turn_tap", 0, 0)
    observation = world.reset_to(written(world, random_seed=state))
    assert since(simulator, "set_variation") == ["set_variation", "reset"]
    assert simulator.CALLS[-2][1] == (1,)
    assert same_state(simulator.STATES[-1], state)
    assert observation.instruction == "do variation 1"
    placed = target(world)
    np.random.set_state(state)  # noqa: NPY002 - what RLBench's own reset_to_demo does
    assert np.array_equal(placed[:2], np.random.uniform([0.0, -0.3], [0.5, 0.3], 2))  # noqa: NPY002 - as above


def test_a_played_episode_can_be_played_again(world, written, target):
    world.reset("turn_tap", 1, 42)
    place = target(world)
    episode = written(world, random_seed=world.random_seed)
    world.reset("turn_tap", 0, 1)
    world.reset_to(episode)
    assert np.array_equal(target(world), place)


def test_a_played_episode_tells_its_seed_where_it_has_no_state(world, written, target):
    world.reset("turn_tap", 1, 42)
    place = target(world)
    note = '{"schema": "mnprobe.situation/1", "world": "rlbench", "task": "turn_tap", "variation": 1, "seed": 42}'
    episode = written(world, notes={"situation.json": note})
    world.reset("turn_tap", 0, 1)
    world.reset_to(episode)
    assert np.array_equal(target(world), place)


def test_an_episode_without_state_or_seed_is_refused(world, written, simulator):
    world.reset("turn_tap", 1, 0)
    episode = written(world)
    calls = len(simulator.CALLS)
    with pytest.raises(ConfigError, match=r"low_dim_obs\.pkl has no random_seed"):
        world.reset_to(episode)
    assert len(simulator.CALLS) == calls


def test_an_episode_of_another_world_is_refused(world, written):
    world.reset("turn_tap", 1, 0)
    for task, variation, text in (("put_shape_in_tray", 0, "unknown RLBench task"), ("open_drawer", 3, "from 0 to 2")):
        episode = written(world, task=task, variation=variation, random_seed=world.random_seed)
        with pytest.raises(ConfigError, match=text):
            world.reset_to(episode)
        shutil.rmtree(episode.folder.parent.parent.parent)


def test_real_demonstrations_carry_what_a_reset_needs(world, simulator, rlbench_data):
    for episode in open_dataset(rlbench_data)[:2]:
        world.reset_to(episode)
        assert same_state(simulator.STATES[-1], episode.random_seed)
        assert simulator.CALLS[-2][:2] == ("set_variation", (episode.variation,))


def test_a_scene_that_is_the_recorded_one_needs_no_word(world, written):
    world.reset("turn_tap", 1, 42)
    assert world.notes == ()
    episode = written(world, random_seed=world.random_seed)
    world.reset_to(episode)
    assert world.notes == ()


def test_a_scene_that_is_another_than_the_recorded_one_is_said(world, simulator, written):
    world.reset("turn_tap", 1, 42)
    episode = written(world, random_seed=world.random_seed)
    simulator.CHANGES["discarded placements"] = 1  # the planner refuses what it took when the episode was recorded
    world.reset_to(episode)
    (note,) = world.notes
    assert "the scene is not the recording's: object poses differ by up to 0." in note
    assert "sampling planner" in note
    simulator.CHANGES.clear()
    world.reset_to(episode)
    assert world.notes == ()


def test_an_episode_that_tells_its_seed_only_is_compared_too(world, simulator, written):
    world.reset("turn_tap", 1, 42)
    note = '{"schema": "mnprobe.situation/1", "world": "rlbench", "task": "turn_tap", "variation": 1, "seed": 42}'
    episode = written(world, notes={"situation.json": note})
    simulator.CHANGES["state"] = 0.011  # m; 0.01 is allowed
    world.reset_to(episode)
    assert "differ by up to 0.011" in world.notes[0]
    simulator.CHANGES["state"] = 0.009
    world.reset_to(episode)
    assert world.notes == ()


def test_a_recording_of_another_task_code_is_said(world, rlbench_data):
    world.reset_to(open_dataset(rlbench_data)[0])
    assert "its objects have 7 numbers where 101 were expected" in world.notes[0]


def test_a_recording_without_poses_is_said(world, written, simulator):
    world.reset("turn_tap", 1, 42)
    world._frames = [dataclasses.replace(frame, task_low_dim_state=None) for frame in world._frames]
    world.reset_to(written(world, random_seed=world.random_seed))
    (note,) = world.notes
    assert note.startswith("the recording tells no object poses (task_low_dim_state), so it cannot be checked")


def test_states_of_real_demonstrations_agree_up_to_the_sign_of_quaternions(rlbench_data):
    states = [episode.task_low_dim_state for episode in open_dataset(rlbench_data)]
    first, second = states[:2]
    assert state_difference(first, first) == 0
    flipped = first.copy()
    for start in (3, 10, 18, 83, 90, 97):  # quaternions of drawers and handles
        assert np.linalg.norm(flipped[start : start + 4]) == pytest.approx(1, abs=1e-6)
        flipped[start : start + 4] *= -1
    assert state_difference(first, flipped) == 0
    assert state_difference(first, second) == pytest.approx(np.abs(first - second)[[15, 16, 17]].max(), abs=1e-6)
    assert state_difference(first, second) > 0.1
    mirrored = first.copy()
    mirrored[1] *= -1  # a place on the other side is another place
    assert state_difference(first, mirrored) == pytest.approx(2 * abs(first[1]), abs=1e-5)
    assert state_difference(first, first[:-1]) is None
    assert state_note(first, None).startswith("the scene tells no object poses")


@pytest.mark.parametrize(
    ("flag", "seed", "warned"),
    [(1, "", True), (1, "random", True), (1, "0", True), (1, "7", False), (0, "0", False)],
)
def test_scenes_that_depend_on_the_hash_seed_are_told_once(world, monkeypatch, flag, seed, warned):
    monkeypatch.setattr(rlbench, "hashing", lambda: {"hash_randomization": flag, "PYTHONHASHSEED": seed})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world.reset("turn_tap", 0, 0)
        assert world.notes == ()
        for number in range(2):
            world.reset("push_buttons", number, 0)
            assert [("PYTHONHASHSEED=0" in note) for note in world.notes] == [True] * warned
    assert len(caught) == int(warned)
    assert all(str(warning.message) == world.notes[0] for warning in caught)


def test_numpys_global_state_is_left_alone(world, simulator, pose):
    seeded(11)
    before = global_state()
    world.reset("turn_tap", 0, 3)
    world.step(pose())
    world.reset("close_jar", 0, 4)
    world.expert()
    assert same_state(global_state(), before)
    simulator.FAULTS["reset"] = ValueError("broken")
    with pytest.raises(WorldError):
        world.reset("turn_tap", 0, 3)
    assert same_state(global_state(), before)


def test_a_launch_leaves_numpys_global_state_alone(simulator):
    seeded(11)
    before = global_state()
    simulator.CHANGES["draws in"] = ("launch",)
    RLBench(image_size=8).close()
    assert len(simulator.DRAWN["launch"]) == 1
    assert same_state(global_state(), before)


def test_a_task_is_always_loaded_with_the_same_draws(world, simulator):
    simulator.CHANGES["draws in"] = ("get_task",)
    for seed, task in ((1, "turn_tap"), (2, "close_jar")):
        seeded(seed)
        world.reset(task, 0, seed)
    first, second = simulator.DRAWN["get_task"]
    assert first == second


def test_what_set_variation_draws_belongs_to_the_episode(world, simulator):
    simulator.CHANGES["draws in"] = ("set_variation",)
    world.reset("turn_tap", 1, seed=5)
    seeded(5)
    np.random.uniform()  # noqa: NPY002 - as the changed stand-in
    assert same_state(simulator.STATES[-1], global_state())
    assert same_state(world.random_seed, global_state())


def test_the_callers_draws_do_not_change_an_episode(world, simulator, pose):
    simulator.CHANGES["draws in"] = ("step",)

    def drawn(disturb):
        world.reset("turn_tap", 0, 3)
        for _ in range(3):
            if disturb:
                np.random.uniform(size=5)  # noqa: NPY002 - a caller that shares the global generator
            world.step(pose())
        return simulator.DRAWN["step"][-3:]

    calm = drawn(disturb=False)
    assert len(set(calm)) == 3
    assert drawn(disturb=True) == calm


def test_another_global_generator_than_numpys_own_comes_back(world):
    own = np.random.mtrand._rand._bit_generator
    other = np.random.PCG64(5)
    np.random.set_bit_generator(other)
    try:
        with pytest.raises(ConfigError, match=r"global generator is PCG64, RLBench's scenes need MT19937"):
            world.reset("turn_tap", 0, 3)
        assert other.state == np.random.PCG64(5).state
    finally:
        np.random.set_bit_generator(own)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("turn_tab", 0, 0), "Did you mean 'turn_tap'"),
        (("turn_tap", 2, 0), "variation of turn_tap must be a whole number from 0 to 1, got 2"),
        (("turn_tap", -1, 0), "got -1"),
        (("turn_tap", True, 0), "got True"),
        (("turn_tap", 0, 2**32), "seed must be a whole number from 0 to 4294967295"),
        (("turn_tap", 0, -1), "seed must be"),
        (("turn_tap", 0, 1.5), "got 1.5"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_simulator_hears_of_it(world, simulator, arguments, text):
    calls = len(simulator.CALLS)
    with pytest.raises(ConfigError, match=text):
        world.reset(*arguments)
    assert len(simulator.CALLS) == calls
    world.reset("turn_tap", 0, 0)


def test_enhanced_randomness_is_noticed_when_it_is_switched_on_later(world, monkeypatch):
    monkeypatch.setenv("RLBENCH_ENHANCED_RANDOMNESS", "1")
    with pytest.raises(ConfigError, match="adds random draws"):
        world.reset("turn_tap", 0, 0)


@pytest.mark.parametrize("descriptions", [None, [], "turn tap", [""], [3]])
def test_texts_that_are_none_are_an_error(world, simulator, descriptions):
    simulator.CHANGES["descriptions"] = descriptions
    with pytest.raises(WorldError, match="must return a list of texts"):
        world.reset("turn_tap", 0, 0)
    assert simulator.names()[-1] == "shutdown"


@pytest.mark.parametrize(
    ("call", "module", "name"),
    [
        ("reset", "rlbench.backend.exceptions", "TaskEnvironmentError"),
        ("set_variation", "rlbench.backend.exceptions", "TaskEnvironmentError"),
        ("reset", "rlbench.backend.exceptions", "BoundaryError"),
        ("reset", "rlbench.backend.exceptions", "WaypointError"),
        ("get_task", "builtins", "RuntimeError"),
        ("reset", "pyrep.errors", "PyRepError"),
        ("reset", "rlbench.backend.exceptions", "InvalidActionError"),
    ],
)
def test_whatever_a_reset_raises_ends_the_simulator(world, simulator, call, module, name):
    error = getattr(__import__(module, fromlist=[name]), name)("it does not work")
    simulator.FAULTS[call] = error
    with pytest.raises(WorldError, match=rf"resetting turn_tap, variation 0 \({name}: it does not work\)") as found:
        world.reset("turn_tap", 0, 0)
    assert found.value.__cause__ is error
    assert simulator.names()[-1] == "shutdown"
    with pytest.raises(ConfigError, match="is closed; make a new one"):
        world.reset("turn_tap", 0, 0)
