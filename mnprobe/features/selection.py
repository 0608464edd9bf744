"""Selection of checkpoints: models, policies and video models of a command."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mnprobe.core.commands import command_line
from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.labels import some
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir, step_of
from mnprobe.data import OUTCOMES_FILE
from mnprobe.features.extractors.base import EXTRACTORS, config_from, stored_layers
from mnprobe.models.loading import read_metadata
from mnprobe.models.untrained import PRESETS, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip
from mnprobe.worlds.rollout import read_rollout

__all__ = [
    "CheckpointInfo",
    "ModelChoice",
    "Played",
    "PlayerChoice",
    "VideoModel",
    "choose_models",
    "choose_players",
    "choose_video_models",
    "inspect_checkpoint",
    "layers_for",
    "played_choices",
    "step_in_name",
]

_PUBLISHED = re.compile(r"model_(\d+)$")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A weights file.

    `kind` is "viclip", "arp", or None for unknown models. `step_told` is False if neither the file nor the user gives
    the training step; `step` is then 0. `training` is the name of the training that wrote the file (our metadata
    entry), "" if it records none. `drawn`: only the configuration is read, weights are drawn from the seed.
    """

    path: Path
    kind: str | None
    step: int
    trained: bool
    sha256: str
    step_told: bool = True
    training: str = ""
    drawn: bool = False


def step_in_name(path: Path) -> int | None:
    """Parse the training step in a file name, as written by mnprobe and the published files.

    >>> step_in_name(Path("step_00001000.safetensors")), step_in_name(Path("arp_model_80000.pth"))
    (1000, 80000)
    """
    ours = step_of(path.name)
    if ours is not None:
        return ours
    match = _PUBLISHED.search(path.stem)
    return int(match.group(1)) if match else None


def inspect_checkpoint(path: Path, *, step: int | None = None) -> CheckpointInfo:
    """Read names and metadata of a weights file.

    The step is `step` if given, else that of our metadata, else the entry `step` of a published file, else that in the
    file name, else 0. Files not written by mnprobe count as trained; ours record it.

    Raises CheckpointError for an unreadable file.
    """
    from mnprobe.models.loading import detect_model, read_metadata, read_state_dict, read_step

    path = Path(path)
    metadata = read_metadata(path)
    ours = "format" in metadata and "model" in metadata
    recorded = _metadata_step(metadata, path)
    recorded = read_step(path) if recorded is None and not metadata else recorded
    recorded = step_in_name(path) if recorded is None else recorded
    return CheckpointInfo(
        path=path,
        kind=metadata["model"] if ours else detect_model(read_state_dict(path)),
        step=step if step is not None else recorded or 0,
        trained=metadata.get("trained", "true") != "false",
        sha256=sha256_file(path),
        step_told=step is not None or recorded is not None,
        training=metadata.get("training", "") if ours else "",
    )


def _metadata_step(metadata: dict[str, str], path: Path) -> int | None:
    if "step" not in metadata:
        return None
    try:
        return int(json.loads(metadata["step"]))
    except (ValueError, TypeError):
        raise CheckpointError(f"{path}: metadata entry 'step' is no number: {metadata['step']!r}") from None


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """One model at one checkpoint; features are stored under `name`; `checkpoint` None means random weights.

    `beside` is the training of features without a checkpoint (pixels) that were extracted from rollouts of a policy of
    that training: these are stored in a separate folder, `<name>-<training>`.
    """

    kind: str
    name: str
    step: int = 0
    checkpoint: CheckpointInfo | None = None
    beside: str = ""

    @property
    def training(self) -> str:
        """Name of the training of the features, or ""."""
        return self.checkpoint.training if self.checkpoint is not None else self.beside

    @property
    def folder(self) -> str:
        """Name of the folder of its features."""
        return f"{self.name}-{self.beside}" if self.beside else self.name

    @property
    def trained(self) -> bool:
        """Whether the weights are trained."""
        return self.checkpoint is not None and self.checkpoint.trained


def choose_models(
    run: RunDir | None,
    models: Sequence[str],
    checkpoints: Sequence[Path],
    *,
    name: str | None = None,
    step: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[ModelChoice]:
    """Choose models and checkpoints by names and files.

    Without names and files: all checkpoints of the run. The model of a given file is detected from its weights. A name
    without a file means the run's checkpoints of that model: those in a folder of that name, and, if the name is an
    extractor's ("viclip", "arp"), all weights of that kind in any folder ("arp-joint"). If there are none, random
    weights of that extractor. `KIND:TEXT` means the model that the extractor KIND finds by TEXT with its `options`, the
    same as KIND alone with TEXT as the file.

    Raises ConfigError for unknown names, a file that matches no named model, or two choices with the same store.
    """
    models, checkpoints, choices = _found_by_text(models, checkpoints, step, options or {})
    if not choices and not models and not checkpoints:
        choices = _models_of_run(run, None)
        if not choices:
            where = f"run {run.path} has no checkpoints" if run else "there is no run"
            raise ConfigError(
                f"nothing to extract: {where}. Give --checkpoint FILE, or --model {'/'.join(EXTRACTORS.names())}"
            )
    else:
        files = [inspect_checkpoint(path, step=step) for path in checkpoints]
        choices += _of_files(files, models)
        for model in dict.fromkeys(models):
            if not any(model == choice.kind for choice in choices):
                choices += _models_of_run(run, model) or [_random(model, run, step)]
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
                f"two checkpoints would be step {choice.step} of {choice.name!r}: {_model_file(other)} and "
                f"{_model_file(choice)}. Extract them apart, with --step or --name"
            )
    return choices


def _found_by_text(
    models: Sequence[str], checkpoints: Sequence[Path], step: int | None, options: Mapping[str, Any]
) -> tuple[Sequence[str], Sequence[Path], list[ModelChoice]]:
    """Return the choices of `KIND:TEXT`, and the models and files that are none.

    One KIND that finds its models by a text, together with files, takes the names of these as texts.
    """
    texts: list[tuple[str, str]] = []
    rest: list[str] = []
    known = EXTRACTORS.names()
    for model in dict.fromkeys(models):
        kind, sign, text = model.partition(":")
        if kind not in known or (not sign and not _finds(kind)):
            rest.append(model)
            continue
        if sign and not _finds(kind):
            raise ConfigError(f"--model {model}: {kind} reads files; write --model {kind} --checkpoint {text}")
        if not sign and len(set(models)) == 1 and checkpoints:
            texts += [(kind, str(path)) for path in checkpoints]
            checkpoints = ()
        elif not text:
            raise ConfigError(
                f"--model {model}: say which model, as --model {kind}:FOLDER, or --model {kind} --checkpoint FOLDER "
                "with no other model"
            )
        else:
            texts.append((kind, text))
    choices = []
    for kind, text in texts:
        found = EXTRACTORS.load(kind).find_weights(text, options)
        told = step if step is not None else found.step
        info = CheckpointInfo(
            path=found.path,
            kind=kind,
            step=told or 0,
            trained=found.trained,
            sha256=found.sha256,
            drawn=not found.trained,
        )
        choices.append(ModelChoice(kind=kind, name=found.name, step=told or 0, checkpoint=info))
    return rest, checkpoints, choices


def _finds(kind: str) -> bool:
    """Whether an extractor finds its models by a text."""
    return hasattr(EXTRACTORS.load(kind), "find_weights")


def layers_for(
    choice: ModelChoice,
    wanted: Sequence[str],
    choices: Sequence[ModelChoice],
    known: Callable[[ModelChoice], Sequence[str]],
    note: Callable[[str], None] | None = None,
) -> dict[str, bool]:
    """Select the layers of one choice: requested layers of its model, else its default; True if by a pattern only.

    A layer is a plain name, for every model that has it, or `model=layer` for one model; a pattern (`*`, `?`, `[0-3]`,
    as in the shell; `*` also matches dots) selects all matching layers, in the model's order. Patterns omit, with a
    message, layers that a store cannot have. `known` returns all layers of a choice and is called for patterns only.

    Raises ConfigError for a layer or pattern that matches no chosen model, a name that is not allowed in a store, and
    two layers with equal stored names.
    """
    extractor = EXTRACTORS.load(choice.kind)
    names = {c.name for c in choices} | {c.kind for c in choices}
    chosen: dict[str, bool] = {}
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
            chosen[layer] = False
        for name in _storable(extractor, matches.get(id(choice), []), note):
            chosen.setdefault(name, True)
    layers = chosen or dict.fromkeys(extractor.default_layers, False)
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


def _models_of_run(run: RunDir | None, model: str | None) -> list[ModelChoice]:
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
            kind = unknown_to_us[0]  # hook and plugins read weights of formats unknown to mnprobe
        if kind is None:
            wish = f"asked for is {', '.join(models)}, found are " if models else ""
            raise ConfigError(
                f"--checkpoint {info.path}: {wish}weights of no known model. Give the file of a ViCLIP or an ARP, or "
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


def _model_file(choice: ModelChoice) -> str:
    return str(choice.checkpoint.path) if choice.checkpoint else "random weights"


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class PlayerChoice:
    """A policy with its weights; its episodes are stored under `name`."""

    name: str
    step: int = 0
    checkpoint: Path | None = None


def choose_players(
    run: RunDir | None,
    policy: str,
    checkpoints: Sequence[Path],
    *,
    name: str | None = None,
    models: Sequence[str] = (),
    blank: bool = False,
) -> list[PlayerChoice]:
    """Choose policies for rollouts by name and files.

    For "arp" without files: all ARP checkpoints of the run, or those of `models` ("arp-joint"). Other policies use the
    given files, or none. With `blank`, "-blank" is added to the name, so that blank-instruction rollouts are stored
    separately.

    Raises:
        ConfigError: weights of another model, missing weights, two files of one step, or an invalid folder name.
        CheckpointError: an unreadable file.
    """
    if models and (policy != "arp" or checkpoints):
        raise ConfigError("--model chooses among the run's ARP checkpoints: leave out --checkpoint, play --policy arp")
    if policy == "arp":
        choices = [_arp_file(path, name or "arp") for path in checkpoints] or _arp_of_run(run, name, models)
    else:
        own = name or policy.rpartition(":")[2]
        choices = [PlayerChoice(name=own, step=step_in_name(path) or 0, checkpoint=path) for path in checkpoints]
        choices = choices or [PlayerChoice(name=own)]
    if blank:
        choices = [PlayerChoice(name=f"{c.name}-blank", step=c.step, checkpoint=c.checkpoint) for c in choices]
    seen: dict[tuple[str, int], PlayerChoice] = {}
    for choice in choices:
        if not _NAME.fullmatch(choice.name):
            raise ConfigError(f"{choice.name!r} cannot name a folder; give letters, digits, . _ - with --name")
        other = seen.setdefault((choice.name, choice.step), choice)
        if other is not choice:
            raise ConfigError(
                f"two checkpoints would be step {choice.step} of {choice.name!r}: {other.checkpoint} and "
                f"{choice.checkpoint}. Play them apart, with --name"
            )
    return choices


def _arp_file(path: Path, name: str) -> PlayerChoice:
    info = inspect_checkpoint(path)
    if info.kind != "arp":
        raise ConfigError(f"--checkpoint {path}: weights of {info.kind or 'no known model'}; --policy arp needs ARP's")
    return PlayerChoice(name=name, step=info.step, checkpoint=path)


def _arp_of_run(run: RunDir | None, name: str | None, models: Sequence[str]) -> list[PlayerChoice]:
    pieces = [piece for piece in run.checkpoints() if inspect_checkpoint(piece.path).kind == "arp"] if run else []
    if not pieces:
        where = f"run {run.path} has no checkpoints of ARP" if run else "there is no run"
        raise ConfigError(
            f"--policy arp needs weights, and {where}. Give --checkpoint FILE, or play with --policy expert or random"
        )
    known = sorted({piece.model for piece in pieces})
    for model in models:
        if model not in known:
            raise unknown_name("ARP model of the run", model, known)
    pieces = [piece for piece in pieces if not models or piece.model in models]
    return [PlayerChoice(name=name or piece.model, step=piece.step, checkpoint=piece.path) for piece in pieces]


_PIXELS = "pixels"


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes of one policy at one training step, and the models to extract from them."""

    folder: Path
    policy: ModelChoice
    choices: tuple[ModelChoice, ...]


def played_choices(run: RunDir, models: Sequence[str], say: Callable[[str], None]) -> list[Played]:
    """For each folder rollouts/<model>/step_<number> of a run: its ARP checkpoint, and companion models.

    Companions are the ViCLIP checkpoints of the same training and step; pixels of these episodes, when `models` names
    them. `models` are kinds ("arp", "viclip", "pixels") or names of models in the run; all checkpoints when empty.
    The checkpoint of a folder is identified by the SHA-256 of its weights. Folders of other policies (the expert, a
    blank-instruction ARP, weights that are no longer in the run) are skipped, and `say` is called with the reason.

    Raises ConfigError when there are no such episodes, or a model is unknown or not applicable.
    """
    folders = [folder for folder in sorted(run.rollouts.glob("*/step_*")) if (folder / OUTCOMES_FILE).is_file()]
    checkpoints = choose_models(run, (), ()) if run.checkpoints() else []
    wanted = _wanted(models, checkpoints)
    by_weights: dict[str, list[ModelChoice]] = {}
    for choice in checkpoints:
        if choice.kind == "arp" and choice.checkpoint is not None:
            by_weights.setdefault(choice.checkpoint.sha256, []).append(choice)
    played: list[Played] = []
    taken: dict[tuple[str, int], Path] = {}
    for folder in folders:
        policy = _policy(folder, by_weights, say)
        if policy is None:
            continue
        choices = []
        for choice in (policy, *_companions(policy, checkpoints, _PIXELS in models, say)):
            if not wanted(choice):
                continue
            other = taken.setdefault((choice.folder, choice.step), folder)
            if other != folder:
                say(f"{folder}: {choice.name} is left out, as it is extracted from {other}; both would be one store")
                continue
            choices.append(choice)
        if choices:
            played.append(Played(folder=folder, policy=policy, choices=tuple(choices)))
    if not played:
        why = f"{len(folders)} folders hold none that a checkpoint of ARP played" if folders else "it has none"
        raise ConfigError(
            f"--source rollouts: episodes that the policies of run {run.path} played are needed, but {why}. "
            f"`{command_line('rollout', run=run.path)}` plays them; --data names others"
        )
    return played


def _wanted(models: Sequence[str], checkpoints: Sequence[ModelChoice]) -> Callable[[ModelChoice], bool]:
    known = {"arp", "viclip", _PIXELS, *(choice.name for choice in checkpoints)}
    for model in models:
        if model not in known:
            raise unknown_name("model of played episodes (give --data for any other):", model, sorted(known))
    return lambda choice: not models or choice.kind in models or choice.name in models


def _policy(folder: Path, by_weights: dict[str, list[ModelChoice]], say: Callable[[str], None]) -> ModelChoice | None:
    manifest = read_rollout(folder)
    policy = manifest.get("policy")
    policy = policy if isinstance(policy, dict) else {}
    if policy.get("from") != "arp" or policy.get("blank_instruction"):
        how = "an ARP that was told nothing" if policy.get("from") == "arp" else f"policy {policy.get('name')!r}"
        say(f"{folder}: was played by {how}, so it is left out")
        return None
    same = by_weights.get(str(manifest.get("checkpoint_sha256")), [])
    name, step = folder.parent.name, step_of(folder.name)
    for choice in (*(one for one in same if one.name == name), *same):
        if choice.step == step:
            return choice
    say(f"{folder}: was played by weights that the run has no longer, so it is left out")
    return None


def _companions(
    policy: ModelChoice, checkpoints: Sequence[ModelChoice], pixels: bool, say: Callable[[str], None]
) -> list[ModelChoice]:
    training = policy.training
    of_training = [
        candidate for candidate in checkpoints if candidate.kind == "viclip" and candidate.training == training
    ]
    watching = [candidate for candidate in of_training if candidate.step == policy.step]
    if of_training and not watching:
        where = f" of training {training!r}" if training else ""
        say(f"{policy.name} step {policy.step}: no ViCLIP checkpoint{where} at this step watches its episodes")
    if pixels:
        watching.append(ModelChoice(kind=_PIXELS, name=_PIXELS, step=policy.step, beside=training))
    return watching


_KIND = "viclip"
_UNTRAINED = "viclip-untrained"


@dataclass(frozen=True, kw_only=True)
class VideoModel:
    """One ViCLIP at one checkpoint, or with random weights of `preset` and `seed`.

    `training` is the name of the training recorded in its file, "" if none.
    """

    choice: ModelChoice
    training: str = ""
    preset: str | None = None
    seed: int = 0
    config: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the model in tables."""
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
        """SHA-256 of the weights file; "" for random weights."""
        return self.choice.checkpoint.sha256 if self.choice.checkpoint else ""

    @property
    def zero_shot(self) -> bool:
        """Whether weights were trained, but not here: a published file, or step 0 of a training that started from
        one."""
        return self.choice.trained and self.step == 0

    def identity(self) -> dict[str, Any]:
        """Identity of the weights, as JSON."""
        config = None if self.config is None else dict(self.config)
        if self.path is not None:
            return {"checkpoint_sha256": self.sha256, "config": config}
        return {"preset": self.preset, "seed": self.seed, "config": config}

    def load(self, device: str) -> ViCLIP:
        """Load the model in evaluation mode."""
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
    """Choose ViCLIP checkpoints: all of the run or of its `models`; given files; or random weights of `preset`.

    Raises ConfigError if no checkpoint matches, one is selected twice, or a file is of another model.
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
                raise ConfigError(
                    f"--checkpoint {_video_model_file(choice)}: weights of {choice.kind!r}, not of a ViCLIP"
                )
    else:
        chosen = _video_models_of_run(run, models, name, step)
    return [VideoModel(choice=choice, training=_training(choice), config=config) for choice in chosen]


def _video_models_of_run(
    run: RunDir | None, models: Sequence[str], name: str | None, step: int | None
) -> list[ModelChoice]:
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
    held = [model for model, kind in kinds.items() if kind == _KIND]
    if not held:
        where = f"run {run.path} has no ViCLIP checkpoints" if run else "there is no run"
        raise ConfigError(f"nothing to recognise with: {where}. Give --checkpoint FILE, or --preset SIZE")
    if name is not None and len(held) > 1:
        raise ConfigError(f"--name {name}: names one model, but {', '.join(held)} were chosen; say which with --model")
    chosen = [choice for model in held for choice in choose_models(run, (model,), (), name=name)]
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


def _video_model_file(choice: ModelChoice) -> str:
    return str(choice.checkpoint.path) if choice.checkpoint else "random weights"
