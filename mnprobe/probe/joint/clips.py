"""The clips that the video model is trained on: one per episode, kept as the bytes that normalisation starts from."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.data import Episode
from mnprobe.features.frames import FramesRule, read_clip
from mnprobe.models.viclip import ViCLIPConfig, crop_images, preprocess, resize_bilinear

__all__ = ["clip_key", "normalised_clips", "read_clip_bytes"]


def clip_key(config: ViCLIPConfig, camera: str, frames_rule: FramesRule) -> dict[str, Any]:
    """Everything but the dataset that the bytes of a clip depend on."""
    return {
        "camera": camera,
        "frames_rule": frames_rule,
        "frames": config.frames,
        "image_size": config.image_size,
        "crop": list(config.crop),
    }


def read_clip_bytes(
    episode: Episode, config: ViCLIPConfig, camera: str, frames_rule: FramesRule
) -> dict[str, NDArray[Any]]:
    """One episode's clip: `clips` (1, T, S, S, 3) uint8 RGB, cropped and resized as ViCLIP's preprocessing does it.

    What is left is the normalisation (`normalised_clips`), so that a training sees the numbers that the extractor
    computes, bit for bit, at a quarter of the bytes.
    """
    frames = torch.from_numpy(read_clip(episode, camera, config.frames, frames_rule).frames)
    return {"clips": resize_bilinear(crop_images(frames, config.crop), config.image_size).numpy()[None]}


def normalised_clips(
    frames: UInt8[np.ndarray, "b t size size 3"], device: torch.device | str = "cpu"
) -> Float[Tensor, "b t 3 size size"]:
    """Clips as the video encoder takes them, from the bytes that `read_clip_bytes` gives; computed on `device`."""
    return preprocess(frames, size=frames.shape[-2], device=device)
