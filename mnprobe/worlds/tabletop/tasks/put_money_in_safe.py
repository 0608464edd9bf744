"""Put a bundle of money on a shelf of an open safe."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import key_pose, pointing
from mnprobe.worlds.tabletop.palette import GREY, STEEL, WHITE, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._relations import seen_from

__all__ = ["PutMoneyInSafe"]

_SHELVES = ("bottom", "middle", "top")
_DEPTH, _WIDTH = 0.08, 0.10  # half sizes of the safe, metres
_PITCH, _BOARD = 0.09, 0.008  # from one shelf to the next; half a shelf's thickness
_MONEY = (0.040, 0.022, 0.012)  # half sizes of the bundle
_STAND = 0.09  # height of the support of the bundle
_GRIP = 0.012  # how far behind the bundle's middle it is held
_BANKNOTE: Colour = (0.25, 0.55, 0.30)
_INSIDE: Colour = (0.62, 0.64, 0.68)


class PutMoneyInSafe(Task):
    """RLBench's task with its three variations; the safe's door stands open, the bundle lies level on a stand."""

    name: ClassVar[str] = "put_money_in_safe"
    variations: ClassVar[int] = len(_SHELVES)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first wording and others of the same meaning."""
        shelf = _SHELVES[variation]
        return (
            f"put the money away in the safe on the {shelf} shelf",
            f"lay the bundle of money on the {shelf} shelf of the safe",
            f"store the money in the safe, on its {shelf} shelf",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A safe at a random place, looking to either side, and the money before it."""
        return _Scene(variation, rng)


class _Scene(TaskScene):
    def __init__(self, shelf: int, rng: np.random.Generator) -> None:
        self._shelf = shelf
        side = 1 if rng.random() < 0.5 else -1
        yaw = side * rng.uniform(math.radians(40), math.radians(75))
        centre = np.array([rng.uniform(0.06, 0.12), -side * rng.uniform(0.10, 0.16)])
        outwards = np.array([math.cos(yaw), math.sin(yaw)])
        # The door hangs on the side away from the front camera; the stand keeps to the other.
        towards = side * np.array([math.sin(yaw), -math.cos(yaw)])
        place = centre + rng.uniform(0.20, 0.28) * outwards + rng.uniform(0.13, 0.18) * towards
        turn = yaw + math.pi + rng.uniform(-math.pi / 4, math.pi / 4)
        self.mjcf = Mjcf(worldbody=_safe(centre, float(yaw), side) + _stand(place, turn) + _money(place, turn))

    def success(self, sim: Simulation) -> bool:
        """The middle of the bundle is over that shelf and below the next board, let go."""
        x, y, z = seen_from(sim, "safe", "money")
        level = z - self._shelf * _PITCH
        return bool(abs(x) < _DEPTH and abs(y) < _WIDTH and 0 < level < _PITCH and sim.holds_nothing())

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Grasp the bundle from behind, level, and push it into the shelf."""
        along = sim.rotation("money")[:, 0]
        inwards = -sim.rotation("safe")[:, 0]
        up = np.array([0.0, 0.0, 1.0])
        taking, giving = pointing(along, np.cross(up, along)), pointing(inwards, np.cross(up, inwards))
        grip = sim.position("money") - _GRIP * along
        height = 2 * _BOARD + self._shelf * _PITCH + _MONEY[2] + 0.006
        shelf = sim.position("safe") + height * up - (0.02 + _GRIP) * inwards
        before = shelf - 0.16 * inwards
        return [
            key_pose(grip - 0.10 * along, taking, gripper_open=True),
            key_pose(grip, taking, gripper_open=True),
            key_pose(grip, taking, gripper_open=False),
            key_pose(grip + 0.08 * up, taking, gripper_open=False),
            key_pose(before, giving, gripper_open=False),
            key_pose(shelf, giving, gripper_open=False),
            key_pose(shelf, giving, gripper_open=True),
            key_pose(before, giving, gripper_open=True),
        ]


def _safe(centre: NDArray[np.float64], yaw: float, side: int) -> str:
    """Three shelves that are open along x, and a door at the side."""
    half = (3 * _PITCH + 2 * _BOARD) / 2
    boards = "".join(
        geom("box", (_DEPTH, _WIDTH, _BOARD), _INSIDE if i else STEEL, at=(0, 0, _BOARD + i * _PITCH)) for i in range(3)
    ) + geom("box", (_DEPTH, _WIDTH, _BOARD), STEEL, at=(0, 0, _BOARD + 3 * _PITCH))
    sides = "".join(geom("box", (_DEPTH, 0.005, half), STEEL, at=(0, s * (_WIDTH + 0.005), half)) for s in (1, -1))
    back = geom("box", (0.005, _WIDTH + 0.01, half), STEEL, at=(-_DEPTH - 0.005, 0, half))
    ajar = side * math.radians(20)
    length = 2 * _WIDTH - 0.02
    x = _DEPTH + math.cos(ajar) * length / 2
    y = side * (_WIDTH + 0.01) + math.sin(ajar) * length / 2
    door = geom("box", (length / 2, 0.005, half), STEEL, at=(x, y, half), yaw=ajar) + geom(
        "cylinder", (0.022, 0.006), GREY, at=(x, y + side * 0.008, half), euler=(math.pi / 2, 0, ajar)
    )
    at = (float(centre[0]), float(centre[1]), TABLE_TOP)
    return body("safe", boards + sides + back + door, at=at, yaw=yaw)


def _stand(place: NDArray[np.float64], yaw: float) -> str:
    """Support of the bundle, narrower than it, so that the fingers fit."""
    column = geom("box", (0.022, 0.014, _STAND / 2), GREY, at=(0, 0, _STAND / 2))
    foot = geom("box", (0.035, 0.035, 0.004), GREY, at=(0, 0, 0.004))
    return body("stand", column + foot, at=(float(place[0]), float(place[1]), TABLE_TOP), yaw=yaw)


def _money(place: NDArray[np.float64], yaw: float) -> str:
    _, width, height = _MONEY
    notes = geom("box", _MONEY, _BANKNOTE, mass=0.05)
    band = geom("box", (0.010, width + 0.0005, height + 0.0005), WHITE, style="visual", mass=0.0)
    at = (float(place[0]), float(place[1]), TABLE_TOP + _STAND + height)
    return body("money", notes + band, at=at, yaw=yaw, free=True)
