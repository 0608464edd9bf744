"""The video-text contrastive loss."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["contrastive_loss"]


def contrastive_loss(
    video: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    temperature: float | Float[Tensor, ""],
    *,
    ids: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with soft targets: S = norm(video) @ norm(text).T / temperature.

    The mean of the cross-entropies of the rows of S and of S.T. Samples with equal `ids` are positives of each other
    and share the target equally; without ids only its own text is the positive of a video. Gather features and ids of
    several processes before the call.

    Args:
        video: video features at any scale; row i belongs to row i of `text`.
        text: text features.
        temperature: above 0; `model.temp`, or the paper's 0.05 for fine-tuning on RLBench.
        ids: group of each sample, e.g. an index per distinct instruction.
    Returns: the loss in nats; features that all agree give log(b).
    Raises: ConfigError for unequal numbers of rows or a temperature that is not above 0.
    Source: the official ViCLIP training as measured; van den Oord et al. 2018 (arXiv 1807.03748), eq. 4, both ways.
    """
    if video.shape != text.shape or (ids is not None and ids.shape != video.shape[:1]):
        raise ConfigError(
            f"videos, texts and ids must come in pairs, got shapes {tuple(video.shape)}, {tuple(text.shape)}"
            + (f" and {tuple(ids.shape)}" if ids is not None else "")
        )
    value = temperature.item() if isinstance(temperature, Tensor) else temperature
    if not value > 0:
        raise ConfigError(f"temperature must be above 0, got {value!r}")
    logits = F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).T / temperature
    if ids is None:
        targets = torch.arange(len(video), device=video.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    same = (ids[:, None] == ids[None, :]).to(logits.dtype)
    shares = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.T, shares)) / 2
