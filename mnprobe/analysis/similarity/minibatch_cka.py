"""Minibatch CKA: the unbiased estimator averaged over batches, for stores whose N x N matrices do not fit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnprobe.analysis.similarity.about import About
from mnprobe.analysis.similarity.arrays import Codes, Rows, as_rows
from mnprobe.analysis.similarity.gram import gram, u_centred
from mnprobe.analysis.similarity.index import Index, Relation
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.seeds import check_seed

__all__ = ["MinibatchCKA", "minibatch_cka"]


@dataclass(frozen=True, kw_only=True)
class MinibatchCKA(Index):
    """mean_b HSIC_1(K_b, L_b) / sqrt(mean_b HSIC_1(K_b, K_b) mean_b HSIC_1(L_b, L_b)) over batches b.

    Numerator and self terms are averaged apart, then divided. `passes` times all rows are shuffled (by `seed`) and cut
    into batches of `batch` rows; rows that do not fill a batch are left out of that pass. With fewer rows than `batch`
    there is one batch, and the value is that of debiased CKA.
    """

    batch: int = 64
    passes: int = 4
    seed: int = 0

    about: ClassVar[About] = About(
        name="minibatch_cka",
        title="minibatch CKA",
        symbol="CKA (minibatch)",
        formula="mean_b HSIC_1(K_b, L_b) / sqrt(mean_b HSIC_1(K_b, K_b) mean_b HSIC_1(L_b, L_b))",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Nguyen et al. 2021 (arXiv 2010.15327), equation 3",
        smallest=4,
        unbiased=True,
        remark="`minibatch_cka` takes batches one by one, for features larger than memory",
    )

    def __post_init__(self) -> None:
        if self.batch < 4 or self.passes < 1:
            raise ConfigError(f"batch must be at least 4 and passes at least 1, got {self.batch!r} and {self.passes!r}")
        check_seed(self.seed)

    def prepare(self, values: Rows, groups: Codes) -> Rows:
        """The Gram matrix."""
        found = gram(values)
        if not np.linalg.norm(found) > 1e-12 * np.einsum("nd,nd->", values, values):
            raise ProbeError(f"{self.about.title} is not defined for these features: all {len(values)} rows are equal")
        return found

    def relate(self, one: Rows, other: Rows) -> Relation:
        """See `Index.relate`."""
        return _Batched(one, other, self._batches(len(one)))

    def _batches(self, n: int) -> NDArray[np.int64]:
        size = min(self.batch, n)
        generator = np.random.default_rng(self.seed)
        shuffled = (generator.permutation(n)[: n // size * size] for _ in range(1 if size == n else self.passes))
        return np.concatenate([rows.reshape(-1, size) for rows in shuffled])


class _Batched(Relation):
    def __init__(self, one: Rows, other: Rows, batches: NDArray[np.int64]) -> None:
        self.other = other
        self.batches = batches
        self.one = u_centred(_blocks(one, batches))
        self.own = float(np.vdot(self.one, self.one))

    def value(self, order: Codes | None = None) -> float:
        rows = self.batches if order is None else order[self.batches]
        other = u_centred(_blocks(self.other, rows))
        return _ratio(float(np.vdot(self.one, other)), self.own, float(np.vdot(other, other)))


def minibatch_cka(batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """Minibatch CKA of pairs (x_b, y_b) that come one after the other; every batch has equally many rows, at least 4.

    Raises TooFewSamples for a smaller batch, FeatureError for batches of different sizes.

    >>> x = np.arange(24.0).reshape(8, 3) ** 2
    >>> round(minibatch_cka([(x[:4], x[:4]), (x[4:], x[4:])]), 12)
    1.0
    """
    sums = np.zeros(3)
    size = 0
    for number, (x, y) in enumerate(batches):
        one, other = as_rows(x, f"x of batch {number}"), as_rows(y, f"y of batch {number}")
        if len(one) < 4:
            raise TooFewSamples(f"minibatch CKA needs batches of at least 4 rows, batch {number} has {len(one)}")
        if len({len(one), len(other), size or len(one)}) > 1:
            raise FeatureError(
                f"batches must all have the same number of rows: batch {number} has {len(one)} and {len(other)}"
                + (f", those before had {size}. Leave a last smaller batch out" if size else "")
            )
        size = len(one)
        k, m = u_centred(gram(one)), u_centred(gram(other))
        sums = sums + np.array([float(np.vdot(k, m)), float(np.vdot(k, k)), float(np.vdot(m, m))])
    if not size:
        raise TooFewSamples("minibatch CKA needs at least one batch, got none")
    return _ratio(*sums.tolist())


def _blocks(matrix: Rows, rows: NDArray[np.int64]) -> Rows:
    return np.asarray(matrix[rows[:, :, None], rows[:, None, :]])


def _ratio(cross: float, one: float, other: float) -> float:
    if not (one > 0 and other > 0):
        raise ProbeError("minibatch CKA is not defined for these features: within batches all rows are equal")
    return cross / float(np.sqrt(one) * np.sqrt(other))
