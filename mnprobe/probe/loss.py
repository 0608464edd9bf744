"""The alignment loss: bidirectional InfoNCE on cosine similarities (paper, equations 2 and 3)."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mnprobe.core.arrays import Array, Number, as_number
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.probe._arrays import as_rows, check_finite_rows, row_factors

__all__ = ["Positives", "check_pairs", "info_nce", "info_nce_directions", "loss_directions", "loss_of_pairs"]

Positives = Literal["diagonal", "exclude", "multi"]


def info_nce(
    z_u: Array,
    z_e: Array,
    *,
    tau: Number = 0.1,
    groups: Labels | None = None,
    positives: Positives = "diagonal",
) -> Float[Tensor, ""]:
    """Bidirectional InfoNCE between paired rows: row i of `z_u` belongs to row i of `z_e`.

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
    one, other = info_nce_directions(z_u, z_e, tau=tau, groups=groups, positives=positives)
    return (one + other) / 2


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
    """`info_nce` of what is known to fit, inside training: nothing is looked at, and no device is waited for."""
    one, other = loss_directions(z_u, z_e, tau=tau, groups=groups, positives=positives)
    return (one + other) / 2


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
    return one @ other.T
