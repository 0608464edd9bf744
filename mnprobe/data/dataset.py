"""Opening datasets: folders full of episodes as one sequence."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, overload

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import sha256_file
from mnprobe.core.labels import asked_partition, same_text, some
from mnprobe.core.registry import unknown_name
from mnprobe.data.episode import LOW_DIM_FILE, Episode
from mnprobe.data.images import KINDS
from mnprobe.data.instructions import Overrides, read_overrides
from mnprobe.data.layout import PARTITIONS, EpisodeFolder, find_episodes
from mnprobe.data.outcomes import OUTCOMES_FILE, read_outcomes

__all__ = ["Dataset", "open_dataset"]

_KEYFRAMES_FILE = "kfs.json"


class Dataset(Sequence[Episode]):
    """Episodes in natural order: by task, partition (train, val, test), then by number, 2 before 10.

    `notes` are messages for the user about the folders, such as empty ones.
    """

    def __init__(self, episodes: Iterable[Episode], paths: Iterable[Path], notes: Iterable[str] = ()) -> None:
        self._episodes = tuple(episodes)
        self.paths: tuple[Path, ...] = tuple(paths)
        self.notes: tuple[str, ...] = tuple(notes)

    def __len__(self) -> int:
        return len(self._episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Episode | Dataset":
        if isinstance(index, slice):
            return Dataset(self._episodes[index], self.paths, self.notes)
        return self._episodes[index]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} episodes of {len(self.tasks)} tasks in {', '.join(map(str, self.paths))})"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Sorted names of the tasks with episodes."""
        return tuple(sorted({episode.task for episode in self._episodes}))

    @property
    def partitions(self) -> tuple[str, ...]:
        """Partitions with episodes: train, val, test, in this order, then "" for none."""
        present = {episode.partition for episode in self._episodes}
        return tuple(name for name in (*PARTITIONS, "") if name in present)

    def instruction_notes(self) -> tuple[str, ...]:
        """Messages about variations whose episodes list their instructions in different orders (the order of the first
        is used for all), or have different instructions. Reads the instructions of all episodes.
        """
        words: dict[tuple[str, int], dict[str, str]] = {}
        orders: dict[tuple[str, int], str] = {}
        for episode in self._episodes:
            with suppress(DataError):  # raised later, when the instruction is needed
                key, used = (episode.task, episode.variation), episode.instruction
                words.setdefault(key, {}).setdefault(same_text(used), used)
                if used in episode.listed and used != episode.listed[0]:
                    orders[key] = used
        notes = []
        if orders:
            (task, variation), used = next(iter(orders.items()))
            notes.append(
                f"{len(orders)} variations list their instructions in several orders, the first is {task} variation "
                f"{variation}; what its first episode lists first is used for all: {used!r}"
            )
        several = {key: list(spellings.values()) for key, spellings in words.items() if len(spellings) > 1}
        if several:
            (task, variation), texts = next(iter(several.items()))
            notes.append(
                f"{len(several)} variations have episodes of different instructions, each of which counts as an action "
                f"of its own; the first is {task} variation {variation}: {some(texts, 3)}"
            )
        return tuple(notes)

    def fingerprint(self) -> str:
        """SHA-256 of the inputs of feature extraction; equal for equal data at any path.

        It covers ids, the bytes of every `low_dim_obs.pkl`, names and sizes of all images, and the instructions as
        used (an override changes it); not the outcomes.
        """
        digest = hashlib.sha256(b"mnprobe.data/1\n")
        for episode in sorted(self._episodes, key=lambda episode: episode.id):
            try:
                instructions: tuple[str, ...] | None = episode.instructions
            except DataError:
                instructions = None  # features that need no instruction can still be computed
            parts = [
                episode.id,
                sha256_file(episode.low_dim_file),
                instructions,
                [_sizes(episode, camera, kind) for camera in sorted(episode.cameras) for kind in KINDS],
            ]
            digest.update(json.dumps(parts).encode() + b"\n")
        return digest.hexdigest()


def open_dataset(
    paths: Path | str | Sequence[Path | str],
    *,
    partitions: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    strict: bool = False,
    instructions: Path | str | Mapping[str, str | Sequence[str]] | None = None,
    outcomes: Path | str | None = None,
) -> Dataset:
    """Find the episodes below one or several folders. Cheap: no demonstration and no image is read.

    Args:
        paths: folders at or above `<task>/all_variations/episodes` (PerAct's layout, also when trimmed) or
            `<task>/variation<K>/episodes` (RLBench's own); several are joined.
        partitions: select these of "train", "val", "test" and "" (no such folder level). Other names for these
            (training, valid, validation, dev, testing; in any case) are mapped, with a warning. Folders with such names
            are read only if the partition is requested here by name.
        tasks: select these tasks, by RLBench's module name.
        strict: for complete datasets: read every demonstration now, with all known fields, and require an image of
            every frame.
        instructions: use these instead of the dataset's: a CSV file (task, variation, instruction) or a mapping
            "task/variation" -> text or texts. Other variations are not changed.
        outcomes: a CSV file (id, success), or "successful" when all episodes are successes, as the demonstrations of
            RLBench are. By default an `outcomes.csv` in a dataset folder is used; without one success is -1 (unknown).

    Returns:
        The episodes in natural order.

    Raises:
        DataError: naming the folder, file, line or field, when a path is not a dataset, the selection is empty, two
            folders give the same episode id or partition, a folder with an unknown name is next to a partition, an
            outcome is of an unknown episode, or a file is invalid.
        ConfigError: for an unknown partition.
    """
    folders = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not folders:
        raise ConfigError("open_dataset needs at least one folder, got none")
    overrides = read_overrides(instructions)
    notes: dict[str, None] = {}  # unique, in order
    found = (
        place for folder in folders for place in find_episodes(folder, note=lambda text: notes.update({text: None}))
    )
    places = sorted(_distinct(found), key=_natural)
    _check_partitions_are_distinct(places)
    episodes = [Episode(place, overrides=overrides) for place in places]
    for siblings in _by_task(episodes):
        for episode in siblings:
            episode.join(siblings)
    _check_ids_are_unique(episodes)
    _set_outcomes(episodes, folders, outcomes)
    _require_use(episodes, overrides, instructions)
    if partitions is not None:
        partitions = [asked_partition(name) for name in ([partitions] if isinstance(partitions, str) else partitions)]
    episodes = _select(episodes, folders, partitions, tasks)
    _check_partition_names(episodes, folders, asked=partitions is not None)
    if strict:
        for episode in episodes:
            _check_complete(episode)
    return Dataset(episodes, folders, notes)


def _distinct(places: Iterable[EpisodeFolder]) -> list[EpisodeFolder]:
    """Remove duplicate episodes, if given paths are nested or a link points to a sibling."""
    distinct: dict[tuple[Path, str, str, int | None, int], EpisodeFolder] = {}
    for place in places:
        real = place.folder.resolve()
        key = real, place.task, place.partition, place.variation, place.number
        if key not in distinct or place.folder == real:
            distinct[key] = place
    return list(distinct.values())


def _by_task(episodes: Iterable[Episode]) -> Iterable[list[Episode]]:
    by_task: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(episode)
    return by_task.values()


def _natural(place: EpisodeFolder) -> tuple[str, int, int, int, str]:
    rank = (*PARTITIONS, "").index(place.partition)
    return place.task, rank, place.number, -1 if place.variation is None else place.variation, str(place.folder)


def _level(folder: Path) -> Path:
    """The folder above the tasks, of an episode's folder."""
    return folder.parents[3]


def _check_partitions_are_distinct(places: Iterable[EpisodeFolder]) -> None:
    """Raise DataError for two folders of one partition, such as val and validation."""
    seen: dict[tuple[Path, str], Path] = {}
    for place in places:
        level = _level(place.folder)
        other = seen.setdefault((level.parent, place.partition), level)
        if place.partition and other != level:
            raise DataError(
                f"{other} and {level} both stand for the partition {place.partition!r}. Open them apart, or rename one "
                f"(partitions are called {', '.join(PARTITIONS)})"
            )


def _check_partition_names(episodes: list[Episode], folders: list[Path], *, asked: bool) -> None:
    """Warn about mapped partition names; raise DataError for unknown or not requested ones next to partitions."""
    levels = {_level(episode.folder): episode.partition for episode in episodes}
    known = {level.parent: level for level, name in levels.items() if name}
    real = {level.resolve() for level, name in levels.items() if name}
    where = ", ".join(map(str, folders))
    for level, name in levels.items():
        if not name and level.parent in known and level.resolve() not in real:
            beside = known[level.parent]
            raise DataError(
                f"dataset {where}: {level} is no partition that is known, while {beside} is {levels[beside]!r}. Call "
                "it train, val or test, open the folders apart, or choose with partitions= (--partition)"
            )
    mapped = {level.name: name for level, name in levels.items() if name and level.name != name}
    told = [f"folder {name!r} is read as partition {meant!r}" for name, meant in mapped.items()]
    if told and not asked:
        raise DataError(
            f"dataset {where}: {told[0].replace('is read as', 'seems to be')}. Partitions are called "
            f"{', '.join(PARTITIONS)}: rename the folder, or ask for them by these names with partitions= (--partition)"
        )
    if told:
        warnings.warn(f"dataset {where}: {', '.join(told)}", stacklevel=3)


def _check_ids_are_unique(episodes: list[Episode]) -> None:
    """Raise DataError for duplicate ids. Only folders of one task, partition and number are compared, to read few
    files."""
    seen: dict[tuple[str, str, int], list[Episode]] = {}
    for episode in episodes:
        for other in seen.setdefault((episode.task, episode.partition, episode.number), []):
            if other.id == episode.id:
                raise DataError(
                    f"two folders give one episode id {episode.id!r}: {other.folder} and {episode.folder}. "
                    "Open them apart, or rename one episode folder."
                )
        seen[episode.task, episode.partition, episode.number].append(episode)


def _set_outcomes(episodes: list[Episode], folders: list[Path], given: Path | str | None) -> None:
    if given == "successful":
        for episode in episodes:
            episode.success = 1
        return
    files = [Path(given)] if given is not None else [folder / OUTCOMES_FILE for folder in folders]
    for file in files:
        if given is None and not file.is_file():
            continue
        outcomes = read_outcomes(file)
        if given is not None and not outcomes:
            raise DataError(f"{file}: no outcome in it, only a header")
        by_id = {episode.id: episode for episode in episodes}
        unknown = [name for name in outcomes if name not in by_id]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise DataError(
                f"{file}: {len(unknown)} of {len(outcomes)} ids are of no episode in {', '.join(map(str, folders))}: "
                f"{', '.join(unknown[:5])}{more}. Ids there look like {episodes[0].id!r}."
            )
        for name, success in outcomes.items():
            by_id[name].success = success


def _require_use(episodes: list[Episode], overrides: Overrides, given: object) -> None:
    """Raise when instructions match no episode, which would otherwise be ignored silently."""
    if not overrides:
        return
    there: set[tuple[str, int]] = set()
    for episode in episodes:
        key = (episode.task, episode.variation)
        if key in overrides:
            return
        there.add(key)
    named = given if isinstance(given, str | os.PathLike) else "instructions"
    raise DataError(
        f"{named}: no episode is of what it gives instructions for, {_some(set(overrides))}; there are {_some(there)}"
    )


def _some(keys: set[tuple[str, int]]) -> str:
    names = [f"{task} variation {variation}" for task, variation in sorted(keys)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _select(
    episodes: list[Episode], folders: list[Path], partitions: Sequence[str] | None, tasks: Sequence[str] | None
) -> list[Episode]:
    where = ", ".join(map(str, folders))
    for name in partitions or ():
        if name not in (*PARTITIONS, ""):
            raise unknown_name("partition", name, list(PARTITIONS))
    for kind, wanted, present in (
        ("partition", partitions, {episode.partition for episode in episodes}),
        ("task", tasks, {episode.task for episode in episodes}),
    ):
        for name in wanted or ():
            if name not in present:
                known = ", ".join(sorted(present - {""})) or "none"
                raise DataError(f"dataset {where}: no episode of {kind} {name!r}; there are: {known}")
    kept = [
        episode
        for episode in episodes
        if (partitions is None or episode.partition in partitions) and (tasks is None or episode.task in tasks)
    ]
    if not kept:
        raise DataError(f"dataset {where}: no episode of tasks {tasks!r} in partitions {partitions!r}")
    return kept


def _check_complete(episode: Episode) -> None:
    episode.check_numbers()
    episode.files.check(len(episode))
    listed = episode.folder / _KEYFRAMES_FILE
    if listed.is_file():
        try:
            found = json.loads(listed.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{listed}: not readable as JSON ({error})") from error
        if found != list(episode.keyframes):
            raise DataError(f"{listed}: does not list the keyframes of {LOW_DIM_FILE}, {list(episode.keyframes)}")


def _sizes(episode: Episode, camera: str, kind: Literal["rgb", "depth", "mask"]) -> list[object]:
    return [f"{camera}_{kind}", episode.files.sizes(camera, kind) if kind in episode.files.kinds[camera] else []]
