"""Figures of the audit: the claim and its controls, and the decomposition."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mnprobe.analysis.audit.findings import Finding, control_decisions
from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import (
    GRAY,
    INK,
    PALETTE,
    SavedFigure,
    house_style,
    quiet_axes,
    save_figure,
    series_name,
    shorten,
)
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.core.commands import command_line

__all__ = ["controls_caption", "controls_figure", "decomposition_figure", "draw_controls", "draw_decomposition"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_PANELS = 4
_DEMOS = ("main", "step-0", "blank", "pixels", "shuffled")
_ROLLOUTS = ("rollouts", "rollouts-blank", "rollouts-pixels", "rollouts-shuffled")
_ORDER = _DEMOS + _ROLLOUTS
_FOUR = tuple(PALETTE[name] for name in ("blue", "sky", "vermillion", "green"))
_COLORS = dict(zip(_DEMOS, (*_FOUR, GRAY), strict=True))
_COLORS |= dict(zip(_ROLLOUTS, (PALETTE["purple"], PALETTE["orange"], PALETTE["green"], GRAY), strict=True))


def controls_figure(controls: pd.DataFrame, findings: tuple[Finding, ...] = (), *, note: str = "") -> "Figure":
    """Left: Recall@1 of each series with interval and exact chance. Right: claim minus control, and rises.

    One row of panels per pair of models and holdout, the first four of them; the title is what the findings say about
    the first pair. Their sentences are in the note beside the figure and in results/verdict.csv.
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
    """Draw to `stem`.png and .svg, with a note in `stem`.json."""
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
    left_out = panels[_MOST_PANELS:]
    panels = panels[:_MOST_PANELS]
    names = [name for name in _ORDER if name in set(controls["series"])]
    names += [name for name in dict.fromkeys(controls["series"]) if name not in names]
    layout = FigureLayout(
        [3.5, 3.15],
        [(0.34 if len(panels) < 3 else 0.2) * len(names) + 0.2] * len(panels),
        title=_message(findings, panels),
        subtitle=f"{len(left_out)} more pairs and holdouts are in results/controls.csv" if left_out else "",
        caption=controls_caption(controls) + (f" {note}." if note else ""),
    )
    for index, panel in enumerate(panels):
        levels, differences = layout.panel(index, 0), layout.panel(index, 1)
        rows = controls[(controls[["understanding", "execution", "holdout"]] == list(panel)).all(axis=1)]
        _levels(levels, rows, names)
        _differences(differences, rows, names)
        main = rows[(rows["series"] == "main") & (rows["kind"] == "level")]
        count = "" if main.empty else f"; n = {main.iloc[0]['n_test']:.0f} in {main.iloc[0]['n_groups']:.0f} groups"
        held_out = f"held out: {HOLDOUTS.get(panel[2], panel[2])}"
        panel_title(levels, f"{panel[0]} and {panel[1]}{count}", held_out, width=3.5, size=9)
        if index == len(panels) - 1:
            levels.set_xlabel("Recall@1, mean of both directions")
            differences.set_xlabel("points: ○ claim minus control, △ rise over training")
    return layout.finish()


_MESSAGES = {
    "rise survives": "Alignment rises with training, with and without the instruction",
    "rise explained": "Alignment rises only where the policy is given the instruction",
    "rise perhaps explained": "Alignment rises; without the instruction it is undecided",
    "score explained": "The score comes from the instruction, not from training",
    "nothing from training": "No rise of alignment is shown, and blanking the instruction does not lower it",
}


def _message(findings: tuple[Finding, ...], panels: list[tuple[str, str, str]]) -> str:
    """The figure's message: what the findings say about the first pair and holdout; alarms go before."""
    if any(finding.alarm for finding in findings):
        return "Look at the warnings first: results/verdict.csv"
    for finding in findings:
        pair = (finding.understanding, finding.execution, finding.holdout)
        if finding.topic == "instruction" and panels and pair == panels[0] and finding.conclusion in _MESSAGES:
            return _MESSAGES[finding.conclusion]
    return "The claim and its controls"


def _levels(axes: "Axes", rows: pd.DataFrame, names: list[str]) -> None:
    for index, name in enumerate(names):
        found = rows[(rows["series"] == name) & (rows["kind"] == "level")]
        if found.empty:
            axes.text(0.01, index, "not measured", fontsize=7, color=GRAY, va="center")
            continue
        row, color = found.iloc[0], _COLORS.get(name, INK)
        if np.isfinite(row["ci_low"]):
            axes.plot([row["ci_low"], row["ci_high"]], [index] * 2, color=color, linewidth=2.2, alpha=0.55)
        hollow = not bool(row["trained_e"]) or not (bool(row["trained_u"]) or name.endswith("pixels"))
        face = "white" if hollow else color
        axes.plot([row["value"]], [index], "o", color=color, markersize=7, markerfacecolor=face, markeredgewidth=1.5)
        if np.isfinite(row["chance"]):
            axes.plot([row["chance"]] * 2, [index - 0.33, index + 0.33], color="black", linewidth=1.2)
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    quiet_axes(axes, "x")


def _differences(axes: "Axes", rows: pd.DataFrame, names: list[str]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    for index, name in enumerate(names):
        both = [("level", -0.14, "o")] if name != "main" else []
        for kind, offset, marker in [*both, ("rise", 0.14, "^")]:
            found = rows[(rows["series"] == name) & (rows["kind"] == kind)]
            if found.empty or not np.isfinite(found.iloc[0]["difference"]):
                continue
            row, color = found.iloc[0], _COLORS.get(name, INK)
            if np.isfinite(row["low"]):
                axes.plot([row["low"], row["high"]], [index + offset] * 2, color=color, linewidth=1.6, alpha=0.6)
            face = color if row["decision"] in ("more", "less") else "white"
            axes.plot(
                *([row["difference"]], [index + offset], marker),
                color=color,
                markersize=5.5,
                markerfacecolor=face,
                markeredgewidth=1.3,
            )
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if abs(value) > 1e-9 else "0"))
    quiet_axes(axes, "x")


def _label(name: str) -> str:
    if name == "step-0":
        return "control: before training"
    return series_name(name)


_NAMES = {
    "recall": ("Recall@1, same {}", PALETTE["blue"]),
    "right": ("{} right", PALETTE["green"]),
    "right given coarser": ("{} right, {note}", PALETTE["sky"]),
    "oracle": ("oracle: {} only (exact)", GRAY),
    "without": ("Recall@1 without {} means", PALETTE["vermillion"]),
}
_BARS, _LABELS = 4.2, 2.9  # inches: width of the panel of bars, and of their names at most
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
    """Draw to `stem`.png and .svg, with a note in `stem`.json."""
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
    every = [(key, rows) for key, rows in table.groupby(keys, sort=False)]
    panels = every[:_MOST_PANELS]
    left_out = len(every) - len(panels)
    layout = FigureLayout(
        [_BARS],
        [(0.24 if len(panels) < 3 else 0.17) * len(rows) + 0.2 for _, rows in panels],
        title="What the score is made of",
        subtitle=f"{left_out} more pairs and holdouts are in results/decomposition.csv" if left_out else "",
        caption=_CAPTION + (f" {note}." if note else ""),
    )
    for index, ((understanding, execution, source, holdout), rows) in enumerate(panels):
        axes = layout.panel(index, 0)
        for index, (_, row) in enumerate(rows.iterrows()):
            _draw_part(axes, row, index)
        labels = [_NAMES[row["quantity"]][0].format(row["factor"], note=row["note"]) for _, row in rows.iterrows()]
        axes.set_yticks(range(len(rows)), [shorten(label, _LABELS, 8) for label in labels])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.06)
        axes.set_xticks(np.arange(0, 1.01, 0.2))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        held_out = HOLDOUTS.get(str(holdout), str(holdout))
        count = f"n = {rows.iloc[0]['n_test']:.0f}"
        title = f"{understanding} and {execution} ({source}); held out: {held_out}; {count}"
        axes.set_title(shorten(title, _BARS + _LABELS, 9), loc="right", fontsize=9)
    return layout.finish()


def _draw_part(axes: "Axes", row: "pd.Series[Any]", index: int) -> None:
    if not np.isfinite(row["value"]):
        axes.text(0.01, index, shorten(str(row["note"]), 3.9, 6.5), fontsize=6.5, color=GRAY, va="center")
        return
    axes.barh(index, row["value"], height=0.62, color=_NAMES[row["quantity"]][1], zorder=2)
    axes.text(1.01, index, f"{100 * row['value']:.0f}", fontsize=7, va="center", color=INK)
    if np.isfinite(row["ci_low"]):
        axes.plot([row["ci_low"], row["ci_high"]], [index] * 2, color=INK, linewidth=1.2, zorder=4)
    if np.isfinite(row["chance"]):
        axes.plot([row["chance"]] * 2, [index - 0.4, index + 0.4], color="black", linewidth=1.2, zorder=5)
