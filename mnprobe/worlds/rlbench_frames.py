"""RLBench's live observations as frames; depth in metres."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.data import Camera, FrameData, depth_to_points

__all__ = ["depth_from_points", "frame_from"]

_AGREES = 1e-3  # m between RLBench's points and ours; the two routines differ by 1e-6 (specs/rlbench.md v)
_SHAPES: dict[str, tuple[int, ...]] = {
    "gripper_pose": (7,),
    "gripper_matrix": (4, 4),
    "gripper_joint_positions": (2,),
    "joint_positions": (7,),
    "joint_velocities": (7,),
    "gripper_open": (),
}


def depth_from_points(points: NDArray[Any], camera: Camera) -> NDArray[np.float64]:
    """Depth (H, W) along the optical axis, metres, of world points (H, W, 3) that `camera` saw.

    It is the third coordinate in the camera's frame, kept within near and far.

    Raises:
        WorldError: if these are not this camera's points: the depths give other points (by more than 1 mm), or lie
            outside near and far by more than that.
    """
    cloud = np.asarray(points, dtype=np.float64)
    if cloud.ndim != 3 or cloud.shape[2] != 3 or not np.isfinite(cloud).all():
        raise WorldError(f"camera {camera.name!r}: its point cloud must be finite (H, W, 3), got shape {cloud.shape}")
    rotation, centre = camera.extrinsics[:3, :3], camera.extrinsics[:3, 3]
    depth: NDArray[np.float64] = (cloud - centre) @ rotation[:, 2]
    off = float(np.abs(depth_to_points(depth, camera.intrinsics, camera.extrinsics) - cloud).max())
    if off > _AGREES:
        raise WorldError(
            f"camera {camera.name!r}: RLBench's point cloud and its matrices in misc disagree by {off:.4f} m, "
            "so no depth can be had from them; is this the PerAct fork? (docs/rlbench.md)"
        )
    if depth.min() < camera.near - _AGREES or depth.max() > camera.far + _AGREES:
        raise WorldError(
            f"camera {camera.name!r}: depths from {depth.min():.4f} to {depth.max():.4f} m in the point cloud, but "
            f"near and far in misc are {camera.near} and {camera.far} m"
        )
    return depth.clip(camera.near, camera.far)


def frame_from(observation: Any, cameras: Sequence[str], *, ignore_collisions: bool) -> FrameData:
    """Convert an RLBench Observation to a frame.

    Args:
        observation: of RLBench's `reset` or `step`, with `<camera>_rgb`, `<camera>_point_cloud` and matrices in misc.
        cameras: those to take.
        ignore_collisions: the flag of the key pose that led here (False at the start); RLBench's own attribute is
            stale at the start of an episode, so it is not read.

    Raises:
        WorldError: naming the field that is missing or has another shape than the fact sheet says.
    """
    numbers: dict[str, Any] = {name: _numbers(observation, name, shape) for name, shape in _SHAPES.items()}
    numbers["gripper_open"] = float(numbers["gripper_open"])
    numbers["task_low_dim_state"] = _task_state(observation)
    own = {name: _camera(observation, name) for name in cameras}
    return FrameData(
        **numbers,
        ignore_collisions=float(ignore_collisions),
        cameras=own,
        rgb={name: _rgb(observation, name) for name in cameras},
        depth={
            name: depth_from_points(_field(observation, f"{name}_point_cloud"), camera) for name, camera in own.items()
        },
    )


def _field(observation: Any, name: str) -> Any:
    value = getattr(observation, name, None)
    if value is None:
        raise WorldError(f"RLBench's observation has no {name}; mnprobe asked for it when it launched the simulator")
    return value


def _numbers(observation: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    value = np.array(_field(observation, name), dtype=np.float64)
    if value.shape != shape:
        raise WorldError(f"RLBench's observation: {name} must have shape {shape}, got {value.shape}")
    if not np.isfinite(value).all():
        kind = "NaN" if np.isnan(value).any() else "infinite"
        raise WorldError(
            f"RLBench's observation: {name} is {kind} ({np.array2string(value, precision=4, max_line_width=200)}), so "
            "the simulated arm is broken; PyRep makes joints NaN where a path has no length. Make a new world"
        )
    return value


def _task_state(observation: Any) -> NDArray[np.float64] | None:
    """(n,) poses of the task's objects; None where the observation has none, or they are no finite numbers."""
    value = getattr(observation, "task_low_dim_state", None)
    state = None if value is None else np.array(value, dtype=np.float64)
    return state if state is not None and state.ndim == 1 and np.isfinite(state).all() else None


def _rgb(observation: Any, camera: str) -> NDArray[np.uint8]:
    image = np.array(_field(observation, f"{camera}_rgb"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise WorldError(
            f"RLBench's observation: {camera}_rgb must be (H, W, 3) uint8, got {image.shape} {image.dtype}"
        )
    return image


def _camera(observation: Any, name: str) -> Camera:
    misc = _field(observation, "misc")
    keys = {part: f"{name}_camera_{part}" for part in ("intrinsics", "extrinsics", "near", "far")}
    missing = [key for key in keys.values() if key not in misc]
    if missing:
        raise WorldError(f"RLBench's observation: misc has no {', '.join(missing)}")
    try:
        return Camera(
            name=name,
            intrinsics=np.array(misc[keys["intrinsics"]], dtype=np.float64),
            extrinsics=np.array(misc[keys["extrinsics"]], dtype=np.float64),
            near=float(misc[keys["near"]]),
            far=float(misc[keys["far"]]),
        )
    except ConfigError as error:
        raise WorldError(f"RLBench's observation: misc: {error}") from error
