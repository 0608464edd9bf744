"""How well each model does its own task over training: recognition and success, by training and step."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnprobe.analysis.over_seeds import mean_over_seeds
from mnprobe.analysis.results import read_recognition, read_success, settled_recognition
from mnprobe.analysis.success_table import ALL_TASKS
from mnprobe.analysis.trainings import named

__all__ = ["Progress", "recognition_progress", "success_progress"]

_KEY = ["training", "blank", "step"]
_COLUMNS = ["training", "training_seed", "blank", "step", "trained", "value", "ci_low", "ci_high", "n", "chance"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One quantity over training.

    `title` says what it is; `points` has a row per training, step and whether the instruction was blanked:
    value, ci_low, ci_high, n, chance (NaN where there is none), trained, n_trainings, sd_trainings; `trainings` the
    single trainings behind the means, where there are several.
    """

    title: str
    points: pd.DataFrame
    trainings: pd.DataFrame


def recognition_progress(path: Path, families: Iterable[str]) -> Progress | None:
    """Top-1 recognition, mean over tasks, of the models of `families`; None where the table is absent or has none.

    Raises ProbeError as `read_recognition`.
    """
    if not path.is_file():
        return None
    table, where = settled_recognition(read_recognition(path))
    rows = table[(table["task"] == ALL_TASKS)].rename(columns={"top1": "value"})
    return _progress(rows, families, title=f"Recognition, top-1, mean over tasks ({where})")


def success_progress(
    path: Path, families: Iterable[str], *, untrained: Collection[tuple[str, int]] = ()
) -> Progress | None:
    """Closed-loop success, mean over tasks, of the policies of `families`; None where the table is absent or has none.

    `untrained` names trainings and steps with random weights, which the table does not tell.

    Raises ProbeError as `read_success`.
    """
    if not path.is_file():
        return None
    table = read_success(path)
    rows = table[(table["task"] == ALL_TASKS) & (table["world"] == table["world"].iloc[0])]
    places = zip((named(str(model)).training for model in rows["model"]), rows["step"], strict=True)
    rows = rows.assign(chance=float("nan"), trained=[place not in untrained for place in places])
    return _progress(rows, families, title=f"Success, mean over tasks ({table['world'].iloc[0]})")


def _progress(rows: pd.DataFrame, families: Iterable[str], *, title: str) -> Progress | None:
    wanted = set(families)
    taken = [named(str(model)) for model in rows["model"]]
    rows = rows.assign(
        training=[one.training for one in taken],
        training_seed=[one.seed or 0 for one in taken],
        blank=[one.blank for one in taken],
    )
    rows = rows[[one.family in wanted for one in taken]][_COLUMNS]
    if rows.empty:
        return None
    single = rows[rows.duplicated(_KEY, keep=False)].reset_index(drop=True)
    points = mean_over_seeds(rows, _KEY).sort_values(_KEY, kind="stable").reset_index(drop=True)
    return Progress(title=title, points=points, trainings=single)
