"""ARP extractor (execution side): token states at every keyframe of an episode."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import DataError
from mnprobe.core.names import Side
from mnprobe.core.registry import unknown_name
from mnprobe.core.runtime import autocast
from mnprobe.core.seeds import check_seed
from mnprobe.data import Episode, Keyframe, require
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    LayerInfo,
    Tokens,
    class_name,
    config_from,
    one_of,
)
from mnprobe.features.inputs import ARPInputs, arrays_of_frame, language_encoder_for
from mnprobe.models.arp import (
    ARP,
    ARPConfig,
    Drawing,
    FrameArrays,
    Observation,
    Target,
    drawing_settings,
    load_arp,
)
from mnprobe.models.clip import PolicyLanguage
from mnprobe.models.untrained import PRESETS, untrained_arp

__all__ = ["ARPExtractor", "PreparedSteps", "SharedPass", "Transition", "as_tokens", "states_of"]

_LAYER = re.compile(r"e|norm|screen|blocks\.\d+")
_ROOM_FOR_DRAWINGS = 2**28  # bytes of a batch of episodes that are kept for the next checkpoint


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One decision: observation, and the next key pose of the demonstration; `episode` is its number in the batch."""

    episode: int
    keyframe: int
    frame: FrameArrays
    target: Keyframe

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Image sizes; transitions of different sizes cannot share a batch."""
        return tuple(image.shape for image in self.frame.rgb.values())


@dataclass(kw_only=True, eq=False)
class SharedPass:
    """The transitions of one pass, and what all checkpoints and variants share of it; made by the first of them.

    `observation` holds the language of the extractor that made it; others replace it.
    """

    transitions: list[Transition]
    observation: Observation | None = None
    drawing: Drawing | None = None


@dataclass(kw_only=True, eq=False)
class PreparedSteps:
    """The key-to-key steps of a batch of episodes, by pass; drawings are shared within `room`, in bytes."""

    episodes: Sequence[Episode]
    passes: Sequence[SharedPass]
    room: int = _ROOM_FOR_DRAWINGS


class ARPExtractor:
    """Extract the states of ARP at every key-to-key step of an episode, from the frame before the step.

    Layers, per keyframe: "e" (5 tokens: rot-x, rot-y, rot-z, grip, collision, straight after the last block), "norm"
    (the same after the final layer norm), "blocks.<i>" (the same after block i), "screen" (6 tokens: two stages of
    three views). A token's keyframe is the keyframe's index in the episode, from 0.

    Options: `decoding` "greedy" inputs the policy's own earlier tokens, "teacher" the true ones; `blank_instruction`
    uses the language of "" for all episodes; `language_weights` (CLIP RN50) or `language_seed`.
    """

    kind: ClassVar[str] = "arp"
    revision: ClassVar[int] = 1
    side: ClassVar[Side | None] = Side.EXECUTION
    default_layers: ClassVar[tuple[str, ...]] = ("e",)
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "decoding": "greedy",
        "blank_instruction": False,
        "language_weights": None,
        "language_seed": 0,
    }
    sizes: ClassVar[tuple[str, ...]] = PRESETS["arp"]
    independent_rows: ClassVar[bool] = True

    def __init__(self, policy: ARP, language: PolicyLanguage, spec: ExtractorSpec) -> None:
        self.policy = policy.eval().to(spec.device)
        self.layers = spec.layers or self.default_layers
        config = policy.config
        known = list(_layers(config))
        for name in self.layers:
            if name not in known:
                raise unknown_name("ARP layer", name, known)
        self._spec = spec
        self._decoding = one_of("decoding", spec.options["decoding"], ("greedy", "teacher"))
        blank = bool(spec.options["blank_instruction"])
        self._inputs = ARPInputs(config, language, device=spec.device, blank=blank)

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """ "e", "norm", "screen" or "blocks.<i>"."""
        return _LAYER.fullmatch(name) is not None

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return all layers of the policy; reads the checkpoint."""
        return _layers(_policy(spec).config)

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "ARPExtractor":
        """Load the checkpoint, or initialise the preset from the seed; and load the language encoder."""
        policy = _policy(spec)
        weights = spec.options["language_weights"]
        language = language_encoder_for(
            policy.config,
            weights=Path(weights) if weights else None,
            seed=check_seed(spec.options["language_seed"], name="option language_seed"),
            checkpoint=spec.checkpoint,
        )
        return cls(policy, language, spec)

    def describe(self) -> dict[str, Any]:
        """Configuration of policy and language encoder, and the decoding."""
        return {
            "model": "arp",
            **self.policy.config.to_dict(),
            **self._inputs.describe(),
            "decoding": self._decoding,
        }

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class and module path of each layer."""
        config, names = self.policy.config, {id(module): name for name, module in self.policy.named_modules()}
        blocks = self.policy.policy.blocks
        modules = {"e": blocks[config.blocks - 1], "norm": self.policy.policy.final_ln}
        modules |= {"screen": blocks[config.cross_blocks - 1]} if config.cross_blocks else {}
        modules |= {f"blocks.{i}": blocks[i] for i in range(config.cross_blocks, config.blocks)}
        known = {name: modules[name] for name in self.layers if name in modules}
        return {name: {"class": class_name(module), "module": names[id(module)]} for name, module in known.items()}

    def preparation(self) -> dict[str, Any]:
        """What prepared steps depend on, but for the episodes."""
        spec = self._spec
        return {"drawing": drawing_settings(self.policy.config), "device": spec.device, "batch_size": spec.batch_size}

    def prepare(self, episodes: Sequence[Episode]) -> PreparedSteps:
        """Read the observation before every keyframe: world points, colours, state of all cameras."""
        cameras = self.policy.config.cameras
        transitions = []
        for number, episode in enumerate(episodes):
            recorded = require(episode, "key poses", "depth", "camera matrices", who="ARP")
            steps = recorded.steps()
            if not steps:
                raise DataError(f"{episode.folder}: no keyframe, so there is no decision to extract; leave it out")
            for keyframe, step in enumerate(steps):
                arrays = arrays_of_frame(recorded.frame(step.observed), cameras)
                transitions.append(Transition(episode=number, keyframe=keyframe, frame=arrays, target=step))
        self._instructions(episodes)
        passes = [SharedPass(transitions=batch) for batch in _batches(transitions, self._spec.batch_size)]
        return PreparedSteps(episodes=episodes, passes=passes)

    @torch.inference_mode()
    def compute(self, prepared: PreparedSteps) -> list[EpisodeFeatures]:
        """Run the policy at every transition; collect the states by episode."""
        texts = self._instructions(prepared.episodes)
        values: list[dict[str, list[np.ndarray[Any, Any]]]] = [{name: [] for name in self.layers} for _ in texts]
        for batch in prepared.passes:
            hidden = self._hidden(prepared, batch, [texts[transition.episode] for transition in batch.transitions])
            for name, states in states_of(hidden, self.layers).items():
                for transition, tokens in zip(batch.transitions, states, strict=True):
                    values[transition.episode][name].append(tokens)
        return [
            EpisodeFeatures(layers={name: as_tokens(pieces) for name, pieces in episode.items()}) for episode in values
        ]

    def _instructions(self, episodes: Sequence[Episode]) -> list[str]:
        blank = self._inputs.blank  # episodes without an instruction can be blanked too
        return ["" if blank else episode.instruction for episode in episodes]

    def _hidden(self, prepared: PreparedSteps, batch: SharedPass, texts: Sequence[str]) -> Mapping[str, Tensor]:
        if batch.observation is not None:
            observation, drawing = self._inputs.told(batch.observation, texts), batch.drawing
        else:
            observation = self._inputs.observation([transition.frame for transition in batch.transitions], texts)
            drawing = self.policy.draw(observation)
            size = observation.nbytes + drawing.nbytes
            if size <= prepared.room:
                batch.observation, batch.drawing = observation, drawing
                prepared.room -= size
        with autocast(self._spec.device, self._spec.precision):
            if self._decoding == "greedy":
                return self.policy.act(observation, drawing=drawing).hidden
            targets = _target([transition.target for transition in batch.transitions], self._spec.device)
            return self.policy.encode(observation, targets, drawing=drawing)


def states_of(hidden: Mapping[str, Tensor], layers: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The states (B, tokens, n) float32 of each layer, from the hidden states of a pass."""
    return {name: hidden[name].float().flatten(1, -2).cpu().numpy() for name in layers}


def as_tokens(pieces: Sequence[np.ndarray[Any, Any]]) -> Tokens:
    """Join the states (tokens, n) at each keyframe of an episode."""
    marks = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces])
    return Tokens(values=np.concatenate(pieces), keyframe=marks)


def _layers(config: ARPConfig) -> tuple[str, ...]:
    return ("e", "norm", "screen", *(f"blocks.{i}" for i in range(config.cross_blocks, config.blocks)))


def _policy(spec: ExtractorSpec) -> ARP:
    config = None if spec.config is None else config_from(ARPConfig.from_dict, spec.config)
    if spec.checkpoint is not None:
        return load_arp(spec.checkpoint, config, device=spec.device)
    return untrained_arp(config or str(spec.preset), spec.seed)


def _target(steps: Sequence[Keyframe], device: str) -> Target:
    return Target(
        pose=torch.from_numpy(np.stack([step.gripper_pose for step in steps]).astype(np.float32)),
        gripper_open=torch.tensor([step.gripper_open for step in steps]),
        ignore_collisions=torch.tensor([step.ignore_collisions for step in steps]),
    ).to(device)


def _batches(transitions: Sequence[Transition], size: int) -> Iterator[list[Transition]]:
    """Yield chunks of at most `size` transitions with equal image sizes."""
    batch: list[Transition] = []
    for transition in transitions:
        if batch and (len(batch) == size or batch[0].sizes != transition.sizes):
            yield batch
            batch = []
        batch.append(transition)
    yield batch
