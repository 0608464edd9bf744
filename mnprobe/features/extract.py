"""From demonstrations and models to feature stores: what `mnprobe extract` does."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import sha256_file
from mnprobe.core.provenance import canonical_json, config_hash, versions
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir, resolve_run, step_name
from mnprobe.core.seeds import check_seed
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.distributed import Team, join_team
from mnprobe.features.extractor import EXTRACTORS, ExtractorSpec, stored_layers
from mnprobe.features.header import Header
from mnprobe.features.job import Job, check_target, run_job
from mnprobe.features.options import complete_options
from mnprobe.features.plan import ModelChoice, choose_models, layers_for
from mnprobe.features.played import played_choices
from mnprobe.features.schema import DTYPES, SIDES
from mnprobe.features.store import open_features
from mnprobe.features.table import Columns, make_columns

__all__ = ["ROLLOUTS", "Extracted", "extract"]

ROLLOUTS = "rollouts"
"""Source of the episodes that a run's policies played themselves."""

_DEFAULT_PRESET = "tiny"
_READERS_FOR_CUDA = 8


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """One finished store. `status` is "written" or, when it was there already, "kept".

    `episodes` are those in the store; `skipped` counts the broken ones that were left out, whose ids and reasons are
    in the store's provenance.
    """

    path: Path
    model: str
    kind: str
    side: str
    source: str
    step: int
    trained: bool
    training: str
    layers: tuple[str, ...]
    episodes: int
    status: Literal["written", "kept"]
    skipped: int = 0


def extract(
    data: Path | str | Sequence[Path | str] | None = None,
    *,
    run: RunDir | Path | None = None,
    out: Path | None = None,
    models: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    name: str | None = None,
    step: int | None = None,
    preset: str | None = None,
    config: Path | Mapping[str, Any] | None = None,
    seed: int = 0,
    source: str = "demos",
    partitions: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    instructions: Path | Mapping[str, str | Sequence[str]] | None = None,
    outcomes: Path | str | None = None,
    layers: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int = 8,
    dtype: str = "float32",
    precision: Literal["float32", "bf16"] = "float32",
    overwrite: bool = False,
    skip_broken: bool = False,
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
) -> list[Extracted]:
    """Extract frozen features into one store per model and checkpoint; finished stores are checked and kept.

    May be killed at any moment and called again: finished batches are taken up, and the values are those of an
    undisturbed run. Under torchrun the processes share the batches.

    Args:
        data: folders of demonstrations; by default the run's `demos`. With the source "rollouts", by default every
            folder of the run's `rollouts` that one of its ARP checkpoints played: each is extracted by that checkpoint
            and by the ViCLIP checkpoint of the same training and step (see `played_choices`).
        run: run directory; by default the newest under ./runs, unless `out` is given.
        out: write here instead of into a run: a file ending in .h5 for a single store, or a folder that gets
            `<model>/<source>/step_<number>.h5`.
        models: names of extractors, or of models in the run; see `choose_models`.
        checkpoints: weights files; the model is read off the file.
        name: file the features under this model name.
        step: training step of the checkpoint, where the file does not tell it.
        preset: size of models with random weights ("tiny" by default), and `seed` their numbers.
        config: sizes of one model, field by field (a mapping, or a JSON file of one), for weights whose file does not
            tell them, or for random weights of no preset.
        source: name of the data within the run, such as "demos" or "rollouts".
        partitions, tasks, instructions, outcomes: see `mnprobe.data.open_dataset`.
        limit: only the first so many episodes.
        layers: plain names, patterns such as "blocks.*", or `model=layer`; see `layers_for`.
        options: options of extractors: camera, frames_rule, decoding, blank_instruction, language_weights, ...
        device: "auto", "cpu", "cuda", "cuda:<number>".
        batch_size: episodes per forward pass (ARP: key-to-key steps per pass) and per resumable piece.
        dtype: stored type, "float32" or "float16".
        precision: "float32", or "bf16" for mixed precision in the model.
        overwrite: replace stores of another configuration.
        skip_broken: leave out episodes whose files are missing or damaged (DataError) instead of stopping; ids and
            reasons are noted and recorded in the store's provenance.
        quiet: show no progress.
        note: called with remarks for the user.
    Returns: one entry per store, in order of work.
    Raises: ConfigError, DataError, CheckpointError, FeatureError.
    """
    from mnprobe.features.devices import resolve_device

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {limit}")
    check_seed(seed, name="--seed")
    say = note or (lambda text: None)
    home = run if isinstance(run, RunDir) else None if run is None and out is not None else resolve_run(run)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    with join_team() as team:
        if data is None and source == ROLLOUTS and home is not None:
            if checkpoints or name is not None or step is not None:
                raise ConfigError(
                    "--source rollouts without --data takes the run's own checkpoints, each on the episodes that it "
                    "played; give --data as well to use --checkpoint, --name or --step"
                )
            played = played_choices(home, models, say)
            parts: list[tuple[Any, list[ModelChoice]]] = [(one.folder, list(one.choices)) for one in played]
        else:
            chosen = choose_models(home, models, checkpoints, name=name, step=step)
            parts = [(data if data is not None else _demos(home), chosen)]
        everything = _understanding([choice for _, choices in parts for choice in choices], given, say)
        parts = [(folder, [choice for choice in choices if choice in everything]) for folder, choices in parts]
        parts = [part for part in parts if part[1]]
        for choice in everything:
            if choice.checkpoint is not None and not choice.checkpoint.step_told:
                remark = "tells no training step, so it counts as step 0; --step or --name says more"
                say(f"{choice.checkpoint.path}: {remark}")
        sizes = _sizes(everything, preset, config)
        cache: dict[str, Any] = {}  # of the only model; of several, each would be held in memory
        known = partial(
            _known_layers,
            options=given,
            preset=preset,
            seed=seed,
            config=sizes,
            cache=cache if len(everything) == 1 else None,
            found={},
        )
        layers_of = [[layers_for(choice, layers, everything, known, say) for choice in choices] for _, choices in parts]
        if out is not None and out.suffix == ".h5" and len(everything) > 1:
            raise ConfigError(f"--out {out}: one file, but {len(everything)} stores are to be made; name a folder")
        done: list[Extracted] = []
        asked: list[str] = []
        for number, ((folder, choices), chosen_layers) in enumerate(zip(parts, layers_of, strict=True), start=1):
            if len(parts) > 1:
                say(f"{folder} ({number} of {len(parts)})")
            dataset = open_dataset(
                folder, partitions=partitions, tasks=tasks, instructions=instructions, outcomes=outcomes
            )
            for text in dataset.notes:
                say(text)
            dataset = dataset[:limit] if limit else dataset
            dataset, broken = _sound(dataset, say) if skip_broken else (dataset, {})
            for remark in dataset.instruction_notes():
                say(remark)
            maker = _Maker(
                home=home,
                out=out,
                dataset=dataset,
                columns=_columns(dataset, say),
                fingerprint=dataset.fingerprint(),
                source=source,
                options=given,
                seed=seed,
                preset=preset,
                config=sizes,
                device=resolve_device(device, local=team.local),
                batch_size=batch_size,
                dtype=dtype,
                precision=precision,
                overwrite=overwrite,
                skip_broken=skip_broken,
                broken=broken,
                cache=cache,
                say=say,
            )
            jobs = [maker.job(choice, found) for choice, found in zip(choices, chosen_layers, strict=True)]
            for job in jobs:
                check_target(job)
            asked += [canonical_json(dict(job.asked)) for job in jobs]
            _record(home, out, team, asked, [folder for folder, _ in parts[:number]])
            for choice, job in zip(choices, jobs, strict=True):
                status = run_job(job, team, quiet=quiet, note=say if team.leads else None)
                header = job.header
                names, skipped = _stored(job, stored_layers(EXTRACTORS.load(choice.kind), job.asked["layers"]))
                done.append(
                    Extracted(
                        path=job.target,
                        model=header.model,
                        kind=choice.kind,
                        side=header.side,
                        source=header.source,
                        step=header.step,
                        trained=header.trained,
                        training=header.training,
                        layers=names,
                        episodes=len(dataset) + len(broken) - skipped,
                        status=status,
                        skipped=skipped,
                    )
                )
    return done


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """What all jobs of one command share."""

    home: RunDir | None
    out: Path | None
    dataset: Dataset
    columns: Columns
    fingerprint: str
    source: str
    options: Mapping[str, Any]
    seed: int
    preset: str | None
    config: Mapping[str, Any] | None
    device: str
    batch_size: int
    dtype: str
    precision: Literal["float32", "bf16"]
    overwrite: bool
    skip_broken: bool
    broken: Mapping[str, str]
    cache: dict[str, Any]
    say: Callable[[str], None]

    def job(self, choice: ModelChoice, layers: Mapping[str, bool]) -> Job:
        """The job of one model at one checkpoint."""
        extractor = EXTRACTORS.load(choice.kind)
        spec = self._spec(choice, layers, complete_options(self.options, extractor.option_defaults))
        side = extractor.side or spec.options.get("side")
        if side is None:
            raise ConfigError(
                f"--model {choice.kind}: say with --side on which side this model stands: {', '.join(SIDES)}"
            )
        header = Header(
            model=choice.name,
            side=side,
            source=f"{self.source}-blank" if spec.options.get("blank_instruction") else self.source,
            step=choice.step,
            trained=choice.trained,
            training=choice.training,
            checkpoint_sha256=choice.checkpoint.sha256 if choice.checkpoint else "",
            data_fingerprint=self.fingerprint,
        )
        if choice.checkpoint is None and extractor.sizes:
            size = "the given size" if spec.preset is None else f"size {spec.preset!r}"
            self.say(f"{choice.name}: random weights of {size} from seed {self.seed}, not trained")
        return Job(
            target=_target(self.home, self.out, choice, header.source),
            header=header,
            episodes=self.dataset,
            columns=self.columns,
            asked=_asked(header, choice, spec, self.columns, self.dtype, self.skip_broken),
            ran=_ran(spec),
            build=partial(extractor.build, spec),
            dtype=self.dtype,
            batch_size=self.batch_size,
            overwrite=self.overwrite,
            skip_broken=self.skip_broken,
            broken=self.broken,
            threads=min(_READERS_FOR_CUDA, os.cpu_count() or 1) if self.device.startswith("cuda") else 1,
        )

    def _spec(self, choice: ModelChoice, layers: Mapping[str, bool], options: Mapping[str, Any]) -> ExtractorSpec:
        from mnprobe.features.recognition import distinct_texts  # loads torch

        return ExtractorSpec(
            checkpoint=choice.checkpoint.path if choice.checkpoint else None,
            preset=_drawn_preset(choice, self.preset, self.config),
            config=self.config,
            seed=self.seed,
            layers=tuple(layers),
            optional=frozenset(name for name, by_pattern in layers.items() if by_pattern),
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            candidates=distinct_texts(self.columns["instruction"].tolist()),
            options=options,
            say=lambda text: self.say(f"{choice.name}: {text}"),
            cache=self.cache,
        )


def _drawn_preset(choice: ModelChoice, preset: str | None, config: Mapping[str, Any] | None) -> str | None:
    """The size of random weights, where the model has some and nothing else gives it."""
    drawn = choice.checkpoint is None and EXTRACTORS.load(choice.kind).sizes and config is None
    return (preset or _DEFAULT_PRESET) if drawn else None


def _known_layers(
    choice: ModelChoice,
    *,
    options: Mapping[str, Any],
    preset: str | None,
    seed: int,
    config: Mapping[str, Any] | None,
    cache: dict[str, Any] | None,
    found: dict[int, Sequence[str]],
) -> Sequence[str]:
    """All layers of a choice, for patterns; `found` remembers them."""
    extractor = EXTRACTORS.load(choice.kind)
    if id(choice) not in found:
        spec = ExtractorSpec(
            checkpoint=choice.checkpoint.path if choice.checkpoint else None,
            preset=_drawn_preset(choice, preset, config),
            config=config,
            seed=seed,
            options=complete_options(options, extractor.option_defaults),
            cache={} if cache is None else cache,
        )
        listed = extractor.layers_of(spec) if hasattr(extractor, "layers_of") else extractor.default_layers
        found[id(choice)] = tuple(listed)
    return found[id(choice)]


def _sound(dataset: Dataset, say: Callable[[str], None]) -> tuple[Dataset, dict[str, str]]:
    """The episodes whose labels and sizes can be read; why not, for the others, by id (or folder where it has none)."""
    sound, broken = [], {}
    for i, episode in enumerate(dataset):
        try:
            _columns(dataset[i : i + 1], say)
            dataset[i : i + 1].fingerprint()
        except DataError as error:
            try:
                name = episode.id
            except DataError:  # its variation cannot be read
                name = str(episode.folder)
            broken[name] = str(error)
            say(f"left out {name}: {error}")
        else:
            sound.append(episode)
    if not sound:
        name, reason = next(iter(broken.items()))
        raise DataError(f"all {len(broken)} episodes are broken; the first is {name}: {reason}")
    return (Dataset(sound, dataset.paths) if broken else dataset), broken


def _stored(job: Job, layers: Mapping[str, str]) -> tuple[tuple[str, ...], int]:
    """The layers in the finished store, in the order of the request, and how many episodes were left out."""
    with open_features(job.target) as file:
        skipped = file.attrs["provenance"].get("skipped", [])
        return tuple(name for name in layers.values() if name in file.layers), len(skipped)


def _understanding(
    choices: list[ModelChoice], given: Mapping[str, Any], say: Callable[[str], None]
) -> list[ModelChoice]:
    """Refuse options that no chosen model understands; leave out models that cannot be blanked."""
    known = {choice.kind: set(EXTRACTORS.load(choice.kind).option_defaults) for choice in choices}
    everything = set().union(*known.values())
    for option in given:
        if option not in everything:
            raise unknown_name(f"option for {', '.join(sorted(known))}:", option, sorted(everything) or ["(none)"])
    if not given.get("blank_instruction"):
        return choices
    for choice in choices:
        if "blank_instruction" not in known[choice.kind]:
            say(f"{choice.name}: is not told the instruction, so it is left out with --blank-instruction")
    return [choice for choice in choices if "blank_instruction" in known[choice.kind]]


def _sizes(
    choices: Sequence[ModelChoice], preset: str | None, config: Path | Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Check that preset or configuration have a model to be the size of; return the configuration."""
    if preset is not None:
        _check_preset(choices, preset)
    if config is None:
        return None
    kinds = {choice.kind for choice in choices}
    if preset is not None:
        raise ConfigError(f"--preset {preset} and --config both give the size; leave one out")
    if len(kinds) != 1 or not EXTRACTORS.load(next(iter(kinds))).sizes:
        raise ConfigError(f"--config is of one model that has sizes, but chosen are {', '.join(sorted(kinds))}")
    if isinstance(config, Mapping):
        return config
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {config}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError(f"--config {config}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--config {config}: must be a JSON object of fields, got {type(found).__name__}")
    return found


def _check_preset(choices: Sequence[ModelChoice], preset: str) -> None:
    sized = [choice for choice in choices if choice.checkpoint is None and EXTRACTORS.load(choice.kind).sizes]
    if not sized:
        raise ConfigError(f"--preset {preset}: is the size of random weights, but all chosen models have checkpoints")
    for choice in sized:
        sizes = EXTRACTORS.load(choice.kind).sizes
        if preset not in sizes:
            raise unknown_name(f"preset of {choice.kind}:", preset, list(sizes))


def _demos(run: RunDir | None) -> Path:
    if run is None or not run.demos.is_dir():
        where = f"run {run.path} has no demos folder" if run else "there is no run"
        raise ConfigError(f"no demonstrations: {where}. Give their folder with --data")
    return run.demos


def _columns(dataset: Dataset, say: Callable[[str], None]) -> Columns:
    """The table of episodes.

    Folders of one partition and folders without any, opened together, have no partition that could split them: then it
    is left out, with a remark. Several partitions beside none are refused by `make_columns`.
    """
    partitions = [episode.partition for episode in dataset]
    if len(set(partitions)) == 2 and "" in partitions:
        say(
            f"{partitions.count('')} of {len(partitions)} episodes lie in no partition, the others in "
            f"{max(partitions)!r}: no partition is recorded for any, and training and test sets are drawn from all"
        )
        partitions = [""] * len(partitions)
    rows = {
        "id": [episode.id for episode in dataset],
        "task": [episode.task for episode in dataset],
        "instruction": [episode.instruction for episode in dataset],
        "variation": [episode.variation for episode in dataset],
        "partition": partitions,
        "success": [episode.success for episode in dataset],
    }
    return make_columns(rows, where="the dataset")


def _target(run: RunDir | None, out: Path | None, choice: ModelChoice, source: str) -> Path:
    if out is not None:
        return out if out.suffix == ".h5" else out / choice.folder / source / f"{step_name(choice.step)}.h5"
    assert run is not None  # without `out` there is always a run
    return run.features(choice.folder, source, choice.step)


def _asked(
    header: Header, choice: ModelChoice, spec: ExtractorSpec, columns: Columns, dtype: str, skip_broken: bool
) -> dict[str, Any]:
    """All that decides what the values mean, as JSON."""
    options = dict(spec.options)
    if options.get("language_weights"):
        weights = Path(options["language_weights"])
        if not weights.is_file():
            raise ConfigError(f"--language-weights {weights}: there is no such file; give the weights of CLIP RN50")
        options["language_weights"] = f"sha256:{sha256_file(weights)}"
    try:
        canonical_json(options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"options of {choice.kind} must hold only what JSON can hold: {error}") from error
    table = {name: column.tolist() for name, column in columns.items()}
    return {
        "extractor": choice.kind,
        "revision": EXTRACTORS.load(choice.kind).revision,
        "model": header.model,
        "side": header.side,
        "source": header.source,
        "step": header.step,
        "trained": header.trained,
        "checkpoint_sha256": header.checkpoint_sha256,
        "preset": spec.preset,
        "config": None if spec.config is None else dict(spec.config),
        "seed": spec.seed if choice.checkpoint is None else None,
        "layers": list(spec.layers),
        "options": options,
        "precision": spec.precision,
        "dtype": dtype,
        "data_fingerprint": header.data_fingerprint,
        "episodes": len(columns["id"]),
        "episodes_hash": config_hash(table),
        **({"skip_broken": True} if skip_broken else {}),
    }


def _ran(spec: ExtractorSpec) -> dict[str, Any]:
    return {"device": spec.device.split(":")[0], "batch_size": spec.batch_size, **versions("torch", "numpy")}


def _record(run: RunDir | None, out: Path | None, team: Team, asked: Sequence[str], folders: Sequence[Any]) -> None:
    """What was asked goes into run.toml as well, when the features go into the run."""
    if run is None or out is not None or not team.leads:
        return
    paths = [path for one in folders for path in ([one] if isinstance(one, str | os.PathLike) else one)]
    run.record("extract", {"data": [str(path) for path in paths], "asked": list(asked)})
