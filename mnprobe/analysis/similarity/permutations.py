"""Which episodes may change places under the null hypothesis, and seeded draws of such permutations."""

from dataclasses import dataclass
from math import lgamma, log
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity.arrays import Codes, as_codes
from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.labels import Labels
from mnprobe.core.seeds import check_seed

__all__ = ["FEW_BLOCKS", "SCHEMES", "Exchange", "Scheme", "balanced_rows", "draw_orders", "exchange"]

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
"""Fewer whole instructions than this are refused: their permutations say too little."""

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
