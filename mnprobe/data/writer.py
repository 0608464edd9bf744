"""Atomic writer of episodes in PerAct's layout."""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import sync
from mnprobe.core.labels import asked_partition, has_control_characters
from mnprobe.data.camera import Camera
from mnprobe.data.images import KINDS, code_to_rgb, depth_to_code, mask_to_rgb, write_png
from mnprobe.data.keyframes import find_keyframes
from mnprobe.data.layout import PARTITIONS
from mnprobe.data.low_dim import RandomState
from mnprobe.data.pickling import dumps
from mnprobe.data.records import Global, Record
from mnprobe.data.rlbench import DESCRIPTIONS_FILE, LOW_DIM_FILE, NUMBER_FILE

__all__ = ["FrameData", "ImageChoice", "episode_folder", "write_episode"]

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_NOTE = re.compile(r"[a-z][a-z0-9_]*\.(json|csv|txt)")
# Attributes of RLBench's Observation that its loaders expect, although the pixels are in image files.
_IMAGE_ATTRIBUTES = tuple(
    f"{camera}_{kind}"
    for camera in ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
    for kind in (*KINDS, "point_cloud")
)

FrameChoice: TypeAlias = str | Collection[int]  # "all", "keyframes", or frame numbers
ImageChoice: TypeAlias = FrameChoice | Mapping[str, FrameChoice]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameData:
    """State of a simulator at one frame: required and optional inputs of `write_episode`.

    Attributes:
        gripper_pose: (7,) world position in metres and quaternion x y z w of length 1.
        gripper_open: 1.0 or 0.0 (or a boolean).
        joint_velocities: (J,) rad/s, one per joint of the arm; used to find keyframes.
        gripper_joint_positions: (F,) travel of the fingers in metres; for ARP two, 0.04 fully open.
        joint_positions: (J,) rad, or None.
        joint_forces: (J,) Nm, or None.
        gripper_matrix: (4, 4) the pose as a matrix; made from `gripper_pose` when None.
        gripper_touch_forces: (n,) N of any n, six in RLBench; or None.
        task_low_dim_state: (n,) of any n, or None.
        ignore_collisions: 1.0 or 0.0, or None to omit it; the same choice for all frames of an episode.
        cameras: name -> camera at this frame; one without a `size` is assumed to have that of its images
            (`Camera.for_image`).
        rgb: camera -> (H, W, 3) uint8.
        depth: camera -> (H, W) metres along the optical axis, within the camera's near and far; stored with an error
            of at most half of (far - near) / (2^24 - 1).
        mask: camera -> (H, W) object handles 0 .. 2^24 - 1.
    """

    gripper_pose: ArrayLike
    gripper_open: float
    joint_velocities: ArrayLike
    gripper_joint_positions: ArrayLike
    joint_positions: ArrayLike | None = None
    joint_forces: ArrayLike | None = None
    gripper_matrix: ArrayLike | None = None
    gripper_touch_forces: ArrayLike | None = None
    task_low_dim_state: ArrayLike | None = None
    ignore_collisions: float | None = None
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    rgb: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    depth: Mapping[str, ArrayLike] = field(default_factory=dict)
    mask: Mapping[str, ArrayLike] = field(default_factory=dict)


def episode_folder(root: Path, task: str, episode: int, partition: str = "") -> Path:
    """Path of an episode in PerAct's layout: `<root>/<partition>/<task>/all_variations/episodes/episode<N>`.

    >>> episode_folder(Path("demos"), "open_drawer", 3, "train").as_posix()
    'demos/train/open_drawer/all_variations/episodes/episode3'
    """
    return Path(root) / partition / task / "all_variations" / "episodes" / f"episode{episode}"


def write_episode(
    root: Path,
    *,
    task: str,
    variation: int,
    episode: int,
    instructions: Sequence[str],
    frames: Iterable[FrameData],
    partition: str = "",
    random_seed: RandomState | None = None,
    images: ImageChoice = "all",
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Write one episode, readable by `open_dataset` and by loaders of RLBench's and PerAct's data.

    The write is atomic: the folder is written under a temporary name next to its final path and renamed when complete.

    Args:
        root: the dataset's folder; created if needed.
        task: the task's name, letters, digits and underscores.
        variation: index of the variation, from 0.
        episode: the N of `episode<N>`.
        instructions: paraphrases, the usual one first; surrounding blanks and line breaks are removed.
        frames: at least two, in order, 0.05 s apart in RLBench's data.
        partition: "train", "val", "test", or "" for no such level; another name for one of these, such as
            "validation", is mapped with a warning.
        random_seed: state of numpy's legacy generator before the reset (`numpy.random.get_state()`), or None.
        images: selects the frames whose images are written: "all", "keyframes" (frame 0 and every keyframe but the
            last, as ARP's trimmed data have), a collection of frame numbers, or one of these per camera (other cameras
            get none). Low-dimensional data are written for all frames.
        notes: further text files of the episode's folder, by file name; readers of the layout ignore them.

    Returns:
        The episode's folder.

    Raises:
        ConfigError: naming frame and field of an invalid value.
        DataError: if the episode exists already.
    """
    partition = asked_partition(partition)
    _check_names(task, variation, episode, instructions, partition)
    data = tuple(frames)
    demo = _demo(data, variation, random_seed)
    chosen = _chosen(data, images)
    _check_images(data)
    for name in notes or {}:
        if not _NOTE.fullmatch(name):
            raise ConfigError(f"a note's file name must be like 'name.json', 'name.csv' or 'name.txt', got {name!r}")
    target = episode_folder(root, task, episode, partition)
    if target.exists():
        raise DataError(f"{target} exists already; episodes are never overwritten. Remove it or write another number.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process with our process number
    part.mkdir(parents=True)
    try:
        for name, content in (
            (LOW_DIM_FILE, demo),
            (DESCRIPTIONS_FILE, [text.strip() for text in instructions]),
            (NUMBER_FILE, variation),
        ):
            (part / name).write_bytes(dumps(content))
        for name, text in (notes or {}).items():
            (part / name).write_text(text, encoding="utf-8", newline="\n")
        for camera, indices in chosen.items():
            for index in indices:
                _write_images(part, camera, index, data[index])
        _rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _check_names(task: str, variation: int, episode: int, instructions: Sequence[str], partition: str) -> None:
    if not _TASK.fullmatch(task):
        raise ConfigError(f"task must be letters, digits and underscores, got {task!r}")
    if partition not in (*PARTITIONS, ""):
        raise ConfigError(f"partition must be train, val, test or empty, got {partition!r}")
    for name, number in (("variation", variation), ("episode", episode)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(f"{name} must be a whole number from 0, got {number!r}")
    if isinstance(instructions, str) or not instructions:
        raise ConfigError(f"instructions must be a sequence of at least one text, got {instructions!r}")
    for text in instructions:
        if not isinstance(text, str) or not text.strip() or has_control_characters(text.strip()):
            raise ConfigError(
                f"an instruction must be a printable text, got {text!r}; line breaks and control characters are none"
            )


def _demo(frames: tuple[FrameData, ...], variation: int, random_seed: RandomState | None) -> Record:
    if len(frames) < 2:
        raise ConfigError(f"an episode needs at least two frames, got {len(frames)}")
    told = [frame.ignore_collisions is not None for frame in frames]
    if any(told) and not all(told):
        raise ConfigError(f"ignore_collisions is given in some frames only; frame {told.index(False)} has none")
    for index, frame in enumerate(frames):
        if frame.cameras.keys() != frames[0].cameras.keys():
            raise ConfigError(
                f"frame {index} has cameras {', '.join(frame.cameras) or 'none'}, "
                f"frame 0 has {', '.join(frames[0].cameras) or 'none'}; all frames must have the same"
            )
    for name in frames[0].cameras:
        if not _CAMERA.fullmatch(name):
            raise ConfigError(f"a camera's name must be letters, digits and underscores, got {name!r}")
    sized = _sizes_to_write(frames)
    observations = [_observation(index, frame, sized) for index, frame in enumerate(frames)]
    _require_equal_lengths(observations)
    state = None if random_seed is None else _random_state(random_seed)
    return Record(
        Global.DEMO, {"_observations": observations, "random_seed": state, "variation_number": int(variation)}
    )


def _observation(index: int, frame: FrameData, sized: set[str]) -> Record:
    def numbers(name: str, shape: tuple[int | None, ...], value: ArrayLike | None) -> NDArray[np.float64] | None:
        return None if value is None else _numbers(f"frame {index}: {name}", shape, value)

    pose = _numbers(f"frame {index}: gripper_pose", (7,), frame.gripper_pose)
    if not abs(float(np.linalg.norm(pose[3:])) - 1) < 1e-3:
        raise ConfigError(f"frame {index}: gripper_pose's quaternion must have length 1, got {pose[3:].tolist()}")
    if frame.gripper_open not in (0, 1):
        raise ConfigError(f"frame {index}: gripper_open must be 1.0 or 0.0, got {frame.gripper_open!r}")
    matrix = _pose_matrix(pose) if frame.gripper_matrix is None else frame.gripper_matrix
    attributes: dict[str, object] = dict.fromkeys(_IMAGE_ATTRIBUTES)
    attributes |= {
        "joint_velocities": numbers("joint_velocities", (None,), frame.joint_velocities),
        "joint_positions": numbers("joint_positions", (None,), frame.joint_positions),
        "joint_forces": numbers("joint_forces", (None,), frame.joint_forces),
        "gripper_open": float(frame.gripper_open),
        "gripper_pose": pose,
        "gripper_matrix": numbers("gripper_matrix", (4, 4), matrix),
        "gripper_joint_positions": numbers("gripper_joint_positions", (None,), frame.gripper_joint_positions),
        "gripper_touch_forces": numbers("gripper_touch_forces", (None,), frame.gripper_touch_forces),
        "task_low_dim_state": numbers("task_low_dim_state", (None,), frame.task_low_dim_state),
    }
    if frame.ignore_collisions is not None:
        if frame.ignore_collisions not in (0, 1):
            raise ConfigError(f"frame {index}: ignore_collisions must be 1.0 or 0.0, got {frame.ignore_collisions!r}")
        attributes["ignore_collisions"] = np.array(float(frame.ignore_collisions))
    attributes["misc"] = {
        f"{name}_camera_{part}": value
        for name, camera in frame.cameras.items()
        for part, value in (
            ("extrinsics", np.array(camera.extrinsics)),
            ("intrinsics", np.array(camera.intrinsics)),
            ("near", float(camera.near)),
            ("far", float(camera.far)),
        )
    } | {
        f"{name}_camera_size": np.array(camera.size, dtype=np.int64)
        for name, camera in frame.cameras.items()
        if name in sized
    }
    return Record(Global.OBSERVATION, attributes)


def _require_equal_lengths(observations: list[Record]) -> None:
    """Check that joints and fingers are the same in all frames; optional fields may be None."""
    for name in ("joint_velocities", "joint_positions", "joint_forces", "gripper_joint_positions"):
        values: list[Any] = [observation.attributes[name] for observation in observations]
        shapes = [np.shape(value) for value in values]
        given = [index for index, shape in enumerate(shapes) if shape]
        for index in given:
            if shapes[index] != shapes[given[0]]:
                raise ConfigError(
                    f"frame {index}: {name} has shape {shapes[index]}, in frame {given[0]} {shapes[given[0]]}"
                )
            if 0 in shapes[index]:
                raise ConfigError(f"frame {index}: {name} must have at least one number, got none")


def _sizes_to_write(frames: tuple[FrameData, ...]) -> set[str]:
    """Cameras whose size must be written, because a reader would infer another size from their intrinsics."""
    found = set()
    for name, view in frames[0].cameras.items():
        views = [frame.cameras[name] for frame in frames]
        unknown = [index for index, camera in enumerate(views) if (camera.size is None) != (view.size is None)]
        if unknown:
            raise ConfigError(
                f"camera {name!r}: its size is given in some frames only; frame {unknown[0]} is unlike frame 0"
            )
        if view.size is None:
            continue
        pictures = (
            images[name] for frame in frames for images in (frame.rgb, frame.depth, frame.mask) if name in images
        )
        picture: Any = next(pictures, np.empty(view.size))
        seen = np.shape(picture)[:2]
        if len(seen) == 2 and 0 not in seen and any(_is_read_otherwise(camera, *seen) for camera in views):
            found.add(name)
    return found


def _is_read_otherwise(camera: Camera, height: int, width: int) -> bool:
    as_read = replace(camera, size=None).for_image(height, width)
    return not np.array_equal(as_read.intrinsics, camera.for_image(height, width).intrinsics)


def _numbers(what: str, shape: tuple[int | None, ...], value: ArrayLike) -> NDArray[np.float64]:
    array = np.array(value, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        size in (None, found) for size, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"{what} must have shape {tuple('n' if size is None else size for size in shape)}, got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ConfigError(f"{what} must hold finite numbers, got {array.tolist()}")
    return array


def _random_state(state: RandomState) -> tuple[object, ...]:
    try:
        np.random.RandomState().set_state(state)
    except (IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"random_seed must be what numpy.random.get_state() gives, or None ({error})") from error
    kind, words, position, has_gauss, gauss = state
    return str(kind), np.array(words, dtype=np.uint32), int(position), int(has_gauss), float(gauss)


def _pose_matrix(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) homogeneous matrix of a position and a quaternion x y z w."""
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[:3]
    return matrix


def _chosen(frames: tuple[FrameData, ...], images: ImageChoice) -> dict[str, tuple[int, ...]]:
    """Frames whose images are written, by camera."""
    cameras = list(frames[0].cameras)
    if isinstance(images, Mapping):
        unknown = [name for name in images if name not in cameras]
        if unknown:
            raise ConfigError(f"images names camera {unknown[0]!r}; the frames have {', '.join(cameras) or 'none'}")
        return {name: _indices(frames, choice) for name, choice in images.items()}
    indices = _indices(frames, images)
    return dict.fromkeys(cameras, indices)


def _indices(frames: tuple[FrameData, ...], choice: FrameChoice) -> tuple[int, ...]:
    if choice == "all":
        return tuple(range(len(frames)))
    if choice == "keyframes":
        keys = find_keyframes(
            [float(frame.gripper_open) for frame in frames],
            np.array([frame.joint_velocities for frame in frames], dtype=np.float64),
        )
        return (0, *keys[:-1])
    if isinstance(choice, str):
        raise ConfigError(f"images must be 'all', 'keyframes' or frame numbers, got {choice!r}")
    for index in choice:
        if not 0 <= index < len(frames):
            raise ConfigError(f"images names frame {index}; the episode has frames 0 to {len(frames) - 1}")
    return tuple(sorted(set(choice)))


def _check_images(frames: tuple[FrameData, ...]) -> None:
    """Check that every image is of a known camera and the right type, with one size per camera."""
    sizes: dict[str, tuple[int, ...]] = {}
    for index, frame in enumerate(frames):
        for kind in KINDS:
            pictures: Mapping[str, Any] = getattr(frame, kind)
            for name, picture in pictures.items():
                if name not in frame.cameras:
                    raise ConfigError(f"frame {index}: {kind} of camera {name!r}, which is not among its cameras")
                shape = np.shape(picture)
                if len(shape) != (3 if kind == "rgb" else 2) or 0 in shape:
                    raise ConfigError(f"frame {index}: {kind} of camera {name!r} has shape {shape}")
                if sizes.setdefault(name, shape[:2]) != shape[:2]:
                    raise ConfigError(
                        f"frame {index}: {kind} of camera {name!r} is {shape[:2]}, another image of it {sizes[name]}"
                    )


def _write_images(folder: Path, camera: str, index: int, frame: FrameData) -> None:
    view = frame.cameras[camera]
    made: dict[str, NDArray[np.uint8]] = {}
    try:
        if camera in frame.rgb:
            made["rgb"] = np.asarray(frame.rgb[camera])
        if camera in frame.depth:
            made["depth"] = code_to_rgb(depth_to_code(frame.depth[camera], view.near, view.far))
        if camera in frame.mask:
            made["mask"] = mask_to_rgb(frame.mask[camera])
        for kind, pixels in made.items():
            target = folder / f"{camera}_{kind}"
            target.mkdir(exist_ok=True)
            write_png(target / f"{index}.png", pixels)
    except ConfigError as error:
        raise ConfigError(f"frame {index}, camera {camera!r}: {error}") from error


def _rename(part: Path, target: Path) -> None:
    for path in (
        part / LOW_DIM_FILE,
        part,
    ):  # images are not synced individually: a damaged one is detected when it is read
        sync(path)
    try:
        part.rename(target)
    except OSError as error:
        raise DataError(f"{target} appeared while it was written; it was left as it is ({error.strerror})") from error
