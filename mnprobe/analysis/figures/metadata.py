"""Metadata of a figure: title, caption and command in a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mnprobe.core.errors import ProbeError
from mnprobe.core.files import write_text

__all__ = ["FigureNote", "read_note", "write_note"]

_SCHEMA = "mnprobe.figure/1"


@dataclass(frozen=True, kw_only=True)
class FigureNote:
    """Title, caption and command of one figure; `facts` are further numbers that belong to it."""

    title: str
    caption: str
    command: str
    facts: Mapping[str, object]


def write_note(note: FigureNote, stem: Path) -> Path:
    """Write `note` to `stem`.json atomically; it has no dates, so the same note gives the same bytes."""
    path = stem.with_name(stem.name + ".json")
    write_text(path, json.dumps({"schema": _SCHEMA} | asdict(note), indent=1, ensure_ascii=False) + "\n")
    return path


def read_note(stem: Path) -> FigureNote | None:
    """The note of the figure `stem`, or None if it has none.

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
