"""Any layer of any torch module, tapped by forward hooks: the way in for models that mnprobe does not know.

You write a factory and name it as `package.module:factory`:

    def factory(checkpoint: Path | None, **options) -> HookTarget

It returns the module and a function that turns episodes into the module's inputs. mnprobe calls the module once per
batch and reads the layers you name (dotted module names, as in `module.named_modules()`; "" is not a layer, "output"
is what the whole module returns).

What a layer may give: a tensor, or a tuple or list whose first entry is one, of shape (R, D) = one token per input
row, or (R, T, D) = T tokens per input row. A layer that runs several times in one pass gives its outputs as further
tokens, in order. Input row r belongs to the episodes in order, one row each, unless `HookInputs.lengths` says how many
rows each episode has; a token's keyframe is the number of its row within the episode.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.registry import import_object, unknown_name
from mnprobe.data import Episode
from mnprobe.features.devices import autocast
from mnprobe.features.extractor import EpisodeFeatures, ExtractorSpec, Tokens
from mnprobe.features.options import one_of
from mnprobe.features.schema import SIDES, Side

__all__ = ["HookExtractor", "HookInputs", "HookTarget"]

OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class HookInputs:
    """What the module is called with: `module(*args, **kwargs)`, tensors on the CPU.

    `lengths` says how many input rows each episode of the batch has; None means one each.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lengths: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class HookTarget:
    """What a factory returns.

    `prepare` reads episodes and returns HookInputs, or a tensor, or a tuple of positional arguments; it runs in a
    background thread and must not touch the module. `describe` is written into the store as the model's configuration.
    """

    module: nn.Module
    prepare: Callable[[Sequence[Episode]], Any]
    describe: Mapping[str, Any] = field(default_factory=dict)


class HookExtractor:
    """Taps layers of a module that a factory makes. Options: `factory`, `side`, and `arguments` for the factory."""

    kind: ClassVar[str] = "hook"
    revision: ClassVar[int] = 1
    side: ClassVar[Side | None] = None
    default_layers: ClassVar[tuple[str, ...]] = (OUTPUT,)
    option_defaults: ClassVar[Mapping[str, Any]] = {"factory": None, "side": None, "arguments": {}}
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target: HookTarget, spec: ExtractorSpec) -> None:
        self.target = target
        self.layers = spec.layers or self.default_layers
        one_of("side", spec.options["side"], SIDES)
        modules = dict(target.module.named_modules())
        for name in self.layers:
            if name != OUTPUT and (name not in modules or not name):
                raise unknown_name("layer", name, [OUTPUT, *(known for known in modules if known)])
        self._modules = {name: modules[name] for name in self.layers if name != OUTPUT}
        self._spec = spec
        target.module.eval().to(spec.device)

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """Any name may be one; `build` looks it up in the module."""
        return bool(name)

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "HookExtractor":
        """Import the factory and call it with the checkpoint (or None) and the arguments."""
        name = spec.options["factory"]
        if not name:
            raise ConfigError("the extractor 'hook' needs --factory package.module:factory")
        torch.manual_seed(spec.seed)  # a factory of strangers may draw weights from the global state
        factory = _factory(str(name), spec.options["arguments"])
        target = factory(spec.checkpoint, **spec.options["arguments"])
        if not isinstance(target, HookTarget):
            raise ConfigError(
                f"factory {name!r} must return a mnprobe.features.HookTarget, got {type(target).__name__}"
            )
        return cls(target, spec)

    def describe(self) -> dict[str, Any]:
        """The factory and what it says of its model."""
        return {"model": self._spec.options["factory"], **self.target.describe}

    def prepare(self, episodes: Sequence[Episode]) -> tuple[HookInputs, list[int]]:
        """Ask the factory's `prepare` for the inputs."""
        given = self.target.prepare(episodes)
        if isinstance(given, Tensor):
            given = HookInputs(args=(given,))
        elif isinstance(given, tuple):
            given = HookInputs(args=given)
        if not isinstance(given, HookInputs):
            raise ConfigError(f"prepare must return HookInputs, a tensor or a tuple, got {type(given).__name__}")
        lengths = [1] * len(episodes) if given.lengths is None else [int(length) for length in given.lengths]
        if len(lengths) != len(episodes) or min(lengths) < 1:
            raise ConfigError(
                f"HookInputs.lengths must give >= 1 rows to each of {len(episodes)} episodes, got {lengths}"
            )
        return given, lengths

    @torch.inference_mode()
    def compute(self, prepared: tuple[HookInputs, list[int]]) -> list[EpisodeFeatures]:
        """Run the module once and cut what its layers gave into episodes."""
        inputs, lengths = prepared
        caught: dict[str, list[Any]] = {name: [] for name in self.layers}
        with ExitStack() as stack:
            for name, module in self._modules.items():
                handle = module.register_forward_hook(_catcher(caught[name]))
                stack.callback(handle.remove)
            with autocast(self._spec.device, self._spec.precision):
                result = self.target.module(
                    *_move(inputs.args, self._spec.device), **_move(inputs.kwargs, self._spec.device)
                )
        if OUTPUT in caught:
            caught[OUTPUT] = [result]
        rows = {name: _join(name, outputs, sum(lengths)) for name, outputs in caught.items()}
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return [
            EpisodeFeatures(layers={name: _tokens(values[a:b]) for name, values in rows.items()})
            for a, b in pairwise(starts)
        ]


def _factory(name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory, once it is sure that it can be called with the checkpoint and these arguments."""
    factory: Callable[..., Any] = import_object(name, kind="factory")
    if not callable(factory):
        raise ConfigError(f"factory {name!r} is a {type(factory).__name__}; it must be a function")
    try:
        inspect.signature(factory).bind(None, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"factory {name!r} is called with the checkpoint (a Path or None) and the --option arguments "
            f"{', '.join(arguments) or '(none)'}, which does not fit its parameters: {error}"
        ) from error
    except ValueError:  # some built-in functions do not tell their parameters
        pass
    return factory


def _catcher(into: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        into.append(output)

    return catch


def _join(name: str, outputs: list[Any], rows: int) -> np.ndarray[Any, Any]:
    """Outputs of one layer -> (rows, tokens, D) float32."""
    if not outputs:
        raise FeatureError(f"layer {name!r} did not run in the forward pass, so it gave nothing; name another layer")
    parts = []
    for output in outputs:
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3) or tensor.shape[0] != rows:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise FeatureError(
                f"layer {name!r} gave {found}; needed is ({rows}, D) or ({rows}, T, D), one row per input row. "
                "Tap another layer, or wrap the module so that its output has this shape"
            )
        wide = tensor.float().cpu().numpy()
        parts.append(wide[:, None] if wide.ndim == 2 else wide)
    return np.concatenate(parts, axis=1)


def _tokens(values: np.ndarray[Any, Any]) -> Tokens:
    rows, count, dim = values.shape
    return Tokens(values=values.reshape(-1, dim), keyframe=np.repeat(np.arange(rows, dtype=np.int32), count))


def _move(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _move(entry, device) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_move(entry, device) for entry in value)
    return value
