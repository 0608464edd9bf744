"""Options of extractors: completing them with defaults, and reading values that came as text."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name

__all__ = ["complete_options", "config_from", "one_of", "parse_options", "positive_int"]

Config = TypeVar("Config")


def config_from(make: Callable[[Mapping[str, Any]], Config], fields: Mapping[str, Any]) -> Config:
    """A model's configuration from the fields that the user gave; ConfigError says that it is about these."""
    try:
        return make(fields)
    except ConfigError as error:
        raise ConfigError(f"--config: {error}") from error


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts to a dictionary; values that read as JSON become numbers, booleans, lists, else stay text.

    >>> parse_options(["size=8", "note=left arm"])
    {'size': 8, 'note': 'left arm'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ConfigError(f"--option must be KEY=VALUE, got {pair!r}")
        if name in found:
            raise ConfigError(f"--option {name} is given twice: {found[name]!r} and {text!r}")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found


def complete_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, replaced by what was given and is understood.

    >>> complete_options({"camera": "wrist", "decoding": "teacher"}, {"camera": "front", "size": 16})
    {'camera': 'wrist', 'size': 16}
    """
    return dict(defaults) | {name: value for name, value in given.items() if name in defaults}


def positive_int(name: str, value: Any, *, most: int) -> int:
    """`value` as a whole number from 1 to `most`; ConfigError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"option {name!r} must be a whole number from 1 to {most}, got {value!r}")
    return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`; ConfigError with the nearest choice otherwise."""
    if value not in choices:
        raise unknown_name(f"value for option {name!r}:", str(value), list(choices))
    return str(value)
