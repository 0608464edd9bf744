"""A short moving picture of a recorded episode."""

from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageOps

from mnprobe.core.errors import ConfigError
from mnprobe.core.files import whole_file
from mnprobe.data import Episode

__all__ = ["write_film"]

_FRAME_MS = 50
_LAST_MS = 1000
_BORDER = 4
_COLOURS = {1: "green", 0: "firebrick", -1: "gray"}


def write_film(episode: Episode, path: Path, *, camera: str = "front", scale: int = 2) -> Path:
    """Write a GIF of one camera of `episode` in real time, with a green border after a success, a red one otherwise.

    Raises ConfigError when the episode has no colour images of `camera`.
    """
    instants = episode.frames_on_disk(camera)
    if not instants:
        raise ConfigError(f"{episode.folder}: no colour images of camera {camera!r} to make a film of")
    pictures = [
        ImageOps.expand(
            ImageOps.scale(Image.fromarray(episode.image(camera, index)), scale),
            border=_BORDER,
            fill=_COLOURS[episode.success],
        )
        for index in instants
    ]
    shown = [_FRAME_MS * (later - index) for index, later in pairwise(instants)]
    with whole_file(path) as part:
        pictures[0].save(
            part, format="GIF", save_all=True, append_images=pictures[1:], duration=[*shown, _LAST_MS], loop=0
        )
    return path
