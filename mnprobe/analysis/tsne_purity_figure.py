"""Purity of neighbourhoods and trustworthiness of the maps over training, beside chance."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.lines import Line2D

from mnprobe.analysis.curve_looks import training_colours
from mnprobe.analysis.curve_marks import percent_axis, steps_axis
from mnprobe.analysis.figures import GREY, INK, house_style, new_figure, quiet_axes, shorten, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["purity_figure"]

_BOLD = 0.85  # of the room: letters are wider than those that `shorten` measures
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

    Colour tells the training; held-out points are drawn apart from those that heads were fitted on (all points only
    where there is no such difference). Chance is the expected purity of neighbours drawn at random from the same ones.
    """
    with house_style():
        return _draw(table, title=title, caption=caption)


def _draw(table: pd.DataFrame, *, title: str, caption: str) -> "Figure":
    groups = [name for name in ("held-out", "fitted") if name in set(table["points"])] or ["all"]
    shown = [name for name in _PANELS if table[name].notna().any()]
    colours = training_colours(list(dict.fromkeys(table["training"])))
    size, left, gap = 3.1, 0.75, 0.75
    width = left + len(shown) * (size + gap) - gap + 0.2
    foot_lines = wrap(caption, width - 0.3, 7)
    foot = 0.12 + 0.145 * len(foot_lines)
    handles = _handles(colours, groups)
    columns = max(1, int((width - 0.3) // 2.6))
    legend = 0.12 + 0.19 * -(-len(handles) // columns)
    top, head, panel, ticks = 0.42, 0.42, 2.3, 0.55
    height = top + head + panel + ticks + legend + foot
    figure = new_figure(width, height)
    figure.text(
        *(0.15 / width, 1 - 0.12 / height, shorten(title, (width - 0.3) * _BOLD, 12)),
        va="top",
        fontsize=12,
        fontweight="bold",
    )
    for place, name in enumerate(shown):
        x = left + place * (size + gap)
        axes = figure.add_axes((x / width, 1 - (top + head + panel) / height, size / width, panel / height))
        _panel(axes, table, name, groups, colours)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.05 / width, (foot + legend) / height),
        ncols=columns,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
    figure.text(
        *(0.15 / width, 0.07 / height, "\n".join(foot_lines)),
        va="bottom",
        fontsize=7,
        color=GREY,
        linespacing=1.3,
    )
    return figure


def _panel(axes: "Axes", table: pd.DataFrame, name: str, groups: list[str], colours: dict[str, str]) -> None:
    for training, colour in colours.items():
        for group in groups:
            rows = table[(table["training"] == training) & (table["points"] == group)].sort_values("step")
            axes.plot(rows["step"], rows[name], color=colour, label=f"{training} {group}", **_LINES[group])
            if f"{name}_chance" in rows:
                axes.plot(rows["step"], rows[f"{name}_chance"], color=INK, linewidth=1.0, label="_chance")
    quiet_axes(axes)
    if table["step"].nunique() > 1:
        steps_axis(axes, table["step"], log=False)
    else:
        axes.set_xticks([int(table["step"].iloc[0])])
    axes.set_xlabel("training step")
    title, below = _PANELS[name]
    axes.set_title(title, loc="left", pad=16)
    axes.annotate(
        *(below, (0, 1)),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7.5,
        color=GREY,
    )
    if name != "trustworthiness":
        percent_axis(axes, "y")


def _handles(colours: dict[str, str], groups: list[str]) -> list[Line2D]:
    found = [
        Line2D([], [], color=colour, marker="o", linestyle="-", label=shorten(training or "this run", 2.0, 8))
        for training, colour in colours.items()
    ]
    if len(groups) > 1 or groups == ["fitted"]:
        found += [Line2D([], [], color=GREY, label=_NAMES[group], **_LINES[group]) for group in groups]
    return [*found, Line2D([], [], color=INK, linewidth=1.0, label="chance")]
