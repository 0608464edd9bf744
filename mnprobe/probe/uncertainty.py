"""Intervals by resampling whole instructions: episodes of one instruction are not independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from mnprobe.core.errors import ConfigError
from mnprobe.probe._arrays import Labels, as_labels, encode

__all__ = ["FEW_CLUSTERS", "Interval", "cluster_bootstrap", "cluster_difference", "spread"]

FEW_CLUSTERS = 8
"""With fewer clusters a bootstrap interval says little; it is given with a note."""


class Interval(NamedTuple):
    """Lower and upper end (NaN when none can be given), how many clusters there were, and a note or ''."""

    low: float
    high: float
    n_clusters: int
    note: str


def cluster_bootstrap(
    values: NDArray[np.float64],
    clusters: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
    hits: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Expanded percentile interval of a mean when whole clusters (instructions) are drawn with replacement.

    The plain percentile interval is too narrow with few clusters, so its quantiles are taken further out, as Student's
    t is wider than the normal: at Phi(sqrt(G / (G - 1)) t) with G clusters and t the quantile for G - 1 degrees of
    freedom. Measured on 640 alignments of unrelated features (12 or 30 instructions): 99 % of these intervals do not
    lie above chance (plain percentiles: 95 %), 91 % hold it (87 %); what misses lies below, where recall cannot vary.

    Args:
        values: one number per item, shape (n,); or several columns, shape (n, m), NaN where an item has no number in a
            column: then the statistic is the mean over columns of the column means (recall in both directions).
        clusters: the instruction of each item.
        weights: the weight of each item in the column means; equal when not given.
        hits: values are hits from 0 to 1. Where all are 0 or all are 1, no resampling can vary them; the open end is
            then the exact binomial bound for one trial per cluster, so that 4 instructions without a miss do not claim
            100 % to 100 %.
        level: coverage, 0.95 for 95 %.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The interval. With fewer than 2 clusters its ends are NaN, with fewer than FEW_CLUSTERS it carries a warning.

    Source: Hesterberg 2015 (The American Statistician 69(4)), section 5.3; Clopper and Pearson 1934.

    >>> cluster_bootstrap(np.array([0.0, 1.0, 1.0]), ["a", "a", "a"])[3]
    'no interval: it takes at least 2 instructions, there is 1'
    >>> [round(end, 2) for end in cluster_bootstrap(np.ones(4), ["a", "b", "c", "d"], hits=True)[:2]]
    [0.4, 1.0]
    """
    _check(level, resamples)
    sums, counts = _by_cluster(values, clusters, weights)
    return _interval(sums, counts, np.ones(sums.shape[1]) / sums.shape[1], hits, level, resamples, seed)


def cluster_difference(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    clusters: Labels,
    *,
    weights: NDArray[np.float64] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(one) - mean(other), paired: each resample draws the same clusters for both.

    `one` and `other` have equal shapes, as `values` of `cluster_bootstrap`, NaN where an item belongs to the other set.
    Source: DESIGN 6, uncertainty ("differences paired").

    >>> found = cluster_difference(np.array([1.0, 0.5, 0.7]), np.array([0.5, 0.0, 0.2]), ["a", "b", "c"])
    >>> round(found.low, 6), round(found.high, 6)
    (0.5, 0.5)
    """
    _check(level, resamples)
    columns = [values[:, None] if values.ndim == 1 else values for values in (one, other)]
    sums, counts = _by_cluster(np.concatenate(columns, axis=1), clusters, weights)
    width = columns[0].shape[1]
    signs = np.repeat([1.0, -1.0], width) / width
    return _interval(sums, counts, signs, False, level, resamples, seed)


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(f"level must lie in (0, 1) and resamples be >= 1, got {level!r} and {resamples!r}")


def _by_cluster(
    values: NDArray[np.float64], clusters: Labels, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted sums and weights of every column in every cluster that has any value, each (clusters, columns)."""
    columns = values[:, None] if values.ndim == 1 else values
    weight = np.ones(len(columns)) if weights is None else weights
    (codes,), names = encode(as_labels(clusters, len(columns), "clusters"))
    present = ~np.isnan(columns)
    sums = np.zeros((len(names), columns.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, codes, np.where(present, columns, 0.0) * weight[:, None])
    np.add.at(counts, codes, present * weight[:, None])
    used = counts.any(axis=1)
    return sums[used], counts[used]


def _interval(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    signs: NDArray[np.float64],
    hits: bool,
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    n_clusters = len(sums)
    if n_clusters < 2:
        plural = "is" if n_clusters == 1 else "are"
        note = f"no interval: it takes at least 2 instructions, there {plural} {n_clusters}"
        return Interval(float("nan"), float("nan"), n_clusters, note)
    drawn = np.random.default_rng(seed).integers(n_clusters, size=(resamples, n_clusters))
    times = np.zeros((resamples, n_clusters))
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1.0)
    totals, weights = times @ sums, times @ counts
    means = np.full_like(totals, np.nan)
    np.divide(totals, weights, out=means, where=weights > 0)
    statistic = means[~np.isnan(means).any(axis=1)] @ signs
    tail = float(ndtr(np.sqrt(n_clusters / (n_clusters - 1)) * stdtrit(n_clusters - 1, (1 - level) / 2)))
    low, high = (float(end) for end in np.quantile(statistic, [tail, 1 - tail]))
    if hits and low == high and low in (0.0, 1.0):
        reach = ((1 - level) / 2) ** (1 / n_clusters)
        low, high = (0.0, 1 - reach) if low == 0.0 else (reach, 1.0)
    note = ""
    if n_clusters < FEW_CLUSTERS:
        note = f"only {n_clusters} instructions in the test set: the interval is not to be relied on"
    return Interval(low, high, n_clusters, note)


def spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of repeated measurements (n - 1 in the denominator); NaN for fewer than 2.

    >>> spread(np.array([1.0, 3.0]))
    1.4142135623730951
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
