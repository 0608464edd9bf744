"""Forgetting: what a video model still recognises of natural videos after it was trained on something else."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.proportions import mcnemar, mean_interval, mean_paired_interval, paired_interval, wilson_interval
from mnprobe.features.tidy import Tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ALL_CLASSES", "ALL_VIDEOS", "FORGETTING", "VIDEO_PREDICTIONS", "forgetting_rows", "format_forgetting"]

ALL_CLASSES = "all classes"
"""In the column `label`: the mean over classes, each counting alike."""
ALL_VIDEOS = "all videos"
"""In the column `label`: the mean over videos."""

FORGETTING = Tidy(
    name="forgetting",
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

top1 with its 95 % interval (Wilson; of ALL_CLASSES recovered from the classes' own); `difference` is top1 less that of
the same model at `reference_step`, its first measured step, on the same videos: below 0 the model forgot. Its 95 %
interval is of paired proportions (Newcombe's method 10). lost, gained: videos that were recognised only then, only now;
p_mcnemar: exact, that both are equally likely. broken: files that could not be read and were left out.
"""
VIDEO_PREDICTIONS = Tidy(
    name="video predictions",
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
    """Rows of one model at one step: each class by alphabet, then ALL_CLASSES and ALL_VIDEOS.

    Args:
        head: the columns that say what it is, `step` and `reference_step` among them; where both are equal there is
            nothing to compare, and the difference is 0 without an interval.
        labels: class of each video.
        now, then: 1 where the video is recognised at this step and at the reference, else 0.
        candidates: number of classes chosen from.
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


def format_forgetting(table: "pd.DataFrame") -> str:
    """`table` for people: classes as lines, steps of each model as columns; the difference to the first step last."""
    blocks = []
    for (videos, model), part in table.groupby(["videos", "model"], sort=True):
        steps = sorted(set(part["step"]))
        cells = {(row["label"], row["step"]): row for row in part.to_dict("records")}
        classes = sorted(set(part["label"]) - {ALL_CLASSES, ALL_VIDEOS})
        some: Mapping[Any, Any] = next(iter(cells.values()))
        lines = [["", *(_title(cells[ALL_VIDEOS, step]) for step in steps)]]
        for label in (*classes, ALL_CLASSES, ALL_VIDEOS):
            counts = {cells[label, step]["n"] for step in steps if (label, step) in cells}
            size = "-".join(map(str, sorted(counts)))
            lines.append([f"{label} n={size}", *(_cell(cells.get((label, step))) for step in steps)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        title = f"{model} on {videos}: top-1, % [95 % interval]; chance {100 * some['chance']:.1f}"
        table_text = "\n".join(
            "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        blocks.append("\n".join([title, table_text, *(_verdict(cells[ALL_VIDEOS, step]) for step in steps[1:])]))
    return "\n\n".join(blocks)


def _table(right: Any, before: Any) -> tuple[int, int, int, int]:
    """Numbers of videos recognised both times, only before, only now, never."""
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


def _cell(row: Mapping[Any, Any] | None) -> str:
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
