"""Spatial relations between objects, for tests of success."""

import math

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.tabletop.physics import Simulation

__all__ = ["seen_from", "upright"]


def seen_from(sim: Simulation, frame: str, body: str) -> NDArray[np.float64]:
    """(3,) origin of a body in the frame of another, metres."""
    away: NDArray[np.float64] = sim.rotation(frame).T @ (sim.position(body) - sim.position(frame))
    return away


def upright(sim: Simulation, body: str) -> bool:
    """Whether a body's z axis is within 15 degrees of the vertical."""
    return bool(sim.rotation(body)[2, 2] > math.cos(math.radians(15)))
