"""`mnprobe curve` as a function: from results/alignment.csv of a run to figures and results/curve.csv."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mnprobe.analysis.curve import OUTCOMES, CurveData, curve_data
from mnprobe.analysis.curve_figure import curve_figure
from mnprobe.analysis.curve_looks import metric_name
from mnprobe.analysis.curve_words import curve_caption
from mnprobe.analysis.figures import SavedFigure, save_figure
from mnprobe.analysis.notes import FigureNote, write_note
from mnprobe.analysis.progress import Progress, recognition_progress, success_progress
from mnprobe.analysis.tables import read_alignment, write_table
from mnprobe.analysis.trainings import named
from mnprobe.core.commands import command_line

__all__ = ["DrawnCurve", "curve_name", "draw_curve"]


@dataclass(frozen=True, kw_only=True)
class DrawnCurve:
    """What was written, and the numbers that were drawn."""

    figure: SavedFigure
    table: Path
    data: CurveData
    caption: str


def curve_name(metric: str, split: str) -> str:
    """Name of a curve's files: 'curve', with metric and split where they are not the usual ones.

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
) -> DrawnCurve:
    """Draw alignment over checkpoints.

    Args:
        alignment: results/alignment.csv as `mnprobe align` writes it.
        stem: where the figure goes, without ending: `stem`.png, .svg, and .json with caption and command.
        table: where the numbers drawn go, as CSV.
        metric, split, direction, where: see `curve_data`.
        log_steps: a logarithmic step axis (linear up to the first step).
        command: how a person makes this figure again; written beside it.
        note: one more sentence for the caption, such as the world that was played in; no full stop.
        recognition: results/recognition.csv; where it is there, its curve stands below, over the same steps.
        success: results/success.csv; likewise.
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
    progress = _progress(data, recognition, success)
    caption = curve_caption(data)
    write_table(data.points, table)
    saved = save_figure(curve_figure(data, log_steps=log_steps, progress=progress), stem)
    about = FigureNote(
        title=metric_name(metric)
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


def _progress(data: CurveData, recognition: Path | None, success: Path | None) -> list[Progress]:
    """What the models of the curve reach in their own tasks, where these tables are there."""
    families = [
        {named(str(model)).family for model in data.points[side].unique()} for side in ("understanding", "execution")
    ]
    random = data.points[~data.points["trained_e"].astype(bool)]
    untrained = set(zip(random["training"], random["step_e"], strict=True))
    found = [
        recognition_progress(recognition, families[0]) if recognition else None,
        success_progress(success, families[1], untrained=untrained) if success else None,
    ]
    return [one for one in found if one is not None]
