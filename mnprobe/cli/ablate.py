"""`mnprobe ablate`: pairing by temperature (the paper's Table 3)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import print_note, print_run
from mnprobe.core.cluster import on_cluster

if TYPE_CHECKING:
    from mnprobe.analysis.ablation.study import Ablation, AblationPlan

__all__ = ["ablate"]


def ablate(
    run: opt.RunOption = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Demonstrations with partitions train and test (repeatable); by default the run's."),
    ] = None,
    pairing: Annotated[
        list[str] | None, typer.Option(help="episode, instruction or task (repeatable); default all three.")
    ] = None,
    tau: Annotated[
        list[float] | None, typer.Option(help="Temperature of the alignment (repeatable); default 0.02, 0.1, 0.2.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each cell, with seeds from 0.")] = 1,
    preset: Annotated[str, typer.Option(help="Settings of every training: tiny, goal, small, or paper.")] = "tiny",
    updates: Annotated[int | None, typer.Option(help="Updates of every training; warm-ups keep their share.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of every training, KEY=VALUE, such as lambda_align=1."),
    ] = None,
    viclip: Annotated[Path | None, typer.Option(help="Initial weights of the video models.")] = None,
    arp: Annotated[Path | None, typer.Option(help="Initial weights of the policies.")] = None,
    language_weights: opt.LanguageWeightsOption = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "--tasks", help="Train and judge only this task (repeatable); default all."),
    ] = None,
    instructions: opt.InstructionsOption = None,
    episodes: Annotated[int, typer.Option(help="Rollout episodes per task and cell, in the same new scenes.")] = 25,
    world: Annotated[str, typer.Option(help="World of the rollouts: tabletop, rlbench, or a plugin's.")] = "tabletop",
    world_option: opt.WorldOption = None,
    max_steps: opt.MaxStepsOption = 25,
    jobs: Annotated[
        int | None,
        typer.Option(help="Number of parallel cells, one thread each; default one per processor, one on a GPU."),
    ] = None,
    cluster: opt.ClusterOption = None,
    device: opt.DeviceOption = "auto",
    save_every: opt.SaveEveryOption = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells, the remaining work and the time; write nothing.")
    ] = False,
    wide: opt.WideOption = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Train each pairing with each temperature, and a baseline; measure recognition and success (Table 3).

    Recognition uses held-out demonstrations, success the same new scenes, both with the last checkpoint of each cell.
    Cells are stored in the run's ablation folder, the table in results/ablation.csv. An interrupted command resumes
    when run again. A failed cell does not stop the others: the command then exits with code 2 and names the cell.
    Workers of a --cluster must see the run's files under the same paths.

    Example: mnprobe ablate --run runs/first --preset tiny --pairing instruction --pairing task --tau 0.1
    """
    from mnprobe.analysis.ablation.grid import PAIRINGS, TAUS, ablation_cells
    from mnprobe.analysis.ablation.study import ablate as run_ablation
    from mnprobe.analysis.ablation.study import open_study, plan_ablation
    from mnprobe.cli.train_settings import changed, over_updates, read_settings
    from mnprobe.core.rundir import RunDir, resolve_run
    from mnprobe.features.extractors.base import parse_options
    from mnprobe.training import preset as preset_named

    own = {"updates": "--updates", "pairing": "--pairing", "tau": "--tau", "seed": "--seeds"}
    settings = read_settings(option or [], own=own, given={})
    base = preset_named(preset)
    base = changed(base, over_updates(base, updates) | settings)
    cells = ablation_cells(base, pairings=pairing or PAIRINGS, taus=tau or TAUS, seeds=seeds)
    run_dir = resolve_run(run)
    if cluster is not None:  # its workers may be in other folders; they must see the same files
        run_dir, data = RunDir(run_dir.path.resolve()), [path.resolve() for path in data or ()]
    print_run(run_dir, quiet=quiet, as_json=as_json)
    study = open_study(
        run_dir,
        cells,
        data=data or (),
        tasks=task or (),
        instructions=instructions,
        episodes=episodes,
        world=world,
        world_options=parse_options(world_option or []),
        max_steps=max_steps,
        start_viclip=viclip,
        start_arp=arp,
        language_weights=language_weights,
        device=device,
        save_every=save_every,
    )
    if dry_run:
        _print_plan(plan_ablation(study, jobs=jobs), as_json)
        return
    with on_cluster(cluster):
        made = run_ablation(study, jobs=jobs, quiet=quiet, note=print_note(quiet))
    _print_result(made, wide, as_json)


def _print_plan(plan: "AblationPlan", as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = dict(vars(plan)) | {"seconds": plan.seconds}
        typer.echo(json.dumps({"dry_run": True, **document}, indent=2))
        return
    from mnprobe.core.table import text_table

    typer.echo(text_table((), [(row["name"], f"{row['updates']} updates", _status(row)) for row in plan.rows]))
    line = f"{plan.updates} updates are left"
    if plan.seconds is None:
        line += "; no training of these sizes was measured in this run, so their time is not known"
    else:
        line += f": about {_clock(plan.seconds)}, {plan.jobs} at once, at {plan.seconds_per_update:.3g} s an update "
        line += f"as in {plan.measured_in}; recognition and played episodes come on top"
    typer.echo(f"{line}\nnothing was written (--dry-run)")


def _status(row: dict[str, Any]) -> str:
    """A cell of the JSON document is "begun"; people read "partial" and how much of it there is."""
    return f"partial, {row['done']} made" if row["status"] == "begun" else str(row["status"])


def _print_result(result: "Ablation", wide: bool, as_json: bool) -> None:
    from mnprobe.analysis.tables.paper import ablation_table, grid_text
    from mnprobe.core.errors import TrainingError

    if as_json:
        cells = [
            {"name": cell.name, "status": cell.status, "error": cell.error, "seconds": cell.seconds}
            for cell in result.cells
        ]
        rows = json.loads(result.rows.to_json(orient="records"))
        typer.echo(json.dumps({"table": str(result.table), "cells": cells, "rows": rows}, indent=2))
    elif len(result.rows):
        typer.echo(grid_text(ablation_table(result.table), width=opt.line_width(wide)))
        typer.echo(f"wrote {result.table}")
    if result.failed:
        listed = "\n".join(f"  {cell.name}: {cell.error}" for cell in result.failed)
        raise TrainingError(
            f"{len(result.failed)} of {len(result.cells)} cells failed; the others are finished and kept:\n{listed}"
        )


def _clock(seconds: float) -> str:
    """
    >>> _clock(40), _clock(5000)
    ('1 min', '1 h 23 min')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
