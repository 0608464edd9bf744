"""Slide a block over the table onto the target of a colour."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import REACH, key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import PALETTE, STEEL, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom

__all__ = ["SlideBlockToColorTarget"]

_TARGETS: dict[str, Colour] = {
    "green": PALETTE["green"],
    "blue": PALETTE["blue"],
    "pink": (0.98, 0.50, 0.72),
    "yellow": PALETTE["yellow"],
}
_BLOCK = (0.032, 0.032, 0.025)  # half sizes, metres
_TARGET = 0.042
_FINGER = 0.009  # half thickness of the fingers where they push


class SlideBlockToColorTarget(Task):
    """RLBench's (PerAct's) task with its four variations; which target lies on which side of the block is random."""

    name: ClassVar[str] = "slide_block_to_color_target"
    variations: ClassVar[int] = len(_TARGETS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first template and paraphrases."""
        colour = list(_TARGETS)[variation]
        return (
            f"slide the block to {colour} target",
            f"push the block onto the {colour} target",
            f"move the block over the table until it covers the {colour} square",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A block in the middle of four targets."""
        return _Scene(list(_TARGETS)[variation], rng)


class _Scene(TaskScene):
    def __init__(self, wanted: str, rng: np.random.Generator) -> None:
        middle = np.array([rng.uniform(0.17, 0.25), rng.uniform(-0.10, 0.10)])
        yaw = rng.uniform(-math.pi / 4, math.pi / 4)
        self._places: dict[str, NDArray[np.float64]] = {}
        text = ""
        for quarter, colour in enumerate(rng.permutation(list(_TARGETS)).tolist()):
            angle = yaw + quarter * math.pi / 2
            place = middle + rng.uniform(0.13, 0.16) * np.array([math.cos(angle), math.sin(angle)])
            self._places[colour] = place
            square = geom("box", (_TARGET, _TARGET, 0.0005), _TARGETS[colour], at=(0, 0, 0.0005), style="visual")
            text += body(f"target_{colour}", square, at=(*place, TABLE_TOP), yaw=yaw)
        self._wanted = wanted
        block = geom("box", _BLOCK, STEEL, mass=0.08, style="pushed")
        text += body("block", block, at=(*middle, TABLE_TOP + _BLOCK[2]), yaw=yaw, free=True)
        self.mjcf = Mjcf(worldbody=text)

    def success(self, sim: Simulation) -> bool:
        """The block's centre is within 3.5 cm of the target's."""
        return bool(np.linalg.norm(sim.position("block")[:2] - self._places[self._wanted]) < 0.035)

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Behind the block with the fingers closed, down, push, up."""
        start, goal = sim.position("block")[:2], self._places[self._wanted]
        way = (goal - start) / np.linalg.norm(goal - start)
        down = pointing_down(math.atan2(way[1], way[0]))
        behind = (_BLOCK[0] + _FINGER) * way
        low, high = TABLE_TOP + REACH + 0.008, TABLE_TOP + REACH + 0.12
        return [
            key_pose((*(start - behind - 0.03 * way), high), down, gripper_open=False),
            key_pose((*(start - behind - 0.03 * way), low), down, gripper_open=False),
            key_pose((*(goal - behind), low), down, gripper_open=False),
            key_pose((*(goal - behind - 0.02 * way), high), down, gripper_open=False),
        ]
