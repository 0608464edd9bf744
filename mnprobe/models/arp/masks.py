"""Attention masks of the two-stream pass and of generation."""

import torch
from jaxtyping import Bool
from torch import Tensor

from mnprobe.models.arp.tokens import BLOCKED, Layout

__all__ = ["generation_mask", "two_stream_mask"]


def two_stream_mask(layout: Layout, device: torch.device | None = None) -> Bool[Tensor, "t t"]:
    """Mask over content positions followed by query positions, t = 2 * len(layout); True if row attends to column.

    A content position sees the content up to itself, whatever the chunks. A query position sees the content of earlier
    chunks and the queries of its own chunk, itself included. Blocked type pairs do not attend to each other in either
    stream.

    Source: specs/arp.md section 5.3.
    """
    size = len(layout)
    chunks = torch.tensor(layout.chunks, device=device)
    free = _free(layout, device)
    mask = torch.zeros(2 * size, 2 * size, dtype=torch.bool, device=device)
    mask[:size, :size] = free.tril()
    mask[size:, :size] = free & (chunks[:, None] > chunks)
    mask[size:, size:] = free & (chunks[:, None] == chunks)
    return mask


def generation_mask(layout: Layout, device: torch.device | None = None) -> Bool[Tensor, "l l"]:
    """Mask while the last chunk of `layout` is being predicted: known tokens attend to earlier ones, predicted tokens
    attend to all.

    Source: specs/arp.md section 5.4.
    """
    chunks = torch.tensor(layout.chunks, device=device)
    free = _free(layout, device)
    wanted = (chunks == layout.chunks[-1])[:, None]
    return free & (torch.ones_like(free).tril() | wanted)


def _free(layout: Layout, device: torch.device | None) -> Bool[Tensor, "l l"]:
    rows = [[(query, key) not in BLOCKED for key in layout.types] for query in layout.types]
    return torch.tensor(rows, dtype=torch.bool, device=device)
