"""Figure of success against failure (paper, Figure 3, right)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from mnprobe.analysis.audit.effects import within_shares
from mnprobe.analysis.audit.finding_text import p_words
from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import (
    INK,
    PALETTE,
    SavedFigure,
    house_style,
    quiet_axes,
    save_figure,
)
from mnprobe.analysis.tables.alignment import HOLDOUTS, settle
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ProbeError

__all__ = ["DrawnSuccess", "draw_success", "last_contrasts", "success_caption", "success_figure"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COLORS = {
    "understanding": (PALETTE["blue"], PALETTE["sky"]),
    "execution": (PALETTE["vermillion"], PALETTE["orange"]),
}
_MODES = {"own-probe": "own probes", "shared-probe": "one probe"}
_PANEL = (4.1, 2.9)
_MOST_PANELS, _COLUMNS = 4, 2
_TOP = 1.02  # of the bars; their numbers are above
_NO_HATCH, _HATCH = "", "////"


@dataclass(frozen=True, kw_only=True)
class DrawnSuccess:
    """Files written, the rows that were drawn, and the caption."""

    figure: SavedFigure
    rows: pd.DataFrame
    caption: str


def last_contrasts(
    table: pd.DataFrame,
    *,
    source: str | None = None,
    chosen: Mapping[str, int] | None = None,
    step: int | None = None,
) -> pd.DataFrame:
    """Rows of `contrast_table` to draw: one checkpoint of each pair and source, one way of measuring.

    The checkpoint is that of `step`, of all pairs; else the step that `chosen` gives for the execution model (where its
    success is nearest one half), where that was measured; else the last.

    Without `source`: the policy's own episodes where it has both outcomes there, else all sources.

    Raises ProbeError when there is nothing for `source` or at `step`, or several ways of measuring and none is the
    default.
    """
    own = table[table["source_e"].str.startswith("rollouts") & (table["side"] == "execution")]
    rows = table if source is None else table[table["source_e"] == source]
    if source is None and len(own):
        rows = table[table["source_e"].str.startswith("rollouts")]
    if rows.empty:
        have = ", ".join(sorted(set(table["source_e"]))) or "none"
        raise ProbeError(f"no contrast of success and failure for source {source!r}; there are {have}")
    kept, _ = settle(rows.assign(mode="own-probe"))  # both modes are shown
    rows = rows.loc[kept.index]
    key = ["understanding", "execution", "source_e"]
    if step is not None:
        steps = ", ".join(map(str, sorted(set(rows["step_e"]))))
        rows = rows[rows["step_e"] == step]
        if rows.empty:
            raise ProbeError(f"no contrast of success and failure at step {step}; there are steps {steps}")
    at_half = rows["step_e"] == rows["execution"].map(dict(chosen or {}))
    measured = at_half.groupby([rows[name] for name in key]).transform("any")
    rows = rows[at_half | ~measured]
    last = rows.groupby(key)["step_e"].transform("max")
    rows = rows[rows["step_e"] == last]
    last = rows.groupby(key)["step_u"].transform("max")
    return rows[rows["step_u"] == last].sort_index().reset_index(drop=True)


def success_figure(rows: pd.DataFrame) -> "Figure":
    """Bars of Recall@1: one panel per pair of models, source of episodes and holdout, the first four of them.

    Every bar is a value of `rows` (from `last_contrasts`); plain bars have a probe for each outcome, hatched ones share
    one probe. The line across a bar is its exact chance level.
    """
    with house_style():
        return _figure(rows)


def success_caption(rows: pd.DataFrame) -> str:
    """Caption: meaning of the bars, and the detectable difference."""
    first = rows.iloc[0]
    whole = rows[rows["where"] == "all"]
    seen = whole["detectable"].dropna()
    parts = [
        "Recall@1 (mean of both directions) of successes (dark) and failures (light), each with equally many training "
        "and test episodes of the same instructions, mean over "
        f"{_span(rows['n_draws'])} balanced draws and {_span(rows['n_seeds'])} probe seeds.",
        "Thin bars: 95 % intervals (cluster jackknife over instructions, Student's t). Black lines: exact chance of "
        "each test set.",
        "Above each pair: success minus failure in points with its 95 % interval; p by exchanging the two sides of "
        f"whole instructions, Holm over the {_span(rows['family'])} tests of the table; the same within tasks.",
    ]
    if len(seen):
        parts.append(
            f"Power: a true difference of {_span(100 * seen, digits=0)} points would have been seen (p < 0.05, "
            "uncorrected) in 80 of 100 such data sets; smaller ones would mostly have been missed."
        )
    parts.append(
        "Success and failure differ in more than the outcome: this is a correlation, within instructions and tasks."
    )
    parts.append(
        f"Probe: {first['heads']} heads, pairing by {first['pairing']}, loss {first['loss']}, tau {first['tau']:g}."
    )
    notes = [note for note in dict.fromkeys(rows["note"].astype(str)) if note and note != "nan"]
    return " ".join(parts + [note[0].upper() + note[1:] + "." for note in notes])


def draw_success(
    table: pd.DataFrame,
    *,
    stem: Path,
    source: str | None = None,
    chosen: Mapping[str, int] | None = None,
    step: int | None = None,
    command: str | None = None,
    note: str = "",
    title: str = "",
) -> DrawnSuccess:
    """Draw `table` (results/success_contrast.csv) to `stem`.png, .svg and a note in `stem`.json.

    Args:
        table: from `contrast_table` or `read_contrasts`.
        stem: figure path without ending.
        source: only episodes of this source; see `last_contrasts` when not given.
        chosen, step: which checkpoints, see `last_contrasts`.
        command: command that draws this figure again.
        note: one more sentence for the caption, no full stop.
        title: what the figure shows in words; by default the models compared.
    """
    rows = last_contrasts(table, source=source, chosen=chosen, step=step)
    caption = success_caption(rows) + (f" {note}." if note else "")
    with house_style():
        saved = save_figure(_figure(rows, note, title), stem)
    about = FigureNote(
        title=title or "Success against failure",
        caption=caption,
        command=command or command_line("success", source=source),
        facts={"rows": len(rows)},
    )
    write_note(about, stem)
    return DrawnSuccess(figure=saved, rows=rows, caption=caption)


def _figure(rows: pd.DataFrame, note: str = "", title: str = "") -> "Figure":
    key = ["understanding", "execution", "source_e", "holdout"]
    names = list(dict.fromkeys(rows[key].itertuples(index=False, name=None)))
    pairs = list(dict.fromkeys(name[:3] for name in names))
    names.sort(key=lambda name: (pairs.index(name[:3]), list(HOLDOUTS).index(name[3]) if name[3] in HOLDOUTS else 9))
    shown, left_out = names[:_MOST_PANELS], len(names) - _MOST_PANELS
    columns = min(_COLUMNS, len(shown))
    about = _title(rows)
    more = f"{left_out} more in results/success_contrast.csv" if left_out > 0 else ""
    layout = FigureLayout(
        [_PANEL[0]] * columns,
        [_PANEL[1]] * -(-len(shown) // columns),
        title=title or about,
        subtitle="; ".join(filter(None, (about if title else "", more))),
        caption=success_caption(rows) + (f" {note}." if note else ""),
        least_width=7.0,
    )
    for index, name in enumerate(shown):
        axes = layout.panel(index // columns, index % columns)
        _panel(axes, rows[(rows[key] == list(name)).all(axis=1)], name)
        axes.tick_params(labelleft=index % columns == 0)
        if index % columns == 0:
            axes.set_ylabel("Recall@1")
    handles = [
        Patch(facecolor=_COLORS[side][place], label=f"{side}: {outcome}")
        for side in _COLORS
        for place, outcome in enumerate(("success", "failure"))
        if side in set(rows["side"])
    ]
    if rows["mode"].nunique() > 1:
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch=_HATCH, label="one probe for all outcomes"))
    layout.legend(handles)
    return layout.finish()


def _panel(axes: "Axes", rows: pd.DataFrame, name: tuple[str, str, str, str]) -> None:
    groups = [
        (side, mode) for side in _COLORS for mode in _MODES if ((rows["side"] == side) & (rows["mode"] == mode)).any()
    ]
    for place, (side, mode) in enumerate(groups):
        chosen = rows[(rows["side"] == side) & (rows["mode"] == mode)]
        row = chosen[chosen["where"] == "all"].iloc[0]
        for offset, outcome, color in zip((-0.2, 0.2), ("success", "failure"), _COLORS[side], strict=True):
            _bar(axes, row, outcome, place + offset, color, _HATCH if mode == "shared-probe" else _NO_HATCH)
        inside = chosen[chosen["where"] == "within tasks"]
        axes.text(
            *(place, _TOP + 0.015, _words(row, inside.iloc[0] if len(inside) else None)),
            ha="center",
            va="bottom",
            fontsize=6.3,
            linespacing=1.25,
        )
    axes.set_ylim(0, _TOP + 0.5)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    axes.set_xlim(-0.55, max(len(groups), 1) - 0.45)
    axes.set_xticks(range(len(groups)), [_tick(rows, side, mode) for side, mode in groups], fontsize=7)
    quiet_axes(axes)
    about = f"{name[2]}, step {rows['step_e'].iloc[0]}; held out: {name[3]}"
    panel_title(axes, f"{name[0]} and {name[1]}", about, width=_PANEL[0], size=9)


def _bar(axes: "Axes", row: pd.Series, outcome: str, place: float, color: str, hatch: str) -> None:
    axes.bar(place, row[outcome], width=0.36, color=color, hatch=hatch, edgecolor="white", linewidth=0.5, zorder=2)
    low, high = row[f"{outcome}_low"], row[f"{outcome}_high"]
    if np.isfinite(low) and np.isfinite(high):
        low, high = np.clip([low, high], 0.0, 1.0)
        axes.plot([place, place], [low, high], color=INK, linewidth=1.3, zorder=4, label="_ci")
    chance = row[f"{outcome}_chance"]
    if np.isfinite(chance):
        axes.plot(
            [place - 0.19, place + 0.19], [chance, chance], color="black", linewidth=1.4, zorder=5, label="_chance"
        )


def _words(row: pd.Series, inside: pd.Series | None) -> str:
    lines = [f"{100 * row['difference']:+z.1f} points", *_support(row)]
    if inside is not None:
        lines += [f"in tasks {100 * inside['difference']:+z.1f}", *_support(inside)[-1:]]
    if row["detectable"] <= 1:
        lines.append(f"visible from {100 * row['detectable']:.0f}")
    return "\n".join(lines)


def _support(row: pd.Series) -> list[str]:
    if not np.isfinite(row["ci_low"]):
        return ["no interval"]
    low, high = within_shares(row["ci_low"], row["ci_high"])
    return [f"[{100 * low:+z.1f}, {100 * high:+z.1f}]", p_words(row["p_holm"])]


def _tick(rows: pd.DataFrame, side: str, mode: str) -> str:
    row = rows[(rows["side"] == side) & (rows["mode"] == mode)].iloc[0]
    return f"{side}\n{_MODES[mode]}\nn = 2 x {row['n_test']}\n{row['n_instructions']} instructions"


def _title(rows: pd.DataFrame) -> str:
    pairs = list(dict.fromkeys(rows[["understanding", "execution"]].itertuples(index=False, name=None)))
    names = f"{pairs[0][0]} and {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs of models"
    return f"Success against failure: {names}"


def _span(values: pd.Series, *, digits: int = 0) -> str:
    texts = [f"{value:.{digits}f}" for value in (values.min(), values.max())]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"
