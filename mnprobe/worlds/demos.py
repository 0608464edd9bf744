"""Scripted demonstrations of a world, written as a dataset; resumable."""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.provenance import canonical_json, versions
from mnprobe.core.registry import unknown_name
from mnprobe.data import episode_folder
from mnprobe.data.rlbench import LOW_DIM_FILE
from mnprobe.worlds.environment import Environment, Situation, TaskInfo, default_tasks, make_world
from mnprobe.worlds.manifest import Manifest, alone_in_folder, open_folder, remove_leftovers
from mnprobe.worlds.outcomes import Outcome, write_outcomes
from mnprobe.worlds.parallel import hashing, run_episodes
from mnprobe.worlds.record import SITUATION_FILE, played_keyframes, read_situation, record_episode

__all__ = ["ATTEMPTS", "SEEDS_APART", "DemosConfig", "WrittenDemos", "write_demos"]

PARTITIONS = ("train", "val", "test")
SEEDS_APART = 1_000_000
"""Between the first seeds of train, val and test; a seed whose demonstration fails is retried 3 000 000 later."""

ATTEMPTS = 10
"""Seeds that are tried for one demonstration."""

_LAST_SEED = 999_999_999  # the scenes that policies are judged on begin after it, unless asked otherwise


@dataclass(frozen=True, kw_only=True)
class DemosConfig:
    """Which demonstrations.

    Attributes:
        world: name of the world.
        options: of the world, such as `renderer` and `image_size`.
        tasks: names; empty for all that the world has outside its suites.
        variations: of each of these tasks; empty for all.
        max_variations: only the first so many variations of each task; None for all.
        train, val, test: demonstrations of each variation (each instruction, that is) in each partition.
        seed: first seed of the train partition.
        video_frames: number of instants at which the front camera's colour image is stored.
    """

    world: str = "tabletop"
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    variations: tuple[int, ...] = ()
    max_variations: int | None = None
    train: int = 0
    val: int = 0
    test: int = 0
    seed: int = 0
    video_frames: int = 16

    def __post_init__(self) -> None:
        for partition, number in self.numbers.items():
            if number < 0:
                raise ConfigError(f"--{partition} must be 0 or more demonstrations of each variation, got {number}")
        if not any(self.numbers.values()):
            raise ConfigError("--train, --val and --test are all 0: there is no demonstration to make")
        if self.max_variations is not None and self.max_variations < 1:
            raise ConfigError(f"--max-variations must be at least 1, got {self.max_variations}")
        if self.variations and self.max_variations is not None:
            raise ConfigError("--variation and --max-variations both choose variations; give one of them")
        if self.video_frames < 0:
            raise ConfigError(f"--video-frames must be 0 or more, got {self.video_frames}")
        last = _LAST_SEED - len(PARTITIONS) * SEEDS_APART * ATTEMPTS
        if not 0 <= self.seed <= last:
            raise ConfigError(f"--seed must be from 0 to {last}, got {self.seed}")

    @property
    def numbers(self) -> dict[str, int]:
        """Demonstrations of each variation by partition."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True, kw_only=True)
class WrittenDemos:
    """What there is now.

    Attributes:
        folder: the dataset.
        world, renderer: origin of the demonstrations.
        partitions: episodes by partition, of all tasks in the folder.
        made, kept: episodes generated now, and existing episodes (of earlier or concurrent commands).
        failed_seeds: seeds of the folder's tasks whose demonstration failed; another seed took their place.
        cpu_seconds: processor time of the episodes made now.
    """

    folder: Path
    world: str
    renderer: str
    partitions: dict[str, int]
    made: int
    kept: int
    failed_seeds: dict[str, list[int]]
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """By field, for JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One demonstration: everything that a worker process needs to know."""

    folder: str
    config: str
    task: str
    variation: int
    partition: str
    number: int
    seed: int

    def __repr__(self) -> str:
        return f"{self.task}, variation {self.variation}, seed {self.seed} ({self.partition} episode{self.number})"

    @property
    def place(self) -> Path:
        return episode_folder(Path(self.folder), self.task, self.number, self.partition)

    @property
    def id(self) -> str:
        return f"{self.task}/{self.variation}/{self.partition}-episode{self.number}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed, and those that are tried when it fails."""
        return tuple(self.seed + attempt * len(PARTITIONS) * SEEDS_APART for attempt in range(ATTEMPTS))


def write_demos(
    folder: Path,
    config: DemosConfig,
    *,
    workers: int = 1,
    quiet: bool = False,
    note: Callable[[str], None] | None = None,
) -> WrittenDemos:
    """Play the world's scripted expert and write its demonstrations to `folder` in PerAct's layout.

    Episodes are numbered within task and partition, the variations taking turns. The demonstration j of variation v
    (of V that the task has) starts from the seed `seed + j V + v`, in val 1 000 000 and in test 2 000 000 later: the
    partitions share no seed. Asking for more demonstrations adds to those that are there. When the expert fails on a
    seed, it is retried 3 000 000 later, and the manifest tells.

    An interrupted call resumes when repeated: finished episodes are reused, and the folder ends as if nothing had
    happened, byte for byte on the same platform.

    Args:
        folder: made if needed; demonstrations of another configuration in it are refused.
        config: which demonstrations.
        workers: processes; 0 plays in this one.
        quiet: show no progress.
        note: called with messages for the user.

    Raises:
        ConfigError: for an unknown world, option, task or variation, or a folder that holds other things.
        DataError: when the folder is damaged, or no seed of a variation can be demonstrated.
    """
    world = make_world(config.world, **config.options)
    try:
        described = world.describe()
        described = described | {name: value for name, value in hashing(workers).items() if name in described}
        tasks = _tasks(world, config)
        chosen = config.tasks or default_tasks(world)
    finally:
        world.close()
    options = dict(config.options)
    if "renderer" in options and "renderer" in described:
        options["renderer"] = described["renderer"]  # resolved "auto": the same in every process
    asked = Manifest(_shared(config, described), _asked(tasks, chosen, config))
    open_folder(folder, asked)  # refuses before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with alone_in_folder(folder):
        manifest = open_folder(folder, asked)
        jobs = _jobs(folder, manifest, tasks)
        to_do = [job for job in jobs if not _finished(job)]
        if to_do or not manifest.complete:
            manifest.complete = False
            manifest.write(folder)
    made, cpu = 0, 0.0
    work = functools.partial(_demonstrate, config.world, canonical_json(options), config.video_frames)
    try:
        for job, effort in run_episodes(
            to_do, work, workers=workers, what="demonstrations", quiet=quiet, done=len(jobs) - len(to_do)
        ):
            if effort is None:
                continue
            made += 1
            cpu += effort.seconds
            if effort.failed and note:
                note(f"{job}: the expert failed ({'; '.join(effort.failed)}); another seed took its place")
    finally:
        remove_leftovers(folder)
    with alone_in_folder(folder):  # a concurrent command may have extended the manifest
        manifest = open_folder(folder, asked)
        wanted = _jobs(folder, manifest, tasks)
        mine = set(jobs)
        there = [job for job in wanted if job in mine or _finished(job)]
        outcomes, failed_seeds = _outcomes(there)
        write_outcomes(folder, outcomes)
        manifest.failed_seeds = failed_seeds
        manifest.complete = len(there) == len(wanted)
        manifest.write(folder)
    return WrittenDemos(
        folder=folder,
        world=config.world,
        renderer=str(described.get("renderer", "")),
        partitions={name: sum(job.partition == name for job in jobs) for name in PARTITIONS},
        made=made,
        kept=len(jobs) - made,
        failed_seeds=failed_seeds,
        cpu_seconds=cpu,
    )


def _tasks(world: Environment, config: DemosConfig) -> dict[str, TaskInfo]:
    """All tasks of the world; ConfigError for an unknown task or variation in the configuration."""
    known = dict(world.tasks)
    for name in config.tasks:
        if name not in known:
            raise unknown_name("task", name, list(known))
    for name in config.tasks or default_tasks(world):
        for variation in config.variations:
            if not 0 <= variation < known[name].variations:
                raise ConfigError(
                    f"unknown variation {variation} of task {name!r}: it has 0 to {known[name].variations - 1}"
                )
        if max(config.numbers.values()) * known[name].variations > SEEDS_APART:
            most = SEEDS_APART // known[name].variations
            raise ConfigError(
                f"{max(config.numbers.values())} demonstrations of each variation of {name} would share seeds with "
                f"another partition; at most {most} can be made"
            )
    return known


def _shared(config: DemosConfig, described: Mapping[str, Any]) -> dict[str, Any]:
    """What all demonstrations of a folder have in common."""
    return {
        "world": {"name": config.world} | dict(described),
        "versions": versions("numpy", "pillow"),
        "seeds": {name: config.seed + index * SEEDS_APART for index, name in enumerate(PARTITIONS)}
        | {"retry": len(PARTITIONS) * SEEDS_APART},
        "images": {"video_frames": config.video_frames},
    }


def _asked(tasks: Mapping[str, TaskInfo], chosen: Sequence[str], config: DemosConfig) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "variations": sorted(set(config.variations))
            or list(range(tasks[name].variations))[: config.max_variations],
            "per_variation": config.numbers,
        }
        for name in chosen
    }


def _jobs(folder: Path, manifest: Manifest, tasks: Mapping[str, TaskInfo]) -> list[_Job]:
    """Everything that the folder shall hold, in order."""
    jobs = []
    for task, entry in sorted(manifest.tasks.items()):
        if task not in tasks:
            raise DataError(f"{folder}: its manifest names the task {task!r}, which the world does not have")
        chosen = entry["variations"]
        for partition in PARTITIONS:
            first = manifest.config["seeds"][partition]
            for number in range(entry["per_variation"].get(partition, 0) * len(chosen)):
                turn, place = divmod(number, len(chosen))
                seed = first + turn * tasks[task].variations + chosen[place]
                jobs.append(
                    _Job(
                        folder=str(folder),
                        config=manifest.hash,
                        task=task,
                        variation=chosen[place],
                        partition=partition,
                        number=number,
                        seed=seed,
                    )
                )
    return jobs


def _finished(job: _Job) -> bool:
    """Whether the demonstration is there; DataError when something else is in its place."""
    if not job.place.exists():
        return False
    held = read_situation(job.place)
    if held is None or not (job.place / LOW_DIM_FILE).is_file():
        what = SITUATION_FILE if held is None else LOW_DIM_FILE
        raise DataError(f"{job.place} has no {what}, so it is not a demonstration of this folder; move it away")
    fits = held["seed"] in job.seeds and held.get("config") == job.config
    if not fits or (held["task"], held["variation"]) != (job.task, job.variation):
        raise DataError(
            f"{job.place} holds {held['task']}, variation {held['variation']}, seed {held['seed']} of configuration "
            f"{held.get('config')}; the manifest wants {job!r} of configuration {job.config}. Move it away"
        )
    return True


@functools.lru_cache(maxsize=1)
def _world(name: str, options: str) -> Environment:
    """The world of this process, made once."""
    return make_world(name, **json.loads(options))


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """Cost of one demonstration: processor seconds, and failures before it."""

    seconds: float
    failed: list[str]


def _demonstrate(name: str, options: str, video_frames: int, job: _Job) -> _Effort | None:
    """Make one demonstration; None where another command, at work in the same folder, was quicker."""
    if _finished(job):
        return None
    started = time.process_time()
    world = _world(name, options)
    failed: dict[int, str] = {}
    for seed in job.seeds:
        situation = Situation(task=job.task, variation=job.variation, seed=seed)
        observation = world.reset(job.task, job.variation, seed)
        steps, wrong = _play_expert(world)
        if wrong:
            failed[seed] = wrong
            continue
        try:
            record_episode(
                Path(job.folder),
                world,
                situation,
                instructions=observation.instructions,
                episode=job.number,
                partition=job.partition,
                video_frames=video_frames,
                facts={"config": job.config, "steps": steps, "failed_seeds": list(failed)},
            )
        except DataError:
            if not _finished(job):
                raise
            return None
        return _Effort(seconds=time.process_time() - started, failed=_told(failed))
    raise DataError(
        f"{job}: the expert failed on all {ATTEMPTS} seeds that were tried ({'; '.join(_told(failed))}), so this "
        "variation cannot be demonstrated"
    )


def _play_expert(world: Environment) -> tuple[int, str]:
    """Number of executed key poses, and the error or ""."""
    poses = list(world.expert())
    reason = "it did nothing" if not poses else "its key poses do not solve the task"
    for step, pose in enumerate(poses, 1):
        result = world.step(pose)
        if result.done:
            if not result.success:
                return step, result.reason
            found = len(played_keyframes(world.frames()))
            return step, "" if found == step else f"{step} key poses executed, {found} found by the keyframe rule"
    return len(poses), reason


def _told(failed: Mapping[int, str]) -> list[str]:
    """Seeds by error."""
    by_reason: dict[str, list[int]] = {}
    for seed, reason in failed.items():
        by_reason.setdefault(reason, []).append(seed)
    return [
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {reason}"
        for reason, seeds in by_reason.items()
    ]


def _outcomes(jobs: list[_Job]) -> tuple[list[Outcome], dict[str, list[int]]]:
    """Outcomes of all demonstrations, and the seeds that failed by task, as their folders tell."""
    outcomes = []
    failed: dict[str, list[int]] = {}
    for job in jobs:
        held = read_situation(job.place)
        if held is None:
            raise DataError(f"{job.place} disappeared while demonstrations were made; run the command again")
        outcomes.append(
            Outcome(
                id=job.id,
                success=1,
                steps=int(held["steps"]),
                reason="success",
                task=job.task,
                variation=job.variation,
                seed=held["seed"],
            )
        )
        if held["failed_seeds"]:
            failed.setdefault(job.task, []).extend(held["failed_seeds"])
    return outcomes, failed
