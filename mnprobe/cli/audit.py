"""`mnprobe audit`: leakage, controls, decomposition and findings."""

import json
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.cluster import on_cluster
from mnprobe.core.rundir import resolve_run

__all__ = ["audit"]


def audit(
    run: opt.RunOption = None,
    seeds: Annotated[int, typer.Option(help="Heads refitted for each factor that is removed.")] = 3,
    resamples: opt.ResamplesOption = 1999,
    decomposition: Annotated[
        bool, typer.Option(help="Decompose the last score by task, instruction and variation.")
    ] = True,
    cluster: opt.ClusterOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Check the results of `mnprobe align`: leakage, controls, decomposition, and conclusions in words.

    Writes results/leakage.csv, controls.csv, decomposition.csv, verdict.csv and the figures controls and decomposition.
    docs/statistics.md gives the rule of each conclusion. Where the run has a baseline and a joint training, what joint
    training does is answered over seed pairs.

    Example: mnprobe audit --run runs/first
    """
    from mnprobe.analysis.audit.findings import joint_answers
    from mnprobe.analysis.audit.run import audit_run
    from mnprobe.analysis.tables.progress import played_in, world_note
    from mnprobe.analysis.tables.run_tables import VERDICT

    rundir = resolve_run(run)
    with on_cluster(cluster):
        done = audit_run(
            rundir,
            seeds=seeds,
            resamples=resamples,
            decomposed=decomposition,
            note=world_note(played_in(piece.path for piece in rundir.feature_files())),
        )
    joint = joint_answers(rundir)
    if as_json:
        summary = {
            "run": str(rundir.path),
            "findings": [{name: getattr(finding, name) for name in VERDICT.columns} for finding in done.findings],
            "answers": [{"question": one.question, "answer": one.short, "sentence": one.sentence} for one in joint],
            "figures": [str(path) for saved in done.figures for path in (saved.png, saved.svg)],
            "notes": list(done.notes),
            "leakage": json.loads(done.leakage.to_json(orient="records")),
            "controls": json.loads(done.controls.to_json(orient="records")),
            "decomposition": json.loads(done.decomposition.to_json(orient="records")),
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"run: {rundir.path}")
    for finding in done.findings:
        where = "" if finding.holdout == "both" else f" ({finding.holdout} held out)"
        typer.echo(
            f"{'! ' if finding.alarm else ''}{finding.understanding} with {finding.execution}{where}: "
            f"{finding.sentence}"
        )
    for answer in joint:
        typer.echo(f"{answer.question} {answer.short} {answer.sentence}")
    for text in done.notes:
        typer.echo(f"note: {text}", err=True)
    typer.echo(f"wrote {rundir.results('verdict')}, {', '.join(str(saved.png) for saved in done.figures)}")
