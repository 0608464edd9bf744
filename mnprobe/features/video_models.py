"""Which video models a recognition means, and what their weights say about themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.features.checkpoints import inspect_checkpoint
from mnprobe.features.options import config_from
from mnprobe.features.plan import ModelChoice, choose_models
from mnprobe.models.loading import read_metadata
from mnprobe.models.untrained import PRESETS, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip

__all__ = ["VideoModel", "choose_video_models"]

_KIND = "viclip"
_UNTRAINED = "viclip-untrained"


@dataclass(frozen=True, kw_only=True)
class VideoModel:
    """One ViCLIP at one checkpoint, or with random weights of `preset` and `seed`.

    `training` is the name of the training that its file tells, "" where it tells none.
    """

    choice: ModelChoice
    training: str = ""
    preset: str | None = None
    seed: int = 0
    config: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The model's name in tables."""
        return self.choice.name

    @property
    def step(self) -> int:
        """Training steps of the checkpoint."""
        return self.choice.step

    @property
    def path(self) -> Path | None:
        """The weights file."""
        return self.choice.checkpoint.path if self.choice.checkpoint else None

    @property
    def sha256(self) -> str:
        """Of the weights file; "" for random weights."""
        return self.choice.checkpoint.sha256 if self.choice.checkpoint else ""

    @property
    def zero_shot(self) -> bool:
        """Trained weights, but not trained here: a published file, or step 0 of a training that began with one."""
        return self.choice.trained and self.step == 0

    def identity(self) -> dict[str, Any]:
        """All that decides what the weights are, as JSON."""
        config = None if self.config is None else dict(self.config)
        if self.path is not None:
            return {"checkpoint_sha256": self.sha256, "config": config}
        return {"preset": self.preset, "seed": self.seed, "config": config}

    def load(self, device: str) -> ViCLIP:
        """The model, ready to look."""
        config = None if self.config is None else config_from(ViCLIPConfig.from_dict, self.config)
        if self.path is not None:
            return load_viclip(self.path, config, device=device).eval()
        return untrained_viclip(config or str(self.preset), self.seed).eval().to(device)


def choose_video_models(
    run: RunDir | None,
    *,
    models: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    name: str | None = None,
    step: int | None = None,
    preset: str | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> list[VideoModel]:
    """Every ViCLIP checkpoint of the run, or of the run's `models`; or the given files; or random weights of `preset`.

    Raises ConfigError when nothing is meant, something is meant twice, or a file is of another model.
    """
    if preset is not None:
        if models or checkpoints:
            raise ConfigError(f"--preset {preset}: is the size of random weights; leave out --model and --checkpoint")
        if preset not in PRESETS[_KIND]:
            raise ConfigError(f"--preset {preset}: there are {', '.join(PRESETS[_KIND])}")
        choice = ModelChoice(kind=_KIND, name=name or _UNTRAINED, step=step or 0)
        return [VideoModel(choice=choice, preset=preset, seed=seed)]
    if checkpoints:
        if models:
            raise ConfigError("--model names models of the run and --checkpoint files; give one of them")
        chosen = choose_models(run, (), checkpoints, name=name, step=step)
        for choice in chosen:
            if choice.kind != _KIND:
                raise ConfigError(f"--checkpoint {_file(choice)}: weights of {choice.kind!r}, not of a ViCLIP")
    else:
        chosen = _of_run(run, models, name, step)
    return [VideoModel(choice=choice, training=_training(choice), config=config) for choice in chosen]


def _of_run(run: RunDir | None, models: Sequence[str], name: str | None, step: int | None) -> list[ModelChoice]:
    first = {piece.model: piece.path for piece in reversed(run.checkpoints())} if run else {}
    for model in models:
        if model not in first:
            known = ", ".join(sorted(first)) or "none"
            raise ConfigError(f"--model {model}: the run has no checkpoints of it; there are: {known}")
    kinds = {model: inspect_checkpoint(first[model]).kind for model in sorted(first) if not models or model in models}
    for model in models:
        if kinds[model] != _KIND:
            raise ConfigError(
                f"--model {model}: its weights are of {kinds[model] or 'no known model'}, not of a ViCLIP"
            )
    found = [model for model, kind in kinds.items() if kind == _KIND]
    if not found:
        where = f"run {run.path} has no ViCLIP checkpoints" if run else "there is no run"
        raise ConfigError(f"nothing to recognise with: {where}. Give --checkpoint FILE, or --preset SIZE")
    if name is not None and len(found) > 1:
        raise ConfigError(f"--name {name}: names one model, but {', '.join(found)} were chosen; say which with --model")
    chosen = [choice for model in found for choice in choose_models(run, (model,), (), name=name)]
    if step is None:
        return chosen
    left = [choice for choice in chosen if choice.step == step]
    if not left:
        steps = ", ".join(map(str, sorted({choice.step for choice in chosen})))
        raise ConfigError(f"--step {step}: the run has ViCLIP checkpoints at steps {steps}")
    return left


def _training(choice: ModelChoice) -> str:
    if choice.checkpoint is None:
        return ""
    return read_metadata(choice.checkpoint.path).get("training", "")


def _file(choice: ModelChoice) -> str:
    return str(choice.checkpoint.path) if choice.checkpoint else "random weights"
