"""How far a map can be believed, in numbers: for all its points, and for held-out and fitted ones apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.analysis.embedding import trust
from mnprobe.core.arrays import Array, as_matrix, as_whole
from mnprobe.core.errors import FeatureError

__all__ = ["Quality", "main_quality", "map_qualities", "purity_by_chance", "purity_of_neighbours", "quality_lines"]

_FEWEST = 4  # points: fewer have no neighbourhoods
_MOST = 8000  # points: trustworthiness needs an N x N matrix


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The numbers of one group of points of a map; each looks at the points of this group alone.

    Attributes:
        points: 'all', 'held-out' (episodes that the heads were not fitted on) or 'fitted'.
        count: of points.
        trustworthiness: 0 to 1, of `trust_neighbours` neighbours (Venna and Kaski 2001).
        purity: mean share of each point's `neighbours` nearest points in the plane with its own instruction.
        purity_chance: what that share would be if neighbours were drawn at random, exactly.
        across_neighbours: how many points of the *other* model `across` looks at; 0 where one model is shown.
        across: the share of purity among the nearest points of the other model only; NaN where one model is shown.
        across_chance: what that would be by chance.
    """

    points: str
    count: int
    trust_neighbours: int
    trustworthiness: float
    neighbours: int
    purity: float
    purity_chance: float
    across_neighbours: int
    across: float
    across_chance: float


def map_qualities(values: Array, coordinates: Array, points: pd.DataFrame, neighbours: int) -> tuple[Quality, ...]:
    """The quality of a map (N, 2) of `values` (N, D): of all points first, then of held-out and of fitted ones.

    `points` has a row per point with columns task, instruction, side and fitted. Groups of fewer than four points are
    left out. Instructions count as the same only within a task.

    Raises FeatureError for a value or place that is missing or not finite, ConfigError for an impossible number of
    neighbours.
    """
    neighbours = as_whole(neighbours, "neighbours", least=1)
    if len(points) < _FEWEST:
        return ()
    rows, spots = as_matrix(values, "values"), as_matrix(coordinates, "coordinates")
    if not len(rows) == len(spots) == len(points):
        raise FeatureError(
            f"values, coordinates and points must be of the same points, got {len(rows)}, {len(spots)}, {len(points)}"
        )
    fitted = points["fitted"].to_numpy(dtype=bool)
    groups = {"all": np.ones(len(points), dtype=bool)}
    if fitted.any():
        groups |= {"held-out": ~fitted, "fitted": fitted}
    labels = points.groupby(["task", "instruction"], sort=False, dropna=False).ngroup().to_numpy()
    sides = points["side"].to_numpy().astype(str)
    return tuple(
        _quality(name, rows[here], spots[here], labels[here], sides[here], neighbours)
        for name, here in groups.items()
        if here.sum() >= _FEWEST
    )


def main_quality(qualities: Sequence[Quality]) -> Quality:
    """The one that says most: of held-out points where there are any, else of fitted ones, else of all."""
    found = {quality.points: quality for quality in qualities}
    return found.get("held-out") or found.get("fitted") or found["all"]


def quality_lines(qualities: Sequence[Quality]) -> list[str]:
    """How far a map can be believed, in two or three short lines."""
    main = main_quality(qualities)
    whole = next((quality for quality in qualities if quality.points == "all"), main)
    which = "" if main.points == "all" else f"{main.points} "
    apart = f", {which}{main.trustworthiness:.3f}" if which else ""
    lines = [
        f"trustworthiness {whole.trustworthiness:.3f}{apart}",
        f"{which}purity {main.purity:.2f}, chance {main.purity_chance:.2f}",
    ]
    if not np.isnan(main.across):
        lines.append(f"across models {main.across:.2f}, chance {main.across_chance:.2f}")
    return lines


def purity_of_neighbours(
    coordinates: NDArray[Any], labels: NDArray[Any], neighbours: int, sides: NDArray[Any] | None = None
) -> float:
    """Mean share of each point's `neighbours` nearest other points that carry its own label; 0 to 1.

    With `sides` (N,), neighbours are looked for among the points of another side only.

    >>> spots = np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]])
    >>> purity_of_neighbours(spots, np.array(["a", "b", "b", "a"]), 1)
    0.0
    >>> purity_of_neighbours(spots, np.array(["a", "b", "b", "a"]), 1, np.array(["u", "u", "e", "e"]))
    0.0
    """
    from sklearn.neighbors import NearestNeighbors

    if sides is None:
        count = min(neighbours, len(labels) - 1)
        near = NearestNeighbors(n_neighbors=count).fit(coordinates).kneighbors(return_distance=False)
        return float((labels[near] == labels[:, None]).mean())
    shares = np.zeros(len(labels))
    for side in np.unique(sides):
        own, others = sides == side, sides != side
        count = min(neighbours, int(others.sum()))
        finder = NearestNeighbors(n_neighbors=count).fit(coordinates[others])
        near = finder.kneighbors(coordinates[own], return_distance=False)
        shares[own] = (labels[others][near] == labels[own][:, None]).mean(axis=1)
    return float(shares.mean())


def purity_by_chance(labels: NDArray[Any], sides: NDArray[Any] | None = None) -> float:
    """The expected purity if each point's neighbours were drawn at random, whatever their number.

    >>> purity_by_chance(np.array(["a", "a", "b", "b"]))
    0.3333333333333333
    >>> purity_by_chance(np.array(["a", "b", "a", "b"]), np.array(["u", "u", "e", "e"]))
    0.5
    """
    same = labels[:, None] == labels[None, :]
    if sides is None:
        return float(((same.sum(axis=1) - 1) / (len(labels) - 1)).mean())
    other = sides[:, None] != sides[None, :]
    return float(((same & other).sum(axis=1) / other.sum(axis=1)).mean())


def _quality(
    name: str, values: NDArray[Any], spots: NDArray[Any], labels: NDArray[Any], sides: NDArray[Any], neighbours: int
) -> Quality:
    judged = np.arange(len(labels))
    if len(judged) > _MOST:
        judged = np.sort(np.random.default_rng(0).choice(len(judged), _MOST, replace=False))
    trust_neighbours = max(1, min(neighbours, (len(judged) - 1) // 2))
    both = len(np.unique(sides)) > 1
    # More neighbours than an instruction has points would be impure in the best of maps.
    count = max(1, min(neighbours, _usual(labels) - 1))
    across = max(1, min(neighbours, *(_usual(labels[sides == side]) for side in np.unique(sides)))) if both else 0
    return Quality(
        points=name,
        count=len(labels),
        trust_neighbours=trust_neighbours,
        trustworthiness=trust(values[judged], spots[judged], trust_neighbours),
        neighbours=count,
        purity=purity_of_neighbours(spots, labels, count),
        purity_chance=purity_by_chance(labels[judged]),
        across_neighbours=across,
        across=purity_of_neighbours(spots, labels, across, sides) if both else float("nan"),
        across_chance=purity_by_chance(labels[judged], sides[judged]) if both else float("nan"),
    )


def _usual(labels: NDArray[Any]) -> int:
    """How many points an instruction has, in the median."""
    return int(np.median(np.unique(labels, return_counts=True)[1]))
