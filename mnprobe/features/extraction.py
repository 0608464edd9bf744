"""Extraction: from demonstrations and frozen models to feature stores."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mnprobe.core.arrays import Truth, Whole, settle
from mnprobe.core.errors import ConfigError, DataError, FeatureError, MnprobeError
from mnprobe.core.files import sha256_file
from mnprobe.core.job import JobRecord
from mnprobe.core.names import FeatureId, Source
from mnprobe.core.progress import progress
from mnprobe.core.provenance import canonical_json, config_hash
from mnprobe.core.registry import merge_settings, unknown_name
from mnprobe.core.rundir import RunDir, resolve_run
from mnprobe.core.runtime import Team, join_team, prefetch, resolve_device
from mnprobe.core.seeds import check_seed
from mnprobe.data import OUTCOMES_FILE, Dataset, Episode, open_dataset
from mnprobe.data.dataset import Flip
from mnprobe.data.episode import DECISIONS
from mnprobe.features.extractors.base import (
    EXTRACTORS,
    EpisodeFeatures,
    Extractor,
    ExtractorSpec,
    LayerInfo,
    check_computation,
    check_one_size,
    complete_options,
    computation_of,
    stored_layers,
)
from mnprobe.features.half_success import HALF
from mnprobe.features.row_check import check_rows
from mnprobe.features.schema import DTYPES, Columns, Header, check_own_name, extra_columns, make_columns
from mnprobe.features.selection import CheckpointChoice, CheckpointQuery, layers_for, select_checkpoints
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.store import open_features, verify
from mnprobe.features.writer import FeatureWriter
from mnprobe.worlds.record import read_situation

if TYPE_CHECKING:
    from mnprobe.features.extractors.hook import HookTarget  # imports torch

__all__ = [
    "ExtractConfig",
    "Extracted",
    "Job",
    "ModuleExtraction",
    "check_target",
    "extract",
    "extracted",
    "played_jobs",
    "run_job",
    "run_jobs",
    "separate_broken",
]

Status = Literal["written", "kept"]
Note = Callable[[str], None]
_KEPT, _TODO, _FAILED = 0, 1, 2
_PLAYED_AT_ONCE = 16  # episodes in a shard of played features
_OF_EPISODES = ("data_fingerprint", "episodes", "episodes_hash")
_WEIGHTS_AT_ONCE = 2**30  # bytes of the weights files of models that are in memory at one time
_SHOWN = 20  # broken episodes listed before "and N more"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One feature store to extract.

    `asked` is the requested configuration, which decides the meaning of the values: it is recorded, and a finished file
    is reused only if its record is equal. `ran` describes the computation (device, batch size): it is recorded, and
    existing shards are reused only if it is equal too, so that a store is never mixed. `build` makes the extractor; it
    is called only if work remains. With `skip_broken`, episodes with damaged files are skipped; `broken` gives the
    reasons of those known in advance. `given` returns the features of an episode that are known already, computed as
    `asked` and `ran` say, or None. `weights` is the size of the weights file in bytes.
    """

    target: Path
    header: Header
    episodes: Sequence[Episode]
    columns: Columns
    asked: Mapping[str, Any]
    ran: Mapping[str, Any]
    build: Callable[[], Extractor] = field(repr=False)
    dtype: str = "float32"
    batch_size: int = 8
    overwrite: bool = False
    threads: int = 1
    skip_broken: bool = False
    broken: Mapping[str, str] = field(default_factory=dict)
    given: Callable[[Episode], EpisodeFeatures | None] | None = field(default=None, repr=False)
    weights: int = 0

    @property
    def config_hash(self) -> str:
        """Short hash of the requested configuration."""
        return config_hash(self.asked)

    @property
    def record(self) -> JobRecord:
        """`asked`, and the one that the file at the target records: a store is there only when it is whole."""
        return JobRecord(
            path=self.target,
            config=self.asked,
            what="the feature store",
            remedy="add --overwrite to replace it, or write elsewhere with --name, --step, --source or --out",
            error=FeatureError,
            read=_recorded,
            finished=lambda: True,
            exact=True,
        )

    def batches(self) -> list[Sequence[Episode]]:
        """Fixed batches of episodes; they do not depend on the number of processes."""
        size = self.batch_size
        return [self.episodes[start : start + size] for start in range(0, len(self.episodes), size)]


def run_job(job: Job, team: Team, *, quiet: bool = False, note: Note | None = None) -> Status:
    """Extract the store, unless it exists, complete and with the same configuration.

    Raises FeatureError when the target exists with another configuration or is damaged, and `overwrite` is not set, and
    for values that depend on the batch; errors of data and model are passed on. Finished batches are reused by the next
    call. `note` is called by process 0 with messages for the user.
    """
    run = _Run(job, team, _shards(job), note or (lambda text: None))
    with ExitStack() as stack:
        if _decide(job, team, run.shards, stack) == _KEPT:
            return "kept"
        run.start()
        run.compute(quiet)
        run.end()
    return "written"


def _shards(job: Job) -> ShardFolder:
    # Batches without a broken episode serve a job that skips broken ones and one that does not.
    asked = {name: value for name, value in job.asked.items() if name != "skip_broken"}
    pieces = {} if job.ran.get("batch_size") in (None, job.batch_size) else {"episodes_in_a_shard": job.batch_size}
    return ShardFolder(job.target, config_hash([config_hash(asked), dict(job.ran) | pieces]))


def run_jobs(jobs: Sequence[Job], team: Team, *, quiet: bool = False, note: Note | None = None) -> list[Status]:
    """As `run_job` for each, with inputs prepared once for jobs that can share them (`Extractor.preparation`).

    Jobs on the same episodes whose models fit into memory together go through the batches side by side. Stores, shards
    and resumption are those of the jobs alone; when a job fails, those before it are finished.
    """
    done: list[Status] = []
    groups = _groups(jobs)
    with progress("extracting (models)", len(groups), quiet=quiet or len(groups) == 1 or not team.leads) as advance:
        for group in groups:
            if len(group) == 1:
                done.append(run_job(group[0], team, quiet=quiet, note=note))
            else:
                done += _run_together(group, team, quiet, note)
            advance()
    return done


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Neighbors that can go side by side."""
    groups: list[list[Job]] = []
    for job in jobs:
        last = groups[-1] if groups else []
        if last and _side_by_side(last[0], job) and sum(one.weights for one in (*last, job)) <= _WEIGHTS_AT_ONCE:
            last.append(job)
        else:
            groups.append([job])
    return groups


def _side_by_side(one: Job, other: Job) -> bool:
    extractor = EXTRACTORS.load(one.asked["extractor"]) if one.asked.get("extractor") in EXTRACTORS.names() else None
    return (
        hasattr(extractor, "preparation")
        and bool(getattr(extractor, "independent_rows", False))
        and one.asked["extractor"] == other.asked.get("extractor")
        and one.episodes is other.episodes
        and one.given is other.given is None
        and (one.batch_size, one.skip_broken, one.threads) == (other.batch_size, other.skip_broken, other.threads)
    )


def _run_together(jobs: Sequence[Job], team: Team, quiet: bool, note: Note | None) -> list[Status]:
    """Run jobs side by side; when one fails, those before it are finished and its error is raised."""
    statuses: list[Status] = ["kept"] * len(jobs)
    runs: dict[int, _Run] = {}
    failed: Exception | None = None
    with ExitStack() as stack:
        for number, job in enumerate(jobs):
            run = _Run(job, team, _shards(job), note or (lambda text: None))
            try:
                if _decide(job, team, run.shards, stack) == _KEPT:
                    continue
                run.start()
            except (MnprobeError, OSError) as error:
                failed = error
                break
            runs[number] = run
        going, stopped = _compute_together(list(runs.values()), team, quiet)
        failed = stopped or failed
        if failed is not None and team.size > 1:
            raise failed
        for number, run in runs.items():
            if run in going:
                run.end()
                statuses[number] = "written"
    if failed is not None:
        raise failed
    return statuses


def _compute_together(runs: list["_Run"], team: Team, quiet: bool) -> tuple[list["_Run"], Exception | None]:
    """Compute the missing batches of all runs, batch by batch.

    Returns the finished runs: all before the first that failed, and its error.
    """
    going, failed = list(runs), None
    for run in runs:
        try:
            if run.missing:
                run.build()
        except (MnprobeError, OSError) as error:
            going, failed = going[: going.index(run)], error
            break
    left = sorted({index for run in going for index in run.missing})
    if not left:
        return going, failed

    def read(index: int) -> dict[str, _PreparedBatch | Exception]:
        """The inputs of a batch by what they depend on; or the error of reading them, which is raised at its place."""
        found: dict[str, _PreparedBatch | Exception] = {}
        for run in going:
            if index in run.missing and run.preparation not in found:
                try:
                    found[run.preparation] = run.read(index)
                except (MnprobeError, OSError) as error:
                    found[run.preparation] = error
        return found

    what = f"{len(going)} stores of {', '.join(dict.fromkeys(run.kind for run in going))}"
    what += f", process {team.rank} of {team.size}" if team.size > 1 else ""
    total, done = (sum(numbers) for numbers in zip(*(run.episodes() for run in going), strict=True))
    threads = going[0].threads
    with progress(f"{what} (episodes)", total, done=done, quiet=quiet or not team.leads) as advance:
        for index, ready in prefetch(left, read, threads=threads, ahead=threads):
            for run in tuple(going):
                if index not in run.missing:
                    continue
                try:
                    prepared = ready[run.preparation]
                    if isinstance(prepared, Exception):
                        raise prepared
                    advance(run.finish(index, prepared))
                except (MnprobeError, OSError) as error:
                    going, failed = going[: going.index(run)], error
                    break
            if not going:
                break
    return going, failed


def check_target(job: Job) -> None:
    """Raise FeatureError when the target exists with another configuration and may not be replaced.

    `run_job` checks this too; this function is fast, so that several jobs are checked before the first is computed.
    """
    if job.overwrite or not job.target.exists():
        return
    _check_place(job)
    job.record.check()


def _decide(job: Job, team: Team, shards: ShardFolder, stack: ExitStack) -> int:
    if not team.leads:
        decision = team.agree(_FAILED)
        if decision == _FAILED:
            raise FeatureError(f"{job.target}: process 0 refused this job; its message says why")
        return decision
    try:
        decision = _KEPT if not job.overwrite and _is_finished(job) else _TODO
        if decision == _TODO or shards.root.exists():
            stack.enter_context(shards.lock())
            shards.clean()
        if decision == _KEPT and shards.root.exists():  # interrupted between the last rename and the removal of shards
            shards.remove()
    except MnprobeError:
        team.agree(_FAILED)
        raise
    return team.agree(decision)


def _is_finished(job: Job) -> bool:
    if not job.target.exists():
        return False
    _check_place(job)
    with _replaceable():
        verify(job.target)
    return job.record.check() == "done"


def _check_place(job: Job) -> None:
    if job.target.is_dir():
        raise FeatureError(f"{job.target}: is a folder; a feature store is one file. Name another with --out")


def _recorded(path: Path) -> Mapping[str, Any]:
    with _replaceable(), open_features(path) as file:
        asked: Mapping[str, Any] = file.attrs["provenance"].get("asked", {})
    return asked


@contextmanager
def _replaceable() -> Iterator[None]:
    """Add to errors about the store what can be done."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"{error}\nTo replace the file, add --overwrite") from error


class _PreparedBatch(NamedTuple):
    """A batch after reading: valid episodes, their prepared inputs, reasons of the broken ones, and given features.

    Episodes with given features, by id, are valid and have no inputs.
    """

    sound: Sequence[Episode]
    prepared: Any
    skipped: Mapping[str, str]
    given: Mapping[str, EpisodeFeatures] = {}


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """Summary of all batches that the writer of a store needs; tokens per episode where constant."""

    layers: tuple[str, ...]
    skipped: Mapping[str, str]
    remarks: Sequence[str]
    episodes: int
    tokens: Mapping[str, int | None]

    @classmethod
    def of(cls, shard: Shard) -> "_Summary":
        lengths = {layer: set(shard.arrays[f"{layer}/lengths"].tolist()) for layer in shard.layers}
        return cls(
            layers=shard.layers,
            skipped=shard.skipped,
            remarks=shard.remarks,
            episodes=len(shard.predictions),
            tokens={layer: next(iter(found)) if len(found) == 1 else None for layer, found in lengths.items()},
        )


class _Run:
    """Extraction of one job in this process."""

    def __init__(self, job: Job, team: Team, shards: ShardFolder, note: Note) -> None:
        self.shards = shards
        self.preparation = ""
        """What prepared inputs depend on, as text; known after `build`."""
        self.missing: set[int] = set()
        """Batches that this process has to compute; known after `start`."""
        self._job = job
        self._team = team
        self._note = note
        self._batches = job.batches()
        self._remarks: list[str] = []
        self._widths: dict[str, int] = {}
        self._summaries: dict[int, _Summary] = {}
        self._worlds: Mapping[str, str] = {}
        self._extractor: Extractor | None = None
        self._described: dict[str, Any] = {}

    @property
    def kind(self) -> str:
        """Name of the extractor."""
        return str(self._job.asked.get("extractor", self._job.header.model))

    @property
    def threads(self) -> int:
        """Threads that read."""
        return self._job.threads

    def start(self) -> None:
        """Read what is there already."""
        self._worlds = _worlds(self._job) if self._team.leads else {}
        self.missing = {index for index in self._share() if not self._has(index)}

    def build(self) -> Extractor:
        """Build the extractor, once."""
        if self._extractor is None:
            self._extractor = self._job.build()
            self._described = _described(self._extractor)
            if hasattr(self._extractor, "preparation"):
                self.preparation = canonical_json(self._extractor.preparation())
        return self._extractor

    def episodes(self) -> tuple[int, int]:
        """Number of episodes of this process, and of those that are done."""
        total = sum(len(self._batches[index]) for index in self._share())
        return total, total - sum(len(self._batches[index]) for index in self.missing)

    def compute(self, quiet: bool) -> None:
        """Compute this process's share of the missing batches."""
        job, team = self._job, self._team
        left = sorted(self.missing)
        if not left:
            return
        extractor = self.build()
        what = f"{job.header.model} step {job.header.step}"
        what += f", process {team.rank} of {team.size}" if team.size > 1 else ""
        total, done = self.episodes()
        with progress(f"{what} (episodes)", total, done=done, quiet=quiet or not team.leads) as advance:
            is_checked = bool(getattr(extractor, "independent_rows", False))
            while left and not is_checked:  # before prefetching starts: the check reads in this thread
                index = left.pop(0)
                ready = self.read(index)
                is_checked = bool(ready.sound)
                advance(self.finish(index, ready, check=True))
            for index, ready in prefetch(left, self.read, threads=job.threads, ahead=job.threads):
                advance(self.finish(index, ready))

    def end(self) -> None:
        """Merge all batches into the store, when all processes are here."""
        self._team.barrier()
        if self._team.leads:
            self.merge()
            self.shards.remove()
        self._team.barrier()

    def _share(self) -> range:
        return range(self._team.rank, len(self._batches), self._team.size)

    def merge(self) -> None:
        """Merge all batches into one file."""
        job = self._job
        for index in range(len(self._batches)):
            if index not in self._summaries:  # another process computed it
                self._summaries[index] = _Summary.of(self._shard(index))
        summaries = [self._summaries[index] for index in range(len(self._batches))]
        skipped = dict(job.broken)
        for summary in summaries:
            skipped |= summary.skipped
        sound = [summary for summary in summaries if summary.episodes]
        if not sound:
            raise DataError(f"{job.target}: all {len(skipped)} episodes are broken: {_reasons(skipped)}")
        layers = [name for name in sound[0].layers if all(name in summary.layers for summary in sound)]
        if not layers:
            raise FeatureError(f"{job.target}: no layer is there in all batches; name layers one by one")
        remarks = list(dict.fromkeys([*(text for summary in sound for text in summary.remarks), *_padding(job, sound)]))
        for remark in remarks:
            if remark not in self._remarks:
                self._note(remark)
        if skipped:
            total = len(job.episodes) + len(job.broken)
            self._note(f"{job.target}: {len(skipped)} of {total} episodes left out as broken: {_reasons(skipped)}")
        self._write(layers, skipped, remarks)

    def _write(self, layers: Sequence[str], skipped: Mapping[str, str], remarks: Sequence[str]) -> None:
        job = self._job
        predictions: list[str | None] = []
        counts: dict[str, int] = {"episodes_skipped": len(skipped)} if skipped else {}
        model_config: dict[str, Any] = {}
        layer_info: dict[str, LayerInfo] = {}
        kept = np.array([name not in skipped for name in job.columns["id"]])
        columns = {name: column[kept] for name, column in job.columns.items()}
        with FeatureWriter(job.target, job.header, columns, dtype=job.dtype) as writer:
            for index in range(len(self._batches)):
                shard = self._shard(index)
                if not shard.predictions:
                    continue
                for layer in layers:
                    arrays = {name: shard.arrays[f"{layer}/{name}"] for name in ("values", "lengths", "keyframe")}
                    writer.append(layer, arrays["values"], lengths=arrays["lengths"], keyframe=arrays["keyframe"])
                predictions += shard.predictions
                counts = {name: counts.get(name, 0) + shard.counts.get(name, 0) for name in {*counts, *shard.counts}}
                model_config, layer_info = shard.model_config, shard.layer_info
            if all(text is not None for text in predictions):
                writer.add_column("prediction", predictions)
            provenance: dict[str, Any] = {
                "asked": dict(job.asked),
                "ran": dict(job.ran),
                "config_hash": job.config_hash,
                "counts": dict(sorted(counts.items())),
                "worlds": sorted({world for name, world in self._worlds.items() if name not in skipped}),
            }
            if layer_info:
                provenance["layers"] = {name: layer_info[name] for name in layers if name in layer_info}
            if skipped:
                provenance["skipped"] = [{"id": name, "reason": reason} for name, reason in skipped.items()]
            if remarks:
                provenance["remarks"] = list(remarks)
            writer.header = replace(job.header, model_config=model_config, provenance=provenance)

    def _has(self, index: int) -> bool:
        shard = self.shards.read(index)
        if shard is None or (shard.skipped and not self._job.skip_broken):
            return False
        self._summaries[index] = _Summary.of(shard)
        return True

    def read(self, index: int) -> _PreparedBatch:
        """Prepare a batch; with `skip_broken`, without episodes that have damaged files."""
        extractor, batch = self.build(), self._batches[index]
        if self._job.given is None:
            return self._prepare(extractor, batch)
        found = {episode.id: self._job.given(episode) for episode in batch}
        given = {name: features for name, features in found.items() if features is not None}
        left = [episode for episode in batch if episode.id not in given]
        ready = self._prepare(extractor, left) if left else _PreparedBatch([], None, {})
        names = {*given, *(episode.id for episode in ready.sound)}
        return ready._replace(sound=[episode for episode in batch if episode.id in names], given=given)

    def _prepare(self, extractor: Extractor, batch: Sequence[Episode]) -> _PreparedBatch:
        try:
            return _PreparedBatch(batch, extractor.prepare(batch), {})
        except DataError:
            if not self._job.skip_broken:
                raise
        sound, skipped = [], {}
        for episode in batch:
            try:
                extractor.prepare([episode])
            except DataError as error:
                skipped[episode.id] = str(error)
            else:
                sound.append(episode)
        return _PreparedBatch(sound, extractor.prepare(sound) if sound else None, skipped)

    def finish(self, index: int, ready: _PreparedBatch, *, check: bool = False) -> int:
        """Compute a batch and write its shard; return its number of episodes."""
        extractor = self.build()
        if self._team.leads:
            for name, reason in ready.skipped.items():
                self._note(f"left out {name}: {reason}")
        names = [episode.id for episode in ready.sound]
        wanted = [name for name in names if name not in ready.given]
        computed = extractor.compute(ready.prepared) if wanted else []
        if len(computed) != len(wanted):
            raise FeatureError(f"{self._job.header.model}: gave features of {len(computed)} of {len(wanted)} episodes")
        known = {**ready.given, **dict(zip(wanted, computed, strict=True))}
        results = [known[name] for name in names]
        remarks: list[str] = []
        if check and results:
            Shard.of(
                results, extractor.layers, self._job.dtype, self._described, names=names
            )  # raises for NaN, among others
            remarks = self._check(extractor, ready.sound, results)
        dropped: Mapping[str, str] = getattr(extractor, "dropped", {})
        if dropped:
            shown = "; ".join(list(dropped.values())[:_SHOWN])
            more = f"; and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
            remarks.append(f"{len(dropped)} layers that a pattern names are left out: {shown}{more}")
        remarks = [remark for remark in remarks if remark not in self._remarks]
        self._remarks += remarks
        if self._team.leads:
            for remark in remarks:
                self._note(remark)
        info = extractor.describe_layers() if hasattr(extractor, "describe_layers") else {}
        shard = Shard.of(
            results,
            extractor.layers,
            self._job.dtype,
            self._described,
            names=names,
            layer_info=info,
            skipped=ready.skipped,
            remarks=remarks,
        )
        self._check_widths(shard)
        self.shards.write(index, shard)
        self._summaries[index] = _Summary.of(shard)
        self.missing.discard(index)
        return len(self._batches[index])

    def _check(self, extractor: Extractor, batch: Sequence[Episode], results: list[EpisodeFeatures]) -> list[str]:
        job = self._job
        half = job.asked.get("precision") == "bf16" or bool(getattr(extractor, "half_precision", False))
        others = [] if len(batch) > 1 else [one for one in job.episodes[:2] if one.where != batch[0].where]
        return check_rows(
            extractor,
            batch,
            results,
            others,
            alone=job.batch_size == 1 or len(job.episodes) == 1,
            device=str(job.ran.get("device", "cpu")),
            half=half,
        )

    def _check_widths(self, shard: Shard) -> None:
        for layer in shard.layers:
            width = shard.arrays[f"{layer}/values"].shape[1]
            if self._widths.setdefault(layer, width) != width:
                raise FeatureError(
                    f"layer {layer!r}: gives tokens of {width} numbers after tokens of {self._widths[layer]}; a layer "
                    "has one width. Wrap the module so that it gives the varying axis as tokens"
                )

    def _shard(self, index: int) -> Shard:
        shard = self.shards.read(index)
        if shard is None:
            raise FeatureError(
                f"{self._job.target}: batch {index} ({self._batches[index][0].id} ...) is missing or damaged in "
                f"{self.shards.folder}. Run the same command again; all processes must see the same folder"
            )
        return shard


def _padding(job: Job, summaries: Sequence[_Summary]) -> list[str]:
    """Message when token counts are constant within batches but differ between them."""
    if getattr(EXTRACTORS.load(job.asked["extractor"]), "independent_rows", False):
        return []
    several = [summary for summary in summaries if summary.episodes > 1]
    remarks = []
    for layer in several[0].layers if several else ():
        counts = {summary.tokens.get(layer) for summary in several}
        numbers = sorted(number for number in counts if number is not None)
        if None not in counts and len(numbers) > 1:
            remarks.append(
                f"layer {layer!r}: all episodes of one batch have the same number of tokens, but batches differ "
                f"({numbers[0]} to {numbers[-1]}). If batches are padded to their longest episode, the padding is "
                "stored as data; --batch-size 1 has none"
            )
    return remarks


def _described(extractor: Extractor) -> dict[str, Any]:
    """Description of the model by its extractor, checked to be JSON."""
    described = extractor.describe()
    try:
        json.loads(canonical_json(dict(described)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the model's description must hold only what JSON can hold: {error}") from error
    return described


def _worlds(job: Job) -> dict[str, str]:
    """World of each episode, if its folder records it; RLBench's own files do not."""
    worlds = {}
    for episode in job.episodes:
        try:
            situation = read_situation(episode.folder)
        except DataError:
            if not job.skip_broken:
                raise
            continue
        if situation is not None:
            worlds[episode.id] = str(situation["world"])
    return worlds


def _reasons(skipped: Mapping[str, str]) -> str:
    more = f" and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
    return "; ".join([f"{name} ({reason})" for name, reason in skipped.items()][:_SHOWN]) + more


_DEFAULT_PRESET = "tiny"
_READERS_FOR_CUDA = 8


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Configuration of an extraction: the models, their layers, the episodes, and the computation.

    Raises: ConfigError when a value is out of range or two values contradict each other. What depends on the models,
    the data or the machine is checked by `extract`.
    """

    models: Sequence[str] = ()
    """Names of extractors, or of models in the run; see `select_checkpoints`. Empty, without checkpoints: all of the
    run."""
    checkpoints: Sequence[Path] = ()
    """Weights files; the model is detected from the file."""
    name: str | None = None
    """Model name under which the features are stored."""
    step: Whole | Literal["half"] | None = None
    """Training step of the checkpoint, if the file does not record it. Of played episodes "half": only those of the
    checkpoint of each policy whose success is nearest one half; see `half_steps`."""
    preset: str | None = None
    """Size of models with random weights; None means "tiny"."""
    model_config: Path | Mapping[str, Any] | None = None
    """Configuration of one model (a mapping, or a JSON file), for weights whose file does not contain it, or for random
    weights without preset."""
    seed: Whole = 0
    """Seed of random weights."""
    source: str = "demos"
    """Name of the data within the run, such as "demos" or "rollouts"."""
    partitions: Sequence[str] | None = None
    """Select these partitions; see `mnprobe.data.open_dataset`, also for the next ones."""
    tasks: Sequence[str] | None = None
    """Select these tasks."""
    episodes: Sequence[str] | None = None
    """Select these: ranges of positions such as "0:50", ids or unique endings of ids."""
    limit: Whole | None = None
    """Maximum number of episodes."""
    instructions: Path | str | Mapping[str, str | Sequence[str]] | None = None
    """Instructions in place of the dataset's."""
    outcomes: Path | str | None = None
    """Outcomes of the episodes."""
    decisions: Whole | None = None
    """Number of evenly spaced decisions of an episode without keyframes."""
    flip: Flip = "auto"
    """How images of HDF5 files are turned upright."""
    layers: Sequence[str] = ()
    """Plain names, patterns such as "blocks.*", or `model=layer`; see `layers_for`; empty means the defaults."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of extractors: camera, frames_rule, decoding, blank_instruction, language_weights, ... None means the
    default."""
    device: str = "auto"
    """ "auto", "cpu", "cuda", "cuda:<number>"."""
    batch_size: Whole = 8
    """Episodes per forward pass (ARP: key-to-key steps per pass) and per resumable piece."""
    dtype: str = "float32"
    """Stored type, "float32" or "float16"."""
    precision: Literal["float32", "bf16"] = "float32"
    """ "bf16" for mixed precision in the model."""
    also_blank: Truth = False
    """Also write the features of models that read an instruction without one (the option `blank_instruction`), from
    the same prepared inputs."""
    skip_broken: Truth = False
    """Skip episodes whose files are missing or damaged (DataError); ids and reasons are reported and recorded in the
    store's provenance."""

    def __post_init__(self) -> None:
        settle(
            self,
            wholes=(*(() if self.step == HALF else ("step",)), "limit", "decisions", "batch_size"),
            truths=("also_blank", "skip_broken"),
            lists=("models", "checkpoints", "partitions", "tasks", "episodes", "layers"),
        )
        options: Any = {} if self.options is None else self.options
        if not isinstance(options, Mapping):
            raise ConfigError(f"options must be a mapping of names to values, got {type(options).__name__}")
        object.__setattr__(self, "options", {name: value for name, value in options.items() if value is not None})
        sizes: Any = self.model_config
        if sizes is not None and not isinstance(sizes, Mapping | Path):
            if not isinstance(sizes, str):
                raise ConfigError(f"model_config must be a mapping or a JSON file, got {type(sizes).__name__}")
            object.__setattr__(self, "model_config", Path(sizes))
        if self.dtype not in DTYPES:
            raise ConfigError(f"--dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit must be at least 1, got {self.limit}")
        object.__setattr__(self, "seed", check_seed(self.seed, name="--seed"))
        if self.also_blank and self.options.get("blank_instruction"):
            raise ConfigError(
                "--also-blank adds features without an instruction to those with one; leave out one of "
                "--also-blank and --blank-instruction"
            )
        check_computation(self.batch_size, self.precision)
        check_one_size(self.preset, self.model_config)


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """One finished store with the features `id`. `status` is "written", or "kept" when it existed before.

    `episodes` counts those in the store; `skipped` counts broken episodes, whose ids and reasons are in the provenance.
    """

    path: Path
    id: FeatureId
    kind: str
    layers: tuple[str, ...]
    episodes: int
    status: Literal["written", "kept"]
    skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON, those of `id` among them."""
        return {
            "path": str(self.path),
            "model": self.id.model,
            "kind": self.kind,
            "side": str(self.id.side),
            "source": self.id.source_name,
            "step": self.id.step,
            "trained": self.id.trained,
            "training": self.id.training,
            "layers": list(self.layers),
            "episodes": self.episodes,
            "status": self.status,
            "skipped": self.skipped,
        }


def extract(
    data: Path | str | Sequence[Path | str] | None = None,
    config: ExtractConfig | None = None,
    *,
    run: RunDir | Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[Extracted]:
    """Extract frozen features into one store per model and checkpoint; valid existing stores are reused.

    An interrupted extraction resumes from its finished batches when called again, with the same values. Under torchrun
    the processes share the batches.

    Args:
        data: folders of demonstrations; by default the run's `demos`. With the source "rollouts", by default every
            folder of the run's `rollouts` that one of its ARP checkpoints played: each is extracted by that checkpoint
            and by the ViCLIP checkpoint of the same training and step (see `select_checkpoints`).
        config: what to extract, and how; the defaults if None.
        run: run directory; default the newest under ./runs, unless `out` is given.
        out: output path instead of a run: a file ending in .h5 for a single store, or a folder for
            `<model>/<source>/step_<number>.h5`.
        overwrite: replace existing stores of another configuration.
        quiet: show no progress.
        note: called with messages for the user.
        settings: single fields of `ExtractConfig` by name, in place of those of `config`, such as `models=["viclip"]`.
    Returns: one entry per store, in order of work.
    Raises: ConfigError, DataError, CheckpointError, FeatureError.
    """
    config = merge_settings(ExtractConfig, config, settings)
    say = note or (lambda text: None)
    home = run if isinstance(run, RunDir) else None if run is None and out is not None else resolve_run(run)
    with join_team() as team:
        parts = _choose_parts(data, home, config, say)
        everything = [choice for _, choices in parts for choice in choices]
        for choice in everything:
            if choice.checkpoint is not None and not choice.checkpoint.step_told:
                remark = "tells no training step, so it counts as step 0; --step or --name says more"
                say(f"{choice.checkpoint.path}: {remark}")
        sizes = _model_config(everything, config)
        cache: dict[str, Any] = {}  # for a single model only; several would all stay in memory
        known = partial(
            _known_layers, config=config, sizes=sizes, cache=cache if len(everything) == 1 else None, found={}
        )
        parts = [
            (folder, [replace(one, layers=layers_for(one, config.layers, everything, known, say)) for one in choices])
            for folder, choices in parts
        ]
        count = sum(len(_variants(choice, config)) for choice in everything)
        if out is not None and out.suffix == ".h5" and count > 1:
            raise ConfigError(f"--out {out}: one file, but {count} stores are to be made; name a folder")
        done: list[Extracted] = []
        asked: list[str] = []
        alone = len(parts) == 1 or not team.leads
        with progress("extracting (folders)", len(parts), quiet=quiet or alone) as advance:
            for number, (folder, choices) in enumerate(parts, start=1):
                if len(parts) > 1:
                    say(f"{folder} ({number} of {len(parts)})")
                context = _ExtractionContext.of(
                    folder,
                    config,
                    run=home,
                    out=out,
                    sizes=sizes,
                    local=team.local,
                    overwrite=overwrite,
                    cache=cache,
                    say=say,
                )
                choices = [variant for choice in choices for variant in _variants(choice, config)]
                jobs = [context.job(choice) for choice in choices]
                for job in jobs:
                    check_target(job)
                asked += [canonical_json(dict(job.asked)) for job in jobs]
                _record(home, out, team, asked, [folder for folder, _ in parts[:number]])
                statuses = run_jobs(jobs, team, quiet=quiet, note=say if team.leads else None)
                done += [extracted(*entry) for entry in zip(choices, jobs, statuses, strict=True)]
                advance()
    return done


def played_jobs(
    run: RunDir, folders: Sequence[Path], *, options: Mapping[str, Any], device: str, note: Note | None = None
) -> list[tuple[CheckpointChoice, Job]]:
    """Return the jobs of e, and of e without the instruction, of episodes that ARP checkpoints of a run played.

    They are the jobs of `extract` for the source "rollouts", in passes of one key-to-key step. A store that differs
    from its job only in the episodes is replaced: `overwrite` is set.

    Args:
        run: the run.
        folders: folders of played episodes, `rollouts/<model>/step_<number>`; what is no folder yet is left out.
        options: options of the extractor, without `blank_instruction`.
        device: "cpu", "cuda", ...
        note: called with messages for the user.
    Raises: ConfigError, DataError, CheckpointError, and FeatureError for stores of another configuration.
    """
    say = note or (lambda text: None)
    there = [folder for folder in folders if (folder / OUTCOMES_FILE).is_file()]
    config = ExtractConfig(
        models=("arp",), source=Source.ROLLOUTS, options=options, device=device, batch_size=1, also_blank=True
    )
    query = CheckpointQuery(
        purpose="extract-played", models=config.models, source=config.source, options=config.options, folders=there
    )
    jobs = []
    for choice in select_checkpoints(run, query, note=say) if there else []:
        choice = replace(choice, layers=layers_for(choice, (), [choice], lambda choice: ()))
        context = _ExtractionContext.of(
            choice.data, config, run=run, out=None, sizes=None, local=0, overwrite=False, cache={}, say=say
        )
        for variant in _variants(choice, config):
            job = context.job(variant)
            job = replace(job, batch_size=_PLAYED_AT_ONCE, overwrite=_differs_in_episodes_only(job))
            check_target(job)
            jobs.append((variant, job))
    return jobs


def _differs_in_episodes_only(job: Job) -> bool:
    if not job.target.is_file():
        return False
    recorded = dict(_recorded(job.target))
    others = {name: recorded.get(name) for name in _OF_EPISODES}
    return (
        others != {name: job.asked[name] for name in _OF_EPISODES}
        and recorded | others == dict(json.loads(canonical_json(dict(job.asked)))) | others
    )


class ModuleExtraction:
    """Extraction from modules in memory, into the stores that `extract` writes for `--model hook`.

    Args:
        data: a folder of demonstrations or several, opened as `extract` opens them; or opened episodes.
        config: selection of episodes, layers, source and computation; its options are those of the hook extractor. What
            names models, weights or a device is not used.
        run: run directory to write to.
        note: called with messages for the user.
    Raises: ConfigError, DataError.
    """

    def __init__(
        self,
        data: Path | str | Sequence[Path | str] | Sequence[Episode],
        config: ExtractConfig,
        *,
        run: RunDir,
        note: Note | None = None,
    ) -> None:
        say = note or (lambda text: None)
        dataset, broken = _open_episodes(data, config, say)
        self._context = _ExtractionContext(
            config=config,
            run=run,
            out=None,
            dataset=dataset,
            columns=_columns(dataset, say),
            fingerprint=dataset.fingerprint(),
            sizes=None,
            device="cpu",
            overwrite=False,
            broken=broken,
            cache={},
            say=say,
        )

    def write(
        self, target: "HookTarget", feature: FeatureId, *, weights: str, device: str, overwrite: bool = False
    ) -> Extracted:
        """Write the store of one module, in this process alone; a store of the same configuration is kept.

        Args:
            target: the module, and the function that makes its inputs.
            feature: identity of the features.
            weights: identity of the weights, in place of the checksum of a file.
            device: device of the inputs.
            overwrite: replace a store of another configuration.
        Raises: ConfigError, DataError, FeatureError.
        """
        context = replace(self._context, device=device, overwrite=overwrite, cache={"target": target})
        choice = CheckpointChoice(id=feature, kind="hook")
        known = partial(_known_layers, config=context.config, sizes=None, cache=context.cache, found={})
        choice = replace(choice, layers=layers_for(choice, context.config.layers, [choice], known, context.say))
        job = context.job(choice)
        asked = {**job.asked, "checkpoint_sha256": weights, "seed": None}
        job = replace(job, header=replace(job.header, checkpoint_sha256=weights), asked=asked)
        return extracted(choice, job, run_job(job, Team(), quiet=True, note=context.say))


def _variants(choice: CheckpointChoice, config: ExtractConfig) -> list[CheckpointChoice]:
    """The choice, and with `also_blank` the same without an instruction, if its model reads one."""
    if (
        not config.also_blank
        or choice.id.blank
        or "blank_instruction" not in EXTRACTORS.load(choice.kind).option_defaults
    ):
        return [choice]
    return [choice, replace(choice, id=replace(choice.id, blank=True), blanked=True)]


def _choose_parts(
    data: Any, run: RunDir | None, config: ExtractConfig, say: Note
) -> list[tuple[Any, list[CheckpointChoice]]]:
    """Return folders of episodes and the models to extract from each."""
    played = data is None and config.source == Source.ROLLOUTS and run is not None
    if played and (config.checkpoints or config.name is not None or config.step not in (None, HALF)):
        raise ConfigError(
            "--source rollouts without --data takes the run's own checkpoints, each on the episodes that it "
            "played; give --data as well to use --checkpoint, --name or --step"
        )
    query = CheckpointQuery(
        purpose="extract-played" if played else "extract",
        models=config.models,
        files=config.checkpoints,
        name=config.name,
        step=config.step if isinstance(config.step, int) else None,
        half=config.step == HALF,
        source=config.source,
        options=config.options,
    )
    choices = select_checkpoints(run, query, note=say)
    common = data if played or data is not None else _demos(run)
    groups = groupby(_understanding(choices, config.options, say), key=lambda choice: choice.data)
    return [(common if folder is None else folder, list(group)) for folder, group in groups]


def _open_episodes(folder: Any, config: ExtractConfig, say: Note) -> tuple[Dataset, dict[str, str]]:
    """Return the episodes, and the reasons of the broken ones that are skipped; `folder` may be opened episodes."""
    dataset = _opened(folder, config) or open_dataset(
        folder,
        partitions=config.partitions,
        tasks=config.tasks,
        episodes=config.episodes,
        instructions=config.instructions,
        outcomes=config.outcomes,
        flip=config.flip,
        skip_broken=config.skip_broken,
        decisions=DECISIONS if config.decisions is None else config.decisions,
    )
    for text in dataset.notes:
        say(text)
    dataset = dataset[: config.limit] if config.limit else dataset
    dataset, broken = separate_broken(dataset, say) if config.skip_broken else (dataset, {})
    for remark in dataset.instruction_notes():
        say(remark)
    return dataset, broken


def _opened(data: Any, config: ExtractConfig) -> Dataset | None:
    """Return `data` as a dataset if it is episodes, and None if it is folders."""
    if isinstance(data, str | os.PathLike) or all(isinstance(one, str | os.PathLike) for one in data):
        return None
    for name in ("partitions", "tasks", "instructions", "outcomes"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name}: is for folders; give it to open_dataset, which opened these episodes")
    return data if isinstance(data, Dataset) else Dataset(data, ())


def extracted(choice: CheckpointChoice, job: Job, status: Status) -> Extracted:
    """Describe the finished store of a job: its layers in the requested order, and its counts of episodes."""
    layers = stored_layers(EXTRACTORS.load(choice.kind), job.asked["layers"])
    with open_features(job.target) as file:
        skipped = len(file.attrs["provenance"].get("skipped", []))
        names = tuple(name for name in layers.values() if name in file.layers)
    return Extracted(
        path=job.target,
        id=choice.id,
        kind=choice.kind,
        layers=names,
        episodes=len(job.episodes) + len(job.broken) - skipped,
        status=status,
        skipped=skipped,
    )


@dataclass(frozen=True, kw_only=True)
class _ExtractionContext:
    """Configuration and data that all jobs of one folder of episodes share."""

    config: ExtractConfig
    run: RunDir | None
    out: Path | None
    dataset: Dataset
    columns: Columns
    fingerprint: str
    sizes: Mapping[str, Any] | None
    device: str
    overwrite: bool
    broken: Mapping[str, str]
    cache: dict[str, Any]
    say: Note

    @classmethod
    def of(
        cls,
        folder: Any,
        config: ExtractConfig,
        *,
        run: RunDir | None,
        out: Path | None,
        sizes: Mapping[str, Any] | None,
        local: int,
        overwrite: bool,
        cache: dict[str, Any],
        say: Note,
    ) -> "_ExtractionContext":
        """Open the episodes, as `_open_episodes`, and the device of a process of local rank `local`."""
        dataset, broken = _open_episodes(folder, config, say)
        return cls(
            config=config,
            run=run,
            out=out,
            dataset=dataset,
            columns=_columns(dataset, say),
            fingerprint=dataset.fingerprint(),
            sizes=sizes,
            device=resolve_device(config.device, local=local),
            overwrite=overwrite,
            broken=broken,
            cache=cache,
            say=say,
        )

    def job(self, choice: CheckpointChoice) -> Job:
        """Build the job of one model at one checkpoint."""
        config = self.config
        extractor = EXTRACTORS.load(choice.kind)
        options = complete_options(config.options, extractor.option_defaults)
        options |= {"blank_instruction": True} if choice.blanked else {}
        if isinstance(options.get("camera"), str):
            options["camera"] = self.dataset.camera(config.options.get("camera"), default=options["camera"])
        spec = self._spec(choice, options)
        header = Header.of(choice.id, checkpoint_sha256=choice.sha256, data_fingerprint=self.fingerprint)
        if choice.checkpoint is None and extractor.sizes:
            size = "the given size" if spec.preset is None else f"size {spec.preset!r}"
            self.say(f"{choice.name}: random weights of {size} from seed {config.seed}, not trained")
        return Job(
            target=_target(self.run, self.out, choice.id),
            header=header,
            episodes=self.dataset,
            columns=self.columns,
            asked=_asked(header, choice, spec, self.columns, config) | self._data_facts(),
            ran=computation_of(spec.device, batch_size=spec.batch_size),
            build=partial(extractor.build, spec),
            dtype=config.dtype,
            batch_size=config.batch_size,
            overwrite=self.overwrite,
            skip_broken=config.skip_broken,
            broken=self.broken,
            threads=min(_READERS_FOR_CUDA, os.cpu_count() or 1) if self.device.startswith("cuda") else 1,
            weights=0 if choice.path is None or not choice.path.is_file() else choice.path.stat().st_size,
        )

    def _data_facts(self) -> dict[str, Any]:
        """What was asked of a dataset that is not in RLBench's format, such as how its images are turned."""
        facts = dict(self.dataset.facts)
        if facts and self.config.decisions is not None:
            facts["decisions"] = self.config.decisions
        return {"dataset": facts} if facts else {}

    def _spec(self, choice: CheckpointChoice, options: Mapping[str, Any]) -> ExtractorSpec:
        from mnprobe.features.text_ranking import distinct_texts  # imports torch

        return ExtractorSpec(
            checkpoint=choice.path,
            preset=_drawn_preset(choice, self.config, self.sizes),
            config=self.sizes,
            seed=self.config.seed,
            layers=tuple(choice.layers),
            optional=frozenset(name for name, by_pattern in choice.layers.items() if by_pattern),
            device=self.device,
            precision=self.config.precision,
            batch_size=self.config.batch_size,
            candidates=distinct_texts(self.columns["instruction"].tolist()),
            options=options,
            episode=self.dataset[0] if len(self.dataset) else None,
            say=lambda text: self.say(f"{choice.name}: {text}"),
            cache=self.cache,
        )


def _drawn_preset(choice: CheckpointChoice, config: ExtractConfig, sizes: Mapping[str, Any] | None) -> str | None:
    """Return the preset of random weights, unless another setting gives the size."""
    drawn = choice.checkpoint is None and EXTRACTORS.load(choice.kind).sizes and sizes is None
    return (config.preset or _DEFAULT_PRESET) if drawn else None


def _known_layers(
    choice: CheckpointChoice,
    *,
    config: ExtractConfig,
    sizes: Mapping[str, Any] | None,
    cache: dict[str, Any] | None,
    found: dict[int, Sequence[str]],
) -> Sequence[str]:
    """Return all layers of a choice, for patterns; `found` caches them."""
    extractor = EXTRACTORS.load(choice.kind)
    if id(choice) not in found:
        spec = ExtractorSpec(
            checkpoint=choice.path,
            preset=_drawn_preset(choice, config, sizes),
            config=sizes,
            seed=config.seed,
            options=complete_options(config.options, extractor.option_defaults),
            cache={} if cache is None else cache,
        )
        listed = extractor.layers_of(spec) if hasattr(extractor, "layers_of") else extractor.default_layers
        found[id(choice)] = tuple(listed)
    return found[id(choice)]


def separate_broken(dataset: Dataset, say: Callable[[str], None]) -> tuple[Dataset, dict[str, str]]:
    """Return the episodes whose labels and sizes are readable, and reasons of the others by id (or folder)."""
    sound: list[Episode] = []
    broken = dict(dataset.broken)
    for name, reason in broken.items():
        say(f"left out {name}: {reason}")
    for i, episode in enumerate(dataset):
        try:
            _columns(dataset[i : i + 1], lambda _: None)
            dataset[i : i + 1].fingerprint()
        except DataError as error:
            try:
                name = episode.id
            except DataError:  # its variation is not readable
                name = str(episode.folder)
            broken[name] = str(error)
            say(f"left out {name}: {error}")
        else:
            sound.append(episode)
    if not sound:
        name, reason = next(iter(broken.items()))
        raise DataError(f"all {len(broken)} episodes are broken; the first is {name}: {reason}")
    return (dataset.having(sound) if broken else dataset), broken


def _understanding(
    choices: list[CheckpointChoice], given: Mapping[str, Any], say: Callable[[str], None]
) -> list[CheckpointChoice]:
    """Raise for options of no chosen model; drop models without an instruction input when blank."""
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


def _model_config(choices: Sequence[CheckpointChoice], config: ExtractConfig) -> Mapping[str, Any] | None:
    """Check that preset or model configuration applies to a model; return the model configuration."""
    if config.preset is not None:
        _check_preset(choices, config.preset)
    given = config.model_config
    if given is None:
        return None
    kinds = {choice.kind for choice in choices}
    if len(kinds) != 1 or not EXTRACTORS.load(next(iter(kinds))).sizes:
        raise ConfigError(f"--config is of one model that has sizes, but chosen are {', '.join(sorted(kinds))}")
    if isinstance(given, Mapping):
        return given
    try:
        found = json.loads(given.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {given}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError(f"--config {given}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--config {given}: must be a JSON object of fields, got {type(found).__name__}")
    return found


def _check_preset(choices: Sequence[CheckpointChoice], preset: str) -> None:
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
    """Return the table of episodes.

    When folders of one partition are opened together with folders without partition, the column is omitted, with a
    message. `make_columns` raises for several partitions together with none.
    """
    partitions = [episode.partition for episode in dataset]
    if len(set(partitions)) == 2 and "" in partitions:
        say(
            f"{partitions.count('')} of {len(partitions)} episodes lie in no partition, the others in "
            f"{max(partitions)!r}: no partition is recorded for any, and training and test sets are drawn from all"
        )
        partitions = [""] * len(partitions)
    rows: dict[str, list[Any]] = {
        "id": [episode.id for episode in dataset],
        "task": [episode.task for episode in dataset],
        "instruction": [episode.instruction for episode in dataset],
        "variation": [episode.variation for episode in dataset],
        "partition": partitions,
        "success": [episode.success for episode in dataset],
    }
    own: list[Mapping[str, Any]] = [getattr(episode, "extra", {}) for episode in dataset]
    for name in dict.fromkeys(name for columns in own for name in columns):
        try:
            check_own_name(name, where="the dataset")
        except FeatureError as error:
            say(f"column {name!r} is left out of the features: {error}")
        else:
            rows[name] = [columns.get(name) for columns in own]
    return make_columns(rows, where="the dataset")


def _target(run: RunDir | None, out: Path | None, feature: FeatureId) -> Path:
    if out is not None:
        return out if out.suffix == ".h5" else out / feature.path
    assert run is not None  # without `out` there is a run
    return run.path / "features" / feature.path


def _asked(
    header: Header, choice: CheckpointChoice, spec: ExtractorSpec, columns: Columns, config: ExtractConfig
) -> dict[str, Any]:
    """Return the requested configuration, which decides the meaning of the values, as JSON."""
    later: frozenset[str] = getattr(EXTRACTORS.load(choice.kind), "later_options", frozenset())
    options = {key: value for key, value in spec.options.items() if value is not None or key not in later}
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
    table |= {name: list(map(str, table[name])) for name in extra_columns(columns)}  # NaN is no JSON
    return {
        "extractor": choice.kind,
        "revision": EXTRACTORS.load(choice.kind).revision,
        "model": header.model,
        "side": str(header.side),
        "source": header.source,
        "step": header.step,
        "trained": header.trained,
        "checkpoint_sha256": header.checkpoint_sha256,
        "preset": spec.preset,
        "config": None if spec.config is None else dict(spec.config),
        "seed": spec.seed if choice.checkpoint is None or choice.checkpoint.drawn else None,
        "layers": list(spec.layers),
        "options": options,
        "precision": spec.precision,
        "dtype": config.dtype,
        "data_fingerprint": header.data_fingerprint,
        "episodes": len(columns["id"]),
        "episodes_hash": config_hash(table),
        **({"skip_broken": True} if config.skip_broken else {}),
    }


def _record(run: RunDir | None, out: Path | None, team: Team, asked: Sequence[str], folders: Sequence[Any]) -> None:
    """Record the requested configuration in run.toml, if features are written to a run."""
    if run is None or out is not None or not team.leads:
        return
    paths = [path for one in folders for path in ([one] if isinstance(one, str | os.PathLike) else one)]
    RunDir.create(run.path).record("extract", {"data": [str(path) for path in paths], "asked": list(asked)})
