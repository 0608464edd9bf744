"""The tables of action recognition: one row per episode, one per task, and the shape of the paper's Table 1."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.proportions import mean_interval, wilson_interval
from mnprobe.features.recognition import ALL_EPISODES, ALL_TASKS, COLUMNS, PREDICTION_COLUMNS, Ranking
from mnprobe.features.table import Columns
from mnprobe.features.tidy import Tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PREDICTIONS", "RECOGNITION", "TOP", "format_recognition", "prediction_rows", "recognition_rows"]

TOP = 5
"""Beside the best text, whether the own one is among so many."""
RECOGNITION = Tidy(
    name="recognition",
    columns=COLUMNS,
    key=("model", "step", "source", "partition", "task"),
    whole=("step", "n", "correct", "correct5", "candidates"),
    real=("top1", "top5", "ci_low", "ci_high", "top5_low", "top5_high", "chance", "chance5"),
    truth=("trained", "zero_shot"),
)
"""results/recognition.csv."""
PREDICTIONS = Tidy(
    name="predictions",
    columns=PREDICTION_COLUMNS,
    key=("model", "step", "source", "id"),
    whole=("step", "correct", "rank"),
    real=("margin",),
)
"""results/predictions.csv."""
_WIDTH = 120


def prediction_rows(
    head: Mapping[str, Any], episodes: Columns, candidates: Sequence[str], ranking: Ranking
) -> list[dict[str, Any]]:
    """One row per episode; `head` gives model, training, step, source and config_hash."""
    own = {name: head[name] for name in ("model", "training", "step", "source", "config_hash")}
    return [
        own
        | {name: str(episodes[name][i]) for name in ("partition", "id", "task", "instruction")}
        | {
            "prediction": candidates[int(ranking.best[i])],
            "correct": int(ranking.correct[i]),
            "rank": int(ranking.rank[i]),
            "margin": float(ranking.margin[i]),
        }
        for i in range(len(ranking.rank))
    ]


def recognition_rows(
    head: Mapping[str, Any], tasks: Sequence[str], ranking: Ranking, candidates: int
) -> list[dict[str, Any]]:
    """One row per task, by alphabet, then ALL_TASKS and ALL_EPISODES; `head` gives the columns that say what it is.

    `candidates` is the number of texts among which one was chosen.
    """
    chance = {"chance": 1 / candidates, "chance5": min(TOP, candidates) / candidates, "candidates": candidates}
    names = np.array(tasks)
    first, among = ranking.rank == 1, ranking.rank <= TOP
    kinds = [str(task) for task in sorted(set(tasks))]
    n = [int((names == task).sum()) for task in kinds]
    right, right5 = ([int(hit[names == task].sum()) for task in kinds] for hit in (first, among))
    rows = [_share(task, *numbers) for task, *numbers in zip(kinds, n, right, right5, strict=True)]
    overall = _share(ALL_EPISODES, sum(n), sum(right), sum(right5))
    by_task = overall | {
        "task": ALL_TASKS,
        "top1": float(np.mean([row["top1"] for row in rows])),
        "top5": float(np.mean([row["top5"] for row in rows])),
    }
    by_task["ci_low"], by_task["ci_high"] = mean_interval(right, n)
    by_task["top5_low"], by_task["top5_high"] = mean_interval(right5, n)
    return [dict(head) | row | chance for row in (*rows, by_task, overall)]


def _share(task: str, n: int, correct: int, correct5: int) -> dict[str, Any]:
    low, high = wilson_interval(correct, n)
    low5, high5 = wilson_interval(correct5, n)
    counts = {"task": task, "n": n, "correct": correct, "correct5": correct5}
    limits = {"ci_low": low, "ci_high": high, "top5_low": low5, "top5_high": high5}
    return counts | {"top1": correct / n, "top5": correct5 / n} | limits


def format_recognition(table: "pd.DataFrame", *, width: int = _WIDTH) -> str:
    """`table` in the shape of the paper's Table 1: a line per model and step, a column per task and average.

    Cells are top-1 in percent with the 95 % interval; lines that would be wider than `width` go on in a further block.
    """
    blocks = []
    for (source, partition), part in table.groupby(["source", "partition"], sort=True):
        tasks = sorted(set(part["task"]) - {ALL_TASKS, ALL_EPISODES})
        lines = [_line(name, rows, tasks) for name, rows in part.groupby(["model", "step"], sort=True)]
        sizes = part.drop_duplicates("task").set_index("task")["n"]
        header = ["", *(f"{task} n={sizes[task]}" for task in (*tasks, ALL_TASKS, ALL_EPISODES))]
        header += ["top-5, all tasks", "chance"]
        title = f"top-1 recognition on {source} ({partition}), % [95 % interval]"
        blocks.append(title + "\n" + _wrapped([header, *lines], width))
    return "\n\n".join(blocks)


def _line(name: Any, rows: "pd.DataFrame", tasks: Sequence[str]) -> list[str]:
    model, step = name
    cells: dict[str, Mapping[Any, Any]] = {row["task"]: row for row in rows.to_dict("records")}
    any_row = cells[ALL_TASKS]
    state = " (zero-shot)" if any_row["zero_shot"] else "" if any_row["trained"] else " (untrained)"
    found = [f"{model} {step}{state}"]
    found += [_cell(cells.get(task), "top1", "ci_low", "ci_high") for task in (*tasks, ALL_TASKS, ALL_EPISODES)]
    found.append(_cell(any_row, "top5", "top5_low", "top5_high"))
    found.append(f"{100 * any_row['chance']:.1f} (1 of {any_row['candidates']})")
    return found


def _cell(row: Mapping[Any, Any] | None, value: str, low: str, high: str) -> str:
    if row is None or math.isnan(row[value]):
        return "-"
    return f"{100 * row[value]:.1f} [{100 * row[low]:.1f}, {100 * row[high]:.1f}]"


def _wrapped(lines: Sequence[Sequence[str]], width: int) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        taken = widths[0] + sum(3 + widths[i] for i in blocks[-1])
        if blocks[-1] and taken + 3 + widths[column] > width:
            blocks.append([])
        blocks[-1].append(column)
    return "\n\n".join(
        "\n".join("   ".join(line[i].ljust(widths[i]) for i in (0, *columns)).rstrip() for line in lines)
        for columns in blocks
    )
