"""The episode protocol, names of cameras, and rules that readers share."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.labels import has_control_characters, some
from mnprobe.data.instructions import Overrides

if TYPE_CHECKING:
    from mnprobe.data.rlbench import RLBenchEpisode

__all__ = [
    "DECISIONS",
    "Episode",
    "Opened",
    "ReadingOptions",
    "RecordedEpisode",
    "Signals",
    "check_decisions",
    "check_image_size",
    "check_text",
    "evenly_spaced",
    "find_camera",
    "inside",
    "natural_key",
    "need_packages",
    "require",
    "sketch_file",
]

DECISIONS = 8
"""Default number of decisions of an episode without keyframes."""

_PACKAGES = {"av": "PyAV", "pyarrow": "pyarrow"}
_LARGEST_IMAGE = 2**26  # pixels
_SUFFIXES = ("_rgb", "_image", "_img", "_color", "_colour")  # endings of cameras that only say that they are images


@dataclass(frozen=True, eq=False)
class Signals:
    """Numbers of every frame: `values` (T, D), and the name of each of the D columns."""

    values: NDArray[Any]
    names: tuple[str, ...]


@runtime_checkable
class Episode(Protocol):
    """One demonstration or rollout of any format. Opening reads no image; properties read on access.

    Every property that reads raises DataError naming the file when it is missing, damaged or unsafe.

    Attributes:
        success: 1, 0, or -1 if unknown.
    """

    success: int

    @property
    def id(self) -> str:
        """Joins the features of two models; the same wherever the dataset lies."""

    @property
    def task(self) -> str:
        """Name of the task; the instruction where nothing else names it."""

    @property
    def variation(self) -> int:
        """Number of the variation of the task."""

    @property
    def instructions(self) -> tuple[str, ...]:
        """All paraphrases, the usual one first."""

    @property
    def instruction(self) -> str:
        """The first instruction, which models use."""

    @property
    def partition(self) -> str:
        """ "train", "val", "test", or "" if the dataset has none."""

    @property
    def folder(self) -> Path:
        """Folder or file of the dataset that the episode is read from."""

    @property
    def where(self) -> str:
        """Place of the episode, for messages."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras with colour images."""

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds of the frames."""

    @property
    def decisions(self) -> tuple[int, ...]:
        """Frames at which an execution model is asked: keyframes in RLBench, else evenly spaced ones."""

    @property
    def state(self) -> Signals | None:
        """Signals of the robot; None if the dataset has none."""

    @property
    def action(self) -> Signals | None:
        """Commands to the robot; None if the dataset has none."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """What other formats have and this one has not -> the reason, see `require`."""

    def __len__(self) -> int:
        """Number of frames."""

    def frames_on_disk(self, camera: str) -> tuple[int, ...]:
        """Frames that have an image of this camera, increasing."""

    def image(self, camera: str, index: int) -> NDArray[np.uint8]:
        """Image of frame `index` (negative counts from the end): (H, W, 3) RGB, upright."""

    def images(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Images of several frames in any order: (n, H, W, 3). Cheaper than one by one."""

    def fingerprint(self) -> str:
        """SHA-256 of what features are computed from; equal for equal data at any path; without the outcome."""


def require(episode: Episode, *needs: str, who: str) -> "RLBenchEpisode":
    """Return the episode when its dataset has all of `needs`, with the members that RLBench's format has for these.

    Args:
        episode: an episode of any format.
        needs: among "depth", "camera matrices", "key poses", "recorded scenes".
        who: who needs it, for the message.

    Raises DataError saying what is missing in which dataset.
    """
    missing = {need: episode.lacks[need] for need in needs if need in episode.lacks}
    if missing:
        reasons = "; ".join(dict.fromkeys(missing.values()))
        raise DataError(
            f"{who} needs {_listed(needs)}; {episode.where} has no {_listed(list(missing), 'or')}: {reasons}. "
            "RLBench's demonstrations have them (docs/data.md); video models, pixels and hooks need only images"
        )
    return cast("RLBenchEpisode", episode)


def find_camera(cameras: Sequence[str], asked: str, where: str = "") -> str:
    """The camera that `asked` names: exactly, or as the only one with this ending.

    An ending begins at a dot, underscore, dash or slash. Endings such as `_rgb`, which only say that it is an image,
    may be left out. Raises DataError with the cameras that there are, when none or several fit.

    >>> find_camera(["observation.images.front", "observation.images.wrist"], "front")
    'observation.images.front'
    >>> find_camera(["agentview_rgb", "eye_in_hand_rgb"], "agentview")
    'agentview_rgb'
    """
    if asked in cameras:
        return asked
    fitting = [name for name in cameras if asked and _ends(name, asked)]
    if not fitting:
        fitting = [name for name in cameras for ending in _SUFFIXES if asked and _ends(name, asked + ending)]
    if len(fitting) == 1:
        return fitting[0]
    place = f"{where}: " if where else ""
    if fitting:
        raise DataError(f"{place}camera {asked!r} may be {some(fitting, 8)}; write more of the name (--camera)")
    if not cameras:
        raise DataError(f"{place}no colour images of any camera")
    raise DataError(f"{place}no colour images of camera {asked!r}; choose another with --camera: {some(cameras, 12)}")


def evenly_spaced(frames: int, count: int) -> tuple[int, ...]:
    """First frames of `count` equal parts of an episode; all frames if there are fewer.

    >>> evenly_spaced(10, 4), evenly_spaced(3, 8)
    ((0, 2, 5, 7), (0, 1, 2))
    """
    return tuple(dict.fromkeys(number * frames // count for number in range(count))) if frames else ()


def check_decisions(count: int) -> int:
    """`count` as the number of decisions of an episode; ConfigError unless it is a whole number from 1."""
    try:
        whole = as_whole(count, "decisions")
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"decisions (--decisions) must be a whole number from 1, got {count!r}") from error
    if whole < 1:
        raise ConfigError(f"decisions (--decisions) must be a whole number from 1, got {count!r}")
    return int(whole)


class RecordedEpisode(ABC):
    """Base of episodes of other formats than RLBench's: labels known at opening, an image in every frame.

    A subclass gives `__len__`, `cameras`, `times`, `_read(camera, indices)`, `_record()`, and what else it has.
    """

    def __init__(
        self,
        *,
        id: str,
        task: str,
        folder: Path,
        where: str,
        texts: Sequence[str] = (),
        variation: int = 0,
        partition: str = "",
        success: int | None = -1,
        overrides: Overrides | None = None,
        decisions: int = DECISIONS,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.task = task
        self.variation = variation
        self.partition = partition
        self.folder = folder
        self.where = where
        self._texts = tuple(texts)
        self._success = success
        self._overrides: Overrides = overrides or {}
        self._decisions = decisions
        self.extra: Mapping[str, Any] = extra or {}
        """Columns of the user's own -> the value of this episode; None if missing. Stores keep them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where})"

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras with colour images."""

    @property
    @abstractmethod
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds of the frames."""

    @abstractmethod
    def _read(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Read the images of frames that exist."""

    @abstractmethod
    def _record(self) -> Any:
        """What features are computed from, as JSON; images and signals by digests or sizes."""

    def _outcome(self) -> int:
        """The outcome that the files tell."""
        return -1

    @property
    def success(self) -> int:
        """1, 0, or -1 if unknown: as given by the user, else as the files tell."""
        if self._success is None:
            self._success = self._outcome()
        return self._success

    @success.setter
    def success(self, value: int) -> None:
        self._success = value

    @property
    def instruction(self) -> str:
        """The first instruction, which models use."""
        given = self._overrides.get((self.task, self.variation))
        if given:
            return given[0]
        return check_text(self._texts[0] if self._texts else "", self)

    @property
    def instructions(self) -> tuple[str, ...]:
        """All paraphrases, the usual one first, without repetitions."""
        given = self._overrides.get((self.task, self.variation))
        if given:
            return given
        return (self.instruction, *(text for text in self._paraphrases() if text != self.instruction))

    def _paraphrases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check_text(text, self) for text in self._texts[1:]))

    @property
    def decisions(self) -> tuple[int, ...]:
        """Evenly spaced frames, as many as asked when the dataset was opened."""
        return evenly_spaced(len(self), self._decisions)

    @property
    def state(self) -> Signals | None:
        """Signals of the robot; None if there are none."""
        return None

    @property
    def action(self) -> Signals | None:
        """Commands to the robot; None if there are none."""
        return None

    @property
    def lacks(self) -> Mapping[str, str]:
        """What this format has not, and why."""
        return {}

    def frames_on_disk(self, camera: str) -> tuple[int, ...]:
        """All frames; DataError if there is no such camera."""
        find_camera(self.cameras, camera, self.where)
        return tuple(range(len(self)))

    def image(self, camera: str, index: int) -> NDArray[np.uint8]:
        """Image of one frame; see `Episode.image`."""
        found: NDArray[np.uint8] = self.images(camera, [index])[0]
        return found

    def images(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Images of several frames; see `Episode.images`."""
        camera = find_camera(self.cameras, camera, self.where)
        frames = len(self)
        for index in indices:
            if not -frames <= index < frames:
                raise DataError(f"{self.where}: no frame {index}; the episode has frames 0 to {frames - 1}")
        if not len(indices):
            raise ConfigError(f"{self.where}: images of no frame were asked for")
        return self._read(camera, [int(index) % frames for index in indices])

    def fingerprint(self) -> str:
        """See `Episode.fingerprint`."""
        given = self._overrides.get((self.task, self.variation))
        texts = list(given) if given else [text.strip() for text in self._texts]
        record = [self.id, texts, self._record()]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def check_text(text: str, episode: Episode | RecordedEpisode) -> str:
    """An instruction without blanks around it; DataError if there is none, or it holds control characters."""
    text = text.strip()
    remedy = (
        f"Give the instructions as a CSV file with the columns task,variation,instruction (--instructions FILE.csv; "
        f"open_dataset(..., instructions='FILE.csv')); the task is {episode.task!r}, the variation {episode.variation}"
    )
    if not text:
        raise DataError(f"{episode.where}: the episode has no instruction. {remedy}")
    if has_control_characters(text):
        raise DataError(f"{episode.where}: its instruction holds a line break or control character: {text!r}. {remedy}")
    return text


def check_image_size(height: int, width: int, where: str) -> None:
    """Raise DataError for an image that is empty or too large to be one."""
    if not (height > 0 and width > 0 and height * width <= _LARGEST_IMAGE):
        raise DataError(f"{where}: images of {width} x {height} pixels; read are 1 to {_LARGEST_IMAGE} pixels")


def inside(root: Path, relative: str, where: str) -> Path:
    """The path of a file that another file of the dataset names, which must not leave the dataset's folder.

    A link may lead to the blobs of the same repository in the cache of the Hugging Face hub.
    """
    path = Path(relative)
    if not relative or "\0" in relative or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: names the file {relative!r}; files are named by their path below {root}, without ..")
    full, home = root / path, root.resolve()
    try:
        real = full.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{where}: names the file {relative!r}, which is no path ({error})") from error
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not real.is_relative_to(home) and not real.is_relative_to(blobs):
        raise DataError(
            f"{full} leads out of the dataset {root}, to {real}; it was not followed. Copy the file into the dataset"
        )
    return full


def need_packages(what: str, *names: str) -> None:
    """Raise ConfigError with the command that installs them when packages that read `what` are missing."""
    missing = [name for name in names if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"{what} are read with {_listed([_PACKAGES[name] for name in names])}; missing: {_listed(missing)}. "
            'pip install "mnprobe[data]"'
        )


def sketch_file(path: Path) -> list[Any] | None:
    """Size of a file and SHA-256 of its first and last 64 KiB, where containers keep their tables; None if missing."""
    if not path.is_file():
        return None
    size, part = path.stat().st_size, 2**16
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(part))
        if size > part:
            file.seek(max(part, size - part))
            digest.update(file.read(part))
    return [size, digest.hexdigest()]


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorting key by numbers in a name: demo_2 before demo_10.

    >>> sorted(["demo_10", "demo_2"], key=natural_key)
    ['demo_2', 'demo_10']
    """
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((1, int(part), part) if number % 2 else (0, 0, part) for number, part in enumerate(parts))


def _ends(name: str, ending: str) -> bool:
    return name.endswith(ending) and not name[: -len(ending)][-1:].isalnum()


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options of the readers of all formats; see `mnprobe.data.open_dataset`."""

    overrides: Overrides
    decisions: int = DECISIONS
    flip: str = "auto"
    skip_broken: bool = False


@dataclass(kw_only=True)
class Opened:
    """What a reader found.

    Attributes:
        format: in words, with its version.
        episodes: in natural order.
        notes: messages for the user.
        broken: id or file -> reason of what could not be read.
        flips: how images are turned, in the order of the files.
    """

    format: str
    episodes: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    flips: list[str] = field(default_factory=list)
