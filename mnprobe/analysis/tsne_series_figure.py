"""t-SNE over training as small multiples: steps as columns, trainings as rows, one scale for all maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnprobe.analysis.figures import GREY, house_style, new_figure, shorten, wrap
from mnprobe.analysis.instruction_colours import Kind, kinds
from mnprobe.analysis.legend_columns import pack
from mnprobe.analysis.tsne_figure import (
    LINE,
    colour_legend,
    draw_points,
    shape_handles,
    shape_legend,
    shape_rows,
)
from mnprobe.analysis.tsne_quality import quality_lines
from mnprobe.analysis.tsne_series import SeriesMap, TsneSeries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_COLUMNS", "series_figure", "shown_steps"]

MOST_COLUMNS = 7  # steps: of more, evenly spaced ones are drawn
_SIZE, _GAP, _MARGIN, _LABEL = 2.2, 0.12, 0.15, 0.24  # inches
_BOLD = 0.85  # of the room: letters are wider than those that `shorten` measures
_TOP, _HEAD, _BELOW = 0.4, 0.24, 0.56


def series_figure(series: TsneSeries, *, title: str, caption: str, colour: str = "auto") -> "Figure":
    """Draw the maps of `series`; a training without a checkpoint at some step leaves its place empty.

    The drawn offsets are the coordinates of the maps. `colour` is 'auto', 'instruction' or 'task'.
    """
    with house_style():
        return _draw(series, title=title, caption=caption, colour=colour)


def shown_steps(steps: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """At most `most` of the sorted `steps`, evenly spaced, with the first and the last.

    >>> shown_steps([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)
    [0, 4, 8]
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place)] for place in np.linspace(0, len(steps) - 1, most)]


def _draw(series: TsneSeries, *, title: str, caption: str, colour: str) -> "Figure":
    steps, trainings = shown_steps(series.steps), series.trainings
    panels = [item.panel for item in series.maps]
    everything = pd.concat([panel.points for panel in panels])
    named = kinds(list(zip(everything["task"], everything["instruction"], strict=True)), by=colour)
    label = _LABEL if any(trainings) else 0.0
    width = max(2 * _MARGIN + label + len(steps) * (_SIZE + _GAP) - _GAP, 6.6)
    lines = pack(named, width - 0.3, new_figure(1, 1))
    legend = LINE * (max((line.row for line in lines), default=0) + 1) + 0.12
    handles = shape_handles(panels, everything, joined=False, room=2.2 if width <= 9 else 3.2)
    shapes = 0.16 + 0.2 * shape_rows(handles, width)
    foot_lines = wrap(caption, width - 0.3, 7)
    foot = 0.12 + 0.145 * len(foot_lines)
    height = _TOP + _HEAD + len(trainings) * (_SIZE + _BELOW) + shapes + legend + foot
    figure = new_figure(width, height)
    left = _MARGIN / width
    figure.text(
        *(left, 1 - 0.12 / height, shorten(title, (width - 0.3) * _BOLD, 12)),
        ha="left",
        va="top",
        fontsize=12,
        fontweight="bold",
    )
    limits = _limits(series)
    for row, training in enumerate(trainings):
        upper = _TOP + _HEAD + row * (_SIZE + _BELOW)
        for column, step in enumerate(steps):
            x = _MARGIN + label + column * (_SIZE + _GAP)
            place = (x / width, 1 - (upper + _SIZE) / height, _SIZE / width, _SIZE / height)
            item = series.at(training, step)
            if row == 0:
                centre = (x + _SIZE / 2) / width
                figure.text(centre, 1 - (_TOP + _HEAD - 0.07) / height, _step(step), ha="center", fontsize=9.5)
            if item is None:
                figure.text(
                    *(place[0] + place[2] / 2, place[1] + place[3] / 2, "no checkpoint"),
                    ha="center",
                    fontsize=8,
                    color=GREY,
                )
                continue
            _map(figure.add_axes(place), item, named, limits)
        if training:
            figure.text(
                *(left + 0.06 / width, 1 - (upper + _SIZE / 2) / height, shorten(training, _BOLD * _SIZE, 10)),
                rotation=90,
                va="center",
                ha="center",
                fontsize=10,
                fontweight="bold",
            )
    edge = foot + legend
    shape_legend(figure, handles, (edge + shapes - 0.02) / height)
    colour_legend(figure, lines, edge / height)
    figure.text(
        *(left, 0.07 / height, "\n".join(foot_lines)),
        ha="left",
        va="bottom",
        fontsize=7,
        color=GREY,
        linespacing=1.3,
    )
    return figure


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
