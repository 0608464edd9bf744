"""Blocked matrix products for retrieval, with items sorted by group."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.products import product

__all__ = ["Layout", "count_negatives", "similarity_blocks", "tied_positives"]

_COLUMNS = 256
_BLOCK_ENTRIES = 1 << 24  # similarities held at once: 64 MiB in float32

Sides = tuple[NDArray[np.int64], NDArray[np.int64]]


def similarity_blocks(
    queries: Float[Tensor, "n d"], gallery: Float[Tensor, "m d"]
) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """Blocks of rows of the similarity matrix, in order, with their rows; each block is a new tensor."""
    size = max(1, _BLOCK_ENTRIES // len(gallery))
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        yield rows, product(queries[rows], gallery)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows of both sides in order of their group: group g has u rows starts_u[g] to starts_u[g + 1], e likewise."""

    order_u: Int[Tensor, " n"]
    order_e: Int[Tensor, " m"]
    starts_u: NDArray[np.int64]
    starts_e: NDArray[np.int64]
    own_e: NDArray[np.int64] | None  # for each sorted u row, the sorted e row of its own episode, or -1

    @classmethod
    def of(cls, groups_u: NDArray[np.int64], groups_e: NDArray[np.int64], own_e: NDArray[np.int64] | None) -> "Layout":
        """Sort both sides by group number; `own_e` gives, in the caller's rows, the own e of each u, or -1."""
        n_groups = int(max(groups_u.max(), groups_e.max())) + 1
        order_u, order_e = np.argsort(groups_u, kind="stable"), np.argsort(groups_e, kind="stable")
        if own_e is not None:
            own_e = np.where(own_e >= 0, np.argsort(order_e)[own_e], -1)[order_u]
        return cls(
            order_u=torch.from_numpy(order_u),
            order_e=torch.from_numpy(order_e),
            starts_u=np.concatenate([[0], np.cumsum(np.bincount(groups_u, minlength=n_groups))]),
            starts_e=np.concatenate([[0], np.cumsum(np.bincount(groups_e, minlength=n_groups))]),
            own_e=own_e,
        )

    def rectangles(self) -> Iterator[tuple[int, int, int, int]]:
        """(first u, end u, first e, end e) of every group that has rows on both sides."""
        shared = (np.diff(self.starts_u) > 0) & (np.diff(self.starts_e) > 0)
        for group in np.flatnonzero(shared):
            yield (
                int(self.starts_u[group]),
                int(self.starts_u[group + 1]),
                int(self.starts_e[group]),
                int(self.starts_e[group + 1]),
            )


@dataclass(frozen=True, kw_only=True)
class Best:
    """Similarity of each row's best positive (-inf if it has none), and number of positives tied with it."""

    best_u: Float[Tensor, " n"]
    best_e: Float[Tensor, " m"]
    tied_u: Int[Tensor, " n"]
    tied_e: Int[Tensor, " m"]


def tied_positives(u: Float[Tensor, "n d"], e: Float[Tensor, "m d"], layout: Layout, tolerance: float) -> Best:
    """The best positive of every row, from the products inside each group only."""
    best = Best(
        best_u=u.new_full((len(u),), -torch.inf),
        best_e=e.new_full((len(e),), -torch.inf),
        tied_u=torch.zeros(len(u), dtype=torch.int64, device=u.device),
        tied_e=torch.zeros(len(e), dtype=torch.int64, device=e.device),
    )
    singles: list[tuple[int, int]] = []
    for first_u, end_u, first_e, end_e in layout.rectangles():
        if end_u - first_u == 1 and end_e - first_e == 1:
            if layout.own_e is None or layout.own_e[first_u] != first_e:
                singles.append((first_u, first_e))
            continue
        _best_of_group(u, e, layout, tolerance, (first_u, end_u, first_e, end_e), best)
    if singles:  # groups of one pair each, in one vector operation
        rows_u, rows_e = torch.tensor(singles, device=u.device).T
        for start in range(0, len(singles), 8192):
            part = slice(start, start + 8192)
            value = (u[rows_u[part]] * e[rows_e[part]]).sum(1)
            best.best_u[rows_u[part]] = value
            best.best_e[rows_e[part]] = value
        best.tied_u[rows_u] = 1
        best.tied_e[rows_e] = 1
    return best


def _best_of_group(
    u: Float[Tensor, "n d"],
    e: Float[Tensor, "m d"],
    layout: Layout,
    tolerance: float,
    rectangle: tuple[int, int, int, int],
    best: Best,
) -> None:
    first_u, end_u, first_e, end_e = rectangle
    step = max(1, _BLOCK_ENTRIES // (end_e - first_e))
    chunks = [(start, min(start + step, end_u)) for start in range(first_u, end_u, step)]

    def similarities(start: int, end: int) -> Tensor:
        block = product(u[start:end], e[first_e:end_e])
        if layout.own_e is not None:
            own = layout.own_e[start:end]
            rows = np.flatnonzero(own >= 0)
            block[torch.from_numpy(rows), torch.from_numpy(own[rows] - first_e)] = -torch.inf
        return block

    best_e = best.best_e[first_e:end_e]  # views: filled in place
    tied_e = best.tied_e[first_e:end_e]
    block = None
    for start, end in chunks:
        block = similarities(start, end)
        best.best_u[start:end] = block.amax(1)
        torch.maximum(best_e, block.amax(0), out=best_e)
    for start, end in chunks:  # second pass, with the best similarity of every e
        if len(chunks) > 1 or block is None:
            block = similarities(start, end)
        finite = torch.isfinite(block)
        best.tied_u[start:end] = ((block >= best.best_u[start:end, None] - tolerance) & finite).sum(1)
        tied_e += ((block >= best_e[None, :] - tolerance) & finite).sum(0)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Number of items of other groups above each row's best positive, and number of those tied with it."""

    above_u: NDArray[np.int64]
    above_e: NDArray[np.int64]
    tied_u: NDArray[np.int64]
    tied_e: NDArray[np.int64]


def count_negatives(
    u: Float[Tensor, "n d"],
    e: Float[Tensor, "m d"],
    layout: Layout,
    best: Best,
    tolerance: float,
    block: int | None,
) -> Negatives:
    """One pass over all similarities, in blocks of u rows: each block serves both directions."""
    rows = block or max(1, min(len(u), _BLOCK_ENTRIES // len(e)))
    mask = u.new_empty((rows, min(_COLUMNS, len(e))))
    over_u, from_u = best.best_u[:, None] + tolerance, best.best_u[:, None] - tolerance
    over_e, from_e = best.best_e[None, :] + tolerance, best.best_e[None, :] - tolerance
    above_u = u.new_zeros((len(u),), dtype=torch.int64)
    reach_u = torch.zeros_like(above_u)
    above_e = u.new_zeros((len(e),), dtype=torch.int64)
    reach_e = torch.zeros_like(above_e)
    rectangles = list(layout.rectangles())
    first = 0
    for start in range(0, len(u), rows):
        end = min(start + rows, len(u))
        part = product(u[start:end], e)
        while first < len(rectangles) and rectangles[first][1] <= start:
            first += 1
        for first_u, end_u, first_e, end_e in rectangles[first:]:
            if first_u >= end:
                break
            part[max(first_u - start, 0) : end_u - start, first_e:end_e] = -torch.inf
        # 0/1 flags in float32: their sums are exact to 2^24 and ten times faster than those of booleans
        for left in range(0, len(e), _COLUMNS):  # a few columns at a time stay in the processor's cache
            columns = slice(left, left + _COLUMNS)
            tile = part[:, columns]
            flags = mask[: tile.shape[0], : tile.shape[1]]
            above_u[start:end] += torch.gt(tile, over_u[start:end], out=flags).sum(1).long()
            reach_u[start:end] += torch.ge(tile, from_u[start:end], out=flags).sum(1).long()
            above_e[columns] += torch.gt(tile, over_e[:, columns], out=flags).sum(0).long()
            reach_e[columns] += torch.ge(tile, from_e[:, columns], out=flags).sum(0).long()
    return Negatives(
        above_u=above_u.cpu().numpy(),
        above_e=above_e.cpu().numpy(),
        tied_u=(reach_u - above_u).cpu().numpy(),
        tied_e=(reach_e - above_e).cpu().numpy(),
    )
