"""Place one to three cups on the spokes of a cup holder."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import FURNITURE, PALETTE, STEEL
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.placing import scatter
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down
from mnprobe.worlds.tabletop.tasks._relations import seen_from, upright
from mnprobe.worlds.tabletop.tasks._vessels import prism, wall

__all__ = ["PlaceCups"]

_CUPS = 3
_RADIUS, _HEIGHT = 0.031, 0.08  # metres, of a cup
_SOLID = 0.036  # thickness of a cup's floor, which is what the hand grasps
_GRASP = _HEIGHT - 0.018
_RING = 0.065  # metres from the holder's middle to a spoke
_PLATE = 0.012  # thickness of the holder's foot
_SPOKE = 0.040  # length of a spoke


class PlaceCups(Task):
    """The variation is the number of cups; there are always three cups, mouth down, and three upright spokes."""

    name: ClassVar[str] = "place_cups"
    variations: ClassVar[int] = _CUPS

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first wording and others of the same meaning."""
        cups, each = ("1 cup", "it") if variation == 0 else (f"{variation + 1} cups", "each")
        return (
            f"place {cups} on the cup holder",
            f"pick up {cups} and put {each} over a spoke of the holder",
            f"move {cups} from the table to the cup holder",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A holder and three cups of different colours at random places."""
        return _Scene(variation + 1, rng)


class _Scene(TaskScene):
    def __init__(self, wanted: int, rng: np.random.Generator) -> None:
        self._wanted = wanted
        side = 1 if rng.random() < 0.5 else -1
        holder = np.array([rng.uniform(0.12, 0.30), side * rng.uniform(0.13, 0.17)])
        turn = float(rng.uniform(-math.pi, math.pi))
        across = sorted((-side * 0.02, -side * 0.26))
        places = scatter(rng, _CUPS, apart=0.135, x=(0.02, 0.40), y=(across[0], across[1]))
        turns = rng.uniform(-math.pi, math.pi, _CUPS)
        colours = rng.permutation(list(PALETTE))[:_CUPS].tolist()
        self._spokes = [
            (_RING * math.cos(around), _RING * math.sin(around), around)
            for around in (spoke * 2 * math.pi / _CUPS for spoke in range(_CUPS))
        ]
        self.mjcf = Mjcf(
            worldbody=self._holder(holder, turn)
            + "".join(_cup(i, colours[i], places[i].tolist(), float(turns[i])) for i in range(_CUPS))
        )

    def _holder(self, centre: NDArray[np.float64], turn: float) -> str:
        foot = geom("cylinder", (_RING + 0.035, _PLATE / 2), FURNITURE, at=(0, 0, _PLATE / 2))
        spokes = "".join(
            geom("cylinder", (0.010, _SPOKE / 2), STEEL, at=(x, y, _PLATE + _SPOKE / 2)) for x, y, _ in self._spokes
        )
        return body("holder", foot + spokes, at=(float(centre[0]), float(centre[1]), TABLE_TOP), yaw=turn)

    def success(self, sim: Simulation) -> bool:
        """At least the wanted number of spokes have a cup over them, standing on the holder's foot; nothing is held."""
        if not sim.holds_nothing():
            return False
        cups = [seen_from(sim, "holder", f"cup_{i}") for i in range(_CUPS) if upright(sim, f"cup_{i}")]
        full = sum(
            any(math.hypot(cup[0] - x, cup[1] - y) < 0.022 and abs(cup[2] - _PLATE) < 0.006 for cup in cups)
            for x, y, _ in self._spokes
        )
        return full >= self._wanted

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """One cup after another, with its handle outwards."""
        poses = []
        holder, rotation, turn = sim.position("holder"), sim.rotation("holder"), sim.yaw("holder")
        for index in range(self._wanted):
            x, y, around = self._spokes[index]
            # The grasp is the same after half a turn; the cup, which has a handle, is not.
            cup = sim.yaw(f"cup_{index}")
            yaw = nearest_turn(cup, math.pi)
            turned = yaw + nearest_turn(turn + around - cup, 2 * math.pi)
            poses += grasp(raised(sim.position(f"cup_{index}"), _GRASP), yaw)
            poses += set_down(holder + rotation @ np.array([x, y, _PLATE + _GRASP + 0.002]), turned)
        return poses


def _cup(index: int, colour: str, place: Sequence[float], yaw: float) -> str:
    paint = PALETTE[colour]
    top = prism(paint, radius=_RADIUS, low=_HEIGHT - _SOLID, high=_HEIGHT, mass=0.04)
    red, green, blue = paint
    pale = (0.5 + red / 2, 0.5 + green / 2, 0.5 + blue / 2)  # the foot, so that a cup is seen to stand on its mouth
    foot = geom("cylinder", (_RADIUS - 0.007, 0.002), pale, at=(0, 0, _HEIGHT + 0.002), style="visual", mass=0)
    sides = wall(paint, bottom=_RADIUS, top=_RADIUS, low=0.0, high=_HEIGHT - _SOLID, thickness=0.004, mass=0.03)
    handle = "".join(
        geom("box", (0.010, 0.004, 0.004), paint, at=(_RADIUS + 0.009, 0, z), mass=0.002) for z in (0.018, 0.050)
    ) + geom("box", (0.004, 0.004, 0.020), paint, at=(_RADIUS + 0.018, 0, 0.034), mass=0.002)
    return body(f"cup_{index}", top + foot + sides + handle, at=(*place, TABLE_TOP), yaw=yaw, free=True)
