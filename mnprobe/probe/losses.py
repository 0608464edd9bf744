"""Bidirectional InfoNCE (paper, equations 2 and 3), direct and by Gram matrices.

With inputs x (a 1 appended for the bias) and T of dim rows, z_u . z_e = x_u^T (T_u^T T_e) x_e and |z_u|^2 = x_u^T
(T_u^T T_u) x_u. The three products are d_u x d_e, d_u x d_u and d_e x d_e: where features are narrower than the shared
space, this takes a fraction of the work of mapping every row into that space and back. Parameters, loss and gradients
are those of the direct form, up to rounding (a test compares both in float64).
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mnprobe.core.arrays import Array, Number, as_number
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.products import product
from mnprobe.probe._arrays import as_rows, check_finite_rows, row_factors

__all__ = [
    "GramStep",
    "Positives",
    "check_pairs",
    "gram_step",
    "info_nce",
    "info_nce_directions",
    "loss_directions",
    "loss_of_pairs",
    "worth_it",
]

Positives = Literal["diagonal", "exclude", "multi"]


def info_nce(
    z_u: Array,
    z_e: Array,
    *,
    tau: Number = 0.1,
    groups: Labels | None = None,
    positives: Positives = "diagonal",
) -> Float[Tensor, ""]:
    """Bidirectional InfoNCE between paired rows: row i of `z_u` and row i of `z_e` are a pair.

    S = cos(z_u, z_e) / tau; the loss is the mean of the cross-entropies of the rows of S and of S^T, each with its
    diagonal entry as the target. With repeated actions in a batch the diagonal is not the only true pair:

    - "diagonal": equation 2 as printed, every other row is a negative, also one of the same group;
    - "exclude": pairs of the same group (but the diagonal one) are left out of the denominator;
    - "multi": every pair of the same group is a positive; the mean of their log-probabilities is taken per row.

    Args:
        z_u: observed actions in the shared space (b, d), at any scale; gradients flow through tensors.
        z_e: executed actions in the shared space (b, d), row by row the partners of `z_u`.
        tau: temperature, positive, unitless; 0.1 in the paper.
        groups: the group of each pair; needed for "exclude" and "multi".
        positives: what counts as a positive, see above.

    Returns:
        Mean over 2 b rows, in nats. Features that all agree give log(b), as do rows of zeros.

    Raises:
        ConfigError: `tau` is not positive, `positives` is unknown, or `groups` is missing where it is needed.
        FeatureError: shapes or counts do not fit, or a value is NaN or infinite.
        ProbeError: `tau` is so small that the loss is no finite number.

    Source: Zhu et al. (arXiv 2509.21136), equations 2 and 3; "multi" is the outer form of supervised contrastive
    learning (Khosla et al. 2020, arXiv 2004.11362, equation 2).

    >>> same = torch.ones(8, 4)
    >>> round(float(info_nce(same, same)), 4) == round(math.log(8), 4)
    True
    """
    loss_u2e, loss_e2u = info_nce_directions(z_u, z_e, tau=tau, groups=groups, positives=positives)
    return (loss_u2e + loss_e2u) / 2


def info_nce_directions(
    z_u: Array,
    z_e: Array,
    *,
    tau: Number = 0.1,
    groups: Labels | None = None,
    positives: Positives = "diagonal",
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The two halves of `info_nce`: u to e, and e to u (paper, equations 17 and 19)."""
    temperature = as_number(tau)
    if not 0 < temperature < math.inf:
        raise ConfigError(f"tau must be a positive number, got {tau!r}")
    if positives not in ("diagonal", "exclude", "multi"):
        raise ConfigError(f"positives must be 'diagonal', 'exclude' or 'multi', got {positives!r}")
    u, e = check_pairs(z_u, z_e)
    codes = None
    if groups is not None:
        (found,), _ = encode_labels(as_labels(groups, len(u), "groups"))
        codes = torch.from_numpy(found).to(u.device)
    both = loss_directions(u, e, tau=temperature, groups=codes, positives=positives)
    if not all(bool(torch.isfinite(loss)) for loss in both):
        raise ProbeError(f"with tau {tau!r} the loss is no finite number; take a larger one")
    return both


def check_pairs(z_u: Array, z_e: Array) -> tuple[Tensor, Tensor]:
    """Paired rows of one width as tensors of floats; tensors of floats stay as they are, with their gradients.

    Raises FeatureError for other shapes, and for NaN or infinity.
    """
    sides = []
    for values, name in ((z_u, "z_u"), (z_e, "z_e")):
        if isinstance(values, Tensor) and values.is_floating_point() and values.ndim == 2 and values.numel():
            check_finite_rows(values.detach(), name)
            sides.append(values)
        else:
            sides.append(as_rows(values, name))
    u, e = sides
    if u.shape != e.shape:
        raise FeatureError(
            f"z_u and z_e must be pairs, row by row, of one width: they have shapes {tuple(u.shape)} and "
            f"{tuple(e.shape)}"
        )
    return u, e.to(u.device)


def loss_of_pairs(
    z_u: Float[Tensor, "b d"],
    z_e: Float[Tensor, "b d"],
    *,
    tau: float,
    groups: Int[Tensor, " b"] | None = None,
    positives: Positives = "diagonal",
) -> Float[Tensor, ""]:
    """`info_nce` without checks of its inputs, for training: it does not synchronize with the device."""
    loss_u2e, loss_e2u = loss_directions(z_u, z_e, tau=tau, groups=groups, positives=positives)
    return (loss_u2e + loss_e2u) / 2


def loss_directions(
    z_u: Float[Tensor, "b d"],
    z_e: Float[Tensor, "b d"],
    *,
    tau: float,
    groups: Int[Tensor, " b"] | None = None,
    positives: Positives = "diagonal",
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Both halves of `loss_of_pairs`."""
    logits = _similarities(z_u, z_e) / tau
    if positives == "diagonal":
        target = torch.arange(len(logits), device=logits.device)
        return functional.cross_entropy(logits, target), functional.cross_entropy(logits.T, target)
    if groups is None:
        raise ConfigError(f"positives={positives!r} needs the group of every pair: pass groups=")
    same = groups[:, None] == groups[None, :]
    if positives == "exclude":
        others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(others, -math.inf)
        return -logits.log_softmax(1).diagonal().mean(), -logits.log_softmax(0).diagonal().mean()
    weight = same.to(logits.dtype)
    weight = weight / weight.sum(1, keepdim=True)  # symmetric: equal groups have equal counts on both sides
    return -(weight * logits.log_softmax(1)).sum(1).mean(), -(weight.T * logits.log_softmax(0)).sum(0).mean()


def _similarities(z_u: Float[Tensor, "b d"], z_e: Float[Tensor, "c d"]) -> Float[Tensor, "b c"]:
    """Cosine similarities, at least in float32: 16 bits are too few for exponentials of s / tau."""
    kind = torch.promote_types(torch.promote_types(z_u.dtype, z_e.dtype), torch.float32)
    sides = (z_u.to(kind), z_e.to(kind))
    one, other = (functional.normalize(z * row_factors(z), dim=1, eps=1e-8) for z in sides)
    return product(one, other)


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
    noise_u: Float[Tensor, " du"] | None = None,
    noise_e: Float[Tensor, " de"] | None = None,
) -> GramStep:
    """`info_nce` of T_u x_u and T_e x_e, and its gradients, for one batch.

    The last column of x is 1, that of T the bias. With `noise`, the variance of noise on each column of x, the square
    of a length is the mean over this noise: |T x|^2 + sum over k of noise_k |T_k|^2. Raises ConfigError when positives
    by group are requested without groups.

    Source: the derivatives of equations 2 and 3 of the paper by hand. Random weights give no rows of length 0.
    """
    cross = t_u.T @ t_e
    unit_u, scale_u = _unit(x_u, t_u.T @ t_u, noise_u)
    unit_e, scale_e = _unit(x_e, t_e.T @ t_e, noise_e)
    left = unit_u @ cross
    logits = torch.mm(left, unit_e.T).div_(tau)
    loss, slope = _loss_and_slope(logits, tau, groups, positives)  # slope: by the logits
    weight = slope * logits
    by_right = slope @ unit_e
    grad_cross = (unit_u.T @ by_right).div_(tau)
    weight_u, weight_e = weight.sum(1, keepdim=True), weight.sum(0).unsqueeze(1)
    pull_u = unit_u.T @ (unit_u * weight_u)  # minus twice the gradient by the own Gram matrix
    pull_e = unit_e.T @ (unit_e * weight_e)
    if noise_u is not None:
        pull_u.diagonal().add_(noise_u * (weight_u * scale_u * scale_u).sum())
    if noise_e is not None:
        pull_e.diagonal().add_(noise_e * (weight_e * scale_e * scale_e).sum())
    grad_u = torch.addmm(t_e @ grad_cross.T, t_u, pull_u, alpha=-1.0)
    grad_e = torch.addmm(t_u @ grad_cross, t_e, pull_e, alpha=-1.0)
    return GramStep(loss, grad_u, grad_e)


def _unit(
    x: Float[Tensor, "b d"], gram: Float[Tensor, "d d"], noise: Float[Tensor, " d"] | None
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b 1"]]:
    """Inputs over the length of what they are mapped to (at least 1e-8, as in the direct form), and 1 / length."""
    squares = ((x @ gram) * x).sum(1, keepdim=True)
    if noise is not None:
        squares += gram.diagonal() @ noise
    lengths = squares.clamp_min_(0.0).sqrt_().clamp_min_(1e-8)
    return x / lengths, lengths.reciprocal()


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
