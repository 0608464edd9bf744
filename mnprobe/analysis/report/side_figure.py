"""The claim of several runs over training steps, one colour per run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from mnprobe.analysis.curve import curve_data
from mnprobe.analysis.figures import PALETTE, house_style, new_figure, quiet_axes, wrap
from mnprobe.analysis.tables import HOLDOUTS, read_alignment
from mnprobe.core.errors import MnprobeError
from mnprobe.core.rundir import RunDir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SideCurve", "side_curves", "side_figure"]

_COLOURS = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv"
_LINE = 0.17  # inches of a legend line


@dataclass(frozen=True, kw_only=True)
class SideCurve:
    """One line: the claim of one run's training under one holdout (`points`: step, value, ci_low, ci_high, chance)."""

    run: str
    training: str
    holdout: str
    points: pd.DataFrame


def side_curves(run: RunDir, label: str, problems: list[str]) -> list[SideCurve]:
    """The lines of one run; what cannot be read is added to `problems`."""
    path = run.results("alignment")
    if not path.is_file():
        return []
    try:
        data = curve_data(read_alignment(path))
    except MnprobeError as error:
        problems.append(f"No curve of {label}: {error}")
        return []
    claim = data.points[data.points["series"] == "main"]
    return [
        SideCurve(
            run=label,
            training=str(rows["training"].iloc[0]) or f"{understanding} and {execution}",
            holdout=str(holdout),
            points=rows.sort_values("step"),
        )
        for (holdout, understanding, execution), rows in claim.groupby(
            ["holdout", "understanding", "execution"], sort=False
        )
    ]


def side_figure(curves: Sequence[SideCurve]) -> "Figure":
    """One panel per holdout; runs differ in colour and marker, trainings in their dashes."""
    holdouts = list(dict.fromkeys(curve.holdout for curve in curves))
    runs = list(dict.fromkeys(curve.run for curve in curves))
    trainings = list(dict.fromkeys(curve.training for curve in curves))
    labels = list(dict.fromkeys((curve.run, curve.training) for curve in curves))
    width = max(5.2, 4.6 * len(holdouts))
    foot = 0.65 + _LINE * len(labels)
    with house_style():
        figure = new_figure(width, 3.4 + foot)
        height = 3.4 + foot
        lines = {}
        for place, holdout in enumerate(holdouts):
            left = 0.65 + place * (width / len(holdouts))
            box = (left / width, foot / height, (width / len(holdouts) - 0.85) / width, 2.95 / height)
            axes = figure.add_axes(box)
            quiet_axes(axes)
            axes.set_title(f"{HOLDOUTS.get(holdout, holdout)} held out", loc="left", fontsize=9)
            for curve in (one for one in curves if one.holdout == holdout):
                number, kind = runs.index(curve.run), trainings.index(curve.training)
                colour = _COLOURS[number % len(_COLOURS)]
                steps = curve.points["step"].to_numpy(dtype=float)
                low, high, value, chance = (
                    100 * curve.points[name].to_numpy(dtype=float) for name in ("ci_low", "ci_high", "value", "chance")
                )
                axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
                (line,) = axes.plot(
                    steps, value, _DASHES[kind % len(_DASHES)], color=colour, linewidth=1.6,
                    marker=_MARKERS[number % len(_MARKERS)], markersize=4,
                )  # fmt: skip
                axes.plot(steps, chance, ":", color=colour, linewidth=1.2, zorder=1)
                lines[curve.run, curve.training] = line
            axes.set_ylim(0, 100)
            axes.set_xlabel("training step", fontsize=8)
            axes.tick_params(labelsize=8)
            if place == 0:
                axes.set_ylabel("Recall@1 (%)", fontsize=8)
        names = [_first(f"{run}: {training}", width) for run, training in labels]
        figure.legend(
            [lines[key] for key in labels], names, loc="lower left", bbox_to_anchor=(0.4 / width, 0.02), frameon=False,
            fontsize=8, ncols=1, borderaxespad=0, labelspacing=0.35,
        )  # fmt: skip
    return figure


def _first(text: str, width: float) -> str:
    """As much of a label as fits on a line, and never read as mathematics."""
    lines = wrap(text, width - 1.2, 8)
    return (lines[0] + ("..." if len(lines) > 1 else "")).replace("$", r"\$")
