"""Training dataset: clips, key-to-key steps and texts, decoded once and cached."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.labels import one_spelling
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, versions
from mnprobe.core.registry import unknown_name
from mnprobe.core.seeds import derived_seed
from mnprobe.data import Dataset, Episode, Frame, RLBenchEpisode, require, rgb_to_code
from mnprobe.data.images import DEPTH_STEPS
from mnprobe.features.inputs import FramesRule, read_clip
from mnprobe.models.arp import ARPConfig, Batch, KeptViews, Observation, Target, draw_kept, drawing_settings
from mnprobe.models.arp.augment import draw_zoom_noise
from mnprobe.models.arp.pointcloud import flatten_cameras
from mnprobe.models.viclip import ViCLIPConfig, crop_images, preprocess, resize_bilinear
from mnprobe.probe.splits import GroupKind
from mnprobe.training.cache import Arrays, Rows, cached_arrays

__all__ = [
    "Language",
    "TrainingInputs",
    "batch_of_steps",
    "batch_of_views",
    "clip_key",
    "codes_to_points",
    "normalised_clips",
    "prepare_inputs",
    "read_clip_bytes",
    "read_steps",
    "read_views",
    "steps_key",
    "views_key",
]


def clip_key(config: ViCLIPConfig, camera: str, frames_rule: FramesRule) -> dict[str, Any]:
    """Return all that the bytes of a clip depend on, except the dataset."""
    return {
        "camera": camera,
        "frames_rule": frames_rule,
        "frames": config.frames,
        "image_size": config.image_size,
        "crop": list(config.crop),
    }


def read_clip_bytes(
    episode: Episode, config: ViCLIPConfig, camera: str, frames_rule: FramesRule
) -> dict[str, NDArray[Any]]:
    """Read the clip of one episode: `clips` (1, T, S, S, 3) uint8 RGB, cropped and resized as in ViCLIP's
    preprocessing.

    Only normalisation is left to `normalised_clips`: a training gets the numbers that the extractor computes, bit for
    bit, from a quarter of the bytes.
    """
    frames = torch.from_numpy(read_clip(episode, camera, config.frames, frames_rule).frames)
    return {"clips": resize_bilinear(crop_images(frames, config.crop), config.image_size).numpy()[None]}


def normalised_clips(
    frames: UInt8[np.ndarray, "b t size size 3"], device: torch.device | str = "cpu"
) -> Float[Tensor, "b t 3 size size"]:
    """Normalise the bytes of `read_clip_bytes` to the input of the video encoder, on `device`."""
    return preprocess(frames, size=frames.shape[-2], device=device)


_PIXELS_AT_ONCE = 2**16  # measured: four times as fast as the whole batch at once, which exceeds the CPU caches


def steps_key(cameras: Sequence[str], point_stride: int) -> dict[str, Any]:
    """Return all that the arrays of steps depend on, except the dataset."""
    return {"cameras": list(cameras), "point_stride": point_stride}


def read_steps(episode: Episode, row: int, cameras: Sequence[str], point_stride: int) -> dict[str, NDArray[Any]]:
    """Read all K key-to-key steps of one episode: the observation at a keyframe and the action to the next one.

    `episode` (K,) int64 the given row number; `pose` (K, 7), `gripper_open` (K,), `ignore_collisions` (K,), `state` (K,
    3) float32; for camera c: `rgb_c` (K, 3, h, w) uint8, `depth_c` (K, h, w) int32 the 24-bit codes as stored on disk,
    from which points are exact; `intrinsics` (K, C, 3, 3) of the whole image, `extrinsics` (K, C, 4, 4), `range`
    (K, C, 2) near and far, float64. Images are subsampled: every `point_stride`-th row and column, from the first.
    """
    recorded = require(episode, "key poses", "depth", "camera matrices", who="training a policy")
    steps = recorded.steps()
    if not steps:
        raise DataError(f"{episode.folder}: no keyframe, so there is no step to learn from; leave it out")
    frames = [recorded.frame(step.observed) for step in steps]
    arrays: dict[str, NDArray[Any]] = {
        "episode": np.full(len(steps), row, dtype=np.int64),
        "pose": np.stack([step.gripper_pose for step in steps]).astype(np.float32),
        "gripper_open": np.array([step.gripper_open for step in steps], dtype=np.float32),
        "ignore_collisions": np.array([step.ignore_collisions for step in steps], dtype=np.float32),
        "state": np.stack([frame.state() for frame in frames]),
    }
    for number, camera in enumerate(cameras):
        arrays[f"rgb_{number}"] = _rgb(frames, camera, point_stride)
        arrays[f"depth_{number}"] = _codes(recorded, frames, camera, point_stride)
    return arrays | _matrices(frames, cameras) if cameras else arrays


def batch_of_steps(
    arrays: Arrays,
    rows: NDArray[np.int64],
    cameras: Sequence[str],
    point_stride: int,
    language: Float[Tensor, "b l w"],
    device: torch.device | str = "cpu",
) -> Batch:
    """Collate the steps `rows` of the arrays of `read_steps` to a batch on `device`, and compute its points there."""

    def take(name: str) -> Tensor:
        return torch.from_numpy(arrays[name][rows]).to(device, non_blocking=True)

    views = {name: take(name) for name in ("intrinsics", "extrinsics", "range")}
    return Batch(
        observation=Observation(
            point_cloud={
                camera: codes_to_points(
                    take(f"depth_{number}"), *(view[:, number] for view in views.values()), stride=point_stride
                )
                for number, camera in enumerate(cameras)
            },
            rgb={camera: take(f"rgb_{number}") for number, camera in enumerate(cameras)},
            language=language.to(device),
            state=take("state"),
        ),
        target=_target_of(take),
    )


def _target_of(take: Callable[[str], Tensor]) -> Target:
    """The key poses after steps, from their arrays by name."""
    return Target(pose=take("pose"), gripper_open=take("gripper_open"), ignore_collisions=take("ignore_collisions"))


def views_key(config: ARPConfig, draws: int) -> dict[str, Any]:
    """Return all that kept views depend on, except the dataset."""
    noise = {"zoom": config.zoom, "waypoint_noise": config.waypoint_noise, "draws": draws}
    return drawing_settings(config) | noise | {"versions": versions("torch")}


def read_views(episode: Episode, row: int, config: ARPConfig, draws: int) -> dict[str, NDArray[Any]]:
    """Draw the views of all K key-to-key steps of one episode; see `KeptViews`.

    `first` (K, 3, 7, S, S) float16, `second` (K, draws, 3, 7, S, S) float16, `waypoint` (K, 3) and `centre`
    (K, draws, 3) float32. The noise of the zoom centre follows from the episode's id and the number of the draw, so
    that all trainings have the same views.
    """
    arrays = read_steps(episode, row, config.cameras, config.point_stride)
    rows = np.arange(len(arrays["episode"]))
    batch = batch_of_steps(arrays, rows, config.cameras, config.point_stride, torch.zeros(len(rows), 1, 1))
    observation = batch.observation
    clouds = [observation.point_cloud[camera] for camera in config.cameras]
    units = [
        draw_zoom_noise(len(rows), torch.Generator().manual_seed(derived_seed(draw, "kept views", episode.id)))
        for draw in range(draws)
    ]
    views = draw_kept(
        *flatten_cameras(clouds, [observation.rgb[camera] for camera in config.cameras]),
        batch.target.pose[:, :3],
        units,
        config,
    )
    return {
        "first": views[0].first.half().numpy(),
        "second": torch.stack([one.second for one in views], dim=1).half().numpy(),
        "waypoint": views[0].waypoint.numpy(),
        "centre": torch.stack([one.centre for one in views], dim=1).numpy(),
    }


def batch_of_views(
    steps: Arrays,
    views: Arrays,
    rows: NDArray[np.int64],
    draws: NDArray[np.int64],
    cameras: Sequence[str],
    language: Float[Tensor, "b l w"],
    device: torch.device | str = "cpu",
) -> Batch:
    """Collate the steps `rows` with their kept views, of the draw `draws` of each; images and points are empty."""

    def take(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    nothing = torch.zeros(len(rows), 3, 0, 0, device=device)
    return Batch(
        observation=Observation(
            point_cloud=dict.fromkeys(cameras, nothing),
            rgb=dict.fromkeys(cameras, nothing.to(torch.uint8)),
            language=language.to(device),
            state=take(steps["state"][rows]),
        ),
        target=_target_of(lambda name: take(steps[name][rows])),
        views=KeptViews(
            first=take(views["first"][rows]),
            second=take(views["second"][rows, draws]),
            waypoint=take(views["waypoint"][rows]),
            centre=take(views["centre"][rows, draws]),
        ),
    )


def codes_to_points(
    codes: Int32[Tensor, "b h w"],
    intrinsics: Float64[Tensor, "b 3 3"],
    extrinsics: Float64[Tensor, "b 4 4"],
    near_far: Float64[Tensor, "b 2"],
    *,
    stride: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """Compute world points (float32, metres) from 24-bit depth codes, equal to `data.Frame.points`.

    Pixel (row i, column j) is at position (stride j, stride i) of the image that the intrinsics describe. With depth d
    and rotation R of the camera, the point is C + d R ((u - cx)/fx, (v - cy)/fy, 1). The direction is a sum of one term
    per column and one per row, so an image costs one sum and one product per coordinate. Computed in float64 and
    rounded once, a few images at a time, so that intermediate results fit the CPU cache.
    """
    height, width = codes.shape[-2:]
    near, span = near_far[:, 0, None, None], (near_far[:, 1] - near_far[:, 0])[:, None, None]
    u = torch.arange(0, stride * width, stride, dtype=torch.float64, device=codes.device)
    v = torch.arange(0, stride * height, stride, dtype=torch.float64, device=codes.device)
    x = (u - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]  # (b, w)
    y = (v - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]  # (b, h)
    rotation, center = extrinsics[:, :3, :3], extrinsics[:, :3, 3, None, None]
    across = (rotation[:, :, 0, None] * x[:, None])[:, :, None, :]  # (b, 3, 1, w)
    down = (rotation[:, :, 1, None] * y[:, None] + rotation[:, :, 2, None])[..., None]  # (b, 3, h, 1)
    points = torch.empty(len(codes), 3, height, width, device=codes.device)
    pixels = _PIXELS_AT_ONCE if codes.device.type == "cpu" else len(codes) * height * width
    images = max(1, pixels // (height * width))
    for block in (slice(start, start + images) for start in range(0, len(codes), images)):
        depth = codes[block].double().div_(DEPTH_STEPS).mul_(span[block]).add_(near[block])
        points[block] = (across[block] + down[block]).mul_(depth[:, None]).add_(center[block])
    return points


def _rgb(frames: Sequence[Frame], camera: str, stride: int) -> NDArray[np.uint8]:
    return np.stack([frame.rgb[camera][::stride, ::stride].transpose(2, 0, 1) for frame in frames])


def _codes(episode: RLBenchEpisode, frames: Sequence[Frame], camera: str, stride: int) -> NDArray[np.int32]:
    return np.stack(
        [
            rgb_to_code(episode.files.read(camera, "depth", frame.index)[::stride, ::stride]).astype(np.int32)
            for frame in frames
        ]
    )


def _matrices(frames: Sequence[Frame], cameras: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    views = [[frame.camera(camera) for camera in cameras] for frame in frames]
    return {
        "intrinsics": np.array([[view.intrinsics for view in seen] for seen in views]),
        "extrinsics": np.array([[view.extrinsics for view in seen] for seen in views]),
        "range": np.array([[(view.near, view.far) for view in seen] for seen in views]),
    }


Language = Callable[[Sequence[str]], Tensor]
"""Instructions -> language tokens (number of instructions, L, W)."""

_Reader = Callable[[int, Episode], Arrays]

_SPOKEN_AT_ONCE = 64
_STATE_WIDTH = 3


class TrainingInputs:
    """Training dataset: memory-mapped clips and steps. Episodes and steps are numbered by row.

    Attributes:
        ids: (N,) episode ids, in the order of the dataset.
        tasks: (N,) tasks.
        instructions: (N,) the instruction of each episode (its first). Spellings that differ only in case, blanks or
            Unicode form are unified.
        texts: the distinct instructions, sorted.
        instruction_of: (N,) int64, index of each episode's instruction in `texts`.
        transition_episode: (M,) int64, index of the episode of each key-to-key step.
        dataset: fingerprint of the dataset.
    """

    def __init__(
        self,
        *,
        ids: Sequence[str],
        tasks: Sequence[str],
        instructions: Sequence[str],
        dataset: str,
        steps: Arrays,
        clips: Arrays | None,
        cameras: tuple[str, ...],
        point_stride: int,
        made_of: dict[str, Any],
        views: Arrays | None = None,
    ) -> None:
        self.ids: NDArray[np.str_] = np.array(ids)
        self.tasks: NDArray[np.str_] = np.array(tasks)
        self.instructions: NDArray[np.str_] = one_spelling(instructions, "instructions")[0].astype(np.str_)
        texts, numbers = np.unique(self.instructions, return_inverse=True)
        self.texts: tuple[str, ...] = tuple(texts.tolist())
        self.instruction_of: NDArray[np.int64] = numbers.astype(np.int64)
        self.transition_episode: NDArray[np.int64] = np.array(steps["episode"])
        self.dataset = dataset
        self._steps = steps
        self._clips = clips
        self._views = views
        self._cameras = cameras
        self._stride = point_stride
        self._made_of = made_of
        self._spoken: tuple[Language, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays on disk."""
        kinds = (self._steps, self._clips or {}, self._views or {})
        return sum(array.nbytes for arrays in kinds for array in arrays.values())

    def groups(self, kind: GroupKind) -> NDArray[np.int64]:
        """Return the (N,) group index of each episode: clips and steps of one group may be paired.

        Raises ConfigError for an unknown kind.
        """
        labels = {"episode": self.ids, "instruction": self.instructions, "task": self.tasks}
        if kind not in labels:
            raise unknown_name("pairing", kind, list(labels))
        return np.unique(labels[kind], return_inverse=True)[1].astype(np.int64)

    def clips(self, rows: ArrayLike, *, device: torch.device | str = "cpu") -> Float[Tensor, "b t 3 size size"]:
        """Return the normalised clips of the episodes `rows`, bit for bit as the ViCLIP extractor computes them.

        Raises ConfigError when no clips were prepared.
        """
        if self._clips is None:
            raise ConfigError("no clips were prepared: prepare_inputs was given no configuration of a video model")
        return normalised_clips(self._clips["clips"][np.asarray(rows, dtype=np.int64)], device)

    def policy_batch(
        self,
        rows: ArrayLike,
        language: Language,
        *,
        device: torch.device | str = "cpu",
        draws: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Return the key-to-key steps `rows` as a batch on `device`, with world points, or with kept views.

        `draws` (b,) chooses one of the kept draws for each row.

        `language` is called once, with all distinct instructions of the dataset, and its result is cached: pass the
        same object in later calls.

        Raises ConfigError when no steps were prepared.
        """
        if not self._cameras:
            raise ConfigError("no steps were prepared: prepare_inputs was given no configuration of a policy")
        chosen = np.asarray(rows, dtype=np.int64)
        tokens = self._speak(language)
        rows_of_text = torch.from_numpy(self.instruction_of[self.transition_episode[chosen]]).to(tokens.device)
        language_of = tokens[rows_of_text]
        if self._views is None:
            return batch_of_steps(self._steps, chosen, self._cameras, self._stride, language_of, device)
        numbers = np.zeros(len(chosen), dtype=np.int64) if draws is None else draws
        return batch_of_views(self._steps, self._views, chosen, numbers, self._cameras, language_of, device)

    def describe(self) -> dict[str, Any]:
        """Describe source and number of the inputs, for provenance."""
        return {
            "dataset": self.dataset,
            **self._made_of,
            "episodes": len(self.ids),
            "tasks": len(np.unique(self.tasks)),
            "instructions": len(self.texts),
            "transitions": len(self.transition_episode),
            "bytes": self.nbytes,
        }

    def _speak(self, language: Language) -> Tensor:
        if self._spoken is None or self._spoken[0] != language:
            parts = [
                language(self.texts[start : start + _SPOKEN_AT_ONCE]).detach()
                for start in range(0, len(self.texts), _SPOKEN_AT_ONCE)
            ]
            self._spoken = language, torch.cat(parts)
        return self._spoken[1]


def prepare_inputs(
    dataset: Dataset,
    *,
    viclip: ViCLIPConfig | None,
    arp: ARPConfig | None,
    cache: Path,
    camera: str = "front",
    frames_rule: FramesRule = "middle",
    point_stride: int | None = None,
    kept_views: int = 0,
    workers: int = 1,
    quiet: bool = False,
    note: Callable[[str], None] | None = None,
) -> TrainingInputs:
    """Decode the inputs of a training into the cache; later calls with the same data and settings only open it.

    Clips are stored at the size of the video model, one per episode; steps with all images of the policy's cameras
    (3 + 4 bytes a pixel). Clips and steps have separate folders in `cache`, named by a hash of all they depend on, so
    that trainings share them where possible. Key-to-key steps are listed even without a policy, so that sampling does
    not depend on which models are trained.

    Args:
        dataset: the episodes; all of them are used.
        viclip: configuration of the video model; None omits the clips.
        arp: configuration of the policy; None omits its images.
        cache: folder of prepared inputs; created if needed.
        camera: camera of the clips.
        frames_rule: rule that selects the frames of a clip.
        point_stride: subsampling of rows and columns of the policy's images; None uses the policy's own setting, which
            also applies at inference.
        kept_views: draws of the policy's views that are drawn once and kept, in place of its images (see
            `TrainConfig.kept_views`); 0 keeps images.
        workers: number of decoding processes; 1 decodes in the current process. Starting processes takes seconds, which
            is worthwhile for hundreds of long episodes (RLBench), not for the tabletop.
        quiet: show no progress.
        note: called with messages for the user.

    Raises:
        ConfigError: an invalid setting, or a policy whose state differs from that of demonstrations.
        DataError: no episodes, an episode without instruction, camera or depth, images of unequal sizes.
        OSError: the disk is full, or the folder is not writable.
    """
    _check(arp, point_stride, workers)
    if not len(dataset):
        raise DataError("there is no episode to train on; choose other tasks or partitions")
    ids = [episode.id for episode in dataset]
    instructions = [episode.instruction for episode in dataset]
    fingerprint = dataset.fingerprint()
    cameras = arp.cameras if arp is not None else ()
    own = arp.point_stride if arp is not None else 1
    stride = own if arp is None or point_stride is None else point_stride
    kept = cameras if arp is None or not kept_views else ()
    readers: dict[str, _Reader] = {"steps": partial(_read_steps, cameras=kept, point_stride=stride)}
    keys = {"steps": steps_key(kept, stride)}
    if arp is not None and kept_views:
        arp = arp if point_stride is None else replace(arp, point_stride=point_stride)
        readers["views"] = partial(_read_views, config=arp, draws=kept_views)
        keys["views"] = views_key(arp, kept_views)
    if viclip is not None:
        readers["clips"] = partial(_read_clip, config=viclip, camera=camera, frames_rule=frames_rule)
        keys["clips"] = clip_key(viclip, camera, frames_rule)
    common = {"dataset": fingerprint, "order": config_hash(ids), "versions": versions("numpy", "pillow")}
    arrays = cached_arrays(
        cache,
        {kind: common | key for kind, key in keys.items()},
        lambda kinds: _read_all(dataset, {kind: readers[kind] for kind in kinds}, workers, quiet),
        note=note,
    )
    return TrainingInputs(
        ids=ids,
        tasks=[episode.task for episode in dataset],
        instructions=instructions,
        dataset=fingerprint,
        steps=arrays["steps"],
        clips=arrays.get("clips"),
        cameras=cameras,
        point_stride=stride,
        made_of={"versions": common["versions"], "steps": keys["steps"], "clips": keys.get("clips")}
        | ({"views": keys["views"]} if "views" in keys else {}),
        views=arrays.get("views"),
    )


def _check(arp: ARPConfig | None, point_stride: int | None, workers: int) -> None:
    if point_stride is not None and point_stride < 1:
        raise ConfigError(f"point_stride must be at least 1, got {point_stride!r}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers!r}")
    if arp is not None and arp.state_width != _STATE_WIDTH:
        raise ConfigError(
            f"the policy reads a state of {arp.state_width} numbers, demonstrations give {_STATE_WIDTH}: gripper open, "
            f"two fingers. Set state_width to {_STATE_WIDTH}"
        )


def _read_steps(row: int, episode: Episode, *, cameras: Sequence[str], point_stride: int) -> dict[str, NDArray[Any]]:
    return read_steps(episode, row, cameras, point_stride)


def _read_views(row: int, episode: Episode, *, config: ARPConfig, draws: int) -> dict[str, NDArray[Any]]:
    return read_views(episode, row, config, draws)


def _read_clip(
    _row: int, episode: Episode, *, config: ViCLIPConfig, camera: str, frames_rule: FramesRule
) -> dict[str, NDArray[Any]]:
    return read_clip_bytes(episode, config, camera, frames_rule)


def _read_all(dataset: Dataset, readers: Mapping[str, _Reader], workers: int, quiet: bool) -> Iterator[Rows]:
    """Rows of all episodes, in order."""
    jobs = (joblib.delayed(_read_one)(readers, row, episode) for row, episode in enumerate(dataset))
    with progress("decoding demonstrations", len(dataset), quiet=quiet) as advance:
        for rows in joblib.Parallel(n_jobs=workers, return_as="generator")(jobs):
            yield rows
            advance()


def _read_one(readers: Mapping[str, _Reader], row: int, episode: Episode) -> Rows:
    """Apply every reader to one episode; its low-dimensional data is read from disk once."""
    return episode.id, {kind: read(row, episode) for kind, read in readers.items()}
