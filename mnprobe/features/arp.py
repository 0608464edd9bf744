"""Execution side: what goes on in ARP while it decides where to move next, at every keyframe of an episode."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import CheckpointError, DataError
from mnprobe.core.registry import unknown_name
from mnprobe.core.seeds import check_seed
from mnprobe.data import Episode, Keyframe
from mnprobe.features.devices import autocast
from mnprobe.features.extractor import EpisodeFeatures, ExtractorSpec, Tokens
from mnprobe.features.options import config_from, one_of
from mnprobe.features.schema import Side
from mnprobe.models.arp import (
    ARP,
    ARPConfig,
    FrameArrays,
    Observation,
    Target,
    blank_instruction,
    load_arp,
    observation_from_frames,
)
from mnprobe.models.clip import LanguageConfig, LanguageEncoder, load_language_encoder, random_language_encoder
from mnprobe.models.loading import read_metadata
from mnprobe.models.untrained import PRESETS, untrained_arp

__all__ = ["ARPExtractor", "Transition", "language_encoder_for"]

_LAYER = re.compile(r"e|norm|screen|blocks\.\d+")


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One decision: what was seen, what was told, and the key pose that the demonstrator reached next."""

    episode: int
    keyframe: int
    frame: FrameArrays
    instruction: str
    target: Keyframe

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Image sizes; transitions of unequal sizes cannot share a batch."""
        return tuple(image.shape for image in self.frame.rgb.values())


def language_encoder_for(config: ARPConfig, *, weights: Path | None, seed: int = 0) -> LanguageEncoder:
    """The language encoder of a policy: CLIP RN50's text branch from `weights`, or fresh weights of the policy's size.

    Fresh weights tell instructions apart but carry no meaning; `describe()` of the encoder says which it is. Policies
    of the published language size (77 x 512) get CLIP's full text branch, others a small one of two layers.

    Raises CheckpointError when the tokens of `weights` do not have the policy's size.
    """
    length, width = config.language_length, config.language_width
    if weights is None:
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


class ARPExtractor:
    """Every key-to-key step of an episode: the policy sees the frame before it and decides.

    Layers, per keyframe: "e" (5 tokens: rot-x, rot-y, rot-z, grip, collision, straight after the last block), "norm"
    (the same after the final layer norm), "blocks.<i>" (the same after block i), "screen" (6 tokens: two stages of
    three views). A token's keyframe is its number in the episode, from 0.

    Options: `decoding` "greedy" feeds the policy's own earlier tokens back, "teacher" the true ones;
    `blank_instruction` gives the language of "" to all episodes; `language_weights` (CLIP RN50) or `language_seed`.
    """

    kind: ClassVar[str] = "arp"
    revision: ClassVar[int] = 1
    side: ClassVar[Side | None] = "execution"
    default_layers: ClassVar[tuple[str, ...]] = ("e",)
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "decoding": "greedy",
        "blank_instruction": False,
        "language_weights": None,
        "language_seed": 0,
    }
    sizes: ClassVar[tuple[str, ...]] = PRESETS["arp"]

    def __init__(self, policy: ARP, language: LanguageEncoder, spec: ExtractorSpec) -> None:
        self.policy = policy.eval().to(spec.device)
        self.language = language.to(spec.device)
        self.layers = spec.layers or self.default_layers
        config = policy.config
        known = ["e", "norm", "screen", *(f"blocks.{i}" for i in range(config.cross_blocks, config.blocks))]
        for name in self.layers:
            if name not in known:
                raise unknown_name("ARP layer", name, known)
        self._spec = spec
        self._decoding = one_of("decoding", spec.options["decoding"], ("greedy", "teacher"))
        self._blank = bool(spec.options["blank_instruction"])
        self._spoken: dict[str, Tensor] = {}

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """ "e", "norm", "screen" or "blocks.<i>"."""
        return _LAYER.fullmatch(name) is not None

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "ARPExtractor":
        """Load the checkpoint, or draw the weights of the preset from the seed; and the language encoder."""
        config = None if spec.config is None else config_from(ARPConfig.from_dict, spec.config)
        if spec.checkpoint is not None:
            policy = load_arp(spec.checkpoint, config, device=spec.device)
        else:
            policy = untrained_arp(config or str(spec.preset), spec.seed)
        weights, seed = (
            spec.options["language_weights"],
            check_seed(spec.options["language_seed"], name="option language_seed"),
        )
        language = language_encoder_for(policy.config, weights=Path(weights) if weights else None, seed=seed)
        if spec.checkpoint is not None:
            _check_language(spec.checkpoint, language)
        return cls(policy, language, spec)

    def describe(self) -> dict[str, Any]:
        """The policy's configuration, the language encoder's, and how it decides."""
        return {
            "model": "arp",
            **self.policy.config.to_dict(),
            "language": self.language.describe(),
            "decoding": self._decoding,
            "blank_instruction": self._blank,
        }

    def prepare(self, episodes: Sequence[Episode]) -> tuple[int, list[Transition]]:
        """Read the observation before every keyframe: world points, colours, state of all cameras."""
        cameras = self.policy.config.cameras
        found = []
        for number, episode in enumerate(episodes):
            steps = episode.steps()
            if not steps:
                raise DataError(f"{episode.folder}: no keyframe, so there is no decision to extract; leave it out")
            for keyframe, step in enumerate(steps):
                frame = episode.frame(step.observed)
                arrays = FrameArrays(
                    rgb={camera: frame.rgb[camera] for camera in cameras},
                    points={camera: frame.points(camera) for camera in cameras},
                    state=frame.state(),
                )
                told = "" if self._blank else episode.instruction  # so that episodes without one can be blanked too
                found.append(Transition(episode=number, keyframe=keyframe, frame=arrays, instruction=told, target=step))
        return len(episodes), found

    @torch.inference_mode()
    def compute(self, prepared: tuple[int, list[Transition]]) -> list[EpisodeFeatures]:
        """Decide at every transition; gather the states by episode."""
        count, transitions = prepared
        values: list[dict[str, list[np.ndarray[Any, Any]]]] = [{name: [] for name in self.layers} for _ in range(count)]
        for batch in _batches(transitions, self._spec.batch_size):
            hidden = self._hidden(batch)
            for name in self.layers:
                states = hidden[name].float().flatten(1, -2).cpu().numpy()  # (B, tokens, n)
                for transition, tokens in zip(batch, states, strict=True):
                    values[transition.episode][name].append(tokens)
        return [
            EpisodeFeatures(layers={name: _tokens(pieces) for name, pieces in episode.items()}) for episode in values
        ]

    def _hidden(self, batch: Sequence[Transition]) -> Mapping[str, Tensor]:
        config = self.policy.config
        observation: Observation = observation_from_frames(
            [transition.frame for transition in batch],
            self._speak([transition.instruction for transition in batch]),
            device=self._spec.device,
            cameras=config.cameras,
        )
        if self._blank:
            observation = blank_instruction(observation, self._speak([""])[0])
        with autocast(self._spec.device, self._spec.precision):
            if self._decoding == "greedy":
                return self.policy.act(observation).hidden
            return self.policy.encode(
                observation, _target([transition.target for transition in batch], self._spec.device)
            )

    def _speak(self, instructions: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(instructions) if text not in self._spoken]
        if new:
            self._spoken |= dict(zip(new, self.language(new), strict=True))
        return torch.stack([self._spoken[text] for text in instructions])


def _target(steps: Sequence[Keyframe], device: str) -> Target:
    return Target(
        pose=torch.from_numpy(np.stack([step.gripper_pose for step in steps]).astype(np.float32)),
        gripper_open=torch.tensor([step.gripper_open for step in steps]),
        ignore_collisions=torch.tensor([step.ignore_collisions for step in steps]),
    ).to(device)


def _tokens(pieces: Sequence[np.ndarray[Any, Any]]) -> Tokens:
    marks = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces])
    return Tokens(values=np.concatenate(pieces), keyframe=marks)


def _batches(transitions: Sequence[Transition], size: int) -> Iterator[list[Transition]]:
    """At most `size` transitions at a time, all of one image size."""
    batch: list[Transition] = []
    for transition in transitions:
        if batch and (len(batch) == size or batch[0].sizes != transition.sizes):
            yield batch
            batch = []
        batch.append(transition)
    yield batch


def _check_language(checkpoint: Path, language: LanguageEncoder) -> None:
    """Our checkpoints may say which encoder their policy was told by: metadata entry `language`, its `describe()`."""
    recorded = read_metadata(checkpoint).get("language")
    if recorded is not None and json.loads(recorded) != json.loads(json.dumps(language.describe())):
        raise CheckpointError(
            f"{checkpoint}: was trained with the language encoder {recorded}, "
            f"asked for is {json.dumps(language.describe())}. Give the same --language-weights"
        )
