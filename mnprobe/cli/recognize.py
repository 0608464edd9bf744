"""`mnprobe recognize`: action recognition, and forgetting of natural videos."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import leads, print_note, print_run

__all__ = ["recognize"]


def recognize(
    run: opt.RunOption = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of demonstrations or rollouts (repeatable); by default the run's demos."),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Video model of the run (repeatable); by default all.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="Weights file of a ViCLIP, ours or as published (repeatable)."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Use random weights of this size: tiny, b16, l14.")] = None,
    seed: opt.SeedOption = 0,
    name: Annotated[str | None, typer.Option(help="Name of the model in the tables.")] = None,
    step: Annotated[
        int | None,
        typer.Option(help="Only this step of the run; or the step of a weights file that does not record one."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the data in the tables: demos, rollouts, ...")] = None,
    partitions: Annotated[
        list[str] | None,
        typer.Option("--partition", help="train, val, test (repeatable) or all; by default test where there is one."),
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="File of candidate texts, one per line; by default the dataset's instructions.")
    ] = None,
    instructions: opt.InstructionsOption = None,
    camera: opt.CameraOption = None,
    videos: Annotated[
        Path | None,
        typer.Option(help="Forgetting check: class-named folders of video files, compared over training steps."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="With --videos: text template of a class; by default 'a video of {}'.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip episodes or videos with damaged files, and list them.")
    ] = False,
    frames_rule: opt.FramesRuleOption[Literal["middle", "strided"]] = "middle",
    device: opt.DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass and per resumable piece.")] = 8,
    precision: opt.PrecisionOption[Literal["float32", "bf16"]] = "float32",
    out: Annotated[Path | None, typer.Option(help="Output folder of the tables instead of the run's results.")] = None,
    wide: opt.WideOption = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Measure action recognition per task among all instructions of the dataset, for every checkpoint (Table 1).

    Writes recognition.csv and predictions.csv, one row per episode: the success labels of the understanding side. With
    --videos it recognises natural videos instead, and writes what the model forgot in training to forgetting.csv.
    Finished checkpoints are not repeated.

    Example: mnprobe recognize --run runs/first
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import resolve_run
    from mnprobe.features.recognition.config import RecognitionConfig
    from mnprobe.features.recognition.evaluate import check_forgetting
    from mnprobe.features.recognition.evaluate import recognize as run_recognize
    from mnprobe.features.recognition.tables import format_forgetting, format_recognition

    config = RecognitionConfig(**opt.select_fields(RecognitionConfig, locals()))
    run_dir = None if run is None and out is not None else resolve_run(run)
    print_run(run_dir, quiet=quiet, as_json=as_json)
    note = print_note(quiet)
    if videos is None:
        done = run_recognize(data or None, config, run=run_dir, out=out, quiet=quiet, note=note)
        text = format_recognition(done.rows, width=opt.line_width(wide))
    elif data:
        raise ConfigError("--data: is about episodes, --videos about natural videos; leave one out")
    else:
        done = check_forgetting(videos, config, run=run_dir, out=out, quiet=quiet, note=note)
        text = format_forgetting(done.rows, width=opt.line_width(wide))
    tables = [done.table, done.predictions_table]
    if not leads():
        return
    if as_json:
        document = {
            "tables": [str(table) for table in tables],
            "rows": json.loads(done.rows.to_json(orient="records")),
            "broken": list(done.broken),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(text)
    for message in () if videos is not None else done.broken:
        typer.echo(f"left out {message}")
    typer.echo(f"wrote {' and '.join(map(str, tables))}")
