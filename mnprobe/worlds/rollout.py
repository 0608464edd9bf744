"""Rollouts: a policy plays many episodes, recorded with their outcomes."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mnprobe.core.commands import command_of
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import sha256_file
from mnprobe.core.job import JobRecord, differences, exclusive
from mnprobe.core.provenance import canonical_json
from mnprobe.data import RLBenchEpisode, episode_folder, open_dataset
from mnprobe.worlds.environment import MAX_STEPS, Environment, Observation, Situation, make_world
from mnprobe.worlds.film import write_film
from mnprobe.worlds.manifest import remove_leftovers
from mnprobe.worlds.outcomes import Outcome, write_outcomes
from mnprobe.worlds.parallel import hashing, run_episodes
from mnprobe.worlds.play import play
from mnprobe.worlds.policy import Policy, PolicySpec, make_policy
from mnprobe.worlds.record import SITUATION_FILE, read_situation, record_episode
from mnprobe.worlds.rollout_plan import PlannedEpisode
from mnprobe.worlds.trace import Tracer, check_traced, trace_path, write_trace

__all__ = [
    "FILMS_FOLDER",
    "ROLLOUT_FILE",
    "RolloutConfig",
    "WrittenRollout",
    "collect_outcomes",
    "played_fact",
    "read_rollout",
    "rollout",
    "trace_facts",
]

ROLLOUT_FILE = "rollout.json"
FILMS_FOLDER = "films"
_SCHEMA = "mnprobe.rollout/1"
_FACT = "rollout"
_REFRESH = 5.0  # seconds between two writings of outcomes.csv while episodes are played
_EPISODES = "*/all_variations/episodes/episode*"


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Configuration of a rollout: policy, world and episodes.

    Attributes:
        world: its name, and the options it is made with.
        policy: its name, or `package.module:factory`, and the options it is made with.
        checkpoint: weights file of the policy, or None.
        step: training step of these weights.
        max_steps: key poses after which an episode is a failure.
    """

    world: str = "tabletop"
    world_options: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "expert"
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    step: int = 0
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        if not 1 <= self.max_steps <= MAX_STEPS:
            raise ConfigError(f"--max-steps must be from 1 to {MAX_STEPS}, got {self.max_steps}")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise ConfigError(f"--checkpoint {self.checkpoint}: there is no such file")


@dataclass(frozen=True, kw_only=True)
class WrittenRollout:
    """Result of a rollout.

    Attributes:
        folder: the dataset of played episodes.
        outcomes: outcomes of the requested episodes, by task and number.
        played, kept: number of new and of existing episodes.
        films: GIFs of the requested episodes.
    """

    folder: Path
    outcomes: tuple[Outcome, ...]
    played: int
    kept: int
    films: tuple[Path, ...] = ()


def rollout(
    folder: Path,
    config: RolloutConfig,
    plan: Callable[[Environment], Sequence[PlannedEpisode]],
    *,
    films: int = 0,
    workers: int = 1,
    quiet: bool = True,
    trace: Sequence[str] = (),
) -> WrittenRollout:
    """Play episodes and write them to `folder` in PerAct's layout, with `outcomes.csv`.

    An interrupted call resumes when repeated: episodes are written atomically, and finished ones are reused.
    `rollout.json` in the folder holds what all its episodes share: the world as it describes itself, the policy as it
    describes itself, the SHA-256 of its weights, the step limit. Further tasks and episodes of the same can be added.
    The `notes` of the world about an episode are part of its outcome.

    Args:
        folder: made if needed.
        config: policy, world and episodes.
        plan: gives the episodes to play, from the world; see `RolloutPlan`.
        films: of how many episodes of each task, from the first, a GIF is made.
        workers: processes; 0 plays in this one.
        quiet: show no progress.
        trace: layers of the policy whose states are kept for every episode that is played now (`read_trace`); the
            episodes are the same with and without.

    Raises:
        ConfigError: for what cannot be asked of this world or policy; a folder that holds other things, episodes of
            another configuration or from another situation; or another process that is playing into it.
        CheckpointError: weights that are not the policy's.
        DataError: a damaged folder.
    """
    if films < 0:
        raise ConfigError(f"--film must be 0 or more, got {films}")
    if workers < 0:
        raise ConfigError(f"--workers must be 0 (this process) or more, got {workers}")
    world = make_world(config.world, **config.world_options)
    try:
        planned = list(plan(world))
        policy = make_policy(config.policy, _spec(config, world))
        if trace:
            check_traced(policy)
        job = _job(folder, _manifest(config, world, policy, workers))
    finally:
        world.close()
    _check_folder(folder, job)
    with exclusive(folder / ".lock", folder, doing="playing into this folder", remedy="wait for it"):
        job.write()
        remove_leftovers(folder)
        finished = collect_outcomes(folder)
        to_do = [episode for episode in planned if not _is_finished(folder, episode, job.digest)]
        work = partial(_play_one, _Setup.of(folder, config, job.digest, tuple(trace)))
        last = time.monotonic()
        try:
            for episode, outcome in run_episodes(
                to_do,
                work,
                workers=workers,
                what=f"{policy.name} step {config.step} (episodes)",
                quiet=quiet,
                done=len(planned) - len(to_do),
            ):
                finished[episode.task, episode.number] = outcome
                if time.monotonic() - last > _REFRESH:
                    write_outcomes(folder, _in_order(finished))
                    last = time.monotonic()
        finally:
            _forget_players()
            remove_leftovers(folder)
            if finished:
                write_outcomes(folder, _in_order(finished))
        made = _films(folder, [episode for episode in planned if episode.number < films])
    return WrittenRollout(
        folder=folder,
        outcomes=tuple(finished[episode.task, episode.number] for episode in planned),
        played=len(to_do),
        kept=len(planned) - len(to_do),
        films=tuple(made),
    )


def read_rollout(folder: Path) -> dict[str, Any]:
    """Read the settings shared by all episodes of a rollout folder; DataError if `rollout.json` is missing or
    damaged."""
    path = folder / ROLLOUT_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. `{command_of(path, 'rollout')}` writes it") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != _SCHEMA or not isinstance(found.get("world"), dict) or "name" not in found["world"]:
        raise DataError(f"{path}: is no description of rollouts (schema {schema!r}, expected {_SCHEMA!r})")
    return dict(found)


def played_fact(place: Path) -> dict[str, Any]:
    """The entry "rollout" of the `situation.json` of a played episode: its configuration, plan and outcome.

    Raises DataError where there is none.
    """
    found = (read_situation(place) or {}).get(_FACT)
    if not isinstance(found, dict) or not isinstance(found.get("outcome"), dict):
        raise DataError(f"{place / SITUATION_FILE}: no entry {_FACT!r} of a played episode; remove {place}")
    return found


def trace_facts(fact: Mapping[str, Any], computation: Mapping[str, Any]) -> dict[str, Any]:
    """What a trace records of its origin: the entry "rollout" of `situation.json`, and how states were computed."""
    return {_FACT: dict(fact), "computation": dict(computation)}


def collect_outcomes(folder: Path) -> dict[tuple[str, int], Outcome]:
    """Outcomes of all finished episodes in a folder of rollouts, by task and number, from their `situation.json`."""
    found = {}
    for path in folder.glob(_EPISODES):
        number = re.fullmatch(r"episode(\d+)", path.name)
        if number is not None:
            found[path.parents[2].name, int(number[1])] = _outcome(path, played_fact(path))
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """Settings shared by all episodes of one rollout; small, comparable and picklable."""

    folder: str
    world: str
    world_options: str
    policy: str
    policy_options: str
    checkpoint: str | None
    max_steps: int
    digest: str
    trace: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, config: RolloutConfig, digest: str, trace: tuple[str, ...]) -> "_Setup":
        return cls(
            folder=str(folder),
            world=config.world,
            world_options=canonical_json(dict(config.world_options)),
            policy=config.policy,
            policy_options=canonical_json(dict(config.policy_options)),
            checkpoint=None if config.checkpoint is None else str(config.checkpoint),
            max_steps=config.max_steps,
            digest=digest,
            trace=trace,
        )


@lru_cache(maxsize=1)
def _players(setup: _Setup) -> tuple[Environment, Policy]:
    """The world and the policy of this process: made once, for all its episodes."""
    world = make_world(setup.world, **json.loads(setup.world_options))
    spec = PolicySpec(
        world=world,
        checkpoint=None if setup.checkpoint is None else Path(setup.checkpoint),
        options=json.loads(setup.policy_options),
    )
    _open_worlds.append(world)
    return world, make_policy(setup.policy, spec)


_open_worlds: list[Environment] = []


def _forget_players() -> None:
    _players.cache_clear()
    while _open_worlds:
        _open_worlds.pop().close()


def _play_one(setup: _Setup, episode: PlannedEpisode) -> Outcome:
    """Play and record one episode: the work of a worker process."""
    world, policy = _players(setup)
    tracer = Tracer(check_traced(policy), setup.trace) if setup.trace else None
    played = play(
        world, tracer or policy, partial(_begin, world, episode), seed=episode.policy_seed, max_steps=setup.max_steps
    )
    outcome = Outcome(
        id=f"{episode.task}/{episode.variation}/episode{episode.number}",
        success=int(played.success),
        steps=played.steps,
        reason=played.reason,
        task=episode.task,
        variation=episode.variation,
        seed=episode.seed,
        repeat=episode.repeat,
        demo=episode.demo,
        note="; ".join(getattr(world, "notes", ())),
    )
    fact = {"config": setup.digest, "planned": episode.to_dict(), "outcome": outcome.to_dict()}
    if tracer is not None:  # before the episode: one that is there has its trace
        facts = trace_facts(fact, check_traced(policy).computation())
        write_trace(trace_path(Path(setup.folder), episode.task, episode.number), tracer.trace(), facts)
    record_episode(
        Path(setup.folder),
        world,
        Situation(task=episode.task, variation=episode.variation, seed=episode.seed),
        instructions=played.instructions,
        episode=episode.number,
        facts={_FACT: fact},
        key_poses=played.steps,
        random_seed=getattr(world, "random_seed", None),  # for worlds whose scenes come from numpy's global generator
    )
    return outcome


def _begin(world: Environment, episode: PlannedEpisode) -> Observation:
    if episode.start is not None:
        return world.reset_to(episode.start)
    return world.reset(episode.task, episode.variation, episode.seed)


def _spec(config: RolloutConfig, world: Environment) -> PolicySpec:
    return PolicySpec(world=world, checkpoint=config.checkpoint, options=config.policy_options)


def _manifest(config: RolloutConfig, world: Environment, policy: Policy, workers: int) -> dict[str, Any]:
    """What the episodes of a folder share; as it comes back from JSON. Of hashing: what the players have."""
    described = world.describe()
    described = described | {name: value for name, value in hashing(workers).items() if name in described}
    made: dict[str, Any] = json.loads(
        canonical_json(
            {
                "schema": _SCHEMA,
                "world": {"name": world.name, **described},
                "policy": {"name": policy.name, "from": config.policy, **policy.describe()},
                "step": config.step,
                "checkpoint_sha256": "" if config.checkpoint is None else sha256_file(config.checkpoint),
                "max_steps": config.max_steps,
            }
        )
    )
    return made


def _job(folder: Path, manifest: Mapping[str, Any]) -> JobRecord:
    """The rollouts in `folder`, of which more can always be asked for: they are never done."""
    return JobRecord(
        path=folder / ROLLOUT_FILE,
        config=manifest,
        what="this folder of rollouts",
        remedy="write elsewhere with --out or --name, or remove the folder",
        read=lambda path: read_rollout(path.parent),
    )


def _check_folder(folder: Path, job: JobRecord) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; rollouts need a folder")
    if job.check() == "missing" and folder.exists():
        strange = sorted(found.name for found in folder.iterdir() if found.name[0] != ".")
        if strange:
            raise ConfigError(
                f"{folder} holds {', '.join(strange[:3])} and no {ROLLOUT_FILE}, so these are no rollouts; "
                "name another folder with --out"
            )


def _is_finished(folder: Path, episode: PlannedEpisode, digest: str) -> bool:
    place = episode_folder(folder, episode.task, episode.number)
    if not place.exists():
        return False
    fact = played_fact(place)
    changes = differences(fact.get("planned"), episode.to_dict())
    if fact.get("config") != digest:
        changes.append("the configuration was another")
    if changes:
        raise ConfigError(
            f"{place} was played from another situation ({'; '.join(changes)}). Give what it was played with "
            "(--seed, --variation, --episodes, --repeat, --from-demos), or write elsewhere with --out or --name"
        )
    return True


def _outcome(place: Path, fact: Mapping[str, Any]) -> Outcome:
    return Outcome.from_mapping(fact["outcome"], f"{place / SITUATION_FILE}, {_FACT}, outcome")


def _in_order(outcomes: Mapping[tuple[str, int], Outcome]) -> list[Outcome]:
    return [outcome for _, outcome in sorted(outcomes.items())]


def _films(folder: Path, episodes: Sequence[PlannedEpisode]) -> list[Path]:
    if not episodes:
        return []
    wanted = {(episode.task, episode.number) for episode in episodes}
    played = [episode for episode in open_dataset(f"rlbench:{folder}") if isinstance(episode, RLBenchEpisode)]
    recorded = [episode for episode in played if (episode.task, episode.number) in wanted]
    made = []
    for episode in recorded:
        ending = "success" if episode.success == 1 else "failure"
        path = folder / FILMS_FOLDER / f"{episode.task}-episode{episode.number}-{ending}.gif"
        made.append(path if path.is_file() else write_film(episode, path))
    return made
