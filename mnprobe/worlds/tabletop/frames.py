"""Frames of an episode with lazily rendered images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from mnprobe.data import Camera, FrameData
from mnprobe.worlds.tabletop.cameras import cameras_at
from mnprobe.worlds.tabletop.hand import pose_matrix
from mnprobe.worlds.tabletop.physics import Instant
from mnprobe.worlds.tabletop.rays import View

__all__ = ["Renderer", "Studio"]

T = TypeVar("T")


class Renderer(Protocol):
    """Draws a state of the simulation."""

    name: str

    def render(
        self,
        model: "mujoco.MjModel",
        data: "mujoco.MjData",
        camera: Camera,
        size: int,
        colours: NDArray[np.float32],
        *,
        mask: bool = True,
    ) -> View:
        """Render an image of `camera` of `size` x `size` pixels; `colours` (geoms, 3) in 0 .. 1."""

    def close(self) -> None:
        """Release its resources."""


class Studio:
    """Builds frames of one episode from stored states; has a separate simulator state, so that the episode can
    continue."""

    def __init__(
        self, model: "mujoco.MjModel", renderer: Renderer, *, size: int, cameras: Sequence[str], masks: bool
    ) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._renderer = renderer
        self._size = size
        self._cameras = tuple(cameras)
        self._masks = masks
        self._shown: Instant | None = None

    def frame(self, instant: Instant, cameras: Sequence[str] | None = None) -> FrameData:
        """The frame of a state; images of `cameras` only, where given."""
        qpos = instant.qpos
        pose = np.concatenate([qpos[:3], qpos[4:7] / np.linalg.norm(qpos[3:7]), qpos[3:4] / np.linalg.norm(qpos[3:7])])
        matrix = pose_matrix(pose[:3], pose[3:])
        views = cameras_at(self._cameras, self._size, matrix)
        names = self._cameras if cameras is None else tuple(name for name in self._cameras if name in cameras)
        shots = {name: _Shot(self, instant, views[name]) for name in names}
        return FrameData(
            gripper_pose=pose,
            gripper_open=float(instant.gripper_open),
            joint_velocities=instant.velocities,
            gripper_joint_positions=qpos[7:9].clip(0.0, 0.04),
            gripper_matrix=matrix,
            task_low_dim_state=qpos[9:],
            ignore_collisions=float(instant.ignore_collisions),
            cameras=views,
            rgb=_Lazy(shots, _Shot.rgb),
            depth=_Lazy(shots, _Shot.depth),
            mask=_Lazy(shots if self._masks else {}, _Shot.mask),
        )

    def draw(self, instant: Instant, camera: Camera, *, mask: bool = False) -> View:
        """Draw one camera's image of a state."""
        if self._shown is not instant:
            self._data.qpos[:] = instant.qpos
            mujoco.mj_kinematics(self._model, self._data)
            self._shown = instant
        return self._renderer.render(self._model, self._data, camera, self._size, instant.colours, mask=mask)


@dataclass(eq=False)
class _Shot:
    """One camera at one frame; rendered on first use, and again only if a later mask needs another pass."""

    studio: Studio
    instant: Instant
    camera: Camera
    made: View | None = None

    def rgb(self) -> NDArray[np.uint8]:
        return self._view().rgb

    def depth(self) -> NDArray[np.float64]:
        return self._view().depth

    def mask(self) -> NDArray[np.int64]:
        found = self._view().mask
        if found is None:
            self.made = self.studio.draw(self.instant, self.camera, mask=True)
            found = self.made.mask
        if found is None:
            raise ValueError("the renderer gave no mask")
        return found

    def _view(self) -> View:
        if self.made is None:
            self.made = self.studio.draw(self.instant, self.camera)
        return self.made


class _Lazy(Mapping[str, T], Generic[T]):
    """Camera -> image."""

    def __init__(self, shots: Mapping[str, _Shot], part: Callable[[_Shot], T]) -> None:
        self._shots = shots
        self._part = part

    def __getitem__(self, camera: str) -> T:
        return self._part(self._shots[camera])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shots)

    def __len__(self) -> int:
        return len(self._shots)

    def __contains__(self, camera: object) -> bool:
        return camera in self._shots
