"""The episodes that are probed: ids, labels, partitions and outcomes, one row per episode of both sides."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.probe._arrays import Labels, as_labels, some

__all__ = ["GroupKind", "Items"]

GroupKind = Literal["episode", "instruction", "task"]


@dataclass(frozen=True, kw_only=True)
class Items:
    """Labels of N paired episodes; row i describes row i of u and of e.

    Attributes:
        ids: episode ids, unique.
        instructions: what each episode was about, in words.
        tasks: the task each belongs to.
        partitions: "train", "val", "test", or "" where the dataset has none.
        success_u: 1 where the understanding model recognised the instruction, 0 where not, -1 unknown.
        success_e: 1 where the execution succeeded, 0 where not, -1 unknown.

    >>> Items.of(ids=["a", "b"], instructions=["open", "close"]).groups("instruction").tolist()
    ['open', 'close']
    """

    ids: NDArray[Any]
    instructions: NDArray[Any]
    tasks: NDArray[Any]
    partitions: NDArray[Any]
    success_u: NDArray[np.int8]
    success_e: NDArray[np.int8]

    @classmethod
    def of(
        cls,
        *,
        ids: Labels,
        instructions: Labels | None = None,
        tasks: Labels | None = None,
        partitions: Labels | None = None,
        success_u: Labels | None = None,
        success_e: Labels | None = None,
    ) -> "Items":
        """Check and convert; labels that are not given are '' and outcomes -1. FeatureError for lengths or ids."""
        n = len(ids)
        names = as_labels(ids, n, "ids").astype(str)
        unique, counts = np.unique(names, return_counts=True)
        if len(unique) < n:
            raise FeatureError(f"episode ids must be unique; {some([str(x) for x in unique[counts > 1]])} repeat")
        text = {
            name: np.full(n, "") if given is None else as_labels(given, n, name).astype(str)
            for name, given in (("instructions", instructions), ("tasks", tasks), ("partitions", partitions))
        }
        outcomes = {
            name: np.full(n, -1, np.int8) if given is None else as_labels(given, n, name).astype(np.int8)
            for name, given in (("success_u", success_u), ("success_e", success_e))
        }
        for name, values in outcomes.items():
            if not np.isin(values, (-1, 0, 1)).all():
                raise FeatureError(f"{name} must be 1, 0 or -1 (unknown), found {sorted(set(values.tolist()))}")
        return cls(ids=names, **text, **outcomes)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> "Items":
        """The same for some of the rows, in the order given."""
        return Items(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def groups(self, kind: GroupKind) -> NDArray[Any]:
        """What counts as the same action: the episode, the instruction or the task of each row."""
        if kind not in get_args(GroupKind):
            raise ConfigError(f"a group is 'episode', 'instruction' or 'task', got {kind!r}")
        return {"episode": self.ids, "instruction": self.instructions, "task": self.tasks}[kind]
