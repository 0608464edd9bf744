"""`mnprobe tsne --series` as a function: maps and quality over training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from mnprobe.analysis.figures.curve import percent_axis, steps_axis
from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import (
    GRAY,
    INK,
    SavedFigure,
    house_style,
    quiet_axes,
    save_figure,
    shorten,
    training_colors,
)
from mnprobe.analysis.tables.progress import world_note
from mnprobe.analysis.tsne.embedding import TsneConfig, quality_lines
from mnprobe.analysis.tsne.figure import ColorLegend, draw_points, shape_handles
from mnprobe.analysis.tsne.inputs import TsneInput
from mnprobe.analysis.tsne.legend import Kind, kinds
from mnprobe.analysis.tsne.maps import (
    HELD_OUT,
    MAP_QUALITY,
    POINTS,
    SeriesMap,
    TsneSeries,
    panel_facts,
    quality_table,
    series_coordinates,
    tsne_series,
)
from mnprobe.analysis.tsne.slider import series_slider, slider_page
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.files import write_text
from mnprobe.core.progress import progress

__all__ = [
    "MOST_COLUMNS",
    "DrawnSeries",
    "draw_tsne_series",
    "purity_figure",
    "series_facts",
    "series_figure",
    "shown_steps",
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_PANELS = {
    "purity": ("Neighbours of either model", "share with the own instruction"),
    "across": ("Neighbours of the other model", "share with the own instruction"),
    "trustworthiness": ("Trustworthiness of the map", "1: no false neighbours"),
}
_LINES: dict[str, dict[str, Any]] = {
    "held-out": {"linestyle": "-", "marker": "o"},
    "all": {"linestyle": "-", "marker": "o"},
    "fitted": {"linestyle": ":", "marker": "s", "alpha": 0.75},
}
_NAMES = {"held-out": "held-out episodes", "all": "all episodes", "fitted": "episodes that the heads were fitted on"}


def purity_figure(table: pd.DataFrame, *, title: str, caption: str) -> "Figure":
    """Draw the table of `quality_table`: a panel each for purity, purity across models, and trustworthiness.

    Color stands for the training; held-out points are drawn apart from those that heads were fitted on (all points only
    where no heads were fitted). Chance is the expected purity of neighbors drawn at random from the same ones.
    """
    with house_style():
        return _draw_purity(table, title=title, caption=caption)


def _draw_purity(table: pd.DataFrame, *, title: str, caption: str) -> "Figure":
    groups = [name for name in ("held-out", "fitted") if name in set(table["points"])] or ["all"]
    shown = [name for name in _PANELS if table[name].notna().any()]
    colors = training_colors(list(dict.fromkeys(table["training"])))
    layout = FigureLayout([3.1] * len(shown), [2.3], title=title, caption=caption)
    for column, name in enumerate(shown):
        _panel(layout.panel(0, column), table, name, groups, colors)
    layout.legend(_handles(colors, groups))
    return layout.finish()


def _panel(axes: "Axes", table: pd.DataFrame, name: str, groups: list[str], colors: dict[str, str]) -> None:
    for training, color in colors.items():
        for group in groups:
            rows = table[(table["training"] == training) & (table["points"] == group)].sort_values("step")
            axes.plot(rows["step"], rows[name], color=color, label=f"{training} {group}", **_LINES[group])
            if f"{name}_chance" in rows:
                axes.plot(rows["step"], rows[f"{name}_chance"], color=INK, linewidth=1.0, label="_chance")
    quiet_axes(axes)
    if table["step"].nunique() > 1:
        steps_axis(axes, table["step"], log=False)
    else:
        axes.set_xticks([int(table["step"].iloc[0])])
    axes.set_xlabel("training step")
    panel_title(axes, *_PANELS[name], width=3.1)
    if name != "trustworthiness":
        percent_axis(axes, "y")


def _handles(colors: dict[str, str], groups: list[str]) -> list[Line2D]:
    found = [
        Line2D([], [], color=color, marker="o", linestyle="-", label=shorten(training or "this run", 2.0, 8))
        for training, color in colors.items()
    ]
    if len(groups) > 1 or groups == ["fitted"]:
        found += [Line2D([], [], color=GRAY, label=_NAMES[group], **_LINES[group]) for group in groups]
    return [*found, Line2D([], [], color=INK, linewidth=1.0, label="chance")]


MOST_COLUMNS = 7  # steps: of more, evenly spaced ones are drawn
_SIZE = 2.2  # inches of a map


def series_figure(series: TsneSeries, *, title: str, caption: str, color: str = "auto") -> "Figure":
    """Draw the maps of `series`; a training without a checkpoint at some step has an empty panel there.

    The drawn offsets are the coordinates of the maps. `color` is 'auto', 'instruction' or 'task'.
    """
    with house_style():
        return _draw(series, title=title, caption=caption, color=color)


def shown_steps(steps: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """At most `most` of the sorted `steps`, evenly spaced, with the first and the last.

    >>> shown_steps([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)
    [0, 4, 8]
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place)] for place in np.linspace(0, len(steps) - 1, most)]


def _draw(series: TsneSeries, *, title: str, caption: str, color: str) -> "Figure":
    steps, trainings = shown_steps(series.steps), series.trainings
    panels = [item.panel for item in series.maps]
    everything = pd.concat([panel.points for panel in panels])
    named = kinds(list(zip(everything["task"], everything["instruction"], strict=True)), by=color)
    layout = FigureLayout([_SIZE] * len(steps), [_SIZE] * len(trainings), title=title, caption=caption, least_width=6.3)
    limits = _limits(series)
    for row, training in enumerate(trainings):
        for column, step in enumerate(steps):
            item = series.at(training, step)
            axes = layout.panel(row, column)
            if item is None:
                _no_map(axes)
            else:
                _map(axes, item, named, limits)
            if row == 0:
                axes.set_title(_step(step), fontsize=9.5)
            if column == 0 and training:
                name = shorten(training, _SIZE / 2, 10, bold=True)  # maps may shrink
                axes.set_ylabel(name, fontsize=10, fontweight="bold")
    layout.legend(shape_handles(panels, everything, joined=False, width=max(6.3, _SIZE * len(steps))))
    layout.block(ColorLegend(named))
    return layout.finish()


def _no_map(axes: "Axes") -> None:
    axes.text(0.5, 0.5, "no checkpoint", ha="center", va="center", fontsize=8, color=GRAY)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _map(axes: "Axes", item: SeriesMap, named: Sequence[Kind], limits: float) -> None:
    draw_points(axes, item.panel, named, float(np.clip(4200 / len(item.panel.points), 3, 26)))
    axes.set_xlim(-limits, limits)
    axes.set_ylim(-limits, limits)
    axes.annotate(
        *("\n".join(quality_lines(item.panel.qualities)), (0, 0)),
        xytext=(0, -3),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        fontsize=6.8,
        linespacing=1.2,
    )


def _limits(series: TsneSeries) -> float:
    """Half the side of the square that holds every point of every map."""
    return 1.04 * max(float(np.abs(item.panel.embedding.coordinates).max()) for item in series.maps)


def _step(step: int) -> str:
    return f"step {step:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


_TITLE = "t-SNE of the shared space over training"
_PURITY = "Neighbourhoods on the maps of t-SNE over training"


@dataclass(frozen=True, kw_only=True)
class DrawnSeries:
    """Files written, and the maps that were drawn."""

    figure: SavedFigure
    purity: SavedFigure
    page: Path
    table: Path
    quality: Path
    series: TsneSeries
    caption: str


def draw_tsne_series(
    inputs: Mapping[str, Sequence[TsneInput]],
    *,
    folder: Path,
    tables: Path,
    partition: str | None = None,
    config: TsneConfig | None = None,
    color: str = "auto",
    name: str = "tsne",
    command: str | None = None,
    quiet: bool = False,
) -> DrawnSeries:
    """Draw the checkpoints of each training (`inputs`, as `series_inputs` finds them) after one another.

    Args:
        inputs: by training, its checkpoints.
        folder: where the figures `name`-series and `name`-purity (.png, .svg, .json) and `name`-series.html go.
        tables: where `name`-series.csv (coordinates) and map-quality.csv (what `Quality` holds; `name`-quality.csv
            for another name) go.
        partition: only these episodes, as for `draw_tsne`.
        config: of the t-SNE.
        color: 'auto', 'instruction' or 'task'.
        name: prefix of all these files.
        command: command that draws them again; written to the notes.
        quiet: show no progress.
    Raises:
        FeatureError: no checkpoints, or as `tsne_series`.
    """
    config = config or TsneConfig()
    if color not in ("auto", "instruction", "task"):
        raise ConfigError(f"colour must be auto, instruction or task, got {color!r}")
    count = sum(len(some) for some in inputs.values())
    if not count:
        raise FeatureError("there is no checkpoint to show. `mnprobe extract` makes features of checkpoints")
    with progress("t-SNE over training", count, quiet=quiet) as advance:
        series = tsne_series(inputs, partition=partition, config=config, advance=advance)
    worlds = sorted({world for some in inputs.values() for given in some for world in given.pair.worlds})
    caption = _caption(series, partition, config, world_note(worlds))
    quality = quality_table(series)
    coordinates = series_coordinates(series)
    command = command or command_line("tsne", series=True, partition=partition)
    stem, chart = folder / f"{name}-series", folder / f"{name}-purity"
    drawn = DrawnSeries(
        figure=save_figure(series_figure(series, title=_TITLE, caption=_cut(series) + caption, color=color), stem),
        purity=save_figure(purity_figure(quality, title=_PURITY, caption=_purity_caption(series)), chart),
        page=stem.with_name(stem.name + ".html"),
        table=tables / f"{name}-series.csv",
        quality=tables / ("map-quality.csv" if name == "tsne" else f"{name}-quality.csv"),
        series=series,
        caption=caption,
    )
    POINTS.write(drawn.table, coordinates)
    MAP_QUALITY.write(drawn.quality, quality)
    slider = series_slider(coordinates, quality, color=color, note=caption)
    write_text(drawn.page, slider_page(slider, _TITLE))
    facts: dict[str, object] = {"perplexity_asked": config.perplexity, "seed": config.seed}
    facts |= {"settings": asdict(config), "panels": series_facts(series)}
    write_note(FigureNote(title=_TITLE, caption=_cut(series) + caption, command=command, facts=facts), stem)
    write_note(FigureNote(title=_PURITY, caption=_purity_caption(series), command=command, facts=facts), chart)
    return drawn


def series_facts(series: TsneSeries) -> list[dict[str, object]]:
    """The numbers of each map, ready for JSON."""
    return [
        {"training": item.training, "step": item.step, "moved": None if np.isnan(item.moved) else item.moved}
        | panel_facts(item.panel)
        for item in series.maps
    ]


def _cut(series: TsneSeries) -> str:
    shown, every = shown_steps(series.steps), series.steps
    return "" if len(shown) == len(every) else f"{len(shown)} of {len(every)} steps are drawn. "


def _caption(series: TsneSeries, partition: str | None, config: TsneConfig, world: str) -> str:
    panel = series.maps[0].panel
    which = f"of partition {partition}" if partition else "that all checkpoints have"
    which = "that the heads were not fitted on" if partition == HELD_OUT else which
    pairs = zip(series.maps, series.maps[1:], strict=False)
    moved = [after.moved for before, after in pairs if before.training == after.training]
    exaggerated = (
        f"and {config.warm_exaggeration_iterations} with exaggeration" if config.warm_exaggeration_iterations else ""
    )
    others = (
        " The first map of a later training begins from the first of all, and is the same where its features are."
        if len(series.trainings) > 1
        else ""
    )
    sentences = [
        f"The {panel.points['id'].nunique()} episodes {which}, on every map the same ({len(panel.points)} points); "
        f"perplexity {panel.embedding.perplexity:.3g}, seed {config.seed}.",
        f"The first map begins from principal components ({config.exaggeration_iterations} iterations with early "
        f"exaggeration, {config.iterations} without), each later one from the map before, shrunk "
        f"({' '.join(filter(None, [f'{config.warm_iterations} iterations', exaggerated]))}).{others}",
        "Maps are moved and scaled as a whole to the same spread (root mean square distance 1 from the centre)"
        + (f"; from one to the next, points move by {min(moved):.2f} to {max(moved):.2f} of it." if moved else "."),
        "Rows have length 1, so that near means a high cosine similarity.",
        *(f"{note[0].upper()}{note[1:]}." for note in (*series.notes, world) if note),
        "Distances between far clusters mean nothing in a t-SNE; it is no evidence by itself.",
    ]
    return " ".join(sentences)


def _purity_caption(series: TsneSeries) -> str:
    main = series.maps[-1].panel.quality
    held = main.points == "held-out"
    sentences = [
        f"Purity: mean share of a point's {main.neighbours} nearest points in the plane that have its instruction; "
        "chance: the same for neighbours drawn at random."
        + (f" Of the other model, the {main.across_neighbours} nearest count." if main.across_neighbours else ""),
        f"Trustworthiness (Venna and Kaski 2001) looks at {main.trust_neighbours} neighbours.",
        "Held-out points are judged among themselves, and so are those that the heads were fitted on, which lie "
        "together by construction."
        if held
        else "",
        f"N = {main.count} {'held-out ' if held else ''}points of both models.",
        "Purity on a map is a description, not a test: `mnprobe align` measures alignment.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)
