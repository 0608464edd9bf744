"""Layout of still figures: panels of fixed size, title, legends, text and caption.

Content is drawn first and the figure is sized last: `FigureLayout` measures the rendered tick labels, titles and
legends, and places panels and text so that no two overlap and none crosses the edge of the figure.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.text import Text

from mnprobe.analysis.figures.style import DPI, GRAY, INK, LARGEST, new_figure, shorten, wrap

__all__ = ["Block", "FigureLayout", "panel_title", "text_collisions"]

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Inches.
_MARGIN = 0.14  # around the whole figure
_COLUMN_GAP, _ROW_GAP = 0.2, 0.16  # between panels with their tick labels and titles
_BLOCK_GAP = 0.1  # above a legend, a paragraph or the caption
_TITLE_GAP = 0.07  # below title and subtitle
# Points.
_TITLE, _SUBTITLE, _CAPTION = 12.0, 8.0, 7.0
_SPACING = 1.3  # between lines, in units of the font size
_SMALLEST_PANEL = 0.5  # of the requested size, where a size limit shrinks panels
_CAPTION_LINES = 3  # in the figure; the note beside it has the whole caption


class Block(Protocol):
    """Part of a figure below its panels, such as a legend."""

    def measure(self, figure: "Figure", width: float) -> tuple[float, float]:
        """Width and height in inches, given `width` inches; a block that needs more width returns more."""
        ...

    def place(self, figure: "Figure", left: float, top: float) -> None:
        """Place at `left` and `top` inches from the upper left corner of `figure`, which has its final size."""
        ...


class FigureLayout:
    """A grid of panels with a title above and, below, legends, paragraphs and a caption.

    Create panels with `panel`, draw into them, add what goes below in order, then call `finish` once.

    Args:
        widths: width of each column of panels in inches, without tick labels and titles.
        heights: height of each row of panels in inches.
        title: bold, wrapped; shortened to one line where it needs more than `title_lines`.
        subtitle: smaller, below the title, wrapped.
        caption: small text at the foot, wrapped: the sentences that fit into three lines. The note beside the figure
            has all of them.
        least_width: minimum width of the text in inches, where the panels need less.
        limit: maximum width and height in pixels (150 per inch). Panels shrink to fit, to half their size at most; a
            figure that is still larger is saved with fewer pixels per inch. None sets no limit.
        title_lines: most lines of the title; None keeps it whole.

    >>> layout = FigureLayout([3.0, 3.0], [2.0], title="Recall over training", caption="word " * 100)
    >>> for column in range(2):
    ...     _ = layout.panel(0, column).plot([0, 1])
    >>> text_collisions(layout.finish())
    []
    """

    def __init__(
        self,
        widths: Sequence[float],
        heights: Sequence[float],
        *,
        title: str = "",
        subtitle: str = "",
        caption: str = "",
        least_width: float = 0.0,
        limit: tuple[int, int] | None = LARGEST,
        title_lines: int | None = 2,
    ) -> None:
        self._widths, self._heights = list(widths), list(heights)
        self._least_width, self._limit = least_width, limit
        self._head: list[Block] = [_Paragraph([title], _TITLE, INK, bold=True, most=title_lines)] if title else []
        self._head += [_Paragraph([subtitle], _SUBTITLE, GRAY)] if subtitle else []
        self._caption = caption
        self._figure = new_figure(sum(widths), sum(heights))
        self._panels: dict[tuple[int, int], Axes] = {}
        self._blocks: list[Block] = []

    def panel(self, row: int, column: int, **options: Any) -> "Axes":
        """The axes in this cell of the grid, created on first request (`options` as for `Figure.add_axes`)."""
        cell = row, column
        if cell not in self._panels:
            self._panels[cell] = self._figure.add_axes(self._box(cell, 0, 0), **options)
        return self._panels[cell]

    def legend(self, handles: Sequence["Artist"]) -> None:
        """Add a legend with as many columns as fit into the width."""
        if handles:
            self._blocks.append(_Legend(handles))

    def paragraph(self, texts: Sequence[str], *, size: float = _SUBTITLE, color: str = INK) -> None:
        """Add text, each of `texts` wrapped and starting on a new line."""
        if texts:
            self._blocks.append(_Paragraph(texts, size, color))

    def block(self, block: Block) -> None:
        """Add any other part."""
        self._blocks.append(block)

    def finish(self) -> "Figure":
        """Set the size of the figure, place all parts, and return it."""
        if self._caption:
            self._blocks.append(_Paragraph([self._caption], _CAPTION, GRAY, most=_CAPTION_LINES, sentences=True))
        measured = self._measure()
        if self._limit is not None:
            measured = self._shrink(measured, self._limit)
        self._figure.set_size_inches(measured.width, measured.height)
        top = _MARGIN
        for block, height in zip(self._head, measured.head, strict=True):
            block.place(self._figure, _MARGIN, top)
            top += height + _TITLE_GAP
        for (row, column), axes in self._panels.items():
            axes.set_position(self._box((row, column), _MARGIN + measured.lefts[column], top + measured.tops[row]))
        top += measured.grid_height
        for block, height in zip(self._blocks, measured.blocks, strict=True):
            block.place(self._figure, _MARGIN, top + _BLOCK_GAP)
            top += _BLOCK_GAP + height
        return self._figure

    def _box(self, cell: tuple[int, int], left: float, top: float) -> tuple[float, float, float, float]:
        """Position of a panel, `left` and `top` inches from the upper left corner, as shares of the figure."""
        width, height = self._figure.get_size_inches()
        wide, high = self._widths[cell[1]], self._heights[cell[0]]
        return left / width, 1 - (top + high) / height, wide / width, high / height

    def _measure(self) -> "_Measured":
        margins = {cell: _margins(axes) for cell, axes in self._panels.items()}
        lefts, grid_width = _positions(
            self._widths,
            [
                max((m.left for (_, c), m in margins.items() if c == column), default=0.0)
                for column in _count(self._widths)
            ],
            [
                max((m.right for (_, c), m in margins.items() if c == column), default=0.0)
                for column in _count(self._widths)
            ],
            _COLUMN_GAP,
        )
        tops, grid_height = _positions(
            self._heights,
            [max((m.top for (r, _), m in margins.items() if r == row), default=0.0) for row in _count(self._heights)],
            [
                max((m.bottom for (r, _), m in margins.items() if r == row), default=0.0)
                for row in _count(self._heights)
            ],
            _ROW_GAP,
        )
        width = max(grid_width, self._least_width)
        for block in self._blocks:
            width = max(width, block.measure(self._figure, width)[0])
        head = [block.measure(self._figure, width)[1] for block in self._head]
        blocks = [block.measure(self._figure, width)[1] for block in self._blocks]
        height = sum(head) + len(head) * _TITLE_GAP + grid_height + sum(blocks) + len(blocks) * _BLOCK_GAP
        return _Measured(
            width=_whole_pixels(width + 2 * _MARGIN),
            height=_whole_pixels(height + 2 * _MARGIN),
            lefts=lefts,
            tops=tops,
            grid_height=grid_height,
            head=head,
            blocks=blocks,
        )

    def _shrink(self, measured: "_Measured", limit: tuple[int, int]) -> "_Measured":
        """Make panels narrower and lower until the figure fits into `limit` pixels or they have half their size."""
        least = [_SMALLEST_PANEL * width for width in self._widths], [_SMALLEST_PANEL * high for high in self._heights]
        for _ in range(4):  # narrower panels may have other tick labels, so that one step may not do
            excess = measured.width - limit[0] / DPI, measured.height - limit[1] / DPI
            sizes = _reduced(self._widths, excess[0], least[0]), _reduced(self._heights, excess[1], least[1])
            if sizes == (self._widths, self._heights):
                break
            self._widths, self._heights = sizes
            for cell, axes in self._panels.items():
                axes.set_position(self._box(cell, 0, 0))
            measured = self._measure()
        return measured


@dataclass(frozen=True)
class _Measured:
    """Sizes and positions in inches; `lefts` and `tops` are those of panels within the grid."""

    width: float
    height: float
    lefts: list[float]
    tops: list[float]
    grid_height: float
    head: list[float]
    blocks: list[float]


@dataclass(frozen=True)
class _Margins:
    """Inches that tick labels, titles and text need around a panel."""

    left: float
    right: float
    top: float
    bottom: float


def _margins(axes: "Axes") -> _Margins:
    figure = axes.figure
    box, ink = axes.get_window_extent(), axes.get_tightbbox(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    if ink is None:
        return _Margins(0.0, 0.0, 0.0, 0.0)
    sides = box.x0 - ink.x0, ink.x1 - box.x1, ink.y1 - box.y1, box.y0 - ink.y0
    return _Margins(*(max(0.0, float(side)) / DPI for side in sides))


def _positions(
    sizes: Sequence[float], before: Sequence[float], after: Sequence[float], gap: float
) -> tuple[list[float], float]:
    """Start of each panel along one direction, and the total length; `before` and `after` are margins of each."""
    starts, end = [], -gap
    for size, first, last in zip(sizes, before, after, strict=True):
        starts.append(end + gap + first)
        end = starts[-1] + size + last
    return starts, end


def _reduced(sizes: list[float], excess: float, least: Sequence[float]) -> list[float]:
    """`sizes` reduced in proportion by `excess` in total, none below its `least`."""
    factor = 1 - max(0.0, excess) / sum(sizes)
    return [max(smallest, size * factor) for size, smallest in zip(sizes, least, strict=True)]


def _count(values: Sequence[float]) -> range:
    return range(len(values))


def _whole_pixels(inches: float) -> float:
    return math.ceil(inches * DPI) / DPI


_SENTENCE = re.compile(r"[.!?](?= |$)")


class _Paragraph:
    """Wrapped text, aligned at the left."""

    def __init__(
        self,
        texts: Sequence[str],
        size: float,
        color: str,
        *,
        bold: bool = False,
        most: int | None = None,
        sentences: bool = False,
    ) -> None:
        self.texts, self.size, self.color, self.bold = list(texts), size, color, bold
        self.most, self.sentences = most, sentences
        self.artist: Text | None = None

    def measure(self, figure: "Figure", width: float) -> tuple[float, float]:
        if self.artist is not None:
            self.artist.remove()
        lines = [line for text in self.texts for line in wrap(text, width, self.size, bold=self.bold)]
        if self.most is not None and len(lines) > self.most:
            lines = self._fewer(width, self.most)
        self.artist = figure.text(
            *(0, 0, "\n".join(lines)),
            va="top",
            fontsize=self.size,
            fontweight="bold" if self.bold else "normal",
            color=self.color,
            linespacing=_SPACING,
            parse_math=False,
        )
        return width, float(self.artist.get_window_extent().height) / DPI

    def _fewer(self, width: float, most: int) -> list[str]:
        """The first sentences that fit into so many lines, or one shortened line."""
        text = " ".join(self.texts)
        if self.sentences:
            room = _letters("".join(wrap(text, width, self.size, bold=self.bold)[:most]))
            for end in reversed([match.end() for match in _SENTENCE.finditer(text)]):
                if _letters(text[:end]) <= room:  # lines of the first words do not depend on those that follow
                    return wrap(text[:end], width, self.size, bold=self.bold)
        return [shorten(text, width, self.size, bold=self.bold)]

    def place(self, figure: "Figure", left: float, top: float) -> None:
        assert self.artist is not None
        width, height = figure.get_size_inches()
        self.artist.set_position((left / width, 1 - top / height))


def _letters(text: str) -> int:
    return len("".join(text.split()))


_COLUMN_SPACING = 1.6  # between columns of a legend, in units of its font size


class _Legend:
    def __init__(self, handles: Sequence["Artist"]) -> None:
        self.handles = list(handles)
        names = [str(handle.get_label()) for handle in handles]
        self.labels = [f" {name}" if name.startswith("_") else name for name in names]  # matplotlib hides _names
        self.artist: Legend | None = None

    def measure(self, figure: "Figure", width: float) -> tuple[float, float]:
        columns, in_one_row = len(self.handles), 0.0
        while True:
            if self.artist is not None:
                self.artist.remove()
            self.artist = figure.legend(
                *(self.handles, self.labels),
                loc="upper left",
                ncols=columns,
                columnspacing=_COLUMN_SPACING,
                borderaxespad=0,
                borderpad=0,
            )
            box = self.artist.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
            wide, high = float(box.width) / DPI, float(box.height) / DPI
            if wide <= width or columns == 1:
                return wide, high
            in_one_row = in_one_row or wide
            columns = self._fewer_columns(columns, width, in_one_row)

    def _fewer_columns(self, columns: int, width: float, in_one_row: float) -> int:
        """The next number of columns that gives more rows and may fit: a column is as wide as the mean of its entries.

        Creating a legend takes long where it has many entries.
        """
        assert self.artist is not None
        room = width + _COLUMN_SPACING * float(self.artist.get_texts()[0].get_fontsize()) / 72
        rows = -(-len(self.handles) // columns)
        for fewer in range(columns - 1, 1, -1):
            more = -(-len(self.handles) // fewer)
            if more > rows and in_one_row / more <= room:
                return fewer
        return 1

    def place(self, figure: "Figure", left: float, top: float) -> None:
        assert self.artist is not None
        width, height = figure.get_size_inches()
        self.artist.set_bbox_to_anchor((left / width, 1 - top / height))


def panel_title(axes: "Axes", name: str, below: str = "", *, width: float, size: float = 9.5) -> None:
    """Write `name` above the upper left corner of a panel of `width` inches, and a smaller gray line `below` it."""
    axes.set_title(shorten(name, width, size), loc="left", fontsize=size, pad=17 if below else 6)
    if below:
        axes.annotate(
            *(shorten(below, width, 7.5), (0, 1)),
            xytext=(0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=7.5,
            color=GRAY,
        )


def text_collisions(figure: "Figure") -> list[str]:
    """Each text of `figure` that crosses its edge, and each pair of texts that overlap, as rendered; empty if none."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    width, height = figure.bbox.width, figure.bbox.height
    texts = _shown_texts(figure)
    names = [text.get_text() for text in texts]
    boxes = np.array([text.get_window_extent(renderer).extents for text in texts]).reshape(-1, 2, 2)
    low, high = boxes[:, 0], boxes[:, 1]
    outside = (low < -0.5).any(axis=1) | (high > np.array([width, height]) + 0.5).any(axis=1)
    found = [f"{names[i]!r} crosses the edge" for i in np.flatnonzero(outside)]
    for i in range(len(names)):
        shared = np.minimum(high[i], high[:i]) - np.maximum(low[i], low[:i])
        found += [f"{names[i]!r} overlaps {names[j]!r}" for j in np.flatnonzero((shared > 1).all(axis=1))]  # pixels
    return found


def _shown_texts(figure: "Figure") -> list[Text]:
    hidden: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            hidden |= _hidden_labels(axis) if axes.axison else {id(text) for text in axis.findobj(Text)}
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]


def _hidden_labels(axis: "Axis") -> set[int]:
    """Labels of ticks outside the view, which matplotlib keeps and does not draw."""
    low, high = sorted(axis.get_view_interval())
    ends = axis.get_transform().transform([low, high])
    slack = 1e-6 * (ends[1] - ends[0])
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    places: Any = axis.get_transform().transform([tick.get_loc() for tick in ticks]) if ticks else []
    return {
        id(label)
        for tick, place in zip(ticks, places, strict=True)
        if not ends[0] - slack <= place <= ends[1] + slack
        for label in (tick.label1, tick.label2)
    }
