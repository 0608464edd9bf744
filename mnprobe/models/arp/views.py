"""Virtual cameras of ARP: three orthographic views of the cube frame.

All views look at the cube [-1, 1]^3, and an image side of `size` pixels covers it: one cube unit is `size / 2` pixels.
Positions are (x = column, y = row) in pixels. Source: ARP (arXiv 2410.03132) and RVT-2 (arXiv 2406.08545); the table of
axes is the one that the released renderer uses, measured (specs/arp.md, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["VIEWS", "View", "project"]


@dataclass(frozen=True, kw_only=True)
class View:
    """One orthographic camera whose axes lie along the axes of the cube frame.

    Axes are numbered x = 0, y = 1, z = 2. The signed coordinate `column_sign * p[column_axis]` grows with the column,
    `row_sign * p[row_axis]` with the row; the depth is `eye - p[depth_axis]` in cube units.
    """

    name: str
    column_axis: int
    column_sign: float
    row_axis: int
    row_sign: float
    depth_axis: int
    eye: float

    def __post_init__(self) -> None:
        axes = (self.column_axis, self.row_axis, self.depth_axis)
        if sorted(axes) != [0, 1, 2]:
            raise ConfigError(f"view {self.name!r} must use each of the axes 0, 1, 2 once, got {axes}")
        if abs(self.column_sign) != 1 or abs(self.row_sign) != 1:
            signs = (self.column_sign, self.row_sign)
            raise ConfigError(f"view {self.name!r} needs signs of +1 or -1, got {signs}")


VIEWS = (
    View(name="top", column_axis=0, column_sign=1.0, row_axis=1, row_sign=-1.0, depth_axis=2, eye=1.0),
    View(name="left", column_axis=1, column_sign=1.0, row_axis=2, row_sign=-1.0, depth_axis=0, eye=1.0),
    # The renderer of the released models puts this eye at 0.5, not at 1: all that lies nearer counts as depth 0.
    View(name="front", column_axis=0, column_sign=-1.0, row_axis=2, row_sign=-1.0, depth_axis=1, eye=0.5),
)
"""The three views of the released models, in their order (the names are those of the ARP configuration)."""


def project(points: Float[Tensor, "b n 3"], size: int, views: Sequence[View] = VIEWS) -> Float[Tensor, "b n v 2"]:
    """Image positions of points in every view, as labels and decoding use them.

    The position is `f * a + f - 1 / size` with `f = size / 2` and `a` the signed coordinate of the view: the shift is
    1 / size of a *pixel* (not half a pixel), as in the original code. Gradients flow through.

    Args:
        points: positions in the cube frame (unitless; the cube is [-1, 1]^3).
        size: side of the square images in pixels.
        views: the cameras.

    Returns:
        Positions (x = column, y = row) in pixels; outside the cube they lie outside the image.

    Raises:
        ConfigError: if `size` is not positive.

    Example:
        >>> project(torch.zeros(1, 1, 3), size=4)[0, 0, 0]
        tensor([1.7500, 1.7500])

    Source: specs/arp.md, section 3.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    scale = size / 2
    columns = torch.stack([points[..., view.column_axis] * view.column_sign for view in views], dim=-1)
    rows = torch.stack([points[..., view.row_axis] * view.row_sign for view in views], dim=-1)
    return torch.stack([columns, rows], dim=-1) * scale + scale - 1 / size
