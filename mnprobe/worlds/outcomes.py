"""Outcomes of played episodes, one row each, and the table of success rates."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from mnprobe.core.commands import command_of
from mnprobe.core.errors import DataError
from mnprobe.core.files import write_text
from mnprobe.core.table import TableSchema
from mnprobe.data import OUTCOMES_FILE
from mnprobe.worlds.environment import Reason

__all__ = ["ALL_TASKS", "SUCCESS", "SUCCESS_COLUMNS", "Outcome", "read_played", "write_outcomes"]

ALL_TASKS = "all tasks"
"""In the column `task`: the mean over tasks, each task counting alike."""

SUCCESS_COLUMNS = (
    *("world", "model", "step", "task", "value", "ci_low", "ci_high", "n", "successes", "repeats", "sd_repeats"),
    *("mean_steps", "step_limit", "unreachable_pose", "collision", "invalid_action"),
)
SUCCESS = TableSchema(
    name="success",
    columns=SUCCESS_COLUMNS,
    key=("world", "model", "step", "task"),
    whole=(
        *("step", "n", "successes", "repeats"),
        *("step_limit", "unreachable_pose", "collision", "invalid_action"),
    ),
    real=("value", "ci_low", "ci_high", "sd_repeats", "mean_steps"),
    nullable=("step_limit", "unreachable_pose", "collision", "invalid_action"),
    command="rollout",
)
"""results/success.csv."""

_REASONS = [reason for reason in get_args(Reason) if reason]
_NOTE = "note"
_WHOLE = ("success", "steps", "variation", "seed", "repeat")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one episode ended.

    Attributes:
        id: the episode's id, as `open_dataset` has it.
        success: 1 or 0.
        steps: key poses executed.
        reason: "success" or why not.
        task, variation: the task.
        seed: of the scene; -1 where the scene is that of a demonstration which does not tell its seed.
        repeat: which evaluation it belongs to, from 0.
        demo: id of the demonstration whose initial state it started from, or "".
        note: what must be said of the episode (that its scene is not the recorded one), or "". The file has the
            column only where an episode has a note.
    """

    id: str
    success: int
    steps: int
    reason: str
    task: str
    variation: int
    seed: int
    repeat: int = 0
    demo: str = ""
    note: str = ""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> "Outcome":
        """From texts or numbers by field; DataError naming `where` and the field for what cannot be."""
        names = [field.name for field in fields(cls) if field.name != _NOTE]
        missing = [name for name in names if values.get(name) is None]
        if missing:
            raise DataError(f"{where}: {', '.join(missing)} missing")
        read: dict[str, Any] = {name: str(values[name]) for name in names} | {_NOTE: str(values.get(_NOTE) or "")}
        for name in _WHOLE:
            try:
                read[name] = int(read[name])
            except ValueError:
                raise DataError(f"{where}: {name} must be a whole number, got {values[name]!r}") from None
        if read["success"] not in (0, 1):
            raise DataError(f"{where}: success must be 1 or 0, got {read['success']}")
        if read["reason"] not in _REASONS:
            raise DataError(f"{where}: reason must be one of {', '.join(_REASONS)}, got {read['reason']!r}")
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """By field, for JSON; without `note` where there is none."""
        return {name: value for name, value in asdict(self).items() if name != _NOTE or value}


def write_outcomes(folder: Path, outcomes: Iterable[Outcome]) -> Path:
    """Write `outcomes.csv` of a dataset folder atomically, in the given order; return its path."""
    text = io.StringIO()
    entries = [outcome.to_dict() for outcome in outcomes]
    noted = any(_NOTE in entry for entry in entries)
    names = [field.name for field in fields(Outcome) if noted or field.name != _NOTE]
    rows = csv.DictWriter(text, names, restval="", lineterminator="\n")
    rows.writeheader()
    rows.writerows(entries)
    path = folder / OUTCOMES_FILE
    write_text(path, text.getvalue())
    return path


def read_played(folder: Path) -> list[Outcome]:
    """The outcomes of the played episodes in `folder`.

    Raises DataError, naming file, line and field, when there are none or a row cannot be understood.
    """
    path = folder / OUTCOMES_FILE
    outcomes = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            for row in rows:
                outcomes.append(Outcome.from_mapping(row, f"{path}, line {rows.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        make = command_of(path, "rollout")
        raise DataError(f"cannot read the outcomes {path}: {error}. `{make}` writes them") from error
    return outcomes
