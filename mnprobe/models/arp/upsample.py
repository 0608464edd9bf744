"""Convex upsampling: learned weighted means of 3 x 3 neighborhoods."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ConvexUpsample"]

_TAPS = 9
_MASK_SCALE = 0.1


class ConvexUpsample(nn.Module):
    """Features (b, n, k, k) to logits (b, 1, r k, r k).

    `net_out` makes a coarse map of logits; `net_mask` makes, for each of the r x r pixels of a cell, nine weights over
    the cell's neighbourhood (a softmax, so that the pixel is a convex combination; outside the map counts as zero).

    Source: Teed and Deng 2020 (RAFT, arXiv 2003.12039), section 3.3; specs/arp.md section 5.5.
    """

    def __init__(self, width: int, hidden: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.net_out = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )
        self.net_mask = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, _TAPS * ratio**2, 1)
        )

    def forward(self, features: Float[Tensor, "b n k k"]) -> Float[Tensor, "b 1 s s"]:
        """Logits of every pixel."""
        rows, columns = features.shape[-2:]
        coarse = F.unfold(self.net_out(features), 3, padding=1).view(-1, _TAPS, 1, 1, rows, columns)
        mask: Tensor = _MASK_SCALE * self.net_mask(features)
        weights = mask.view(-1, _TAPS, self.ratio, self.ratio, rows, columns).softmax(dim=1)
        fine = (weights * coarse).sum(dim=1)  # (b, r, r, k, k)
        return fine.permute(0, 3, 1, 4, 2).reshape(-1, 1, rows * self.ratio, columns * self.ratio)
