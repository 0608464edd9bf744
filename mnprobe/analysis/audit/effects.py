"""Differences with 95 % intervals, and the rule from interval to conclusion."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, stdtrit

from mnprobe.analysis.statistics.power import detectable_difference, power_at
from mnprobe.analysis.tables.alignment import t_interval
from mnprobe.core.arrays import Array, as_number, as_positive, as_vector, as_whole
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.labels import is_missing

__all__ = [
    "DECISION_COLUMNS",
    "MARGIN",
    "Decision",
    "Difference",
    "decide",
    "decide_level",
    "decide_rows",
    "from_intervals",
    "from_pairs",
    "over_seeds",
    "over_trainings",
    "within_shares",
]

MARGIN = 0.05
"""A difference whose whole interval is at most this far from 0 is practically none. Both ends belong to the margin."""

SEEDS = 3
"""Trainings that an interval over trainings needs: with two, Student's factor is 12.7."""

Decision = Literal["more", "less", "none", "undecided"]

_MANY = 1e6  # degrees of freedom from which on Student's t is the normal distribution
_ROUNDING = 1e-9


def decide(low: float, high: float, margin: float = MARGIN) -> Decision:
    """Decide what a difference is from its interval alone: the one rule behind every conclusion in words.

    - "more" or "less": the interval excludes 0 (an end at 0 does not), however small the difference.
    - "none": it includes 0 and is within `margin`; an end exactly at the margin is within.
    - "undecided": neither, or there is no interval (NaN).

    Args:
        low, high: ends of the 95 % interval, simultaneous (Bonferroni) over the leading comparisons of one question.
        margin: what is practically none, above 0.

    Raises ConfigError for ends that are no numbers or in the wrong order, and for a margin that is not above 0.

    >>> decide(0.1, 0.3), decide(-0.3, -0.1), decide(-0.05, 0.02), decide(-0.1, 0.3)
    ('more', 'less', 'none', 'undecided')
    """
    low, high, margin = _end(low, "low"), _end(high, "high"), as_positive(margin, "margin")
    if low > high:
        raise ConfigError(f"the low end of an interval must not be above the high end, got {low!r} and {high!r}")
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if low > 0:
        return "more"
    if high < 0:
        return "less"
    return "none" if low >= -margin and high <= margin else "undecided"


def _end(value: float, name: str) -> float:
    number = as_number(value)
    if math.isnan(number) and not is_missing(value):
        raise ConfigError(f"{name} must be a number (NaN where there is no interval), got {value!r}")
    return number


def decide_level(low: float, high: float, reference: float) -> Decision:
    """`decide` for a score against a fixed number, such as exact chance; both apart by 1e-9 at most count as equal.

    >>> decide_level(0.2, 0.4, 0.1), decide_level(0.1 + 1e-12, 0.4, 0.1)
    ('more', 'undecided')
    """
    ends = (float(end) - float(reference) for end in (low, high))
    return decide(*(0.0 if abs(end) <= _ROUNDING else end for end in ends))


DECISION_COLUMNS = ("comparisons", "low", "high", "seen", "decision")


def decide_rows(
    rows: pd.DataFrame, *, low: str, high: str, question: Sequence[str], leading: "pd.Series[bool]"
) -> pd.DataFrame:
    """DECISION_COLUMNS for each row of controls.csv or success_contrast.csv, in its order and with its index.

    `comparisons`: measured rows of the same question that lead; `low`, `high`: the interval, simultaneous over them;
    `seen`: the difference that this interval would exclude 0 for in 80 of 100 cases (NaN where it is not known).

    Args:
        rows: with the columns difference, detectable and n_instructions.
        low, high: columns of the 95 % interval of one comparison.
        question: columns whose values make one question.
        leading: which rows the answer in words is made of.
    """
    measured = rows["difference"].notna() & rows[low].notna() & rows[high].notna()
    keys = [rows[name] for name in question]
    counts = (measured & leading).groupby(keys, sort=False, dropna=False).transform("sum").clip(lower=1).astype(int)
    found = []
    for (_, row), number in zip(rows.iterrows(), counts, strict=True):
        value, ends = float(row["difference"]), (float(row[low]), float(row[high]))
        degrees = _degrees(ends[1] - ends[0], float(row["detectable"]), float(row["n_instructions"]))
        wide = _linear(value, *ends, degrees, int(number))
        seen = float(row["detectable"]) * _times_detectable(degrees, int(number))
        found.append((int(number), *within_shares(*wide), seen, decide(*wide)))
    return pd.DataFrame(found, columns=list(DECISION_COLUMNS), index=rows.index)


def within_shares(low: float, high: float) -> tuple[float, float]:
    """An interval of a difference of shares, without what no difference can be; NaN stays.

    >>> within_shares(-0.546, 1.046)
    (-0.546, 1.0)
    """
    return float(np.clip(low, -1.0, 1.0)), float(np.clip(high, -1.0, 1.0))


def _quantile(degrees: float, comparisons: int) -> float:
    """Student's t for an interval of 95 %, simultaneous over so many comparisons."""
    return float(stdtrit(min(degrees, _MANY), 1 - 0.025 / comparisons))


def _factor(degrees: float, comparisons: int) -> float:
    return 1.0 if comparisons == 1 else _quantile(degrees, comparisons) / _quantile(degrees, 1)


def _times_detectable(degrees: float, comparisons: int) -> float:
    """How much larger than for one comparison a difference must be to be seen with 80 % power."""
    if comparisons == 1:
        return 1.0
    blocks = min(degrees, _MANY) + 1
    return detectable_difference(1.0, blocks, level=0.05 / comparisons) / detectable_difference(1.0, blocks)


def _linear(value: float, low: float, high: float, degrees: float, comparisons: int) -> tuple[float, float]:
    """Both ends moved away from `value`, by the ratio of the two quantiles of Student's t; at most from -1 to 1."""
    factor = _factor(degrees, comparisons)
    if factor == 1:
        return low, high
    return max(min(low, -1.0), value - factor * (value - low)), min(max(high, 1.0), value + factor * (high - value))


def _log_odds(share: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """The same for an interval of a share, on the scale of log-odds; linear and clipped for a share of 0 or 1."""
    value, low, high = share
    if factor == 1 or math.isnan(low) or math.isnan(high):
        return share
    if 0 < low <= value <= high < 1:
        middle, ends = logit(value), (logit(low), logit(high))
        low, high = (float(expit(middle + factor * (end - middle))) for end in ends)
        return value, low, high
    return (
        value,
        max(min(low, 0.0), value - factor * (value - low)),
        min(max(high, 1.0), value + factor * (high - value)),
    )


def _degrees(width: float, detectable: float, instructions: float) -> float:
    """Degrees of freedom behind an interval, from its width and what was detectable with the same standard error.

    Unequal instructions have fewer than their number less 1, which is taken where the two numbers do not say. At least
    2 where there are 4 instructions or more.
    """
    if not (math.isfinite(instructions) and instructions >= 2):
        return _MANY
    least, most = 2.0, instructions - 1
    if not (math.isfinite(width) and width > _ROUNDING and math.isfinite(detectable) and most > least):
        return most

    def surplus(degrees: float) -> float:
        return power_at(detectable, width / 2 / _quantile(degrees, 1), degrees + 1) - 0.8

    if surplus(least) <= 0:
        return least
    return most if not surplus(most) < 0 else float(brentq(surplus, least, most, xtol=1e-6))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`after` minus `before`, shares from 0 to 1, with an interval (NaN where there is none) and what it rests on.

    `n` says how many episodes or trainings in words; `basis` how the interval was made. `low` and `high` are
    simultaneous over so many `comparisons`. `degrees`: of freedom (Student's t). `known_seen`: `seen`, where a table
    has it. `seeds`: seeds that it is over, see `over_seeds`; 0 where it is about the trainings at hand. `within`: the
    interval of the only seed, over test episodes, which decides nothing.
    """

    before: float
    after: float
    value: float
    low: float
    high: float
    n: str
    basis: str
    degrees: float = math.inf
    comparisons: int = 1
    ends: Callable[[int], tuple[float, float]] | None = field(default=None, repr=False, compare=False)
    known_seen: float = field(default=math.nan, repr=False)
    seeds: int = 0
    within: tuple[float, float] = (math.nan, math.nan)

    def over(self, comparisons: int) -> "Difference":
        """The same difference with its interval simultaneous over so many comparisons (Bonferroni).

        >>> made = from_pairs([0, 0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 1, 1, 1])
        >>> made.decision, made.over(8).decision
        ('more', 'undecided')
        """
        comparisons = as_whole(comparisons, "comparisons")
        if comparisons < 1:
            raise ConfigError(f"comparisons must be at least 1, got {comparisons!r}")
        single = partial(_linear, self.value, self.low, self.high, self.degrees)
        ends = self.ends or single
        low, high = ends(comparisons)
        return replace(self, low=low, high=high, comparisons=comparisons, ends=ends)

    @property
    def decision(self) -> Decision:
        """By `decide`, from the interval."""
        return decide(self.low, self.high)

    @property
    def one_seed(self) -> bool:
        """Whether the question is about other seeds too, and only one was measured: there is no interval then."""
        return self.seeds == 1

    @property
    def shown(self) -> tuple[float, float]:
        """The interval to print: that which decides, or of one seed that within it; NaN where there is neither."""
        return within_shares(*(self.within if self.one_seed else (self.low, self.high)))

    @property
    def seen(self) -> float:
        """The difference whose interval would exclude 0 in 80 of 100 cases; NaN where there is no interval."""
        if math.isfinite(self.known_seen) or not self.high - self.low > _ROUNDING:
            return self.known_seen
        error = (self.high - self.low) / 2 / _quantile(self.degrees, self.comparisons)
        return detectable_difference(error, min(self.degrees, _MANY) + 1, level=0.05 / self.comparisons)


def from_intervals(
    before: tuple[float, float, float],
    after: tuple[float, float, float],
    *,
    n: str,
    basis: str = "",
    degrees: float = math.inf,
) -> Difference:
    """From two values, each with its interval (value, low, high), taken as independent.

    Low: d - sqrt((b - b_low)^2 + (a_high - a)^2), high alike. Where both were measured on the same episodes, the
    interval is wider than it need be. `degrees`: of freedom of both intervals (Student's t).

    Source: Zou & Donner 2008, Statistics in Medicine 27.

    >>> made = from_intervals((0.5, 0.4, 0.6), (0.9, 0.8, 1.0), n="40")
    >>> round(made.low, 3), round(made.high, 3), made.decision
    (0.259, 0.541, 'more')
    """

    def ends(comparisons: int) -> tuple[float, float]:
        factor = _factor(degrees, comparisons)
        (a, a_low, a_high), (b, b_low, b_high) = (_log_odds(share, factor) for share in (before, after))
        return b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)

    low, high = ends(1)
    return Difference(
        before=before[0],
        after=after[0],
        value=after[0] - before[0],
        low=low,
        high=high,
        n=n,
        basis=basis or "from both intervals, not paired",
        degrees=degrees,
        ends=ends,
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
    center = float(gaps.sum()) / (n + 2)
    variance = (float((gaps**2).sum()) + 1) / (n + 2) - center**2

    def ends(comparisons: int) -> tuple[float, float]:
        half = NormalDist().inv_cdf(1 - 0.025 / comparisons) * math.sqrt(variance / (n + 2))
        return center - half, center + half

    low, high = ends(1)
    return Difference(
        before=float(first.mean()),
        after=float(second.mean()),
        value=float(gaps.mean()),
        low=low,
        high=high,
        n=f"{n} {what}",
        basis=f"{n} {what}, paired",
        ends=ends,
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
    gaps = (second - first).tolist()

    def ends(comparisons: int) -> tuple[float, float]:
        low, high = t_interval(gaps, confidence=1 - 0.05 / comparisons)
        widened = sampling.over(comparisons)
        return (
            value - math.hypot(value - low, widened.value - widened.low),
            value + math.hypot(high - value, widened.high - widened.value),
        )

    low, high = ends(1)
    return Difference(
        before=float(first.mean()),
        after=float(second.mean()),
        value=value,
        low=low,
        high=high,
        n=f"{len(first)} trainings on {sampling.n}",
        basis=f"Student's t over {len(first)} trainings, widened by the interval over test episodes",
        degrees=_satterthwaite(gaps, sampling),
        ends=ends,
    )


def over_seeds(single: Sequence[Difference], *, what: str = "seeds") -> Difference:
    """From the difference that each seed gives, with its interval over test episodes: an interval for any seed.

    Seeds are the independent units: Student's t with one degree of freedom less than there are seeds, times the
    spread of the differences over the root of their number. That spread contains what differs by instruction from seed
    to seed, and the chance of single episodes. It is never taken for smaller than the error that the intervals over
    test episodes say it contains: a few differences can agree by chance. One seed has no interval: nothing says how far
    another would differ. Its interval over test episodes is kept in `within`.

    Args:
        single: one difference a seed, at least one.
        what: the name of the units in words.

    >>> ends = [(0.2 + gap, 0.18 + gap, 0.22 + gap) for gap in (0.0, 0.1, 0.2, 0.3)]
    >>> pairs = [from_intervals(ends[0], end, n="40 episodes") for end in ends[1:]]
    >>> made = over_seeds(pairs, what="seed pairs")
    >>> round(made.low, 3), round(made.high, 3), made.decision, made.n
    (-0.048, 0.448, 'undecided', '3 seed pairs on 40 episodes')
    >>> over_seeds(pairs[:1]).decision, over_seeds(pairs[:1]).one_seed
    ('undecided', True)
    """
    if not single:
        raise TooFewSamples("a difference over seeds needs at least one seed, got none")
    gaps = np.array([one.value for one in single])
    value, number = float(gaps.mean()), len(single)
    inside = np.array([(one.high - one.low) / 2 / _quantile(one.degrees, one.comparisons) for one in single])
    known = inside[np.isfinite(inside)]
    least = float(np.mean(known**2)) if len(known) else 0.0
    error = math.sqrt(max(float(gaps.var(ddof=1)), least) / number) if number > 1 else math.nan

    def ends(comparisons: int) -> tuple[float, float]:
        half = _quantile(number - 1, comparisons) * error if number > 1 else math.nan
        return value - half, value + half

    low, high = ends(1)
    first = single[0]
    return Difference(
        before=float(np.mean([one.before for one in single])),
        after=float(np.mean([one.after for one in single])),
        value=value,
        low=low,
        high=high,
        n=f"{number} {what if number > 1 else what.removesuffix('s')} on {first.n}",
        basis=f"Student's t over {number} {what}"
        if number > 1
        else f"the interval is within one {what.removesuffix('s')} and decides nothing: {first.basis}",
        degrees=max(number - 1, 1),
        ends=ends,
        seeds=number,
        within=(first.low, first.high) if number == 1 else (math.nan, math.nan),
    )


def _satterthwaite(gaps: list[float], sampling: Difference) -> float:
    """Degrees of freedom of the spread over trainings and that over test episodes together."""
    if len(gaps) < 2:
        return math.inf
    own = float(np.var(gaps, ddof=1)) / len(gaps)
    other = ((sampling.high - sampling.low) / 2 / _quantile(sampling.degrees, sampling.comparisons)) ** 2
    parts = own**2 / (len(gaps) - 1) + other**2 / sampling.degrees
    return (own + other) ** 2 / parts if parts > 0 else math.inf


def _paired(before: Array, after: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first = as_vector(before, "before")
    if not len(first):
        raise TooFewSamples("a difference of pairs needs at least one pair, got none")
    return first, as_vector(after, "after", len(first))
