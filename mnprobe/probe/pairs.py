"""Pairs of features of the same episodes, from arrays or from joined stores."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.arrays import Array
from mnprobe.core.commands import command_line, command_of
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import Labels, as_partitions, is_missing, one_spelling, same_text, some
from mnprobe.features import FeatureFile, open_features
from mnprobe.probe._arrays import as_features
from mnprobe.probe.items import Items
from mnprobe.probe.splits import fitted_partition, has_partitions

__all__ = [
    "BLANK",
    "PIXELS",
    "ROLLOUTS",
    "Origin",
    "Pair",
    "StoredPair",
    "agreed_episodes",
    "alike_ids",
    "join_stores",
    "pair_across",
    "pair_arrays",
    "pair_files",
]

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


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where one side's features come from; `trained` is False for random weights, `training` names the training."""

    model: str
    source: str = "demos"
    step: int = 0
    trained: bool = True
    training: str = ""
    layer: str = ""
    pool: str = "mean"

    def __str__(self) -> str:
        return f"{self.model}-{self.source}-step{self.step}-{self.layer}-{self.pool.replace(':', '')}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Row i of `u` (N, d_u) and of `e` (N, d_e) belong to episode i of `items`.

    `fit_source` names the source of the episodes that heads are fitted on where these are others than those tested (see
    `pair_across`): then the partition "train" holds the ones and "test" the others. '' where both are of one source.
    """

    u: NDArray[np.float32]
    e: NDArray[np.float32]
    items: Items
    origin_u: Origin
    origin_e: Origin
    fit_source: str = ""

    @property
    def across(self) -> bool:
        """Whether heads are fitted on episodes of another source than they are tested on."""
        return self.fit_source != ""

    @property
    def is_control(self) -> bool:
        """Whether a side is there to be compared with: pixels for u, or the instruction blanked for e."""
        return self.origin_u.model == PIXELS or self.origin_e.source.endswith(BLANK)

    def digest(self) -> str:
        """SHA-256 (16 digits) of every number and label: changes when any of them does."""
        total = hashlib.sha256()
        labels = (self.items.ids, self.items.instructions, self.items.tasks, self.items.partitions)
        for array in (self.u, self.e, self.items.success_u, self.items.success_e):
            total.update(repr((array.shape, array.dtype.str)).encode())
            total.update(np.ascontiguousarray(array).data)
        for array in labels:
            total.update("\0".join(array.tolist()).encode())
            total.update(b"\1")
        return total.hexdigest()[:16]


def pair_arrays(
    u: Array,
    e: Array,
    instructions: Labels,
    *,
    ids: Labels | None = None,
    tasks: Labels | None = None,
    partitions: Labels | None = None,
    success_u: Labels | None = None,
    success_e: Labels | None = None,
    understanding: Origin | str = "u",
    execution: Origin | str = "e",
) -> Pair:
    """A pair from two arrays and a list of labels, row i of all belonging together.

    Raises FeatureError when shapes, counts or values do not fit.

    >>> pair = pair_arrays(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), ["open", "close"])
    >>> pair.items.ids.tolist()
    ['row0', 'row1']
    """
    arrays = [as_features(values, name).cpu().numpy() for name, values in (("u", u), ("e", e))]
    if len(arrays[0]) != len(arrays[1]):
        raise FeatureError(
            f"u and e must have one row per episode each, got {len(arrays[0])} and {len(arrays[1])} rows"
        )
    items = Items.of(
        ids=[f"row{i}" for i in range(len(arrays[0]))] if ids is None else ids,
        instructions=instructions,
        tasks=tasks,
        partitions=partitions,
        success_u=success_u,
        success_e=success_e,
    )
    if len(items) != len(arrays[0]):
        raise FeatureError(f"{len(arrays[0])} rows of features, but {len(items)} ids")
    return Pair(u=arrays[0], e=arrays[1], items=items, origin_u=_origin(understanding), origin_e=_origin(execution))


def pair_files(
    file_u: FeatureFile,
    file_e: FeatureFile,
    *,
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str = "mean",
    pool_e: str = "mean",
    episodes: Literal["all", "shared"] = "all",
) -> Pair:
    """Join two feature stores by episode id.

    Args:
        file_u: store of the understanding side.
        file_e: store of the execution side.
        layer_u: layer to probe; "u" (the paper's) when not given, or the only one there is.
        layer_e: layer to probe; "e" (the paper's) when not given, or the only one there is.
        pool_u: pooling of tokens to one vector per episode, as `Layer.pooled` takes it.
        pool_e: the same for the execution side.
        episodes: "all" refuses stores that do not cover the same episodes, "shared" keeps those both have.

    Other data under the same ids, and labels that were mapped, are told in `items.notes`.

    Raises:
        FeatureError: the episodes differ (with the counts and the first missing id), an instruction, task or partition
            differs or is missing in some rows (see `agreed_episodes`), a side is the wrong one, or a layer is not
            there.
    """
    for file, side in ((file_u, "understanding"), (file_e, "execution")):
        if file.side != side:
            raise FeatureError(f"{file.path} holds features of the {file.side} side; the {side} side is needed here")
    if episodes not in ("all", "shared"):
        raise ConfigError(f"episodes must be 'all' or 'shared', got {episodes!r}")
    table_u, table_e = file_u.episodes, file_e.episodes
    rows_u, rows_e, told = _join(file_u, file_e, table_u, table_e, episodes)
    layer_u, layer_e = _layer(file_u, layer_u, "u"), _layer(file_e, layer_e, "e")
    table_u, table_e = table_u.iloc[rows_u], table_e.iloc[rows_e]
    agreed, notes = agreed_episodes(
        table_u,
        table_e,
        (file_u.path, file_e.path),
        data=[str(file.attrs["data_fingerprint"]) for file in (file_u, file_e)],
    )
    items = Items.of(
        ids=agreed["id"].to_numpy(),
        instructions=agreed["instruction"].to_numpy(),
        tasks=agreed["task"].to_numpy(),
        partitions=agreed["partition"].to_numpy(),
        success_u=_recognised(agreed),
        success_e=table_e["success"].to_numpy(),
    )
    return Pair(
        u=file_u.layer(layer_u).pooled(pool_u)[rows_u],
        e=file_e.layer(layer_e).pooled(pool_e)[rows_e],
        items=replace(items, notes=(*told, *notes, *items.notes)),
        origin_u=_file_origin(file_u, layer_u, pool_u),
        origin_e=_file_origin(file_e, layer_e, pool_e),
    )


def pair_across(fit: Pair, test: Pair) -> Pair:
    """One pair to fit heads on the training episodes of `fit` and to measure them on all episodes of `test`.

    Both are of the same models, layers and poolings; their episodes are others, such as demonstrations and the policy's
    own closed-loop episodes. Of `fit`, the episodes that its own heads would be fitted on are taken (partition "train";
    "val" where there is no train), or all where it has no partitions. The result has the origins of `test`, and
    `fit_source` names the source of `fit`; splits, chance, intervals and the split by success work as on any pair.
    Ids of training episodes get that source before them, as both may have the same.

    Raises FeatureError when the two are not of the same models and layers.

    Source: specs/tabletop.md iv, point 4 (heads fitted on demonstrations, closed-loop episodes tested).
    """
    for one, other, side in ((fit.origin_u, test.origin_u, "u"), (fit.origin_e, test.origin_e, "e")):
        names = [(origin.model, origin.layer, origin.pool) for origin in (one, other)]
        if names[0] != names[1]:
            raise FeatureError(f"heads fitted on {side} of {names[0]} cannot be tested on {names[1]}")
    widths = [(pair.u.shape[1], pair.e.shape[1]) for pair in (fit, test)]
    if widths[0] != widths[1]:
        raise FeatureError(
            f"{fit.origin_u} and {fit.origin_e} have widths {widths[0]}, those on {test.origin_e.source} {widths[1]}; "
            "extract both with the same options"
        )
    rows = np.arange(len(fit.items))
    if has_partitions(fit.items):
        rows = rows[fit.items.partitions == fitted_partition(fit.items.partitions)]
    train = fit.items.take(rows)
    source, own = fit.origin_u.source, test.items
    items = Items.of(
        ids=[*(f"{source}:{name}" for name in train.ids), *own.ids],
        instructions=np.concatenate([train.instructions, own.instructions]),
        tasks=np.concatenate([train.tasks, own.tasks]),
        partitions=["train"] * len(train) + ["test"] * len(own),
        success_u=np.concatenate([train.success_u, own.success_u]),
        success_e=np.concatenate([train.success_e, own.success_e]),
    )
    notes = tuple(dict.fromkeys((*fit.items.notes, *own.notes, *items.notes)))
    return replace(
        test,
        u=np.concatenate([fit.u[rows], test.u]),
        e=np.concatenate([fit.e[rows], test.e]),
        items=replace(items, notes=notes),
        fit_source=source,
    )


def _origin(given: Origin | str) -> Origin:
    return given if isinstance(given, Origin) else Origin(model=given, layer=given)


def _file_origin(file: FeatureFile, layer: str, pool: str) -> Origin:
    return Origin(
        model=file.model,
        source=file.source,
        step=file.step,
        trained=file.trained,
        training=file.training,
        layer=layer,
        pool=pool,
    )


def _layer(file: FeatureFile, asked: str | None, usual: str) -> str:
    if asked is not None:
        return asked
    if usual in file.layers:
        return usual
    if len(file.layers) == 1:
        return file.layers[0]
    raise FeatureError(
        f"{file.path} has no layer {usual!r} but {', '.join(file.layers)}: "
        f"say which with --layer-{usual} (layer_{usual}=)"
    )


def _join(
    file_u: FeatureFile,
    file_e: FeatureFile,
    table_u: pd.DataFrame,
    table_e: pd.DataFrame,
    episodes: Literal["all", "shared"],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    place = {str(name): row for row, name in enumerate(table_e["id"])}
    ids_u = [str(name) for name in table_u["id"]]
    known = set(ids_u)
    only_u = [name for name in ids_u if name not in place]
    only_e = [name for name in place if name not in known]
    shared = [(row, place[name]) for row, name in enumerate(ids_u) if name in place]
    alike = alike_ids(only_u, only_e)
    if (only_u or only_e) and (episodes == "all" or not shared):
        way = (
            f"Extract both from the same data, or pass --episodes shared to keep the {len(shared)} episodes both have."
            if shared
            else "They share none: extract both from the same data."
        )
        way = f"{alike[0].upper()}{alike[1:]}. {way}" if alike else way
        lines = [
            f"first episode missing from {side}: {names[0]}" for side, names in (("e", only_u), ("u", only_e)) if names
        ]
        raise FeatureError(
            f"u and e do not cover the same episodes ({len(table_u)} and {len(table_e)}, {len(shared)} in both).\n"
            f"  u: {file_u.path}\n  e: {file_e.path}\n  " + "\n  ".join(lines) + f"\n{way}"
        )
    pairs = np.array(shared, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], [f"{file_u.path} and {file_e.path}: {alike}"] if alike else []


def _recognised(table: pd.DataFrame) -> Sequence[int]:
    """1 where the predicted instruction is the true one, 0 where it is another, -1 where there is no prediction.

    Instructions are compared as `Items` groups them: case, blanks and Unicode form do not matter.
    """
    if "prediction" not in table:
        return [-1] * len(table)
    return [
        -1
        if is_missing(prediction) or is_missing(instruction)
        else int(same_text(prediction) == same_text(instruction))
        for prediction, instruction in zip(table["prediction"], table["instruction"], strict=True)
    ]
