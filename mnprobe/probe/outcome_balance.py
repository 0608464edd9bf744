"""Balanced draws of successes and failures: equal counts, equal instructions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Number, Whole, as_share, as_whole
from mnprobe.core.errors import TooFewSamples
from mnprobe.core.labels import encode_labels
from mnprobe.core.seeds import check_seed
from mnprobe.probe.splits import (
    Holdout,
    Items,
    Partition,
    check_no_overlap,
    choose_groups,
    fitted_partition,
    has_partitions,
    tested_partition,
)

__all__ = ["NEEDED", "SETTINGS", "Setting", "Side", "balanced_draw", "measurable_sides", "shared_training"]

Side = Literal["understanding", "execution"]
Setting = Literal["understanding-success", "understanding-failure", "execution-success", "execution-failure"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
NEEDED = 4
"""Least number of training and of test episodes in each setting, of at least two instructions each."""

_ATTEMPTS = 50
_Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Quota:
    """How many training and test episodes of each instruction every setting of one side takes."""

    train: _Counts
    test: _Counts


def measurable_sides(items: Items, rows: NDArray[np.int64] | None = None) -> tuple[list[Side], list[str]]:
    """Sides whose outcomes are known and mixed, and for each other side a sentence about what is missing.

    `rows` are the episodes that can be tested on; all when not given.
    """
    items = items if rows is None else items.take(rows)
    sides: list[Side] = []
    missing: list[str] = []
    remedy = {
        "understanding": "extract with recognition, so that the store holds the predicted instruction",
        "execution": "give --outcomes to mnprobe extract",
    }
    for side in get_args(Side):
        outcome = _outcome(items, side)
        known = int((outcome >= 0).sum())
        if known == 0:
            missing.append(f"{side} outcomes: 0 of {len(items)} episodes known; {remedy[side]}")
        elif min((outcome == 1).sum(), (outcome == 0).sum()) == 0:
            missing.append(
                f"{side} outcomes: {int((outcome == 1).sum())} successes and {int((outcome == 0).sum())} failures "
                f"among {known} episodes with known outcome; both are needed to compare"
            )
        else:
            sides.append(side)
    return sides, missing


def balanced_draw(
    items: Items,
    holdout: Holdout,
    *,
    sides: Sequence[Side],
    draw: Whole = 0,
    seed: Whole = 0,
    test_share: Number = 0.3,
    test_only: bool = False,
) -> dict[Setting, Partition]:
    """One random draw: for success and failure of each side, a partition of equal size.

    Within a side, success and failure get exactly the same number of training and of test episodes of every
    instruction, min(successes, failures) at most; so they differ in the outcome only. All settings have the
    same total numbers (the larger side is thinned at random). Without this the split would measure which tasks are
    hard and which gallery is small.

    Args:
        items: the episodes with their outcomes.
        holdout: what is held out, as in `hold_out`.
        sides: sides to draw for, from `measurable_sides`.
        draw: number of the draw.
        seed: of all draws.
        test_share: share of each matched set that is tested on.
        test_only: draw test episodes alone, from the partition "test", for one probe that is trained on others
            whatever their outcome; training rows are then empty.

    Raises:
        ConfigError: a seed, draw or share is impossible.
        TooFewSamples: fewer than NEEDED training or test episodes can be matched; the message has the counts.
    """
    test_share = as_share(test_share, "test_share")
    rng = np.random.default_rng([check_seed(seed), 2, as_whole(draw, "draw", least=0)])
    codes = _cells(items, holdout)
    cells = int(codes.max(initial=-1)) + 1
    quotas = {side: _quota(items, side, holdout, codes, cells, test_share, rng, test_only) for side in sides}
    n_test = min(int(quota.test.sum()) for quota in quotas.values())
    quotas = {side: _thin_test(quota, n_test, rng) for side, quota in quotas.items()}
    n_train = min(int(quota.train.sum()) for quota in quotas.values())
    drawn: dict[Setting, Partition] = {}
    for side, quota in quotas.items():
        train = _thin_train(quota, n_train, rng, known=holdout == "episodes" and not test_only)
        outcome = _outcome(items, side)
        for name, value in (("success", 1), ("failure", 0)):
            setting = next(setting for setting in SETTINGS if setting == f"{side}-{name}")
            rows = _sample_rows(items, codes, np.flatnonzero(outcome == value), train, quota.test, rng)
            partition = Partition(holdout=holdout, train=rows[0], validation=rows[0][:0], test=rows[1])
            check_no_overlap(items, partition)
            drawn[setting] = partition
    return drawn


def shared_training(items: Items, holdout: Holdout, drawn: dict[Setting, Partition]) -> NDArray[np.int64]:
    """Rows to train one probe for all settings on: all that none of the settings tests on (nor their groups)."""
    tested = np.unique(np.concatenate([partition.test for partition in drawn.values()]))
    rows = np.arange(len(items))
    if has_partitions(items):
        rows = rows[items.partitions == fitted_partition(items.partitions)]
    if holdout == "episodes":
        return np.setdiff1d(rows, tested)
    groups = items.groups("instruction" if holdout == "instructions" else "task")
    return rows[~np.isin(groups[rows], groups[tested])]


def _cells(items: Items, holdout: Holdout) -> NDArray[np.int64]:
    """Number of the cell of each row, in which success and failure are matched: its instruction, or with tasks held out
    its instruction and task.

    (An instruction that two tasks have in common can be trained on in one of them and tested in the other.)
    """
    (codes, tasks), names = encode_labels(items.instructions, items.tasks)
    if holdout == "tasks":
        codes = codes * len(names) + tasks
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _outcome(items: Items, side: Side) -> NDArray[np.int8]:
    return items.success_u if side == "understanding" else items.success_e


def _quota(
    items: Items,
    side: Side,
    holdout: Holdout,
    codes: NDArray[np.int64],
    cells: int,
    share: float,
    rng: np.random.Generator,
    test_only: bool,
) -> _Quota:
    outcome = _outcome(items, side)

    def matched(rows: NDArray[np.bool_]) -> _Counts:
        both = [np.bincount(codes[rows & (outcome == value)], minlength=cells) for value in (1, 0)]
        return np.minimum(*both).astype(np.int64)

    if test_only:
        train = np.bincount(codes[items.partitions == "train"], minlength=cells)  # of any outcome
        test = matched(items.partitions == "test")
    elif has_partitions(items):
        parts = items.partitions
        train, test = (matched(parts == name) for name in (fitted_partition(parts), tested_partition(parts)))
    else:
        train = test = matched(np.ones(len(items), dtype=bool))
    if holdout == "episodes":
        if train is test:
            test = np.where(train > 1, np.clip(np.rint(share * train).astype(np.int64), 1, None), 0)
            train = train - test
        quota = _Quota(train=train, test=np.where(train > 0, test, 0))
        _check(items, side, holdout, quota, codes)
        return _Quota(train=np.zeros_like(train), test=quota.test) if test_only else quota
    for attempt in range(_ATTEMPTS):  # some choices of instructions or tasks leave too few episodes: choose others
        quota = _quota_of_groups(items, holdout, codes, train, test, share, rng)
        try:
            _check(items, side, holdout, quota, codes)
        except TooFewSamples:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    return _Quota(train=np.zeros_like(train), test=quota.test) if test_only else quota


def _quota_of_groups(
    items: Items,
    holdout: Holdout,
    codes: NDArray[np.int64],
    train: _Counts,
    test: _Counts,
    share: float,
    rng: np.random.Generator,
) -> _Quota:
    """Choose test instructions (or tasks) among those that both outcomes have; train on the others."""
    first = np.unique(codes, return_index=True)[1]
    tasks, instructions = items.tasks[first], items.instructions[first]
    allowed = np.flatnonzero(test > 0)
    held = np.zeros(len(train), dtype=bool)
    if len(allowed):
        by_instruction = holdout == "instructions"
        units = (instructions if by_instruction else tasks)[allowed]
        strata = tasks[allowed] if by_instruction else np.full(len(allowed), "")
        held[allowed[choose_groups(units, strata, share, rng, holdout=holdout)]] = True
    blocked = held if holdout == "instructions" else np.isin(tasks, tasks[held])
    return _Quota(train=np.where(blocked, 0, train), test=np.where(held, test, 0))


def _check(items: Items, side: Side, holdout: Holdout, quota: _Quota, codes: NDArray[np.int64]) -> None:
    train, test = quota.train, quota.test
    words = items.instructions[np.unique(codes, return_index=True)[1]]
    of_both = [len(set(words[part > 0].tolist())) for part in (train, test)]
    counts = (int(train.sum()), int(test.sum()), *of_both)
    if min(counts[:2]) < NEEDED or min(counts[2:]) < 2:
        outcome = _outcome(items, side)
        raise TooFewSamples(
            f"{side} success against failure, {holdout} held out: {int((outcome == 1).sum())} successes and "
            f"{int((outcome == 0).sum())} failures give only {counts[0]} training episodes of {counts[2]} instructions "
            f"and {counts[1]} test episodes of {counts[3]} instructions with equal instructions on both sides; "
            f"at least {NEEDED} of 2 instructions are needed for each"
        )


def _thin_test(quota: _Quota, total: int, rng: np.random.Generator) -> _Quota:
    return _Quota(train=quota.train, test=_sample(quota.test, total, rng))


def _thin_train(quota: _Quota, total: int, rng: np.random.Generator, *, known: bool) -> _Counts:
    """Thin the training quota, but not below one episode of every tested instruction if these must be known."""
    base = np.where(known & (quota.test > 0), 1, 0)
    if base.sum() > total:
        raise TooFewSamples(
            f"{int(base.sum())} tested instructions need a training episode each, but equal sizes leave only {total}"
        )
    return base + _sample(quota.train - base, total - int(base.sum()), rng)


def _sample(counts: _Counts, total: int, rng: np.random.Generator) -> _Counts:
    if total == counts.sum():
        return counts
    return rng.multivariate_hypergeometric(counts, total).astype(np.int64)


def _sample_rows(
    items: Items,
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    train: _Counts,
    test: _Counts,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random episodes that fill the quota."""
    split = has_partitions(items)
    taken: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for code in np.flatnonzero(train + test):
        own = rng.permutation(rows[codes[rows] == code])
        pools = (own[: train[code]], own[train[code] :])
        if split:
            parts = items.partitions
            pools = (own[parts[own] == fitted_partition(parts)], own[parts[own] == tested_partition(parts)])
        taken[0].append(pools[0][: train[code]])
        taken[1].append(pools[1][: test[code]])
    return np.sort(np.concatenate(taken[0])), np.sort(np.concatenate(taken[1]))
