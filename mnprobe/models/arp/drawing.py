"""Views of a scene for both zoom stages: what does not depend on weights or language.

Training, extraction and playing draw through these functions. The views of stage one can be drawn once and shared by
all checkpoints of one configuration (`drawing_settings`), with and without an instruction.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.pointcloud import zoom
from mnprobe.models.arp.renderer import network_input
from mnprobe.models.arp.scene import Scene, place_scene

__all__ = ["Drawing", "draw_scene", "draw_zoomed", "drawing_settings"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """The scene of a batch of B observations and its views of stage one, (B, 3, 10, S, S)."""

    scene: Scene
    views: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the clouds and the views."""
        return self.views.nbytes + sum(cloud.nbytes for cloud in (*self.scene.points, *self.scene.rgb))


def drawing_settings(config: ARPConfig) -> dict[str, Any]:
    """Settings on which a `Drawing` depends, as JSON values: policies that agree in them may share it.

    >>> drawing_settings(ARPConfig.tiny())["image_size"] == ARPConfig.tiny().image_size
    True
    """
    names = ("point_stride", "drop_outside", "place_with_mean", "image_size", "render_radius")
    lists = {"cameras": list(config.cameras), "bounds": [float(number) for number in config.bounds]}
    return lists | {name: getattr(config, name) for name in names}


@torch.no_grad()
def draw_scene(points: Float[Tensor, "b n 3"], rgb: Float[Tensor, "b n 3"], config: ARPConfig) -> Drawing:
    """Place the joined clouds (world metres, colours 0..1) and draw the views of stage one."""
    scene = place_scene(points, rgb, config)
    views = network_input(scene.points, scene.rgb, size=config.image_size, radius=config.render_radius)
    return Drawing(scene=scene, views=views)


@torch.no_grad()
def draw_zoomed(scene: Scene, centre: Float[Tensor, "b 3"], config: ARPConfig) -> Float[Tensor, "b 3 10 s s"]:
    """Draw the views of stage two, zoomed in on a point of the cube for each sample."""
    clouds = [zoom(cloud, point, config.zoom) for cloud, point in zip(scene.points, centre, strict=True)]
    return network_input(clouds, scene.rgb, size=config.image_size, radius=config.render_radius)
