"""Fresh weights for training ARP from scratch."""

import math

import torch
from torch import Tensor, nn

from mnprobe.models.arp.blocks import ConditionedBlock
from mnprobe.models.arp.mvt import Attention, MultiViewTransformer
from mnprobe.models.arp.tokens import SinusoidEmbedder
from mnprobe.models.arp.transformer import ChunkTransformer

__all__ = ["init_policy", "init_vision"]

_SLOPE = 0.02
_EMBEDDING_STD = 0.02


def init_vision(mvt: MultiViewTransformer, generator: torch.Generator, gain: float = 1.0) -> None:
    """Set the weights of a multi-view transformer.

    Patch, state and language projections Kaiming-uniform (leaky slope 0.02), the two width changes Xavier-uniform, all
    with zero biases; position code N(0, 1); attention and feed-forward layers as PyTorch starts them, query and key
    layers times `gain` (`ARPConfig.attention_gain`).

    Source: specs/arp.md section 4 (which has no gain).
    """
    _default(mvt, generator)
    for layer in (mvt.patchify.conv2d, mvt.proprio_preprocess.linear, mvt.lang_preprocess.linear):
        nn.init.kaiming_uniform_(layer.weight, a=_SLOPE, nonlinearity="leaky_relu", generator=generator)
        _zero(layer.bias)
    for linear in (mvt.fc_bef_attn.linear, mvt.fc_aft_attn.linear):
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        _zero(linear.bias)
    nn.init.normal_(mvt.pos_encoding, generator=generator)
    for module in mvt.modules():
        if isinstance(module, Attention):
            for weight in (module.to_q.weight, module.to_kv.weight.chunk(2)[0]):  # of to_kv the keys
                weight.mul_(gain)


def init_policy(policy: ChunkTransformer, generator: torch.Generator) -> None:
    """Set the weights of a policy transformer.

    Linear layers Xavier-uniform with zero biases, embeddings N(0, 0.02), norms 1 and 0, heatmap convolutions as PyTorch
    starts them, and the modulation layers zero: the cross blocks start as the identity (`ChunkTransformer.zero_gates`).

    Source: specs/arp.md section 9.
    """
    _default(policy, generator)
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            _zero(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=_EMBEDDING_STD, generator=generator)
        elif isinstance(module, SinusoidEmbedder):
            module.div_term.copy_(module.frequencies(module.width))
    for module in policy.modules():
        if isinstance(module, ConditionedBlock):
            for parameter in module.adaLN_modulation.parameters():
                _zero(parameter)


def _default(root: nn.Module, generator: torch.Generator) -> None:
    """Initialise as PyTorch's constructors, but from a generator: layers uniform in +-1/sqrt(fan in), norms 1 and 0."""
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            _zero(module.bias)


def _zero(parameter: Tensor | None) -> None:
    if parameter is not None:
        nn.init.zeros_(parameter)
