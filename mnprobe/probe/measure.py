"""From the records of all seeds and draws to rows of the table: means, intervals, spreads, one number per row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.probe.config import AlignConfig
from mnprobe.probe.items import Items
from mnprobe.probe.jobs import DIRECTIONS, Record
from mnprobe.probe.uncertainty import Interval, cluster_bootstrap, spread

__all__ = ["measured_rows", "within_task_rows"]

_NAN = float("nan")


def measured_rows(
    records: Sequence[Record], items: Items, config: AlignConfig, base: dict[str, Any], heads_file: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of one measurement (one split), and notes about its intervals.

    Per metric and direction: a row per (seed, draw) with statistic "seed", and one "mean" row: the mean over draws of
    the mean over seeds, its 95 % cluster-bootstrap interval, and the spread over seeds and over draws apart.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    numbers = [_numbers(record, config) for record in records]
    intervals = {(k, place): _interval(records, items, config, k, place) for k in config.k for place in range(3)}
    for metric, direction in numbers[0]:
        chances = np.array([entry[metric, direction][1] for entry in numbers])
        values = np.array([entry[metric, direction][0] for entry in numbers])
        for record, value, chance in zip(records, values, chances, strict=True):
            rows.append(
                base
                | _counts(record)
                | {"metric": metric, "direction": direction, "statistic": "seed", "seed": record.seed}
                | {"draw": record.draw, "value": value, "chance": chance, "n_seeds": 1}
                | {"ci_low": _NAN, "ci_high": _NAN, "sd_seeds": _NAN, "sd_draws": _NAN}
                | {"heads_file": heads_file if (record.seed, record.draw) == (0, 0) else ""}
            )
        low, high = _metric_interval(metric, direction, intervals, records)
        rows.append(
            base
            | _mean_counts(records)
            | {"metric": metric, "direction": direction, "statistic": "mean", "seed": -1, "draw": -1}
            | {"value": _grand(records, values), "chance": _grand(records, chances), "ci_low": low, "ci_high": high}
            | {"sd_seeds": spread(values[[record.draw == 0 for record in records]])}
            | {"sd_draws": spread(values[[record.seed == 0 for record in records]])}
            | {"n_seeds": len({record.seed for record in records}), "heads_file": heads_file}
        )
    note = intervals[1, 2].note
    if note:
        notes.append(note)
    return rows, notes


def within_task_rows(
    success: Sequence[Record], failure: Sequence[Record], items: Items, bases: tuple[dict[str, Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Success against failure inside tasks: the mean over tasks of recall@1 in the task, for tasks that have both.

    Failures cluster in hard tasks; this contrast gives every task the same weight on both sides.
    """
    tested = [[_tested(records, task, items) for task in np.unique(items.tasks)] for records in (success, failure)]
    shared = [one is not None and other is not None for one, other in zip(*tested, strict=True)]
    rows: list[dict[str, Any]] = []
    for records, numbers, base in zip((success, failure), tested, bases, strict=True):
        values = np.array([number for number, both in zip(numbers, shared, strict=True) if both and number is not None])
        if len(values):
            rows.append(
                base
                | _mean_counts(records)
                | {"metric": "within_task_recall@1", "direction": "mean", "statistic": "mean", "seed": -1, "draw": -1}
                | {"value": float(values.mean()), "chance": _NAN, "ci_low": _NAN, "ci_high": _NAN, "sd_seeds": _NAN}
                | {"sd_draws": _NAN, "n_groups": len(values), "n_seeds": len({record.seed for record in records})}
                | {"heads_file": ""}
            )
    return rows


def _tested(records: Sequence[Record], task: str, items: Items) -> float | None:
    rows = items.tasks == task
    values = np.concatenate([side[rows] for record in records for side in record.hits[1]])
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _numbers(record: Record, config: AlignConfig) -> dict[tuple[str, str], tuple[float, float]]:
    """(metric, direction) -> (value, chance); chance is NaN where a random ranking has no meaning."""
    out: dict[tuple[str, str], tuple[float, float]] = {}

    def both(metric: str, values: Sequence[float], chances: Sequence[float]) -> None:
        pairs = [*zip(values, chances, strict=True), (float(np.mean(values)), float(np.mean(chances)))]
        for direction, pair in zip((*DIRECTIONS, "mean"), pairs, strict=True):
            out[metric, direction] = pair

    for k in config.k:
        both(f"recall@{k}", record.recall[k], record.chance[k])
    adjusted = [_adjusted(r, c) for r, c in zip(record.recall[1], record.chance[1], strict=True)]
    both("adjusted_recall@1", adjusted, [0.0, 0.0])
    both("mi_bound", record.bound, [_NAN, _NAN])
    both("tied_share", record.tied, [_NAN, _NAN])
    return out


def _adjusted(value: float, chance: float) -> float:
    """(R - c) / (1 - c): 0 at chance, 1 when perfect; NaN when chance itself is perfect."""
    return (value - chance) / (1 - chance) if chance < 1 else _NAN


def _interval(records: Sequence[Record], items: Items, config: AlignConfig, k: int, place: int) -> Interval:
    """Bootstrap over instructions of all hits, seeds of one draw averaged; place 0 u2e, 1 e2u, 2 the mean of both."""
    draws = sorted({record.draw for record in records})
    columns = [
        np.concatenate([_item_means([record.hits[k][side] for record in records if record.draw == d]) for d in draws])
        for side in ((place,) if place < 2 else (0, 1))
    ]
    clusters = np.tile(items.instructions, len(draws))
    return cluster_bootstrap(np.stack(columns, axis=1), clusters, resamples=config.resamples)


def _item_means(hits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    stack = np.stack(hits)
    present = ~np.isnan(stack)
    count = present.sum(0)
    total = np.where(present, stack, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _metric_interval(
    metric: str, direction: str, intervals: dict[tuple[int, int], Interval], records: Sequence[Record]
) -> tuple[float, float]:
    place = (*DIRECTIONS, "mean").index(direction)
    if metric.startswith("recall@"):
        found = intervals[int(metric.removeprefix("recall@")), place]
        return found.low, found.high
    if metric == "adjusted_recall@1":
        by_side = np.array([record.chance[1] for record in records])
        chance = _grand(records, by_side.mean(1) if place == 2 else by_side[:, place])
        found = intervals[1, place]
        return _adjusted(found.low, chance), _adjusted(found.high, chance)
    return _NAN, _NAN


def _grand(records: Sequence[Record], values: NDArray[np.float64]) -> float:
    """Mean over draws of the mean over seeds, so that draw 0 (all seeds) weighs as much as any other draw."""
    draws = np.array([record.draw for record in records])
    return float(np.mean([values[draws == draw].mean() for draw in np.unique(draws)]))


def _counts(record: Record) -> dict[str, int]:
    names = ("n_test", "n_groups", "n_gallery", "n_train", "n_train_groups")
    return {name: getattr(record, name) for name in names}


def _mean_counts(records: Sequence[Record]) -> dict[str, int]:
    """Counts of the first draw; random splits differ by an episode or two."""
    return _counts(records[0])
