import sys

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.worlds.rlbench_random import LegacyStream, same_state


def test_the_expert_solves_the_present_scene(world, simulator, target):
    world.reset("turn_tap", 1, 6)
    place, state = target(world), world.random_seed
    poses = world.expert()
    assert ("get_demos", (1,), {"live_demos": True, "max_attempts": 1}) in simulator.CALLS
    assert simulator.names()[-1] == "reset"  # the scene is made again
    assert same_state(simulator.STATES[-1], state)
    assert np.array_equal(target(world), place)
    assert np.allclose([pose.position for pose in poses], np.add(place, [[0, 0, 0.2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]))
    assert [pose.gripper_open for pose in poses] == [True, True, False, False]
    assert [pose.ignore_collisions for pose in poses] == [True, False, False, False]
    results = [world.step(pose) for pose in poses[:3]]
    assert [result.success for result in results] == [False, False, True]
    assert len(world.frames()) == 4


def test_asking_the_expert_changes_nothing_of_the_episode(world, pose):
    def played(ask):
        world.reset("turn_tap", 1, 6)
        if ask:
            world.expert()
        return world.step(pose()).observation.frame.rgb["front"]

    assert np.array_equal(played(ask=True), played(ask=False))


def test_an_expert_that_fails_has_one_attempt_and_the_world_lives_on(world, simulator, target, pose):
    world.reset("turn_tap", 1, 6)
    place = target(world)
    simulator.CHANGES["failing attempts"] = 1
    with pytest.raises(ConfigError, match=r"did not solve this scene of turn_tap \(RuntimeError: Could not collect"):
        world.expert()
    assert simulator.names().count("reset of a demonstration") == 1  # no other scene was tried
    assert "shutdown" not in simulator.names()
    assert np.array_equal(target(world), place)  # the episode can still be played
    assert world.step(pose()).reason == ""
    simulator.CHANGES.clear()
    world.reset("turn_tap", 1, 6)
    assert len(world.expert()) == 4


def test_an_expert_whose_scene_cannot_be_placed_leaves_the_world_alive(world, simulator):
    from rlbench.backend.exceptions import TaskEnvironmentError

    world.reset("turn_tap", 1, 6)
    simulator.FAULTS["reset of a demonstration"] = TaskEnvironmentError("could not place the task")
    with pytest.raises(ConfigError, match=r"TaskEnvironmentError: could not place the task\), so there are no key"):
        world.expert()
    simulator.FAULTS["reset"] = TaskEnvironmentError("nor now")
    with pytest.raises(ConfigError, match="TaskEnvironmentError: nor now"):
        world.expert()
    with pytest.raises(ConfigError, match="no episode has been started"):
        world.expert()
    simulator.FAULTS.clear()
    world.reset("turn_tap", 1, 6)
    assert len(world.expert()) == 4
    assert "shutdown" not in simulator.names()


def test_another_scene_than_the_present_one_is_no_help(world, simulator, target):
    world.reset("turn_tap", 1, 6)
    place = target(world)
    for state in (None, LegacyStream.from_seed(7).state):
        simulator.CHANGES["demo state"] = state
        with pytest.raises(ConfigError, match="did not solve this scene of turn_tap at its first attempt"):
            world.expert()
        assert np.array_equal(target(world), place)


def test_a_demonstration_of_the_same_state_but_another_placement_is_no_help(world, simulator):
    world.reset("turn_tap", 1, 6)
    simulator.FAULTS["reset of a demonstration"] = None
    _discard_once(simulator, "reset of a demonstration")
    with pytest.raises(ConfigError, match=r"but another one: the scene is not the recording's: object poses differ"):
        world.expert()
    assert world.notes == ()
    assert "shutdown" not in simulator.names()


def test_a_scene_that_comes_back_otherwise_is_said(world, simulator):
    world.reset("turn_tap", 1, 6)
    simulator.CHANGES["discarded placements"] = 1  # from here on, for the demonstration and for the scene again
    assert len(world.expert()) == 4
    (note,) = world.notes
    assert note.startswith("the scene is not that of the first reset from the same state: object poses differ by up to")


class _Discard(dict):
    """CHANGES in which one call, when it was heard last, discards a placement."""

    def __init__(self, log, call):
        self.log, self.call = log, call

    def get(self, name, default=None):
        if name == "discarded placements":
            return int(self.log.names()[-1] == self.call)
        return super().get(name, default)


def _discard_once(simulator, call):
    sys.modules["rlbench.task_environment"].CHANGES = _Discard(simulator, call)


def test_nothing_is_rendered_for_the_expert(world, simulator):
    world.reset("turn_tap", 1, 6)
    simulator.RENDERED.clear()
    calm = world.expert()
    assert len(simulator.RENDERED) == 4  # the scene that is made again, once by each camera
    assert set(world.frames()[0].rgb) == {"front", "left_shoulder", "right_shoulder", "wrist"}
    assert len(calm) == 4


@pytest.mark.parametrize("error", [RuntimeError("Could not collect demos. No"), OSError("broken")])
def test_images_come_back_after_an_expert_that_fails(world, simulator, error):
    world.reset("turn_tap", 1, 6)
    simulator.FAULTS["get_demos"] = error
    with pytest.raises((ConfigError, WorldError)):
        world.expert()
    camera = world._simulator._camera
    assert (camera.rgb, camera.depth, camera.point_cloud, camera.mask) == (True, False, True, False)


def test_the_expert_starts_from_a_fresh_scene(world, pose):
    with pytest.raises(ConfigError, match="expert: no episode has been started"):
        world.expert()
    world.reset("turn_tap", 1, 6)
    world.step(pose())
    with pytest.raises(ConfigError, match="after reset and before any step"):
        world.expert()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("rlbench.backend.exceptions", "DemoError"),
        ("rlbench.backend.exceptions", "NoWaypointsError"),
        ("builtins", "RuntimeError"),
    ],
)
def test_a_demonstration_that_cannot_be_recorded_ends_the_simulator(world, simulator, module, name):
    world.reset("turn_tap", 1, 6)
    simulator.FAULTS["get_demos"] = getattr(__import__(module, fromlist=[name]), name)("too few demos")
    with pytest.raises(WorldError, match=rf"recording a live demonstration of turn_tap \({name}: too few demos\)"):
        world.expert()
    assert simulator.names()[-1] == "shutdown"


def test_states_are_compared_by_what_they_draw():
    kind, words, position, _, _ = LegacyStream.from_seed(1).state
    assert same_state((kind, words, position, 0, 0.5), (kind, words, position, 0, 0.7))
    assert not same_state((kind, words, position, 1, 0.5), (kind, words, position, 1, 0.7))
    assert not same_state((kind, words, position, 0, 0.0), (kind, words, position - 1, 0, 0.0))
    assert not same_state((kind, words, position, 0, 0.0), (kind, words + 1, position, 0, 0.0))
