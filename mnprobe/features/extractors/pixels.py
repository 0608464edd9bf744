"""Pixel extractor: downsampled frames as the control for u."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.names import Side
from mnprobe.data import Episode
from mnprobe.features.extractors.base import EpisodeFeatures, ExtractorSpec, Tokens, positive_int
from mnprobe.features.inputs import Clip, read_clip

__all__ = ["PixelExtractor", "area_average"]

_MOST = 1024  # frames of a clip, and pixels a side


def area_average(frames: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Shrink (T, H, W, C) to (T, size, size, C) float64: each output pixel is the mean of the area it covers.

    Pixels on the border of an area are weighted by the covered share, so any H and W are allowed.

    >>> area_average(np.arange(4.0).reshape(1, 2, 2, 1), 1).item()
    1.5
    """
    rows, columns = _weights(frames.shape[1], size), _weights(frames.shape[2], size)
    return np.asarray(np.einsum("ih,thwc,jw->tijc", rows, frames.astype(np.float64), columns, optimize=True))


def _weights(length: int, size: int) -> np.ndarray[Any, Any]:
    edges = np.arange(size + 1) * (length / size)
    low = np.maximum(edges[:-1, None], np.arange(length))
    high = np.minimum(edges[1:, None], np.arange(1, length + 1))
    return np.asarray(np.maximum(high - low, 0.0) * (size / length))


class PixelExtractor:
    """Pixel control (c): the sampled frames of ViCLIP, reduced to 8 x 8, values 0..1, without a model.

    Layer "u": one token of frames * 8 * 8 * 3 = 1,536 numbers, ordered frame, row, column, colour: about the width of a
    video model's features, so that heads have similar size. `--option size=16` keeps more detail.
    """

    kind: ClassVar[str] = "pixels"
    revision: ClassVar[int] = 2
    side: ClassVar[Side | None] = Side.UNDERSTANDING
    default_layers: ClassVar[tuple[str, ...]] = ("u",)
    option_defaults: ClassVar[Mapping[str, Any]] = {"camera": "front", "frames_rule": "middle", "frames": 8, "size": 8}
    sizes: ClassVar[tuple[str, ...]] = ()
    independent_rows: ClassVar[bool] = True

    def __init__(self, *, camera: str, frames_rule: Any, frames: int, size: int) -> None:
        self.layers = ("u",)
        self._camera = camera
        self._rule = frames_rule
        self._frames = frames
        self._size = size

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """Whether `name` is "u"."""
        return name == "u"

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "PixelExtractor":
        """Build the extractor; ConfigError when a checkpoint is given."""
        if spec.checkpoint is not None:
            raise ConfigError(f"the extractor 'pixels' is no model and takes no checkpoint, got {spec.checkpoint}")
        options = dict(spec.options)
        options |= {name: positive_int(name, options[name], most=_MOST) for name in ("frames", "size")}
        return cls(**options)

    def describe(self) -> dict[str, Any]:
        """Settings of the pixel features."""
        return {"frames": self._frames, "size": self._size, "values": "RGB area means, 0..1"}

    def prepare(self, episodes: Sequence[Episode]) -> list[Clip]:
        """Read the frames."""
        return [read_clip(episode, self._camera, self._frames, self._rule) for episode in episodes]

    def compute(self, prepared: list[Clip]) -> list[EpisodeFeatures]:
        """Shrink and flatten."""
        return [
            EpisodeFeatures(
                layers={
                    "u": Tokens(
                        values=(area_average(clip.frames, self._size) / 255).reshape(1, -1).astype(np.float32),
                        keyframe=np.zeros(1, np.int32),
                    )
                },
                counts={"episodes_with_repeated_frames": int(clip.repeated)},
            )
            for clip in prepared
        ]
