"""Which frames of an episode a watching model sees, and reading them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mnprobe.core.errors import DataError
from mnprobe.data import Episode
from mnprobe.models.viclip import sample_frames

__all__ = ["Clip", "FramesRule", "choose_frames", "read_clip"]

FramesRule = Literal["middle", "strided"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """`frames` (T, H, W, 3) uint8 RGB; `repeated` tells that the episode had fewer frames than T."""

    frames: np.ndarray[Any, Any]
    repeated: bool


def choose_frames(available: tuple[int, ...], count: int, rule: FramesRule = "middle") -> tuple[int, ...]:
    """Choose `count` of the available frame numbers.

    "middle" splits the episode into equal parts and takes the middle of each; "strided" takes every (N // count)-th
    from the first, as the published inference helper does, and so loses the tail whenever N is not a multiple of
    `count`. Fewer frames than `count`: all of them, and the last one again.

    >>> choose_frames(tuple(range(16)), 4), choose_frames(tuple(range(15)), 8, "strided"), choose_frames((0, 9), 4)
    ((1, 5, 9, 13), (0, 1, 2, 3, 4, 5, 6, 7), (0, 9, 9, 9))
    """
    if len(available) < count:
        return available + available[-1:] * (count - len(available))
    return tuple(available[i] for i in sample_frames(count, len(available), rule))


def read_clip(episode: Episode, camera: str, count: int, rule: FramesRule) -> Clip:
    """Read `count` frames of one camera; only frames whose images are on disk are used (trimmed sets have few).

    Raises DataError when the episode has no image of this camera.
    """
    available = episode.frames_on_disk(camera)
    if not available:
        raise DataError(f"{episode.folder}: no colour images of camera {camera!r}; choose another with --camera")
    chosen = choose_frames(available, count, rule)
    once = {index: episode.frame(index).rgb[camera] for index in dict.fromkeys(chosen)}
    return Clip(frames=np.stack([once[index] for index in chosen]), repeated=len(available) < count)
