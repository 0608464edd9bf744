"""What an extractor is: a frozen model that turns episodes into tokens, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import Registry
from mnprobe.data import Episode
from mnprobe.features.schema import Side

__all__ = ["EXTRACTORS", "EpisodeFeatures", "Extractor", "ExtractorSpec", "Tokens"]

EXTRACTORS = Registry("extractor", "mnprobe.extractors")
EXTRACTORS.add("viclip", "mnprobe.features.viclip:ViCLIPExtractor")
EXTRACTORS.add("arp", "mnprobe.features.arp:ARPExtractor")
EXTRACTORS.add("hook", "mnprobe.features.hook:HookExtractor")
EXTRACTORS.add("pixels", "mnprobe.features.pixels:PixelExtractor")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of one episode in one layer: `values` (m, D) float, `keyframe` (m,) the keyframe or clip of each."""

    values: np.ndarray[Any, Any]
    keyframe: np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class EpisodeFeatures:
    """All that an extractor says about one episode.

    `prediction` is the recognised instruction where the model can say it, '' where it cannot tell the own one from
    another; `counts` are numbers that are summed over
    the episodes and written into the store's provenance (e.g. episodes whose last frame was repeated).
    """

    layers: Mapping[str, Tokens]
    prediction: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec:
    """What to build an extractor from.

    `checkpoint` None means random weights: `preset` names the size, `seed` the numbers. `config` gives the sizes of
    the model field by field, where neither a preset nor the file tells them. `layers` empty means the
    extractor's default. `candidates` are the instructions among which an understanding model may choose. `options`
    are the extractor's own (see its `option_defaults`), complete. `say` is called with remarks for the user.
    """

    checkpoint: Path | None = None
    preset: str | None = None
    config: Mapping[str, Any] | None = None
    seed: int = 0
    layers: tuple[str, ...] = ()
    device: str = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    batch_size: int = 8
    candidates: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch size must be >= 1, got {self.batch_size}")
        if self.precision not in ("float32", "bf16"):
            raise ConfigError(f"precision must be 'float32' or 'bf16', got {self.precision!r}")


class Extractor(Protocol):
    """A frozen model with a way in and taps out. Classes are registered in EXTRACTORS or by entry point.

    Class attributes: `kind`, the registered name; `revision`, raised whenever the same input gives other values;
    `side`, or None where the option "side" says it; `default_layers`; `option_defaults`, name -> default of every
    option it understands; `sizes`, the names of presets for random weights.
    """

    kind: ClassVar[str]
    revision: ClassVar[int]
    side: ClassVar[Side | None]
    default_layers: ClassVar[tuple[str, ...]]
    option_defaults: ClassVar[Mapping[str, Any]]
    sizes: ClassVar[tuple[str, ...]]
    layers: tuple[str, ...]

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """Whether `name` can be a layer of some size of this model; `build` checks it against the actual size."""

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "Extractor":
        """Load or make the model. Raises ConfigError or CheckpointError."""

    def describe(self) -> dict[str, Any]:
        """The model's configuration as JSON, for the store's `model_config`."""

    def prepare(self, episodes: Sequence[Episode]) -> Any:
        """Read what the model needs; runs in a background thread while the model works on the batch before."""

    def compute(self, prepared: Any) -> list[EpisodeFeatures]:
        """Run the model on what `prepare` gave: one result per episode, in order."""
