"""RLBench actions: a key pose as nine numbers, its outcome, and errors."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.environment import KeyPose, Reason

__all__ = ["Workspace", "action_for", "has_reached", "is_well_formed", "reason_for"]

_MARGIN = 1e-7  # m; RLBench's workspace is an open box, a position on its side is refused
_SAME = 1e-6  # m, and of unit quaternions
_ASIDE = 1e-4  # m
_NEAR = 0.005  # m
_TURNED = math.radians(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Workspace:
    """The box in which RLBench takes positions, world frame, metres: `low` (3,) and `high` (3,).

    Raises ConfigError unless low < high, both finite.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            corner = np.array(getattr(self, name), dtype=np.float64)
            if corner.shape != (3,) or not np.isfinite(corner).all():
                raise ConfigError(f"workspace: {name} must be three finite numbers, got {corner.tolist()}")
            object.__setattr__(self, name, corner)
        if not (self.high - self.low > 2 * _MARGIN).all():
            raise ConfigError(f"workspace: low must lie below high, got {self.low.tolist()} and {self.high.tolist()}")

    @classmethod
    def from_shape(cls, position: ArrayLike, bounding_box: ArrayLike) -> "Workspace":
        """From the scene's workspace shape: 0.2 m wider in x and y, and 1 m high from its position (spec vi a).

        Args:
            position: (3,) of the shape in the world.
            bounding_box: min x, max x, min y, max y, min z, max z in the shape's own frame.

        >>> Workspace.from_shape([0.2, 0, 0.75], [-0.5, 0.5, -0.6, 0.6, 0, 0]).high.round(3).tolist()
        [0.9, 0.8, 1.75]
        """
        x, y, z = np.asarray(position, dtype=np.float64).reshape(3)
        min_x, max_x, min_y, max_y = np.asarray(bounding_box, dtype=np.float64).reshape(6)[:4]
        return cls(
            low=np.array([x - abs(min_x) - 0.2, y - abs(min_y) - 0.2, z]),
            high=np.array([x + max_x + 0.2, y + max_y + 0.2, z + 1.0]),
        )

    def clip(self, position: ArrayLike) -> NDArray[np.float64]:
        """The nearest position inside, 1e-7 m off the sides, as RVT and ARP do; a new array."""
        return np.clip(np.asarray(position, dtype=np.float64), self.low + _MARGIN, self.high - _MARGIN)


def is_well_formed(pose: KeyPose) -> bool:
    """Whether a pose is one: finite, three and four numbers, a quaternion of length 1 within 1e-3."""
    position, quaternion = np.asarray(pose.position), np.asarray(pose.quaternion)
    if position.shape != (3,) or quaternion.shape != (4,):
        return False
    finite = np.isfinite(position).all() and np.isfinite(quaternion).all()
    return bool(finite) and abs(float(np.linalg.norm(quaternion)) - 1) <= 1e-3


def action_for(pose: KeyPose, workspace: Workspace, *, hand: ArrayLike | None = None) -> NDArray[np.float64]:
    """(9,) for RLBench's step: position inside the workspace, unit quaternion x y z w, gripper, ignore collisions.

    Returns a new array, because RLBench's action modes may modify their argument.

    Args:
        pose: where the hand shall go.
        workspace: to which the position is clipped.
        hand: (7,) where the hand is. PyRep divides by the length of a path, so that a path of no length makes the
            joints NaN: a pose that is `hand` within 1e-6 is asked 0.1 mm higher (lower at the workspace's top).
    """
    quaternion = np.asarray(pose.quaternion, dtype=np.float64)
    flags = [float(pose.gripper_open), float(pose.ignore_collisions)]
    action = np.concatenate([workspace.clip(pose.position), quaternion / np.linalg.norm(quaternion), flags])
    if hand is not None and _is_same(action[:7], np.asarray(hand, dtype=np.float64)):
        up = action[2] + _ASIDE <= workspace.high[2] - _MARGIN
        action[2] += _ASIDE if up else -_ASIDE
    return action


def _is_same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two poses (7,) are the same within 1e-6; a quaternion and its negative turn alike."""
    sign = math.copysign(1.0, float(first[3:] @ second[3:]))
    turned = float(np.linalg.norm(first[3:] - sign * second[3:]))
    return bool(np.linalg.norm(first[:3] - second[:3]) <= _SAME and turned <= _SAME)


def has_reached(pose: KeyPose, gripper_pose: ArrayLike) -> bool:
    """Whether the gripper is within 5 mm and 3 degrees of the requested pose (before clipping)."""
    actual = np.asarray(gripper_pose, dtype=np.float64)
    distance = float(np.linalg.norm(actual[:3] - pose.position))
    lengths = float(np.linalg.norm(actual[3:]) * np.linalg.norm(pose.quaternion))
    cosine = abs(float(actual[3:] @ pose.quaternion)) / lengths
    return distance <= _NEAR and 2 * math.acos(min(1.0, cosine)) <= _TURNED


def reason_for(error: BaseException, unreachable: tuple[type[Exception], ...]) -> Reason:
    """Reason of a failed step, from RLBench's exception.

    "unreachable pose" where a planner or inverse kinematics failed: `error`, or what it was raised from or during, is
    one of `unreachable`. Otherwise RLBench refused the action itself: "invalid action". Either way the reference
    evaluators count a failure of reward 0.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, unreachable):
            return "unreachable pose"
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return "invalid action"
