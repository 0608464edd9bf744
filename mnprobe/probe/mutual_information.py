"""Lower bound on mutual information from the alignment loss (paper, Theorem 1)."""

import math
from typing import NamedTuple

import torch

from mnprobe.core.arrays import Array, Number, Whole, as_number, as_whole
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.seeds import check_seed
from mnprobe.probe._arrays import as_rows
from mnprobe.probe.losses import info_nce_directions
from mnprobe.probe.sampling import Pairing

__all__ = ["HeldOutBound", "held_out_bound", "mi_bound"]


def mi_bound(loss: Number, batch: Whole) -> float:
    """log(batch) - loss: a lower bound on I(u; e) in nats; it can never exceed its cap, log(batch).

    Valid only for pairs that were not used for fitting, and with one positive per row (no group twice in a batch).
    Source: paper, equations 18 and 21; van den Oord et al. 2018 (arXiv 1807.03748), section 2.3.

    >>> mi_bound(loss=0.0, batch=512)  # its cap
    6.238324625039508
    """
    size, value = as_whole(batch, "batch"), as_number(loss)
    if size < 1:
        raise ProbeError(f"a batch has at least one pair, got batch={batch!r}")
    if not math.isfinite(value):
        raise ConfigError(f"loss must be a finite number, got {loss!r}")
    return math.log(size) - value


class HeldOutBound(NamedTuple):
    """The bound in each direction and their mean (nats), the batch size it was taken at, and its cap log(batch)."""

    u2e: float
    e2u: float
    mean: float
    batch: int
    cap: float


def held_out_bound(
    z_u: Array,
    z_e: Array,
    groups_u: Labels,
    groups_e: Labels,
    *,
    tau: Number = 0.1,
    batch: Whole = 512,
    draws: Whole = 20,
    seed: Whole = 0,
) -> HeldOutBound:
    """Mean bound over `draws` held-out batches, each with one random pair of every group (or of `batch` groups).

    One pair per group, because a second pair of the same group would be a positive that the loss counts as a negative.
    Raises ProbeError when the two sides share fewer than two groups (log of one is zero: nothing to bound),
    FeatureError for shapes or values that do not fit, ConfigError for an impossible setting.
    """
    draws, most = as_whole(draws, "draws", least=1), as_whole(batch, "batch", least=1)
    u, e = as_rows(z_u, "z_u"), as_rows(z_e, "z_e")
    if u.shape[1] != e.shape[1]:
        raise FeatureError(f"z_u and z_e must lie in one space: they have widths {u.shape[1]} and {e.shape[1]}")
    codes, names = encode_labels(as_labels(groups_u, len(u), "groups_u"), as_labels(groups_e, len(e), "groups_e"))
    pairing = Pairing(codes[0], codes[1], names)
    size = min(most, pairing.n_groups)
    if size < 2:
        raise ProbeError(f"a bound on mutual information needs pairs of at least 2 groups, got {pairing.n_groups}")
    generator = torch.Generator().manual_seed(check_seed(seed))
    totals = torch.zeros(2, dtype=torch.float64)
    for _ in range(draws):
        rows_u, rows_e = pairing.draw_one_per_group(size, generator)
        loss_u, loss_e = info_nce_directions(u[rows_u.to(u.device)], e[rows_e.to(e.device)], tau=tau)
        totals += torch.tensor([float(loss_u), float(loss_e)], dtype=torch.float64)
    u2e, e2u = (mi_bound(float(total) / draws, size) for total in totals)
    return HeldOutBound(u2e, e2u, (u2e + e2u) / 2, size, math.log(size))
