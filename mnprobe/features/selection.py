"""Selection of checkpoints: models, policies and video models of a command."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from mnprobe.core.commands import command_line
from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.labels import some
from mnprobe.core.names import PIXELS, FeatureId, Side, Source, blanked, model_of_training, step_of
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import Piece, RunDir
from mnprobe.data import OUTCOMES_FILE
from mnprobe.features.extractors.base import EXTRACTORS, complete_options, config_from, stored_layers
from mnprobe.features.half_success import HALF, HALF_SUCCESS, half_steps
from mnprobe.models.loading import read_metadata
from mnprobe.models.untrained import PRESETS, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip
from mnprobe.worlds.rollout import read_rollout

__all__ = [
    "CheckpointChoice",
    "CheckpointInfo",
    "CheckpointQuery",
    "inspect_checkpoint",
    "layers_for",
    "select_checkpoints",
    "step_in_name",
]

_PUBLISHED = re.compile(r"model_(\d+)$")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A weights file.

    `kind` is "viclip", "arp", or None for unknown models. `step_told` is False if neither the file nor the user gives
    the training step; `step` is then 0. `training` is the name of the training that wrote the file (our metadata
    entry), "" if it records none. `sha256` is "" for weights of a foreign policy, which mnprobe does not read. With
    `drawn` only the configuration is read, and the weights are drawn from the seed.
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
    from mnprobe.models.loading import detect_model, read_state_dict, read_step

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
class CheckpointQuery:
    """What a command says about the checkpoints that it means.

    Attributes:
        purpose: "extract": models of any kind, random weights where there are none. "extract-played": each ARP
            checkpoint of the run with the rollouts that it played. "play": policies. "recognize": ViCLIPs.
        models: names of models in the run, or (to extract) kinds such as "viclip" and "arp"; all when empty.
        files: weights files, in place of the run's.
        name: name of the model, in place of the folder's or the kind's.
        step: training step; of one file that does not record it, or (to recognize, to play) of the run's checkpoints.
        half: of each policy of the run, only the checkpoint whose success is nearest one half, see `half_steps` (to
            play; "extract-played").
        source: name of the data, see `FeatureId`.
        options: options of extractors or of the policy. Of these, `blank_instruction` and (for models whose extractor
            has no side) `side` are part of a choice's identity.
        policy: "arp", or a policy that reads its own files (to play).
        preset, seed: size and seed of random weights (to recognize).
        config: configuration of weights whose file does not contain it (to recognize).
        folders: folders of played episodes (to extract them); all of the run when empty.
    """

    purpose: Literal["extract", "extract-played", "play", "recognize"]
    models: Sequence[str] = ()
    files: Sequence[Path] = ()
    name: str | None = None
    step: int | None = None
    half: bool = False
    source: str = Source.DEMOS
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "arp"
    preset: str | None = None
    seed: int = 0
    config: Mapping[str, Any] | None = None
    folders: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointChoice:
    """One model at one checkpoint, on one source of episodes.

    Attributes:
        id: identity of its features.
        kind: name of its extractor, or of its policy.
        checkpoint: its weights; None for random weights, and policies without weights.
        layers: layers to extract, in order; True if selected by a pattern only (see `layers_for`).
        data: folder of the episodes, if it decides the choice (purpose "extract-played").
        preset, seed, config: see `CheckpointQuery`.
        blanked: whether the instruction is blanked although the query does not say so (`ExtractConfig.also_blank`).
    """

    id: FeatureId
    kind: str
    checkpoint: CheckpointInfo | None = None
    layers: Mapping[str, bool] = field(default_factory=dict)
    data: Path | None = None
    preset: str | None = None
    seed: int = 0
    config: Mapping[str, Any] | None = None
    blanked: bool = False

    @property
    def name(self) -> str:
        """Name of the model in tables."""
        return self.id.model

    @property
    def step(self) -> int:
        """Training step."""
        return self.id.step

    @property
    def path(self) -> Path | None:
        """The weights file."""
        return self.checkpoint.path if self.checkpoint else None

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file; "" for random weights."""
        return self.checkpoint.sha256 if self.checkpoint else ""

    @property
    def zero_shot(self) -> bool:
        """Whether weights were trained, but not here: a published file, or step 0 of a training that started from
        one."""
        return self.id.trained and self.id.step == 0

    def on(self, source: str) -> "CheckpointChoice":
        """The same checkpoint on another source of episodes."""
        return replace(self, id=replace(self.id, source=source, blank=False))

    def identity(self) -> dict[str, Any]:
        """Identity of the weights, as JSON."""
        config = None if self.config is None else dict(self.config)
        if self.checkpoint is not None:
            return {"checkpoint_sha256": self.sha256, "config": config}
        return {"preset": self.preset, "seed": self.seed, "config": config}

    def load_viclip(self, device: str) -> ViCLIP:
        """Load the model, a ViCLIP, in evaluation mode."""
        config = None if self.config is None else config_from(ViCLIPConfig.from_dict, self.config)
        if self.checkpoint is not None:
            return load_viclip(self.checkpoint.path, config, device=device).eval()
        return untrained_viclip(config or str(self.preset), self.seed).eval().to(device)


def select_checkpoints(
    run: RunDir | None, query: CheckpointQuery, *, note: Callable[[str], None] | None = None
) -> list[CheckpointChoice]:
    """Select the checkpoints that a command means, by names and files.

    To extract: without names and files, all checkpoints of the run. The model of a given file is detected from its
    weights. A name without a file means the run's checkpoints of that model: those in a folder of that name, and, if
    the name is an extractor's ("viclip", "arp"), all weights of that kind in any folder ("arp-joint"). If there are
    none, random weights of that extractor. `KIND:TEXT` means the model that the extractor KIND finds by TEXT, the same
    as the name KIND alone with TEXT as the file.

    To extract played episodes: for each folder rollouts/<model>/step_<number> of the run, its ARP checkpoint, the
    ViCLIP checkpoints of the same training and step, and pixels, when they are named. The checkpoint of a folder is
    identified by the SHA-256 of its weights. Folders of other policies (the expert, a blank-instruction ARP, weights
    that are no longer in the run) are skipped, and `note` is called with the reason.

    To play: for "arp" without files, all ARP checkpoints of the run, or those of the named models. Other policies use
    the given files, or none. Blank-instruction policies get a name that ends in "-blank".

    To recognize: ViCLIP checkpoints of the run, or of its named models; given files; or random weights of a preset.

    Raises:
        ConfigError: no checkpoint matches, a name is unknown, a file is of another model, two choices would be one
            store, or a name cannot be a folder's.
        CheckpointError: an unreadable file.
    """
    say = note or (lambda text: None)
    if query.half and query.purpose not in ("play", "extract-played"):
        raise ConfigError(f"--step {HALF}: is a checkpoint that has played; to extract, give --source rollouts as well")
    if query.purpose == "play":
        return _to_play(run, query)
    if query.purpose == "recognize":
        return _to_recognize(run, query)
    if query.purpose == "extract":
        return _to_extract(run, query)
    assert run is not None  # rollouts are those of a run
    return _to_extract_played(run, query, say)


def layers_for(
    choice: CheckpointChoice,
    wanted: Sequence[str],
    choices: Sequence[CheckpointChoice],
    known: Callable[[CheckpointChoice], Sequence[str]],
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
    names = {c.id.model for c in choices} | {c.kind for c in choices}
    chosen: dict[str, bool] = {}
    for text in wanted:
        owner, sign, layer = text.rpartition("=")
        if sign and owner not in names:
            raise unknown_name(f"model in --layer {text}:", owner, sorted(names))
        fitting = [c for c in choices if not sign or owner in (c.id.model, c.kind)]
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
    own = getattr(extractor, "default_layers_of", None)
    layers = chosen or dict.fromkeys(extractor.default_layers if own is None else own(choice.path), False)
    stored_layers(extractor, list(layers))
    return layers


def _is_pattern(choice: CheckpointChoice, layer: str) -> bool:
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


def _feature(
    query: CheckpointQuery, kind: str, model: str, step: int, info: CheckpointInfo | None = None, training: str = ""
) -> FeatureId:
    """Identity of the features of one model. `training` names that of features without weights (pixels)."""
    extractor = EXTRACTORS.load(kind)
    options = complete_options(query.options, extractor.option_defaults)
    side = extractor.side or options.get("side")
    if side is None:
        raise ConfigError(f"--model {kind}: say with --side on which side this model stands: {', '.join(Side)}")
    return FeatureId(
        model=model,
        side=side,
        source=query.source,
        blank=bool(options.get("blank_instruction")),
        step=step,
        training=training if info is None else info.training,
        trained=info is not None and info.trained,
    )


def _check_distinct(choices: Sequence[CheckpointChoice], remedy: str) -> None:
    seen: dict[tuple[str, int], CheckpointChoice] = {}
    for choice in choices:
        other = seen.setdefault((choice.id.model, choice.id.step), choice)
        if other is not choice:
            raise ConfigError(
                f"two checkpoints would be step {choice.id.step} of {choice.id.model!r}: {_weights(other)} and "
                f"{_weights(choice)}. {remedy}"
            )


_EXTRACT_APART = "Extract them apart, with --step or --name"


def _weights(choice: CheckpointChoice) -> str:
    return str(choice.path or "random weights")


def _to_extract(run: RunDir | None, query: CheckpointQuery) -> list[CheckpointChoice]:
    found, query = _found_by_text(query)
    if not found and not query.models and not query.files:
        choices = _of_run(run, query)
        if not choices:
            where = f"run {run.path} has no checkpoints" if run else "there is no run"
            raise ConfigError(
                f"nothing to extract: {where}. Give --checkpoint FILE, or --model {'/'.join(EXTRACTORS.names())}"
            )
    else:
        choices = found + _of_files(query)
        for model in dict.fromkeys(query.models):
            if not any(model == choice.kind for choice in choices):
                choices += _of_run(run, query, model) or [_random(run, query, model)]
    choices = _renamed(choices, query.name)
    if query.step is not None and len(choices) > 1:
        raise ConfigError(f"--step {query.step}: fits one checkpoint, but {len(choices)} were chosen")
    _check_distinct(choices, _EXTRACT_APART)
    return choices


def _found_by_text(query: CheckpointQuery) -> tuple[list[CheckpointChoice], CheckpointQuery]:
    """Return the choices of `KIND:TEXT`, and the query of what is left.

    One KIND that finds its models by a text, together with files, takes the names of these as texts.
    """
    texts: list[tuple[str, str]] = []
    left: list[str] = []
    files = query.files
    known = EXTRACTORS.names()
    for model in dict.fromkeys(query.models):
        kind, sign, text = model.partition(":")
        finds = kind in known and hasattr(EXTRACTORS.load(kind), "find_weights")
        if kind not in known or (not sign and not finds):
            left.append(model)
        elif not finds:
            raise ConfigError(f"--model {model}: {kind} reads files; write --model {kind} --checkpoint {text}")
        elif not sign and len(set(query.models)) == 1 and files:
            texts += [(kind, str(path)) for path in files]
            files = ()
        elif not text:
            raise ConfigError(
                f"--model {model}: say which model, as --model {kind}:FOLDER, or --model {kind} --checkpoint FOLDER "
                "with no other model"
            )
        else:
            texts.append((kind, text))
    choices = [_found(query, kind, text) for kind, text in texts]
    return choices, replace(query, models=left, files=files)


def _found(query: CheckpointQuery, kind: str, text: str) -> CheckpointChoice:
    found = EXTRACTORS.load(kind).find_weights(text, query.options)
    step = (query.step if query.step is not None else found.step) or 0
    info = CheckpointInfo(
        path=found.path, kind=kind, step=step, trained=found.trained, sha256=found.sha256, drawn=not found.trained
    )
    return CheckpointChoice(id=_feature(query, kind, found.name, step, info), kind=kind, checkpoint=info)


def _of_run(run: RunDir | None, query: CheckpointQuery, model: str | None = None) -> list[CheckpointChoice]:
    """Checkpoints of the run: all, or those of a model or a kind."""
    by_kind = model in EXTRACTORS.names()
    choices = []
    for piece in run.checkpoints(None if by_kind else model) if run else []:
        info = inspect_checkpoint(piece.path)
        if not by_kind or model in (piece.model, info.kind):
            choices.append(_of_piece(query, piece, info))
    return choices


def _of_piece(query: CheckpointQuery, piece: Piece, info: CheckpointInfo) -> CheckpointChoice:
    if info.step != piece.step:
        raise ConfigError(f"{piece.path}: its name says step {piece.step}, its metadata {info.step}; rename it")
    if info.kind is None:
        raise ConfigError(f"{piece.path}: weights of no known model; extract them with --model hook --checkpoint")
    feature = _feature(query, info.kind, piece.model, piece.step, info)
    return CheckpointChoice(id=feature, kind=info.kind, checkpoint=info)


def _of_files(query: CheckpointQuery) -> list[CheckpointChoice]:
    choices = []
    models = query.models
    unknown_to_us = [model for model in models if model not in ("viclip", "arp", "pixels")]
    for info in [inspect_checkpoint(path, step=query.step) for path in query.files]:
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
        feature = _feature(query, kind, kind, info.step, info)
        choices.append(CheckpointChoice(id=feature, kind=kind, checkpoint=info))
    return choices


def _random(run: RunDir | None, query: CheckpointQuery, model: str) -> CheckpointChoice:
    known = EXTRACTORS.names()
    if model not in known:
        raise unknown_name(
            "model", model, sorted({*known, *(piece.model for piece in (run.checkpoints() if run else []))})
        )
    return CheckpointChoice(id=_feature(query, model, model, query.step or 0), kind=model)


def _renamed(choices: Sequence[CheckpointChoice], name: str | None) -> list[CheckpointChoice]:
    if name is None:
        return list(choices)
    models = sorted({choice.id.model for choice in choices})
    if len(models) > 1:
        raise ConfigError(f"--name {name}: names one model, but {', '.join(models)} were chosen")
    return [replace(choice, id=replace(choice.id, model=name)) for choice in choices]


def _to_extract_played(run: RunDir, query: CheckpointQuery, say: Callable[[str], None]) -> list[CheckpointChoice]:
    folders = [folder for folder in sorted(run.rollouts.glob("*/step_*")) if (folder / OUTCOMES_FILE).is_file()]
    folders = [folder for folder in folders if not query.folders or folder in query.folders]
    checkpoints = _of_run(run, query)
    _check_distinct(checkpoints, _EXTRACT_APART)
    wanted = _wanted(query.models, checkpoints)
    by_weights: dict[str, list[CheckpointChoice]] = {}
    for choice in checkpoints:
        if choice.kind == "arp":
            by_weights.setdefault(choice.sha256, []).append(choice)
    played: list[CheckpointChoice] = []
    taken: dict[Path, Path] = {}
    policies = [(folder, _policy_of(folder, by_weights, say)) for folder in folders]
    halves = half_steps(run, [found.id.model for _, found in policies if found is not None]) if query.half else {}
    for folder, policy in policies:
        if policy is None or halves.get(policy.id.model, policy.id.step) != policy.id.step:
            continue
        for choice in (policy, *_companions(policy, checkpoints, query, say)):
            if not wanted(choice):
                continue
            other = taken.setdefault(choice.id.path, folder)
            if other != folder:
                say(
                    f"{folder}: {choice.id.model} is left out, as it is extracted from {other}; both would be one store"
                )
                continue
            played.append(replace(choice, data=folder))
    if not played:
        why = f"{len(folders)} folders hold none that a checkpoint of ARP played" if folders else "it has none"
        raise ConfigError(
            f"--source rollouts: episodes that the policies of run {run.path} played are needed, but {why}. "
            f"`{command_line('rollout', run=run.path)}` plays them; --data names others"
        )
    return played


def _wanted(models: Sequence[str], checkpoints: Sequence[CheckpointChoice]) -> Callable[[CheckpointChoice], bool]:
    pixels = {model_of_training(PIXELS, choice.id.training) for choice in checkpoints if choice.id.training}
    known = {"arp", "viclip", PIXELS, *(choice.id.model for choice in checkpoints), *pixels}
    for model in models:
        if model not in known:
            raise unknown_name("model of played episodes (give --data for any other):", model, sorted(known))
    return lambda choice: not models or not {choice.kind, choice.id.model, choice.id.folder}.isdisjoint(models)


def _policy_of(
    folder: Path, by_weights: dict[str, list[CheckpointChoice]], say: Callable[[str], None]
) -> CheckpointChoice | None:
    """The ARP checkpoint that played the episodes of a folder."""
    manifest = read_rollout(folder)
    policy = manifest.get("policy")
    policy = policy if isinstance(policy, dict) else {}
    if policy.get("from") != "arp" or policy.get("blank_instruction"):
        how = "an ARP that was told nothing" if policy.get("from") == "arp" else f"policy {policy.get('name')!r}"
        say(f"{folder}: was played by {how}, so it is left out")
        return None
    same = by_weights.get(str(manifest.get("checkpoint_sha256")), [])
    name, step = folder.parent.name, step_of(folder.name)
    for choice in (*(match for match in same if match.id.model == name), *same):
        if choice.id.step == step:
            return choice
    say(f"{folder}: was played by weights that the run has no longer, so it is left out")
    return None


def _companions(
    policy: CheckpointChoice,
    checkpoints: Sequence[CheckpointChoice],
    query: CheckpointQuery,
    say: Callable[[str], None],
) -> list[CheckpointChoice]:
    """Models of the understanding side on the episodes of a policy: ViCLIP of its training and step, and pixels."""
    training, step = policy.id.training, policy.id.step
    of_training = [choice for choice in checkpoints if choice.kind == "viclip" and choice.id.training == training]
    watching = [choice for choice in of_training if choice.id.step == step]
    if of_training and not watching:
        where = f" of training {training!r}" if training else ""
        say(f"{policy.id.model} step {step}: no ViCLIP checkpoint{where} at this step watches its episodes")
    feature = _feature(query, PIXELS, PIXELS, step, training=training)
    if {PIXELS, feature.folder} & set(query.models):
        watching.append(CheckpointChoice(id=feature, kind=PIXELS))
    return watching


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _to_play(run: RunDir | None, query: CheckpointQuery) -> list[CheckpointChoice]:
    if query.models and (query.policy != "arp" or query.files):
        raise ConfigError("--model chooses among the run's ARP checkpoints: leave out --checkpoint, play --policy arp")
    weights: list[tuple[str, CheckpointInfo | None]]
    if query.policy == "arp":
        weights = [(query.name or "arp", _arp_file(path)) for path in query.files] or _arp_of_run(run, query)
    else:
        name = query.name or query.policy.rpartition(":")[2]
        weights = [(name, _foreign_file(path)) for path in query.files] or [(name, None)]
    choices = [
        CheckpointChoice(
            id=FeatureId(
                model=blanked(name) if query.options.get("blank_instruction") else name,
                side=Side.EXECUTION,
                source=Source.ROLLOUTS,
                step=info.step if info else 0,
                training=info.training if info else "",
                trained=info is not None and info.trained,
            ),
            kind=query.policy,
            checkpoint=info,
        )
        for name, info in weights
    ]
    for choice in choices:
        if not _NAME.fullmatch(choice.id.model):
            raise ConfigError(f"{choice.id.model!r} cannot name a folder; give letters, digits, . _ - with --name")
    choices = _at_step(run, query, choices)
    _check_distinct(choices, "Play them apart, with --name")
    return choices


def _at_step(run: RunDir | None, query: CheckpointQuery, choices: list[CheckpointChoice]) -> list[CheckpointChoice]:
    """Of the run's ARP checkpoints those of the asked step, or that of each policy with success nearest one half."""
    if query.step is None and not query.half:
        return choices
    if run is None or query.files or query.policy != "arp" or query.name is not None:
        raise ConfigError("--step chooses among the run's ARP checkpoints: leave out --checkpoint, --policy and --name")
    halves = half_steps(run, [choice.id.model for choice in choices]) if query.half else {}
    left = [choice for choice in choices if choice.id.step == halves.get(choice.id.model, query.step)]
    for model in halves.keys() - {choice.id.model for choice in left}:
        raise ConfigError(
            f"--step {HALF}: {model} at step {halves[model]}, says {run.results(HALF_SUCCESS.stem)}, and the run has "
            "no such checkpoint; remove that file to choose again"
        )
    if not left:
        steps = ", ".join(map(str, sorted({choice.id.step for choice in choices})))
        raise ConfigError(f"--step {query.step}: the run has ARP checkpoints at steps {steps}")
    return left


def _foreign_file(path: Path) -> CheckpointInfo:
    step = step_in_name(path)
    return CheckpointInfo(path=path, kind=None, step=step or 0, trained=True, sha256="", step_told=step is not None)


def _arp_file(path: Path) -> CheckpointInfo:
    info = inspect_checkpoint(path)
    if info.kind != "arp":
        raise ConfigError(f"--checkpoint {path}: weights of {info.kind or 'no known model'}; --policy arp needs ARP's")
    return info


def _arp_of_run(run: RunDir | None, query: CheckpointQuery) -> list[tuple[str, CheckpointInfo | None]]:
    inspected = [(piece, inspect_checkpoint(piece.path)) for piece in run.checkpoints()] if run else []
    found = [(piece, info) for piece, info in inspected if info.kind == "arp"]
    if not found:
        where = f"run {run.path} has no checkpoints of ARP" if run else "there is no run"
        raise ConfigError(
            f"--policy arp needs weights, and {where}. Give --checkpoint FILE, or play with --policy expert or random"
        )
    known = sorted({piece.model for piece, _ in found})
    for model in query.models:
        if model not in known:
            raise unknown_name("ARP model of the run", model, known)
    return [
        (query.name or piece.model, replace(info, step=piece.step))
        for piece, info in found
        if not query.models or piece.model in query.models
    ]


_VIDEO_KIND = "viclip"
_UNTRAINED = "viclip-untrained"


def _to_recognize(run: RunDir | None, query: CheckpointQuery) -> list[CheckpointChoice]:
    if query.preset is not None:
        if query.models or query.files:
            raise ConfigError(
                f"--preset {query.preset}: is the size of random weights; leave out --model and --checkpoint"
            )
        if query.preset not in PRESETS[_VIDEO_KIND]:
            raise ConfigError(f"--preset {query.preset}: there are {', '.join(PRESETS[_VIDEO_KIND])}")
        feature = _feature(query, _VIDEO_KIND, query.name or _UNTRAINED, query.step or 0)
        return [CheckpointChoice(id=feature, kind=_VIDEO_KIND, preset=query.preset, seed=query.seed)]
    if query.files:
        if query.models:
            raise ConfigError("--model names models of the run and --checkpoint files; give one of them")
        choices = _to_extract(run, query)
        for choice in choices:
            if choice.kind != _VIDEO_KIND:
                raise ConfigError(f"--checkpoint {_weights(choice)}: weights of {choice.kind!r}, not of a ViCLIP")
    else:
        choices = _video_models_of_run(run, query)
    return [replace(choice, config=query.config) for choice in choices]


def _video_models_of_run(run: RunDir | None, query: CheckpointQuery) -> list[CheckpointChoice]:
    first = {piece.model: piece.path for piece in reversed(run.checkpoints())} if run else {}
    for model in query.models:
        if model not in first:
            known = ", ".join(sorted(first)) or "none"
            raise ConfigError(f"--model {model}: the run has no checkpoints of it; there are: {known}")
    kinds = {name: inspect_checkpoint(first[name]).kind for name in sorted(query.models or first)}
    for model in query.models:
        if kinds[model] != _VIDEO_KIND:
            raise ConfigError(
                f"--model {model}: its weights are of {kinds[model] or 'no known model'}, not of a ViCLIP"
            )
    matches = [model for model, kind in kinds.items() if kind == _VIDEO_KIND]
    if run is None or not matches:
        where = f"run {run.path} has no ViCLIP checkpoints" if run else "there is no run"
        raise ConfigError(f"nothing to recognise with: {where}. Give --checkpoint FILE, or --preset SIZE")
    if query.name is not None and len(matches) > 1:
        raise ConfigError(
            f"--name {query.name}: names one model, but {', '.join(matches)} were chosen; say which with --model"
        )
    pieces = [piece for model in matches for piece in run.checkpoints(model)]
    choices = _renamed([_of_piece(query, piece, inspect_checkpoint(piece.path)) for piece in pieces], query.name)
    _check_distinct(choices, _EXTRACT_APART)
    if query.step is None:
        return choices
    left = [choice for choice in choices if choice.id.step == query.step]
    if not left:
        steps = ", ".join(map(str, sorted({choice.id.step for choice in choices})))
        raise ConfigError(f"--step {query.step}: the run has ViCLIP checkpoints at steps {steps}")
    return left
