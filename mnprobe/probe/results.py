"""Rows of results/alignment.csv: means over seeds, the table, its printed form."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import encode_labels
from mnprobe.core.names import PIXELS
from mnprobe.core.table import TableSchema, fitted_table, shorten_pairs, text_table
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.runs import DIRECTIONS, Record
from mnprobe.probe.splits import Items, independent_units, unnamed_tasks
from mnprobe.probe.uncertainty import Interval, cluster_jackknife, cluster_jackknife_difference, spread

__all__ = [
    "ALIGNMENT",
    "COLUMNS",
    "HELD_OUT",
    "HELD_OUT_FILE",
    "IDENTITY",
    "TRUTH",
    "contrast_rows",
    "convergence_note",
    "measured_rows",
    "read_alignment",
    "summary_table",
    "to_frame",
    "write_alignment",
]

_NAN = float("nan")


def measured_rows(
    records: Sequence[Record], items: Items, config: AlignConfig, base: dict[str, Any], heads_file: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of one measurement (one split), and notes about its intervals.

    Per metric and direction: a row per (seed, draw) with statistic "seed", and one "mean" row: the mean over draws of
    the mean over seeds, its 95 % interval (cluster jackknife over `independent_units`), and the spread over seeds and
    over draws apart.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    numbers = [_numbers(record, config) for record in records]
    intervals = {
        (metric, direction): _interval(records, items, metric, side)
        for metric in (*(f"recall@{k}" for k in config.k), "adjusted_recall@1")
        for side, direction in enumerate((*DIRECTIONS, "mean"))
    }
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
        low, high = _metric_interval(metric, direction, intervals)
        rows.append(
            base
            | _mean_counts(records)
            | {"metric": metric, "direction": direction, "statistic": "mean", "seed": -1, "draw": -1}
            | {"value": _grand(records, values), "chance": _grand(records, chances), "ci_low": low, "ci_high": high}
            | {"sd_seeds": spread(values[[record.draw == 0 for record in records]])}
            | {"sd_draws": spread(values[[record.seed == 0 for record in records]])}
            | {"n_seeds": len({record.seed for record in records}), "heads_file": heads_file}
        )
    note = intervals["recall@1", "mean"].note
    if note:
        notes.append(note)
    elif independent_units(items.ids, items.instructions, items.tasks)[1] == "episodes":
        notes.append(
            "all episodes have one instruction, so that the interval leaves out single episodes: it holds for further "
            "episodes of this instruction, not for others"
        )
    return rows, notes


def contrast_rows(
    success: Sequence[Record],
    failure: Sequence[Record],
    items: Items,
    bases: tuple[dict[str, Any], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Success against failure of one side: recall@1 inside tasks for both, and the paired differences.

    - "within_task_recall@1", one row each: the mean over the tasks, so that hard tasks, where failures cluster, weigh
      no more than others.
    - "success_minus_failure@1": difference of recall@1, in each direction and their mean.
    - "within_task_success_minus_failure@1": the difference inside each task, mean over tasks.

    Differences are in rows of the success split, with 95 % intervals that leave each instruction out of both sides at
    once; their chance is 0. `n_groups` of the rows inside tasks counts the tasks. There are none where no task is named
    apart from the instruction (`unnamed_tasks`).
    """
    sides = [[_stacked(records, side) for side in (0, 1)] for records in (success, failure)]
    rows: list[dict[str, Any]] = []
    common = {"statistic": "mean", "seed": -1, "draw": -1, "heads_file": "", "sd_seeds": _NAN, "sd_draws": _NAN}
    common |= {"n_seeds": len({record.seed for record in success})}
    weights = np.concatenate([_draw_weights(records) for records in (success, failure)]).reshape(2, -1)
    if not np.array_equal(weights[0], weights[1]):  # balanced draws have equal numbers on both sides
        raise ProbeError("success and failure were not measured on equally many test episodes")
    clusters = np.tile(items.instructions, len(weights[0]) // len(items))
    for index, direction in enumerate((*DIRECTIONS, "mean")):
        chosen = (index,) if index < 2 else (0, 1)
        hits_success, hits_failure = (np.stack([side[k] for k in chosen], axis=1) for side in sides)
        interval = cluster_jackknife_difference(hits_success, hits_failure, clusters, weights=weights[0], shares=True)
        value = float(np.mean([_weighted(values, weights[0]) for values in hits_success.T]))
        value -= float(np.mean([_weighted(values, weights[0]) for values in hits_failure.T]))
        rows.append(
            bases[0]
            | _mean_counts(success)
            | common
            | {"metric": "success_minus_failure@1", "direction": direction, "value": value, "chance": 0.0}
            | {"ci_low": interval.low, "ci_high": interval.high}
        )
    if unnamed_tasks(items.instructions, items.tasks):
        return rows
    return rows + _within_task_rows(success, failure, items, bases, common)


def _within_task_rows(
    success: Sequence[Record],
    failure: Sequence[Record],
    items: Items,
    bases: tuple[dict[str, Any], dict[str, Any]],
    common: dict[str, Any],
) -> list[dict[str, Any]]:
    """Means over tasks: each query weighs one over the number of queries of its task, in all draws together."""
    columns = [np.stack([_stacked(records, side) for side in (0, 1)], axis=1) for records in (success, failure)]
    copies = len(columns[0]) // len(items)
    (codes,), names = encode_labels(np.tile(items.tasks, copies))
    counts = [np.bincount(codes[~np.isnan(values[:, 0])], minlength=len(names)) for values in columns]
    if not np.array_equal(counts[0], counts[1]):
        raise ProbeError("success and failure were not measured on equally many test episodes of every task")
    weights = np.divide(1.0, counts[0], out=np.zeros(len(names)), where=counts[0] > 0)[codes]
    clusters = np.tile(items.instructions, copies)
    values = [float(np.mean([_weighted(column, weights) for column in both.T])) for both in columns]
    intervals = [cluster_jackknife(both, clusters, weights=weights, shares=True) for both in columns]
    difference = cluster_jackknife_difference(columns[0], columns[1], clusters, weights=weights, shares=True)
    shared = common | {"direction": "mean", "n_groups": int((counts[0] > 0).sum())}
    single, contrast = "within_task_recall@1", "within_task_success_minus_failure@1"
    numbers = (
        (bases[0], success, single, values[0], _NAN, intervals[0]),
        (bases[1], failure, single, values[1], _NAN, intervals[1]),
        (bases[0], success, contrast, values[0] - values[1], 0.0, difference),
    )
    return [
        base
        | _mean_counts(records)
        | shared
        | {"metric": metric, "value": value, "chance": chance, "ci_low": interval.low, "ci_high": interval.high}
        for base, records, metric, value, chance, interval in numbers
    ]


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


def _interval(records: Sequence[Record], items: Items, metric: str, index: int) -> Interval:
    """Cluster jackknife over `independent_units` of all hits, seeds of one draw averaged.

    Index 0 is u2e, 1 e2u, 2 both. Items weigh so that every draw weighs the same, as it does in the value itself.
    Adjusted recall is a share whose draws and directions weigh 1 / (1 - chance), stretched from [0, 1] to what it can
    be; where all have one chance its ends are those of recall@1, adjusted.
    """
    adjusted = metric == "adjusted_recall@1"
    k = 1 if adjusted else int(metric.removeprefix("recall@"))
    chosen = (index,) if index < 2 else (0, 1)
    values = np.stack([_stacked(records, side, k) for side in chosen], axis=1)
    weights = _draw_weights(records)
    units, name = independent_units(items.ids, items.instructions, items.tasks)
    clusters = np.tile(units, len(weights) // len(items))
    if not adjusted:
        return cluster_jackknife(values, clusters, weights=weights, shares=True, unit=name)
    chances = {record.draw: record.chance[1] for record in records}
    levels = np.repeat([[chances[draw][side] for side in chosen] for draw in sorted(chances)], len(items), axis=0)
    if (levels >= 1).any():
        return Interval(_NAN, _NAN, 0, "")
    scale = np.where(np.isnan(values), np.nan, 1 / (1 - levels))
    width = float(np.mean([_weighted(column, weights) for column in scale.T]))
    scaled = cluster_jackknife(values * scale / width, clusters, weights=weights, shares=True)
    return scaled._replace(low=1 - width * (1 - scaled.low), high=1 - width * (1 - scaled.high))


def _stacked(records: Sequence[Record], side: int, k: int = 1) -> NDArray[np.float64]:
    """Hits of every item in every draw, concatenated, seeds of one draw averaged; NaN where it was no query."""
    draws = sorted({record.draw for record in records})
    return np.concatenate(
        [_item_means([record.hits[k][side] for record in records if record.draw == draw]) for draw in draws]
    )


def _draw_weights(records: Sequence[Record]) -> NDArray[np.float64]:
    """One over the number of queries of its draw, for every item in every draw."""
    sizes = {record.draw: int((~np.isnan(record.hits[1][0])).sum()) for record in records}
    return np.repeat([1.0 / sizes[draw] for draw in sorted(sizes)], len(records[0].hits[1][0]))


def _weighted(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    present = ~np.isnan(values)
    return float(np.average(values[present], weights=weights[present]))


def _item_means(hits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    stack = np.stack(hits)
    present = ~np.isnan(stack)
    count = present.sum(0)
    total = np.where(present, stack, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _metric_interval(metric: str, direction: str, intervals: dict[tuple[str, str], Interval]) -> tuple[float, float]:
    interval = intervals.get((metric, direction))
    return (_NAN, _NAN) if interval is None else (interval.low, interval.high)


def _grand(records: Sequence[Record], values: NDArray[np.float64]) -> float:
    """Mean over draws of the mean over seeds, so that draw 0 (all seeds) weighs as much as any other draw."""
    draws = np.array([record.draw for record in records])
    return float(np.mean([values[draws == draw].mean() for draw in np.unique(draws)]))


def _counts(record: Record) -> dict[str, int | float]:
    names = ("n_test", "n_groups", "n_gallery", "n_train", "n_train_groups")
    return {name: getattr(record, name) for name in names} | _fits([record])


def _mean_counts(records: Sequence[Record]) -> dict[str, int | float]:
    """Counts of the first draw, as random splits differ by an episode or two, and means over all fits."""
    return _counts(records[0]) | _fits(records)


def _fits(records: Sequence[Record]) -> dict[str, float]:
    return {
        "fit_steps": float(np.mean([record.fit_steps for record in records])),
        "fit_lr": float(np.mean([record.fit_lr for record in records])),
        "fit_converged": float(np.mean([record.converged for record in records])),
    }


IDENTITY = (
    *("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "trained_u", "trained_e"),
    *(
        "layer_u",
        "layer_e",
        "pool_u",
        "pool_e",
        "heads",
        "pairing",
        "loss",
        "tau",
        "holdout",
        "split",
        "mode",
        "control",
        "fit_source",
    ),
)
"""Columns that identify a measurement; rows with equal values in all of them are the same measurement."""

COLUMNS = (
    *(name for name in IDENTITY if name != "fit_source"),
    *("metric", "direction", "statistic", "seed", "draw", "value", "ci_low", "ci_high", "sd_seeds", "sd_draws"),
    *("chance", "n_test", "n_groups", "n_gallery", "n_train", "n_train_groups", "n_seeds", "batch"),
    *("heads_file", "config_hash", "features_hash", "fit_source", "fit_steps", "fit_lr", "fit_converged"),
)
"""All columns. `batch` is the requested batch (all of n_train if that is less; log of the smaller of batch and
n_groups caps mi_bound). `fit_source` is the source of the episodes that the heads were fitted on: it differs from
`source_u` if heads are fitted on demonstrations and tested on rollouts. `fit_steps` is the number of optimizer steps
that the heads were fitted with, `fit_lr` the learning rate at the start, `fit_converged` 1 where the training loss was
flat and 0 where it was not; in rows of statistic "mean" all three are means over the fits. `config_hash` is the hash of
all settings of the probe, `features_hash` that of every number and label of the pair."""

_TEXT = (
    *("understanding", "execution", "source_u", "source_e", "layer_u", "layer_e", "pool_u", "pool_e", "heads"),
    *("pairing", "loss", "holdout", "split", "mode", "control", "metric", "direction", "statistic"),
    *("heads_file", "config_hash", "features_hash", "fit_source"),
)
_WHOLE = (
    *("step_u", "step_e", "seed", "draw", "n_test", "n_groups", "n_gallery", "n_train", "n_train_groups", "n_seeds"),
    "batch",
)
TRUTH = ("trained_u", "trained_e")
"""Columns of True or False."""

ALIGNMENT = TableSchema(
    name="alignment",
    columns=COLUMNS,
    key=(*IDENTITY, "metric", "direction", "statistic", "seed", "draw"),
    whole=_WHOLE,
    truth=TRUTH,
    real=tuple(name for name in COLUMNS if name not in (*_TEXT, *_WHOLE, *TRUTH)),
    defaults={"fit_source": "source_u", "features_hash": "", "fit_steps": "", "fit_lr": "", "fit_converged": ""},
    unknown=("fit_steps", "fit_lr", "fit_converged"),  # how long earlier versions fitted is in run.toml
    command="align",
)
"""results/alignment.csv. Numbers are real (NaN in empty cells), except those of `_WHOLE`, which are never empty."""


def to_frame(rows: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """Rows as a table with exactly `COLUMNS`, in this order and with fixed types, also when there are none."""
    return ALIGNMENT.frame(rows)


def write_alignment(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as CSV, atomically; numbers with all digits."""
    ALIGNMENT.write(path, frame)


def read_alignment(path: Path, *, command: str | None = None) -> pd.DataFrame:
    """Read results/alignment.csv with its types (see `ALIGNMENT`), every number exactly as it was written.

    Args:
        path: of the file.
        command: what writes it, for messages; by default `mnprobe align` for its run.

    Raises:
        ProbeError: the file is absent, is no CSV table, has no rows, lacks columns, or has a cell that is no number or
            truth value (naming row and column).
    """
    return ALIGNMENT.read(path, command=command)


HELD_OUT_FILE = "held_out.csv"
HELD_OUT = TableSchema(
    name="held out",
    columns=("config_hash", "source", "episodes_hash", "holdout", "draw", "set", "id"),
    key=("config_hash", "source", "episodes_hash", "holdout"),
    whole=("draw",),
    command="align",
)
"""results/hits/held_out.csv: the set (train, validation or test) of every episode in each draw of each holdout.

Pairs of one source whose episodes have the same ids and labels have the same draws, and share these rows;
`episodes_hash` is of those. The balanced draws of success and failure are in the files of scores (`read_hits`).
"""


_HEADER = (
    "pair",
    "held out",
    "split",
    "control",
    "R@1",
    "95 % interval",
    "chance",
    "lift",
    "u->e",
    "e->u",
    "n",
    "groups",
    "steps",
)
_CONTRAST_HEADER = ("pair", "held out", "success minus failure of", "where", "R@1", "95 % interval", "n")
_CONTRASTS = {"success_minus_failure@1": "all", "within_task_success_minus_failure@1": "within tasks"}


_SPARE = ("heads from", "u->e", "e->u", "lift", "groups", "fit", "n")  # left out first where lines are narrow


def summary_table(frame: pd.DataFrame, *, width: int | None = None) -> str:
    """Recall@1 of every measurement in plain text; R@1 is the mean of both directions, lift is R@1 over chance.

    Models with random weights are marked 'untrained'; values that ties decide are marked with their share, and fits
    whose training loss was not flat when they ended with theirs. Where
    success and failure were measured, a second table gives their paired difference, over all episodes and within tasks.

    With `width`, lines have at most so many characters: there is a table for each split and holdout, names of pairs are
    shortened by what they have in common, and columns are left out; None prints everything.
    """
    means = frame[(frame["statistic"] == "mean") & (frame["metric"] == "recall@1")]
    keys = [
        *("understanding", "step_u", "trained_u", "layer_u", "pool_u", "execution", "step_e", "trained_e"),
        *("layer_e", "pool_e", "source_e", "holdout", "split", "mode", "control", "heads", "pairing", "loss", "tau"),
        *("fit_source", "config_hash"),
    ]
    ties = frame[(frame["statistic"] == "mean") & (frame["metric"] == "tied_share") & (frame["direction"] == "mean")]
    tied = {tuple(row[key] for key in keys): float(row["value"]) for _, row in ties.iterrows()}
    lines: list[_Line] = []
    for key, rows in means.groupby(keys, sort=False):
        values = {str(row["direction"]): row for _, row in rows.iterrows()}
        row = values["mean"]
        mark = f" ({tied[key]:.0%} ties)" if tied.get(key, 0.0) >= 0.01 else ""
        split = str(row["split"]) + (" (shared probe)" if row["mode"] == "shared-probe" else "")
        lines.append(
            (
                row,
                (
                    str(row["holdout"]),
                    split,
                    "-" if row["control"] == "none" else str(row["control"]),
                    f"{row['value']:.3f}{mark}",
                    "none" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
                    f"{row['chance']:.3f}",
                    f"{row['value'] / row['chance']:.1f}x",
                    f"{values['u2e']['value']:.3f}",
                    f"{values['e2u']['value']:.3f}",
                    _tested(row),
                    str(row["n_groups"]),
                    _steps(row),
                ),
            )
        )
    contrasts = _contrasts(frame)
    if width is None:
        return "\n\n".join([_whole(_HEADER, lines), *([_whole(_CONTRAST_HEADER, contrasts)] if contrasts else [])])
    parts = dict.fromkeys(cells[:2] for _, cells in lines)  # holdout and split
    tables = [_narrow(_HEADER, [line for line in lines if line[1][:2] == part], width) for part in parts]
    return "\n\n".join([*tables, *([_narrow(_CONTRAST_HEADER, contrasts, width)] if contrasts else [])])


_Line: TypeAlias = tuple[Any, tuple[str, ...]]
"""A row of the frame, and the cells behind the name of its pair."""


def _whole(header: Sequence[str], lines: Sequence[_Line]) -> str:
    return text_table(header, [(f"{_side(row, 'u')} x {_side(row, 'e')}", *cells) for row, cells in lines])


def _narrow(header: Sequence[str], lines: Sequence[_Line], width: int) -> str:
    """Pairs by what tells them apart, with their step and the source of the episodes in columns of their own."""
    given = [(_model(row, "u"), _model(row, "e")) for row, _ in lines]
    models = list(dict.fromkeys(pair for pair in given if not pair[0].startswith(PIXELS)))
    short, about = shorten_pairs(models)
    names = dict(zip(models, short, strict=True))
    ends = {second: name for (_, second), name in names.items()}
    rows = []
    for pair, (row, cells) in zip(given, lines, strict=True):
        name = names.get(pair) or f"{pair[0]} x {ends.get(pair[1], pair[1])}"
        heads = "-" if row["fit_source"] == row["source_u"] else str(row["fit_source"])
        rows.append((name, _step(row), str(row["source_e"]), *cells, heads))
    heads_of = ("pair", "step", "episodes", *("fit" if name == "steps" else name for name in header[1:]), "heads from")
    table = fitted_table(heads_of, rows, width=width, spare=[name for name in _SPARE if name in heads_of])
    return f"{about}\n{table}" if about else table


def _model(row: Any, side: str) -> str:
    layer = f" [{row[f'layer_{side}']}]" if row[f"layer_{side}"] != side else ""
    name = row["understanding" if side == "u" else "execution"]
    return str(name) if name == PIXELS else f"{name}{layer}"


def _step(row: Any) -> str:
    """Of both models, or of each where they differ; untrained is said where the step does not say it."""
    sides = ["e"] if str(row["understanding"]).startswith(PIXELS) else ["u", "e"]
    told = dict.fromkeys(
        f"{row[f'step_{side}']}" + ("" if row[f"trained_{side}"] or row[f"step_{side}"] == 0 else " untrained")
        for side in sides
    )
    return "/".join(told)


def _tested(row: Any) -> str:
    """How many episodes were ranked, and in galleries of how many where those were not all others.

    >>> _tested({"n_test": 150000, "n_gallery": 20000}), _tested({"n_test": 60, "n_gallery": 59})
    ('150000 in 20000', '60')
    """
    return f"{row['n_test']}" + (f" in {row['n_gallery']}" if row["n_gallery"] + 1 < row["n_test"] else "")


def _steps(row: Any) -> str:
    """How long the heads were fitted, marked where the loss of some fits was not flat; tables of earlier versions: -.

    >>> _steps({"fit_steps": 400.0, "fit_lr": 0.01, "fit_converged": 0.5})
    '400 at 0.01 (50% not flat)'
    """
    if math.isnan(row["fit_steps"]):
        return "-"
    mark = "" if row["fit_converged"] == 1 else f" ({1 - row['fit_converged']:.0%} not flat)"
    return f"{row['fit_steps']:.0f} at {row['fit_lr']:g}{mark}"


def convergence_note(frame: pd.DataFrame) -> str | None:
    """A sentence on fits that ended before their training loss was flat; None where there are none."""
    fits = frame[(frame["statistic"] == "seed") & (frame["metric"] == "recall@1") & (frame["direction"] == "mean")]
    fits = fits[fits["fit_converged"].notna()]
    open_ended = fits[fits["fit_converged"] == 0]
    if open_ended.empty:
        return None
    longest = int(open_ended["fit_steps"].max())
    return (
        f"{len(open_ended)} of {len(fits)} measured fits ended (after {longest} steps at most) before their training "
        "loss was flat: a longer fit (--steps) may change their recall"
    )


def _contrasts(frame: pd.DataFrame) -> "list[_Line]":
    """Success minus failure of each side: over all test episodes, and inside tasks."""
    lines: list[_Line] = []
    for name, where in _CONTRASTS.items():
        rows = frame[(frame["metric"] == name) & (frame["direction"] == "mean") & (frame["statistic"] == "mean")]
        for _, row in rows.iterrows():
            side = str(row["split"]).removesuffix("-success")
            number = "2 x " + (f"{row['n_test']}" if where == "all" else f"{row['n_test']} in {row['n_groups']} tasks")
            cells = (
                str(row["holdout"]),
                side + (" (shared probe)" if row["mode"] == "shared-probe" else ""),
                where,
                f"{row['value']:+z.3f}",
                "none" if math.isnan(row["ci_low"]) else _possible(row["ci_low"], row["ci_high"]),
                number,
            )
            lines.append((row, cells))
    return lines


def _possible(low: float, high: float) -> str:
    """An interval of a difference of shares, without what no difference can be.

    >>> _possible(-0.546, 1.046)
    '-0.546 to +1.000'
    """
    return f"{max(low, -1.0):+z.3f} to {min(high, 1.0):+z.3f}"


def _side(row: Any, side: str) -> str:
    model = row["understanding" if side == "u" else "execution"]
    source = f" on {row['source_e']}" if side == "e" and row["source_e"] != "demos" else ""
    if side == "e" and row["fit_source"] != row["source_u"]:
        source += f", heads from {row['fit_source']}"
    layer = f" [{row[f'layer_{side}']}]" if row[f"layer_{side}"] != side else ""
    return f"{model} step {row[f'step_{side}']}{'' if row[f'trained_{side}'] else ' untrained'}{layer}{source}"
