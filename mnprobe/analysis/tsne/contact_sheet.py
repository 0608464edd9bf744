"""Contact sheets: one row per camera, one column per key pose."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from mnprobe.analysis.figures.layout import FigureLayout
from mnprobe.analysis.figures.style import CONTEXT, GRAY, house_style, save_png, shorten, wrap
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.registry import unknown_name
from mnprobe.data import Dataset, Episode, RLBenchEpisode

__all__ = ["contact_sheet", "draw_sheets"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_CELL = 1.28  # inches an image is wide and high at most: 192 dots
_GAP = 0.05
_LEFT = 0.95  # for the cameras' names
_HEAD = 0.48  # for the key poses' names, above each block of rows
_MARGIN = 0.12  # between a camera's name and its images
_LONGEST_NAME = 100
_MOST_COLUMNS = 9  # key poses side by side; more go on below
_SMALL = 8.0  # points
_LINE = 1.35 / 72  # inches per point of a line


def contact_sheet(episode: Episode) -> Figure:
    """One episode: a row per camera, a column per key pose, the start first; the instruction is the title.

    An episode whose instruction is missing is named by its task. Images that are not on disk (the last key pose of most
    cameras in trimmed data) stay empty; a column without any image is left out, and so is a camera that has none.

    Raises:
        DataError: when the episode has no color image at a key pose, or a file cannot be read.
    """
    with house_style():
        return _sheet(episode)


def draw_sheets(dataset: Dataset, folder: Path, *, episodes: Sequence[str] = ()) -> list[Path]:
    """Write contact sheets as PNG to `folder`: of the episodes named by id, else of the first episode of each task.

    The same data give the same bytes. Returns the paths: `<task>.png`, or the id with dashes for slashes.

    Raises:
        ConfigError: for an id that the dataset does not have.
        DataError: as `contact_sheet`.
    """
    by_id = {episode.id: episode for episode in dataset} if episodes else {}
    for name in episodes:
        if name not in by_id:
            known = list(by_id)
            if len(known) > 12:
                raise ConfigError(f"no episode {name!r} among {len(known)}; ids look like {known[0]!r}")
            raise unknown_name("episode", name, known)
    first: dict[str, Episode] = {}
    for episode in () if episodes else dataset:
        first.setdefault(episode.task, episode)
    named = {re.sub(r"[^\w.+-]+", "_", task)[:_LONGEST_NAME]: episode for task, episode in first.items()}
    if len(named) < len(first):  # long texts with one beginning
        named = {f"{number:03d}": episode for number, episode in enumerate(first.values())}
    chosen = {name.replace("/", "-"): by_id[name] for name in episodes} or named
    return [save_png(contact_sheet(episode), folder / f"{stem}.png") for stem, episode in chosen.items()]


def _sheet(episode: Episode) -> Figure:
    instants = _instants(episode)
    on_disk = {camera: set(episode.frames_on_disk(camera)) for camera in episode.cameras}
    shown = [index for index in range(len(instants)) if any(instants[index] in have for have in on_disk.values())]
    cameras = [camera for camera, have in on_disk.items() if have & {instants[index] for index in shown}]
    if not cameras:
        raise DataError(f"{episode.where}: no colour image at the start or at a key pose; nothing can be shown")
    columns = min(_MOST_COLUMNS, len(shown))
    columns = -(-len(shown) // -(-len(shown) // columns))  # as even as the blocks can be
    blocks = [shown[start : start + columns] for start in range(0, len(shown), columns)]

    block = _HEAD + len(cameras) * (_CELL + _GAP)
    width, height = _LEFT + columns * (_CELL + _GAP), len(blocks) * block
    title, facts = _instruction(episode), _facts(episode)
    layout = FigureLayout([width], [height], title=title, title_lines=None, subtitle=facts, limit=None)
    axes = layout.panel(0, 0, xlim=(0, width), ylim=(height, 0))  # in inches
    axes.set_axis_off()
    for number, indices in enumerate(blocks):
        top = number * block
        for column, index in enumerate(indices):
            left = _LEFT + column * (_CELL + _GAP)
            name, detail = _column(episode, index, instants[index])
            axes.text(left, top + 0.23, shorten(name, _CELL, _SMALL), fontsize=_SMALL, va="baseline")
            axes.text(
                *(left, top + 0.23 + _LINE * _SMALL, shorten(detail, _CELL, _SMALL - 1.5)),
                fontsize=_SMALL - 1.5,
                color=GRAY,
                va="baseline",
            )
            for row, camera in enumerate(cameras):
                corner = left, top + _HEAD + row * (_CELL + _GAP)
                picture = episode.image(camera, instants[index]) if instants[index] in on_disk[camera] else None
                _picture(axes, corner, picture)
        for row, camera in enumerate(cameras):
            middle = top + _HEAD + row * (_CELL + _GAP) + _CELL / 2
            name = "\n".join(wrap(camera.replace("_", " "), _LEFT - _MARGIN, _SMALL))
            axes.text(_LEFT - _MARGIN, middle, name, fontsize=_SMALL, ha="right", va="center")
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return layout.finish()


def _picture(axes: "Axes", corner: tuple[float, float], pixels: np.ndarray[Any, Any] | None) -> None:
    left, top = corner
    if pixels is None:
        axes.plot([left, left + _CELL, left + _CELL, left, left], [top, top, top + _CELL, top + _CELL, top],
                  color=CONTEXT, linewidth=0.6)  # fmt: skip
        return
    high, wide = pixels.shape[:2]
    scale = _CELL / max(high, wide)
    extent = (left, left + wide * scale, top + high * scale, top)
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="antialiased")


def _instants(episode: Episode) -> tuple[int, ...]:
    """The start and the key poses; without key poses the decisions and the last frame."""
    if isinstance(episode, RLBenchEpisode):
        return (0, *episode.keyframes)
    return tuple(dict.fromkeys((*episode.decisions, len(episode) - 1)))


def _column(episode: Episode, index: int, frame: int) -> tuple[str, str]:
    if not isinstance(episode, RLBenchEpisode):
        return f"{episode.times[frame]:.2f} s", f"frame {frame}"
    try:
        gripper = "open" if episode.gripper_states[frame] else "closed"
    except DataError:  # a measured gripper that does not move
        gripper = f"gripper at {episode.gripper_open[frame]:g}"
    return ("start" if index == 0 else f"key pose {index}"), f"frame {frame}, {gripper}"


def _instruction(episode: Episode) -> str:
    try:
        return episode.instruction
    except DataError:  # the images are shown without it
        return f"{episode.task} (its instruction is missing or damaged)"


def _facts(episode: Episode) -> str:
    outcome = {1: ", success", 0: ", failure"}.get(episode.success, "")
    if not isinstance(episode, RLBenchEpisode):
        partition = f", {episode.partition}" if episode.partition else ""
        return f"{episode.id}{partition}, {len(episode)} frames, {episode.times[-1]:.1f} s{outcome}"
    seed = _seed(episode.folder)
    partition = f"{episode.partition} " if episode.partition else ""
    return (
        f"{episode.task}, variation {episode.variation}{'' if seed is None else f', seed {seed}'}, "
        f"{partition}episode {episode.number}, {len(episode)} frames, {len(episode.keyframes)} key poses{outcome}"
    )


def _seed(folder: Path) -> int | None:
    from mnprobe.worlds.record import read_situation

    situation = read_situation(folder)
    return None if situation is None else int(situation["seed"])
