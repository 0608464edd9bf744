"""Scaled dot-product attention, in blocks of rows where that is faster."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mnprobe.core.products import plain_tensors, product, products_in_use, recording

__all__ = ["attention"]

_ROWS = 512  # query rows of a block: their weights for some 1,500 keys are 3 MiB
_LEAST_TOKENS = 256


def attention(
    q: Float[Tensor, "b h n c"],
    k: Float[Tensor, "b h m c"],
    v: Float[Tensor, "b h m c"],
    *,
    allowed: Bool[Tensor, "n m"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "b h n c"]:
    """softmax(q k^T / sqrt(c)) v, as `torch.nn.functional.scaled_dot_product_attention`.

    Where oneDNN computes products faster by a wide margin (`mnprobe.core.products`), attention of long sequences
    without mask, dropout and gradients is computed head by head in blocks of at most 512 query rows; the values differ
    by rounding, and the memory is one block's.

    Args:
        allowed: whether query i attends to key j; all if not given.
        causal: each query attends to itself and earlier keys only.
        dropout: share of attention weights that are dropped.
    """
    if (
        not recording()
        and allowed is None
        and not causal
        and dropout == 0.0
        and min(q.shape[-2], k.shape[-2]) >= _LEAST_TOKENS
        and not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad))
        and plain_tensors(q, k, v)
        and products_in_use().attention
    ):
        return _in_blocks(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, dropout_p=dropout)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, tokens, width = q.shape
    blocks = -(-tokens // _ROWS)
    rows = -(-tokens // blocks)
    out = q.new_empty(batch, tokens, heads, width)
    for item in range(batch):
        for head in range(heads):
            scaled, keys = q[item, head] * width**-0.5, k[item, head]
            columns = v[item, head].T.contiguous()
            for start in range(0, tokens, rows):
                weights = product(scaled[start : start + rows], keys).softmax(dim=-1)
                out[item, start : start + rows, head] = product(weights, columns)
    return out.transpose(1, 2)
