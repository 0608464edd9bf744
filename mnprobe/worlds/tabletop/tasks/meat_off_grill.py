"""Take the chicken or the steak off the grill."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import STEEL, WHITE, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down

__all__ = ["MeatOffGrill"]

_PIECES = ("chicken", "steak")
_GRILL = 0.06  # metres from the table to the top of the grate
_LIFT = {"chicken": 0.002, "steak": 0.003}  # metres above a piece's middle at which the fingertips hold it
_HALF_HEIGHT = {"chicken": 0.017, "steak": 0.010}
_PLATE = 0.003  # half the plate's height, metres
_RADIUS = 0.075  # of the plate, metres
_CHAR: Colour = (0.13, 0.13, 0.14)
_ROAST: Colour = (0.85, 0.58, 0.25)
_BEEF: Colour = (0.52, 0.16, 0.12)
_FAT: Colour = (0.95, 0.86, 0.78)


class MeatOffGrill(Task):
    """RLBench's task with its two variations; where the meat goes is marked by a plate."""

    name: ClassVar[str] = "meat_off_grill"
    variations: ClassVar[int] = 2

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording first."""
        piece = _PIECES[variation]
        return (
            f"take the {piece} off the grill",
            f"pick up the {piece} and place it next to the grill",
            f"remove the {piece} from the grill and set it down to the side",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A grill with both pieces, either way round, and a plate to its left or right."""
        return _Scene(_PIECES[variation], rng)


class _Scene(TaskScene):
    def __init__(self, wanted: str, rng: np.random.Generator) -> None:
        self._wanted = wanted
        side = 1 if rng.random() < 0.5 else -1
        grill = rng.uniform((0.16, 0.06), (0.26, 0.11)) * (1, side)
        yaw = rng.uniform(-math.radians(25), math.radians(25))
        plate = rng.uniform((0.12, -0.20), (0.30, -0.17)) * (1, side)
        first = 1 if rng.random() < 0.5 else -1
        stand = (
            geom("box", (0.10, 0.12, _GRILL / 2 - 0.003), STEEL, at=(0, 0, _GRILL / 2 - 0.003))
            + geom("box", (0.092, 0.112, 0.003), _CHAR, at=(0, 0, _GRILL - 0.003))
            + "".join(
                geom("box", (0.092, 0.002, 0.0004), (0.5, 0.5, 0.5), at=(0, y, _GRILL), style="visual")
                for y in np.linspace(-0.10, 0.10, 9).tolist()
            )
        )
        world = body("grill", stand, at=(*grill.tolist(), TABLE_TOP), yaw=yaw)
        world += body("plate", geom("cylinder", (_RADIUS, _PLATE), WHITE), at=(*plate.tolist(), TABLE_TOP + _PLATE))
        for piece, sign in zip(_PIECES[::first], (1, -1), strict=True):
            along, across = rng.uniform((-0.035, 0.045), (0.035, 0.06)) * (1, sign)
            x = grill[0] + along * math.cos(yaw) - across * math.sin(yaw)
            y = grill[1] + along * math.sin(yaw) + across * math.cos(yaw)
            height = TABLE_TOP + _GRILL + _HALF_HEIGHT[piece] + 0.001
            turn = yaw + rng.uniform(-math.radians(40), math.radians(40))
            shape = _chicken() if piece == "chicken" else _steak()
            world += body(piece, shape, at=(x, y, height), yaw=turn, free=True)
        self.mjcf = Mjcf(worldbody=world)

    def success(self, sim: Simulation) -> bool:
        """The piece lies on the plate, let go."""
        x, y, z = sim.position(self._wanted) - sim.position("plate")
        return math.hypot(x, y) < 0.06 and z < 0.03 and sim.holds_nothing()

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Grasp the piece across, lift it, over the plate, set it down, let go."""
        piece = self._wanted
        yaw = nearest_turn(sim.yaw(piece), math.pi)
        rest = raised(sim.position("plate"), _PLATE + _HALF_HEIGHT[piece] + 0.004)
        return [
            *grasp(raised(sim.position(piece), _LIFT[piece]), yaw, clearance=0.10),
            *set_down(raised(rest, _LIFT[piece]), 0.5 * yaw, clearance=0.12),
        ]


def _chicken() -> str:
    """A drumstick: round to look at, a box to the touch, so that it does not roll away."""
    half = _HALF_HEIGHT["chicken"]
    return (
        geom("box", (0.028, 0.016, half), _ROAST, mass=0.07, style="hidden")
        + geom("ellipsoid", (0.036, 0.021, half), _ROAST, mass=0, style="visual")
        + geom(
            "capsule", (0.006, 0.016), WHITE, at=(0.048, 0, 0), euler=(0, math.pi / 2, 0), mass=0.002, style="visual"
        )
        + geom("sphere", 0.0085, WHITE, at=(0.067, 0.005, 0), mass=0, style="visual")
        + geom("sphere", 0.0085, WHITE, at=(0.067, -0.005, 0), mass=0, style="visual")
    )


def _steak() -> str:
    """A flat slice with a rim of fat."""
    half = _HALF_HEIGHT["steak"]
    return (
        geom("box", (0.042, 0.027, half), _BEEF, mass=0.07)
        + geom("box", (0.042, 0.005, 0.0006), _FAT, at=(0, 0.022, half), mass=0, style="visual")
        + geom("box", (0.006, 0.012, 0.0006), _FAT, at=(-0.012, 0.005, half), mass=0, style="visual")
    )
