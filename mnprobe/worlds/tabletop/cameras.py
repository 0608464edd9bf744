"""RLBench's cameras, measured on real demonstrations (specs/rlbench.md v)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.data import Camera

__all__ = ["CAMERAS", "cameras_at", "check_cameras"]

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")
"""Names of all cameras; PerAct, RVT and ARP use the first four."""

_NEAR = 0.009999999776482582
_FAR = {
    "front": 4.5,
    "left_shoulder": 3.200000047683716,
    "right_shoulder": 3.200000047683716,
    "overhead": 3.299999952316284,
    "wrist": 3.5,
}
_DEGREES = {"front": 40, "left_shoulder": 40, "right_shoulder": 40, "overhead": 40, "wrist": 60}
# Pose in the world, first three rows; the wrist camera's is in the frame of the hand.
_POSES = {
    "front": [
        [0.000000, -0.422618, -0.906308, 1.349999],
        [-1.000000, 0.000000, 0.000000, 0.000000],
        [0.000000, 0.906308, -0.422618, 1.579999],
    ],
    "left_shoulder": [
        [0.173648, 0.892539, 0.416198, -0.175000],
        [0.984808, -0.157379, -0.073387, 0.200000],
        [0.000000, 0.422619, -0.906308, 1.979999],
    ],
    "right_shoulder": [
        [-0.173648, 0.892539, 0.416198, -0.174997],
        [0.984808, 0.157379, 0.073387, -0.200000],
        [0.000000, 0.422619, -0.906308, 1.979992],
    ],
    "overhead": [
        [0.000000, 0.906308, 0.422619, -0.174997],
        [1.000000, 0.000000, 0.000000, 0.000000],
        [0.000000, 0.422619, -0.906308, 2.429994],
    ],
    "wrist": [
        [0.0, -0.99619, 0.08716, -0.05001],
        [1.0, 0.0, 0.0, 0.00200],
        [0.0, 0.08716, 0.99620, -0.09207],
    ],
}


def check_cameras(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are known and none comes twice; ConfigError otherwise."""
    if isinstance(names, str) or len(set(names)) != len(names):
        raise ConfigError(f"cameras must be a list of different names, got {names!r}")
    for name in names:
        if name not in CAMERAS:
            raise unknown_name("camera", name, list(CAMERAS))
    return tuple(names)


def cameras_at(names: Sequence[str], size: int, hand: NDArray[np.float64]) -> dict[str, Camera]:
    """The cameras for square images of `size` pixels, with the hand at the pose `hand` (4, 4)."""
    return {name: _camera(name, size, hand) for name in names}


def _camera(name: str, size: int, hand: NDArray[np.float64]) -> Camera:
    focal = -size / (2 * math.tan(math.radians(_DEGREES[name]) / 2))
    pose = np.array([*_POSES[name], [0.0, 0.0, 0.0, 1.0]])
    return Camera(
        name=name,
        intrinsics=np.array([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]),
        extrinsics=hand @ pose if name == "wrist" else pose,
        near=_NEAR,
        far=_FAR[name],
        size=(size, size),
    )
