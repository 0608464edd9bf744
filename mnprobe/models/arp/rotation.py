"""Rotations of ARP: quaternions (x, y, z, w) to bins of Euler angles and back.

The angles are SciPy's extrinsic 'xyz' in degrees, so this part runs on the CPU whatever the device of the tensors.
Source: specs/arp.md, sections 2, 8 and 10.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["RESOLUTION", "bins_to_quat", "fix_gimbal", "fix_gimbal_quat", "positive_quat", "quat_to_bins"]

RESOLUTION = 5
"""Width of a bin in degrees in the released models: 72 bins per angle."""

_GIMBAL = 1.0  # degrees around +-90 in which the middle angle counts as locked


def quat_to_bins(quat: Float[Tensor, "*any 4"], resolution: int = RESOLUTION) -> Int[Tensor, "*any 3"]:
    """The bins of the three Euler angles: (angle + 180) / resolution, rounded half to even; the last bin is the first.

    Args:
        quat: quaternions (x, y, z, w), of any length but 0; q and -q are the same rotation.
        resolution: width of a bin in degrees; must divide 360.

    Returns:
        Integers from 0 to 360 / resolution - 1 on the device of `quat`.

    Raises:
        ConfigError: if `resolution` does not divide 360, or a quaternion has no direction (zero or not finite).

    Example:
        >>> quat_to_bins(torch.tensor([0.0, 0.0, 0.0, 1.0]))
        tensor([36, 36, 36])

    Source: specs/arp.md, section 8.
    """
    count = _bins(resolution)
    bins = np.around((_euler(_rotation(quat)) + 180) / resolution).astype(np.int64)
    bins[bins == count] = 0
    return torch.from_numpy(bins).to(quat.device).reshape(*quat.shape[:-1], 3)


def bins_to_quat(
    bins: Int[Tensor, "*any 3"], resolution: int = RESOLUTION, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*any 4"]:
    """The quaternions (x, y, z, w) of bins: the rotation by the angles bin * resolution - 180 degrees.

    Args:
        bins: one bin per Euler angle.
        resolution: width of a bin in degrees.
        dtype: of the result; the maths is float64.

    Returns:
        Unit quaternions; their sign carries no meaning.

    Raises:
        ConfigError: if `resolution` does not divide 360, or a bin lies outside 0 .. 360 / resolution - 1.

    Example:
        >>> bins_to_quat(torch.tensor([36, 36, 54]))  # 90 degrees about z
        tensor([0.0000, 0.0000, 0.7071, 0.7071])

    Source: specs/arp.md, section 10.
    """
    count = _bins(resolution)
    numbers = bins.detach().cpu().numpy().reshape(-1, 3)
    if ((numbers < 0) | (numbers >= count)).any():
        raise ConfigError(f"bins must lie in 0 .. {count - 1}, got {numbers.min()} .. {numbers.max()}")
    quat = Rotation.from_euler("xyz", numbers * float(resolution) - 180, degrees=True).as_quat()
    return torch.from_numpy(quat).to(bins.device, dtype).reshape(*bins.shape[:-1], 4)


def fix_gimbal(deg: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3"]:
    """Angles with a middle angle near +-90 degrees made definite: one rotation, one triple.

    Where the middle angle is within 1 degree of +90 or -90 it becomes exactly that, and the angles are recomputed from
    the rotation, with 0 as the third. All others are not changed.

    Args:
        deg: extrinsic 'xyz' Euler angles in degrees.

    Example:
        >>> fix_gimbal(torch.tensor([[10.0, 89.7, 40.0], [10.0, 45.0, 40.0]])).round(decimals=3)
        tensor([[-30.,  90.,   0.],
                [ 10.,  45.,  40.]])

    Source: specs/arp.md, section 2.
    """
    angles = deg.detach().cpu().double().numpy().reshape(-1, 3).copy()
    locked = _locked(angles)
    angles[locked] = _unlock(angles[locked])
    return torch.from_numpy(angles).to(deg).reshape(deg.shape)


def fix_gimbal_quat(quat: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """`fix_gimbal` for quaternions (x, y, z, w); those away from gimbal lock are returned bit for bit unchanged.

    Raises:
        ConfigError: if a quaternion has no direction (zero or not finite).
    """
    angles = _euler(_rotation(quat))
    locked = _locked(angles)
    result = quat.detach().clone().reshape(-1, 4)
    if locked.any():
        fixed = Rotation.from_euler("xyz", _unlock(angles[locked]), degrees=True).as_quat()
        result[torch.from_numpy(locked).to(quat.device)] = torch.from_numpy(fixed).to(result)
    return result.reshape(quat.shape)


def positive_quat(quat: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """The same rotations as unit quaternions (x, y, z, w) with w >= 0.

    Example:
        >>> positive_quat(torch.tensor([0.0, 0.0, 0.0, -2.0])) + 0
        tensor([0., 0., 0., 1.])
    """
    unit = quat / quat.norm(dim=-1, keepdim=True)
    return torch.where(unit[..., 3:] < 0, -unit, unit)


def _bins(resolution: int) -> int:
    if resolution < 1 or 360 % resolution:
        raise ConfigError(f"resolution must be a whole number of degrees that divides 360, got {resolution}")
    return 360 // resolution


def _rotation(quat: Tensor) -> Rotation:
    """The rotations of quaternions (any leading shape, flattened)."""
    numbers = quat.detach().cpu().double().numpy().reshape(-1, 4)
    length = np.linalg.norm(numbers, axis=1)
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if bad.size:
        raise ConfigError(f"quaternion {bad[0]} is {numbers[bad[0]].tolist()}: no rotation (expected x, y, z, w)")
    return Rotation.from_quat(numbers)


def _euler(rotation: Rotation) -> NDArray[np.float64]:
    """Extrinsic 'xyz' angles in degrees, (N, 3); in gimbal lock the third is 0, as intended."""
    return np.asarray(rotation.as_euler("xyz", degrees=True, suppress_warnings=True), dtype=np.float64)


def _locked(angles: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(np.abs(angles[:, 1]) - 90) <= _GIMBAL)


def _unlock(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles near gimbal lock with the middle one set to +-90, recomputed from the rotation."""
    angles = angles.copy()
    angles[:, 1] = np.copysign(90, angles[:, 1])
    return _euler(Rotation.from_euler("xyz", angles, degrees=True))
