"""Figure of a t-SNE: shape by model, color by instruction, legend below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import BboxBase

from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.style import CONTEXT, INK, LARGEST, house_style, new_figure, shorten, wrap
from mnprobe.analysis.tsne.embedding import Embedding, Quality, TsneConfig, main_quality
from mnprobe.analysis.tsne.legend import SWATCH, Kind, LegendLine, kinds, pack

__all__ = [
    *("PALE", "ColorLegend", "TsnePanel", "draw_points", "is_mixed", "point_kinds", "quality_line"),
    *("shape_handles", "tsne_figure"),
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MARKERS = {"understanding": "o", "execution": "^"}
_NUMBERS_ABOVE = 7  # instructions: fewer are distinguished by color alone
_HIGH_LEGEND = 2.8  # inches
_WIDE_ABOVE = 20  # instructions: a lone panel is then wide, so that its legend has three columns
_JOIN_UP_TO = 60  # episodes: more lines would hide the points
PALE = 0.35  # opacity of episodes that heads were fitted on
_LINE = 0.142  # inches of a legend line


@dataclass(frozen=True, kw_only=True)
class TsnePanel:
    """One panel: `points` has a row per coordinate of `embedding`, with columns id, task, instruction,
    side, model and fitted (True where the heads were fitted on the episode).

    `title` and `subtitle` are drawn above the panel. `qualities` holds the quality of all points and, where heads were
    fitted on some of them, of held-out and fitted points apart, as fitted ones are close by construction.
    """

    title: str
    subtitle: str
    points: pd.DataFrame
    embedding: Embedding
    qualities: tuple[Quality, ...]

    @property
    def quality(self) -> Quality:
        """Of held-out points where there are any, else of fitted ones, else of all."""
        return main_quality(self.qualities)

    @property
    def purity(self) -> float:
        """Mean share of the nearest points in the plane with the same instruction, of the points of `quality`."""
        return self.quality.purity

    @property
    def purity_of(self) -> str:
        """The points of the purity: "held-out", "fitted", or "" for all points."""
        return "" if self.quality.points == "all" else self.quality.points


def quality_line(panel: TsnePanel, config: TsneConfig) -> str:
    """Quality of one panel: trustworthiness, purity and chance, N, perplexity used and requested, seed."""
    made, main = panel.embedding, panel.quality
    cut = f" ({config.perplexity:g} asked for)" if made.perplexity < config.perplexity else ""
    apart = {quality.points: quality for quality in panel.qualities} if panel.purity_of == "held-out" else {}
    trusted = f", {main.trustworthiness:.3f} of held-out points" if apart else ""
    fitted = f", of fitted ones {apart['fitted'].purity:.2f}" if "fitted" in apart else ""
    across = "" if np.isnan(main.across) else _across(main)
    return (
        f"trustworthiness {made.trustworthiness:.3f} (k = {made.neighbors}){trusted}; "
        f"instruction purity {f'of {panel.purity_of} points ' if panel.purity_of else ''}{main.purity:.2f} "
        f"(k = {main.neighbours}), chance {main.purity_chance:.2f}{across}{fitted}; "
        f"N = {len(panel.points)} points of {panel.points['id'].nunique()} episodes; "
        f"perplexity {made.perplexity:.3g}{cut}; seed {config.seed}"
    )


def _across(quality: Quality) -> str:
    return f", across models {quality.across:.2f} (k = {quality.across_neighbours}), chance {quality.across_chance:.2f}"


def tsne_figure(
    panels: Sequence[TsnePanel], config: TsneConfig, *, title: str, caption: str, color: str = "auto"
) -> "Figure":
    """Draw `panels` side by side (three in a row at most, four as two and two) with one legend for all of them.

    The drawn offsets are the coordinates of each panel. `color` is 'auto', 'instruction' or 'task'.
    """
    with house_style():
        return _draw(panels, config, title=title, caption=caption, color=color)


def _draw(panels: Sequence[TsnePanel], config: TsneConfig, *, title: str, caption: str, color: str) -> "Figure":
    everything = pd.concat([panel.points for panel in panels])
    named = kinds(list(zip(everything["task"], everything["instruction"], strict=True)), by=color)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    width = (8.6 if len(named) > _WIDE_ABOVE else 6.6) if columns == 1 else 4.7 if columns == 2 else 3.2
    heights = [min(width * 0.86, 6.2)] * -(-len(panels) // columns)
    legend = ColorLegend(named)
    high = legend.measure(new_figure(1, 1), sum([width] * columns))[1]
    limit = LARGEST if high < _HIGH_LEGEND else None  # lower panels would not help, and crowd the numbers in them
    layout = FigureLayout([width] * columns, heights, title=title, caption=caption, limit=limit)
    for index, panel in enumerate(panels):
        axes = layout.panel(*divmod(index, columns))
        _panel(axes, panel, named, wrap(quality_line(panel, config), width, 7.5), width)
    layout.legend(shape_handles(panels, everything, width=sum([width] * columns)))
    layout.block(legend)
    return layout.finish()


def _panel(axes: "Axes", panel: TsnePanel, named: Sequence[Kind], quality: Sequence[str], size: float) -> None:
    points, spots = panel.points.reset_index(drop=True), panel.embedding.coordinates
    numbers = [kind.number for kind in point_kinds(points, named)]
    if _joined(panel):
        for _, rows in points.groupby("id", sort=False):
            axes.plot(*spots[rows.index].T, color=CONTEXT, linewidth=0.7, zorder=1, label="_pair")
    draw_points(axes, panel, named, float(np.clip(15000 / len(points), 9, 46)))
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    panel_title(axes, panel.title, panel.subtitle, width=size, size=10)
    axes.annotate(
        *("\n".join(quality), (0, 0)),
        xytext=(0, -4),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        fontsize=7.5,
        linespacing=1.25,
    )
    if len(named) > _NUMBERS_ABOVE:
        _write_numbers(axes, points, spots, np.asarray(numbers))


def draw_points(axes: "Axes", panel: TsnePanel, named: Sequence[Kind], area: float) -> None:
    """The points of a map as markers of `area` square points, in a frame without ticks."""
    points, spots = panel.points, panel.embedding.coordinates
    colors = [kind.color for kind in point_kinds(points, named)]
    pale = points["fitted"].to_numpy() & is_mixed(panel)
    for side, marker in MARKERS.items():
        here = np.flatnonzero((points["side"] == side).to_numpy())
        if len(here):
            axes.scatter(
                *(spots[here, 0], spots[here, 1]),
                s=area * (1.15 if marker == "^" else 1.0),
                c=[to_rgba(colors[i], PALE if pale[i] else 1.0) for i in here],
                marker=marker,
                linewidths=0.25,
                edgecolors="white",
                label=side,
                zorder=2,
            )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(CONTEXT)


def _write_numbers(axes: "Axes", points: pd.DataFrame, spots: np.ndarray, numbers: np.ndarray) -> None:
    """Each instruction's number once per model, next to its middle point, clear of other numbers and points.

    A number without free space near its point is omitted.
    """
    axes.apply_aspect()
    pixels = axes.transData.transform(spots)
    unit = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    taken: list[tuple[float, float]] = []
    for side in MARKERS:
        of_side = (points["side"] == side).to_numpy()
        for number in np.unique(numbers[of_side]):
            own = pixels[of_side & (numbers == number)]
            middle = own[np.argmin(np.abs(own - np.median(own, axis=0)).sum(axis=1))]
            near = pixels[np.abs(pixels - middle).max(axis=1) < 60 * unit]
            place = _free_place(middle, taken, near, unit, frame) or _free_place(middle, taken, near[:0], unit, frame)
            if place is None:
                continue
            taken.append(place)
            axes.annotate(
                str(number),
                tuple(axes.transData.inverted().transform(place)),
                ha="center",
                va="center",
                fontsize=6.5,
                zorder=5,
                path_effects=[withStroke(linewidth=1.6, foreground="white")],
                annotation_clip=False,
            )


def _free_place(
    middle: np.ndarray, taken: Sequence[tuple[float, float]], points: np.ndarray, unit: float, frame: BboxBase
) -> tuple[float, float] | None:
    """The nearest spot to `middle` (pixels) clear of numbers `taken` and of `points`; None where all are far."""
    wide, high = 12.5 * unit, 8.5 * unit
    for distance in range(7, 31, 3):
        for angle in np.linspace(0.25 * np.pi, 2.25 * np.pi, 12, endpoint=False):
            x = float(middle[0] + distance * unit * np.cos(angle))
            y = float(middle[1] + distance * unit * np.sin(angle))
            clear = not bool((np.abs(points - (x, y)) < (wide * 0.62, high * 0.68)).all(axis=1).any())
            clear &= all(abs(x - a) >= wide or abs(y - b) >= high for a, b in taken)
            if clear and _inside(x, y, frame, 6 * unit):
                return x, y
    return None


def _inside(x: float, y: float, frame: BboxBase, room: float) -> bool:
    return frame.x0 + room <= x <= frame.x1 - room and frame.y0 + room <= y <= frame.y1 - room


def shape_handles(
    panels: Sequence[TsnePanel], points: pd.DataFrame, *, joined: bool = True, width: float
) -> list[Line2D]:
    """Legend of shapes in a figure of `width` inches: models, paleness, and lines between points."""
    handles = []
    for side, marker in MARKERS.items():
        models = list(dict.fromkeys(points.loc[points["side"] == side, "model"]))
        if models:
            label = shorten(f"{side}: {', '.join(models)}", width / 2, 8)
            handles.append(Line2D([], [], linestyle="none", marker=marker, color=INK, markersize=6, label=label))
    if any(is_mixed(panel) for panel in panels):
        text = "paler: the heads were fitted on these"
        pale = to_rgba(INK, PALE)
        handles.append(
            Line2D([], [], linestyle="none", marker="o", color=pale, markeredgewidth=0, markersize=6, label=text)
        )
    if joined and any(_joined(panel) for panel in panels):
        handles.append(Line2D([], [], color="#BDBDBD", linewidth=1, label="joins u and e of one episode"))
    return handles


class ColorLegend:
    """The legend of colors in as many columns as fit (a `Block` of `FigureLayout`)."""

    def __init__(self, named: Sequence[Kind]) -> None:
        self.named = named
        self.lines: list[LegendLine] = []

    def measure(self, figure: "Figure", width: float) -> tuple[float, float]:
        """See `Block.measure`."""
        self.lines = pack(self.named, width, figure)
        rows = max((line.row for line in self.lines), default=0) + 1
        return max(line.left + line.width for line in self.lines), _LINE * rows

    def place(self, figure: "Figure", left: float, top: float) -> None:
        """See `Block.place`."""
        width, height = figure.get_size_inches()
        for line in self.lines:
            x = (left + line.left) / width
            y = 1 - (top + _LINE * (line.row + 0.5)) / height
            if line.color is not None:
                mark = [x + 0.045 / width], [y]
                figure.add_artist(Line2D(*mark, marker="s", markersize=5.5, color=line.color, markeredgewidth=0))
                x += SWATCH / width
            weight = "bold" if line.header else "normal"
            figure.text(x, y, line.text, fontsize=7, va="center_baseline", fontweight=weight)


def point_kinds(points: pd.DataFrame, named: Sequence[Kind]) -> list[Kind]:
    """The meaning of each point's color: its instruction, or its task."""
    found = {(kind.task, kind.instruction): kind for kind in named}
    return [
        found.get((task, instruction)) or found[(task, None)]
        for task, instruction in zip(points["task"], points["instruction"], strict=True)
    ]


def is_mixed(panel: TsnePanel) -> bool:
    """True when the heads were fitted on some of the episodes shown, but not on all."""
    return panel.points["fitted"].nunique() == 2


def _joined(panel: TsnePanel) -> bool:
    return panel.points["side"].nunique() == 2 and panel.points["id"].nunique() <= _JOIN_UP_TO
