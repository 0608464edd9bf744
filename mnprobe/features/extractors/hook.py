"""Hook extractor: any layer of any torch module, read by forward hooks.

You write a factory and name it as `package.module:factory`:

    def factory(checkpoint: Path | None, **options) -> HookTarget

It returns the module and a function that turns episodes into the module's inputs. mnprobe calls the module once per
batch and reads the layers you name:

    "encoder.layer.3"                  output of this submodule, named as in `module.named_modules()`
    "output"                           output of the whole module
    "encoder.layer.3[1]", "vision[last_hidden_state]"   one member of the output of a submodule
    "output.pooler_output", "output[0]"                 one member of the output of the whole module
    "encoder.layer.*", "*"             every layer whose name matches; `*` also matches dots

The member `encoder.layer.3[1]` is stored under the name `encoder.layer.3.1`.

A layer may give a tensor of shape (R, D), one token per input row, or (R, T, D), T tokens per input row; or a tuple or
list whose first entry is the only such tensor. For other outputs (named members, several such tensors) name a member.
Values are copied when the layer returns, so that later in-place operations do not change them. The outputs of a layer
that runs several times in one pass are concatenated as further tokens, in order. Each episode has one input row, in
order, unless `HookInputs.lengths` gives the number of rows of each episode; a token's keyframe is the index of its row
within the episode.
"""

import copy
import dataclasses
import inspect
import re
import shlex
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import Side
from mnprobe.core.registry import import_object, unknown_name
from mnprobe.core.runtime import autocast
from mnprobe.data import Episode
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    LayerInfo,
    Tokens,
    class_name,
    one_of,
    stored_layers,
)

__all__ = ["HookExtractor", "HookInputs", "HookTarget"]

OUTPUT = "output"
_BRACKET = r"""\[(?:-?\d+|[A-Za-z_]\w*|'[^'\]]+'|"[^"\]]+")\]"""
_LAYER = re.compile(rf"(.*?[^.\[])((?:{_BRACKET})*)")
_HALF = (torch.bfloat16, torch.float16)
_SHOWN = 12  # members of a container listed in a message

Key: TypeAlias = str | int


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
    the model's configuration. A module that is `placed` already lies where it computes, and is not moved.
    """

    module: nn.Module
    prepare: Callable[[Sequence[Episode]], Any]
    describe: Mapping[str, Any] = field(default_factory=dict)
    placed: bool = False


@dataclass(frozen=True, kw_only=True)
class _Tap:
    """One layer to read: its name as requested and as stored, the submodule, and the path to one member."""

    name: str
    stored: str
    module: nn.Module
    module_name: str  # "" is the whole module, read from the result of the call
    path: tuple[Key, ...]

    def member(self, key: Key) -> str:
        """Name of the layer for the member `key` of this layer's output."""
        plain = isinstance(key, str) and key.isidentifier()
        if not self.module_name and plain and "[" not in self.name:
            return f"{self.name}.{key}"
        return f"{self.name}[{key}]" if plain or isinstance(key, int) else f"{self.name}['{key}']"


class HookExtractor:
    """Extractor that reads layers of a module made by a factory. Options: `factory`, `side`, and `arguments` for the
    factory."""

    kind: ClassVar[str] = "hook"
    revision: ClassVar[int] = 2
    side: ClassVar[Side | None] = None
    default_layers: ClassVar[tuple[str, ...]] = (OUTPUT,)
    option_defaults: ClassVar[Mapping[str, Any]] = {"factory": None, "side": None, "arguments": {}}
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target: HookTarget, spec: ExtractorSpec) -> None:
        self.target = target
        one_of("side", spec.options["side"], list(Side))
        names = stored_layers(type(self), spec.layers or self.default_layers)
        self._taps = [_tap(name, stored, target.module) for name, stored in names.items()]
        self._optional = {stored for name, stored in names.items() if name in spec.optional}
        self._spec = spec
        self.dropped: dict[str, str] = {}
        """Reasons why layers that matched a pattern are omitted."""
        self.half_precision: bool | None = None
        """Whether any part of the module computes in half precision; known after the first batch."""
        target.module.eval()
        if not target.placed:
            target.module.to(spec.device)

    @property
    def layers(self) -> tuple[str, ...]:
        """Stored names of the layers, without dropped ones."""
        return tuple(tap.stored for tap in self._taps)

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """True for any name; `build` looks it up in the module."""
        return bool(name)

    @classmethod
    def is_pattern(cls, name: str) -> bool:
        """Whether `name` is a pattern; `output[0]` and `blocks[last]` are members, `blocks.[0-3]` is a pattern."""
        return "*" in name or "?" in name or "[" in _split(name)[0]

    @classmethod
    def stored_layer(cls, name: str) -> str:
        """Return the stored name of a layer: members follow a dot.

        >>> HookExtractor.stored_layer("encoder.3[1]"), HookExtractor.stored_layer("output['last state']")
        ('encoder.3.1', 'output.last state')
        """
        base, path = _split(name)
        return ".".join([base, *map(str, path)])

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

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class and module path of each layer."""
        return {
            tap.stored: {"class": class_name(tap.module), "module": tap.module_name}
            | ({"member": "".join(f"[{key}]" for key in tap.path)} if tap.path else {})
            for tap in self._taps
        }

    def drop(self, layer: str, reason: str) -> bool:
        """Drop `layer` if it matched a pattern only, and return whether it was dropped.

        Raises FeatureError when no layer is left.
        """
        if layer not in self._optional:
            return False
        self._taps = [tap for tap in self._taps if tap.stored != layer]
        self.dropped[layer] = reason
        if not self._taps:
            shown = "\n".join(list(self.dropped.values())[:_SHOWN])
            raise FeatureError(f"no layer that the pattern names can be stored:\n{shown}")
        return True

    def training_modules(self) -> list[str]:
        """Submodules in training mode although mnprobe called eval(), due to their own forward() or train()."""
        named = self.target.module.named_modules()
        return [f"{name or 'the module itself'} ({type(part).__name__})" for name, part in named if part.training]

    def prepare(self, episodes: Sequence[Episode]) -> tuple[HookInputs, list[int]]:
        """Call the factory's `prepare`."""
        given = self.target.prepare(episodes)
        if isinstance(given, Tensor) or _is_named_tuple(given):
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
        caught: dict[str, list[Tensor | FeatureError]] = {tap.stored: [] for tap in self._taps}
        with ExitStack() as stack:
            for tap in self._taps:
                if tap.module_name:
                    handle = tap.module.register_forward_hook(_catcher(tap, rows, caught[tap.stored]))
                    stack.callback(handle.remove)
            if self.half_precision is None:
                stack.enter_context(self._watching_precision())
            with autocast(device, self._spec.precision):
                kwargs = {name: _move(value, device) for name, value in inputs.kwargs.items()}
                result = self.target.module(*(_move(value, device) for value in inputs.args), **kwargs)
        for tap in self._taps:
            if not tap.module_name:
                caught[tap.stored] = [_take(tap, result, rows)]
        values = {}
        for tap in list(self._taps):
            try:
                values[tap.stored] = _join(tap.name, caught[tap.stored])
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


# ---- names of layers ---------------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, tuple[Key, ...]]:
    """`encoder.3[1][state]` to ("encoder.3", (1, "state"))."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name, ()
    texts = [text[1:-1].strip("'\"") for text in re.findall(_BRACKET, match.group(2))]
    return match.group(1), tuple(map(_key, texts))


def _key(text: str) -> Key:
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _tap(name: str, stored: str, root: nn.Module) -> _Tap:
    """Find the submodule and the member that `name` means; ConfigError with the nearest name."""
    modules = dict(root.named_modules(remove_duplicate=False))  # one submodule may have several names
    base, path = (name, ()) if name in modules else _split(name)
    if base == OUTPUT:
        return _Tap(name=name, stored=stored, module=root, module_name="", path=path)
    if base in modules and base:
        return _Tap(name=name, stored=stored, module=modules[base], module_name=base, path=path)
    first, *members = base.split(".")
    if first == OUTPUT and OUTPUT not in modules and all(members):
        path = (*map(_key, members), *path)
        return _Tap(name=name, stored=stored, module=root, module_name="", path=path)
    raise unknown_name("layer", name, [OUTPUT, *(known for known in modules if known)])


# ---- outputs of layers -------------------------------------------------------------------------------------------


def _catcher(tap: _Tap, rows: int, into: list[Tensor | FeatureError]) -> Callable[[nn.Module, Any, Any], None]:
    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        into.append(_take(tap, output, rows))

    return catch


def _take(tap: _Tap, output: Any, rows: int) -> Tensor | FeatureError:
    """Return a copy of the tensor of `tap`; an error is returned, not raised inside the module's forward.

    The copy stays on the device: moving it to the CPU here would synchronise the GPU at every layer.
    """
    try:
        return _select(tap, output, rows).detach().clone()
    except FeatureError as error:
        return error


def _select(tap: _Tap, output: Any, rows: int) -> Tensor:
    value = output
    for i, key in enumerate(tap.path):
        try:
            value = _member(value, key)
        except (LookupError, AttributeError, TypeError):
            before = "".join(f"[{one}]" for one in tap.path[:i])
            where = (tap.module_name or OUTPUT) + before
            raise FeatureError(
                f"layer {tap.name!r}: {where} gave {_shown(value, rows)}, so no member {key!r}"
            ) from None
    if isinstance(value, Tensor):
        return _checked(tap.name, value, rows)
    members = _members(value)
    fitting = [key for key, member in members.items() if isinstance(member, Tensor) and not _misfit(member, rows)]
    if isinstance(value, tuple | list) and members:
        first = next(iter(members))
        if fitting == [first] or (len(members) == 1 and isinstance(value[0], Tensor)):
            return _checked(tap.name, value[0], rows)
    if not any(isinstance(member, Tensor) or _members(member) for member in members.values()):
        raise FeatureError(f"layer {tap.name!r} gave {_kind(value)}; {_needed(rows)}")
    example = tap.member((fitting or list(members))[0])
    raise FeatureError(
        f"layer {tap.name!r} gave {_shown(value, rows)}. Name the member to take as a layer of its own, such as "
        f"--layer {shlex.quote(example)}; {_needed(rows)}"
    )


def _member(value: Any, key: Key) -> Any:
    """Return one member by name or number; LookupError, AttributeError or TypeError if there is none."""
    if isinstance(value, Tensor):
        raise TypeError("a tensor has no members")
    if isinstance(value, Mapping):
        return value[key] if key in value or isinstance(key, int) else value[str(key)]
    if isinstance(key, int):
        return value[key]  # also for transformers outputs, which are indexed by position
    if key.startswith("_") or callable(member := getattr(value, key)):
        raise AttributeError(key)
    return member


def _members(value: Any) -> dict[Key, Any]:
    """Return the members of a container by name or number; empty for other objects."""
    if isinstance(value, Mapping):
        return dict(value)
    if _is_named_tuple(value):
        return dict(value._asdict())
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if isinstance(value, Tensor | type) or not hasattr(value, "__dict__"):
        return {}
    return {name: member for name, member in vars(value).items() if not name.startswith("_")}


def _checked(name: str, tensor: Tensor, rows: int) -> Tensor:
    reason = _misfit(tensor, rows)
    if reason:
        raise FeatureError(f"layer {name!r} gave {reason}")
    return tensor


def _misfit(tensor: Tensor, rows: int) -> str:
    """Return the problem of a tensor as a layer output, with its remedy; "" if there is none."""
    if tensor.is_nested:
        return "a nested tensor; make the module without nested tensors (enable_nested_tensor=False)"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return f"{_kind(tensor)}; wrap the module so that it gives real numbers in a dense tensor"
    shape = tuple(tensor.shape)
    if tensor.ndim in (2, 3) and shape[0] == rows and 0 not in shape:
        return ""
    if tensor.ndim == 3 and shape[1] == rows:
        return (
            f"{shape}, which looks like (tokens, rows, width), the {rows} rows on the second axis; {_needed(rows)}. "
            "Make the module with batch_first=True, or swap the axes in a wrapper: x.transpose(0, 1)"
        )
    return f"{shape}; {_needed(rows)}. Tap another layer, or wrap the module so that its output has this shape"


def _needed(rows: int) -> str:
    return f"needed is ({rows}, D) or ({rows}, T, D), one row per input row"


def _shown(value: Any, rows: int) -> str:
    """Describe a container and the shapes of its members."""
    members = _members(value)
    if not members:
        return _kind(value)
    listed = [f"{name} {_kind(member)}" for name, member in list(members.items())[:_SHOWN]]
    more = f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else ""
    return f"a {type(value).__name__} with the members {', '.join(listed)}{more}"


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
    kind = "a nested tensor" if value.is_nested else str(tuple(value.shape))
    plain = value.is_nested or (value.layout == torch.strided and not value.is_complex() and not value.is_quantized)
    return kind if plain else f"{kind} {str(value.dtype).removeprefix('torch.')} {value.layout}"


def _join(name: str, outputs: Sequence[Tensor | FeatureError]) -> np.ndarray[Any, Any]:
    """Join the outputs of one layer to (rows, tokens, D), float32 or float64."""
    if not outputs:
        raise FeatureError(f"layer {name!r} did not run in the forward pass, so it gave nothing; name another layer")
    parts = []
    for output in outputs:
        if isinstance(output, FeatureError):
            raise output
        wide = (output if output.dtype == torch.float64 else output.float()).cpu().numpy()
        parts.append(wide[:, None] if wide.ndim == 2 else wide)
    widths = sorted({part.shape[2] for part in parts})
    if len(widths) > 1:
        raise FeatureError(
            f"layer {name!r} ran {len(parts)} times in one pass and gave tokens of {', '.join(map(str, widths))} "
            "numbers, which cannot lie in one layer; tap layers that run once, or wrap the module"
        )
    return np.concatenate(parts, axis=1)


def _tokens(values: np.ndarray[Any, Any]) -> Tokens:
    rows, count, dim = values.shape
    return Tokens(values=values.reshape(-1, dim), keyframe=np.repeat(np.arange(rows, dtype=np.int32), count))


# ---- inputs of modules -------------------------------------------------------------------------------------------


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


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
        return type(value)._make(entries) if _is_named_tuple(value) else type(value)(entries)  # type: ignore[attr-defined]
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
