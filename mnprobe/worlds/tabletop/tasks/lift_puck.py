"""Lift one of six colored pucks."""

from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import TaskScene
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.tasks._pucks import HIGH, LOW, PuckScene, PuckTask, hand_at

__all__ = ["LiftPuck"]

_LIFTED = 0.05  # metres above the table


class LiftPuck(PuckTask):
    """Grasp the puck and hold it at least 5 cm above the table."""

    name: ClassVar[str] = "lift_puck"
    wordings: ClassVar[tuple[str, ...]] = (
        "lift the {} puck",
        "pick up the {} puck",
        "grasp the {} puck and raise it",
        "take the {} one off the table",
    )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """The suite's scene."""
        return _Scene(variation, rng)


class _Scene(PuckScene):
    def success(self, sim: Simulation) -> bool:
        """The puck is held above the table, not pushed away before; no other was disturbed."""
        return self.raised >= _LIFTED and self.was(lifted=True) and sim.holds(self.puck)

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Above the puck with the fingers open, down around it, fingers closed, up."""
        puck = sim.position(self.puck)
        return [
            hand_at(puck, HIGH, gripper_open=True),
            hand_at(puck, LOW, gripper_open=True),
            hand_at(puck, LOW),
            hand_at(puck, HIGH),
        ]
