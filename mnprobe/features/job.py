"""One store, from episodes to a whole file: in fixed batches, resumable at each, shared by a team of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mnprobe.core.errors import FeatureError, MnprobeError
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, differences
from mnprobe.data import Episode
from mnprobe.features.distributed import Team
from mnprobe.features.extractor import Extractor
from mnprobe.features.header import Header
from mnprobe.features.prefetch import prefetch
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.store import open_features, verify
from mnprobe.features.table import Columns
from mnprobe.features.writer import FeatureWriter
from mnprobe.worlds.record import read_situation

__all__ = ["Job", "run_job"]

Status = Literal["written", "kept"]
_KEPT, _TODO, _FAILED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """A store to be made.

    `asked` is all that decides what the values mean: it is recorded, and a finished file is kept only if its own is
    equal. `ran` is how they are computed (device, batch size): recorded, and shards are taken up only if it is equal
    too, so that a store is never mixed. `build` makes the extractor; it is called only when there is work.
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

    @property
    def config_hash(self) -> str:
        """Short hash of `asked`."""
        return config_hash(self.asked)

    def batches(self) -> list[Sequence[Episode]]:
        """The episodes in fixed batches; they do not depend on the number of processes."""
        size = self.batch_size
        return [self.episodes[start : start + size] for start in range(0, len(self.episodes), size)]


def run_job(job: Job, team: Team, *, quiet: bool = False) -> Status:
    """Make the store, or keep it if it is there already, whole and of the same configuration.

    Raises FeatureError when a file of another configuration, or a damaged one, lies at the target and `overwrite` is
    not set; and whatever reading the data or the model raises. What was finished until then is kept for the next time.
    """
    shards = ShardFolder(job.target, config_hash([job.config_hash, dict(job.ran)]))
    with ExitStack() as stack:
        if _decide(job, team, shards, stack) == _KEPT:
            return "kept"
        _compute(job, team, shards, quiet)
        team.barrier()
        if team.leads:
            _merge(job, shards)
            shards.remove()
        team.barrier()
    return "written"


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
    if job.target.is_dir():
        raise FeatureError(f"{job.target}: is a folder; a feature store is one file. Name another with --out")
    try:
        verify(job.target)
    except FeatureError as error:
        raise FeatureError(f"{error}\nTo replace the file, add --overwrite") from error
    with open_features(job.target) as file:
        recorded = file.attrs["provenance"]
    if recorded.get("config_hash") == job.config_hash:
        return True
    changes = differences(recorded.get("asked", {}), job.asked)
    raise FeatureError(
        f"{job.target}: was made with another configuration ({'; '.join(changes) or 'unknown'}). "
        "Add --overwrite to replace it, or write elsewhere with --name, --step, --source or --out"
    )


def _compute(job: Job, team: Team, shards: ShardFolder, quiet: bool) -> None:
    batches = job.batches()
    share = range(team.rank, len(batches), team.size)
    left = [index for index in share if not shards.has(index)]
    if not left:
        return
    extractor = job.build()
    described = extractor.describe()
    what = f"{job.header.model} step {job.header.step}" + (f", process 0 of {team.size}" if team.size > 1 else "")
    total = sum(len(batches[index]) for index in share)
    done = total - sum(len(batches[index]) for index in left)

    def read(index: int) -> Any:
        return extractor.prepare(batches[index])

    with progress(f"{what} (episodes)", total, done=done, quiet=quiet or not team.leads) as advance:
        for index, ready in prefetch(left, read, threads=job.threads, ahead=job.threads):
            results = extractor.compute(ready)
            names = [episode.id for episode in batches[index]]
            shards.write(index, Shard.of(results, extractor.layers, job.dtype, described, names=names))
            advance(len(batches[index]))


def _merge(job: Job, shards: ShardFolder) -> None:
    predictions: list[str | None] = []
    counts: dict[str, int] = {}
    with FeatureWriter(job.target, job.header, job.columns, dtype=job.dtype) as writer:
        for shard in _all_shards(job, shards):
            for layer in shard.layers:
                arrays = {name: shard.arrays[f"{layer}/{name}"] for name in ("values", "lengths", "keyframe")}
                writer.append(layer, arrays["values"], lengths=arrays["lengths"], keyframe=arrays["keyframe"])
            predictions += shard.predictions
            counts = {name: counts.get(name, 0) + shard.counts.get(name, 0) for name in {*counts, *shard.counts}}
        if all(text is not None for text in predictions):
            writer.add_column("prediction", predictions)
        provenance = {
            "asked": dict(job.asked),
            "ran": dict(job.ran),
            "config_hash": job.config_hash,
            "counts": dict(sorted(counts.items())),
            "worlds": _worlds(job.episodes),
        }
        writer.header = replace(job.header, model_config=shard.model_config, provenance=provenance)


def _worlds(episodes: Sequence[Episode]) -> list[str]:
    """Names of the worlds that the episodes were played in, as far as they say; RLBench's own files do not."""
    situations = [read_situation(episode.folder) for episode in episodes]
    return sorted({str(situation["world"]) for situation in situations if situation is not None})


def _all_shards(job: Job, shards: ShardFolder) -> Iterator[Shard]:
    for index, batch in enumerate(job.batches()):
        shard = shards.read(index)
        if shard is None:
            raise FeatureError(
                f"{job.target}: batch {index} ({batch[0].id} ...) is missing or damaged in {shards.folder}. "
                "Run the same command again; all processes must see the same folder"
            )
        yield shard
