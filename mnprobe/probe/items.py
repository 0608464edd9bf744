"""Items of a probe: ids, labels, partitions and outcomes, one row per episode."""

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import (
    Labels,
    as_labels,
    as_outcomes,
    as_partitions,
    is_missing,
    label_list,
    one_spelling,
    some,
)

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
        notes: what was mapped when the labels were read, in words.

    >>> Items.of(ids=["a", "b"], instructions=["open", "close"]).groups("instruction").tolist()
    ['open', 'close']
    """

    ids: NDArray[Any]
    instructions: NDArray[Any]
    tasks: NDArray[Any]
    partitions: NDArray[Any]
    success_u: NDArray[np.int8]
    success_e: NDArray[np.int8]
    notes: tuple[str, ...] = ()

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
        """Check and convert, by the rules of `mnprobe.core.labels`; labels that are not given are '', outcomes -1.

        Raises FeatureError, naming the column and the first row, for lengths that differ, ids that repeat,
        instructions, tasks or partitions that some rows have and others have not, partitions that are not known, and
        outcomes that are none.
        """
        names = as_labels(ids, None, "ids").astype(str).astype(object)
        n = len(names)
        counts = Counter(names.tolist())
        if len(counts) < n:
            raise FeatureError(f"episode ids must be unique; {some([x for x, k in counts.items() if k > 1])} repeat")
        words, remark = one_spelling(_texts(instructions, n, "instructions").tolist(), "instructions")
        parts, mapped = (np.full(n, "", object), "") if partitions is None else as_partitions(partitions, n)
        outcomes = {
            name: np.full(n, -1, np.int8) if given is None else as_outcomes(given, n, name, names)
            for name, given in (("success_u", success_u), ("success_e", success_e))
        }
        return cls(
            ids=names,
            instructions=words,
            tasks=_texts(tasks, n, "tasks"),
            partitions=parts,
            **outcomes,
            notes=tuple(note for note in (remark, mapped) if note),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> "Items":
        """The same for some of the rows, in the order given."""
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "notes"}
        return Items(**columns, notes=self.notes)

    def groups(self, kind: GroupKind) -> NDArray[Any]:
        """What counts as the same action: the episode, the instruction or the task of each row."""
        if kind not in get_args(GroupKind):
            raise ConfigError(f"a group is 'episode', 'instruction' or 'task', got {kind!r}")
        labels = {"episode": self.ids, "instruction": self.instructions, "task": self.tasks}[kind]
        if len(labels) and not labels[0]:  # `of` takes a label in all rows or in none
            raise FeatureError(
                f"these {len(labels)} episodes name no {kind}, so that none of them are known to be the same action; "
                f"give their {kind}s, or let each episode be its own group (--pairing episode, pairing='episode')"
            )
        return labels


def _texts(given: Labels | None, n: int, name: str) -> NDArray[Any]:
    """Labels as text, '' in all rows where there are none at all."""
    if given is None or all(is_missing(value) for value in label_list(given, n, name)):
        return np.full(n, "", object)
    return np.array([str(label) for label in as_labels(given, n, name)], dtype=object)
