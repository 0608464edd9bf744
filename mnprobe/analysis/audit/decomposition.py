"""Decomposition of a Recall@1 by task, instruction and variation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.analysis.statistics import cluster_jackknife
from mnprobe.core.arrays import Array, as_array, as_whole
from mnprobe.core.cluster import spread
from mnprobe.core.errors import FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels, as_labels, encode_labels, encode_tuples
from mnprobe.probe.config import FitConfig
from mnprobe.probe.fitting import fit_heads
from mnprobe.probe.heads import AlignmentHeads
from mnprobe.probe.pairs import FeaturePair
from mnprobe.probe.retrieval import DirectionRecall, Recall, recall_at_k
from mnprobe.probe.splits import GroupKind, Items, independent_units, unnamed_tasks

__all__ = ["DECOMPOSITION_COLUMNS", "Factors", "decompose", "factors_of", "oracle_recall", "without_means"]


def oracle_recall(groups: Labels, factor: Labels, *, exclude_own: bool = False) -> float:
    """Expected Recall@1 when all that is known of an item is its `factor` (such as its task).

    Every query puts the items of its factor first, in random order: its chance of a hit is the number of those that
    are of its group over the number of those. Queries without another item of their group cannot hit and are left out
    (with `exclude_own`).

    Args:
        groups: what counts as a hit (instructions), one per item; queries and gallery are the same items.
        factor: what the oracle knows of each item.
        exclude_own: the query's own item is not in its gallery.

    Raises ProbeError when no query can hit, FeatureError for labels that are missing or counts that differ.

    >>> oracle_recall(["a", "a", "b", "b"], ["task", "task", "task", "task"])  # the factor says nothing: chance
    0.5
    >>> oracle_recall(["a", "a", "b", "b"], ["x", "x", "y", "y"])
    1.0
    """
    (group,), names = encode_labels(as_labels(groups, None, "groups"))
    (known,), levels = encode_labels(as_labels(factor, len(group), "factor"))
    own = int(exclude_own)
    members = np.bincount(group, minlength=len(names))[group] - own
    size = np.bincount(known, minlength=len(levels))[known] - own
    both = (
        np.bincount(group * len(levels) + known, minlength=len(names) * len(levels))[group * len(levels) + known] - own
    )
    able = members > 0
    if not able.any():
        raise ProbeError(f"none of {len(group)} queries has another item of its group")
    rest = len(group) - own
    share = np.where(size > 0, both / np.maximum(size, 1), members / max(rest, 1))  # nothing of its factor: at random
    return float(share[able].mean())


DECOMPOSITION_COLUMNS = (
    *("quantity", "factor", "value", "ci_low", "ci_high", "chance", "n_test", "n_groups", "n_seeds", "note"),
)

Factors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Measured:
    """Mean hits of each test item (n, 2), and the exact chance, of one kind of hit."""

    hits: NDArray[np.float64]
    chance: float


def factors_of(items: Items) -> dict[str, NDArray[Any]]:
    """Task, instruction and variation of each episode; the variation is read from ids `<task>/<variation>/<episode>`.

    From coarse to fine; a factor that cuts the episodes as another one does already is left out (a variation that has
    one wording), and so is one that the episodes do not name, such as a task that is only the instruction again.

    >>> items = Items.of(ids=["t/0/e0", "t/1/e0"], instructions=["a", "a"], tasks=["t", "t"])
    >>> {name: values.tolist() for name, values in factors_of(items).items()}
    {'task': ['t', 't'], 'variation': ['t/0', 't/1']}
    """
    named = {"instruction": items.instructions}
    if not unnamed_tasks(items.instructions, items.tasks):
        named = {"task": items.tasks} | named
    found: dict[str, NDArray[Any]] = {name: values for name, values in named.items() if len(values) and values[0] != ""}
    parts = [str(name).rsplit("/", 1) for name in items.ids]
    if all(len(part) == 2 and "/" in part[0] for part in parts):
        found["variation"] = np.array([part[0] for part in parts])
    kept: dict[str, NDArray[Any]] = {}
    for name, values in sorted(found.items(), key=lambda item: len(np.unique(item[1]))):  # coarse to fine
        cuts = [_cut(values), *(_cut(other) for other in kept.values())]
        if not any(np.array_equal(cuts[0], other) for other in cuts[1:]):
            kept[name] = values
    return kept


def without_means(
    values: NDArray[np.float32], factor: NDArray[Any], train: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Take from every row the training mean of its level of `factor`; rows of levels not in training are marked False.

    >>> values, factor = np.array([[1.0], [3.0], [9.0]], np.float32), np.array(["a", "a", "b"])
    >>> rows, seen = without_means(values, factor, np.array([0]))
    >>> rows[:2, 0].tolist(), seen.tolist()
    ([0.0, 2.0], [True, True, False])
    """
    levels, codes = np.unique(factor, return_inverse=True)
    counts = np.bincount(codes[train], minlength=len(levels))
    sums = np.zeros((len(levels), values.shape[1]))
    np.add.at(sums, codes[train], values[train].astype(np.float64))
    means = sums / np.maximum(counts, 1)[:, None]
    return (values - means[codes]).astype(np.float32), counts[codes] > 0


def decompose(
    pair: FeaturePair,
    train: Array,
    test: Array,
    *,
    pairing: GroupKind = "instruction",
    fit: FitConfig | None = None,
    heads: AlignmentHeads | None = None,
    seeds: int = 3,
    exclude_own: bool = False,
) -> pd.DataFrame:
    """Break Recall@1 of one partition into what task, instruction and variation identity give.

    Rows, by `quantity`:

    - "recall": Recall@1 of the pairing, with its chance.
    - "right": is the nearest neighbour of the same task, instruction, variation (`factor`)? With the chance of each.
      Where nothing but the instruction names the task, the row of the task has no value and says so.
    - "right given coarser": instruction right among the queries whose task is right, and so on: share of shares; its
      chance is what a guess within the task would give.
    - "oracle": exact Recall@1 of knowing the factor and nothing else (`oracle_recall`). A score near that of "task"
      says that task identity is enough for it.
    - "without": Recall@1 of new heads fitted after the training mean of each level of the factor is taken from u and
      from e, on both sets. What is left is not carried by the factor's mean. Where the test set has levels that
      training has not, the mean is not known and the row says so.

    Args:
        pair: features and labels.
        train, test: rows that the heads are fitted and tested on, as numbers or as truth values.
        pairing: what counts as the same action.
        fit: settings of the heads; the paper's when not given.
        heads: heads that were fitted on `train`, for the first four; fitted here (one per seed) when not given.
        seeds: how many heads are fitted wherever heads are fitted.
        exclude_own: leave the query's own episode out of its gallery.

    Raises FeatureError for rows that the pair has not, and as `fit_heads` and `recall_at_k`.
    """
    train, test = _row_numbers(train, len(pair.items), "train"), _row_numbers(test, len(pair.items), "test")
    seeds = as_whole(seeds, "seeds", least=1)
    units = independent_units(pair.items.ids, pair.items.instructions, pair.items.tasks)[0]
    factors = factors_of(pair.items)
    groups = pair.items.groups(pairing)
    config = fit or FitConfig()
    usual = [heads] if heads is not None else _fitted(pair.u, pair.e, groups, train, config, seeds)
    maps = [_mapped(one, pair.u[test], pair.e[test]) for one in usual]
    rows: list[dict[str, Any]] = []
    common = {"n_test": len(test), "n_groups": len(np.unique(groups[test]))}

    def add(quantity: str, factor: str, found: _Measured | None, count: int, note: str = "", **cells: Any) -> None:
        row = {"quantity": quantity, "factor": factor, "note": note, "n_seeds": count} | common | cells
        if found is not None:
            interval = cluster_jackknife(found.hits, units[test], shares=True)
            row |= {"value": float(np.nanmean(found.hits, axis=0).mean()), "chance": found.chance}
            row |= {"ci_low": interval.low, "ci_high": interval.high}
        rows.append(row)

    def measured(labels: NDArray[Any]) -> _Measured:
        return _averaged([recall_at_k(u, e, labels, k=[1], exclude_own=exclude_own) for u, e in maps], len(test))

    add("recall", pairing, measured(groups[test]), len(usual))
    if unnamed := unnamed_tasks(pair.items.instructions, pair.items.tasks):
        add("right", "task", None, 0, f"cannot be told: {unnamed}")
    before: tuple[str, _Measured, NDArray[Any]] | None = None
    for name, values in factors.items():
        labels = encode_tuples(values[test])
        if before is not None:  # the same wording in another task is another action
            labels = encode_tuples(before[2], labels)
        try:
            found = measured(labels)
        except ProbeError as error:
            add("right", name, None, len(usual), str(error))
            continue
        add("right", name, found, len(usual))
        if before is not None:
            share = float(np.nanmean(found.hits)) / max(float(np.nanmean(before[1].hits)), 1e-12)
            guess = oracle_recall(labels, before[2], exclude_own=exclude_own)
            cells = {"value": share, "chance": guess}
            add("right given coarser", name, None, len(usual), f"given the {before[0]} is right", **cells)
        before = (name, found, labels)
    for name, values in factors.items():
        exact = oracle_recall(groups[test], values[test], exclude_own=exclude_own)
        add("oracle", name, None, 0, "exact", value=exact, chance=oracle_recall(groups[test], np.zeros(len(test), int)))
    for name, values in factors.items():
        (u, seen), (e, _) = without_means(pair.u, values, train), without_means(pair.e, values, train)
        if not seen[test].all():
            add("without", name, None, 0, f"{int((~seen[test]).sum())} test episodes: training has no such {name}")
            continue
        try:
            fresh = _fitted(u, e, groups, train, config, seeds)
        except TooFewSamples as error:
            add("without", name, None, 0, str(error))
            continue
        found = _averaged(
            [
                recall_at_k(*_mapped(one, u[test], e[test]), groups[test], k=[1], exclude_own=exclude_own)
                for one in fresh
            ],
            len(test),
        )
        add("without", name, found, seeds)
    return pd.DataFrame(rows, columns=list(DECOMPOSITION_COLUMNS))


def _row_numbers(rows: Array, n: int, name: str) -> NDArray[np.int64]:
    """Rows given as numbers or as truth values, one for each of n; FeatureError that names `name` otherwise."""
    found = as_array(rows, name)
    if found.dtype.kind == "b" and found.shape == (n,):
        found = np.flatnonzero(found)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise FeatureError(f"{name} must name rows, at least one, got shape {found.shape} of type {found.dtype}")
    numbers = found.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= n:
        raise FeatureError(f"{name} names row {int(numbers.max())} or one below 0; there are rows 0 to {n - 1}")
    return numbers


def _fitted(
    u: NDArray[np.float32],
    e: NDArray[np.float32],
    groups: NDArray[Any],
    train: NDArray[np.int64],
    config: FitConfig,
    seeds: int,
) -> list[AlignmentHeads]:
    rows = (np.ascontiguousarray(u[train]), np.ascontiguousarray(e[train]), groups[train])
    return list(spread(_fit, [(*rows, config, seed) for seed in range(seeds)], shared=rows))


def _fit(u: Any, e: Any, groups: Any, config: FitConfig, seed: int) -> AlignmentHeads:
    return fit_heads(u, e, groups, config=config, seed=seed).heads


def _mapped(heads: AlignmentHeads, u: NDArray[np.float32], e: NDArray[np.float32]) -> tuple[Any, Any]:
    import torch

    with torch.no_grad():
        z_u, z_e = heads(torch.from_numpy(np.ascontiguousarray(u)), torch.from_numpy(np.ascontiguousarray(e)))
    return z_u, z_e


def _averaged(found: list[Recall], n: int) -> _Measured:
    """Mean over heads; NaN for items that were no query."""
    hits = np.full((n, 2), np.nan)
    for place, side in enumerate(("u2e", "e2u")):
        sides: list[DirectionRecall] = [getattr(one, side) for one in found]
        hits[sides[0].queries, place] = np.mean([one.hits[1] for one in sides], axis=0)
    return _Measured(hits, float(np.mean([one.chance(1) for one in found])))


def _cut(values: NDArray[Any]) -> NDArray[np.int64]:
    """Which episodes belong together, whatever the names: codes in the order of first appearance."""
    _, first, codes = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes].astype(np.int64)
