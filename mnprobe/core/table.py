"""Tables: typed CSV files, and aligned text for a terminal."""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.commands import command_of
from mnprobe.core.errors import MnprobeError, ProbeError
from mnprobe.core.files import update_table, write_text
from mnprobe.core.labels import is_missing

__all__ = ["UNREADABLE", "Cells", "TableSchema", "read_cells", "text_table", "typed_cells", "write_table"]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

UNREADABLE = (OSError, ValueError, csv.Error)
"""What `read_cells` and `Cells.frame` raise for a file that is absent or no table."""

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


@dataclass(frozen=True)
class Cells:
    """A CSV file as text: the names of its columns, and its rows, every cell as the file has it."""

    header: tuple[str, ...]
    rows: list[list[str]]

    def frame(self) -> "pd.DataFrame":
        """All columns as text ('NA' is a name like any other). ValueError where a row has another number of cells."""
        import pandas as pd

        for line, row in enumerate(self.rows, start=2):
            if len(row) != len(self.header):
                raise ValueError(f"row {line}: {len(row)} cells under {len(self.header)} columns")
        return pd.DataFrame(self.rows, columns=pd.Index(self.header), dtype=object)


def read_cells(path: Path) -> Cells:
    """Read a CSV file as text, without types; the one parser of this package's tables.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: the file is absent, not UTF-8, or not CSV.
    """
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    return Cells(tuple(rows[0]) if rows else (), rows[1:])


def typed_cells(cells: Sequence[str]) -> list[Any]:
    """A column as whole numbers or floats if all cells that are not empty are written as such, else as it is.

    >>> typed_cells(["3", "", "12"]), typed_cells(["0.5", "2"]), typed_cells(["007", "1"])
    ([3, None, 12], [0.5, 2.0], ['007', '1'])
    """
    given = [cell for cell in cells if not is_missing(cell)]
    if not given or not all(_REAL.fullmatch(cell) for cell in given):
        return list(cells)
    if all(_WHOLE.fullmatch(cell) for cell in given):
        return [None if is_missing(cell) else int(cell) for cell in cells]
    if any(re.match(r"[+-]?0\d", cell) for cell in given):  # codes such as 007 are names
        return list(cells)
    return [None if is_missing(cell) else float(cell) for cell in cells]


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write any table as CSV, atomically; numbers keep every digit, and the same table gives the same bytes."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    gap: int = 2,
    width: int | None = None,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Rows of cells as plain text in aligned columns: nothing is colored, wrapped or cut, no line ends in spaces.

    Args:
        columns: the heads; none for a table without heads.
        rows: cells of each row.
        gap: spaces between two columns.
        width: columns that do not fit into so many characters go into further blocks, under the first column again.
        groups: heads above the heads, each with the number of columns that it spans.

    >>> print(text_table(["model", "n"], [["viclip", "7"], ["arp", "12"]]))
    model   n
    viclip  7
    arp     12
    """
    from rich.cells import cell_len
    from rich.console import Console  # costs 0.1 s: only when a table is printed

    lines = [list(map(str, line)) for line in ((columns, *rows) if columns else rows)]
    if not lines:
        return ""
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    blocks: list[list[int]] = [[]]
    for place in range(1, len(widths)):
        taken = widths[0] + sum(gap + widths[column] for column in (*blocks[-1], place))
        if width is not None and blocks[-1] and taken > width:
            blocks.append([])
        blocks[-1].append(place)
    texts = []
    for block in blocks:
        shown = [[line[place] for place in (0, *block)] for line in lines]
        table = _aligned(shown, gap) if not groups else _grouped(shown, groups, gap)
        room = sum(widths) + sum(cell_len(name) for name, _ in groups) + gap * len(widths) + 1
        console = Console(
            file=io.StringIO(), width=room, height=25, color_system=None, force_terminal=False, force_jupyter=False
        )
        with console.capture() as captured:
            console.print(table, soft_wrap=False)
        texts.append("\n".join(line.rstrip(" ") for line in captured.get().rstrip("\n").split("\n")))
    return "\n\n".join(texts)


def _aligned(lines: Sequence[Sequence[str]], gap: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, gap, 0, 0))
    for _ in lines[0]:
        table.add_column(no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line))  # as Text, "[0.1, 0.2]" is no markup
    return table


def _grouped(lines: Sequence[Sequence[str]], groups: Sequence[tuple[str, int]], gap: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table, place = Table.grid(padding=(0, gap, 0, 0)), 0
    parts = []
    for _, span in groups:
        table.add_column(no_wrap=True)
        parts.append(_aligned([line[place : place + span] for line in lines], gap))
        place += span
    table.add_row(*(Text(name) for name, _ in groups))
    table.add_row(*parts)
    return table


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """One kind of table: its columns with their types, its key, and what an unreadable file raises.

    Rules of reading, for each type of column:

    - text (all columns not named below): each cell as the file has it; an empty one is "".
    - `whole`: int64. Decimal digits, also with a fraction of zeros ("5.0"). In columns that are `nullable` too, empty
      cells are allowed; where there are any, the column is float64 with NaN.
    - `real`: float64, exactly the number that was written; an empty cell and "nan" are NaN.
    - `truth`: bool. "True" or "False" in any case, or "1" or "0".

    Attributes:
        name: in messages; with "_" for spaces the stem of the file in a run's results.
        columns: all columns, in the order of the file.
        key: the columns that say what was measured. Rows that agree in all of them are of the same measurement, and
            new ones replace old ones.
        whole, real, truth, nullable: names of columns, see above.
        defaults: columns that tables of earlier versions do not have, each with the column whose cells take their
            place (`fit_source` is then `source_u`), or "" where empty cells do.
        unknown: those of `defaults` whose empty cells are no reason to make a table again: it is continued with them.
        more: further columns may follow; they keep their place, and are text where no type is named for them.
        command: name of the mnprobe command that writes the table.
        error: what is raised for a file that cannot be read.

    >>> schema = TableSchema(name="demo", columns=("model", "n"), key=("model",), whole=("n",))
    >>> old = schema.frame([{"model": "a", "n": 1}, {"model": "b", "n": 2}])
    >>> schema.replace_rows(old, schema.frame([{"model": "a", "n": 3}])).to_dict("list")
    {'model': ['a', 'b'], 'n': [3, 2]}
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    real: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    more: bool = False
    command: str = ""
    error: type[MnprobeError] = ProbeError

    @property
    def stem(self) -> str:
        """Name of the file in a run's results, without .csv."""
        return self.name.replace(" ", "_")

    def frame(self, rows: Sequence[Mapping[Any, Any]]) -> "pd.DataFrame":
        """Rows as a table with exactly these columns, in this order and with fixed types, also when there are none."""
        import pandas as pd  # here, because help texts and feature stores need none of it

        return pd.DataFrame(list(rows), columns=pd.Index(self.columns)).astype(
            {column: self._dtype(column) for column in self.columns}
        )

    def write(self, path: Path, table: "pd.DataFrame") -> None:
        """Write as CSV, atomically; numbers keep every digit. ValueError when the columns are not those of the schema.

        Columns of earlier versions' tables may be missing where the schema has defaults for them. Those that are
        unknown in every row are left out, so that such a table keeps its bytes.
        """
        table = table.drop(columns=[name for name in self.unknown if name in table and table[name].isna().all()])
        expected = [name for name in self.columns if name in table.columns or name not in self.defaults]
        columns = list(table.columns)
        if columns[: len(expected)] != expected or (len(columns) > len(expected) and not self.more):
            raise ValueError(f"a table of {self.name} has the columns {', '.join(expected)}, got {', '.join(columns)}")
        write_table(table, path)

    def read(self, path: Path, *, command: str | None = None) -> "pd.DataFrame":
        """Read a table that must be there and hold rows.

        Args:
            path: of the file.
            command: the command line that writes it, for messages; by default `self.command` for the run of `path`.

        Raises:
            MnprobeError: `self.error`, when the file is absent, not UTF-8, not CSV, has no rows, lacks columns, or a
                cell is not of its column's type (naming row and column).
        """
        return self.parse(path, lambda: read_cells(path), command=command)

    def parse(self, path: Path, cells: "Callable[[], Cells]", *, command: str | None = None) -> "pd.DataFrame":
        """As `read`, from what `cells` returns or raises: for callers that keep the text of `path`."""
        again = f"`{command or command_of(path, self.command or self.stem)}`"
        try:
            found = cells()
        except FileNotFoundError:
            raise self.error(f"{path} is not there. {again} writes it") from None
        except UnicodeDecodeError as error:
            raise self.error(f"{path} is not UTF-8 text ({error}). {again} writes a new one") from error
        except csv.Error as error:
            raise self.error(f"{path} is not a CSV table ({error}). {again} writes a new one") from error
        if not found.rows:
            raise self.error(f"{path} holds no rows. {again} writes a new one")
        missing = [name for name in self.columns if name not in found.header and name not in self.defaults]
        if missing:
            raise self.error(
                f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                f"{', '.join(found.header)}. {again} writes a new one"
            )
        try:
            return self._typed(found)
        except ValueError as error:
            raise self.error(f"{path}, {error}") from error

    def read_or_empty(self, path: Path) -> "pd.DataFrame":
        """Read the table that its writer goes on with; no rows where there is no file.

        Raises:
            MnprobeError: `self.error`, when the file holds something else. Columns are only left to a default that is
                another column, or unknown: the writer invents nothing.
        """
        if not path.exists():
            return self.frame([])
        unreadable = f"{path}: cannot be read as a table of {self.name}"
        try:
            found = read_cells(path)
        except (UnicodeDecodeError, csv.Error) as error:
            raise self.error(f"{unreadable} ({error}). Remove it.") from error
        derived = {name for name, source in self.defaults.items() if source in found.header or name in self.unknown}
        missing = [name for name in self.columns if name not in found.header and name not in derived]
        if missing:
            raise self.error(f"{path}: not a table of {self.name}: it lacks {', '.join(missing)}. Remove it.")
        try:
            return self._typed(found) if found.rows else self.frame([])
        except ValueError as error:
            raise self.error(f"{unreadable} ({error}). Remove it.") from error

    def replace_rows(self, old: "pd.DataFrame", new: "pd.DataFrame") -> "pd.DataFrame":
        """`old` without the measurements that `new` has, then joined with it, in the order of the key."""
        import pandas as pd

        fresh = set(new[list(self.key)].itertuples(index=False, name=None))
        stays = [row not in fresh for row in old[list(self.key)].itertuples(index=False, name=None)]
        parts = [part for part in (old[np.array(stays, dtype=bool)], new) if len(part)]
        joined = pd.concat(parts, ignore_index=True) if parts else self.frame([])
        return joined.sort_values(list(self.key), kind="stable", ignore_index=True)

    def update(self, path: Path, change: "Callable[[pd.DataFrame], pd.DataFrame]") -> "pd.DataFrame":
        """Replace the table by `change` of it while others who do so wait; see `mnprobe.core.files.update_table`."""
        return update_table(path, self.read_or_empty, change, self.write)

    def _typed(self, cells: Cells) -> "pd.DataFrame":
        """ValueError, with row and column, for a cell that is not of its column's type."""
        import pandas as pd

        text = cells.frame()
        columns = {
            name: text[name] if name in text else text[source] if (source := self.defaults[name]) in text else None
            for name in self.columns
        }
        if self.more:
            columns |= {name: text[name] for name in cells.header if name not in columns}
        made = {
            name: self._column(name, [""] * len(text) if values is None else values.tolist())
            for name, values in columns.items()
        }
        return pd.DataFrame(made, columns=pd.Index(list(made)))

    def _column(self, name: str, cells: list[str]) -> "pd.Series[Any]":
        import pandas as pd

        parse = _PARSERS.get(self._dtype(name))
        if parse is None:
            return pd.Series(cells, dtype=object)
        values = []
        for row, cell in enumerate(cells, start=2):
            stripped = cell.strip()
            try:
                empty = not stripped and name in self.nullable
                values.append(math.nan if empty else parse(stripped))
            except ValueError as error:
                raise ValueError(f"row {row}, column {name}: {cell!r} {error}") from None
        whole = name in self.whole and name in self.nullable and any(value != value for value in values)
        return pd.Series(values, dtype=np.float64 if whole else self._dtype(name))

    def _dtype(self, column: str) -> Any:
        if column in self.whole:
            return np.int64
        if column in self.real:
            return np.float64
        return np.bool_ if column in self.truth else object


def _whole(cell: str) -> int:
    number = _real(cell)
    with suppress(ValueError):
        return int(cell)
    if not number.is_integer():
        raise ValueError("is no whole number")
    return int(number)


def _real(cell: str) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell.replace("_", "?"))  # float() gives every digit back, and would take "1_0"
    except ValueError:
        raise ValueError("is no number") from None


def _truth(cell: str) -> bool:
    lowered = cell.lower()
    if lowered not in ("true", "false", "1", "0"):
        raise ValueError("is neither True nor False")
    return lowered in ("true", "1")


_PARSERS: dict[Any, Callable[[str], Any]] = {np.int64: _whole, np.float64: _real, np.bool_: _truth}
