"""Seeds of random numbers: the range that every generator in use takes."""

from typing import Any

from mnprobe.core.errors import ConfigError

__all__ = ["check_seed"]

_LARGEST = 2**63 - 1


def check_seed(seed: Any, *, name: str = "seed") -> int:
    """Return `seed` if it is a whole number from 0 to 2^63 - 1; ConfigError otherwise.

    >>> check_seed(7)
    7
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST:
        raise ConfigError(f"{name} must be a whole number from 0 to {_LARGEST}, got {seed!r}")
    return seed
