"""t-SNE embeddings, their quality, and nearest neighbors across sides."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.analysis.similarity._arrays import FAR, centered, in_range
from mnprobe.core.arrays import Array, as_array, as_matrix, as_positive, as_whole
from mnprobe.core.arrays import Array as Given
from mnprobe.core.environment import usable_cpus
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = [
    "NEAREST",
    "Embedding",
    "Quality",
    "TsneConfig",
    "embed",
    "knn_purity",
    "main_quality",
    "map_qualities",
    "nearest_across",
    "purity_by_chance",
    "purity_of_neighbors",
    "quality_lines",
    "trust",
]

Floats = NDArray[np.float64]
_FEWEST = 4
_TRUST_AT_MOST = 8000  # points: trustworthiness needs an N x N matrix
_THREADS_FROM = 5000  # points: below, threads of openTSNE only wait for each other (2 took 4 to 5 times as long as 1)


@dataclass(frozen=True, kw_only=True)
class TsneConfig:
    """How one t-SNE is made.

    Attributes:
        perplexity: the effective number of neighbors. It is cut to (N - 1) / 3 where there are few points.
        seed: of the optimizer and of approximate neighbors; the same seed gives the same coordinates.
        iterations: of gradient descent after the early exaggeration.
        exaggeration_iterations: of the early exaggeration.
        pca: reduce to this many principal components first (0: never). It is fast, and loses nothing for N <= pca.
        jobs: threads; None means one below 5,000 points, where more only wait for each other, and all cores above.
            Another number of threads may change the last bits of the coordinates.
        neighbours: for trustworthiness and purity; cut below N / 2.
        warm_iterations, warm_exaggeration_iterations: the same two phases where a layout starts from an earlier map,
            which needs fewer: no trustworthiness was lost by half of the iterations and none of the exaggeration.
    """

    perplexity: float = 30.0
    seed: int = 0
    iterations: int = 500
    exaggeration_iterations: int = 250
    pca: int = 50
    jobs: int | None = None
    neighbours: int = 10
    warm_iterations: int = 250
    warm_exaggeration_iterations: int = 0

    def __post_init__(self) -> None:
        try:
            perplexity = as_positive(self.perplexity, "perplexity")
        except ConfigError:
            perplexity = 0.0
        if not perplexity >= 1:
            raise ConfigError(f"perplexity must be at least 1, got {self.perplexity!r}")
        object.__setattr__(self, "perplexity", perplexity)
        for name, least in {
            "iterations": 1,
            "exaggeration_iterations": 0,
            "pca": 0,
            "neighbours": 1,
            "seed": 0,
            "warm_iterations": 1,
            "warm_exaggeration_iterations": 0,
        }.items():
            number = as_whole(getattr(self, name), name)
            if number < least:
                raise ConfigError(f"{name} must be at least {least}, got {number!r}")
            object.__setattr__(self, name, number)
        if self.pca == 1:
            raise ConfigError("pca must be 0 (none) or at least 2, got 1")
        if self.jobs is not None:
            object.__setattr__(self, "jobs", as_whole(self.jobs, "jobs"))
        if self.jobs == 0:
            raise ConfigError("jobs must be a number of threads, or negative to count from all cores; got 0")

    def threads(self, points: int) -> int:
        """How many threads lay out so many points.

        >>> TsneConfig().threads(4999), TsneConfig(jobs=2).threads(100)
        (1, 2)
        """
        if self.jobs is not None:
            return self.jobs
        return 1 if points < _THREADS_FROM else usable_cpus()


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Points in the plane, and their quality.

    Attributes:
        coordinates: (N, 2).
        perplexity: the one used, which may be smaller than the requested one.
        trustworthiness: 0 to 1; 1 when no point has a neighbor in the plane that is far in the space.
        neighbors: how many neighbors trustworthiness and purity looked at.
        kl: Kullback-Leibler divergence that the optimizer reached, in nats.
        notes: what openTSNE warned of, and what was changed because of the data.
    """

    coordinates: Floats
    perplexity: float
    trustworthiness: float
    neighbors: int
    kl: float
    notes: tuple[str, ...] = ()


def embed(points: Given, config: TsneConfig | None = None, *, start: Given | None = None) -> Embedding:
    """Lay the rows of `points` (N, D) out in the plane by t-SNE.

    Distances are Euclidean: scale the rows to length 1 first where the cosine matters. Neither a factor nor a vector
    added to all rows matters. Points on one line, such as features of one column, start with a little seeded noise
    across it, and a note says so. Warnings of openTSNE become `notes`; they never become errors.

    Args:
        points: one row per point.
        config: of the t-SNE.
        start: (N, 2), the coordinates of an earlier map of the same points in the same order. The layout then starts
            there, shrunk to a standard deviation of 1e-4 as openTSNE advises for such starts, and takes the warm
            numbers of iterations. Left out: the first two principal components.
    Raises:
        TooFewSamples: below 4 points.
        ProbeError: for values that are not finite or of which float64 has lost the digits, or a start of another shape.
    Source: van der Maaten and Hinton 2008; openTSNE (Policar et al. 2024).
    """
    from openTSNE import TSNE  # half a second: only when something is laid out
    from openTSNE.initialization import jitter, rescale

    config = config or TsneConfig()
    rows = _checked(points)
    perplexity = min(config.perplexity, (len(rows) - 1) / 3)
    notes: list[str] = []
    reduced = _principal(rows, config.pca)
    warm = start is not None
    line = _on_a_line(reduced)
    initial: str | Floats = "pca"
    if np.ptp(reduced, axis=0).max() == 0:
        initial = "random"
        notes.append("all points are the same: the picture shows nothing but the random start")
    elif start is not None:
        initial = rescale(_checked_start(start, len(rows)))
    elif line is not None:
        initial = jitter(rescale(np.c_[line, np.zeros(len(line))]), random_state=config.seed)
    if line is not None:
        notes.append("all points lie on one line: what the picture shows across it comes from the layout")
    solver = TSNE(
        perplexity=perplexity,
        n_iter=config.warm_iterations if warm else config.iterations,
        early_exaggeration_iter=config.warm_exaggeration_iterations if warm else config.exaggeration_iterations,
        initialization=initial,
        metric="euclidean",
        n_jobs=config.threads(len(rows)),
        random_state=config.seed,
    )
    with _collected(notes):
        fitted = solver.fit(reduced)
    coordinates = np.asarray(fitted, dtype=np.float64)
    judged = np.arange(len(rows))
    if len(rows) > _TRUST_AT_MOST:
        judged = np.sort(np.random.default_rng(config.seed).choice(len(rows), _TRUST_AT_MOST, replace=False))
        notes.append(f"trustworthiness is that of {_TRUST_AT_MOST} points drawn from {len(rows)}")
    neighbors = min(config.neighbours, (len(judged) - 1) // 2)
    return Embedding(
        coordinates=coordinates,
        perplexity=float(perplexity),
        trustworthiness=trust(rows[judged], coordinates[judged], neighbors),
        neighbors=neighbors,
        kl=float(fitted.kl_divergence),
        notes=tuple(dict.fromkeys(notes)),
    )


def trust(points: Given, coordinates: Given, neighbors: int) -> float:
    """Trustworthiness of `coordinates` (N, 2) as a picture of `points` (N, D), from scikit-learn; Euclidean.

    `neighbors` must be below N / 2. Raises TooFewSamples for fewer than 3 points or too many neighbors, ProbeError
    for values that are not finite. Source: Venna and Kaski 2001.
    """
    from sklearn.manifold import trustworthiness

    rows, spots = _checked(points, fewest=3), _checked(coordinates, fewest=3)
    count = as_whole(neighbors, "neighbors", least=1)
    if len(rows) != len(spots):
        raise ProbeError(f"trustworthiness needs a place for each of {len(rows)} points, got {len(spots)}")
    if 2 * count >= len(rows):
        raise TooFewSamples(
            f"trustworthiness with {count} neighbours needs more than {2 * count} points, got {len(rows)}"
        )
    return float(trustworthiness(rows, spots, n_neighbors=count))


def knn_purity(coordinates: Given, labels: Labels, neighbors: int) -> float:
    """Mean share of each point's `neighbors` nearest other points that carry its own label; 0 to 1.

    With fewer points than that, all others are looked at. Raises TooFewSamples for fewer than 2 points, ProbeError for
    values that are not finite, FeatureError for labels that are missing or of another number.

    >>> knn_purity(np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]]), ["a", "a", "b", "b"], 1)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    spots = _checked(coordinates, fewest=2)
    (names,), _ = encode_labels(as_labels(labels, len(spots), "labels"))
    count = min(as_whole(neighbors, "neighbors", least=1), len(names) - 1)
    near = NearestNeighbors(n_neighbors=count).fit(spots).kneighbors(return_distance=False)
    return float((names[near] == names[:, None]).mean())


def _checked(points: Given, fewest: int = _FEWEST) -> Floats:
    """Rows of a size that squares of distances can have, centered where they are far from 0."""
    rows = as_array(points, "points").astype(np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ProbeError(f"t-SNE needs rows of features (N, D), got an array of shape {rows.shape}")
    if len(rows) < fewest:
        raise TooFewSamples(f"t-SNE needs at least {fewest} points, got {len(rows)}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ProbeError(f"t-SNE needs finite values; row {row} of {len(rows)} has others")
    rows, _ = in_range(rows, name="points", title="t-SNE", translation=True)
    middle = centered(rows)
    far = np.abs(rows.mean(axis=0)) > FAR * np.abs(middle).max(axis=0)
    return middle if far.any() else rows


def _on_a_line(rows: Floats) -> Floats | None:
    """Positions of the rows along the only direction in which they vary; None for several directions, or none."""
    middle = centered(rows)
    direction = middle[np.argmax((middle**2).sum(axis=1))]
    length = float(np.linalg.norm(direction))
    if not length:
        return None
    along = middle @ (direction / length)
    across = middle - np.outer(along, direction / length)
    return along if float(np.abs(across).max()) <= 1e-9 * length else None


def _checked_start(start: Given, count: int) -> Floats:
    spots = as_array(start, "start").astype(np.float64)
    if spots.shape != (count, 2):
        raise ProbeError(f"the map to start from must have the shape ({count}, 2), got {spots.shape}")
    if not np.isfinite(spots).all() or spots[:, 0].std() == 0:
        raise ProbeError("the map to start from must have finite coordinates that differ")
    return spots


def _principal(rows: Floats, components: int) -> Floats:
    """Rows in their leading principal components; exact, and with a fixed sign of each."""
    from sklearn.decomposition import PCA

    if not components or rows.shape[1] <= components or np.ptp(rows, axis=0).max() == 0:
        return rows
    found = PCA(min(components, len(rows) - 1), svd_solver="full").fit_transform(rows)
    return np.asarray(found, dtype=np.float64)


@contextmanager
def _collected(notes: list[str]) -> Iterator[None]:
    """Turn warnings and log messages of openTSNE within the block into `notes`."""
    handler = _Collector(notes)
    logger = logging.getLogger("openTSNE")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        notes += [str(warning.message) for warning in caught]
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(level=logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(record.getMessage())


_FEWEST_FOR_QUALITY = 4  # points: fewer have no neighborhoods
_MOST = 8000  # points: trustworthiness needs an N x N matrix


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The numbers of one group of points of a map; each looks at the points of this group alone.

    Attributes:
        points: 'all', 'held-out' (episodes that the heads were not fitted on) or 'fitted'.
        count: of points.
        trustworthiness: 0 to 1, of `trust_neighbours` neighbors (Venna and Kaski 2001).
        purity: mean share of each point's `neighbours` nearest points in the plane with its own instruction.
        purity_chance: what that share would be if neighbors were drawn at random, exactly.
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


def map_qualities(values: Array, coordinates: Array, points: pd.DataFrame, neighbors: int) -> tuple[Quality, ...]:
    """The quality of a map (N, 2) of `values` (N, D): of all points first, then of held-out and of fitted ones.

    `points` has a row per point with columns task, instruction, side and fitted. Groups of fewer than four points are
    left out. Instructions count as the same only within a task.

    Raises FeatureError for a value or place that is missing or not finite, ConfigError for an impossible number of
    neighbors.
    """
    neighbors = as_whole(neighbors, "neighbors", least=1)
    if len(points) < _FEWEST_FOR_QUALITY:
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
        _quality(name, rows[here], spots[here], labels[here], sides[here], neighbors)
        for name, here in groups.items()
        if here.sum() >= _FEWEST_FOR_QUALITY
    )


def main_quality(qualities: Sequence[Quality]) -> Quality:
    """The most informative one: of held-out points where there are any, else of fitted ones, else of all."""
    found = {quality.points: quality for quality in qualities}
    return found.get("held-out") or found.get("fitted") or found["all"]


def quality_lines(qualities: Sequence[Quality]) -> list[str]:
    """Quality of a map in two or three short lines."""
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


def purity_of_neighbors(
    coordinates: NDArray[Any], labels: NDArray[Any], neighbors: int, sides: NDArray[Any] | None = None
) -> float:
    """Mean share of each point's `neighbors` nearest other points that carry its own label; 0 to 1.

    With `sides` (N,), neighbors are searched among the points of another side only.

    >>> spots = np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]])
    >>> purity_of_neighbors(spots, np.array(["a", "b", "b", "a"]), 1)
    0.0
    >>> purity_of_neighbors(spots, np.array(["a", "b", "b", "a"]), 1, np.array(["u", "u", "e", "e"]))
    0.0
    """
    from sklearn.neighbors import NearestNeighbors

    if sides is None:
        count = min(neighbors, len(labels) - 1)
        near = NearestNeighbors(n_neighbors=count).fit(coordinates).kneighbors(return_distance=False)
        return float((labels[near] == labels[:, None]).mean())
    shares = np.zeros(len(labels))
    for side in np.unique(sides):
        own, others = sides == side, sides != side
        count = min(neighbors, int(others.sum()))
        finder = NearestNeighbors(n_neighbors=count).fit(coordinates[others])
        near = finder.kneighbors(coordinates[own], return_distance=False)
        shares[own] = (labels[others][near] == labels[own][:, None]).mean(axis=1)
    return float(shares.mean())


def purity_by_chance(labels: NDArray[Any], sides: NDArray[Any] | None = None) -> float:
    """The expected purity if each point's neighbors were drawn at random, whatever their number.

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
    name: str, values: NDArray[Any], spots: NDArray[Any], labels: NDArray[Any], sides: NDArray[Any], neighbors: int
) -> Quality:
    judged = np.arange(len(labels))
    if len(judged) > _MOST:
        judged = np.sort(np.random.default_rng(0).choice(len(judged), _MOST, replace=False))
    trust_neighbours = max(1, min(neighbors, (len(judged) - 1) // 2))
    both = len(np.unique(sides)) > 1
    # More neighbors than an instruction has points would be impure in the best of maps.
    count = max(1, min(neighbors, _usual(labels) - 1))
    across = max(1, min(neighbors, *(_usual(labels[sides == side]) for side in np.unique(sides)))) if both else 0
    return Quality(
        points=name,
        count=len(labels),
        trust_neighbours=trust_neighbours,
        trustworthiness=trust(values[judged], spots[judged], trust_neighbours),
        neighbours=count,
        purity=purity_of_neighbors(spots, labels, count),
        purity_chance=purity_by_chance(labels[judged]),
        across_neighbours=across,
        across=purity_of_neighbors(spots, labels, across, sides) if both else float("nan"),
        across_chance=purity_by_chance(labels[judged], sides[judged]) if both else float("nan"),
    )


def _usual(labels: NDArray[Any]) -> int:
    """How many points an instruction has, in the median."""
    return int(np.median(np.unique(labels, return_counts=True)[1]))


NEAREST = 3
_ROWS = 512  # at a time, so that N x N cosines are never in memory


def nearest_across(
    z_u: Array, z_e: Array, ids: Sequence[str], *, count: int = NEAREST
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The nearest items of the other side by cosine: one table for the rows of z_u, one for those of z_e.

    Args:
        z_u, z_e: (N, D) rows of length 1; row i of both is episode `ids[i]`.
        ids: (N) names of the episodes.
        count: how many neighbors; cut to N.

    Returns:
        Two tables of N rows: neighbor_1, cosine_1 (the nearest) to neighbor_<count>, cosine_<count>, then own_cosine
        and own_rank: rank of the episode's own counterpart among all N (1: nearest; ties count half).

    >>> import numpy as np
    >>> across, _ = nearest_across(np.eye(2), np.eye(2)[::-1], ["a", "b"], count=1)
    >>> across["neighbour_1"].tolist(), across["own_rank"].tolist()
    (['b', 'a'], [2.0, 2.0])
    """
    one, other, count = as_matrix(z_u, "z_u"), as_matrix(z_e, "z_e"), as_whole(count, "count", least=1)
    if not len(one) == len(other) == len(ids) or one.shape != other.shape:
        raise FeatureError(f"z_u and z_e must be of the same {len(ids)} episodes, got {one.shape} and {other.shape}")
    for rows, name in ((one, "z_u"), (other, "z_e")):
        top = np.abs(rows).max(axis=1)
        length = np.where(top <= 1.01, np.linalg.norm(np.minimum(np.abs(rows), 1.01), axis=1), np.inf)
        wrong = np.flatnonzero((np.abs(length - 1) > 1e-2) & (top > 0))  # a row of zeros has no direction, nor a length
        if len(wrong):
            raise FeatureError(f"{name}: rows must have length 1; row {wrong[0]} has {length[wrong[0]]:.3g}")
    return _nearest(one, other, ids, count), _nearest(other, one, ids, count)


def _nearest(queries: NDArray[np.float64], found: NDArray[np.float64], ids: Sequence[str], count: int) -> pd.DataFrame:
    names = np.asarray(ids, dtype=object)
    count = min(count, len(names))
    order, cosines = np.empty((len(names), count), dtype=np.int64), np.empty((len(names), count))
    own, rank = np.empty(len(names)), np.empty(len(names))
    for start in range(0, len(names), _ROWS):
        rows = slice(start, min(start + _ROWS, len(names)))
        similar = queries[rows] @ found.T
        inside = np.arange(len(similar))
        order[rows] = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        cosines[rows] = np.take_along_axis(similar, order[rows], axis=1)
        own[rows] = similar[inside, start + inside]
        nearer, as_near = similar > own[rows, None], similar == own[rows, None]
        rank[rows] = 1 + nearer.sum(axis=1) + (as_near.sum(axis=1) - 1) / 2
    columns: dict[str, Any] = {}
    for place in range(count):
        columns |= {f"neighbour_{place + 1}": names[order[:, place]], f"cosine_{place + 1}": cosines[:, place]}
    return pd.DataFrame(columns | {"own_cosine": own, "own_rank": rank})
