"""The training noise of one update: a pure function of seed and update, whichever processes share the batch."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.seeds import derived_seed
from mnprobe.models.arp import ARPConfig, SE3Draws, TrainNoise
from mnprobe.models.arp.augment import draw_colour_noise, draw_rotation_shift, draw_se3, draw_zoom_noise
from mnprobe.probe.joint.config import Augment

__all__ = ["draw_noise"]


def draw_noise(
    config: ARPConfig,
    *,
    rows: NDArray[np.int64],
    batch: int,
    points: int,
    augment: Augment,
    colour: bool,
    seed: int,
    update: int,
) -> TrainNoise:
    """Noise of the rows `rows` of a batch, on the CPU; each part has random numbers of its own.

    Leaving a part out does not change the others, and a process that has some rows gets the numbers that they would
    have had in one process with all of them.

    Args:
        config: the policy's: it sets the amounts.
        rows: (b,) which rows of the batch.
        batch: rows of the whole batch.
        points: points of one scene, all cameras together.
        augment: "se3" shifts and turns the scene, "shift" only shifts it, "none" leaves it.
        colour: whether colours are noisy.
        seed: of the training.
        update: number of the update, from 0.
    """

    def source(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(seed, update, "noise", name))

    se3 = None
    if augment != "none":
        se3 = draw_se3(batch, source("se3"))
        if augment == "shift":
            still = torch.zeros_like(se3.yaw)
            se3 = SE3Draws(trans=se3.trans, roll=still, pitch=still, yaw=still)
    wanted = torch.from_numpy(rows)

    def cut(values: Tensor) -> Tensor:
        return values[wanted]

    shifts, chances = config.rotation_shifts, config.rotation_shift_probabilities
    return TrainNoise(
        waypoint_noise_unit=cut(draw_zoom_noise(batch, source("zoom"))),
        rot_token_shift=cut(draw_rotation_shift(batch, source("rotation"), shifts, chances)),
        colour=cut(draw_colour_noise((batch, points, 3), source("colour"), config.colour_noise)) if colour else None,
        se3=None if se3 is None else SE3Draws(*(cut(part) for part in se3)),
    )
