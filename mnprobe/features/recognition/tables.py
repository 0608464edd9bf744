"""Result tables of action recognition and of forgetting on natural videos."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.errors import FeatureError
from mnprobe.core.proportions import mcnemar, mean_interval, mean_paired_interval, paired_interval, wilson_interval
from mnprobe.core.table import TERMINAL, TableSchema, text_table
from mnprobe.features.schema import Columns
from mnprobe.features.text_ranking import ALL_EPISODES, ALL_TASKS, COLUMNS, PREDICTION_COLUMNS, Ranking

__all__ = [
    "ALL_CLASSES",
    "ALL_VIDEOS",
    "FORGETTING",
    "PREDICTIONS",
    "RECOGNITION",
    "TOP",
    "VIDEO_PREDICTIONS",
    "forgetting_rows",
    "format_forgetting",
    "format_recognition",
    "prediction_rows",
    "recognition_rows",
    "video_prediction_rows",
]

if TYPE_CHECKING:
    import pandas as pd


TOP = 5
"""Beside the best text, whether the own one is among so many."""
RECOGNITION = TableSchema(
    name="recognition",
    command="recognize",
    error=FeatureError,
    columns=COLUMNS,
    key=("model", "step", "source", "partition", "task"),
    whole=("step", "n", "correct", "correct5", "candidates"),
    real=("top1", "top5", "ci_low", "ci_high", "top5_low", "top5_high", "chance", "chance5"),
    truth=("trained", "zero_shot"),
    nullable=("correct5",),
)
"""results/recognition.csv."""
PREDICTIONS = TableSchema(
    name="predictions",
    command="recognize",
    error=FeatureError,
    columns=PREDICTION_COLUMNS,
    key=("model", "step", "source", "id"),
    whole=("step", "correct", "rank"),
    real=("margin",),
    nullable=("rank",),
)
"""results/predictions.csv."""


def prediction_rows(
    head: Mapping[str, Any], episodes: Columns, candidates: Sequence[str], ranking: Ranking
) -> list[dict[str, Any]]:
    """Build one row per episode; `head` gives model, training, step, source and config_hash."""
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


def video_prediction_rows(
    head: Mapping[str, Any], names: Sequence[str], labels: Sequence[str], classes: Sequence[str], ranking: Ranking
) -> list[dict[str, Any]]:
    """Build one row per video, with its name and class; `classes` are the candidates, in the order of the ranking."""
    own = {name: head[name] for name in ("model", "step", "videos", "settings_hash", "config_hash")}
    return [
        own
        | {
            "name": name,
            "label": label,
            "prediction": classes[int(ranking.best[i])],
            "correct": int(ranking.correct[i]),
            "rank": int(ranking.rank[i]),
            "margin": float(ranking.margin[i]),
        }
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def recognition_rows(
    head: Mapping[str, Any], tasks: Sequence[str], ranking: Ranking, candidates: int
) -> list[dict[str, Any]]:
    """Build one row per task, sorted, then ALL_TASKS and ALL_EPISODES; `head` gives the identifying columns.

    `candidates` is the number of candidate texts.
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


def format_recognition(table: "pd.DataFrame", *, width: int | None = TERMINAL) -> str:
    """Format `table` like the paper's Table 1: a line per model and step, a column per task and average.

    Cells are top-1 in percent with the 95 % interval; lines wider than `width` continue in a further block.
    """
    blocks = []
    for (source, partition), part in table.groupby(["source", "partition"], sort=True):
        tasks = sorted(set(part["task"]) - {ALL_TASKS, ALL_EPISODES})
        lines = [_line(name, rows, tasks) for name, rows in part.groupby(["model", "step"], sort=True)]
        sizes = part.drop_duplicates("task").set_index("task")["n"]
        header = ["", *(f"{task} n={sizes[task]}" for task in (*tasks, ALL_TASKS, ALL_EPISODES))]
        header += ["top-5, all tasks", "chance"]
        title = f"top-1 recognition on {source} ({partition}), % [95 % interval]"
        blocks.append(title + "\n" + text_table(header, lines, gap=3, width=width))
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


if TYPE_CHECKING:
    import pandas as pd


ALL_CLASSES = "all classes"
"""In the column `label`: the mean over classes, with equal weights."""
ALL_VIDEOS = "all videos"
"""In the column `label`: the mean over videos."""

FORGETTING = TableSchema(
    name="forgetting",
    command="recognize",
    error=FeatureError,
    columns=(
        *("model", "training", "step", "trained", "zero_shot", "videos", "label", "n", "correct", "top1"),
        *("ci_low", "ci_high", "chance", "candidates", "reference_step", "difference", "difference_low"),
        *("difference_high", "lost", "gained", "p_mcnemar", "broken", "template", "checkpoint_sha256"),
        *("settings_hash", "config_hash", "created"),
    ),
    key=("model", "step", "videos", "label"),
    whole=("step", "n", "correct", "candidates", "reference_step", "lost", "gained", "broken"),
    real=(*("top1", "ci_low", "ci_high", "chance", "difference", "difference_low", "difference_high", "p_mcnemar"),),
    truth=("trained", "zero_shot"),
)
"""results/forgetting.csv: one row per model, step, folder of videos and class, then ALL_CLASSES and ALL_VIDEOS.

top1 with its 95 % interval (Wilson; of ALL_CLASSES recovered from the classes' own); `difference` is top1 minus that of
the same model at `reference_step`, its first measured step, on the same videos: negative values mean forgetting. Its 95
% interval is that of paired proportions (Newcombe's method 10). lost, gained: videos recognised only at the reference
step, only at this step; p_mcnemar: exact McNemar test. broken: unreadable files, which were skipped.
"""
VIDEO_PREDICTIONS = TableSchema(
    name="video predictions",
    command="recognize",
    error=FeatureError,
    columns=(
        *("model", "step", "videos", "name", "label", "prediction", "correct", "rank", "margin"),
        *("settings_hash", "config_hash"),
    ),
    key=("model", "step", "videos", "name"),
    whole=("step", "correct", "rank"),
    real=("margin",),
)
"""results/video_predictions.csv: one row per model, step and video; columns as in results/predictions.csv."""


def forgetting_rows(
    head: Mapping[Any, Any], labels: Sequence[str], now: Sequence[int], then: Sequence[int], *, candidates: int
) -> list[dict[str, Any]]:
    """Build the rows of one model at one step: each class, sorted, then ALL_CLASSES and ALL_VIDEOS.

    Args:
        head: identifying columns, with `step` and `reference_step`; if these are equal, the difference is 0 without an
            interval.
        labels: class of each video.
        now, then: 1 where the video is recognised at this step and at the reference, else 0.
        candidates: number of classes.
    """
    names, right, before = np.array(labels), np.array(now) == 1, np.array(then) == 1
    compared = head["step"] != head["reference_step"]
    classes = [str(label) for label in sorted(set(labels))]
    tables = [_table(right[names == label], before[names == label]) for label in classes]
    rows = [_row(label, table, compared) for label, table in zip(classes, tables, strict=True)]
    overall = _row(ALL_VIDEOS, _table(right, before), compared)
    by_class = overall | {
        "label": ALL_CLASSES,
        "top1": float(np.mean([row["top1"] for row in rows])),
        "difference": float(np.mean([row["difference"] for row in rows])),
        "p_mcnemar": math.nan,
    }
    by_class["ci_low"], by_class["ci_high"] = mean_interval([r["correct"] for r in rows], [r["n"] for r in rows])
    if compared:
        by_class["difference_low"], by_class["difference_high"] = mean_paired_interval(tables)
    common = {"chance": 1 / candidates, "candidates": candidates}
    return [dict(head) | row | common for row in (*rows, by_class, overall)]


def format_forgetting(table: "pd.DataFrame", *, width: int | None = None) -> str:
    """Format `table` as text: classes as lines, steps of each model as columns, and the difference to the first
    step; lines wider than `width` continue in a further block."""
    blocks = []
    for (videos, model), part in table.groupby(["videos", "model"], sort=True):
        steps = sorted(set(part["step"]))
        cells = {(row["label"], row["step"]): row for row in part.to_dict("records")}
        classes = sorted(set(part["label"]) - {ALL_CLASSES, ALL_VIDEOS})
        some: Mapping[Any, Any] = next(iter(cells.values()))
        lines = []
        for label in (*classes, ALL_CLASSES, ALL_VIDEOS):
            counts = {cells[label, step]["n"] for step in steps if (label, step) in cells}
            size = "-".join(map(str, sorted(counts)))
            lines.append([f"{label} n={size}", *(_forgetting_cell(cells.get((label, step))) for step in steps)])
        title = f"{model} on {videos}: top-1, % [95 % interval]; chance {100 * some['chance']:.1f}"
        table_text = text_table(["", *(_title(cells[ALL_VIDEOS, step]) for step in steps)], lines, gap=3, width=width)
        blocks.append("\n".join([title, table_text, *(_verdict(cells[ALL_VIDEOS, step]) for step in steps[1:])]))
    return "\n\n".join(blocks)


def _table(right: Any, before: Any) -> tuple[int, int, int, int]:
    """Count videos recognised both times, only before, only now, never."""
    counts = (right & before, ~right & before, right & ~before, ~right & ~before)
    both, lost, gained, neither = (int(kind.sum()) for kind in counts)
    return both, lost, gained, neither


def _row(label: str, table: tuple[int, int, int, int], compared: bool) -> dict[str, Any]:
    both, lost, gained, _ = table
    n, correct = sum(table), both + gained
    low, high = wilson_interval(correct, n)
    change = paired_interval(*table) if compared else (math.nan, math.nan)
    return {
        "label": label,
        "n": n,
        "correct": correct,
        "top1": correct / n,
        "ci_low": low,
        "ci_high": high,
        "difference": (gained - lost) / n,
        "difference_low": change[0],
        "difference_high": change[1],
        "lost": lost,
        "gained": gained,
        "p_mcnemar": mcnemar(lost, gained) if compared else math.nan,
    }


def _title(row: Mapping[Any, Any]) -> str:
    state = " (zero-shot)" if row["zero_shot"] else "" if row["trained"] else " (untrained)"
    return f"step {row['step']}{state}"


def _forgetting_cell(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{100 * row['top1']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def _verdict(row: Mapping[Any, Any]) -> str:
    low, high = row["difference_low"], row["difference_high"]
    if math.isnan(low):
        return f"step {row['step']}: not compared"
    word = "forgot" if high < 0 else "gained" if low > 0 else "no change beyond chance"
    return (
        f"step {row['step']} less step {row['reference_step']}: {100 * row['difference']:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], lost {row['lost']}, gained {row['gained']}, "
        f"p = {row['p_mcnemar']:.3g} (exact McNemar): {word}"
    )
