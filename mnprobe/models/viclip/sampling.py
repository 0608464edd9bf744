"""Sampling of frames from a recording."""

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Generator

from mnprobe.core.errors import ConfigError

__all__ = ["sample_frames"]


def sample_frames(
    n: int,
    length: int,
    rule: Literal["strided", "middle", "rand"] = "strided",
    *,
    generator: Generator | None = None,
) -> tuple[int, ...]:
    """Choose `n` of `length` frames, in order of time.

    "strided" (released inference code): frames 0, s, 2 s, ... with s = length // n; the tail is lost unless n divides
    length. "middle" (its evaluation loaders): the middle frame of each of n equal parts. "rand" (its training loaders):
    one random frame of each part, never the part's last; where a part holds a single frame, n different random frames.
    With fewer than n frames, "middle" takes all and repeats the last, "rand" likewise; "strided" raises.

    Args:
        n: number of frames, `ViCLIPConfig.frames`.
        length: number of available frames.
        generator: source of the numbers for "rand".
    Raises:
        ConfigError: for an unknown rule, no frames, too few frames for "strided", "rand" without a generator.

    >>> sample_frames(8, 20)
    (0, 2, 4, 6, 8, 10, 12, 14)
    >>> sample_frames(8, 20, "middle")
    (0, 3, 5, 8, 10, 13, 15, 18)
    >>> sample_frames(4, 2, "middle")
    (0, 1, 1, 1)
    """
    if n < 1 or length < 1:
        raise ConfigError(f"cannot take {n} frames of a recording of {length}; both must be at least 1")
    if rule == "strided":
        if length < n:
            raise ConfigError(
                f"rule 'strided' needs at least {n} frames, the recording has {length}. Use rule 'middle', which"
                " repeats the last frame."
            )
        return tuple(range(0, length // n * n, length // n))
    if rule not in ("middle", "rand"):
        raise ConfigError(f"unknown frame rule {rule!r}. Known: strided, middle, rand")
    if rule == "rand" and generator is None:
        raise ConfigError("rule 'rand' draws numbers: pass generator=torch.Generator().manual_seed(...)")
    if length < n:
        return tuple(min(i, length - 1) for i in range(n))
    borders = np.linspace(0, length, n + 1).astype(int).tolist()
    parts = list(pairwise(borders))
    if rule == "middle":
        return tuple((start + end - 1) // 2 for start, end in parts)
    if any(end - start < 2 for start, end in parts):
        return tuple(sorted(torch.randperm(length, generator=generator)[:n].tolist()))
    return tuple(int(torch.randint(start, end - 1, (), generator=generator)) for start, end in parts)
