"""Tables: typed CSV files, and aligned text for a terminal."""

import csv
import io
import math
import re
import textwrap
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

__all__ = [
    *("TERMINAL", "UNREADABLE", "Cells", "TableSchema", "fitted_table", "read_cells", "shorten_pairs", "text_table"),
    *("typed_cells", "unshared", "write_table"),
]

TERMINAL = 100
"""Characters of a line that tables in a terminal fit into, unless the whole is asked for."""

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


def fitted_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, spare: Sequence[str] = ()
) -> str:
    """`text_table` in lines of at most `width` characters; whole where `width` is None.

    A cell that all rows share is said once above. Then columns of `spare` are left out, in their order, until the rest
    fits, and a line below names them. What still does not fit goes into further blocks.

    >>> print(fitted_table(["model", "n", "seed"], [["viclip", "7", "0"], ["arp", "7", "1"]], width=11, spare=["seed"]))
    in all
    rows: n 7
    model
    viclip
    arp
    not shown: seed
    """
    from rich.cells import cell_len

    if width is None or not rows:
        return text_table(columns, rows)
    same = [place for place in range(1, len(columns)) if len(rows) > 1 and len({row[place] for row in rows}) == 1]
    kept = [place for place in range(len(columns)) if place not in same]
    sizes = [max(cell_len(str(line[place])) for line in (columns, *rows)) for place in range(len(columns))]
    left_out = []
    for name in spare:
        place = columns.index(name)
        if place in kept and sum(sizes[one] for one in kept) + 2 * (len(kept) - 1) > width:
            kept.remove(place)
            left_out.append(name)
    above = [f"{columns[place]} {rows[0][place]}" for place in same if rows[0][place] != "-"]
    table = text_table(
        [columns[place] for place in kept], [[row[place] for place in kept] for row in rows], width=width
    )
    lines = [*(textwrap.wrap(f"in all rows: {', '.join(above)}", width) if above else []), table]
    return "\n".join([*lines, *([f"not shown: {', '.join(left_out)}"] if left_out else [])])


_WORD = re.compile(r"[^ -]*[ -]*")


def unshared(names: Sequence[str]) -> tuple[list[str], str]:
    """`names` without the words at either end that all of them share, and those words around an ellipsis.

    Words end at spaces and hyphens. Different names stay different. Where nothing is shared, the words are "".

    >>> unshared(["viclip-joint step 0", "viclip-baseline step 0"])
    (['joint', 'baseline'], 'viclip-… step 0')
    """
    parts = [[word for word in _WORD.findall(name) if word] for name in names]
    if len(set(names)) < 2:
        return list(names), ""
    head = _agreeing(parts)
    rest = [words[head:] for words in parts]
    tail = _agreeing([[word.rstrip(" -") for word in reversed(words)] for words in rest])
    kept = ["".join(words[: len(words) - tail]) for words in rest]
    ends = {name[len(name.rstrip(" -")) :] for name in kept}
    if tail and len(ends) > 1:  # what stands before the shared end differs
        tail, kept, ends = 0, ["".join(words) for words in rest], {""}
    first, last = "".join(parts[0][:head]), "".join(rest[0][len(rest[0]) - tail :]) if tail else ""
    if not first and not last:
        return list(names), ""
    return [name.rstrip(" -") if tail else name for name in kept], f"{first}…{ends.pop() if tail else ''}{last}"


def _agreeing(parts: Sequence[Sequence[str]]) -> int:
    """How many first words all have in common, short of the last word of any."""
    most = min(map(len, parts)) - 1
    return next((place for place in range(max(most, 0)) if len({words[place] for words in parts}) > 1), max(most, 0))


def shorten_pairs(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], str]:
    """A short name for each pair of models, and a line that says once what was taken out; "" where nothing was.

    >>> shorten_pairs([("viclip-joint", "arp-joint"), ("viclip-baseline", "arp-baseline")])
    (['joint', 'baseline'], 'pairs: viclip-… x arp-…')
    >>> shorten_pairs([("viclip", "arp"), ("viclip", "arp step 9")])
    (['arp', 'arp step 9'], 'pairs: viclip x …')
    """
    whole = [f"{first} x {second}" for first, second in pairs]
    sides = [[pair[place] for pair in pairs] for place in (0, 1)]
    single = [len(set(side)) == 1 for side in sides]
    if all(single):
        return whole, ""
    (firsts, shared_first), (seconds, shared_second) = (unshared(side) for side in sides)
    about = f"pairs: {sides[0][0] if single[0] else shared_first or '…'} x "
    about += sides[1][0] if single[1] else shared_second or "…"
    if single[0]:
        return seconds, about
    if single[1]:
        return firsts, about
    together = all(
        second == first or second.startswith(f"{first} ") for first, second in zip(firsts, seconds, strict=True)
    )
    if together and len(set(seconds)) == len(set(pairs)):
        return seconds, about
    names = [f"{first} x {second}" for first, second in zip(firsts, seconds, strict=True)]
    return names, about if shared_first or shared_second else ""


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
