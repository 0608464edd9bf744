"""Turn the left or the right handle of a tap."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import PALETTE, STEEL, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom, joint
from mnprobe.worlds.tabletop.tasks._moves import nearest_turn, raised

__all__ = ["TurnTap"]

_SIDES = ("left", "right")
_APART = 0.11  # metres from the spout to each handle
_HEIGHT = 0.085  # metres from the table to the middle of a handle's bar
_TURNED = 1.1  # radians from which on a tap counts as turned
_UNTOUCHED = 0.3  # radians up to which the other one counts as left alone
_CHROME: Colour = (0.74, 0.76, 0.79)


class TurnTap(Task):
    """RLBench's task with its two variations; left and right are seen from the robot's position.

    The left handle turns anticlockwise, the right one clockwise, seen from above.
    """

    name: ClassVar[str] = "turn_tap"
    variations: ClassVar[int] = 2

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording first."""
        side = _SIDES[variation]
        return (
            f"turn {side} tap",
            f"rotate the {side} tap",
            f"grasp the {side} tap and turn it",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A tap at a random place, turned by up to 35 degrees, its handles of one random colour."""
        return _Scene(_SIDES[variation], rng)


class _Scene(TaskScene):
    def __init__(self, wanted: str, rng: np.random.Generator) -> None:
        self._wanted = wanted
        (self._other,) = (side for side in _SIDES if side != wanted)
        place = rng.uniform((0.12, -0.14), (0.30, 0.14))
        yaw = rng.uniform(-math.radians(35), math.radians(35))
        colour = PALETTE[str(rng.choice(list(PALETTE)))]
        spout = (
            geom("box", (0.03, _APART + 0.03, 0.008), STEEL, at=(0, 0, 0.008))
            + geom("cylinder", (0.018, 0.07), _CHROME, at=(0, 0, 0.086))
            + geom("box", (0.045, 0.012, 0.010), _CHROME, at=(0.037, 0, 0.156))
            + geom("cylinder", (0.009, 0.012), _CHROME, at=(0.07, 0, 0.138))
        )
        handles = "".join(
            _handle(side, sign, colour, rng.uniform(-0.25, 0.25)) for side, sign in zip(_SIDES, (1, -1), strict=True)
        )
        self.mjcf = Mjcf(worldbody=body("tap", spout + handles, at=(*place.tolist(), TABLE_TOP), yaw=yaw))

    def success(self, sim: Simulation) -> bool:
        """The handle is turned by more than 1.1 radians, the other by less than 0.3."""
        return sim.joint(f"handle_{self._wanted}") > _TURNED and sim.joint(f"handle_{self._other}") < _UNTOUCHED

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Above the handle, onto its bar, grip, turn by half, turn fully."""
        handle = f"handle_{self._wanted}"
        at = sim.position(handle)
        yaw = nearest_turn(sim.yaw(handle), math.pi)
        sense = 1 if self._wanted == "left" else -1
        down = pointing_down(yaw)
        return [
            key_pose(raised(at, 0.10), down, gripper_open=True),
            key_pose(at, down, gripper_open=True),
            key_pose(at, down, gripper_open=False),
            key_pose(at, pointing_down(yaw + 0.75 * sense), gripper_open=False),
            key_pose(at, pointing_down(yaw + 1.5 * sense), gripper_open=False),
        ]


def _handle(side: str, sign: int, colour: Colour, turn: float) -> str:
    """A post with a bar across, which turns on it; the bar's origin is its middle."""
    post = geom("cylinder", (0.011, (_HEIGHT - 0.012) / 2), _CHROME, at=(0, sign * _APART, (_HEIGHT - 0.012) / 2))
    bar = (
        joint(f"handle_{side}", "hinge", (0, 0, sign), (0, 1.8), damping=0.02, friction=0.05)
        + geom("box", (0.048, 0.010, 0.011), colour, mass=0.04)
        + geom("cylinder", (0.018, 0.003), colour, at=(0, 0, -0.016), mass=0.01, style="visual")
    )
    return post + body(f"handle_{side}", bar, at=(0, sign * _APART, _HEIGHT), yaw=turn)
