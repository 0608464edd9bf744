"""Private helpers: features as tensors, normalized rows, devices, threads."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mnprobe.core.arrays import Array, as_array, check_finite
from mnprobe.core.errors import ConfigError, FeatureError

__all__: list[str] = []

TOLERANCE = 2e-6
"""Cosine similarities closer than this count as tied: some ten times the rounding error of a float32 product. Where the
rows of a side differ by less than 2 % of their length, what counts as tied is smaller in proportion (`unit_sides`)."""

_LARGEST = 1e37  # a float32 holds 3e38; differences and short sums of such numbers must fit too
_ORDINARY = (1e-6, 1e15)  # rows whose largest entry is in this range have exact squares in float32
_STEPS = 2e4  # rounding to float32 may change a number by 1 / this of its column's range
_SAME = 1e-13  # a float64 column that varies by less, relative to its size, is rounding
_NARROW = 0.02  # rows closer than this have cosines that float32 and TOLERANCE hardly distinguish
_ENOUGH = 200.0  # cosines must differ by at least this many times their rounding
_SAMPLE = 512


def as_rows(values: Array, name: str) -> Tensor:
    """(n, d) with n, d >= 1, all finite, detached, where it is: float32 or float64, whole numbers in float64.

    FeatureError that names `name` otherwise.
    """
    tensor = as_floats(values, name)
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise FeatureError(
            f"{name} must be one row per item, shape (items, width), both at least 1; got shape {tuple(tensor.shape)}. "
            "Pool tokens to one vector per episode first, e.g. FeatureFile.layer(...).pooled('mean')."
        )
    check_finite_rows(tensor, name)
    return tensor.contiguous()


def as_floats(values: Array, name: str) -> Tensor:
    """Numbers of any type and shape as a detached tensor of float32 or float64."""
    if isinstance(values, Tensor) and values.device.type != "cpu" and not values.is_complex():
        tensor = values.detach()
    else:
        array = as_array(values, name)
        if array.dtype.kind != "f":
            array = array.astype("f8")
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor.double()
    return tensor.float()


def check_finite_rows(tensor: Tensor, name: str) -> None:
    """FeatureError with the count and the first row when rows (..., d) hold NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        check_finite(tensor.detach().double().reshape(-1, tensor.shape[-1]).cpu().numpy(), name)


def as_features(values: Array, name: str) -> Tensor:
    """Float32, contiguous, (n, d) with n, d >= 1, all finite; FeatureError that names `name` otherwise.

    Raises for what float32 cannot represent: numbers beyond 1e37, and columns whose differences would be lost, because
    they are small relative to a common offset (1e9 + x) or smaller than any float32.
    """
    exact = as_rows(values, name)
    columns = exact.abs().amax(0)
    largest = float(columns.max())
    if largest > _LARGEST:
        raise FeatureError(
            f"{name}: column {int(columns.argmax())} holds numbers up to {largest:.3g}, beyond what float32 can be "
            f"computed with ({_LARGEST:.0e}). Divide them by a constant first, such as {name} / abs({name}).max()"
        )
    features = exact.float()
    if exact.dtype == torch.float64:
        _check_float32(exact, features, columns, name)
    return features


def _check_float32(exact: Tensor, features: Tensor, columns: Tensor, name: str) -> None:
    span = exact.amax(0) - exact.amin(0)
    moved = (features.double() - exact).abs().amax(0)
    lost = (span > _SAME * columns) & (moved * _STEPS > span)
    if not bool(features.any()):
        lost |= columns > 0
    if not bool(lost.any()):
        return
    first = int(torch.nonzero(lost)[0])
    low, high = float(exact[:, first].min()), float(exact[:, first].max())
    small = max(abs(low), abs(high)) < 1e-35
    way = (
        f"Multiply them by a constant first, such as {name} / abs({name}).max(0)"
        if small
        else f"Subtract the column means first, in float64: {name} - {name}.mean(0)"
    )
    raise FeatureError(
        f"{name}: float32, in which heads are fitted, cannot hold what tells the rows of {int(lost.sum())} of "
        f"{len(lost)} columns apart; the first is column {first}, from {low:.12g} to {high:.12g}. {way} (or convert "
        "to float32 yourself, where this loss does not matter)"
    )


def row_factors(rows: Tensor) -> Tensor:
    """(n, 1): powers of two that scale the largest entry of each row to about 1; 1 for ordinary rows and zeros.

    Multiplied by them, rows have squares that neither overflow nor vanish, and directions to the last bit.
    """
    size = rows.detach().abs().amax(-1, keepdim=True)
    ordinary = ((size >= _ORDINARY[0]) & (size <= _ORDINARY[1])) | (size == 0)
    bits, bias, mantissa = (torch.int32, 127, 23) if rows.dtype == torch.float32 else (torch.int64, 1023, 52)
    exponent = torch.frexp(size).exponent.to(bits).clamp(1 - bias, bias - 1)
    powers = ((bias - exponent) << mantissa).view(rows.dtype)  # 2^-exponent, from its bits: exp2 may round
    return torch.where(ordinary, 1.0, powers)


def unit_rows(rows: Tensor, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n d"]:
    """Rows over their lengths; a row of zeros stays zero, so that its cosine with everything is 0."""
    return functional.normalize((rows * row_factors(rows)).to(dtype), dim=1)


def unit_sides(
    z_u: Array, z_e: Array, names: tuple[str, str], tolerance: float
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"], float]:
    """Both sides' unit rows, and the difference of cosines that counts as a tie.

    In float32, with the tolerance as given. Where the rows of a side all but share one direction (most lie within 2 %
    of their length of it, as with 1000 + x), float32 loses what tells them apart: then in float64, and the default
    tolerance shrinks to some times the rounding of the cosines. Rows that are equal up to the rounding of their own
    type are ties, as ever.

    Raises:
        FeatureError: widths differ, or the cosines differ by hardly more than rounding, though the rows do differ:
            which is nearest would be noise.
    """
    sides = [as_rows(values, name) for values, name in zip((z_u, z_e), names, strict=True)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise FeatureError(
            f"{names[0]} and {names[1]} must lie in one space: they have widths {sides[0].shape[1]} and "
            f"{sides[1].shape[1]}"
        )
    sides[1] = sides[1].to(sides[0].device)
    units = [unit_rows(side) for side in sides]
    if not any(_closeness(unit) < _NARROW for unit in units):
        return units[0], units[1], tolerance
    exact = [unit_rows(side, torch.float64) for side in sides]
    noise = _rounding(sides, exact, names)
    return exact[0], exact[1], min(tolerance, noise) if tolerance == TOLERANCE else tolerance


def _closeness(unit: Tensor) -> float:
    """The 90th percentile of the rows' distances from their mean direction, without rows of zeros."""
    unit = unit[unit.any(dim=1)]
    center = unit.sum(0)
    length = float(center.norm())
    if len(unit) < 2 or length < 0.8 * len(unit):
        return 2.0
    if unit.dtype == torch.float64:
        distances = (unit - center / length).norm(dim=1)
    else:
        distances = (2 - 2 * unit @ (center / length)).clamp_min(0).sqrt()
    return float(distances.kthvalue(math.ceil(0.9 * len(unit))).values)


def _rounding(sides: list[Tensor], units: list[Tensor], names: tuple[str, str]) -> float:
    """Rounding error of cosines; raises if the cosines of a side differ by hardly more."""
    apart = [_closeness(unit) for unit in units]
    few = [unit[unit.any(dim=1)][:: -(-len(unit) // _SAMPLE)] for unit in units]
    similar = few[0] @ few[1].T
    angles = (2 - 2 * similar.abs()).clamp_min(0).sqrt().flatten()
    angle = float(angles.kthvalue(math.ceil(0.9 * len(angles))).values) if len(angles) else 2.0
    moved, equal = 0.0, []
    for side, distance in zip(sides, apart, strict=True):
        # numbers made in float32 carry its rounding, in whichever type they come
        step = 2.0**-24 if bool((side.float().to(side.dtype) == side).all()) else 2.0**-53
        equal.append(distance <= 16 * step)
        moved = max(moved, min(32 * step, 2 * step + 4 * distance) if equal[-1] else 2 * step)
    noise = moved * angle + 2e-15
    for axis, name in enumerate(names):
        if equal[axis] or apart[axis] >= _NARROW:
            continue
        spread = float((similar.amax(axis) - similar.amin(axis)).median())
        if spread < _ENOUGH * noise:
            raise FeatureError(
                f"the rows of {name} point in the same direction up to rounding: most lie within {apart[axis]:.1e} "
                f"of their length of each other, and their cosines differ by {spread:.1e} where rounding moves them by "
                f"{noise:.1e}. Subtract what all rows have in common first: {name} - {name}.mean(0)"
            )
    return noise


def as_device(device: str | torch.device) -> torch.device:
    """The requested device; ConfigError if this machine does not have it."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:<number>'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen
