"""Pixel extractor: downsampled frames as the control for u."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.data import Episode
from mnprobe.features.extractors.base import EpisodeFeatures, ExtractorSpec, Tokens, positive_int
from mnprobe.features.inputs import Clip, read_clip
from mnprobe.features.schema import Side

__all__ = ["PixelExtractor", "area_average"]

_MOST = 1024  # frames of a clip, and pixels a side


def area_average(frames: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Shrink (T, H, W, C) to (T, size, size, C) float64: each output pixel is the mean of the area it covers.

    Areas that cut through pixels weigh them by the share covered, so any H and W will do.

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
    """Control (c) of every result: the same sampled frames that ViCLIP sees, 8 x 8, values 0..1, no model at all.

    Layer "u": one token of frames * 8 * 8 * 3 = 1,536 numbers, ordered frame, row, column, colour: about as many as a
    video model gives, so that its heads are as large. `--option size=16` keeps more of the picture.
    """

    kind: ClassVar[str] = "pixels"
    revision: ClassVar[int] = 2
    side: ClassVar[Side | None] = "understanding"
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
        """Only "u"."""
        return name == "u"

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "PixelExtractor":
        """Raises ConfigError when a checkpoint is given, for there is nothing to load."""
        if spec.checkpoint is not None:
            raise ConfigError(f"the extractor 'pixels' is no model and takes no checkpoint, got {spec.checkpoint}")
        options = dict(spec.options)
        options |= {name: positive_int(name, options[name], most=_MOST) for name in ("frames", "size")}
        return cls(**options)

    def describe(self) -> dict[str, Any]:
        """What decides the numbers."""
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
