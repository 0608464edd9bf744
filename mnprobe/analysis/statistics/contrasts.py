"""Contrasts of arrays: success minus failure, and paired differences."""

import math
from dataclasses import dataclass, replace

import numpy as np

from mnprobe.analysis.statistics._blocks import block_sums, matched
from mnprobe.analysis.statistics.permutation import flip_sums, flip_test, permutation_test
from mnprobe.analysis.statistics.power import detectable_of, effective_blocks
from mnprobe.core.arrays import Array, as_array, as_weights, as_whole, power_near_one
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed
from mnprobe.probe.uncertainty import cluster_jackknife_difference, standard_error

__all__ = ["OutcomeContrast", "PairedContrast", "outcome_contrast", "paired_contrast"]


@dataclass(frozen=True, kw_only=True)
class OutcomeContrast:
    """Mean of one set minus mean of the other, matched within blocks.

    Attributes:
        value: the difference.
        low, high: 95 % interval, cluster jackknife with Student's t.
        error: standard error (cluster jackknife).
        p_within: labels exchanged among the episodes of each block.
        p_blocks: the two sides of whole blocks exchanged; the one to report.
        detectable: the difference that such data would show at p < 0.05 in 80 of 100 cases.
        n_one, n_other: items of each set; n_blocks: blocks that hold both.
        note: why something is missing, or ''.
    """

    value: float
    low: float
    high: float
    error: float
    p_within: float
    p_blocks: float
    detectable: float
    n_one: int
    n_other: int
    n_blocks: int
    note: str


def outcome_contrast(
    values: Array,
    labels: Labels,
    blocks: Labels,
    *,
    weights: Array | None = None,
    shares: bool = False,
    resamples: int = 1999,
    seed: int = 0,
) -> OutcomeContrast:
    """Success (labels True) minus failure, weighted alike in every instruction, with all that a reader asks for.

    Args:
        values: score of each episode (n,).
        labels: True for successes.
        blocks: the instruction of each episode.
        weights: of each episode; equal for both labels in every block (`match_weights` when not given).
        shares: values lie between 0 and 1; see `cluster_jackknife_difference`.
        resamples: of the exchange within instructions; whole instructions are flipped ten times as often, so that p
            stays small enough to correct over a large family.
        seed: of both.

    Raises ProbeError when nothing can be compared, FeatureError and ConfigError as `permutation_test` does.

    >>> hit, blocks = np.array([1.0, 0, 0, 0] * 8), np.repeat(list("abcdefgh"), 4)
    >>> outcome_contrast(hit, np.array([True, True, False, False] * 8), blocks, resamples=99).value
    0.5
    """
    if as_whole(resamples, "resamples") < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples!r}")
    resamples, seed = as_whole(resamples, "resamples"), check_seed(seed)
    found = matched(values, labels, blocks, weights)
    unit = power_near_one(found.values)
    if unit != 1:
        scaled = outcome_contrast(
            found.values * unit,
            found.labels,
            found.blocks,
            weights=found.weights,
            shares=shares,
            resamples=resamples,
            seed=seed,
        )
        sized = ("value", "low", "high", "error", "detectable")
        return replace(scaled, **{name: getattr(scaled, name) / unit for name in sized})
    one = np.where(found.labels, found.values, np.nan)
    other = np.where(found.labels, np.nan, found.values)
    (codes,), names = encode_labels(found.blocks)
    if not names:
        raise ProbeError("no instruction has both successes and failures: there is nothing to compare")
    signed = np.where(found.labels, found.weights, -found.weights)
    mass = block_sums(found.weights, codes, len(names)) / 2
    sums = block_sums(signed * found.values, codes, len(names))
    if len(names) < 2:
        nan = math.nan
        return OutcomeContrast(
            value=float(sums.sum() / mass.sum()),
            low=nan,
            high=nan,
            error=nan,
            p_within=nan,
            p_blocks=nan,
            detectable=nan,
            note="one instruction only: no interval, no test",
            n_one=int(found.labels.sum()),
            n_other=int((~found.labels).sum()),
            n_blocks=len(names),
        )
    interval = cluster_jackknife_difference(one, other, found.blocks, weights=found.weights, shares=shares)
    error = standard_error(one, other, found.blocks, weights=found.weights)
    within = permutation_test(
        found.values, found.labels, found.blocks, weights=found.weights, resamples=resamples, seed=seed
    )
    return OutcomeContrast(
        value=float(sums.sum() / mass.sum()),
        low=interval.low,
        high=interval.high,
        error=error,
        p_within=within.p,
        p_blocks=flip_sums(sums, mass, studentize=True, resamples=10 * resamples, seed=seed).p,
        detectable=detectable_of(found.values, error, effective_blocks(mass)),
        note=interval.note,
        n_one=int(found.labels.sum()),
        n_other=int((~found.labels).sum()),
        n_blocks=len(names),
    )


@dataclass(frozen=True, kw_only=True)
class PairedContrast:
    """Mean of one minus mean of the other over the same items; fields as in `OutcomeContrast`."""

    value: float
    low: float
    high: float
    error: float
    p: float
    detectable: float
    n: int
    n_blocks: int
    note: str


def paired_contrast(
    one: Array,
    other: Array,
    blocks: Labels,
    *,
    weights: Array | None = None,
    shares: bool = False,
    resamples: int = 1999,
    seed: int = 0,
    unit: str = "instructions",
) -> PairedContrast:
    """Mean of `one` minus mean of `other`, item by item (the claim and a control on the same episodes).

    Items that have no number on one side (NaN) are left out of both. Blocks are instructions; `unit` names them in the
    note. `shares` as in `cluster_jackknife_difference`. The test takes ten times `resamples` flips.

    Raises ProbeError when fewer than 2 blocks have items of both, FeatureError for infinite numbers, counts that differ
    or weights below 0.

    >>> scores = np.linspace(0, 1, 16)
    >>> paired_contrast(scores + 0.25, scores, list("aabbccddeeffgghh"), resamples=99).value
    0.25
    """
    if as_whole(resamples, "resamples") < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples!r}")
    first, second = as_array(one, "one").astype(np.float64), as_array(other, "other").astype(np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ProbeError(f"both measurements must have one number per item, got {first.shape} and {second.shape}")
    endless = np.flatnonzero(np.isinf(first) | np.isinf(second))
    if len(endless):
        raise FeatureError(f"{len(endless)} items have infinite numbers, the first is row {endless[0]}")
    names = as_labels(blocks, len(first), "blocks").astype(str)
    mass = as_weights(weights, len(first))
    keep = ~np.isnan(first) & ~np.isnan(second) & (mass > 0)
    first, second, names, mass = first[keep], second[keep], names[keep], mass[keep]
    if not len(names):
        raise ProbeError(f"none of {len(keep)} items has a number on both sides")
    (codes,), _ = encode_labels(names)
    resamples = 10 * as_whole(resamples, "resamples")
    test = flip_test(first - second, names, weights=mass, resamples=resamples, seed=seed)
    interval = cluster_jackknife_difference(first, second, names, weights=mass, shares=shares, unit=unit)
    error = standard_error(first, second, names, weights=mass)
    return PairedContrast(
        value=test.value,
        low=interval.low,
        high=interval.high,
        error=error,
        p=test.p,
        detectable=detectable_of(first - second, error, effective_blocks(block_sums(mass, codes, test.n_blocks))),
        n=len(first),
        n_blocks=test.n_blocks,
        note=interval.note,
    )
