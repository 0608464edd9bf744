"""Model inputs from episodes: clip frames, and ARP's points, state and language."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError, DataError
from mnprobe.core.provenance import canonical_json
from mnprobe.data import (
    Episode,
    Frame,
    FrameData,
    RLBenchEpisode,
    code_to_depth,
    depth_to_code,
    depth_to_points,
    find_camera,
)
from mnprobe.models.arp import ARPConfig, FrameArrays, Observation, blank_instruction, observation_from_frames
from mnprobe.models.clip import (
    LanguageConfig,
    PolicyLanguage,
    WordVectors,
    load_language_encoder,
    random_language_encoder,
)
from mnprobe.models.loading import read_metadata
from mnprobe.models.viclip import sample_frames

__all__ = [
    "ARPInputs",
    "Clip",
    "FramesRule",
    "arrays_of_frame",
    "arrays_of_frame_data",
    "choose_frames",
    "language_encoder_for",
    "read_clip",
]


def language_encoder_for(
    config: ARPConfig, *, weights: Path | None, seed: int = 0, checkpoint: Path | None = None
) -> PolicyLanguage:
    """Load the language encoder of a policy: CLIP RN50's text branch from `weights`, or random weights.

    Random weights distinguish instructions but carry no meaning; `describe()` of the encoder records the kind. Policies
    of the published language size (77 x 512) get CLIP's full text branch, others a small one of two layers, or
    word vectors where their configuration says so (`untrained_language`).

    Raises CheckpointError when the tokens of `weights` do not have the policy's size, or when the metadata of the
    policy's `checkpoint` name another encoder.
    """
    encoder = _encoder(config, weights, seed)
    if checkpoint is not None:
        _check_language(checkpoint, encoder)
    return encoder


def arrays_of_frame(frame: Frame, cameras: Sequence[str]) -> FrameArrays:
    """Arrays of a recorded frame."""
    return FrameArrays(
        rgb={camera: frame.rgb[camera] for camera in cameras},
        points={camera: frame.points(camera) for camera in cameras},
        state=frame.state(),
    )


def arrays_of_frame_data(frame: FrameData, cameras: Sequence[str]) -> FrameArrays:
    """Arrays of a world's frame, bit for bit equal to those of the frame after writing and reading.

    Raises ConfigError naming a camera that is missing, or has no colours or no depth.
    """
    for camera in cameras:
        for kind, arrays in (("cameras", frame.cameras), ("colours", frame.rgb), ("depth", frame.depth)):
            if camera not in arrays:
                what = "camera" if kind == "cameras" else f"{kind} of camera"
                raise ConfigError(
                    f"the world gives no {what} {camera!r}; the policy looks through {', '.join(cameras)}. "
                    f"Found: {', '.join(sorted(arrays)) or 'none'}"
                )
    fingers = np.asarray(frame.gripper_joint_positions)
    if fingers.shape != (2,):
        raise ConfigError(
            f"the world's gripper_joint_positions have shape {fingers.shape}, expected (2,): "
            "ARP's state is gripper_open and two fingers"
        )
    return FrameArrays(
        rgb={camera: np.asarray(frame.rgb[camera]) for camera in cameras},
        points={camera: _points(frame, camera) for camera in cameras},
        state=np.array([frame.gripper_open, *fingers], dtype=np.float32),
    )


class ARPInputs:
    """Build observations of a policy; each instruction is encoded once.

    Args:
        config: configuration of the policy.
        language: language encoder of the policy.
        device: target device.
        blank: use the language of "" for every instruction.
    """

    def __init__(self, config: ARPConfig, language: PolicyLanguage, *, device: str, blank: bool = False) -> None:
        self.language = language.to(device)
        self.blank = blank
        self._config = config
        self._device = device
        self._spoken: dict[str, Tensor] = {}

    def observation(self, frames: Sequence[FrameArrays], instructions: Sequence[str]) -> Observation:
        """Build a batch of one frame and one instruction per sample."""
        texts = [""] * len(frames) if self.blank else instructions  # frames without instruction are allowed when blank
        observation = observation_from_frames(
            frames,
            self._speak(texts),
            device=self._device,
            cameras=self._config.cameras,
            stride=self._config.point_stride,
        )
        return self.blanked(observation) if self.blank else observation

    def told(self, observation: Observation, instructions: Sequence[str]) -> Observation:
        """The same scenes with the language of these instructions, as `observation` gives it."""
        if self.blank:
            return self.blanked(observation)
        return observation.with_language(self._speak(instructions))

    def blanked(self, observation: Observation) -> Observation:
        """The same observation with the language of ""."""
        return blank_instruction(observation, self._speak([""])[0])

    def describe(self) -> Mapping[str, Any]:
        """The language encoder, and whether the instruction is blanked."""
        return {"language": self.language.describe(), "blank_instruction": self.blank}

    def _speak(self, instructions: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(instructions) if text not in self._spoken]
        if new:
            self._spoken |= dict(zip(new, self.language(new), strict=True))
        return torch.stack([self._spoken[text] for text in instructions])


def _points(frame: FrameData, camera: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    view = frame.cameras[camera]
    depth = code_to_depth(depth_to_code(frame.depth[camera], view.near, view.far), view.near, view.far)
    view = view.for_image(*depth.shape)
    return depth_to_points(depth, view.intrinsics, view.extrinsics).astype(np.float32)


def _encoder(config: ARPConfig, weights: Path | None, seed: int) -> PolicyLanguage:
    length, width = config.language_length, config.language_width
    if weights is None:
        if config.untrained_language == "words":
            return WordVectors(length=length, width=width, seed=seed)
        full = LanguageConfig()
        if (length, width) == (full.context, full.width):
            return random_language_encoder(full, seed)
        heads = next(heads for heads in range(max(width // 32, 1), 0, -1) if width % heads == 0)
        small = LanguageConfig(context=length, width=width, layers=2, heads=heads, embed_dim=64)
        return random_language_encoder(small, seed)
    encoder = load_language_encoder(weights)
    if (encoder.config.context, encoder.config.width) != (length, width):
        raise CheckpointError(
            f"{weights}: gives language tokens of {encoder.config.context} x {encoder.config.width}, "
            f"the policy reads {length} x {width}. Give the text encoder that the policy was trained with"
        )
    return encoder


def _check_language(checkpoint: Path, language: PolicyLanguage) -> None:
    """Check the encoder against the checkpoint's metadata entry `language`, the `describe()` of its encoder."""
    recorded = read_metadata(checkpoint).get("language")
    if recorded is None:
        return
    requested = language.describe()
    if canonical_json(json.loads(recorded)) != canonical_json(requested):
        raise CheckpointError(
            f"{checkpoint}: was trained with the language encoder {recorded}, "
            f"asked for is {json.dumps(requested)}. Give the same --language-weights"
        )


FramesRule = Literal["middle", "strided"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """`frames` (T, H, W, 3) uint8 RGB; `repeated`: one image is used for several of the T instants."""

    frames: np.ndarray[Any, Any]
    repeated: bool


def choose_frames(available: tuple[int, ...], length: int, count: int, rule: FramesRule = "middle") -> tuple[int, ...]:
    """Choose `count` frames of an episode of `length` frames, of which those in `available` have an image.

    "middle" splits the episode into equal parts and takes the middle of each; "strided" takes every (N // count)-th
    from the first, as the published inference code does, which drops the tail if N is not a multiple of `count`. For an
    episode shorter than `count`, all frames are used and the last one is repeated. When images are sparse (trimmed
    datasets, rollouts), the nearest image in time is used for each instant, the earlier one of a tie: the clip has the
    episode's timing however its images are spread.

    >>> everything = tuple(range(16))
    >>> choose_frames(everything, 16, 4), choose_frames(everything[:15], 15, 8, "strided")
    ((1, 5, 9, 13), (0, 1, 2, 3, 4, 5, 6, 7))
    >>> choose_frames((0, 9), 10, 4), choose_frames((0, 1), 2, 4)
    ((0, 0, 9, 9), (0, 1, 1, 1))
    """
    if length < count:
        wanted = [*range(length), *[length - 1] * (count - length)]
    else:
        wanted = [int(index) for index in sample_frames(count, length, rule)]
    return tuple(min(available, key=lambda index: (abs(index - instant), index)) for instant in wanted)


def read_clip(episode: Episode, camera: str, count: int, rule: FramesRule) -> Clip:
    """Read `count` frames of one camera; only frames with an image on disk are used (trimmed datasets have few).

    Raises DataError when the episode has no image of this camera, or one beyond its last frame.
    """
    if not isinstance(episode, RLBenchEpisode):
        camera = find_camera(episode.cameras, camera, episode.where)
    available = episode.frames_on_disk(camera)
    if not available:
        raise DataError(f"{episode.where}: no colour images of camera {camera!r}; choose another with --camera")
    if available[-1] >= len(episode):
        raise DataError(
            f"{episode.where}: camera {camera!r} has an image of frame {available[-1]}, but low_dim_obs.pkl has "
            f"{len(episode)} frames, 0 to {len(episode) - 1}. Images are numbered from 0; rename them, or remove what "
            "belongs to no frame"
        )
    chosen = choose_frames(available, len(episode), count, rule)
    return Clip(frames=episode.images(camera, chosen), repeated=len(set(chosen)) < count)
