"""The lower bound on mutual information that the alignment loss gives (paper, Theorem 1)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe.loss import info_nce_directions
from mnprobe.probe.pairing import Pairing

__all__ = ["HeldOutBound", "held_out_bound", "mi_bound"]


def mi_bound(loss: float, batch: int) -> float:
    """log(batch) - loss: a lower bound on I(u; e) in nats; it can never exceed its cap, log(batch).

    Valid only for pairs that were not used for fitting, and with one positive per row (no group twice in a batch).
    Source: paper, equations 18 and 21; van den Oord et al. 2018 (arXiv 1807.03748), section 2.3.

    >>> mi_bound(loss=0.0, batch=512)  # its cap
    6.238324625039508
    """
    if batch < 1:
        raise ProbeError(f"a batch has at least one pair, got batch={batch!r}")
    return math.log(batch) - loss


class HeldOutBound(NamedTuple):
    """The bound in each direction and their mean (nats), the batch size it was taken at, and its cap log(batch)."""

    u2e: float
    e2u: float
    mean: float
    batch: int
    cap: float


def held_out_bound(
    z_u: Float[Tensor, "n d"],
    z_e: Float[Tensor, "m d"],
    groups_u: Labels,
    groups_e: Labels,
    *,
    tau: float = 0.1,
    batch: int = 512,
    draws: int = 20,
    seed: int = 0,
) -> HeldOutBound:
    """Mean bound over `draws` held-out batches, each with one random pair of every group (or of `batch` groups).

    One pair per group, because a second pair of the same group would be a positive that the loss counts as a negative.
    Raises ProbeError when the two sides share fewer than two groups (log of one is zero: nothing to bound).
    """
    codes, names = encode_labels(as_labels(groups_u, len(z_u), "groups_u"), as_labels(groups_e, len(z_e), "groups_e"))
    pairing = Pairing(codes[0], codes[1], names)
    size = min(batch, pairing.n_groups)
    if size < 2:
        raise ProbeError(f"a bound on mutual information needs pairs of at least 2 groups, got {pairing.n_groups}")
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(2, dtype=torch.float64)
    for _ in range(draws):
        rows_u, rows_e = pairing.draw_one_per_group(size, generator)
        one, other = info_nce_directions(z_u[rows_u.to(z_u.device)], z_e[rows_e.to(z_e.device)], tau=tau)
        totals += torch.tensor([float(one), float(other)], dtype=torch.float64)
    u2e, e2u = (mi_bound(float(total) / draws, size) for total in totals)
    return HeldOutBound(u2e, e2u, (u2e + e2u) / 2, size, math.log(size))
