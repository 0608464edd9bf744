"""Orthogonal Procrustes: fit of one point cloud to another by rotation."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mnprobe.analysis.similarity._arrays import Codes, Rows, components
from mnprobe.analysis.similarity.base import About, Index, Invariance, Relation
from mnprobe.core.arrays import Array

__all__ = ["Procrustes", "ProcrustesDistance", "procrustes", "procrustes_distance"]

_SOURCE = "Ding et al. 2021 (arXiv 2108.01661), section 2; Schoenemann 1966"
_INVARIANCES: frozenset[Invariance] = frozenset({"orthogonal", "scale", "translation"})


@dataclass(frozen=True, kw_only=True)
class Procrustes(Index):
    """|X^T Y|_* of the centered features at Frobenius norm 1: 1 when a rotation and a factor make them equal."""

    about: ClassVar[About] = About(
        name="procrustes",
        title="orthogonal Procrustes similarity",
        symbol="Procrustes",
        formula="|X^T Y|_* (sum of singular values), X and Y centred with |X|_F = |Y|_F = 1",
        low=0.0,
        high=1.0,
        invariances=_INVARIANCES,
        source=_SOURCE,
        smallest=3,
        remark="grows with the widths for independent features: read it beside its null",
    )

    def prepare(self, values: Rows, groups: Codes) -> Rows:
        """Principal component scores at Frobenius norm 1, (N, r)."""
        return _scores(values, self.about.title)

    def relate(self, one: Rows, other: Rows) -> Relation:
        """See `Index.relate`."""
        return _Nuclear(one, other, distance=False)


@dataclass(frozen=True, kw_only=True)
class ProcrustesDistance(Index):
    """2 - 2 |X^T Y|_*: the least squared distance that a rotation leaves. Some tools give half of it, or an angle."""

    about: ClassVar[About] = About(
        name="procrustes_distance",
        title="orthogonal Procrustes distance",
        symbol="Procrustes distance",
        formula="2 - 2 |X^T Y|_*, X and Y centred with |X|_F = |Y|_F = 1",
        low=0.0,
        high=2.0,
        higher_is_alike=False,
        invariances=_INVARIANCES,
        source=_SOURCE,
        smallest=3,
        remark="the same as procrustes, turned round",
    )

    def prepare(self, values: Rows, groups: Codes) -> Rows:
        """Principal component scores at Frobenius norm 1, (N, r)."""
        return _scores(values, self.about.title)

    def relate(self, one: Rows, other: Rows) -> Relation:
        """See `Index.relate`."""
        return _Nuclear(one, other, distance=True)


class _Nuclear(Relation):
    def __init__(self, one: Rows, other: Rows, *, distance: bool) -> None:
        self.one, self.other, self.distance = one, other, distance

    def value(self, order: Codes | None = None) -> float:
        product = self.one.T @ (self.other if order is None else self.other[order])
        similarity = float(np.linalg.svd(product, compute_uv=False).sum())
        return 2 - 2 * similarity if self.distance else similarity


def _scores(values: Rows, title: str) -> Rows:
    u, s, _ = components(values, title=title)
    return np.asarray(u * (s / np.linalg.norm(s)))


def procrustes(x: Array, y: Array) -> float:
    """Procrustes similarity of x (N, p) and y (N, q); see `Procrustes`.

    >>> round(procrustes([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]], [[0.0, 2.0], [2.0, 0.0], [6.0, 4.0]]), 12)
    1.0
    """
    return Procrustes().score(x, y)


def procrustes_distance(x: Array, y: Array) -> float:
    """Procrustes distance of x (N, p) and y (N, q); see `ProcrustesDistance`.

    >>> abs(round(procrustes_distance([[1.0], [0.0], [2.0]], [[3.0], [1.0], [5.0]]), 12))
    0.0
    """
    return ProcrustesDistance().score(x, y)
