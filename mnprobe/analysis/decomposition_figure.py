"""What a Recall@1 is made of, drawn: recall, oracles, right by level, and what is left without a factor."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from mnprobe.analysis.figures import (
    GREY,
    INK,
    PALETTE,
    SavedFigure,
    house_style,
    new_figure,
    save_figure,
    shorten,
    wrap,
)
from mnprobe.analysis.notes import FigureNote, write_note
from mnprobe.analysis.tables import HOLDOUTS
from mnprobe.core.commands import command_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["decomposition_figure", "draw_decomposition"]

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
        return _figure(table, note)


def draw_decomposition(table: pd.DataFrame, *, stem: Path, command: str | None = None, note: str = "") -> SavedFigure:
    """Draw to `stem`.png and .svg with a note beside them."""
    with house_style():
        saved = save_figure(_figure(table, note), stem)
    about = FigureNote(
        title="What the score is made of",
        caption=_CAPTION + (f" {note}." if note else ""),
        command=command or command_line("audit"),
        facts={"rows": len(table)},
    )
    write_note(about, stem)
    return saved


def _figure(table: pd.DataFrame, note: str) -> "Figure":
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
