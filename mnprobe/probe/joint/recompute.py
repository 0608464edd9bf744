"""Time for memory: video blocks keep their input alone, and compute the rest again in the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mnprobe.core.errors import ConfigError
from mnprobe.models.viclip import ViCLIP

__all__ = ["recompute_blocks"]


def recompute_blocks(viclip: ViCLIP) -> None:
    """Make every block of the video encoder compute its inner states twice instead of keeping them.

    Numbers, gradients and names of weights stay as they are; an update takes about a third more time. ViCLIP's own
    training does the same (specs/viclip.md section 2).

    Raises:
        ConfigError: with stochastic depth, whose draws would not be the same the second time.
    """
    if viclip.config.stochastic_depth > 0:
        raise ConfigError(
            f"recompute does not go with a stochastic depth of {viclip.config.stochastic_depth}: the second pass would "
            "leave out other tokens. Set one of them to 0"
        )
    for block in viclip.vision_encoder.transformer.resblocks:
        block.__dict__["forward"] = partial(_twice, block.forward)


def _twice(forward: Callable[..., Tensor], x: Tensor, **options: Any) -> Tensor:
    out: Tensor = checkpoint(forward, x, use_reentrant=False, **options)
    return out
