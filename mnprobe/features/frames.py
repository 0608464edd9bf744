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
    """`frames` (T, H, W, 3) uint8 RGB; `repeated` tells that one image stands for several of the T instants."""

    frames: np.ndarray[Any, Any]
    repeated: bool


def choose_frames(available: tuple[int, ...], length: int, count: int, rule: FramesRule = "middle") -> tuple[int, ...]:
    """Choose `count` frame numbers of an episode of `length` frames, of which those in `available` have an image.

    "middle" splits the episode into equal parts and takes the middle of each; "strided" takes every (N // count)-th
    from the first, as the published inference helper does, and so loses the tail whenever N is not a multiple of
    `count`. An episode shorter than `count`: all of its frames, and the last one again. Where images are sparse
    (trimmed sets, recorded episodes), the nearest one in time stands for each instant, the earlier of two as near:
    a clip keeps the episode's pace however its images are spread.

    >>> everything = tuple(range(16))
    >>> choose_frames(everything, 16, 4), choose_frames(everything[:15], 15, 8, "strided")
    ((1, 5, 9, 13), (0, 1, 2, 3, 4, 5, 6, 7))
    >>> choose_frames((0, 9), 10, 4), choose_frames((0, 1), 2, 4)
    ((0, 0, 9, 9), (0, 1, 1, 1))
    """
    if length < count:
        wanted = [*range(length), *[length - 1] * (count - length)]
    else:
        wanted = [int(index) for index in sample_frames(count, length, rule)]
    return tuple(min(available, key=lambda index: (abs(index - instant), index)) for instant in wanted)


def read_clip(episode: Episode, camera: str, count: int, rule: FramesRule) -> Clip:
    """Read `count` frames of one camera; only frames whose images are on disk are used (trimmed sets have few).

    Raises DataError when the episode has no image of this camera, or one beyond its last frame.
    """
    available = episode.frames_on_disk(camera)
    if not available:
        raise DataError(f"{episode.folder}: no colour images of camera {camera!r}; choose another with --camera")
    if available[-1] >= len(episode):
        raise DataError(
            f"{episode.folder}: camera {camera!r} has an image of frame {available[-1]}, but low_dim_obs.pkl has "
            f"{len(episode)} frames, 0 to {len(episode) - 1}. Images are numbered from 0; rename them, or remove what "
            "belongs to no frame"
        )
    chosen = choose_frames(available, len(episode), count, rule)
    once = {index: episode.frame(index).rgb[camera] for index in dict.fromkeys(chosen)}
    return Clip(frames=np.stack([once[index] for index in chosen]), repeated=len(once) < count)
