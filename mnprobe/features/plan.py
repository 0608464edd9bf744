"""Which models, at which checkpoints, a command means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mnprobe.core.errors import ConfigError
from mnprobe.core.labels import some
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir
from mnprobe.features.checkpoints import CheckpointInfo, inspect_checkpoint
from mnprobe.features.extractor import EXTRACTORS, stored_layers

__all__ = ["ModelChoice", "choose_models", "layers_for"]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """One model at one checkpoint; `name` is what its features are filed under, `checkpoint` None = random weights.

    `beside` is the training that features without a checkpoint (pixels) belong to, where they are of episodes that a
    policy of that training played: they then lie in a folder of their own, `<name>-<training>`.
    """

    kind: str
    name: str
    step: int = 0
    checkpoint: CheckpointInfo | None = None
    beside: str = ""

    @property
    def training(self) -> str:
        """Name of the training that the features belong to, or ""."""
        return self.checkpoint.training if self.checkpoint is not None else self.beside

    @property
    def folder(self) -> str:
        """Name of the folder of its features."""
        return f"{self.name}-{self.beside}" if self.beside else self.name

    @property
    def trained(self) -> bool:
        """Whether anything was learnt."""
        return self.checkpoint is not None and self.checkpoint.trained


def choose_models(
    run: RunDir | None,
    models: Sequence[str],
    checkpoints: Sequence[Path],
    *,
    name: str | None = None,
    step: int | None = None,
) -> list[ModelChoice]:
    """From names and files to choices.

    Without names and files: all checkpoints of the run. A given file belongs to the model that its weights tell. A name
    without a file means the run's checkpoints of that model: those in a folder of that name, and, where the name is an
    extractor's ("viclip", "arp"), all whose weights are of that kind, however the folder is called ("arp-joint"). If
    there are none, random weights of that extractor.

    Raises ConfigError for unknown names, a file that fits no named model, or two choices that would be one store.
    """
    if not models and not checkpoints:
        choices = _of_run(run, None)
        if not choices:
            where = f"run {run.path} has no checkpoints" if run else "there is no run"
            raise ConfigError(
                f"nothing to extract: {where}. Give --checkpoint FILE, or --model {'/'.join(EXTRACTORS.names())}"
            )
    else:
        files = [inspect_checkpoint(path, step=step) for path in checkpoints]
        choices = _of_files(files, models)
        for model in dict.fromkeys(models):
            if not any(model == choice.kind for choice in choices):
                choices += _of_run(run, model) or [_random(model, run, step)]
    if name is not None:
        if len({choice.name for choice in choices}) > 1:
            raise ConfigError(
                f"--name {name}: names one model, but {', '.join(sorted({c.name for c in choices}))} were chosen"
            )
        choices = [_renamed(choice, name) for choice in choices]
    if step is not None and len(choices) > 1:
        raise ConfigError(f"--step {step}: fits one checkpoint, but {len(choices)} were chosen")
    seen: dict[tuple[str, int], ModelChoice] = {}
    for choice in choices:
        other = seen.setdefault((choice.name, choice.step), choice)
        if other is not choice:
            raise ConfigError(
                f"two checkpoints would be step {choice.step} of {choice.name!r}: {_file(other)} and {_file(choice)}. "
                "Extract them apart, with --step or --name"
            )
    return choices


def layers_for(
    choice: ModelChoice,
    wanted: Sequence[str],
    choices: Sequence[ModelChoice],
    known: Callable[[ModelChoice], Sequence[str]],
    note: Callable[[str], None] | None = None,
) -> dict[str, bool]:
    """The layers of one choice: those requested that its model knows, else its default; True where by a pattern only.

    A layer is a plain name, for every model that knows it, or `model=layer` for one; a pattern (`*`, `?`, `[0-3]`, as
    in the shell; `*` also matches dots) stands for all layers that fit, in the model's order. Patterns leave out, with
    a note, what a store cannot hold. `known` gives all layers of a choice and is called for patterns only.

    Raises ConfigError for a layer or a pattern that no chosen model knows, a name that a store cannot hold, and two
    layers that a store would hold under one name.
    """
    extractor = EXTRACTORS.load(choice.kind)
    names = {c.name for c in choices} | {c.kind for c in choices}
    found: dict[str, bool] = {}
    for text in wanted:
        owner, sign, layer = text.rpartition("=")
        if sign and owner not in names:
            raise unknown_name(f"model in --layer {text}:", owner, sorted(names))
        fitting = [c for c in choices if not sign or owner in (c.name, c.kind)]
        exact = [c for c in fitting if not _is_pattern(c, layer)]
        patterns = [c for c in fitting if c not in exact]
        matches = {id(c): [name for name in known(c) if fnmatchcase(name, layer)] for c in patterns}
        if not any(EXTRACTORS.load(c.kind).knows_layer(layer) for c in exact) and not any(matches.values()):
            if patterns:
                raise unknown_name("layer", layer, list(dict.fromkeys(name for c in patterns for name in known(c))))
            defaults = ", ".join(sorted({name for c in fitting for name in EXTRACTORS.load(c.kind).default_layers}))
            raise ConfigError(f"--layer {text}: no chosen model has such a layer; by default {defaults} is extracted")
        if choice in exact and extractor.knows_layer(layer):
            found[layer] = False
        for name in _storable(extractor, matches.get(id(choice), []), note):
            found.setdefault(name, True)
    layers = found or dict.fromkeys(extractor.default_layers, False)
    stored_layers(extractor, list(layers))
    return layers


def _is_pattern(choice: ModelChoice, layer: str) -> bool:
    extractor = EXTRACTORS.load(choice.kind)
    if hasattr(extractor, "is_pattern"):
        return bool(extractor.is_pattern(layer))
    return any(sign in layer for sign in "*?[")


def _storable(extractor: Any, layers: Sequence[str], note: Callable[[str], None] | None) -> list[str]:
    kept, refused = [], []
    for layer in layers:
        try:
            stored_layers(extractor, [layer])
        except ConfigError:
            refused.append(layer)
        else:
            kept.append(layer)
    if refused and note is not None:
        note(f"left out of the layers that the pattern names, for a store cannot hold such names: {some(refused)}")
    if refused and not kept:
        stored_layers(extractor, refused)
    return kept


def _of_run(run: RunDir | None, model: str | None) -> list[ModelChoice]:
    choices = []
    by_kind = model in EXTRACTORS.names()
    for piece in run.checkpoints(None if by_kind else model) if run else []:
        info = inspect_checkpoint(piece.path)
        if by_kind and model not in (piece.model, info.kind):
            continue
        if info.step != piece.step:
            raise ConfigError(f"{piece.path}: its name says step {piece.step}, its metadata {info.step}; rename it")
        if info.kind is None:
            raise ConfigError(f"{piece.path}: weights of no known model; extract them with --model hook --checkpoint")
        choices.append(ModelChoice(kind=info.kind, name=piece.model, step=piece.step, checkpoint=info))
    return choices


def _of_files(files: Sequence[CheckpointInfo], models: Sequence[str]) -> list[ModelChoice]:
    choices = []
    unknown_to_us = [model for model in models if model not in ("viclip", "arp", "pixels")]
    for info in files:
        kind = info.kind
        if len(unknown_to_us) == 1 and (kind is None or kind not in models):
            kind = unknown_to_us[0]  # hook and plugins read weights that only they know
        if kind is None:
            asked = f"asked for is {', '.join(models)}, found are " if models else ""
            raise ConfigError(
                f"--checkpoint {info.path}: {asked}weights of no known model. Give the file of a ViCLIP or an ARP, or "
                "read it by a factory of your own: --model hook --factory package.module:factory"
            )
        if models and kind not in models:
            raise ConfigError(f"--checkpoint {info.path}: is of {kind!r}, but --model says {', '.join(models)}")
        EXTRACTORS.load(kind)
        choices.append(ModelChoice(kind=kind, name=kind, step=info.step, checkpoint=info))
    return choices


def _random(model: str, run: RunDir | None, step: int | None) -> ModelChoice:
    known = EXTRACTORS.names()
    if model not in known:
        raise unknown_name(
            "model", model, sorted({*known, *(piece.model for piece in (run.checkpoints() if run else []))})
        )
    return ModelChoice(kind=model, name=model, step=step or 0)


def _renamed(choice: ModelChoice, name: str) -> ModelChoice:
    values: Mapping[str, Any] = vars(choice) | {"name": name}
    return ModelChoice(**values)


def _file(choice: ModelChoice) -> str:
    return str(choice.checkpoint.path) if choice.checkpoint else "random weights"
