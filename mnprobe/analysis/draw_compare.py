"""`mnprobe compare` as a function: from feature stores to results/similarity.csv and a heatmap of each index."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.analysis.compare import COLUMNS, CompareConfig, Comparison, compare, comparison_hash
from mnprobe.analysis.compare_figure import compare_figure
from mnprobe.analysis.compare_inputs import CompareInputs
from mnprobe.analysis.figures import SavedFigure, save_figure
from mnprobe.analysis.notes import FigureNote, write_note
from mnprobe.analysis.similarity import SCHEMES, About, make_index
from mnprobe.analysis.tables import read_table, write_table
from mnprobe.analysis.world import world_note
from mnprobe.core.commands import command_line, command_of
from mnprobe.core.errors import ProbeError
from mnprobe.core.files import update_table

__all__ = ["DrawnComparison", "best_line", "draw_compare", "read_similarity"]

_TEXT = (
    *("index", "options", "grid", "understanding", "execution", "source_u", "source_e", "layer_u", "layer_e"),
    *("pool_u", "pool_e", "permute", "config_hash"),
)
_TRUTH = ("trained_u", "trained_e", "best")
_WHOLE = ("step_u", "step_e", "n", "n_groups", "n_cells", "block", "permutations", "seed")
_FAMILY = ("index", "options", "grid", "understanding", "execution", "source_u", "source_e", "permute")


@dataclass(frozen=True, kw_only=True)
class DrawnComparison:
    """One index: its figure, its cells, its caption, and whether the cells were kept from an earlier run."""

    figure: SavedFigure
    table: pd.DataFrame
    caption: str
    notes: tuple[str, ...]
    kept: bool


def draw_compare(
    inputs: CompareInputs,
    configs: Sequence[CompareConfig],
    *,
    table: Path,
    folder: Path,
    command: str | None = None,
    n_jobs: int = 1,
    quiet: bool = False,
) -> list[DrawnComparison]:
    """Measure and draw one heatmap for each of `configs`.

    Args:
        inputs: the feature sets of both sides.
        configs: index, null and seed of each heatmap.
        table: the CSV that takes the cells; those of other comparisons stay, finished ones are not measured again.
        folder: where the figures go, as similarity-<index>-<grid>.png, .svg and .json.
        command: how a person makes these figures again.
        n_jobs: processes.
        quiet: show no progress.
    Raises:
        as `compare`; ProbeError when `table` is not such a table.
    """
    drawn = []
    for config in configs:
        labels = {"tasks": inputs.episodes["task"].tolist(), "instructions": inputs.episodes["instruction"].tolist()}
        earlier = _earlier(table)
        digest = comparison_hash(inputs.rows, inputs.columns, **labels, config=config)
        own = earlier[earlier["config_hash"] == digest].reset_index(drop=True)
        kept = len(own) == len(inputs.rows) * len(inputs.columns)
        if kept:
            found = Comparison(table=own, notes=())
        else:
            found = compare(inputs.rows, inputs.columns, **labels, config=config, n_jobs=n_jobs, quiet=quiet)
            update_table(table, _earlier, partial(_joined, fresh=found.table), _write)
        drawn.append(_drawn(found, config, inputs, folder, command, kept=kept))
    return drawn


def read_similarity(path: Path) -> pd.DataFrame:
    """Read results/similarity.csv with its types; ProbeError when it is absent or no such table."""
    found = read_table(path, COLUMNS, command=command_of(path, "compare"))
    for name in COLUMNS:
        cells = found[name].astype(str)
        if name in _TRUTH:
            found[name] = cells.str.lower() == "true"
        elif name not in _TEXT:
            numbers = pd.to_numeric(cells.where(cells != "", "nan"), errors="coerce")
            wrong = numbers.isna() & ~cells.str.lower().isin(["", "nan"])
            if wrong.any():
                row = int(wrong.to_numpy().argmax())
                raise ProbeError(f"{path}, row {row + 2}, column {name}: {cells.iloc[row]!r} is no number")
            found[name] = numbers.astype(int) if name in _WHOLE else numbers.astype(float)
    return found[list(COLUMNS)]


def best_line(table: pd.DataFrame, about: About) -> str:
    """The cell farthest beyond its null in one sentence, with what it is worth among all cells."""
    row = table[table["best"]].iloc[0]
    cell = f"{_cell_name(row, 'u')} with {_cell_name(row, 'e')}"
    return (
        f"{about.title}: {cell} {row['value']:.3f} (null mean {row['null_mean']:.3f}, calibrated level "
        f"{row['null_95']:.3f}, p {row['p']:.3g}, among all {row['n_cells']} cells p_max {row['p_max']:.3g})"
    )


def _earlier(path: Path) -> pd.DataFrame:
    return read_similarity(path) if path.is_file() else pd.DataFrame(columns=pd.Index(COLUMNS))


def _write(path: Path, table: pd.DataFrame) -> None:
    write_table(table, path)


def _joined(earlier: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Earlier cells that are about something else than the new ones, and the new ones."""
    about = fresh[list(_FAMILY)].iloc[0]
    same = (earlier[list(_FAMILY)] == about).all(axis=1)
    others = earlier[~same]
    return fresh if others.empty else pd.concat([others, fresh])


def _drawn(
    found: Comparison,
    config: CompareConfig,
    inputs: CompareInputs,
    folder: Path,
    command: str | None,
    *,
    kept: bool,
) -> DrawnComparison:
    about = make_index(config.index, config.options).about
    first = found.table.iloc[0]
    title = f"{about.title[0].upper()}{about.title[1:]}: {first['understanding']} and {first['execution']}"
    title += ", layer by layer" if config.grid == "layers" else ", checkpoint by checkpoint"
    caption = _caption(found, config, about, inputs)
    stem = folder / f"similarity-{config.index.replace('_', '-')}-{config.grid}"
    saved = save_figure(compare_figure(found.table, about, title=title, caption=caption), stem)
    options: dict[str, object] = {"index": config.index, "grid": config.grid, "permute": config.permute}
    options |= {"permutations": config.permutations, "seed": config.seed}
    facts = {
        "index": config.index,
        "options": json.loads(str(first["options"])),
        "formula": about.formula,
        "source": about.source,
        "n": int(first["n"]),
        "n_groups": int(first["n_groups"]),
        "permutations": int(first["permutations"]),
        "best": json.loads(found.table[found.table["best"]].to_json(orient="records")),
    }
    command = command or command_line("compare", **options)
    write_note(FigureNote(title=title, caption=caption, command=command, facts=facts), stem)
    return DrawnComparison(figure=saved, table=found.table, caption=caption, notes=found.notes, kept=kept)


def _caption(found: Comparison, config: CompareConfig, about: About, inputs: CompareInputs) -> str:
    first = found.table.iloc[0]
    options = json.loads(str(first["options"]))
    told = ", ".join(f"{name} {value}" for name, value in options.items())
    chance = "" if about.unbiased else " Values without a null mean little here: the index does not start at 0."
    used = f"{first['n']} episodes of {first['n_groups']} instructions"
    if first["n"] < len(inputs.episodes):
        used += f" ({len(inputs.episodes)} there are; an equal number of each, so that instructions can change places)"
    untrained = (
        " An asterisk marks random weights."
        if config.grid == "checkpoints" and not found.table[["trained_u", "trained_e"]].all(axis=None)
        else ""
    )
    none = int(found.table["value"].isna().sum())
    dash = f" {none} cells have no value (dash)." if none else ""
    world = world_note(inputs.worlds)
    return (
        f"{about.formula}{f' ({told})' if told else ''}. {used}, {first['source_e']}. "
        f"Null: {first['permutations']} permutations of {SCHEMES[config.permute].replace(': ', ' (', 1)}), "
        f"seed {first['seed']}; the calibrated level is the value that 5 % of them reach.{chance} "
        f"Farthest beyond its null: {best_line(found.table, about)}.{dash}{untrained}" + (f" {world}." if world else "")
    )


def _cell_name(row: "pd.Series[Any]", side: str) -> str:
    model = row["understanding" if side == "u" else "execution"]
    return f"{model} step {row[f'step_{side}']} {row[f'layer_{side}']}"
