"""Messages of a command on the terminal; under torchrun process 0 alone prints."""

import os
from collections.abc import Callable

import typer

from mnprobe.core.rundir import RunDir

__all__ = ["leads", "print_note", "print_run"]


def leads() -> bool:
    """Whether this process prints."""
    return os.environ.get("RANK", "0") == "0"


def print_note(quiet: bool) -> Callable[[str], None]:
    """Return a function that prints one message for the user to standard error, unless `quiet`."""

    def note(text: str) -> None:
        if leads() and not quiet:
            typer.echo(text, err=True)

    return note


def print_run(run: RunDir | None, *, quiet: bool = False, as_json: bool = False) -> None:
    """Print the run directory first, so that one sees which was taken by default; beside JSON to standard error."""
    if run is not None and leads() and not quiet:
        typer.echo(f"run: {run.path}", err=as_json)
