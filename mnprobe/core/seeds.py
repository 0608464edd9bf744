"""Seeds of random numbers: the range that every generator in use takes."""

import hashlib
from typing import Any

from mnprobe.core.errors import ConfigError

__all__ = ["check_seed", "derived_seed"]

_LARGEST = 2**63 - 1


def check_seed(seed: Any, *, name: str = "seed") -> int:
    """Return `seed` if it is a whole number from 0 to 2^63 - 1; ConfigError otherwise.

    >>> check_seed(7)
    7
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST:
        raise ConfigError(f"{name} must be a whole number from 0 to {_LARGEST}, got {seed!r}")
    return seed


def derived_seed(seed: int, *path: int | str) -> int:
    """A seed for one use, from 0 to 2^63 - 1: a pure function of `seed` and the use's path, such as (update, "noise").

    Random numbers drawn from it need no memory of those drawn before, so that a stopped job can go on exactly.

    >>> derived_seed(0, 7, "noise") == derived_seed(0, 7, "noise") != derived_seed(0, 8, "noise")
    True
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
