"""`mnprobe report`: one HTML file with everything that a run has measured."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.core.rundir import resolve_run

__all__ = ["report"]


def report(
    run: Annotated[Path | None, typer.Option(help="The run directory; the newest under ./runs when left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where it goes; report.html in the run when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write one self-contained HTML file: what came out in plain words, scores with chance and controls, every figure,
    the paper's Tables 1 to 3 filled with ours, data, models, every number.

    It opens offline, without JavaScript. What the run does not have yet is named, with the command that makes it.

    Example: mnprobe report --run runs/first
    """
    from dataclasses import asdict

    from mnprobe.analysis.report import write_report  # jinja2 and pandas load here, not for --help

    rundir = resolve_run(run)
    written = write_report(rundir, out)
    data = written.data
    if as_json:
        summary = {
            "run": str(rundir.path),
            "report": str(written.path),
            "bytes": written.path.stat().st_size,
            "findings": [
                {"question": one.question, "answer": one.short, "sentences": list(one.sentences), "note": one.note}
                for one in data.findings
            ],
            "headline": [asdict(line) for line in data.headline],
            "caveats": list(data.caveats),
            "figures": [figure.name for figure in data.figures if figure.png],
            "tables": [table.name for table in data.tables if not table.problem],
            "missing": [asdict(piece) for piece in data.missing],
            "problems": data.all_problems,
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"run: {rundir.path}")
    for found in data.findings:
        typer.echo(f"{found.question} {found.short}")
    for sentence in data.summary:
        typer.echo(sentence)
    for piece in data.missing:
        typer.echo(f"no {piece.what} yet: run `{piece.command}`")
    typer.echo(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.1f} MB)")
