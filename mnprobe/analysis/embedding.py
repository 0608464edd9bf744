"""t-SNE of rows of features, with its quality in numbers: trustworthiness and the purity of neighbourhoods."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, ProbeError, TooFewSamples

__all__ = ["Embedding", "TsneConfig", "embed", "knn_purity", "trust"]

Array = NDArray[np.float64]
_FEWEST = 4
_TRUST_AT_MOST = 8000  # points: trustworthiness needs an N x N matrix


@dataclass(frozen=True, kw_only=True)
class TsneConfig:
    """How one t-SNE is made.

    Attributes:
        perplexity: asked for; the effective number of neighbours. It is cut to (N - 1) / 3 where there are few points.
        seed: of the optimiser and of approximate neighbours; the same seed gives the same coordinates.
        iterations: of gradient descent after the early exaggeration.
        exaggeration_iterations: of the early exaggeration.
        pca: reduce to this many principal components first (0: never). It is fast, and loses nothing for N <= pca.
        jobs: threads. One is the default: on few points more threads only wait for each other.
        neighbours: for trustworthiness and purity; cut below N / 2.
    """

    perplexity: float = 30.0
    seed: int = 0
    iterations: int = 500
    exaggeration_iterations: int = 250
    pca: int = 50
    jobs: int = 1
    neighbours: int = 10

    def __post_init__(self) -> None:
        if not self.perplexity >= 1:
            raise ConfigError(f"perplexity must be at least 1, got {self.perplexity!r}")
        for name, least in {
            "iterations": 1,
            "exaggeration_iterations": 0,
            "pca": 0,
            "neighbours": 1,
            "seed": 0,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
        if self.pca == 1:
            raise ConfigError("pca must be 0 (none) or at least 2, got 1")
        if self.jobs == 0:
            raise ConfigError("jobs must be a number of threads, or negative to count from all cores; got 0")


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


def embed(points: NDArray[Any], config: TsneConfig | None = None) -> Embedding:
    """Lay the rows of `points` (N, D) out in the plane by t-SNE, with principal components as the start.

    Distances are Euclidean: scale the rows to length 1 first where the cosine matters. Warnings of openTSNE become
    `notes`; they never become errors.

    Raises:
        TooFewSamples: below 4 points.
        ProbeError: for values that are not finite.
    Source: van der Maaten and Hinton 2008; openTSNE (Policar et al. 2024).
    """
    from openTSNE import TSNE  # half a second: only when something is laid out

    config = config or TsneConfig()
    rows = _checked(points)
    perplexity = min(config.perplexity, (len(rows) - 1) / 3)
    notes: list[str] = []
    reduced = _principal(rows, config.pca)
    start = "pca" if np.ptp(reduced, axis=0).max() > 0 else "random"
    if start == "random":
        notes.append("all points are the same: the picture shows nothing but the random start")
    solver = TSNE(
        perplexity=perplexity,
        n_iter=config.iterations,
        early_exaggeration_iter=config.exaggeration_iterations,
        initialization=start,
        metric="euclidean",
        n_jobs=config.jobs,
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


def trust(points: NDArray[Any], coordinates: NDArray[Any], neighbours: int) -> float:
    """Trustworthiness of `coordinates` (N, 2) as a picture of `points` (N, D), from scikit-learn; Euclidean.

    `neighbours` must be below N / 2. Source: Venna and Kaski 2001.
    """
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(points, coordinates, n_neighbors=neighbours))


def knn_purity(coordinates: NDArray[Any], labels: Sequence[object], neighbours: int) -> float:
    """Mean share of each point's `neighbours` nearest other points that carry its own label; 0 to 1.

    >>> knn_purity(np.array([[0.0, 0], [0, 1], [9, 0], [9, 1]]), ["a", "a", "b", "b"], 1)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    names = np.asarray([str(label) for label in labels])
    count = min(neighbours, len(names) - 1)
    near = NearestNeighbors(n_neighbors=count).fit(coordinates).kneighbors(return_distance=False)
    return float((names[near] == names[:, None]).mean())


def _checked(points: NDArray[Any]) -> Array:
    rows = np.asarray(points, dtype=np.float64)
    if rows.ndim != 2:
        raise ProbeError(f"t-SNE needs rows of features (N, D), got an array of shape {rows.shape}")
    if len(rows) < _FEWEST:
        raise TooFewSamples(f"t-SNE needs at least {_FEWEST} points, got {len(rows)}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ProbeError(f"t-SNE needs finite values; row {row} of {len(rows)} has others")
    return rows


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
