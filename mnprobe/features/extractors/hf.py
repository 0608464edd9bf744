"""Extractor of models of transformers (understanding side)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.core.names import Side
from mnprobe.core.provenance import versions
from mnprobe.core.runtime import autocast
from mnprobe.data import Episode
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    FoundWeights,
    LayerInfo,
    Tokens,
    class_name,
    one_of,
    positive_int,
)
from mnprobe.features.extractors.hf_models import ModelFolder, TransformersModel, find_folder, transformers_module
from mnprobe.features.extractors.hf_preprocessing import Preprocessing, default_fields
from mnprobe.features.inputs import read_clip

__all__ = ["HFExtractor", "PreparedFrames"]

_LAYER = re.compile(r"u|pooled|mean|cls|hidden\.(0|[1-9]\d*)")
_MOST_FRAMES = 4096
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CACHE = "hf"


@dataclass(frozen=True, kw_only=True)
class PreparedFrames:
    """A batch: tensors (B, T, ...) by input name, and which episodes were too short for T frames."""

    inputs: Mapping[str, Tensor]
    repeated: tuple[bool, ...]


class HFExtractor:
    """One vector per episode from a model of transformers: clips of T frames, or T frames one by one.

    Layers: "u" is what is recommended for the family (see `FAMILIES`), one of "pooled" (the model's own pooled output),
    "cls" (class token of the last state) and "mean" (over its patch tokens); "hidden.<i>" is hidden state i, 0 before
    the first block, as the mean over its patch tokens.

    Options: `frames` (by default the model's own number, 8 for models of pictures), `over_frames` ("mean" or "concat",
    for what is computed frame by frame), `tokens` ("cls": hidden states as their class token), `dtype` of the weights,
    `weights` ("random": drawn from the seed instead of read; so are those of a folder without any).
    """

    kind: ClassVar[str] = "hf"
    revision: ClassVar[int] = 1
    side: ClassVar[Side | None] = Side.UNDERSTANDING
    default_layers: ClassVar[tuple[str, ...]] = ("u",)
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "camera": "front",
        "frames_rule": "middle",
        "frames": None,
        "over_frames": None,
        "tokens": "mean",
        "dtype": "float32",
        "weights": None,
    }
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: TransformersModel, spec: ExtractorSpec) -> None:
        self.model = model.to(spec.device)
        self.layers = spec.layers or self.default_layers
        self.independent_rows = model.is_known
        self.half_precision = spec.options["dtype"] != "float32"
        self.preprocessing = _preprocessing(model, spec)
        self._spec = spec
        self._camera = str(spec.options["camera"])
        self._rule: Any = one_of("frames_rule", spec.options["frames_rule"], ("middle", "strided"))
        if not model.layers:
            model.settle(self._inputs([np.zeros((model.frames, *self._blank_size(), 3), np.uint8)]))
        for layer in self.layers:
            model.check_layer(layer)
        self._over_frames = self._checked_over_frames(spec.options["over_frames"])
        if "u" in self.layers and model.recommended != model.family.recommended:
            spec.say(f"u is {model.recommended}: {model.reason}")

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """ "u", "pooled", "mean", "cls" or "hidden.<i>"; `build` checks it against the model."""
        return _LAYER.fullmatch(name) is not None

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return all layers of the model; reads the weights, and keeps them in `spec` for `build`."""
        spec.cache[_CACHE] = model = _model(spec)
        return model.layers or cls(model, spec).model.layers

    @classmethod
    def find_weights(cls, text: str, options: Mapping[str, Any]) -> FoundWeights:
        """Find the model that `--model hf:TEXT` means; see `find_folder`."""
        transformers_module()
        folder = ModelFolder.read(find_folder(text))
        return folder.found(options.get("weights"))

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "HFExtractor":
        """Load the model from its folder, or draw its weights from the seed."""
        return cls(spec.cache.pop(_CACHE, None) or _model(spec), spec)

    def describe(self) -> dict[str, Any]:
        """Model, revision, preprocessing, frames and the meaning of each layer."""
        folder = self.model.folder
        return {
            "model": "hf",
            "model_type": folder.model_type,
            "architecture": class_name(self.model.module),
            "source": folder.hub or str(folder.path),
            "revision": folder.revision,
            "transformers": str(versions("transformers")["transformers"]),
            "frames": self.model.frames,
            "over_frames": self._over_frames,
            "dtype": self._spec.options["dtype"],
            "preprocessing": self.preprocessing.describe(),
            "recommended": f"{self.model.recommended}: {self.model.reason}",
            "layers": {layer: self.model.meaning(layer, str(self._over_frames)) for layer in self.layers},
            "config": dict(folder.config),
        }

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class of the model, and what each layer is of it."""
        name = class_name(self.model.module)
        return {
            layer: {"class": name, "module": "", "meaning": self.model.meaning(layer, str(self._over_frames))}
            for layer in self.layers
        }

    def prepare(self, episodes: Sequence[Episode]) -> PreparedFrames:
        """Read and preprocess the frames."""
        clips = [read_clip(episode, self._camera, self.model.frames, self._rule) for episode in episodes]
        return PreparedFrames(
            inputs=self._inputs([clip.frames for clip in clips]), repeated=tuple(clip.repeated for clip in clips)
        )

    def compute(self, prepared: PreparedFrames) -> list[EpisodeFeatures]:
        """Run the model."""
        with autocast(self._spec.device, self._spec.precision):
            vectors = self.model.vectors(prepared.inputs, self.layers, str(self._over_frames))
        values = {layer: vector.float().cpu().numpy() for layer, vector in vectors.items()}
        return [
            EpisodeFeatures(
                layers={
                    layer: Tokens(values=values[layer][i : i + 1], keyframe=np.zeros(1, np.int32))
                    for layer in self.layers
                },
                counts={"episodes_with_repeated_frames": int(repeated)},
            )
            for i, repeated in enumerate(prepared.repeated)
        ]

    def _inputs(self, clips: Sequence[np.ndarray[Any, Any]]) -> dict[str, Tensor]:
        """Preprocess clips (T, H, W, 3) uint8 to tensors (B, T, ...)."""
        ready = [self.preprocessing(frames) for frames in clips]
        if self.preprocessing.patch_size is None:
            self._check_sizes(sorted({tuple(one["pixel_values"].shape[-2:]) for one in ready}))
        return {name: torch.stack([one[name] for one in ready]) for name in ready[0]}

    def _check_sizes(self, sizes: Sequence[tuple[int, ...]]) -> None:
        expected, folder = self.model.expected_size, self.model.folder
        for size in sizes:
            if expected is not None and size != expected:
                raise ConfigError(
                    f"{folder.path}: its preprocessing gives pictures of {size[0]} x {size[1]}, but the positions of "
                    f"this {folder.model_type} are learned for {expected[0]} x {expected[1]}"
                )
        if len(sizes) > 1:
            shown = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise ConfigError(
                f"{folder.path}: its preprocessing gives pictures of several sizes ({shown}), for it keeps the shape "
                "of the frames and crops nothing; extract episodes of one size at a time"
            )

    def _blank_size(self) -> tuple[int, int]:
        return self.preprocessing.output_size or (224, 224)

    def _checked_over_frames(self, given: Any) -> str | None:
        if not any(self.model.is_per_frame(layer) for layer in self.layers):
            if given is not None:
                raise ConfigError(
                    f"option over_frames={given}: {', '.join(self.layers)} of {self.model.folder.model_type} are of "
                    "whole clips, not of single frames"
                )
            return None
        return one_of("over_frames", "mean" if given is None else given, ("mean", "concat"))


def _model(spec: ExtractorSpec) -> TransformersModel:
    if spec.checkpoint is None:
        raise ConfigError("the extractor 'hf' needs a model: --model hf:FOLDER, or --model hf:OWNER/NAME")
    transformers_module()
    folder = ModelFolder.read(Path(spec.checkpoint))
    frames = spec.options["frames"]
    random = folder.is_random(spec.options["weights"])
    if random:
        spec.say(f"random weights from seed {spec.seed}, not trained")
    return TransformersModel(
        folder,
        random=random,
        seed=spec.seed,
        frames=None if frames is None else positive_int("frames", frames, most=_MOST_FRAMES),
        tokens=one_of("tokens", spec.options["tokens"], ("mean", "cls")),
        dtype=_DTYPES[one_of("dtype", spec.options["dtype"], list(_DTYPES))],
    )


def _preprocessing(model: TransformersModel, spec: ExtractorSpec) -> Preprocessing:
    """Preprocessing from the folder's JSON; the family's official one, with a message, where there is no JSON."""
    folder, kind = model.folder, model.family.processor
    found = folder.processor(video=model.family.video)
    if found is not None:
        return Preprocessing.from_json(found[0], where=found[1], kind=kind)
    if kind is None:
        raise ConfigError(
            f"{folder.path}: has no preprocessor_config.json, so how its pictures are made is not known. Save it with "
            "processor.save_pretrained(FOLDER)"
        )
    size = model.vision.crop_size if kind == "VJEPA2" else getattr(model.vision, "image_size", None)
    fields = default_fields(kind, size if isinstance(size, int) else None)
    if kind == "Siglip2":
        fields |= {"patch_size": model.vision.patch_size, "max_num_patches": model.vision.num_patches}
    spec.say(
        f"{folder.path} has no preprocessor_config.json: pictures are made as by {kind}'s official processor with its "
        f"default settings ({Preprocessing.from_json(fields, where=kind).describe()}). If the model was trained with "
        "others, save its processor there"
    )
    return Preprocessing.from_json(fields, where=f"{kind}'s default settings")
