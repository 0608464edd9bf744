"""Attention in blocks: equal to torch's and to float64, at inference only, an item at a time."""

import pytest
import torch
import torch.nn.functional as F

from mnprobe.core.environment import with_variables
from mnprobe.core.products import VARIABLE, products_in_use
from mnprobe.models import attention as module
from mnprobe.models.attention import attention


def sides(batch, heads, tokens, keys, width):
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, width), (keys, width), (keys, width))
    return tuple(torch.randn(batch, heads, *shape, generator=generator) for shape in shapes)


@pytest.fixture
def blocks(monkeypatch):
    """Count the calls of attention in blocks, which is in use."""
    calls, own = [], module._in_blocks
    monkeypatch.setattr(module, "_in_blocks", lambda q, k, v: calls.append(q.shape) or own(q, k, v))
    with with_variables(**{VARIABLE: "onednn"}):
        assert products_in_use().attention
        yield calls


@pytest.mark.parametrize("shape", [(1, 2, 256, 256, 32), (2, 1, 700, 300, 16), (1, 1, 1025, 257, 64)])
def test_blocks_equal_float64(blocks, shape):
    q, k, v = sides(*shape)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    found = attention(q, k, v)
    assert len(blocks) == 1
    assert found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_an_item_does_not_depend_on_its_batch(blocks):
    q, k, v = sides(3, 2, 300, 300, 32)
    every = attention(q, k, v)
    assert all(torch.equal(attention(q[i : i + 1], k[i : i + 1], v[i : i + 1])[0], every[i]) for i in range(3))


def test_heads_of_one_projection_may_be_views(blocks):
    packed = torch.randn(1, 300, 3, 2, 32, generator=torch.Generator().manual_seed(0)).permute(2, 0, 3, 1, 4)
    apart = [part.contiguous() for part in packed]
    assert torch.equal(attention(*packed), attention(*apart))


def test_all_else_is_torchs(blocks):
    q, k, v = sides(1, 2, 300, 300, 32)
    allowed = torch.ones(300, 300, dtype=torch.bool).tril()
    assert torch.equal(attention(q, k, v, causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert torch.equal(attention(q, k, v, allowed=allowed), F.scaled_dot_product_attention(q, k, v, attn_mask=allowed))
    few = q[:, :, :255]
    assert torch.equal(attention(few, k, v), F.scaled_dot_product_attention(few, k, v))
    exact = [side.double() for side in (q, k, v)]
    assert torch.equal(attention(*exact), F.scaled_dot_product_attention(*exact))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(q, k, v).dtype == torch.bfloat16
    needing = q.clone().requires_grad_()
    attention(needing, k, v).sum().backward()
    assert needing.grad is not None
    assert blocks == []
    with torch.no_grad():
        attention(needing, k, v)
    assert len(blocks) == 1


def test_dropout_draws_what_torch_draws(blocks):
    q, k, v = sides(1, 2, 300, 300, 32)
    found = []
    for function in (
        lambda: attention(q, k, v, dropout=0.5),
        lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
    ):
        torch.manual_seed(0)
        found.append(function())
    assert torch.equal(*found)
    assert blocks == []


def test_it_is_switched_off_with_the_products():
    q, k, v = sides(1, 2, 300, 300, 32)
    with with_variables(**{VARIABLE: "torch"}):
        assert torch.equal(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
