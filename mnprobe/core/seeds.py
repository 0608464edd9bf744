"""Seeds of random number generators: valid range and derived seeds."""

import hashlib
from typing import Any

from mnprobe.core.arrays import as_whole

__all__ = ["check_seed", "derived_seed"]

_LARGEST = 2**63 - 1


def check_seed(seed: Any, *, name: str = "seed") -> int:
    """`seed` as a Python integer, if it is an integer of any type from 0 to 2^63 - 1; ConfigError otherwise.

    >>> check_seed(7)
    7
    """
    return as_whole(seed, name, least=0, most=_LARGEST)


def derived_seed(seed: int, *path: int | str) -> int:
    """Derive a seed for one use, from 0 to 2^63 - 1: a pure function of `seed` and a path, such as (update, "noise").

    Random numbers then do not depend on those drawn before, so that a stopped job resumes exactly.

    >>> derived_seed(0, 7, "noise") == derived_seed(0, 7, "noise") != derived_seed(0, 8, "noise")
    True
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
