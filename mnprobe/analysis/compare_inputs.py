"""Which stores and layers a comparison takes: two files named, or those of a run; only episodes that all have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mnprobe.analysis.compare import FeatureSet
from mnprobe.analysis.pairs import find_pairs
from mnprobe.analysis.world import worlds_of
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import partition_of
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features
from mnprobe.probe.join import agreed_episodes, alike_ids

__all__ = ["GRIDS", "CompareInputs", "compare_inputs", "find_stores"]

GRIDS = ("layers", "checkpoints")
_USUAL = {"understanding": "u", "execution": "e"}


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
                worlds |= set(worlds_of(file.attrs))
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
    first = next(iter(tables))
    found = tables[first]
    notes: list[str] = []
    for path, table in tables.items():
        both = found["id"].isin(table["id"]).to_numpy()
        alike = alike_ids(found["id"].tolist(), table["id"].tolist())
        if not both.any():
            raise FeatureError(
                f"{first} and {path} share no episode: the first ids are {found['id'].iloc[0]!r} and "
                f"{table['id'].iloc[0]!r}. {alike[:1].upper()}{alike[1:] or 'Extract both from the same data'}"
            )
        notes += [f"{first} and {path}: {alike}"] if alike else []
        found = found[both].reset_index(drop=True)
        other = table.set_index("id", drop=False).loc[found["id"]].reset_index(drop=True)
        found, told = agreed_episodes(found, other, (first, path), data=(data[first], data[path]))
        notes += told
    if partition is not None:
        partition = partition_of(partition) or partition
        known = sorted(found["partition"].unique())
        found = found[found["partition"] == partition]
        if found.empty:
            raise FeatureError(
                f"none of the common episodes is in partition {partition!r}; there are {', '.join(map(repr, known))}"
            )
    return found[["id", "task", "instruction", "partition"]].reset_index(drop=True), tuple(dict.fromkeys(notes))


def _sets(path: Path, side: str, ids: Sequence[str], grid: str, layers: Sequence[str], pool: str) -> list[FeatureSet]:
    with open_features(path) as file:
        usual = _USUAL[side]
        if not layers:
            layers = [usual] if grid == "checkpoints" and usual in file.layers else file.layers
        if grid == "checkpoints" and len(layers) > 1:
            raise FeatureError(f"{path} has no layer {usual!r} but {', '.join(layers)}: say which with --layer-{usual}")
        place = {str(name): row for row, name in enumerate(file.episodes["id"])}
        rows = np.array([place[name] for name in ids], dtype=np.int64)
        return [
            FeatureSet(
                values=file.layer(name).pooled(pool)[rows],
                model=file.model,
                source=file.source,
                step=file.step,
                trained=file.trained,
                layer=name,
                pool=pool,
            )
            for name in sorted(layers, key=_natural)
        ]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """blocks.2 before blocks.10, the numbered ones before the paper's own."""
    parts = name.split(".")
    key = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
    return ((len(parts) == 1, 0, ""), *key)
