"""ViCLIP extractor (understanding side): one clip of one camera per episode."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.names import Side
from mnprobe.core.registry import unknown_name
from mnprobe.core.runtime import autocast
from mnprobe.data import Episode
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    LayerInfo,
    Tokens,
    class_name,
    config_from,
    one_of,
)
from mnprobe.features.inputs import read_clip
from mnprobe.features.text_ranking import alike_texts, best_texts, encode_texts, own_numbers, reads_text, told_texts
from mnprobe.models.untrained import PRESETS, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip, preprocess

__all__ = ["PreparedClips", "ViCLIPExtractor"]

_LAYER = re.compile(r"u|cls|blocks\.\d+")


@dataclass(frozen=True, kw_only=True)
class PreparedClips:
    """A batch of normalised clips (B, T, 3, S, S); which episodes were too short for T frames; and the index of each
    own instruction among the candidates (None if it is not among them, or without recognition)."""

    clips: Tensor
    repeated: tuple[bool, ...]
    own: tuple[int | None, ...]


class ViCLIPExtractor:
    """One clip per episode: T frames of one camera over the whole episode, one class-token state per layer.

    Layers: "u" the paper's output feature (E,), "cls" before the projection, "blocks.<i>" after block i. The
    prediction is the instruction of the dataset with the highest cosine to u; a model whose text encoder lacks CLIP's
    vocabulary predicts nothing. When the best text and the episode's own text have equal tokens but differ, the
    prediction is '' (unknown whether recognised), and this is counted.
    """

    kind: ClassVar[str] = "viclip"
    revision: ClassVar[int] = 2
    side: ClassVar[Side | None] = Side.UNDERSTANDING
    default_layers: ClassVar[tuple[str, ...]] = ("u",)
    option_defaults: ClassVar[Mapping[str, Any]] = {"camera": "front", "frames_rule": "middle"}
    sizes: ClassVar[tuple[str, ...]] = PRESETS["viclip"]
    independent_rows: ClassVar[bool] = True

    def __init__(self, model: ViCLIP, spec: ExtractorSpec) -> None:
        self.model = model.eval().to(spec.device)
        self.layers = spec.layers or self.default_layers
        for name in self.layers:
            if name not in model.hidden_names:
                raise unknown_name("ViCLIP layer", name, list(model.hidden_names))
        self._spec = spec
        self._camera = str(spec.options["camera"])
        self._rule: Any = one_of("frames_rule", spec.options["frames_rule"], ("middle", "strided"))
        self._alike: list[int] = []
        self._texts = self._encode_candidates(spec.candidates)

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """ "u", "cls" or "blocks.<i>"."""
        return _LAYER.fullmatch(name) is not None

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return all layers of the model; reads the checkpoint."""
        return _model(spec).hidden_names

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "ViCLIPExtractor":
        """Load the checkpoint, or initialise the preset from the seed."""
        return cls(_model(spec), spec)

    def describe(self) -> dict[str, Any]:
        """Configuration of the model."""
        return {"model": "viclip", **self.model.config.to_dict()}

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class and module path of each layer."""
        encoder = self.model.vision_encoder
        modules = {"u": ("vision_encoder", encoder), "cls": ("vision_encoder.ln_post", encoder.ln_post)}
        names = {id(module): name for name, module in self.model.named_modules()}
        modules |= {f"blocks.{i}": (names[id(block)], block) for i, block in enumerate(encoder.transformer.resblocks)}
        known = {name: modules[name] for name in self.layers}
        return {name: {"class": class_name(module), "module": path} for name, (path, module) in known.items()}

    def preparation(self) -> dict[str, Any]:
        """What prepared clips depend on, but for the episodes."""
        config = self.model.config
        clip = {"frames": config.frames, "image_size": config.image_size, "crop": list(config.crop)}
        texts = None if self._texts is None else list(self._spec.candidates)
        return clip | {"camera": self._camera, "frames_rule": self._rule, "candidates": texts}

    def prepare(self, episodes: Sequence[Episode]) -> PreparedClips:
        """Read, resize and normalise the frames."""
        config = self.model.config
        clips = [read_clip(episode, self._camera, config.frames, self._rule) for episode in episodes]
        ready = [preprocess(clip.frames, size=config.image_size, crop=config.crop) for clip in clips]
        own: list[int | None] = [None] * len(episodes)
        if self._texts is not None:
            own = own_numbers([episode.instruction for episode in episodes], self._spec.candidates)
        return PreparedClips(clips=torch.stack(ready), repeated=tuple(clip.repeated for clip in clips), own=tuple(own))

    @torch.inference_mode()
    def compute(self, prepared: PreparedClips) -> list[EpisodeFeatures]:
        """Run the video encoder, and rank the candidate texts."""
        wanted = list(dict.fromkeys([*self.layers, "u"] if self._texts is not None else self.layers))
        with autocast(self._spec.device, self._spec.precision):
            hidden = self.model.video_hidden(prepared.clips.to(self._spec.device, non_blocking=True), wanted)
        values = {name: hidden[name].float().cpu().numpy() for name in self.layers}
        predictions = self._recognise(hidden, prepared.own)
        return [
            EpisodeFeatures(
                layers={
                    name: Tokens(values=values[name][i : i + 1], keyframe=np.zeros(1, np.int32)) for name in self.layers
                },
                prediction=predictions[i],
                counts={"episodes_with_repeated_frames": int(repeated)}
                | ({"episodes_whose_instruction_is_one_text_with_another": 1} if predictions[i] == "" else {}),
            )
            for i, repeated in enumerate(prepared.repeated)
        ]

    def _encode_candidates(self, candidates: Sequence[str]) -> NDArray[np.float32] | None:
        if not candidates or not reads_text(self.model):
            return None
        self._alike = alike_texts(candidates, self.model.config.text_context)
        for remark in told_texts(candidates, self.model.config.text_context):
            self._spec.say(remark)
        return encode_texts(self.model, candidates, precision=self._spec.precision)

    def _recognise(self, hidden: Mapping[str, Tensor], own: Sequence[int | None]) -> list[str | None]:
        if self._texts is None:
            return [None] * len(own)
        best = best_texts(hidden["u"].float().cpu().numpy(), self._texts).tolist()
        return [self._prediction(winner, mine) for winner, mine in zip(best, own, strict=True)]

    def _prediction(self, winner: int, own: int | None) -> str:
        """Return the best text; '' if its tokens equal those of the own text and of another one."""
        group = self._alike[winner]
        if own is not None and self._alike[own] == group and self._alike.count(group) > 1:
            return ""
        return self._spec.candidates[winner]


def _model(spec: ExtractorSpec) -> ViCLIP:
    config = None if spec.config is None else config_from(ViCLIPConfig.from_dict, spec.config)
    if spec.checkpoint is not None:
        return load_viclip(spec.checkpoint, config, device=spec.device)
    return untrained_viclip(config or str(spec.preset), spec.seed)
