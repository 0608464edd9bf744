"""Episodes of a rollout: numbers, initial situations, seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.data import Dataset, Episode, open_dataset
from mnprobe.worlds.environment import Environment, default_tasks
from mnprobe.worlds.record import read_situation

__all__ = [
    "DEFAULT_EPISODES",
    "ROLLOUT_SEED",
    "UNKNOWN_SEED",
    "PlannedEpisode",
    "RolloutPlan",
    "open_demos",
    "plan_demos",
    "plan_episodes",
]

DEFAULT_EPISODES = 25
ROLLOUT_SEED = 1_000_000_000
"""Where seeds of played scenes begin by default: far from those of demonstrations."""

UNKNOWN_SEED = -1
"""Seed of a scene that is restored from a demonstration which does not tell its own."""


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """One episode to play.

    Attributes:
        number: the N of `episode<N>`, per task.
        task, variation, seed: the situation.
        repeat: which evaluation it belongs to, from 0.
        policy_seed: seed of the policy.
        demo: id of the demonstration that gives the initial state, or "".
        start: that demonstration.
    """

    number: int
    task: str
    variation: int
    seed: int
    repeat: int
    policy_seed: int
    demo: str = ""
    start: Episode | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Settings of the episode, as recorded with it."""
        return {name: value for name, value in vars(self).items() if name != "start"}


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Plan of the episodes; called with the world, it returns them, as `plan_episodes` or `plan_demos` does.

    `demos` are the episodes whose initial states are played; None = new scenes. `episodes` None = 25, or all `demos`.
    """

    tasks: tuple[str, ...] = ()
    variations: tuple[int, ...] = ()
    episodes: int | None = None
    seed: int = ROLLOUT_SEED
    repeats: int = 1
    demos: Dataset | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"--episodes must be at least 1 per task, got {self.episodes}")
        if self.repeats < 1:
            raise ConfigError(f"--repeat must be at least 1, got {self.repeats}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")

    def __call__(self, world: Environment) -> list[PlannedEpisode]:
        """The episodes; ConfigError for tasks and variations that there are not."""
        return plan_episodes(world, self) if self.demos is None else plan_demos(world, self, self.demos)


def plan_episodes(world: Environment, plan: RolloutPlan) -> list[PlannedEpisode]:
    """New scenes: `episodes` of each task in each evaluation, variations in rotation, every episode with its own seed.

    Episode N has scene seed `seed + N`; the evaluations follow each other, so that no two share a scene.

    Raises ConfigError for a task or variation that the world does not have.
    """
    episodes = DEFAULT_EPISODES if plan.episodes is None else plan.episodes
    planned = []
    for task in _known_tasks(world, plan.tasks):
        chosen = _variations(world, task, plan.variations)
        for number in range(episodes * plan.repeats):
            planned.append(
                PlannedEpisode(
                    number=number,
                    task=task,
                    variation=chosen[number % episodes % len(chosen)],
                    seed=plan.seed + number,
                    repeat=number // episodes,
                    policy_seed=_policy_seed(plan.seed, task, number),
                )
            )
    return planned


def plan_demos(world: Environment, plan: RolloutPlan, demos: Dataset) -> list[PlannedEpisode]:
    """The initial states of recorded episodes: the first `episodes` of each task (all by default) in each evaluation.

    Evaluations differ by what the policy and the world draw themselves (a sampling planner, for one).

    Raises ConfigError for a task that the world or the recording does not have, or when nothing is left.
    """
    for task in plan.tasks:
        if task not in demos.tasks:
            raise unknown_name("task of the demonstrations:", task, list(demos.tasks))
    planned = []
    for task in _known_tasks(world, plan.tasks or demos.tasks):
        of_task = [demo for demo in demos if demo.task == task]
        found = [demo for demo in of_task if not plan.variations or demo.variation in plan.variations]
        found = found[: plan.episodes]
        for number in range(len(found) * plan.repeats):
            demo = found[number % len(found)]
            note = read_situation(demo.folder) or {}
            planned.append(
                PlannedEpisode(
                    number=number,
                    task=task,
                    variation=demo.variation,
                    seed=int(note.get("seed", UNKNOWN_SEED)),
                    repeat=number // len(found),
                    policy_seed=_policy_seed(plan.seed, task, number),
                    demo=demo.id,
                    start=demo,
                )
            )
    if not planned:
        raise ConfigError(
            f"no demonstration of variation {', '.join(map(str, plan.variations))} in "
            f"{', '.join(map(str, demos.paths))}"
        )
    return planned


def open_demos(folder: Path, partition: str | None = None) -> Dataset:
    """Episodes that give the initial states: of `partition`; by default of test, or all without partitions.

    Raises DataError when there are none.
    """
    if partition is not None:
        return open_dataset(folder, partitions=[partition])
    found = open_dataset(folder)
    return open_dataset(folder, partitions=["test"]) if "test" in found.partitions else found


def _known_tasks(world: Environment, tasks: Sequence[str]) -> list[str]:
    known = world.tasks
    for task in tasks:
        if task not in known:
            raise unknown_name(f"task of world {world.name!r}:", task, list(known))
    return list(dict.fromkeys(tasks)) or list(default_tasks(world))


def _variations(world: Environment, task: str, wanted: Sequence[int]) -> list[int]:
    count = world.tasks[task].variations
    for variation in wanted:
        if not 0 <= variation < count:
            raise ConfigError(f"task {task} has variations 0 to {count - 1}, got {variation}")
    return list(dict.fromkeys(wanted)) or list(range(count))


def _policy_seed(seed: int, task: str, number: int) -> int:
    name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")
    return int(np.random.SeedSequence([seed, name, number]).generate_state(1)[0])
