"""The marks that an alignment curve is made of: lines with bands, points with bars, chance, axes and panel titles."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnprobe.analysis.curve import CurveData
from mnprobe.analysis.curve_looks import Look
from mnprobe.analysis.curve_words import is_untrained
from mnprobe.analysis.figures import GREY, INK, PALETTE, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    *("draw_chance", "draw_line", "draw_point", "draw_seeds", "draw_start", "draw_trainings"),
    *("panel_title", "percent_axis", "steps_axis", "value_axis"),
]

_SHARES = ("within_task_recall@1", "tied_share")  # beside recall@k: from 0 to 1


def draw_line(axes: "Axes", line: pd.DataFrame, style: Look) -> None:
    """One line over steps with the band of its intervals; hollow markers where a model has random weights.

    `line` has columns step, value, ci_low, ci_high and `hollow` (bool).
    """
    line = line.sort_values("step", kind="stable")
    banded = line.dropna(subset=["ci_low", "ci_high"])
    if style.band:
        axes.fill_between(
            *(banded["step"], banded["ci_low"], banded["ci_high"]),
            color=style.colour,
            alpha=style.band,
            linewidth=0,
            zorder=1.5,
        )
    shape: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": style.size}
    axes.plot(
        *(line["step"], line["value"]),
        linestyle=style.line,
        linewidth=style.width,
        label=style.label,
        zorder=3,
        **shape,
    )
    hollow = line[line["hollow"]]
    axes.plot(
        *(hollow["step"], hollow["value"]),
        linestyle="none",
        markerfacecolor="white",
        markeredgewidth=1.4,
        zorder=4,
        label="_untrained",
        **shape,
    )


def draw_trainings(axes: "Axes", points: pd.DataFrame, colour: str) -> None:
    """Each single training behind a mean, as a small mark."""
    axes.plot(
        *(points["step"], points["value"]),
        linestyle="none",
        marker="_",
        markersize=6,
        markeredgewidth=1.1,
        color=colour,
        alpha=0.75,
        zorder=3.5,
        label="_trainings",
    )


def draw_start(axes: "Axes", points: pd.DataFrame) -> None:
    """The level of the claim at step 0, across the panel."""
    start = points[(points["series"] == "main") & (points["step"] == 0)]
    if not start.empty:
        axes.axhline(
            start["value"].iloc[0], color=PALETTE["blue"], linewidth=0.8, linestyle=(0, (1, 3)), label="_step 0"
        )


def draw_chance(axes: "Axes", points: pd.DataFrame, *, colour: str = INK) -> None:
    """The chance level of one line's test sets: one level, or a line where it changes from step to step."""
    lead = points.dropna(subset=["chance"]).sort_values("step")
    if lead.empty:
        return
    if lead["chance"].nunique() == 1:
        axes.axhline(lead["chance"].iloc[0], color=colour, linewidth=1.0, label="_chance", zorder=2)
    else:
        axes.plot(lead["step"], lead["chance"], color=colour, linewidth=1.0, label="_chance", zorder=2)


def draw_point(axes: "Axes", point: pd.Series, place: int, style: Look) -> None:
    """One measurement as a point with its interval and its chance level, at height `place`."""
    if np.isfinite(point["ci_low"]) and np.isfinite(point["ci_high"]):
        axes.plot(
            *([point["ci_low"], point["ci_high"]], [place, place]),
            color=style.colour,
            linewidth=2.2,
            alpha=0.55,
            label="_ci",
        )
    hollow = bool(is_untrained(point.to_frame().T).iloc[0])
    axes.plot(
        *([point["value"]], [place]),
        color=style.colour,
        linestyle="none",
        marker=style.marker,
        markersize=7.5,
        markeredgewidth=1.6,
        markerfacecolor="white" if hollow else style.colour,
        label=style.label,
        zorder=4,
    )
    if np.isfinite(point["chance"]):
        axes.plot([point["chance"]] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.2, label="_chance")


def draw_seeds(axes: "Axes", seeds: pd.DataFrame, names: list[str]) -> None:
    """Single probe seeds as small ticks below the points of `names`."""
    for series, rows in seeds.groupby("series", sort=False):
        if series in names:
            places = np.full(len(rows), names.index(str(series)) + 0.24)
            axes.plot(
                *(rows["value"], places),
                linestyle="none",
                marker="|",
                markersize=4,
                color=GREY,
                alpha=0.7,
                label="_seeds",
            )


def steps_axis(axes: "Axes", steps: "pd.Series[int]", *, log: bool, untrained: bool = False) -> None:
    """The axis of training steps; with `untrained`, step 0 is marked so below its number."""
    low, high = steps.min(), steps.max()
    if log:
        axes.set_xscale("symlog", linthresh=max(1.0, steps[steps > 0].min()))
        return
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    def text(value: float, _: float) -> str:
        number = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        return f"{number}\nuntrained" if untrained and value == 0 else number

    axes.xaxis.set_major_formatter(text)


def value_axis(axes: "Axes", data: CurveData, which: str) -> None:
    """Shares run from 0 to 100 %; other metrics as far as the points do."""
    if data.metric in _SHARES or data.metric.startswith("recall@"):
        percent_axis(axes, which)
        return
    values = data.points[["value", "ci_low", "ci_high", "chance"]].to_numpy(float)
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    room = 0.06 * max(high - low, 1e-6)
    (axes.set_ylim if which == "y" else axes.set_xlim)(low - room, high + room)


def percent_axis(axes: "Axes", which: str) -> None:
    """From 0 to 100 %."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_ylim if which == "y" else axes.set_xlim)(-0.02, 1.02)
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))


def panel_title(axes: "Axes", name: str, below: str, *, width: float) -> None:
    """A title at the left, and a smaller line of counts below it."""
    axes.set_title(shorten(name, width, 9.5), loc="left", fontsize=9.5, pad=17)
    axes.annotate(
        *(shorten(below, width, 7.5), (0, 1)),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=7.5,
        color=GREY,
    )
