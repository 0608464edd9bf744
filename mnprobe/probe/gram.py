"""Fast gradients of the alignment loss for linear heads: cosines through the heads' Gram matrices, no z at all.

With inputs x (a 1 appended for the bias) and T of dim rows, z_u . z_e = x_u^T (T_u^T T_e) x_e and |z_u|^2 = x_u^T
(T_u^T T_u) x_u. The three products are d_u x d_e, d_u x d_u and d_e x d_e: where features are narrower than the shared
space, this takes a fraction of the work of mapping every row into that space and back. Parameters, loss and gradients
are those of the direct form, up to rounding (a test compares both in float64).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.probe.loss import Positives

__all__ = ["GramStep", "gram_step", "worth_it"]

_SAFE = 80.0  # exp(-80) is still a float32; beyond, rows and columns need their own maxima


class GramStep(NamedTuple):
    """The loss (nats) and its gradients by T_u and T_e, shaped as these."""

    loss: Float[Tensor, ""]
    grad_u: Float[Tensor, "dim du"]
    grad_e: Float[Tensor, "dim de"]


def worth_it(width_u: int, width_e: int, dim: int, batch: int) -> bool:
    """Whether the Gram form takes fewer multiplications in a step than the direct one; widths without the bias.

    >>> worth_it(64, 64, 1024, 256), worth_it(1536, 64, 1024, 256)
    (True, False)
    """
    u, e = width_u + 1, width_e + 1
    direct = dim * batch * (2 * u + 2 * e + 3 * batch)
    gram = dim * (2 * u * u + 2 * e * e + 3 * u * e)
    gram += 2 * batch * (u * u + e * e + u * e + batch * min(u, e))
    return gram < direct


@torch.no_grad()
def gram_step(
    t_u: Float[Tensor, "dim du"],
    t_e: Float[Tensor, "dim de"],
    x_u: Float[Tensor, "b du"],
    x_e: Float[Tensor, "b de"],
    *,
    tau: float,
    groups: Int[Tensor, " b"] | None = None,
    positives: Positives = "diagonal",
) -> GramStep:
    """`info_nce` of T_u x_u and T_e x_e, and its gradients, for one batch.

    The last column of x is 1, that of T the bias. Raises ConfigError when positives by group are asked for without
    groups.

    Source: the derivatives of equations 2 and 3 of the paper by hand. Rows of length 0 are not met by random weights.
    """
    cross = t_u.T @ t_e
    unit_u, unit_e = _unit(x_u, t_u.T @ t_u), _unit(x_e, t_e.T @ t_e)
    left = unit_u @ cross
    logits = torch.mm(left, unit_e.T).div_(tau)
    loss, slope = _loss_and_slope(logits, tau, groups, positives)  # slope: by the logits
    weight = slope * logits
    by_right = slope @ unit_e
    grad_cross = (unit_u.T @ by_right).div_(tau)
    pull_u = unit_u.T @ (unit_u * weight.sum(1, keepdim=True))  # minus twice the gradient by the own Gram matrix
    pull_e = unit_e.T @ (unit_e * weight.sum(0).unsqueeze(1))
    grad_u = torch.addmm(t_e @ grad_cross.T, t_u, pull_u, alpha=-1.0)
    grad_e = torch.addmm(t_u @ grad_cross, t_e, pull_e, alpha=-1.0)
    return GramStep(loss, grad_u, grad_e)


def _unit(x: Float[Tensor, "b d"], gram: Float[Tensor, "d d"]) -> Float[Tensor, "b d"]:
    """Inputs over the length of what they are mapped to (at least 1e-8, as in the direct form)."""
    squares = ((x @ gram) * x).sum(1, keepdim=True)
    return x / squares.clamp_min_(0.0).sqrt_().clamp_min_(1e-8)


def _loss_and_slope(
    logits: Float[Tensor, "b b"], tau: float, groups: Int[Tensor, " b"] | None, positives: Positives
) -> tuple[Float[Tensor, ""], Float[Tensor, "b b"]]:
    size = len(logits)
    if positives == "diagonal" and 2 / tau < _SAFE:  # cosines are at most 1: one exponential serves both directions
        powers = (logits - 1 / tau).exp_()
        rows, columns = powers.sum(1), powers.sum(0)
        loss = (rows.log().mean() + columns.log().mean()) / 2 + 1 / tau - logits.diagonal().mean()
        slope = powers.mul_(rows.reciprocal().unsqueeze(1) + columns.reciprocal()).div_(2 * size)
        slope.diagonal().sub_(1 / size)
        return loss, slope
    target = torch.eye(size, dtype=logits.dtype, device=logits.device)
    if positives != "diagonal":
        if groups is None:
            raise ConfigError(f"positives={positives!r} needs the group of every pair: pass groups=")
        same = groups[:, None] == groups[None, :]
        if positives == "multi":
            target = same.to(logits.dtype)
            target /= target.sum(1, keepdim=True)
        else:
            logits = logits.masked_fill(same & (target == 0), -torch.inf)
    by_row, by_column = logits.log_softmax(1), logits.log_softmax(0)
    known = target > 0
    loss = -(target * torch.where(known, by_row + by_column, 0.0)).sum() / (2 * size)
    return loss, (by_row.exp() + by_column.exp() - target - target.T).div_(2 * size)
