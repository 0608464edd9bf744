"""Stack two cups into the cup of a colour."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.placing import scatter
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down
from mnprobe.worlds.tabletop.tasks._relations import seen_from, upright
from mnprobe.worlds.tabletop.tasks._vessels import EIGHTH, darker, prism, wall

__all__ = ["StackCups"]

_COLOURS = tuple(PALETTE)
_BOTTOM, _TOP, _HEIGHT = 0.019, 0.031, 0.075  # metres: radii and height
_FLOOR = 0.045  # thickness of a cup's floor, and height of a cup inside another
_GRASP = _HEIGHT - 0.018
# Cups touch cups with walls and floors; the hand touches a solid core, which cups do not.
_CUPS_ONLY = 'contype="2" conaffinity="2"'
_CUPS_AND_REST = 'contype="3" conaffinity="2"'
_REST_ONLY = 'contype="1" conaffinity="0"'


class StackCups(Task):
    """The variation is the colour of the cup that stays; the colours of the others are drawn."""

    name: ClassVar[str] = "stack_cups"
    variations: ClassVar[int] = len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first wording and others of the same meaning, all of which name the colour."""
        colour = _COLOURS[variation]
        return (
            f"stack the other cups on top of the {colour} cup",
            f"put both other cups into the {colour} cup",
            f"make a stack of the cups with the {colour} one at the bottom",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """Three cups of different colours, mouth up, at random places."""
        return _Scene(_COLOURS[variation], rng)


class _Scene(TaskScene):
    def __init__(self, base: str, rng: np.random.Generator) -> None:
        self._base = f"cup_{base}"
        others = rng.permutation([colour for colour in _COLOURS if colour != base])[:2].tolist()
        self._others = tuple(f"cup_{colour}" for colour in others)
        places = scatter(rng, 3, apart=0.14, x=(0.05, 0.37), y=(-0.24, 0.24)).tolist()
        turns = rng.uniform(-math.pi, math.pi, 3).tolist()
        colours = rng.permutation([base, *others]).tolist()  # the order of bodies must not reveal the target
        self.mjcf = Mjcf(
            worldbody="".join(
                _cup(colour, place, turn) for colour, place, turn in zip(colours, places, turns, strict=True)
            )
        )

    def success(self, sim: Simulation) -> bool:
        """One cup in the base cup and one in that, within 1.5 cm of it to the side and 1 cm in height, let go."""
        if not (sim.holds_nothing() and upright(sim, self._base)):
            return False
        away = sorted((seen_from(sim, self._base, cup) for cup in self._others), key=lambda place: float(place[2]))
        return all(
            math.hypot(place[0], place[1]) < 0.015 and abs(place[2] - level * _FLOOR) < 0.01
            for level, place in enumerate(away, start=1)
        )

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Each other cup by its rim from above into the stack."""
        poses = []
        base, turn = sim.position(self._base), sim.yaw(self._base)
        for level, cup in enumerate(self._others, start=1):
            yaw = nearest_turn(sim.yaw(cup), EIGHTH)
            poses += grasp(raised(sim.position(cup), _GRASP), yaw, clearance=0.07 + _FLOOR * level)
            target = raised(base, _GRASP + _FLOOR * level + 0.003)
            poses += set_down(target, nearest_turn(turn, EIGHTH, yaw), clearance=0.08)
        return poses


def _cup(colour: str, place: Sequence[float], yaw: float) -> str:
    paint = PALETTE[colour]
    floor = geom(
        "cylinder", (_BOTTOM - 0.001, _FLOOR / 2), darker(paint), at=(0, 0, _FLOOR / 2), mass=0.03, more=_CUPS_AND_REST
    )
    # Walls slide on walls, so that a cup set down a little aside does not get stuck.
    sides = wall(
        paint,
        bottom=_BOTTOM,
        top=_TOP,
        low=0.001,
        high=_HEIGHT,
        thickness=0.003,
        mass=0.03,
        style="pushed",
        more=_CUPS_ONLY,
    )
    core = prism(paint, radius=_TOP - 0.001, low=_FLOOR, high=_HEIGHT, mass=0.02, style="hidden", more=_REST_ONLY)
    return body(f"cup_{colour}", floor + sides + core, at=(*place, TABLE_TOP), yaw=yaw, free=True)
