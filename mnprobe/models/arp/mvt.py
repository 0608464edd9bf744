"""Multi-view transformer: views, instruction and state to one map per view."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, cat, nn, zeros

from mnprobe.core.products import Linear
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.attention import attention

__all__ = ["VIEWS", "Attention", "MultiViewTransformer"]

VIEWS = 3
"""Orthographic views of the cube: from the top, from +x, from +y."""

INPUT_CHANNELS = 10
"""xyz, rgb, depth, and three constant codes of view, row and column."""

_SLOPE = 0.02
_GROUPS = 4


class MultiViewTransformer(nn.Module):
    """Views, language tokens and state to feature maps of the policy's width.

    Half of the layers attend within each view, the other half to all image and language tokens together. Padding
    language tokens are treated like any token. Module names are those of the published weights. Stage one and stage two
    of the policy each have their own instance.

    Source: specs/arp.md section 4 (the trunk of RVT-2, arXiv 2406.08545, without its heads).
    """

    def __init__(self, config: ARPConfig) -> None:
        super().__init__()
        half, inner = config.width // 2, config.vision_heads * config.vision_head_width
        self.grid = config.grid
        self.separate = config.vision_depth // 2
        self.pos_encoding = nn.Parameter(zeros(1, VIEWS * config.grid**2, config.width))
        self.proprio_preprocess = _NormedLinear(config.state_width, half)
        self.patchify = _Patchify(half, config.patch_size)
        self.lang_preprocess = _NormedLinear(config.language_width, config.width)
        self.fc_bef_attn = _BareLinear(config.width, config.vision_width)
        self.fc_aft_attn = _BareLinear(config.vision_width, config.width)
        self.layers = nn.ModuleList(
            _Layer(config.vision_width, config.vision_heads, inner, config.dropout) for _ in range(config.vision_depth)
        )

    def forward(
        self, views: Float[Tensor, "b 3 10 s s"], state: Float[Tensor, "b p"], language: Float[Tensor, "b l w"]
    ) -> Float[Tensor, "b 3 n k k"]:
        """Feature maps.

        Args:
            views: rendered images with the ten channels of `render_views` plus constant codes.
            state: gripper open (0/1) and the two finger positions (metres).
            language: token features of the instruction.
        """
        batch, cells = views.shape[0], self.grid**2
        patches: Tensor = self.patchify(views.flatten(0, 1)).flatten(2).transpose(1, 2)  # (b 3, k k, c)
        image = patches.reshape(batch, VIEWS * cells, -1)  # view, row, column
        robot: Tensor = self.proprio_preprocess(state)
        image = cat([image, robot[:, None].expand(-1, VIEWS * cells, -1)], dim=-1) + self.pos_encoding
        words: Tensor = self.lang_preprocess(language.flatten(0, 1)).view(batch, language.shape[1], -1)
        tokens: Tensor = self.fc_bef_attn(cat([words, image], dim=1))
        words, image = tokens[:, : -VIEWS * cells], tokens[:, -VIEWS * cells :]
        image = image.reshape(batch * VIEWS, cells, -1)  # attention within each view
        for layer in self.layers[: self.separate]:
            image = layer(image)
        tokens = cat([words, image.reshape(batch, VIEWS * cells, -1)], dim=1)
        for layer in self.layers[self.separate :]:
            tokens = layer(tokens)
        out: Tensor = self.fc_aft_attn(tokens[:, -VIEWS * cells :])
        return out.view(batch, VIEWS, self.grid, self.grid, -1).permute(0, 1, 4, 2, 3).contiguous()


class _Patchify(nn.Module):
    """Non-overlapping patches through one convolution, group norm and leaky rectifier."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(INPUT_CHANNELS, channels, patch, stride=patch)
        self.norm = nn.GroupNorm(_GROUPS, channels)

    def forward(self, image: Float[Tensor, "m c s s"]) -> Float[Tensor, "m d k k"]:
        return F.leaky_relu(self.norm(self.conv2d(image)), _SLOPE)


class _NormedLinear(nn.Module):
    """A linear layer, group norm and leaky rectifier on rows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = nn.GroupNorm(_GROUPS, outputs)

    def forward(self, rows: Float[Tensor, "m c"]) -> Float[Tensor, "m d"]:
        return F.leaky_relu(self.norm(self.linear(rows)), _SLOPE)


class _BareLinear(nn.Module):
    """A linear layer one name deeper, as the published weights have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        out: Tensor = self.linear(x)
        return out


class _Layer(nn.ModuleList):
    """Pre-norm attention (child 0) and gated feed-forward (child 1), both residual."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__(
            [_PreNorm(width, Attention(width, heads, inner, dropout)), _PreNorm(width, _GatedFeedForward(width))]
        )

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        x = self[0](x) + x
        out: Tensor = self[1](x) + x
        return out


class _PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        out: Tensor = self.fn(self.norm(x))
        return out


class Attention(nn.Module):
    """Self-attention whose heads may have another total width than the stream; keys come before values in `to_kv`."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.to_q = Linear(width, inner, bias=False)
        self.to_kv = Linear(width, 2 * inner, bias=False)
        self.to_out = Linear(inner, width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Each token's mixture of all tokens."""
        q, k, v = (
            part.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for part in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        mixed = attention(q, k, v, dropout=self.dropout if self.training else 0.0)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class _GatedFeedForward(nn.Module):
    """Linear to two halves (a, g), a * GELU(g) with the exact GELU, linear back. Factor 4, no dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Linear(width, 8 * width), _Gate(), Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        out: Tensor = self.net(x)
        return out


class _Gate(nn.Module):
    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t half"]:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)
