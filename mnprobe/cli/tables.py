"""`mnprobe tables`: results of a run in the format of the paper's tables."""

import json
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.commands import command_line
from mnprobe.core.rundir import resolve_run

__all__ = ["tables"]


def tables(
    run: opt.RunOption = None,
    number: Annotated[
        list[int] | None,
        typer.Option(help="1 recognition, 2 execution, 3 ablation (repeatable); default all that exist."),
    ] = None,
    wide: opt.WideOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Print recognition and success per task, and the ablation, in the format of the paper's Tables 1 to 3.

    Results have n and 95 % intervals; several seeds of a training are shown as mean and spread. The paper's numbers,
    measured on RLBench, are in separate columns: they are not comparable with those of another world.

    Example: mnprobe tables --run runs/first
    """
    from mnprobe.analysis.tables.paper import (
        TABLES,
        grid_text,  # pandas is imported here, so that --help is fast
        shaped_table,
    )
    from mnprobe.core.errors import ProbeError

    rundir = resolve_run(run)
    wanted = list(dict.fromkeys(number or TABLES))
    made = {one: shaped_table(rundir, one) for one in wanted}
    missing = {one: command_line(TABLES[one][1], run=rundir.path) for one, table in made.items() if table is None}
    if len(missing) == len(wanted):
        ways = "; ".join(f"Table {one}: `{command}`" for one, command in missing.items())
        raise ProbeError(f"{rundir.path} has measured nothing for these tables. {ways}")
    existing = [table for table in made.values() if table is not None]
    if as_json:
        documents = [
            {
                "number": table.number,
                "title": table.title,
                "rows": json.loads(table.frame.to_json(orient="records")),
                "notes": list(table.notes),
            }
            for table in existing
        ]
        absent = [{"number": one, "command": command} for one, command in missing.items()]
        typer.echo(json.dumps({"run": str(rundir.path), "tables": documents, "missing": absent}))
        return
    typer.echo(f"run: {rundir.path}")
    for table in existing:
        typer.echo(f"\n{grid_text(table, width=opt.line_width(wide))}")
    for one, command in missing.items():
        typer.echo(f"\nTable {one} is not measured yet: `{command}`")
