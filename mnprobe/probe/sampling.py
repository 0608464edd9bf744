"""Sampling of training pairs: random partners of a group, and shuffled pairs."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.arrays import Whole, as_whole
from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import Labels, as_labels, encode_labels, some
from mnprobe.core.seeds import check_seed

__all__ = ["Pairing", "shuffled_groups"]


class Pairing:
    """Random partners within groups; a group is an episode, an instruction or a task (paper, section 4.1 and table 3).

    Args:
        groups_u: group of every u: numbers, or labels of any kind.
        groups_e: group of every e.
        names: what each group number is called, for errors.

    Raises:
        ProbeError: a group is present on one side only (the message lists such groups), or there are none.
        FeatureError: a label is missing.

    >>> pairing = Pairing(np.array([0, 0, 1]), np.array([1, 0]))
    >>> pairing.draw(torch.Generator().manual_seed(0)).tolist()
    [1, 1, 0]
    """

    def __init__(self, groups_u: Labels, groups_e: Labels, names: list[str] | None = None) -> None:
        of_u, of_e = as_labels(groups_u, None, "groups_u"), as_labels(groups_e, None, "groups_e")
        if not len(of_u) or not len(of_e):
            raise ProbeError(f"pairing needs items on both sides, got {len(of_u)} and {len(of_e)}")
        if {of_u.dtype.kind, of_e.dtype.kind} != {"i"}:
            (of_u, of_e), names = encode_labels(of_u, of_e)
        present_u, present_e = np.unique(of_u), np.unique(of_e)
        _refuse_lonely(present_u, present_e, names)
        self.n_groups = len(present_u)
        codes_u, codes_e = (np.searchsorted(present_u, groups).astype(np.int64) for groups in (of_u, of_e))
        self._of_u = torch.from_numpy(codes_u)
        self._u, self._e = _Members(codes_u, self.n_groups), _Members(codes_e, self.n_groups)

    def draw(self, generator: torch.Generator) -> Int[Tensor, " n_u"]:
        """For every u, the row of a random e of its group."""
        return self._e.pick(self._of_u, generator)

    def draw_one_per_group(
        self, size: Whole, generator: torch.Generator
    ) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
        """`size` different groups at random (n_groups at most), and of each a random u row and a random e row."""
        size = as_whole(size, "size", least=1, most=self.n_groups)
        groups = torch.randperm(self.n_groups, generator=generator)[:size]
        return self._u.pick(groups, generator), self._e.pick(groups, generator)


class _Members:
    """The rows of every group, laid end to end, so that one random row of many groups is one vector operation."""

    def __init__(self, groups: NDArray[np.int64], n_groups: int) -> None:
        self._rows = torch.from_numpy(np.argsort(groups, kind="stable"))
        self._counts = torch.from_numpy(np.bincount(groups, minlength=n_groups))
        self._starts = torch.cumsum(self._counts, 0) - self._counts

    def pick(self, groups: Int[Tensor, " k"], generator: torch.Generator) -> Int[Tensor, " k"]:
        share = torch.rand(len(groups), generator=generator, dtype=torch.float64)
        counts = self._counts[groups]
        offset = torch.minimum((share * counts).long(), counts - 1)
        return self._rows[self._starts[groups] + offset]


def _refuse_lonely(present_u: NDArray[np.int64], present_e: NDArray[np.int64], names: list[str] | None) -> None:
    lonely = {
        "u": np.setdiff1d(present_u, present_e, assume_unique=True),
        "e": np.setdiff1d(present_e, present_u, assume_unique=True),
    }
    if not any(len(groups) for groups in lonely.values()):
        return
    parts = [
        f"{len(groups)} only in {side} ({some([names[g] if names else str(g) for g in groups])})"
        for side, groups in lonely.items()
        if len(groups)
    ]
    raise ProbeError(
        f"pairing needs every group on both sides; of {len(np.union1d(present_u, present_e))} groups "
        f"{' and '.join(parts)}. Leave these items out, or pair by a coarser group (instruction, task)."
    )


def shuffled_groups(groups: Labels, *, seed: Whole = 0) -> NDArray[Any]:
    """The group labels of the training set in random order: each e is paired as if it belonged to another group.

    Group sizes stay as they are. Heads fitted with these labels on one side can memorise the training pairs but learn
    nothing that holds for new episodes, so their recall on true test pairs shows what chance gives.
    Raises FeatureError for a label that is missing, ConfigError for a seed that is none.
    Source: control tasks, Hewitt and Liang 2019 (arXiv 1909.03368).

    >>> sorted(shuffled_groups(np.array(["a", "a", "b"])).tolist())
    ['a', 'a', 'b']
    """
    return np.random.default_rng([check_seed(seed), 3]).permutation(as_labels(groups, None, "groups"))
