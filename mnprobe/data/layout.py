"""Where episodes lie in a folder tree: PerAct's layout, RLBench's own, and any folder above or inside them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mnprobe.core.errors import DataError
from mnprobe.core.labels import PARTITIONS, partition_of

__all__ = ["PARTITIONS", "EpisodeFolder", "find_episodes", "require_inside"]

_EPISODE = re.compile(r"episode(0|[1-9][0-9]*)")
_VARIATION = re.compile(r"all_variations|variation(0|[1-9][0-9]*)")
_DEEPEST = 8  # folders below the given path
_MOST_FOLDERS = 20_000

_EXPECTED = (
    "Expected <task>/all_variations/episodes/episode<N> (PerAct) or <task>/variation<K>/episodes/episode<N> (RLBench) "
    f"at most {_DEEPEST} folders below it"
)


@dataclass(frozen=True, kw_only=True)
class EpisodeFolder:
    """One episode as its path tells it; nothing in it has been read.

    `variation` is the K of `variation<K>`, None under `all_variations`. `partition` is train, val or test where the
    folder above the task is called so or by another name for it (see `mnprobe.core.labels.partition_of`), else "".
    `root` is the dataset folder that links must not leave.
    """

    folder: Path
    root: Path
    task: str
    partition: str
    variation: int | None
    number: int


def find_episodes(path: Path) -> list[EpisodeFolder]:
    """All episodes at or below a folder, in no particular order.

    `path` may be any folder from far above the tasks down to `episodes` itself. Hidden folders are passed over, and
    so is what lies beside or in an episode.

    Raises:
        DataError: if the path is missing, is no folder, is empty or holds no episode, is far too large to be a
            dataset, or a link in a dataset leaves the folder.
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
        begin = _search(start, root)
    found = [episode for folder in begin for episode in _episodes(folder, root, start)]
    if not found:
        if not any(start.iterdir()):
            raise DataError(f"dataset {path} is an empty folder. {_EXPECTED}.")
        if begin:
            raise DataError(f"dataset {path}: {begin[0]} has no folder episode<N> in it")
        raise DataError(f"dataset {path} is no dataset: no episode was found. {_EXPECTED}.")
    return found


def require_inside(path: Path, root: Path) -> None:
    """DataError when `path` is a link to somewhere outside the dataset folder `root`."""
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataError(
            f"{path} is a link that leaves the dataset folder {root}; it was not followed. "
            "Give the folder that it leads to as a dataset path of its own, or copy the files."
        )


def _search(start: Path, root: Path) -> list[Path]:
    """`episodes` folders below `start`, breadth first and bounded."""
    found: list[Path] = []
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
                    found.append(episodes)
                continue
            variations = [child for child in children if _VARIATION.fullmatch(child.name)]
            for child in variations or children:
                if not child.is_symlink() or _worth_following(child, root, variations=bool(variations)):
                    below.append(child)
        level = below
    return found


def _worth_following(link: Path, root: Path, *, variations: bool) -> bool:
    """Whether a linked folder is searched: not when it leads back up, or out to something that is no task."""
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
        return []  # not ours to read; a dataset that cannot be listed is reported as not found
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from error
    return [folder / name for name in names]


def _partition(level: Path, start: Path) -> str:
    """The partition that the folder above the tasks stands for, "" where it is an ordinary folder.

    Another name for a partition counts only inside the given path or beside a partition: a dataset without partitions
    may lie in a folder "training".
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
    found = []
    for child in _folders(folder):
        if number := _EPISODE.fullmatch(child.name):
            require_inside(child, root)
            found.append(
                EpisodeFolder(
                    folder=child,
                    root=root,
                    task=task_folder.name,
                    partition=partition,
                    variation=None if match[1] is None else int(match[1]),
                    number=int(number[1]),
                )
            )
    return found
