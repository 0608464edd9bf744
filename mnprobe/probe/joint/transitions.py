"""What the policy is trained on: an episode's key-to-key steps, kept compactly, and batches of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import DataError
from mnprobe.data import Episode, Frame, rgb_to_code
from mnprobe.data.images import DEPTH_STEPS
from mnprobe.models.arp import Batch, Observation, Target
from mnprobe.probe.joint.arrays import Arrays

__all__ = ["batch_of_steps", "codes_to_points", "read_steps", "steps_key"]

_PIXELS_AT_ONCE = 2**16  # measured: four times as fast as a batch at once, which runs out of the caches


def steps_key(cameras: Sequence[str], point_stride: int) -> dict[str, Any]:
    """Everything but the dataset that the arrays of steps depend on."""
    return {"cameras": list(cameras), "point_stride": point_stride}


def read_steps(episode: Episode, row: int, cameras: Sequence[str], point_stride: int) -> dict[str, NDArray[Any]]:
    """All key-to-key steps of one episode, K rows: observed at the keyframe before, aimed at the next.

    `episode` (K,) int64 the given row; `pose` (K, 7), `gripper_open` (K,), `ignore_collisions` (K,), `state` (K, 3)
    float32; for camera c: `rgb_c` (K, 3, h, w) uint8, `depth_c` (K, h, w) int32 the 24-bit codes as stored on disk,
    from which points are exact; `intrinsics` (K, C, 3, 3) of the whole image, `extrinsics` (K, C, 4, 4), `range`
    (K, C, 2) near and far, float64. Of the images every `point_stride`-th row and column is kept, from the first on.
    """
    steps = episode.steps()
    if not steps:
        raise DataError(f"{episode.folder}: no keyframe, so there is no step to learn from; leave it out")
    frames = [episode.frame(step.observed) for step in steps]
    arrays: dict[str, NDArray[Any]] = {
        "episode": np.full(len(steps), row, dtype=np.int64),
        "pose": np.stack([step.gripper_pose for step in steps]).astype(np.float32),
        "gripper_open": np.array([step.gripper_open for step in steps], dtype=np.float32),
        "ignore_collisions": np.array([step.ignore_collisions for step in steps], dtype=np.float32),
        "state": np.stack([frame.state() for frame in frames]),
    }
    for number, camera in enumerate(cameras):
        arrays[f"rgb_{number}"] = _rgb(frames, camera, point_stride)
        arrays[f"depth_{number}"] = _codes(episode, frames, camera, point_stride)
    return arrays | _matrices(frames, cameras) if cameras else arrays


def batch_of_steps(
    arrays: Arrays,
    rows: NDArray[np.int64],
    cameras: Sequence[str],
    point_stride: int,
    language: Float[Tensor, "b l w"],
    device: torch.device | str = "cpu",
) -> Batch:
    """The steps `rows` of the arrays of `read_steps` as a batch on `device`, where the points are computed."""

    def take(name: str) -> Tensor:
        return torch.from_numpy(arrays[name][rows]).to(device, non_blocking=True)

    views = {name: take(name) for name in ("intrinsics", "extrinsics", "range")}
    return Batch(
        observation=Observation(
            point_cloud={
                camera: codes_to_points(
                    take(f"depth_{number}"), *(view[:, number] for view in views.values()), stride=point_stride
                )
                for number, camera in enumerate(cameras)
            },
            rgb={camera: take(f"rgb_{number}") for number, camera in enumerate(cameras)},
            language=language.to(device),
            state=take("state"),
        ),
        target=Target(
            pose=take("pose"),
            gripper_open=take("gripper_open"),
            ignore_collisions=take("ignore_collisions"),
        ),
    )


def codes_to_points(
    codes: Int32[Tensor, "b h w"],
    intrinsics: Float64[Tensor, "b 3 3"],
    extrinsics: Float64[Tensor, "b 4 4"],
    near_far: Float64[Tensor, "b 2"],
    *,
    stride: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """World points (float32, metres) of depth images given as 24-bit codes, as `data.Frame.points` gives them.

    Pixel (row i, column j) stands for the position (stride j, stride i) of the image that the intrinsics are for. With
    depth d and rotation R of the camera, the point is C + d R ((u - cx)/fx, (v - cy)/fy, 1): the bracket is a sum of
    one term per column and one per row, so that an image costs one sum and one product per coordinate. Computed in
    float64 and rounded once; a few images at a time, so that what lies between stays in the processor's cache.
    """
    height, width = codes.shape[-2:]
    near, span = near_far[:, 0, None, None], (near_far[:, 1] - near_far[:, 0])[:, None, None]
    u = torch.arange(0, stride * width, stride, dtype=torch.float64, device=codes.device)
    v = torch.arange(0, stride * height, stride, dtype=torch.float64, device=codes.device)
    x = (u - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]  # (b, w)
    y = (v - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]  # (b, h)
    rotation, centre = extrinsics[:, :3, :3], extrinsics[:, :3, 3, None, None]
    across = (rotation[:, :, 0, None] * x[:, None])[:, :, None, :]  # (b, 3, 1, w)
    down = (rotation[:, :, 1, None] * y[:, None] + rotation[:, :, 2, None])[..., None]  # (b, 3, h, 1)
    points = torch.empty(len(codes), 3, height, width, device=codes.device)
    pixels = _PIXELS_AT_ONCE if codes.device.type == "cpu" else len(codes) * height * width
    images = max(1, pixels // (height * width))
    for some in (slice(start, start + images) for start in range(0, len(codes), images)):
        depth = codes[some].double().div_(DEPTH_STEPS).mul_(span[some]).add_(near[some])
        points[some] = (across[some] + down[some]).mul_(depth[:, None]).add_(centre[some])
    return points


def _rgb(frames: Sequence[Frame], camera: str, stride: int) -> NDArray[np.uint8]:
    return np.stack([frame.rgb[camera][::stride, ::stride].transpose(2, 0, 1) for frame in frames])


def _codes(episode: Episode, frames: Sequence[Frame], camera: str, stride: int) -> NDArray[np.int32]:
    return np.stack(
        [
            rgb_to_code(episode.files.read(camera, "depth", frame.index)[::stride, ::stride]).astype(np.int32)
            for frame in frames
        ]
    )


def _matrices(frames: Sequence[Frame], cameras: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    views = [[frame.camera(camera) for camera in cameras] for frame in frames]
    return {
        "intrinsics": np.array([[view.intrinsics for view in seen] for seen in views]),
        "extrinsics": np.array([[view.extrinsics for view in seen] for seen in views]),
        "range": np.array([[(view.near, view.far) for view in seen] for seen in views]),
    }
