"""Reading feature maps between pixels, by inverse distance: the rule of ARP (neither bilinear nor `grid_sample`).

Source: specs/arp.md, section 6.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["sample_map"]

_TINY = 1e-10  # added to distances in pixels


def sample_map(maps: Float[Tensor, "n c h w"], xy: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """Values of maps at positions between their pixels.

    The value is the mean of the four pixels at floor and ceiling of x and y, weighted by 1 / (distance + 1e-10). Where
    a coordinate is whole, pixels coincide and each still counts. Positions outside [0, w - 1] x [0, h - 1], and NaN,
    give 0. The gradient flows into the maps and not into the positions.

    Args:
        maps: one map per sample.
        xy: positions (x = column, y = row) in pixels of the map.

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
        index, weight = _corners(xy, height, width)
    flat = maps.flatten(2)
    positions = index.flatten(1)[:, None, :].expand(-1, flat.shape[1], -1)
    values = flat.gather(2, positions).unflatten(2, index.shape[1:])
    return (values * weight[:, None]).sum(dim=-1).transpose(1, 2)


def _corners(
    xy: Float[Tensor, "n p 2"], height: int, width: int
) -> tuple[Int[Tensor, "n p 4"], Float[Tensor, "n p 4"]]:
    """The four pixels of each position as flat indices (row * width + column), and their weights.

    Order: (x0, y0), (x0, y1), (x1, y0), (x1, y1). Outside the map all weights are 0, and the indices (of no influence
    then) are wrapped at the far side and cut at the near one, as the original does.
    """
    limit = torch.tensor([width, height], device=xy.device)
    inside = ((xy >= 0) & (xy <= limit - 1)).all(dim=-1, keepdim=True)
    xy = torch.nan_to_num(xy)
    ends = torch.stack([xy.floor(), xy.ceil()], dim=-1)  # (n, p, 2, 2): axis, then floor or ceiling
    offset = ends - xy[..., None]
    squares = offset[:, :, 0, :, None] ** 2 + offset[:, :, 1, None, :] ** 2
    weight = 1 / (squares.flatten(2).sqrt() + _TINY)
    weight = weight / weight.sum(dim=-1, keepdim=True) * inside
    whole = ends.clamp(0, 2**31).long() % limit[:, None]
    index = whole[:, :, 1, None, :] * width + whole[:, :, 0, :, None]
    return index.flatten(2), weight
