"""Reading the tables of recognition, success and ablation that other commands write, with their types."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mnprobe.analysis.success_table import SUCCESS_COLUMNS
from mnprobe.analysis.tables import numbers, read_table, truths
from mnprobe.core.commands import command_of
from mnprobe.features.recognition import COLUMNS, PREDICTION_COLUMNS

__all__ = [
    *("ABLATION_COLUMNS", "read_ablation", "read_predictions", "read_recognition", "read_success"),
    "settled_recognition",
]

ABLATION_COLUMNS = (
    *("pairing", "tau", "training", "seed", "understanding", "execution"),
    *("n_understanding", "n_execution"),
)
"""What is read of results/ablation.csv; intervals are read from ci_low_understanding, ci_high_understanding,
ci_low_execution and ci_high_execution where these are there."""

_INTERVALS = tuple(f"{end}_{side}" for side in ("understanding", "execution") for end in ("ci_low", "ci_high"))


def read_recognition(path: Path) -> pd.DataFrame:
    """results/recognition.csv; ProbeError names a column or cell that does not belong."""
    table = read_table(path, COLUMNS, command=command_of(path, "recognize"))
    return _typed(
        table, path, whole=("step",), real=("n", "correct", "top1", "ci_low", "ci_high", "chance", "candidates")
    )


def read_predictions(path: Path) -> pd.DataFrame:
    """results/predictions.csv, one row per model, step, source and episode."""
    table = read_table(path, PREDICTION_COLUMNS, command=command_of(path, "recognize"))
    return _typed(table, path, whole=("step", "correct"))


def read_success(path: Path) -> pd.DataFrame:
    """results/success.csv; ProbeError names a column or cell that does not belong."""
    table = read_table(path, SUCCESS_COLUMNS, command=command_of(path, "rollout"))
    words = ("world", "model", "task")
    real = tuple(name for name in SUCCESS_COLUMNS if name not in (*words, "step", "n", "successes", "repeats"))
    return _typed(table, path, whole=("step", "n", "successes", "repeats"), real=real)


def read_ablation(path: Path) -> pd.DataFrame:
    """results/ablation.csv, with the columns of intervals (NaN where the file has none)."""
    table = read_table(path, ABLATION_COLUMNS, command=command_of(path, "ablate"))
    for name in _INTERVALS:
        side, end = name.rpartition("_")[2], name.rpartition("_")[0]
        if name not in table:
            table[name] = table.get(f"{side}_{end}", "")
    real = ("tau", "understanding", "execution", "n_understanding", "n_execution", *_INTERVALS)
    return _typed(table, path, real=real)


def settled_recognition(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of one source and partition: demonstrations and test where there are several; and which in words."""
    source = _preferred(table["source"], "demos")
    table = table[table["source"] == source]
    partition = _preferred(table["partition"], "test")
    table = table[table["partition"] == partition]
    return table, f"{source}, {partition}"


def _preferred(column: "pd.Series[str]", first: str) -> str:
    values = sorted(set(column))
    return first if first in values else values[0]


def _typed(table: pd.DataFrame, path: Path, *, whole: Sequence[str] = (), real: Sequence[str] = ()) -> pd.DataFrame:
    for name in ("trained", "zero_shot"):
        if name in table:
            table[name] = truths(table[name], name, path)
    for name in (*whole, *real):
        table[name] = numbers(table[name], name, path, whole=name in whole)
    return table
