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
        Literal["quick", "reference", "full"],
        typer.Option(
            help="Without --data: quick (36 instructions, one seed pair; minutes on two cores), reference (the same, "
            "ten seed pairs; about two hours) or full (all other tasks, three seeds; hours)."
        ),
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
    seeds: Annotated[
        int | None,
        typer.Option(help="Without --data: trainings of each kind. For reference the number of pairs to report."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Without --data: rollout episodes per checkpoint and task.")
    ] = None,
    half_episodes: Annotated[
        int | None,
        typer.Option(help="Without --data: the same where success is nearest one half, the first ones among them."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initial weights and sampling; default 0, or the preset's.")
    ] = None,
    steps: opt.ProbeStepsOption = None,
    side_by_side: Annotated[
        int | None,
        typer.Option(help="Number of parallel commands, where possible; default one per processor, at most 2."),
    ] = None,
    device: opt.DeviceOption = "auto",
) -> None:
    """Run a complete study: train baseline and joint, roll out, extract u and e, probe them, write the report.

    \b
    A first report:        mnprobe demo
      takes minutes on two cores, downloads nothing, needs no GPU; writes
      runs/demo/report.html (open it in a browser), tables and figures beside it
    Your demonstrations:   mnprobe demo --data path/to/demos --run runs/mine
      features of the run's checkpoints (or of tiny untrained models),
      alignment, curve, t-SNE, report
    Your own features:     mnprobe import features.npz --episodes episodes.csv \\
                             --side execution --name mine --run runs/mine
      the features of one side; after both, mnprobe align and mnprobe report

    One line per stage says how far it is, the time left (an estimate) and what came out; at the end the answers. All
    output of the commands is in logs/ of the run. An interrupted study resumes when run again.

    Example: mnprobe demo --run runs/first
    """
    import os

    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # two processes of one thread are faster than one of two (docs/performance.md)

    from mnprobe.cli.stage_results import answers, stage_result
    from mnprobe.cli.stages import run_stages
    from mnprobe.cli.study import STUDIES, Stage, Study, may_be_left_out, probe_stages, study_stages
    from mnprobe.core.commands import command_line
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.provenance import commit
    from mnprobe.core.rundir import RunDir
    from mnprobe.data import open_dataset

    sizes = {"train": train, "val": val, "test": test, "updates": updates, "seeds": seeds, "episodes": episodes}
    sizes |= {"half_episodes": half_episodes}
    given = {name: value for name, value in sizes.items() if value is not None}
    for name, value in given.items():
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if data:
        if given or task:
            asked = next(iter(given), "task").replace("_", "-")
            raise ConfigError(f"--{asked} belongs to the study on the tabletop: leave out --data")
        open_dataset(data, instructions=instructions, outcomes=outcomes)  # check before anything is written
        source = [word for folder in data for word in ("--data", str(folder))]
        source += [] if instructions is None else ["--instructions", str(instructions)]
        source += [] if outcomes is None else ["--outcomes", outcomes]
        run_option = ["--run", str(run)]
        extract = ["extract", *run_option, *source, "--device", device]
        made = RunDir(run).checkpoints()
        stages = [] if made else [Stage("random models", [["init", *run_option, "--seed", str(seed or 0)]])]
        stages.append(Stage("features", [extract]))
        stages.append(Stage("instruction blank", [[*extract, "--model", "arp", "--blank-instruction"]]))
        stages.append(Stage("pixels", [[*extract, "--model", "pixels"]]))
        stages += probe_stages(run, steps)
    else:
        if instructions is not None or outcomes is not None:
            raise ConfigError("--instructions and --outcomes describe your own demonstrations: give --data as well")
        chosen = vars(STUDIES[preset]) | given | ({"tasks": tuple(task)} if task else {})
        if chosen["half_episodes"] is not None:
            chosen["half_episodes"] = max(chosen["half_episodes"], chosen["episodes"])
        study = Study(**chosen)
        number = study.first_seed if seed is None else seed
        stages = study_stages(study, run, seed=seed, device=device, probe_steps=steps)
        options = {"preset": None if preset == "quick" else preset, "task": task, "seed": seed, "steps": steps} | given
        command = command_line("demo", run=run, **options, device=None if device == "auto" else device)
        home = RunDir.create(run)
        before = home.config.get("demo", {}).get("commit", [])  # a study that goes on may do so with another version
        home.record(
            "demo",
            {"study": preset, "seed": number, "command": command, "commit": list(dict.fromkeys([*before, commit()]))}
            | {k: _plain(v) for k, v in vars(study).items()},
        )
    together = side_by_side if side_by_side is not None else min(2, os.cpu_count() or 1)
    if together < 1:
        raise ConfigError(f"--side-by-side must be at least 1, got {together}")
    home = RunDir.create(run)
    run_stages(
        stages,
        logs=run / "logs",
        at_once=together,
        optional=may_be_left_out,
        result=lambda commands: stage_result(home, commands),
    )
    typer.echo("")
    for answer in answers(home):
        typer.echo(answer)
    typer.echo(f"report: {home.report} (open it in a browser)\nlogs: {run / 'logs'}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
