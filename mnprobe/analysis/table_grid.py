"""A table in the paper's shape as rows of text: for the terminal, and for the report."""

import math
from dataclasses import dataclass

import pandas as pd

from mnprobe.analysis.paper import PAPER_HEAD
from mnprobe.analysis.success_table import ALL_TASKS
from mnprobe.analysis.task_tables import OURS, PAPER, ShapedTable

__all__ = ["Grid", "grid_of", "grid_text"]

_NONE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells of text under two rows of heads.

    `groups` are the upper heads with how many columns each spans; `last_is_mean` says that the last row is one.
    """

    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    last_is_mean: bool = False


def grid_of(table: ShapedTable) -> Grid:
    """Lay a table out: what was measured goes down, trainings and methods go across, the paper's apart from ours."""
    return _ablation(table.frame) if table.number == 3 else _by_task(table.frame)


def grid_text(table: ShapedTable) -> str:
    """`table` for a terminal: title, heads, rows, notes."""
    grid = grid_of(table)
    cells = [list(grid.columns), *map(list, grid.rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(grid.columns))]
    upper, place = [], 0
    for name, span in grid.groups:
        room = sum(widths[place : place + span]) + 3 * (span - 1)
        widths[place + span - 1] += max(0, len(name) - room)  # a head that is longer than what stands under it
        upper.append(name.ljust(max(room, len(name))))
        place += span
    lines = ["   ".join(upper)]
    lines += ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([table.title, *(line.rstrip() for line in lines), *table.notes])


def _by_task(frame: pd.DataFrame) -> Grid:
    ours, paper = frame[frame["who"] == OURS], frame[frame["who"] == PAPER]
    columns = list(dict.fromkeys(zip(ours["world"], ours["column"], strict=True)))
    methods = list(dict.fromkeys(paper["column"]))
    rows: list[tuple[str, str]] = []
    own = [task for task in dict.fromkeys(ours["task"]) if task != ALL_TASKS]
    rows += [(task, str(ours.loc[ours["task"] == task, "paper_task"].iloc[0])) for task in sorted(own)]
    known = {name for _, name in rows}
    rows += [("", name) for name in dict.fromkeys(paper["paper_task"]) if name not in known and name != "average"]
    rows.append((ALL_TASKS, "average"))
    cells = {(row["world"], row["column"], row["task"]): row for _, row in ours.iterrows()}
    printed = {(row["column"], row["paper_task"]): row for _, row in paper.iterrows()}
    made = []
    for task, name in rows:
        found = [cells.get((*column, task)) for column in columns]
        count = _count(found)
        made.append(
            (
                f"{task} ({len(own)})" if task == ALL_TASKS else task or _NONE,
                count,
                *(_cell(row, counted=count != "") for row in found),
                f"{name} ({paper['paper_task'].nunique() - 1})" if name == "average" else name or _NONE,
                *(_cell(printed.get((method, name)), counted=True) for method in methods),
            )
        )
    worlds = ", ".join(dict.fromkeys(str(world) for world, _ in columns))
    several = len({world for world, _ in columns}) > 1
    names = [f"{column} ({world})" if several else column for world, column in columns]
    return Grid(
        groups=((f"ours ({worlds})", 2 + len(columns)), (PAPER_HEAD, 1 + len(methods))),
        columns=("task", "n", *names, "task", *methods),
        rows=tuple(made),
        last_is_mean=True,
    )


def _ablation(frame: pd.DataFrame) -> Grid:
    ours, paper = frame[frame["who"] == OURS], frame[frame["who"] == PAPER]
    distinct = frame[["pairing", "tau"]].drop_duplicates()  # for which one NaN, the baseline's, equals another
    places = list(zip(distinct["pairing"], distinct["tau"], strict=True))
    order = {"": 0, "none": 0, "episode": 1, "instruction": 2, "task": 3}
    places.sort(key=lambda place: (order.get(str(place[0]), 4), str(place[0]), _sortable(place[1])))
    sides = [(part, column) for part in (ours, paper) for column in dict.fromkeys(part["column"])]
    rows = []
    for pairing, tau in places:
        cells = [
            part[
                (part["column"] == column)
                & (part["pairing"] == pairing)
                & (part["tau"].map(_sortable) == _sortable(tau))
            ]
            for part, column in sides
        ]
        texts = [_cell(cell.iloc[0] if len(cell) else None, counted=False) for cell in cells]
        rows.append((str(pairing) or "none (baseline)", _NONE if math.isnan(tau) else f"{tau:g}", *texts))
    return Grid(
        groups=(("", 2), ("ours", ours["column"].nunique()), (PAPER_HEAD, paper["column"].nunique())),
        columns=("pairing", "temperature", *(column for _, column in sides)),
        rows=tuple(rows),
    )


def _sortable(tau: float) -> float:
    return -1.0 if math.isnan(tau) else tau


def _count(rows: "list[pd.Series | None]") -> str:
    """How many episodes are behind each number of a row, where that is the same for all."""
    found = {_episodes(row) for row in rows if row is not None}
    return found.pop() if len(found) == 1 else ("" if found else _NONE)


def _episodes(row: "pd.Series") -> str:
    seeds = "" if row["n_trainings"] == 1 else f" \N{MULTIPLICATION SIGN} {row['n_trainings']:.0f}"
    return f"{row['n']:.0f}{seeds}"


def _cell(row: "pd.Series | None", *, counted: bool) -> str:
    """A value with its spread, its interval and, where it does not stand beside, its n."""
    if row is None:
        return _NONE
    text = f"{row['percent']:.1f}"
    if pd.notna(row["sd"]):
        text += f" ± {row['sd']:.1f}"
    if pd.notna(row["low"]):
        text += f" [{row['low']:.0f}, {row['high']:.0f}]"
    if not counted and pd.notna(row["n"]):
        text += f" n={_episodes(row)}"
    return text
