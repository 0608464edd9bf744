"""Registry: names of objects that are imported on first use, open to plugins."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from mnprobe.core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Registry", "import_object", "merge_settings", "unknown_name"]

Config = TypeVar("Config", bound="DataclassInstance")

_SHOWN = 60  # names listed before "and N more"


def unknown_name(kind: str, name: str, known: list[str]) -> ConfigError:
    """Build the error for an unknown name: nearest known name first, then all of them.

    >>> print(unknown_name("extractor", "viclp", ["arp", "viclip"]))
    unknown extractor 'viclp'. Did you mean 'viclip'? Known: arp, viclip
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ConfigError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(sorted(known)[:_SHOWN])}{more}")


def merge_settings(kind: type[Config], config: Config | None, settings: Mapping[str, Any]) -> Config:
    """Return `config`, or the default one if it is None, with single fields replaced by `settings`.

    Raises ConfigError for a configuration of another class, and for an unknown field, with the nearest one.
    """
    if config is not None and not isinstance(config, kind):
        raise ConfigError(
            f"config must be of {kind.__name__}, got {type(config).__name__}; give single settings by their own names"
        )
    known = [entry.name for entry in fields(kind)]
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {kind.__name__}:", name, known)
    return kind(**settings) if config is None else replace(config, **settings)


def import_object(target: str, *, kind: str = "object") -> Any:
    """Import what `package.module:name` names.

    Raises ConfigError when the form is wrong, the module cannot be found, or it has no such name.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{kind} must be written as 'package.module:name', got {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{kind} {target!r}: cannot import {module_name!r} ({error}). Is it installed, or its folder on PYTHONPATH?"
        ) from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"name in module {module_name!r}:", attribute, names)
    return getattr(module, attribute)


class Registry:
    """Registry that maps names to `module:object`, imported on first use; the entry-point `group` adds names.

    >>> shapes = Registry("shape", "mnprobe.shapes")
    >>> shapes.add("path", "pathlib:Path")
    >>> shapes.names()
    ['path']
    >>> shapes.load("path").__name__
    'Path'
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._targets: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Register `target` (`module:object`) under `name`."""
        self._targets[name] = target

    def names(self) -> list[str]:
        """All known names, sorted: built in and from installed plugins."""
        return sorted(self._all())

    def load(self, name: str) -> Any:
        """Import and return the object called `name`; ConfigError with the nearest name when there is none."""
        targets = self._all()
        if name not in targets:
            raise unknown_name(self.kind, name, list(targets))
        return import_object(targets[name], kind=self.kind)

    def _all(self) -> dict[str, str]:
        plugins = {point.name: point.value for point in entry_points(group=self.group)}
        return plugins | self._targets  # a plugin cannot replace a built-in name
