"""Pooling of ragged tokens to one vector per episode, in blocks of rows."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mnprobe.core.errors import FeatureError

__all__ = ["BLOCK_ROWS", "POOLINGS", "pool"]

BLOCK_ROWS = 16_384
POOLINGS = ("mean", "first", "last", "max", "token:<k>", "concat")
Array = np.ndarray[Any, Any]
_TOKEN = re.compile(r"token:(\d+)")


def pool(rows: Any, offsets: Array, keyframe: Array | None, how: str, *, where: str) -> Array:
    """Pool tokens to one vector per episode.

    Args:
        rows: (M, D), any object that returns an array when sliced by rows; read in blocks.
        offsets: (N+1,); episode i has rows offsets[i]:offsets[i+1].
        keyframe: (M,) the keyframe of each token, or None where an episode is a single group of tokens.
        how: "mean", "max" over all tokens of the episode; "first", "last" token of the episode; "token:<k>" the k-th
            token (from 0) of each keyframe, averaged over keyframes; "concat" concatenates all tokens of a keyframe,
            averaged over keyframes (every keyframe must have equally many tokens).
        where: file and HDF5 path, for errors.
    Returns:
        (N, D) float32; (N, tokens * D) for "concat". Sums run in float64.
    Raises:
        FeatureError: unknown pooling, an episode without tokens, a missing token, non-finite values.

    >>> tokens = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    >>> pool(tokens, np.array([0, 2, 3]), None, "mean", where="example").tolist()
    [[2.0, 3.0], [10.0, 20.0]]
    """
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if empty.size:
        raise FeatureError(f"{where}: episode number {int(empty[0])} has no tokens, so nothing can be pooled")
    if how == "mean":
        total = _reduce(rows, offsets, np.add, 0.0, where)
        return (total / np.diff(offsets)[:, None]).astype(np.float32)
    if how == "max":
        return _reduce(rows, offsets, np.maximum, -np.inf, where).astype(np.float32)
    if how == "first":
        return _pick(rows, offsets[:-1], where)
    if how == "last":
        return _pick(rows, offsets[1:] - 1, where)
    if how != "concat" and not _TOKEN.fullmatch(how):
        raise FeatureError(f"{where}: unknown pooling {how!r}; known are {', '.join(POOLINGS)}")
    starts, owner = _groups(offsets, keyframe, len(rows))
    lengths = np.diff(np.append(starts, len(rows)))
    if how == "concat":
        few, many = lengths.min(), lengths.max()
        if few != many:
            raise FeatureError(f"{where}: 'concat' needs equally many tokens at every keyframe, found {few} to {many}")
        return np.concatenate([_mean_of(rows, starts + k, owner, where) for k in range(int(lengths[0]))], axis=1)
    k = int(how.removeprefix("token:"))
    if k >= lengths.min():
        raise FeatureError(
            f"{where}: pooling {how!r} asks for token {k}, but there are groups of only {lengths.min()} tokens (from 0)"
        )
    return _mean_of(rows, starts + k, owner, where)


def _blocks(rows: Any, where: str) -> Iterator[tuple[int, Array]]:
    for start in range(0, len(rows), BLOCK_ROWS):
        block = np.asarray(rows[start : start + BLOCK_ROWS])
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise FeatureError(f"{where}[{start + row}, {column}]: the value is {block[row, column]}, not finite")
        yield start, block


def _reduce(rows: Any, offsets: Array, operation: np.ufunc, neutral: float, where: str) -> Array:
    total: Array | None = None
    starts = np.asarray(offsets[:-1])
    for begin, block in _blocks(rows, where):
        end = begin + len(block)
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        cuts = np.maximum(starts[first:last] - begin, 0)
        wide = block.astype(np.float64)
        partial = operation.reduceat(wide, cuts, axis=0)
        if total is None:
            total = np.full((len(starts), block.shape[1]), neutral)
        total[first:last] = operation(total[first:last], partial)
    assert total is not None  # no episode is empty, so there are rows
    return total


def _pick(rows: Any, wanted: Array, where: str) -> Array:
    return _mean_of(rows, wanted, np.arange(len(wanted)), where)


def _mean_of(rows: Any, wanted: Array, owner: Array, where: str) -> Array:
    """Mean over the `wanted` rows of each owner; both arrays are ascending."""
    total: Array | None = None
    for begin, block in _blocks(rows, where):
        low, high = np.searchsorted(wanted, (begin, begin + len(block)))
        if total is None:
            total = np.zeros((int(owner[-1]) + 1, block.shape[1]))
        np.add.at(total, owner[low:high], block[wanted[low:high] - begin].astype(np.float64))
    assert total is not None
    return (total / np.bincount(owner)[:, None]).astype(np.float32)


def _groups(offsets: Array, keyframe: Array | None, count: int) -> tuple[Array, Array]:
    """First row and owning episode of every group of tokens: runs of one keyframe inside one episode."""
    begins = np.zeros(count, dtype=bool)
    begins[offsets[:-1]] = True
    if keyframe is not None:
        begins[1:] |= keyframe[1:] != keyframe[:-1]
    starts = np.flatnonzero(begins)
    return starts, np.searchsorted(offsets, starts, side="right") - 1
