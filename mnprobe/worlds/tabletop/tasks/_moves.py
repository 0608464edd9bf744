"""Moves that several experts share: grasp from above, place."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.hand import key_pose, pointing_down

__all__ = ["grasp", "nearest_turn", "raised", "set_down"]

_CLEARANCE = 0.12  # metres above a thing at which the hand comes and goes


def grasp(at: ArrayLike, yaw: float, *, clearance: float = _CLEARANCE) -> list[KeyPose]:
    """Above a thing with the fingers open, down to it, fingers closed, up again: four key poses.

    `at` (3,) metres is where the fingertips take hold, `yaw` turns the hand about the vertical.
    """
    low = raised(at, 0.0)
    high, turn = raised(low, clearance), pointing_down(yaw)
    return [
        key_pose(high, turn, gripper_open=True),
        key_pose(low, turn, gripper_open=True),
        key_pose(low, turn, gripper_open=False),
        key_pose(high, turn, gripper_open=False),
    ]


def set_down(at: ArrayLike, yaw: float, *, clearance: float = _CLEARANCE) -> list[KeyPose]:
    """Over a place with the fingers closed, down, fingers open, up again: four key poses."""
    low = raised(at, 0.0)
    high, turn = raised(low, clearance), pointing_down(yaw)
    return [
        key_pose(high, turn, gripper_open=False),
        key_pose(low, turn, gripper_open=False),
        key_pose(low, turn, gripper_open=True),
        key_pose(high, turn, gripper_open=True),
    ]


def raised(at: ArrayLike, by: float) -> NDArray[np.float64]:
    """(3,) the point `by` metres above `at`."""
    place = np.array(at, dtype=np.float64)
    place[2] += by
    return place


def nearest_turn(yaw: float, period: float, to: float = 0.0) -> float:
    """Of all angles yaw + k * period the one nearest `to`, radians: the least turn to an orientation that repeats.

    >>> nearest_turn(1.75, 1.5)
    0.25
    """
    return yaw - period * round((yaw - to) / period)
