"""Key poses without a way between them: the keyframe rule finds each, whatever fingers and speeds do."""

import numpy as np
import pytest

from mnprobe.data import FrameData, find_keyframes
from mnprobe.worlds.record import played_keyframes
from mnprobe.worlds.spread import spread_key_poses


def _frames(draws, count):
    return [
        FrameData(
            gripper_pose=[*draws.normal(size=3), 0, 1, 0, 0],
            gripper_open=float(draws.integers(2)),
            joint_velocities=draws.normal(scale=0.2, size=7),
            gripper_joint_positions=[0.04, 0.04],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_every_key_pose_is_found_and_nothing_else(seed):
    draws = np.random.default_rng(seed)
    frames = _frames(draws, int(draws.integers(2, 27)))
    spread = spread_key_poses(frames)
    keys = played_keyframes(spread)
    assert keys == tuple(range(5, 5 * len(frames), 5))
    assert keys == find_keyframes([f.gripper_open for f in spread], np.array([f.joint_velocities for f in spread]))
    for index, frame in zip((0, *keys), frames, strict=True):
        assert spread[index].gripper_pose is frame.gripper_pose
        assert spread[index].gripper_open == frame.gripper_open
