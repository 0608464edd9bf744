"""Random numbers of ARP's training, sampled in advance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.augment import SE3Draws, draw_colour_noise, draw_rotation_shift, draw_se3, draw_zoom_noise
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.observation import Batch

__all__ = ["TrainNoise"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainNoise:
    """All random numbers of one training step; None disables the corresponding noise.

    Attributes:
        waypoint_noise_unit: (B, 3) in [-1, 1], shifts the zoom centre by twice `config.waypoint_noise` of it.
        rot_token_shift: (B, 3) int64, added (modulo the bins) to the rotation tokens that are fed in; labels stay.
        colour: (B, N, 3), added to the colours of all N points (cameras in order, before any is dropped), 0..1 scale.
        se3: draws in [-1, 1] for the shift and turn of the scene.
    Raises:
        ConfigError: parts of different batch size.
    Source: specs/arp.md section 2.
    """

    waypoint_noise_unit: Tensor | None = None
    rot_token_shift: Tensor | None = None
    colour: Tensor | None = None
    se3: SE3Draws | None = None

    def __post_init__(self) -> None:
        parts = (self.waypoint_noise_unit, self.rot_token_shift, self.colour, *(self.se3 or ()))
        sizes = {len(part) for part in parts if part is not None}
        if len(sizes) > 1:
            raise ConfigError(f"all parts of TrainNoise must have one batch size, got {sorted(sizes)}")

    @classmethod
    def draw(cls, generator: torch.Generator, batch: Batch, config: ARPConfig) -> "TrainNoise":
        """Draw everything for `batch`, as the released training does; equal generator states give equal noise.

        The order of draws is: scene shift and turn, colours, zoom centre, rotation tokens. They are made on the
        generator's device and moved to the batch's, so that a CPU generator gives the same noise everywhere.
        """
        size, device = len(batch), batch.observation.device
        points = sum(batch.observation.rgb[camera][0, 0].numel() for camera in config.cameras)
        se3 = SE3Draws(*(part.to(device) for part in draw_se3(size, generator)))
        colour = draw_colour_noise((size, points, 3), generator, config.colour_noise).to(device)
        waypoint = draw_zoom_noise(size, generator).to(device)
        shift = draw_rotation_shift(size, generator, config.rotation_shifts, config.rotation_shift_probabilities)
        return cls(waypoint_noise_unit=waypoint, rot_token_shift=shift.to(device), colour=colour, se3=se3)
