"""Put a shape into the tray of a colour."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import PALETTE, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down

__all__ = ["PutShapeInTray"]

_SHAPES = ("cube", "cylinder", "cross")
_TRAYS = ("red", "green", "blue")
_PAINTS = ("yellow", "magenta", "cyan")
_HALF = 0.02  # half a shape's height, metres
_SIZE, _WALL, _RIM = 0.062, 0.004, 0.011  # half sizes of a tray: edge, wall, height of the rim
_FLOOR = 0.003


class PutShapeInTray(Task):
    """Our own task (RLBench's nearest is place_shape_in_shape_sorter): shape = variation // 3, tray = variation % 3.

    Which shape lies where, which tray stands where, and which colour a shape has, is drawn for every scene.
    """

    name: ClassVar[str] = "put_shape_in_tray"
    variations: ClassVar[int] = len(_SHAPES) * len(_TRAYS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """As RLBench words its shape sorter."""
        shape, tray = _wanted(variation)
        return (
            f"put the {shape} in the {tray} tray",
            f"pick up the {shape} and drop it into the {tray} tray",
            f"place the {shape} into the tray that is {tray}",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """Three shapes in a row, three trays in another."""
        return _Scene(*_wanted(variation), rng)


def _wanted(variation: int) -> tuple[str, str]:
    return _SHAPES[variation // len(_TRAYS)], _TRAYS[variation % len(_TRAYS)]


class _Scene(TaskScene):
    def __init__(self, shape: str, tray: str, rng: np.random.Generator) -> None:
        self._shape, self._tray = shape, tray
        world = ""
        for index, colour in enumerate(rng.permutation(_TRAYS).tolist()):
            place = (0.31 + rng.uniform(-0.03, 0.03), 0.18 * (index - 1) + rng.uniform(-0.015, 0.015), TABLE_TOP)
            turn = rng.uniform(-math.radians(15), math.radians(15))
            world += body(f"tray_{colour}", _tray(PALETTE[colour]), at=place, yaw=turn)
        paints = rng.permutation(_PAINTS).tolist()
        for index, name in enumerate(rng.permutation(_SHAPES).tolist()):
            place = (
                0.09 + rng.uniform(-0.05, 0.05),
                0.16 * (index - 1) + rng.uniform(-0.03, 0.03),
                TABLE_TOP + _HALF,
            )
            turn = rng.uniform(-math.pi / 4, math.pi / 4)
            world += body(name, _solid(name, PALETTE[paints[index]]), at=place, yaw=turn, free=True)
        self.mjcf = Mjcf(worldbody=world)

    def success(self, sim: Simulation) -> bool:
        """The shape lies within the tray's rim, let go."""
        tray = f"tray_{self._tray}"
        x, y, z = sim.rotation(tray).T @ (sim.position(self._shape) - sim.position(tray))
        return max(abs(x), abs(y)) < _SIZE - _WALL and z < 0.045 and sim.holds_nothing()

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Grasp the shape, lift it, over the tray, lower it, let go."""
        period = math.pi if self._shape == "cylinder" else math.pi / 2
        yaw = 0.0 if self._shape == "cylinder" else nearest_turn(sim.yaw(self._shape), period)
        turned = nearest_turn(sim.yaw(f"tray_{self._tray}"), math.pi / 2, yaw)
        inside = raised(sim.position(f"tray_{self._tray}"), 2 * _FLOOR + _HALF + 0.006)
        return [*grasp(sim.position(self._shape), yaw), *set_down(inside, turned, clearance=0.10)]


def _tray(colour: Colour) -> str:
    floor = geom("box", (_SIZE, _SIZE, _FLOOR), colour, at=(0, 0, _FLOOR))
    rims = "".join(
        geom("box", (_WALL, _SIZE, _RIM), colour, at=(sign * (_SIZE - _WALL), 0, _RIM))
        + geom("box", (_SIZE, _WALL, _RIM), colour, at=(0, sign * (_SIZE - _WALL), _RIM))
        for sign in (-1, 1)
    )
    return floor + rims


def _solid(name: str, colour: Colour) -> str:
    if name == "cube":
        return geom("box", (_HALF, _HALF, _HALF), colour, mass=0.08)
    if name == "cylinder":
        return geom("cylinder", (0.022, _HALF), colour, mass=0.08)
    arm = (0.028, 0.010, _HALF)
    return geom("box", arm, colour, mass=0.04) + geom("box", arm, colour, yaw=math.pi / 2, mass=0.04)
