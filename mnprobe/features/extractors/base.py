"""The extractor protocol, its registry, and the options of extractors."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import Side
from mnprobe.core.provenance import versions
from mnprobe.core.registry import Registry, unknown_name
from mnprobe.data import Episode
from mnprobe.features.schema import check_layer_name

__all__ = [
    "EXTRACTORS",
    "EpisodeFeatures",
    "Extractor",
    "ExtractorSpec",
    "FoundWeights",
    "LayerInfo",
    "Tokens",
    "check_computation",
    "check_one_size",
    "class_name",
    "complete_options",
    "computation_of",
    "config_from",
    "one_of",
    "parse_options",
    "positive_int",
    "stored_layers",
]

LayerInfo: TypeAlias = dict[str, str]
"""Origin of a layer: "class" and "module" (dotted path, "" for the whole model), optionally "member", "meaning"."""

EXTRACTORS = Registry("extractor", "mnprobe.extractors")
EXTRACTORS.add("viclip", "mnprobe.features.extractors.viclip:ViCLIPExtractor")
EXTRACTORS.add("arp", "mnprobe.features.extractors.arp:ARPExtractor")
EXTRACTORS.add("hook", "mnprobe.features.extractors.hook:HookExtractor")
EXTRACTORS.add("pixels", "mnprobe.features.extractors.pixels:PixelExtractor")
EXTRACTORS.add("hf", "mnprobe.features.extractors.hf:HFExtractor")
EXTRACTORS.add("lerobot", "mnprobe.features.extractors.lerobot:LeRobotExtractor")
EXTRACTORS.add("pi0", "mnprobe.features.extractors.pi0:PI0Extractor")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of one episode in one layer: `values` (m, D) float, `keyframe` (m,) the keyframe or clip of each."""

    values: np.ndarray[Any, Any]
    keyframe: np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class EpisodeFeatures:
    """Result of an extractor for one episode.

    `prediction` is the recognised instruction, if the model recognises any; '' when the own one is not distinguishable
    from another. `counts` are summed over the episodes and written to the store's provenance (e.g. episodes whose last
    frame was repeated).
    """

    layers: Mapping[str, Tokens]
    prediction: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """A model that an extractor finds by the text of `--model KIND:TEXT`.

    `path` is handed to `build` as the checkpoint; `name` is the name under which features are stored; `sha256` is the
    digest of the files that decide the values; with `trained` False the weights are drawn from the seed; `step` is the
    training step, None if nothing tells it.
    """

    path: Path
    name: str
    sha256: str
    trained: bool = True
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec:
    """Specification from which an extractor is built.

    `checkpoint` None means random weights: `preset` names the size, and `seed` seeds the numbers. `config` gives the
    model configuration, if neither a preset nor the file contains it. `layers` empty means the extractor's default;
    those in `optional` matched a pattern only, and an extractor may omit them if their output cannot be stored.
    `candidates` are the instructions among which an understanding model may choose. `options` are the extractor's own
    (see its `option_defaults`), complete. `episode` is the first of the dataset, for models whose sizes follow from the
    data; None where no dataset is known. `say` is called with messages for the user. `cache` passes objects from
    `layers_of` to the following `build`.
    """

    checkpoint: Path | None = None
    preset: str | None = None
    config: Mapping[str, Any] | None = None
    seed: int = 0
    layers: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    device: str = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    batch_size: int = 8
    candidates: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    episode: Episode | None = field(default=None, repr=False, compare=False)
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_computation(self.batch_size, self.precision)


def check_computation(batch_size: int, precision: str) -> None:
    """Raise ConfigError for a batch size below 1, and for an unknown precision."""
    if batch_size < 1:
        raise ConfigError(f"batch size must be >= 1, got {batch_size}")
    if precision not in ("float32", "bf16"):
        raise ConfigError(f"precision must be 'float32' or 'bf16', got {precision!r}")


def computation_of(device: str, *, batch_size: int) -> dict[str, Any]:
    """How values are computed, as stores record it: kind of device, samples per pass, versions, products."""
    from mnprobe.core.products import describe_products  # imports torch

    kind = device.split(":")[0]
    made = versions("torch", "numpy")
    return {"device": kind, "batch_size": batch_size, **made, "products": describe_products(kind)}


def check_one_size(preset: str | None, model_config: object) -> None:
    """Raise ConfigError when a preset and a model configuration both give the size of a model."""
    if preset is not None and model_config is not None:
        raise ConfigError(f"--preset {preset} and --config both give the size; leave one out")


class Extractor(Protocol):
    """Protocol of extractors: a frozen model whose layers are read. Register classes in EXTRACTORS or by entry point.

    Class attributes: `kind`, the registered name; `revision`, increased whenever values change for the same input;
    `side`, or None if the option "side" gives it; `default_layers`; `option_defaults`, name -> default of every
    supported option; `sizes`, the names of presets for random weights.

    Optional members of an extractor:

    - `find_weights(text, options)`, a class method that returns `FoundWeights`: the model behind `--model KIND:TEXT`.
      Extractors that have it are chosen with a text only, never by the content of a weights file.
    - `default_layers_of(checkpoint)`, a class method: the default layers of one model, in place of `default_layers`.
    - `layers_of(spec)`, a class method: all layers of the model in order, for patterns in `--layer` (otherwise patterns
      match default layers only).
    - `describe_layers()`: `LayerInfo` of each layer, for the store's provenance.
    - `preparation()`: what `prepare` depends on besides the episodes, as JSON values. Extractors of one kind that agree
      in it share the results of `prepare`, which one of them makes; `compute` must leave their meaning as it is.
    - `later_options`, a class attribute: options that earlier versions did not have; None of these is not recorded, so
      that older stores count as extracted with the same settings.
    - `independent_rows = True`, a class attribute: values of an episode never depend on other episodes of the batch.
      For other extractors this is checked once (see `mnprobe.features.row_check`).
    - `half_precision`: whether the model computes in half precision although `spec.precision` does not request it.
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
        """Whether `name` can be a layer of this kind of model; `build` checks it against the actual size."""

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "Extractor":
        """Load or initialise the model. Raises ConfigError or CheckpointError."""

    def describe(self) -> dict[str, Any]:
        """The model's configuration as JSON, for the store's `model_config`."""

    def prepare(self, episodes: Sequence[Episode]) -> Any:
        """Read the inputs of the model; runs in a background thread while the model computes the previous batch."""

    def compute(self, prepared: Any) -> list[EpisodeFeatures]:
        """Run the model on the result of `prepare`: one result per episode, in order."""


def class_name(module: object) -> str:
    """Module and name of the class of `module`.

    >>> class_name(ConfigError())
    'mnprobe.core.errors.ConfigError'
    """
    return f"{type(module).__module__}.{type(module).__qualname__}"


def stored_layers(extractor: Any, layers: Sequence[str]) -> dict[str, str]:
    """Return the stored name of each of `layers` of an extractor class, without repetitions.

    Raises:
        ConfigError: for a name that is not allowed in a store, and for two layers with equal stored names.
    """
    names: dict[str, str] = {}
    for layer in layers:
        stored = extractor.stored_layer(layer) if hasattr(extractor, "stored_layer") else layer
        try:
            names[layer] = check_layer_name(stored)
        except FeatureError as error:
            raise ConfigError(
                f"--layer {layer}: a store cannot hold it ({error}). Give the submodule a second name in the factory, "
                "such as `module.front_camera = module.parts['front camera']`, and take the layer 'front_camera'"
            ) from error
    first: dict[str, str] = {}
    for layer, stored in names.items():
        other = first.setdefault(stored, layer)
        if other != layer:
            raise ConfigError(f"--layer {layer}: {other!r} and {layer!r} would both be stored as {stored!r}")
    return names


Config = TypeVar("Config")


def config_from(make: Callable[[Mapping[str, Any]], Config], fields: Mapping[str, Any]) -> Config:
    """Build a model configuration from the fields of the user; ConfigError names their origin."""
    try:
        return make(fields)
    except ConfigError as error:
        raise ConfigError(f"--config: {error}") from error


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts to a dictionary; values that read as JSON become numbers, booleans, lists, else stay text.

    >>> parse_options(["size=8", "note=left arm"])
    {'size': 8, 'note': 'left arm'}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ConfigError(f"--option must be KEY=VALUE, got {pair!r}")
        if name in options:
            raise ConfigError(f"--option {name} is given twice: {options[name]!r} and {text!r}")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def complete_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults, updated with the given options that are supported.

    >>> complete_options({"camera": "wrist", "decoding": "teacher"}, {"camera": "front", "size": 16})
    {'camera': 'wrist', 'size': 16}
    """
    return dict(defaults) | {name: value for name, value in given.items() if name in defaults}


def positive_int(name: str, value: Any, *, most: int) -> int:
    """`value` as a whole number from 1 to `most`; ConfigError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"option {name!r} must be a whole number from 1 to {most}, got {value!r}")
    return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`; ConfigError with the nearest choice otherwise."""
    if value not in choices:
        raise unknown_name(f"value for option {name!r}:", str(value), list(choices))
    return str(value)
