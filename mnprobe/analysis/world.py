"""In which world the episodes behind a figure were played: numbers of one world say nothing about another."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mnprobe.core.errors import FeatureError
from mnprobe.features import open_features

__all__ = ["played_in", "world_note", "worlds_of"]


def worlds_of(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the worlds that a feature file's episodes say they were played in (RLBench's own demos do not say)."""
    provenance = attributes["provenance"]
    return tuple(map(str, provenance.get("worlds", ()))) if isinstance(provenance, Mapping) else ()


def played_in(paths: Iterable[Path]) -> tuple[str, ...]:
    """The same for all episodes of several feature files; one that cannot be read says nothing here."""
    found: set[str] = set()
    for path in paths:
        try:
            with open_features(path) as file:
                found |= set(worlds_of(file.attrs))
        except FeatureError:
            continue  # whoever needs its numbers reports it
    return tuple(sorted(found))


def world_note(worlds: Iterable[str]) -> str:
    """A sentence for captions, without its full stop; empty where no world is known.

    >>> world_note(["tabletop"])
    'Episodes of the world tabletop, not to be set beside numbers from any other'
    >>> world_note([])
    ''
    """
    names = " and ".join(worlds)
    return f"Episodes of the world {names}, not to be set beside numbers from any other" if names else ""
