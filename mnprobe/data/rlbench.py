"""Demonstrations and rollouts in RLBench's format."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import sha256_file
from mnprobe.data.episode import Signals
from mnprobe.data.frame import Frame
from mnprobe.data.image_files import ImageFiles
from mnprobe.data.images import KINDS, ImageKind
from mnprobe.data.instructions import Overrides, read_descriptions
from mnprobe.data.keyframes import Keyframe, find_keyframes, gripper_states, next_keyframe
from mnprobe.data.layout import PARTITIONS, EpisodeFolder, find_episodes, require_inside
from mnprobe.data.low_dim import LowDim, RandomState, read_low_dim
from mnprobe.data.unpickle import load

__all__ = [
    "DESCRIPTIONS_FILE",
    "LOW_DIM_FILE",
    "NUMBER_FILE",
    "RLBenchEpisode",
    "check_complete",
    "check_partition_names",
    "open_rlbench",
]

LOW_DIM_FILE = "low_dim_obs.pkl"
DESCRIPTIONS_FILE = "variation_descriptions.pkl"
NUMBER_FILE = "variation_number.pkl"

_KEYFRAMES_FILE = "kfs.json"
_STEP = 0.05  # seconds between frames
_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")


class RLBenchEpisode:
    """One episode in RLBench's format. The constructor reads nothing: pickles and images are read on first access.

    Every property that reads raises DataError naming file and field when these are missing, damaged or unsafe.

    Attributes:
        folder: folder of the episode.
        task: RLBench's module name, such as "open_drawer": the folder's name.
        partition: "train", "val", "test", or "" without such a folder level.
        number: the N of `episode<N>`.
        success: 1, 0, or -1 if unknown.
    """

    def __init__(self, place: EpisodeFolder, *, overrides: Overrides | None = None, success: int = -1) -> None:
        self.folder: Path = place.folder
        self.task: str = place.task
        self.partition: str = place.partition
        self.number: int = place.number
        self.success: int = success
        self._place = place
        self._overrides: Overrides = overrides or {}
        self._siblings: Sequence[RLBenchEpisode] = ()
        self.files = ImageFiles(place.folder, place.root)

    def __repr__(self) -> str:
        return f"Episode({self.folder})"

    def __len__(self) -> int:
        return self._low_dim.frames

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the other episodes, but with the instructions chosen by them."""
        with suppress(DataError):  # raised again on access
            self.instructions  # noqa: B018 - cached after reading
        return self.__dict__ | {"_siblings": ()}

    def join(self, siblings: Sequence["RLBenchEpisode"]) -> None:
        """Set the episodes of the same task, in order: a variation uses the instruction order of its first episode."""
        self._siblings = siblings

    @property
    def id(self) -> str:
        """`<task>/<variation>/<partition>-episode<N>`, or without the partition if there is none."""
        prefix = f"{self.partition}-" if self.partition else ""
        return f"{self.task}/{self.variation}/{prefix}episode{self.number}"

    @cached_property
    def variation(self) -> int:
        """Index of the variation: from `variation_number.pkl`, else from the folder's name."""
        path = self.folder / NUMBER_FILE
        if not path.exists():
            if self._place.variation is None:
                raise DataError(f"{path} is missing, and {self.folder.parent.parent.name} does not tell the variation")
            return self._place.variation
        found = load(self._own(path))
        if type(found) is not int or found < 0:
            raise DataError(f"{path}: holds {_short(found)} instead of the number of a variation")
        if self._place.variation not in (None, found):
            raise DataError(f"{path}: says variation {found}, but lies in {self.folder.parent.parent.name}")
        return found

    @cached_property
    def instructions(self) -> tuple[str, ...]:
        """Instructions: all paraphrases, the usual one first.

        Those given by the user, else those of the episode's folder, else those of the variation's folder. If the first
        episode of the variation lists the same ones in another order, its order is used: a variation is one action (see
        `Dataset.instruction_notes`).
        """
        given = self._overrides.get((self.task, self.variation)) if self._overrides else None
        if given:
            return given
        own, first = self.listed, self._first_of_variation()
        return first if first is not None and set(first) == set(own) else own

    def _first_of_variation(self) -> tuple[str, ...] | None:
        """Instructions of the first readable episode of this variation; None if it is this one."""
        for other in self._siblings:
            if other is self:
                return None
            try:
                if other.variation == self.variation:
                    return other.listed
            except DataError:
                continue  # raised when that episode itself is accessed
        return None

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """The instructions in the order of the episode's own file."""
        beside, above = self.folder / DESCRIPTIONS_FILE, self.folder.parent.parent / DESCRIPTIONS_FILE
        if beside.exists():
            return read_descriptions(self._own(beside))
        if above.exists():
            return read_descriptions(self._own(above))
        raise DataError(
            f"{beside} is missing (and so is {above}), so {self.id} has no instruction. "
            "Give the instructions as a CSV file with the columns task,variation,instruction "
            "(--instructions FILE.csv; open_dataset(..., instructions='FILE.csv'))."
        )

    @property
    def instruction(self) -> str:
        """The first instruction, which models use."""
        return self.instructions[0]

    @cached_property
    def keyframes(self) -> tuple[int, ...]:
        """Frames at which a motion ends, increasing; see `find_keyframes`."""
        return find_keyframes(self.gripper_open, self.joint_velocities)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that have images on disk, in PerAct's order."""
        return tuple(self.files.kinds)

    @property
    def gripper_open(self) -> NDArray[np.float64]:
        """(T,) 1.0 for open fingers, 0.0 for closed ones; or a measured opening."""
        return self._low_dim.field("gripper_open")

    @property
    def gripper_states(self) -> NDArray[np.float64]:
        """(T,) 1.0 for an open gripper, 0.0 for a closed one, by the rule of `mnprobe.data.gripper_states`."""
        try:
            return gripper_states(self.gripper_open)
        except ConfigError as error:
            raise DataError(f"{self.low_dim_file}: field gripper_open: {error}") from error

    @property
    def gripper_pose(self) -> NDArray[np.float64]:
        """(T, 7) position in metres (world) and quaternion x y z w."""
        return self._low_dim.field("gripper_pose")

    @property
    def gripper_joint_positions(self) -> NDArray[np.float64]:
        """(T, F) travel of the F fingers in metres."""
        return self._low_dim.field("gripper_joint_positions")

    @property
    def joint_positions(self) -> NDArray[np.float64]:
        """(T, J) angles of the J joints in rad."""
        return self._low_dim.field("joint_positions")

    @property
    def joint_velocities(self) -> NDArray[np.float64]:
        """(T, J) speeds of the J joints in rad/s."""
        return self._low_dim.field("joint_velocities")

    @property
    def ignore_collisions(self) -> NDArray[np.float64]:
        """(T,) 1.0 if the motion was planned without collision checking; zeros if the file has no such field.

        Frame 0's value is stale in PerAct's data: it is left over from the demonstration before.
        """
        if not self.has_ignore_collisions:
            return np.zeros(len(self))
        return self._low_dim.field("ignore_collisions")

    @property
    def has_ignore_collisions(self) -> bool:
        """Whether the file has a collision flag (PerAct's generator writes it, RLBench's does not)."""
        return "ignore_collisions" in self._low_dim.values

    @property
    def random_seed(self) -> RandomState | None:
        """State of numpy's legacy generator before the reset, for `numpy.random.set_state`; None if absent."""
        return self._low_dim.random_seed

    @property
    def task_low_dim_state(self) -> NDArray[np.float64] | None:
        """(n,) poses of the task's objects in frame 0, as given by RLBench's task; None if absent."""
        return self._low_dim.task_low_dim_state

    def frame(self, index: int) -> Frame:
        """Frame `index` (0 .. T-1; negative counts from the end)."""
        frames = len(self)
        if not -frames <= index < frames:
            raise DataError(f"{self.folder}: no frame {index}; the episode has frames 0 to {frames - 1}")
        return Frame(index % frames, self._low_dim, self.files)

    def frames_on_disk(self, camera: str, kind: ImageKind = "rgb") -> tuple[int, ...]:
        """Frames that have an image of this camera, increasing: all in a full dataset, few in a trimmed one."""
        return self.files.frames(camera, kind)

    def next_keyframe(self, frame: int) -> int | None:
        """The first keyframe strictly after `frame`; None at or after the last."""
        return next_keyframe(self.keyframes, frame)

    def steps(self, collision: Literal["keyframe", "previous"] = "keyframe") -> tuple[Keyframe, ...]:
        """The key-to-key steps: from frame 0 to the first keyframe, from each keyframe to the next.

        Args:
            collision: frame of the collision flag of a step: the target ("keyframe", as in ARP) or the frame before it
                ("previous", as in PerAct and RVT).
        """
        if collision not in ("keyframe", "previous"):
            raise ConfigError(f"collision must be 'keyframe' or 'previous', got {collision!r}")
        back = 1 if collision == "previous" else 0
        flags, states = self.ignore_collisions, self.gripper_states
        return tuple(
            Keyframe(
                index=key,
                observed=before,
                gripper_pose=self.gripper_pose[key],
                gripper_open=float(states[key]),
                ignore_collisions=float(flags[key - back]),
            )
            for before, key in zip((0, *self.keyframes), self.keyframes, strict=False)
        )

    @property
    def where(self) -> str:
        """The folder, as text for messages."""
        return str(self.folder)

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds of the frames; RLBench's simulation takes 20 steps a second."""
        return np.arange(len(self), dtype=np.float64) * _STEP

    @property
    def decisions(self) -> tuple[int, ...]:
        """The keyframes."""
        return self.keyframes

    @property
    def state(self) -> Signals | None:
        """Pose of the gripper, its opening and the angles of the joints: those that the file has; None without any."""
        parts: list[NDArray[np.float64]] = []
        names: list[str] = []
        for field, columns in (("gripper_pose", _POSE), ("gripper_open", ("gripper_open",)), ("joint_positions", ())):
            if field in self._low_dim.values:
                part = self._low_dim.field(field)
                parts.append(part.reshape(len(self), -1))
                names += columns or [f"joint_{number}" for number in range(part.shape[1])]
        return Signals(np.concatenate(parts, axis=1), tuple(names)) if parts else None

    @property
    def action(self) -> Signals | None:
        """None: RLBench records no commands; see `steps` for the key poses."""
        return None

    @property
    def lacks(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def image(self, camera: str, index: int) -> NDArray[np.uint8]:
        """Image of one frame; see `Episode.image`."""
        return self.files.read(camera, "rgb", index + len(self) if index < 0 else index)

    def images(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Images of several frames; each is read once."""
        once = {index: self.image(camera, index) for index in dict.fromkeys(indices)}
        return np.stack([once[index] for index in indices])

    def fingerprint(self) -> str:
        """See `Episode.fingerprint`."""
        return hashlib.sha256(self.record().encode()).hexdigest()

    def record(self) -> str:
        """What features are computed from, as JSON: id, digest of `low_dim_obs.pkl`, instructions, sizes of images."""
        try:
            instructions: tuple[str, ...] | None = self.instructions
        except DataError:
            instructions = None  # features that need no instruction can still be computed
        sizes = [_sizes(self, camera, kind) for camera in sorted(self.cameras) for kind in KINDS]
        return json.dumps([self.id, sha256_file(self.low_dim_file), instructions, sizes])

    def check_numbers(self) -> None:
        """Read all existing fields; DataError for the first damaged one."""
        for name in self._low_dim.values:
            self._low_dim.field(name)
        _ = self._low_dim.random_seed

    @property
    def low_dim_file(self) -> Path:
        """Path of `low_dim_obs.pkl`; DataError when it is missing, no file, or a link out of the dataset."""
        path = self._own(self.folder / LOW_DIM_FILE)
        if not path.is_file():
            raise DataError(f"{path}: " + ("is no regular file" if path.exists() else "there is no such file"))
        return path

    @property
    def _low_dim(self) -> LowDim:
        return read_low_dim(self.low_dim_file)

    def _own(self, path: Path) -> Path:
        require_inside(path, self._place.root)
        return path


def _short(found: object) -> str:
    return str(found) if type(found) in (int, float, bool, type(None)) else f"a {type(found).__name__}"


def open_rlbench(folders: Sequence[Path], overrides: Overrides, note: Callable[[str], None]) -> list[RLBenchEpisode]:
    """Find the episodes below folders in RLBench's or PerAct's layout, in natural order; reads no demonstration.

    Raises DataError as `mnprobe.data.open_dataset` does.
    """
    found = (place for folder in folders for place in find_episodes(folder, note=note))
    places = sorted(_distinct(found), key=_natural)
    _check_partitions_are_distinct(places)
    episodes = [RLBenchEpisode(place, overrides=overrides) for place in places]
    for siblings in _by_task(episodes):
        for episode in siblings:
            episode.join(siblings)
    _check_ids_are_unique(episodes)
    return episodes


def _distinct(places: Iterable[EpisodeFolder]) -> list[EpisodeFolder]:
    """Remove duplicate episodes, if given paths are nested or a link points to a sibling."""
    distinct: dict[tuple[Path, str, str, int | None, int], EpisodeFolder] = {}
    for place in places:
        real = place.folder.resolve()
        key = real, place.task, place.partition, place.variation, place.number
        if key not in distinct or place.folder == real:
            distinct[key] = place
    return list(distinct.values())


def _by_task(episodes: Iterable[RLBenchEpisode]) -> Iterable[list[RLBenchEpisode]]:
    by_task: dict[str, list[RLBenchEpisode]] = {}
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


def check_partition_names(episodes: list[RLBenchEpisode], folders: list[Path], *, asked: bool) -> None:
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
        warnings.warn(f"dataset {where}: {', '.join(told)}", stacklevel=4)


def _check_ids_are_unique(episodes: list[RLBenchEpisode]) -> None:
    """Raise DataError for duplicate ids. Only folders of one task, partition and number are compared, to read few
    files."""
    seen: dict[tuple[str, str, int], list[RLBenchEpisode]] = {}
    for episode in episodes:
        for other in seen.setdefault((episode.task, episode.partition, episode.number), []):
            if other.id == episode.id:
                raise DataError(
                    f"two folders give one episode id {episode.id!r}: {other.folder} and {episode.folder}. "
                    "Open them apart, or rename one episode folder."
                )
        seen[episode.task, episode.partition, episode.number].append(episode)


def check_complete(episode: RLBenchEpisode) -> None:
    """Read all numbers; DataError for a damaged one, for frames without image, and for other keyframes in kfs.json."""
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


def _sizes(episode: RLBenchEpisode, camera: str, kind: Literal["rgb", "depth", "mask"]) -> list[object]:
    return [f"{camera}_{kind}", episode.files.sizes(camera, kind) if kind in episode.files.kinds[camera] else []]
