"""Sampling of feature maps between pixels by inverse distance.

Source: specs/arp.md, section 6.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["corners", "sample_at", "sample_map"]

_TINY = 1e-10  # added to distances in pixels
_FAR = 2.0**23  # pixels; float32 still counts whole ones here


def sample_map(maps: Float[Tensor, "n c h w"], xy: Float[Tensor, "#n p 2"]) -> Float[Tensor, "n p c"]:
    """Values of maps at positions between their pixels.

    The value is the mean of the four pixels at floor and ceiling of x and y, weighted by 1 / (distance + 1e-10). Where
    a coordinate is whole, pixels coincide and each still counts. Positions outside [0, w - 1] x [0, h - 1], and NaN,
    give 0. The gradient flows into the maps and not into the positions.

    Args:
        maps: one map per sample.
        xy: positions (x = column, y = row) in pixels of the map; one row of them serves all maps.

    Returns:
        The value of every channel at every position.

    Example:
        >>> ramp = torch.arange(3.0).expand(1, 1, 3, 3)  # grows with the column
        >>> sample_map(ramp, torch.tensor([[[1.0, 1.0], [0.5, 0.5], [2.5, 0.0]]])).flatten()
        tensor([1.0000, 0.5000, 0.0000])

    Source: specs/arp.md, section 6.
    """
    height, width = maps.shape[-2:]
    with torch.no_grad():
        index, weight = corners(xy, height, width)
    return sample_at(maps, index, weight)


def sample_at(
    maps: Float[Tensor, "n c h w"], index: Int[Tensor, "#n p 4"], weight: Float[Tensor, "#n p 4"]
) -> Float[Tensor, "n p c"]:
    """Values of maps at positions whose `corners` are known; see `sample_map`."""
    flat = maps.flatten(2)
    shape = (*flat.shape[:2], index.shape[1])
    value = torch.zeros((), dtype=maps.dtype, device=maps.device)
    for place, share in zip(index.unbind(-1), weight.unbind(-1), strict=True):
        value = value + flat.gather(2, place[:, None].expand(shape)) * share[:, None]
    return value.transpose(1, 2)


def corners(xy: Float[Tensor, "n p 2"], height: int, width: int) -> tuple[Int[Tensor, "n p 4"], Float[Tensor, "n p 4"]]:
    """The four pixels of each position as flat indices (row * width + column), and their weights.

    Order: (x0, y0), (x0, y1), (x1, y0), (x1, y1). Outside the map all weights are 0, and the indices (of no influence
    then) are wrapped at the far side and cut at the near one, as the original does.
    """
    x, y = xy.unbind(dim=-1)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = torch.where(inside[..., None], xy, torch.nan_to_num(xy).clamp(-_FAR, _FAR)).unbind(dim=-1)
    columns, rows = (x.floor(), x.ceil()), (y.floor(), y.ceil())
    corners = [(column, row) for column in columns for row in rows]
    near = [1 / (((column - x) ** 2 + (row - y) ** 2).sqrt() + _TINY) for column, row in corners]
    total = near[0] + near[1] + near[2] + near[3]
    weight = torch.stack([torch.where(inside, part / total, 0) for part in near], dim=-1)
    places = [row.clamp(min=0) % height * width + column.clamp(min=0) % width for column, row in corners]
    return torch.stack(places, dim=-1).long(), weight
