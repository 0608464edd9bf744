"""Typed CSV tables: schemas, atomic writing, exact reading, replacing rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.errors import FeatureError
from mnprobe.core.files import update_table, write_text

__all__ = ["Tidy"]

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Tidy:
    """One kind of table. Columns that are neither in `whole` (whole numbers), `real` nor `truth` hold text.

    `key` are the columns that say what was measured: rows that agree in all of them are of the same measurement, and
    new ones take their place. Real numbers are NaN where a cell is empty.

    >>> kind = Tidy(name="demo", columns=("model", "n"), key=("model",), whole=("n",))
    >>> old = kind.frame([{"model": "a", "n": 1}, {"model": "b", "n": 2}])
    >>> kind.replace(old, kind.frame([{"model": "a", "n": 3}])).to_dict("list")
    {'model': ['a', 'b'], 'n': [3, 2]}
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    whole: tuple[str, ...] = ()
    real: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()

    def frame(self, rows: Sequence[Mapping[Any, Any]]) -> "pd.DataFrame":
        """Rows as a table with exactly these columns, in this order and with fixed types, also when there are none."""
        import pandas as pd  # here, because help texts and feature stores need none of it

        return pd.DataFrame(list(rows), columns=pd.Index(self.columns)).astype(
            {column: self._kind(column) for column in self.columns}
        )

    def write(self, path: Path, frame: "pd.DataFrame") -> None:
        """Write as CSV, whole or not at all; numbers keep every digit."""
        write_text(path, frame.to_csv(index=False, lineterminator="\n"))

    def read(self, path: Path) -> "pd.DataFrame":
        """Read back what `write` wrote; no rows where there is no file. FeatureError when it holds something else."""
        import pandas as pd

        if not path.exists():
            return self.frame([])
        try:
            cells = pd.read_csv(path, dtype=str, keep_default_na=False)
            missing = [name for name in self.columns if name not in cells.columns]
            if missing:
                raise FeatureError(f"{path}: not a table of {self.name}: it lacks {', '.join(missing)}. Remove it.")
            rows = cells.to_dict("records")
            return self.frame([{name: self._parsed(name, str(row[name])) for name in self.columns} for row in rows])
        except (ValueError, UnicodeDecodeError) as error:
            raise FeatureError(f"{path}: cannot be read as a table of {self.name} ({error}). Remove it.") from error

    def replace(self, old: "pd.DataFrame", new: "pd.DataFrame") -> "pd.DataFrame":
        """`old` without the measurements that `new` has, then joined with it, in the order of the key."""
        import pandas as pd

        fresh = set(new[list(self.key)].itertuples(index=False, name=None))
        stays = [row not in fresh for row in old[list(self.key)].itertuples(index=False, name=None)]
        parts = [part for part in (old[np.array(stays, dtype=bool)], new) if len(part)]
        joined = pd.concat(parts, ignore_index=True) if parts else self.frame([])
        return joined.sort_values(list(self.key), kind="stable", ignore_index=True)

    def update(self, path: Path, change: "Callable[[pd.DataFrame], pd.DataFrame]") -> "pd.DataFrame":
        """Replace the table by `change` of it while others who do so wait; see `mnprobe.core.files.update_table`."""
        return update_table(path, self.read, change, self.write)

    def _kind(self, column: str) -> Any:
        if column in self.whole:
            return np.int64
        if column in self.real:
            return np.float64
        return np.bool_ if column in self.truth else object

    def _parsed(self, column: str, cell: str) -> Any:
        if column in self.whole:
            return int(cell)
        if column in self.real:
            return float(cell) if cell else float("nan")  # float() gives every digit back
        if column in self.truth:
            if cell not in ("True", "False"):
                raise ValueError(f"column {column}: {cell!r} is neither True nor False")
            return cell == "True"
        return cell
