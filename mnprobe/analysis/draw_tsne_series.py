"""`mnprobe tsne --series` as a function: maps over training as figure, line chart, page with a slider, and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mnprobe.analysis.draw_tsne import HELD_OUT, TsneInput, panel_facts
from mnprobe.analysis.embedding import TsneConfig
from mnprobe.analysis.figures import SavedFigure, save_figure
from mnprobe.analysis.notes import FigureNote, write_note
from mnprobe.analysis.tables import write_table
from mnprobe.analysis.tsne_purity_figure import purity_figure
from mnprobe.analysis.tsne_series import TsneSeries, quality_table, series_coordinates, tsne_series
from mnprobe.analysis.tsne_series_figure import series_figure, shown_steps
from mnprobe.analysis.tsne_slider import series_slider, slider_page
from mnprobe.analysis.world import world_note
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.files import write_text
from mnprobe.core.progress import progress

__all__ = ["DrawnSeries", "draw_tsne_series", "series_facts"]

_TITLE = "t-SNE of the shared space over training"
_PURITY = "Neighbourhoods on the maps of t-SNE over training"


@dataclass(frozen=True, kw_only=True)
class DrawnSeries:
    """What was written, and the maps that were drawn."""

    figure: SavedFigure
    purity: SavedFigure
    page: Path
    table: Path
    quality: Path
    series: TsneSeries
    caption: str


def draw_tsne_series(
    inputs: Mapping[str, Sequence[TsneInput]],
    *,
    folder: Path,
    tables: Path,
    partition: str | None = None,
    config: TsneConfig | None = None,
    colour: str = "auto",
    name: str = "tsne",
    command: str | None = None,
    quiet: bool = False,
) -> DrawnSeries:
    """Draw the checkpoints of each training (`inputs`, as `series_inputs` finds them) after one another.

    Args:
        inputs: by training, its checkpoints.
        folder: where the figures `name`-series and `name`-purity (.png, .svg, .json) and `name`-series.html go.
        tables: where `name`-series.csv (coordinates) and map-quality.csv (what `Quality` holds; `name`-quality.csv
            for another name) go.
        partition: only these episodes, as for `draw_tsne`.
        config: of the t-SNE.
        colour: 'auto', 'instruction' or 'task'.
        name: with which all these begin.
        command: how a person makes them again; written beside the figures.
        quiet: show no progress.
    Raises:
        FeatureError: no checkpoints, or as `tsne_series`.
    """
    config = config or TsneConfig()
    if colour not in ("auto", "instruction", "task"):
        raise ConfigError(f"colour must be auto, instruction or task, got {colour!r}")
    count = sum(len(some) for some in inputs.values())
    if not count:
        raise FeatureError("there is no checkpoint to show. `mnprobe extract` makes features of checkpoints")
    with progress("t-SNE over training", count, quiet=quiet) as advance:
        series = tsne_series(inputs, partition=partition, config=config, advance=advance)
    worlds = sorted({world for some in inputs.values() for given in some for world in given.pair.worlds})
    caption = _caption(series, partition, config, world_note(worlds))
    quality = quality_table(series)
    coordinates = series_coordinates(series)
    command = command or command_line("tsne", series=True, partition=partition)
    stem, chart = folder / f"{name}-series", folder / f"{name}-purity"
    drawn = DrawnSeries(
        figure=save_figure(series_figure(series, title=_TITLE, caption=_cut(series) + caption, colour=colour), stem),
        purity=save_figure(purity_figure(quality, title=_PURITY, caption=_purity_caption(series)), chart),
        page=stem.with_name(stem.name + ".html"),
        table=tables / f"{name}-series.csv",
        quality=tables / ("map-quality.csv" if name == "tsne" else f"{name}-quality.csv"),
        series=series,
        caption=caption,
    )
    write_table(coordinates, drawn.table)
    write_table(quality, drawn.quality)
    slider = series_slider(coordinates, quality, colour=colour, note=caption)
    write_text(drawn.page, slider_page(slider, _TITLE))
    facts: dict[str, object] = {"perplexity_asked": config.perplexity, "seed": config.seed}
    facts |= {"settings": asdict(config), "panels": series_facts(series)}
    write_note(FigureNote(title=_TITLE, caption=_cut(series) + caption, command=command, facts=facts), stem)
    write_note(FigureNote(title=_PURITY, caption=_purity_caption(series), command=command, facts=facts), chart)
    return drawn


def series_facts(series: TsneSeries) -> list[dict[str, object]]:
    """The numbers of each map, ready for JSON."""
    return [
        {"training": item.training, "step": item.step, "moved": None if np.isnan(item.moved) else item.moved}
        | panel_facts(item.panel)
        for item in series.maps
    ]


def _cut(series: TsneSeries) -> str:
    shown, every = shown_steps(series.steps), series.steps
    return "" if len(shown) == len(every) else f"{len(shown)} of {len(every)} steps are drawn. "


def _caption(series: TsneSeries, partition: str | None, config: TsneConfig, world: str) -> str:
    panel = series.maps[0].panel
    which = f"of partition {partition}" if partition else "that all checkpoints have"
    which = "that the heads were not fitted on" if partition == HELD_OUT else which
    pairs = zip(series.maps, series.maps[1:], strict=False)
    moved = [after.moved for before, after in pairs if before.training == after.training]
    exaggerated = (
        f"and {config.warm_exaggeration_iterations} with exaggeration" if config.warm_exaggeration_iterations else ""
    )
    others = (
        " The first map of a later training begins from the first of all, and is the same where its features are."
        if len(series.trainings) > 1
        else ""
    )
    sentences = [
        f"The {panel.points['id'].nunique()} episodes {which}, on every map the same ({len(panel.points)} points); "
        f"perplexity {panel.embedding.perplexity:.3g}, seed {config.seed}.",
        f"The first map begins from principal components ({config.exaggeration_iterations} iterations with early "
        f"exaggeration, {config.iterations} without), each later one from the map before, shrunk "
        f"({' '.join(filter(None, [f'{config.warm_iterations} iterations', exaggerated]))}).{others}",
        "Maps are moved and scaled as a whole to the same spread (root mean square distance 1 from the centre)"
        + (f"; from one to the next, points move by {min(moved):.2f} to {max(moved):.2f} of it." if moved else "."),
        "Rows have length 1, so that near means a high cosine similarity.",
        *(f"{note[0].upper()}{note[1:]}." for note in (*series.notes, world) if note),
        "Distances between far clusters mean nothing in a t-SNE; it is no evidence by itself.",
    ]
    return " ".join(sentences)


def _purity_caption(series: TsneSeries) -> str:
    main = series.maps[-1].panel.quality
    held = main.points == "held-out"
    sentences = [
        f"Purity: mean share of a point's {main.neighbours} nearest points in the plane that have its instruction; "
        "chance: the same for neighbours drawn at random."
        + (f" Of the other model, the {main.across_neighbours} nearest count." if main.across_neighbours else ""),
        f"Trustworthiness (Venna and Kaski 2001) looks at {main.trust_neighbours} neighbours.",
        "Held-out points are judged among themselves, and so are those that the heads were fitted on, which lie "
        "together by construction."
        if held
        else "",
        f"N = {main.count} {'held-out ' if held else ''}points of both models.",
        "Purity on a map is a description, not a test: `mnprobe align` measures alignment.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)
