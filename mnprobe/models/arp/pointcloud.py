"""Point clouds of ARP: joining cameras, cube frame, and the zoom of stage 2.

Lengths in the world are metres. The cube frame has its origin in the middle of the scene bounds, and half of their
longest side is its unit, so that the scene lies in [-1, 1]^3. Source: specs/arp.md, section 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = [
    "SCENE_BOUNDS",
    "ZOOM",
    "Bounds",
    "cloud_bounds",
    "flatten_cameras",
    "from_cube",
    "in_bounds",
    "place_with_mean",
    "to_cube",
    "unzoom",
    "zoom",
]

SCENE_BOUNDS = (-0.3, -0.5, 0.6, 0.7, 0.5, 1.6)
"""The scene of the released models in metres: least x, y, z, then greatest x, y, z."""

ZOOM = 4.0
"""How much stage 2 enlarges the surroundings of the point that stage 1 found."""

Bounds = Float[Tensor, "6"] | Sequence[float | int]
"""A box: least x, y, z, then greatest x, y, z."""


def flatten_cameras(
    clouds: Sequence[Float[Tensor, "b 3 _ _"]], rgbs: Sequence[UInt8[Tensor, "b 3 _ _"]]
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 3"]]:
    """Join the images of several cameras into one cloud, camera after camera, each row by row.

    The order of the points matters: where two points tie, the renderer draws the earlier one.

    Args:
        clouds: for each camera the world points of its pixels, in metres.
        rgbs: for each camera its colours, 0 to 255.

    Returns:
        Points (B, N, 3) and their colours (B, N, 3) scaled to 0..1, both float32.

    Raises:
        ConfigError: if there is no camera, or a camera's cloud and colours differ in size.

    Example:
        >>> points, rgb = flatten_cameras([torch.zeros(1, 3, 2, 2)], [torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)])
        >>> points.shape, rgb.unique().item()
        (torch.Size([1, 4, 3]), 1.0)
    """
    if not clouds or len(clouds) != len(rgbs):
        raise ConfigError(f"one cloud and one colour image per camera are needed, got {len(clouds)} and {len(rgbs)}")
    for number, (cloud, rgb) in enumerate(zip(clouds, rgbs, strict=True)):
        if cloud.shape != rgb.shape:
            raise ConfigError(f"camera {number}: points are {tuple(cloud.shape)} but colours {tuple(rgb.shape)}")
    points = torch.cat([_rows(cloud) for cloud in clouds], dim=1).float()
    colours = torch.cat([_rows(rgb) for rgb in rgbs], dim=1).float() / 255
    return points, colours


def in_bounds(points: Float[Tensor, "n 3"], bounds: Bounds) -> Bool[Tensor, " n"]:
    """True for the points inside the box or on its faces; False for NaN.

    Points outside are dropped, not clamped (`points[in_bounds(points, bounds)]`); the rest keeps its order.

    Example:
        >>> in_bounds(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.5], [torch.nan, 0.0, 1.0]]), SCENE_BOUNDS)
        tensor([ True, False, False])
    """
    low, high = _corners(bounds, points)
    return ((points >= low) & (points <= high)).all(dim=-1)


def to_cube(points: Float[Tensor, "*any 3"], bounds: Bounds) -> Float[Tensor, "*any 3"]:
    """World points (metres) in the cube frame of the box `bounds`.

    Example:
        >>> to_cube(torch.tensor([[0.2, 0.0, 1.6]]), SCENE_BOUNDS).round(decimals=4) + 0
        tensor([[0., 0., 1.]])
    """
    centre, scale = _placement(bounds, points)
    return (points - centre) * scale


def from_cube(points: Float[Tensor, "*any 3"], bounds: Bounds) -> Float[Tensor, "*any 3"]:
    """Points of the cube frame of the box `bounds` in the world (metres): the inverse of `to_cube`."""
    centre, scale = _placement(bounds, points)
    return points / scale + centre


def cloud_bounds(points: Float[Tensor, "n 3"]) -> Float[Tensor, "6"]:
    """The smallest box around a cloud.

    Raises:
        ConfigError: if the cloud is empty.
    """
    if len(points) == 0:
        raise ConfigError("an empty cloud has no extent; use the scene bounds instead")
    return torch.cat([points.amin(dim=0), points.amax(dim=0)])


def place_with_mean(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The cloud in the cube frame of its own extent, not of the scene bounds (an option; off in the released models).

    Equal to `to_cube(points, cloud_bounds(points))`, and `from_cube` with the same box leads back.
    """
    return to_cube(points, cloud_bounds(points))


def zoom(
    points: Float[Tensor, "*any 3"], centre: Float[Tensor, "#*any 3"], factor: float = ZOOM
) -> Float[Tensor, "*any 3"]:
    """The cube frame enlarged about `centre`, as stage 2 sees it: `factor * (points - centre)`. Nothing is cut off.

    Example:
        >>> zoom(torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[0.25, 0.0, 0.0]]))
        tensor([[1., 0., 0.]])
    """
    return factor * (points - centre)


def unzoom(
    points: Float[Tensor, "*any 3"], centre: Float[Tensor, "#*any 3"], factor: float = ZOOM
) -> Float[Tensor, "*any 3"]:
    """Points of the zoomed frame back in the cube frame: the inverse of `zoom`."""
    return points / factor + centre


def _rows(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H * W, 3)."""
    return image.flatten(2).transpose(1, 2)


def _corners(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest corner of the box, each (3,), on the device and in the type of `like`."""
    box = torch.as_tensor(bounds, dtype=like.dtype, device=like.device)
    if box.shape != (6,):
        raise ConfigError(f"bounds must be 6 numbers (least x y z, greatest x y z), got {tuple(box.shape)}")
    low, high = box[:3], box[3:]
    if not isinstance(bounds, Tensor) and not all(bounds[i] < bounds[i + 3] for i in range(3)):
        raise ConfigError(f"bounds must be least x y z, then greatest x y z, got {list(bounds)}")
    return low, high


def _placement(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (3,) of the box and the scale () that takes half of its longest side to 1 (a box without extent: 1)."""
    low, high = _corners(bounds, like)
    side = (high - low).amax()
    return (low + high) / 2, 2 / torch.where(side > 0, side, 2)
