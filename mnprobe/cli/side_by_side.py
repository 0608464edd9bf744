"""Running commands from a command: in this process or in parallel processes."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from mnprobe.core.commands import shell_line
from mnprobe.core.errors import MnprobeError
from mnprobe.core.provenance import config_hash

__all__ = ["run_here", "run_together"]

_TOLD = 30  # number of last lines shown of a failed command
_REFUSED = 2  # exit code of bad input and too few samples
_GLANCE = 0.1  # seconds between two polls of the running commands


def run_here(command: Sequence[str], *, optional: bool = False) -> None:
    """Run one command in this process; if it fails, exit with its exit code.

    Args:
        command: name and arguments of the command.
        optional: report and skip exit code 2 (bad input, too few samples).
    """
    from mnprobe.cli.main import command_app

    typer.secho(f"\n$ {shell_line(command)}", bold=True)
    try:
        command_app(command[0])(args=list(command[1:]), prog_name=f"mnprobe {command[0]}")
    except SystemExit as end:
        if end.code:
            raise
    except MnprobeError as error:
        if not optional:
            raise
        typer.echo(f"left out: {error}", err=True)


def run_together(
    commands: Sequence[Sequence[str]],
    *,
    logs: Path,
    at_once: int = 2,
    optional: Callable[[Sequence[str]], bool] = lambda command: False,
) -> None:
    """Run commands in parallel processes; the first one prints, the others write to `logs`.

    When one fails the others are stopped, its last lines are shown, and this process exits with its exit code. Each
    command preserves its finished work. Exit code 2 of an optional command is reported and skipped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(enumerate(commands))
    running: list[tuple[subprocess.Popen[bytes], Path | None, Sequence[str]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, command = waiting.pop(0)
                running.append((*_start(command, logs if number else None), command))
            ended = [entry for entry in running if entry[0].poll() is not None]
            for process, path, command in ended:
                running.remove((process, path, command))
                if path is not None:
                    _tell(path, failed=process.returncode != 0)
                if process.returncode and not (process.returncode == _REFUSED and optional(command)):
                    raise SystemExit(process.returncode)
            if not ended:
                time.sleep(_GLANCE)
    finally:
        for process, *_ in running:
            process.terminate()
            process.wait()


def _start(command: Sequence[str], logs: Path | None) -> tuple[subprocess.Popen[bytes], Path | None]:
    typer.secho(f"\n$ {shell_line(command)}", bold=True)
    if sys.stdout is not None:
        sys.stdout.flush()
    call = [sys.executable, "-m", "mnprobe", *command]
    if logs is None:
        return subprocess.Popen(call), None
    path = logs / f"{command[0]}-{config_hash({'command': list(command)})}.log"
    with path.open("wb") as log:
        return subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT), path


def _tell(path: Path, *, failed: bool) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[-_TOLD:] if failed else [line for line in lines if line and not line.startswith("run: ")]:
        typer.echo(line, err=failed)
