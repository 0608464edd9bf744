"""The numbers of a demonstration, `low_dim_obs.pkl`, as arrays over its frames."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data.camera import Camera, camera_order
from mnprobe.data.records import ArrayRecord, Global, Malformed, Record, make_array
from mnprobe.data.unpickle import load

__all__ = ["FIELDS", "CameraTrack", "LowDim", "RandomState", "read_low_dim"]

# What is read of every observation, with its shape; all become float64.
FIELDS: dict[str, tuple[int, ...]] = {
    "gripper_open": (),
    "gripper_pose": (7,),
    "gripper_matrix": (4, 4),
    "gripper_joint_positions": (2,),
    "joint_positions": (7,),
    "joint_velocities": (7,),
    "ignore_collisions": (),
}
_CAMERA_KEY = re.compile(r"([A-Za-z0-9_]+)_camera_(extrinsics|intrinsics|near|far)")
_CAMERA_SHAPES: dict[str, tuple[int, ...]] = {"intrinsics": (3, 3), "extrinsics": (4, 4), "near": (), "far": ()}
_MOST_FRAMES = 20_000  # 17 minutes at RLBench's 20 frames a second
_MOST_CAMERAS = 32

RandomState = tuple[str, NDArray[np.uint32], int, int, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraTrack:
    """A camera over all frames: intrinsics (T, 3, 3), extrinsics (T, 4, 4), near (T,), far (T,)."""

    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    near: NDArray[np.float64]
    far: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LowDim:
    """All frames of one demonstration, without images.

    `values` maps each field of `FIELDS` that the file has to its (T, ...) array; `tracks` each camera to its matrices
    or, where these are damaged, to the sentence that says how. `random_seed` is the state of numpy's legacy generator
    before the scene was reset (the five parts of `numpy.random.get_state()`), None where the file has none.
    `task_low_dim_state` (n,) holds the poses of the task's objects in frame 0, None where the file has no such numbers.
    """

    path: Path
    frames: int
    values: Mapping[str, NDArray[np.float64]]
    tracks: Mapping[str, CameraTrack | str]
    random_seed: RandomState | None
    task_low_dim_state: NDArray[np.float64] | None = None

    def field(self, name: str) -> NDArray[np.float64]:
        """The (T, ...) array of a field; DataError naming the file and the field when the file does not have it."""
        if name not in self.values:
            raise DataError(
                f"{self.path}: field {name} is missing (or None) in its observations; "
                f"it has {', '.join(self.values) or 'none that mnprobe reads'}"
            )
        return self.values[name]

    def camera(self, name: str, frame: int) -> Camera:
        """The camera at one frame; DataError naming the file and the field when its matrices are not there."""
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
            )
        except ConfigError as error:
            raise DataError(f"{self.path}: field misc of frame {frame}: {error}") from error


def read_low_dim(path: Path) -> LowDim:
    """Read `low_dim_obs.pkl` through the restricted reader; the last few files read are kept in memory.

    Raises:
        DataError: naming the file and the field, if the file is missing, damaged or hostile, holds no Demo of at
            least two observations, or a field has another shape than `FIELDS` says, is missing in some frames, or
            holds numbers that are not finite.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int, _size: int) -> LowDim:
    demo = load(path, allow="demo")
    if not isinstance(demo, Record) or demo.kind is not Global.DEMO:
        raise DataError(f"{path}: holds {_kind(demo)} instead of a Demo")
    observations = _observations(path, demo.attributes.get("_observations"))
    values = {
        name: array
        for name, shape in FIELDS.items()
        if (array := _series(path, name, shape, [item.attributes.get(name) for item in observations])) is not None
    }
    return LowDim(
        path=path,
        frames=len(observations),
        values=values,
        tracks=_tracks(path, observations),
        random_seed=_random_state(path, demo.attributes.get("random_seed")),
        task_low_dim_state=_task_state(observations[0].attributes.get("task_low_dim_state")),
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


def _series(path: Path, name: str, shape: tuple[int, ...], items: list[object]) -> NDArray[np.float64] | None:
    """One field over all frames as (T, *shape) float64; None when no frame has it."""
    missing = [frame for frame, item in enumerate(items) if item is None]
    if len(missing) == len(items):
        return None
    if missing:
        raise DataError(
            f"{path}: field {name} is missing in {len(missing)} of {len(items)} frames, first in frame {missing[0]}"
        )
    series = np.empty((len(items), *shape))
    for frame, item in enumerate(items):
        try:
            series[frame] = _number(item, shape)
        except Malformed as problem:
            raise DataError(f"{path}: field {name} of frame {frame}: {problem}") from problem
    if not np.isfinite(series).all():
        frame = int(np.argwhere(~np.isfinite(series))[0][0])
        raise DataError(f"{path}: field {name} of frame {frame} holds a number that is not finite")
    series.flags.writeable = False
    return series


def _number(item: object, shape: tuple[int, ...]) -> float | NDArray[Any]:
    if isinstance(item, ArrayRecord):
        array = make_array(item)
        if array.shape != shape and not (shape == () and array.size == 1):
            raise Malformed(f"has shape {array.shape}, expected {shape}")
        return array.reshape(shape)
    if shape == () and isinstance(item, int | float):
        try:
            return float(item)
        except OverflowError:
            raise Malformed("is too large for a number") from None
    raise Malformed(f"is {_kind(item)}, expected numbers of shape {shape}")


def _tracks(path: Path, observations: list[Record]) -> dict[str, CameraTrack | str]:
    """Cameras named in `misc`, in PerAct's order."""
    misc: list[dict[object, object]] = []
    for frame, item in enumerate(observations):
        entry = item.attributes.get("misc")
        if entry is not None and not isinstance(entry, dict):
            raise DataError(f"{path}: field misc of frame {frame} is {_kind(entry)} instead of a dictionary")
        misc.append(entry or {})
    distinct = {id(entry): entry for entry in misc}.values()  # a crafted file may repeat one large dictionary
    keys = {key for entry in distinct for key in entry if isinstance(key, str)}
    names = {found[1] for key in keys if (found := _CAMERA_KEY.fullmatch(key))}
    if len(names) > _MOST_CAMERAS:
        raise DataError(f"{path}: field misc names {len(names)} cameras; at most {_MOST_CAMERAS} are read")
    return {name: _track(path, name, misc) for name in camera_order(names)}


def _track(path: Path, name: str, misc: list[dict[object, object]]) -> CameraTrack | str:
    parts: dict[str, NDArray[np.float64]] = {}
    for part, shape in _CAMERA_SHAPES.items():
        key = f"{name}_camera_{part}"
        try:
            series = _series(path, f"misc[{key!r}]", shape, [entry.get(key) for entry in misc])
        except DataError as error:
            return str(error)  # only a reader of this camera needs to hear of it
        if series is None:
            return f"{path}: field misc has no {key!r}, though it has other parts of that camera"
        parts[part] = series
    return CameraTrack(**parts)


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
    """What a thing is, in words that cannot run away: never the content of a pickle."""
    if isinstance(item, Record):
        return f"{'an' if item.kind is Global.OBSERVATION else 'a'} {item.kind.value}"
    if isinstance(item, ArrayRecord):
        return "an array"
    return "None" if item is None else f"a {type(item).__name__}"
