"""The goal suite: six colored pucks in one scene, whatever the verb asked for.

All tasks of the suite draw their scenes alike, so that nothing in the first picture tells the instruction. What happens
to every puck is watched: a pad turns white when its puck is tapped, in every task of the suite.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.hand import FINGER_LENGTH, key_pose, pointing_down
from mnprobe.worlds.tabletop.palette import GREY, PALETTE, WHITE
from mnprobe.worlds.tabletop.physics import Simulation
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, geom

__all__ = ["HIGH", "LOW", "PUCK_HEIGHT", "PuckScene", "PuckTask", "PushPuckTask", "hand_at"]

PUCK_HEIGHT = 0.05
"""Metres."""
LOW = 0.02
"""Metres from the table to the fingertip frame when the hand pushes or grasps."""
HIGH = 0.14
"""Metres from the table to the fingertip frame when the hand comes and goes."""

_COLORS = tuple(PALETTE)
_PUCKS = tuple(f"puck_{color}" for color in _COLORS)
_RADIUS = 0.03
_PAD = (0.06, 0.001)  # radius, half height
_FRICTION = 'friction="0.8 0.01 0.001"'  # slides on the table, and stays in a grasp 1 cm beside its middle
_OPTION = '<flag sleep="enable"/>'  # what stands still costs nothing until it is touched: a sixth of the time
_SLOTS = np.array([(x, y) for x in (0.10, 0.28) for y in (-0.18, 0.0, 0.18)])
_JITTER = 0.02  # metres along x and y
_TOUCH = 0.012  # metres from a finger's end to a puck's top up to which it counts as a tap
_ASIDE = 0.02  # metres that a puck may be shifted without counting as moved
_RAISED = 0.01  # metres from which on a puck counts as lifted
_PUSHED = 0.04  # metres in the direction asked for
_SIDEWAYS = 0.02  # metres across it
_FACE = 0.01  # metres from the hand's axis to the face of the closed fingers
_GAP = 0.02  # metres between this face and the puck where the hand goes down
_WAY = 0.055  # metres that the expert pushes


class PuckScene(TaskScene):
    """Six pucks in shuffled places, and what has been done to each of them so far.

    Args:
        variation: number of the color that is asked for; nothing that is drawn depends on it.
        rng: draws which color is where, the places within the slots, and the order of the bodies.

    Attributes:
        puck: name of the body that is asked for.
    """

    def __init__(self, variation: int, rng: np.random.Generator) -> None:
        self.puck = _PUCKS[variation]
        self._wanted = np.arange(len(_PUCKS)) == variation
        self._starts: NDArray[np.float64] = rng.permutation(_SLOTS + rng.uniform(-_JITTER, _JITTER, _SLOTS.shape))
        self._shifts = np.zeros_like(self._starts)
        self._raised = np.zeros(len(_PUCKS))
        self._tapped, self._lifted, self._moved = np.zeros((3, len(_PUCKS)), dtype=bool)
        order = rng.permutation(len(_PUCKS)).tolist()
        self.mjcf = Mjcf(worldbody="".join(self._puck(index) for index in order), option=_OPTION)

    def _puck(self, index: int) -> str:
        x, y = self._starts[index]
        color = _COLORS[index]
        size = (_RADIUS, PUCK_HEIGHT / 2)
        puck = geom("cylinder", size, PALETTE[color], mass=0.1, style="pushed", more=_FRICTION)
        pad = geom("cylinder", _PAD, GREY, at=(0, 0, _PAD[1]), name=f"pad_{color}", style="visual")
        return body(_PUCKS[index], puck, at=(x, y, TABLE_TOP + PUCK_HEIGHT / 2), free=True) + body(
            f"pad_{color}", pad, at=(x, y, TABLE_TOP)
        )

    def observe(self, sim: Simulation) -> None:
        """Note which pucks were tapped, lifted or moved; the pad of a tapped one turns white."""
        pucks = sim.positions(_PUCKS)
        self._shifts = pucks[:, :2] - self._starts
        self._raised = pucks[:, 2] - (TABLE_TOP + PUCK_HEIGHT / 2)
        self._lifted |= self._raised > _RAISED
        self._moved |= (self._shifts**2).sum(axis=1) > _ASIDE**2
        away = _finger_ends(sim) - (pucks + np.array([0, 0, PUCK_HEIGHT / 2]))[:, None]
        touched = ((away[..., :2] ** 2).sum(axis=2) < _RADIUS**2) & (np.abs(away[..., 2]) < _TOUCH)
        tapped = touched.any(axis=1) & ~self._tapped
        for index in np.flatnonzero(tapped).tolist():
            sim.set_colour(f"pad_{_COLORS[index]}", WHITE)
        self._tapped |= tapped

    def was(self, *, tapped: bool = False, lifted: bool = False, moved: bool = False) -> bool:
        """Whether this, and nothing else, was done to the puck that is asked for, and nothing to the others."""
        return bool(
            (self._tapped == (self._wanted & tapped)).all()
            and (self._lifted == (self._wanted & lifted)).all()
            and (self._moved == (self._wanted & moved)).all()
        )

    @property
    def raised(self) -> float:
        """Metres by which the puck that is asked for is above the table."""
        return float(self._raised[self._wanted][0])

    @property
    def shift(self) -> NDArray[np.float64]:
        """(2,) metres along x and y from its first place to its present one."""
        shift: NDArray[np.float64] = self._shifts[self._wanted][0]
        return shift


class PuckTask(Task):
    """One verb of the goal suite; the variation is the color of the puck.

    Attributes:
        wordings: of the instruction, the usual one first, with {} for the color.
    """

    variations: ClassVar[int] = len(_COLORS)
    wordings: ClassVar[tuple[str, ...]]

    def instructions(self, variation: int) -> tuple[str, ...]:
        """The wordings with the color's name."""
        return tuple(wording.format(_COLORS[variation]) for wording in self.wordings)


class PushPuckTask(PuckTask):
    """Push one puck at least 4 cm in a direction, at most 2 cm across it.

    Attributes:
        direction: unit vector along x and y; the robot looks along x, left is +y.
    """

    direction: ClassVar[tuple[float, float]]

    def build(self, variation: int, rng: np.random.Generator) -> TaskScene:
        """The suite's scene."""
        return _PushScene(variation, rng, self.direction)


class _PushScene(PuckScene):
    def __init__(self, variation: int, rng: np.random.Generator, direction: tuple[float, float]) -> None:
        super().__init__(variation, rng)
        self._direction = np.array(direction)

    def success(self, sim: Simulation) -> bool:
        """The puck stands on the table, pushed far enough in the direction and in no other; no other was disturbed."""
        along = float(self.shift @ self._direction)
        across = self.shift - along * self._direction
        return along >= _PUSHED and float(np.linalg.norm(across)) <= _SIDEWAYS and self.was(moved=True)

    def expert(self, sim: Simulation) -> list[KeyPose]:
        """Behind the puck with the fingers closed, down, push."""
        puck = sim.position(self.puck)[:2]
        behind = puck - (_RADIUS + _FACE + _GAP) * self._direction
        pushed = puck + (_WAY - _RADIUS - _FACE) * self._direction
        return [hand_at(behind, HIGH), hand_at(behind, LOW), hand_at(pushed, LOW)]


def hand_at(place: NDArray[np.float64], height: float, *, gripper_open: bool = False) -> KeyPose:
    """The hand over a place (2,) of the table, pointing down, its fingertip frame `height` metres above the table."""
    return key_pose((*place[:2], TABLE_TOP + height), pointing_down(), gripper_open=gripper_open)


def _finger_ends(sim: Simulation) -> NDArray[np.float64]:
    """(2, 3) where the fingers end."""
    return np.stack(
        [sim.geom(name) + FINGER_LENGTH / 2 * sim.rotation(name)[:, 2] for name in ("finger_left", "finger_right")]
    )
