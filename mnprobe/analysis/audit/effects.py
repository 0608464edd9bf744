"""Differences with 95 % intervals: two intervals, paired, or over trainings."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.tables.alignment import t_interval
from mnprobe.core.arrays import Array, as_vector
from mnprobe.core.errors import TooFewSamples

__all__ = ["MARGIN", "Difference", "from_intervals", "from_pairs", "over_trainings"]

MARGIN = 0.05
"""A difference whose whole interval is nearer to none than this is called none."""

SEEDS = 3
"""Trainings that an interval over trainings needs: with two, Student's factor is 12.7."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`after` minus `before`, shares from 0 to 1, with an interval (NaN where there is none) and what it rests on.

    `n` says how many episodes or trainings in words; `basis` how the interval was made.
    """

    before: float
    after: float
    value: float
    low: float
    high: float
    n: str
    basis: str

    @property
    def verdict(self) -> str:
        """Whether it is a rise: 'yes', 'no', 'no, the reverse', or that it cannot be told."""
        if math.isnan(self.low) or math.isnan(self.high):
            return f"cannot be told from n = {self.n}"
        if self.low > 0:
            return "yes"
        if self.high < 0:
            return "no, the reverse"
        if self.low > -MARGIN and self.high < MARGIN:
            return "no"
        return f"cannot be told from n = {self.n}"


def from_intervals(
    before: tuple[float, float, float], after: tuple[float, float, float], *, n: str, basis: str = ""
) -> Difference:
    """From two values, each with its interval (value, low, high), taken as independent.

    Low: d - sqrt((b - b_low)^2 + (a_high - a)^2), high alike. Where both were measured on the same episodes, the
    interval is wider than it need be.

    Source: Zou & Donner 2008, Statistics in Medicine 27.

    >>> made = from_intervals((0.5, 0.4, 0.6), (0.9, 0.8, 1.0), n="40")
    >>> round(made.low, 3), round(made.high, 3), made.verdict
    (0.259, 0.541, 'yes')
    """
    (a, a_low, a_high), (b, b_low, b_high) = before, after
    return Difference(
        before=a,
        after=b,
        value=b - a,
        low=b - a - math.hypot(b - b_low, a_high - a),
        high=b - a + math.hypot(b_high - b, a - a_low),
        n=n,
        basis=basis or "from both intervals, not paired",
    )


def from_pairs(before: Array, after: Array, *, what: str = "episodes") -> Difference:
    """From outcomes (0 or 1, or shares) of the same episodes, row by row.

    The interval adds half an episode to each of the four ways a pair can end, so that it is sound for few episodes
    and where none differs.

    Source: Agresti & Min 2005, Statistics in Medicine 24 ("Simple improved confidence intervals for comparing matched
    proportions").

    >>> made = from_pairs([0, 0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 1, 1, 1])
    >>> round(made.value, 3), round(made.low, 3), round(made.high, 3)
    (0.5, 0.039, 0.761)
    """
    first, second = _paired(before, after)
    n = len(first)
    gaps = second - first
    centre = float(gaps.sum()) / (n + 2)
    variance = (float((gaps**2).sum()) + 1) / (n + 2) - centre**2
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance / (n + 2))
    return Difference(
        before=float(first.mean()),
        after=float(second.mean()),
        value=float(gaps.mean()),
        low=centre - half,
        high=centre + half,
        n=f"{n} {what}",
        basis=f"{n} {what}, paired",
    )


def over_trainings(before: Array, after: Array, sampling: Difference) -> Difference:
    """From one value before and one after of each training, paired by seed.

    All trainings meet the same test episodes, which spread over trainings does not tell: Student's interval over
    trainings is widened by `sampling`, the interval over test episodes, as the root of the sum of squares on each side.

    >>> one = from_intervals((0.2, 0.1, 0.3), (0.4, 0.3, 0.5), n="40")
    >>> made = over_trainings([0.1, 0.2, 0.3], [0.3, 0.4, 0.5], one)
    >>> round(made.low, 3), round(one.low, 3), round(made.value, 3)
    (0.059, 0.059, 0.2)
    """
    first, second = _paired(before, after)
    value = float((second - first).mean())
    low, high = t_interval((second - first).tolist())
    return Difference(
        before=float(first.mean()),
        after=float(second.mean()),
        value=value,
        low=value - math.hypot(value - low, sampling.value - sampling.low),
        high=value + math.hypot(high - value, sampling.high - sampling.value),
        n=f"{len(first)} trainings on {sampling.n}",
        basis=f"Student's t over {len(first)} trainings, widened by the interval over test episodes",
    )


def _paired(before: Array, after: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first = as_vector(before, "before")
    if not len(first):
        raise TooFewSamples("a difference of pairs needs at least one pair, got none")
    return first, as_vector(after, "after", len(first))
