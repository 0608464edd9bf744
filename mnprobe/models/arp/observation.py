"""Inputs and targets of the policy: tensors, checked when created."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.config import CAMERAS

__all__ = ["Batch", "FrameArrays", "Observation", "Target", "observation_from_frames"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """Observation of a policy at one instant, for a batch of B scenes.

    Attributes:
        point_cloud: for each camera the world points of its pixels, (B, 3, H, W) float32, metres. NaN marks no point.
        rgb: for each camera its colours, (B, 3, H, W) uint8.
        language: token features of the instruction, (B, L, W) float32.
        state: (B, P) float32; in the released models gripper open (0/1) and the two finger positions (metres).
    Raises:
        ConfigError: inconsistent cameras or batch sizes.
    """

    point_cloud: Mapping[str, Tensor]
    rgb: Mapping[str, Tensor]
    language: Tensor
    state: Tensor

    def __post_init__(self) -> None:
        if not self.rgb or set(self.point_cloud) != set(self.rgb):
            raise ConfigError(
                "an observation needs points and colours of the same cameras, got points of "
                f"{sorted(self.point_cloud)} and colours of {sorted(self.rgb)}"
            )
        for name, image in (*self.point_cloud.items(), *self.rgb.items()):
            if image.ndim != 4 or image.shape[1] != 3:
                raise ConfigError(f"images of camera {name!r} must be (B, 3, H, W), got {tuple(image.shape)}")
        for name, rgb in self.rgb.items():
            if rgb.dtype != torch.uint8:
                raise ConfigError(f"colours of camera {name!r} must be uint8 from 0 to 255, got {rgb.dtype}")
        if self.language.ndim != 3 or self.state.ndim != 2:
            raise ConfigError(
                "an observation needs language (B, L, W) and state (B, P), "
                f"got {tuple(self.language.shape)} and {tuple(self.state.shape)}"
            )
        sizes = {len(x) for x in (*self.point_cloud.values(), *self.rgb.values(), self.language, self.state)}
        if len(sizes) != 1:
            raise ConfigError(f"all parts of an observation must have one batch size, got {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.state)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.state.device

    @property
    def nbytes(self) -> int:
        """Bytes of the images and points."""
        return sum(image.nbytes for image in (*self.point_cloud.values(), *self.rgb.values()))

    def to(self, device: torch.device | str) -> "Observation":
        """The same observation on another device."""
        return Observation(
            point_cloud={name: x.to(device) for name, x in self.point_cloud.items()},
            rgb={name: x.to(device) for name, x in self.rgb.items()},
            language=self.language.to(device),
            state=self.state.to(device),
        )

    def with_language(self, language: Float[Tensor, "b l w"]) -> "Observation":
        """The same scene with other language tokens."""
        return replace(self, language=language)

    @classmethod
    def join(cls, parts: Iterable["Observation"]) -> "Observation":
        """Concatenate batches; images of a camera must have one size.

        Raises:
            ConfigError: no parts, or parts with other cameras or sizes than the first.
        """
        found = list(parts)
        if not found:
            raise ConfigError("no observations to join")
        shapes = [{name: x.shape[1:] for name, x in (*o.rgb.items(), ("language", o.language))} for o in found]
        for i, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ConfigError(f"observation {i} has {shape}, the first has {shapes[0]}; they make no batch")
        return cls(
            point_cloud={name: torch.cat([o.point_cloud[name] for o in found]) for name in found[0].rgb},
            rgb={name: torch.cat([o.rgb[name] for o in found]) for name in found[0].rgb},
            language=torch.cat([o.language for o in found]),
            state=torch.cat([o.state for o in found]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The key pose to reach next, for a batch of B.

    Attributes:
        pose: (B, 7) float32, position (world metres) and quaternion (x, y, z, w).
        gripper_open: (B,), 1 open, 0 closed.
        ignore_collisions: (B,), 1 if the motion planner may ignore collisions.
    Raises:
        ConfigError: inconsistent shapes, or flags other than 0 and 1.
    """

    pose: Tensor
    gripper_open: Tensor
    ignore_collisions: Tensor

    def __post_init__(self) -> None:
        if self.pose.ndim != 2 or self.pose.shape[1] != 7:
            raise ConfigError(f"a target pose must be (B, 7), got {tuple(self.pose.shape)}")
        for name in ("gripper_open", "ignore_collisions"):
            flag: Tensor = getattr(self, name)
            if flag.shape != self.pose.shape[:1]:
                raise ConfigError(f"target {name} must be ({len(self.pose)},), got {tuple(flag.shape)}")
            if not bool(((flag == 0) | (flag == 1)).all()):
                raise ConfigError(f"target {name} must hold 0 and 1 only, got {flag.tolist()}")

    def __len__(self) -> int:
        return len(self.pose)

    def to(self, device: torch.device | str) -> "Target":
        """The same target on another device."""
        return replace(
            self,
            pose=self.pose.to(device),
            gripper_open=self.gripper_open.to(device),
            ignore_collisions=self.ignore_collisions.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Observations with their targets, for training."""

    observation: Observation
    target: Target

    def __post_init__(self) -> None:
        if len(self.observation) != len(self.target):
            raise ConfigError(f"{len(self.observation)} observations but {len(self.target)} targets")

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(observation=self.observation.to(device), target=self.target.to(device))


class FrameArrays(NamedTuple):
    """One frame as plain arrays, as a demonstration reader or a simulator gives them."""

    rgb: Mapping[str, NDArray[np.uint8]]
    """For each camera (H, W, 3)."""
    points: Mapping[str, NDArray[np.floating[Any]]]
    """For each camera the world points of its pixels, (H, W, 3), metres."""
    state: NDArray[np.floating[Any]]
    """(P,): gripper open, left finger, right finger."""


def observation_from_frames(
    frames: Sequence[FrameArrays],
    language: Float[Tensor, "b l w"],
    device: torch.device | str = "cpu",
    *,
    cameras: Sequence[str] = CAMERAS,
    stride: int = 1,
) -> Observation:
    """Stack frames into an observation, with the cameras in the model's order.

    Args:
        frames: one per sample; cameras beyond `cameras` are ignored.
        language: token features, one row per frame.
        device: target device.
        cameras: cameras of the policy (`config.cameras`).
        stride: subsampling of rows and columns of the images (`config.point_stride`).
    Raises:
        ConfigError: no frames, a missing camera, images of different size, or a different number of instructions.

    >>> image = {"front": np.zeros((4, 5, 3), np.uint8)}
    >>> frame = FrameArrays(image, {"front": np.zeros((4, 5, 3), np.float32)}, np.zeros(3, np.float32))
    >>> observation_from_frames([frame, frame], torch.zeros(2, 7, 24), cameras=["front"]).rgb["front"].shape
    torch.Size([2, 3, 4, 5])
    """
    if not frames:
        raise ConfigError("no frames to make an observation from")
    for i, frame in enumerate(frames):
        for camera in cameras:
            if camera not in frame.rgb or camera not in frame.points:
                raise ConfigError(
                    f"frame {i} has no {'colours' if camera not in frame.rgb else 'points'} of camera {camera!r}; the "
                    f"policy looks through {', '.join(cameras)}. Found: {', '.join(sorted(frame.rgb))}"
                )

    def thin(image: NDArray[Any]) -> NDArray[Any]:
        return image[::stride, ::stride]

    def stack(images: list[NDArray[Any]], what: str) -> Tensor:
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            raise ConfigError(f"{what} must have one size in a batch, got {sorted(sizes)}")
        return torch.from_numpy(np.stack(images))

    def channels_first(images: Tensor) -> Tensor:
        return images.to(device).permute(0, 3, 1, 2).contiguous()

    return Observation(
        point_cloud={
            camera: channels_first(
                stack([thin(frame.points[camera]) for frame in frames], f"points of {camera!r}").float()
            )
            for camera in cameras
        },
        rgb={
            camera: channels_first(stack([thin(frame.rgb[camera]) for frame in frames], f"colours of {camera!r}"))
            for camera in cameras
        },
        language=language.to(device),
        state=stack([frame.state for frame in frames], "states").float().to(device),
    )
