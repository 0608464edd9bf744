"""Result tables of one run, each file parsed once."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from mnprobe.core.errors import MnprobeError
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import UNREADABLE, Cells, TableSchema, read_cells
from mnprobe.features.half_success import HALF_SUCCESS
from mnprobe.probe.results import ALIGNMENT

__all__ = ["VERDICT", "RunTables"]

_T = TypeVar("_T")

VERDICT = TableSchema(
    name="verdict",
    columns=("topic", "conclusion", "understanding", "execution", "holdout", "sentence", "alarm"),
    key=("topic", "understanding", "execution", "holdout"),
    truth=("alarm",),
    command="audit",
)
"""results/verdict.csv: conclusions in words, written by the audit and read by the report."""


class RunTables:
    """The tables under a run's results: made once by a command, and handed to everything that needs one of them.

    Each file is read and parsed when it is first needed, and kept: a file that changes later is not read again. What
    a damaged file raised is raised again at each further use. Tables are shared: do not change them in place.

    Attributes:
        run: the run directory.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._kept: dict[tuple[Path, str], object] = {}

    @classmethod
    def load(cls, run: "RunDir | RunTables") -> "RunTables":
        """The tables of `run`; nothing is read yet. Tables that are loaded already are given back as they are."""
        return run if isinstance(run, RunTables) else cls(run)

    @property
    def alignment(self) -> pd.DataFrame | None:
        """results/alignment.csv, or None where alignment was not measured; ProbeError when it is damaged."""
        return self.table(ALIGNMENT)

    @property
    def half_steps(self) -> dict[str, int]:
        """For each policy the step whose success is nearest one half, as far as it was chosen (`--step half`)."""
        table = self.table(HALF_SUCCESS)
        return {} if table is None else dict(zip(table["model"], map(int, table["step"]), strict=True))

    def table(self, schema: TableSchema) -> pd.DataFrame | None:
        """The table of `schema`, or None where the run has none; its error when the file is damaged."""
        path = self.run.results(schema.stem)
        if not path.is_file():
            return None
        return self._once(path, f"{schema.name} {schema.error}", lambda: schema.parse(path, lambda: self.cells(path)))

    def cells(self, path: Path) -> Cells:
        """A file of the run as text; raises as `mnprobe.core.table.read_cells`."""
        return self._once(path, "", lambda: read_cells(path))

    def _once(self, path: Path, kind: str, make: Callable[[], _T]) -> _T:
        key = path, kind
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except (MnprobeError, *UNREADABLE) as error:
                self._kept[key] = error
        found = self._kept[key]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[return-value]  # kept under the key of what makes it
