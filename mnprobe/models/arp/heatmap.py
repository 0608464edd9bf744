"""Target heatmaps of ARP: soft labels over pixels (specs/arp.md, 8)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["SIGMA", "label_heatmap"]

SIGMA = 1.5
"""Width of the label in pixels in the released models."""

_CUT = math.exp(-4.5)  # a Gaussian at three sigma
_TINY = 1e-6


def label_heatmap(xy: Float[Tensor, "m 2"], size: int, sigma: float = SIGMA) -> Float[Tensor, "m {size} {size}"]:
    """A Gaussian around each position, cut at three sigma and scaled to sum 1.

    The value at column i, row j is exp(-((i - x)^2 + (j - y)^2) / (2 sigma^2)), 0 below exp(-4.5), then divided by the
    sum plus 1e-6. A position more than three sigma outside the image gives a map of zeros, and so no loss.

    Args:
        xy: positions (x = column, y = row) in pixels, as `project` gives them.
        size: image side in pixels.
        sigma: width in pixels.

    Returns:
        One map (row, column) per position.

    Raises:
        ConfigError: if `size` or `sigma` is not positive.

    Example:
        >>> label_heatmap(torch.tensor([[1.0, 2.0]]), size=5, sigma=0.3)[0].nonzero().tolist()  # row, column
        [[2, 1]]

    Source: specs/arp.md, section 8.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    if not sigma > 0:
        raise ConfigError(f"sigma must be a positive number of pixels, got {sigma}")
    line = torch.arange(size, dtype=xy.dtype, device=xy.device)
    across = (line - xy[:, :1]) ** 2
    down = (line - xy[:, 1:]) ** 2
    height = torch.exp(-(across[:, None, :] + down[:, :, None]) / (2 * sigma**2))
    height = torch.where(height >= _CUT, height, 0)
    return height / (height.sum(dim=(1, 2), keepdim=True) + _TINY)
