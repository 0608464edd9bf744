"""Blocks of the policy transformer: plain, and modulated by a feature map."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mnprobe.core.products import Linear
from mnprobe.models.attention import attention

__all__ = ["ConditionedBlock", "PlainBlock"]

_EPS = 1e-6


class PlainBlock(nn.Module):
    """x += attention(LN(x)); x += mlp(LN(x)). Source: specs/arp.md section 5.2."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(width, eps=_EPS)
        self.ln_mlp = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _MLP(width, mlp_ratio, dropout)
        self.attn = _SelfAttention(width, heads, dropout)

    def forward(self, x: Float[Tensor, "b t n"], allowed: Bool[Tensor, "t t"]) -> Float[Tensor, "b t n"]:
        """Apply the block; `allowed[i, j]` is whether token i attends to token j."""
        x = x + self.attn(self.ln_attn(x), allowed)
        out: Tensor = x + self.mlp(self.ln_mlp(x))
        return out


class ConditionedBlock(nn.Module):
    """A block whose norms and residual gates are set, for each token, by cross-attention to condition tokens (AdaLN).

    c = cross-attention of the block's input to the condition; (shift, scale, gate) x 2 = linear(SiLU(c)). The gates are
    plain factors: while the modulation layer is zero, as it is at the start, the block is the identity.

    Source: Peebles and Xie 2023 (DiT, arXiv 2212.09748), section 3.2, per token; specs/arp.md section 5.2.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float, *, norm_before_modulation: bool) -> None:
        super().__init__()
        self.width = width
        self.norm_before_modulation = norm_before_modulation
        self.mlp = _MLP(width, mlp_ratio, dropout)
        self.attn = _SelfAttention(width, heads, dropout)
        self.norm_cond = nn.LayerNorm(width, eps=_EPS)
        self.cond_attn = _CrossAttention(width, heads, dropout)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))

    def forward(
        self, x: Float[Tensor, "b t n"], allowed: Bool[Tensor, "t t"], condition: Float[Tensor, "b m n"]
    ) -> Float[Tensor, "b t n"]:
        """Apply the block; `allowed` as in `PlainBlock`; every token attends to every condition token."""
        seen = self.cond_attn(self.norm_cond(x), condition)
        if self.norm_before_modulation:
            seen = F.layer_norm(seen, (self.width,), eps=_EPS)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(seen).chunk(6, dim=-1)
        x = x + gate_1 * self.attn(self._norm(x) * (1 + scale_1) + shift_1, allowed)
        out: Tensor = x + gate_2 * self.mlp(self._norm(x) * (1 + scale_2) + shift_2)
        return out

    def _norm(self, x: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        return F.layer_norm(x, (self.width,), eps=_EPS)


class _MLP(nn.Module):
    """Two linear layers around the tanh form of GELU (the exact form differs by more than the goldens allow)."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(width, ratio * width)
        self.fc2 = Linear(ratio * width, width)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        hidden = F.dropout(F.gelu(self.fc1(x), approximate="tanh"), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "b t n"], allowed: Bool[Tensor, "t t"]) -> Float[Tensor, "b t n"]:
        q, k, v = (_split_heads(part, self.heads) for part in self.c_attn(x).chunk(3, dim=-1))
        rate = self.dropout if self.training else 0.0
        mixed = attention(q, k, v, allowed=allowed, dropout=rate)
        return F.dropout(self.c_proj(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)


class _CrossAttention(nn.Module):
    """Queries from the tokens, keys and values (in this order in `kv_attn`) from the condition."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.kv_attn = Linear(width, 2 * width)
        self.q_attn = Linear(width, width)
        self.c_proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "b t n"], condition: Float[Tensor, "b m n"]) -> Float[Tensor, "b t n"]:
        q = _split_heads(self.q_attn(x), self.heads)
        k, v = (_split_heads(part, self.heads) for part in self.kv_attn(condition).chunk(2, dim=-1))
        mixed = attention(q, k, v, dropout=self.dropout if self.training else 0.0)
        return F.dropout(self.c_proj(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)


def _split_heads(x: Float[Tensor, "b t n"], heads: int) -> Float[Tensor, "b h t c"]:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
