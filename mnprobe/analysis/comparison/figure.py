"""`mnprobe compare` as a function: the similarity table and its heatmaps."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.patches import Patch, Rectangle

from mnprobe.analysis.comparison.compare import (
    COLUMNS,
    CompareConfig,
    CompareInputs,
    Comparison,
    compare,
    comparison_hash,
)
from mnprobe.analysis.figures.layout import FigureLayout
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import GRAY, INK, PALE, SavedFigure, house_style, save_figure, shorten, text_width
from mnprobe.analysis.similarity import SCHEMES, About, make_index
from mnprobe.analysis.tables.progress import world_note
from mnprobe.core.commands import command_line
from mnprobe.core.table import TableSchema

__all__ = ["SIMILARITY", "DrawnComparison", "best_line", "compare_figure", "draw_compare", "read_similarity"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CELL = 0.62  # inches; smaller where there are many
_MAX_SIDE = 7.5  # inches of the longer side of the heatmap
_NUMBERS_FROM = 0.36  # inches of a cell: smaller ones carry no number
_LABEL, _AXIS_LABEL = 1.7, 3.2  # inches at most: the name of a row or column, the label of an axis
_LINE = 0.15  # inches of a line of these names


def compare_figure(table: pd.DataFrame, about: About, *, title: str, caption: str) -> "Figure":
    """Draw one family of cells (rows of results/similarity.csv with one config_hash): understanding by execution.

    Color is the value. Cells that do not pass their own calibrated level (95 % of permutations) are gray and hatched,
    cells that pass when all are looked at together (p_max <= 0.05) have a thick frame, cells without a value a dash.
    Hatched on the color bar: what no cell passes with; on a part of its width: what only some pass with; the line is
    the median level.
    """
    with house_style():
        return _draw(table, about, title=title, caption=caption)


def _draw(table: pd.DataFrame, about: About, *, title: str, caption: str) -> "Figure":
    names_u, names_e = _names(table, "u"), _names(table, "e")
    shape = (len(names_u), len(names_e))
    size = min(_CELL, _MAX_SIDE / max(shape))
    label_u = shorten(_axis(table, "understanding", "u"), _AXIS_LABEL, 9)
    width, height = max(size * shape[1], 0.9), max(size * shape[0], text_width(label_u, 9))
    layout = FigureLayout([width, 0.16], [height], title=title, caption=caption, least_width=5.1)
    axes = layout.panel(0, 0)
    norm, colors = _scale(table, about)
    _cells(axes, table, about, norm, colors, shape, size)
    _ticks(axes, names_u, names_e, (height / shape[0], width / shape[1]))
    axes.set_ylabel(label_u)
    axes.set_xlabel(shorten(_axis(table, "execution", "e"), _AXIS_LABEL, 9))
    _bar(layout.panel(0, 1), table, about, norm, colors)
    layout.legend(
        [
            Patch(facecolor=PALE, edgecolor=GRAY, hatch="////", linewidth=0, label="not beyond its calibrated level"),
            Patch(facecolor="white", edgecolor=INK, linewidth=1.8, label="passes among all cells (p_max at most 0.05)"),
        ]
    )
    return layout.finish()


def _names(table: pd.DataFrame, side: str) -> list[str]:
    """One name per row or column, in the order of the table: what varies along it."""
    columns = [f"{name}_{side}" for name in ("layer", "step", "trained")]
    sets = table[columns].drop_duplicates()
    by_step = table["grid"].iloc[0] == "checkpoints"
    return [
        (f"step {step}" if by_step else str(layer)) + ("" if trained else ("*" if by_step else ""))
        for layer, step, trained in sets.itertuples(index=False, name=None)
    ]


def _scale(table: pd.DataFrame, about: About) -> tuple[Normalize, "matplotlib.colors.Colormap"]:
    numbers = table[["value", "null_95"]].to_numpy(dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    low, high = min(float(numbers.min()), 0.0), float(numbers.max())
    colors = matplotlib.colormaps["cividis" if about.higher_is_alike else "cividis_r"]
    return Normalize(low, high if high > low else low + 1.0), colors


def _cells(
    axes: "Axes",
    table: pd.DataFrame,
    about: About,
    norm: Normalize,
    colors: "matplotlib.colors.Colormap",
    shape: tuple[int, int],
    size: float,
) -> None:
    axes.set_xlim(0, shape[1])
    axes.set_ylim(shape[0], 0)
    frames = []
    numbers = table[["value", "null_95", "p_max"]].to_numpy(dtype=float)
    for place, (value, level, chosen) in enumerate(numbers.tolist()):
        r, c = divmod(place, shape[1])
        passes = value > level if about.higher_is_alike else value < level
        face = colors(norm(value)) if passes else PALE
        known = np.isfinite(value)
        cell = axes.add_patch(
            Rectangle(
                (c, r),
                1,
                1,
                facecolor=face if known else "white",
                edgecolor="white" if passes or not known else "#B5B5B5",
                hatch=None if passes or not known else "////",
                linewidth=0.6,
                gid=f"cell-{r}-{c}",
            )
        )
        cell.set_in_layout(False)  # never beyond the axes; measuring thousands of cells takes seconds
        if known and chosen <= 0.05:
            frames.append(Rectangle((c + 0.04, r + 0.04), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.8))
        if size >= _NUMBERS_FROM or not known:
            dark = passes and known and np.dot(face[:3], (0.2126, 0.7152, 0.0722)) < 0.45
            text = axes.text(
                c + 0.5,
                r + 0.5,
                _number(value) if known else "\N{EN DASH}",
                ha="center",
                va="center",
                fontsize=7.5 if size > 0.5 else 6,
                color="white" if dark else INK,
            )
            if known and not passes:
                text.set_bbox({"facecolor": PALE, "edgecolor": "none", "pad": 0.8})
    for frame in frames:
        axes.add_patch(frame)


def _ticks(axes: "Axes", names_u: list[str], names_e: list[str], cell: tuple[float, float]) -> None:
    """Name rows and columns; where a cell of (height, width) inches is lower than a line, only every n-th."""
    labels = [shorten(name, _LABEL, 8) for name in names_e]
    turned = max(text_width(label, 8) for label in labels) > cell[1] - 0.06
    every = math.ceil(_LINE / cell[0]), math.ceil(_LINE / cell[1]) if turned else 1
    axes.set_yticks(
        np.arange(len(names_u))[:: every[0]] + 0.5, [shorten(name, _LABEL, 8) for name in names_u[:: every[0]]]
    )
    axes.set_xticks(np.arange(len(names_e))[:: every[1]] + 0.5, labels[:: every[1]], rotation=90 if turned else 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number(value: float) -> str:
    """Two decimals, with a minus sign only where they show that the value is negative."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "\N{MINUS SIGN}")


def _axis(table: pd.DataFrame, side: str, letter: str) -> str:
    first = table.iloc[0]
    if first["grid"] == "checkpoints":
        return f"{first[side]}, {first[f'layer_{letter}']}"
    untrained = "" if first[f"trained_{letter}"] else ", random weights"
    return f"{first[side]}, step {first[f'step_{letter}']}{untrained}"


def _bar(
    axes: "Axes", table: pd.DataFrame, about: About, norm: Normalize, colors: "matplotlib.colors.Colormap"
) -> None:
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    axes.imshow(
        np.linspace(low, high, 256)[:, None],
        extent=(0, 1, low, high),
        origin="lower",
        aspect="auto",
        cmap=colors,
        norm=norm,
    )
    levels = table["null_95"].to_numpy(dtype=float)
    levels = levels[np.isfinite(levels)]
    least, most = float(levels.min()), float(levels.max())
    never, some = ((low, least), (least, most)) if about.higher_is_alike else ((most, high), (least, most))
    for (start, end), share in ((never, 1.0), (some, 0.4)):  # no cell passes here; only some cells do
        axes.add_patch(
            Rectangle((0, start), share, end - start, facecolor=PALE, edgecolor="#B5B5B5", hatch="////", linewidth=0)
        )
    middle = float(np.median(levels))
    axes.axhline(middle, color=INK, linewidth=1.4)
    axes.set_xlim(0, 1)
    axes.set_ylim(low, high)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(about.symbol)
    axes.tick_params(length=2, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    across = f"{middle:.2f}" if most - least < 0.005 else f"{least:.2f} to {most:.2f}"
    axes.set_title(f"level {across}", fontsize=7, loc="left", pad=3)


SIMILARITY = TableSchema(
    name="similarity",
    columns=COLUMNS,
    key=("config_hash", "layer_u", "layer_e", "step_u", "step_e"),
    whole=("step_u", "step_e", "n", "n_groups", "n_cells", "block", "permutations", "seed"),
    real=("value", "null_mean", "null_sd", "null_95", "p", "p_max"),
    truth=("trained_u", "trained_e", "best"),
    command="compare",
)
"""results/similarity.csv."""
_FAMILY = ("index", "options", "grid", "understanding", "execution", "source_u", "source_e", "permute")


@dataclass(frozen=True, kw_only=True)
class DrawnComparison:
    """One index: its figure, its cells, its caption, and whether the cells are from an earlier run."""

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
        earlier = read_similarity(table) if table.is_file() else SIMILARITY.frame([])
        digest = comparison_hash(inputs.rows, inputs.columns, **labels, config=config)
        own = earlier[earlier["config_hash"] == digest].reset_index(drop=True)
        kept = len(own) == len(inputs.rows) * len(inputs.columns)
        if kept:
            found = Comparison(table=own, notes=())
        else:
            found = compare(inputs.rows, inputs.columns, **labels, config=config, n_jobs=n_jobs, quiet=quiet)
            SIMILARITY.update(table, partial(_joined, fresh=found.table))
        drawn.append(_drawn(found, config, inputs, folder, command, kept=kept))
    return drawn


def read_similarity(path: Path) -> pd.DataFrame:
    """Read results/similarity.csv with its types; ProbeError when it is absent or no such table."""
    return SIMILARITY.read(path)


def best_line(table: pd.DataFrame, about: About) -> str:
    """The cell farthest beyond its null in one sentence, with what it is worth among all cells."""
    row = table[table["best"]].iloc[0]
    cell = f"{_cell_name(row, 'u')} with {_cell_name(row, 'e')}"
    return (
        f"{about.title}: {cell} {row['value']:.3f} (null mean {row['null_mean']:.3f}, calibrated level "
        f"{row['null_95']:.3f}, p {row['p']:.3g}, among all {row['n_cells']} cells p_max {row['p_max']:.3g})"
    )


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
    listed = ", ".join(f"{name} {value}" for name, value in options.items())
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
        f"{about.formula}{f' ({listed})' if listed else ''}. {used}, {first['source_e']}. "
        f"Null: {first['permutations']} permutations of {SCHEMES[config.permute].replace(': ', ' (', 1)}), "
        f"seed {first['seed']}; the calibrated level is the value that 5 % of them reach.{chance} "
        f"Farthest beyond its null: {best_line(found.table, about)}.{dash}{untrained}" + (f" {world}." if world else "")
    )


def _cell_name(row: "pd.Series[Any]", side: str) -> str:
    model = row["understanding" if side == "u" else "execution"]
    return f"{model} step {row[f'step_{side}']} {row[f'layer_{side}']}"
