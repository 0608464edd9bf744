"""The numbers of a demonstration, `low_dim_obs.pkl`, as arrays over its frames."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data.camera import Camera, camera_order
from mnprobe.data.records import ArrayRecord, Global, Lying, Malformed, Other, Record, make_array
from mnprobe.data.unpickle import RefusedGlobal, load

__all__ = ["FIELDS", "CameraTrack", "LowDim", "RandomState", "read_low_dim"]

# What can be read of every observation, with its shape (n: any length, the same in all frames); all become float64.
FIELDS: dict[str, tuple[int | None, ...]] = {
    "gripper_open": (),
    "gripper_pose": (7,),
    "gripper_matrix": (4, 4),
    "gripper_joint_positions": (None,),
    "joint_positions": (None,),
    "joint_velocities": (None,),
    "ignore_collisions": (),
}
_CAMERA_KEY = re.compile(r"([A-Za-z0-9_]+)_camera_(extrinsics|intrinsics|near|far|size)")
_CAMERA_SHAPES: dict[str, tuple[int | None, ...]] = {
    "intrinsics": (3, 3),
    "extrinsics": (4, 4),
    "near": (),
    "far": (),
    "size": (2,),
}
_MOST_FRAMES = 20_000  # 17 minutes at RLBench's 20 frames a second
_MOST_CAMERAS = 32
_MOST_JOINTS = 256  # of a field of any length

RandomState = tuple[str, NDArray[np.uint32], int, int, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraTrack:
    """A camera over all frames: intrinsics (T, 3, 3), extrinsics (T, 4, 4), near (T,), far (T,), each float64.

    `size` (T, 2) is the height and width that the intrinsics are for; None if the file has no size.
    """

    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    near: NDArray[np.float64]
    far: NDArray[np.float64]
    size: NDArray[np.float64] | None = None


class Fields(Mapping[str, NDArray[np.float64]]):
    """The fields of `FIELDS` that any frame has, each checked on first access and cached.

    Access raises DataError naming file, frame, field, expectation and content: for a field that is
    missing in some frames, has another shape than `FIELDS` says or than it has in frame 0, or is not finite.
    """

    def __init__(self, path: Path, items: Mapping[str, list[object]]) -> None:
        self._path = path
        self._items = items
        self._checked: dict[str, NDArray[np.float64]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._checked:
            self._checked[name] = _series(self._path, name, FIELDS[name], self._items[name])
        return self._checked[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@dataclass(frozen=True, kw_only=True, eq=False)
class LowDim:
    """All frames of one demonstration, without images. Fields are validated on access.

    `values` maps each field of `FIELDS` that the file has to its (T, ...) array, `misc` holds the matrices of the
    cameras, `seed` the random state and `task_state` the object poses of frame 0, as the file has them.
    """

    path: Path
    frames: int
    values: Mapping[str, NDArray[np.float64]]
    misc: tuple[object, ...]
    seed: object
    task_state: object = None

    def field(self, name: str) -> NDArray[np.float64]:
        """Return the (T, ...) array of a field; DataError naming file and field when it is missing or damaged."""
        if name not in self.values:
            raise DataError(
                f"{self.path}: field {name} is missing (or None) in its observations; "
                f"it has {', '.join(self.values) or 'none that mnprobe reads'}"
            )
        return self.values[name]

    @cached_property
    def tracks(self) -> Mapping[str, CameraTrack | str]:
        """Matrices of each camera, or the error text if damaged, in PerAct's order."""
        return _tracks(self.path, self.misc)

    @cached_property
    def random_seed(self) -> RandomState | None:
        """State of numpy's legacy generator before the scene was reset (the five parts of `numpy.random.get_state()`).

        None if the file has none.
        """
        return _random_state(self.path, self.seed)

    @cached_property
    def task_low_dim_state(self) -> NDArray[np.float64] | None:
        """Poses of the task's objects in frame 0, (n,); None if the file has no such numbers."""
        return _task_state(self.task_state)

    def camera(self, name: str, frame: int) -> Camera:
        """The camera at one frame; DataError naming file and field when its matrices are missing."""
        track = self.tracks.get(name)
        if track is None:
            known = ", ".join(camera_order(set(self.tracks))) or "none"
            raise DataError(f"{self.path}: field misc has no camera {name!r}; cameras in it: {known}")
        if isinstance(track, str):
            raise DataError(track)
        try:
            return Camera(
                name=name,
                intrinsics=track.intrinsics[frame],
                extrinsics=track.extrinsics[frame],
                near=float(track.near[frame]),
                far=float(track.far[frame]),
                size=None if track.size is None else _whole_size(track.size[frame]),
            )
        except ConfigError as error:
            raise DataError(f"{self.path}: field misc of frame {frame}: {error}") from error


def read_low_dim(path: Path) -> LowDim:
    """Read `low_dim_obs.pkl` through the restricted reader; the last few files read are kept in memory.

    Raises:
        DataError: naming the file, if it is missing, damaged or unsafe, contains no Demo of at least two observations,
            or an array in it claims another size than it has. Other problems of a field are raised on access.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int, _size: int) -> LowDim:
    try:
        demo = load(path, allow="demo")
    except RefusedGlobal as refused:
        if not refused.name.startswith("Bimanual"):
            raise
        raise RefusedGlobal(
            f"{refused} It is of two arms, which mnprobe does not read: compute the features yourself and write them "
            "with mnprobe.features.write_features (docs/data.md).",
            refused.module,
            refused.name,
        ) from refused
    if not isinstance(demo, Record) or demo.kind is not Global.DEMO:
        raise DataError(f"{path}: holds {_kind(demo)} instead of a Demo")
    observations = _observations(path, demo.attributes.get("_observations"))
    misc = _per_frame_cameras([item.attributes.get("misc") for item in observations])
    _check_number_of_cameras(path, misc)
    columns = {
        name: [_whole(path, name, frame, item.attributes.get(name)) for frame, item in enumerate(observations)]
        for name in FIELDS
    }
    return LowDim(
        path=path,
        frames=len(observations),
        values=Fields(
            path, {name: items for name, items in columns.items() if any(item is not None for item in items)}
        ),
        misc=misc,
        seed=demo.attributes.get("random_seed"),
        task_state=observations[0].attributes.get("task_low_dim_state"),
    )


def _task_state(item: object) -> NDArray[np.float64] | None:
    """Poses of the task's objects as (n,); None for anything else, since no measurement needs them."""
    if not isinstance(item, ArrayRecord):
        return None
    try:
        state = np.array(make_array(item), dtype=np.float64)
    except Malformed:
        return None
    if state.ndim != 1 or not state.size or not np.isfinite(state).all():
        return None
    state.flags.writeable = False
    return state


def _observations(path: Path, found: object) -> list[Record]:
    if not isinstance(found, list):
        raise DataError(f"{path}: field _observations of the Demo is {_kind(found)} instead of a list")
    if len(found) > _MOST_FRAMES:
        raise DataError(f"{path}: field _observations holds {len(found)} frames; at most {_MOST_FRAMES} are read")
    for frame, item in enumerate(found):
        if not isinstance(item, Record) or item.kind is not Global.OBSERVATION:
            raise DataError(f"{path}: field _observations, frame {frame}: {_kind(item)} instead of an Observation")
    if len(found) < 2:
        number = "one frame" if found else "no frame"
        raise DataError(
            f"{path}: field _observations holds {number}; a demonstration needs at least two, a start and a keyframe"
        )
    return found


def _whole(path: Path, name: str, frame: int, item: object) -> object:
    """Convert a record to an array; return other values, and records that are not numeric arrays, unchanged.

    An array whose size does not match its bytes raises at once: the file is damaged or malicious.
    """
    if not isinstance(item, ArrayRecord):
        return item
    try:
        return make_array(item)
    except Lying as lie:
        raise DataError(f"{path}: field {name} of frame {frame}: {lie}") from lie
    except Malformed:
        return item  # raised only on access to this field


def _series(path: Path, name: str, shape: tuple[int | None, ...], items: list[object]) -> NDArray[np.float64]:
    """One field over all frames as (T, ...) float64."""
    missing = [frame for frame, item in enumerate(items) if item is None]
    if missing:
        raise DataError(
            f"{path}: field {name} is missing (or None) in {len(missing)} of {len(items)} frames, first in frame "
            f"{missing[0]}; expected numbers of shape {_shape(shape)} in every frame"
        )
    arrays: list[NDArray[Any]] = []
    for frame, item in enumerate(items):
        try:
            arrays.append(_number(item, shape, arrays[0].shape if arrays else None))
        except Malformed as problem:
            raise DataError(f"{path}: field {name} of frame {frame}: {problem}") from problem
    series = np.array(arrays, dtype=np.float64)
    if not np.isfinite(series).all():
        place = tuple(np.argwhere(~np.isfinite(series))[0])
        raise DataError(
            f"{path}: field {name} of frame {int(place[0])} holds a number that is not finite; "
            f"expected finite numbers, found {series[place]}"
        )
    series.flags.writeable = False
    return series


def _number(item: object, shape: tuple[int | None, ...], first: tuple[int, ...] | None) -> NDArray[Any]:
    """The numbers of one frame; `first` is the shape that frame 0 has."""
    if isinstance(item, ArrayRecord | np.ndarray):
        array = make_array(item) if isinstance(item, ArrayRecord) else item
        if shape == () and array.size == 1:
            return array.reshape(())
        fits = array.ndim == len(shape) and all(
            found == size or (size is None and 0 < found <= _MOST_JOINTS)
            for size, found in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise Malformed(f"has shape {array.shape}, expected {_shape(shape)}")
        if first is not None and array.shape != first:
            raise Malformed(f"has shape {array.shape}, expected {first} as in frame 0")
        return array
    if shape == () and isinstance(item, int | float):
        try:
            return np.array(float(item))
        except OverflowError:
            raise Malformed("is too large for a number") from None
    raise Malformed(f"is {_kind(item)}, expected numbers of shape {_shape(shape)}")


def _shape(shape: tuple[int | None, ...]) -> str:
    """Format a shape; n is a free length."""
    return str(shape).replace("None", "n")


def _per_frame_cameras(found: list[object]) -> tuple[object, ...]:
    """Camera entries of each frame's `misc`; other values are returned unchanged."""
    distinct = {id(misc): misc for misc in found}  # a malicious file may repeat one large dictionary
    kept = {
        number: {key: item for key, item in misc.items() if isinstance(key, str) and _CAMERA_KEY.fullmatch(key)}
        if isinstance(misc, dict)
        else misc
        for number, misc in distinct.items()
    }
    return tuple(kept[id(misc)] for misc in found)


def _tracks(path: Path, found: tuple[object, ...]) -> dict[str, CameraTrack | str]:
    """Cameras named in `misc`, in PerAct's order."""
    misc: list[dict[str, object]] = []
    for frame, entry in enumerate(found):
        if entry is not None and not isinstance(entry, dict):
            raise DataError(f"{path}: field misc of frame {frame} is {_kind(entry)} instead of a dictionary")
        misc.append(entry or {})
    return {name: _track(path, name, misc) for name in camera_order(_camera_names(found))}


def _camera_names(misc: tuple[object, ...]) -> set[str]:
    distinct = {id(entry): entry for entry in misc if isinstance(entry, dict)}.values()
    keys = {key for entry in distinct for key in entry}
    return {match[1] for key in keys if (match := _CAMERA_KEY.fullmatch(key)) and match[2] != "size"}


def _check_number_of_cameras(path: Path, misc: tuple[object, ...]) -> None:
    names = _camera_names(misc)
    if len(names) > _MOST_CAMERAS:
        raise DataError(f"{path}: field misc names {len(names)} cameras; at most {_MOST_CAMERAS} are read")


def _track(path: Path, name: str, misc: list[dict[str, object]]) -> CameraTrack | str:
    parts: dict[str, NDArray[np.float64]] = {}
    for part, shape in _CAMERA_SHAPES.items():
        key = f"{name}_camera_{part}"
        items = [entry.get(key) for entry in misc]
        if all(item is None for item in items):
            if part == "size":
                continue
            return f"{path}: field misc has no {key!r}, though it has other parts of that camera"
        try:
            parts[part] = _series(path, f"misc[{key!r}]", shape, items)
        except DataError as error:
            return str(error)  # raised only on access to this camera
    return CameraTrack(**parts)


def _whole_size(size: NDArray[np.float64]) -> tuple[int, int]:
    height, width = (as_whole(side, "a side of its size", least=1) for side in size)
    return height, width


def _random_state(path: Path, found: object) -> RandomState | None:
    if found is None:
        return None
    match found:
        case ("MT19937", ArrayRecord() as record, int(position), int(has_gauss), int() | float() as gauss):
            try:
                words = make_array(record)
            except Malformed as problem:
                raise DataError(f"{path}: field random_seed: {problem}") from problem
            if words.shape == (624,) and words.dtype.kind == "u" and 0 <= position <= 624 and has_gauss in (0, 1):
                words = words.astype(np.uint32)
                words.flags.writeable = False
                return "MT19937", words, int(position), int(has_gauss), float(gauss)
    raise DataError(f"{path}: field random_seed is not a state of numpy's MT19937 generator")


def _kind(item: object) -> str:
    """Describe a value in a short text, without the content of the pickle."""
    if isinstance(item, Record):
        return f"{'an' if item.kind is Global.OBSERVATION else 'a'} {item.kind.value}"
    if isinstance(item, ArrayRecord):
        return "an array"
    if isinstance(item, Other):
        return "something that is no array of numbers"
    return "None" if item is None else f"a {type(item).__name__}"
