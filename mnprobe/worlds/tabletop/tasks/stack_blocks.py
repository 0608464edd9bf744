"""Stack two or three blocks of a colour on a plate."""

import math
from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import GREY, PALETTE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.placing import scatter
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom
from mnprobe.worlds.tabletop.tasks._moves import grasp, nearest_turn, raised, set_down

__all__ = ["StackBlocks"]

_COLOURS = tuple(PALETTE)
_COUNTS = (2, 3)
_HALF = 0.02  # half a block's edge, metres
_PLATE = 0.004  # half the plate's height, metres
_SAME = 3  # blocks of the wanted colour, and of the other one: which is wanted cannot be seen


class StackBlocks(Task):
    """RLBench's task with two or three blocks of six colours: colour = variation // 2, number = 2 + variation % 2."""

    name: ClassVar[str] = "stack_blocks"
    variations: ClassVar[int] = len(_COUNTS) * len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording first."""
        colour, count = _wanted(variation)
        return (
            f"stack {count} {colour} blocks",
            f"place {count} of the {colour} blocks on top of each other",
            f"pick up and set down {count} {colour} blocks on top of each other",
            f"build a tall tower out of {count} {colour} cubes",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """A plate, three blocks of the wanted colour and three of another, scattered."""
        return _Scene(*_wanted(variation), rng)


def _wanted(variation: int) -> tuple[str, int]:
    return _COLOURS[variation // len(_COUNTS)], _COUNTS[variation % len(_COUNTS)]


class _Scene(TaskScene):
    def __init__(self, colour: str, count: int, rng: np.random.Generator) -> None:
        self._count = count
        other = str(rng.choice([name for name in _COLOURS if name != colour]))
        names = [f"{shade}_{index}" for shade in (colour, other) for index in range(_SAME)]
        self._blocks = names[:_SAME]
        plate = scatter(rng, 1, apart=0.0, x=(0.14, 0.34), y=(-0.14, 0.14))
        # The hand is 10 cm wide with its fingers open: it comes between any two blocks.
        places = scatter(rng, 2 * _SAME, apart=0.10, x=(0.02, 0.40), y=(-0.27, 0.27), taken=plate)
        turns = rng.uniform(-math.pi / 4, math.pi / 4, 2 * _SAME + 1)
        stand = geom("box", (0.045, 0.045, _PLATE), GREY)
        world = body("plate", stand, at=(*plate[0].tolist(), TABLE_TOP + _PLATE), yaw=turns[-1])
        # In random order, so that the order of the bodies does not tell which are wanted.
        for index, place, turn in zip(rng.permutation(2 * _SAME).tolist(), places.tolist(), turns, strict=False):
            shape = geom("box", (_HALF, _HALF, _HALF), PALETTE[names[index].split("_")[0]], mass=0.08)
            world += body(f"block_{names[index]}", shape, at=(*place, TABLE_TOP + _HALF), yaw=turn, free=True)
        self.mjcf = Mjcf(worldbody=world)

    def success(self, sim: Simulation) -> bool:
        """The requested number of blocks of the colour is stacked on the plate, at rest and released."""
        plate = sim.position("plate")
        levels = set()
        for name in self._blocks:
            x, y, z = sim.position(f"block_{name}") - plate - (0, 0, _PLATE + _HALF)
            level = round(z / (2 * _HALF))
            near = math.hypot(x, y) < 0.04 and abs(z - 2 * _HALF * level) < 0.008
            if near and sim.speed(f"block_{name}") < 0.05:
                levels.add(level)
        return levels >= set(range(self._count)) and sim.holds_nothing()

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Block by block, the nearest to the plate first: grasp, lift, over the plate, set down."""
        plate = sim.position("plate")
        order = sorted(self._blocks, key=lambda name: float(np.linalg.norm(sim.position(f"block_{name}") - plate)))
        poses = []
        for level, name in enumerate(order[: self._count]):
            yaw = nearest_turn(sim.yaw(f"block_{name}"), math.pi / 2)
            target = raised(plate, _PLATE + _HALF + 2 * _HALF * level + 0.002)
            poses += grasp(sim.position(f"block_{name}"), yaw, clearance=0.15)
            poses += set_down(target, nearest_turn(sim.yaw("plate"), math.pi / 2, yaw), clearance=0.06)
        return poses
