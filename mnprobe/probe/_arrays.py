"""Inside helpers: features as checked float32 tensors, labels as integers, one thread, devices."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import ConfigError, FeatureError

__all__: list[str] = []

Labels = Sequence[Any] | NDArray[Any] | Tensor


def as_features(values: Tensor | NDArray[Any], name: str) -> Tensor:
    """Float32, contiguous, (n, d) with n, d >= 1, all finite; FeatureError that names `name` otherwise."""
    tensor = torch.as_tensor(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values).detach()
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


def as_labels(labels: Labels, rows: int, name: str) -> NDArray[Any]:
    """Labels as a 1-D array of integers or of text, one per row; FeatureError when the count differs."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (rows,):
        raise FeatureError(f"{name} must give one label per row: {rows} rows, labels of shape {array.shape}")
    return array if array.dtype.kind in "iub" else array.astype(str)


def encode(*labels: NDArray[Any]) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Number equal labels equally over all arrays: integer codes for each array, and the label behind each code."""
    if len({array.dtype.kind in "iub" for array in labels}) > 1:
        labels = tuple(array.astype(str) for array in labels)
    names, codes = np.unique(np.concatenate(labels), return_inverse=True)
    ends = np.cumsum([len(array) for array in labels])
    parts = np.split(codes.reshape(-1).astype(np.int64), ends[:-1])
    return parts, [str(name) for name in names]


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


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few of a list of names for an error message, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
