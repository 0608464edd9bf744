"""Preprocessing of camera frames, bit for bit as the released code."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mnprobe.core.errors import ConfigError, DataError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "crop_images", "preprocess", "resize_bilinear"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB; ViCLIP takes these and not CLIP's
IMAGENET_STD = (0.229, 0.224, 0.225)

_BITS = 11  # fixed-point weights of OpenCV: 2048 stands for 1


def preprocess(
    frames: UInt8[Tensor, "*batch h w 3"] | UInt8[np.ndarray, "*batch h w 3"],
    *,
    size: int = 224,
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    channels: Literal["rgb", "bgr"] = "rgb",
    device: str | torch.device | None = None,
) -> Float[Tensor, "*batch 3 size size"]:
    """Resize to `size` x `size` (bilinear on uint8, aspect ratio not kept), scale to 0..1, normalise by ImageNet.

    Args:
        frames: uint8 images (..., H, W, 3), e.g. (T, H, W, 3) for a clip or (B, T, H, W, 3) for a batch.
        size: `ViCLIPConfig.image_size`.
        crop: `ViCLIPConfig.crop`; applied first, at whole pixels.
        channels: order of the colours in `frames`. RLBench and this package's reader give "rgb"; OpenCV reads "bgr".
        device: target device; by default that of the frames.
    Returns: float32 (..., 3, size, size), e.g. (T, 3, size, size).
    Raises:
        DataError: if the frames are not uint8 images with three channels.
        ConfigError: for an unknown channel order.

    >>> preprocess(torch.zeros(8, 128, 128, 3, dtype=torch.uint8)).shape
    torch.Size([8, 3, 224, 224])
    """
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(
            np.require(frames, requirements=["C", "W"])
        )  # torch supports neither flipped nor read-only arrays
    images = frames.to(device)
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-1] != 3 or 0 in images.shape[-3:-1]:
        raise DataError(
            f"frames must be uint8 (0..255) of shape (..., H, W, 3), got {str(images.dtype).removeprefix('torch.')} of"
            f" shape {tuple(images.shape)}"
        )
    if channels not in ("rgb", "bgr"):
        raise ConfigError(f"channels must be 'rgb' or 'bgr', got {channels!r}")
    small = resize_bilinear(crop_images(images, crop), size)
    # All 256 values of a channel, computed in float64 and rounded once, as the released code does for each pixel.
    values = torch.arange(256, dtype=torch.float64) / 255
    tables = [((values - m) / s).float().to(small.device) for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    order = (0, 1, 2) if channels == "rgb" else (2, 1, 0)
    pixels = [small[..., channel].int().flatten() for channel in order]
    planes = [table.index_select(0, pixel) for table, pixel in zip(tables, pixels, strict=True)]
    return torch.stack([plane.view(small.shape[:-1]) for plane in planes], dim=-3)


def crop_images(
    images: UInt8[Tensor, "*batch h w c"], crop: tuple[float, float, float, float]
) -> UInt8[Tensor, "*batch hh ww c"]:
    """The part between top, left, bottom, right (shares of height and width), rounded to whole pixels, at least one.

    >>> crop_images(torch.zeros(8, 128, 128, 3, dtype=torch.uint8), (0.3, 0.0, 1.0, 1.0)).shape
    torch.Size([8, 90, 128, 3])
    """
    height, width = images.shape[-3:-1]
    top, left = round(crop[0] * height), round(crop[1] * width)
    bottom, right = max(round(crop[2] * height), top + 1), max(round(crop[3] * width), left + 1)
    return images[..., top:bottom, left:right, :]


def resize_bilinear(images: UInt8[Tensor, "*batch h w c"], size: int) -> UInt8[Tensor, "*batch size size c"]:
    """Bilinear resizing of uint8 images in fixed point, byte for byte as OpenCV's INTER_LINEAR (no antialias).

    Pixel centres are at half positions, weights are rounded to 1/2048. Columns are mixed first; the sum loses four
    bits, is mixed over rows with each product cut to 16 bits less, and the result is rounded from quarters.

    Raises: ConfigError if `size` is below 1.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size!r}")
    height, width = images.shape[-3:-1]
    if (height, width) == (size, size):
        return images
    left, right, a, b = _taps(width, size, images.device, clamp_weights=True)
    top, bottom, c, d = _taps(height, size, images.device, clamp_weights=False)
    wide = images.int()
    rows = wide[..., left, :] * a[:, None] + wide[..., right, :] * b[:, None]  # (..., H, size, C), up to 255 * 2048
    rows >>= 4
    upper = (rows[..., top, :, :] * c[:, None, None]) >> 16
    lower = (rows[..., bottom, :, :] * d[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).to(torch.uint8)


def _taps(
    source: int, target: int, device: torch.device, *, clamp_weights: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each target pixel: its two source pixels and their weights times 2048; past the border both are the edge."""
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    share = (position - first.astype(np.float32)).astype(np.float32)
    if clamp_weights:
        share[(first < 0) | (first >= source - 1)] = 0
    one = np.float32(1 << _BITS)
    weights = [np.rint((np.float32(1) - share) * one).astype(np.int32), np.rint(share * one).astype(np.int32)]
    pixels = [np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1)]
    first_px, second_px, w0, w1 = (torch.from_numpy(array).to(device) for array in (*pixels, *weights))
    return first_px, second_px, w0, w1
