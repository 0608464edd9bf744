"""`mnprobe inspect`: contents of datasets and feature stores."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mnprobe.cli import options as opt

__all__ = ["inspect"]


def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(help="Datasets (folder, file or KIND:PATH), feature stores (.h5), or runs with such."),
    ],
    instructions: opt.InstructionsOption = None,
    outcomes: opt.OutcomesOption = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV file to write: id, instruction, task, ... of every episode of a dataset.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Describe datasets, with what they allow to measure and the next command; validate feature stores completely.

    Exit code 2 if a dataset cannot be opened or a store is damaged.

    Example: mnprobe inspect path/to/dataset

    Example: mnprobe inspect runs/first/features/viclip/demos/step_00000000.h5
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.data.dataset import is_dataset

    files = [store for path in files for store in _stores_of(path)]
    datasets = [is_dataset(path) for path in files]
    if table is not None and datasets != [True]:
        raise ConfigError("--table writes the episodes of one dataset: name this one only")
    descriptions: list[dict[str, Any]] = []
    texts = []
    for path, is_one in zip(files, datasets, strict=True):
        facts, text = _dataset(path, instructions, outcomes, table) if is_one else _store(path)
        descriptions.append(facts)
        texts.append(text)
    typer.echo(json.dumps(descriptions, indent=2) if as_json else "\n\n".join(texts))
    bad = sum(not entry["sound"] for entry in descriptions)
    if bad:
        typer.echo(
            f"mnprobe: {bad} of {len(descriptions)} {'datasets' if all(datasets) else 'files'} not sound", err=True
        )
        raise typer.Exit(2)
    if table is not None and not as_json:
        typer.echo(f"wrote {table}")


def _stores_of(path: Path) -> list[Path]:
    """The stores of a run, or the path itself."""
    from mnprobe.core.rundir import RunDir

    run = RunDir(path)
    stores = [piece.path for piece in run.feature_files()] if run.config_path.is_file() else []
    return stores or [path]


def _store(path: Path) -> tuple[dict[str, Any], str]:
    from mnprobe.features.store import describe_features, format_description

    facts = describe_features(path)
    return facts, format_description(facts)


def _dataset(
    path: Path, instructions: Path | None, outcomes: str | None, table: Path | None
) -> tuple[dict[str, Any], str]:
    """Facts and text about a dataset; broken episodes are listed, and only a dataset without any other is not sound."""
    from mnprobe.core.errors import DataError
    from mnprobe.data import open_dataset, write_episode_table
    from mnprobe.probe.feasibility import format_inspection, inspect_dataset

    try:
        dataset = open_dataset(str(path), instructions=instructions, outcomes=outcomes, skip_broken=True)
        facts = inspect_dataset(dataset)
    except DataError as error:
        return {"path": str(path), "sound": False, "problem": str(error)}, f"{path}: NOT SOUND\n  {error}"
    if table is not None:
        write_episode_table(dataset, table)
    return {"path": str(path), "sound": True, "problem": None} | facts, format_inspection(facts)
