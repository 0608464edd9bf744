"""Keyframes of a demonstration: the frames at which the arm rests or the gripper changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError

__all__ = ["STOPPING_DELTA", "Keyframe", "find_keyframes", "next_keyframe"]

STOPPING_DELTA = 0.1  # rad/s; a joint at exactly this speed still counts as resting
_REFRACTORY = 4  # frames after a stop in which no other stop can be found


@dataclass(frozen=True, kw_only=True, eq=False)
class Keyframe:
    """One key-to-key step of an episode: what is observed and where the arm shall go.

    `index` is the target frame, `observed` the frame of the observation (0 or the keyframe before). The target is the
    state at `index`: `gripper_pose` (7,) in metres and quaternion x y z w as stored (its sign is free), `gripper_open`
    1.0 or 0.0, `ignore_collisions` 1.0 or 0.0.
    """

    index: int
    observed: int
    gripper_pose: NDArray[np.float64]
    gripper_open: float
    ignore_collisions: float


def find_keyframes(
    gripper_open: ArrayLike, joint_velocities: ArrayLike, *, delta: float = STOPPING_DELTA
) -> tuple[int, ...]:
    """Frames that end a motion: the arm rests, the gripper changes, or the demonstration ends.

    Args:
        gripper_open: (T,) gripper state of each frame, 1.0 open or 0.0 closed.
        joint_velocities: (T, J) joint speeds in rad/s.
        delta: a frame is still when no joint is faster than this, inclusive, in rad/s.

    Returns:
        Increasing frame indices; never 0. Empty for one frame. The last frame is always in.

    Raises:
        ConfigError: if there is no frame, the two lengths differ, or a value is not a finite number.

    At frames 0 and 1 the look back of two frames wraps around to the end of the demonstration, as in the published
    procedure: a resting start therefore silences the four frames after it. Only the last pair of adjacent keyframes
    is merged. Source: PerAct (Shridhar et al. 2022, arXiv 2209.05451), section 3.2 and the measured rules of the
    golden cases.

    >>> find_keyframes([1, 1, 1, 0, 0, 0], [[0.5]] * 6)
    (3, 5)
    """
    gripper, velocities = _checked(gripper_open, joint_velocities)
    frames = len(gripper)
    still = (np.abs(velocities) <= delta).all(axis=1)
    keys: list[int] = []
    refractory = 0
    before = gripper[0]
    for i in range(frames):
        # Negative indices are meant: they wrap around at frames 0 and 1.
        steady = i < frames - 2 and gripper[i] == gripper[i + 1] == gripper[i - 1] == gripper[i - 2]
        stopped = refractory <= 0 and steady and bool(still[i])
        refractory = _REFRACTORY if stopped else refractory - 1
        if i != 0 and (gripper[i] != before or i == frames - 1 or stopped):
            keys.append(i)
        before = gripper[i]
    if len(keys) > 1 and keys[-1] - 1 == keys[-2]:
        del keys[-2]
    return tuple(keys)


def next_keyframe(keyframes: Sequence[int], frame: int) -> int | None:
    """The first keyframe strictly after `frame`; None at or after the last one.

    >>> next_keyframe((70, 85, 124), 70)
    85
    """
    return next((key for key in keyframes if key > frame), None)


def _checked(gripper_open: ArrayLike, joint_velocities: ArrayLike) -> tuple[list[float], NDArray[Any]]:
    gripper = np.asarray(gripper_open, dtype=np.float64)
    velocities = np.asarray(joint_velocities, dtype=np.float64)
    if gripper.ndim != 1 or velocities.ndim != 2 or len(gripper) != len(velocities) or not len(gripper):
        raise ConfigError(
            "find_keyframes needs gripper_open (T,) and joint_velocities (T, J) of the same T >= 1, "
            f"got shapes {gripper.shape} and {velocities.shape}"
        )
    for name, values in (("gripper_open", gripper), ("joint_velocities", velocities)):
        if not np.isfinite(values).all():
            frame = int(np.argwhere(~np.isfinite(values))[0][0])
            raise ConfigError(f"find_keyframes needs finite numbers, {name} has none at frame {frame}")
    return gripper.tolist(), velocities
