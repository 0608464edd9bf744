"""The application: registers the commands and reports errors with exit code 2."""

import importlib
import io
import keyword
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mnprobe import __version__
from mnprobe.core.errors import MnprobeError

__all__ = ["COMMANDS", "app", "command_app", "main"]

COMMANDS = {
    "init": "Create a run with seeded step-0 checkpoints.",
    "demos": "Generate scripted demonstrations in an embedded world.",
    "train": "Train both models jointly, apart, or one alone.",
    "ablate": "Train pairing by temperature; the paper's Table 3.",
    "extract": "Extract frozen features u and e to HDF5.",
    "import": "Turn features made elsewhere into a store.",
    "inspect": "Describe a dataset, or validate a feature store.",
    "rollout": "Roll out a policy in a world; success per task.",
    "align": "Fit T_u and T_e; Recall@1 on held-out episodes.",
    "recognize": "Recognise actions among all instructions; per task.",
    "compare": "Similarity of layers or checkpoints, with their null.",
    "success": "Success against failure: tests, intervals, power.",
    "audit": "Leakage, controls, decomposition; conclusions in words.",
    "curve": "Draw alignment over training checkpoints.",
    "tsne": "Plot z_u and z_e by t-SNE.",
    "tables": "Print results in the format of the paper's tables.",
    "report": "Write the self-contained HTML report.",
    "demo": "Run a complete study on your data or on tabletop demos.",
    "doctor": "Check the installation and the pipeline.",
}

_INTERRUPTED = 130
_AGAIN = 0.05  # seconds
_STOPPED = "interrupted. What was finished is kept: run the same command again to go on"


def command_app(name: str) -> typer.Typer:
    """Return the application of one command, importing only the module of this command."""
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    own = f"{name}_" if keyword.iskeyword(name) else name
    single.command()(getattr(importlib.import_module(f"mnprobe.cli.{own}"), own))
    return single


def _forward(name: str) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        command_app(name)(args=ctx.args, prog_name=f"mnprobe {name}")

    return run


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mnprobe {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure how far two models represent the same action: one that watches it (u), one that performs it (e).

    \b
    A first report:        mnprobe demo
      trains two small models, measures them, writes runs/demo/report.html;
      minutes on two cores, no GPU, no download
    Your own features:     mnprobe import features.npz --episodes episodes.csv \\
                             --side execution --name mine --run runs/mine
      the features of one side; after both, mnprobe align and mnprobe report
    What is installed:     mnprobe doctor

    Example: mnprobe demo --data path/to/rlbench --run runs/first
    """


def _build() -> typer.Typer:
    root = typer.Typer(
        add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    root.callback()(_root)
    everything = {"allow_extra_args": True, "ignore_unknown_options": True}
    for name, text in COMMANDS.items():
        root.command(name, help=text, add_help_option=False, context_settings=everything)(_forward(name))
    return root


app = _build()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, with 2 for an error of mnprobe, or with 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # replace characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings(), _interruptions_arrive():
        warnings.showwarning = _remark
        _guarded(arguments)


@contextmanager
def _interruptions_arrive() -> Iterator[None]:
    """Interrupt again where Python ignores an interruption: in the callback of a weak reference, as at imports."""
    before = sys.unraisablehook

    def again(ignored: "sys.UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            before(ignored)
            return
        timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT))  # after the callback
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _guarded(arguments: list[str] | None) -> None:
    try:
        app(args=arguments, prog_name="mnprobe")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo(f"mnprobe: {_STOPPED}", err=True)
            exec("")  # noqa: S102  # else Python ends by the signal where it came inside an exec (of a dataclass)
        raise
    except MnprobeError as error:
        _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        advice = ", such as a smaller --batch-size" if _has_option(arguments, "--batch-size") else ""
        _fail(f"out of memory ({str(error) or 'no more can be had'}); ask for less{advice}")
    except OSError as error:  # a full disk or missing permission is not a bug: no traceback
        if error.errno is None:
            raise
        _fail(f"{error.strerror}: {_location(error)}")
    except UnicodeEncodeError as error:  # from a file name: text is always written as UTF-8, or with escapes
        _fail(
            f"{error.object!r} cannot be written in this system's encoding, {error.encoding}; set LC_ALL=C.UTF-8, or "
            "PYTHONUTF8=1"
        )


def _location(error: OSError) -> str:
    """Return the files that an error names; if it names none, the function of mnprobe that raised it and its path."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if names:
        return " -> ".join(names)
    location = "no file is named"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("mnprobe.") and module != __name__:
            paths = [str(value) for value in frame.f_locals.values() if isinstance(value, Path)]
            location = f"{paths[0] if paths else 'no file is named'} (in {module}.{frame.f_code.co_name})"
    return location


def _has_option(arguments: list[str] | None, option: str) -> bool:
    name = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    options = typer.main.get_command(command_app(name)).params if name in COMMANDS else []
    return any(option in parameter.opts for parameter in options)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, including torch's own errors; torch is not imported for this."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _remark(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Format a warning as one line, without its line of code."""
    typer.echo(f"mnprobe: {category.__name__}: {message}", err=True)


def _fail(message: str) -> None:
    typer.echo(f"mnprobe: {message}", err=True)
    sys.exit(2)
