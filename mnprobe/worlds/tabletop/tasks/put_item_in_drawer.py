"""Open a drawer and put the item that lies on the cabinet into it."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down
from mnprobe.worlds.tabletop.tasks._relations import seen_from
from mnprobe.worlds.tabletop.tasks.open_drawer import DRAWERS, cabinet_mjcf, opening_poses

__all__ = ["PutItemInDrawer"]

_ITEM = 0.018  # half an edge of the item, metres
_TOP = 0.312  # metres from the table to the top of the cabinet
_PULL = 0.16
_LANDING = 0.05  # metres from a closed drawer's middle to where the item is let go, outwards


class PutItemInDrawer(Task):
    """RLBench's task with its three variations; the drawers are closed at the start."""

    name: ClassVar[str] = "put_item_in_drawer"
    variations: ClassVar[int] = 3

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's first wording and others of the same meaning."""
        slot = DRAWERS[variation]
        return (
            f"put the item in the {slot} drawer",
            f"open the {slot} drawer and lay the item into it",
            f"take the item off the cabinet and put it away in the {slot} drawer",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A cabinet at a random place, looking to either side, and an item of any colour on top of it."""
        return _Scene(DRAWERS[variation], rng)


class _Scene(TaskScene):
    def __init__(self, slot: str, rng: np.random.Generator) -> None:
        self._slot = slot
        side = 1 if rng.random() < 0.5 else -1
        yaw = side * rng.uniform(math.radians(40), math.radians(80))
        centre = np.array([rng.uniform(0.10, 0.20), -side * rng.uniform(0.04, 0.12)])
        away = rng.uniform(-0.05, 0.05, 2)
        x = float(centre[0] + math.cos(yaw) * away[0] - math.sin(yaw) * away[1])
        y = float(centre[1] + math.sin(yaw) * away[0] + math.cos(yaw) * away[1])
        colour = PALETTE[str(rng.choice(list(PALETTE)))]
        item = body(
            "item",
            geom("box", (_ITEM, _ITEM, _ITEM), colour, mass=0.05),
            at=(x, y, TABLE_TOP + _TOP + _ITEM),
            yaw=float(rng.uniform(-math.pi / 4, math.pi / 4)),
            free=True,
        )
        self.mjcf = Mjcf(worldbody=cabinet_mjcf(centre, yaw) + item)

    def success(self, sim: Simulation) -> bool:
        """The item is inside the tray of that drawer, let go."""
        x, y, z = seen_from(sim, f"drawer_{self._slot}", "item")
        return bool(abs(x) < 0.11 and abs(y) < 0.11 and abs(z) < 0.04 and sim.holds_nothing())

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Pull the drawer, let go of it, fetch the item, let it go over the tray."""
        outwards = sim.rotation("cabinet")[:, 0]
        opening = opening_poses(sim, self._slot, _PULL)
        end, sideways = opening[-1].position, opening[-1].quaternion
        item = sim.position("item")
        yaw = nearest_turn(sim.yaw("item"), math.pi / 2)
        tray = raised(sim.position(f"drawer_{self._slot}") + (_PULL + _LANDING) * outwards, 0.01)
        clear = end + 0.09 * outwards
        height = item[2] + 0.12
        return [
            *opening,
            key_pose(end, sideways, gripper_open=True),
            key_pose(clear, sideways, gripper_open=True),
            key_pose((clear[0], clear[1], height), pointing_down(yaw), gripper_open=True),
            *grasp(item, yaw),
            *set_down(tray, nearest_turn(sim.yaw("cabinet"), math.pi, yaw), clearance=height - tray[2]),
        ]
