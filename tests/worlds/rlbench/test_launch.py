import inspect
import json
import os
import sys
import threading

import pytest

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.worlds.rlbench import RLBench

LAUNCH = [
    "CameraConfig",
    "CameraConfig",
    "CameraConfig.set_all",
    "ObservationConfig",
    "EndEffectorPoseViaPlanning",
    "Discrete",
    "MoveArmThenGripper",
    "Environment",
    "launch",
    "Shape",
]


def test_it_is_launched_as_the_reference_evaluators_launch_it(simulator, tmp_path):
    from pyrep.const import RenderMode

    world = RLBench(dataset_root=tmp_path)
    assert simulator.names() == LAUNCH
    arguments = {name: kwargs for name, _, kwargs in reversed(simulator.CALLS)}
    assert arguments["CameraConfig"] == {
        "rgb": True,
        "depth": False,
        "point_cloud": True,
        "mask": False,
        "image_size": [128, 128],
        "render_mode": RenderMode.OPENGL,
    }
    assert [args for name, args, _ in simulator.CALLS if name == "CameraConfig.set_all"] == [(False,)]
    assert arguments["ObservationConfig"] == {
        "joint_velocities": True,
        "joint_positions": True,
        "joint_forces": False,
        "gripper_open": True,
        "gripper_pose": True,
        "gripper_matrix": True,
        "gripper_joint_positions": True,
        "gripper_touch_forces": False,
        "task_low_dim_state": True,  # beyond the evaluators: it tells whether a scene is the recorded one
    }
    assert arguments["Environment"] == {"dataset_root": str(tmp_path), "headless": True}
    assert set(world._simulator.environment._scene._cameras) == {"front", "left_shoulder", "right_shoulder", "wrist"}
    world.close()
    assert simulator.names()[-1] == "shutdown"
    world.close()
    assert simulator.names().count("shutdown") == 1


def test_every_option_arrives(simulator):
    world = RLBench(headless=False, image_size=12, cameras=["overhead", "wrist"], workspace=[-1, 1, -2, 2, 0.5, 2])
    observation = world.reset("turn_tap", 1, 0)
    assert next(kwargs for name, _, kwargs in simulator.CALLS if name == "Environment") == {
        "dataset_root": "",
        "headless": False,
    }
    assert tuple(observation.frame.cameras) == ("wrist", "overhead")
    assert observation.frame.rgb["overhead"].shape == (12, 12, 3)
    assert world.describe()["workspace"] == {"low": [-1.0, -2.0, 0.5], "high": [1.0, 2.0, 2.0]}
    assert "Shape" not in simulator.names()
    world.close()


def test_what_it_is_can_be_stored(world):
    described = json.loads(json.dumps(world.describe()))
    assert described["versions"]["pyrep"] == "4.1.0.3"
    assert described["versions"]["rlbench"] == "1.2.0"
    assert described["versions"]["coppeliasim"] == "CoppeliaSim_Edu_V4_1_0"
    assert described["workspace"]["low"] == pytest.approx([-0.3, -0.7, 0.752])
    assert described["workspace"]["high"] == pytest.approx([0.9, 0.7, 1.752])
    assert described["hash_randomization"] == sys.flags.hash_randomization
    assert described["PYTHONHASHSEED"] == os.environ.get("PYTHONHASHSEED", "")
    assert len(described["versions"]["rlbench-tasks"]) == 16
    assert len(described["versions"]["pyrep-code"]) == 16
    assert described["versions"]["rlbench-commit"] == ""  # the stand-in is no checkout
    assert len(world.tasks) == 18
    assert sum(task.variations for task in world.tasks.values()) == 249


def test_there_is_one_simulator_in_a_process(world, simulator):
    with pytest.raises(ConfigError, match="in this process already"):
        RLBench(image_size=8)
    assert simulator.names().count("launch") == 1
    world.close()
    again = RLBench(image_size=8)
    again.close()


@pytest.mark.parametrize("call", ["Environment", "launch", "Shape"])
def test_a_failed_launch_leaves_nothing_running(simulator, call):
    simulator.FAULTS[call] = RuntimeError("the scene file is missing")
    with pytest.raises(
        WorldError, match=r"failed while launching the simulator \(RuntimeError: the scene file"
    ) as found:
        RLBench(image_size=8)
    assert found.value.__cause__ is simulator.FAULTS[call]
    assert simulator.names().count("shutdown") == (call != "Environment")
    simulator.FAULTS.clear()
    RLBench(image_size=8).close()


def test_a_wrong_argument_name_is_no_unknown_option(simulator):
    simulator.FAULTS["Discrete"] = TypeError("got an unexpected keyword argument 'x'")
    with pytest.raises(WorldError, match="failed while launching"):
        RLBench()


def test_a_simulator_that_cannot_be_shut_down_blocks_the_process(simulator):
    world = RLBench(image_size=8)
    simulator.FAULTS["shutdown"] = OSError("it hangs")
    with pytest.raises(WorldError, match=r"could not be shut down \(OSError: it hangs\).*new process"):
        world.close()
    world.close()
    with pytest.raises(ConfigError, match="could not be shut down"):
        RLBench(image_size=8)


def test_the_first_failure_is_told_when_shutting_down_fails_too(simulator):
    simulator.FAULTS |= {"launch": ValueError("first"), "shutdown": OSError("second")}
    with pytest.raises(WorldError, match=r"ValueError: first.*not be shut down either \(OSError: second\)") as found:
        RLBench(image_size=8)
    assert found.value.__cause__ is simulator.FAULTS["launch"]


def test_an_interrupt_shuts_it_down_and_goes_on(world, simulator):
    simulator.FAULTS["reset"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.reset("turn_tap", 0, 0)
    assert simulator.names()[-1] == "shutdown"


def test_actions_of_eight_numbers_are_refused(simulator, monkeypatch):
    from rlbench.action_modes import arm_action_modes

    class Upstream:
        def __init__(self, absolute_mode=True, frame="world", collision_checking=False):
            pass  # as the forks have it, too: what differs is the method

        def action(self, scene, action):
            pass

    monkeypatch.setattr(arm_action_modes, "EndEffectorPoseViaPlanning", Upstream)
    with pytest.raises(ConfigError, match="upstream's RLBench, whose actions have 8 numbers"):
        RLBench()
    assert simulator.names() == []


def test_the_fork_is_told_by_the_method_whatever_its_constructor_takes(simulator):
    from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning

    assert "collision_checking" in inspect.signature(EndEffectorPoseViaPlanning).parameters
    RLBench(image_size=8).close()


def test_a_part_that_is_not_there_is_named(simulator, monkeypatch):
    from rlbench import environment

    monkeypatch.delattr(environment, "Environment")
    with pytest.raises(ConfigError, match=r"rlbench\.environment.*'Environment'"):
        RLBench()


@pytest.mark.parametrize("missing", ["COPPELIASIM_ROOT", "DISPLAY", "LD_LIBRARY_PATH"])
def test_nothing_is_launched_where_a_part_is_missing(simulator, monkeypatch, missing):
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=missing):
        RLBench()
    assert simulator.names() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_size": 0}, "image_size must be a whole number from 1 to 4096, got 0"),
        ({"image_size": True}, "image_size must be a whole number"),
        ({"max_steps": 26}, "max_steps must be a whole number from 1 to 25, got 26"),
        ({"headless": 1}, "headless must be true or false, got 1"),
        ({"cameras": []}, "at least one"),
        ({"cameras": "front"}, "cameras must be different names"),
        ({"cameras": ["front", "front"]}, "cameras must be different names"),
        ({"cameras": ["frnt"]}, "Did you mean 'front'"),
        ({"dataset_root": "/no/such/folder"}, "dataset_root must be a folder"),
        ({"workspace": [0, 1, 0, 1]}, "workspace must be min x"),
        ({"workspace": [0, 1, 1, 0, 0, 1]}, "low must lie below high"),
        ({"workspace": [0, 1, 0, float("nan"), 0, 1]}, "three finite numbers"),
    ],
)
def test_options_that_cannot_be_are_refused_before_a_launch(simulator, options, text):
    with pytest.raises(ConfigError, match=text):
        RLBench(**options)
    assert simulator.names() == []


def test_a_forked_child_does_not_shut_the_parents_simulator_down(world, simulator, monkeypatch):
    monkeypatch.setattr(world._simulator, "_process", -1)
    world.close()
    assert "shutdown" not in simulator.names()


def test_no_thread_is_left(simulator):
    before = threading.active_count()
    RLBench(image_size=8).close()
    assert threading.active_count() == before
