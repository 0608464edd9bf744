"""The alignment curve as a figure: lines over checkpoints, or points with error bars where there is one checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.lines import Line2D

from mnprobe.analysis.curve import DIFFERENCE, CurveData
from mnprobe.analysis.curve_looks import Look, look, part_name, part_of, series_name, training_colours, training_look
from mnprobe.analysis.curve_marks import (
    draw_chance,
    draw_line,
    draw_point,
    draw_seeds,
    draw_start,
    draw_trainings,
    panel_title,
    percent_axis,
    steps_axis,
    value_axis,
)
from mnprobe.analysis.curve_words import axis_label, curve_caption, curve_title, is_untrained, n_text, pairs_of, span
from mnprobe.analysis.figures import GREY, INK, PALETTE, house_style, new_figure, quiet_axes, shorten, wrap
from mnprobe.analysis.progress import Progress
from mnprobe.analysis.tables import HOLDOUTS
from mnprobe.analysis.trainings import named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curve_figure"]

_LEGEND = 2.75  # inches that an entry of the legend takes
_SMALL = 1.75  # inches: height of a panel of recognition or success


@dataclass(frozen=True)
class _Row:
    """One row of panels: which points belong there, and what it is called where there are several rows."""

    pairs: tuple[tuple[str, str], ...]
    part: str
    name: str

    def of(self, points: pd.DataFrame, holdout: str) -> pd.DataFrame:
        here = [pair in self.pairs for pair in zip(points["understanding"], points["execution"], strict=True)]
        found = points[pd.Series(here, index=points.index) & (points["holdout"] == holdout)]
        return found[found["series"].map(part_of) == self.part] if self.part else found


def curve_figure(data: CurveData, *, log_steps: bool = False, progress: Sequence[Progress] = ()) -> "Figure":
    """Draw `data`: one column of panels per holdout; one row per pair of models or, where trainings are compared, per
    source of the episodes, with a colour per training and a line style per control.

    With several checkpoints each line carries its 95 % band, and `progress` (recognition, success) stands in small
    panels below, over the same steps. With one, each measurement is a point with its interval (`log_steps` and
    `progress` then change nothing). Hollow markers are models with random weights. Every value drawn is a value of
    `data.points`.
    """
    with house_style():
        return _several(data, progress, log_steps=log_steps) if not data.single else _single(data)


def _several(data: CurveData, progress: Sequence[Progress], *, log_steps: bool) -> "Figure":
    rows, holdouts = _rows(data), list(dict.fromkeys(data.points["holdout"]))
    panel = (4.6, 3.0) if data.compared else (4.1, 2.7)
    colours = training_colours(data.compared)
    steps = pd.concat([data.points["step"], *(one.points["step"] for one in progress)])
    untrained = bool(is_untrained(data.points[data.points["step"] == 0]).any())
    figure, grid, small, floor = _frame(
        data, rows=len(rows), columns=len(holdouts), panel=panel, left=0.75, small=len(progress), marked=untrained
    )
    for row, cells in zip(rows, grid, strict=True):
        for column, (holdout, axes) in enumerate(zip(holdouts, cells, strict=True)):
            points = row.of(data.points, holdout)
            _lines(axes, points, row.of(data.trainings, holdout), colours)
            steps_axis(axes, steps, log=log_steps, untrained=untrained)
            value_axis(axes, data, "y")
            quiet_axes(axes)
            _title_panel(axes, row, points, holdout, panel[0])
            axes.set_xlabel(shorten(data.axis, panel[0], 9) if row is rows[-1] and not progress else "")
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                label = axis_label(data)  # two lines where one would be longer than the panel is high
                axes.set_ylabel(label if len(label) < 45 else label.replace(", mean of", ",\nmean of"))
    for place, (axes, one) in enumerate(zip(small, progress, strict=True)):
        axes.tick_params(labelleft=place % len(holdouts) == 0)
        _draw_progress(axes, one, colours, panel[0])
        steps_axis(axes, steps, log=log_steps, untrained=untrained)
        axes.set_xlabel(shorten(data.axis, panel[0], 9))
    _legend(figure, _handles(data, progress), floor)
    return figure


def _rows(data: CurveData) -> list[_Row]:
    pairs = pairs_of(data.points)
    if not data.compared:
        return [_Row((pair,), "", f"{pair[0]} with {pair[1]}" if len(pairs) > 1 else "") for pair in pairs]
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for u, e in pairs:
        families.setdefault((named(u).family, named(e).family), []).append((u, e))
    rows = []
    for (u, e), members in families.items():
        here = [pair in members for pair in zip(data.points["understanding"], data.points["execution"], strict=True)]
        for part in dict.fromkeys(data.points.loc[here, "series"].map(part_of)):
            before = f"{u} with {e}: " if len(families) > 1 else ""
            rows.append(_Row(tuple(members), part, before + part_name(part)))
    return rows


def _lines(axes: "Axes", points: pd.DataFrame, single: pd.DataFrame, colours: dict[str, str]) -> None:
    points = points.assign(hollow=is_untrained(points)) if len(points) else points.assign(hollow=False)
    for (training, series), line in points.groupby(["training", "series"], sort=False):
        style = _style(str(training), str(series), colours)
        draw_line(axes, line, style)
        behind = single[(single["training"] == training) & (single["series"] == series)]
        if len(behind):
            draw_trainings(axes, behind, style.colour)
    if not colours:
        draw_start(axes, points)
        draw_chance(axes, points[points["series"] == points["series"].iloc[0]])
        return
    levels: dict[tuple[tuple[float, float], ...], pd.DataFrame] = {}
    for _, lines in points.groupby("training", sort=False):
        lead = lines[lines["series"] == lines["series"].iloc[0]].sort_values("step")
        levels.setdefault(tuple(zip(lead["step"], lead["chance"], strict=True)), lead)
    for lead in levels.values():
        draw_chance(axes, lead, colour=INK if len(levels) == 1 else colours.get(str(lead["training"].iloc[0]), INK))


def _style(training: str, series: str, colours: dict[str, str]) -> Look:
    return training_look(series, colours.get(training, PALETTE["black"])) if colours else look(series)


def _title_panel(axes: "Axes", row: _Row, points: pd.DataFrame, holdout: str, width: float) -> None:
    lead = points[points["series"] == points["series"].iloc[0]] if len(points) else points
    name = f"{row.name}; held out: {holdout}" if row.name else f"Held out: {HOLDOUTS.get(holdout, holdout)}"
    panel_title(axes, name, n_text(lead) if len(lead) else "not measured", width=width)


def _draw_progress(axes: "Axes", progress: Progress, colours: dict[str, str], width: float) -> None:
    points = progress.points.assign(hollow=~progress.points["trained"].astype(bool))
    single = progress.trainings
    for (training, blank), line in points.groupby(["training", "blank"], sort=False):
        colour = colours.get(str(training), PALETTE["blue"] if not colours else PALETTE["black"])
        style = training_look("blank" if blank else "main", colour)
        draw_line(axes, line, style)
        behind = single[(single["training"] == training) & (single["blank"] == blank)]
        if len(behind):
            draw_trainings(axes, behind, colour)
    draw_chance(axes, points.drop_duplicates("step"))
    percent_axis(axes, "y")
    quiet_axes(axes)
    level = f", chance {span(points['chance'].dropna() * 100, digits=1)} %" if points["chance"].notna().any() else ""
    panel_title(axes, progress.title, f"n = {span(points['n'])} episodes{level}", width=width)


def _single(data: CurveData) -> "Figure":
    pairs, holdouts = pairs_of(data.points), list(dict.fromkeys(data.points["holdout"]))
    names = list(dict.fromkeys(data.points["series"]))
    height = 0.42 * len(names) + 0.55
    figure, grid, _, floor = _frame(data, rows=len(pairs), columns=len(holdouts), panel=(3.4, height), left=2.55)
    for pair, cells in zip(pairs, grid, strict=True):
        row = _Row((pair,), "", f"{pair[0]} with {pair[1]}" if len(pairs) > 1 else "")
        for column, (holdout, axes) in enumerate(zip(holdouts, cells, strict=True)):
            points = row.of(data.points, holdout)
            for _, point in points.iterrows():
                draw_point(axes, point, names.index(point["series"]), look(str(point["series"])))
            draw_seeds(axes, row.of(data.seeds, holdout), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(
                range(len(names)), [series_name(name) for name in names] if column == 0 else [""] * len(names)
            )
            value_axis(axes, data, "x")
            axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", length=3)
            axes.spines["left"].set_visible(False)
            _title_panel(axes, row, points, holdout, 3.4)
            axes.set_xlabel(axis_label(data) if pair == pairs[-1] else "")
    _legend(figure, _handles(data, ()), floor)
    return figure


def _frame(
    data: CurveData,
    *,
    rows: int,
    columns: int,
    panel: tuple[float, float],
    left: float,
    small: int = 0,
    marked: bool = False,
) -> tuple["Figure", list[list["Axes"]], list["Axes"], float]:
    """A figure whose panels have fixed sizes in inches, with room for title, legend and caption below.

    Below the grid of panels stand `small` lower ones, as many in a row as there are columns. Gives figure, grid, the
    small panels, and the height (share of the figure) below which the legend goes.
    """
    gap, mark = 0.85, 0.14 if marked else 0.0
    width = left + columns * panel[0] + (columns - 1) * 0.35 + 0.25
    caption = wrap(curve_caption(data), width - 0.3, 7)
    foot = 0.62 + mark + 0.2 * _legend_rows(data, small, width) + 0.15 + 0.145 * len(caption)
    heights = [panel[1]] * rows + [_SMALL] * -(-small // columns)
    height = foot + sum(heights) + (len(heights) - 1) * (gap + mark) + 0.82
    figure = new_figure(width, height)

    def place(row: int, column: int) -> "Axes":
        top = 0.82 + sum(heights[:row]) + row * (gap + mark)
        x = left + column * (panel[0] + 0.35)
        box = (x / width, 1 - (top + heights[row]) / height, panel[0] / width, heights[row] / height)
        return figure.add_axes(box)

    grid = [[place(row, column) for column in range(columns)] for row in range(rows)]
    lower = [place(rows + number // columns, number % columns) for number in range(small)]
    title = shorten(curve_title(data), (width - 0.3) * 0.93, 12)  # bold letters are wider
    figure.text(0.12 / width, 1 - 0.12 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        *(0.12 / width, 0.08 / height, "\n".join(caption)),
        ha="left",
        va="bottom",
        fontsize=7,
        color=GREY,
        linespacing=1.3,
    )
    return figure, grid, lower, (foot - 0.5 - mark) / height


def _handles(data: CurveData, progress: Sequence[Progress]) -> list[Line2D]:
    """What the legend explains; its rows are filled column by column."""
    handles = _compared_handles(data) if data.compared and not data.single else []
    if not data.single and not data.compared:
        for series in dict.fromkeys(data.points["series"]):
            handles.append(_line(look(series)))
    if data.points["chance"].notna().any():
        bar = {"marker": "|", "linestyle": "none", "markersize": 11} if data.single else {"linewidth": 1.0}
        level = "no difference" if data.metric.endswith(DIFFERENCE) else "chance of this very test set"
        handles.append(Line2D([], [], color=INK, label=level, **bar))
    if data.single and not data.seeds.empty:
        handles.append(_mark("|", "single probe seeds", GREY, 5))
    if not data.single and (len(data.trainings) or any(len(one.trainings) for one in progress)):
        handles.append(_mark("_", "single trainings", GREY, 7))
    if not data.single and not data.compared and ((data.points["series"] == "main") & (data.points["step"] == 0)).any():
        handles.append(
            Line2D(
                [], [], color=PALETTE["blue"], linewidth=0.8, linestyle=(0, (1, 3)), label="control: level at step 0"
            )
        )
    if is_untrained(data.points).any():
        hollow = _mark("o", "hollow: random weights", INK, 5)
        hollow.set_markerfacecolor("white")
        handles.append(hollow)
    return handles


def _compared_handles(data: CurveData) -> list[Line2D]:
    counts = data.points.groupby("training")["n_trainings"].max()
    handles = []
    for training, colour in training_colours(data.compared).items():
        several = f" ({counts[training]} seeds)" if counts[training] > 1 else ""
        handles.append(Line2D([], [], color=colour, linewidth=5, label=shorten(training + several, 2.2, 8)))
    styles = {training_look(series, INK).label: series for series in dict.fromkeys(data.points["series"])}
    return handles + [_line(training_look(series, INK)) for series in styles.values()]


def _line(style: Look) -> Line2D:
    return Line2D(
        *([], []),
        color=style.colour,
        linestyle=style.line,
        linewidth=style.width,
        marker=style.marker,
        markersize=style.size,
        label=style.label,
    )


def _mark(marker: str, label: str, colour: str, size: float) -> Line2D:
    return Line2D([], [], color=colour, linestyle="none", marker=marker, markersize=size, label=label)


def _legend(figure: "Figure", handles: list[Line2D], floor: float) -> None:
    width = figure.get_size_inches()[0]
    columns = max(1, min(int(width // _LEGEND), len(handles)))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.05 / width, floor), ncols=columns, columnspacing=1.6
    )


def _legend_rows(data: CurveData, small: int, width: float) -> int:
    count = len(_handles(data, ())) + int(small > 0)  # single trainings may show in the small panels alone
    return -(-count // max(1, int(width // _LEGEND)))
