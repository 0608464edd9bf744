"""Extractor of LeRobot's policies (execution side)."""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError, MnprobeError
from mnprobe.core.files import sha256_file
from mnprobe.core.labels import some
from mnprobe.core.provenance import versions
from mnprobe.core.registry import unknown_name
from mnprobe.data import Episode
from mnprobe.features.extractors.base import ExtractorSpec, FoundWeights, class_name, one_of
from mnprobe.features.extractors.policies import (
    NamedLayer,
    PolicyExtractor,
    PolicyInputs,
    find_module,
    module_names,
    seeded,
    seeded_noise,
    takes,
)
from mnprobe.models.loading import read_metadata

__all__ = ["FAMILIES", "Family", "LeRobotExtractor"]

_CONFIG, _WEIGHTS, _PREPROCESSOR = "config.json", "model.safetensors", "policy_preprocessor.json"
_STATE, _TEXT_MASK = "observation.state", "observation.language.attention_mask"
_CACHE = "lerobot"
_HUB_FIELDS = ("vlm_model_name", "vlm_model_path", "base_model_path", "text_tokenizer_name", "tokenizer_name")
"""Fields of configurations that name what a policy reads from the cache of the Hub."""
_DRAWN_ACTION = 8  # a pose and the gripper, where the dataset has no commands
_LAST = "input of the head that gives the actions, in the last denoising step"
_VLM = "final norm of the vision-language half, over its prefix: images, text and, in SmolVLA, state"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known of a type of policy.

    `noise` names the fields of its configuration that give the shape of the noise it starts from (None: no such
    argument); `after_text` is the number of tokens after the text in the prefix that "vlm" gives; `sized`: it takes
    images of one size only; `queued`: it reads its history from queues of its own; `defaults` are its default layers.
    """

    layers: Mapping[str, NamedLayer]
    noise: tuple[str, ...] | None = None
    after_text: int = 0
    sized: bool = False
    queued: bool = False
    defaults: tuple[str, ...] = ("e",)


def _action_head(ending: str, call: Any = "last", meaning: str = _LAST) -> NamedLayer:
    return NamedLayer(module=ending, suffix=":in", call=call, meaning=meaning)


_CHUNK = ("chunk_size", "max_action_dim")
_PI_VLM = NamedLayer(module="paligemma.model.language_model.norm", meaning=_VLM)

FAMILIES: Mapping[str, Family] = {
    "act": Family(
        layers={
            "e": _action_head("action_head", "all", "input of the action head: the decoder's states, one per action"),
            "encoder": NamedLayer(
                module="model.encoder",
                suffix="@SBD",
                meaning="encoder of the observation: latent, state, image patches",
            ),
        },
        sized=True,
    ),
    "diffusion": Family(
        layers={
            "e": NamedLayer(
                module="diffusion.unet",
                suffix=":in.global_cond@BD",
                call="first",
                meaning="global condition of the U-Net: state and image features of the history; no noise is in it",
            ),
            "denoised": NamedLayer(
                module="unet.final_conv",
                suffix=":in@BCT",
                call="last",
                meaning="input of the U-Net's last layer in the last denoising step, one token per action",
            ),
        },
        noise=("horizon", "action"),
        sized=True,
    ),
    "smolvla": Family(
        layers={
            "e": _action_head("action_out_proj"),
            "vlm": NamedLayer(module="vlm.model.text_model.norm", meaning=_VLM),
        },
        noise=_CHUNK,
        after_text=1,
        defaults=("e", "vlm"),
    ),
    "pi0": Family(layers={"e": _action_head("action_out_proj"), "vlm": _PI_VLM}, noise=_CHUNK, defaults=("e", "vlm")),
    "pi05": Family(layers={"e": _action_head("action_out_proj"), "vlm": _PI_VLM}, noise=_CHUNK, defaults=("e", "vlm")),
    "eo1": Family(layers={"e": _action_head("action_out_proj")}),
    "groot": Family(layers={"e": _action_head("action_decoder")}),
    "xvla": Family(layers={"e": _action_head("action_decoder")}),
    "vqbet": Family(
        layers={"e": _action_head("vqbet.action_head", "all", "input of the action head")}, sized=True, queued=True
    ),
    "multi_task_dit": Family(layers={}, sized=True, queued=True),
}
_HEADS = ("action_out_proj", "action_head", "action_decoder")


class LeRobotExtractor(PolicyExtractor):
    """States of a LeRobot policy at the decisions of an episode.

    The model is the folder of a checkpoint, or the name of a type (`act`) with weights drawn from the seed; its inputs
    then have the dataset's cameras (or one, with `camera`) and sizes, and `--config` gives other fields of its
    configuration.

    Layers: "e", what enters the head that gives the actions; "vlm", the vision-language half; others of `FAMILIES`; and
    any submodule of the policy, as for hooks.

    Options: `rename` ("front=observation.images.top": the dataset's camera = the policy's), `state` (columns of the
    dataset's state in the policy's order), `resize` (images of another size than in training), `noise_seed`, `weights`
    ("random": drawn, with the configuration of the folder), `call` and `axes` for layers named by submodule.
    """

    kind: ClassVar[str] = "lerobot"
    revision: ClassVar[int] = 1
    option_defaults: ClassVar[Mapping[str, Any]] = {**PolicyExtractor.option_defaults, "camera": None}
    sizes: ClassVar[tuple[str, ...]] = ("default",)

    def __init__(self, loaded: "_Loaded", spec: ExtractorSpec) -> None:
        self._loaded = loaded
        family = FAMILIES.get(loaded.type)
        self._family = family or Family(layers=_guessed(loaded.policy))
        if "e" in (spec.layers or self.default_layers) and "e" not in self._family.layers:
            raise ConfigError(
                f"--model lerobot: which layer of the type {loaded.type!r} is e is not known; name a submodule, or its "
                f"input, as for hooks: --layer NAME:in. There are {some(list(module_names(loaded.policy)), 40)}"
            )
        self._text_mask: Tensor | None = None
        super().__init__(loaded.policy, loaded.inputs(self._family), self._family.layers, spec)

    @classmethod
    def default_layers_of(cls, checkpoint: Path | None) -> tuple[str, ...]:
        """Return "e", and "vlm" for policies with a vision-language half."""
        found = FAMILIES.get(_Source.find(str(checkpoint)).type) if checkpoint else None
        if found is not None and not found.layers:
            return cls.default_layers
        return found.defaults if found else cls.default_layers

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return the named layers, then all submodules; reads the weights, and keeps them in `spec` for `build`."""
        spec.cache[_CACHE] = loaded = _load(spec)
        family = FAMILIES.get(loaded.type)
        return (*(family.layers if family else _guessed(loaded.policy)), *module_names(loaded.policy))

    @classmethod
    def find_weights(cls, text: str, options: Mapping[str, Any]) -> FoundWeights:
        """Find the policy that `--model lerobot:TEXT` means: the folder of a checkpoint, or a type."""
        source = _Source.find(text)
        random = source.is_random(options.get("weights"))
        if not random:
            source.check_weights()
        return FoundWeights(
            path=source.path or Path(source.type),
            name=f"{source.name}-untrained" if random else source.name,
            sha256=source.sha256(weights=not random),
            trained=not random,
            step=0 if random else source.step,
        )

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "LeRobotExtractor":
        """Load the policy, or draw its weights from the seed."""
        return cls(spec.cache.pop(_CACHE, None) or _load(spec), spec)

    def describe(self) -> dict[str, Any]:
        """Type, version of lerobot, cameras, history, noise and the configuration."""
        loaded = self._loaded
        example = self._spec.episode
        return {
            "model": "lerobot",
            "type": loaded.type,
            "architecture": class_name(loaded.policy),
            "source": str(loaded.source.path or loaded.source.type),
            "lerobot": str(versions("lerobot")["lerobot"]),
            "cameras": list(self.inputs.cameras) if example is None else self.cameras_for(example),
            "history": None if self.inputs.history is None else list(self.inputs.history),
            "noise_seed": self._noise_seed,
            "normalized": loaded.normalized,
            "blank_instruction": self._blank,
            "layers": {name: layer.meaning for name, layer in self.named.items() if name in self.layers},
            "config": loaded.fields,
        }

    def _ask(self, images: Mapping[str, Tensor], state: Tensor | None, texts: Sequence[str]) -> Any:
        policy, config = self._loaded.policy, self._loaded.config
        batch: dict[str, Any] = {**images, "task": list(texts)}
        if state is not None:
            batch[_STATE] = state
        policy.reset()
        batch = {name: value for name, value in self._loaded.preprocess(batch).items() if name != "action"}
        if self._family.queued:
            batch = _fill_queues(policy, batch, list(self.inputs.cameras))
        self._text_mask = batch.get(_TEXT_MASK)
        names, ask, noise = self._family.noise, policy.predict_action_chunk, {}
        if names is not None and (takes(ask, "noise") or takes(ask, "kwargs")):
            shape = [config.action_feature.shape[0] if name == "action" else getattr(config, name) for name in names]
            noise["noise"] = seeded_noise(len(texts), shape, self._noise_seed).to(self._spec.device)
        return ask(batch, **noise)

    def _without_padding(self, layer: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        mask = self._text_mask
        if layer != "vlm" or mask is None or bool(mask.all()) or getattr(self._loaded.config, "prefix_length", 0) > 0:
            return values
        after = self._family.after_text
        keep = np.ones(values.shape[1], dtype=bool)  # the decisions of one episode have one text
        keep[len(keep) - after - mask.shape[1] : len(keep) - after] = mask[0].cpu().numpy().astype(bool)
        return values[:, keep]


def _guessed(policy: Any) -> dict[str, NamedLayer]:
    """Layer "e" of a type that is not in `FAMILIES`: the input of its only module with a usual name; {} if none."""
    for ending in _HEADS:
        with contextlib.suppress(ConfigError):
            find_module(policy, ending)
            return {"e": _action_head(ending)}
    return {}


def _fill_queues(policy: Any, batch: dict[str, Any], cameras: list[str]) -> dict[str, Any]:
    """Hand the history to a policy that reads it from its queues, step by step, as when it acts."""
    populate = importlib.import_module("lerobot.policies.utils").populate_queues
    batch = (
        {**batch, "observation.images": torch.stack([batch[name] for name in cameras], dim=-4)} if cameras else batch
    )
    seen = {name: value for name, value in batch.items() if name in policy._queues}
    for step in range(len(next(iter(seen.values()))[0])):
        policy._queues = populate(policy._queues, {name: value[:, step] for name, value in seen.items()})
    return batch


# ---- finding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Folder of a checkpoint, or a type without one."""

    type: str
    path: Path | None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, text: str) -> "_Source":
        """Read what a text means; ConfigError when it is neither a folder nor a registered type."""
        path = Path(text).expanduser()
        if not path.is_dir() and path.name == text:
            known = _types()
            if text not in known:
                raise unknown_name("folder or type of policy:", text, known)
            return cls(type=text, path=None)
        if not path.exists():
            hub = f". Nothing is downloaded; fetch it once: hf download {text}" if text.count("/") == 1 else ""
            raise ConfigError(f"--model lerobot:{text}: there is no such folder{hub}")
        if (path / "pretrained_model" / _CONFIG).is_file():
            path = path / "pretrained_model"
        if not (path / _CONFIG).is_file():
            raise ConfigError(
                f"--model lerobot:{text}: has no {_CONFIG}; give the folder that LeRobot saved, "
                ".../checkpoints/<step>/pretrained_model"
            )
        try:
            fields = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path / _CONFIG}: cannot be read as JSON ({error})") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            raise ConfigError(f"{path / _CONFIG}: names no type of policy, so it is no checkpoint of LeRobot")
        known = _types()
        if fields["type"] not in known:
            raise unknown_name(f"type in {path / _CONFIG}:", fields["type"], known)
        return cls(type=fields["type"], path=path, fields=fields)

    @property
    def name(self) -> str:
        """Name of the training, else of the folder, else the type."""
        if self.path is None:
            return self.type
        parts = self.path.absolute().parts
        name = parts[parts.index("checkpoints") - 1] if "checkpoints" in parts[1:] else parts[-1]
        if name == "pretrained_model":
            name = parts[-2] if len(parts) > 2 else self.type
        return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-_") or self.type

    @property
    def step(self) -> int | None:
        """Training step by LeRobot's own record beside the folder, or by the folder's name; None if neither tells."""
        if self.path is None:
            return None
        told = self.path.parent / "training_state" / "training_step.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(told.read_text(encoding="utf-8"))["step"])
        name = self.path.resolve().parent.name
        return int(name) if name.isdecimal() else None

    def is_random(self, weights: Any) -> bool:
        """Whether weights are drawn: a type, a folder without any, or as asked."""
        if weights is not None:
            return one_of("weights", weights, ("random", "pretrained")) == "random" or self.path is None
        return self.path is None or not (self.path / _WEIGHTS).is_file()

    def check_weights(self) -> None:
        """Raise CheckpointError when the folder is not whole."""
        assert self.path is not None
        read_metadata(self.path / _WEIGHTS)  # raises for a missing, truncated or foreign file
        if self.fields.get("use_peft"):
            raise ConfigError(f"{self.path}: holds an adapter (use_peft); merge it into its policy and save that")
        if not (self.path / _PREPROCESSOR).is_file():
            raise CheckpointError(
                f"{self.path}: has no {_PREPROCESSOR}, which says how inputs are normalized. Convert a checkpoint of "
                "an older LeRobot: python -m lerobot.processor.migrate_policy_normalization --pretrained-path "
                f"{self.path}"
            )

    def sha256(self, *, weights: bool) -> str:
        """Digest over the files that decide the values; "" for a type."""
        if self.path is None:
            return ""
        files = [self.path / _CONFIG, *sorted(self.path.glob("policy_preprocessor*"))]
        files += [self.path / _WEIGHTS] if weights else []
        lines = [f"{path.name} {sha256_file(path)}\n" for path in files if path.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _module(name: str) -> Any:
    """Import a module of lerobot; ConfigError saying what can be done when it is not there."""
    remedy = 'pip install "mnprobe[lerobot]"'
    other = "or compute the features where it is installed, and read them here (`mnprobe import`)"
    if importlib.util.find_spec("lerobot") is None:
        python = ".".join(map(str, sys.version_info[:2]))
        if sys.version_info < (3, 12):
            raise ConfigError(
                f"--model lerobot needs lerobot 0.6, which needs Python 3.12 or later; this is {python}. Make an "
                f"environment with Python 3.12 and there {remedy}; {other}"
            )
        raise ConfigError(f"--model lerobot needs the package lerobot: {remedy}; {other}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"--model lerobot: {name} cannot be imported ({_first_line(error)}): {remedy}; {other}"
        ) from error


def _types() -> list[str]:
    """Registered types of policies, those of plugins among them."""
    _module("lerobot.policies.factory")
    plugins = _module("lerobot.utils.import_utils")
    if hasattr(plugins, "register_third_party_plugins"):
        plugins.register_third_party_plugins()
    return sorted(_module("lerobot.configs.policies").PreTrainedConfig.get_known_choices())


# ---- loading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A policy with its configuration and preprocessing."""

    source: _Source
    policy: Any
    config: Any
    preprocess: Any
    fields: Mapping[str, Any]
    normalized: bool

    @property
    def type(self) -> str:
        """Registered name of the type."""
        return self.source.type

    def inputs(self, family: Family) -> PolicyInputs:
        """Cameras, state and history that the policy wants."""
        config = self.config
        cameras = {name: tuple(feature.shape) for name, feature in config.image_features.items()}
        cameras = {name: shape for name, shape in cameras.items() if "empty_camera" not in name}
        known = {*config.image_features, _STATE}
        others = [name for name in config.input_features or {} if name not in known]
        if others:
            raise ConfigError(f"{self.type}: reads {some(others)}, which mnprobe does not hand over; use --model hook")
        state = (config.input_features or {}).get(_STATE)
        deltas = config.observation_delta_indices
        return PolicyInputs(
            cameras=tuple(cameras),
            state=None if state is None else int(state.shape[0]),
            history=None if deltas is None else tuple(int(d) for d in deltas if d <= 0) or (0,),
            sizes={name: (int(shape[1]), int(shape[2])) for name, shape in cameras.items()} if family.sized else {},
        )


def _load(spec: ExtractorSpec) -> _Loaded:
    if spec.checkpoint is None:
        raise ConfigError("the extractor 'lerobot' needs a policy: --model lerobot:FOLDER, or --model lerobot:act")
    source = _Source.find(str(spec.checkpoint))
    random = source.is_random(spec.options["weights"])
    if not random:
        source.check_weights()
    if source.path is not None and spec.options["camera"] is not None:
        raise ConfigError("--camera: the cameras of a checkpoint are fixed; say which is which with --rename")
    if source.path is not None and spec.config is not None:
        raise ConfigError(f"--config: the configuration of {source.path} is in its {_CONFIG}; leave it out")
    needed: list[str] = []
    # lerobot prints while it loads, and draws weights before it reads them
    with _offline(source, needed), contextlib.redirect_stdout(io.StringIO()), seeded(spec.seed, spec.device):
        config = _config(source, spec)
        names = (getattr(config, name, None) for name in _HUB_FIELDS)
        needed += [name for name in names if isinstance(name, str)]
        policy_class = _module("lerobot.policies.factory").get_policy_class(source.type)
        if random:
            spec.say(f"random weights from seed {spec.seed}, not trained")
            policy = policy_class(config)
        else:
            policy = policy_class.from_pretrained(str(source.path), config=config, strict=True)
            _check_loaded(policy, Path(str(source.path)) / _WEIGHTS)
        preprocess, normalized = _preprocessor(source, config, spec.device)
    if not normalized:
        spec.say("inputs are not normalized: random weights have no statistics of a dataset")
    policy.requires_grad_(False)
    fields = dict(source.fields) or {"type": source.type, **_described(config, spec)}
    return _Loaded(
        source=source, policy=policy, config=config, preprocess=preprocess, fields=fields, normalized=normalized
    )


def _config(source: _Source, spec: ExtractorSpec) -> Any:
    """Configuration of the policy for this device, with nothing left to download, and not compiled."""
    fields = dict(source.fields) or {"type": source.type, **_described(None, spec)}
    fields["device"] = spec.device.split(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _CONFIG).write_text(json.dumps(fields), encoding="utf-8")
        try:
            config = _module("lerobot.configs.policies").PreTrainedConfig.from_pretrained(folder)
        except (ImportError, OSError, MemoryError):
            raise
        except Exception as error:
            where = source.path / _CONFIG if source.path else f"--config of {source.type}"
            raise ConfigError(f"{where}: lerobot cannot read it: {_first_line(error)}") from error
    config.device = spec.device
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = (
            None  # would be fetched from the internet, even where a checkpoint has them
        )
    if getattr(config, "load_vlm_weights", False):
        config.load_vlm_weights = False  # the checkpoint has them
    if getattr(config, "compile_model", False):
        config.compile_model = False  # compiled modules run no hooks
    return config


def _described(config: Any, spec: ExtractorSpec) -> dict[str, Any]:
    """Fields of a configuration without a folder: those given, and sizes of inputs and actions as in the dataset."""
    given = dict(spec.config or {})
    example = spec.episode
    if "input_features" not in given or "output_features" not in given:
        if example is None:
            raise ConfigError(
                "the sizes of a policy with random weights are those of a dataset; name layers without a pattern, or "
                "give input_features and output_features with --config"
            )
        given.setdefault("input_features", _input_features(example, spec.options["camera"]))
        commands = example.action
        width = _DRAWN_ACTION if commands is None else commands.values.shape[1]
        given.setdefault("output_features", {"action": {"type": "ACTION", "shape": [width]}})
    return given


def _input_features(episode: Episode, camera: str | None) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for name in [camera] if camera else episode.cameras:
        height, width = episode.image(name, episode.decisions[0]).shape[:2]
        key = name if name.startswith("observation.") else f"observation.images.{name}"
        features[key] = {"type": "VISUAL", "shape": [3, int(height), int(width)]}
    if episode.state is not None:
        features[_STATE] = {"type": "STATE", "shape": [episode.state.values.shape[1]]}
    return features


def _preprocessor(source: _Source, config: Any, device: str) -> tuple[Any, bool]:
    """Preprocessing from the folder, on this device; without statistics for a policy that has none."""
    make = _module("lerobot.policies.factory").make_pre_post_processors
    if source.path is None or not (source.path / _PREPROCESSOR).is_file():
        return make(config)[0], False
    steps = json.loads((source.path / _PREPROCESSOR).read_text(encoding="utf-8")).get("steps", [])
    names = {step.get("registry_name") for step in steps}
    moves = {"device_processor": {"device": device}} if "device_processor" in names else {}
    return make(config, pretrained_path=str(source.path), preprocessor_overrides=moves)[0], True


def _check_loaded(policy: Any, path: Path) -> None:
    """Raise CheckpointError unless every weight of the policy is in the file: some loaders only print what failed."""
    from safetensors import safe_open

    missing, other = [], []
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        state = policy.state_dict()
        filled = set()
        for name, value in state.items():
            key = next((key for key in (name, name.removeprefix("model."), f"model.{name}") if key in names), None)
            if key is None:
                continue
            filled.add(value.data_ptr())
            stored = file.get_tensor(key)
            if stored.shape != value.shape or not torch.equal(stored.to(value.dtype), value.cpu()):
                other.append(name)
        missing = [
            name
            for name, value in state.items()
            if value.numel() and value.data_ptr() not in filled and name not in other
        ]
    if missing or other:
        what = f"lacks {some(missing)}" if missing else f"has other numbers of {some(other)}"
        raise CheckpointError(f"{path}: {what} than the loaded policy, so it does not fit this version of lerobot")


@contextlib.contextmanager
def _offline(source: _Source, needed: list[str]) -> Iterator[None]:
    """Download nothing; turn what is then missing (likely one of `needed`), and what does not fit, into a sentence."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    where = source.path or f"lerobot:{source.type}"
    try:
        yield
    except MnprobeError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"{where}: this type needs a package that is missing ({_first_line(error)}). "
            f'pip install "lerobot[{source.type}]"'
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{where}: a file is missing, and nothing is downloaded unasked ({_first_line(error)}). Fetch it once, "
            f"such as: hf download {needed[0] if needed else 'OWNER/NAME'}"
        ) from error
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        if source.path is not None:
            raise CheckpointError(f"{where}: does not fit this version of lerobot: {_first_line(error)}") from error
        raise ConfigError(f"{where}: lerobot cannot make it: {_first_line(error)}") from error
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
