"""Put a square ring onto the spoke of a colour."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import PALETTE, WHITE, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down

__all__ = ["InsertOntoSquarePeg"]

_COLOURS = tuple(PALETTE)
_BOARD = 0.012  # metres, height of the board that the spokes stand on
_SPOKE = 0.012  # half a spoke's edge
_TALL = 0.058  # a spoke's height above the board: a hand around the ring stays clear of it
_PITCH = 0.11  # from one spoke to the next
_OUTER, _INNER, _THICK = 0.034, 0.022, 0.009  # half sizes of the ring, of its hole, of its height
# Fingers close at more than 1 m/s: with the usual softer contacts they would go through sides as thin as these.
_FIRM = 'priority="1" condim="6" friction="2 0.05 0.001" solref="0.004 1"'
_DARK: Colour = (0.22, 0.20, 0.20)


class InsertOntoSquarePeg(Task):
    """RLBench's task with six colours; three of them are on the board, in random order."""

    name: ClassVar[str] = "insert_onto_square_peg"
    variations: ClassVar[int] = len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording first."""
        colour = _COLOURS[variation]
        return (
            f"put the ring on the {colour} spoke",
            f"slide the ring onto the {colour} colored spoke",
            f"place the ring onto the {colour} spoke",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A board with three spokes before or behind the ring."""
        return _Scene(_COLOURS[variation], rng)


class _Scene(TaskScene):
    def __init__(self, wanted: str, rng: np.random.Generator) -> None:
        self._wanted = wanted
        others = rng.permutation([colour for colour in _COLOURS if colour != wanted])[:2].tolist()
        colours = rng.permutation([wanted, *others]).tolist()
        # The board runs from left to right, so that no spoke hides another from the front.
        yaw = rng.uniform(-math.radians(30), math.radians(30))
        board = rng.uniform((0.10, -0.08), (0.16, 0.08))
        ring = rng.uniform((0.32, -0.20), (0.38, 0.20))
        if rng.random() < 0.5:
            board[0], ring[0] = 0.42 - board[0], 0.42 - ring[0]
        spokes = geom("box", (0.04, _PITCH + 0.035, _BOARD / 2), _DARK, at=(0, 0, _BOARD / 2))
        for place, colour in zip((-_PITCH, 0.0, _PITCH), colours, strict=True):
            shape = geom("box", (_SPOKE, _SPOKE, _TALL / 2), PALETTE[colour], at=(0, 0, _TALL / 2))
            spokes += body(f"spoke_{colour}", shape, at=(0, place, _BOARD))
        middle, wall = (_OUTER + _INNER) / 2, (_OUTER - _INNER) / 2
        sides = "".join(
            geom("box", (wall, _OUTER, _THICK), WHITE, at=(sign * middle, 0, 0), mass=0.015, more=_FIRM)
            + geom("box", (_INNER, wall, _THICK), WHITE, at=(0, sign * middle, 0), mass=0.01, more=_FIRM)
            for sign in (-1, 1)
        )
        turn = rng.uniform(-math.pi / 4, math.pi / 4)
        self.mjcf = Mjcf(
            worldbody=body("board", spokes, at=(*board.tolist(), TABLE_TOP), yaw=yaw)
            + body("ring", sides, at=(*ring.tolist(), TABLE_TOP + _THICK), yaw=turn, free=True)
        )

    def success(self, sim: Simulation) -> bool:
        """The ring is around the spoke, below half its height, let go."""
        x, y, z = sim.position("ring") - sim.position(f"spoke_{self._wanted}")
        # Around a spoke its centre is within the play of 1 cm along either side.
        return math.hypot(x, y) < 0.018 and z < _TALL / 2 and sim.holds_nothing()

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Grasp the ring over two opposite sides, lift it, over the spoke, lower it, let go."""
        spoke = sim.position(f"spoke_{self._wanted}")
        yaw = nearest_turn(sim.yaw("ring"), math.pi / 2)
        turned = nearest_turn(sim.yaw("board"), math.pi / 2, yaw)
        return [
            *grasp(sim.position("ring"), yaw, clearance=0.14),
            *set_down(raised(spoke, _THICK + 0.004), turned, clearance=0.10),
        ]
