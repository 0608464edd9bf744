"""Pinhole cameras in RLBench's convention: pose, intrinsics, near and far plane."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError

__all__ = ["CAMERA_ORDER", "Camera", "camera_order", "depth_to_points", "look_at", "pinhole", "points_to_pixels"]

_ABOUT = 0.1  # tolerance of twice the principal point against the size, as a share of the size
CAMERA_ORDER = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """One camera at one frame.

    The camera looks along its +z, with x to the LEFT of the image and y up: hence the negative focal lengths of
    `intrinsics` (3, 3), in pixels. `extrinsics` (4, 4) is the camera's pose in the world (camera to world), metres.
    Depth codes run from `near` to `far`, in metres. `size` is the height and width in pixels of the images that the
    intrinsics are for; None if unknown, as in RLBench's files: it is then taken from an image (`for_image`).

    Raises:
        ConfigError: if a matrix has the wrong shape or holds no finite numbers, a focal length is 0, a size is not
            two whole numbers from 1, or not 0 <= near < far.
    """

    name: str
    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    near: float
    far: float
    size: tuple[int, int] | None = None

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
        if self.size is not None:
            sides = tuple(as_whole(side, f"camera {self.name!r}: a side of size", least=1) for side in self.size)
            if len(sides) != 2:
                raise ConfigError(f"camera {self.name!r}: size must be (height, width), got {self.size!r}")
            object.__setattr__(self, "size", sides)

    def resized(self, height: int, width: int) -> "Camera":
        """Return the camera for an image of another size, or itself for an equal size.

        Intrinsics are multiplied by the ratio of the sizes: pixels are at integer positions and the middle of an image
        of W pixels is W/2, as in RLBench. A camera of unknown size is treated as one of RLBench if its focal lengths
        are negative and equal and its principal point is the middle (W/2, H/2) of an integer, even size; otherwise, if
        the principal point is about the middle of the requested size, that size is assumed.

        Raises:
            ConfigError: if the size is unknown and cannot be inferred.
        """
        height, width = (as_whole(side, f"camera {self.name!r}: a side", least=1) for side in (height, width))
        native = self.size or self._told_size(height, width)
        if native == (height, width):
            return self if self.size or native == self._middle else replace(self, size=native)
        scale = np.array([[width / native[1]], [height / native[0]], [1.0]])
        return replace(self, intrinsics=self.intrinsics * scale, size=(height, width))

    def for_image(self, height: int, width: int) -> "Camera":
        """Return the camera of a stored image of this size, whose intrinsics were stored with it.

        The intrinsics apply to that image unchanged, even if it is off-centre or cropped, unless `size` is another
        size, or they are RLBench's (see `resized`) for an image of the same aspect ratio that was resized later by more
        than a tenth.
        """
        self._require_principal_point()
        middle = self._middle
        scaled = self._like_rlbench and middle[0] * width == middle[1] * height and not self._near(height, width)
        native = self.size or ((int(middle[0]), int(middle[1])) if scaled else (height, width))
        return replace(self, size=native).resized(height, width)

    @property
    def _middle(self) -> tuple[float, float]:
        """Height and width of the image whose middle (W/2, H/2) the principal point is."""
        return 2 * float(self.intrinsics[1, 2]), 2 * float(self.intrinsics[0, 2])

    @property
    def _like_rlbench(self) -> bool:
        across, down = self.intrinsics[0, 0], self.intrinsics[1, 1]
        return bool(across == down < 0) and all(side > 0 and side % 2 == 0 for side in self._middle)

    def _near(self, height: int, width: int) -> bool:
        """Whether the principal point is about the middle of an image of this size."""
        return all(abs(told - side) < _ABOUT * side for told, side in zip(self._middle, (height, width), strict=True))

    def _require_principal_point(self) -> None:
        if self.size is None and self._middle == (0, 0):
            raise ConfigError(f"camera {self.name!r}: intrinsics without a principal point cannot be resized")

    def _told_size(self, height: int, width: int) -> tuple[float, float]:
        """Infer the size from the principal point, given the requested size."""
        self._require_principal_point()
        middle = self._middle
        if middle[0] == height and middle[1] == width:
            return middle
        same_shape = middle[0] * width == middle[1] * height
        if self._near(height, width) and not (self._like_rlbench and same_shape):
            return height, width
        if self._like_rlbench:
            return middle
        raise ConfigError(
            f"camera {self.name!r}: for which image size its intrinsics are is not known, and their principal point "
            f"({self.intrinsics[0, 2]:g}, {self.intrinsics[1, 2]:g}) is not the middle of {height} x {width} pixels. "
            "Give it, as Camera(..., size=(height, width))"
        )


def camera_order(names: set[str]) -> tuple[str, ...]:
    """Sort the names in PerAct's order, unknown ones after them alphabetically.

    >>> camera_order({"wrist", "back", "front"})
    ('front', 'wrist', 'back')
    """
    known = tuple(name for name in CAMERA_ORDER if name in names)
    return known + tuple(sorted(names.difference(known)))


def depth_to_points(
    depth: NDArray[np.float64], intrinsics: NDArray[np.float64], extrinsics: NDArray[np.float64]
) -> NDArray[np.float64]:
    """World position of every pixel, (H, W, 3) in metres, from depth (H, W) along the optical axis.

    Pixel (u right, v down) is at its integer position, without a half-pixel shift:
    p = R (d (u - cx)/fx, d (v - cy)/fy, d) + C.
    """
    height, width = depth.shape
    x = depth * ((np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0])
    y = depth * ((np.arange(height)[:, None] - intrinsics[1, 2]) / intrinsics[1, 1])
    points: NDArray[np.float64] = np.stack([x, y, depth], axis=-1) @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    return points


def points_to_pixels(points: ArrayLike, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project world points (..., 3): pixel positions (..., 2) as (u right, v down), and depth (...) in metres.

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
