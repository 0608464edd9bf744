"""Views of a scene for both zoom stages, which need no weights and no language.

Training, extraction and playing draw through these functions. The views of stage one can be drawn once and shared by
all checkpoints of one configuration (`drawing_settings`), with and without an instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.augment import noisy_zoom_centre
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.pointcloud import zoom
from mnprobe.models.arp.renderer import DRAWN_CHANNELS, network_input
from mnprobe.models.arp.scene import Scene, place_scene

__all__ = ["Drawing", "KeptViews", "draw_kept", "draw_scene", "draw_zoomed", "drawing_settings"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """The scene of a batch of B observations and its views of stage one, (B, 3, 10, S, S)."""

    scene: Scene
    views: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the clouds and the views."""
        return self.views.nbytes + sum(cloud.nbytes for cloud in (*self.scene.points, *self.scene.rgb))


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptViews:
    """Views of both stages for training, drawn beforehand, of a batch of B targets.

    Attributes:
        first: (B, 3, 7, S, S), stage one, without the three constant channels of `network_input`; any float type.
        second: the same of stage two, zoomed in on `centre`.
        waypoint: (B, 3) position of the target in the cube.
        centre: (B, 3) in the cube: the waypoint, shifted by noise.
    """

    first: Tensor
    second: Tensor
    waypoint: Tensor
    centre: Tensor

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.first, self.second, self.waypoint, self.centre)}
        if len(sizes) != 1:
            raise ConfigError(f"all parts of kept views must have one batch size, got {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.waypoint)

    def to(self, device: torch.device | str) -> "KeptViews":
        """The same views on another device."""
        return KeptViews(
            first=self.first.to(device),
            second=self.second.to(device),
            waypoint=self.waypoint.to(device),
            centre=self.centre.to(device),
        )


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
def draw_kept(
    points: Float[Tensor, "b n 3"],
    rgb: Float[Tensor, "b n 3"],
    position: Float[Tensor, "b 3"],
    units: Sequence[Float[Tensor, "b 3"]],
    config: ARPConfig,
) -> list[KeptViews]:
    """Draw the views of a training for target positions (world metres), one per draw of the zoom centre's noise.

    Args:
        points: joined clouds, world metres.
        rgb: their colours, 0..1.
        position: targets.
        units: draws in [-1, 1], as `TrainNoise.waypoint_noise_unit`.
        config: configuration of the policy.
    """
    drawing = draw_scene(points, rgb, config)
    waypoint = drawing.scene.into_cube(position)
    views = []
    for unit in units:
        centre = noisy_zoom_centre(waypoint, unit, config.waypoint_noise)
        second = draw_zoomed(drawing.scene, centre, config)[:, :, :DRAWN_CHANNELS]
        first = drawing.views[:, :, :DRAWN_CHANNELS]
        views.append(KeptViews(first=first, second=second, waypoint=waypoint, centre=centre))
    return views


@torch.no_grad()
def draw_zoomed(scene: Scene, centre: Float[Tensor, "b 3"], config: ARPConfig) -> Float[Tensor, "b 3 10 s s"]:
    """Draw the views of stage two, zoomed in on a point of the cube for each sample."""
    clouds = [zoom(cloud, point, config.zoom) for cloud, point in zip(scene.points, centre, strict=True)]
    return network_input(clouds, scene.rgb, size=config.image_size, radius=config.render_radius)
