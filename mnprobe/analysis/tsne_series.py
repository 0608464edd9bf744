"""t-SNE over training: a map of the shared space at each checkpoint, each begun from the map of the one before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mnprobe.analysis.draw_tsne import TsneInput, panel_coordinates, same_panel, shared_for, shared_panel, shown_pair
from mnprobe.analysis.embedding import Array, TsneConfig
from mnprobe.analysis.pairs import FeaturePair, Shared
from mnprobe.analysis.tsne_figure import TsnePanel
from mnprobe.core.errors import FeatureError
from mnprobe.probe.join import agreed_episodes

__all__ = ["SeriesMap", "TsneSeries", "movement", "quality_table", "series_coordinates", "tsne_series"]


@dataclass(frozen=True, kw_only=True)
class SeriesMap:
    """The map of one training at one checkpoint.

    Attributes:
        training: whose checkpoint it is.
        step: of the execution model.
        panel: the map; its coordinates have the root mean square distance 1 from their centre.
        moved: mean distance of a point from where it was on the map before, in these units; NaN on the first map of
            all.
    """

    training: str
    step: int
    panel: TsnePanel
    moved: float


@dataclass(frozen=True, kw_only=True)
class TsneSeries:
    """All maps, training by training and in the order of steps, of the same points in the same order.

    `notes` says where heads came from and what the optimiser warned of.
    """

    maps: tuple[SeriesMap, ...]
    notes: tuple[str, ...]

    @property
    def trainings(self) -> list[str]:
        """Each training once, in the order given."""
        return list(dict.fromkeys(item.training for item in self.maps))

    @property
    def steps(self) -> list[int]:
        """Each step that a training has, sorted."""
        return sorted({item.step for item in self.maps})

    def at(self, training: str, step: int) -> SeriesMap | None:
        """The map of one training at one step, or None where that training has no such checkpoint."""
        return next((item for item in self.maps if (item.training, item.step) == (training, step)), None)


def tsne_series(
    inputs: Mapping[str, Sequence[TsneInput]],
    *,
    partition: str | None = None,
    config: TsneConfig | None = None,
    advance: Callable[[], None] = lambda: None,
) -> TsneSeries:
    """Lay out each training's checkpoints (`inputs`: by training, in any order of steps) one after the other.

    Only episodes that all of them have are shown. The first map begins from principal components, that of every later
    step from the step before, and the first of every later training from the first of all, so that rows can be
    compared as well; where the features are the very same, so is the map. A map is then moved and scaled as a whole,
    which changes no neighbourhood. `advance` is called after each.

    Raises FeatureError when they share no episode or differ in its instruction, and as `shown_pair` and `embed`.
    """
    config = config or TsneConfig()
    given = {name: sorted(some, key=lambda item: item.pair.step_e) for name, some in inputs.items()}
    shown = _common({name: [shown_pair(item, partition) for item in some] for name, some in given.items()})
    maps: list[SeriesMap] = []
    notes: list[str] = []
    first: _Laid | None = None
    for name, some in given.items():
        before = first
        for item, pair in zip(some, shown[name], strict=True):
            shared = shared_for(item, pair, partition, config.seed)
            title = f"{name}, step {pair.step_e}".removeprefix(", ")
            laid = _laid(pair, shared, title, config, before)
            moved = float("nan") if before is None else movement(before.spots, laid.spots)
            maps.append(SeriesMap(training=name, step=pair.step_e, panel=laid.panel, moved=moved))
            notes += [shared.origin, *laid.panel.embedding.notes]
            first = first or laid
            before = laid
            advance()
    return TsneSeries(maps=tuple(maps), notes=tuple(dict.fromkeys(notes)))


def movement(before: Array, after: Array) -> float:
    """Mean distance of the points (N, 2) of one map from where they are on another, each brought to spread 1.

    >>> square = np.array([[0.0, 0], [0, 2], [2, 0], [2, 2]])
    >>> round(movement(square, 3 * square + 5), 6)
    0.0
    """
    gaps = _spread_one(np.asarray(after, dtype=np.float64)) - _spread_one(np.asarray(before, dtype=np.float64))
    return float(np.sqrt((gaps**2).sum(axis=1)).mean())


def series_coordinates(series: TsneSeries) -> pd.DataFrame:
    """One row per point of each map: the columns of results/tsne.csv (step: of the execution model), then training."""
    tables = [panel_coordinates(item.panel).assign(step=item.step, training=item.training) for item in series.maps]
    return pd.concat(tables, ignore_index=True)


def quality_table(series: TsneSeries) -> pd.DataFrame:
    """One row per map and group of points (all, held-out, fitted): what `Quality` holds, the KL divergence, and how
    far the points moved since the map before.
    """
    rows = [
        {
            "training": item.training,
            "step": item.step,
            **{field: getattr(quality, field) for field in quality.__dataclass_fields__},
            "perplexity": item.panel.embedding.perplexity,
            "kl": item.panel.embedding.kl,
            "moved": item.moved,
        }
        for item in series.maps
        for quality in item.panel.qualities
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Laid:
    values: Array
    panel: TsnePanel

    @property
    def spots(self) -> Array:
        return self.panel.embedding.coordinates


def _laid(pair: FeaturePair, shared: Shared, title: str, config: TsneConfig, before: _Laid | None) -> _Laid:
    """The map of one checkpoint; where its features are those of the map before, bit for bit, so is the map."""
    values = np.concatenate([shared.z_u, shared.z_e])
    if before is None or not np.array_equal(values, before.values):
        start = None if before is None else before.spots
        return _Laid(values, _standing(shared_panel(pair, shared, title, config, start)))
    return _Laid(values, same_panel(before.panel, pair, shared, title))


def _common(pairs: Mapping[str, list[FeaturePair]]) -> dict[str, list[FeaturePair]]:
    """The pairs with only the episodes that all have, in the order of the first."""
    everyone = [pair for some in pairs.values() for pair in some]
    ids = everyone[0].episodes["id"]
    for pair in everyone[1:]:
        ids = ids[ids.isin(pair.episodes["id"])]
    if ids.empty:
        raise FeatureError("the checkpoints to show share no episode. Extract all from the same data")
    cut = {name: [_in_order_of(ids, pair) for pair in some] for name, some in pairs.items()}
    whole = _in_order_of(ids, everyone[0])
    for pair in (pair for some in cut.values() for pair in some):
        agreed_episodes(whole.episodes, pair.episodes, ["one checkpoint", pair.describe_e])
    return cut


def _in_order_of(ids: "pd.Series[str]", pair: FeaturePair) -> FeaturePair:
    place = pd.Series(np.arange(len(pair)), index=pair.episodes["id"])
    rows = place[ids].to_numpy()
    return replace(pair, u=pair.u[rows], e=pair.e[rows], episodes=pair.episodes.iloc[rows].reset_index(drop=True))


def _standing(panel: TsnePanel) -> TsnePanel:
    made = panel.embedding
    return replace(panel, embedding=replace(made, coordinates=_spread_one(made.coordinates)))


def _spread_one(spots: Array) -> Array:
    """Centred, and scaled to the root mean square distance 1 from the centre."""
    centred = spots - spots.mean(axis=0)
    spread = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return np.asarray(centred / spread if spread > 0 else centred)
