"""Push one or two of three colored buttons in the instructed order."""

from typing import ClassVar

import numpy as np

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import REACH, key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import GREY, PALETTE, WHITE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.placing import scatter
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, exclude, geom, joint

__all__ = ["PushButtons"]

_COLOURS = tuple(PALETTE)
_TRAVEL = 0.012  # metres that a cap goes down
_TOP = 0.034  # metres from the table to the top of a cap


class PushButtons(Task):
    """Variations 0..5 push one button, 6..11 that button and then the next colour of the palette."""

    name: ClassVar[str] = "push_buttons"
    variations: ClassVar[int] = 2 * len(_COLOURS)

    def instructions(self, variation: int) -> tuple[str, ...]:
        """RLBench's wording for one and for two buttons."""
        first, *rest = _wanted(variation)
        if not rest:
            return (f"push the {first} button", f"press the {first} button", f"tap the button that is {first}")
        return (
            f"push the {first} button, then push the {rest[0]} button",
            f"press the {first} button, then press the {rest[0]} button",
            f"tap the {first} button first and the {rest[0]} button second",
        )

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """Three buttons of different colours at random places."""
        return _Scene(_wanted(variation), rng)


def _wanted(variation: int) -> tuple[str, ...]:
    first = variation % len(_COLOURS)
    return _COLOURS[first], *([_COLOURS[(first + 1) % len(_COLOURS)]] if variation >= len(_COLOURS) else [])


class _Scene(TaskScene):
    """Remembers which buttons were pressed, in order; a pressed button's base turns white."""

    def __init__(self, wanted: tuple[str, ...], rng: np.random.Generator) -> None:
        self._wanted = wanted
        others = [colour for colour in _COLOURS if colour not in wanted]
        shown = [*wanted, *rng.permutation(others)[: 3 - len(wanted)].tolist()]
        self._colours: list[str] = rng.permutation(shown).tolist()  # neither order nor position reveals the target
        self._places = scatter(rng, 3, apart=0.14, x=(0.06, 0.38), y=(-0.24, 0.24))
        self._turns = rng.uniform(-np.pi / 4, np.pi / 4, 3)
        self.pressed: list[str] = []
        self.mjcf = Mjcf(
            worldbody="".join(self._button(i) for i in rng.permutation(3).tolist()),
            contact="".join(exclude(f"cap_{colour}", f"button_{colour}") for colour in self._colours),
        )

    def _button(self, index: int) -> str:
        colour = self._colours[index]
        cap = body(
            f"cap_{colour}",
            joint(f"cap_{colour}", "slide", (0, 0, -1), (0, _TRAVEL), damping=2, stiffness=120)
            + geom("cylinder", (0.022, 0.011), PALETTE[colour], at=(0, 0, _TOP - 0.011), mass=0.03),
            more='gravcomp="1"',
        )
        base = geom("box", (0.042, 0.042, 0.009), GREY, at=(0, 0, 0.009), name=f"base_{colour}")
        x, y = self._places[index]
        return body(f"button_{colour}", base + cap, at=(x, y, TABLE_TOP), yaw=self._turns[index])

    def observe(self, sim: Simulation) -> None:
        """Latch a button when its cap is three quarters down."""
        for colour in self._colours:
            if colour not in self.pressed and sim.joint(f"cap_{colour}") > 0.75 * _TRAVEL:
                self.pressed.append(colour)
                sim.set_colour(f"base_{colour}", WHITE)

    def success(self, sim: Simulation) -> bool:
        """The wanted buttons were the first to be pressed, in order."""
        return tuple(self.pressed[: len(self._wanted)]) == self._wanted

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Above each button with the fingers closed, down, up."""
        poses = []
        for colour in self._wanted:
            x, y, table = sim.position(f"button_{colour}")
            down = pointing_down(sim.yaw(f"button_{colour}"))
            for height in (0.09, _TOP - _TRAVEL, 0.09):
                poses.append(key_pose((x, y, table + height + REACH), down, gripper_open=False))
        return poses
