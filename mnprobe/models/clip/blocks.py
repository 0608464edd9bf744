"""The pre-norm transformer of CLIP, in the names of the published state dicts."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from mnprobe.core.errors import ConfigError
from mnprobe.core.products import Linear, linear
from mnprobe.models.attention import attention

__all__ = ["MLP", "ResidualBlock", "SelfAttention", "Transformer", "quick_gelu"]


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x * sigmoid(1.702 x), the activation of CLIP; it differs from the exact GELU by up to 0.02.

    >>> quick_gelu(torch.tensor([0.0, 100.0]))
    tensor([  0., 100.])
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return x * torch.sigmoid(1.702 * x)
    return (1.702 * x).sigmoid_().mul_(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; `in_proj_weight` (3 D, D) stacks query, key and value in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"width must be a multiple of heads, got width {width} and {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], *, causal: bool = False) -> Float[Tensor, "b n d"]:
        """Attend from each of the n tokens to all tokens, or only to itself and earlier ones if `causal`."""
        batch, tokens, width = x.shape
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
        mixed = attention(q, k, v, causal=causal)
        joined: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return joined


class MLP(nn.Module):
    """Two linear layers, four times as wide in between, with `quick_gelu`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply the same map to each token."""
        out: Tensor = self.c_proj(quick_gelu(self.c_fc(x)))
        return out


class ResidualBlock(nn.Module):
    """x + attn(ln_1(x)), then x + mlp(ln_2(x)).

    `drop` is the probability that stochastic depth drops a token's residual. As in the released model it is sampled per
    token position for the whole batch; remaining residuals are scaled by 1 / (1 - drop). Used in training mode only.
    """

    def __init__(self, width: int, heads: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b n d"], *, causal: bool = False, generator: Generator | None = None
    ) -> Float[Tensor, "b n d"]:
        """Pass all tokens through; `generator` draws the stochastic depth, needed only in training with `drop` > 0."""
        x = x + self._thin(self.attn(self.ln_1(x), causal=causal), generator)
        return x + self._thin(self.mlp(self.ln_2(x)), generator)

    def _thin(self, residual: Tensor, generator: Generator | None) -> Tensor:
        if not self.training or self.drop == 0.0:
            return residual
        if generator is None:
            raise ConfigError(
                f"stochastic depth ({self.drop:.3g} in this block) draws numbers in training mode: pass generator=,"
                " or call .eval(), or set stochastic_depth=0"
            )
        keep = 1.0 - self.drop
        draw = torch.rand(residual.shape[1], generator=generator, device=generator.device) < keep
        return residual * (draw.to(residual) / keep)[:, None]


class Transformer(nn.Module):
    """A stack of residual blocks under the name `resblocks`; stochastic depth grows linearly from 0 to its maximum."""

    def __init__(self, width: int, layers: int, heads: int, *, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, heads, drop=stochastic_depth * i / max(layers - 1, 1)) for i in range(layers)
        )

    def forward(
        self, x: Float[Tensor, "b n d"], *, causal: bool = False, generator: Generator | None = None
    ) -> Float[Tensor, "b n d"]:
        """The tokens after the last block."""
        for state in self.states(x, causal=causal, generator=generator):
            x = state
        return x

    def states(self, x: Tensor, *, causal: bool = False, generator: Generator | None = None) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each block in turn."""
        for block in self.resblocks:
            x = block(x, causal=causal, generator=generator)
            yield x

    def init_weights(self, generator: Generator) -> None:
        """Initialise weights as CLIP does: normal, with smaller deviation for layers that write to the residual stream.

        Source: arXiv 2103.00020, section 2.5, and Radford et al. 2019 (GPT-2) for the scaling by depth.
        """
        into_stream = self.width**-0.5 * (2 * max(len(self.resblocks), 1)) ** -0.5
        for block in self.resblocks:
            if not isinstance(block, ResidualBlock):
                raise TypeError(f"resblocks holds {type(block).__name__}")
            nn.init.normal_(block.attn.in_proj_weight, std=self.width**-0.5, generator=generator)
            nn.init.normal_(block.attn.out_proj.weight, std=into_stream, generator=generator)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * self.width) ** -0.5, generator=generator)
            nn.init.normal_(block.mlp.c_proj.weight, std=into_stream, generator=generator)
            for bias in (block.attn.in_proj_bias, block.attn.out_proj.bias, block.mlp.c_fc.bias, block.mlp.c_proj.bias):
                nn.init.zeros_(bias)
            block.ln_1.reset_parameters()
            block.ln_2.reset_parameters()
