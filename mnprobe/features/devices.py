"""Where and how precisely a model runs."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from mnprobe.core.errors import ConfigError

__all__ = ["autocast", "resolve_device"]


def resolve_device(wish: str, *, local: int = 0) -> str:
    """ "auto" takes CUDA where there is some and the CPU otherwise; any other wish is fulfilled or refused.

    `local` is the number of the process on its machine: under torchrun "auto" and "cuda" mean that process's GPU.
    Raises ConfigError for an unknown device, or CUDA where there is none.
    """
    count = torch.cuda.device_count()
    if wish == "auto":
        return f"cuda:{local % count}" if count else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ConfigError(f"unknown device {wish!r}; use auto, cpu, cuda or cuda:<number>") from None
    if device.type == "cuda":
        number = local if device.index is None else device.index
        if number >= count:
            raise ConfigError(
                f"--device {wish}: this machine offers torch {count} CUDA devices; use --device cpu or auto"
            )
        return f"cuda:{number}"
    if device.type != "cpu":
        raise ConfigError(f"--device {wish}: extraction runs on cpu or cuda")
    return "cpu"


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 mixed precision for "bf16", nothing for "float32"."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
