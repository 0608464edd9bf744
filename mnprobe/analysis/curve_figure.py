"""The alignment curve as a figure: lines over checkpoints, or points with error bars where there is one checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnprobe.analysis.curve import DIFFERENCE, CurveData
from mnprobe.analysis.figures import GREY, INK, PALETTE, house_style, new_figure, quiet_axes, shorten, wrap
from mnprobe.analysis.tables import HOLDOUTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import LineStyleType

__all__ = ["curve_caption", "curve_figure", "metric_name", "series_name"]


@dataclass(frozen=True)
class _Look:
    label: str
    colour: str
    marker: str
    line: "LineStyleType"
    band: float = 0.08


_LOOKS = {
    "main": _Look("demonstrations (the claim)", PALETTE["blue"], "o", "-", 0.18),
    "blank": _Look("control: instruction blanked", PALETTE["vermillion"], "s", "--"),
    "pixels": _Look("control: pixels instead of u", PALETTE["green"], "^", "-."),
    "rollouts": _Look("control: the policy's own episodes", PALETTE["purple"], "D", (0, (5, 1))),
    "rollouts-blank": _Look("control: own episodes, blanked", PALETTE["orange"], "P", (0, (3, 1, 1, 1))),
    "shuffled": _Look("control: shuffled pairs", GREY, "X", ":"),
    "understanding-success": _Look("understanding: recognised", PALETTE["blue"], "o", "-", 0.18),
    "understanding-failure": _Look("understanding: not recognised", PALETTE["sky"], "o", "--"),
    "execution-success": _Look("execution: carried out", PALETTE["vermillion"], "s", "-"),
    "execution-failure": _Look("execution: not carried out", PALETTE["orange"], "s", "--"),
    "understanding-difference": _Look(
        "understanding: recognised minus not recognised", PALETTE["blue"], "o", "-", 0.18
    ),
    "execution-difference": _Look(
        "execution: carried out minus not carried out", PALETTE["vermillion"], "s", "-", 0.15
    ),
}
_METRICS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "adjusted_recall@1": "Recall@1 above chance, (R - c) / (1 - c)",
    "within_task_recall@1": "Recall@1 within tasks, mean over tasks",
    "success_minus_failure@1": "Recall@1, success minus failure",
    "within_task_success_minus_failure@1": "Recall@1 within tasks, success minus failure",
    "mi_bound": "bound on mutual information (nats)",
    "tied_share": "share of queries with ties",
}
_SHARES = ("within_task_recall@1", "tied_share")  # beside recall@k: from 0 to 1
_DIRECTIONS = {"u2e": "u to e", "e2u": "e to u", "mean": "mean of both directions"}


def metric_name(metric: str) -> str:
    """How a metric is called on an axis.

    >>> metric_name("recall@1")
    'Recall@1'
    """
    return _METRICS.get(metric, metric)


def series_name(series: str) -> str:
    """How a line is called in the legend; a source that is not known keeps its own name.

    >>> series_name("blank")
    'control: instruction blanked'
    """
    return _look(series).label


def curve_figure(data: CurveData, *, log_steps: bool = False) -> "Figure":
    """Draw `data`: one column of panels per holdout, one row per pair of models.

    With several checkpoints each line carries its 95 % band; with one, each measurement is a point with its interval
    (`log_steps` then changes nothing). Hollow markers are models with random weights. Every value drawn is a value of
    `data.points`.
    """
    with house_style():
        return _several(data, log_steps=log_steps) if not data.single else _single(data)


def curve_caption(data: CurveData) -> str:
    """What the figure shows, in sentences: quantity, n, chance, seeds, intervals, untrained models, what is missing."""
    points = data.points
    pairs = " and ".join(
        f"{u} with {e}" for u, e in points[["understanding", "execution"]].drop_duplicates().itertuples(index=False)
    )
    main = points[points["series"].isin(["main"])] if "main" in set(points["series"]) else points
    parts = [
        f"{metric_name(data.metric)} ({_DIRECTIONS.get(data.direction, data.direction)}) of {pairs}.",
        f"{_n_text(main)}; {_span(main['n_seeds'])} probe seeds.",
        "Bars" if data.single else "Bands",
    ]
    parts[-1] += " are 95 % intervals of a cluster bootstrap over instructions."
    if points[["ci_low", "ci_high"]].isna().any(axis=None):
        parts.append("Where none is drawn, the table has no interval.")
    if data.single:
        parts.append("There is one checkpoint only: points instead of a line over training.")
    if data.metric == "mi_bound":
        most = main[["batch", "n_groups"]].min(axis=1).map(np.log)
        parts.append(f"It cannot exceed log B = {_span(most, digits=2)} nats, one pair of each group in a batch.")
    untrained = _untrained(points)
    if untrained:
        parts.append(f"Hollow markers: random weights (untrained): {untrained}.")
    first = points.iloc[0]
    parts.append(
        f"Probe: {first['heads']} heads, pairing by {first['pairing']}, loss {first['loss']}, "
        f"tau {first['tau']:g}, layers {first['layer_u']} ({first['pool_u']}) and "
        f"{first['layer_e']} ({first['pool_e']})."
    )
    parts += [note[0].upper() + note[1:] + "." for note in data.notes]
    return " ".join(parts)


def _several(data: CurveData, *, log_steps: bool) -> "Figure":
    pairs, holdouts = _pairs(data.points), _holdouts(data.points)
    figure, grid, floor = _frame(data, rows=len(pairs), columns=len(holdouts), panel=(4.1, 2.7), left=0.75)
    for row, pair in enumerate(pairs):
        for column, holdout in enumerate(holdouts):
            axes, points = grid[row][column], _pick(data.points, pair, holdout)
            for series, line in points.groupby("series", sort=False):
                _draw_line(axes, line, _look(str(series)))
            _draw_start(axes, points)
            _draw_chance(axes, points)
            _steps_axis(axes, data.points["step"], log=log_steps)
            _value_axis(axes, data, "y")
            quiet_axes(axes)
            _panel_title(axes, points, holdout, pair if len(pairs) > 1 else None, width=4.1)
            axes.set_xlabel(shorten(data.axis, 4.1, 9) if row == len(pairs) - 1 else "")
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                label = _axis_label(data)  # two lines where one would be longer than the panel is high
                axes.set_ylabel(label if len(label) < 45 else label.replace(", mean of", ",\nmean of"))
    _legend(figure, data, floor)
    return figure


def _single(data: CurveData) -> "Figure":
    pairs, holdouts = _pairs(data.points), _holdouts(data.points)
    names = list(dict.fromkeys(data.points["series"]))
    height = 0.42 * len(names) + 0.55
    figure, grid, floor = _frame(data, rows=len(pairs), columns=len(holdouts), panel=(3.4, height), left=2.55)
    for row, pair in enumerate(pairs):
        for column, holdout in enumerate(holdouts):
            axes, points = grid[row][column], _pick(data.points, pair, holdout)
            for _, point in points.iterrows():
                _draw_point(axes, point, names.index(point["series"]))
            _draw_seeds(axes, _pick(data.seeds, pair, holdout), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(
                range(len(names)), [series_name(name) for name in names] if column == 0 else [""] * len(names)
            )
            _value_axis(axes, data, "x")
            axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", length=3)
            axes.spines["left"].set_visible(False)
            _panel_title(axes, points, holdout, pair if len(pairs) > 1 else None, width=3.4)
            axes.set_xlabel(_axis_label(data) if row == len(pairs) - 1 else "")
    _legend(figure, data, floor)
    return figure


def _frame(
    data: CurveData, *, rows: int, columns: int, panel: tuple[float, float], left: float
) -> tuple["Figure", list[list["Axes"]], float]:
    """A figure whose panels have fixed sizes in inches, with room for title, legend and caption below."""
    width = left + columns * panel[0] + (columns - 1) * 0.35 + 0.25
    caption = wrap(curve_caption(data), width - 0.3, 7)
    legend_rows = -(-_legend_length(data) // max(1, int(width // 2.9)))
    foot = 0.62 + 0.2 * legend_rows + 0.15 + 0.145 * len(caption)
    height = foot + rows * panel[1] + (rows - 1) * 0.85 + 0.82
    figure = new_figure(width, height)
    cells = figure.add_gridspec(
        rows,
        columns,
        left=left / width,
        right=1 - 0.25 / width,
        bottom=foot / height,
        top=1 - 0.82 / height,
        wspace=0.35 / panel[0],
        hspace=0.85 / panel[1],
    )
    grid = [[figure.add_subplot(cells[row, column]) for column in range(columns)] for row in range(rows)]
    title = shorten(_title(data), (width - 0.3) * 0.93, 12)  # bold letters are wider
    figure.text(0.12 / width, 1 - 0.12 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        0.12 / width, 0.08 / height, "\n".join(caption), ha="left", va="bottom", fontsize=7, color=GREY, linespacing=1.3
    )
    return figure, grid, (foot - 0.5) / height


def _draw_line(axes: "Axes", line: pd.DataFrame, look: _Look) -> None:
    line = line.sort_values("step", kind="stable")
    banded = line.dropna(subset=["ci_low", "ci_high"])
    axes.fill_between(
        banded["step"], banded["ci_low"], banded["ci_high"], color=look.colour, alpha=look.band, linewidth=0, zorder=1.5
    )
    axes.plot(
        line["step"],
        line["value"],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        label=look.label,
        zorder=3,
    )
    hollow = line[_is_untrained(line)]
    axes.plot(
        *(hollow["step"], hollow["value"]),
        color=look.colour,
        linestyle="none",
        marker=look.marker,
        markerfacecolor="white",
        markeredgewidth=1.4,
        zorder=4,
        label="_untrained",
    )


def _draw_start(axes: "Axes", points: pd.DataFrame) -> None:
    start = points[(points["series"] == "main") & (points["step"] == 0)]
    if not start.empty:
        axes.axhline(
            start["value"].iloc[0], color=PALETTE["blue"], linewidth=0.8, linestyle=(0, (1, 3)), label="_step 0"
        )


def _draw_chance(axes: "Axes", points: pd.DataFrame) -> None:
    lead = points[points["series"] == points["series"].iloc[0]].dropna(subset=["chance"]).sort_values("step")
    if lead.empty:
        return
    if lead["chance"].nunique() == 1:
        axes.axhline(lead["chance"].iloc[0], color=INK, linewidth=1.0, label="_chance", zorder=2)
    else:
        axes.plot(lead["step"], lead["chance"], color=INK, linewidth=1.0, label="_chance", zorder=2)


def _draw_point(axes: "Axes", point: pd.Series, place: int) -> None:
    look = _look(point["series"])
    if np.isfinite(point["ci_low"]) and np.isfinite(point["ci_high"]):
        axes.plot(
            [point["ci_low"], point["ci_high"]],
            [place, place],
            color=look.colour,
            linewidth=2.2,
            alpha=0.55,
            label="_ci",
        )
    hollow = bool(_is_untrained(point.to_frame().T).iloc[0])
    axes.plot(
        [point["value"]],
        [place],
        color=look.colour,
        linestyle="none",
        marker=look.marker,
        markersize=7.5,
        markeredgewidth=1.6,
        markerfacecolor="white" if hollow else look.colour,
        label=look.label,
        zorder=4,
    )
    if np.isfinite(point["chance"]):
        axes.plot([point["chance"]] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.2, label="_chance")


def _draw_seeds(axes: "Axes", seeds: pd.DataFrame, names: list[str]) -> None:
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


def _steps_axis(axes: "Axes", steps: pd.Series, *, log: bool) -> None:
    low, high = steps.min(), steps.max()
    if log:
        axes.set_xscale("symlog", linthresh=max(1.0, steps[steps > 0].min()))
    else:
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"))


def _value_axis(axes: "Axes", data: CurveData, which: str) -> None:
    if data.metric in _SHARES or data.metric.startswith("recall@"):
        axis = axes.yaxis if which == "y" else axes.xaxis
        (axes.set_ylim if which == "y" else axes.set_xlim)(-0.02, 1.02)
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        return
    values = data.points[["value", "ci_low", "ci_high", "chance"]].to_numpy(float)
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    room = 0.06 * max(high - low, 1e-6)
    (axes.set_ylim if which == "y" else axes.set_xlim)(low - room, high + room)


def _panel_title(axes: "Axes", points: pd.DataFrame, holdout: str, pair: tuple[str, str] | None, width: float) -> None:
    name = f"Held out: {HOLDOUTS.get(holdout, holdout)}"
    if pair is not None:
        name = f"{pair[0]} with {pair[1]}; held out: {holdout}"
    axes.set_title(shorten(name, width, 9.5), loc="left", fontsize=9.5, pad=17)
    lead = points[points["series"] == points["series"].iloc[0]] if len(points) else points
    text = _n_text(lead) if len(lead) else "not measured"
    axes.annotate(
        *(text, (0, 1)),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=7.5,
        color=GREY,
    )


def _legend(figure: "Figure", data: CurveData, floor: float) -> None:
    handles = []
    if not data.single:
        for series in dict.fromkeys(data.points["series"]):
            look = _look(series)
            handles.append(Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=look.label))
    if data.points["chance"].notna().any():
        bar = {"marker": "|", "linestyle": "none", "markersize": 11} if data.single else {"linewidth": 1.0}
        level = "no difference" if data.metric.endswith(DIFFERENCE) else "chance of this very test set"
        handles.append(Line2D([], [], color=INK, label=level, **bar))
    if data.single and not data.seeds.empty:
        handles.append(
            Line2D([], [], color=GREY, linestyle="none", marker="|", markersize=5, label="single probe seeds")
        )
    if _has_start(data):
        handles.append(
            Line2D(
                [], [], color=PALETTE["blue"], linewidth=0.8, linestyle=(0, (1, 3)), label="control: level at step 0"
            )
        )
    if _is_untrained(data.points).any():
        handles.append(
            Line2D(
                [], [], color=INK, linestyle="none", marker="o", markerfacecolor="white", label="hollow: random weights"
            )
        )
    width = figure.get_size_inches()[0]
    columns = max(1, min(int(width // 2.9), len(handles)))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.05 / width, floor), ncols=columns, columnspacing=1.6
    )


def _legend_length(data: CurveData) -> int:
    lines = 1 if data.single else data.points["series"].nunique() + 1
    return lines + int(_has_start(data)) + int(_is_untrained(data.points).any())


def _has_start(data: CurveData) -> bool:
    return not data.single and bool(((data.points["series"] == "main") & (data.points["step"] == 0)).any())


def _title(data: CurveData) -> str:
    pairs = _pairs(data.points)
    names = f"{pairs[0][0]} and {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs of models"
    if data.single:
        first = data.points.iloc[0]
        return f"Alignment of {names} at one checkpoint (u: step {first['step_u']}, e: step {first['step_e']})"
    return f"Alignment of {names} over training"


def _axis_label(data: CurveData) -> str:
    name, direction = metric_name(data.metric), _DIRECTIONS.get(data.direction, data.direction)
    return f"{name}, {direction}"


def _n_text(points: pd.DataFrame) -> str:
    chance = points["chance"].dropna() if not points["metric"].iloc[0].endswith(DIFFERENCE) else points["chance"][:0]
    level = f", chance {_span(chance * 100, digits=1)} %" if len(chance) else ""
    return f"n = {_span(points['n_test'])} test episodes in {_span(points['n_groups'])} groups{level}"


def _span(values: pd.Series, *, digits: int = 0) -> str:
    """'40', or '38 to 40' where it is not the same everywhere."""
    texts = [f"{value:.{digits}f}" for value in (values.min(), values.max())]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _untrained(points: pd.DataFrame) -> str:
    named = points[points["series"] != "pixels"]
    sides: Iterable[tuple[str, str, str]] = (
        ("understanding", "trained_u", "step_u"),
        ("execution", "trained_e", "step_e"),
    )
    found = []
    for side, trained, step in sides:
        for model, rows in named[~named[trained].astype(bool)].groupby(side):
            steps = ", ".join(str(value) for value in sorted(rows[step].unique()))
            found.append(f"{model} at step {steps}")
    return "; ".join(found)


def _is_untrained(points: pd.DataFrame) -> pd.Series:
    """True where a model that takes part has random weights; pixels are no model."""
    model_u = points["trained_u"].astype(bool) | (points["series"] == "pixels")
    return ~(model_u & points["trained_e"].astype(bool))


def _look(series: str) -> _Look:
    return _LOOKS.get(series, _Look(shorten(f"features from {series}", 2.2, 8), PALETTE["black"], "v", "-"))


def _pairs(points: pd.DataFrame) -> list[tuple[str, str]]:
    return list(points[["understanding", "execution"]].drop_duplicates().itertuples(index=False, name=None))


def _holdouts(points: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(points["holdout"]))


def _pick(points: pd.DataFrame, pair: tuple[str, str], holdout: str) -> pd.DataFrame:
    chosen = (points["understanding"] == pair[0]) & (points["execution"] == pair[1]) & (points["holdout"] == holdout)
    return points[chosen]
