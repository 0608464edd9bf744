"""Running mnprobe's commands from a command: in this process, or some of them at once in processes of their own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from mnprobe.core.errors import MnprobeError
from mnprobe.core.provenance import config_hash

__all__ = ["run_here", "run_together"]

_TOLD = 30  # last lines of a command that failed


def run_here(command: Sequence[str], *, optional: bool = False) -> None:
    """Run one command in this process; ends the process as the command would, if it fails.

    Args:
        command: its name and arguments.
        optional: a refusal (bad input, too few samples) is told and passed over.
    """
    from mnprobe.cli.main import command_app

    try:
        command_app(command[0])(args=list(command[1:]), prog_name=f"mnprobe {command[0]}")
    except SystemExit as end:
        if end.code:
            raise
    except MnprobeError as error:
        if not optional:
            raise
        typer.echo(f"left out: {error}", err=True)


def run_together(commands: Sequence[Sequence[str]], *, logs: Path) -> None:
    """Run commands at once, each in a process of its own; the first one talks, the others write to `logs`.

    When one fails the others are stopped, its last lines are shown, and this process ends with its exit code. What they
    finished is kept by the commands themselves.
    """
    logs.mkdir(parents=True, exist_ok=True)
    running: list[tuple[subprocess.Popen[bytes], Path | None]] = []
    try:
        for number, command in enumerate(commands):
            path = logs / f"{command[0]}-{config_hash({'command': list(command)})}.log" if number else None
            call = [sys.executable, "-m", "mnprobe", *command]
            if path is None:
                running.append((subprocess.Popen(call), None))
            else:
                with path.open("wb") as log:
                    running.append((subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT), path))
        for process, path in running:
            code = process.wait()
            if path is not None:
                _tell(path, failed=code != 0)
            if code:
                raise SystemExit(code)
    finally:
        for process, _ in running:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _tell(path: Path, *, failed: bool) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[-_TOLD:] if failed else [line for line in lines if line and not line.startswith("run: ")]:
        typer.echo(line, err=failed)
