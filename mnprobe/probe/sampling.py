"""Random sampling of training pairs: partners of a group, and shuffled pairs."""

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

__all__ = ["GroupMembers", "Pairing", "shuffled_groups"]


class GroupMembers:
    """Members of all groups in one array, so that sampling a random member of many groups is a vector operation.

    Args:
        groups: (N,) group number of each item.
        n_groups: number of groups.
        members: the items that may be sampled; all by default.

    >>> GroupMembers(np.array([0, 0, 1]), 2).sample(np.array([1, 1]), np.random.default_rng(0)).tolist()
    [2, 2]
    """

    def __init__(self, groups: NDArray[np.int64], n_groups: int, members: NDArray[np.int64] | None = None) -> None:
        items = np.arange(len(groups)) if members is None else members
        self._members = items[np.argsort(groups[items], kind="stable")]
        self.counts: NDArray[np.int64] = np.bincount(groups[items], minlength=n_groups).astype(np.int64)
        self._starts = np.cumsum(self.counts) - self.counts

    def sample(self, groups: NDArray[np.int64], rng: np.random.Generator | torch.Generator) -> NDArray[np.int64]:
        """A uniform random member of each of these groups, which must not be empty.

        The two kinds of generators give different members: each keeps the numbers of what was measured with it.
        """
        counts = self.counts[groups]
        if isinstance(rng, torch.Generator):
            share = torch.rand(len(groups), generator=rng, dtype=torch.float64).numpy()
            offsets = np.minimum((share * counts).astype(np.int64), counts - 1)
        else:
            offsets = rng.integers(0, counts)
        sampled: NDArray[np.int64] = self._members[self._starts[groups] + offsets]
        return sampled


class Pairing:
    """Random partners within groups; a group is an episode, an instruction or a task (paper, section 4.1 and table 3).

    Args:
        groups_u: group of every u: numbers, or labels of any kind.
        groups_e: group of every e.
        names: name of each group number, for errors.

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
        _check_groups_on_both_sides(present_u, present_e, names)
        self.n_groups = len(present_u)
        codes_u, codes_e = (np.searchsorted(present_u, groups).astype(np.int64) for groups in (of_u, of_e))
        self._of_u = codes_u
        self._u, self._e = GroupMembers(codes_u, self.n_groups), GroupMembers(codes_e, self.n_groups)

    def draw(self, generator: torch.Generator) -> Int[Tensor, " n_u"]:
        """For every u, the row of a random e of its group."""
        return torch.from_numpy(self._e.sample(self._of_u, generator))

    def draw_one_per_group(
        self, size: Whole, generator: torch.Generator
    ) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
        """`size` different groups at random (n_groups at most), and of each a random u row and a random e row."""
        size = as_whole(size, "size", least=1, most=self.n_groups)
        groups = torch.randperm(self.n_groups, generator=generator)[:size].numpy()
        rows_u, rows_e = (torch.from_numpy(side.sample(groups, generator)) for side in (self._u, self._e))
        return rows_u, rows_e


def _check_groups_on_both_sides(
    present_u: NDArray[np.int64], present_e: NDArray[np.int64], names: list[str] | None
) -> None:
    missing = {
        "u": np.setdiff1d(present_u, present_e, assume_unique=True),
        "e": np.setdiff1d(present_e, present_u, assume_unique=True),
    }
    if not any(len(groups) for groups in missing.values()):
        return
    parts = [
        f"{len(groups)} only in {side} ({some([names[g] if names else str(g) for g in groups])})"
        for side, groups in missing.items()
        if len(groups)
    ]
    raise ProbeError(
        f"pairing needs every group on both sides; of {len(np.union1d(present_u, present_e))} groups "
        f"{' and '.join(parts)}. Leave these items out, or pair by a coarser group (instruction, task)."
    )


def shuffled_groups(groups: Labels, *, seed: Whole = 0) -> NDArray[Any]:
    """The group labels of the training set in random order: each e is paired as if it belonged to another group.

    Group sizes do not change. Heads fitted with these labels on one side can memorize the training pairs but learn
    nothing that holds for new episodes, so their recall on true test pairs is at chance.
    Raises FeatureError for a missing label, ConfigError for an invalid seed.
    Source: control tasks, Hewitt and Liang 2019 (arXiv 1909.03368).

    >>> sorted(shuffled_groups(np.array(["a", "a", "b"])).tolist())
    ['a', 'a', 'b']
    """
    return np.random.default_rng([check_seed(seed), 3]).permutation(as_labels(groups, None, "groups"))
