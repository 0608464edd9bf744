"""Inputs and outputs of submodules, tapped by name while a module runs.

A tap is named, in this order, by a submodule, what is tapped, a path into it, and the order of its axes:

    "encoder.3"                             output of this submodule, named as in `module.named_modules()`
    "output"                                output of the whole module
    "encoder.3[1]", "vision[last state]"    one member of an output; of the whole module also "output.pooler_output"
    "encoder.3:out.hidden_states[2]"        the same with a path of any depth
    "head:in"                               first positional argument of the submodule
    "head:in[1]", "unet:in.global_cond"     another positional argument, one by keyword, or a path into these
    "encoder@SBD"                           axes in the order (tokens, rows, features)

Values are copied when the submodule is called (inputs) or returns (outputs), so that later in-place operations do not
change them.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError, MnprobeError
from mnprobe.core.registry import unknown_name
from mnprobe.features.extractors.base import ExtractorSpec, LayerInfo, class_name, stored_layers

__all__ = [
    "OUTPUT",
    "Call",
    "Caught",
    "Key",
    "Tap",
    "TapName",
    "TappedExtractor",
    "arrange",
    "catch",
    "find_tap",
    "is_named_tuple",
    "parse_axes",
    "parse_call",
    "tokens_of",
]

OUTPUT = "output"
SHOWN = 12
"""Members of a container listed in a message."""

_BRACKET = r"""\[(?:-?\d+|[A-Za-z_]\w*|'[^'\]]+'|"[^"\]]+")\]"""
_LAYER = re.compile(rf"(.*?[^.\[])((?:{_BRACKET})*)")
_TAPPED = re.compile(rf"(.+):(in|out)((?:\.\w+|{_BRACKET})*)")
_STEP = re.compile(rf"\.(\w+)|({_BRACKET})")
_AXES = re.compile(r"(.+)@([A-Za-z]+)")
_TOKENS = "STHW"
_LETTERS = f"B (rows), {' '.join(_TOKENS)} (tokens) and D or C (features)"

Key: TypeAlias = str | int
Call: TypeAlias = Literal["first", "last", "all"] | int


# ---- axes and calls ------------------------------------------------------------------------------------------------


def parse_axes(text: str) -> str:
    """Check the order of axes: B for rows, D or C for features, and tokens S, T, H, W, each at most once.

    >>> parse_axes("SBD"), parse_axes("bct")
    ('SBD', 'BCT')
    """
    axes = str(text).upper()
    features = [letter for letter in axes if letter in "DC"]
    strange = set(axes) - set(f"B{_TOKENS}DC")
    if strange or len(set(axes)) < len(axes) or axes.count("B") != 1 or len(features) != 1:
        raise ConfigError(f"--axes {text}: name every axis once, in order, with {_LETTERS}, such as SBD or BCT")
    return axes


def arrange(tensor: Tensor, axes: str) -> Tensor:
    """Bring axes into the order (rows, tokens, features); several token axes become one, without any the count is 1.

    Raises ValueError when the tensor has another number of axes.

    >>> arrange(torch.zeros(7, 2, 5), "SBD").shape, arrange(torch.zeros(2, 5, 3, 4), "BCHW").shape
    (torch.Size([2, 7, 5]), torch.Size([2, 12, 5]))
    """
    if tensor.ndim != len(axes):
        raise ValueError(f"{tensor.ndim} axes, not the {len(axes)} of {axes}")
    tokens = [i for i, letter in enumerate(axes) if letter in _TOKENS]
    rows, width = axes.index("B"), next(i for i, letter in enumerate(axes) if letter in "DC")
    ordered = tensor.permute(rows, *tokens, width)
    count = int(np.prod([tensor.shape[i] for i in tokens], dtype=int))
    return ordered.reshape(tensor.shape[rows], count, tensor.shape[width])


def parse_call(value: Any, name: str = "option call") -> Call:
    """Check which call of a submodule is meant: "first", "last", "all", or a number from 0; negative from the end.

    >>> parse_call("last"), parse_call("2"), parse_call(-1)
    ('last', 2, -1)
    """
    if value in ("first", "last", "all"):
        return value  # type: ignore[no-any-return]
    try:
        if isinstance(value, bool):
            raise ConfigError(f"{name} is no number")
        return int(value) if isinstance(value, str) else as_whole(value, name)
    except (MnprobeError, ValueError, TypeError):
        raise ConfigError(
            f"{name}: first, last, all, or the number of a call, from 0 (-1 is the last); got {value!r}"
        ) from None


# ---- names of taps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TapName:
    """A name in its parts; `tapped` is "" where the name does not say input or output."""

    base: str
    tapped: Literal["", "in", "out"] = ""
    path: tuple[Key, ...] = ()
    axes: str | None = None

    @classmethod
    def parse(cls, name: str) -> "TapName":
        """Take a name apart.

        >>> TapName.parse("unet:in.global_cond@BD")
        TapName(base='unet', tapped='in', path=('global_cond',), axes='BD')
        """
        axes = None
        if match := _AXES.fullmatch(name):
            name, axes = match.group(1), parse_axes(match.group(2))
        if match := _TAPPED.fullmatch(name):
            steps = (_key(dot or bracket[1:-1].strip("'\"")) for dot, bracket in _STEP.findall(match.group(3)))
            return cls(base=match.group(1), tapped=match.group(2), path=tuple(steps), axes=axes)  # type: ignore[arg-type]
        if match := _LAYER.fullmatch(name):
            texts = [text[1:-1].strip("'\"") for text in re.findall(_BRACKET, match.group(2))]
            return cls(base=match.group(1), path=tuple(map(_key, texts)), axes=axes)
        return cls(base=name, axes=axes)

    @property
    def stored(self) -> str:
        """Name in a store: the parts joined by dots, without the axes.

        >>> TapName.parse("encoder.3:in[1]").stored, TapName.parse("vision:out.last_hidden_state").stored
        ('encoder.3.in.1', 'vision.last_hidden_state')
        """
        return ".".join([self.base, *(["in"] if self.tapped == "in" else []), *map(str, self.path)])


def _key(text: str) -> Key:
    return int(text) if re.fullmatch(r"-?\d+", text) else text


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One input or output to read: its name as requested and as stored, the submodule, and how to read it."""

    name: str
    stored: str
    module: nn.Module
    module_name: str  # "" is the whole module
    tapped: Literal["", "in", "out"] = ""
    path: tuple[Key, ...] = ()
    axes: str | None = None
    call: Call = "all"

    @property
    def is_result(self) -> bool:
        """Whether the output of the whole module is meant, which the caller hands over."""
        return not self.module_name and self.tapped != "in"

    @property
    def place(self) -> str:
        """Submodule and path, as in messages."""
        name = self.module_name or OUTPUT
        return f"{name}:{self.tapped}" if self.tapped else name

    @property
    def described_path(self) -> str:
        """Path into the submodule's output, or ":in" and the path into its input; "" if there is none."""
        return (":in" if self.tapped == "in" else "") + "".join(f"[{key}]" for key in self.path)

    def member(self, key: Key) -> str:
        """Name of the tap for the member `key` of what this one gives."""
        name = self.name.rpartition("@")[0] if self.axes and "@" in self.name else self.name
        plain = isinstance(key, str) and key.isidentifier()
        whole = not self.module_name and not self.tapped and "[" not in name
        if plain and (self.tapped or whole):
            return f"{name}.{key}"
        return f"{name}[{key}]" if plain or isinstance(key, int) else f"{name}['{key}']"


def find_tap(
    name: str, root: nn.Module, *, stored: str | None = None, axes: str | None = None, call: Call = "all"
) -> Tap:
    """Find the submodule that `name` means; `axes` and `call` count where the name itself gives none.

    Raises ConfigError with the nearest name.
    """
    modules = dict(root.named_modules(remove_duplicate=False))  # one submodule may have several names
    parts = TapName(base=name) if name in modules and name else TapName.parse(name)
    given: dict[str, Any] = {
        "name": name,
        "stored": parts.stored if stored is None else stored,
        "tapped": parts.tapped,
        "axes": parts.axes or axes,
        "call": call,
    }
    if parts.base == OUTPUT:
        return Tap(module=root, module_name="", path=parts.path, **given)
    if parts.base in modules and parts.base:
        return Tap(module=modules[parts.base], module_name=parts.base, path=parts.path, **given)
    first, *members = parts.base.split(".")
    if first == OUTPUT and OUTPUT not in modules and all(members) and not parts.tapped:
        return Tap(module=root, module_name="", path=(*map(_key, members), *parts.path), **given)
    raise unknown_name("layer", name, [OUTPUT, *(known for known in modules if known)])


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass
class Caught:
    """What taps gave in one pass over `rows` input rows."""

    rows: int
    kept: dict[str, list[Tensor | FeatureError]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, tap: Tap, value: Any) -> None:
        """Keep a copy of the tensor of `tap` if its call is wanted.

        Errors are kept, not raised inside the module's forward. The copy stays on the device: moving it to the CPU here
        would synchronise the GPU at every layer.
        """
        number = self.counts.get(tap.stored, 0)
        self.counts[tap.stored] = number + 1
        kept = self.kept.setdefault(tap.stored, [])
        if (tap.call == "first" and number) or (isinstance(tap.call, int) and 0 <= tap.call != number):
            return
        if tap.call == "last":
            kept.clear()
        try:
            kept.append(_select(tap, value, self.rows).detach().clone())
        except FeatureError as error:
            kept.append(error)

    def array(self, tap: Tap) -> np.ndarray[Any, Any]:
        """Values of a tap: (rows, tokens, D), float32 or float64; FeatureError if it gave none of this form."""
        outputs, count = self.kept.get(tap.stored, []), self.counts.get(tap.stored, 0)
        if not count:
            raise FeatureError(
                f"layer {tap.name!r} did not run in the forward pass, so it gave nothing; name another layer"
            )
        if isinstance(tap.call, int):
            if not -count <= tap.call < count:
                raise FeatureError(
                    f"layer {tap.name!r} ran {count} times in one pass, so there is no call {tap.call}; calls count "
                    "from 0"
                )
            outputs = [outputs[tap.call if tap.call < 0 else 0]]
        parts = []
        for output in outputs:
            if isinstance(output, FeatureError):
                raise output
            wide = (output if output.dtype == torch.float64 else output.float()).cpu().numpy()
            parts.append(wide[:, None] if wide.ndim == 2 else wide)
        widths = sorted({part.shape[2] for part in parts})
        if len(widths) > 1:
            raise FeatureError(
                f"layer {tap.name!r} ran {len(parts)} times in one pass and gave tokens of "
                f"{', '.join(map(str, widths))} numbers, which cannot lie in one layer; tap layers that run once, take "
                "one call (--option call=last), or wrap the module"
            )
        return np.concatenate(parts, axis=1)


@contextmanager
def catch(taps: Sequence[Tap], rows: int) -> Iterator[Caught]:
    """Copy what `taps` give while the module runs; outputs of the whole module are handed over with `Caught.take`."""
    caught = Caught(rows=rows)
    with ExitStack() as stack:
        for tap in taps:
            if tap.tapped == "in":
                handle = tap.module.register_forward_pre_hook(_input_catcher(tap, caught), with_kwargs=True)
            elif tap.module_name:
                handle = tap.module.register_forward_hook(_output_catcher(tap, caught))
            else:
                continue
            stack.callback(handle.remove)
        yield caught


class TappedExtractor:
    """Base of extractors whose layers are taps of a torch module.

    `taps` are those of the requested layers. A layer that matched a pattern only is dropped if it cannot be stored;
    `dropped` has the reasons by stored name.
    """

    default_layers: ClassVar[tuple[str, ...]]

    def __init__(self, spec: ExtractorSpec, find: Callable[[str, str, str | None, Call], Tap]) -> None:
        """Find the taps: `find(name, stored name, axes, call)` makes one, with the options `axes` and `call`."""
        names = stored_layers(type(self), spec.layers or self.default_layers)
        axes, call = spec.options.get("axes"), spec.options.get("call")
        axes = None if axes is None else parse_axes(axes)
        calls = parse_call("all" if call is None else call)
        self.taps = [find(name, stored, axes, calls) for name, stored in names.items()]
        self._optional = {stored for name, stored in names.items() if name in spec.optional}
        self.dropped: dict[str, str] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """Stored names of the layers, without dropped ones."""
        return tuple(tap.stored for tap in self.taps)

    @classmethod
    def knows_layer(cls, name: str) -> bool:
        """True for any name; `build` looks it up in the module."""
        return bool(name)

    @classmethod
    def is_pattern(cls, name: str) -> bool:
        """Whether `name` is a pattern; `output[0]` and `blocks[last]` are members, `blocks.[0-3]` is a pattern."""
        return "*" in name or "?" in name or "[" in TapName.parse(name).base

    @classmethod
    def stored_layer(cls, name: str) -> str:
        """Return the stored name of a layer: members follow a dot; axes are left out.

        >>> TappedExtractor.stored_layer("encoder.3[1]"), TappedExtractor.stored_layer("output['last state']")
        ('encoder.3.1', 'output.last state')
        >>> TappedExtractor.stored_layer("head:in"), TappedExtractor.stored_layer("encoder@SBD")
        ('head.in', 'encoder')
        """
        return TapName.parse(name).stored

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class and module path of each layer, and the path into its output or input."""
        return {
            tap.stored: {"class": class_name(tap.module), "module": tap.module_name}
            | ({"member": tap.described_path} if tap.described_path else {})
            for tap in self.taps
        }

    def drop(self, layer: str, reason: str) -> bool:
        """Drop `layer` if it matched a pattern only, and return whether it was dropped.

        Raises FeatureError when no layer is left.
        """
        if layer not in self._optional:
            return False
        self.taps = [tap for tap in self.taps if tap.stored != layer]
        self.dropped[layer] = reason
        if not self.taps:
            shown = "\n".join(list(self.dropped.values())[:SHOWN])
            raise FeatureError(f"no layer that the pattern names can be stored:\n{shown}")
        return True


def tokens_of(array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Split (rows, tokens, D) into values (rows * tokens, D) and the row of each."""
    rows, count, dim = array.shape
    return array.reshape(-1, dim), np.repeat(np.arange(rows, dtype=np.int32), count)


def _input_catcher(tap: Tap, caught: Caught) -> Callable[[nn.Module, Any, Any], None]:
    def take(_module: nn.Module, args: Any, kwargs: Any) -> None:
        caught.take(tap, _Arguments(tap.module, args, kwargs))

    return take


def _output_catcher(tap: Tap, caught: Caught) -> Callable[[nn.Module, Any, Any], None]:
    def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.take(tap, output)

    return take


class _Arguments:
    """Arguments of one call of a submodule."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.given: dict[Key, Any] = dict(enumerate(args))
        self.given.update(kwargs)
        self._call = module.forward, args, kwargs

    def __getitem__(self, key: Key) -> Any:
        if key in self.given:
            return self.given[key]
        if isinstance(key, int) and key < 0:
            return self._call[1][key]
        function, args, kwargs = self._call
        return inspect.signature(function).bind(*args, **kwargs).arguments[str(key)]  # a positional one by its name


def _select(tap: Tap, output: Any, rows: int) -> Tensor:
    value, path = output, tap.path
    if isinstance(value, _Arguments) and not path:
        path = (0,)
    for i, key in enumerate(path):
        try:
            value = _member(value, key)
        except (LookupError, AttributeError, TypeError, ValueError):
            if isinstance(value, _Arguments):
                raise FeatureError(_no_argument(tap, value, key, rows)) from None
            where = tap.place + "".join(f"[{one}]" for one in path[:i])
            raise FeatureError(
                f"layer {tap.name!r}: {where} gave {_shown(value, rows)}, so no member {key!r}"
            ) from None
    if isinstance(value, Tensor):
        return _checked(tap, value, rows)
    members = _members(value)
    fits = [key for key, member in members.items() if isinstance(member, Tensor) and not _misfit(tap, member, rows)]
    if isinstance(value, tuple | list) and members:
        first = next(iter(members))
        if fits == [first] or (len(members) == 1 and isinstance(value[0], Tensor)):
            return _checked(tap, value[0], rows)
    if not any(isinstance(member, Tensor) or _members(member) for member in members.values()):
        raise FeatureError(f"layer {tap.name!r} gave {_kind(value)}; {_needed(rows)}")
    example = tap.member((fits or list(members))[0])
    raise FeatureError(
        f"layer {tap.name!r} gave {_shown(value, rows)}. Name the member to take as a layer of its own, such as "
        f"--layer {shlex.quote(example)}; {_needed(rows)}"
    )


def _no_argument(tap: Tap, value: _Arguments, key: Key, rows: int) -> str:
    if not value.given:
        return f"layer {tap.name!r}: {tap.module_name or 'the module'} is called without arguments"
    listed = ", ".join(f"{name} {_kind(member)}" for name, member in list(value.given.items())[:SHOWN])
    base = f"{tap.module_name or OUTPUT}:in"
    fits = [name for name, member in value.given.items() if isinstance(member, Tensor)]
    example = (fits or list(value.given))[0]
    named = f"{base}[{example}]" if isinstance(example, int) else f"{base}.{example}"
    which = "no positional argument" if isinstance(key, int) else f"no argument {key!r}"
    which += f" {key}" if isinstance(key, int) else ""
    return (
        f"layer {tap.name!r}: {tap.module_name or 'the module'} is called with {listed}, so there is {which}. Name one "
        f"of these, such as --layer {shlex.quote(named)}; {_needed(rows)}"
    )


def _member(value: Any, key: Key) -> Any:
    """Return one member by name or number; LookupError, AttributeError or TypeError if there is none."""
    if isinstance(value, Tensor):
        raise TypeError("a tensor has no members")
    if isinstance(value, _Arguments):
        return value[key]
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
    if is_named_tuple(value):
        return dict(value._asdict())
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if isinstance(value, Tensor | type) or not hasattr(value, "__dict__"):
        return {}
    return {name: member for name, member in vars(value).items() if not name.startswith("_")}


def is_named_tuple(value: Any) -> bool:
    """Whether `value` is a named tuple."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _checked(tap: Tap, tensor: Tensor, rows: int) -> Tensor:
    reason = _misfit(tap, tensor, rows)
    if reason:
        raise FeatureError(f"layer {tap.name!r} gave {reason}")
    return arrange(tensor, tap.axes) if tap.axes else tensor


def _misfit(tap: Tap, tensor: Tensor, rows: int) -> str:
    """Return the problem of a tensor as a layer output, with its remedy; "" if there is none."""
    if tensor.is_nested:
        return "a nested tensor; make the module without nested tensors (enable_nested_tensor=False)"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return f"{_kind(tensor)}; wrap the module so that it gives real numbers in a dense tensor"
    shape = tuple(tensor.shape)
    if tap.axes:
        if tensor.ndim == len(tap.axes) and shape[tap.axes.index("B")] == rows and 0 not in shape:
            return ""
        return f"{shape}, which does not fit the axes {tap.axes} with {rows} rows (B); {_LETTERS}"
    if tensor.ndim in (2, 3) and shape[0] == rows and 0 not in shape:
        return ""
    if tensor.ndim == 3 and shape[1] == rows:
        return (
            f"{shape}, which looks like (tokens, rows, width), the {rows} rows on the second axis; {_needed(rows)}. "
            "Tell the order with --axes SBD, make the module with batch_first=True, or swap the axes in a wrapper: "
            "x.transpose(0, 1)"
        )
    order = "; of more axes tell the order, such as --axes BCHW" if tensor.ndim > 3 and rows in shape else ""
    return f"{shape}; {_needed(rows)}{order}. Tap another layer, or wrap the module so that its output has this shape"


def _needed(rows: int) -> str:
    return f"needed is ({rows}, D) or ({rows}, T, D), one row per input row"


def _shown(value: Any, rows: int) -> str:
    """Describe a container and the shapes of its members."""
    members = _members(value)
    if not members:
        return _kind(value)
    listed = [f"{name} {_kind(member)}" for name, member in list(members.items())[:SHOWN]]
    more = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
    return f"a {type(value).__name__} with the members {', '.join(listed)}{more}"


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
    kind = "a nested tensor" if value.is_nested else str(tuple(value.shape))
    plain = value.is_nested or (value.layout == torch.strided and not value.is_complex() and not value.is_quantized)
    return kind if plain else f"{kind} {str(value.dtype).removeprefix('torch.')} {value.layout}"
