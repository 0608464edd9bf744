"""Sizes of a ViCLIP model: the two published ones, a tiny one, and any other."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.registry import unknown_name

__all__ = ["ViCLIPConfig"]

_HEAD = 64  # head size of every published model
_READ = {  # entries that determine the sizes, and their number of axes
    "vision_encoder.conv1.weight": 5,
    "vision_encoder.positional_embedding": 2,
    "vision_encoder.temporal_positional_embedding": 3,
    "vision_encoder.proj": 2,
    "text_encoder.positional_embedding": 2,
    "text_encoder.token_embedding.weight": 2,
}


@dataclass(frozen=True, kw_only=True)
class ViCLIPConfig:
    """Configuration of a ViCLIP; the defaults are those of ViCLIP-B-16. Saved as JSON in our checkpoints.

    Raises: ConfigError for a number out of range or inconsistent numbers.
    """

    image_size: int = 224  # pixels; frames are square
    patch_size: int = 16  # pixels
    frames: int = 8  # frames per clip
    width: int = 768  # of the video tokens
    layers: int = 12
    heads: int = 12
    embed_dim: int = 512  # of u and of the text feature
    text_context: int = 32  # ids per text
    vocabulary: int = 49408
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    stochastic_depth: float = 0.0
    """Probability of stochastic depth in the last video block in training; 0.1 in the official pretraining. 0 by
    default: the rate of the fine-tuning is unknown, and `encode_video` would need a generator."""
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Crop of a stored image: top, left, bottom, right as shares of its height and width. No crop in the published
    models; small models benefit from cropping static parts."""
    tubelet: int = 1
    """Frames that one token spans: the patch convolution covers this many frames and steps by as many. 1 in the
    published models, where every frame has tokens of its own; must divide `frames`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise ConfigError(f"ViCLIPConfig.{field.name} must be a whole number above 0, got {value!r}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.frames % self.tubelet:
            raise ConfigError(f"frames ({self.frames}) must be a multiple of tubelet ({self.tubelet})")
        for width, heads in (("width", "heads"), ("text_width", "text_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(
                    f"{width} ({getattr(self, width)}) must be a multiple of {heads} ({getattr(self, heads)})"
                )
        if not 0 <= self.stochastic_depth < 1:
            raise ConfigError(f"stochastic_depth must lie in [0, 1), got {self.stochastic_depth!r}")
        if len(self.crop) != 4 or not (0 <= self.crop[0] < self.crop[2] <= 1 and 0 <= self.crop[1] < self.crop[3] <= 1):
            raise ConfigError(f"crop must be top < bottom and left < right within 0..1, got {self.crop!r}")

    @classmethod
    def b16(cls) -> "ViCLIPConfig":
        """ViCLIP-B-16: 149,603,841 parameters, u has 512 numbers."""
        return cls()

    @classmethod
    def l14(cls) -> "ViCLIPConfig":
        """ViCLIP-L-14, the paper's model: 427,590,145 parameters, u has 768 numbers."""
        return cls(patch_size=14, width=1024, layers=24, heads=16, embed_dim=768, text_width=768, text_heads=12)

    @classmethod
    def tiny(cls) -> "ViCLIPConfig":
        """The same architecture, small enough to learn on a laptop CPU in minutes; docs/training.md has the figures.

        It uses the lower part of an image, which shows the table. The text encoder has the full vocabulary.
        """
        return cls(
            image_size=96,
            frames=4,
            crop=(0.3125, 0.0, 1.0, 1.0),
            width=96,
            layers=3,
            heads=3,
            embed_dim=64,
            text_width=64,
            text_layers=2,
            text_heads=2,
        )

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def instants(self) -> int:
        """Temporal positions: tokens of one patch along time."""
        return self.frames // self.tubelet

    @property
    def tokens(self) -> int:
        """Video tokens without the class token: patches times temporal positions."""
        return self.grid**2 * self.instants

    def to_dict(self) -> dict[str, Any]:
        """Fields, storable as JSON; a tubelet of 1 is left out, as in files written before there were others."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if (name, value) != ("tubelet", 1)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViCLIPConfig":
        """The inverse of `to_dict`. Raises: ConfigError for an unknown field or an invalid value.

        >>> ViCLIPConfig.from_dict(ViCLIPConfig.tiny().to_dict()) == ViCLIPConfig.tiny()
        True
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("field of ViCLIPConfig", name, known)
        found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**found)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, path: str | Path = "state dict") -> "ViCLIPConfig":
        """Read the sizes off the tensors of a state dict in the official names.

        Tensors do not show the number of heads; a head size of 64, as in published models, is required.

        Raises: CheckpointError when an entry is missing, or the sizes match no ViCLIP with such heads.
        """
        bad = [name for name, axes in _READ.items() if name not in state or state[name].ndim != axes]
        if bad:
            raise CheckpointError(
                f"{path}: cannot tell the sizes of a ViCLIP from it: missing, or with a wrong number of axes:"
                f" {', '.join(bad)}. The file is incomplete, or of another model."
            )
        width, _, tubelet, patch, _ = state["vision_encoder.conv1.weight"].shape
        patches = state["vision_encoder.positional_embedding"].shape[0] - 1
        text_context, text_width = state["text_encoder.positional_embedding"].shape
        grid = math.isqrt(max(patches, 0))
        if width % _HEAD or text_width % _HEAD or grid * grid != patches:
            raise CheckpointError(
                f"{path}: no published size of ViCLIP (width {width}, text width {text_width}, {patches} patches):"
                f" widths are multiples of {_HEAD} there and frames are square."
                " Give the sizes: --config FILE.json, or config=ViCLIPConfig(...)."
            )
        try:
            return cls(
                image_size=grid * patch,
                patch_size=patch,
                frames=state["vision_encoder.temporal_positional_embedding"].shape[1] * tubelet,
                tubelet=tubelet,
                width=width,
                layers=_blocks(state, "vision_encoder"),
                heads=width // _HEAD,
                embed_dim=state["vision_encoder.proj"].shape[1],
                text_context=text_context,
                vocabulary=state["text_encoder.token_embedding.weight"].shape[0],
                text_width=text_width,
                text_layers=_blocks(state, "text_encoder"),
                text_heads=text_width // _HEAD,
            )
        except ConfigError as error:
            raise CheckpointError(f"{path}: the tensors give impossible sizes: {error}") from error


def _blocks(state: Mapping[str, Tensor], encoder: str) -> int:
    prefix = f"{encoder}.transformer.resblocks."
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
