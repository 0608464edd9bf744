"""Which episodes a rollout plays: numbers, situations, seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.data import Dataset, Episode
from mnprobe.worlds.environment import Environment
from mnprobe.worlds.record import read_situation

__all__ = ["UNKNOWN_SEED", "PlannedEpisode", "plan_demos", "plan_episodes"]

UNKNOWN_SEED = -1
"""Seed of a scene that is restored from a demonstration which does not tell its own."""


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """One episode to play.

    Attributes:
        number: the N of `episode<N>`, per task.
        task, variation, seed: the situation.
        repeat: which evaluation it belongs to, from 0.
        policy_seed: what the policy's own draws follow from.
        demo: id of the demonstration whose initial state it starts from, or "".
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
        """What decides the episode, as it is recorded beside it."""
        return {name: value for name, value in vars(self).items() if name != "start"}


def plan_episodes(
    world: Environment,
    *,
    tasks: Sequence[str] = (),
    variations: Sequence[int] = (),
    episodes: int,
    seed: int,
    repeats: int = 1,
) -> list[PlannedEpisode]:
    """New scenes: `episodes` of each task in each evaluation, variations in rotation, every episode with its own seed.

    Episode N has scene seed `seed + N`; the evaluations follow each other, so that no two share a scene.

    Args:
        world: says which tasks and variations there are.
        tasks: all of the world by default.
        variations: all of each task by default.
        episodes: per task and evaluation.
        seed: of the first scene.
        repeats: evaluations.

    Raises:
        ConfigError: an unknown task or variation, or a number that is too small.
    """
    _check_counts(episodes, repeats)
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    planned = []
    for task in _known_tasks(world, tasks):
        chosen = _variations(world, task, variations)
        for number in range(episodes * repeats):
            planned.append(
                PlannedEpisode(
                    number=number,
                    task=task,
                    variation=chosen[number % episodes % len(chosen)],
                    seed=seed + number,
                    repeat=number // episodes,
                    policy_seed=_policy_seed(seed, task, number),
                )
            )
    return planned


def plan_demos(
    world: Environment,
    demos: Dataset,
    *,
    tasks: Sequence[str] = (),
    variations: Sequence[int] = (),
    episodes: int | None = None,
    seed: int,
    repeats: int = 1,
) -> list[PlannedEpisode]:
    """The initial states of recorded episodes: the first `episodes` of each task (all by default) in each evaluation.

    Evaluations differ by what the policy and the world draw themselves (a sampling planner, for one).

    Raises ConfigError for a task that the world or the recording does not have, or when nothing is left.
    """
    _check_counts(1 if episodes is None else episodes, repeats)
    for task in tasks:
        if task not in demos.tasks:
            raise unknown_name("task of the demonstrations:", task, list(demos.tasks))
    planned = []
    for task in _known_tasks(world, tasks or demos.tasks):
        found = [demo for demo in demos if demo.task == task and (not variations or demo.variation in variations)]
        found = found[:episodes]
        for number in range(len(found) * repeats):
            demo = found[number % len(found)]
            note = read_situation(demo.folder) or {}
            planned.append(
                PlannedEpisode(
                    number=number,
                    task=task,
                    variation=demo.variation,
                    seed=int(note.get("seed", UNKNOWN_SEED)),
                    repeat=number // len(found),
                    policy_seed=_policy_seed(seed, task, number),
                    demo=demo.id,
                    start=demo,
                )
            )
    if not planned:
        raise ConfigError(
            f"no demonstration of variations {', '.join(map(str, variations))} in {', '.join(map(str, demos.paths))}"
        )
    return planned


def _check_counts(episodes: int, repeats: int) -> None:
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1 per task, got {episodes}")
    if repeats < 1:
        raise ConfigError(f"repeat must be at least 1, got {repeats}")


def _known_tasks(world: Environment, tasks: Sequence[str]) -> list[str]:
    known = world.tasks
    for task in tasks:
        if task not in known:
            raise unknown_name(f"task of world {world.name!r}:", task, list(known))
    return list(dict.fromkeys(tasks)) or list(known)


def _variations(world: Environment, task: str, wanted: Sequence[int]) -> list[int]:
    count = world.tasks[task].variations
    for variation in wanted:
        if not 0 <= variation < count:
            raise ConfigError(f"task {task} has variations 0 to {count - 1}, got {variation}")
    return list(dict.fromkeys(wanted)) or list(range(count))


def _policy_seed(seed: int, task: str, number: int) -> int:
    name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")
    return int(np.random.SeedSequence([seed, name, number]).generate_state(1)[0])
