"""`mnprobe tsne` as a function: from pairs of feature files to a figure and results/tsne.csv (paper, Figure 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from mnprobe.analysis.embedding import TsneConfig, embed, knn_purity
from mnprobe.analysis.figures import SavedFigure, save_figure
from mnprobe.analysis.neighbours import nearest_across
from mnprobe.analysis.notes import FigureNote, command_line, write_note
from mnprobe.analysis.pairs import FeaturePair, Shared, held_out, in_partition, shared_space
from mnprobe.analysis.tables import write_table
from mnprobe.analysis.tsne_figure import TsnePanel, quality_line, tsne_figure
from mnprobe.analysis.world import world_note
from mnprobe.core.errors import ConfigError

__all__ = ["HELD_OUT", "DrawnTsne", "Space", "TsneInput", "as_space", "draw_tsne", "panel_facts", "tsne_panels"]

HELD_OUT = "held-out"  # the partition of episodes that saved heads were not fitted on
Space = Literal["shared", "raw"]
_KEPT = ("id", "task", "instruction", "partition", "success")


@dataclass(frozen=True, kw_only=True)
class TsneInput:
    """One pair to show: its features, saved heads that fit it (or None), and a title where several are compared."""

    pair: FeaturePair
    heads: Path | None = None
    title: str = ""


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
    raise ConfigError(f"space must be {' or '.join(get_args(Space))}, got {name!r}")


def tsne_panels(
    inputs: Sequence[TsneInput],
    *,
    space: Space = "shared",
    partition: str | None = None,
    config: TsneConfig | None = None,
) -> tuple[list[TsnePanel], list[str]]:
    """Lay out each input: one panel of z_u with z_e in the shared space, or two panels, u and e, in their raw spaces.

    Returns the panels and sentences about where heads came from and what the optimiser warned of. Raw features are
    standardised; shared ones have length 1.
    """
    config = config or TsneConfig()
    panels, notes = [], []
    for given in inputs:
        shown = _shown(given, partition)
        if space == "raw":
            made = _raw_panels(shown, given.title, config)
        else:
            shared = _shared(given, shown, partition, config.seed)
            made = [_shared_panel(shown, shared, given.title, config)]
            notes.append(shared.origin)
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
    colour: str = "auto",
    command: str | None = None,
) -> DrawnTsne:
    """Draw the panels of `inputs` side by side.

    Args:
        inputs: one or more pairs (runs or checkpoints to compare).
        stem: where the figure goes, without ending: `stem`.png, .svg, and .json with caption and command.
        table: where the coordinates go, as CSV.
        space: 'shared' (z_u and z_e together) or 'raw' (u and e apart).
        partition: only these episodes ('held-out': those that saved heads were not fitted on). Where heads must be
            fitted, they are then fitted on the other episodes, if these are enough.
        config: of the t-SNE.
        colour: 'auto', 'instruction' or 'task'.
        command: how a person makes this figure again; written beside it.
    """
    config = config or TsneConfig()
    if colour not in ("auto", "instruction", "task"):
        raise ConfigError(f"colour must be auto, instruction or task, got {colour!r}")
    panels, notes = tsne_panels(inputs, space=space, partition=partition, config=config)
    worlds = sorted({name for given in inputs for name in given.pair.worlds})
    caption = _caption(space, partition, [*notes, world_note(worlds)])
    figure = tsne_figure(panels, config, title=_title(space), caption=caption, colour=colour)
    write_table(pd.concat([_coordinates(panel) for panel in panels]), table)
    saved = save_figure(figure, stem)
    qualities = [f"{panel.title}: {quality_line(panel, config)}" for panel in panels]
    note = FigureNote(
        title=_title(space),
        caption=" ".join([f"{line}." for line in qualities] + [caption]),
        command=command or command_line("tsne", {"space": space, "partition": partition}),
        facts={
            "panels": [panel_facts(panel) for panel in panels],
            "perplexity_asked": config.perplexity,
            "seed": config.seed,
        },
    )
    write_note(note, stem)
    return DrawnTsne(figure=saved, table=table, panels=tuple(panels), caption=note.caption)


def _shown(given: TsneInput, partition: str | None) -> FeaturePair:
    if partition is None:
        return given.pair
    if partition != HELD_OUT:
        return in_partition(given.pair, partition)
    if given.heads is None:
        raise ConfigError(
            f"--partition {HELD_OUT} needs saved heads that know what they were fitted on: `mnprobe align`"
        )
    return held_out(given.pair, given.heads)


def _shared(given: TsneInput, shown: FeaturePair, partition: str | None, seed: int) -> Shared:
    others = None
    if given.heads is None and partition is not None:
        rest = given.pair.rows((given.pair.episodes["partition"] != partition).to_numpy())
        others = rest if rest.episodes["instruction"].nunique() > 1 else None
    return shared_space(shown, heads=given.heads, fit_on=others, seed=seed)


def _shared_panel(pair: FeaturePair, shared: Shared, title: str, config: TsneConfig) -> TsnePanel:
    points = pd.concat(
        [_points(pair, "understanding", pair.understanding), _points(pair, "execution", pair.execution)],
        ignore_index=True,
    )
    points["fitted"] = np.tile(shared.fitted, 2)
    across = nearest_across(shared.z_u, shared.z_e, pair.episodes["id"].tolist())
    points = points.join(pd.concat(list(across), ignore_index=True))
    return _panel(
        np.concatenate([shared.z_u, shared.z_e]),
        points,
        title or "z_u and z_e in the shared space",
        f"{pair.describe_u} ({pair.layer_u}); {pair.describe_e} ({pair.layer_e})",
        config,
    )


def _raw_panels(pair: FeaturePair, title: str, config: TsneConfig) -> list[TsnePanel]:
    before = f"{title}: " if title else ""
    sides = (
        ("u", "understanding", pair.u, pair.understanding, f"{pair.describe_u} ({pair.layer_u}, {pair.pool_u})"),
        ("e", "execution", pair.e, pair.execution, f"{pair.describe_e} ({pair.layer_e}, {pair.pool_e})"),
    )
    return [
        _panel(_standardised(values), _points(pair, side, model), f"{before}{letter} before the heads", text, config)
        for letter, side, values, model, text in sides
    ]


def _panel(values: np.ndarray, points: pd.DataFrame, title: str, subtitle: str, config: TsneConfig) -> TsnePanel:
    embedding = embed(values, config)
    fitted = points["fitted"].to_numpy(dtype=bool)
    counted = ~fitted if (~fitted).sum() >= 2 else np.ones(len(points), dtype=bool)
    labels = list(zip(points.loc[counted, "task"], points.loc[counted, "instruction"], strict=True))
    neighbours = max(1, min(config.neighbours, int(pd.Series(labels).value_counts().median()) - 1))
    return TsnePanel(
        title=title,
        subtitle=subtitle,
        points=points,
        embedding=embedding,
        purity=knn_purity(embedding.coordinates[counted], labels, neighbours),
        purity_of="" if not fitted.any() else ("held-out" if not fitted[counted].any() else "fitted"),
        purity_neighbours=neighbours,
    )


def _points(pair: FeaturePair, side: str, model: str) -> pd.DataFrame:
    source, step = (pair.source_u, pair.step_u) if side == "understanding" else (pair.source_e, pair.step_e)
    return pair.episodes[list(_KEPT)].assign(side=side, model=model, source=source, step=step, fitted=False)


def _standardised(values: np.ndarray) -> np.ndarray:
    exact = np.asarray(values, dtype=np.float64)
    deviation = exact.std(axis=0)
    scale = np.where(deviation > 1e-6 * np.abs(exact).max(initial=1e-12), deviation, 1.0)
    return np.asarray((exact - exact.mean(axis=0)) / scale)


def _coordinates(panel: TsnePanel) -> pd.DataFrame:
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
        "neighbours": made.neighbours,
        "purity_neighbours": panel.purity_neighbours,
        "kl": made.kl,
        "notes": list(made.notes),
    }


def _title(space: Space) -> str:
    return (
        "t-SNE of the shared space: shape = model, colour = instruction"
        if space == "shared"
        else ("t-SNE of the raw features: shape = model, colour = instruction")
    )


def _caption(space: Space, partition: str | None, notes: Sequence[str]) -> str:
    which = f"Episodes of partition {partition}." if partition else "All episodes that both sides have."
    which = "Episodes that the heads were not fitted on." if partition == HELD_OUT else which
    how = (
        "Rows have length 1, so that near means a high cosine similarity."
        if space == "shared"
        else "Features are standardised; u and e have no common axes here."
    )
    told = [f"{note[0].upper()}{note[1:]}." for note in notes if note]
    return " ".join(
        [which, how, *told, "Distances between far clusters mean nothing in a t-SNE; it is no evidence by itself."]
    )
