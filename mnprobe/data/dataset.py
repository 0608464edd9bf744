"""Opening datasets of any format as one sequence of episodes."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.labels import asked_partition, same_text, some
from mnprobe.core.registry import unknown_name
from mnprobe.core.table import write_table
from mnprobe.data.episode import DECISIONS, Episode, Opened, ReadingOptions, check_decisions, find_camera
from mnprobe.data.instructions import Overrides, read_overrides
from mnprobe.data.layout import PARTITIONS
from mnprobe.data.outcomes import OUTCOMES_FILE, read_outcomes
from mnprobe.data.rlbench import RLBenchEpisode, check_complete, check_partition_names, open_rlbench

__all__ = ["Dataset", "DatasetKind", "Flip", "describe", "is_dataset", "open_dataset", "write_episode_table"]

DatasetKind = Literal["rlbench", "lerobot", "hdf5", "videos"]
Flip = Literal["auto", "none", "vertical", "rotate180"]
_PREFIXES: dict[str, DatasetKind] = {
    **{kind: kind for kind in get_args(DatasetKind)},
    "libero": "hdf5",
    "robomimic": "hdf5",
}
_RLBENCH = "RLBench"
_HDF5 = (".hdf5", ".h5")
_TABLE = "episodes.csv"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MOST_PROBLEMS = 20  # told by describe
_MOST_ENTRIES = 20_000  # of a folder that are looked at to recognize its format
_RANGE = re.compile(r"(-?[0-9]{0,9}):(-?[0-9]{0,9})")


class Dataset(Sequence[Episode]):
    """Episodes in natural order: by task, partition (train, val, test), then by number, 2 before 10.

    Attributes:
        paths: the folders or files, without the kind.
        notes: messages for the user about the dataset, such as empty folders.
        kind: the format, as in `--data KIND:PATH`.
        format: the format in words, with its version.
        broken: id or file -> reason of what could not be read, with `skip_broken`.
        facts: how the dataset is read, as JSON for records: format, and how images are turned; {} for RLBench's.
    """

    def __init__(
        self,
        episodes: Iterable[Episode],
        paths: Iterable[Path],
        notes: Iterable[str] = (),
        *,
        kind: DatasetKind = "rlbench",
        format: str = _RLBENCH,
        broken: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._episodes = tuple(episodes)
        self.paths: tuple[Path, ...] = tuple(paths)
        self.notes: tuple[str, ...] = tuple(notes)
        self.kind: DatasetKind = kind
        self.format = format
        self.broken: Mapping[str, str] = dict(broken or {})
        self.facts: Mapping[str, Any] = dict(facts or {})

    def __len__(self) -> int:
        return len(self._episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Episode | Dataset":
        if isinstance(index, slice):
            return self.having(self._episodes[index])
        return self._episodes[index]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} episodes of {len(self.tasks)} tasks in {', '.join(map(str, self.paths))})"

    def having(self, episodes: Iterable[Episode]) -> "Dataset":
        """Return the same dataset with some of its episodes."""
        return Dataset(
            episodes,
            self.paths,
            self.notes,
            kind=self.kind,
            format=self.format,
            broken=self.broken,
            facts=self.facts,
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Sorted names of the tasks with episodes."""
        return tuple(sorted({episode.task for episode in self._episodes}))

    @property
    def partitions(self) -> tuple[str, ...]:
        """Partitions with episodes: train, val, test, in this order, then "" for none."""
        present = {episode.partition for episode in self._episodes}
        return tuple(name for name in (*PARTITIONS, "") if name in present)

    def camera(self, asked: str | None, default: str = "front") -> str:
        """The camera that `asked` names by its unique ending; without `asked` the default, or the only camera.

        The cameras are those of the first episode. Raises DataError listing them when none fits.
        """
        if self.kind == "rlbench":  # images of a single episode may be missing or damaged
            with suppress(DataError):
                return find_camera(self._episodes[0].cameras, asked or default) if asked else default
            return asked or default
        first = self._episodes[0]
        if asked is None and len(first.cameras) == 1:
            return first.cameras[0]
        return find_camera(first.cameras, asked or default, first.where)

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
                listed = episode.listed if isinstance(episode, RLBenchEpisode) else ()
                if used in listed and used != listed[0]:
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

        RLBench's format: ids, the bytes of every `low_dim_obs.pkl`, names and sizes of all images, and the instructions
        as used (an override changes it). Other formats: `Episode.fingerprint` of every episode. Not the outcomes.
        Files are looked at once for each dataset object.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"mnprobe.data/1\n")
        for episode in sorted(self._episodes, key=lambda episode: episode.id):
            if isinstance(episode, RLBenchEpisode):
                record = episode.record()
            else:
                record = json.dumps([episode.id, episode.fingerprint()])
            digest.update(record.encode() + b"\n")
        return digest.hexdigest()


def open_dataset(
    paths: Path | str | Sequence[Path | str],
    *,
    partitions: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    episodes: str | Sequence[str | int] | None = None,
    strict: bool = False,
    instructions: Path | str | Mapping[str, str | Sequence[str]] | None = None,
    outcomes: Path | str | None = None,
    decisions: int = DECISIONS,
    flip: Flip = "auto",
    skip_broken: bool = False,
) -> Dataset:
    """Open a dataset of any known format. Cheap: no demonstration and no image is read.

    Formats: LeRobot folders (v2.0, v2.1, v3.0), HDF5 files of robomimic, MimicGen, LIBERO and RoboCasa or folders of
    them, videos beside a table `episodes.csv`, and demonstrations of RLBench and PerAct.

    Args:
        paths: folders or files of one format; several are joined. `KIND:PATH` overrules what is recognized: lerobot,
            hdf5 (also libero, robomimic), videos, rlbench. RLBench's: folders at or above
            `<task>/all_variations/episodes` (PerAct's layout, also when trimmed) or `<task>/variation<K>/episodes`.
        partitions: select these of "train", "val", "test" and "" (no such folder level). Other names for these
            (training, valid, validation, dev, testing; in any case) are mapped, with a warning. Folders with such names
            are read only if the partition is requested here by name.
        tasks: select these tasks, by their names (RLBench's module names).
        episodes: select these of the whole dataset in its order, before all other selections: a range of positions
            such as "0:50" (an end is not included, as in Python), a position, an id or its unique ending, or a
            sequence of these.
        strict: for complete datasets: read every demonstration now, with all known fields, and require an image of
            every frame.
        instructions: use these instead of the dataset's: a CSV file (task, variation, instruction) or a mapping
            "task/variation" -> text or texts. Other variations are not changed.
        outcomes: a CSV file (id, success), or "successful" when all episodes are successes, as the demonstrations of
            RLBench are. By default an `outcomes.csv` in a dataset folder is used; without one success is what the
            dataset tells, else -1 (unknown).
        decisions: number of evenly spaced decisions of an episode; RLBench's are its keyframes.
        flip: how images of HDF5 files are turned upright: "auto" turns those over whose file says that their rows are
            stored bottom-up, "none", "vertical", or "rotate180" (as OpenVLA and LeRobot train on LIBERO).
        skip_broken: leave out files and episodes that cannot be opened, and list them in `Dataset.broken`. Images are
            not looked at.

    Returns:
        The episodes in natural order.

    Raises:
        DataError: naming the folder, file, line or field, when a path is not a dataset, the selection is empty, two
            folders give the same episode id or partition, a folder with an unknown name is next to a partition, an
            outcome is of an unknown episode, or a file is invalid.
        ConfigError: for an unknown partition, kind or flip, paths of several formats, or PyAV or pyarrow missing.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ConfigError("open_dataset needs at least one folder, got none")
    if flip not in get_args(Flip):
        raise unknown_name("flip", str(flip), list(get_args(Flip)))
    options = ReadingOptions(
        overrides=read_overrides(instructions),
        decisions=check_decisions(decisions),
        flip=flip,
        skip_broken=skip_broken,
    )
    kind, folders = _recognize([str(path) for path in given])
    if kind != "hdf5" and flip not in ("auto", "none"):
        raise ConfigError(f"flip (--flip) turns images of HDF5 files; {folders[0]} is of the kind {kind!r}")
    opened = _open(kind, folders, options)
    found: list[Episode] = opened.episodes
    if not found:
        reasons = "; ".join(opened.broken.values()) or "it holds none"
        raise DataError(f"dataset {', '.join(map(str, folders))}: no episode can be read: {reasons}")
    _set_outcomes(found, folders, outcomes)
    _require_use(found, options.overrides, instructions)
    if episodes is not None:
        found = _choose(found, folders, episodes)
    if partitions is not None:
        partitions = [asked_partition(name) for name in ([partitions] if isinstance(partitions, str) else partitions)]
    found = _select(found, folders, partitions, tasks)
    if kind == "rlbench":
        rlbench: list[Any] = list(found)
        check_partition_names(rlbench, folders, asked=partitions is not None)
    if strict:
        for episode in found:
            _check_complete(episode)
    facts: dict[str, Any] = {} if kind == "rlbench" else {"format": opened.format}
    if opened.flips:
        facts["flip"] = ", ".join(opened.flips)
    return Dataset(found, folders, opened.notes, kind=kind, format=opened.format, broken=opened.broken, facts=facts)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts about a dataset as JSON: format, episodes, tasks, texts, cameras, outcomes, partitions, what is missing.

    Reads the first image of each camera of the first episode. `problems` lists what could not be read, at most
    20 of them.
    """
    problems: list[str] = []

    def tried(read: Callable[[], Any], otherwise: Any = None) -> Any:
        try:
            return read()
        except (DataError, ConfigError) as error:
            problems.append(str(error))
            return otherwise

    first = dataset[0]
    lengths = [length for episode in dataset if (length := tried(partial(len, episode))) is not None]
    texts = {}
    untold: list[str] = []
    for episode in dataset:
        try:
            texts[episode.id] = episode.instruction
        except DataError as error:
            untold.append(str(error))
    problems += untold[:1]
    outcomes = [tried(partial(getattr, episode, "success"), -1) for episode in dataset]
    signals = {name: tried(partial(_signal_names, first, name)) for name in ("state", "action")}
    names = [episode.partition for episode in dataset]
    known = sorted(set(texts.values()))
    tasks = sorted({episode.task for episode in dataset})
    missing = dict(first.lacks)
    if not known:
        missing["instructions"] = "no episode has one; give --instructions"
    if all(outcome == -1 for outcome in outcomes):
        missing["outcomes"] = "the dataset does not tell whether an episode succeeded; --outcomes tells it"
    if not any(names):
        missing["partitions"] = "held-out episodes are drawn by seed"
    return {
        "paths": [str(path) for path in dataset.paths],
        "kind": dataset.kind,
        "format": dataset.format,
        "flip": dataset.facts.get("flip"),
        "episodes": len(dataset),
        "frames": sum(lengths),
        "shortest": min(lengths, default=None),
        "longest": max(lengths, default=None),
        "tasks": tasks,
        "task_is_instruction": {episode.id: episode.task for episode in dataset} == texts,
        "instructions": known,
        "without_instruction": len(untold),
        "cameras": [_camera_facts(first, name, tried) for name in tried(lambda: first.cameras, ())],
        "success": {
            "known": sum(outcome != -1 for outcome in outcomes),
            "successes": outcomes.count(1),
            "failures": outcomes.count(0),
        },
        "partitions": {name: names.count(name) for name in dataset.partitions if name},
        **signals,
        "missing": missing,
        "broken": dict(dataset.broken),
        "problems": _first_problems(problems),
        "notes": [*dataset.notes, *dataset.instruction_notes()],
    }


def write_episode_table(dataset: Dataset, path: Path) -> None:
    """Write id, instruction, task, variation, partition and success of every episode as CSV, atomically.

    It is the table that `mnprobe import --episodes` reads: whoever computes features elsewhere takes the ids from it.
    Missing instructions are left empty.
    """
    import pandas as pd  # opening a dataset does not need it

    rows = []
    for episode in dataset:
        words = ""
        with suppress(DataError):
            words = episode.instruction
        rows.append((episode.id, words, episode.task, episode.variation, episode.partition, episode.success))
    names = ["id", "instruction", "task", "variation", "partition", "success"]
    write_table(pd.DataFrame(rows, columns=pd.Index(names)), path)


def is_dataset(given: Path | str) -> bool:
    """Whether `KIND:PATH` or a path is meant as a dataset: a folder, a table of videos, a file of demonstrations."""
    text = str(given)
    if text.partition(":")[0] in _PREFIXES and ":" in text and not Path(text).exists():
        return True
    path = Path(text)
    if path.is_dir() or path.suffix.lower() in (".csv", ".hdf5"):
        return True
    return _is_hdf5(path) and _is_demonstrations(path, damaged=False)


def _first_problems(problems: Sequence[str]) -> list[str]:
    distinct = list(dict.fromkeys(problems))
    more = len(distinct) - _MOST_PROBLEMS
    return distinct if more <= 0 else [*distinct[:_MOST_PROBLEMS], f"and {more} more"]


def _signal_names(episode: Episode, name: str) -> list[str] | None:
    signals = getattr(episode, name)
    return None if signals is None else list(signals.names)


def _camera_facts(episode: Episode, camera: str, tried: Callable[..., Any]) -> dict[str, Any]:
    frames = tried(lambda: episode.frames_on_disk(camera), ())
    image = tried(lambda: episode.image(camera, frames[0])) if frames else None
    times = tried(lambda: episode.times)
    steps = np.diff(times) if times is not None else np.zeros(0)
    fps = round(1 / float(np.median(steps)), 3) if len(steps) and np.median(steps) > 0 else None
    height, width = (None, None) if image is None else image.shape[:2]
    return {"name": camera, "height": height, "width": width, "fps": fps}


# ---- formats ---------------------------------------------------------------------------------------------------------


def _open(kind: DatasetKind, folders: Sequence[Path], options: ReadingOptions) -> Opened:
    """Open all paths with the reader of their format."""
    notes: dict[str, None] = {}  # unique, in order
    if kind == "rlbench":
        episodes = open_rlbench(folders, options.overrides, lambda text: notes.update({text: None}))
        return Opened(format=_RLBENCH, episodes=list(episodes), notes=list(notes))
    parts = [_reader(kind)(folder, options) for folder in dict.fromkeys(folders)]
    joined = Opened(format=" and ".join(dict.fromkeys(part.format for part in parts)))
    flips = dict.fromkeys(flip for part in parts for flip in part.flips)
    joined.flips = list(flips)
    for part in parts:
        joined.episodes += part.episodes
        joined.notes += [text for text in part.notes if text not in joined.notes]
        joined.broken |= part.broken
    seen: dict[str, Episode] = {}
    for episode in joined.episodes:
        other = seen.setdefault(episode.id, episode)
        if other is not episode:
            raise DataError(
                f"two episodes have one id {episode.id!r}: {other.where} and {episode.where}. Open them apart, or "
                "rename one folder or file"
            )
    without = sum(not episode.partition for episode in joined.episodes)
    if 0 < without < len(joined.episodes):
        joined.notes.append(
            f"{without} of {len(joined.episodes)} episodes are in no partition, so that none is used for any: held-out "
            "episodes are drawn by seed"
        )
        for episode in joined.episodes:
            episode.partition = ""
    return joined


def _reader(kind: DatasetKind) -> Callable[[Path, ReadingOptions], Opened]:
    if kind == "lerobot":
        from mnprobe.data.lerobot import open_lerobot

        return open_lerobot
    if kind == "hdf5":
        from mnprobe.data.hdf5 import open_hdf5

        return open_hdf5
    from mnprobe.data.video_table import open_videos

    return open_videos


def _recognize(given: Sequence[str]) -> tuple[DatasetKind, list[Path]]:
    """The kind of the dataset, and its paths without the prefix of a kind."""
    kinds: dict[DatasetKind, str] = {}
    folders = []
    for text in given:
        prefix, colon, rest = text.partition(":")
        if colon and prefix in _PREFIXES:
            if not rest:
                raise ConfigError(f"--data {text}: after {prefix}: comes the path of the dataset")
            kind, path = _PREFIXES[prefix], Path(rest)
            if not path.exists():
                raise DataError(f"dataset {path} does not exist")
        else:
            path = Path(text)
            if colon and not path.exists() and re.fullmatch("[a-z0-9]{2,12}", prefix):
                raise unknown_name("kind of dataset", prefix, list(_PREFIXES))
            kind = recognize(path)
        kinds.setdefault(kind, text)
        folders.append(path)
    if len(kinds) > 1:
        named = ", ".join(f"{text} ({kind})" for kind, text in kinds.items())
        raise ConfigError(f"datasets of several kinds cannot be opened together: {named}; name one of them")
    return next(iter(kinds)), folders


def path_of(text: str) -> Path:
    """The path in `KIND:PATH`, or the text itself as a path."""
    prefix, colon, rest = text.partition(":")
    return Path(rest if colon and rest and prefix in _PREFIXES else text)


def recognize(path: Path) -> DatasetKind:
    """The format of a folder or file; "rlbench" if it is none of the others."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"dataset {path} does not exist")
        if path.suffix.lower() in _HDF5 or _is_hdf5(path):
            return "hdf5"
        if path.suffix.lower() == ".csv":
            return "videos"
        if path.name == "info.json" and path.parent.name == "meta":
            raise DataError(f"dataset {path} is a file of a LeRobot dataset; give the folder {path.parents[1]}")
        raise DataError(
            f"dataset {path} is a file; give the folder of the dataset. Files that are read are HDF5 of robomimic, "
            "MimicGen or LIBERO (.hdf5) and tables of videos (.csv)"
        )
    if (path / "meta" / "info.json").exists():
        return "lerobot"
    if (path / _TABLE).exists():
        return "videos"
    if _holds_hdf5(path, 2):
        return "hdf5"
    if path.name in ("meta", "data", "videos") and (path.parent / "meta" / "info.json").is_file():
        raise DataError(f"dataset {path} is a part of a LeRobot dataset; give the folder {path.parent}")
    inner = [one.parents[1] for one in sorted(path.glob("*/meta/info.json"))[:20]]
    if inner:
        raise DataError(
            f"dataset {path} holds LeRobot datasets in folders of its own; give one or several of them with --data: "
            f"{', '.join(map(str, inner[:5]))}"
        )
    return "rlbench"


def _holds_hdf5(folder: Path, deeper: int) -> bool:
    """Whether HDF5 files of demonstrations lie in a folder or shortly below it."""
    below = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number > _MOST_ENTRIES:
                    break
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(_HDF5) and _is_demonstrations(Path(entry.path)):
                    return True
                if deeper and entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
    except OSError:
        return False  # reported by the reader
    return any(_holds_hdf5(one, deeper - 1) for one in below)


def _is_demonstrations(path: Path, *, damaged: bool = True) -> bool:
    """Whether a file is HDF5 with the group of demonstrations, or, if `damaged`, cannot be opened."""
    if not _is_hdf5(path):
        return False
    import h5py  # demonstrations of RLBench need none of it

    try:
        with h5py.File(path, "r") as file:
            return "data" in file
    except OSError:
        return damaged  # the reader says what is wrong


def _is_hdf5(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    except OSError:
        return False


# ---- selection -------------------------------------------------------------------------------------------------------


def _choose(episodes: list[Episode], folders: list[Path], asked: str | Sequence[str | int]) -> list[Episode]:
    """Episodes by ranges, positions, ids or unique endings of ids, in the order of the dataset."""
    where = ", ".join(map(str, folders))
    wanted = [asked] if isinstance(asked, str) else list(asked)
    chosen: set[int] = set()
    ids: list[str] = []
    for one in wanted:
        text = str(one).strip()
        between = _RANGE.fullmatch(text)
        if between:
            first, last = (int(part) if part else None for part in between.groups())
            found = list(range(len(episodes)))[first:last]
            if not found:
                raise DataError(f"dataset {where}: episodes {text} are none of its {len(episodes)} episodes")
            chosen.update(found)
            continue
        ids = ids or [episode.id for episode in episodes]
        fitting = [number for number, name in enumerate(ids) if name == text]
        fitting = fitting or [number for number, name in enumerate(ids) if name.endswith(f"/{text}")]
        if not fitting and text.isascii() and text.isdigit() and int(text) < len(episodes):
            fitting = [int(text)]
        if len(fitting) != 1:
            reason = f"may be {some([ids[number] for number in fitting])}" if fitting else "is none"
            raise DataError(
                f"dataset {where}: episode {text!r} {reason} of its {len(episodes)} episodes; ids look like "
                f"{ids[0]!r}, ranges like 0:50"
            )
        chosen.update(fitting)
    return [episodes[number] for number in sorted(chosen)]


def _check_complete(episode: Episode) -> None:
    if isinstance(episode, RLBenchEpisode):
        check_complete(episode)
        return
    _ = episode.instruction, episode.times, episode.state, episode.action, episode.success
    for camera in episode.cameras:
        episode.images(camera, range(len(episode)))


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
