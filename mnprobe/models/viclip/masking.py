"""Video token masking of ViCLIP's pretraining; inference never masks."""

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["draw_mask", "keep_tokens"]


def draw_mask(batch: int, tokens: int, probability: float, *, generator: Generator) -> Int64[Tensor, "batch kept"]:
    """Sample the kept patch tokens of each clip: int(probability * tokens) are dropped, uniformly in space and time.

    Args:
        batch: clips.
        tokens: patch tokens per clip, `ViCLIPConfig.tokens`; the class token is not counted and always kept.
        probability: share to drop, 0 <= probability < 1; 0.9 in stage 1 of the official pretraining.
        generator: source of the numbers, also decides the device.
    Returns: token numbers from 0, ascending, for `encode_video(..., kept=...)`.
    """
    if not 0 <= probability < 1:
        raise ConfigError(f"the masking probability must lie in [0, 1), got {probability!r}")
    kept = tokens - int(probability * tokens)
    order = torch.rand(batch, tokens, generator=generator, device=generator.device).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values


def keep_tokens(x: Float[Tensor, "b n d"], kept: Int64[Tensor, "b k"]) -> Float[Tensor, "b k1 d"]:
    """The class token (row 0) and the patch tokens `kept`, in the order given.

    Raises: ConfigError for token numbers outside of the clip.
    """
    if kept.numel() and (int(kept.min()) < 0 or int(kept.max()) >= x.shape[1] - 1):
        raise ConfigError(
            f"kept token numbers must lie in 0..{x.shape[1] - 2} (class token not counted), got {int(kept.min())}.."
            f"{int(kept.max())}"
        )
    rows = (kept + 1)[:, :, None].expand(-1, -1, x.shape[2])
    return torch.cat([x[:, :1], x.gather(1, rows)], dim=1)
