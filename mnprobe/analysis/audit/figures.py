"""Figures of the audit: controls beside the claim, and the decomposition."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mnprobe.analysis.audit.findings import Finding, control_decisions
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import (
    GREY,
    INK,
    PALETTE,
    SavedFigure,
    house_style,
    new_figure,
    save_figure,
    series_name,
    shorten,
    wrap,
)
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.core.commands import command_line

__all__ = ["controls_caption", "controls_figure", "decomposition_figure", "draw_controls", "draw_decomposition"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_DEMOS = ("main", "step-0", "blank", "pixels", "shuffled")
_ROLLOUTS = ("rollouts", "rollouts-blank", "rollouts-pixels", "rollouts-shuffled")
_ORDER = _DEMOS + _ROLLOUTS
_FOUR = tuple(PALETTE[name] for name in ("blue", "sky", "vermillion", "green"))
_COLOURS = dict(zip(_DEMOS, (*_FOUR, GREY), strict=True))
_COLOURS |= dict(zip(_ROLLOUTS, (PALETTE["purple"], PALETTE["orange"], PALETTE["green"], GREY), strict=True))


def controls_figure(controls: pd.DataFrame, findings: tuple[Finding, ...] = (), *, note: str = "") -> "Figure":
    """Left: Recall@1 of each series with interval and exact chance. Right: claim minus control, and rises.

    One row of panels per pair of models and holdout; the findings (alarms, instruction, rise first) stand below.
    """
    with house_style():
        return _controls_figure(controls, findings, note)


def controls_caption(controls: pd.DataFrame) -> str:
    """How to read the figure."""
    most = int(control_decisions(controls)["comparisons"].max()) if len(controls) else 1
    among = f", simultaneous over up to {most} comparisons" if most > 1 else ""
    return (
        "Left: Recall@1 (mean of both directions) at the last checkpoint with its 95 % interval (cluster jackknife "
        "over instructions); black ticks: exact chance of that very test set; hollow: random weights. Right: the claim "
        "minus each control on the same episodes (circles), and the rise from the first to the last checkpoint "
        f"(triangles), with 95 % intervals{among}; filled where the interval excludes 0. "
        "p is in results/controls.csv."
    )


def draw_controls(
    controls: pd.DataFrame, findings: tuple[Finding, ...], *, stem: Path, command: str | None = None, note: str = ""
) -> SavedFigure:
    """Draw to `stem`.png and .svg with a note beside them."""
    with house_style():
        saved = save_figure(_controls_figure(controls, findings, note), stem)
    about = FigureNote(
        title="The claim and its controls",
        caption=controls_caption(controls) + (f" {note}." if note else ""),
        command=command or command_line("audit"),
        facts={"findings": [finding.sentence for finding in findings]},
    )
    write_note(about, stem)
    return saved


def _controls_figure(controls: pd.DataFrame, findings: tuple[Finding, ...], note: str) -> "Figure":
    controls = controls.join(control_decisions(controls))
    panels = list(dict.fromkeys(controls[["understanding", "execution", "holdout"]].itertuples(index=False, name=None)))
    panels.sort(key=lambda panel: (panel[:2], list(HOLDOUTS).index(panel[2]) if panel[2] in HOLDOUTS else 9))
    names = [name for name in _ORDER if name in set(controls["series"])]
    names += [name for name in dict.fromkeys(controls["series"]) if name not in names]
    width, left, tall = 10.1, 2.85, 0.34 * len(names) + 0.35
    lines = wrap(controls_caption(controls) + (f" {note}." if note else ""), width - 0.3, 7)
    several = len({panel[:2] for panel in panels}) > 1
    told = [line for one in findings for line in wrap(f"- {_where(one, several)}{one.sentence}", width - 0.3, 8)]
    foot = 0.2 + 0.14 * len(lines) + 0.155 * len(told) + 0.6
    height = foot + len(panels) * (tall + 0.75) - 0.05
    figure = new_figure(width, height)
    for place, panel in enumerate(panels):
        bottom = (foot + (len(panels) - 1 - place) * (tall + 0.75)) / height
        levels = figure.add_axes((left / width, bottom, 3.5 / width, tall / height))
        differences = figure.add_axes(((left + 3.85) / width, bottom, 3.15 / width, tall / height))
        own = controls[(controls[["understanding", "execution", "holdout"]] == list(panel)).all(axis=1)]
        _levels(levels, own, names)
        _differences(differences, own, names)
        title = f"{panel[0]} and {panel[1]}; held out: {HOLDOUTS.get(panel[2], panel[2])}"
        main = own[(own["series"] == "main") & (own["kind"] == "level")]
        count = "" if main.empty else f" (n = {main.iloc[0]['n_test']:.0f} in {main.iloc[0]['n_groups']:.0f} groups)"
        levels.set_title(shorten(title + count, 7.6, 9), loc="left", fontsize=9)
        if place == len(panels) - 1:
            levels.set_xlabel("Recall@1, mean of both directions")
            differences.set_xlabel("points: ○ claim minus control, △ rise over training")
    figure.text(0.12 / width, 1 - 0.1 / height, "The claim and its controls", va="top", fontsize=12, fontweight="bold")
    figure.text(0.12 / width, 0.08 / height, "\n".join(lines), va="bottom", fontsize=7, color=GREY, linespacing=1.3)
    if told:
        above = (0.2 + 0.14 * len(lines)) / height
        figure.text(0.12 / width, above, "\n".join(told), va="bottom", fontsize=8, color=INK, linespacing=1.3)
    return figure


def _where(finding: Finding, several: bool) -> str:
    """Which pair of models, where the figure has several, and what was held out."""
    pair = f"{finding.understanding} and {finding.execution}" if several else ""
    held = "" if finding.holdout == "both" else f"{finding.holdout} held out"
    return f"{', '.join(filter(None, (pair, held)))}: " if pair or held else ""


def _levels(axes: "Axes", rows: pd.DataFrame, names: list[str]) -> None:
    for place, name in enumerate(names):
        found = rows[(rows["series"] == name) & (rows["kind"] == "level")]
        if found.empty:
            axes.text(0.01, place, "not measured", fontsize=7, color=GREY, va="center")
            continue
        row, colour = found.iloc[0], _COLOURS.get(name, INK)
        if np.isfinite(row["ci_low"]):
            axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=colour, linewidth=2.2, alpha=0.55)
        hollow = not bool(row["trained_e"]) or not (bool(row["trained_u"]) or name.endswith("pixels"))
        face = "white" if hollow else colour
        axes.plot([row["value"]], [place], "o", color=colour, markersize=7, markerfacecolor=face, markeredgewidth=1.5)
        if np.isfinite(row["chance"]):
            axes.plot([row["chance"]] * 2, [place - 0.33, place + 0.33], color="black", linewidth=1.2)
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    _quiet(axes)


def _differences(axes: "Axes", rows: pd.DataFrame, names: list[str]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    for place, name in enumerate(names):
        both = [("level", -0.14, "o")] if name != "main" else []
        for kind, offset, marker in [*both, ("rise", 0.14, "^")]:
            found = rows[(rows["series"] == name) & (rows["kind"] == kind)]
            if found.empty or not np.isfinite(found.iloc[0]["difference"]):
                continue
            row, colour = found.iloc[0], _COLOURS.get(name, INK)
            if np.isfinite(row["low"]):
                axes.plot([row["low"], row["high"]], [place + offset] * 2, color=colour, linewidth=1.6, alpha=0.6)
            face = colour if row["decision"] in ("more", "less") else "white"
            axes.plot(
                *([row["difference"]], [place + offset], marker),
                color=colour,
                markersize=5.5,
                markerfacecolor=face,
                markeredgewidth=1.3,
            )
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if abs(value) > 1e-9 else "0"))
    _quiet(axes)


def _label(name: str) -> str:
    if name == "step-0":
        return "control: before training"
    return series_name(name)


def _quiet(axes: "Axes") -> None:
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3)
    axes.spines["left"].set_visible(False)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_NAMES = {
    "recall": ("Recall@1, same {}", PALETTE["blue"]),
    "right": ("{} right", PALETTE["green"]),
    "right given coarser": ("{} right, {note}", PALETTE["sky"]),
    "oracle": ("oracle: {} only (exact)", GREY),
    "without": ("Recall@1 without {} means", PALETTE["vermillion"]),
}
_CAPTION = (
    "Bars: share of test queries, mean of both directions, with 95 % intervals (cluster jackknife over instructions). "
    "Black ticks: exact chance. 'Oracle' is the exact Recall@1 of knowing the factor and guessing within it. 'Without' "
    "is the Recall@1 of new heads after the training mean of each level of the factor is taken from both sides."
)


def decomposition_figure(table: pd.DataFrame, *, note: str = "") -> "Figure":
    """One panel per pair of models and holdout, one bar per row of results/decomposition.csv that has a value."""
    with house_style():
        return _decomposition_figure(table, note)


def draw_decomposition(table: pd.DataFrame, *, stem: Path, command: str | None = None, note: str = "") -> SavedFigure:
    """Draw to `stem`.png and .svg with a note beside them."""
    with house_style():
        saved = save_figure(_decomposition_figure(table, note), stem)
    about = FigureNote(
        title="What the score is made of",
        caption=_CAPTION + (f" {note}." if note else ""),
        command=command or command_line("audit"),
        facts={"rows": len(table)},
    )
    write_note(about, stem)
    return saved


def _decomposition_figure(table: pd.DataFrame, note: str) -> "Figure":
    keys = ["understanding", "execution", "source_e", "holdout"]
    panels = [(key, rows) for key, rows in table.groupby(keys, sort=False)]
    tall = [0.24 * len(rows) + 0.2 for _, rows in panels]
    width, left = 7.6, 3.1
    lines = wrap(_CAPTION + (f" {note}." if note else ""), width - 0.3, 7)
    foot = 0.2 + 0.14 * len(lines) + 0.35
    height = foot + sum(tall) + 0.6 * len(panels) + 0.1
    figure = new_figure(width, height)
    top = height - 0.15
    for (key, rows), high in zip(panels, tall, strict=True):
        top -= high + 0.5
        axes = figure.add_axes((left / width, top / height, (width - left - 0.3) / width, high / height))
        top -= 0.1
        for place, (_, row) in enumerate(rows.iterrows()):
            _, colour = _NAMES[row["quantity"]]
            if not np.isfinite(row["value"]):
                axes.text(0.01, place, shorten(str(row["note"]), 3.9, 6.5), fontsize=6.5, color=GREY, va="center")
                continue
            axes.barh(place, row["value"], height=0.62, color=colour, zorder=2)
            axes.text(1.01, place, f"{100 * row['value']:.0f}", fontsize=7, va="center", color=INK)
            if np.isfinite(row["ci_low"]):
                axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=INK, linewidth=1.2, zorder=4)
            if np.isfinite(row["chance"]):
                axes.plot([row["chance"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2, zorder=5)
        labels = [_NAMES[row["quantity"]][0].format(row["factor"], note=row["note"]) for _, row in rows.iterrows()]
        axes.set_yticks(range(len(rows)), [shorten(label, left - 0.2, 8) for label in labels])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.06)
        axes.set_xticks(np.arange(0, 1.01, 0.2))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        first = rows.iloc[0]
        held = HOLDOUTS.get(str(key[3]), str(key[3]))
        title = f"{key[0]} and {key[1]} ({key[2]}); held out: {held}; n = {first['n_test']:.0f}"
        axes.set_title(shorten(title, width - 0.4, 9), loc="right", fontsize=9)
    figure.text(0.12 / width, 1 - 0.1 / height, "What the score is made of", va="top", fontsize=12, fontweight="bold")
    figure.text(0.12 / width, 0.08 / height, "\n".join(lines), va="bottom", fontsize=7, color=GREY, linespacing=1.3)
    return figure
