"""Permutation tests of indices: schemes, null samples, p of the maximum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lgamma, log
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity._arrays import Codes, Rows, as_codes, memory_told, ordinary
from mnprobe.analysis.similarity.base import Index, MatrixIndex
from mnprobe.core.arrays import Array, as_array, as_whole
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels
from mnprobe.core.seeds import check_seed

__all__ = [
    "FEW_BLOCKS",
    "SCHEMES",
    "Exchange",
    "Family",
    "Scheme",
    "SimilarityTest",
    "balanced_rows",
    "calibrate",
    "calibrated_level",
    "column_values",
    "draw_orders",
    "exchange",
    "p_value",
    "similarity_test",
]

Scheme = Literal["free", "within-task", "within-instruction", "instructions", "instructions-within-task"]

SCHEMES: dict[str, str] = {
    "free": "any episode with any other: is there any agreement at all?",
    "within-task": "episodes of one task: do episodes agree beyond their task?",
    "within-instruction": "episodes of one instruction: do episodes agree beyond their instruction?",
    "instructions": "whole instructions: do instructions agree, counted as often as there are instructions?",
    "instructions-within-task": "whole instructions of one task: do instructions agree beyond their task?",
}
"""What is exchanged in each scheme, and the question that its p answers."""

FEW_BLOCKS = 8
"""Fewer whole instructions than this are refused: they have too few permutations."""

_LEAST = 40  # fewer different permutations than this cannot give p < 0.05 with any margin
_KEPT = 0.8  # share of instructions that balancing keeps at least


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What may change places among N rows: rows of one `stratum`, or whole `block`s of one stratum and equal size.

    `block` is None where single rows move. `log_count` is the natural logarithm of how many permutations there are.
    """

    scheme: Scheme
    stratum: Codes
    block: Codes | None
    log_count: float

    def orders(self, count: int, seed: int) -> NDArray[np.int64]:
        """`count` random permutations, (count, N): row i of one side meets row `order[i]` of the other."""
        return draw_orders(self.stratum, self.block, count, seed)


def exchange(scheme: str, *, tasks: Labels | None = None, instructions: Labels | None = None, n: int) -> Exchange:
    """What `scheme` lets change places among `n` rows with these labels.

    Whole instructions change places only with those of equal size, which keeps the test exact: use `balanced_rows`
    first where sizes differ.

    Raises ConfigError for an unknown scheme or labels that it needs and are missing, TooFewSamples where next to
    nothing can move, with the numbers.
    """
    n = as_whole(n, "n", least=0)
    if scheme not in get_args(Scheme):
        raise ConfigError(f"permute must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    needs = {"tasks": "task" in scheme, "instructions": "instruction" in scheme}
    for name, given in (("tasks", tasks), ("instructions", instructions)):
        if needs[name] and given is None:
            raise ConfigError(f"permute={scheme!r} needs the {name[:-1]} of every row: pass {name}=")
    together = np.zeros(n, dtype=np.int64)
    if scheme in ("free", "within-task", "within-instruction"):
        by = {"within-task": "tasks", "within-instruction": "instructions"}.get(scheme)
        labels = {"tasks": tasks, "instructions": instructions}
        stratum, block = together if by is None else as_codes(labels[by], n, by), None
        units = np.bincount(stratum)
    else:
        block = as_codes(instructions, n, "instructions")
        stratum = as_codes(tasks, n, "tasks") if scheme == "instructions-within-task" else together
        units = np.array([len(rows) for rows in _classes(stratum, block)])
    found = Exchange(
        scheme=scheme,  # type: ignore[arg-type]  # one of get_args(Scheme), as checked above
        stratum=stratum,
        block=block,
        log_count=float(sum(lgamma(size + 1) for size in units)),
    )
    _refuse_few(found, units, n)
    return found


def balanced_rows(instructions: Labels, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows (ascending) of an equal number of random episodes of each instruction, so that whole instructions can swap.

    That number is chosen so that as many rows as possible stay while at least 80 % of the instructions do; smaller
    instructions are left out.

    >>> balanced_rows(["a", "a", "b", "b", "c", "c", "d", "d", "e"]).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    codes = as_codes(instructions, None, "instructions")
    sizes = np.bincount(codes)
    allowed = [size for size in np.unique(sizes) if (sizes >= size).mean() >= _KEPT]
    size = max(allowed, key=lambda candidate: (int(candidate * (sizes >= candidate).sum()), -candidate))
    generator = np.random.default_rng([check_seed(as_whole(seed, "seed", least=0)), 2])
    keys = generator.random(len(codes))
    kept = [rows[np.argsort(keys[rows])[:size]] for rows in _members(codes) if len(rows) >= size]
    return np.sort(np.concatenate(kept))


def draw_orders(stratum: Codes, block: Codes | None, count: int, seed: int) -> NDArray[np.int64]:
    """`count` random permutations (count, N) within strata, of rows or of whole blocks of equal size.

    >>> draw_orders(np.array([0, 0, 1]), None, 4, 0)[:, 2].tolist()
    [2, 2, 2, 2]
    """
    if count < 1:
        raise ConfigError(f"permutations must be at least 1, got {count!r}")
    count = as_whole(count, "permutations")
    generator = np.random.default_rng([check_seed(as_whole(seed, "seed", least=0)), 3])
    if block is None:
        orders = np.empty((count, len(stratum)), dtype=np.int64)
        places = np.argsort(stratum, kind="stable")
        orders[:, places] = np.argsort(stratum + generator.random((count, len(stratum))), axis=1)
        return orders
    orders = np.tile(np.arange(len(stratum)), (count, 1))
    for rows in _classes(stratum, block):
        if len(rows) > 1:
            moved = np.argsort(generator.random((count, len(rows))), axis=1)
            orders[:, rows] = rows[moved]
    return orders


def _members(codes: Codes) -> list[NDArray[np.int64]]:
    """Rows of each code, ascending."""
    ends = np.cumsum(np.bincount(codes))[:-1]
    return [np.asarray(rows) for rows in np.split(np.argsort(codes, kind="stable"), ends) if len(rows)]


def _classes(stratum: Codes, block: Codes) -> list[NDArray[np.int64]]:
    """For each stratum and size, the rows of its blocks as (blocks, size)."""
    found: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for rows in _members(block):
        strata = np.unique(stratum[rows])
        if len(strata) > 1:
            raise ConfigError(
                f"an instruction must belong to one task to be moved within it; rows {rows[:3].tolist()} ... of one "
                f"instruction have {len(strata)} tasks. Use permute='instructions'"
            )
        found.setdefault((int(strata[0]), len(rows)), []).append(rows)
    return [np.array(blocks) for blocks in found.values()]


def _refuse_few(found: Exchange, units: NDArray[np.int64], n: int) -> None:
    what = "instructions" if found.block is not None else "episodes"
    movable = int(units[units > 1].sum())
    if found.block is not None and movable < FEW_BLOCKS:
        raise TooFewSamples(
            f"permute={found.scheme!r} moves whole instructions among those of equal size, and needs at least "
            f"{FEW_BLOCKS} that can move; {movable} of {int(units.sum())} can. "
            "Take more instructions, or permute episodes (free, within-task)"
        )
    if found.log_count < log(_LEAST):
        raise TooFewSamples(
            f"permute={found.scheme!r}: {movable} of {n} {what} can change places, which gives fewer than {_LEAST} "
            "different permutations, so no p below 0.05. Take more episodes, or a coarser scheme (free, within-task)"
        )


LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class SimilarityTest:
    """A value with its null distribution.

    Attributes:
        value: the index.
        null: (K,) its values under permutations.
        p: (b + 1) / (K + 1), b permutations that are at least as alike.
        null_mean: what the index gives when nothing agrees beyond the scheme.
        null_95: the calibrated level: a value beyond it has p <= 0.05.
        higher_is_alike: the index's direction.
    """

    value: float
    null: Rows
    p: float
    null_mean: float
    null_95: float
    higher_is_alike: bool


def similarity_test(
    index: Index,
    x: Array,
    y: Array,
    *,
    permute: str = "free",
    groups: Labels | None = None,
    tasks: Labels | None = None,
    instructions: Labels | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> SimilarityTest:
    """Test x (N, p) against y (N, q) by permuting the rows of y as the scheme `permute` allows.

    `groups` are the index's own (neighbors outside, folds); the instructions where left out.

    >>> from mnprobe.analysis.similarity.cka import DebiasedCKA
    >>> x = np.random.default_rng(0).standard_normal((30, 3))
    >>> similarity_test(DebiasedCKA(), x, x, permutations=99).p
    0.01
    """
    relation = index.relation(x, y, instructions if groups is None else groups)
    n = len(x)
    with memory_told(index.about.title, n):
        orders = exchange(permute, tasks=tasks, instructions=instructions, n=n).orders(permutations, seed)
        value, null = relation.value(), relation.values(orders)
    higher = index.about.higher_is_alike
    return SimilarityTest(
        value=value,
        null=null,
        p=float(p_value(np.asarray(value), null, higher_is_alike=higher)),
        null_mean=float(null.mean()),
        null_95=float(calibrated_level(null, higher_is_alike=higher)),
        higher_is_alike=higher,
    )


def p_value(value: Array, null: Array, *, higher_is_alike: bool = True) -> Rows:
    """(b + 1) / (K + 1) over the last axis of `null` (..., K); values equal up to rounding count as at least as alike.

    Raises FeatureError for shapes that do not fit, an empty null, or values that are not finite.

    >>> float(p_value(np.array(2.0), np.array([1.0, 2.0, 3.0])))
    0.75
    """
    sign = 1.0 if higher_is_alike else -1.0
    value, null = as_sample(value, "value"), as_sample(null, "null")
    if null.ndim == 0 or not null.shape[-1] or null.shape[:-1] != value.shape:
        raise FeatureError(f"null must hold (..., K) values for those of shape {value.shape}, got shape {null.shape}")
    room = 1e-9 * np.maximum(np.abs(value), np.minimum(np.abs(null).max(axis=-1), 1e-3))
    beyond = (sign * null >= (sign * value - room)[..., None]).sum(axis=-1)
    return np.asarray((beyond + 1) / (null.shape[-1] + 1))


def calibrated_level(null: Array, *, level: float = LEVEL, higher_is_alike: bool = True) -> Rows:
    """The value that must be passed for p <= `level`, over the last axis of `null` (..., K).

    It is the floor(level (K + 1))-th most alike value of the null sample.
    Raises ConfigError where K is too small for any value to have such a p, FeatureError for values that are not finite.

    >>> float(calibrated_level(np.arange(99.0)))
    94.0
    """
    null = np.atleast_1d(as_sample(null, "null"))
    place = int(np.floor(level * (null.shape[-1] + 1) + 1e-9))
    if place < 1:
        raise ConfigError(
            f"permutations must be at least {int(np.ceil(1 / level)) - 1} for p <= {level}, got {null.shape[-1]}"
        )
    ordered = np.sort(null, axis=-1)
    return np.asarray(ordered[..., -place] if higher_is_alike else ordered[..., place - 1])


def as_sample(values: Array, name: str) -> Rows:
    """Finite numbers of any shape as float64; FeatureError that names `name` otherwise: NaN would count as unlike."""
    sample = as_array(values, name).astype(np.float64)
    if not np.isfinite(sample).all():
        raise FeatureError(f"{name} holds NaN or infinity, which has no place in an order; leave such values out")
    return sample


@dataclass(frozen=True, kw_only=True)
class Family:
    """Values (rows, columns) with their null; NaN where a cell is not defined.

    Attributes:
        value: the index in each cell.
        null_mean, null_sd, null_95: of each cell's null sample; null_95 is the calibrated level.
        p: of each cell by itself.
        p_max: of each cell when it was chosen among all: the share of permutations whose best cell is at least as far
            beyond its own null. Only this may be quoted for a maximum.
        best: row and column of the cell that is farthest beyond its null.
    """

    value: Rows
    null_mean: Rows
    null_sd: Rows
    null_95: Rows
    p: Rows
    p_max: Rows
    best: tuple[int, int]


def column_values(
    index: Index,
    ones: Sequence[Any],
    other: Any,
    orders: Array,
    *,
    note: Callable[[int, ProbeError], None] | None = None,
) -> tuple[Rows, Rows]:
    """One column of cells: values (R,) and null samples (R, K) of the prepared sides `ones` against `other`.

    A side that is None, and a pair for which the index is not defined, give NaN; `note` receives the latter.
    """
    orders = as_array(orders, "orders")
    if orders.ndim != 2 or orders.dtype.kind not in "iu":
        raise FeatureError(f"orders must be rows of whole numbers (K, N), got shape {orders.shape} of {orders.dtype}")
    values, null = np.full(len(ones), np.nan), np.full((len(ones), len(orders)), np.nan)
    known = [row for row, one in enumerate(ones) if one is not None]
    if other is None or not known:
        return values, null
    if isinstance(index, MatrixIndex):
        whole = np.concatenate([np.arange(orders.shape[1])[None], orders])
        found = index.permuted([ones[row] for row in known], other, whole)
        values[known], null[known] = found[:, 0], found[:, 1:]
        return values, null
    for row in known:
        try:
            relation = index.relate(ones[row], other)
            values[row], null[row] = relation.value(), relation.values(orders)
        except ProbeError as error:
            values[row] = np.nan
            if note is None:
                raise
            note(row, error)
    return values, null


def calibrate(value: Array, null: Array, *, higher_is_alike: bool = True) -> Family:
    """From values (R, C) and null samples (R, C, K), all of the same K permutations, to p of cells and of the maximum.

    The maximum is taken over cells in units of each cell's own null: (value - mean) / deviation, both over the K
    permutations and the observed pairing together, so that the observed one is treated as any other and the test stays
    exact (Westfall and Young 1993, single-step max T).

    Raises ProbeError when no cell is defined, FeatureError for shapes that do not fit.
    """
    value, null = as_array(value, "value").astype(np.float64), as_array(null, "null").astype(np.float64)
    if value.ndim != 2 or null.ndim != 3 or null.shape[:2] != value.shape:
        raise FeatureError(f"value and null must be (R, C) and (R, C, K), got shapes {value.shape} and {null.shape}")
    defined = np.isfinite(value) & np.isfinite(null).all(axis=-1)
    if not defined.any():
        raise ProbeError(f"none of the {value.size} cells has a value, so there is nothing to calibrate")
    sign = 1.0 if higher_is_alike else -1.0
    cells = null[defined]
    everything = sign * np.concatenate([value[defined][:, None], cells], axis=1)
    power = np.array([ordinary(size) for size in np.abs(everything).max(axis=1)], dtype=np.int64)
    everything, near_one = np.ldexp(everything, -power[:, None]), np.ldexp(cells, -power[:, None])
    mean, deviation = everything.mean(axis=1, keepdims=True), everything.std(axis=1, keepdims=True)
    size = np.minimum(np.abs(everything).max(axis=1, keepdims=True), 1e-3)
    flat = deviation <= 1e-12 * np.maximum(np.abs(mean), size)
    distance = np.where(flat, 0.0, (everything - mean) / np.where(flat, 1.0, deviation))
    best_of_null = distance[:, 1:].max(axis=0)

    def spread(numbers: Rows) -> Rows:
        found = np.full(value.shape, np.nan)
        found[defined] = numbers
        return found

    beyond = spread(distance[:, 0])
    row, column = np.unravel_index(int(np.nanargmax(beyond)), value.shape)
    return Family(
        value=spread(value[defined]),
        null_mean=spread(np.ldexp(near_one.mean(axis=1), power)),
        null_sd=spread(np.ldexp(near_one.std(axis=1), power)),
        null_95=spread(calibrated_level(cells, higher_is_alike=higher_is_alike)),
        p=spread(p_value(value[defined], cells, higher_is_alike=higher_is_alike)),
        p_max=spread(p_value(distance[:, 0], np.broadcast_to(best_of_null, cells.shape))),
        best=(int(row), int(column)),
    )
