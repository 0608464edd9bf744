"""Private helpers: feature rows, centering, and N by N matrices in float64."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, as_array, check_finite
from mnprobe.core.errors import FeatureError, ProbeError, TooLittleMemory
from mnprobe.core.labels import Labels, as_labels, encode_labels

__all__ = [
    "FAR",
    "Codes",
    "Rows",
    "as_codes",
    "as_rows",
    "centered",
    "components",
    "double_centered",
    "exponent",
    "free_memory",
    "gram",
    "in_range",
    "memory_told",
    "ordinary",
    "require_memory",
    "rounding",
    "squared_distances",
    "u_centered",
    "undefined",
    "unit_rows",
    "varying",
]

Rows = NDArray[np.float64]
Codes = NDArray[np.int64]

FAR = 1024.0
"""A column whose mean is more than this many times its largest deviation is far from 0: it is centered twice."""

_EPS = float(np.finfo(np.float64).eps)
_ORDINARY = 32  # sizes from 2^-32 to 2^32 are left as they are: their fourth powers and sums are far from both ends
_SAFE = 400  # squares of values beyond 2^500, and sums beyond 2^1000, could overflow
_DIGITS = 1e-5  # steps of float64 may be this large in relation to the differences of rows
_OFFSET = 2.0**33  # equal rows of such values may have lost what made them differ


def as_rows(values: Array, name: str) -> Rows:
    """Features of any make as a finite (N, D) float64 array; FeatureError with the shape or the first bad row."""
    array = as_array(values, name)
    if array.ndim != 2 or 0 in array.shape:
        raise FeatureError(
            f"{name} must hold numbers, one row per episode, shape (episodes, width); got shape {array.shape} of type "
            f"{array.dtype}. Pool tokens to one vector per episode first, e.g. FeatureFile.layer(...).pooled('mean')"
        )
    rows = array.astype(np.float64)
    check_finite(rows, name)
    return rows


def ordinary(size: float) -> int:
    """The power of two to divide by so that numbers of such a size are near 1; 0 where it is ordinary."""
    return exponent(size) if abs(exponent(size)) > _ORDINARY else 0


def in_range(values: Rows, *, name: str, title: str, translation: bool) -> tuple[Rows, int]:
    """Rows over a power of two that brings their size near 1, and that power; 0 and the rows themselves where the size
    is ordinary.

    A product with a power of two is exact, so that an index that no factor changes has the very same value. Where
    `translation` changes nothing either, the size is that of the differences between rows, whatever their offset.

    Raises ProbeError where float64 has kept too few digits of these differences.
    """
    top = float(np.abs(values).max())
    if top >= _OFFSET and not varying(values).any():
        raise ProbeError(_too_few_digits(top, 0.0, name, title))
    if not translation:
        _check_digits(top, top, name, title)
        power = ordinary(top)
        return (np.ldexp(values, -power) if power else values), power
    first = exponent(top) if abs(exponent(top)) > _SAFE else 0
    found = np.ldexp(values, -first) if first else values
    spread = float(np.abs(centered(found)).max())
    moves = varying(found)
    _check_digits(float(np.abs(values[:, moves]).max(initial=0.0)), float(np.ldexp(spread, first)), name, title)
    second = ordinary(spread)
    if second:
        found = np.where(moves, found, 0.0)  # what never changes need not be held, and could overflow
        found = np.ldexp(found, -second)
    return found, first + second


def exponent(size: float) -> int:
    """The power of two next above `size`; 0 for 0."""
    return int(np.frexp(size)[1])


def as_codes(groups: Labels | None, rows: int | None, name: str = "groups") -> Codes:
    """Numbers 0, 1, ... for groups; every row its own where there are none.

    Raises FeatureError, naming `name`, where there is not one label per row or labels are missing.
    """
    if groups is None:
        return np.arange(rows or 0)
    (codes,), _ = encode_labels(as_labels(groups, rows, name))
    return codes


def varying(values: Rows) -> NDArray[np.bool_]:
    """Which columns hold different numbers."""
    return np.asarray((values != values[:1]).any(axis=0))


def centered(values: Rows) -> Rows:
    """Columns with their means taken off; those far from 0 once more, as the first mean was rounded at their size."""
    mean = values.mean(axis=0)
    middle = np.asarray(values - mean)
    far = np.abs(mean) > FAR * np.abs(middle).max(axis=0)
    if far.any():
        rest = middle[:, far] - middle[:, far].mean(axis=0)
        middle[:, far] = np.where(varying(values[:, far]), rest, 0.0)
    return middle


def rounding(values: Rows) -> float:
    """How large the centered rows (Frobenius norm) could be by rounding alone, if all rows were equal."""
    return _EPS * float(np.linalg.norm(values[:, varying(values)]))


def undefined(values: Rows, title: str) -> ProbeError:
    """The error for features of which nothing is left: equal rows, or differences that are only rounding."""
    reason = (
        f"their {len(values)} rows differ by less than float64 can tell at the size of these values. Take the offset "
        "off"
        if varying(values).any()
        else f"all {len(values)} rows are equal"
    )
    return ProbeError(f"{title} is not defined for these features: {reason}")


def unit_rows(values: Rows) -> Rows:
    """Rows scaled to length 1, whatever the size of each; a row of zeros stays zero."""
    size = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1]
    scaled = np.ldexp(values, -size)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))


def components(values: Rows, *, title: str) -> tuple[Rows, Rows, Rows]:
    """Singular value decomposition U, S, V^T of the centered features, without directions that are only rounding.

    Raises ProbeError when nothing is left: all rows equal.
    """
    middle = centered(values)
    u, s, vt = np.linalg.svd(middle, full_matrices=False)
    moves = values[:, varying(values)]
    usual = max(values.shape) * min(float(np.linalg.norm(values)), FAR * float(np.linalg.norm(middle)))
    rounded = float(np.sqrt(values.shape).sum()) * float(np.abs(moves).max(initial=0.0))
    kept = s > _EPS * max(usual, rounded)
    if not kept.any():
        raise undefined(values, title)
    return u[:, kept], s[kept], vt[kept]


def _check_digits(size: float, spread: float, name: str, title: str) -> None:
    if spread > 0 and float(np.spacing(size)) > _DIGITS * spread:
        raise ProbeError(_too_few_digits(size, spread, name, title))


def _too_few_digits(size: float, spread: float, name: str, title: str) -> str:
    return (
        f"{title} cannot be computed: the values of {name} are of size {size:.3g} and their rows lie {spread:.3g} "
        f"apart at most, while numbers of float64 lie {float(np.spacing(size)):.3g} apart there, so too few digits are "
        "left. Take the offset off, or rescale, before the values are rounded to float64"
    )


def gram(values: Rows) -> Rows:
    """Inner products of the centered rows, (N, N). Centring changes nothing in exact arithmetic, but keeps digits."""
    middle = centered(values)
    return np.asarray(middle @ middle.T)


def squared_distances(values: Rows) -> Rows:
    """Squared Euclidean distances between rows, (N, N), never below 0."""
    product = gram(values)
    square = np.diagonal(product)
    found = np.maximum(square[:, None] + square[None, :] - 2 * product, 0.0)
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def double_centered(matrix: Rows) -> Rows:
    """H K H with H = I - 11^T / N: rows and columns sum to zero (Gretton et al. 2005)."""
    rows = matrix.mean(axis=1, keepdims=True)
    return np.asarray(matrix - rows - rows.T + rows.mean())


def u_centered(matrix: Rows) -> Rows:
    """U-centering of symmetric matrices (..., N, N), N >= 4 (Szekely and Rizzo 2014, definition 2).

    Off the diagonal K_ij - (row i) / (N - 2) - (row j) / (N - 2) + (all) / ((N - 1)(N - 2)), where sums leave the
    diagonal out; on the diagonal 0. The inner product of two such matrices over N (N - 3) is HSIC_1, the unbiased
    estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5).
    """
    n = matrix.shape[-1]
    diagonal = np.eye(n, dtype=bool)
    hollow = np.where(diagonal, 0.0, matrix)
    rows = hollow.sum(axis=-1) / (n - 2)
    everything = rows.sum(axis=-1) / (n - 1)
    found = hollow - rows[..., :, None] - rows[..., None, :] + everything[..., None, None]
    return np.where(diagonal, 0.0, found)


_SMALL = 1 << 26  # bytes: less is not looked at
_WAY_OUT = (
    "Compare fewer episodes, or use minibatch_cka (`mnprobe compare --index minibatch_cka`), which measures linear CKA "
    "from batches of episodes and makes no such matrix"
)


def free_memory() -> int | None:
    """Bytes that this process can still take, by the machine and by its own limit; None where that cannot be known."""
    found = [room for room in (_free_on_machine(), _left_of_limit()) if room is not None]
    return min(found) if found else None


def require_memory(title: str, n: int, matrices: int, *, more: int = 0) -> None:
    """TooLittleMemory where `matrices` float64 matrices (n, n) and `more` bytes are more than there is room for."""
    need = 8 * n * n * matrices + more
    if need < _SMALL:
        return
    room = free_memory()
    if room is not None and need > room:
        raise TooLittleMemory(
            f"{title} of {n} episodes holds {matrices} matrices of {n} x {n} numbers at once and needs about "
            f"{_gigabytes(need)} of memory; {_gigabytes(room)} can be had. {_WAY_OUT}"
        )


@contextmanager
def memory_told(title: str, n: int) -> Iterator[None]:
    """A MemoryError inside becomes a TooLittleMemory that says what to do."""
    try:
        yield
    except MemoryError as error:
        raise TooLittleMemory(
            f"{title} of {n} episodes does not fit into memory ({str(error) or 'no more can be had'}). {_WAY_OUT}"
        ) from error


def _free_on_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system counts them
        return None


def _left_of_limit() -> int | None:
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return max(limit - taken, 0)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
