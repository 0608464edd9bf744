"""The floating hand: a palm with two fingers, its shape and poses.

The pose of the hand is that of its fingertip frame, as RLBench's: z is the approach direction, out of the palm; y is
the axis along which the fingers open; the origin lies midway between the finger pads, `REACH` before the fingers' ends.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.environment import KeyPose

__all__ = [
    "ACTUATOR",
    "BACK",
    "CLOSED",
    "FINGER_LENGTH",
    "HALF_PALM",
    "HAND_BODIES",
    "HOME",
    "OPEN",
    "REACH",
    "hand_mjcf",
    "key_pose",
    "matrix_to_quaternion",
    "pointing",
    "pointing_down",
    "pose_matrix",
]

REACH = 0.008
"""How far the fingers' ends lie beyond the fingertip frame, metres: a closed hand at height z touches z - REACH."""
FINGER_LENGTH = 0.068
"""From the palm's face to the fingers' ends, metres."""
HALF_PALM = (0.026, 0.052)
"""Half widths of the palm, metres: across (x) and along (y) the finger axis."""
BACK = 0.18
"""How far the hand reaches backwards from its fingertip frame, metres."""
OPEN = 0.04
"""Travel of each finger when open, metres; the gap between the pads is twice as wide."""
CLOSED = -0.02
"""Where the finger actuator aims to when closing: beyond contact, so that it presses."""
ACTUATOR = "fingers"
HAND_BODIES = ("hand", "finger_left", "finger_right")
HOME = (0.25, 0.0, 1.25)
"""Where the hand starts, pointing down, open."""


def hand_mjcf() -> dict[str, str]:
    """MJCF of the hand by section: "worldbody", "equality", "actuator", "contact"."""
    pose = f'pos="{HOME[0]} {HOME[1]} {HOME[2]}" quat="0 0 1 0"'
    palm_x, palm_y = HALF_PALM
    half = FINGER_LENGTH / 2
    middle = REACH - half
    fingers = "".join(
        f'<body name="finger_{side}" gravcomp="1">'
        f'<joint name="finger_{side}" type="slide" axis="0 {sign} 0" range="0 {OPEN}"/>'
        f'<geom name="finger_{side}" class="pad" type="box" size="0.009 0.005 {half}" '
        f'pos="0 {sign * 0.005} {middle}" mass="0.05" rgba="0.16 0.17 0.19 1"/>'
        "</body>"
        for side, sign in (("left", 1), ("right", -1))
    )
    face = REACH - FINGER_LENGTH
    return {
        "worldbody": (
            f'<body name="mocap" mocap="true" {pose}/>'
            f'<body name="hand" gravcomp="1" {pose}><freejoint name="hand"/>'
            f'<geom name="palm" type="box" size="{palm_x} {palm_y} 0.028" pos="0 0 {face - 0.028}" mass="0.4" '
            'rgba="0.86 0.87 0.88 1"/>'
            f'<geom name="flange" type="cylinder" size="0.028 {(BACK + face - 0.056) / 2}" '
            f'pos="0 0 {(face - 0.056 - BACK) / 2}" mass="0.1" rgba="0.55 0.57 0.60 1"/>'
            f"{fingers}</body>"
        ),
        "equality": (
            '<weld body1="mocap" body2="hand" solref="0.006 1" solimp="0.95 0.99 0.001" torquescale="1"/>'
            '<joint joint1="finger_right" joint2="finger_left" polycoef="0 1 0 0 0" '
            'solref="0.005 1" solimp="0.99 0.999 0.001"/>'
        ),
        "actuator": f'<position name="{ACTUATOR}" joint="finger_left" kp="1500" kv="40" forcerange="-30 30"/>',
        "contact": '<exclude body1="finger_left" body2="finger_right"/>',
    }


def pointing_down(yaw: float = 0.0) -> NDArray[np.float64]:
    """Quaternion x y z w of a hand that points down, turned by `yaw` radians about the vertical.

    At yaw 0 (as the hand starts) the fingers open along the world's y. Half a turn gives the same grasp.

    >>> pointing_down().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    # A turn about z by yaw after half a turn about y.
    return np.array([-math.sin(yaw / 2), math.cos(yaw / 2), 0.0, 0.0]) + 0.0


def pointing(approach: ArrayLike, finger_axis: ArrayLike) -> NDArray[np.float64]:
    """Quaternion x y z w of a hand that points along `approach` with its fingers opening along `finger_axis`.

    Both (3,), at right angles, of any length. For a handle that runs horizontally take a horizontal approach and the
    vertical as finger axis. Raises ConfigError if they are not at right angles.

    >>> pointing([0, 0, -1], [0, 1, 0]).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    z = np.asarray(approach, dtype=np.float64)
    y = np.asarray(finger_axis, dtype=np.float64)
    z, y = z / np.linalg.norm(z), y / np.linalg.norm(y)
    if not abs(float(z @ y)) < 1e-6:
        raise ConfigError(f"approach {z.tolist()} and finger axis {y.tolist()} must be at right angles")
    return matrix_to_quaternion(np.stack([np.cross(y, z), y, z], axis=1))


def matrix_to_quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternion x y z w of a (3, 3) rotation; its largest entry is positive."""
    r = rotation
    # Four times the outer product of the quaternion with itself; its longest row is the quaternion, scaled.
    products = np.array(
        [
            [1 + r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], 1 - r[0, 0] + r[1, 1] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 1 - r[0, 0] - r[1, 1] + r[2, 2], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], 1 + r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    longest = int(np.argmax(products.diagonal()))
    row = products[longest]
    quaternion: NDArray[np.float64] = row / np.linalg.norm(row) + 0.0
    return quaternion


def pose_matrix(position: ArrayLike, quaternion: ArrayLike) -> NDArray[np.float64]:
    """(4, 4) homogeneous matrix of a position (3,) and a quaternion x y z w of length 1."""
    x, y, z, w = np.asarray(quaternion, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = position
    return matrix


def key_pose(
    position: ArrayLike, quaternion: ArrayLike, *, gripper_open: bool, ignore_collisions: bool = True
) -> KeyPose:
    """A key pose from plain numbers, for scripts of experts."""
    return KeyPose(
        position=np.array(position, dtype=np.float64),
        quaternion=np.array(quaternion, dtype=np.float64),
        gripper_open=gripper_open,
        ignore_collisions=ignore_collisions,
    )
