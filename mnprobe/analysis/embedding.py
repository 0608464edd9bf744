"""t-SNE of rows of features, with its quality in numbers: trustworthiness and the purity of neighbourhoods."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity.arrays import FAR, centred, in_range
from mnprobe.core.arrays import Array as Given
from mnprobe.core.arrays import as_array, as_positive, as_whole
from mnprobe.core.environment import usable_cpus
from mnprobe.core.errors import ConfigError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = ["Embedding", "TsneConfig", "embed", "knn_purity", "trust"]

Array = NDArray[np.float64]
_FEWEST = 4
_TRUST_AT_MOST = 8000  # points: trustworthiness needs an N x N matrix
_THREADS_FROM = 5000  # points: below, threads of openTSNE only wait for each other (2 took 4 to 5 times as long as 1)


@dataclass(frozen=True, kw_only=True)
class TsneConfig:
    """How one t-SNE is made.

    Attributes:
        perplexity: asked for; the effective number of neighbours. It is cut to (N - 1) / 3 where there are few points.
        seed: of the optimiser and of approximate neighbours; the same seed gives the same coordinates.
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
    """Points in the plane, and how far they can be believed.

    Attributes:
        coordinates: (N, 2).
        perplexity: the one used, which may be smaller than the one asked for.
        trustworthiness: 0 to 1; 1 when no point has a neighbour in the plane that is far in the space.
        neighbours: how many neighbours trustworthiness and purity looked at.
        kl: Kullback-Leibler divergence that the optimiser reached, in nats.
        notes: what openTSNE warned of, and what was changed because of the data.
    """

    coordinates: Array
    perplexity: float
    trustworthiness: float
    neighbours: int
    kl: float
    notes: tuple[str, ...] = ()


def embed(points: Given, config: TsneConfig | None = None, *, start: Given | None = None) -> Embedding:
    """Lay the rows of `points` (N, D) out in the plane by t-SNE.

    Distances are Euclidean: scale the rows to length 1 first where the cosine matters. Neither a factor nor a vector
    added to all rows matters. Points on one line, such as features of one column, begin with a little seeded noise
    across it, and a note says so. Warnings of openTSNE become `notes`; they never become errors.

    Args:
        points: one row per point.
        config: of the t-SNE.
        start: (N, 2), the coordinates of an earlier map of the same points in the same order. The layout then begins
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
    begin: str | Array = "pca"
    if np.ptp(reduced, axis=0).max() == 0:
        begin = "random"
        notes.append("all points are the same: the picture shows nothing but the random start")
    elif start is not None:
        begin = rescale(_checked_start(start, len(rows)))
    elif line is not None:
        begin = jitter(rescale(np.c_[line, np.zeros(len(line))]), random_state=config.seed)
    if line is not None:
        notes.append("all points lie on one line: what the picture shows across it comes from the layout")
    solver = TSNE(
        perplexity=perplexity,
        n_iter=config.warm_iterations if warm else config.iterations,
        early_exaggeration_iter=config.warm_exaggeration_iterations if warm else config.exaggeration_iterations,
        initialization=begin,
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
    neighbours = min(config.neighbours, (len(judged) - 1) // 2)
    return Embedding(
        coordinates=coordinates,
        perplexity=float(perplexity),
        trustworthiness=trust(rows[judged], coordinates[judged], neighbours),
        neighbours=neighbours,
        kl=float(fitted.kl_divergence),
        notes=tuple(dict.fromkeys(notes)),
    )


def trust(points: Given, coordinates: Given, neighbours: int) -> float:
    """Trustworthiness of `coordinates` (N, 2) as a picture of `points` (N, D), from scikit-learn; Euclidean.

    `neighbours` must be below N / 2. Raises TooFewSamples for fewer than 3 points or too many neighbours, ProbeError
    for values that are not finite. Source: Venna and Kaski 2001.
    """
    from sklearn.manifold import trustworthiness

    rows, spots = _checked(points, fewest=3), _checked(coordinates, fewest=3)
    count = as_whole(neighbours, "neighbours", least=1)
    if len(rows) != len(spots):
        raise ProbeError(f"trustworthiness needs a place for each of {len(rows)} points, got {len(spots)}")
    if 2 * count >= len(rows):
        raise TooFewSamples(
            f"trustworthiness with {count} neighbours needs more than {2 * count} points, got {len(rows)}"
        )
    return float(trustworthiness(rows, spots, n_neighbors=count))


def knn_purity(coordinates: Given, labels: Labels, neighbours: int) -> float:
    """Mean share of each point's `neighbours` nearest other points that carry its own label; 0 to 1.

    With fewer points than that, all others are looked at. Raises TooFewSamples for fewer than 2 points, ProbeError for
    values that are not finite, FeatureError for labels that are missing or of another number.

    >>> knn_purity(np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]]), ["a", "a", "b", "b"], 1)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    spots = _checked(coordinates, fewest=2)
    (names,), _ = encode_labels(as_labels(labels, len(spots), "labels"))
    count = min(as_whole(neighbours, "neighbours", least=1), len(names) - 1)
    near = NearestNeighbors(n_neighbors=count).fit(spots).kneighbors(return_distance=False)
    return float((names[near] == names[:, None]).mean())


def _checked(points: Given, fewest: int = _FEWEST) -> Array:
    """Rows of a size that squares of distances can have, centred where they lie far from 0."""
    rows = as_array(points, "points").astype(np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ProbeError(f"t-SNE needs rows of features (N, D), got an array of shape {rows.shape}")
    if len(rows) < fewest:
        raise TooFewSamples(f"t-SNE needs at least {fewest} points, got {len(rows)}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ProbeError(f"t-SNE needs finite values; row {row} of {len(rows)} has others")
    rows, _ = in_range(rows, name="points", title="t-SNE", translation=True)
    middle = centred(rows)
    far = np.abs(rows.mean(axis=0)) > FAR * np.abs(middle).max(axis=0)
    return middle if far.any() else rows


def _on_a_line(rows: Array) -> Array | None:
    """Where the rows lie along the only direction in which they vary; None where there are more, or none."""
    middle = centred(rows)
    direction = middle[np.argmax((middle**2).sum(axis=1))]
    length = float(np.linalg.norm(direction))
    if not length:
        return None
    along = middle @ (direction / length)
    beside = middle - np.outer(along, direction / length)
    return along if float(np.abs(beside).max()) <= 1e-9 * length else None


def _checked_start(start: Given, count: int) -> Array:
    spots = as_array(start, "start").astype(np.float64)
    if spots.shape != (count, 2):
        raise ProbeError(f"the map to start from must have the shape ({count}, 2), got {spots.shape}")
    if not np.isfinite(spots).all() or spots[:, 0].std() == 0:
        raise ProbeError("the map to start from must have finite coordinates that differ")
    return spots


def _principal(rows: Array, components: int) -> Array:
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
