"""Command lines for messages and pages, quoted for a shell."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mnprobe.core.names import RUN_CONFIG

__all__ = ["command_line", "command_of", "option_line", "run_above", "shell_line"]


def command_line(name: str, /, **options: object) -> str:
    """Return the command line `mnprobe name` with the options that are not None, False or an empty list.

    Option names are written with `-` for `_`; a list or tuple repeats its option for each entry. Paths are written as
    given, relative or absolute.

    >>> command_line("curve", run="runs/a b", split="all", json=False, where=["tau=0.1", "seed=1"])
    "mnprobe curve --run 'runs/a b' --split all --where tau=0.1 --where seed=1"
    """
    return shell_line([name, *_words(options)])


def option_line(**options: object) -> str:
    """Format only options, as `command_line` does, for messages about a missing option.

    >>> option_line(where="layer_e=my layer")
    "--where 'layer_e=my layer'"
    """
    return shlex.join(_words(options))


def shell_line(words: Sequence[str]) -> str:
    """`mnprobe` and these words, quoted where a shell would split or expand them.

    >>> shell_line(["demo", "--run", "runs/first (new)"])
    "mnprobe demo --run 'runs/first (new)'"
    """
    return shlex.join(["mnprobe", *words])


def command_of(path: Path, name: str, /, **options: object) -> str:
    """Command that produces `path`: with --run if it is inside a run, without it elsewhere.

    >>> command_of(Path("elsewhere/alignment.csv"), "align", split="success")
    'mnprobe align --split success'
    """
    return command_line(name, run=run_above(path), **options)


def run_above(path: Path) -> Path | None:
    """Run directory that contains `path` (the nearest parent folder with a run.toml), or None."""
    return next((folder for folder in path.parents if (folder / RUN_CONFIG).is_file()), None)


def _words(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for item in value:
                words += [flag, str(item)]
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words
