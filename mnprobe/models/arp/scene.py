"""From an observation to rendered point clouds: joined, cropped, placed."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.pointcloud import cloud_bounds, from_cube, in_bounds, to_cube

__all__ = ["Scene", "place_scene"]


class Scene(NamedTuple):
    """Clouds of a batch in the cube frame; they differ in length because points outside are dropped."""

    points: list[Tensor]
    """For each sample (N_i, 3), unitless."""
    rgb: list[Tensor]
    """For each sample (N_i, 3), 0..1."""
    boxes: Float[Tensor, "b 6"]
    """Box in the world (metres) of each sample's cube."""

    def into_cube(self, world: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
        """World points, one per sample, in each sample's cube."""
        return torch.stack([to_cube(point, box) for point, box in zip(world, self.boxes, strict=True)])

    def into_world(self, cube: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
        """The inverse of `into_cube`."""
        return torch.stack([from_cube(point, box) for point, box in zip(cube, self.boxes, strict=True)])


def place_scene(points: Float[Tensor, "b n 3"], rgb: Float[Tensor, "b n 3"], config: ARPConfig) -> Scene:
    """Drop the points outside the workspace (order kept) and place the rest in the cube.

    Args:
        points: joined clouds of all cameras, world metres.
        rgb: their colours, 0..1.
        config: `bounds`, `drop_outside` and `place_with_mean` are used.

    An empty cloud is placed by the bounds. Source: specs/arp.md section 1.
    """
    clouds: list[Tensor] = []
    colours: list[Tensor] = []
    boxes: list[Tensor] = []
    bounds = points.new_tensor(config.bounds)
    for cloud, colour in zip(points, rgb, strict=True):
        keep = in_bounds(cloud, config.bounds) if config.drop_outside else cloud.isfinite().all(dim=-1)
        cloud = cloud[keep]
        box = cloud_bounds(cloud) if config.place_with_mean and len(cloud) else bounds
        clouds.append(to_cube(cloud, box))
        colours.append(colour[keep])
        boxes.append(box)
    return Scene(clouds, colours, torch.stack(boxes))
