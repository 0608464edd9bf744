import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.policy import ExpertPolicy, PolicySpec
from mnprobe.worlds.rlbench import RLBench
from mnprobe.worlds.rlbench_action import Workspace, action_for, has_reached, reason_for


def actions(simulator):
    return [args[0] for name, args, _ in simulator.CALLS if name == "step"]


def test_an_action_is_nine_numbers(world, simulator, pose):
    world.reset("turn_tap", 0, 0)
    result = world.step(pose(gripper_open=False, ignore_collisions=False))
    world.step(pose((0.3, 0.1, 1.2), gripper_open=True, ignore_collisions=True))
    assert actions(simulator)[0].tolist() == [0.3, 0.1, 1.1, 0, 1, 0, 0, 0, 0]
    assert actions(simulator)[1].tolist() == [0.3, 0.1, 1.2, 0, 1, 0, 0, 1, 1]
    assert (result.done, result.reason, result.reached, result.success) == (False, "", True, False)
    assert result.observation.step == 1
    assert result.observation.frame.gripper_open == 0
    assert np.allclose(result.observation.frame.gripper_pose, [0.3, 0.1, 1.1, 0, 1, 0, 0])


def test_reaching_the_goal_is_success(world, pose, target):
    world.reset("turn_tap", 0, 0)
    world.step(pose(target(world)))
    result = world.step(pose(target(world), gripper_open=False))
    assert (result.done, result.reason, result.success) == (True, "success", True)
    assert result.observation.step == 2
    assert len(world.frames()) == 3
    with pytest.raises(ConfigError, match="step: the episode is over; call reset"):
        world.step(pose())


@pytest.mark.parametrize(("reward", "success"), [(1, True), (1.0, True), (100.0, True), (0.99, False), (0, False)])
def test_success_is_a_reward_of_one_or_more(world, simulator, pose, reward, success):
    world.reset("turn_tap", 0, 0)
    simulator.CHANGES["reward"] = reward
    assert world.step(pose()).success is success


def test_an_end_without_success_is_no_end_that_rlbench_has(world, simulator, pose):
    world.reset("turn_tap", 0, 0)
    simulator.CHANGES["terminate"] = True
    with pytest.raises(WorldError, match="ended turn_tap without success"):
        world.step(pose())
    assert simulator.names()[-1] == "shutdown"


@pytest.mark.parametrize("limit", [25, 2])
def test_the_episode_ends_at_the_limit(simulator, pose, limit):
    world = RLBench(image_size=4, max_steps=limit, cameras=["front"])
    world.reset("turn_tap", 0, 0)
    results = [world.step(pose()) for _ in range(limit)]
    assert [result.done for result in results] == [False] * (limit - 1) + [True]
    assert results[-1].reason == "step limit"
    assert len(world.frames()) == limit + 1
    world.close()


def _raised(module, name, cause=None, during=None):
    error = getattr(__import__(module, fromlist=[name]), name)("no")
    error.__cause__, error.__context__ = cause, during
    return error


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _raised("rlbench.backend.exceptions", "InvalidActionError"), "invalid action"),
        (lambda: _raised("pyrep.errors", "ConfigurationPathError"), "unreachable pose"),
        (lambda: _raised("pyrep.errors", "IKError"), "unreachable pose"),
        (
            lambda: _raised(
                "rlbench.backend.exceptions",
                "InvalidActionError",
                cause=_raised("pyrep.errors", "ConfigurationPathError"),
            ),
            "unreachable pose",
        ),
        (
            lambda: _raised(
                "rlbench.backend.exceptions", "InvalidActionError", during=_raised("pyrep.errors", "IKError")
            ),
            "unreachable pose",
        ),
        (
            lambda: _raised("rlbench.backend.exceptions", "InvalidActionError", during=ValueError("something else")),
            "invalid action",
        ),
    ],
    ids=["invalid", "path", "ik", "wrapped path", "wrapped ik", "wrapped other"],
)
def test_what_evaluators_count_as_failed_ends_the_episode(world, simulator, pose, make, reason):
    world.reset("turn_tap", 0, 0)
    before = world.step(pose()).observation
    simulator.FAULTS["step"] = make()
    result = world.step(pose((0.2, 0.2, 1.0)))
    assert (result.done, result.reason, result.success, result.reached) == (True, reason, False, False)
    assert result.observation is before
    assert len(world.frames()) == 3
    assert world.frames()[2] is before.frame
    assert "shutdown" not in simulator.names()
    simulator.FAULTS.clear()
    assert not world.reset("turn_tap", 0, 1).step


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("rlbench.backend.exceptions", "TaskEnvironmentError"),
        ("rlbench.backend.exceptions", "BoundaryError"),
        ("rlbench.backend.exceptions", "WaypointError"),
        ("rlbench.backend.exceptions", "NoWaypointsError"),
        ("rlbench.backend.exceptions", "DemoError"),
        ("builtins", "RuntimeError"),
        ("builtins", "ValueError"),
        ("pyrep.errors", "PyRepError"),
    ],
)
def test_anything_else_ends_the_simulator(world, simulator, pose, module, name):
    world.reset("turn_tap", 0, 0)
    simulator.FAULTS["step"] = _raised(module, name)
    with pytest.raises(WorldError, match=rf"executing key pose 1 of turn_tap \({name}: no\)") as found:
        world.step(pose())
    assert found.value.__cause__ is simulator.FAULTS["step"]
    assert simulator.names()[-1] == "shutdown"
    with pytest.raises(ConfigError, match="step: this RLBench world is closed"):
        world.step(pose())


@pytest.mark.parametrize(
    "change",
    [
        {"position": (float("nan"), 0, 1)},
        {"position": (0, float("inf"), 1)},
        {"position": (0, 1)},
        {"quaternion": (0, 0, 0, 0.9)},
        {"quaternion": (0, 0, 0, float("nan"))},
        {"quaternion": (0, 0, 1)},
    ],
)
def test_a_malformed_pose_is_an_invalid_action_that_the_simulator_never_sees(world, simulator, pose, change):
    world.reset("turn_tap", 0, 0)
    result = world.step(pose(**change))
    assert (result.done, result.reason) == (True, "invalid action")
    assert actions(simulator) == []


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ((5, 0, 1), (0.9 - 1e-7, 0, 1)),
        ((-5, 0, 1), (-0.3 + 1e-7, 0, 1)),
        ((0.3, 0.7, 1), (0.3, 0.7 - 1e-7, 1)),
        ((0.3, -0.7, 1), (0.3, -0.7 + 1e-7, 1)),
        ((0.3, 0, 9), (0.3, 0, 1.752 - 1e-7)),
        ((0.3, 0, 0), (0.3, 0, 0.752 + 1e-7)),
    ],
)
def test_positions_are_clipped_into_the_open_workspace(world, simulator, pose, asked, sent):
    world.reset("turn_tap", 0, 0)
    asked_for = pose(asked)
    result = world.step(asked_for)
    assert np.allclose(actions(simulator)[0][:3], sent, rtol=0, atol=1e-12)
    assert result.reason == ""  # the stand-in refuses what lies on a side of the box
    assert asked_for.position.tolist() == [float(number) for number in asked]
    assert result.reached is bool(np.abs(np.subtract(asked, sent)).max() < 0.005)


def test_the_callers_arrays_are_not_written_into(world, pose):
    world.reset("turn_tap", 0, 0)
    mine = pose()
    for array in (mine.position, mine.quaternion):
        array.flags.writeable = False
    world.step(mine)
    assert mine.position.tolist() == [0.3, 0.1, 1.1]


def test_quaternions_are_normalised(world, simulator, pose):
    world.reset("turn_tap", 0, 0)
    world.step(pose(quaternion=(0, 0.6 * 1.0009, 0, 0.8 * 1.0009)))
    assert np.allclose(actions(simulator)[0][3:7], [0, 0.6, 0, 0.8], rtol=0, atol=1e-15)


def test_whether_the_hand_came_there_is_measured(world, simulator, pose):
    for miss, reached in ((0.0, True), (0.0028, True), (0.003, False)):  # along all three axes
        world.reset("turn_tap", 0, 0)
        simulator.CHANGES["miss"] = miss
        assert world.step(pose()).reached is reached


@pytest.mark.parametrize(("degrees", "reached"), [(0, True), (2.9, True), (3.1, False), (180, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_turns_count_whatever_the_sign_of_the_quaternion(pose, degrees, reached, sign):
    half = np.radians(degrees) / 2
    found = [0.3, 0.1, 1.1, *(sign * np.array([0, np.cos(half), np.sin(half), 0]))]
    assert has_reached(pose(), found) is reached


def test_a_step_needs_an_episode(world, pose):
    with pytest.raises(ConfigError, match="step: no episode has been started"):
        world.step(pose())
    world.reset("turn_tap", 0, 0)
    world.close()
    with pytest.raises(ConfigError, match="is closed"):
        world.step(pose())
    assert world.frames() == ()


def test_the_action_is_a_new_array_each_time(pose):
    box = Workspace(low=np.zeros(3), high=np.full(3, 2.0))
    mine = KeyPose.from_action([1, 1, 1, 0, 0, 0, 1, 1, 0])
    first = action_for(mine, box)
    first[:] = 0
    assert action_for(mine, box).tolist() == mine.to_action().tolist()


def test_a_step_to_where_the_hand_is_becomes_a_motion_of_a_tenth_of_a_millimetre(world, simulator, pose):
    world.reset("turn_tap", 0, 0)
    here = world.frames()[0].gripper_pose  # the stand-in, as PyRep, makes NaN of a path of no length
    above = here[:3] + np.array([0, 0, 1e-4])
    results = [world.step(pose(here[:3], here[3:])), world.step(pose(above, -here[3:]))]
    assert [result.reason for result in results] == ["", ""]
    assert all(result.reached for result in results)
    assert np.allclose([action[2] - here[2] for action in actions(simulator)], [1e-4, 2e-4], rtol=0, atol=1e-12)
    assert np.array_equal(actions(simulator)[0][3:7], here[3:])


def test_an_expert_that_stays_where_it_is_does_not_end_the_rollout(world):
    observation = world.reset("turn_tap", 0, 0)
    expert = ExpertPolicy(PolicySpec(world=world))
    expert.start(observation, 0)
    for _ in range(3):  # until the task is solved
        observation = world.step(expert.act(observation)).observation
    world.reset("turn_tap", 0, 1)  # another scene, with the last key pose left: then it stays
    reasons = [(result := world.step(expert.act(observation))).reason]
    for _ in range(4):
        result = world.step(expert.act(result.observation))
        reasons.append(result.reason)
    assert reasons == [""] * 5


@pytest.mark.parametrize(
    ("position", "quaternion", "asked"),
    [
        ((1, 1, 1), (0, 1, 0, 0), 1.0001),
        ((1, 1, 1 + 5e-7), (0, 1, 0, 0), 1.0001005),
        ((1, 1, 1), (0, -1, 0, 0), 1.0001),
        ((1, 1, 1 + 2e-6), (0, 1, 0, 0), 1.000002),  # not the same place
        ((1, 1, 1), (0, np.cos(5e-6), np.sin(5e-6), 0), 1.0),  # not the same direction
    ],
)
def test_only_a_pose_that_is_the_hands_is_asked_beside_it(pose, position, quaternion, asked):
    box = Workspace(low=np.zeros(3), high=np.full(3, 2.0))
    action = action_for(pose(position, quaternion), box, hand=[1, 1, 1, 0, 1, 0, 0])
    assert action[:3] == pytest.approx([1, 1, asked], abs=1e-12)


def test_at_the_top_of_the_workspace_it_is_asked_below(pose):
    box = Workspace(low=np.zeros(3), high=np.full(3, 2.0))
    action = action_for(pose((1, 1, 2)), box, hand=[1, 1, 2 - 1e-7, 0, 1, 0, 0])
    assert action[2] == pytest.approx(2 - 1e-7 - 1e-4, abs=1e-12)


def test_a_failed_path_is_an_unreachable_pose_whatever_the_collisions(world, simulator, pose):
    simulator.CHANGES["no path"] = True
    for ignore in (True, False):
        world.reset("turn_tap", 0, 0)
        assert world.step(pose(ignore_collisions=ignore)).reason == "unreachable pose"


def test_shapes_that_a_step_left_out_of_collisions_count_again_in_the_next_episode(world, simulator, pose):
    simulator.CHANGES["touched"] = ("diningTable", "target")
    world.reset("turn_tap", 0, 0)
    wanted = [list(entry) for entry in simulator.TREE]
    world.step(pose(ignore_collisions=False))
    assert not simulator.shape("diningTable")[2]
    assert not simulator.shape("target")[2]
    world.reset("turn_tap", 0, 0)
    assert [list(entry) for entry in simulator.TREE] == wanted
    world.step(pose(ignore_collisions=False))
    world.reset("close_jar", 0, 0)  # the table outlives the task
    assert simulator.shape("diningTable")[2]
    assert not simulator.shape("ghost")[2]  # never counted, so it does not now
    assert not simulator.shape("workspace")[2]


def test_a_shape_of_the_same_handle_is_not_taken_for_another(world, simulator, pose):
    simulator.CHANGES["touched"] = ("target",)
    world.reset("turn_tap", 0, 0)
    world.step(pose(ignore_collisions=False))
    simulator.shape("target")[1] = "born later"
    world.reset("turn_tap", 0, 1)
    assert not simulator.shape("born later")[2]


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert reason_for(first, (KeyError,)) == "invalid action"
