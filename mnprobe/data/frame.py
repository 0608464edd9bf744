"""One frame of an episode: numbers, cameras, and images read on request."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data.camera import Camera, depth_to_points
from mnprobe.data.image_files import ImageFiles
from mnprobe.data.images import ImageKind, code_to_depth, rgb_to_code, rgb_to_mask
from mnprobe.data.low_dim import LowDim

__all__ = ["Frame", "PerCamera"]

T = TypeVar("T")
D = TypeVar("D")


class PerCamera(Mapping[str, T], Generic[T]):
    """A mapping from camera to a value that is computed on first access and cached.

    `in`, `len` and iteration use the available cameras; access to another one raises a DataError with the reason.
    """

    def __init__(self, make: Callable[[str], T], names: Callable[[], tuple[str, ...]]) -> None:
        self._make = make
        self._names = names
        self._made: dict[str, T] = {}

    def __getitem__(self, camera: str) -> T:
        if camera not in self._made:
            self._made[camera] = self._make(camera)
        return self._made[camera]

    @overload
    def get(self, camera: str, /) -> T | None: ...
    @overload
    def get(self, camera: str, default: T | D, /) -> T | D: ...
    def get(self, camera: str, default: T | D | None = None, /) -> T | D | None:
        """Return the value of this camera, or `default` for an unknown camera; damage still raises."""
        if camera not in self:
            return default
        return self[camera]

    def __contains__(self, camera: object) -> bool:
        return camera in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"<per camera: {', '.join(self._names())}>"


class Frame:
    """One frame. Images are read on first access and cached in the frame.

    Attributes:
        index: number of the frame in its episode, from 0.
        rgb: camera -> (H, W, 3) uint8.
        depth: camera -> (H, W) float32, metres along the optical axis.
        mask: camera -> (H, W) int64 object handles; 16777215 for the background.
        intrinsics: camera -> (3, 3) float64 pixels, as stored (negative focal lengths).
        extrinsics: camera -> (4, 4) float64 metres, the camera's pose in the world.

    Each raises DataError naming file and field for a missing or damaged camera or image.
    """

    def __init__(self, index: int, low_dim: LowDim, files: ImageFiles) -> None:
        self.index = index
        self._low_dim = low_dim
        self._files = files
        # The factories reference the source, not this frame: without a cycle, images are freed with the frame.
        source = _Source(index, low_dim, files)
        self.rgb: PerCamera[NDArray[np.uint8]] = PerCamera(source.rgb, partial(source.having, "rgb"))
        self.depth: PerCamera[NDArray[np.float32]] = PerCamera(source.depth32, partial(source.having, "depth"))
        self.mask: PerCamera[NDArray[np.int64]] = PerCamera(source.mask, partial(source.having, "mask"))
        self.intrinsics: PerCamera[NDArray[np.float64]] = PerCamera(source.intrinsics, source.cameras)
        self.extrinsics: PerCamera[NDArray[np.float64]] = PerCamera(source.extrinsics, source.cameras)
        self._source = source

    def __repr__(self) -> str:
        return f"Frame({self.index} of {self._files.folder})"

    @property
    def gripper_pose(self) -> NDArray[np.float64]:
        """(7,) position in metres (world) and quaternion x y z w of the gripper; the quaternion's sign is free."""
        return self._field("gripper_pose")

    @property
    def gripper_open(self) -> float:
        """1.0 for open fingers, 0.0 for closed ones; or a measured opening."""
        return float(self._field("gripper_open"))

    @property
    def gripper_joint_positions(self) -> NDArray[np.float64]:
        """(F,) travel of each finger in metres; 0.04 is fully open in RLBench."""
        return self._field("gripper_joint_positions")

    @property
    def joint_positions(self) -> NDArray[np.float64]:
        """(J,) angles of the arm's joints in rad."""
        return self._field("joint_positions")

    @property
    def joint_velocities(self) -> NDArray[np.float64]:
        """(J,) speeds of the arm's joints in rad/s."""
        return self._field("joint_velocities")

    @property
    def ignore_collisions(self) -> float:
        """1.0 when the motion was planned without collision checking; 0.0 if the file has no such field."""
        if "ignore_collisions" not in self._low_dim.values:
            return 0.0
        return float(self._field("ignore_collisions"))

    def state(self) -> NDArray[np.float32]:
        """(3,) float32: gripper_open, first finger, second finger: the state input of ARP (Zhang et al. 2024).

        Raises DataError for a gripper without exactly two fingers.
        """
        if self.gripper_joint_positions.shape != (2,):
            raise DataError(
                f"{self._low_dim.path}: field gripper_joint_positions of frame {self.index} has shape "
                f"{self.gripper_joint_positions.shape}, expected (2,): ARP's state is gripper_open and two fingers"
            )
        return np.array([self.gripper_open, *self.gripper_joint_positions], dtype=np.float32)

    def camera(self, name: str) -> Camera:
        """The camera at this frame, for the size of its images (`Camera.for_image`)."""
        stored = self._source.camera(name)
        if not any(self._files.frames(name, kind) for kind in self._files.kinds.get(name, ())):
            return stored  # no image to fit to
        return self._source.fitted(stored, *self._files.size(name))

    def depth64(self, camera: str) -> NDArray[np.float64]:
        """(H, W) float64 depth in metres, not rounded to float32: one step of the stored code is finer than that."""
        return self._source.depth64(camera)

    def points(self, camera: str) -> NDArray[np.float32]:
        """(H, W, 3) float32 world position of every pixel in metres; computed in float64."""
        depth = self._source.depth64(camera)
        view = self._source.fitted(self._source.camera(camera), *depth.shape)
        return depth_to_points(depth, view.intrinsics, view.extrinsics).astype(np.float32)

    def _field(self, name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._low_dim.field(name)[self.index]
        return values


@dataclass(frozen=True, eq=False)
class _Source:
    """Reads what a frame shows."""

    index: int
    low_dim: LowDim
    files: ImageFiles

    def rgb(self, camera: str) -> NDArray[np.uint8]:
        return self.files.read(camera, "rgb", self.index)

    def mask(self, camera: str) -> NDArray[np.int64]:
        return rgb_to_mask(self.files.read(camera, "mask", self.index))

    def depth64(self, camera: str) -> NDArray[np.float64]:
        stored = self.camera(camera)
        return code_to_depth(rgb_to_code(self.files.read(camera, "depth", self.index)), stored.near, stored.far)

    def depth32(self, camera: str) -> NDArray[np.float32]:
        return self.depth64(camera).astype(np.float32)

    def camera(self, name: str) -> Camera:
        return self.low_dim.camera(name, self.index)

    def fitted(self, camera: Camera, height: int, width: int) -> Camera:
        try:
            return camera.for_image(height, width)
        except ConfigError as error:
            raise DataError(f"{self.low_dim.path}: field misc of frame {self.index}: {error}") from error

    def intrinsics(self, camera: str) -> NDArray[np.float64]:
        return self.camera(camera).intrinsics

    def extrinsics(self, camera: str) -> NDArray[np.float64]:
        return self.camera(camera).extrinsics

    def cameras(self) -> tuple[str, ...]:
        return tuple(self.low_dim.tracks)

    def having(self, kind: ImageKind) -> tuple[str, ...]:
        return tuple(name for name in self.files.kinds if self.index in self.files.frames(name, kind))
