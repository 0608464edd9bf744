"""`mnprobe demo`: the complete study, as a sequence of mnprobe commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mnprobe.cli import options as opt

__all__ = ["demo"]


def demo(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of demonstrations (repeatable); without it the whole study runs on the tabletop."),
    ] = None,
    run: Annotated[Path, typer.Option(help="Run directory to create or to resume.")] = Path("runs/demo"),
    preset: Annotated[
        Literal["quick", "full"],
        typer.Option(help="Without --data: quick (minutes on two cores) or full (all tasks, three seeds; hours)."),
    ] = "quick",
    instructions: opt.InstructionsOption = None,
    outcomes: opt.OutcomesOption = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Without --data: only this task (repeatable); default the preset's.")
    ] = None,
    train: Annotated[int | None, typer.Option(help="Without --data: training demonstrations per instruction.")] = None,
    val: Annotated[
        int | None, typer.Option(help="Without --data: demonstrations per instruction for fitting heads.")
    ] = None,
    test: Annotated[int | None, typer.Option(help="Without --data: test demonstrations per instruction.")] = None,
    updates: Annotated[int | None, typer.Option(help="Without --data: updates of each training.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Without --data: trainings of each kind.")] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Without --data: rollout episodes per checkpoint and task.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and sampling.")] = 0,
    steps: opt.ProbeStepsOption = None,
    side_by_side: Annotated[
        int | None,
        typer.Option(help="Number of parallel commands, where possible; default one per processor, at most 2."),
    ] = None,
    device: opt.DeviceOption = "auto",
) -> None:
    """Run a complete study: train baseline and joint, roll out, extract u and e, probe them, write the report.

    On your own demonstrations (--data): features of the run's checkpoints (or of tiny untrained models), alignment,
    curve, t-SNE, report. Each command is printed before it runs. An interrupted study resumes when run again.

    Example: mnprobe demo --run runs/first
    """
    import os

    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # two processes of one thread are faster than one of two (docs/performance.md)

    from mnprobe.cli.study import STUDIES, Study, probe_stages, study_stages
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import RunDir
    from mnprobe.data import open_dataset

    sizes = {"train": train, "val": val, "test": test, "updates": updates, "seeds": seeds, "episodes": episodes}
    given = {name: value for name, value in sizes.items() if value is not None}
    for name, value in given.items():
        if value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")
    if data:
        if given or task:
            raise ConfigError(f"--{next(iter(given), 'task')} belongs to the study on the tabletop: leave out --data")
        open_dataset(data, instructions=instructions, outcomes=outcomes)  # check before anything is written
        source = [word for folder in data for word in ("--data", str(folder))]
        source += [] if instructions is None else ["--instructions", str(instructions)]
        source += [] if outcomes is None else ["--outcomes", outcomes]
        run_option = ["--run", str(run)]
        extract = ["extract", *run_option, *source, "--device", device]
        stages = [] if RunDir(run).checkpoints() else [[["init", *run_option, "--seed", str(seed)]]]
        stages += [[extract], [[*extract, "--model", "arp", "--blank-instruction"]], [[*extract, "--model", "pixels"]]]
        stages += probe_stages(run, None, steps)
    else:
        if instructions is not None or outcomes is not None:
            raise ConfigError("--instructions and --outcomes describe your own demonstrations: give --data as well")
        chosen = vars(STUDIES[preset]) | given | ({"tasks": tuple(task)} if task else {})
        study = Study(**chosen)
        stages = study_stages(study, run, seed=seed, device=device, probe_steps=steps)
        RunDir.create(run).record(
            "demo", {"study": preset, "seed": seed} | {k: _plain(v) for k, v in vars(study).items()}
        )
    together = side_by_side if side_by_side is not None else min(2, os.cpu_count() or 1)
    if together < 1:
        raise ConfigError(f"--side-by-side must be at least 1, got {together}")
    _run_all(stages, together, run)


def _run_all(stages: list[list[list[str]]], together: int, run: Path) -> None:
    """Run all stages in order; an alignment by outcomes that the data do not support is reported and skipped."""
    from mnprobe.cli.side_by_side import run_here, run_together
    from mnprobe.cli.study import may_be_left_out

    for stage in stages:
        if together > 1 and len(stage) > 1:
            run_together(stage, logs=run / "logs", at_once=together, optional=may_be_left_out)
        else:
            for command in stage:
                run_here(command, optional=may_be_left_out(command))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
