"""Recognition and success over training steps, by training and world."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mnprobe.analysis.tables.alignment import mean_over_seeds
from mnprobe.analysis.tables.rollouts import ALL_TASKS, SUCCESS
from mnprobe.core.errors import FeatureError, ProbeError
from mnprobe.core.names import ModelName
from mnprobe.core.table import TableSchema
from mnprobe.features import open_features
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION

__all__ = [
    "Progress",
    "played_in",
    "recognition_progress",
    "settled_recognition",
    "success_progress",
    "world_note",
    *("ABLATION", "MEASURED_PREDICTIONS", "MEASURED_RECOGNITION"),
    *("read_ablation", "read_recognition", "read_success"),
]

_INTERVALS = tuple((side, end) for side in ("understanding", "execution") for end in ("ci_low", "ci_high"))

ABLATION = TableSchema(
    name="ablation",
    columns=(
        *("pairing", "tau", "training", "seed", "understanding", "execution", "n_understanding", "n_execution"),
        *(f"{end}_{side}" for side, end in _INTERVALS),
    ),
    key=("pairing", "tau", "training", "seed"),
    whole=("seed", "n_understanding", "n_execution"),
    real=("tau", "understanding", "execution", *(f"{end}_{side}" for side, end in _INTERVALS)),
    nullable=("seed", "n_understanding", "n_execution"),
    defaults={f"{end}_{side}": f"{side}_{end}" for side, end in _INTERVALS},
    command="ablate",
)
"""results/ablation.csv; tables without intervals are read too, with NaN."""

MEASURED_RECOGNITION = replace(RECOGNITION, error=ProbeError)
MEASURED_PREDICTIONS = replace(PREDICTIONS, error=ProbeError)
"""The tables of `mnprobe recognize` as a finished measurement that is looked at."""


def read_recognition(path: Path) -> pd.DataFrame:
    """results/recognition.csv; ProbeError names a column or cell that does not belong."""
    return MEASURED_RECOGNITION.read(path)


def read_success(path: Path) -> pd.DataFrame:
    """results/success.csv; ProbeError names a column or cell that does not belong."""
    return SUCCESS.read(path)


def read_ablation(path: Path) -> pd.DataFrame:
    """results/ablation.csv, with the columns of intervals (NaN where the file has none)."""
    return ABLATION.read(path)


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


def recognition_progress(source: Path | pd.DataFrame, families: Iterable[str]) -> Progress | None:
    """Top-1 recognition, mean over tasks, of the models of `families`; None where the table is absent or has none.

    `source` is results/recognition.csv, or what `read_recognition` gave.

    Raises ProbeError as `read_recognition`.
    """
    if isinstance(source, Path) and not source.is_file():
        return None
    table, where = settled_recognition(read_recognition(source) if isinstance(source, Path) else source)
    rows = table[(table["task"] == ALL_TASKS)].rename(columns={"top1": "value"})
    return _progress(rows, families, title=f"Recognition, top-1, mean over tasks ({where})")


def success_progress(
    source: Path | pd.DataFrame, families: Iterable[str], *, untrained: Collection[tuple[str, int]] = ()
) -> Progress | None:
    """Closed-loop success, mean over tasks, of the policies of `families`; None where the table is absent or has none.

    `source` is results/success.csv, or what `read_success` gave.

    `untrained` names trainings and steps with random weights, which the table does not tell.

    Raises ProbeError as `read_success`.
    """
    if isinstance(source, Path) and not source.is_file():
        return None
    table = read_success(source) if isinstance(source, Path) else source
    rows = table[(table["task"] == ALL_TASKS) & (table["world"] == table["world"].iloc[0])]
    places = zip((ModelName.parse(str(model)).training for model in rows["model"]), rows["step"], strict=True)
    rows = rows.assign(chance=float("nan"), trained=[place not in untrained for place in places])
    return _progress(rows, families, title=f"Success, mean over tasks ({table['world'].iloc[0]})")


def _progress(rows: pd.DataFrame, families: Iterable[str], *, title: str) -> Progress | None:
    wanted = set(families)
    taken = [ModelName.parse(str(model)) for model in rows["model"]]
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


def played_in(paths: Iterable[Path]) -> tuple[str, ...]:
    """The same for all episodes of several feature files; one that cannot be read says nothing here."""
    found: set[str] = set()
    for path in paths:
        try:
            with open_features(path) as file:
                found |= set(file.worlds)
        except FeatureError:
            continue  # whoever needs its numbers reports it
    return tuple(sorted(found))


def world_note(worlds: Iterable[str]) -> str:
    """A sentence for captions, without its full stop; empty where no world is known.

    >>> world_note(["tabletop"])
    'Episodes of the world tabletop, not to be set beside numbers from any other'
    >>> world_note([])
    ''
    """
    names = " and ".join(worlds)
    return f"Episodes of the world {names}, not to be set beside numbers from any other" if names else ""
