"""Folder layouts of datasets: PerAct's, RLBench's own, and any folder inside."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnprobe.core.errors import DataError
from mnprobe.core.labels import PARTITIONS, partition_of

__all__ = ["PARTITIONS", "EpisodeFolder", "find_episodes", "require_inside"]

_EPISODE = re.compile(r"episode([0-9]{1,9})")
_VARIATION = re.compile(r"all_variations|variation([0-9]{1,9})")
# Names that look like an episode or a variation but are invalid.
_LIKE_EPISODE = re.compile(r"(ep|epi|episodes?|demos?|trials?|rollouts?)?[ _.-]*[0-9]+", re.IGNORECASE)
_LIKE_VARIATION = re.compile(r"(var|variations?)[ _.-]*[0-9]+|all[ _.-]?variations?", re.IGNORECASE)
_UNFINISHED = (".tmp", ".part", ".partial", ".bak", "~")
_OTHER_FORMATS = (".dat", ".hdf5", ".h5", ".parquet", ".zarr", ".tfrecord", ".npz", ".zip", ".tar", ".gz")
_LOW_DIM = "low_dim_obs.pkl"
_DEEPEST = 8  # folders below the given path
_MOST_FOLDERS = 20_000

_EXPECTED = (
    "Expected <task>/all_variations/episodes/episode<N> (PerAct) or <task>/variation<K>/episodes/episode<N> (RLBench) "
    f"at most {_DEEPEST} folders below it"
)


_ALSO = (
    "Other formats are recognized by meta/info.json (LeRobot), by .hdf5 files with data/demo_<N> (robomimic, MimicGen, "
    "LIBERO), and by episodes.csv beside videos"
)


@dataclass(frozen=True, kw_only=True)
class EpisodeFolder:
    """One episode as described by its path; its content has not been read.

    `variation` is the K of `variation<K>`, None under `all_variations`. `partition` is train, val or test if the folder
    above the task has this name or another name for it (see `mnprobe.core.labels.partition_of`), else "". `root` is the
    dataset folder; links must not point outside.
    """

    folder: Path
    root: Path
    task: str
    partition: str
    variation: int | None
    number: int


def find_episodes(path: Path, note: Callable[[str], None] | None = None) -> list[EpisodeFolder]:
    """Find all episodes at or below a folder, in no particular order; `note` gets messages about empty variations.

    `path` may be any folder from far above the tasks down to `episodes` itself. Numbers may have leading zeros:
    episode007 is episode 7. Hidden folders are ignored, as well as files next to or in an episode.

    Raises:
        DataError: if the path is missing, not a folder, empty or without episodes, or far too large for a dataset, if a
            link in a dataset points outside, or if a folder looks like an episode or a variation but has an invalid
            name: none is ignored.
    """
    if not path.exists():
        raise DataError(f"dataset {path} does not exist")
    if not path.is_dir():
        raise DataError(f"dataset {path} is a file; give the folder of the dataset")
    start = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and lose the names above
    root = start.resolve()
    if start.name == "episodes":
        begin = [start]
    elif _EPISODE.fullmatch(start.name) and start.parent.name == "episodes":
        raise DataError(f"dataset {path} is one episode; give the folder {start.parent} or one above it")
    else:
        begin = _search(start, root, note)
    found = []
    for folder in begin:
        episodes = _episodes(folder, root, start)
        if not episodes and note is not None:
            note(f"{folder}: no folder episode<N> in it, so there is nothing of this variation in the dataset")
        found += episodes
    if not found:
        if not any(start.iterdir()):
            raise DataError(f"dataset {path} is an empty folder. {_EXPECTED}. {_ALSO}.")
        if begin:
            raise DataError(f"dataset {path}: {begin[0]} has no folder episode<N> in it")
        raise DataError(
            f"dataset {path} is no dataset: no episode was found. {_EXPECTED}. {_ALSO}.{_other_data(start)}"
        )
    return found


def _other_data(start: Path) -> str:
    """Hint about files of other formats in or shortly below a folder; '' if there are none."""
    for pattern in ("*", "*/*", "*/*/*"):
        for path in start.glob(pattern):
            if path.suffix.lower() in _OTHER_FORMATS and path.is_file():
                return (
                    f" There is {path.relative_to(start)}, data of another format: compute the features yourself and "
                    "write them with mnprobe.features.write_features (docs/data.md)."
                )
    return ""


def require_inside(path: Path, root: Path) -> None:
    """DataError when `path` is a link to somewhere outside the dataset folder `root`."""
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataError(
            f"{path} is a link that leaves the dataset folder {root}; it was not followed. "
            "Give the folder that it leads to as a dataset path of its own, or copy the files."
        )


def _search(start: Path, root: Path, note: Callable[[str], None] | None) -> list[Path]:
    """`episodes` folders below `start`, breadth first and bounded."""
    folders: list[Path] = []
    level = [start]
    visited = 0
    for _ in range(_DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            visited += 1
            if visited > _MOST_FOLDERS:
                raise DataError(
                    f"dataset {start}: over {_MOST_FOLDERS} folders were searched; give a folder nearer to the tasks"
                )
            children = _folders(folder)
            if _VARIATION.fullmatch(folder.name):
                if (episodes := folder / "episodes") in children:
                    require_inside(episodes, root)
                    folders.append(episodes)
                else:
                    _check_no_episodes_outside(folder, children)
                    if note is not None:
                        note(
                            f"{folder}: no folder episodes in it, so there is nothing of this variation in the dataset"
                        )
                continue
            if folder.name == "episodes":
                _check_no_episodes_outside(folder, children)
            for child in children:
                _check_variation_name(child)
                if _EPISODE.fullmatch(child.name) and folder.name != "episodes" and _holds_episode(child):
                    raise DataError(f"{child}: is an episode, but its parent is {folder.name!r}. {_EXPECTED}.")
            variations = [child for child in children if _VARIATION.fullmatch(child.name)]
            for child in variations or children:
                if not child.is_symlink() or _worth_following(child, root, variations=bool(variations)):
                    below.append(child)
        level = below
    return folders


def _holds_episode(folder: Path) -> bool:
    return not folder.name.endswith(_UNFINISHED) and (folder / _LOW_DIM).is_file()


def _check_episode_name(folder: Path) -> None:
    """Raise DataError for a folder in `episodes` that looks like an episode but has an invalid name."""
    name = folder.name
    if _EPISODE.fullmatch(name) or name.endswith(_UNFINISHED):
        return
    if _LIKE_EPISODE.fullmatch(name) or _holds_episode(folder):
        number = re.search("[0-9]+", name)
        raise DataError(
            f"{folder}: an episode's folder is named episode<N>, such as episode{int(number[0]) if number else 0} or "
            f"episode{int(number[0]) if number else 0:03d}, not {name!r}. Rename it, or move it out of {folder.parent}"
        )


def _check_variation_name(folder: Path) -> None:
    """Raise DataError for a folder that looks like a variation with episodes but has an invalid name."""
    name = folder.name
    if not _VARIATION.fullmatch(name) and _LIKE_VARIATION.fullmatch(name) and (folder / "episodes").is_dir():
        number = re.search("[0-9]+", name)
        wanted = f"variation{int(number[0])}" if number else "all_variations"
        raise DataError(
            f"{folder}: a variation's folder is named variation<K> or all_variations, not {name!r}. Rename it to "
            f"{wanted}, or move it out of {folder.parent}"
        )


def _check_no_episodes_outside(folder: Path, children: list[Path]) -> None:
    """Raise DataError for episodes in unexpected places: directly in a variation, or below another folder."""
    held = next((child for child in children if _holds_episode(child)), None)
    if held is None:
        return
    if folder.name == "episodes":
        raise DataError(f"{folder}: its parent is {folder.parent.name!r}. {_EXPECTED}.")
    raise DataError(f"{held}: lies right in {folder.name}, without a folder episodes between them. {_EXPECTED}.")


def _worth_following(link: Path, root: Path, *, variations: bool) -> bool:
    """Whether a linked folder is searched: not if it points to a parent, or outside to a folder that is not a task."""
    target = link.resolve()
    if target.is_relative_to(root):
        return not link.parent.resolve().is_relative_to(target)
    if variations or any(_VARIATION.fullmatch(part.name) for part in _folders(link)):
        require_inside(link, root)
    return False


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except PermissionError:
        return []  # no permission; an unreadable dataset is reported as not found
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from error
    return [folder / name for name in names]


def _partition(level: Path, start: Path) -> str:
    """Partition of the folder above the tasks, "" for an ordinary folder.

    Another name for a partition counts only inside the given path or next to a partition: a dataset without partitions
    may be in a folder "training".
    """
    meant = partition_of(level.name) or ""
    if level.name in PARTITIONS or not meant or (level != start and level.is_relative_to(start)):
        return meant
    beside = [folder for folder in _folders(level.parent) if folder != level and partition_of(folder.name)]
    return meant if beside else ""


def _episodes(folder: Path, root: Path, start: Path) -> list[EpisodeFolder]:
    """The episodes of one `episodes` folder, named by the folders above it."""
    variation_folder, task_folder = folder.parent, folder.parent.parent
    match = _VARIATION.fullmatch(variation_folder.name)
    if not match or not task_folder.name:
        raise DataError(f"{folder}: its parent is {variation_folder.name!r}. {_EXPECTED}.")
    partition = _partition(task_folder.parent, start)
    episodes = []
    for child in _folders(folder):
        _check_episode_name(child)
        if number := _EPISODE.fullmatch(child.name):
            require_inside(child, root)
            episodes.append(
                EpisodeFolder(
                    folder=child,
                    root=root,
                    task=task_folder.name,
                    partition=partition,
                    variation=None if match[1] is None else int(match[1]),
                    number=int(number[1]),
                )
            )
    return episodes
