"""Intervals by resampling whole instructions: episodes of one instruction are not independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.probe._arrays import Labels, as_labels, encode

__all__ = ["FEW_CLUSTERS", "Interval", "cluster_bootstrap", "spread"]

FEW_CLUSTERS = 8
"""With fewer clusters a bootstrap interval is known to be too narrow; it is given with a note."""


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
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean when whole clusters (instructions) are drawn with replacement.

    Args:
        values: one number per item, shape (n,); or several columns, shape (n, m), NaN where an item has no number in a
            column: then the statistic is the mean over columns of the column means (recall in both directions).
        clusters: the instruction of each item.
        level: coverage, 0.95 for 95 %.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The interval. With fewer than 2 clusters its ends are NaN, with fewer than FEW_CLUSTERS it carries a warning.

    >>> cluster_bootstrap(np.array([0.0, 1.0, 1.0]), ["a", "a", "a"])[3]
    'no interval: it takes at least 2 instructions, there is 1'
    """
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(f"level must lie in (0, 1) and resamples be >= 1, got {level!r} and {resamples!r}")
    columns = values[:, None] if values.ndim == 1 else values
    (codes,), names = encode(as_labels(clusters, len(columns), "clusters"))
    present = ~np.isnan(columns)
    sums = np.zeros((len(names), columns.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, codes, np.where(present, columns, 0.0))
    np.add.at(counts, codes, present)
    used = counts.any(axis=1)
    sums, counts = sums[used], counts[used]
    n_clusters = int(used.sum())
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
    statistic = means[~np.isnan(means).any(axis=1)].mean(axis=1)
    low, high = np.quantile(statistic, [(1 - level) / 2, (1 + level) / 2])
    note = ""
    if n_clusters < FEW_CLUSTERS:
        note = f"only {n_clusters} instructions in the test set: the interval is too narrow to rely on"
    return Interval(float(low), float(high), n_clusters, note)


def spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of repeated measurements (n - 1 in the denominator); NaN for fewer than 2.

    >>> spread(np.array([1.0, 3.0]))
    1.4142135623730951
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
