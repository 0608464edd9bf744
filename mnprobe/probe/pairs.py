"""What `align` measures: features of both sides for the same episodes, with their names; from arrays or from stores."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.arrays import Array
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import Labels, is_missing, same_text
from mnprobe.features import FeatureFile
from mnprobe.probe._arrays import as_features
from mnprobe.probe.items import Items
from mnprobe.probe.join import BLANK, PIXELS, agreed_episodes, alike_ids
from mnprobe.probe.splits import fitted_partition, has_partitions

__all__ = ["Origin", "Pair", "pair_across", "pair_arrays", "pair_files"]


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
