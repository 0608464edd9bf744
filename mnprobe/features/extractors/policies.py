"""Cameras, state, history, noise and taps of foreign policies."""

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnprobe.core.errors import ConfigError, DataError, FeatureError
from mnprobe.core.labels import some
from mnprobe.core.names import Side
from mnprobe.core.registry import unknown_name
from mnprobe.core.runtime import autocast
from mnprobe.core.seeds import check_seed
from mnprobe.data import Episode, find_camera
from mnprobe.features.extractors.base import (
    EpisodeFeatures,
    ExtractorSpec,
    LayerInfo,
    Tokens,
)
from mnprobe.features.extractors.taps import OUTPUT, Call, Tap, TappedExtractor, catch, find_tap

__all__ = [
    "Decisions",
    "NamedLayer",
    "PolicyExtractor",
    "PolicyInputs",
    "find_module",
    "match_cameras",
    "module_names",
    "parse_rename",
    "seeded",
    "seeded_noise",
    "select_state",
    "state_columns",
    "step_indices",
    "takes",
]

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class NamedLayer:
    """A layer with a name of its own: the unique ending of a submodule's name, how it is tapped, and what it is."""

    module: str
    suffix: str = ""
    call: Call = "all"
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """What a policy looks at.

    `cameras` are its own names of the cameras, `state` the size of the robot's state (None: it reads none), `history`
    the frames that it sees, counted from the decision (None: only that of the decision, without an axis of time), and
    `sizes` the (height, width) that the images of a camera must have.
    """

    cameras: tuple[str, ...]
    state: int | None
    history: tuple[int, ...] | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Inputs at the decisions of one episode.

    `images` (N, H, W, 3) uint8 by the policy's name of the camera, or (N, T, H, W, 3) with a history; `state` (N, D) or
    (N, T, D); `replaced` counts images of the history that are not there, for which an earlier one is used.
    """

    images: Mapping[str, np.ndarray[Any, Any]]
    state: np.ndarray[Any, Any] | None
    text: str
    count: int
    replaced: int = 0


# ---- matching a policy with a dataset ------------------------------------------------------------------------------


def parse_rename(pairs: Sequence[str]) -> dict[str, str]:
    """`CAMERA=POLICY_CAMERA` texts to a dictionary from the policy's camera to that of the dataset.

    >>> parse_rename(["front=observation.images.top"])
    {'observation.images.top': 'front'}
    """
    renamed: dict[str, str] = {}
    for pair in [pairs] if isinstance(pairs, str) else pairs:
        ours, sign, theirs = str(pair).partition("=")
        if not (sign and ours.strip() and theirs.strip()):
            raise ConfigError(f"--rename must be CAMERA=CAMERA_OF_THE_POLICY, got {pair!r}")
        if theirs.strip() in renamed:
            raise ConfigError(f"--rename: {theirs.strip()!r} is given twice")
        renamed[theirs.strip()] = ours.strip()
    return renamed


def match_cameras(
    wanted: Sequence[str], cameras: Sequence[str], rename: Mapping[str, str] | None = None, where: str = ""
) -> dict[str, str]:
    """Return the dataset's camera for each camera of a policy: as renamed, by equal name, or by unique ending.

    Raises ConfigError with both lists when a camera has no counterpart, or two have the same one.

    >>> match_cameras(["observation.images.front"], ["front", "wrist"])
    {'observation.images.front': 'front'}
    """
    given = {}
    for theirs, ours in (rename or {}).items():
        try:
            given[find_camera(wanted, theirs)] = ours
        except DataError:
            raise unknown_name("camera of the policy in --rename:", theirs, list(wanted)) from None
    found: dict[str, str] = {}
    missing = []
    for name in wanted:
        short = name.removeprefix("observation.").removeprefix("images.")
        try:
            found[name] = find_camera(cameras, given.get(name) or (name if name in cameras else short), where)
        except DataError:
            if name in given:
                raise
            missing.append(name)
    owner: dict[str, str] = {}
    for name, camera in found.items():
        other = owner.setdefault(camera, name)
        if other != name and not (name in given and other in given):
            missing.append(name)
    if missing:
        free = [camera for camera in cameras if camera not in owner] or list(cameras) or ["CAMERA"]
        place = f"{where}: " if where else ""
        raise ConfigError(
            f"{place}the policy looks through {some(list(wanted), 12)}; the cameras here are "
            f"{some(list(cameras), 12) if cameras else 'none'}. Say which is meant: --rename {free[0]}={missing[0]}"
        )
    return found


def select_state(episode: Episode, size: int, chosen: Sequence[str] = ()) -> np.ndarray[Any, Any]:
    """Return the robot's state of every frame, (T, size) float32; `chosen` names columns, or groups (`ee_pos.0`, ...).

    Raises DataError when the dataset has none, ConfigError when its size is not the policy's.
    """
    state = episode.state
    if state is None:
        raise DataError(f"{episode.where}: the policy reads a state of {size} numbers, and the dataset has no state")
    values, names = np.asarray(state.values), list(state.names)
    if chosen:
        columns = state_columns(names, chosen)
        values, names = values[:, columns], [names[i] for i in columns]
    if values.shape[1] != size:
        raise ConfigError(
            f"{episode.where}: the policy reads a state of {size} numbers, and the dataset has {values.shape[1]}: "
            f"{some(names, 16)}. Choose its columns, in the policy's order, with --option state=NAME,NAME"
        )
    return values.astype(np.float32)


def state_columns(names: Sequence[str], chosen: Sequence[str]) -> list[int]:
    """Return the numbers of the columns that are named, in the order of `chosen`; a group stands for all of its.

    >>> state_columns(["grip", "pos.0", "pos.1"], ["pos", "grip"])
    [1, 2, 0]
    """
    columns = []
    for name in chosen:
        fits = [i for i, known in enumerate(names) if known.startswith((f"{name}.", f"{name}_"))]
        columns += [list(names).index(name)] if name in names else fits
        if name not in names and not fits:
            raise unknown_name("column of the state in option state:", name, list(names))
    return columns


def step_indices(decision: int, history: Sequence[int] | None) -> tuple[int, ...]:
    """Frames that a policy sees at a decision; before the first frame the first is repeated, as in training.

    >>> step_indices(0, (-1, 0)), step_indices(7, (-1, 0)), step_indices(7, None)
    ((0, 0), (6, 7), (7,))
    """
    return tuple(max(decision + delta, 0) for delta in (history or (0,)))


# ---- noise ---------------------------------------------------------------------------------------------------------


def seeded_noise(rows: int, shape: Sequence[int], seed: int) -> Tensor:
    """Normal noise (rows, *shape) from `seed`, the same for every row and any number of rows."""
    noise = torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))
    return noise.expand(rows, *shape).clone()


class _SameForEveryRow(TorchFunctionMode):
    """Random tensors with one row per decision get equal rows, whichever decisions are computed together.

    So the features of two episodes differ by what the policy saw, not by the noise that it drew.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.randn, torch.rand):
            size = kwargs.pop("size", None) or (args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
            if len(size) > 1 and size[0] == self._rows:
                return function((1, *size[1:]), **kwargs).expand(*size).clone()
            return function(size, **kwargs)
        like = args[0] if function in (torch.randn_like, torch.rand_like) and args else None
        if like is not None and like.ndim > 1 and like.shape[0] == self._rows:
            return function(like[:1], *args[1:], **kwargs).expand_as(like).clone()
        if function is torch.normal and len(kwargs.get("size", ())) > 1 and kwargs["size"][0] == self._rows:
            size = kwargs.pop("size")
            return torch.normal(*args, size=(1, *size[1:]), **kwargs).expand(*size).clone()
        return function(*args, **kwargs)


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Draw random numbers from `seed`; the random state is as before afterwards."""
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


# ---- the extractor -------------------------------------------------------------------------------------------------


class PolicyExtractor(TappedExtractor):
    """Base of extractors that ask a policy at the decisions of an episode (`Episode.decisions`).

    The decisions of one episode are asked together, at most `batch_size` at a time, so that no value depends on other
    episodes. A token's keyframe is the number of its decision.

    A subclass gives `kind` and the other class attributes, `_ask`, and calls `__init__` with the module, what it looks
    at, and its named layers. Layers are these names, and any submodule as for hooks (`NAME`, `NAME:in`, `NAME@SBD`).
    """

    side: ClassVar[Side | None] = Side.EXECUTION
    default_layers: ClassVar[tuple[str, ...]] = ("e",)
    independent_rows: ClassVar[bool] = True
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "blank_instruction": False,
        "rename": None,
        "state": None,
        "resize": False,
        "noise_seed": 0,
        "weights": None,
        "axes": None,
        "call": None,
    }

    def __init__(
        self, module: nn.Module, inputs: PolicyInputs, named: Mapping[str, NamedLayer], spec: ExtractorSpec
    ) -> None:
        self.module = module.eval().to(spec.device)
        self.inputs = inputs
        self.named = dict(named)
        self.half_precision = any(weight.dtype in _HALF for weight in module.parameters())
        options = spec.options
        self._spec = spec
        self._blank = bool(options["blank_instruction"])
        self._rename = parse_rename(options["rename"] or ())
        chosen = options["state"] or ()
        self._columns = tuple(str(chosen).split(",")) if isinstance(chosen, str) else tuple(map(str, chosen))
        self._noise_seed = check_seed(options["noise_seed"], name="option noise_seed")
        super().__init__(spec, self._tap)

    def _without_padding(self, layer: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Leave out tokens that only fill up a text; `values` are (rows, tokens, D) of the last call of `_ask`."""
        return values

    @abstractmethod
    def _ask(self, images: Mapping[str, Tensor], state: Tensor | None, texts: Sequence[str]) -> Any:
        """Run the policy once on `len(texts)` decisions and return its actions.

        Images are (N, 3, H, W) or (N, T, 3, H, W) in 0..1, like the state on the device.
        """

    def prepare(self, episodes: Sequence[Episode]) -> list[Decisions]:
        """Read images, state and instruction at the decisions of the episodes."""
        return [self._read(episode) for episode in episodes]

    @torch.no_grad()
    def compute(self, prepared: Sequence[Decisions]) -> list[EpisodeFeatures]:
        """Ask the policy at every decision; collect the layers by episode."""
        return [self._features(decisions) for decisions in prepared]

    def describe_layers(self) -> dict[str, LayerInfo]:
        """Class, module path and meaning of each layer."""
        described = super().describe_layers()
        for tap in self.taps:
            if tap.name in self.named:
                described[tap.stored]["meaning"] = self.named[tap.name].meaning
        return described

    def cameras_for(self, episode: Episode) -> dict[str, str]:
        """Return the episode's camera for each camera of the policy."""
        return match_cameras(self.inputs.cameras, episode.cameras, self._rename, episode.where)

    def _tap(self, name: str, stored: str, axes: str | None, call: Call) -> Tap:
        if name not in self.named:
            return find_tap(name, self.module, stored=stored, axes=axes, call=call)
        layer = self.named[name]
        where = find_module(self.module, layer.module) if layer.module != OUTPUT else OUTPUT
        tap = find_tap(f"{where}{layer.suffix}", self.module, stored=stored, call=layer.call)
        return Tap(
            name=name,
            stored=stored,
            module=tap.module,
            module_name=tap.module_name,
            tapped=tap.tapped,
            path=tap.path,
            axes=tap.axes,
            call=tap.call,
        )

    def _read(self, episode: Episode) -> Decisions:
        decisions = episode.decisions
        if not decisions:
            raise DataError(f"{episode.where}: no decision, so there is nothing to ask the policy; leave it out")
        steps = [step_indices(decision, self.inputs.history) for decision in decisions]
        images, replaced = {}, 0
        for theirs, ours in self.cameras_for(episode).items():
            available = sorted(episode.frames_on_disk(ours))
            frames = [_available(episode, ours, available, index, seen[-1]) for seen in steps for index in seen]
            replaced += sum(used != index for used, index in zip(frames, (i for s in steps for i in s), strict=True))
            pictures = episode.images(ours, frames)
            self._check_size(episode, theirs, ours, pictures.shape[1:3])
            images[theirs] = pictures.reshape(len(steps), -1, *pictures.shape[1:])
        state = None
        if self.inputs.state is not None:
            state = select_state(episode, self.inputs.state, self._columns)[np.array(steps)]
        if self.inputs.history is None:
            images = {name: pictures[:, 0] for name, pictures in images.items()}
            state = None if state is None else state[:, 0]
        text = "" if self._blank else episode.instruction  # episodes without one can be blanked too
        return Decisions(images=images, state=state, text=text, count=len(steps), replaced=replaced)

    def _check_size(self, episode: Episode, theirs: str, ours: str, size: tuple[int, ...]) -> None:
        wanted = self.inputs.sizes.get(theirs)
        if wanted is not None and tuple(size) != tuple(wanted) and not self._spec.options["resize"]:
            raise ConfigError(
                f"{episode.where}: camera {ours!r} has images of {size[0]} x {size[1]} (height x width), and the "
                f"policy was made for {wanted[0]} x {wanted[1]} ({theirs}). To resize them: --option resize=true"
            )

    def _features(self, decisions: Decisions) -> EpisodeFeatures:
        size = max(self._spec.batch_size, 1)
        pieces: dict[str, list[np.ndarray[Any, Any]]] = {tap.stored: [] for tap in self.taps}
        for start in range(0, decisions.count, size):
            rows = min(size, decisions.count - start)
            images = {name: self._image(name, array[start : start + rows]) for name, array in decisions.images.items()}
            state = None
            if decisions.state is not None:
                state = torch.from_numpy(decisions.state[start : start + rows]).to(self._spec.device)
            device = self._spec.device
            with (
                catch(self.taps, rows) as caught,
                seeded(self._noise_seed, device),
                _SameForEveryRow(rows),
                autocast(device, self._spec.precision),
            ):
                actions = self._ask(images, state, [decisions.text] * rows)
            for tap in list(self.taps):
                if tap.is_result:
                    caught.take(tap, actions)
                try:
                    values = caught.array(tap)
                except FeatureError as error:
                    if not self.drop(tap.stored, str(error)):
                        raise
                    del pieces[tap.stored]
                else:
                    pieces[tap.stored].append(self._without_padding(tap.stored, values))
        return EpisodeFeatures(
            layers={name: _tokens(parts) for name, parts in pieces.items()},
            counts={"history_images_replaced": decisions.replaced} if decisions.replaced else {},
        )

    def _image(self, name: str, array: np.ndarray[Any, Any]) -> Tensor:
        """(..., H, W, 3) uint8 to (..., 3, H, W) in 0..1, of the policy's size."""
        image = torch.from_numpy(array).to(self._spec.device).movedim(-1, -3).float() / 255
        size = self.inputs.sizes.get(name)
        if size is not None and tuple(image.shape[-2:]) != tuple(size):
            flat = image.flatten(0, -4)
            flat = nn.functional.interpolate(flat, size=size, mode="bilinear", antialias=True).clamp(0, 1)
            image = flat.reshape(*image.shape[:-2], *size)
        return image.contiguous()


def find_module(root: nn.Module, ending: str) -> str:
    """Return the only submodule whose name is `ending`, or ends with it after a dot; ConfigError otherwise."""
    fits = [name for name, _ in root.named_modules() if name == ending or name.endswith(f".{ending}")]
    if len(fits) == 1:
        return str(fits[0])
    found = f"several: {some(fits, 8)}" if fits else "none"
    raise ConfigError(
        f"{type(root).__name__}: a submodule {ending!r} is expected, found {found}. Name the layer yourself, as for "
        "hooks: --layer NAME, or --layer NAME:in for its input"
    )


def module_names(root: nn.Module) -> tuple[str, ...]:
    """Names of all submodules in order, then "output"."""
    return (*(name for name, _ in root.named_modules() if name), OUTPUT)


def takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def _available(episode: Episode, camera: str, available: Sequence[int], index: int, decision: int) -> int:
    """Frame of the history that has an image: `index`, or the nearest earlier one."""
    earlier = [frame for frame in available if frame <= index]
    if earlier and (earlier[-1] == index or index < decision):
        return earlier[-1]
    if index < decision and decision in available:
        return decision
    raise DataError(f"{episode.where}: camera {camera!r} has no image of frame {index}, at which the policy is asked")


def _tokens(parts: Sequence[np.ndarray[Any, Any]]) -> Tokens:
    values = np.concatenate(parts)  # (decisions, tokens, D)
    marks = np.repeat(np.arange(len(values), dtype=np.int32), values.shape[1])
    return Tokens(values=values.reshape(-1, values.shape[2]), keyframe=marks)
