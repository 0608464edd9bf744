"""Extractor of pi0 as transformers has it (execution side)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.labels import some
from mnprobe.core.provenance import versions
from mnprobe.features.extractors.base import ExtractorSpec, FoundWeights, class_name
from mnprobe.features.extractors.hf_models import ModelFolder, find_folder, transformers_module
from mnprobe.features.extractors.hf_preprocessing import resized
from mnprobe.features.extractors.policies import (
    NamedLayer,
    PolicyExtractor,
    PolicyInputs,
    module_names,
    seeded,
    seeded_noise,
    state_columns,
)

__all__ = ["PI0Extractor"]

_CACHE = "pi0"
_LAYERS = {
    "e": NamedLayer(
        module="action_out_proj",
        suffix=":in",
        call="last",
        meaning="input of the head that gives the actions, in the last denoising step, one token per action",
    ),
    "vlm": NamedLayer(
        module="model.vlm",
        suffix=":out.last_hidden_state",
        call="first",
        meaning="last state of the vision-language half, over images and text",
    ),
    "dit": NamedLayer(
        module="model.dit",
        suffix=":out.last_hidden_state",
        call="last",
        meaning="last state of the action expert in the last denoising step: the state, then the actions",
    ),
}
_IMAGENET = (0.5, 0.5, 0.5)
_FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """Preprocessing as in transformers' PI0ImageProcessor: fit into a square, normalize, fill with zeros below and
    right.
    """

    size: int
    filter: str = "bicubic"
    factor: float = 1 / 255
    mean: tuple[float, ...] = _IMAGENET
    std: tuple[float, ...] = _IMAGENET

    @classmethod
    def read(cls, folder: ModelFolder, size: int) -> "_Pictures":
        """Settings from the processor's JSON; the defaults of pi0 without one."""
        found = folder.processor(video=False)
        fields = found[0] if found else {}
        pad = fields.get("pad_size") or {}
        wanted = {*pad.values(), *(fields.get("size") or {}).values()} - {None}
        filter_number = fields.get("resample", 3)
        if (wanted and wanted != {size}) or filter_number not in _FILTERS:
            where = found[1] if found else folder.path
            raise ConfigError(f"{where}: pictures of {size} x {size} are expected, as in config.json; found {fields}")
        return cls(
            size=size,
            filter=_FILTERS[filter_number],
            factor=float(fields.get("rescale_factor", 1 / 255)),
            mean=tuple(fields.get("image_mean") or _IMAGENET),
            std=tuple(fields.get("image_std") or _IMAGENET),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 to (N, 3, size, size)."""
        height, width = images.shape[-2:]
        scale = min(self.size / height, self.size / width)
        target = (int(height * scale), int(width * scale))
        values = images * 255
        if (height, width) != target:
            values = resized(values.round(), target, self.filter, rounded=True)
        values = values * self.factor
        mean, std = (torch.tensor(one, device=values.device)[:, None, None] for one in (self.mean, self.std))
        return functional.pad((values - mean) / std, (0, self.size - target[1], 0, self.size - target[0]))


class PI0Extractor(PolicyExtractor):
    """States of transformers' pi0 at the decisions of an episode.

    Layers: "e", what enters the head that gives the actions; "vlm" and "dit", its two halves; and any submodule, as for
    hooks.

    Options: `cameras` ("front,wrist": the dataset's cameras in the order of the training; the only one by default),
    `normalize` (false: the state as it is, where the folder has no statistics), and those of `PolicyExtractor`.
    """

    kind: ClassVar[str] = "pi0"
    revision: ClassVar[int] = 1
    default_layers: ClassVar[tuple[str, ...]] = ("e", "vlm")
    option_defaults: ClassVar[Mapping[str, Any]] = {
        **PolicyExtractor.option_defaults,
        "camera": None,
        "cameras": None,
        "normalize": True,
    }
    sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, folder: ModelFolder, random: bool, spec: ExtractorSpec) -> None:
        self._model = model
        self._folder = folder
        self._config = model.config
        self._mean, self._std = _statistics(folder, random, spec)
        vision = model.config.vlm_config.vision_config
        self._pictures = _Pictures.read(folder, int(vision.image_size))
        self._image_tokens = (vision.image_size // vision.patch_size) ** 2
        self._tokenizer = _tokenizer(folder)
        super().__init__(model, self._inputs(spec), _LAYERS, spec)

    @classmethod
    def find_weights(cls, text: str, options: Mapping[str, Any]) -> FoundWeights:
        """Find the folder that `--model pi0:TEXT` means; a name on the Hub only in the local cache."""
        transformers_module()
        folder = _folder(text)
        return folder.found(options.get("weights"))

    @classmethod
    def layers_of(cls, spec: ExtractorSpec) -> tuple[str, ...]:
        """Return the named layers, then all submodules; reads the weights, and keeps them in `spec` for `build`."""
        spec.cache[_CACHE] = loaded = _load(spec)
        return (*_LAYERS, *module_names(loaded[0]))

    @classmethod
    def build(cls, spec: ExtractorSpec) -> "PI0Extractor":
        """Load the model, or draw its weights from the seed."""
        model, folder, random = spec.cache.pop(_CACHE, None) or _load(spec)
        return cls(model, folder, random, spec)

    def describe(self) -> dict[str, Any]:
        """Model, cameras, noise, normalization and the configuration."""
        example = self._spec.episode
        return {
            "model": "pi0",
            "architecture": class_name(self.module),
            "source": self._folder.hub or str(self._folder.path),
            "revision": self._folder.revision,
            "transformers": str(versions("transformers")["transformers"]),
            "cameras": list(self.inputs.cameras if example is None else self.cameras_for(example).values()),
            "noise_seed": self._noise_seed,
            "normalized": self._mean is not None,
            "blank_instruction": self._blank,
            "layers": {name: layer.meaning for name, layer in self.named.items() if name in self.layers},
            "config": dict(self._folder.config),
        }

    def _inputs(self, spec: ExtractorSpec) -> PolicyInputs:
        cameras, episode = spec.options["cameras"] or spec.options["camera"], spec.episode
        if not cameras:
            known = () if episode is None else episode.cameras
            if len(known) != 1:
                listed = f"; there are {some(list(known), 12)}" if known else ""
                raise ConfigError(
                    "pi0 knows its cameras by their order only: name the dataset's, in the order of the training, with "
                    f"--option cameras=NAME,NAME{listed}"
                )
            cameras = known
        names = tuple(cameras.split(",")) if isinstance(cameras, str) else tuple(map(str, cameras))
        if self._mean is not None:
            size = len(self._mean)
        elif spec.options["state"]:
            size = _size_of(spec.options["state"], episode)
        else:
            size = 0 if episode is None or episode.state is None else episode.state.values.shape[1]
        most = self._config.max_state_dim
        if not 1 <= size <= most:
            raise ConfigError(
                f"{self._folder.path}: pi0 reads a state of 1 to {most} numbers, and there are {size}. Choose columns "
                "of the dataset's state with --option state=NAME,NAME"
            )
        return PolicyInputs(cameras=names, state=size)

    def _ask(self, images: Mapping[str, Tensor], state: Tensor | None, texts: Sequence[str]) -> Any:
        assert state is not None
        device, config = state.device, self._config
        pictures = torch.stack([self._pictures(image) for image in images.values()], dim=1)  # (N, cameras, 3, S, S)
        if self._mean is not None and self._std is not None:
            state = (state - self._mean.to(device)) / (self._std.to(device) + 1e-8)
        state = functional.pad(state, (0, config.max_state_dim - state.shape[1]))
        prompt = f"{self._tokenizer.bos_token or ''}{texts[0]}\n"  # the decisions of one episode have one text
        words = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = [config.vlm_config.image_token_id] * (self._image_tokens * len(images)) + list(words)
        tokens = torch.tensor([ids] * len(texts), device=device)
        noise = seeded_noise(len(texts), (config.chunk_size, config.max_action_dim), self._noise_seed)
        dtype = self._model.action_out_proj.weight.dtype
        return self._model.sample_actions(
            state=state.to(dtype),
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            pixel_values=pictures.to(dtype),
            pixel_attention_mask=torch.ones(pictures.shape[:2], dtype=torch.bool, device=device),
            noise=noise.to(device, dtype),
        )


def _folder(text: str) -> ModelFolder:
    try:
        folder = ModelFolder.read(find_folder(text))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--model hf", "--model pi0")) from error
    if folder.model_type != "pi0":
        raise ConfigError(
            f"{folder.path}: is a {folder.model_type!r} of transformers, not a pi0. A pi0 that LeRobot saved is read "
            f"with --model lerobot:{folder.path}"
        )
    return folder


def _load(spec: ExtractorSpec) -> tuple[Any, ModelFolder, bool]:
    if spec.checkpoint is None:
        raise ConfigError("the extractor 'pi0' needs a model: --model pi0:FOLDER")
    transformers = transformers_module()
    if not hasattr(transformers, "PI0ForConditionalGeneration"):
        raise ConfigError("--model pi0 needs a transformers that has PI0ForConditionalGeneration (5.4 or later)")
    folder = _folder(str(spec.checkpoint))
    random = folder.is_random(spec.options["weights"])
    kind = transformers.PI0ForConditionalGeneration
    if random:
        spec.say(f"random weights from seed {spec.seed}, not trained")
        config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True)
        with seeded(spec.seed, spec.device):
            return kind(config).float(), folder, True
    with seeded(spec.seed, spec.device):
        model, report = kind.from_pretrained(
            folder.path, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    wrong = [f"{what}: {some(sorted(map(str, report[what])))}" for what in report if report[what]]
    if wrong:
        raise CheckpointError(f"{folder.path}: its weights do not fit its configuration ({'; '.join(wrong)})")
    return model, folder, False


def _tokenizer(folder: ModelFolder) -> Any:
    transformers = transformers_module()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{folder.path}: has no tokenizer that can be read ({first}). Save it there: "
            "processor.save_pretrained(FOLDER)"
        ) from error


def _statistics(folder: ModelFolder, random: bool, spec: ExtractorSpec) -> tuple[Tensor | None, Tensor | None]:
    """Mean and standard deviation of the state in training, from the processor's JSON."""
    if not spec.options["normalize"]:
        return None, None
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = Path(folder.path) / name
        if path.is_file():
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.get("state_mean") and fields.get("state_std"):
                return torch.tensor(fields["state_mean"]).float(), torch.tensor(fields["state_std"]).float()
    if random:
        spec.say("the state is not normalized: random weights have no statistics of a dataset")
        return None, None
    raise ConfigError(
        f"{folder.path}: has no state_mean and state_std in processor_config.json, by which the state was normalized "
        "in training. Save the processor with them, or hand the state over as it is: --option normalize=false"
    )


def _size_of(chosen: Any, episode: Any) -> int:
    names = tuple(str(chosen).split(",")) if isinstance(chosen, str) else tuple(map(str, chosen))
    return 0 if episode is None or episode.state is None else len(state_columns(episode.state.names, names))
