"""One store, from episodes to a whole file: in fixed batches, resumable at each, shared by a team of processes."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mnprobe.core.errors import ConfigError, DataError, FeatureError, MnprobeError
from mnprobe.core.progress import progress
from mnprobe.core.provenance import canonical_json, config_hash, differences
from mnprobe.data import Episode
from mnprobe.features.distributed import Team
from mnprobe.features.extractor import EXTRACTORS, EpisodeFeatures, Extractor, LayerInfo
from mnprobe.features.header import Header
from mnprobe.features.prefetch import prefetch
from mnprobe.features.row_check import check_rows
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.store import open_features, verify
from mnprobe.features.table import Columns
from mnprobe.features.writer import FeatureWriter
from mnprobe.worlds.record import read_situation

__all__ = ["Job", "check_target", "run_job"]

Status = Literal["written", "kept"]
Note = Callable[[str], None]
_KEPT, _TODO, _FAILED = 0, 1, 2
_SHOWN = 20  # broken episodes listed before "and N more"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A store to be made.

    `asked` is all that decides what the values mean: it is recorded, and a finished file is kept only if its own is
    equal. `ran` is how they are computed (device, batch size): recorded, and shards are taken up only if it is equal
    too, so that a store is never mixed. `build` makes the extractor; it is called only when there is work.
    With `skip_broken`, episodes whose files are broken are left out; `broken` gives the reason for those found before.
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

    @property
    def config_hash(self) -> str:
        """Short hash of `asked`."""
        return config_hash(self.asked)

    def batches(self) -> list[Sequence[Episode]]:
        """The episodes in fixed batches; they do not depend on the number of processes."""
        size = self.batch_size
        return [self.episodes[start : start + size] for start in range(0, len(self.episodes), size)]


def run_job(job: Job, team: Team, *, quiet: bool = False, note: Note | None = None) -> Status:
    """Make the store, or keep it if it is there already, whole and of the same configuration.

    Raises FeatureError when a file of another configuration, or a damaged one, lies at the target and `overwrite` is
    not set, and for values that depend on the batch; and whatever reading the data or the model raises. What was
    finished until then is kept for the next time. `note` is called, by process 0, with remarks for the user.
    """
    # Batches without a broken episode serve a job that skips broken ones and one that does not.
    asked = {name: value for name, value in job.asked.items() if name != "skip_broken"}
    shards = ShardFolder(job.target, config_hash([config_hash(asked), dict(job.ran)]))
    run = _Run(job, team, shards, note or (lambda text: None))
    with ExitStack() as stack:
        if _decide(job, team, shards, stack) == _KEPT:
            return "kept"
        worlds = _worlds(job) if team.leads else {}
        run.compute(quiet)
        team.barrier()
        if team.leads:
            run.merge(worlds)
            shards.remove()
        team.barrier()
    return "written"


def check_target(job: Job) -> None:
    """Raise FeatureError when a file of another configuration is at the target and may not be replaced.

    `run_job` says the same; this is quick, so that of several jobs all can be checked before the first is computed.
    """
    if job.overwrite or not job.target.exists():
        return
    _check_place(job)
    try:
        with open_features(job.target) as file:
            recorded = file.attrs["provenance"]
    except FeatureError as error:
        raise FeatureError(f"{error}\nTo replace the file, add --overwrite") from error
    _check_configuration(job, recorded)


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
        if decision == _KEPT and shards.root.exists():  # killed between the last rename and the cleaning
            shards.remove()
    except MnprobeError:
        team.agree(_FAILED)
        raise
    return team.agree(decision)


def _is_finished(job: Job) -> bool:
    if not job.target.exists():
        return False
    _check_place(job)
    try:
        verify(job.target)
    except FeatureError as error:
        raise FeatureError(f"{error}\nTo replace the file, add --overwrite") from error
    with open_features(job.target) as file:
        _check_configuration(job, file.attrs["provenance"])
    return True


def _check_place(job: Job) -> None:
    if job.target.is_dir():
        raise FeatureError(f"{job.target}: is a folder; a feature store is one file. Name another with --out")


def _check_configuration(job: Job, recorded: Mapping[str, Any]) -> None:
    if recorded.get("config_hash") == job.config_hash:
        return
    changes = differences(recorded.get("asked", {}), job.asked)
    raise FeatureError(
        f"{job.target}: was made with another configuration ({'; '.join(changes) or 'unknown'}). "
        "Add --overwrite to replace it, or write elsewhere with --name, --step, --source or --out"
    )


class _Read(NamedTuple):
    """A batch as it was read: its sound episodes, what the extractor prepared of them, and the broken ones."""

    sound: Sequence[Episode]
    prepared: Any
    skipped: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """What the writing of a whole store must know of each batch before; tokens per episode where all have the same."""

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
    """The work on one job in this process."""

    def __init__(self, job: Job, team: Team, shards: ShardFolder, note: Note) -> None:
        self._job = job
        self._team = team
        self._shards = shards
        self._note = note
        self._batches = job.batches()
        self._remarks: list[str] = []
        self._widths: dict[str, int] = {}
        self._summaries: dict[int, _Summary] = {}

    def compute(self, quiet: bool) -> None:
        """Compute this process's share of the batches that are not there yet."""
        job, team = self._job, self._team
        share = range(team.rank, len(self._batches), team.size)
        left = [index for index in share if not self._has(index)]
        if not left:
            return
        extractor = job.build()
        described = _described(extractor)
        what = f"{job.header.model} step {job.header.step}"
        what += f", process {team.rank} of {team.size}" if team.size > 1 else ""
        total = sum(len(self._batches[index]) for index in share)
        done = total - sum(len(self._batches[index]) for index in left)

        def read(index: int) -> _Read:
            return self._read(extractor, index)

        with progress(f"{what} (episodes)", total, done=done, quiet=quiet or not team.leads) as advance:
            is_checked = bool(getattr(extractor, "independent_rows", False))
            while left and not is_checked:  # before anything is read ahead: the check reads in this thread
                index = left.pop(0)
                is_checked = self._finish(extractor, index, read(index), described, check=True)
                advance(len(self._batches[index]))
            for index, ready in prefetch(left, read, threads=job.threads, ahead=job.threads):
                self._finish(extractor, index, ready, described)
                advance(len(self._batches[index]))

    def merge(self, worlds: Mapping[str, str]) -> None:
        """All batches to one file."""
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
        self._write(layers, skipped, remarks, worlds)

    def _write(
        self, layers: Sequence[str], skipped: Mapping[str, str], remarks: Sequence[str], worlds: Mapping[str, str]
    ) -> None:
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
                "worlds": sorted({world for name, world in worlds.items() if name not in skipped}),
            }
            if layer_info:
                provenance["layers"] = {name: layer_info[name] for name in layers if name in layer_info}
            if skipped:
                provenance["skipped"] = [{"id": name, "reason": reason} for name, reason in skipped.items()]
            if remarks:
                provenance["remarks"] = list(remarks)
            writer.header = replace(job.header, model_config=model_config, provenance=provenance)

    def _has(self, index: int) -> bool:
        shard = self._shards.read(index)
        if shard is None or (shard.skipped and not self._job.skip_broken):
            return False
        self._summaries[index] = _Summary.of(shard)
        return True

    def _read(self, extractor: Extractor, index: int) -> _Read:
        """Prepare a batch; with `skip_broken`, without the episodes whose files are broken."""
        batch = self._batches[index]
        try:
            return _Read(batch, extractor.prepare(batch), {})
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
        return _Read(sound, extractor.prepare(sound) if sound else None, skipped)

    def _finish(
        self, extractor: Extractor, index: int, ready: _Read, described: dict[str, Any], *, check: bool = False
    ) -> bool:
        """Compute a batch and write its shard; return whether there was a sound episode."""
        if self._team.leads:
            for name, reason in ready.skipped.items():
                self._note(f"left out {name}: {reason}")
        names = [episode.id for episode in ready.sound]
        results = extractor.compute(ready.prepared) if ready.sound else []
        if len(results) != len(names):
            raise FeatureError(f"{self._job.header.model}: gave features of {len(results)} of {len(names)} episodes")
        remarks: list[str] = []
        if check and results:
            Shard.of(results, extractor.layers, self._job.dtype, described, names=names)  # refuses NaN, for one
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
            described,
            names=names,
            layer_info=info,
            skipped=ready.skipped,
            remarks=remarks,
        )
        self._check_widths(shard)
        self._shards.write(index, shard)
        self._summaries[index] = _Summary.of(shard)
        return bool(results)

    def _check(self, extractor: Extractor, batch: Sequence[Episode], results: list[EpisodeFeatures]) -> list[str]:
        job = self._job
        half = job.asked.get("precision") == "bf16" or bool(getattr(extractor, "half_precision", False))
        others = [] if len(batch) > 1 else [one for one in job.episodes[:2] if one.folder != batch[0].folder]
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
        shard = self._shards.read(index)
        if shard is None:
            raise FeatureError(
                f"{self._job.target}: batch {index} ({self._batches[index][0].id} ...) is missing or damaged in "
                f"{self._shards.folder}. Run the same command again; all processes must see the same folder"
            )
        return shard


def _padding(job: Job, summaries: Sequence[_Summary]) -> list[str]:
    """A remark where the episodes of each batch have one number of tokens, but not those of all batches."""
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
    """What the extractor says of its model, once it is sure that the store can hold it."""
    described = extractor.describe()
    try:
        json.loads(canonical_json(dict(described)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the model's description must hold only what JSON can hold: {error}") from error
    return described


def _worlds(job: Job) -> dict[str, str]:
    """By episode, the world it was played in, as far as its folder says; RLBench's own files do not."""
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
