"""Thumbnails of the plotted episodes: two frames of each, all in one image."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mnprobe.core.errors import DataError, MnprobeError
from mnprobe.core.names import BLANK, ModelName, step_name
from mnprobe.core.rundir import RunDir
from mnprobe.data import Episode, RLBenchEpisode, find_camera, open_dataset
from mnprobe.data.dataset import path_of

__all__ = ["MOST_THUMBNAILS", "Origin", "Sheet", "draw_thumbnails", "find_data"]

MOST_THUMBNAILS = 4000  # episodes; the page must stay small
_EDGES = ((400, 88), (1500, 56), (MOST_THUMBNAILS, 32))  # up to so many episodes: so many pixels
_CAMERA = "front"
_WIDE = 4096  # pixels of the sheet
_QUALITY = 62


@dataclass(frozen=True, order=True)
class Origin:
    """Source of an episode, and for a rollout the model that played it and the model's step."""

    source: str
    model: str = ""
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """All thumbnails in one WebP image (base64), row by row; `places` gives the cell of each (origin, id).

    Each cell is `width` x `height` pixels: a middle frame on the left, the last on the right.
    """

    image: str = ""
    columns: int = 1
    width: int = 0
    height: int = 0
    size: tuple[int, int] = (0, 0)
    places: Mapping[tuple[Origin, str], int] = field(default_factory=dict)


def find_data(run: RunDir, origin: Origin) -> list[Path]:
    """Folders that may still hold the episodes of `origin`: those of the run, then those that run.toml names."""
    if origin.source.startswith("rollouts"):
        training = ModelName.parse(origin.model)
        played = [origin.model] if (run.rollouts / origin.model).is_dir() else []
        if not played and run.rollouts.is_dir() and training.training:
            alike = [folder.name for folder in sorted(run.rollouts.iterdir()) if folder.is_dir()]
            played = [
                name
                for name in alike
                if (ModelName.parse(name).training, ModelName.parse(name).seed) == (training.training, training.seed)
                and not name.endswith(BLANK)
            ]
        found = [run.rollouts / name / step_name(origin.step) for name in played if name]
        return [folder for folder in found[:1] if folder.is_dir()]
    folders = [run.demos]
    for section in run.config.values():
        named_here = section.get("data") if isinstance(section, dict) else None
        if isinstance(named_here, list):
            folders += [Path(name) for name in named_here if isinstance(name, str)]
    unique = dict.fromkeys(folder for folder in folders if path_of(str(folder)).exists())
    return [folder for folder in unique if not path_of(str(folder)).resolve().is_relative_to(run.rollouts.resolve())]


def draw_thumbnails(run: RunDir, wanted: Sequence[tuple[Origin, str, str]]) -> Sheet:
    """Thumbnails of (origin, id, instruction) for those whose pictures are still there; the rest has none.

    An episode whose instruction on disk is another one is left out: the data changed since the features were made.
    """
    pictures: dict[tuple[Origin, str], Image.Image] = {}
    chosen = wanted[:MOST_THUMBNAILS]
    edge = next((size for most, size in _EDGES if len(chosen) <= most), _EDGES[-1][1])
    for origin in sorted({place for place, _, _ in chosen}):
        missing = {name: instruction for place, name, instruction in chosen if place == origin}
        for folder in find_data(run, origin):
            for name, picture in _pictures(folder, missing, edge):
                pictures[origin, name] = picture
                missing.pop(name)
    if not pictures:
        return Sheet()
    columns = max(1, min(_WIDE // (2 * edge), round((len(pictures) / 2) ** 0.5)))
    size = columns * 2 * edge, -(-len(pictures) // columns) * edge
    sheet = Image.new("RGB", size, "#888888")
    for place, picture in enumerate(pictures.values()):
        sheet.paste(picture, (place % columns * 2 * edge, place // columns * edge))
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=_QUALITY, method=4)
    return Sheet(
        image=base64.b64encode(out.getvalue()).decode("ascii"),
        columns=columns,
        width=2 * edge,
        height=edge,
        size=size,
        places={key: place for place, key in enumerate(pictures)},
    )


def _pictures(folder: Path, wanted: Mapping[str, str], edge: int) -> Iterable[tuple[str, Image.Image]]:
    """Those of the wanted episodes (id: instruction) that this folder has, in the order of the folder."""
    if not wanted:
        return []
    found = []
    tasks = {name.partition("/")[0] for name in wanted}
    try:
        dataset = open_dataset(folder)
    except (MnprobeError, OSError):
        return []  # thumbnails are optional
    for episode in dataset:
        if isinstance(episode, RLBenchEpisode) and episode.task not in tasks:
            continue
        try:
            if wanted.get(episode.id) == episode.instruction and (picture := _picture(episode, edge)) is not None:
                found.append((episode.id, picture))
        except (MnprobeError, OSError):
            continue
    return found


def _picture(episode: Episode, edge: int) -> Image.Image | None:
    """A middle frame and the last one that are on disk, side by side; None without any."""
    cameras = episode.cameras
    if not cameras:
        return None
    try:
        camera = find_camera(cameras, _CAMERA)
    except DataError:
        camera = cameras[0]
    frames = episode.frames_on_disk(camera)
    if not frames:
        return None
    both = Image.new("RGB", (2 * edge, edge))
    for place, frame in enumerate((frames[(len(frames) - 1) // 2], frames[-1])):
        pixels: Any = episode.image(camera, frame)
        both.paste(
            Image.fromarray(pixels).resize((edge, edge), Image.Resampling.BOX, reducing_gap=None), (place * edge, 0)
        )
    return both
