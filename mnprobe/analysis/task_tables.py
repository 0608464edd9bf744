"""Our results in the shape of the paper's Tables 1 to 3, with the paper's own numbers in columns of their own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mnprobe.analysis.over_seeds import mean_over_seeds
from mnprobe.analysis.paper import STAND_INS, paper_table
from mnprobe.analysis.results import read_ablation, read_recognition, read_success, settled_recognition
from mnprobe.analysis.success_table import ALL_TASKS
from mnprobe.analysis.trainings import in_order, named
from mnprobe.analysis.world import played_in, world_note
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.features.recognition import ALL_EPISODES

__all__ = ["TABLES", "ShapedTable", "ablation_table", "execution_table", "recognition_table", "shaped_table"]

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
    Table 3 pairing and tau stand in place of the tasks.
    """

    number: int
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]


def shaped_table(run: RunDir, number: int) -> ShapedTable | None:
    """Table `number` (1 to 3) of a run; None where the run has not measured it.

    Raises ConfigError for another number, ProbeError for a table that is damaged.
    """
    if number not in TABLES:
        raise ConfigError(f"tables 1 to {len(TABLES)} can be shown, got {number!r}")
    name, _, make = TABLES[number]
    path = run.results(name)
    if not path.is_file():
        return None
    made, world = make(path), world_note(played_in(piece.path for piece in run.feature_files()))
    return replace(made, notes=(*([f"{world}."] if world else []), *made.notes))


def recognition_table(path: Path) -> ShapedTable:
    """Table 1, top-1 action recognition per task, from results/recognition.csv: the start and the end of each training.

    Raises ProbeError as `read_recognition`.
    """
    table, where = settled_recognition(read_recognition(path))
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


def execution_table(path: Path) -> ShapedTable:
    """Table 2, closed-loop success per task, from results/success.csv: the start and the end of each training.

    Policies that were told no instruction, a control, are left to the curve. Raises ProbeError as `read_success`.
    """
    table = read_success(path)
    told = table[[not named(str(model)).blank for model in table["model"]]]
    told = told if len(told) else table
    starts = ["step 0" if step == 0 and named(str(model)).training else "" for model, step in _pairs(told)]
    return ShapedTable(
        number=2,
        title="Table 2. Embodied execution, closed-loop success %",
        frame=_with_paper(_ours(told.assign(start=starts)), 2),
        notes=(_MEANS, _APART, "The paper's table has nine more methods: mnprobe.analysis.paper_table(2)."),
    )


def ablation_table(path: Path) -> ShapedTable:
    """Table 3, pairing by temperature, from results/ablation.csv. Raises ProbeError as `read_ablation`."""
    table = read_ablation(path)
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


TABLES: dict[int, tuple[str, str, Callable[[Path], ShapedTable]]] = {
    1: ("recognition", "recognize", recognition_table),
    2: ("success", "rollout", execution_table),
    3: ("ablation", "ablate", ablation_table),
}
"""The tables: the results they are read from, the command that writes these, and the function that shapes them."""


def _pairs(table: pd.DataFrame) -> Iterable[tuple[object, int]]:
    return zip(table["model"], table["step"], strict=True)


def _ours(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the start and of the last step of each training, seeds averaged, one row per column and task."""
    taken = [named(str(model)) for model in table["model"]]
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
