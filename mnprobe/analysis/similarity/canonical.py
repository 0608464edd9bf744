"""What the CCA family shares: one side's orthonormal basis, and the refusal of more dimensions than rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mnprobe.analysis.similarity.arrays import Codes, Rows, components
from mnprobe.analysis.similarity.options import set_number
from mnprobe.core.errors import TooFewSamples

__all__ = ["Basis", "basis", "check_variance", "cross", "refuse_saturation"]


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns `q` (N, r) that span the kept part of the centred features, and these in it: `c` (r, D)."""

    q: Rows
    c: Rows


def check_variance(index: Any) -> None:
    """ConfigError for an index whose option `variance` is no share that can be kept."""
    set_number(index, "variance", "a share to keep, above 0 and at most 1", most=1)


def basis(values: Rows, variance: float, *, title: str) -> Basis:
    """The fewest principal components whose variance reaches the share `variance`; the one that crosses it is kept."""
    u, s, vt = components(values, title=title)
    share = np.cumsum(s**2) / np.sum(s**2)
    count = len(s) if variance == 1 else min(int(np.searchsorted(share, variance - 1e-12)) + 1, len(s))
    return Basis(u[:, :count], s[:count, None] * vt[:count])


def refuse_saturation(one: Basis, other: Basis, *, title: str) -> None:
    """TooFewSamples where the kept dimensions of both sides together reach N: every correlation would be 1."""
    n, p, q = len(one.q), one.q.shape[1], other.q.shape[1]
    if p + q >= n:
        raise TooFewSamples(
            f"{title}: {p} and {q} dimensions with {n} rows give canonical correlations of 1 whatever the features are "
            f"(p + q >= N). Keep less variance (option variance), take more episodes, or use ridge_cca, which is "
            "cross-validated"
        )


def cross(one: Basis, other: Basis, order: Codes | None) -> Rows:
    """Inner products of both bases, (p, q), with the other side's rows in `order`."""
    return np.asarray(one.q.T @ (other.q if order is None else other.q[order]))
