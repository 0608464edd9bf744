"""Transformer blocks against torch's own attention and against the definition of stochastic depth."""

import pytest
import torch
from torch import nn

from mnprobe.core.errors import ConfigError
from mnprobe.models.clip import ResidualBlock, SelfAttention, Transformer, quick_gelu


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def filled(module: nn.Module, generator: torch.Generator) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torchs_with_the_same_state_dict(generator, causal):
    ours = filled(SelfAttention(12, 3), generator)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 7, 12, generator=generator)
    mask = nn.Transformer.generate_square_subsequent_mask(7) if causal else None
    torch.testing.assert_close(ours(x, causal=causal), theirs(x, x, x, need_weights=False, attn_mask=mask)[0])


def test_quick_gelu_is_not_the_exact_gelu():
    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))
    assert 0.005 < (quick_gelu(x) - nn.functional.gelu(x)).abs().max() < 0.03


def test_width_must_divide_into_heads():
    with pytest.raises(ConfigError, match="width 10 and 3 heads"):
        SelfAttention(10, 3)


def test_stochastic_depth_grows_linearly_and_is_off_in_eval(generator):
    stack = filled(Transformer(8, 5, 2, stochastic_depth=0.4), generator)
    assert [block.drop for block in stack.resblocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    x = torch.randn(1, 4, 8, generator=generator)
    plain = Transformer(8, 5, 2).eval()
    plain.load_state_dict(stack.state_dict())
    torch.testing.assert_close(stack.eval()(x), plain(x))
    with pytest.raises(ConfigError, match="pass generator="):
        stack.train()(x)


def test_stochastic_depth_drops_token_positions_and_scales_the_rest(generator):
    block = filled(ResidualBlock(8, 2, drop=0.5), generator).train()
    nn.init.zeros_(block.mlp.c_proj.weight)
    nn.init.zeros_(block.mlp.c_proj.bias)  # leaves the attention residual alone
    x = torch.randn(3, 64, 8, generator=generator)
    thinned = block(x, generator=generator) - x
    full = block.eval()(x) - x
    kept = thinned.abs().sum(dim=(0, 2)) > 0
    assert 15 < int(kept.sum()) < 49
    torch.testing.assert_close(thinned[:, kept], 2 * full[:, kept])
    assert torch.equal(thinned[:, ~kept], torch.zeros(3, int((~kept).sum()), 8))


def test_stochastic_depth_follows_its_generator(generator):
    stack = filled(Transformer(8, 3, 2, stochastic_depth=0.5), generator).train()
    x = torch.randn(2, 9, 8, generator=generator)
    draws = [stack(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
