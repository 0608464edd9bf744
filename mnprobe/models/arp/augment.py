"""Training augmentation of ARP: scene shift and rotation, color and bin jitter.

Functions that change data take random numbers as arguments; the `draw_*` helpers make them from a generator, on the
generator's device. Source: specs/arp.md, section 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.pointcloud import Bounds
from mnprobe.models.arp.rotation import fix_gimbal_quat, positive_quat

__all__ = [
    "SHIFT_PROBABILITIES",
    "SHIFT_VALUES",
    "SE3Draws",
    "draw_colour_noise",
    "draw_rotation_shift",
    "draw_se3",
    "draw_zoom_noise",
    "noisy_zoom_centre",
    "se3_augment",
    "shift_bins",
]

SHIFT_VALUES = (-2, -1, 0, -1, -2)
"""Shifts of the rotation bins as the released configuration lists them: no positive one is among them.

The list reads like a slip for (-2, -1, 0, 1, 2), but the released models were trained with it: -2 and -1 have the
probabilities 0.2 and 0.4, 0 has 0.4. Pass (-2, -1, 0, 1, 2) to `draw_rotation_shift` for the symmetric noise.
"""

SHIFT_PROBABILITIES = (0.1, 0.2, 0.4, 0.2, 0.1)
"""Probability of each entry of `SHIFT_VALUES`."""


class SE3Draws(NamedTuple):
    """Uniform draws in [-1, 1] for `se3_augment`, one row per sample, in the order in which they are drawn."""

    trans: Float[Tensor, "b 3"]
    roll: Float[Tensor, "b 1"]
    pitch: Float[Tensor, "b 1"]
    yaw: Float[Tensor, "b 1"]


def se3_augment(
    points: Float[Tensor, "b n 3"],
    pose: Float[Tensor, "b 7"],
    *,
    trans: Float[Tensor, "b 3"],
    roll: Float[Tensor, "b 1"],
    pitch: Float[Tensor, "b 1"],
    yaw: Float[Tensor, "b 1"],
    bounds: Bounds,
    trans_range: Sequence[float] = (0.125, 0.125, 0.125),
    rotation_range: Sequence[float] = (0.0, 0.0, 45.0),
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b 7"]]:
    """Shifts the scene with its target, and turns it about the target.

    With R = Rx(roll) Ry(pitch) Rz(yaw), target position g and shift t: points p become R^T (p - g) + g + t, the
    position g + t, the rotation R^T R_g. So a positive yaw turns the scene clockwise. The shift is cut so that g + t
    stays inside the bounds. First, the angles of a target near gimbal lock are made unique (`fix_gimbal_quat`).

    Args:
        points: scenes in the world, in metres, before points outside the bounds are dropped. NaN stays NaN.
        pose: target gripper poses, position (metres) then quaternion (x, y, z, w).
        trans: draws in [-1, 1] for the shift along x, y, z.
        roll: draws in [-1, 1] for the turn about x.
        pitch: draws in [-1, 1] for the turn about y.
        yaw: draws in [-1, 1] for the turn about z.
        bounds: the scene.
        trans_range: greatest shift along each axis, as a share of the bounds' side.
        rotation_range: greatest roll, pitch and yaw in degrees.

    Returns:
        Points and poses after; quaternions of length 1 with w >= 0.

    Raises:
        ConfigError: if a range has not three numbers.

    Source: specs/arp.md, section 2.
    """
    if len(trans_range) != 3 or len(rotation_range) != 3:
        raise ConfigError(f"ranges need three numbers each, got {trans_range!r} and {rotation_range!r}")
    box = torch.as_tensor(bounds, dtype=points.dtype, device=points.device)
    low, high = box[:3], box[3:]
    position = pose[:, :3].to(points)
    share = torch.as_tensor(trans_range, dtype=points.dtype, device=points.device)
    shift = trans.to(points) * share * (high - low)
    moved = (position + shift).maximum(low).minimum(high)
    turn = _turn(torch.cat([roll, pitch, yaw], dim=1), rotation_range)
    matrix = torch.from_numpy(turn.as_matrix()).to(points)  # R^T, (B, 3, 3)
    turned = _apply(matrix, points - position[:, None]) + moved[:, None]
    return turned, torch.cat([moved, _turned_quat(turn, pose[:, 3:]).to(points)], dim=1)


def noisy_zoom_centre(
    waypoint: Float[Tensor, "b 3"], noise: Float[Tensor, "b 3"], amount: float = 0.05
) -> Float[Tensor, "b 3"]:
    """The centre that stage 2 zooms around in training: waypoint + 2 * amount * noise, in cube units.

    Args:
        waypoint: target positions in the cube frame.
        noise: draws in [-1, 1] (`draw_zoom_noise`).
        amount: the released setting; the original doubles it.
    """
    return waypoint + 2 * amount * noise


def shift_bins(bins: Int[Tensor, "*any"], shift: Int[Tensor, "*any"], count: int = 72) -> Int[Tensor, "*any"]:
    """Rotation bins moved by `shift`, round the circle of `count` bins. Inputs only: labels stay unshifted.

    Example:
        >>> shift_bins(torch.tensor([0, 71]), torch.tensor([-2, 1]))
        tensor([70,  0])
    """
    return (bins + shift) % count


def draw_se3(batch: int, generator: torch.Generator) -> SE3Draws:
    """Draws for `se3_augment`: first the shift, then roll, pitch and yaw.

    Example:
        >>> draws = draw_se3(2, torch.Generator().manual_seed(0))
        >>> scene = torch.zeros(2, 5, 3)
        >>> moved, pose = se3_augment(scene, torch.ones(2, 7), **draws._asdict(), bounds=[-2, -2, -2, 2, 2, 2])
        >>> moved.shape
        torch.Size([2, 5, 3])
    """
    return SE3Draws(*(_uniform((batch, width), generator) for width in (3, 1, 1, 1)))


def draw_colour_noise(
    shape: tuple[int, int, int], generator: torch.Generator, amount: float = 0.05
) -> Float[Tensor, "b n c"]:
    """Sample noise to add to colours (B, N, 3) in 0..1: per sample an amplitude in [0, amount], then uniform noise
    below it.

    Nothing is clipped, and both stages use the same noisy colours.

    Example:
        >>> noise = draw_colour_noise((2, 100, 3), torch.Generator().manual_seed(0))
        >>> bool(noise.abs().max() <= 0.05)
        True
    """
    amplitude = amount * torch.rand(shape[0], 1, 1, generator=generator, device=generator.device)
    return amplitude * _uniform(shape, generator)


def draw_zoom_noise(batch: int, generator: torch.Generator) -> Float[Tensor, "b 3"]:
    """Draws in [-1, 1] for `noisy_zoom_centre`."""
    return _uniform((batch, 3), generator)


def draw_rotation_shift(
    batch: int,
    generator: torch.Generator,
    values: Sequence[int] = SHIFT_VALUES,
    probabilities: Sequence[float] = SHIFT_PROBABILITIES,
) -> Int[Tensor, "b 3"]:
    """Sample independent shifts of the three rotation bins.

    Raises:
        ConfigError: if there are not as many probabilities as values, or they are not probabilities.

    Example:
        >>> sorted(set(draw_rotation_shift(100, torch.Generator().manual_seed(0)).flatten().tolist()))
        [-2, -1, 0]
    """
    if len(values) != len(probabilities) or not values:
        raise ConfigError(f"one probability per shift is needed, got {values!r} and {probabilities!r}")
    if min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
        raise ConfigError(f"probabilities must be at least 0 and add up to 1, got {probabilities!r}")
    weights = torch.tensor(probabilities, dtype=torch.float32, device=generator.device)
    chosen = torch.multinomial(weights, batch * 3, replacement=True, generator=generator)
    return torch.tensor(values, dtype=torch.int64, device=generator.device)[chosen].view(batch, 3)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [-1, 1] on the generator's device."""
    return 2 * torch.rand(shape, generator=generator, device=generator.device) - 1


def _turn(draws: Float[Tensor, "b 3"], rotation_range: Sequence[float]) -> Rotation:
    """R^T for draws of roll, pitch and yaw in [-1, 1]; capital letters mean Rx Ry Rz in SciPy."""
    degrees = draws.detach().cpu().double() * torch.tensor(rotation_range, dtype=torch.float64)
    return Rotation.from_euler("XYZ", degrees.numpy(), degrees=True).inv()


def _apply(matrix: Float[Tensor, "b 3 3"], points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
    """`matrix @ point` for every point, without matrix multiplication: reduced precision would move pixels."""
    x, y, z = points.unsqueeze(-1).unbind(dim=2)  # each (b, n, 1)
    of_x, of_y, of_z = matrix[:, None].unbind(dim=3)  # columns of the matrix, each (b, 1, 3)
    return of_x * x + of_y * y + of_z * z


def _turned_quat(turn: Rotation, quat: Float[Tensor, "b 4"]) -> Float[Tensor, "b 4"]:
    target = fix_gimbal_quat(quat).detach().cpu().double().numpy()
    product = torch.from_numpy((turn * Rotation.from_quat(target)).as_quat())
    return positive_quat(product).to(quat)
