"""Similarity matrices: layers by layers, or checkpoints by checkpoints."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.analysis.similarity import Family, Index, balanced_rows, calibrate, column_values, exchange, make_index
from mnprobe.analysis.similarity._arrays import Rows, memory_told, require_memory
from mnprobe.analysis.similarity.base import MatrixIndex
from mnprobe.analysis.tsne.inputs import find_pairs
from mnprobe.core.arrays import Array, as_array, as_whole
from mnprobe.core.cluster import spread
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooLittleMemory
from mnprobe.core.labels import Labels, as_labels, asked_partition, encode_labels, label_list
from mnprobe.core.names import LayerId, usual_layer
from mnprobe.core.progress import progress
from mnprobe.core.provenance import canonical_json, config_hash
from mnprobe.core.rundir import RunDir
from mnprobe.core.seeds import check_seed, derived_seed
from mnprobe.features import open_features
from mnprobe.probe.pairs import join_episodes, layer_id
from mnprobe.probe.retrieval import gallery_size

__all__ = [
    "COLUMNS",
    "GRIDS",
    "CompareConfig",
    "CompareInputs",
    "Comparison",
    "FeatureSet",
    "compare",
    "compare_inputs",
    "comparison_hash",
    "find_stores",
]

COLUMNS = (
    *("index", "options", "grid", "understanding", "execution", "source_u", "source_e", "step_u", "step_e"),
    *("trained_u", "trained_e", "layer_u", "layer_e", "pool_u", "pool_e", "value", "null_mean", "null_sd", "null_95"),
    *("p", "p_max", "best", "n", "n_groups", "n_cells", "permute", "block", "permutations", "seed", "config_hash"),
)
"""Columns of results/similarity.csv; one row per cell. `block`: episodes per instruction that move together, or 1."""

_REVISION = 2  # raise when a change of code changes what the same settings measure


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One vector per episode (N, D) of one layer of one checkpoint, and its identity."""

    values: Array
    origin: LayerId

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_array(self.values, str(self)))

    def __str__(self) -> str:
        return f"{self.origin.model} step {self.origin.step}, layer {self.origin.layer}"


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is measured: the index with its options, and the null it is set against."""

    index: str
    options: Mapping[str, Any] = field(default_factory=dict)
    permute: str = "instructions"
    permutations: int = 999
    seed: int = 0
    grid: str = "layers"
    gallery: int | None = None
    """Of indices of neighbors: episodes among which they are sought; see `mnprobe.probe.retrieval.gallery_size`."""

    def __post_init__(self) -> None:
        gallery_size(self.gallery, 0)
        object.__setattr__(self, "permutations", as_whole(self.permutations, "permutations"))
        object.__setattr__(self, "seed", check_seed(as_whole(self.seed, "seed", least=0)))
        if self.permutations < 19:
            raise ConfigError(f"permutations must be at least 19, so that p can reach 0.05, got {self.permutations!r}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The table (columns `COLUMNS`, one row per cell, understanding by execution) and sentences about it."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    rows: Sequence[FeatureSet],
    columns: Sequence[FeatureSet],
    *,
    tasks: Labels,
    instructions: Labels,
    config: CompareConfig,
    n_jobs: int = 1,
    quiet: bool = True,
) -> Comparison:
    """Measure every set of `rows` (understanding) against every set of `columns` (execution), row i being episode i.

    All cells share one list of permutations, drawn by `config.seed`, so that the maximum can be calibrated. Where whole
    instructions change places and have unequal numbers of episodes, an equal number of each is drawn first, and a note
    says how many stay. Results do not depend on `n_jobs`.

    Args:
        rows: features of the understanding side.
        columns: features of the execution side.
        tasks: the task of each episode.
        instructions: the instruction of each episode; also the groups of indices that use groups.
        config: index, null, seed.
        n_jobs: processes; columns are shared out among them. An enclosing `joblib.parallel_config` says where they are.
        quiet: show no progress.
    Raises:
        FeatureError: sets of different lengths, or values that are not finite.
        ConfigError: an unknown index, option or scheme.
        TooFewSamples: too little can be permuted, or too few episodes for the index.
        ProbeError: no cell has a value.
    """
    index = make_index(config.index, config.options)
    n = len(label_list(instructions, None, "instructions"))
    for given in (*rows, *columns):
        if len(given.values) != n:
            raise FeatureError(f"{given}: {len(given.values)} rows of features for {n} episodes")
    notes: list[str] = []
    kept = np.arange(n)
    labels = _texts(instructions, n, "instructions", needed="instruction" in config.permute)
    of_tasks = _texts(tasks, n, "tasks", needed="task" in config.permute)
    if config.permute.startswith("instructions"):
        kept = balanced_rows(labels, seed=config.seed)
        if len(kept) < n:
            notes.append(_balancing(labels, kept))
    parts = _random_parts(index, labels[kept], config)
    if len(parts) > 1 or len(parts[0]) < len(kept):
        notes.append(
            f"neighbours of {len(kept)} episodes are sought among {len(parts[0])} of them at a time, drawn at random: "
            f"value and null are means over {len(parts)} draws. --gallery chooses another number, 0 takes all episodes"
        )
    together = config.permute.startswith("instructions")
    measured = [
        _measured(
            *(index, rows, columns, kept[part], labels, of_tasks),
            replace(config, seed=config.seed if together or not draw else derived_seed(config.seed, draw)),
            n_jobs,
            quiet,
        )
        for draw, part in enumerate(parts)
    ]
    value = np.mean([found[0] for found in measured], axis=0)
    null = np.mean([found[1] for found in measured], axis=0)
    notes += [note for found in measured for note in found[2]]
    kept, block = kept[parts[0]], measured[0][3]
    if not np.isfinite(value).any():
        reasons = "; ".join(dict.fromkeys(notes)) or "the index gives no finite number"
        raise ProbeError(f"{index.about.title} has no value for any of the {value.size} cells: {reasons}")
    family = calibrate(value, null, higher_is_alike=index.about.higher_is_alike)
    facts: dict[str, Any] = {"n": len(kept), "n_groups": len(np.unique(labels[kept])), "block": block}
    facts["config_hash"] = comparison_hash(rows, columns, tasks=tasks, instructions=instructions, config=config)
    return Comparison(table=_table(rows, columns, family, config, index, facts), notes=tuple(dict.fromkeys(notes)))


def _random_parts(index: Index, labels: NDArray[Any], config: CompareConfig) -> list[NDArray[np.int64]]:
    """Rows of each draw, disjoint, at most three; all rows in one where nothing asks for less.

    Where whole instructions change places, every draw has equally many episodes of the same instructions, in the same
    order, so that one permutation of the instructions moves all draws alike.
    """
    size = gallery_size(config.gallery, len(labels)) if "k" in index.options() else None
    if size is None:
        return [np.arange(len(labels))]
    generator = np.random.default_rng([config.seed, 4])
    keys = generator.random(len(labels))
    if not config.permute.startswith("instructions"):
        order = np.argsort(keys)
        return [np.sort(order[start : start + size]) for start in range(0, min(3 * size, len(order) - size + 1), size)]
    (codes,), names = encode_labels(labels)
    chosen = np.sort(generator.permutation(len(names))[:size])
    each, own = size // len(chosen), len(labels) // len(names)
    rows = np.lexsort((keys, codes)).reshape(len(names), own)[chosen]
    draws = max(1, min(3, own // each))
    return [rows[:, draw * each : (draw + 1) * each].reshape(-1) for draw in range(draws)]


def _measured(
    index: Index,
    rows: Sequence[FeatureSet],
    columns: Sequence[FeatureSet],
    kept: NDArray[np.int64],
    labels: NDArray[Any],
    tasks: NDArray[Any],
    config: CompareConfig,
    n_jobs: int,
    quiet: bool,
) -> tuple[Rows, Rows, list[str], int]:
    """Values (rows, columns), their permutations, remarks, and how many episodes move together."""
    labels, tasks = labels[kept], tasks[kept]
    _require_memory(index, len(rows), len(columns), len(kept), config.permutations, n_jobs)
    swap = exchange(config.permute, tasks=tasks, instructions=labels, n=len(kept))
    orders = swap.orders(config.permutations, config.seed)
    sides_u, notes = _prepared(index, rows, kept, labels)
    sides_e, more = _prepared(index, columns, kept, labels)
    notes += more
    value = np.full((len(rows), len(columns)), np.nan)
    null = np.full((len(rows), len(columns), len(orders)), np.nan)
    with progress(f"{index.about.title}", len(columns), quiet=quiet) as advance:
        results = _columns(index, sides_u, sides_e, orders, n_jobs)
        with memory_told(index.about.title, len(kept)):
            for place, (values, sample, remarks) in enumerate(results):
                value[:, place], null[:, place] = values, sample
                notes += [f"{rows[row]} and {columns[place]} have no value: {text}" for row, text in remarks]
                advance()
    return value, null, notes, 1 if swap.block is None else len(kept) // len(np.unique(labels))


def comparison_hash(
    rows: Sequence[FeatureSet],
    columns: Sequence[FeatureSet],
    *,
    tasks: Labels,
    instructions: Labels,
    config: CompareConfig,
) -> str:
    """16 digits that change when a setting, a feature or a label does: identifies a finished table."""
    named = [[str(name) for name in label_list(labels, None, "labels")] for labels in (tasks, instructions)]
    total = hashlib.sha256(canonical_json(named).encode("utf-8", "surrogatepass"))
    for given in (*rows, *columns):
        origin, values = given.origin, given.values
        total.update(repr((str(given), origin.source_name, origin.pool, values.shape, values.dtype.str)).encode())
        total.update(np.ascontiguousarray(given.values).data)
    settings = {name: getattr(config, name) for name in ("index", "permute", "permutations", "seed", "grid")}
    index = make_index(config.index, config.options)
    if config.gallery is not None and "k" in index.options():
        settings["gallery"] = config.gallery
    settings |= {"options": index.options(), "data": total.hexdigest(), "revision": _REVISION, "columns": len(columns)}
    return config_hash(settings)


def _prepared(
    index: Index, sets: Sequence[FeatureSet], kept: NDArray[np.int64], labels: NDArray[Any]
) -> tuple[list[Any], list[str]]:
    """Prepared sides, None where the features leave the index undefined, with the reasons."""
    sides: list[Any] = []
    notes: list[str] = []
    for given in sets:
        try:
            sides.append(index.ready(given.values[kept], labels, name=str(given)))
        except TooLittleMemory:
            raise
        except ProbeError as error:
            sides.append(None)
            notes.append(f"{given} has no value: {error}")
    return sides, notes


def _texts(labels: Labels, n: int, name: str, *, needed: bool) -> NDArray[Any]:
    """Labels as text, one per row; where they decide nothing, a row without one is a group of its own."""
    found = as_labels(labels, n, name, missing=not needed)
    return np.array([str(label) or f"\0{row}" for row, label in enumerate(found.tolist())], dtype=object)


def _require_memory(index: Index, rows: int, columns: int, n: int, permutations: int, n_jobs: int) -> None:
    """TooLittleMemory before anything is computed, where what is held at once does not fit."""
    if index.held:
        ones = rows * (index.held + isinstance(index, MatrixIndex))  # stacked once more for all permutations
        matrices = ones + columns * index.held + 2
        if n_jobs > 1:
            matrices += min(n_jobs, columns) * (ones + index.held)
        require_memory(index.about.title, n, matrices, more=32 * permutations * n)


_Column = tuple[Rows, Rows, list[tuple[int, str]]]


def _columns(
    index: Index, ones: list[Any], others: list[Any], orders: NDArray[np.int64], n_jobs: int
) -> Iterator[_Column]:
    calls = [(index, ones, other, orders) for other in others]
    yield from spread(_column, calls, n_jobs=n_jobs, shared=[ones, orders])


def _column(index: Index, ones: list[Any], other: Any, orders: NDArray[np.int64]) -> _Column:
    failures: list[tuple[int, str]] = []
    values, null = column_values(index, ones, other, orders, note=lambda row, error: failures.append((row, str(error))))
    return values, null, failures


def _table(
    rows: Sequence[FeatureSet],
    columns: Sequence[FeatureSet],
    family: Family,
    config: CompareConfig,
    index: Index,
    facts: Mapping[str, Any],
) -> pd.DataFrame:
    about = {
        "index": config.index,
        "options": canonical_json(index.options()),
        "grid": config.grid,
        "n_cells": int(np.isfinite(family.p).sum()),
        "permute": config.permute,
        "permutations": config.permutations,
        "seed": config.seed,
        **facts,
    }
    cells = []
    for r, u in enumerate(rows):
        for c, e in enumerate(columns):
            names: dict[str, Any] = {"understanding": u.origin.model, "execution": e.origin.model}
            for side, origin in (("u", u.origin), ("e", e.origin)):
                names[f"source_{side}"] = origin.source_name
                names |= {f"{name}_{side}": getattr(origin, name) for name in ("step", "trained", "layer", "pool")}
            numbers = {
                name: float(getattr(family, name)[r, c])
                for name in ("value", "null_mean", "null_sd", "null_95", "p", "p_max")
            }
            cells.append(about | names | numbers | {"best": (r, c) == family.best})
    return pd.DataFrame(cells, columns=pd.Index(COLUMNS))


def _balancing(labels: NDArray[Any], kept: NDArray[np.int64]) -> str:
    before, after = len(np.unique(labels)), len(np.unique(labels[kept]))
    left = f"; {before - after} of {before} instructions have fewer and are left out" if after < before else ""
    return (
        f"whole instructions can only change places with equally large ones: {len(kept)} of {len(labels)} episodes are "
        f"used, {len(kept) // after} of each instruction{left}"
    )


GRIDS = ("layers", "checkpoints")
_LETTERS = {"understanding": "u", "execution": "e"}


@dataclass(frozen=True, kw_only=True)
class CompareInputs:
    """Feature sets of both sides for the same episodes, which `episodes` describes, and the worlds they come from.

    `notes` say in words what was mapped in the labels, and which stores were made from other data.
    """

    rows: tuple[FeatureSet, ...]
    columns: tuple[FeatureSet, ...]
    episodes: pd.DataFrame
    worlds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_stores(
    run: RunDir,
    grid: str,
    *,
    understanding: str | None = None,
    execution: str | None = None,
    source: str = "demos",
    step: int | None = None,
) -> tuple[list[Path], list[Path]]:
    """Feature stores of a run: the pair at `step` (the last when left out) for layers, every step for checkpoints.

    Raises FeatureError as `find_pairs`, ConfigError for an unknown grid or a step where all are wanted.
    """
    if grid not in GRIDS:
        raise ConfigError(f"grid must be {' or '.join(GRIDS)}, got {grid!r}")
    if grid == "checkpoints" and step is not None:
        raise ConfigError("--step chooses one checkpoint, but --grid checkpoints takes them all")
    names = {"understanding": understanding, "execution": execution, "source": source}
    ((path_u, path_e),) = find_pairs(run, **names, steps=[] if step is None else [step])  # type: ignore[arg-type]
    if grid == "layers":
        return [path_u], [path_e]
    return _siblings(run, path_u), _siblings(run, path_e)


def compare_inputs(
    stores_u: Sequence[Path],
    stores_e: Sequence[Path],
    *,
    grid: str = "layers",
    layers_u: Sequence[str] = (),
    layers_e: Sequence[str] = (),
    pool_u: str = "mean",
    pool_e: str = "mean",
    partition: str | None = None,
) -> CompareInputs:
    """Read and pool the layers to compare, for the episodes that every store has.

    Args:
        stores_u, stores_e: feature stores of each side.
        grid: 'layers' takes all layers unless some are named; 'checkpoints' one layer (u and e unless named).
        layers_u, layers_e: layers of each side.
        pool_u, pool_e: as `Layer.pooled`.
        partition: only these episodes.
    Raises:
        FeatureError: a wrong side, an unknown layer, no common episode, none of `partition`, or labels that the stores
            do not agree in (see `agreed_episodes`).
        ConfigError: several layers with 'checkpoints', or an unknown grid.
    """
    if grid not in GRIDS:
        raise ConfigError(f"grid must be {' or '.join(GRIDS)}, got {grid!r}")
    for flag, layers in (("--layer-u", layers_u), ("--layer-e", layers_e)):
        if grid == "checkpoints" and len(layers) > 1:
            raise ConfigError(f"--grid checkpoints compares one layer over training, {flag} names {', '.join(layers)}")
    tables, data, worlds = {}, {}, set()
    for side, paths in (("understanding", stores_u), ("execution", stores_e)):
        for path in paths:
            with open_features(path) as file:
                if file.side != side:
                    raise FeatureError(f"{path} holds features of the {file.side} side; the {side} side is needed here")
                tables[path] = file.episodes
                data[path] = str(file.attrs["data_fingerprint"])
                worlds |= set(file.worlds)
    episodes, notes = _common(tables, data, partition)
    ids = episodes["id"].tolist()
    rows = [item for path in stores_u for item in _sets(path, "understanding", ids, grid, layers_u, pool_u)]
    columns = [item for path in stores_e for item in _sets(path, "execution", ids, grid, layers_e, pool_e)]
    return CompareInputs(
        rows=tuple(rows), columns=tuple(columns), episodes=episodes, worlds=tuple(sorted(worlds)), notes=notes
    )


def _siblings(run: RunDir, path: Path) -> list[Path]:
    """All steps of the same model and source, in order."""
    return [piece.path for piece in run.feature_files(path.parent.parent.name, path.parent.name)]


def _common(
    tables: dict[Path, pd.DataFrame], data: dict[Path, str], partition: str | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The episodes that all stores have, in the order of the first; and notes."""
    first = next(iter(tables))
    found = tables[first]
    notes: list[str] = []
    for path, table in tables.items():
        joined = join_episodes(found, table, (first, path), data=(data[first], data[path]), episodes="shared")
        found = joined.episodes
        notes += joined.notes
    if partition is not None:
        partition = asked_partition(partition)
        known = sorted(found["partition"].unique())
        found = found[found["partition"] == partition]
        if found.empty:
            raise FeatureError(
                f"none of the common episodes is in partition {partition!r}; there are {', '.join(map(repr, known))}"
            )
    return found[["id", "task", "instruction", "partition"]].reset_index(drop=True), tuple(dict.fromkeys(notes))


def _sets(path: Path, side: str, ids: Sequence[str], grid: str, layers: Sequence[str], pool: str) -> list[FeatureSet]:
    with open_features(path) as file:
        usual = usual_layer(side, file.layers)
        if not layers:
            layers = [usual] if grid == "checkpoints" and usual is not None else file.layers
        if grid == "checkpoints" and len(layers) > 1:
            letter = _LETTERS[side]
            raise FeatureError(
                f"{path} has no layer {letter!r} but {', '.join(layers)}: say which with --layer-{letter}"
            )
        place = {str(name): row for row, name in enumerate(file.episodes["id"])}
        rows = np.array([place[name] for name in ids], dtype=np.int64)
        return [
            FeatureSet(values=file.layer(name).pooled(pool)[rows], origin=layer_id(file, name, pool))
            for name in sorted(layers, key=_natural)
        ]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """blocks.2 before blocks.10, the numbered ones before the paper's own."""
    parts = name.split(".")
    key = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
    return ((len(parts) == 1, 0, ""), *key)
