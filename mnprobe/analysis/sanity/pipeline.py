"""The parts of the pipeline that the sanity suite runs; another function can stand in for any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.analysis.leakage import twins
from mnprobe.analysis.similarity import make_index, similarity_test
from mnprobe.probe import (
    AlignmentHeads,
    align,
    chance_recall,
    fit_heads,
    hold_out,
    pair_files,
    recall_at_k,
)

__all__ = ["Pipeline", "transform"]


def transform(
    heads: AlignmentHeads, u: NDArray[np.float32], e: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """z_u = T_u(u) and z_e = T_e(e) as arrays, with the standardisation that the heads carry."""
    with torch.no_grad():
        z_u, z_e = heads(torch.from_numpy(np.ascontiguousarray(u)), torch.from_numpy(np.ascontiguousarray(e)))
    return z_u.numpy(), z_e.numpy()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What `mnprobe align`, `compare` and `audit` are made of.

    By default the very functions that the commands call. The tests of the suite put broken ones in their place and
    demand that a check fails; a user can put his own there.
    """

    join: Callable[..., Any] = pair_files
    hold_out: Callable[..., Any] = hold_out
    fit: Callable[..., Any] = fit_heads
    transform: Callable[..., Any] = transform
    recall: Callable[..., Any] = recall_at_k
    chance: Callable[..., Any] = chance_recall
    align: Callable[..., Any] = align
    twins: Callable[..., Any] = twins
    index: Callable[..., Any] = make_index
    index_test: Callable[..., Any] = similarity_test
