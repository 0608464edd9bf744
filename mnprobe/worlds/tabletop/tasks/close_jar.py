"""Set the lid on the jar of a colour."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import GREY, PALETTE, STEEL, WHITE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.placing import scatter
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down
from mnprobe.worlds.tabletop.tasks._relations import seen_from, upright
from mnprobe.worlds.tabletop.tasks._vessels import EIGHTH, prism, wall

__all__ = ["CloseJar"]

_COLOURS = tuple(PALETTE)
_SHOULDER = 0.07  # metres from the table to where a lid rests
_NECK, _NECK_HEIGHT = 0.018, 0.012  # a jar's neck, metres
_LID, _LID_HEIGHT = 0.030, 0.028  # a lid's radius and height
_HOLLOW = 0.014  # how deep a lid goes over the neck
_GRASP = 0.014


class CloseJar(Task):
    """The variation is the jar's colour; next to it is a jar of another colour. The lid is set on, not screwed."""

    name: ClassVar[str] = "close_jar"
    variations: ClassVar[int] = len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first wording and others of the same meaning."""
        colour = _COLOURS[variation]
        return (
            f"close the {colour} jar",
            f"put the lid on the {colour} jar",
            f"take the lid from the table and cover the {colour} jar with it",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """Two jars and a lid at random places."""
        return _Scene(_COLOURS[variation], rng)


class _Scene(TaskScene):
    def __init__(self, colour: str, rng: np.random.Generator) -> None:
        self._jar = f"jar_{colour}"
        other = str(rng.choice([name for name in _COLOURS if name != colour]))
        places = scatter(rng, 3, apart=0.15, x=(0.05, 0.37), y=(-0.24, 0.24)).tolist()
        turns = rng.uniform(-math.pi, math.pi, 3).tolist()
        colours = rng.permutation([colour, other]).tolist()  # the order of bodies must not reveal the target
        jars = "".join(_jar(colours[index], places[index], turns[index]) for index in range(2))
        self.mjcf = Mjcf(worldbody=jars + _lid(places[2], turns[2]))

    def success(self, sim: Simulation) -> bool:
        """The lid rests level on the shoulder of that jar (1.2 cm to the side, 5 mm in height), let go."""
        if not (sim.holds_nothing() and upright(sim, self._jar) and upright(sim, "lid")):
            return False
        x, y, z = seen_from(sim, self._jar, "lid")
        return bool(math.hypot(x, y) < 0.012 and abs(z - _SHOULDER) < 0.005)

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """The lid from above onto the neck."""
        yaw = nearest_turn(sim.yaw("lid"), EIGHTH)
        over = raised(sim.position(self._jar), _SHOULDER + _GRASP + 0.002)
        return [
            *grasp(raised(sim.position("lid"), _GRASP), yaw, clearance=0.14),
            *set_down(over, yaw, clearance=0.07),
        ]


def _jar(colour: str, place: Sequence[float], yaw: float) -> str:
    half, neck = _SHOULDER / 2, _NECK_HEIGHT / 2
    vessel = (
        geom("cylinder", (0.038, half), PALETTE[colour], at=(0, 0, half), mass=0.35)
        + geom("cylinder", (_NECK, neck), WHITE, at=(0, 0, _SHOULDER + neck), mass=0.02)
        + geom("cylinder", (_NECK - 0.005, 0.0005), STEEL, at=(0, 0, _SHOULDER + _NECK_HEIGHT), style="visual", mass=0)
    )
    return body(f"jar_{colour}", vessel, at=(*place, TABLE_TOP), yaw=yaw, free=True)


def _lid(place: Sequence[float], yaw: float) -> str:
    cover = prism(GREY, radius=_LID, low=_HOLLOW, high=_LID_HEIGHT, mass=0.03)
    skirt = wall(GREY, bottom=_LID, top=_LID, low=0.0, high=_HOLLOW, thickness=0.004, mass=0.02, style="pushed")
    return body("lid", cover + skirt, at=(*place, TABLE_TOP), yaw=yaw, free=True)
