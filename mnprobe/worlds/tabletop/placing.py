"""Random places on the table that keep apart."""

import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.tabletop.scene import OBJECTS_X, OBJECTS_Y

__all__ = ["scatter"]


def scatter(
    rng: np.random.Generator,
    count: int,
    *,
    apart: float,
    x: tuple[float, float] = OBJECTS_X,
    y: tuple[float, float] = OBJECTS_Y,
    taken: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(count, 2) places in a rectangle, each at least `apart` metres from every other and from those `taken` (n, 2).

    Positions are sampled uniformly, and all again if one does not fit; ValueError after many tries.

    >>> scatter(np.random.default_rng(0), 3, apart=0.1).shape
    (3, 2)
    """
    before = np.empty((0, 2)) if taken is None else np.asarray(taken, dtype=np.float64).reshape(-1, 2)
    low, high = np.array([x[0], y[0]]), np.array([x[1], y[1]])
    for _ in range(1000):
        places = before
        for _ in range(count):
            for _ in range(50):
                place = rng.uniform(low, high)
                if not len(places) or np.linalg.norm(places - place, axis=1).min() >= apart:
                    places = np.vstack([places, place])
                    break
        if len(places) == len(before) + count:
            return places[len(before) :]
    raise ValueError(f"{count} places {apart} m apart do not fit into x {x}, y {y}")
