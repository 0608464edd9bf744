"""Intervals from leaving out one instruction at a time; with few instructions they hold what they promise."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from mnprobe.analysis.statistics._studentised import block_sums
from mnprobe.core.errors import ConfigError
from mnprobe.probe._arrays import Labels, as_labels, encode
from mnprobe.probe.uncertainty import FEW_CLUSTERS, Interval

__all__ = ["cluster_jackknife", "cluster_jackknife_difference", "standard_error"]

_ROUNDING = 1e-12


def cluster_jackknife(
    values: NDArray[np.float64],
    clusters: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
    shares: bool = False,
    level: float = 0.95,
) -> Interval:
    """Interval of a mean from the standard error of leaving out one cluster at a time, with Student's t.

    m +- t(G - 1) se, se^2 = (G - 1)/G sum over clusters of (m without g - m)^2. With `shares` the same on the scale
    log(m / (1 - m)), where se becomes se / (m (1 - m)): the ends then stay inside 0 and 1, and the interval covers
    better near them (benchmarks/calibration.py, docs/statistics.md).

    Args:
        values: one number per item (n,), or several columns (n, m), NaN where an item has none; then the statistic is
            the mean over columns of the column means.
        clusters: the instruction of each item.
        weights: of each item in the column means; equal when not given.
        shares: values are hits from 0 to 1. Where all are 0 or all are 1 the open end is the exact binomial bound for
            one trial per cluster.
        level: coverage.

    Returns:
        As `cluster_bootstrap`: NaN ends with fewer than 2 clusters, a note with few.

    Source: Efron and Tibshirani 1993, chapter 11; MacKinnon, Nielsen and Webb 2023 (cluster jackknife, CV3).

    >>> found = cluster_jackknife(np.array([0.0, 1.0, 1.0, 0.0]), ["a", "a", "b", "b"])
    >>> found.low, found.high
    (0.5, 0.5)
    """
    sums, counts = _by_cluster(values, clusters, weights)
    signs = np.ones(sums.shape[1]) / sums.shape[1]
    return _interval(sums, counts, signs, shares, level)


def cluster_jackknife_difference(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    clusters: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
    level: float = 0.95,
) -> Interval:
    """The same for mean(one) - mean(other), paired: a cluster is left out of both at once.

    `one` and `other` have equal shapes, NaN where an item belongs to the other set.

    >>> found = cluster_jackknife_difference(np.array([1.0, 0.5, 0.7]), np.array([0.5, 0.0, 0.2]), ["a", "b", "c"])
    >>> round(found.low, 6), round(found.high, 6)
    (0.5, 0.5)
    """
    sums, counts, signs = _difference(one, other, clusters, weights)
    return _interval(sums, counts, signs, False, level)


def standard_error(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    clusters: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
) -> float:
    """The standard error behind `cluster_jackknife_difference`; NaN with fewer than 2 clusters.

    >>> round(standard_error(np.array([1.0, 0.0]), np.array([0.0, 0.0]), ["a", "b"]), 6)
    0.5
    """
    return _error(*_difference(one, other, clusters, weights))[1]


def _difference(
    one: NDArray[np.float64], other: NDArray[np.float64], clusters: Labels, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    columns = [values[:, None] if values.ndim == 1 else values for values in (one, other)]
    sums, counts = _by_cluster(np.concatenate(columns, axis=1), clusters, weights)
    width = columns[0].shape[1]
    return sums, counts, np.repeat([1.0, -1.0], width) / width


def _by_cluster(
    values: NDArray[np.float64], clusters: Labels, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    columns = values[:, None] if values.ndim == 1 else values
    weight = np.ones(len(columns)) if weights is None else weights
    (codes,), names = encode(as_labels(clusters, len(columns), "clusters"))
    present = ~np.isnan(columns)
    sums = np.stack(
        [
            block_sums(np.where(here, column, 0.0) * weight, codes, len(names))
            for column, here in zip(columns.T, present.T, strict=True)
        ],
        axis=1,
    )
    counts = np.stack([block_sums(here * weight, codes, len(names)) for here in present.T], axis=1)
    used = counts.any(axis=1)
    return sums[used], counts[used]


def _error(sums: NDArray[np.float64], counts: NDArray[np.float64], signs: NDArray[np.float64]) -> tuple[float, float]:
    """The statistic and its delete-one-cluster standard error."""
    clusters = len(sums)
    totals, mass = sums.sum(0), counts.sum(0)
    mean = float(np.divide(totals, mass, out=np.full_like(totals, np.nan), where=mass > 0) @ signs)
    if clusters < 2:
        return mean, math.nan
    rest = mass - counts
    able = (rest > _ROUNDING * mass).all(axis=1)  # a column that only this cluster has cannot be left without it
    if able.sum() < 2:
        return mean, math.nan
    without = ((totals - sums[able]) / rest[able]) @ signs
    return mean, float(np.sqrt((clusters - 1) / clusters * np.sum((without - mean) ** 2)))


def _interval(
    sums: NDArray[np.float64], counts: NDArray[np.float64], signs: NDArray[np.float64], shares: bool, level: float
) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"level must lie in (0, 1), got {level!r}")
    clusters = len(sums)
    mean, error = _error(sums, counts, signs)
    if clusters < 2 or math.isnan(error):
        plural = "is" if clusters == 1 else "are"
        note = f"no interval: it takes at least 2 instructions on both sides, there {plural} {clusters}"
        return Interval(math.nan, math.nan, clusters, note)
    reach = float(stdtrit(clusters - 1, (1 + level) / 2))
    note = f"only {clusters} instructions: the interval is not to be relied on" if clusters < FEW_CLUSTERS else ""
    if not shares:
        return Interval(mean - reach * error, mean + reach * error, clusters, note)
    if mean <= _ROUNDING or mean >= 1 - _ROUNDING:
        bound = ((1 - level) / 2) ** (1 / clusters)
        low, high = (0.0, 1 - bound) if mean < 0.5 else (bound, 1.0)
        return Interval(low, high, clusters, note)
    scaled = reach * error / (mean * (1 - mean))
    return Interval(float(expit(logit(mean) - scaled)), float(expit(logit(mean) + scaled)), clusters, note)
