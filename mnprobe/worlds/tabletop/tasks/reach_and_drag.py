"""Drag a cube onto a coloured target with a stick."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import GREY, PALETTE, STEEL, Colour
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised

__all__ = ["ReachAndDrag"]

_COLOURS = tuple(PALETTE)
_TARGETS = 4
_HALF = 0.02  # half the cube's edge, metres
_SIZE = 0.045  # half a target's edge
_ROD = 0.052  # from the table to the middle of the stick: above the cube
_LENGTH = 0.18  # from where the stick is held to the middle between its prongs
_PLAY = 0.032  # from that middle to the inner face of a prong; a cube fits in between, however it is turned
_PRONG = 0.004  # half a prong's thickness
_RAISE = 0.003  # metres by which the stick hovers while it drags
_WOODEN: Colour = (0.45, 0.28, 0.14)


class ReachAndDrag(Task):
    """RLBench's task with six colours, four of them on the table; the stick's two prongs reach around the cube."""

    name: ClassVar[str] = "reach_and_drag"
    variations: ClassVar[int] = len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording first."""
        colour = _COLOURS[variation]
        return (
            f"use the stick to drag the cube onto the {colour} target",
            f"pick up the stick and use it to push or pull the cube onto the {colour} target",
            f"drag the block towards the {colour} square on the table top",
            f"grasping the stick by one end, pull the cube onto the {colour} target",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A cube between four targets, and the stick next to them."""
        return _Scene(_COLOURS[variation], rng)


class _Scene(TaskScene):
    def __init__(self, wanted: str, rng: np.random.Generator) -> None:
        self._wanted = wanted
        others = rng.permutation([colour for colour in _COLOURS if colour != wanted])[: _TARGETS - 1].tolist()
        side = 1 if rng.random() < 0.5 else -1
        centre = rng.uniform((0.18, -0.09), (0.24, -0.03)) * (1, side)
        start = rng.uniform(0, math.pi / 2)
        world = ""
        for index, colour in enumerate(rng.permutation([wanted, *others]).tolist()):
            angle = start + index * math.pi / 2 + rng.uniform(-0.2, 0.2)
            place = centre + rng.uniform(0.135, 0.155) * np.array([math.cos(angle), math.sin(angle)])
            patch = geom("box", (_SIZE, _SIZE, 0.0005), PALETTE[colour], style="visual")
            world += body(f"target_{colour}", patch, at=(*place.tolist(), TABLE_TOP + 0.0005), yaw=angle)
        cube = geom("box", (_HALF, _HALF, _HALF), GREY, mass=0.08, style="pushed")
        turn = rng.uniform(-math.pi / 4, math.pi / 4)
        world += body("cube", cube, at=(*centre.tolist(), TABLE_TOP + _HALF), yaw=turn, free=True)
        rest = rng.uniform((0.05, 0.22), (0.12, 0.25)) * (1, side)
        lean = rng.uniform(-math.radians(12), math.radians(12))
        world += body("stick", _stick(), at=(*rest.tolist(), TABLE_TOP + _ROD), yaw=lean, free=True)
        self.mjcf = Mjcf(worldbody=world)

    def success(self, sim: Simulation) -> bool:
        """The cube's middle is within 3.5 cm of the target's, the cube on the table."""
        x, y, z = sim.position("cube") - sim.position(f"target_{self._wanted}")
        return math.hypot(x, y) < 0.035 and z < 1.5 * _HALF

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Grasp the stick, lift it, hold its prongs over the cube, lower them, drag."""
        stick, cube = sim.position("stick"), sim.position("cube")
        target = sim.position(f"target_{self._wanted}")
        yaw = nearest_turn(sim.yaw("stick"), 2 * math.pi)
        way = math.atan2(target[1] - cube[1], target[0] - cube[0])
        # The stick lies along the way, the hand on the robot's side of the cube.
        along = nearest_turn(way, math.pi)
        ahead = np.array([math.cos(way), math.sin(way), 0])
        hold = -_LENGTH * np.array([math.cos(along), math.sin(along), 0])
        before = np.array([*cube[:2], stick[2] + _RAISE]) + hold
        after = np.array([*target[:2], stick[2] + _RAISE]) + hold + (_PLAY - _HALF) * ahead
        turn = pointing_down(along)
        return [
            *grasp(stick, yaw, clearance=0.12),
            key_pose(raised(before, 0.10), turn, gripper_open=False),
            key_pose(before, turn, gripper_open=False),
            key_pose(after, turn, gripper_open=False),
        ]


def _stick() -> str:
    """A rod on a foot and two prongs, its origin where it is held, its x axis along it."""
    near, far = -0.035, _LENGTH + _PLAY + 2 * _PRONG
    prongs = "".join(
        geom(
            "box",
            (_PRONG, 0.034, _ROD / 2),
            STEEL,
            at=(_LENGTH + sign * (_PLAY + _PRONG), 0, -_ROD / 2),
            mass=0.008,
            style="pushed",
        )
        for sign in (-1, 1)
    )
    return (
        geom("box", ((far - near) / 2, 0.006, 0.006), _WOODEN, at=((near + far) / 2, 0, 0), mass=0.03)
        + geom("box", (0.02, 0.009, 0.009), _WOODEN, mass=0.01)
        + geom("box", (0.005, 0.016, _ROD / 2), _WOODEN, at=(near, 0, -_ROD / 2), mass=0.01)
        + prongs
    )
