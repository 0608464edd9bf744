"""The CKA family: linear, debiased, minibatch and Gaussian-kernel CKA."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity._arrays import (
    Codes,
    Rows,
    as_rows,
    centered,
    double_centered,
    gram,
    in_range,
    rounding,
    squared_distances,
    u_centered,
    undefined,
    varying,
)
from mnprobe.analysis.similarity.base import (
    ROUNDED,
    About,
    Index,
    MatrixIndex,
    Relation,
)
from mnprobe.core.arrays import Array, as_matrix, settle
from mnprobe.core.errors import FeatureError, ProbeError, TooFewSamples
from mnprobe.core.seeds import check_seed

__all__ = [
    "RBFCKA",
    "DebiasedCKA",
    "LinearCKA",
    "MinibatchCKA",
    "debiased_cka",
    "hsic_1",
    "hsic_1_of",
    "linear_cka",
    "minibatch_cka",
    "rbf_cka",
]


@dataclass(frozen=True, kw_only=True)
class LinearCKA(MatrixIndex):
    """<HKH, HLH> / (|HKH| |HLH|) with K = X X^T, L = Y Y^T."""

    about: ClassVar[About] = About(
        name="cka",
        title="linear CKA",
        symbol="CKA",
        formula="<HKH, HLH>_F / (|HKH|_F |HLH|_F), K = X X^T, L = Y Y^T, H = I - 11^T/N",
        low=0.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Kornblith et al. 2019 (arXiv 1905.00414), equation 5",
        smallest=3,
        remark="biased upwards: independent features of width 768 give 0.89 at N = 100. Prefer debiased_cka",
    )

    def matrix(self, values: Rows) -> Rows:
        """The centered Gram matrix."""
        return double_centered(gram(values))


def linear_cka(x: Array, y: Array) -> float:
    """Linear CKA of x (N, p) and y (N, q); see `LinearCKA`.

    >>> round(linear_cka([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]], [[0.0, 2.0], [2.0, 0.0], [6.0, 4.0]]), 12)
    1.0
    """
    return LinearCKA().score(x, y)


@dataclass(frozen=True, kw_only=True)
class DebiasedCKA(MatrixIndex):
    """HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with linear kernels, by U-centering.

    Each HSIC_1 is unbiased, their ratio is so up to order 1/N. The self terms are sums of squares, so no root of a
    negative number is taken.
    """

    about: ClassVar[About] = About(
        name="debiased_cka",
        title="debiased CKA",
        symbol="CKA (debiased)",
        formula="HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)), K = X X^T, L = Y Y^T",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Song et al. 2012 (JMLR 13), equation 5; Szekely and Rizzo 2014 (arXiv 1310.2926), U-centring",
        smallest=4,
        unbiased=True,
        remark="may be negative, which says: nothing above chance",
    )

    def matrix(self, values: Rows) -> Rows:
        """The U-centered Gram matrix."""
        return u_centered(gram(values))


def debiased_cka(x: Array, y: Array) -> float:
    """Debiased linear CKA of x (N, p) and y (N, q), N >= 4; see `DebiasedCKA`.

    >>> x = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [1.0, 5.0]]
    >>> round(debiased_cka(x, x), 12)
    1.0
    """
    return DebiasedCKA().score(x, y)


_WHOLE = 4096  # rows: up to here the Gram matrix of all of them is made once (128 MiB)
_BLOCK = 1 << 22  # numbers of batches' matrices held at once beyond that: 32 MiB


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
        settle(self, wholes={"batch": 4, "passes": 1, "seed": 0})
        check_seed(self.seed)

    def prepare(self, values: Rows, groups: Codes) -> "_Side":
        """The Gram matrix, or where it is large the centered rows, from which batches make their own."""
        small = len(values) <= _WHOLE
        middle = centered(values)
        found = gram(values) if small else middle
        size = float(np.linalg.norm(middle))
        if not size > 8 * rounding(values):
            raise undefined(values, self.about.title)
        return _Side(found, small, rounding(values) / size)

    def relate(self, one: "_Side", other: "_Side") -> Relation:
        """See `Index.relate`."""
        return _Batched(one, other, self._batches(len(one.values)))

    def _batches(self, n: int) -> NDArray[np.int64]:
        size = min(self.batch, n)
        generator = np.random.default_rng(self.seed)
        shuffled = (generator.permutation(n)[: n // size * size] for _ in range(1 if size == n else self.passes))
        return np.concatenate([rows.reshape(-1, size) for rows in shuffled])


@dataclass(frozen=True)
class _Side:
    """Gram matrix (N, N) or centered rows (N, D), and how much of their size rounding could be."""

    values: Rows
    is_gram: bool
    rounded: float

    def centered_blocks(self, rows: NDArray[np.int64]) -> tuple[Rows, float]:
        """U-centered Gram matrices of batches (B, size), and the sum of squares due to rounding alone."""
        if self.is_gram:
            blocks = np.asarray(self.values[rows[:, :, None], rows[:, None, :]])
        else:
            taken = self.values[rows]
            blocks = taken @ taken.transpose(0, 2, 1)
        return u_centered(blocks), _nothing(blocks, self.rounded)


class _Batched(Relation):
    """Works on all batches at once where Gram matrices are at hand, else on a few after the other."""

    def __init__(self, one: _Side, other: _Side, batches: NDArray[np.int64]) -> None:
        self.one, self.other = one, other
        self.batches = batches
        self.step = len(batches) if one.is_gram else max(1, _BLOCK // batches.shape[1] ** 2)
        self.kept = one.centered_blocks(batches) if one.is_gram else None

    def value(self, order: Codes | None = None) -> float:
        sums = np.zeros(5)
        for start in range(0, len(self.batches), self.step):
            batches = self.batches[start : start + self.step]
            one, floor = self.kept or self.one.centered_blocks(batches)
            other, other_floor = self.other.centered_blocks(batches if order is None else order[batches])
            products = [float(np.vdot(*pair)) for pair in ((one, other), (one, one), (other, other))]
            sums += np.array([*products, floor, other_floor])
        return _ratio(*sums.tolist())


def minibatch_cka(batches: Iterable[tuple[Array, Array]]) -> float:
    """Minibatch CKA of pairs (x_b, y_b) that come one after the other; every batch has equally many rows, at least 4.

    Raises TooFewSamples for a smaller batch, FeatureError for batches of different sizes.

    >>> x = np.arange(24.0).reshape(8, 3) ** 2
    >>> round(minibatch_cka([(x[:4], x[:4]), (x[4:], x[4:])]), 12)
    1.0
    """
    sums = np.zeros(5)
    size, sizes = 0, np.zeros(2, dtype=np.int64)
    title = MinibatchCKA.about.title
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
        parts, powers = [], []
        for rows, name in ((one, "x"), (other, "y")):
            fitting, power = in_range(rows, name=f"{name} of batch {number}", title=title, translation=True)
            blocks = gram(fitting)
            spread = float(np.linalg.norm(centered(fitting)))
            parts.append((u_centered(blocks), _nothing(blocks[None], rounding(fitting) / spread if spread else 0.0)))
            powers.append(power)
        (k, floor), (m, other_floor) = parts
        fresh = np.array([np.vdot(k, m), np.vdot(k, k), np.vdot(m, m), floor, other_floor])
        # Batches of one side share one factor, that of the largest: sums are in units of it.
        largest = np.maximum(sizes, powers) if number else np.array(powers)
        sums = _shifted(sums, sizes - largest) + _shifted(fresh, np.array(powers) - largest)
        sizes = largest
    if not size:
        raise TooFewSamples("minibatch CKA needs at least one batch, got none")
    return _ratio(*sums.tolist())


def _shifted(sums: Rows, powers: NDArray[np.int64]) -> Rows:
    """Sums of `_ratio` of features that are 2^powers (of x, of y) times larger."""
    x, y = 2 * powers
    return np.ldexp(sums, [x + y, 2 * x, 2 * y, 2 * x, 2 * y])


def _nothing(blocks: Rows, rounded: float) -> float:
    """The sum of squares that U-centered matrices of such batches (B, size, size) have by rounding alone."""
    sizes = np.einsum("bii->b", blocks)
    return float(np.sum((sizes * (1e-12 + 8 * rounded)) ** 2))


def _ratio(cross: float, one: float, other: float, floor: float, other_floor: float) -> float:
    if not (one > floor and other > other_floor):
        raise ProbeError(
            "minibatch CKA is not defined for these features: within batches rows do not differ in any way it looks at"
        )
    return cross / float(np.sqrt(one) * np.sqrt(other))


@dataclass(frozen=True, kw_only=True)
class RBFCKA(MatrixIndex):
    """CKA with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma = `width` times the median distance between rows.

    Numbers from tools with another rule for sigma are not comparable (some take sigma = 1 whatever the scale).
    """

    width: float = 1.0
    debiased: bool = True

    about: ClassVar[About] = About(
        name="rbf_cka",
        title="RBF CKA",
        symbol="CKA (RBF)",
        formula="as CKA with K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma = width * median_{i<j} |x_i - x_j|",
        low=-1.0,
        high=1.0,
        invariances=frozenset({"orthogonal", "scale", "translation"}),
        source="Kornblith et al. 2019 (arXiv 1905.00414), section 3; debiased as debiased_cka",
        smallest=4,
        unbiased=True,
    )

    def __post_init__(self) -> None:
        settle(self, positive={"width": "a positive multiple of the median distance"}, truths=("debiased",))

    def matrix(self, values: Rows) -> Rows:
        """The centered kernel matrix."""
        distances = squared_distances(values)
        middle = float(np.median(np.sqrt(distances[np.triu_indices(len(values), 1)])))
        if not middle > max(1e-7 * float(np.linalg.norm(centered(values))), 4 * rounding(values)):
            raise ProbeError(
                f"{self.about.title}: more than half of all distances between these {len(values)} rows are zero, so "
                f"the median gives no width{'' if varying(values).any() else ' (collapsed embeddings?)'}"
            )
        kernel = np.exp(-distances / (2 * (self.width * middle) ** 2))
        return u_centered(kernel) if self.debiased else double_centered(kernel)

    def size(self, values: Rows) -> float:
        """A kernel's entries are between 0 and 1; an offset leaves of them what it does of distances."""
        return 1.0 + ROUNDED * rounding(values) / float(np.linalg.norm(centered(values)))


def rbf_cka(x: Array, y: Array, *, width: float = 1.0, debiased: bool = True) -> float:
    """RBF CKA of x (N, p) and y (N, q); see `RBFCKA`.

    >>> x = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [1.0, 5.0]]
    >>> round(rbf_cka(x, x), 12)
    1.0
    """
    return RBFCKA(width=width, debiased=debiased).score(x, y)


_TITLE = "HSIC_1"


def hsic_1(one: Array, other: Array) -> float:
    """The unbiased estimator of HSIC from two (N, N) matrices, symmetric or not (Song et al. 2012, equation 5).

    Raises FeatureError for matrices of other shapes, TooFewSamples for N < 4, ProbeError where the value is too large
    for a float64.
    """
    k, m = as_matrix(one, "one"), as_matrix(other, "other")
    if not k.shape == m.shape == (len(k), len(k)):
        raise FeatureError(f"{_TITLE} needs two matrices (N, N), got shapes {k.shape} and {m.shape}")
    k, power = in_range(k, name="one", title=_TITLE, translation=False)
    m, other_power = in_range(m, name="other", title=_TITLE, translation=False)
    with np.errstate(over="ignore"):
        found = float(np.ldexp(hsic_1_of(k, m), power + other_power))
    if not np.isfinite(found):
        raise ProbeError(f"{_TITLE} of these matrices is of a size that float64 cannot hold: divide them by a factor")
    return found


def hsic_1_of(one: Rows, other: Rows) -> float:
    """`hsic_1` of matrices that are known to be finite and of ordinary size."""
    n = len(one)
    if n < 4:
        raise TooFewSamples(f"HSIC_1 needs at least 4 rows, got {n}")
    k, m = one - np.diag(np.diagonal(one)), other - np.diag(np.diagonal(other))
    total = float(np.einsum("ij,ji->", k, m)) + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * float(k.sum(axis=0) @ m.sum(axis=1))) / (n * (n - 3))
