"""Options of an index as its frozen dataclass keeps them: Python's own numbers, checked once."""

from typing import Any

import numpy as np

from mnprobe.core.arrays import as_positive, as_whole
from mnprobe.core.errors import ConfigError
from mnprobe.core.seeds import check_seed

__all__ = ["set_flag", "set_number", "set_seed", "set_whole"]


def set_whole(index: Any, name: str, least: int, *, what: str = "at least") -> None:
    """Keep an option as a Python integer; ConfigError for anything that is no whole number of at least `least`."""
    given = getattr(index, name)
    number = as_whole(given, name)
    if number < least:
        raise ConfigError(f"{name} must be {what} {least}, got {given!r}")
    object.__setattr__(index, name, number)


def set_number(index: Any, name: str, rule: str, *, most: float = np.inf) -> None:
    """Keep an option as a Python float above 0 and at most `most`; ConfigError that gives `rule` otherwise."""
    given = getattr(index, name)
    try:
        number = as_positive(given, name)
    except ConfigError:
        number = np.inf
    if not number < np.inf or number > most:
        raise ConfigError(f"{name} must be {rule}, got {given!r}")
    object.__setattr__(index, name, number)


def set_flag(index: Any, name: str) -> None:
    """Keep an option as True or False; ConfigError for anything else."""
    given = getattr(index, name)
    if not isinstance(given, bool | np.bool_):
        raise ConfigError(f"{name} must be True or False, got {given!r}")
    object.__setattr__(index, name, bool(given))


def set_seed(index: Any) -> None:
    """Keep the option `seed` as a Python integer; ConfigError where it cannot be one."""
    object.__setattr__(index, "seed", check_seed(as_whole(index.seed, "seed", least=0)))
