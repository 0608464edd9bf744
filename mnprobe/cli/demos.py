"""`mnprobe demos`: scripted demonstrations, and contact sheets of any episodes."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import print_note, print_run

__all__ = ["demos"]


def demos(
    run: Annotated[
        Path | None, typer.Option(help="Run directory, created if needed; by default the newest under ./runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this folder instead of a run's demos.")] = None,
    world: Annotated[str, typer.Option(help="World with a scripted expert: tabletop, or a plugin's.")] = "tabletop",
    tasks: opt.TaskOption = None,
    suite: opt.SuiteOption = None,
    variations: Annotated[
        list[int] | None,
        typer.Option("--variation", help="Only this variation of each task (repeatable); default all."),
    ] = None,
    max_variations: Annotated[
        int | None, typer.Option(help="Maximum number of variations per task; default all.")
    ] = None,
    train: Annotated[int, typer.Option(help="Demonstrations of each variation for training.")] = 10,
    val: Annotated[int, typer.Option(help="Validation demonstrations per variation.")] = 0,
    test: Annotated[int, typer.Option(help="Test demonstrations per variation.")] = 5,
    seed: Annotated[int, typer.Option(help="First seed of train; val begins 1000000 later, test 2000000.")] = 0,
    renderer: opt.RendererOption = None,
    image_size: opt.ImageSizeOption = None,
    option: opt.WorldOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of single-threaded processes; default one per processor.")
    ] = None,
    video_frames: Annotated[int, typer.Option(help="Number of evenly spaced front-camera frames to store.")] = 16,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also draw a contact sheet of each task.")] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="With --sheet: draw the demonstrations of this folder and write none (repeatable)."),
    ] = None,
    episode: Annotated[
        list[str] | None, typer.Option(help="With --sheet: the episode of this id (repeatable).")
    ] = None,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Generate scripted demonstrations in an embedded world; write them in RLBench's format with outcomes.

    An interrupted command resumes when run again; with larger numbers it adds demonstrations. A contact sheet has a row
    per camera and a column per key pose; sheets are written to figures/sheets of the run, or to sheets/ of --out.

    Example: mnprobe demos --run runs/first --task open_drawer --train 10 --test 5 --sheet
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import RunDir, resolve_run
    from mnprobe.features.extractors.base import parse_options
    from mnprobe.worlds.demos import DemosConfig, write_demos
    from mnprobe.worlds.parallel import default_workers

    if (data or episode) and not sheet:
        raise ConfigError("--data and --episode choose what --sheet draws; give --sheet as well")
    if run is not None and out is not None:
        raise ConfigError("--run and --out both say where to write; give one of them")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be 1 or more, got {workers}")
    world_options = parse_options(option or [])
    world_options |= {
        name: value for name, value in (("renderer", renderer), ("image_size", image_size)) if value is not None
    }
    tasks = opt.chosen_tasks(tasks, suite, world, world_options)
    if data:
        _draw(data, out or resolve_run(run).figures / "sheets", tasks, episode, as_json, {})
        return
    config = DemosConfig(**opt.select_fields(DemosConfig, locals()), options=world_options)
    run_dir = RunDir.create(run) if run is not None else resolve_run(None) if out is None else None
    print_run(run_dir, quiet=quiet, as_json=as_json)
    written = write_demos(
        run_dir.demos if run_dir is not None else out or Path(),
        config,
        workers=default_workers() if workers is None else workers,
        quiet=quiet,
        note=print_note(quiet),
    )
    if run_dir is not None:
        settings = {name: value for name, value in vars(config).items() if name != "options"}
        run_dir.record(
            "demos", {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()} | world_options
        )
    facts = written.to_dict()
    if not as_json:
        numbers = ", ".join(f"{number} {name}" for name, number in written.partitions.items())
        typer.echo(f"{written.folder}: {numbers} ({written.made} made now, {written.cpu_seconds:.1f} CPU-s)")
        for name, seeds in written.failed_seeds.items():
            typer.echo(f"{name}: the expert failed on {len(seeds)} seeds, replaced: {', '.join(map(str, seeds))}")
    if sheet:
        sheets = written.folder / "sheets" if run_dir is None else run_dir.figures / "sheets"
        _draw([written.folder], sheets, tasks, episode, as_json, facts)
    elif as_json:
        typer.echo(json.dumps(facts))


def _draw(
    data: list[Path],
    folder: Path,
    tasks: list[str] | None,
    episodes: list[str] | None,
    as_json: bool,
    facts: dict[str, Any],
) -> None:
    from mnprobe.analysis.tsne.contact_sheet import draw_sheets
    from mnprobe.data import open_dataset

    paths = draw_sheets(open_dataset(data, tasks=tasks or None), folder, episodes=episodes or ())
    if as_json:
        typer.echo(json.dumps(facts | {"sheets": [str(path) for path in paths]}))
        return
    for path in paths:
        typer.echo(f"wrote {path}")
