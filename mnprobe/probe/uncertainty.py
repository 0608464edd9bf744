"""Jackknife intervals that leave out one instruction at a time."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from mnprobe.core.arrays import Array, Number, as_array, as_share, as_vector, as_weights, power_near_one
from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = [
    "FEW_CLUSTERS",
    "Interval",
    "cluster_jackknife",
    "cluster_jackknife_difference",
    "spread",
    "standard_error",
]

FEW_CLUSTERS = 8
"""With fewer clusters an interval is not reliable; it comes with a note."""

_ROUNDING = 1e-12
_SHARED = 1e4  # values this many times farther from 0 than from each other are centered before they are summed


class Interval(NamedTuple):
    """Lower and upper end (NaN when none can be given), how many clusters there were, and a note or ''."""

    low: float
    high: float
    n_clusters: int
    note: str


def cluster_jackknife(
    values: Array,
    clusters: Labels,
    *,
    weights: Array | None = None,
    shares: bool = False,
    level: Number = 0.95,
    unit: str = "instructions",
) -> Interval:
    """Interval of a mean from the standard error of leaving out one cluster at a time, with Student's t.

    m +- t(E - 1) se, se^2 = (G - 1)/G sum over the G clusters of (m without g - m)^2. E = (sum of weights)^2 / sum of
    squared weights is the effective number of equal clusters, E = G where all weigh the same; at least 1
    degree of freedom is left. With `shares` the same on the scale L = log(m / (1 - m)), where se becomes
    s = se / (m (1 - m)) and the middle L - s^2 (2 m - 1) / 2, because the log-odds of a mean are too extreme on
    average: the ends then stay inside 0 and 1, and coverage near them is better (benchmarks/calibration.py,
    docs/statistics.md).

    Args:
        values: one number per item (n,), or several columns (n, m), NaN where an item has none; then the statistic is
            the mean over columns of the column means (recall in both directions).
        clusters: the instruction of each item.
        weights: of each item in the column means, at least 0; equal when not given.
        shares: the mean is a share from 0 to 1. Where it is 0 or 1, nothing varies; the open end is then the exact
            binomial bound for one trial per cluster, so that 4 instructions without a miss do not claim 100 % to 100 %.
        level: coverage, 0.95 for 95 %.
        unit: what the clusters are, for the note.

    Returns:
        The interval. With fewer than 2 clusters its ends are NaN, with fewer than FEW_CLUSTERS it carries a warning.

    Raises:
        ConfigError: a level outside (0, 1).
        FeatureError: values, clusters and weights are not of one count, a value is infinite, a weight is negative or
            not a number, a cluster has no name, or `shares` are not from 0 to 1.

    Source: Efron and Tibshirani 1993, chapter 11; MacKinnon, Nielsen and Webb 2023 (cluster jackknife, CV3); Kish 1965
    (E); Clopper and Pearson 1934. The middle is the second-order Taylor expansion of log-odds.

    >>> found = cluster_jackknife(np.array([0.0, 1.0, 1.0, 0.0]), ["a", "a", "b", "b"])
    >>> found.low, found.high
    (0.5, 0.5)
    >>> [round(end, 2) for end in cluster_jackknife(np.ones(4), ["a", "b", "c", "d"], shares=True)[:2]]
    [0.4, 1.0]
    """
    level = as_share(level, "level")
    columns = _columns(values, "values")
    table = _by_cluster(columns, np.ones(columns.shape[1]) / columns.shape[1], clusters, weights)
    return _interval(table, shares, level, unit)


def cluster_jackknife_difference(
    one: Array,
    other: Array,
    clusters: Labels,
    *,
    weights: Array | None = None,
    shares: bool = False,
    level: Number = 0.95,
    unit: str = "instructions",
) -> Interval:
    """The same for mean(one) - mean(other), paired: a cluster is left out of both at once.

    `one` and `other` have equal shapes, NaN where an item belongs to the other set. With `shares` both means are shares
    from 0 to 1. The interval is the same, except where all clusters show one and the same difference d (both sides
    without a miss, mostly): then p, the binomial bound for clusters that may be otherwise, gives (1 - p) d +- p.

    >>> found = cluster_jackknife_difference(np.array([1.0, 0.5, 0.7]), np.array([0.5, 0.0, 0.2]), ["a", "b", "c"])
    >>> round(found.low, 6), round(found.high, 6)
    (0.5, 0.5)
    """
    level = as_share(level, "level")
    if shares:
        for values, name in ((one, "one"), (other, "other")):
            columns = _columns(values, name)
            if (columns < -_ROUNDING).any() or (columns > 1 + _ROUNDING).any():
                raise FeatureError(f"shares=True is for numbers from 0 to 1, but {name} holds others")
    interval = _interval(_difference(one, other, clusters, weights), False, level, unit)
    if not shares or not interval.high - interval.low <= _ROUNDING:
        return interval
    other_way = 1 - ((1 - level) / 2) ** (1 / interval.n_clusters)
    middle = (1 - other_way) * (interval.low + interval.high) / 2
    return interval._replace(low=max(-1.0, middle - other_way), high=min(1.0, middle + other_way))


def standard_error(
    one: Array,
    other: Array,
    clusters: Labels,
    *,
    weights: Array | None = None,
) -> float:
    """The standard error behind `cluster_jackknife_difference`; NaN with fewer than 2 clusters.

    >>> round(standard_error(np.array([1.0, 0.0]), np.array([0.0, 0.0]), ["a", "b"]), 6)
    0.5
    """
    table = _difference(one, other, clusters, weights)
    return _error(table)[1] * table.unit


class _Table(NamedTuple):
    """Weighted sums and weights of each cluster and column; the statistic is shift + unit * (means @ signs)."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    signs: NDArray[np.float64]
    shift: float
    unit: float


def _difference(one: Array, other: Array, clusters: Labels, weights: Array | None) -> _Table:
    columns = [_columns(one, "one"), _columns(other, "other")]
    if columns[0].shape != columns[1].shape:
        raise FeatureError(f"one and other must have equal shapes, got {np.shape(columns[0])} and {columns[1].shape}")
    width = columns[0].shape[1]
    return _by_cluster(np.concatenate(columns, axis=1), np.repeat([1.0, -1.0], width) / width, clusters, weights)


def _columns(values: Array, name: str) -> NDArray[np.float64]:
    """Values as float64 columns (n, m), NaN where there is none."""
    array = as_array(values, name).astype(np.float64)
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[1]):
        raise FeatureError(f"{name} must be one number per item, or several columns of them, got shape {array.shape}")
    columns = array[:, None] if array.ndim == 1 else array
    endless = np.flatnonzero(np.isinf(columns).any(axis=1))
    if len(endless):
        raise FeatureError(f"{name} holds infinite numbers in {len(endless)} rows, the first is row {endless[0]}")
    return columns


def _by_cluster(
    columns: NDArray[np.float64], signs: NDArray[np.float64], clusters: Labels, weights: Array | None
) -> _Table:
    weight = as_weights(weights, len(columns))
    (codes,), names = encode_labels(as_labels(clusters, len(columns), "clusters"))
    weight = weight * power_near_one(weight)
    present = ~np.isnan(columns)
    known = np.where(present, columns, 0.0)
    unit = power_near_one(known)
    known = known * unit
    shift = np.zeros(columns.shape[1])
    for column_index in range(len(shift)):
        own = known[present[:, column_index], column_index]
        largest, apart = np.abs(own).max(initial=0.0), np.ptp(own) if len(own) else 0.0
        if _ROUNDING * largest < apart < largest / _SHARED:
            shift[column_index] = own.min()
    known = np.where(present, known - shift, 0.0)
    sums = np.stack([np.bincount(codes, column * weight, len(names)) for column in known.T], axis=1)
    counts = np.stack([np.bincount(codes, here * weight, len(names)) for here in present.T], axis=1)
    used = counts.any(axis=1)
    return _Table(
        sums[used].astype(np.float64), counts[used].astype(np.float64), signs, float(shift @ signs) / unit, 1 / unit
    )


def _error(table: _Table) -> tuple[float, float]:
    """The statistic and its delete-one-cluster standard error, without shift and unit.

    NaN where a column would be left without any cluster.
    """
    sums, counts, signs = table.sums, table.counts, table.signs
    clusters = len(sums)
    totals, mass = sums.sum(0), counts.sum(0)
    mean = float(np.divide(totals, mass, out=np.full_like(totals, np.nan), where=mass > 0) @ signs)
    rest = mass - counts
    if clusters < 2 or not (rest > _ROUNDING * mass).all():
        return mean, math.nan
    without = ((totals - sums) / rest) @ signs
    return mean, float(np.sqrt((clusters - 1) / clusters * np.sum((without - mean) ** 2)))


def _interval(table: _Table, shares: bool, level: float, unit: str) -> Interval:
    counts = table.counts
    clusters = len(counts)
    mean, error = _error(table)
    mean, error = table.shift + table.unit * mean, table.unit * error
    if shares and not (math.isnan(mean) or -_ROUNDING <= mean <= 1 + _ROUNDING):
        raise FeatureError(f"shares=True is for numbers from 0 to 1, but their mean is {mean:.6g}")
    if math.isnan(error):
        least = int((counts > 0).sum(0).min()) if clusters else 0
        note = f"no interval: it takes at least 2 {unit}, there {'is' if least == 1 else 'are'} {least}"
        return Interval(math.nan, math.nan, clusters, note)
    note = f"only {clusters} {unit}: the interval is not to be relied on" if clusters < FEW_CLUSTERS else ""
    mass = (counts / counts.sum(0)) @ np.abs(table.signs)
    effective = float(mass.sum() ** 2 / (mass**2).sum())
    reach = float(stdtrit(max(effective - 1, 1.0), (1 + level) / 2)) * error
    if not shares:
        return Interval(mean - reach, mean + reach, clusters, note)
    if mean <= _ROUNDING or mean >= 1 - _ROUNDING:
        bound = ((1 - level) / 2) ** (1 / clusters)
        low, high = (0.0, 1 - bound) if mean < 0.5 else (bound, 1.0)
        return Interval(low, high, clusters, note)
    slope = 1 / (mean * (1 - mean))
    middle, scaled = logit(mean) - (error * slope) ** 2 * (2 * mean - 1) / 2, reach * slope
    return Interval(float(expit(middle - scaled)), float(expit(middle + scaled)), clusters, note)


def spread(values: Array) -> float:
    """Standard deviation of repeated measurements (n - 1 in the denominator); NaN for fewer than 2, or where one is.

    Raises FeatureError for what is no row of numbers, and for infinity.

    >>> spread(np.array([1.0, 3.0]))
    1.4142135623730951
    """
    numbers = as_vector(values, "values")
    if np.isinf(numbers).any():
        raise FeatureError(f"values hold infinite numbers, the first at {int(np.isinf(numbers).argmax())}")
    unit = power_near_one(numbers)
    return float(np.std(numbers * unit, ddof=1)) / unit if len(numbers) > 1 else float("nan")
