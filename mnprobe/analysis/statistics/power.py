"""Power: detectable difference and the standard error of a proportion."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import chdtrc, nctdtr, stdtrit

from mnprobe.analysis.statistics._blocks import as_marks, block_sums, match_weights
from mnprobe.core.arrays import Array, as_number, as_vector, as_weights, power_near_one
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["detectable_difference", "detectable_of", "effective_blocks", "expected_error", "power_at"]

_ROUNDING = 1e-12
_FARTHEST = 9.0  # standard deviations: a normal variable exceeds them in 2e-19 of the cases


def detectable_difference(error: float, n_blocks: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The true difference that is found (two-sided p < level) with the given power, by its standard error.

    The difference d for which `power_at(d, error, n_blocks)` is `power`; close to
    (t(1 - level / 2) + t(power)) x error with G - 1 degrees of freedom. It assumes that the statistic divided by its
    error follows Student's t; benchmarks/calibration.py plants such differences and counts how often they are found.
    Where blocks weigh unequally, `n_blocks` is `effective_blocks`; it may be a fraction, such as 2.3. NaN with fewer
    than 2 blocks, and for an error of 0 (at most 1e-12): without variation, its size cannot be estimated.
    With fewer than 6 blocks no flip test can reach p < 0.05.

    >>> round(detectable_difference(0.1, 1000), 2)
    0.28
    """
    power, level = _check(power, level)
    error, n_blocks = _number(error, "error", missing=True), _number(n_blocks, "n_blocks")
    if n_blocks < 2 or not (math.isfinite(error) and error > _ROUNDING):
        return math.nan
    low, high = 0.0, 1.0
    while power_at(high, 1.0, n_blocks, level=level) < power:
        high *= 2
        if high > 1e4:
            return math.nan
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle, 1.0, n_blocks, level=level) < power else (low, middle)
    return high * error


def detectable_of(values: NDArray[np.float64], error: float, n_blocks: float) -> float:
    """`detectable_difference` with a rounding threshold relative to the size of the values."""
    largest = float(np.abs(values).max(initial=0.0))
    unit = 1.0 if largest == 0 or 1e-3 <= largest <= 1e6 else 2.0 ** math.frexp(largest)[1]
    return detectable_difference(error / unit, n_blocks) * unit


def effective_blocks(weights: Array) -> float:
    """How many equal blocks these unequal ones are worth: (sum of weights)^2 / sum of squared weights (Kish 1965).

    Raises FeatureError for weights that are negative or not finite.

    >>> effective_blocks(np.array([1.0, 1.0, 1.0])), effective_blocks(np.array([2.0, 1.0, 1.0])) < 3
    (3.0, True)
    """
    mass = as_vector(weights, "weights")
    if not mass.any():
        return 0.0
    mass = as_weights(mass, len(mass))
    mass = mass * power_near_one(mass)
    return float(mass.sum() ** 2 / np.sum(mass**2))


def power_at(difference: float, error: float, n_blocks: float, *, level: float = 0.05) -> float:
    """Chance that a true difference with this standard error gives p < level: the noncentral t with G - 1 degrees.

    >>> round(power_at(0.0, 0.1, 20), 3)
    0.05
    """
    _, level = _check(0.5, level)
    difference, n_blocks = _number(difference, "difference"), _number(n_blocks, "n_blocks")
    error = _number(error, "error", missing=True)
    if n_blocks < 2 or not error > 0:
        return math.nan
    bound = float(stdtrit(n_blocks - 1, 1 - level / 2))
    shift = abs(difference) / error
    if shift <= 37:
        power = float(1 - nctdtr(n_blocks - 1, shift, bound) + nctdtr(n_blocks - 1, shift, -bound))
        if math.isfinite(power):
            return power
    return 1 - _missed(shift, bound, n_blocks - 1)  # nctdtr gives NaN for many shifts above 7.5


def _missed(shift: float, bound: float, degrees: float) -> float:
    """Chance that |T| <= bound, T = (Z + shift) / S noncentral t: the mean over Z of P(S >= |Z + shift| / bound)."""
    if math.isinf(shift) or math.isinf(bound):
        return float(math.isinf(bound))

    def at(z: float) -> float:
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return density * float(chdtrc(degrees, degrees * ((z + shift) / bound) ** 2))

    width = 6 * bound / math.sqrt(2 * degrees)  # of the two steps that the integrand has
    edges = (-shift, *(end - shift + side for end in (-bound, bound) for side in (-width, 0.0, width)))
    points = sorted({z for z in edges if abs(z) < _FARTHEST})
    return float(quad(at, -_FARTHEST, _FARTHEST, points=points or None, limit=200, epsabs=1e-12)[0])


def expected_error(
    labels: Labels,
    blocks: Labels,
    *,
    rate: float,
    weights: Array | None = None,
    spread: float = 0.0,
) -> float:
    """Standard error of success minus failure before anything is measured, from the counts alone.

    Assumes hits of 0 or 1 with probability `rate`, independent given the instruction, and a true difference that
    varies between instructions with standard deviation `spread`:
    sqrt(rate (1 - rate) x sum of squared weights + spread^2 x sum of squared block weights), weights of each set adding
    up to 1. Scores averaged over both directions and several seeds vary less than this.

    >>> round(expected_error(np.array([True, False] * 50), np.repeat(range(50), 2), rate=0.5), 3)
    0.1
    """
    share_of_hits, deviation = as_number(rate), as_number(spread)
    if not (0 <= share_of_hits <= 1 and 0 <= deviation < math.inf):
        raise ConfigError(f"rate must lie in 0 to 1 and spread be >= 0, got {rate!r} and {spread!r}")
    rate, spread = share_of_hits, deviation
    marks = as_marks(labels)
    mass = match_weights(marks, blocks) if weights is None else as_weights(weights, len(marks))
    if not mass.any():
        return math.nan
    mass = mass * power_near_one(mass)
    if not mass[marks].any() or not mass[~marks].any():
        raise FeatureError("weights are 0 for all items of one label: there is nothing to compare")
    share = np.where(marks, mass / mass[marks].sum(), mass / mass[~marks].sum())
    (codes,), names = encode_labels(as_labels(blocks, len(marks), "blocks"))
    of_block = block_sums(np.where(marks, share, 0.0), codes, len(names))
    return float(np.sqrt(rate * (1 - rate) * np.sum(share**2) + spread**2 * np.sum(of_block**2)))


def _check(power: float, level: float) -> tuple[float, float]:
    found = as_number(power), as_number(level)
    if not all(0 < number < 1 for number in found):
        raise ConfigError(f"power and level must lie between 0 and 1, got {power!r} and {level!r}")
    return found


def _number(value: float, name: str, *, missing: bool = False) -> float:
    """A float; NaN, for what could not be measured, only where `missing`."""
    number = as_number(value)
    if math.isnan(number) and not (missing and isinstance(value, float)):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return number
