"""Rows of all processes together, with gradients that find the process which made each row."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mnprobe.core.errors import ConfigError

__all__ = ["gather_with_gradient", "mean_over_team"]


def gather_with_gradient(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """The rows of every process of the default team in the order of ranks; `x` itself where there is no team.

    The gradient that a process receives for its rows is the sum of what all processes computed for them. Where every
    process computes the same loss L of the gathered rows, that is the number of processes times dL/dx; the mean over
    processes that DistributedDataParallel takes of the weights' gradients turns it into the gradient of one process
    with all rows. Whole numbers and rows without gradient are gathered too.

    Args:
        x: the same number of rows, shape and type on every process, on the device that the team talks through.
    Raises:
        ConfigError: the processes bring different numbers of rows (on every process alike).

    >>> gather_with_gradient(torch.arange(3))
    tensor([0, 1, 2])
    """
    if not _has_team():
        return x
    _check_rows(x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _all_rows(x)
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return gathered


def mean_over_team(values: Float[Tensor, " k"], rows: int) -> Float[Tensor, " k"]:
    """Means over `rows` local rows -> means over the rows of every process, with gradients as `gather_with_gradient`.

    >>> mean_over_team(torch.tensor([1.5, 2.0]), rows=4)
    tensor([1.5000, 2.0000])
    """
    if not _has_team():
        return values
    every = gather_with_gradient(values[None])
    counts = gather_with_gradient(torch.tensor([rows], device=values.device)).to(values.dtype)
    return (counts / counts.sum()) @ every


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is summed over processes. (torch.distributed.nn, which has one, is deprecated.)"""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _all_rows(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _has_team() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_rows(x: Tensor) -> Tensor:
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def _check_rows(x: Tensor) -> None:
    counts: list[Any] = _all_rows(torch.tensor([len(x)], device=x.device)).tolist()
    if len(set(counts)) != 1:
        raise ConfigError(
            f"every process must bring the same number of rows, got {counts} by rank; "
            f"choose numbers of transitions and clips that {len(counts)} processes can share equally"
        )
