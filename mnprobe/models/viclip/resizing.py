"""Resizing position embeddings and patch kernels by the official rules."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["inflate_patch", "resize_spatial", "resize_temporal", "resize_text"]


def resize_temporal(embedding: Float[Tensor, "1 f d"], instants: int) -> Float[Tensor, "1 g d"]:
    """Another number of temporal positions (`ViCLIPConfig.instants`, without a tubelet one for each frame).

    Linear in between for more, the first rows for fewer.
    """
    return resize_text(embedding[0], instants)[None]


def resize_text(embedding: Float[Tensor, "l d"], context: int) -> Float[Tensor, "m d"]:
    """Text positions for another number of ids: linear in between for more, the first rows for fewer."""
    if context < 1:
        raise ConfigError(f"cannot resize an embedding to {context!r} rows")
    if context <= len(embedding):
        return embedding[:context]
    return F.interpolate(embedding.T[None], size=context, mode="linear", align_corners=False)[0].T


def resize_spatial(embedding: Float[Tensor, "n d"], grid: int) -> Float[Tensor, "m d"]:
    """Spatial positions for `grid` x `grid` patches: row 0 (class token) kept, the others bicubic without antialias.

    Raises: ConfigError if the rows after the first form no square.
    """
    old = math.isqrt(len(embedding) - 1)
    if old * old != len(embedding) - 1 or grid < 1:
        raise ConfigError(f"cannot resize {len(embedding) - 1} spatial positions to a grid of {grid!r}")
    square = embedding[1:].T.reshape(1, -1, old, old)
    new = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:1], new[0].flatten(1).T])


def inflate_patch(
    kernel: Float[Tensor, "d c p p"], time: int, *, rule: Literal["center", "mean"] = "center"
) -> Float[Tensor, "d c time p p"]:
    """A patch kernel of an image model as one over `time` frames (`ViCLIPConfig.tubelet`), to start from image CLIP.

    "center" puts it into the middle step and zeros elsewhere; "mean" puts kernel / time everywhere.
    """
    if time < 1:
        raise ConfigError(f"time must be at least 1, got {time!r}")
    if rule == "mean":
        return (kernel / time)[:, :, None].repeat(1, 1, time, 1, 1)
    inflated = kernel.new_zeros(*kernel.shape[:2], time, *kernel.shape[2:])
    inflated[:, :, time // 2] = kernel
    return inflated
