"""The paper's Tables 1 to 3: published numbers, and ours in the same shape."""

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mnprobe.analysis.tables.alignment import in_order, mean_over_seeds
from mnprobe.analysis.tables.progress import (
    ABLATION,
    MEASURED_RECOGNITION,
    played_in,
    read_ablation,
    read_recognition,
    read_success,
    settled_recognition,
    world_note,
)
from mnprobe.analysis.tables.rollouts import ALL_TASKS, SUCCESS
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.core.errors import ConfigError
from mnprobe.core.names import ModelName
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema, text_table
from mnprobe.data import TASKS
from mnprobe.features.text_ranking import ALL_EPISODES

__all__ = [
    "AVERAGE",
    "PAPER_HEAD",
    "STAND_INS",
    "TABLES",
    "Grid",
    "ShapedTable",
    "ablation_table",
    "execution_table",
    "grid_of",
    "grid_text",
    "module_of",
    "paper_table",
    "recognition_table",
    "shaped_table",
]

PAPER_HEAD = "paper, on RLBench"
"""Heads every column of the paper's numbers: never set against numbers of another world."""

AVERAGE = "average"
"""In the paper's column `task`: the mean over its 18 tasks."""

STAND_INS = {"put_shape_in_tray": "place_shape_in_shape_sorter"}
"""The tabletop's tasks that replace one of RLBench's under another name (docs/tabletop.md)."""

_FILES = (
    "table1_action_recognition.csv",
    "table2_embodied_execution.csv",
    "table3_ablation.csv",
    "table4_tasks.csv",
)
# Short names of Tables 1 and 2 that are not those of Table 4 in other letters.
_SHORT = {
    "Place Cup": "place cups",
    "Push Btn.": "push buttons",
    "Put in Cpd.": "put in cupboard",
    "Stack Block": "stack blocks",
    "Stack Cup": "stack cups",
    "Sweep Dust": "sweep to dustpan",
}


def paper_table(number: int) -> pd.DataFrame:
    """Table `number` of the paper (1 to 4), in percent as printed.

    Tables 1 and 2: method, task (as printed, or `average`), module (empty for the average), mean_percent, std_percent
    (NaN where none is printed). Table 3: pairing, temperature, action_understanding_percent,
    embodied_execution_percent. Table 4: task, module, variation_type, variations, average_keyframes,
    language_template. Raises ConfigError for another number.

    >>> table = paper_table(2)
    >>> table[(table["method"] == "ARP") & (table["module"] == "close_jar")]["mean_percent"].item()
    100.0
    """
    if not 1 <= number <= len(_FILES):
        raise ConfigError(f"the paper has Tables 1 to {len(_FILES)}, got {number!r}")
    with (
        files("mnprobe.analysis.tables")
        .joinpath("published")
        .joinpath(_FILES[number - 1])
        .open(encoding="utf-8") as file
    ):
        table = pd.read_csv(file)
    if "task" in table:
        table.insert(list(table.columns).index("task") + 1, "module", table["task"].map(module_of))
    return table


def module_of(name: str) -> str:
    """RLBench's module name of a task as the paper calls it; empty for the average.

    >>> module_of("Push Btn."), module_of("sweep to dustpan"), module_of("average")
    ('push_buttons', 'sweep_to_dustpan_of_size', '')

    Raises ConfigError for a name that is none of the paper's.
    """
    if name == AVERAGE:
        return ""
    modules = {task.paper: module for module, task in TASKS.items()}
    wanted = _SHORT.get(name, name).lower()
    if wanted not in modules:
        raise ConfigError(f"{name!r} is no task of the paper's; they are {', '.join(modules)}")
    return modules[wanted]


PAPER = "paper"
OURS = "ours"
_METHODS = {
    1: {"ViCLIP (zero-shot)": "ViCLIP, zero-shot", "ViCLIP (fine-tuned)": "ViCLIP, fine-tuned", "MN (Ours)": "MN"},
    2: {"ARP": "ARP", "MN (Ours)": "MN"},
}
_COLUMNS = [
    *("who", "world", "column", "training", "step", "task", "paper_task", "percent", "low", "high", "n"),
    *("n_trainings", "sd"),
]
_MEANS = (
    "Ours: percent with its 95 % interval over test episodes; n = episodes. With several seeds of a training: their "
    "mean ± standard deviation between them, and the mean of their intervals, which leaves that spread out."
)
_APART = "The paper's columns were measured on RLBench and are printed for the shape alone: no number of ours compares."


@dataclass(frozen=True, kw_only=True)
class ShapedTable:
    """One table: `frame` has one row per number.

    Columns: `who` ("ours" or "paper"), world, column (what was measured: a training at a step, or a method of the
    paper's), training, step, task, paper_task (the paper's name of the task, empty where it has none), percent, low,
    high (95 % interval), n (episodes), n_trainings, sd (between trainings; for the paper's what it prints after ±). In
    Table 3 pairing and tau take the place of the tasks.
    """

    number: int
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]


def shaped_table(run: RunDir | RunTables, number: int) -> ShapedTable | None:
    """Table `number` (1 to 3) of a run; None where the run has not measured it.

    Raises ConfigError for another number, ProbeError for a table that is damaged.
    """
    if number not in TABLES:
        raise ConfigError(f"tables 1 to {len(TABLES)} can be shown, got {number!r}")
    tables = RunTables.load(run)
    schema, _, make = TABLES[number]
    table = tables.table(schema)
    if table is None:
        return None
    made, world = make(table), world_note(played_in(piece.path for piece in tables.run.feature_files()))
    return replace(made, notes=(*([f"{world}."] if world else []), *made.notes))


def recognition_table(source: Path | pd.DataFrame) -> ShapedTable:
    """Table 1, top-1 action recognition per task, from results/recognition.csv: the start and the end of each training.

    `source` is the file, or what `read_recognition` gives. Raises ProbeError as `read_recognition`.
    """
    table, where = settled_recognition(read_recognition(source) if isinstance(source, Path) else source)
    table = table[table["task"] != ALL_EPISODES].rename(columns={"top1": "value"}).assign(world=where)
    starts = [
        "zero-shot" if zero else ("step 0, random weights" if not trained else "")
        for zero, trained in zip(table["zero_shot"], table["trained"], strict=True)
    ]
    chance = f"Chance is {100 * table['chance'].mean():.1f} % (one of {table['candidates'].max():.0f} instructions)."
    return ShapedTable(
        number=1,
        title="Table 1. Action recognition, top-1 %",
        frame=_with_paper(_ours(table.assign(start=starts)), 1),
        notes=(_MEANS, chance, _APART),
    )


def execution_table(source: Path | pd.DataFrame) -> ShapedTable:
    """Table 2, closed-loop success per task, from results/success.csv: the start and the end of each training.

    Policies with a blanked instruction, a control, are left to the curve. `source` is the file, or what
    `read_success` gives. Raises ProbeError as `read_success`.
    """
    table = read_success(source) if isinstance(source, Path) else source
    instructed = table[[not ModelName.parse(str(model)).blank for model in table["model"]]]
    instructed = instructed if len(instructed) else table
    starts = [
        "step 0" if step == 0 and ModelName.parse(str(model)).training else "" for model, step in _pairs(instructed)
    ]
    return ShapedTable(
        number=2,
        title="Table 2. Embodied execution, closed-loop success %",
        frame=_with_paper(_ours(instructed.assign(start=starts)), 2),
        notes=(_MEANS, _APART, "The paper's table has nine more methods: mnprobe.analysis.paper_table(2)."),
    )


def ablation_table(source: Path | pd.DataFrame) -> ShapedTable:
    """Table 3, pairing by temperature, from results/ablation.csv.

    `source` is the file, or what `read_ablation` gives. Raises ProbeError as `read_ablation`.
    """
    table = read_ablation(source) if isinstance(source, Path) else source
    rows = []
    for side in ("understanding", "execution"):
        cells = table.rename(columns={side: "value", f"ci_low_{side}": "ci_low", f"ci_high_{side}": "ci_high"})
        cells = cells[["pairing", "tau", "value", "ci_low", "ci_high", f"n_{side}"]]
        for _, row in mean_over_seeds(cells, ["pairing", "tau"]).iterrows():
            rows.append(_number(row, OURS, "", side, row[f"n_{side}"]) | {"pairing": row["pairing"], "tau": row["tau"]})
    for _, row in paper_table(3).iterrows():
        place = {"pairing": row["pairing"], "tau": row["temperature"]}
        for side in ("action understanding", "embodied execution"):
            rows.append(_printed(side, row[f"{side.replace(' ', '_')}_percent"]) | place)
    names = ["who", "column", "pairing", "tau", "percent", "low", "high", "n", "n_trainings", "sd"]
    return ShapedTable(
        number=3,
        title="Table 3. Ablation: what is paired, and at which temperature",
        frame=pd.DataFrame(rows)[names],
        notes=("Understanding: top-1 % recognition; execution: success %; means over tasks.", _MEANS, _APART),
    )


TABLES: dict[int, tuple[TableSchema, str, Callable[[pd.DataFrame], ShapedTable]]] = {
    1: (MEASURED_RECOGNITION, "recognize", recognition_table),
    2: (SUCCESS, "rollout", execution_table),
    3: (ABLATION, "ablate", ablation_table),
}
"""The tables: the results they are read from, the command that writes these, and the function that shapes them."""


def _pairs(table: pd.DataFrame) -> Iterable[tuple[object, int]]:
    return zip(table["model"], table["step"], strict=True)


def _ours(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the start and of the last step of each training, seeds averaged, one row per column and task."""
    taken = [ModelName.parse(str(model)) for model in table["model"]]
    table = table.assign(
        kind=[one.without_seed for one in taken],
        training=[one.training or one.without_seed for one in taken],
    )
    last = table["step"] == table.groupby(["world", "kind"])["step"].transform("max")
    starts = table[(table["start"] != "") & ~last].assign(column=table["start"])
    first = starts[starts["kind"] == starts["kind"].iloc[0]] if len(starts) else starts  # the same for every training
    ends = table[last]
    names = [f"{training}, step {step}" for training, step in zip(ends["training"], ends["step"], strict=True)]
    ends = ends.assign(column=names)
    order = {name: place for place, name in enumerate(in_order(ends["training"]))}
    ends = ends.assign(_o=ends["training"].map(order)).sort_values("_o", kind="stable")
    means = mean_over_seeds(pd.concat([first, ends]), ["world", "column", "task"])
    rows = [
        _number(row, OURS, str(row["world"]), str(row["column"]), row["n"])
        | {"training": row["training"], "step": row["step"], "task": row["task"]}
        for _, row in means.iterrows()
    ]
    return pd.DataFrame(rows)


def _with_paper(ours: pd.DataFrame, number: int) -> pd.DataFrame:
    """Below our rows those of the paper's, each with our name of the task where we have it."""
    printed = paper_table(number)
    names = dict(zip(printed["module"], printed["task"], strict=True))
    modules = {task: STAND_INS.get(str(task), str(task)) for task in ours["task"].unique()}
    ours = ours.assign(paper_task=[names.get(modules[task], "") if task != ALL_TASKS else "" for task in ours["task"]])
    counterpart = {module: task for task, module in modules.items()}
    rows = []
    for method, column in _METHODS[number].items():
        for _, row in printed[printed["method"] == method].iterrows():
            average = row["module"] == ""
            rows.append(
                _printed(column, row["mean_percent"], row["std_percent"])
                | {"task": ALL_TASKS if average else counterpart.get(row["module"], "")}
                | {"paper_task": "average" if average else row["task"]}
            )
    table = pd.concat([ours, pd.DataFrame(rows)], ignore_index=True)
    return table.reindex(columns=_COLUMNS)


def _number(row: "pd.Series", who: str, world: str, column: str, n: float) -> dict[str, object]:
    return {
        "who": who,
        "world": world,
        "column": column,
        "percent": 100 * row["value"],
        "low": 100 * row["ci_low"],
        "high": 100 * row["ci_high"],
        "n": n,
        "n_trainings": row["n_trainings"],
        "sd": 100 * row["sd_trainings"],
    }


def _printed(column: str, percent: float, spread: float = float("nan")) -> dict[str, object]:
    return {"who": PAPER, "world": "RLBench", "column": column, "percent": percent, "sd": spread, "training": ""}


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


def grid_text(table: ShapedTable, *, width: int | None = None) -> str:
    """`table` for a terminal: title, heads, rows, notes.

    Where a line would be wider than `width`, each group of columns has a block of its own.
    """
    from rich.cells import cell_len  # costs 0.1 s: only when a table is printed

    grid = grid_of(table)
    text = text_table(grid.columns, grid.rows, gap=3, groups=grid.groups)
    if width is not None and max(map(cell_len, text.split("\n"))) > width:
        labels = range(0 if grid.groups[0][0] else grid.groups[0][1])  # columns without a head say what a row is
        blocks, place = [], len(labels)
        for name, span in grid.groups[1 if len(labels) else 0 :]:
            taken = [*labels, *range(place, place + span)]
            rows = [[row[column] for column in taken] for row in grid.rows]
            rows = [row for row in rows if set(row[len(labels) :]) != {_NONE}]
            heads = [grid.columns[column] for column in taken]
            blocks.append(f"{name}\n{text_table(heads, rows, gap=3, width=width)}")
            place += span
        text = "\n\n".join(blocks)
    notes = [line for note in table.notes for line in ([note] if width is None else textwrap.wrap(note, width))]
    return "\n".join([table.title, text, *notes])


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
    """A value with its spread, its interval and, where it has no column of its own, its n."""
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
