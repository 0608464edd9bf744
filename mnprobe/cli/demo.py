"""`mnprobe demo`: the whole job, by the same commands that a user would type."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]

_TASKS = ("meat_off_grill", "open_drawer", "push_buttons", "slide_block_to_color_target", "turn_tap")
"""What is played where no data are given: 23 instructions that a laptop demonstrates in half a minute."""


def demo(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of demonstrations (repeatable); without it the embedded tabletop makes some."),
    ] = None,
    run: Annotated[Path, typer.Option(help="Run directory to make or to go on with.")] = Path("runs/demo"),
    instructions: Annotated[
        Path | None, typer.Option(help="CSV (task,variation,instruction) in place of the dataset's instructions.")
    ] = None,
    outcomes: Annotated[
        str | None, typer.Option(help="CSV (id,success), or the word 'successful' when all episodes are successes.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Without --data: demonstrate this task (repeatable); default five.")
    ] = None,
    train: Annotated[int, typer.Option(help="Without --data: demonstrations of an instruction to train on.")] = 4,
    test: Annotated[int, typer.Option(help="Without --data: demonstrations of an instruction to test on.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the untrained models.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps per probe fit; 400 when left out.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto",
) -> None:
    """Do the main job: frozen u and e, two heads, Recall@1 with its controls, curve, t-SNE, report.

    The demonstrations are yours (--data) or scripted ones of the embedded tabletop.
    A new run starts from tiny untrained models (step 0); a run that holds checkpoints uses all of them. Each command is
    printed before it runs. Stop it at any moment and run it again to go on.

    Example: mnprobe demo --run runs/first
    """
    from mnprobe.cli.main import command_app
    from mnprobe.core.rundir import RunDir
    from mnprobe.data import open_dataset

    if data:
        open_dataset(data, instructions=instructions, outcomes=outcomes)  # refused before anything is made
    source = [word for folder in data or () for word in ("--data", str(folder))]
    if instructions is not None:
        source += ["--instructions", str(instructions)]
    if outcomes is not None:
        source += ["--outcomes", outcomes]
    home = ["--run", str(run)]
    extract = ["extract", *home, *source, "--device", device]
    job = [
        extract,
        [*extract, "--model", "arp", "--blank-instruction"],
        [*extract, "--model", "pixels"],
        ["align", *home, *(["--steps", str(steps)] if steps is not None else [])],
        ["curve", *home],
        ["tsne", *home],
        ["tsne", *home, "--space", "raw"],
        ["report", *home],
    ]
    if not RunDir(run).checkpoints():
        job.insert(0, ["init", *home, "--seed", str(seed)])
    if not data:
        tasks = [word for name in task or _TASKS for word in ("--task", name)]
        job.insert(0, ["demos", *home, *tasks, "--train", str(train), "--test", str(test)])
    for arguments in job:
        typer.secho(f"\n$ mnprobe {shlex.join(arguments)}", bold=True)
        _run(command_app(arguments[0]), arguments)


def _run(app: typer.Typer, arguments: list[str]) -> None:
    try:
        app(args=arguments[1:], prog_name=f"mnprobe {arguments[0]}")
    except SystemExit as end:
        if end.code:
            raise
