"""Training metrics: metrics.csv, TensorBoard scalars and the progress line."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnprobe.core.files import write_text

__all__ = ["METRICS_NAME", "RunningMeans", "TrainLog", "read_metrics", "short_losses"]

METRICS_NAME = "metrics.csv"
_FIELDS = ("update", "name", "value")


class RunningMeans:
    """Running means since the last logged row; the content is part of the training's state.

    >>> window = RunningMeans()
    >>> window.add({"au": 1.0})
    >>> window.add({"au": 3.0, "ee": 2.0})
    >>> window.means()
    {'au': 2.0, 'ee': 2.0}
    """

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.sums: dict[str, tuple[float, int]] = dict(sums or {})

    def add(self, values: Mapping[str, float]) -> None:
        """Add the values of one update; updates may have different names."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    def means(self) -> dict[str, float]:
        """Mean of each value over the updates that reported it."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    def clear(self) -> None:
        """Reset all sums and counts."""
        self.sums = {}


class TrainLog:
    """Write `metrics.csv` (update, name, value) and TensorBoard event files into a folder.

    Args:
        folder: target folder.
        done: number of finished updates. Rows of later updates, written by a process that stopped before it saved its
            state, are dropped; these updates are repeated.
    """

    def __init__(self, folder: Path, *, done: int) -> None:
        from tensorboardX import SummaryWriter  # takes a second to import

        self._table = folder / METRICS_NAME
        rows = [row for row in read_metrics(self._table) if row[0] <= done]
        write_text(self._table, "".join(_line(row) for row in [_FIELDS, *rows]))
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """One row per value; `update` counts from 1."""
        with self._table.open("a", encoding="utf-8", newline="") as file:
            file.writelines(_line((update, name, repr(value))) for name, value in values.items())
        for name, value in values.items():
            self._board.add_scalar(name, value, update)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        self._board.close()


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """Read the rows of a `metrics.csv`; an incomplete last line of an interrupted process is ignored."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [(int(row["update"]), row["name"], float(row["value"])) for row in csv.DictReader(whole)]


def short_losses(values: Mapping[str, float]) -> str:
    """Format the main losses for the progress line.

    >>> short_losses({"ee": 12.345, "ee/grip.ce_loss": 0.7, "au": 3.2})
    'au 3.20 ee 12.35'
    """
    shown = [name for name in ("au", "ee", "align") if name in values and math.isfinite(values[name])]
    return " ".join(f"{name} {values[name]:.2f}" for name in shown)


def _line(row: tuple[Any, ...]) -> str:
    return ",".join(str(value) for value in row) + "\n"
