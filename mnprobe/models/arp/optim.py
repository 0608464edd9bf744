"""Optimizer of ARP: LAMB in two variants, and the warm-up cosine schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from mnprobe.core.errors import ConfigError

__all__ = ["Lamb", "LambRule", "learning_rate"]

LambRule = Literal["uncorrected", "capped"]
"""See `Lamb`."""

_EPS: dict[LambRule, float] = {"uncorrected": 1e-6, "capped": 1e-8}
_LARGEST_NORM = 10.0


class Lamb(Optimizer):
    """LAMB: the step of Adam, scaled for each tensor by the tensor's own size.

    With m, v the running means of the gradient and its square, p the tensor, wd the weight decay:

    - "uncorrected": no bias correction; u = m / (sqrt(v) + 1e-6) + wd p; p -= lr min(|p|, 10) / |u| u. Where |p| or |u|
      is 0 the factor is 1. A tensor that starts at zero therefore moves. This is ARP's pure PyTorch rule.
    - "capped": bias-corrected u = m' / (sqrt(v') + 1e-8); p -= lr min(1, |p| / |u|) u; then p *= 1 - lr wd. The step is
      never enlarged, and a tensor that starts at zero stays zero: the modulation layers of ARP, and all zero biases.
      This is the rule of the 8-bit library (with 32-bit states) that the released models were trained with.

    Libraries offer one of the two at most, by their documented rules: torch_optimizer and pytorch_optimizer the first
    (norms cut at 10, no cap of the ratio), bitsandbytes the second, in compiled kernels. timm's variant, with clipped
    ratio and decoupled decay, decays before the step, moves tensors of zeros, and by default does not scale tensors
    without decay. Both rules here match measured updates to rounding.

    Args:
        params: parameters or groups, as for any torch optimiser.
        lr: learning rate; the released training used 1.25e-5 per sample of the global batch.
        rule: "uncorrected" or "capped".
        betas: decay of the two running means.
        weight_decay: decoupled in "capped", inside the scaled step in "uncorrected".
    Raises:
        ConfigError: an unknown rule, or a value out of range.
    Source: You et al. 2020 (arXiv 1904.00962), algorithm 2; specs/arp.md section 9.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        rule: LambRule = "uncorrected",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
    ) -> None:
        if rule not in _EPS:
            raise ConfigError(f"unknown LAMB rule {rule!r}. Known: {', '.join(_EPS)}")
        if not lr >= 0 or not weight_decay >= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(
                f"LAMB needs lr >= 0, weight_decay >= 0 and betas in [0, 1), got {lr!r}, {weight_decay!r}, {betas!r}"
            )
        super().__init__(params, {"lr": lr, "rule": rule, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; `closure` recomputes the loss and is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"], state["m"], state["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        (beta_1, beta_2), m, v = group["betas"], state["m"], state["v"]
        m.lerp_(gradient, 1 - beta_1)
        v.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        eps, decay, size = _EPS[group["rule"]], group["weight_decay"], p.norm()
        if group["rule"] == "uncorrected":
            u = m.div(v.sqrt().add_(eps)).add_(p, alpha=decay)
            length = u.norm()
            ratio = torch.where((size > 0) & (length > 0), size.clamp(max=_LARGEST_NORM) / length, 1.0)
            p.addcmul_(u, group["lr"] * ratio, value=-1)
        else:
            u = m.div(1 - beta_1 ** state["step"]).div_(v.div(1 - beta_2 ** state["step"]).sqrt_().add_(eps))
            length = u.norm()
            ratio = torch.where(length > 0, (size / length).clamp(max=1.0), 1.0)
            p.addcmul_(u, group["lr"] * ratio, value=-1).mul_(1 - group["lr"] * decay)


def learning_rate(update: int, *, peak: float, warmup: int = 2000, period: int = 83_333, floor: float = 0.01) -> float:
    """Learning rate at an update (0-based): linear warm-up to `peak`, then half a cosine down.

    After the warm-up: floor * peak + (1 - floor) * peak * (1 + cos(pi (update - warmup) / period)) / 2. The period
    counts from the end of the warm-up; the released training made as many updates in all as the period has (160,000
    transitions per epoch, 100 epochs, 192 samples an update: 83,333), so that it ended a little above the floor. Past
    the period the cosine rises again.

    Source: specs/arp.md section 9.

    >>> learning_rate(0, peak=2.4e-3), learning_rate(2000, peak=2.4e-3)
    (1.2e-06, 0.0024)
    """
    if update < warmup:
        return peak * (update + 1) / warmup
    return floor * peak + (1 - floor) * peak * (1 + math.cos(math.pi * (update - warmup) / period)) / 2
