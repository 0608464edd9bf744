"""`mnprobe curve`: alignment over training checkpoints."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.rundir import resolve_run

__all__ = ["curve"]


def curve(
    run: opt.RunOption = None,
    alignment: Annotated[
        Path | None, typer.Option(help="Table of `mnprobe align`; default results/alignment.csv of the run.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Metric: recall@1, recall@5, recall@10, adjusted_recall@1, mi_bound.")
    ] = "recall@1",
    split: Annotated[
        str, typer.Option(help="all, one of the success and failure splits, or outcomes (all four splits).")
    ] = "all",
    direction: Annotated[str, typer.Option(help="Direction: u2e, e2u, or mean of both.")] = "mean",
    where: Annotated[
        list[str] | None,
        typer.Option(help="Filter column=value, if the table holds several configurations (repeatable)."),
    ] = None,
    log_steps: Annotated[bool, typer.Option("--log-steps", help="Use a logarithmic step axis.")] = False,
    out: opt.FigureOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Draw Recall@1 over training checkpoints, with chance, 95 % intervals and every control that was measured.

    Trainings (models such as arp-baseline and arp-joint) differ by colour, and their seeds are averaged; recognition
    and success are drawn below if they were measured. Writes figures/curve.png, curve.svg and results/curve.csv (for
    another metric or split, with its name added). With one checkpoint, points with error bars are drawn.

    Example: mnprobe curve --run runs/first --metric recall@1 --where layer_e=e
    """
    from mnprobe.analysis.audit.finding_text import message
    from mnprobe.analysis.audit.findings import findings
    from mnprobe.analysis.figures.curve import (
        curve_name,
        draw_curve,
    )  # matplotlib and pandas are imported here, so that --help is fast
    from mnprobe.analysis.tables.alignment import parse_where
    from mnprobe.analysis.tables.progress import played_in, world_note
    from mnprobe.core.commands import command_line

    rundir = resolve_run(run)
    name = curve_name(metric, split)
    stem = out or rundir.figures / name
    usual = alignment is None and not where and (metric, split, direction) == ("recall@1", "all", "mean")
    found = findings(rundir, []) if usual else ()
    joint = [one for one in found if one.topic.startswith("joint") and one.rows]
    said = [f"{one.question} {one.short.removesuffix('.')}" for one in joint]
    world = world_note(played_in(piece.path for piece in rundir.feature_files()))
    options = {"run": rundir.path, "alignment": alignment, "metric": metric, "split": split, "direction": direction}
    drawn = draw_curve(
        alignment or rundir.results("alignment"),
        stem=stem,
        table=rundir.results(name) if out is None else out.with_name(out.name + ".csv"),
        metric=metric,
        split=split,
        direction=direction,
        where=parse_where(where or []),
        log_steps=log_steps,
        command=command_line("curve", **(options | {"where": where, "log_steps": log_steps, "out": out})),
        recognition=rundir.results("recognition") if split == "all" else None,
        success=rundir.results("success") if split == "all" else None,
        note=". ".join([*said, *([world] if world else [])]),
        title="".join(message(one) for one in found if one.topic == "rise with training"),
    )
    if as_json:
        summary = {
            "run": str(rundir.path),
            "png": str(drawn.figure.png),
            "svg": str(drawn.figure.svg),
            "table": str(drawn.table),
            "single_checkpoint": drawn.data.single,
            "notes": list(drawn.data.notes),
            "caption": drawn.caption,
            "points": json.loads(drawn.data.points.to_json(orient="records")),
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"run: {rundir.path}")
    typer.echo(drawn.caption)
    typer.echo(f"wrote {drawn.figure.png}, {drawn.figure.svg}, {drawn.table}")
