"""Which feature stores belong together, and whether they say the same of the episodes that they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.commands import command_line, command_of
from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import as_partitions, is_missing, one_spelling, same_text, some
from mnprobe.features import open_features

__all__ = ["BLANK", "PIXELS", "ROLLOUTS", "StoredPair", "agreed_episodes", "alike_ids", "join_stores"]

BLANK = "-blank"
"""Ends the source of features for which the instruction was blanked: the control for e (DESIGN 6, a)."""
PIXELS = "pixels"
"""The understanding side that no model made: a control, for which a choice of layer is not meant (DESIGN 6, c)."""
ROLLOUTS = "rollouts"
"""Source of features from episodes that the policy itself played."""


@dataclass(frozen=True, order=True)
class _Store:
    model: str
    source: str
    training: str
    step: int
    path: Path
    side: str
    data: str

    @property
    def family(self) -> str:
        return self.source.removesuffix(BLANK)

    @property
    def blanked(self) -> bool:
        return self.source != self.family


@dataclass(frozen=True)
class StoredPair:
    """Two feature stores to be probed together.

    `fit_u` and `fit_e` are stores of the same models on other episodes, on whose training part the heads are fitted;
    None where the heads are fitted on episodes of `u` and `e` themselves.
    """

    u: Path
    e: Path
    fit_u: Path | None = None
    fit_e: Path | None = None


def join_stores(paths: Sequence[Path], *, fit_on: str | None = None) -> tuple[list[StoredPair], list[str]]:
    """Pairs of stores (understanding x execution), and sentences about stores that found no partner.

    Sources join by family: features of "demos-blank" (instruction blanked) meet those of "demos", likewise for
    "rollouts". Trainings join with themselves: features of models of different trainings do not meet, while those that
    belong to no training (pixels, foreign models, a model before any training) meet all. Training steps join one to one
    where both sides have them; a side with one step (such as pixels, or a model that was not trained here) meets every
    step of the other. Pixels, the control for u, meet the policy's features as they are and not the blanked ones, the
    control for e. Rollouts join only when they are the very same episodes. Where both sides have as many checkpoints
    but at other steps, they are joined in order (first with first, last with last), and a note says so.

    With `fit_on` ("demos"), the heads of pairs from another source are to be fitted on that source's stores of the same
    models, trainings and steps, blanked where they are blanked; a note tells of pairs that have none.

    Raises FeatureError when one side is missing altogether or no pair can be made; the message lists what there is.
    """
    stores = []
    for path in paths:
        with open_features(path) as file:
            data = str(file.attrs["data_fingerprint"])
            stores.append(_Store(file.model, file.source, file.training, file.step, path, file.side, data))
    for side in ("understanding", "execution"):
        if not any(store.side == side for store in stores):
            raise FeatureError(
                f"no features of the {side} side among {len(stores)} stores ({_listed(stores) or 'none at all'}). "
                f"Make them with `{command_of(paths[0], 'extract') if paths else command_line('extract')}`"
            )
    series = _series(stores)
    sides_u = [group for group in series if group[0].side == "understanding" and not group[0].blanked]
    sides_e = [group for group in series if group[0].side == "execution"]
    pairs: list[tuple[_Store, _Store]] = []
    notes: list[str] = []
    for group_e in sides_e:
        one = group_e[0]
        partners = [group for group in sides_u if group[0].family == one.family and _together(group[0], one)]
        partners = [group for group in partners if not (one.blanked and group[0].model == PIXELS)] or partners
        if not partners:
            training = f" of training {one.training!r}" if one.training else ""
            notes.append(f"{one.model} on {one.source}: no understanding features of source {one.family!r}{training}")
        for group_u in partners:
            found, note = _by_step(group_u, group_e)
            pairs += found
            notes += [note] if note else []
    if not pairs:
        raise FeatureError(
            f"no understanding and execution stores fit together: {_listed(stores)}. They must come from the same "
            f"source (demos, rollouts) and training and share a training step, unless one side has a single step. "
            f"{' '.join(notes)}"
        )
    stored = [StoredPair(u.path, e.path) for u, e in pairs]
    if fit_on is not None:
        stored = [_with_fit(pair, pairs, fit_on, notes) for pair in pairs]
    return stored, notes


def agreed_episodes(
    one: pd.DataFrame, other: pd.DataFrame, names: Sequence[object], *, data: Sequence[str] = ("", "")
) -> tuple[pd.DataFrame, list[str]]:
    """The table of episodes `one`, after a check that `other` says the same of them; and what is worth telling.

    Row i of both is the same episode. Compared are instruction (case, blanks and Unicode form apart), task and
    partition (read by `mnprobe.core.labels`). A column that is '' in all rows of one store is not given there and taken
    from the other; a blanked instruction of single episodes may be '' in `other`. Spellings of one instruction become
    one, with a note.

    Args:
        one, other: tables of `FeatureFile.episodes`, with equally many rows.
        names: what the two stores are called in messages, such as their paths.
        data: `data_fingerprint` of the two; where both have one and they differ, a note names both.

    Raises:
        FeatureError: naming both stores, the column and the episodes, when they disagree, when a partition is not
            known, or when some episodes have a label and others have none.
    """
    notes: list[str] = []
    agreed = one.copy()
    for column in ("instruction", "task", "partition"):
        sides = []
        for table, name in ((one, names[0]), (other, names[1])):
            labels, note = _column(table, column, name, partly=column == "instruction" and table is other)
            sides.append(labels)
            notes += [note] if note else []
        _refuse_unlike(column, sides, names, one["id"].tolist())
        agreed[column] = np.where(sides[0] == "", sides[1], sides[0])
    _refuse_gaps(agreed["instruction"].to_numpy(), "instruction", names[1], one["id"].tolist())
    agreed["instruction"], note = one_spelling(agreed["instruction"].tolist(), "instructions")
    notes += [note] if note else []
    if data[0] and data[1] and data[0] != data[1]:
        notes.append(
            f"{names[0]} and {names[1]} were made from other data (fingerprints {data[0][:12]} and {data[1][:12]}): "
            "under one id there may be other episodes. Extract both from the same data"
        )
    return agreed, notes


def alike_ids(ids: Sequence[str], others: Sequence[str]) -> str:
    """A sentence about ids that only one side has, and that differ from one of the other side in no more than case,
    blanks or Unicode form; '' where there are none.

    >>> alike_ids(["Open/0"], ["open/0"])
    "1 ids differ only in case, blanks or Unicode form, such as 'Open/0' and 'open/0'; write them alike"
    """
    known = set(others)
    by_key = {same_text(name): name for name in others}
    pairs = [(name, by_key[same_text(name)]) for name in ids if name not in known and same_text(name) in by_key]
    if not pairs:
        return ""
    one, other = map(ascii, pairs[0])
    return f"{len(pairs)} ids differ only in case, blanks or Unicode form, such as {one} and {other}; write them alike"


def _column(table: pd.DataFrame, column: str, name: object, *, partly: bool) -> tuple[NDArray[np.object_], str]:
    """Labels as text, '' where there are none: in all rows or, unless `partly`, in no row."""
    if column == "partition":
        labels, note = as_partitions(table[column].to_numpy(), len(table), f"{name}: partitions")
        return labels, note
    listed = ["" if is_missing(label) else str(label) for label in table[column].tolist()]
    labels = np.array(listed, dtype=object)
    if not partly:
        _refuse_gaps(labels, column, name, table["id"].tolist())
    return labels, ""


def _refuse_gaps(labels: NDArray[np.object_], column: str, name: object, ids: Sequence[str]) -> None:
    gone = np.flatnonzero(labels == "")
    if 0 < len(gone) < len(labels):
        raise FeatureError(
            f"{name}: {len(gone)} of {len(labels)} episodes have no {column}, the first is row {gone[0]} "
            f"({ids[gone[0]]}); they would count as one {column}. Write the store again with their {column}s, or "
            "without these episodes (and pass --episodes shared)"
        )


def _refuse_unlike(
    column: str, sides: Sequence[NDArray[np.object_]], names: Sequence[object], ids: Sequence[str]
) -> None:
    key = same_text if column == "instruction" else str
    unlike = [
        row
        for row, (first, second) in enumerate(zip(*sides, strict=True))
        if first and second and first != second and key(first) != key(second)
    ]
    if unlike:
        row = unlike[0]
        raise FeatureError(
            f"{len(unlike)} episodes ({some([ids[i] for i in unlike], 3)}) have other {column}s: {sides[0][row]!r} in "
            f"{names[0]} and {sides[1][row]!r} in {names[1]}. Extract both from the same data"
        )


def _series(stores: Sequence[_Store]) -> list[list[_Store]]:
    """Stores of one model on one source over its training; one that names no training belongs to the only one named."""
    named: dict[tuple[str, str], set[str]] = {}
    for store in stores:
        named.setdefault((store.model, store.source), set()).update({store.training} - {""})

    def settled(store: _Store) -> _Store:
        names = named[store.model, store.source]
        return replace(store, training=next(iter(names))) if not store.training and len(names) == 1 else store

    ordered = sorted(map(settled, stores))
    return [list(group) for _, group in groupby(ordered, key=lambda one: (one.model, one.source, one.training))]


def _together(one: _Store, other: _Store) -> bool:
    return one.training == other.training or not one.training or not other.training


def _same_episodes(u: _Store, e: _Store) -> bool:
    """Demonstrations are compared episode by episode later; of rollouts, those of another policy are no partner."""
    return u.family != ROLLOUTS or not u.data or not e.data or u.data == e.data


def _by_step(group_u: list[_Store], group_e: list[_Store]) -> tuple[list[tuple[_Store, _Store]], str]:
    pairs, note = _joined(group_u, group_e)
    return [(u, e) for u, e in pairs if _same_episodes(u, e)], note


def _joined(group_u: list[_Store], group_e: list[_Store]) -> tuple[list[tuple[_Store, _Store]], str]:
    name = f"{group_u[0].model} x {group_e[0].model} ({group_e[0].source})"
    if len(group_u) == 1 or len(group_e) == 1:
        return [(u, e) for u in group_u for e in group_e], ""
    by_step = {store.step: store for store in group_u}
    equal = [(by_step[e.step], e) for e in group_e if e.step in by_step]
    if len(equal) == len(group_u) == len(group_e):
        return equal, ""
    if len(group_u) == len(group_e):
        ordered = list(zip(group_u, group_e, strict=True))
        return ordered, f"{name}: steps differ ({_steps(group_u)} and {_steps(group_e)}), joined in order"
    left = f"{name}: only steps that both have are joined ({_steps(group_u)} and {_steps(group_e)})"
    return equal, left


def _with_fit(
    pair: tuple[_Store, _Store], pairs: Sequence[tuple[_Store, _Store]], fit_on: str, notes: list[str]
) -> StoredPair:
    u, e = pair
    if e.family == fit_on:
        return StoredPair(u.path, e.path)
    for other_u, other_e in pairs:
        same_u = other_u.model == u.model and (other_u.step == u.step or u.model == PIXELS)
        same_e = (other_e.model, other_e.step, other_e.blanked) == (e.model, e.step, e.blanked)
        if other_e.family == fit_on and same_u and same_e and _together(other_u, u) and _together(other_e, e):
            return StoredPair(u.path, e.path, other_u.path, other_e.path)
    notes.append(
        f"{u.model} step {u.step} x {e.model} step {e.step} ({e.source}): no features of the same models on {fit_on}, "
        f"so the heads are fitted on {e.source} themselves"
    )
    return StoredPair(u.path, e.path)


def _steps(group: list[_Store]) -> str:
    return ", ".join(str(store.step) for store in group)


def _listed(stores: Sequence[_Store]) -> str:
    return "; ".join(f"{s.side} {s.model} on {s.source} at step {s.step}" for s in sorted(stores))
