"""`mnprobe inspect`: what feature stores hold, and whether they are sound."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.cli import options as opt

__all__ = ["inspect"]


def inspect(
    files: Annotated[list[Path], typer.Argument(help="Feature stores (.h5).")],
    as_json: opt.JsonOption = False,
) -> None:
    """Validate feature stores completely and print their contents; exit code 2 if a store is damaged.

    Example: mnprobe inspect runs/first/features/viclip/demos/step_00000000.h5
    """
    from mnprobe.features.store import describe_features, format_description

    descriptions = [describe_features(path) for path in files]
    typer.echo(json.dumps(descriptions, indent=2) if as_json else "\n\n".join(map(format_description, descriptions)))
    bad = sum(not entry["sound"] for entry in descriptions)
    if bad:
        typer.echo(f"mnprobe: {bad} of {len(descriptions)} files not sound", err=True)
        raise typer.Exit(2)
