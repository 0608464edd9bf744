"""What goes beside a figure: its title, its caption and the command that made it, in a small JSON file."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnprobe.core.errors import ProbeError
from mnprobe.core.files import write_text

__all__ = ["FigureNote", "command_line", "read_note", "write_note"]

_SCHEMA = "mnprobe.figure/1"


@dataclass(frozen=True, kw_only=True)
class FigureNote:
    """Title, caption and command of one figure; `facts` are further numbers that belong to it."""

    title: str
    caption: str
    command: str
    facts: Mapping[str, object]


def write_note(note: FigureNote, stem: Path) -> Path:
    """Write `note` to `stem`.json, whole or not at all; no dates, so the same note gives the same bytes."""
    path = stem.with_name(stem.name + ".json")
    write_text(path, json.dumps({"schema": _SCHEMA} | asdict(note), indent=1, ensure_ascii=False) + "\n")
    return path


def read_note(stem: Path) -> FigureNote | None:
    """The note beside the figure `stem`, or None where there is none.

    Raises ProbeError when the file is there but is not a note.
    """
    path = stem.with_name(stem.name + ".json")
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path} is not a figure's note ({error}). Draw the figure again") from error
    if not isinstance(found, dict) or found.get("schema") != _SCHEMA:
        raise ProbeError(f"{path} is not a figure's note (schema {_SCHEMA!r} expected). Draw the figure again")
    facts = found.get("facts")
    return FigureNote(
        title=str(found.get("title", "")),
        caption=str(found.get("caption", "")),
        command=str(found.get("command", "")),
        facts=facts if isinstance(facts, dict) else {},
    )


def command_line(name: str, options: Mapping[str, object]) -> str:
    """The command to paste: `mnprobe name` with the options that are not None, False or empty.

    >>> command_line("curve", {"run": "runs/a b", "split": "all", "json": False, "where": ["tau=0.1", "seed=1"]})
    "mnprobe curve --run 'runs/a b' --split all --where tau=0.1 --where seed=1"
    """
    words = ["mnprobe", name]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for item in value:
                words += [flag, str(item)]
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return shlex.join(words)
