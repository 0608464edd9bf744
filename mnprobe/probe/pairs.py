"""Pairs of features of the same episodes, from arrays or from joined stores."""

import hashlib
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.arrays import Array
from mnprobe.core.commands import command_line, command_of
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import Labels, as_partitions, asked_partition, is_missing, one_spelling, same_text, some
from mnprobe.core.names import PIXELS, FeatureId, LayerId, Side, Source, usual_layer, usual_pool
from mnprobe.features import FeatureFile, open_features
from mnprobe.probe._arrays import as_features
from mnprobe.probe.splits import Items, fitted_partition, has_partitions

__all__ = [
    "EpisodeJoin",
    "Episodes",
    "FeaturePair",
    "PairRecipe",
    "StoredPair",
    "agreed_episodes",
    "in_partition",
    "join_episodes",
    "join_stores",
    "layer_id",
    "load_pair",
    "pair_across",
    "pair_arrays",
]

Episodes = Literal["equal", "shared"]
"""How two stores are joined by episode id: "equal" requires the same episodes, "shared" uses those in both."""


@dataclass(frozen=True)
class _Store:
    """A feature store on disk: its identity and the fingerprint of its data."""

    id: FeatureId
    path: Path
    data: str

    @property
    def order(self) -> tuple[Any, ...]:
        """Key to sort stores by."""
        return self.id.model, self.id.source_name, self.id.training, self.id.step, self.path


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
    """Pairs of stores (understanding x execution), and sentences about stores without a partner.

    - Source: features of "demos-blank" (instruction blanked) are paired with those of "demos", likewise for "rollouts".
      Rollouts are paired only if both stores have the same data. Pixels, the control for u, are paired with the
      policy's features with instruction, not with the blanked ones, the control for e.
    - Training: features of models of different trainings are not paired; those without a training (pixels, foreign
      models, a model before any training) are paired with all.
    - Step: equal steps are paired; a side with one step (such as pixels, or a model that was not trained here) is
      paired with every step of the other. If both sides have equally many checkpoints at different steps, they are
      paired in order (first with first, last with last), with a note.

    With `fit_on` ("demos"), the heads of pairs of another source are fitted on that source's stores of the same models,
    trainings and steps, blanked if they are blanked; a note names pairs that have none.

    Raises FeatureError when a side is missing or there is no pair; the message lists the stores.
    """
    stores = []
    for path in paths:
        with open_features(path) as file:
            stores.append(_Store(_feature_id(file), path, str(file.attrs["data_fingerprint"])))
    for side in Side:
        if not any(store.id.side == side for store in stores):
            raise FeatureError(
                f"no features of the {side} side among {len(stores)} stores ({_listed(stores) or 'none at all'}). "
                f"Make them with `{command_of(paths[0], 'extract') if paths else command_line('extract')}`"
            )
    series = _series(stores)
    series_u = [group for group in series if group[0].id.side == Side.UNDERSTANDING and not group[0].id.blank]
    series_e = [group for group in series if group[0].id.side == Side.EXECUTION]
    pairs: list[tuple[_Store, _Store]] = []
    notes: list[str] = []
    for group_e in series_e:
        e = group_e[0].id
        partners = [group for group in series_u if group[0].id.source == e.source and _same_training(group[0].id, e)]
        partners = [group for group in partners if not (e.blank and group[0].id.model == PIXELS)] or partners
        if not partners:
            training = f" of training {e.training!r}" if e.training else ""
            notes.append(f"{e.model} on {e.source_name}: no understanding features of source {e.source!r}{training}")
        for group_u in partners:
            matches, note = _by_step(group_u, group_e)
            pairs += matches
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


class EpisodeJoin(NamedTuple):
    """Episodes of two tables joined by id: rows of each table, the agreed table of episodes, and notes."""

    rows_u: NDArray[np.int64]
    rows_e: NDArray[np.int64]
    episodes: pd.DataFrame
    notes: tuple[str, ...]


def join_episodes(
    table_u: pd.DataFrame,
    table_e: pd.DataFrame,
    names: Sequence[object],
    *,
    data: Sequence[str] = ("", ""),
    episodes: Episodes = "equal",
) -> EpisodeJoin:
    """Join two tables of episodes by id, in the order of the first, and check that they agree (`agreed_episodes`).

    Args:
        table_u, table_e: tables of `FeatureFile.episodes`.
        names: names of the two stores for messages, such as their paths.
        data: `data_fingerprint` of the two.
        episodes: "equal" raises if the ids differ; "shared" uses the ids in both, with a note that counts the others.

    Raises:
        FeatureError: the ids differ, or no id is in both; the labels do not agree.
    """
    ids_u, ids_e = ([str(name) for name in table["id"]] for table in (table_u, table_e))
    row_of = {name: row for row, name in enumerate(ids_e)}
    known = set(ids_u)
    only_u = [name for name in ids_u if name not in row_of]
    only_e = [name for name in ids_e if name not in known]
    shared = [(row, row_of[name]) for row, name in enumerate(ids_u) if name in row_of]
    alike = _alike_ids(only_u, only_e)
    hint = f"{alike[0].upper()}{alike[1:]}. " if alike else ""
    if episodes == "equal" and (only_u or only_e):
        remedy = (
            f"Extract both from the same data, or pass --episodes shared to keep the {len(shared)} episodes both have."
            if shared
            else "They share none: extract both from the same data."
        )
        lines = [
            f"first episode missing from {side}: {names[0]}" for side, names in (("e", only_u), ("u", only_e)) if names
        ]
        raise FeatureError(
            f"u and e do not cover the same episodes ({len(table_u)} and {len(table_e)}, {len(shared)} in both).\n"
            f"  u: {names[0]}\n  e: {names[1]}\n  " + "\n  ".join(lines) + f"\n{hint}{remedy}"
        )
    if not shared:
        raise FeatureError(
            f"{names[0]} and {names[1]} share no episode: the first ids are {ids_u[0]!r} and {ids_e[0]!r}. "
            f"{alike[:1].upper()}{alike[1:] or 'Extract both from the same data'}"
        )
    notes = [f"{names[0]} and {names[1]}: {alike}"] if alike else []
    if only_u or only_e:
        notes.append(
            f"{names[0]} and {names[1]} share {len(shared)} episodes; {len(only_u)} only in the first and "
            f"{len(only_e)} only in the second are left out"
        )
    rows_u, rows_e = np.array(shared, dtype=np.int64).T
    agreed, more = agreed_episodes(
        table_u.iloc[rows_u].reset_index(drop=True), table_e.iloc[rows_e].reset_index(drop=True), names, data=data
    )
    return EpisodeJoin(rows_u, rows_e, agreed, (*notes, *more))


def _alike_ids(ids: Sequence[str], others: Sequence[str]) -> str:
    """A sentence about ids of one side that differ from an id of the other only in case, blanks or Unicode form.

    '' if there are none.
    """
    by_key = {same_text(name): name for name in others}
    pairs = [(name, by_key[same_text(name)]) for name in ids if same_text(name) in by_key]
    if not pairs:
        return ""
    a, b = map(ascii, pairs[0])
    return f"{len(pairs)} ids differ only in case, blanks or Unicode form, such as {a} and {b}; write them alike"


def agreed_episodes(
    one: pd.DataFrame, other: pd.DataFrame, names: Sequence[object], *, data: Sequence[str] = ("", "")
) -> tuple[pd.DataFrame, list[str]]:
    """Check that two tables of the same episodes agree; return the agreed table, and notes.

    Row i of both tables is the same episode. Compared are instruction (case, blanks and Unicode form apart), task and
    partition (read by `mnprobe.core.labels`). A column that is '' in all rows of one store is not given there and taken
    from the other; a blanked instruction of single episodes may be '' in `other`. Different spellings of one
    instruction become one, with a note.

    Args:
        one, other: tables of `FeatureFile.episodes`, with equally many rows.
        names: names of the two stores in messages, such as their paths.
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
        _check_equal(column, sides, names, one["id"].tolist())
        agreed[column] = np.where(sides[0] == "", sides[1], sides[0])
    _check_complete(agreed["instruction"].to_numpy(), "instruction", names[1], one["id"].tolist())
    agreed["instruction"], note = one_spelling(agreed["instruction"].tolist(), "instructions")
    notes += [note] if note else []
    if data[0] and data[1] and data[0] != data[1]:
        notes.append(
            f"{names[0]} and {names[1]} were made from other data (fingerprints {data[0][:12]} and {data[1][:12]}): "
            "under one id there may be other episodes. Extract both from the same data"
        )
    return agreed, notes


def _column(table: pd.DataFrame, column: str, name: object, *, partly: bool) -> tuple[NDArray[np.object_], str]:
    """Labels as text, '' if missing: in all rows or in no row, except with `partly`."""
    if column == "partition":
        labels, note = as_partitions(table[column].to_numpy(), len(table), f"{name}: partitions")
        return labels, note
    listed = ["" if is_missing(label) else str(label) for label in table[column].tolist()]
    labels = np.array(listed, dtype=object)
    if not partly:
        _check_complete(labels, column, name, table["id"].tolist())
    return labels, ""


def _check_complete(labels: NDArray[np.object_], column: str, name: object, ids: Sequence[str]) -> None:
    missing = np.flatnonzero(labels == "")
    if 0 < len(missing) < len(labels):
        raise FeatureError(
            f"{name}: {len(missing)} of {len(labels)} episodes have no {column}, the first is row {missing[0]} "
            f"({ids[missing[0]]}); they would count as one {column}. Write the store again with their {column}s, or "
            "without these episodes (and pass --episodes shared)"
        )


def _check_equal(
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
    """Stores of one model and source over its training; one without a training belongs to the only one of the model."""
    named: dict[tuple[str, str], set[str]] = {}
    for store in stores:
        named.setdefault((store.id.model, store.id.source_name), set()).update({store.id.training} - {""})

    def with_training(store: _Store) -> _Store:
        names = named[store.id.model, store.id.source_name]
        if store.id.training or len(names) != 1:
            return store
        return replace(store, id=replace(store.id, training=next(iter(names))))

    ordered = sorted(map(with_training, stores), key=lambda store: store.order)
    return [list(group) for _, group in groupby(ordered, key=lambda store: store.order[:3])]


def _same_training(a: FeatureId, b: FeatureId) -> bool:
    return a.training == b.training or not a.training or not b.training


def _same_data(u: _Store, e: _Store) -> bool:
    """Whether rollouts have the same data; demonstrations are compared by episode later."""
    return u.id.source != Source.ROLLOUTS or not u.data or not e.data or u.data == e.data


def _by_step(group_u: list[_Store], group_e: list[_Store]) -> tuple[list[tuple[_Store, _Store]], str]:
    pairs, note = _joined(group_u, group_e)
    return [(u, e) for u, e in pairs if _same_data(u, e)], note


def _joined(group_u: list[_Store], group_e: list[_Store]) -> tuple[list[tuple[_Store, _Store]], str]:
    name = f"{group_u[0].id.model} x {group_e[0].id.model} ({group_e[0].id.source_name})"
    if len(group_u) == 1 or len(group_e) == 1:
        return [(u, e) for u in group_u for e in group_e], ""
    by_step = {store.id.step: store for store in group_u}
    equal = [(by_step[e.id.step], e) for e in group_e if e.id.step in by_step]
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
    """The pair with the stores of source `fit_on` that its heads are fitted on; without them, with a note."""
    u, e = (store.id for store in pair)
    paths = (pair[0].path, pair[1].path)
    if e.source == fit_on:
        return StoredPair(*paths)
    for store_u, store_e in pairs:
        fit_u, fit_e = store_u.id, store_e.id
        same_u = fit_u.model == u.model and (fit_u.step == u.step or u.model == PIXELS)
        same_e = (fit_e.model, fit_e.step, fit_e.blank) == (e.model, e.step, e.blank)
        if fit_e.source == fit_on and same_u and same_e and _same_training(fit_u, u) and _same_training(fit_e, e):
            return StoredPair(*paths, store_u.path, store_e.path)
    notes.append(
        f"{u.model} step {u.step} x {e.model} step {e.step} ({e.source_name}): no features of the same models on "
        f"{fit_on}, so the heads are fitted on {e.source_name} themselves"
    )
    return StoredPair(*paths)


def _steps(group: list[_Store]) -> str:
    return ", ".join(str(store.id.step) for store in group)


def _listed(stores: Sequence[_Store]) -> str:
    ids = [store.id for store in sorted(stores, key=lambda store: store.order)]
    return "; ".join(f"{id.side} {id.model} on {id.source_name} at step {id.step}" for id in ids)


@dataclass(frozen=True, kw_only=True)
class FeaturePair:
    """Features of both sides for the same episodes: row i of `u` (N, d_u) and of `e` (N, d_e) is episode i of `items`.

    Attributes:
        u: features of the understanding side.
        e: features of the execution side.
        items: ids, labels, partitions and outcomes of the episodes, and notes about how they were read and joined.
        origin_u: model, checkpoint, layer and pooling of `u`.
        origin_e: the same for `e`.
        fit_source: source of the episodes that heads are fitted on, if it differs from the source of the tested ones
            (see `pair_across`); partition "train" then has the former, "test" the latter. '' if both are the same.
        columns: further columns of the stores' tables of episodes (success, the user's own), one row per episode; None
            for arrays.
        worlds: names of the simulated worlds that the episodes come from.
    """

    u: NDArray[np.float32]
    e: NDArray[np.float32]
    items: Items
    origin_u: LayerId
    origin_e: LayerId
    fit_source: str = ""
    columns: pd.DataFrame | None = None
    worlds: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def across(self) -> bool:
        """Whether heads are fitted on episodes of another source than they are tested on."""
        return self.fit_source != ""

    @property
    def is_control(self) -> bool:
        """Whether a side is a control: pixels for u, or the instruction blanked for e."""
        return self.origin_u.model == PIXELS or self.origin_e.blank

    @property
    def episodes(self) -> pd.DataFrame:
        """Table of the episodes: id, task, instruction, partition, success and the further columns."""
        items = self.items
        labels = {"id": items.ids, "task": items.tasks, "instruction": items.instructions}
        table = pd.DataFrame(labels | {"partition": items.partitions})
        if self.columns is None:
            return table.assign(success=items.success_e)
        return table.join(self.columns.reset_index(drop=True))

    def take(self, rows: NDArray[Any]) -> "FeaturePair":
        """The pair with some of its episodes: indices of rows, in the order given, or a mask (N,)."""
        chosen = np.arange(len(self))[rows]
        columns = None if self.columns is None else self.columns.iloc[chosen].reset_index(drop=True)
        return replace(self, u=self.u[chosen], e=self.e[chosen], items=self.items.take(chosen), columns=columns)

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
    understanding: LayerId | str = "u",
    execution: LayerId | str = "e",
) -> FeaturePair:
    """A pair from two arrays and a list of labels, in which row i of all is the same episode.

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
    return FeaturePair(
        u=arrays[0],
        e=arrays[1],
        items=items,
        origin_u=_origin(understanding, Side.UNDERSTANDING),
        origin_e=_origin(execution, Side.EXECUTION),
    )


def load_pair(
    u: Path | str | FeatureFile,
    e: Path | str | FeatureFile,
    *,
    episodes: Episodes = "equal",
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str | None = None,
    pool_e: str | None = None,
    partition: str | None = None,
) -> FeaturePair:
    """Read two feature stores and join them by episode id, in the order of the understanding side.

    Args:
        u: store of the understanding side.
        e: store of the execution side.
        episodes: "equal" raises if the stores do not have the same episodes; "shared" uses the episodes in both, and a
            note in `items.notes` says how many were left out.
        layer_u: layer to read; by default "u" (the paper's), or the only one there is (`names.USUAL_LAYERS`).
        layer_e: layer to read; by default "e" (the paper's), or the only one there is.
        pool_u: pooling of tokens to one vector per episode, as in `Layer.pooled`; by default the layer's own
            (`names.usual_pool`).
        pool_e: the same for the execution side.
        partition: use only the episodes of this partition (`in_partition`).

    `items.notes` also reports stores that were made from different data, and labels that were mapped. The user's own
    columns come from the understanding side, and from the execution side where only that has them.

    Raises:
        FeatureError: a store is of the wrong side, the episodes differ or none is shared (with the counts or the first
            ids), an instruction, task or partition differs or is missing in some rows (see `agreed_episodes`), there is
            no such layer, or no episode of `partition`.
        ConfigError: an unknown value of `episodes`.
    """
    if episodes not in get_args(Episodes):
        raise ConfigError(f"episodes must be 'equal' or 'shared', got {episodes!r}")
    with ExitStack() as stack:
        file_u, file_e = (
            store if isinstance(store, FeatureFile) else stack.enter_context(open_features(Path(store)))
            for store in (u, e)
        )
        for file, side in ((file_u, "understanding"), (file_e, "execution")):
            if file.side != side:
                raise FeatureError(
                    f"{file.path} holds features of the {file.side} side; the {side} side is needed here"
                )
        table_e = file_e.episodes
        joined = join_episodes(
            file_u.episodes,
            table_e,
            (file_u.path, file_e.path),
            data=[str(file.attrs["data_fingerprint"]) for file in (file_u, file_e)],
            episodes=episodes,
        )
        layer_u, layer_e = _layer(file_u, layer_u), _layer(file_e, layer_e)
        pool_u, pool_e = pool_u or usual_pool(layer_u), pool_e or usual_pool(layer_e)
        table, table_e = joined.episodes, table_e.iloc[joined.rows_e].reset_index(drop=True)
        items = Items.of(
            ids=table["id"].to_numpy(),
            instructions=table["instruction"].to_numpy(),
            tasks=table["task"].to_numpy(),
            partitions=table["partition"].to_numpy(),
            success_u=_recognized(table),
            success_e=table_e["success"].to_numpy(),
        )
        own = [name for name in file_e.extra_columns if name not in table]
        columns = table.drop(columns=["id", "instruction", "task", "partition"]).join(table_e[own])
        pair = FeaturePair(
            u=file_u.layer(layer_u).pooled(pool_u)[joined.rows_u],
            e=file_e.layer(layer_e).pooled(pool_e)[joined.rows_e],
            items=replace(items, notes=(*joined.notes, *items.notes)),
            origin_u=layer_id(file_u, layer_u, pool_u),
            origin_e=layer_id(file_e, layer_e, pool_e),
            columns=columns,
            worlds=tuple(sorted({*file_u.worlds, *file_e.worlds})),
        )
    return pair if partition is None else in_partition(pair, partition)


def in_partition(pair: FeaturePair, partition: str) -> FeaturePair:
    """The episodes of one partition, which may be given by another name, such as validation.

    Raises FeatureError, with the partitions there are, when it has no episode.
    """
    partition = asked_partition(partition)
    mask = pair.items.partitions == partition
    if not mask.any():
        known = ", ".join(repr(name) for name in sorted(set(pair.items.partitions.tolist())))
        raise FeatureError(f"none of the {len(pair)} shared episodes is in partition {partition!r}; there are {known}")
    return pair.take(mask)


def pair_across(fit: FeaturePair, test: FeaturePair) -> FeaturePair:
    """One pair to fit heads on the training episodes of `fit` and to measure them on all episodes of `test`.

    Both are of the same models, layers and poolings; their episodes are others, such as demonstrations and the policy's
    own closed-loop episodes. Of `fit`, the episodes that its own heads would be fitted on are taken (partition "train";
    "val" where there is no train), or all where it has no partitions. The result has the origins of `test`, and
    `fit_source` names the source of `fit`; splits, chance, intervals and the split by success work as on any pair.
    Ids of training episodes get that source as a prefix, because both may have the same ids.

    Raises FeatureError when the two are not of the same models and layers.

    Source: specs/tabletop.md iv, point 4 (heads fitted on demonstrations, closed-loop episodes tested).
    """
    for origins, side in (((fit.origin_u, test.origin_u), "u"), ((fit.origin_e, test.origin_e), "e")):
        names = [(origin.model, origin.layer, origin.pool) for origin in origins]
        if names[0] != names[1]:
            raise FeatureError(f"heads fitted on {side} of {names[0]} cannot be tested on {names[1]}")
    widths = [(pair.u.shape[1], pair.e.shape[1]) for pair in (fit, test)]
    if widths[0] != widths[1]:
        raise FeatureError(
            f"{fit.origin_u.file_stem} and {fit.origin_e.file_stem} have widths {widths[0]}, those on "
            f"{test.origin_e.source_name} {widths[1]}; extract both with the same options"
        )
    rows = np.arange(len(fit.items))
    if has_partitions(fit.items):
        rows = rows[fit.items.partitions == fitted_partition(fit.items.partitions)]
    train = fit.items.take(rows)
    source, own = fit.origin_u.source_name, test.items
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
        columns=None,
    )


@dataclass(frozen=True)
class PairRecipe:
    """How a pair is read from two stores: as `load_pair`, and with `fit` as `pair_across` of both.

    `digest` is that of the pair where the recipe was written; '' where it is not known.
    """

    u: Path
    e: Path
    layer_u: str | None = None
    layer_e: str | None = None
    pool_u: str | None = None
    pool_e: str | None = None
    episodes: Episodes = "equal"
    fit: "PairRecipe | None" = None
    digest: str = ""

    def read(self) -> FeaturePair:
        """The pair, from disk."""
        names = ("layer_u", "layer_e", "pool_u", "pool_e", "episodes")
        pair = load_pair(self.u, self.e, **{name: getattr(self, name) for name in names})
        return pair if self.fit is None else pair_across(self.fit.read(), pair)

    def for_workers(self, pair: FeaturePair) -> "PairRecipe":
        """The recipe with whole paths and the digest of the pair that it gives here."""
        fit = None if self.fit is None else replace(self.fit, u=self.fit.u.resolve(), e=self.fit.e.resolve())
        return replace(self, u=self.u.resolve(), e=self.e.resolve(), fit=fit, digest=pair.digest())

    def load(self) -> FeaturePair:
        """The pair, read once per process; of many recipes the last four stay in memory.

        Raises FeatureError where the files hold other features than those that the recipe was written for.
        """
        return _read_once(self)


@lru_cache(maxsize=4)
def _read_once(recipe: PairRecipe) -> FeaturePair:
    try:
        pair = recipe.read()
    except (FeatureError, OSError) as error:
        raise FeatureError(
            f"worker {platform.node()} cannot read what this command reads: {error}. --shared-files is for workers "
            "that see the same files under the same paths; without it features are sent"
        ) from error
    if pair.digest() != recipe.digest:
        raise FeatureError(
            f"worker {platform.node()} finds other features in {recipe.u} and {recipe.e} than this command. "
            "--shared-files is for workers that see the same files under the same paths; without it features are sent"
        )
    return pair


def _origin(given: LayerId | str, side: Side) -> LayerId:
    return given if isinstance(given, LayerId) else LayerId(model=given, side=side, layer=given)


def layer_id(file: FeatureFile, layer: str, pool: str) -> LayerId:
    """Identity of a layer of an open store, with a pooling of its tokens."""
    return LayerId.of(_feature_id(file), layer=layer, pool=pool)


def _feature_id(file: FeatureFile) -> FeatureId:
    return FeatureId(
        model=file.model,
        side=Side(file.side),
        source=file.source,
        step=file.step,
        training=file.training,
        trained=file.trained,
    )


def _layer(file: FeatureFile, requested: str | None) -> str:
    if requested is not None:
        return requested
    usual = usual_layer(file.side, file.layers)
    if usual is not None:
        return usual
    if len(file.layers) == 1:
        return file.layers[0]
    default = "u" if file.side == Side.UNDERSTANDING else "e"
    raise FeatureError(
        f"{file.path} has no layer {default!r} but {', '.join(file.layers)}: "
        f"say which with --layer-{default} (layer_{default}=)"
    )


def _recognized(table: pd.DataFrame) -> Sequence[int]:
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
