"""`mnprobe import`: features that were computed elsewhere, as a feature store."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import print_note

__all__ = ["import_"]


def import_(
    features: Annotated[
        Path, typer.Argument(help="Arrays: .npz, .npy, .pt, .safetensors, .parquet or .csv, one row an episode.")
    ],
    episodes: Annotated[
        Path,
        typer.Option(
            help="Table of the episodes: .csv, .parquet or .jsonl with id, instruction, task, success, partition, ..."
        ),
    ],
    side: Annotated[Literal["understanding", "execution"], typer.Option(help="Side of the model.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    step: Annotated[int, typer.Option(help="Training step of the model.")] = 0,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Array to import, or the name of the only one (repeatable); default all."),
    ] = None,
    source: Annotated[str, typer.Option(help="Name of the data, as in the stores of the other side.")] = "demos",
    trained: Annotated[bool, typer.Option("--trained/--untrained", help="Whether the weights are trained.")] = True,
    training: Annotated[str, typer.Option(help="Name of the training, such as joint.")] = "",
    run: opt.RunOption = None,
    out: opt.OutputOption = None,
    dtype: opt.StoredTypeOption[Literal["float32", "float16"]] = "float32",
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Leave out episodes without instruction, with a repeated id or with NaN, and list them.",
        ),
    ] = False,
    overwrite: opt.OverwriteOption = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Turn features that another program computed into a feature store: for models that live in another environment.

    Row i of the arrays is row i of the table, unless the file has ids of its own. Several arrays are several layers;
    arrays (episodes, tokens, width) keep their tokens. Further columns of the table are kept. A run that is not
    there is made.

    Example: mnprobe import features.npz --episodes episodes.csv --side execution --name openvla --run runs/libero
    """
    from mnprobe.features.importing import import_features

    done = import_features(
        features,
        episodes=episodes,
        side=side,
        name=name,
        step=step,
        layers=layers or (),
        source=source,
        trained=trained,
        training=training,
        run=run,
        out=out,
        dtype=dtype,
        skip_missing=skip_missing,
        overwrite=overwrite,
        note=print_note(quiet),
    )
    if as_json:
        typer.echo(json.dumps(done.to_dict(), indent=2))
        return
    shapes = ", ".join(f"{layer} {' x '.join(map(str, shape))}" for layer, shape in done.layers.items())
    left = f"; {len(done.skipped)} left out" if done.skipped else ""
    typer.echo(f"{done.status} {done.path}: {done.episodes} episodes, {shapes}{left}")
