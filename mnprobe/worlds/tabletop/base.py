"""The task protocol: words, scene, expert and success; one file per task."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import Mjcf

__all__ = ["Task", "TaskScene"]


class TaskScene(ABC):
    """One drawn scene of one variation, and the task's state in the episode (such as pressed buttons).

    Attributes:
        mjcf: what the task adds to the world; all places and colours are in it.
    """

    mjcf: Mjcf

    @abstractmethod
    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Key poses that solve the task from the start of the episode; at most 25."""

    @abstractmethod
    def success(self, sim: Simulation) -> bool:
        """Whether the task is solved in the current state (and the state stored by `observe`)."""

    def observe(self, sim: Simulation) -> None:  # noqa: B027 (most tasks have no state)
        """Called every 0.01 s of simulated time, before `success`: latches, visible feedback."""


class Task(ABC):
    """One family of episodes. Has no state: everything drawn by chance is in the scene.

    Attributes:
        name: module name; RLBench's where RLBench has the task.
        variations: how many; each has its own instruction.
    """

    name: ClassVar[str]
    variations: ClassVar[int]

    @abstractmethod
    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first template first, then paraphrases; lower case, no full stop."""

    @abstractmethod
    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """Draw a scene; all chance comes from `rng`."""
