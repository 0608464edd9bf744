"""The environment protocol: reset, observe, step by one key pose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import Registry, unknown_name
from mnprobe.data import Episode, FrameData

__all__ = [
    "MAX_STEPS",
    "WORLDS",
    "Environment",
    "KeyPose",
    "Observation",
    "Reason",
    "Situation",
    "StepResult",
    "TaskInfo",
    "default_tasks",
    "make_world",
    "suite_tasks",
]

MAX_STEPS = 25
"""Key poses an episode may take; reaching it without success is a failure (as PerAct, RVT and ARP evaluate)."""

Reason = Literal["", "success", "step limit", "unreachable pose", "collision", "invalid action"]
"""How an episode ended; empty while it goes on. All but "success" are failures."""

WORLDS = Registry("world", "mnprobe.worlds")
WORLDS.add("tabletop", "mnprobe.worlds.tabletop:Tabletop")
WORLDS.add("rlbench", "mnprobe.worlds.rlbench:RLBench")


@dataclass(frozen=True, kw_only=True)
class KeyPose:
    """Where the hand goes next: one action of nine numbers, executed as a whole.

    Attributes:
        position: (3,) of the gripper's tip, metres, world frame.
        quaternion: (4,) x y z w, length 1 within 1e-3; either sign.
        gripper_open: whether the fingers are open at the end.
        ignore_collisions: whether the way there may touch things.
    """

    position: NDArray[np.float64]
    quaternion: NDArray[np.float64]
    gripper_open: bool
    ignore_collisions: bool = True

    @classmethod
    def from_action(cls, action: ArrayLike) -> "KeyPose":
        """From nine numbers: x y z, quaternion x y z w, gripper (> 0.5 = open), ignore collisions (> 0.5).

        Raises ConfigError for another count, numbers that are not finite, or a quaternion whose length is not 1
        within 1e-3; the quaternion is then scaled to length 1 exactly.

        >>> KeyPose.from_action([0.2, 0, 1, 0, 1, 0, 0, 1, 0]).gripper_open
        True
        """
        numbers = np.asarray(action, dtype=np.float64)
        if numbers.shape != (9,):
            raise ConfigError(
                f"an action has 9 numbers (x y z, quaternion xyzw, gripper, collisions), got {numbers.shape}"
            )
        if not np.isfinite(numbers).all():
            raise ConfigError(f"an action must be finite, got {numbers.tolist()}")
        length = float(np.linalg.norm(numbers[3:7]))
        if abs(length - 1) > 1e-3:
            raise ConfigError(
                f"the quaternion of an action must have length 1, got {numbers[3:7].tolist()} ({length:.4f})"
            )
        return cls(
            position=numbers[:3].copy(),
            quaternion=numbers[3:7] / length,
            gripper_open=bool(numbers[7] > 0.5),
            ignore_collisions=bool(numbers[8] > 0.5),
        )

    def to_action(self) -> NDArray[np.float64]:
        """The nine numbers."""
        flags = [float(self.gripper_open), float(self.ignore_collisions)]
        return np.concatenate([self.position, self.quaternion, flags])


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """One task of a world.

    Attributes:
        name: module name, as RLBench's where it has the task.
        variations: how many.
        suite: name of the suite that it is a part of: it is then played only where it or its suite is named; "" for the
            tasks that are meant where none is named.
    """

    name: str
    variations: int
    suite: str = ""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What an episode starts from: equal situations give the same scene, as far as the world says that they do.

    The embedded world's are the same bit for bit on one platform; RLBench's follow from its planner too.
    """

    task: str
    variation: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Current observation and instruction.

    Attributes:
        frame: cameras with matrices, RGB, depth in metres, gripper pose, finger positions, ...
        instructions: paraphrases, the usual one first.
        step: key poses executed so far.
    """

    frame: FrameData
    instructions: tuple[str, ...]
    step: int

    @property
    def instruction(self) -> str:
        """The usual phrasing."""
        return self.instructions[0]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one key pose led to.

    Attributes:
        observation: after the motion (the one before it where the motion could not be made).
        done: whether the episode is over.
        reason: why, or "".
        reached: whether the hand came within 5 mm and 3 degrees of the pose.
    """

    observation: Observation
    done: bool
    reason: Reason
    reached: bool

    @property
    def success(self) -> bool:
        """Whether the task is solved."""
        return self.reason == "success"


class Environment(Protocol):
    """A world. Classes are registered in WORLDS, or by an entry point of the group `mnprobe.worlds`.

    An instance plays one episode at a time and is used by one process. Failures of a motion, a planner or an action are
    values of `Reason`, never exceptions; ConfigError is for what cannot be asked (an unknown task, a variation or seed
    out of range).

    Two further attributes are recorded by rollouts where a world has them: `random_seed`, the state of numpy's
    global legacy generator that the present scene was made from, and `notes`, sentences that must be said of the
    present episode (that its scene is not the recorded one).
    """

    name: str

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """The tasks it has, by name."""

    def describe(self) -> dict[str, Any]:
        """What decides the episodes: versions, renderer, image size, cameras; storable as JSON."""

    def reset(self, task: str, variation: int, seed: int) -> Observation:
        """Start an episode; same arguments, same scene, but for what the world's page and its `notes` say."""

    def reset_to(self, episode: Episode) -> Observation:
        """Start from the initial state of a recorded episode; ConfigError where it does not say which that was."""

    def step(self, pose: KeyPose) -> StepResult:
        """Execute one key pose; at most MAX_STEPS. ConfigError after the episode's end."""

    def frames(self) -> Sequence[FrameData]:
        """All frames of the episode so far, 0.05 s apart, the way and the key poses; images where it renders them.

        The keyframe rule of `mnprobe.data` finds the executed key poses in them.
        """

    def expert(self) -> Sequence[KeyPose]:
        """Key poses that solve the present episode; ConfigError where the world has no scripted expert."""

    def close(self) -> None:
        """Release the resources of the world."""


def make_world(name: str, **options: Any) -> Environment:
    """Make the world called `name`: "tabletop" (embedded) or "rlbench" (live), or a plugin's.

    Raises ConfigError for an unknown name or option, or where what the world needs is not installed.
    """
    try:
        world: Environment = WORLDS.load(name)(**options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"world {name!r}: {error}") from error
    return world


def default_tasks(world: Environment) -> tuple[str, ...]:
    """Names of the tasks that are meant where none is named: all that are in no suite."""
    return tuple(name for name, info in world.tasks.items() if not info.suite)


def suite_tasks(suite: str, world: str = "tabletop", **options: Any) -> tuple[str, ...]:
    """Names of a suite's tasks, in the order of the world `world`.

    Raises ConfigError for a suite that the world does not have, and what `make_world` raises.

    >>> suite_tasks("goal")[-1]
    'tap_puck'
    """
    made = make_world(world, **options)
    try:
        suites = {name: info.suite for name, info in made.tasks.items() if info.suite}
    finally:
        made.close()
    if suite not in suites.values():
        raise unknown_name(f"suite of world {world!r}:", suite, sorted(set(suites.values())))
    return tuple(name for name, found in suites.items() if found == suite)
