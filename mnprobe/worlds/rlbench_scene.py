"""Comparison of a restored scene with the recorded one; collision shapes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Collidable", "state_difference", "state_note"]

TOLERANCE = 0.01  # m, rad, and of unit quaternions; a recording's frame 0 is one simulated step later than the reset
_UNIT = 1e-5  # how far from 1 the length of a recorded quaternion may be

Collidable = dict[int, str]
"""Shapes that count in collisions: name by handle."""


def state_difference(recorded: ArrayLike, present: ArrayLike) -> float | None:
    """The largest difference of two `task_low_dim_state` (n,); None where their lengths differ.

    The numbers are positions in metres, quaternions, joint positions in metres or rad, and forces where a task has
    sensors; which is which is not stored. A quaternion and its negative turn alike, and RLBench gives now this one and
    now that: where four numbers in a row are unit vectors in both states, the nearer of the two signs counts.

    >>> state_difference([0.1, 0.2, 0.8, 0, 0, 0.6, 0.8], [0.1, 0.25, 0.8, 0, 0, -0.6, -0.8])
    0.05
    """
    first, second = np.asarray(recorded, dtype=np.float64), np.asarray(present, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        return None
    if not first.size:
        return 0.0
    off: NDArray[np.float64] = np.abs(first - second)
    for start in range(len(first) - 3):
        one, other = first[start : start + 4], second[start : start + 4]
        units = all(abs(float(np.linalg.norm(part)) - 1) <= _UNIT for part in (one, other))
        if units and np.abs(one + other).max() < np.abs(one - other).max():
            off[start : start + 4] = np.abs(one + other)
    return round(float(off.max()), 6)


def state_note(recorded: ArrayLike | None, present: ArrayLike | None, *, of: str = "the recording's") -> str:
    """Describe the deviation of a restored scene by the two `task_low_dim_state`; "" if they agree.

    Args:
        recorded: of the first frame of the recording, or None where it has none.
        present: of the scene as it is now, or None.
        of: owner of the recorded scene.
    """
    if recorded is None or present is None:
        who = "the recording" if recorded is None else "the scene"
        return f"{who} tells no object poses (task_low_dim_state), so it cannot be checked whether the scene is {of}"
    off = state_difference(recorded, present)
    if off is None:
        return (
            f"the scene is not {of}: its objects have {np.size(present)} numbers where {np.size(recorded)} were "
            "expected (task_low_dim_state), so the task's code is another"
        )
    if off > TOLERANCE:
        return (
            f"the scene is not {of}: object poses differ by up to {off:.3g} (task_low_dim_state). Its reset asks the "
            "sampling planner which placements can be reached; that, the simulator or the task's code was another"
        )
    return ""
