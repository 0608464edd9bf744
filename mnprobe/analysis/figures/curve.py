"""Figure of the alignment curve, and `mnprobe curve` as a function."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnprobe.analysis.figures.curve_data import CURVE, DIFFERENCE, OUTCOMES, CurveData, curve_data
from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import (
    GRAY,
    INK,
    PALETTE,
    Look,
    SavedFigure,
    house_style,
    look,
    metric_name,
    part_name,
    part_of,
    quiet_axes,
    save_figure,
    series_name,
    shorten,
    training_colors,
    training_look,
    wrap,
)
from mnprobe.analysis.tables.alignment import HOLDOUTS, read_alignment
from mnprobe.analysis.tables.progress import Progress, recognition_progress, success_progress
from mnprobe.core.commands import command_line
from mnprobe.core.names import ModelName

__all__ = [
    "DrawnCurve",
    "axis_label",
    "curve_caption",
    "curve_figure",
    "curve_name",
    "curve_progress",
    "curve_title",
    "draw_curve",
    "is_untrained",
    "n_text",
    "pairs_of",
    "span",
    *("draw_chance", "draw_line", "draw_point", "draw_seeds", "draw_start", "draw_trainings"),
    *("percent_axis", "steps_axis", "value_axis"),
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_DIRECTIONS = {"u2e": "u to e", "e2u": "e to u", "mean": "mean of both directions"}


def curve_caption(data: CurveData) -> str:
    """Caption: quantity, n, chance, seeds, intervals, untrained models and missing values."""
    points = data.points
    pairs = " and ".join(f"{u} with {e}" for u, e in pairs_of(points))
    main = points[points["series"].isin(["main"])] if "main" in set(points["series"]) else points
    parts = [
        f"{metric_name(data.metric)} ({_DIRECTIONS.get(data.direction, data.direction)}) of {pairs}.",
        f"{n_text(main)}; {span(main['n_seeds'])} probe seeds.",
        "Bars" if data.single else "Bands",
    ]
    parts[-1] += " are 95 % intervals (cluster jackknife: each instruction left out in turn)."
    if not data.trainings.empty:
        parts.append(
            f"Each line is the mean of up to {span(points['n_trainings'].max())} trainings with other seeds, drawn "
            "as small marks; intervals are the means of theirs and leave the spread between trainings out."
        )
    if points[["ci_low", "ci_high"]].isna().any(axis=None):
        parts.append("Where none is drawn, the table has no interval.")
    if data.single:
        parts.append("There is one checkpoint only: points instead of a line over training.")
    if data.metric == "mi_bound":
        most = main[["batch", "n_groups"]].min(axis=1).map(np.log)
        parts.append(f"It cannot exceed log B = {span(most, digits=2)} nats, one pair of each group in a batch.")
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


def curve_title(data: CurveData) -> str:
    """Title of the figure."""
    pairs = pairs_of(data.points)
    names = f"{pairs[0][0]} and {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs of models"
    if data.single:
        first = data.points.iloc[0]
        steps = f" (u: step {first['step_u']}, e: step {first['step_e']})" if len(pairs) == 1 else ""
        return f"Alignment of {names} at one checkpoint{steps}"
    if data.compared:
        return f"Alignment over training: {_listed(data.compared)}"
    return f"Alignment of {names} over training"


def axis_label(data: CurveData) -> str:
    """Metric and direction."""
    return f"{metric_name(data.metric)}, {_DIRECTIONS.get(data.direction, data.direction)}"


def n_text(points: pd.DataFrame) -> str:
    """Test episodes, groups and chance of `points`."""
    chance = points["chance"].dropna() if not points["metric"].iloc[0].endswith(DIFFERENCE) else points["chance"][:0]
    level = f", chance {span(chance * 100, digits=1)} %" if len(chance) else ""
    return f"n = {span(points['n_test'])} test episodes in {span(points['n_groups'])} groups{level}"


def span(values: "pd.Series[float] | float", *, digits: int = 0) -> str:
    """'40', or '38 to 40' where values differ.

    >>> span(pd.Series([38, 40])), span(40)
    ('38 to 40', '40')
    """
    found = pd.Series(values)
    texts = [f"{value:.{digits}f}" for value in (found.min(), found.max())]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def is_untrained(points: pd.DataFrame) -> "pd.Series[bool]":
    """True where a model of the pair has random weights; pixels are not a model."""
    pixels = points["series"].isin(["pixels", "rollouts-pixels"])
    return ~((points["trained_u"].astype(bool) | pixels) & points["trained_e"].astype(bool))


def pairs_of(points: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of models, in the order of the table."""
    return list(points[["understanding", "execution"]].drop_duplicates().itertuples(index=False, name=None))


def _untrained(points: pd.DataFrame) -> str:
    models = points[~points["series"].isin(["pixels", "rollouts-pixels"])]
    sides: Iterable[tuple[str, str, str]] = (
        ("understanding", "trained_u", "step_u"),
        ("execution", "trained_e", "step_e"),
    )
    found = []
    for side, trained, step in sides:
        for model, rows in models[~models[trained].astype(bool)].groupby(side):
            steps = ", ".join(str(value) for value in sorted(rows[step].unique()))
            found.append(f"{model} at step {steps}")
    return "; ".join(found)


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} beside {last}" if rest else last


_SHARES = ("within_task_recall@1", "tied_share")  # in addition to recall@k: from 0 to 1


def draw_line(axes: "Axes", line: pd.DataFrame, style: Look) -> None:
    """One line over steps with the band of its intervals; hollow markers where a model has random weights.

    `line` has columns step, value, ci_low, ci_high and `hollow` (bool).
    """
    line = line.sort_values("step", kind="stable")
    banded = line.dropna(subset=["ci_low", "ci_high"])
    if style.band:
        axes.fill_between(
            *(banded["step"], banded["ci_low"], banded["ci_high"]),
            color=style.color,
            alpha=style.band,
            linewidth=0,
            zorder=1.5,
        )
    shape: dict[str, Any] = {"color": style.color, "marker": style.marker, "markersize": style.size}
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


def draw_trainings(axes: "Axes", points: pd.DataFrame, color: str) -> None:
    """Each single training behind a mean, as a small mark."""
    axes.plot(
        *(points["step"], points["value"]),
        linestyle="none",
        marker="_",
        markersize=6,
        markeredgewidth=1.1,
        color=color,
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


def draw_chance(axes: "Axes", points: pd.DataFrame, *, color: str = INK) -> None:
    """The chance level of one line's test sets: one level, or a line where it changes from step to step."""
    lead = points.dropna(subset=["chance"]).sort_values("step")
    if lead.empty:
        return
    if lead["chance"].nunique() == 1:
        axes.axhline(lead["chance"].iloc[0], color=color, linewidth=1.0, label="_chance", zorder=2)
    else:
        axes.plot(lead["step"], lead["chance"], color=color, linewidth=1.0, label="_chance", zorder=2)


def draw_point(axes: "Axes", point: pd.Series, place: int, style: Look) -> None:
    """One measurement as a point with its interval and its chance level, at height `place`."""
    if np.isfinite(point["ci_low"]) and np.isfinite(point["ci_high"]):
        axes.plot(
            *([point["ci_low"], point["ci_high"]], [place, place]),
            color=style.color,
            linewidth=2.2,
            alpha=0.55,
            label="_ci",
        )
    hollow = bool(is_untrained(point.to_frame().T).iloc[0])
    axes.plot(
        *([point["value"]], [place]),
        color=style.color,
        linestyle="none",
        marker=style.marker,
        markersize=7.5,
        markeredgewidth=1.6,
        markerfacecolor="white" if hollow else style.color,
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
                color=GRAY,
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


_SMALL = 1.75  # inches: height of a panel of recognition or success
_MOST_ROWS = 3
_NARROW = 4.0  # inches: panels below have smaller titles
_SINGLE_HEIGHT = 6.0  # inches: of all panels of one checkpoint


@dataclass(frozen=True)
class _Row:
    """One row of panels: its points, and its name where there are several rows."""

    pairs: tuple[tuple[str, str], ...]
    part: str
    name: str

    def of(self, points: pd.DataFrame, holdout: str) -> pd.DataFrame:
        here = [pair in self.pairs for pair in zip(points["understanding"], points["execution"], strict=True)]
        found = points[pd.Series(here, index=points.index) & (points["holdout"] == holdout)]
        return found[found["series"].map(part_of) == self.part] if self.part else found


def curve_figure(
    data: CurveData, *, log_steps: bool = False, progress: Sequence[Progress] = (), title: str = ""
) -> "Figure":
    """Draw `data`: one column of panels per holdout; one row per pair of models or, where trainings are compared, per
    source of the episodes, with a color per training and a line style per control. The first rows that fit are drawn.

    With several checkpoints each line carries its 95 % band, and `progress` (recognition, success) is drawn in small
    panels beside or below, over the same steps. With one, each measurement is a point with its interval (`log_steps`
    and `progress` then change nothing). Hollow markers are models with random weights. Every value drawn is a value of
    `data.points`. `title` is what the figure shows in words, by default what was measured.
    """
    with house_style():
        if data.single:
            return _single(data, title)
        return _several(data, progress, log_steps=log_steps, title=title)


def _head(data: CurveData, title: str, left_out: int) -> tuple[str, str]:
    """Title and subtitle: what was measured stands below what it says."""
    about = curve_title(data)
    more = f"{left_out} more in results/alignment.csv" if left_out > 0 else ""
    return title or about, "; ".join(filter(None, (about if title else "", more)))


def _several(data: CurveData, progress: Sequence[Progress], *, log_steps: bool, title: str) -> "Figure":
    every, holdouts = _rows(data), list(dict.fromkeys(data.points["holdout"]))
    rows = every[:_MOST_ROWS]
    beside = len(rows) > 1 and len(progress) <= len(rows) and len(holdouts) < 3
    columns = len(holdouts) + (1 if beside and progress else 0)
    places = [
        (index, len(holdouts)) if beside else (len(rows) + index // columns, index % columns)
        for index in range(len(progress))
    ]
    width, height = (9.2 / columns, 2.2) if len(rows) > 1 and columns > 1 else (4.6, 2.9)
    colors = training_colors(data.compared)
    steps = pd.concat([data.points["step"], *(one.points["step"] for one in progress)])
    untrained = bool(is_untrained(data.points[data.points["step"] == 0]).any())
    heights = [height] * len(rows) + [_SMALL] * (0 if beside else -(-len(progress) // columns))
    head, below = _head(data, title, len(every) - len(rows))
    layout = FigureLayout([width] * columns, heights, title=head, subtitle=below, caption=curve_caption(data))
    for index, row in enumerate(rows):
        for column, holdout in enumerate(holdouts):
            axes, points = layout.panel(index, column), row.of(data.points, holdout)
            _lines(axes, points, row.of(data.trainings, holdout), colors)
            steps_axis(axes, steps, log=log_steps, untrained=untrained)
            value_axis(axes, data, "y")
            quiet_axes(axes)
            _title_panel(axes, row, points, holdout, width)
            axes.set_xlabel(shorten(data.axis, width, 9) if row is rows[-1] and (beside or not progress) else "")
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                axes.set_ylabel("\n".join(wrap(axis_label(data), height, 9)))
    for index, one in enumerate(progress):
        axes = layout.panel(*places[index])
        axes.tick_params(labelleft=beside or places[index][1] == 0)
        _draw_progress(axes, one, colors, width)
        steps_axis(axes, steps, log=log_steps, untrained=untrained)
        axes.set_xlabel(shorten(data.axis, width, 9) if not beside or index == len(progress) - 1 else "")
    layout.legend(_handles(data, progress))
    return layout.finish()


def _rows(data: CurveData) -> list[_Row]:
    pairs = pairs_of(data.points)
    if not data.compared:
        return [_Row((pair,), "", f"{pair[0]} with {pair[1]}" if len(pairs) > 1 else "") for pair in pairs]
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for u, e in pairs:
        families.setdefault((ModelName.parse(u).family, ModelName.parse(e).family), []).append((u, e))
    rows = []
    for (u, e), members in families.items():
        here = [pair in members for pair in zip(data.points["understanding"], data.points["execution"], strict=True)]
        for part in dict.fromkeys(data.points.loc[here, "series"].map(part_of)):
            before = f"{u} with {e}: " if len(families) > 1 else ""
            rows.append(_Row(tuple(members), part, before + part_name(part)))
    return rows


def _lines(axes: "Axes", points: pd.DataFrame, single: pd.DataFrame, colors: dict[str, str]) -> None:
    points = points.assign(hollow=is_untrained(points)) if len(points) else points.assign(hollow=False)
    for (training, series), line in points.groupby(["training", "series"], sort=False):
        style = _style(str(training), str(series), colors)
        draw_line(axes, line, style)
        behind = single[(single["training"] == training) & (single["series"] == series)]
        if len(behind):
            draw_trainings(axes, behind, style.color)
    if not colors:
        draw_start(axes, points)
        draw_chance(axes, points[points["series"] == points["series"].iloc[0]])
        return
    levels: dict[tuple[tuple[float, float], ...], pd.DataFrame] = {}
    for _, lines in points.groupby("training", sort=False):
        lead = lines[lines["series"] == lines["series"].iloc[0]].sort_values("step")
        levels.setdefault(tuple(zip(lead["step"], lead["chance"], strict=True)), lead)
    for lead in levels.values():
        draw_chance(axes, lead, color=INK if len(levels) == 1 else colors.get(str(lead["training"].iloc[0]), INK))


def _style(training: str, series: str, colors: dict[str, str]) -> Look:
    return training_look(series, colors.get(training, PALETTE["black"])) if colors else look(series)


def _title_panel(axes: "Axes", row: _Row, points: pd.DataFrame, holdout: str, width: float) -> None:
    lead = points[points["series"] == points["series"].iloc[0]] if len(points) else points
    name = f"{row.name}; held out: {holdout}" if row.name else f"Held out: {HOLDOUTS.get(holdout, holdout)}"
    if width < _NARROW:
        name = name.replace("The policy's own", "Own")
    size = 8.0 if width < _NARROW else 9.5
    panel_title(axes, name, n_text(lead) if len(lead) else "not measured", width=width, size=size)


def _draw_progress(axes: "Axes", progress: Progress, colors: dict[str, str], width: float) -> None:
    points = progress.points.assign(hollow=~progress.points["trained"].astype(bool))
    single = progress.trainings
    for (training, blank), line in points.groupby(["training", "blank"], sort=False):
        color = colors.get(str(training), PALETTE["blue"] if not colors else PALETTE["black"])
        style = training_look("blank" if blank else "main", color)
        draw_line(axes, line, style)
        behind = single[(single["training"] == training) & (single["blank"] == blank)]
        if len(behind):
            draw_trainings(axes, behind, color)
    draw_chance(axes, points.drop_duplicates("step"))
    percent_axis(axes, "y")
    quiet_axes(axes)
    level = f", chance {span(points['chance'].dropna() * 100, digits=1)} %" if points["chance"].notna().any() else ""
    size = 8.0 if width < _NARROW else 9.5
    panel_title(axes, progress.title, f"n = {span(points['n'])} episodes{level}", width=width + 0.15, size=size)


def _single(data: CurveData, title: str) -> "Figure":
    every, holdouts = pairs_of(data.points), list(dict.fromkeys(data.points["holdout"]))
    names = list(dict.fromkeys(data.points["series"]))
    width, height = 3.4, 0.42 * len(names) + 0.55
    pairs = every[: max(1, int(_SINGLE_HEIGHT / (height + 0.6)))]
    head, below = _head(data, title, len(every) - len(pairs))
    layout = FigureLayout(
        [width] * len(holdouts), [height] * len(pairs), title=head, subtitle=below, caption=curve_caption(data)
    )
    for index, pair in enumerate(pairs):
        row = _Row((pair,), "", f"{pair[0]} with {pair[1]}" if len(pairs) > 1 else "")
        for column, holdout in enumerate(holdouts):
            axes, points = layout.panel(index, column), row.of(data.points, holdout)
            for _, point in points.iterrows():
                draw_point(axes, point, names.index(point["series"]), look(str(point["series"])))
            draw_seeds(axes, row.of(data.seeds, holdout), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(
                range(len(names)), [series_name(name) for name in names] if column == 0 else [""] * len(names)
            )
            value_axis(axes, data, "x")
            quiet_axes(axes, "x")
            _title_panel(axes, row, points, holdout, width)
            axes.set_xlabel(axis_label(data) if pair == pairs[-1] else "")
    layout.legend(_handles(data, ()))
    return layout.finish()


def _handles(data: CurveData, progress: Sequence[Progress]) -> list[Line2D]:
    """Entries of the legend, which are filled in column by column."""
    handles = _compared_handles(data) if data.compared and not data.single else []
    if not data.single and not data.compared:
        for series in dict.fromkeys(data.points["series"]):
            handles.append(_line(look(series)))
    if data.points["chance"].notna().any():
        bar = {"marker": "|", "linestyle": "none", "markersize": 11} if data.single else {"linewidth": 1.0}
        level = "no difference" if data.metric.endswith(DIFFERENCE) else "chance of this very test set"
        handles.append(Line2D([], [], color=INK, label=level, **bar))
    if data.single and not data.seeds.empty:
        handles.append(_mark("|", "single probe seeds", GRAY, 5))
    if not data.single and (len(data.trainings) or any(len(one.trainings) for one in progress)):
        handles.append(_mark("_", "single trainings", GRAY, 7))
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
    for training, color in training_colors(data.compared).items():
        several = f" ({counts[training]} seeds)" if counts[training] > 1 else ""
        handles.append(Line2D([], [], color=color, linewidth=5, label=shorten(training + several, 2.2, 8)))
    styles = {training_look(series, INK).label: series for series in dict.fromkeys(data.points["series"])}
    return handles + [_line(training_look(series, INK)) for series in styles.values()]


def _line(style: Look) -> Line2D:
    return Line2D(
        *([], []),
        color=style.color,
        linestyle=style.line,
        linewidth=style.width,
        marker=style.marker,
        markersize=style.size,
        label=style.label,
    )


def _mark(marker: str, label: str, color: str, size: float) -> Line2D:
    return Line2D([], [], color=color, linestyle="none", marker=marker, markersize=size, label=label)


@dataclass(frozen=True, kw_only=True)
class DrawnCurve:
    """Files written, and the numbers that were drawn."""

    figure: SavedFigure
    table: Path
    data: CurveData
    caption: str


def curve_name(metric: str, split: str) -> str:
    """Name of a curve's files: 'curve', with metric and split unless they are the defaults.

    >>> curve_name("recall@1", "all"), curve_name("recall@5", "outcomes")
    ('curve', 'curve-recall5-outcomes')
    """
    parts = ["curve", *([] if metric == "recall@1" else [metric]), *([] if split == "all" else [split])]
    return re.sub(r"[^a-z0-9_-]", "", "-".join(parts))


def draw_curve(
    alignment: Path,
    *,
    stem: Path,
    table: Path,
    metric: str = "recall@1",
    split: str = "all",
    direction: str = "mean",
    where: Mapping[str, str] | None = None,
    log_steps: bool = False,
    command: str | None = None,
    note: str = "",
    recognition: Path | None = None,
    success: Path | None = None,
    title: str = "",
) -> DrawnCurve:
    """Draw alignment over checkpoints.

    Args:
        alignment: results/alignment.csv as `mnprobe align` writes it.
        stem: where the figure goes, without ending: `stem`.png, .svg, and .json with caption and command.
        table: where the numbers drawn go, as CSV.
        metric, split, direction, where: see `curve_data`.
        log_steps: a logarithmic step axis (linear up to the first step).
        command: command that draws this figure again; written to the note.
        note: one more sentence for the caption, such as the simulator; no full stop.
        recognition: results/recognition.csv; if it exists, its curve is drawn below, over the same steps.
        success: results/success.csv; likewise.
        title: what the figure shows in words; by default what was measured.
    Raises:
        ProbeError: as `read_alignment` and `curve_data`, and for a table of recognition or success that is damaged.
    """
    data = curve_data(
        read_alignment(alignment),
        metric=metric,
        split=split,
        direction=direction,
        where=where,
    )
    data = replace(data, notes=(*data.notes, note)) if note else data
    progress = curve_progress(data, recognition, success)
    caption = curve_caption(data)
    CURVE.write(table, data.points)
    saved = save_figure(curve_figure(data, log_steps=log_steps, progress=progress, title=title), stem)
    about = FigureNote(
        title=title
        or metric_name(metric)
        + ("" if data.single else " over training checkpoints")
        + ("" if split == "all" else f", {'success and failure' if split == OUTCOMES else split}"),
        caption=caption,
        command=command
        or command_line(
            "curve",
            metric=metric,
            split=split,
            direction=None if direction == "mean" else direction,
            where=[f"{column}={value}" for column, value in (where or {}).items()],
            log_steps=log_steps,
        ),
        facts={"points": len(data.points), "single_checkpoint": data.single},
    )
    write_note(about, stem)
    return DrawnCurve(figure=saved, table=table, data=data, caption=caption)


def curve_progress(
    data: CurveData, recognition: Path | pd.DataFrame | None, success: Path | pd.DataFrame | None
) -> list[Progress]:
    """Scores of the curve's models in their own tasks, where these tables exist.

    Raises ProbeError for a table that is damaged.
    """
    families = [
        {ModelName.parse(str(model)).family for model in data.points[side].unique()}
        for side in ("understanding", "execution")
    ]
    random = data.points[~data.points["trained_e"].astype(bool)]
    untrained = set(zip(random["training"], random["step_e"], strict=True))
    found = [
        recognition_progress(recognition, families[0]) if recognition is not None else None,
        success_progress(success, families[1], untrained=untrained) if success is not None else None,
    ]
    return [one for one in found if one is not None]
