"""`mnprobe recognize`: action recognition, and forgetting of natural videos."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["recognize"]


def recognize(
    run: Annotated[Path | None, typer.Option(help="Run directory; by default the newest under ./runs.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of demonstrations or rollouts (repeatable); by default the run's demos."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Video model of the run (repeatable); by default all.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Weights file of a ViCLIP, ours or as published (repeatable).")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Use random weights of this size: tiny, b16, l14.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the model in the tables.")] = None,
    step: Annotated[
        int | None,
        typer.Option(help="Only this step of the run; or the step of a weights file that does not record one."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the data in the tables: demos, rollouts, ...")] = None,
    partition: Annotated[
        list[str] | None, typer.Option(help="train, val, test (repeatable) or all; by default test where there is one.")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="File of candidate texts, one per line; by default the dataset's instructions.")
    ] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="CSV (task,variation,instruction) in place of the dataset's instructions.")
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Camera of the clips; by default front.")] = None,
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
    frames_rule: Annotated[
        Literal["middle", "strided"],
        typer.Option(help="Rule for choosing frames; strided is that of the published code."),
    ] = "middle",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass and per resumable piece.")] = 8,
    precision: Annotated[
        Literal["float32", "bf16"], typer.Option(help="bf16 = mixed precision in the model.")
    ] = "float32",
    out: Annotated[Path | None, typer.Option(help="Output folder of the tables instead of the run's results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress and no messages.")] = False,
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

    leads = _leads()

    def remark(text: str) -> None:
        if leads and not quiet:
            typer.echo(text, err=True)

    run_dir = None if run is None and out is not None else resolve_run(run)
    if run_dir is not None and leads and not quiet:
        typer.echo(f"run: {run_dir.path}", err=as_json)
    config = RecognitionConfig(
        models=model or (),
        checkpoints=checkpoint or (),
        name=name,
        step=step,
        preset=preset,
        seed=seed,
        source=source,
        partitions=partition or (),
        candidates=candidates,
        instructions=instructions,
        camera=camera,
        template=template,
        frames_rule=frames_rule,
        device=device,
        batch_size=batch_size,
        precision=precision,
        skip_broken=skip_broken,
    )
    if videos is None:
        done = run_recognize(data or None, config, run=run_dir, out=out, quiet=quiet, note=remark)
        text = format_recognition(done.rows)
    elif data:
        raise ConfigError("--data: is about episodes, --videos about natural videos; leave one out")
    else:
        done = check_forgetting(videos, config, run=run_dir, out=out, quiet=quiet, note=remark)
        text = format_forgetting(done.rows)
    tables = [done.table, done.predictions_table]
    if not leads:
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


def _leads() -> bool:
    """Whether this process prints; under torchrun only process 0 does."""
    import os

    return os.environ.get("RANK", "0") == "0"
