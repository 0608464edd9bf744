"""Keyframes of a demonstration: the arm rests or the gripper changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError

__all__ = ["STOPPING_DELTA", "Keyframe", "find_keyframes", "gripper_states", "next_keyframe"]

STOPPING_DELTA = 0.1  # rad/s; a joint at exactly this speed counts as resting
_REFRACTORY = 4  # frames after a stop in which no other stop is detected
# A measured gripper moves when its range is more than both of these, and it is not noise:
_LEAST_RANGE = 1e-3  # a millimetre, or a thousandth of an opening from 0 to 1
_LEAST_SHARE = 0.05  # of the largest opening: PerAct's generator calls a gripper open from 95 % on
_CLOSES_BELOW, _OPENS_ABOVE = 0.4, 0.6  # of the range
_FEW = 16  # minimum number of frames for separating noise from motion
_FRAMES_PER_CHANGE = 6  # minimum average duration; noise changes more often


@dataclass(frozen=True, kw_only=True, eq=False)
class Keyframe:
    """One key-to-key step of an episode: observation and target of the arm.

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
        gripper_open: (T,) gripper of each frame: 1.0 open or 0.0 closed, or a measured opening of any unit, larger
            for more open, which `gripper_states` converts to the two states.
        joint_velocities: (T, J) joint speeds in rad/s.
        delta: a frame is still when no joint is faster than this, inclusive, in rad/s.

    Returns:
        Increasing frame indices; never 0. Empty for one frame. The last frame is always included.

    Raises:
        ConfigError: if there are no frames, the lengths differ, or a value is not finite.

    At frames 0 and 1 the look back of two frames wraps around to the end of the demonstration, as in the published
    procedure: a resting start therefore suppresses stops in the next four frames. Only the last pair of adjacent
    keyframes is merged. Source: PerAct (Shridhar et al. 2022, arXiv 2209.05451), section 3.2 and the measured rules of
    the golden cases.

    >>> find_keyframes([1, 1, 1, 0, 0, 0], [[0.5]] * 6)
    (3, 5)
    """
    measured, velocities = _checked(gripper_open, joint_velocities)
    gripper = _states(measured)[0]
    frames = len(gripper)
    still = (np.abs(velocities) <= delta).all(axis=1)
    keys: list[int] = []
    refractory = 0
    before = gripper[0]
    for i in range(frames):
        # Negative indices are intended: they wrap around at frames 0 and 1.
        steady = i < frames - 2 and gripper[i] == gripper[i + 1] == gripper[i - 1] == gripper[i - 2]
        stopped = refractory <= 0 and steady and bool(still[i])
        refractory = _REFRACTORY if stopped else refractory - 1
        if i != 0 and (gripper[i] != before or i == frames - 1 or stopped):
            keys.append(i)
        before = gripper[i]
    if len(keys) > 1 and keys[-1] - 1 == keys[-2]:
        del keys[-2]
    return tuple(keys)


def gripper_states(gripper_open: ArrayLike) -> NDArray[np.float64]:
    """Convert gripper openings (T,) of any unit to states (T,): 1.0 open, 0.0 closed.

    If all openings are 0 or 1, they are the states. Other openings are measured values: the gripper closes when the
    opening falls below 40 % of the range that it has in this demonstration, and opens when it rises above 60 %, so that
    noise between makes no change; a motion over several frames changes the state once. A gripper does not move, and is
    open or closed throughout, when its range is at most 0.001 or at most 5 % of its largest opening, or when its motion
    is noise: from 16 frames on, openings that are not all within a tenth of the range from its ends, and either have a
    range as independent noise has (its deviation estimated from second differences) or change more often than every
    sixth frame.

    Raises:
        ConfigError: if there are no frames, a value is not finite, or the gripper does not move and is neither at 1
            (open) nor at 0 (closed), so that its state is unknown.

    >>> gripper_states([0.08, 0.08, 0.05, 0.01, 0.01, 0.011]).tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    openings = np.asarray(gripper_open, dtype=np.float64)
    if openings.ndim != 1 or not len(openings) or not np.isfinite(openings).all():
        raise ConfigError(
            f"gripper_states needs finite numbers (T,) of at least one frame, got shape {openings.shape}"
            + ("" if np.isfinite(openings).all() else " with numbers that are not finite")
        )
    states, level = _states(openings)
    if level is None:
        return states
    is_open, is_closed = abs(level - 1) <= _LEAST_SHARE, abs(level) <= _LEAST_RANGE
    if not (is_open or is_closed):
        raise ConfigError(
            f"the gripper does not move, its opening is {level:g} throughout: whether that is open or closed cannot be "
            "told. Give gripper_open as 1.0 (open) or 0.0 (closed)"
        )
    return np.full(len(openings), float(is_open))


def next_keyframe(keyframes: Sequence[int], frame: int) -> int | None:
    """The first keyframe strictly after `frame`; None at or after the last one.

    >>> next_keyframe((70, 85, 124), 70)
    85
    """
    return next((key for key in keyframes if key > frame), None)


def _states(openings: NDArray[np.float64]) -> tuple[NDArray[np.float64], float | None]:
    """States by the rule of `gripper_states`; for a gripper that does not move, one state and its position."""
    if np.isin(openings, (0.0, 1.0)).all():
        return openings, None
    low, high = float(openings.min()), float(openings.max())
    span = high - low
    if span > max(_LEAST_RANGE, _LEAST_SHARE * max(abs(low), abs(high))):
        share = (openings - low) / span
        states = np.empty(len(openings))
        state = float(share[0] >= 0.5)
        for frame, opening in enumerate(share):
            if opening > _OPENS_ABOVE:
                state = 1.0
            elif opening < _CLOSES_BELOW:
                state = 0.0
            states[frame] = state
        if not _is_noise(share, int(np.abs(np.diff(states)).sum())):
            return states, None
    return np.zeros(len(openings)), float(np.median(openings))


def _is_noise(share: NDArray[np.float64], changes: int) -> bool:
    """Whether openings, as a share of their range, vary no more than independent noise."""
    frames = len(share)
    if frames < _FEW or (np.minimum(share, 1 - share) < 0.1).all():
        return False
    # Second differences are 0 on a steady motion; of independent noise they have sqrt(6) times its deviation, and the
    # median of a normal variable is 0.6745 deviations. The range of T draws is about 2 sqrt(2 log T) deviations, at
    # most.
    noise = float(np.median(np.abs(np.diff(share, 2)))) / (0.6745 * math.sqrt(6))
    most = 1.3 * 2 * math.sqrt(2 * math.log(frames)) * noise
    return most >= 1 or changes * _FRAMES_PER_CHANGE > frames


def _checked(gripper_open: ArrayLike, joint_velocities: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
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
    return gripper, velocities
