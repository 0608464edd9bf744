"""One optimiser step of a probe, in the direct form (autograd) or through Gram matrices; both take the same steps."""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mnprobe.core.errors import ConfigError
from mnprobe.probe._arrays import row_factors
from mnprobe.probe.gram import gram_step, worth_it
from mnprobe.probe.heads import AlignmentHeads
from mnprobe.probe.loss import Positives, loss_of_pairs

__all__ = ["Form", "Stepper", "stepper_for"]

Form = Literal["auto", "direct", "gram"]


@runtime_checkable
class Stepper(Protocol):
    """Holds heads and their Adam."""

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Standardised features of one side in the form that `step` takes."""

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        """Update on one batch of pairs; the loss before the update."""

    def settle(self) -> None:
        """Write the parameters into the heads, where they are not there already."""


def stepper_for(
    heads: AlignmentHeads,
    *,
    tau: float,
    positives: Positives,
    lr: float,
    weight_decay: float,
    batch: int,
    form: Form = "auto",
) -> Stepper:
    """The Gram form for linear heads where it takes less work (`auto`), else the direct one.

    Raises ConfigError where the Gram form is asked for heads that are not linear.
    """
    linear = isinstance(heads.t_u, nn.Linear) and isinstance(heads.t_e, nn.Linear)
    if form == "gram" and not linear:
        raise ConfigError(f"the Gram form is of linear heads, these are {heads.config['kind']!r}")
    sizes = (heads.config["dim_u"], heads.config["dim_e"], heads.config["dim"])
    if form == "gram" or (form == "auto" and linear and worth_it(*sizes, batch)):
        return _Gram(heads, tau, positives, lr, weight_decay)
    return _Direct(heads, tau, positives, lr, weight_decay)


class _Direct:
    def __init__(self, heads: AlignmentHeads, tau: float, positives: Positives, lr: float, weight_decay: float) -> None:
        self._heads, self._tau, self._positives = heads, tau, positives
        self._adam = torch.optim.Adam(heads.parameters(), lr=lr, weight_decay=weight_decay, fused=True)

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return features

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        z_u, z_e = self._heads.t_u(u), self._heads.t_e(e)
        loss = loss_of_pairs(z_u, z_e, tau=self._tau, groups=groups, positives=self._positives)
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._adam.step()
        return loss.item()

    def settle(self) -> None:
        pass


class _Gram:
    def __init__(self, heads: AlignmentHeads, tau: float, positives: Positives, lr: float, weight_decay: float) -> None:
        self._heads, self._tau, self._positives = heads, tau, positives
        self._t_u, self._t_e = (_with_bias(head) for head in (heads.t_u, heads.t_e))
        parameters = [self._t_u, self._t_e]
        self._adam = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        padded = nn.functional.pad(features, (0, 1), value=1.0)
        return padded * row_factors(padded)  # the loss knows directions only: huge rows lose their scale, exactly

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        found = gram_step(self._t_u, self._t_e, u, e, tau=self._tau, groups=groups, positives=self._positives)
        self._t_u.grad, self._t_e.grad = found.grad_u, found.grad_e
        self._adam.step()
        return found.loss.item()

    @torch.no_grad()
    def settle(self) -> None:
        for head, values in ((self._heads.t_u, self._t_u), (self._heads.t_e, self._t_e)):
            head.get_parameter("weight").copy_(values[:, :-1])
            head.get_parameter("bias").copy_(values[:, -1])


def _with_bias(head: nn.Module) -> nn.Parameter:
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    return nn.Parameter(torch.cat([weight.detach(), bias.detach()[:, None]], dim=1))
