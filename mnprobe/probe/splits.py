"""Episodes of a probe with their labels, and train and test splits (DESIGN 6)."""

import re
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Number, Whole, as_number
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import (
    PARTITIONS,
    Labels,
    as_labels,
    as_outcomes,
    as_partitions,
    encode_labels,
    is_missing,
    label_list,
    one_spelling,
    same_text,
    some,
)
from mnprobe.core.seeds import check_seed

__all__ = [
    "NO_OVERLAP",
    "GroupKind",
    "Holdout",
    "Items",
    "Partition",
    "check_no_overlap",
    "check_pairing",
    "choose_groups",
    "fitted_partition",
    "forbidden_overlap",
    "has_partitions",
    "hold_out",
    "independent_units",
    "shared_wordings",
    "tested_partition",
    "unnamed_tasks",
]

GroupKind = Literal["episode", "instruction", "task"]


@dataclass(frozen=True, kw_only=True)
class Items:
    """Labels of N paired episodes; row i describes row i of u and of e.

    Attributes:
        ids: episode ids, unique.
        instructions: the instruction of each episode.
        tasks: the task each belongs to.
        partitions: "train", "val", "test", or "" where the dataset has none.
        success_u: 1 where the understanding model recognised the instruction, 0 where not, -1 unknown.
        success_e: 1 where the execution succeeded, 0 where not, -1 unknown.
        notes: sentences about labels that were mapped.

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
        invalid outcomes.
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
        """Some of the rows, in the order given."""
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "notes"}
        return Items(**columns, notes=self.notes)

    def groups(self, kind: GroupKind) -> NDArray[Any]:
        """Groups of equal actions: the episode, the instruction or the task of each row."""
        if kind not in get_args(GroupKind):
            raise ConfigError(f"a group is 'episode', 'instruction' or 'task', got {kind!r}")
        labels = {"episode": self.ids, "instruction": self.instructions, "task": self.tasks}[kind]
        if len(labels) and not labels[0]:  # `of` requires a label in all rows or in none
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


Holdout = Literal["episodes", "instructions", "tasks"]
_UNIT: dict[str, GroupKind] = {"episodes": "episode", "instructions": "instruction", "tasks": "task"}
NO_OVERLAP = {
    "episodes": ("episodes",),
    "instructions": ("episodes", "instructions"),
    "tasks": ("episodes", "tasks"),
}
"""What training and test sets must not share under each holdout. New tasks may share instructions with known ones."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Rows to train on, to stop early on (may be empty), and to test on; `note` says what was left out and why."""

    holdout: Holdout
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    note: str = ""


def hold_out(
    items: Items,
    holdout: Holdout,
    *,
    seed: Whole = 0,
    test_share: Number = 0.3,
    validation_share: Number = 0.0,
) -> Partition:
    """Split episodes so that the test set answers one question.

    - "episodes": new episodes of instructions seen in training (the paper's). Where every episode names its partition
      and there are two, these are used: heads are fitted on train (val if there is no train) and measured on test (val
      if there is no test); else episodes are drawn by seed, `test_share` of every instruction that has at least two.
    - "instructions", "tasks": groups never seen in training, drawn by seed, spread over the tasks. Dataset partitions
      are used: training episodes from train, test episodes from test. With tasks held out, an instruction that two
      tasks have in common may be on both sides, and the note says so.

    Args:
        items: the episodes.
        holdout: what is held out.
        seed: of the draw.
        test_share: share to hold out, in (0, 1).
        validation_share: share of the training set to set aside for early stopping, by the same rule.

    Raises:
        TooFewSamples: too few episodes or groups; the message has the counts and the minimum.
        ConfigError: a share or a name is impossible.

    Source: DESIGN 6; specs/measuring.md, section 5, pitfall 1.
    """
    if holdout not in _UNIT:
        raise ConfigError(f"holdout must be one of {', '.join(get_args(Holdout))}, got {holdout!r}")
    test_share, validation_share = as_number(test_share), as_number(validation_share)
    for name, share in (("test_share", test_share), ("validation_share", validation_share)):
        if not 0 <= share < 1 or (name == "test_share" and share == 0):
            raise ConfigError(f"{name} must lie between 0 and 1, got {share!r}")
    everything = np.arange(len(items))
    rng = np.random.default_rng([check_seed(seed), 1])
    pool_train, pool_test = _pools(items, everything)
    cut = _cut_episodes if holdout == "episodes" else _cut_groups
    train, test, note = cut(items, holdout, pool_train, pool_test, test_share, rng)
    validation = everything[:0]
    if validation_share > 0:
        train, validation, _ = cut(items, holdout, train, train, validation_share, rng)
    partition = Partition(holdout=holdout, train=train, validation=validation, test=test, note=note)
    check_no_overlap(items, partition)
    return partition


def forbidden_overlap(
    holdout: str,
    train: NDArray[Any],
    test: NDArray[Any],
    *,
    ids: NDArray[Any],
    instructions: NDArray[Any],
    tasks: NDArray[Any],
) -> dict[str, list[str]]:
    """What training and test rows share although the holdout forbids it (see `NO_OVERLAP`); {} if nothing.

    Both the split and the audit of leakage ask here, so that they follow one rule. Labels are compared as they are.

    Args:
        holdout: "episodes", "instructions" or "tasks".
        train, test: rows, as numbers or as truth values.
        ids, instructions, tasks: of all episodes (N,).

    >>> words, tasks = np.array(["open it", "open it"]), np.array(["door", "box"])
    >>> rows = {"ids": np.array(["a", "b"]), "instructions": words, "tasks": tasks}
    >>> forbidden_overlap("instructions", np.array([0]), np.array([1]), **rows)
    {'instructions': ['open it']}
    >>> forbidden_overlap("tasks", np.array([0]), np.array([1]), **rows)
    {}
    """
    if holdout not in NO_OVERLAP:
        raise ConfigError(f"holdout must be one of {', '.join(NO_OVERLAP)}, got {holdout!r}")
    labels = {"episodes": ids, "instructions": instructions, "tasks": tasks}
    shared = {name: np.intersect1d(labels[name][train], labels[name][test]) for name in NO_OVERLAP[holdout]}
    return {name: [str(label) for label in found] for name, found in shared.items() if len(found)}


def shared_wordings(items: Items) -> str:
    """A sentence about instructions that several tasks have in common; '' if each has one task."""
    owners: dict[str, set[str]] = {}
    for instruction, task in zip(items.instructions.tolist(), items.tasks.tolist(), strict=True):
        owners.setdefault(instruction, set()).add(task)
    several = sorted(words for words, tasks in owners.items() if words and len(tasks) > 1)
    if not several:
        return ""
    return (
        f"{len(several)} instructions occur in more than one task ({some(several)}), so that episodes of new tasks may "
        "be told in words that training has seen"
    )


def check_pairing(items: Items, pairing: GroupKind) -> None:
    """Raise TooFewSamples when all episodes are of one group: each would be a hit, whatever the features are."""
    groups = items.groups(pairing)
    if len(groups) and (groups == groups[0]).all() and pairing != "episode":
        raise TooFewSamples(
            f"nothing can be measured: all {len(groups)} episodes have the same {pairing}, {str(groups[0])!r}: every "
            f"episode would count as a hit, so that recall by {pairing} says nothing. --pairing episode "
            "(pairing='episode') asks whether the episode itself is found"
        )


def unnamed_tasks(instructions: NDArray[Any], tasks: NDArray[Any]) -> str:
    """Why nothing can be told apart by task: no episode names one, or all tasks are the instructions; else ''.

    A task is the instruction also where it is written with underscores or dashes.

    >>> unnamed_tasks(np.array(["open it", "close it"]), np.array(["open_it", "close it"]))
    'nothing but the instruction names the task'
    >>> unnamed_tasks(np.array(["open it", "close it"]), np.array(["door", "door"]))
    ''
    """
    pairs = set(zip(map(str, instructions.tolist()), map(str, tasks.tolist()), strict=True))
    if not any(task for _, task in pairs):
        return "no episode names its task"
    if all(same_text(re.sub("[_-]", " ", task)) == same_text(re.sub("[_-]", " ", text)) for text, task in pairs):
        return "nothing but the instruction names the task"
    return ""


def independent_units(
    ids: NDArray[Any], instructions: NDArray[Any], tasks: NDArray[Any]
) -> tuple[NDArray[Any], Literal["instructions", "episodes"]]:
    """Labels of what an interval leaves out as a whole, and its name: instructions, or episodes if all have one text.

    Episodes of one instruction are alike, so that an instruction is one observation. Where a dataset has a single text
    and no tasks under it, the question is about further episodes of it, and each episode is one. Without any text it is
    not known which episodes are alike: then all are one unit, and there is no interval.

    >>> units, name = independent_units(np.array(["a", "b"]), np.array(["push it"] * 2), np.array([""] * 2))
    >>> name, units.tolist()
    ('episodes', ['a', 'b'])
    """
    texts = set(map(str, instructions.tolist()))
    if texts == {""}:
        return np.full(len(ids), "not known", dtype=object), "instructions"
    if len(texts) == 1 and len(set(map(str, tasks.tolist()))) == 1:
        return ids, "episodes"
    return instructions, "instructions"


def check_no_overlap(items: Items, partition: Partition) -> None:
    """Raise ProbeError if training and test (or validation) rows share what the holdout forbids.

    Raises ProbeError that names the groups on both sides.
    """
    items.groups(_UNIT[partition.holdout])  # which must be there
    labels = {"ids": items.ids, "instructions": items.instructions, "tasks": items.tasks}
    for name, rows in (("test", partition.test), ("validation", partition.validation)):
        overlap = forbidden_overlap(partition.holdout, partition.train, rows, **labels)
        for kind, both in overlap.items():
            raise ProbeError(
                f"{len(both)} {kind} are in the training and in the {name} set, which holding out "
                f"{partition.holdout} forbids: {some(both)}"
            )


def has_partitions(items: Items) -> bool:
    """True when every episode names its partition and there are two of train, val and test.

    Raises FeatureError for other names, and where some episodes have a partition and others have none: an unknown name
    must not disable the rule (`Items.of` has mapped it or raised).
    """
    present = set(items.partitions.tolist())
    if present - {*PARTITIONS, ""} or ("" in present and len(present) > 1):
        raise FeatureError(
            f"partitions must be one of {', '.join(PARTITIONS)} in every row, or '' in all, got {some(sorted(present))}"
            "; make the items with Items.of"
        )
    return len(present) > 1


def fitted_partition(partitions: NDArray[Any]) -> str:
    """The dataset's partition that heads are fitted on: train; val where only that and test were extracted.

    (Models that learnt from train give other features there than on episodes that they never saw.)
    """
    return "train" if "train" in partitions else "val"


def tested_partition(partitions: NDArray[Any]) -> str:
    """The dataset's partition that heads are tested on: test, or val without test."""
    return "test" if "test" in partitions else "val"


def choose_groups(
    groups: NDArray[Any], strata: NDArray[Any], share: float, rng: np.random.Generator, *, holdout: str
) -> NDArray[Any]:
    """Rows of about `share` of the different groups, spread evenly over strata (tasks).

    At least 2 groups are chosen and 2 left; of fewer than 4 tasks, 1 is chosen, as one task has several instructions.
    Raises TooFewSamples when there are fewer than 4 groups (2 tasks).
    """
    (codes,), names = encode_labels(groups)
    least = 1 if holdout == "tasks" and len(names) < 4 else 2
    if len(names) < 2 * least:
        raise TooFewSamples(
            f"holding out {holdout} needs at least {2 * least} {holdout} ({least} to train, {least} to test), "
            f"found {len(names)}: {some(names)}"
        )
    (of_stratum,), strata_names = encode_labels(strata[np.unique(codes, return_index=True)[1]])
    key = np.empty(len(names))
    for stratum in range(len(strata_names)):
        members = rng.permutation(np.flatnonzero(of_stratum == stratum))
        key[members] = (np.arange(len(members)) + rng.random()) / len(members)
    count = min(max(round(share * len(names)), least), len(names) - least)
    chosen = np.argsort(key, kind="stable")[:count]
    return np.flatnonzero(np.isin(codes, chosen))


def _pools(items: Items, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that may be trained on, and rows that may be tested on."""
    if not has_partitions(items):
        return rows, rows
    parts = items.partitions
    return rows[parts == fitted_partition(parts)], rows[parts == tested_partition(parts)]


def _cut_episodes(
    items: Items,
    holdout: Holdout,
    pool_train: NDArray[np.int64],
    pool_test: NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    labels = items.instructions
    note = ""
    if pool_train is not pool_test:
        known = np.isin(labels[pool_test], labels[pool_train])
        if not known.all():
            note = f"{int((~known).sum())} test episodes of instructions that training has not seen are left out"
        train, test = pool_train, pool_test[known]
    else:
        parts_train, parts_test = [], []
        for label in np.unique(labels[pool_train]):
            rows = rng.permutation(pool_train[labels[pool_train] == label])
            count = min(max(round(share * len(rows)), 1), len(rows) - 1)
            parts_test.append(rows[:count])
            parts_train.append(rows[count:])
        train, test = np.sort(np.concatenate(parts_train)), np.sort(np.concatenate(parts_test))
    if len(train) < 2 or len(test) < 2:
        raise TooFewSamples(
            f"holding out episodes needs at least 2 training and 2 test episodes of known instructions, found "
            f"{len(train)} and {len(test)} among {len(items)} episodes of {len(np.unique(labels))} instructions. "
            "Instructions with one episode cannot be tested."
        )
    return train, test, note


def _cut_groups(
    items: Items,
    holdout: Holdout,
    pool_train: NDArray[np.int64],
    pool_test: NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    groups = items.groups(_UNIT[holdout])
    strata = items.tasks if holdout == "instructions" else np.full(len(items), "")
    chosen = np.unique(
        groups[pool_test][choose_groups(groups[pool_test], strata[pool_test], share, rng, holdout=holdout)]
    )
    train = pool_train[~np.isin(groups[pool_train], chosen)]
    test = pool_test[np.isin(groups[pool_test], chosen)]
    left = len(np.unique(items.instructions[train]))
    if left < 2:
        raise TooFewSamples(
            f"holding out {holdout} leaves {len(train)} training episodes of {left} instructions, at least 2 "
            f"instructions are needed ({len(np.unique(groups))} {holdout} in all)"
        )
    shared = holdout == "tasks" and np.isin(items.instructions[test], items.instructions[train]).any()
    return train, test, shared_wordings(items) if shared else ""
