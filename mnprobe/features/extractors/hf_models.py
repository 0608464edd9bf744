"""Models of transformers: folders, families and the features of each family.

Nothing is ever downloaded and no code of a checkpoint ever runs: a name on the Hub is looked up in the local cache
only, and everything is read from the folder found there.
"""

import hashlib
import importlib
import importlib.util
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mnprobe.core.errors import CheckpointError, ConfigError, FeatureError
from mnprobe.core.files import sha256_file
from mnprobe.core.labels import some
from mnprobe.core.provenance import versions
from mnprobe.core.registry import unknown_name
from mnprobe.features.extractors.base import FoundWeights, one_of
from mnprobe.models.loading import check_finite, read_metadata

__all__ = ["FAMILIES", "Family", "ModelFolder", "TransformersModel", "find_folder", "transformers_module"]

_INSTALL = 'pip install "mnprobe[hf]"'
_HOOK = "Read it by a factory of your own: --model hook --factory package.module:factory"
_OLDEST = (5, 4)
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_STEP_FOLDER = re.compile(r"checkpoint-(\d+)")  # what the Trainer of transformers writes
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PROCESSORS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
_TEXT = ("text_model", "text_projection")
_UNUSED = re.compile(rf"(vjepa2\.)?({'|'.join(_TEXT)}|predictor|prompts_\w+|logit_scale|logit_bias|classifier)\b.*")
_POOLERS = re.compile(r"(vision_model\.|video_model\.)?(pooler|head)\..*")
_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_FAILURES = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, AssertionError),
    *(SafetensorError, pickle.UnpicklingError),
)
"""What transformers raises for foreign or damaged files."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one `model_type` of transformers reads and gives.

    `video`: it reads clips (B, T, 3, H, W); otherwise frames, one by one. `recommended` is what the layer "u" is:
    "pooled" (the model's own pooled output), "cls" (class token of the last state) or "mean" (over the patch tokens of
    the last state), for the reason `why`. `leading` tokens before the patches: the class token, then registers named by
    `registers` in the configuration. `fixed_frames` and `fixed_size`: positions are learned for one number of frames,
    one size of picture. `method` is called instead of the model; `inner` names the submodule whose states are per
    frame. `processor` is the kind of its preprocessing where a JSON names none.
    """

    video: bool
    recommended: str
    why: str
    processor: str | None
    input: str = "pixel_values"
    method: str = ""
    inner: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooled: bool = True
    leading: int = 0
    registers: str = ""
    fixed_frames: bool = False
    fixed_size: bool = False
    hidden: bool = True


_PER_FRAME = "the model's own feature of a picture, joined over the frames"
_SIGLIP = Family(
    video=False, recommended="pooled", why=_PER_FRAME, processor="Siglip", method="get_image_features", fixed_size=True
)
_SIGLIP_VISION = Family(video=False, recommended="pooled", why=_PER_FRAME, processor="Siglip", fixed_size=True)
_SIGLIP2 = Family(video=False, recommended="pooled", why=_PER_FRAME, processor="Siglip2", method="get_image_features")
_SIGLIP2_VISION = Family(video=False, recommended="pooled", why=_PER_FRAME, processor="Siglip2")
_CLIP = Family(
    video=False,
    recommended="pooled",
    why=_PER_FRAME,
    processor="CLIP",
    method="get_image_features",
    leading=1,
    fixed_size=True,
)
_VIDEO_HEAD = "the model's own feature of a clip, the one it compares with texts"
FAMILIES: dict[str, Family] = {
    "videomae": Family(
        video=True,
        recommended="mean",
        why="it has neither a class token nor a pooler",
        processor="VideoMAE",
        pooled=False,
        fixed_frames=True,
        fixed_size=True,
    ),
    "vjepa2": Family(
        video=True,
        recommended="mean",
        why="it has no class token; only classifiers have a trained pooler",
        processor="VJEPA2",
        input="pixel_values_videos",
        arguments={"skip_predictor": True},
    ),
    "timesformer": Family(
        video=True,
        recommended="cls",
        why="its classifiers read the class token",
        processor="Timesformer",
        pooled=False,
        leading=1,
        fixed_frames=True,
        fixed_size=True,
    ),
    "vivit": Family(
        video=True,
        recommended="cls",
        why="its classifiers read the class token; many of its checkpoints have no trained pooler",
        processor="Vivit",
        leading=1,
        fixed_frames=True,
        fixed_size=True,
    ),
    "xclip": Family(
        video=True,
        recommended="pooled",
        why=_VIDEO_HEAD,
        processor="CLIP",
        method="get_video_features",
        inner="vision_model",
        leading=1,
        fixed_frames=True,
        fixed_size=True,
    ),
    "videoprism": Family(
        video=True,
        recommended="pooled",
        why=_VIDEO_HEAD,
        processor="LlavaOnevision",
        input="pixel_values_videos",
        method="get_video_features",
        fixed_frames=True,
        fixed_size=True,
        hidden=False,
    ),
    "videoprism_vision_model": Family(
        video=True,
        recommended="mean",
        why="it has neither a class token nor a pooler",
        processor="LlavaOnevision",
        input="pixel_values_videos",
        pooled=False,
        fixed_frames=True,
        fixed_size=True,
        hidden=False,
    ),
    "dinov3_vit": Family(
        video=False,
        recommended="pooled",
        why=_PER_FRAME,
        processor="DINOv3ViT",
        leading=1,
        registers="num_register_tokens",
    ),
    "dinov2": Family(video=False, recommended="pooled", why=_PER_FRAME, processor="Bit", leading=1),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP_VISION,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2_VISION,
    "clip": _CLIP,
}
"""`model_type` -> its family. Others are read as pictures or clips by their shapes alone, where these are plain."""


def transformers_module() -> Any:
    """Import transformers. Raises ConfigError when it is missing, too old or broken."""
    try:
        module = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"--model hf needs transformers, which cannot be imported ({error}): {_INSTALL}") from error
    found = versions("transformers")["transformers"]
    numbers = tuple(int(number) for number in re.findall(r"\d+", str(found))[:2])
    if numbers and numbers < _OLDEST:
        raise ConfigError(f"--model hf needs transformers 5.4 or later, found {found}: {_INSTALL}")
    _check_torchvision()
    return module


def _check_torchvision() -> None:
    """Refuse a torchvision that does not go with torch: transformers then imports none of its models."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except _FAILURES as error:
        raise ConfigError(
            f"--model hf: torchvision is installed, but does not go with this torch ({_first_line(error)}), so that "
            "transformers can import no model. mnprobe needs no torchvision: `pip uninstall torchvision`, or install "
            "the one that was built for this torch"
        ) from error


# ---- folders -------------------------------------------------------------------------------------------------------


def find_folder(text: str) -> Path:
    """Return the folder of a model: `text` itself, or that of a Hub name (`owner/name[@revision]`) in the local cache.

    Raises: ConfigError when there is neither; nothing is downloaded.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"--model hf: {path} is a file; give the folder that holds config.json and the weights")
    name, _, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(f"--model hf: there is no folder {text!r}, and it is no name on the Hub (owner/name)")
    transformers_module()
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, revision=revision or None, local_files_only=True))
    except (OSError, ValueError) as error:
        raise _not_there(name, revision, f"there is no folder {text!r}, and no {name} in the local cache") from error


def _not_there(name: str, revision: str, problem: str) -> ConfigError:
    constants = importlib.import_module("huggingface_hub.constants")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return ConfigError(
        f"--model hf: {problem} of the Hub ({constants.HF_HUB_CACHE}). Nothing is downloaded unasked; fetch it once:\n"
        f"  {command}"
    )


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A folder with config.json, and perhaps weights and the JSON of a processor.

    `hub` and `revision` are the name on the Hub and the commit if the folder is in its cache, else "".
    """

    path: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    hub: str = ""
    revision: str = ""

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Read the configuration, and list the weights.

        Raises: ConfigError for a folder without a model, or with one that needs code, an adapter or a quantiser.
        """
        if not (path / "config.json").is_file():
            raise ConfigError(f"--model hf: {path} has no config.json, so it is no model folder of transformers")
        config = _read_json(path / "config.json")
        if config.get("auto_map"):
            raise ConfigError(
                f"{path}: its config.json names code of its own (auto_map), which is never run: it could do anything. "
                f"{_HOOK}"
            )
        if (path / "adapter_config.json").exists():
            raise ConfigError(f"{path}: holds an adapter; merge it into its model, save that, and give its folder")
        if config.get("quantization_config"):
            raise ConfigError(f"{path}: holds quantised weights, which are not read. {_HOOK}")
        if not isinstance(config.get("model_type"), str):
            raise ConfigError(f"{path}: config.json names no model_type, so it is no model of transformers")
        hub = path.parent.parent.name if path.parent.name == "snapshots" else ""
        name = hub.removeprefix("models--").replace("--", "/") if hub.startswith("models--") else ""
        return cls(path=path, config=config, weights=_weights(path), hub=name, revision=path.name if name else "")

    @property
    def model_type(self) -> str:
        """Family of the model, as in its config.json."""
        return str(self.config["model_type"])

    @property
    def name_and_step(self) -> tuple[str, int | None]:
        """Name of the model, and the training step that the folder of a Trainer tells (`checkpoint-500`)."""
        folder = self.path.resolve()
        match = None if self.hub else _STEP_FOLDER.fullmatch(folder.name)
        name = self.hub.split("/")[-1] or (folder.parent.name if match else folder.name)
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-_") or "hf"
        return name, int(match.group(1)) if match else None

    def is_random(self, weights: Any) -> bool:
        """Whether the weights are drawn, by the option `weights` or because a folder (not the Hub's cache) has none."""
        if weights is not None:
            return one_of("weights", weights, ("random", "pretrained")) == "random"
        return not self.weights and not self.hub

    def found(self, weights: Any) -> FoundWeights:
        """Weights, name and step of this model for extraction, by the option `weights`; see `is_random`."""
        random = self.is_random(weights)
        if not random:
            self.check_weights()
        name, step = self.name_and_step
        return FoundWeights(
            path=self.path,
            name=f"{name}-untrained" if random else name,
            sha256=self.sha256(weights=not random),
            trained=not random,
            step=0 if random else step,
        )

    def check_weights(self) -> None:
        """Raise CheckpointError when there are no weights, or a file is no whole weights file."""
        if not self.weights:
            if self.hub:
                raise _not_there(self.hub, self.revision, f"no whole {self.hub} is in the local cache")
            raise CheckpointError(f"{self.path}: holds no weights ({', '.join(_WEIGHTS)})")
        for path in self.weights:
            if path.suffix == ".safetensors":
                read_metadata(path)  # raises for a missing, truncated or foreign file
            elif not path.is_file():
                raise CheckpointError(f"{path}: does not exist, though the index of the weights names it")

    def sha256(self, *, weights: bool) -> str:
        """Digest over the files that decide the values: configuration, preprocessing and, if asked for, weights."""
        files = [self.path / name for name in ("config.json", *_PROCESSORS)] + list(self.weights if weights else ())
        lines = [f"{path.name} {sha256_file(path)}\n" for path in files if path.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def processor(self, *, video: bool) -> tuple[Mapping[str, Any], str] | None:
        """Fields of the processor's JSON and the file they are in, sought as transformers does; None if there are none.

        A model of clips takes that of videos first, a model of pictures that of images only.
        """
        whole, videos, images = (self.path / name for name in _PROCESSORS)
        nested = _read_json(whole) if whole.is_file() else {}
        places: list[tuple[Path, str | None]] = [(whole, "video_processor"), (videos, None)] if video else []
        places += [(whole, "image_processor"), (images, None)] if not video else [(images, None)]
        places += [(whole, "image_processor")] if video else []
        for path, key in places:
            if key is None and path.is_file():
                return _read_json(path), str(path)
            if key is not None and isinstance(nested.get(key), dict):
                return nested[key], f"{path}, {key}"
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must be a JSON object of fields, got {type(found).__name__}")
    return found


def _weights(folder: Path) -> tuple[Path, ...]:
    """Files of weights, chosen in the order of transformers."""
    first = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        return ()
    if not first.endswith(".index.json"):
        return (folder / first,)
    shards = _read_json(folder / first).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ConfigError(f"{folder / first}: names no weight_map")
    foreign = sorted({name for name in shards.values() if Path(name).name != name})
    if foreign:
        raise ConfigError(f"{folder / first}: names files outside its folder: {some(foreign)}")
    return (folder / first, *(folder / name for name in sorted(set(shards.values()))))


# ---- models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _States:
    """What one pass gives: `pooled` (R, D); `last` and `hidden` (R', tokens, D), R' = R or one row per frame."""

    pooled: Tensor | None
    last: Tensor | None
    hidden: Sequence[Tensor]


class TransformersModel:
    """A model in evaluation mode, and the layers that it has.

    Args:
        folder: its folder.
        random: draw the weights from `seed` instead of reading them.
        frames: number of frames of a clip; None: that of the model, or 8 for a model of pictures.
        tokens: what hidden states become one vector by: "mean" over the patch tokens, or "cls", the class token.
        dtype: number type of the weights and of all computation.
    Raises: ConfigError, CheckpointError.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        random: bool,
        seed: int = 0,
        frames: int | None = None,
        tokens: str = "mean",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.folder = folder
        known = FAMILIES.get(folder.model_type)
        config = _configuration(folder)
        if known is not None:  # before the weights are read, which takes long
            _frames(folder.model_type, known, _vision(config), frames)
        self.module, missing = _load(folder, config, random=random, seed=seed)
        self.is_known = folder.model_type in FAMILIES
        for name in _TEXT if self.is_known else ():  # no layer comes from the half of the texts, often the larger one
            if getattr(self.module, name, None) is not None:
                setattr(self.module, name, None)
        self.module.eval().to(dtype=dtype)
        self.module.requires_grad_(False)
        self.family = known or _guessed_family(folder, self.module)
        self.vision = _vision(config)
        self.frames = _frames(folder.model_type, self.family, self.vision, frames)
        self._missing_pooler = bool(missing)
        self._tokens = tokens
        if tokens == "cls" and not self.family.leading:
            raise ConfigError(f"option tokens=cls: {folder.model_type} has no class token")
        self._device, self._dtype = "cpu", dtype
        self.leading = self.family.leading + int(getattr(self.vision, self.family.registers or "_", 0) or 0)
        self.layers: tuple[str, ...] = ()
        self._hidden = 0
        if self.is_known:
            count = int(getattr(self.vision, "num_hidden_layers", 0)) + 1 if self.family.hidden else 0
            self._set_layers(pooled=self._has_pooler(), cls=self.family.leading > 0, mean=True, hidden=count)

    def to(self, device: str) -> "TransformersModel":
        """Move the model to a device, and return it."""
        self.module.to(device)
        self._device = device
        return self

    @property
    def expected_size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures that the positions of the model are learned for; None for any."""
        size = getattr(self.vision, "image_size", None)
        if not self.family.fixed_size or size is None:
            return None
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def recommended(self) -> str:
        """What the layer "u" is: "pooled", "cls" or "mean"."""
        return self.family.recommended if self.family.recommended in self.layers else self.layers[1]

    @property
    def reason(self) -> str:
        """Why the layer "u" is what it is."""
        if self.recommended == self.family.recommended:
            return self.family.why
        return f"the files of this {self.folder.model_type} hold no trained {self.family.recommended} output"

    def check_layer(self, layer: str) -> None:
        """Raise ConfigError for a layer that the model does not have, naming those it has."""
        if layer not in self.layers:
            raise unknown_name(f"layer of {self.folder.model_type}", layer, list(self.layers))

    def meaning(self, layer: str, over_frames: str) -> str:
        """What a layer holds, in words, for the store's record."""
        name = self.recommended if layer == "u" else layer
        if name == "pooled":
            text = f"pooler_output of {self.family.method or 'the model'}"
        elif name.startswith("hidden."):
            text = f"hidden state {name.removeprefix('hidden.')} (0: embeddings), {self._how(name)}"
        else:
            text = f"last_hidden_state, {self._how(name)}"
        return f"{text}, of each frame, {over_frames} over frames" if self.is_per_frame(name) else text

    def is_per_frame(self, layer: str) -> bool:
        """Whether a layer is computed frame by frame and joined over the frames."""
        name = self.recommended if layer == "u" else layer
        return not self.family.video or (bool(self.family.inner) and name != "pooled")

    def settle(self, inputs: Mapping[str, Tensor]) -> None:
        """Find out the layers of a model of no known family by one pass, with inputs of one episode.

        Raises: ConfigError naming `--model hook` where its shapes leave a doubt.
        """
        if self.layers:
            return
        try:
            states = self._states(inputs, hidden=True)
        except _FAILURES as error:
            raise self._doubt(f"it cannot be called with {self.family.input} alone ({_first_line(error)})") from error
        rows = 1 if self.family.video else self.frames
        pooled = states.pooled is not None and states.pooled.ndim == 2 and len(states.pooled) == rows
        tokens = states.last is not None and states.last.ndim == 3 and len(states.last) == rows
        hidden = [one for one in states.hidden if one.ndim == 3 and len(one) == rows]
        if tokens and states.last is not None and self.family.leading:
            self._check_grid(states.last.shape[1], next(iter(inputs.values())))
        pooled = pooled and not self._missing_pooler
        if not pooled and not tokens:
            raise self._doubt("it gives neither a pooled output (rows, width) nor tokens (rows, tokens, width)")
        every = len(hidden) if len(hidden) == len(states.hidden) and tokens else 0
        self._set_layers(pooled=pooled, cls=tokens and self.family.leading > 0, mean=tokens, hidden=every)

    @torch.inference_mode()
    def vectors(self, inputs: Mapping[str, Tensor], layers: Sequence[str], over_frames: str) -> dict[str, Tensor]:
        """Run the model on inputs (B, T, ...) and return one vector per episode and layer, (B, D) float32."""
        names = {layer: self.recommended if layer == "u" else layer for layer in layers}
        try:
            states = self._states(inputs, hidden=any(name.startswith("hidden.") for name in names.values()))
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{self.folder.path}: does not take these inputs: {_first_line(error)}") from error
        episodes = len(next(iter(inputs.values())))
        mask = inputs.get("pixel_attention_mask")
        return {layer: self._vector(name, states, episodes, mask, over_frames) for layer, name in names.items()}

    def _vector(self, name: str, states: _States, episodes: int, mask: Tensor | None, over_frames: str) -> Tensor:
        rows = episodes * self.frames if self.is_per_frame(name) else episodes
        index = int(name.removeprefix("hidden.")) if name.startswith("hidden.") else None
        if index is not None and len(states.hidden) != self._hidden:
            raise FeatureError(
                f"layer {name!r}: this {self.folder.model_type} gave {len(states.hidden)} hidden states, not "
                f"{self._hidden} as its blocks and the embeddings, so it is not clear which is which. {_HOOK}"
            )
        values = states.pooled if name == "pooled" else states.last if index is None else states.hidden[index]
        if values is None or len(values) != rows or values.ndim != (2 if name == "pooled" else 3):
            shape = None if values is None else tuple(values.shape)
            wanted = f"({rows}, width)" if name == "pooled" else f"({rows}, tokens, width)"
            raise FeatureError(f"layer {name!r} of {self.folder.model_type}: gave {shape}, needed is {wanted}. {_HOOK}")
        values = values.float()
        if values.ndim == 3:
            values = values[:, 0] if self._pools_class(name) else _mean(values[:, self.leading :], mask)
        if rows == episodes:
            return values
        frames = values.reshape(episodes, self.frames, -1)
        return frames.mean(dim=1) if over_frames == "mean" else frames.flatten(1)

    def _states(self, inputs: Mapping[str, Tensor], *, hidden: bool) -> _States:
        moved = {name: self._moved(value) for name, value in inputs.items()}
        moved[self.family.input] = moved.pop("pixel_values")
        inner: list[Any] = []
        call = getattr(self.module, self.family.method) if self.family.method else self.module
        handle = None
        if self.family.inner:
            module = getattr(self.module, self.family.inner)
            handle = module.register_forward_hook(lambda _module, _inputs, output: inner.append(output))
        try:
            with torch.inference_mode():
                output = call(**moved, **self._arguments(hidden))
        finally:
            if handle is not None:
                handle.remove()
        source = inner[-1] if inner else output
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and pooled.ndim == 3 and pooled.shape[1] == 1:
            pooled = pooled[:, 0]  # one pooled token
        last = getattr(source, "last_hidden_state", None)
        return _States(pooled, last, list(getattr(source, "hidden_states", None) or ()))

    def _arguments(self, hidden: bool) -> dict[str, Any]:
        return {**self.family.arguments, "return_dict": True} | ({"output_hidden_states": True} if hidden else {})

    def _moved(self, value: Tensor) -> Tensor:
        """Move an input (B, T, ...), with frames as rows for a model of pictures."""
        value = value if self.family.video else value.flatten(0, 1)
        return value.to(self._device, self._dtype if value.is_floating_point() else None, non_blocking=True)

    def _set_layers(self, *, pooled: bool, cls: bool, mean: bool, hidden: int) -> None:
        own = {"pooled": pooled, "cls": cls, "mean": mean}
        first = 1 if self._tokens == "cls" else 0  # before the first block a class token is the same for all pictures
        states = (f"hidden.{i}" for i in range(first, hidden))
        self.layers = ("u", *(name for name, there in own.items() if there), *states)
        self._hidden = hidden

    def _has_pooler(self) -> bool:
        """Whether the model of a known family has a pooled output with weights."""
        if not self.family.pooled or self._missing_pooler:
            return False
        if self.folder.model_type == "vjepa2":
            return isinstance(self.module, _VJEPA2WithPooler)
        return bool(getattr(self.vision, "vision_use_head", True))

    def _pools_class(self, name: str) -> bool:
        """Whether the tokens of a layer become one vector by their class token."""
        return name == "cls" or (name.startswith("hidden.") and self._tokens == "cls")

    def _how(self, name: str) -> str:
        return "class token" if self._pools_class(name) else "mean over the patch tokens"

    def _check_grid(self, tokens: int, pixels: Tensor) -> None:
        patch = getattr(self.vision, "patch_size", None)
        if not isinstance(patch, int):
            raise self._doubt("it has a class token, but its patch size is not plain")
        height, width = pixels.shape[-2:]
        if tokens != self.leading + (height // patch) * (width // patch):
            raise self._doubt(f"its {tokens} tokens are not {self.leading} and one per patch")

    def _doubt(self, reason: str) -> ConfigError:
        known = ", ".join(sorted(FAMILIES))
        return ConfigError(
            f"{self.folder.path}: model_type {self.folder.model_type!r} is none of those mnprobe knows ({known}), and "
            f"{reason}. {_HOOK}"
        )


class _VJEPA2WithPooler(nn.Module):
    """V-JEPA 2's encoder with the trained attentive pooler of its classifier."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.config = classifier.config
        self.vjepa2 = classifier.vjepa2
        self.pooler = classifier.pooler

    def forward(self, **inputs: Any) -> Any:
        output = self.vjepa2(**inputs)
        output.pooler_output = self.pooler(output.last_hidden_state)
        return output


_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def _configuration(folder: ModelFolder) -> Any:
    transformers = transformers_module()
    with _quiet(transformers):
        try:
            return transformers.AutoConfig.from_pretrained(str(folder.path), **_LOCAL)
        except _FAILURES as error:
            raise ConfigError(
                f"{folder.path}: model_type {folder.model_type!r} cannot be read by transformers "
                f"{transformers.__version__} ({_first_line(error)}). {_HOOK}"
            ) from error


def _vision(config: Any) -> Any:
    """The part of a configuration that is about pictures or clips."""
    return getattr(config, "vision_config", None) or config


def _load(folder: ModelFolder, config: Any, *, random: bool, seed: int) -> tuple[Any, list[str]]:
    """Return the model in float32, and the names of pooler weights that the files lack."""
    transformers = transformers_module()
    path = str(folder.path)
    with _quiet(transformers):
        classifier = folder.model_type == "vjepa2" and _names_class(folder, "VJEPA2ForVideoClassification")
        try:
            maker = transformers.VJEPA2ForVideoClassification if classifier else transformers.AutoModel
            if random:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    if classifier:
                        model = maker(config).float()
                    else:
                        model = maker.from_config(config, trust_remote_code=False, dtype=torch.float32)
                return _with_pooler(model, classifier), []
        except _FAILURES as error:
            raise ConfigError(
                f"{path}: no model can be made of its config.json ({_first_line(error)}). {_HOOK}"
            ) from error
        folder.check_weights()
        try:
            model, found = maker.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=".safetensors" in folder.weights[0].name,
                weights_only=True,
                **_LOCAL,
            )
        except _FAILURES as error:
            raise CheckpointError(f"{path}: its weights cannot be loaded ({_first_line(error)})") from error
    missing = sorted(map(str, found["missing_keys"]))
    spare = _UNUSED if folder.model_type in FAMILIES else None  # parts that no layer of these families comes from
    lost = [name for name in missing if not (spare and spare.fullmatch(name)) and not _POOLERS.fullmatch(name)]
    if lost:
        raise CheckpointError(
            f"{path}: the files lack {len(lost)} weights of {type(model).__name__}: {some(lost)}. They would be random "
            "numbers; give the whole checkpoint of this very model"
        )
    check_finite(model.state_dict(), path=path)
    return _with_pooler(model, classifier), [name for name in missing if _POOLERS.fullmatch(name)]


def _with_pooler(model: Any, classifier: bool) -> Any:
    return _VJEPA2WithPooler(model) if classifier else model


def _names_class(folder: ModelFolder, name: str) -> bool:
    architectures = folder.config.get("architectures")
    return isinstance(architectures, list) and name in architectures


def _guessed_family(folder: ModelFolder, module: Any) -> Family:
    """Read an unknown model as one of pictures or clips, by the name of its only input."""
    name = getattr(module, "main_input_name", None)
    config = module.config
    counted = any(hasattr(config, key) for key in ("num_frames", "frames_per_clip"))
    texts = hasattr(config, "text_config") or hasattr(config, "vocab_size")
    if name not in ("pixel_values", "pixel_values_videos") or texts or (name == "pixel_values_videos" and not counted):
        raise ConfigError(
            f"{folder.path}: model_type {folder.model_type!r} is none of those mnprobe knows "
            f"({', '.join(sorted(FAMILIES))}), and it is no plain model of pictures or clips (its input is {name!r}). "
            f"{_HOOK}"
        )
    has_class = any(key.split(".")[-1] in _CLASS_TOKENS for key, _ in module.named_parameters())
    return Family(
        video=counted,
        recommended="pooled",
        why="the model's own pooled output",
        processor=None,
        input=name,
        leading=int(has_class),
        registers="num_register_tokens",
        fixed_frames=counted,
    )


def _frames(model_type: str, family: Family, config: Any, wanted: int | None) -> int:
    """Number of frames of a clip."""
    own = next((int(getattr(config, key)) for key in ("num_frames", "frames_per_clip") if hasattr(config, key)), None)
    if not family.video:
        return wanted or 8
    if own is None:
        raise ConfigError(f"{model_type}: its configuration names no number of frames")
    if wanted is not None and wanted != own and family.fixed_frames:
        raise ConfigError(
            f"option frames={wanted}: this {model_type} has positions for {own} frames and takes no other number"
        )
    chosen = own if wanted is None else wanted
    tubelet = getattr(config, "tubelet_size", 1)
    tubelet = int(tubelet if isinstance(tubelet, int) else tubelet[0])
    if chosen % tubelet:
        raise ConfigError(
            f"option frames={chosen}: {model_type} joins {tubelet} frames to one token; give a multiple of {tubelet}"
        )
    return chosen


def _mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over tokens (R, tokens, D), without padding where a mask (B, T, tokens) says so."""
    if mask is None:
        return tokens.mean(dim=1)
    weight = mask.flatten(0, 1).to(tokens.device, tokens.dtype)[:, :, None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the tables and bars that transformers prints while it loads."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
