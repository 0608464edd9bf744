"""`mnprobe recognize`: action recognition, and forgetting of natural videos."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

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
        bool, typer.Option("--skip-broken", help="With --videos: skip and count unreadable files.")
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

    leads = _leads()

    def remark(text: str) -> None:
        if leads and not quiet:
            typer.echo(text, err=True)

    run_dir = None if run is None and out is not None else resolve_run(run)
    if run_dir is not None and leads and not quiet:
        typer.echo(f"run: {run_dir.path}", err=as_json)
    shared: dict[str, Any] = {
        "run": run_dir,
        "out": out,
        "models": model or (),
        "checkpoints": checkpoint or (),
        "name": name,
        "step": step,
        "preset": preset,
        "seed": seed,
        "frames_rule": frames_rule,
        "device": device,
        "batch_size": batch_size,
        "precision": precision,
        "quiet": quiet,
        "note": remark,
    }
    document: dict[str, Any]
    if videos is None:
        for option, given in (("--template", template is not None), ("--skip-broken", skip_broken)):
            if given:
                raise ConfigError(f"{option}: belongs to the forgetting check; say which videos with --videos FOLDER")
        from mnprobe.features.recognition.evaluate import recognize as run_recognize
        from mnprobe.features.recognition.tables import format_recognition

        result = run_recognize(
            data or None,
            source=source,
            partitions=partition or (),
            candidates=candidates,
            instructions=instructions,
            camera=camera or "front",
            **shared,
        )
        text, tables = format_recognition(result.rows), [result.table, result.predictions_table]
        rows, document = result.rows, {}
    else:
        episodes = {
            "--data": data,
            "--source": source,
            "--partition": partition,
            "--candidates": candidates,
            "--instructions": instructions,
            "--camera": camera,
        }
        for option, value in episodes.items():
            if value:
                raise ConfigError(f"{option}: is about episodes, --videos about natural videos; leave one out")
        from mnprobe.features.recognition.evaluate import TEMPLATE, check_forgetting
        from mnprobe.features.recognition.tables import format_forgetting

        requested = TEMPLATE if template is None else template
        kept = check_forgetting(videos, template=requested, skip_broken=skip_broken, **shared)
        text, tables = format_forgetting(kept.rows), [kept.table, kept.predictions_table]
        rows, document = kept.rows, {"broken": list(kept.broken)}
    if not leads:
        return
    if as_json:
        written = {"tables": [str(table) for table in tables], "rows": json.loads(rows.to_json(orient="records"))}
        typer.echo(json.dumps(written | document, indent=2))
        return
    typer.echo(text)
    typer.echo(f"wrote {' and '.join(map(str, tables))}")


def _leads() -> bool:
    """Whether this process prints; under torchrun only process 0 does."""
    import os

    return os.environ.get("RANK", "0") == "0"
