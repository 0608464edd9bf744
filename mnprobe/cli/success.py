"""`mnprobe success`: success against failure, with tests, intervals and power."""

import json
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.rundir import resolve_run

__all__ = ["success"]


def success(
    run: opt.RunOption = None,
    source: Annotated[
        str | None,
        typer.Option(help="Source of the episodes; default rollouts if the policy has both outcomes there, else all."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint of the policy; half: of each policy that whose success is nearest one half. Default half, "
            "where that was measured, else the last."
        ),
    ] = None,
    resamples: opt.ResamplesOption = 1999,
    out: opt.FigureOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Contrast the four settings of `mnprobe align --split success`: differences, 95 % intervals, corrected p, power.

    Writes results/success_contrast.csv and figures/success.png and .svg: bars with intervals and exact chance, both
    modes, all episodes and within tasks.

    Example: mnprobe success --run runs/first --source rollouts
    """
    from mnprobe.analysis.audit.finding_text import message
    from mnprobe.analysis.audit.findings import findings
    from mnprobe.analysis.success.contrast import contrast_sentences, write_contrasts
    from mnprobe.analysis.success.figure import draw_success
    from mnprobe.analysis.tables.progress import played_in, world_note
    from mnprobe.analysis.tables.run_tables import RunTables
    from mnprobe.core.commands import command_line
    from mnprobe.features.half_success import half_steps

    rundir = resolve_run(run)
    number, half = opt.read_step(step)
    target = rundir.results("success_contrast")
    table = write_contrasts(rundir.results("alignment"), target.parent / "hits", target, resamples=resamples)
    tables = RunTables(rundir)
    own = table[table["source_e"].str.startswith("rollouts")]
    chosen = half_steps(rundir, list(dict.fromkeys(own["execution"]))) if half else tables.half_steps
    (answer,) = [one for one in findings(tables, []) if one.topic == "success"]
    options = {"run": rundir.path, "source": source, "step": step, "resamples": resamples, "out": out}
    drawn = draw_success(
        table,
        stem=out or rundir.figures / "success",
        source=source,
        chosen=chosen,
        step=number,
        command=command_line("success", **options),
        note=world_note(played_in(piece.path for piece in rundir.feature_files())),
        title=message(answer) if source is None and number is None else "",
    )
    sentences = contrast_sentences(drawn.rows)
    if as_json:
        summary = {
            "run": str(rundir.path),
            "table": str(target),
            "png": str(drawn.figure.png),
            "svg": str(drawn.figure.svg),
            "caption": drawn.caption,
            "sentences": list(sentences),
            "answer": {"question": answer.question, "short": answer.short, "sentences": list(answer.sentences)},
            "rows": json.loads(table.to_json(orient="records")),
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"run: {rundir.path}")
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"{answer.question} {answer.short}")
    typer.echo(f"wrote {target}, {drawn.figure.png}, {drawn.figure.svg}")
