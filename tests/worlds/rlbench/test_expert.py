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


def test_another_scene_than_the_present_one_is_no_help(world, simulator, target):
    world.reset("turn_tap", 1, 6)
    place = target(world)
    simulator.CHANGES["first attempt fails"] = True
    with pytest.raises(ConfigError, match="did not solve this scene of turn_tap at its first attempt"):
        world.expert()
    assert np.array_equal(target(world), place)  # the episode can still be played
    simulator.CHANGES["demo state"] = None
    with pytest.raises(ConfigError, match="did not solve this scene"):
        world.expert()


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
