"""`mnprobe report`: one HTML file with everything that a run has measured."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import resolve_run

__all__ = ["report"]


def report(
    run: opt.RunOption = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Compare several runs: --compare A B C, or --run A --compare B."),
    ] = None,
    runs: Annotated[list[Path] | None, typer.Argument(help="Further runs of --compare.", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output file; default report.html (report-compare.html) in the (first) run."),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Also copy the study to this folder: report (at most 6 MB), tables, figures, run.toml, command, "
            "commit."
        ),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Write one self-contained HTML file: the verdict in plain words, scores with chance and controls, every figure,
    the paper's Tables 1 to 3 filled with ours, an interactive t-SNE, data, models, every number.

    It opens offline; everything except the interactive plot works without JavaScript. Missing results are listed with
    the command that produces them.

    With --compare it writes one page for several runs: conclusions, key numbers, curves and differing settings.

    Example: mnprobe report --run runs/first
    """
    from dataclasses import asdict

    from mnprobe.analysis.report import write_report  # jinja2 and pandas are imported here, so that --help is fast

    if compare or runs:
        if publish is not None:
            raise ConfigError("--publish copies one study: leave out --compare")
        _compare([*([run] if run else []), *(compare or []), *(runs or [])], bool(compare), out, as_json=as_json)
        return
    rundir = resolve_run(run)
    written = write_report(rundir, out)
    if publish is not None:
        from mnprobe.analysis.report.publish import publish_run

        publish_run(rundir, publish)
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
            "verdicts": [
                {name: getattr(one, name) for name in ("pair", "holdout", "conclusion", "sentence", "rows")}
                for one in data.judgements
            ],
            "success": list(data.contrasts),
            "headline": [asdict(line) for line in data.headline],
            "caveats": list(data.caveats),
            "figures": [figure.name for figure in data.figures if figure.image],
            "tables": [table.name for table in data.tables if not table.problem],
            "missing": [asdict(piece) for piece in data.missing],
            "problems": data.all_problems,
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"run: {rundir.path}")
    for judgement in data.judgements:
        held = "both holdouts" if judgement.holdout == "both" else f"{judgement.holdout} held out"
        for sentence in dict.fromkeys([*judgement.alarms, judgement.sentence]):
            typer.echo(f"{judgement.pair} ({held}): {sentence}")
    for finding in data.findings:
        typer.echo(f"{finding.question} {finding.short}")
    for sentence in data.summary:
        typer.echo(sentence)
    for piece in data.missing:
        typer.echo(f"no {piece.what} yet: run `{piece.command}`")
    typer.echo(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.1f} MB)")
    if publish is not None:
        typer.echo(f"published {publish}")


def _compare(paths: list[Path], asked: bool, out: Path | None, *, as_json: bool) -> None:
    from mnprobe.analysis.report import write_side_by_side

    if not asked:
        way = command_line("report", compare=paths)
        raise ConfigError(f"to set runs side by side, write `{way}`; one run goes with --run")
    path, page = write_side_by_side([resolve_run(run) for run in paths], out)
    if as_json:
        summary = {
            "runs": {side.label: side.data.path for side in page.sides},
            "report": str(path),
            "bytes": path.stat().st_size,
            "answers": [{"question": name, "answers": list(values)} for name, values in page.answers],
            "settings": [{"setting": name, "values": list(values)} for name, values in page.settings],
            "problems": [*page.problems, *(text for side in page.sides for text in side.data.all_problems)],
        }
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"runs: {', '.join(side.label for side in page.sides)}")
    names = [name for name, _ in page.settings]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    typer.echo(f"settings that differ: {', '.join(names[:8]) or 'none'}{more}")
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
