"""Tap one of six colored pucks on its top."""

from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import TaskScene
from mnprobe.worlds.tabletop.hand import REACH
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP
from mnprobe.worlds.tabletop.tasks._pucks import HIGH, PUCK_HEIGHT, PuckScene, PuckTask, hand_at

__all__ = ["TapPuck"]

_UP = 0.03  # metres that the hand must be above the puck's top afterwards


class TapPuck(PuckTask):
    """The pad under the puck turns white; it counts once the hand is up again."""

    name: ClassVar[str] = "tap_puck"
    wordings: ClassVar[tuple[str, ...]] = (
        "tap the {} puck",
        "touch the top of the {} puck",
        "tap on the {} one",
        "give the {} puck a tap",
    )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """The suite's scene."""
        return _Scene(variation, rng)


class _Scene(PuckScene):
    def success(self, sim: Simulation) -> bool:
        """The puck was tapped where it stands, and the hand is up again; no other was disturbed."""
        above = sim.hand_position[2] - REACH - (TABLE_TOP + PUCK_HEIGHT)
        return bool(above > _UP) and self.was(tapped=True)

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Above the puck with the fingers closed, down onto it, up."""
        puck = sim.position(self.puck)
        return [hand_at(puck, HIGH), hand_at(puck, PUCK_HEIGHT + REACH), hand_at(puck, HIGH)]
