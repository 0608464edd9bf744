"""Pinhole cameras as RLBench stores them: pose in the world, negative focal lengths, depth along the optical axis."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError

__all__ = ["CAMERA_ORDER", "Camera", "camera_order", "depth_to_points", "look_at", "pinhole", "points_to_pixels"]

CAMERA_ORDER = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """One camera at one frame.

    The camera looks along its +z, with x to the LEFT of the image and y up: hence the negative focal lengths of
    `intrinsics` (3, 3), in pixels. `extrinsics` (4, 4) is the camera's pose in the world (camera to world), metres.
    Depth codes run from `near` to `far`, in metres.

    Raises:
        ConfigError: if a matrix has the wrong shape or holds no finite numbers, a focal length is 0, or not
            0 <= near < far.
    """

    name: str
    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    near: float
    far: float

    def __post_init__(self) -> None:
        for field, shape in (("intrinsics", (3, 3)), ("extrinsics", (4, 4))):
            matrix = np.asarray(getattr(self, field), dtype=np.float64)
            if matrix.shape != shape or not np.isfinite(matrix).all():
                raise ConfigError(f"camera {self.name!r}: {field} must be finite {shape}, got shape {matrix.shape}")
            object.__setattr__(self, field, matrix)
        if not (self.intrinsics[0, 0] and self.intrinsics[1, 1]):
            raise ConfigError(f"camera {self.name!r}: a focal length in intrinsics is 0")
        if not 0 <= self.near < self.far < math.inf:
            raise ConfigError(f"camera {self.name!r}: needs 0 <= near < far, got {self.near!r} and {self.far!r}")

    def resized(self, height: int, width: int) -> "Camera":
        """The same camera for an image of another size; itself when the size is what the intrinsics were made for.

        The principal point is the image's middle (W/2, H/2), so it tells that size.
        """
        made_for = 2 * self.intrinsics[1, 2], 2 * self.intrinsics[0, 2]
        if made_for == (height, width):
            return self
        if min(made_for) <= 0:
            raise ConfigError(f"camera {self.name!r}: intrinsics without a principal point cannot be resized")
        scale = np.array([[width / made_for[1]], [height / made_for[0]], [1.0]])
        return replace(self, intrinsics=self.intrinsics * scale)


def camera_order(names: set[str]) -> tuple[str, ...]:
    """The names in PerAct's order, unknown ones after them by alphabet.

    >>> camera_order({"wrist", "back", "front"})
    ('front', 'wrist', 'back')
    """
    known = tuple(name for name in CAMERA_ORDER if name in names)
    return known + tuple(sorted(names.difference(known)))


def depth_to_points(
    depth: NDArray[np.float64], intrinsics: NDArray[np.float64], extrinsics: NDArray[np.float64]
) -> NDArray[np.float64]:
    """World position of every pixel, (H, W, 3) in metres, from depth (H, W) along the optical axis.

    Pixel (u right, v down) stands for its integer position, without a half-pixel shift:
    p = R (d (u - cx)/fx, d (v - cy)/fy, d) + C.
    """
    height, width = depth.shape
    x = depth * ((np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0])
    y = depth * ((np.arange(height)[:, None] - intrinsics[1, 2]) / intrinsics[1, 1])
    points: NDArray[np.float64] = np.stack([x, y, depth], axis=-1) @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    return points


def points_to_pixels(points: ArrayLike, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where world points (..., 3) fall: pixel positions (..., 2) as (u right, v down), and depth (...) in metres.

    The rotation is inverted by its transpose, which holds to 1e-6 for RLBench's matrices. Points behind the camera
    have negative depth.
    """
    rotation, centre = camera.extrinsics[:3, :3], camera.extrinsics[:3, 3]
    local = (np.asarray(points, dtype=np.float64) - centre) @ rotation
    depth = local[..., 2]
    focal = np.diagonal(camera.intrinsics)[:2]
    return camera.intrinsics[:2, 2] + focal * local[..., :2] / depth[..., None], depth


def pinhole(field_of_view: float, height: int, width: int) -> NDArray[np.float64]:
    """Intrinsics (3, 3) in RLBench's convention for a field of view in degrees across the longer side.

    >>> pinhole(40, 128, 128)[0].round(3).tolist()
    [-175.839, 0.0, 64.0]
    """
    if not (0 < field_of_view < 180 and height > 0 and width > 0):
        raise ConfigError(f"a pinhole needs 0 < angle < 180 and a size, got {field_of_view!r}, {height!r} x {width!r}")
    focal = -max(height, width) / (2 * math.tan(math.radians(field_of_view) / 2))
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def look_at(eye: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Extrinsics (4, 4) of an upright camera at `eye` that looks at `target`, both in world metres (z is up).

    Raises ConfigError if the two coincide or the camera would look straight up or down.
    """
    position = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    left = np.cross([0.0, 0.0, 1.0], forward)
    if not np.linalg.norm(left) > 1e-9:
        raise ConfigError(f"look_at needs a direction that is not vertical, got eye {eye!r} and target {target!r}")
    forward /= np.linalg.norm(forward)
    left /= np.linalg.norm(left)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([left, np.cross(forward, left), forward], axis=1)
    pose[:3, 3] = position
    return pose
