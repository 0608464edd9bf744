"""`mnprobe tsne` as a function: maps of one checkpoint or over training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from mnprobe.analysis.figures.metadata import FigureNote, write_note
from mnprobe.analysis.figures.style import SavedFigure, save_figure
from mnprobe.analysis.similarity._arrays import centered, in_range
from mnprobe.analysis.tables.progress import world_note
from mnprobe.analysis.tsne.embedding import (
    NEAREST,
    Floats,
    Quality,
    TsneConfig,
    embed,
    map_qualities,
    nearest_across,
)
from mnprobe.analysis.tsne.figure import TsnePanel, quality_line, tsne_figure
from mnprobe.analysis.tsne.inputs import Shared, TsneInput, held_out, shared_space
from mnprobe.core.arrays import as_matrix
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import LayerId
from mnprobe.core.table import TableSchema
from mnprobe.probe.pairs import FeaturePair, agreed_episodes, in_partition

__all__ = [
    "MAP_QUALITY",
    "POINTS",
    "SeriesMap",
    "TsneSeries",
    "movement",
    "quality_table",
    "series_coordinates",
    "tsne_series",
    *("HELD_OUT", "DrawnTsne", "Space", "as_space", "draw_tsne", "panel_coordinates", "panel_facts"),
    *("same_panel", "shared_for", "shared_panel", "shown_pair", "tsne_panels"),
]

HELD_OUT = "held-out"  # the partition of episodes that saved heads were not fitted on
Space = Literal["shared", "raw", "both"]
_KEPT = ("id", "task", "instruction", "partition", "success")
POINTS = TableSchema(
    name="tsne",
    columns=("panel", "side", "model", *_KEPT, "fitted", "x", "y"),
    key=("panel", "side", "model", "id"),
    whole=("success", "step"),
    real=("x", "y", "own_cosine", "own_rank", *(f"cosine_{place}" for place in range(1, NEAREST + 1))),
    truth=("fitted",),
    more=True,
    command="tsne",
)
"""results/tsne*.csv: one row per point. Further columns: those of the users' own, source, step, neighbors."""
MAP_QUALITY = TableSchema(
    name="map-quality",
    columns=(
        *("training", "step", "points", "count", "trust_neighbours", "trustworthiness", "neighbours", "purity"),
        *("purity_chance", "across_neighbours", "across", "across_chance", "perplexity", "kl", "moved"),
    ),
    key=("training", "step", "points"),
    whole=("step", "count", "trust_neighbours", "neighbours", "across_neighbours"),
    real=(*("trustworthiness", "purity", "purity_chance", "across", "across_chance", "perplexity", "kl", "moved"),),
    command="tsne",
)
"""results/map-quality.csv: one row per map of a series and group of its points."""
_COLORS = ("auto", "instruction", "task")
_NOT_OWN = {*_KEPT, "variation", "prediction", "panel", "side", "model", "source", "step", "fitted", "x", "y"}


@dataclass(frozen=True, kw_only=True)
class DrawnTsne:
    """What was written, and the panels that were drawn."""

    figure: SavedFigure
    table: Path
    panels: tuple[TsnePanel, ...]
    caption: str


def as_space(name: str) -> Space:
    """`name` as a space; ConfigError when it is none.

    >>> as_space("raw")
    'raw'
    """
    for space in get_args(Space):
        if name == space:
            return cast(Space, space)
    raise ConfigError(f"space must be shared, raw or both, got {name!r}")


def tsne_panels(
    inputs: Sequence[TsneInput],
    *,
    space: Space = "shared",
    partition: str | None = None,
    config: TsneConfig | None = None,
) -> tuple[list[TsnePanel], list[str]]:
    """Lay out each input: one panel of z_u with z_e in the shared space, two panels (u and e) in their raw spaces, or
    all three, before and after the linear maps.

    Returns the panels and sentences about where heads came from and warnings of the optimizer. Raw features are
    standardized; shared ones have length 1. In 'both', held-out points are the same before and after.
    """
    config = config or TsneConfig()
    panels, notes = [], []
    for given in inputs:
        shown = shown_pair(given, partition)
        made, fitted = [], np.zeros(len(shown), dtype=bool)
        if space != "raw":
            shared = shared_for(given, shown, partition, config.seed)
            before = f"{given.title}: " if given.title else ""
            title = f"{before}z after the heads" if space == "both" else given.title
            made, fitted = [shared_panel(shown, shared, title, config)], shared.fitted
            notes.append(shared.origin)
        if space != "shared":
            made = [*_raw_panels(shown, given.title, config, fitted), *made]
        panels += made
        notes += [note for panel in made for note in panel.embedding.notes]
    return panels, list(dict.fromkeys(notes))


def draw_tsne(
    inputs: Sequence[TsneInput],
    *,
    stem: Path,
    table: Path,
    space: Space = "shared",
    partition: str | None = None,
    config: TsneConfig | None = None,
    color: str = "auto",
    command: str | None = None,
) -> DrawnTsne:
    """Draw the panels of `inputs` side by side.

    Args:
        inputs: one or more pairs (runs or checkpoints to compare).
        stem: where the figure goes, without ending: `stem`.png, .svg, and .json with caption and command.
        table: where the coordinates go, as CSV.
        space: 'shared' (z_u and z_e together), 'raw' (u and e apart) or 'both' (before and after the maps).
        partition: only these episodes ('held-out': those that saved heads were not fitted on). Where heads must be
            fitted, they are then fitted on the other episodes, if these are enough.
        config: of the t-SNE.
        color: 'auto', 'instruction', 'task', or a column of the user's own that all stores have.
        command: command that draws this figure again; written to the note.
    """
    config = config or TsneConfig()
    _check_color(color, inputs)
    panels, notes = tsne_panels(inputs, space=space, partition=partition, config=config)
    worlds = sorted({name for given in inputs for name in given.pair.worlds})
    caption = _caption(space, partition, [*notes, world_note(worlds)])
    shown = panels if color in _COLORS else [_colored_by(panel, color) for panel in panels]
    title = _title(space, "instruction" if color in _COLORS else color)
    figure = tsne_figure(
        shown, config, title=title, caption=caption, color=color if color in _COLORS else "instruction"
    )
    POINTS.write(table, pd.concat([panel_coordinates(panel) for panel in panels]))
    saved = save_figure(figure, stem)
    qualities = [f"{panel.title}: {quality_line(panel, config)}" for panel in panels]
    note = FigureNote(
        title=title,
        caption=" ".join([f"{line}." for line in qualities] + [caption]),
        command=command or command_line("tsne", space=space, partition=partition),
        facts={
            "panels": [panel_facts(panel) for panel in panels],
            "perplexity_asked": config.perplexity,
            "seed": config.seed,
            "settings": asdict(config),
        },
    )
    write_note(note, stem)
    return DrawnTsne(figure=saved, table=table, panels=tuple(panels), caption=note.caption)


def shown_pair(given: TsneInput, partition: str | None) -> FeaturePair:
    """The episodes of `given` that are shown: all, those of a partition, or those its heads were not fitted on."""
    if partition is None:
        return given.pair
    if partition != HELD_OUT:
        return in_partition(given.pair, partition)
    if given.heads is None:
        raise ConfigError(
            f"--partition {HELD_OUT} needs saved heads that know what they were fitted on: `mnprobe align`"
        )
    return held_out(given.pair, given.heads)


def shared_for(given: TsneInput, shown: FeaturePair, partition: str | None, seed: int) -> Shared:
    """z_u and z_e of the episodes shown, by the saved heads of `given` or new ones fitted on the other episodes."""
    others = None
    if given.heads is None and partition is not None:
        rest = given.pair.take(~given.pair.episodes["id"].isin(shown.episodes["id"]).to_numpy())
        others = rest if len(set(rest.items.instructions.tolist())) > 1 else None
    return shared_space(shown, heads=given.heads, fit_on=others, seed=seed)


def shared_panel(
    pair: FeaturePair, shared: Shared, title: str, config: TsneConfig, start: np.ndarray | None = None
) -> TsnePanel:
    """One panel of z_u and z_e (in this order); `start` (2 N, 2) is an earlier map of the same points to start from."""
    return _panel(
        np.concatenate([shared.z_u, shared.z_e]),
        _shared_points(pair, shared),
        title or "z_u and z_e in the shared space",
        _subtitle(pair),
        config,
        start,
    )


def same_panel(panel: TsnePanel, pair: FeaturePair, shared: Shared, title: str) -> TsnePanel:
    """`panel` as that of another pair with the same features: its coordinates with that pair's names."""
    points = _shared_points(pair, shared)
    coordinates, neighbors = panel.embedding.coordinates, panel.qualities[0].trust_neighbours
    values = np.concatenate([shared.z_u, shared.z_e])
    qualities = map_qualities(values, coordinates, points, neighbors)
    return replace(panel, title=title, subtitle=_subtitle(pair), points=points, qualities=qualities)


def _shared_points(pair: FeaturePair, shared: Shared) -> pd.DataFrame:
    points = pd.concat(
        [_points(pair, "understanding", pair.origin_u), _points(pair, "execution", pair.origin_e)],
        ignore_index=True,
    )
    across = nearest_across(shared.z_u, shared.z_e, pair.items.ids.tolist())
    return points.assign(fitted=np.tile(shared.fitted, 2)).join(pd.concat(list(across), ignore_index=True))


def _subtitle(pair: FeaturePair) -> str:
    u, e = pair.origin_u, pair.origin_e
    return f"{u.title} ({u.layer}); {e.title} ({e.layer})"


def _raw_panels(pair: FeaturePair, title: str, config: TsneConfig, fitted: np.ndarray) -> list[TsnePanel]:
    before = f"{title}: " if title else ""
    sides = (
        ("u", "understanding", pair.u, pair.origin_u),
        ("e", "execution", pair.e, pair.origin_e),
    )
    return [
        _panel(
            _standardized(values),
            _points(pair, side, origin).assign(fitted=fitted),
            f"{before}{letter} before the heads",
            f"{origin.title} ({origin.layer}, {origin.pool})",
            config,
        )
        for letter, side, values, origin in sides
    ]


def _panel(
    values: np.ndarray,
    points: pd.DataFrame,
    title: str,
    subtitle: str,
    config: TsneConfig,
    start: np.ndarray | None = None,
) -> TsnePanel:
    embedding = embed(values, config, start=start)
    return TsnePanel(
        title=title,
        subtitle=subtitle,
        points=points,
        embedding=embedding,
        qualities=map_qualities(values, embedding.coordinates, points, config.neighbours),
    )


def _points(pair: FeaturePair, side: str, origin: LayerId) -> pd.DataFrame:
    table = pair.episodes[[*_KEPT, *_own_columns(pair)]]
    return table.assign(side=side, model=origin.model, source=origin.source_name, step=origin.step, fitted=False)


def _own_columns(pair: FeaturePair) -> list[str]:
    """Columns of the user's own, but for those called as a column of the table of points."""
    names = map(str, pair.episodes.columns)
    return [name for name in names if name not in _NOT_OWN and not name.startswith("neighbour_")]


def _check_color(color: str, inputs: Sequence[TsneInput]) -> None:
    if color in _COLORS:
        return
    common = set.intersection(*(set(_own_columns(given.pair)) for given in inputs))
    if color not in common:
        own = (
            f"your own columns are {', '.join(sorted(common))}" if common else "the stores have no columns of your own"
        )
        raise ConfigError(f"colour must be auto, instruction or task, got {color!r}; {own}")


def _colored_by(panel: TsnePanel, column: str) -> TsnePanel:
    """The panel colored by a user's column: one color for each of its values."""
    values = [str(value) or "(none)" for value in panel.points[column].tolist()]
    return replace(panel, points=panel.points.assign(task=column, instruction=values))


def _standardized(values: np.ndarray) -> np.ndarray:
    """Columns centered and over their deviation; those that hardly vary are only centered, those that are nothing but
    the rounding of an offset become 0.
    """
    digits = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    exact, _ = in_range(as_matrix(values, "features"), name="features", title="t-SNE", translation=True)
    middle = centered(exact)
    deviation = np.sqrt((middle**2).mean(axis=0))
    large = deviation > 1e-6 * deviation.max()
    rounded = deviation <= 16 * digits * np.abs(exact.mean(axis=0))
    found = middle / np.where(large & ~rounded, deviation, 1.0)
    return np.where(large & rounded, 0.0, found)


def panel_coordinates(panel: TsnePanel) -> pd.DataFrame:
    """One row per point: panel, side, model, id, ..., fitted, x, y, and whatever else the panel's points have."""
    spots = panel.embedding.coordinates
    table = panel.points.assign(panel=panel.title, x=spots[:, 0], y=spots[:, 1])
    first = ["panel", "side", "model", *_KEPT, "fitted", "x", "y"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def panel_facts(panel: TsnePanel) -> dict[str, object]:
    """The numbers of one panel, ready for JSON."""
    made = panel.embedding
    return {
        "title": panel.title,
        "subtitle": panel.subtitle,
        "n_points": len(panel.points),
        "n_episodes": int(panel.points["id"].nunique()),
        "perplexity": made.perplexity,
        "trustworthiness": made.trustworthiness,
        "purity": panel.purity,
        "purity_of": panel.purity_of,
        "purity_chance": panel.quality.purity_chance,
        "neighbours": made.neighbors,
        "purity_neighbours": panel.quality.neighbours,
        "qualities": [_facts(quality) for quality in panel.qualities],
        "kl": made.kl,
        "notes": list(made.notes),
    }


def _facts(quality: Quality) -> dict[str, object]:
    """Ready for JSON, which knows no NaN."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value for name, value in asdict(quality).items()
    }


_SPACES = {"shared": "the shared space", "raw": "the raw features", "both": "features before and after the linear maps"}
_HOW = {
    "shared": "Rows have length 1, so that near means a high cosine similarity.",
    "raw": "Features are standardised; u and e have no common axes here.",
    "both": "Before the maps, features are standardised, and u and e have no common axes; after them, rows have length "
    "1, so that near means a high cosine similarity.",
}


def _title(space: Space, color: str) -> str:
    return f"t-SNE of {_SPACES[space]}: shape = model, colour = {color}"


def _caption(space: Space, partition: str | None, notes: Sequence[str]) -> str:
    which = f"Episodes of partition {partition}." if partition else "All episodes that both sides have."
    which = "Episodes that the heads were not fitted on." if partition == HELD_OUT else which
    told = [f"{note[0].upper()}{note[1:]}." for note in notes if note]
    return " ".join(
        [
            which,
            _HOW[space],
            *told,
            "Distances between far clusters mean nothing in a t-SNE; it is no evidence by itself.",
        ]
    )


@dataclass(frozen=True, kw_only=True)
class SeriesMap:
    """The map of one training at one checkpoint.

    Attributes:
        training: whose checkpoint it is.
        step: of the execution model.
        panel: the map; its coordinates have the root mean square distance 1 from their center.
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

    `notes` says where heads came from and warnings of the optimizer.
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

    Only episodes that all of them have are shown. The first map starts from principal components, that of every later
    step from the step before, and the first of every later training from the first of all, so that rows can be
    compared as well; where the features are the very same, so is the map. A map is then moved and scaled as a whole,
    which changes no neighborhood. `advance` is called after each.

    Raises FeatureError when they share no episode or differ in its instruction, and as `shown_pair` and `embed`.
    """
    config = config or TsneConfig()
    given = {name: sorted(some, key=lambda item: item.pair.origin_e.step) for name, some in inputs.items()}
    shown = _common({name: [shown_pair(item, partition) for item in some] for name, some in given.items()})
    maps: list[SeriesMap] = []
    notes: list[str] = []
    first: _Laid | None = None
    for name, some in given.items():
        before = first
        for item, pair in zip(some, shown[name], strict=True):
            shared = shared_for(item, pair, partition, config.seed)
            title = f"{name}, step {pair.origin_e.step}".removeprefix(", ")
            laid = _laid(pair, shared, title, config, before)
            moved = float("nan") if before is None else movement(before.spots, laid.spots)
            maps.append(SeriesMap(training=name, step=pair.origin_e.step, panel=laid.panel, moved=moved))
            notes += [shared.origin, *laid.panel.embedding.notes]
            first = first or laid
            before = laid
            advance()
    return TsneSeries(maps=tuple(maps), notes=tuple(dict.fromkeys(notes)))


def movement(before: Floats, after: Floats) -> float:
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
    values: Floats
    panel: TsnePanel

    @property
    def spots(self) -> Floats:
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
        agreed_episodes(whole.episodes, pair.episodes, ["one checkpoint", pair.origin_e.title])
    return cut


def _in_order_of(ids: "pd.Series[str]", pair: FeaturePair) -> FeaturePair:
    row_of = pd.Series(np.arange(len(pair)), index=pair.episodes["id"])
    rows = row_of[ids].to_numpy()
    return pair.take(rows)


def _standing(panel: TsnePanel) -> TsnePanel:
    made = panel.embedding
    return replace(panel, embedding=replace(made, coordinates=_spread_one(made.coordinates)))


def _spread_one(spots: Floats) -> Floats:
    """Centred, and scaled to the root mean square distance 1 from the center."""
    centered = spots - spots.mean(axis=0)
    spread = float(np.sqrt((centered**2).sum(axis=1).mean()))
    return np.asarray(centered / spread if spread > 0 else centered)
