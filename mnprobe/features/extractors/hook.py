"""Hook extractor: any layer of any torch module, read by forward hooks.

You write a factory and name it as `package.module:factory`:

    def factory(checkpoint: Path | None, **options) -> HookTarget

It returns the module and a function that turns episodes into the module's inputs. mnprobe calls the module once per
batch and reads the layers you name:

    "encoder.layer.3"                  output of this submodule, named as in `module.named_modules()`
    "output"                           output of the whole module
    "encoder.layer.3[1]", "vision[last_hidden_state]"   one member of the output of a submodule
    "output.pooler_output", "output[0]"                 one member of the output of the whole module
    "vision:out.hidden_states[2]"      the same with a path of any depth
    "head:in"                          input of this submodule: its first positional argument
    "head:in[1]", "unet:in.global_cond"                 another positional argument, or one by keyword
    "encoder@SBD"                      a layer with its axes in the order (tokens, rows, features)
    "encoder.layer.*", "*"             every layer whose name matches; `*` also matches dots

The member `encoder.layer.3[1]` is stored under the name `encoder.layer.3.1`, the input `head:in` as `head.in`.

A layer may give a tensor of shape (R, D), one token per input row, or (R, T, D), T tokens per input row; or a tuple or
list whose first entry is the only such tensor. For other outputs (named members, several such tensors) name a member.
Tensors of another order are read with the option `axes`, such as SBD or BCHW, or `@` in the name: B stands for rows, S,
T, H and W for tokens, D or C for features. Values are copied when a layer is called (inputs) or returns, so that later
in-place operations do not change them. The outputs of a layer that runs several times in one pass are concatenated as
further tokens, in order; the option `call` takes one of them: first, last, or its number from 0. Each episode has one
input row, in order, unless `HookInputs.lengths` gives the number of rows of each episode; a token's keyframe is the
index of its row within the episode.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import Side
from mnprobe.core.registry import import_object
from mnprobe.core.runtime import autocast
from mnprobe.data import Episode
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    Tokens,
    one_of,
)
from mnprobe.features.extractors.taps import (
    OUTPUT,
    Call,
    Tap,
    TappedExtractor,
    catch,
    find_tap,
    is_named_tuple,
    tokens_of,
)

__all__ = ["HookExtractor", "HookInputs", "HookTarget"]

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class HookInputs:
    """Arguments of one call, `module(*args, **kwargs)`, on the CPU; mnprobe moves a copy to the device.

    Tensors may be nested in tuples, lists, named tuples, mappings and dataclasses, whose types are preserved; an object
    with a method `.to(device)` is moved by it. `lengths` gives the number of input rows of each episode of the batch;
    None means one each.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lengths: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class HookTarget:
    """Result of a factory.

    `prepare` reads episodes and returns HookInputs, or a tensor, or a tuple of positional arguments (a named tuple is
    one argument); it runs in a background thread and must not touch the module. `describe` is written to the store as
    the model's configuration. A module that is `placed` is already on its device, and is not moved.
    """

    module: nn.Module
    prepare: Callable[[Sequence[Episode]], Any]
    describe: Mapping[str, Any] = field(default_factory=dict)
    placed: bool = False


class HookExtractor(TappedExtractor):
    """Extractor that reads layers of a module made by a factory.

    Options: `factory`, `side`, and `arguments` for the factory; `axes`, the order of the axes of all layers whose names
    do not give one; `call`, which call of a layer is taken that runs several times in one pass (default all).
    """

    kind: ClassVar[str] = "hook"
    revision: ClassVar[int] = 2
    side: ClassVar[Side | None] = None
    default_layers: ClassVar[tuple[str, ...]] = (OUTPUT,)
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "factory": None,
        "side": None,
        "arguments": {},
        "axes": None,
        "call": None,
    }
    later_options: ClassVar[frozenset[str]] = frozenset({"axes", "call"})
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target: HookTarget, spec: ExtractorSpec) -> None:
        self.target = target
        one_of("side", spec.options["side"], list(Side))
        super().__init__(
            spec, lambda name, stored, axes, call: find_tap(name, target.module, stored=stored, axes=axes, call=call)
        )
        self._spec = spec
        self.half_precision: bool | None = None
        """Whether any part of the module computes in half precision; known after the first batch."""
        target.module.eval()
        if not target.placed:
            target.module.to(spec.device)

    def _tap(self, name: str, stored: str, axes: str | None, call: Call) -> Tap:
        return find_tap(name, self.target.module, stored=stored, axes=axes, call=call)

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return all submodules in order, then "output". Makes the module and caches it in `spec` for `build`."""
        target = spec.cache["target"] = spec.cache.get("target") or _make_target(spec)
        return (*(name for name, _ in target.module.named_modules() if name), OUTPUT)

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "HookExtractor":
        """Import the factory and call it with the checkpoint (or None) and the arguments."""
        return cls(spec.cache.pop("target", None) or _make_target(spec), spec)

    def describe(self) -> dict[str, Any]:
        """Name of the factory and its description of the model."""
        return {"model": self._spec.options["factory"], **self.target.describe}

    def training_modules(self) -> list[str]:
        """Submodules in training mode although mnprobe called eval(), due to their own forward() or train()."""
        named = self.target.module.named_modules()
        return [f"{name or 'the module itself'} ({type(part).__name__})" for name, part in named if part.training]

    def prepare(self, episodes: Sequence[Episode]) -> tuple[HookInputs, list[int]]:
        """Call the factory's `prepare`."""
        given = self.target.prepare(episodes)
        if isinstance(given, Tensor) or is_named_tuple(given):
            given = HookInputs(args=(given,))
        elif isinstance(given, tuple):
            given = HookInputs(args=given)
        if not isinstance(given, HookInputs):
            raise ConfigError(
                f"prepare must return HookInputs, a tensor or a tuple, got {type(given).__name__}; "
                "give keyword arguments as HookInputs(kwargs=...)"
            )
        lengths = (
            [1] * len(episodes)
            if given.lengths is None
            else [as_whole(length, "HookInputs.lengths") for length in given.lengths]
        )
        if len(lengths) != len(episodes) or min(lengths) < 1:
            raise ConfigError(
                f"HookInputs.lengths must give >= 1 rows to each of {len(episodes)} episodes, got {lengths}"
            )
        return given, lengths

    @torch.no_grad()  # not inference_mode: what a module keeps from this pass must be usable in a training
    def compute(self, prepared: tuple[HookInputs, list[int]]) -> list[EpisodeFeatures]:
        """Run the module once and split the outputs of its layers by episode."""
        inputs, lengths = prepared
        rows, device = sum(lengths), self._spec.device
        with ExitStack() as stack:
            caught = stack.enter_context(catch(self.taps, rows))
            if self.half_precision is None:
                stack.enter_context(self._watching_precision())
            with autocast(device, self._spec.precision):
                kwargs = {name: _move(value, device) for name, value in inputs.kwargs.items()}
                result = self.target.module(*(_move(value, device) for value in inputs.args), **kwargs)
        for tap in self.taps:
            if tap.is_result:
                caught.take(tap, result)
        values = {}
        for tap in list(self.taps):
            try:
                values[tap.stored] = caught.array(tap)
            except FeatureError as error:
                if not self.drop(tap.stored, str(error)):
                    raise
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return [
            EpisodeFeatures(layers={name: _tokens(array[a:b]) for name, array in values.items()})
            for a, b in pairwise(starts)
        ]

    def _watching_precision(self) -> ExitStack:
        """Set `half_precision` inside the context, from the dtypes of weights and of submodule outputs."""
        module, stack = self.target.module, ExitStack()
        self.half_precision = any(weight.dtype in _HALF for weight in (*module.parameters(), *module.buffers()))

        def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dtype in _HALF:
                self.half_precision = True

        for part in module.modules():
            stack.callback(part.register_forward_hook(watch).remove)
        return stack


def _tokens(values: np.ndarray[Any, Any]) -> Tokens:
    flat, rows = tokens_of(values)
    return Tokens(values=flat, keyframe=rows)


def _make_target(spec: ExtractorSpec) -> HookTarget:
    name = spec.options["factory"]
    if not name:
        raise ConfigError("the extractor 'hook' needs --factory package.module:factory")
    torch.manual_seed(spec.seed)  # a user's factory may initialise weights from the global random state
    factory = _factory(str(name), spec.options["arguments"])
    target = factory(spec.checkpoint, **spec.options["arguments"])
    if not isinstance(target, HookTarget):
        raise ConfigError(f"factory {name!r} must return a mnprobe.features.HookTarget, got {type(target).__name__}")
    return target


def _factory(name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the factory, after a check of its parameters."""
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
    except ValueError:  # some built-in functions have no signature
        pass
    return factory


# ---- inputs of modules -------------------------------------------------------------------------------------------


def _move(value: Any, device: str) -> Any:
    """Copy `value` with its tensors to `device`, because a module may work in place; containers keep their type."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    can_copy = device == "cpu" and isinstance(value, Mapping)  # .to() would return the same tensors
    if callable(getattr(value, "to", None)) and not isinstance(value, type) and not can_copy:
        return value.to(device)
    if isinstance(value, Mapping):
        moved = {name: _move(entry, device) for name, entry in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return moved
        mapping = copy.copy(value)
        for name, entry in moved.items():
            mapping[name] = entry
        return mapping
    if isinstance(value, tuple):
        entries = [_move(entry, device) for entry in value]
        return type(value)._make(entries) if is_named_tuple(value) else type(value)(entries)  # type: ignore[attr-defined]
    if isinstance(value, list):
        entries = copy.copy(value)
        entries[:] = [_move(entry, device) for entry in value]
        return entries
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        moved_value = copy.copy(value)
        for part in dataclasses.fields(value):
            if hasattr(value, part.name):
                object.__setattr__(moved_value, part.name, _move(getattr(value, part.name), device))
        return moved_value
    return value
