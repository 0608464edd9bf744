"""Inside helpers: features as checked float32 tensors, devices, a fixed number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mnprobe.core.arrays import Array, as_array
from mnprobe.core.errors import ConfigError, FeatureError

__all__: list[str] = []


def as_features(values: Array, name: str) -> Tensor:
    """Float32, contiguous, (n, d) with n, d >= 1, all finite; FeatureError that names `name` otherwise."""
    if isinstance(values, Tensor) and values.device.type != "cpu":
        tensor = values.detach()
    else:
        tensor = torch.from_numpy(as_array(values, name))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise FeatureError(
            f"{name} must be one row per item, shape (items, width), both at least 1; got shape {tuple(tensor.shape)}. "
            "Pool tokens to one vector per episode first, e.g. FeatureFile.layer(...).pooled('mean')."
        )
    tensor = tensor.to(torch.float32).contiguous()
    finite = torch.isfinite(tensor).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = int(torch.nonzero(~finite)[0])
        raise FeatureError(
            f"{name}: {bad} of {len(tensor)} rows hold NaN or infinity, the first is row {first}. "
            "Extract these features again."
        )
    return tensor


def as_device(device: str | torch.device) -> torch.device:
    """The device asked for; ConfigError when this machine has no such device."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:<number>'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run with so many torch threads, then put the old number back: sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
