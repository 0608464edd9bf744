"""The losses of an ARP policy as functions of tensors."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["class_cross_entropy", "heatmap_cross_entropy"]


def heatmap_cross_entropy(logits: Float[Tensor, "m s s"], labels: Float[Tensor, "m s s"]) -> Float[Tensor, ""]:
    """Mean over maps of -sum(label * log softmax(logits)), the softmax over all pixels of a map.

    An all-zero label (a target outside the image) costs nothing. In nats.
    """
    return -(labels.flatten(1) * F.log_softmax(logits.flatten(1).float(), dim=1)).sum(dim=1).mean()


def class_cross_entropy(logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats."""
    return F.cross_entropy(logits.float(), labels)
