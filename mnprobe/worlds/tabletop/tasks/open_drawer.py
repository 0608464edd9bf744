"""Open one of the three drawers of a cabinet."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import key_pose, pointing
from mnprobe.worlds.tabletop.palette import FURNITURE, STEEL
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom, joint

__all__ = ["DRAWERS", "OpenDrawer", "cabinet_mjcf", "opening_poses"]

DRAWERS = ("bottom", "middle", "top")
_PITCH = 0.088  # metres from one drawer to the next
_FIRST = 0.064  # metres from the table to the bottom drawer's middle
_DEPTH, _WIDTH = 0.11, 0.12  # half sizes of the cabinet, metres
_HANDLE = 0.035  # metres that a handle stands out
_TRAVEL = 0.17
_FRONT = (0.90, 0.88, 0.84)


class OpenDrawer(Task):
    """RLBench's task with its three variations; the cabinet looks half sideways, where it is seen from in front."""

    name: ClassVar[str] = "open_drawer"
    variations: ClassVar[int] = 3

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's three paraphrases."""
        slot = DRAWERS[variation]
        return (
            f"open the {slot} drawer",
            f"grip the {slot} handle and pull the {slot} drawer open",
            f"slide the {slot} drawer open",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A cabinet at a random place, looking to either side."""
        return _Scene(variation, rng)


class _Scene(TaskScene):
    def __init__(self, variation: int, rng: np.random.Generator) -> None:
        self._wanted = DRAWERS[variation]
        side = 1 if rng.random() < 0.5 else -1
        yaw = side * rng.uniform(math.radians(40), math.radians(80))
        centre = np.array([rng.uniform(0.06, 0.14), -side * rng.uniform(0.10, 0.18)])
        self.mjcf = Mjcf(worldbody=cabinet_mjcf(centre, yaw))

    def success(self, sim: Simulation) -> bool:
        """The drawer is out by more than 10 cm, the others by less than 5 cm."""
        out = {slot: sim.joint(f"drawer_{slot}") for slot in DRAWERS}
        return out.pop(self._wanted) > 0.10 and max(out.values()) < 0.05

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """In front of the handle, onto it, grip, pull."""
        return opening_poses(sim, self._wanted)


def cabinet_mjcf(centre: np.ndarray, yaw: float) -> str:
    """A cabinet of three drawers that open along its x axis, turned by `yaw`; bodies and joints `drawer_<slot>`."""
    half = (_FIRST - 0.04 + 3 * _PITCH) / 2 + 0.006
    wall = 0.006
    walls = (
        geom("box", (_DEPTH, wall, half), FURNITURE, at=(0, _WIDTH - wall, half))
        + geom("box", (_DEPTH, wall, half), FURNITURE, at=(0, wall - _WIDTH, half))
        + geom("box", (wall, _WIDTH - 2 * wall, half), FURNITURE, at=(wall - _DEPTH, 0, half))
        + geom("box", (_DEPTH, _WIDTH, wall), FURNITURE, at=(0, 0, 2 * half + wall))
        + geom("box", (_DEPTH, _WIDTH - 2 * wall, 0.008), FURNITURE, at=(0, 0, 0.008))
    )
    drawers = "".join(_drawer(slot, _FIRST + _PITCH * index) for index, slot in enumerate(DRAWERS))
    return body("cabinet", walls + drawers, at=(float(centre[0]), float(centre[1]), TABLE_TOP), yaw=yaw)


def _drawer(slot: str, height: float) -> str:
    """A tray with a front and a bar as handle; it runs on its joint and touches the cabinet nowhere."""
    inner, tall = _WIDTH - 0.016, _PITCH / 2 - 0.004
    tray = (
        geom("box", (_DEPTH - 0.01, inner, 0.003), FURNITURE, at=(0, 0, 0.004 - tall), mass=0.1)
        + geom("box", (0.003, inner, tall - 0.014), FURNITURE, at=(0.014 - _DEPTH, 0, -0.012), mass=0.03)
        + geom("box", (_DEPTH - 0.01, 0.003, tall - 0.014), FURNITURE, at=(0, inner - 0.003, -0.012), mass=0.03)
        + geom("box", (_DEPTH - 0.01, 0.003, tall - 0.014), FURNITURE, at=(0, 0.003 - inner, -0.012), mass=0.03)
    )
    front = geom("box", (0.006, _WIDTH, tall), _FRONT, at=(_DEPTH + 0.006, 0, 0), mass=0.1)
    bar = geom("box", (0.006, 0.045, 0.006), STEEL, at=(_DEPTH + 0.012 + _HANDLE, 0, 0), mass=0.02)
    posts = "".join(
        geom("box", (_HANDLE / 2, 0.005, 0.005), STEEL, at=(_DEPTH + 0.012 + _HANDLE / 2, y, 0), mass=0.005)
        for y in (-0.038, 0.038)
    )
    slide = joint(f"drawer_{slot}", "slide", (1, 0, 0), (0, _TRAVEL), damping=2, friction=1)
    return body(f"drawer_{slot}", slide + tray + front + bar + posts, at=(0, 0, height), more='gravcomp="1"')


def opening_poses(sim: Simulation, slot: str, pull: float = 0.15) -> list[KeyPose]:
    """Key poses that pull a drawer out by `pull` metres, the fingers above and below its handle."""
    outwards = sim.rotation("cabinet")[:, 0]
    handle = sim.position(f"drawer_{slot}") + (_DEPTH + 0.012 + _HANDLE) * outwards
    turned = pointing(-outwards, (0, 0, 1))
    return [
        key_pose(handle + 0.10 * outwards, turned, gripper_open=True),
        key_pose(handle, turned, gripper_open=True),
        key_pose(handle, turned, gripper_open=False),
        key_pose(handle + pull * outwards, turned, gripper_open=False),
    ]
