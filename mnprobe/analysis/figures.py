"""One house style for all figures: colours, fonts, and whole-file writing of PNG and SVG, the same bytes each time."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnprobe.core.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    *("CONTEXT", "GREY", "INK", "PALETTE", "SavedFigure"),
    *("house_style", "new_figure", "quiet_axes", "save_figure", "save_png", "shorten", "wrap"),
]

# Okabe and Ito (2008), "Color universal design": eight colours told apart by any kind of colour vision.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
INK = "#222222"  # text and axes
GREY = "#6B6B6B"  # chance, notes: 5.3:1 against white
CONTEXT = "#D9D9D9"  # grid and leader lines

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same letters on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,  # names come from files: a dollar sign is a dollar sign
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched and edited
    "svg.hashsalt": "mnprobe",  # the same identifiers each time
}
_DPI = 150


@dataclass(frozen=True, kw_only=True)
class SavedFigure:
    """Where a figure was written, twice."""

    png: Path
    svg: Path


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside this block in the style of the house; the settings before it come back afterwards.

    >>> with house_style():
    ...     matplotlib.rcParams["svg.fonttype"]
    'none'
    """
    with matplotlib.style.context(_STYLE, after_reset=True):  # what a user's matplotlibrc says changes no figure
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with an Agg canvas; pyplot never hears of it.

    >>> new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    figure = Figure(figsize=(width, height), dpi=_DPI)  # that of the PNG: small letters change width with it
    FigureCanvasAgg(figure)
    return figure


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break `text` into lines that are at most `width` inches wide at `size` points, as measured in the house's font.

    A word that is wider than a line is broken within.

    >>> wrap("one two three", 0.75, 9)
    ['one two', 'three']
    """
    with house_style():
        fits = _ruler(width, size)
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if fits(longer):
                lines[-1] = longer
                continue
            while not fits(word) and len(word) > 1:
                cut = max(1, _largest(len(word) - 1, partial(_fits_up_to, fits, word)))
                lines.append(word[:cut])
                word = word[cut:]
            lines.append(word)
    return [line for line in lines if line]


def shorten(text: str, width: float, size: float) -> str:
    """`text` on one line; where it is wider than `width` inches at `size` points, its middle becomes an ellipsis.

    >>> short = shorten("one two three four five", 0.9, 9)
    >>> short.startswith("one"), "…" in short, short.endswith("five")
    (True, True, True)
    """
    line = " ".join(text.split())
    with house_style():
        fits = _ruler(width, size)
        if fits(line):
            return line

        def short(kept: int) -> str:
            return f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"

        return short(_largest(len(line) - 1, lambda kept: fits(short(kept))))


def _fits_up_to(fits: Callable[[str], bool], word: str, letters: int) -> bool:
    return fits(word[:letters])


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number from 0 to `most` for which `holds`, which is True up to some number and False beyond; or 0."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _ruler(width: float, size: float) -> Callable[[str], bool]:
    figure = new_figure(1, 1)
    probe = figure.text(0, 0, "", fontsize=size)

    def fits(line: str) -> bool:
        probe.set_text(_CONTROL.sub("?", line))
        return (
            not line or float(probe.get_window_extent().width) <= 0.96 * width * figure.dpi
        )  # letters snap to pixels of other sizes

    return fits


def quiet_axes(axes: "Axes") -> None:
    """A pale horizontal grid behind the data and outward ticks."""
    axes.grid(axis="y", color=CONTEXT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.8)


def save_figure(figure: Figure, stem: Path) -> SavedFigure:
    """Write `figure` to `stem`.png (150 dots per inch) and `stem`.svg, each whole or not at all.

    The same figure gives the same bytes: no dates, no random identifiers, no version in the metadata. Control
    characters in text, which SVG cannot hold, are shown as the replacement sign.
    """
    saved = SavedFigure(png=stem.with_name(stem.name + ".png"), svg=stem.with_name(stem.name + ".svg"))
    save_png(figure, saved.png)
    with house_style(), whole_file(saved.svg) as part:
        figure.savefig(part, format="svg", metadata={"Date": None, "Creator": None})
    return saved


def save_png(figure: Figure, path: Path) -> Path:
    """Write `figure` to the PNG file `path` alone, for what is made of photographs; the same bytes each time."""
    _printable(figure)
    with house_style(), whole_file(path) as part:
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _printable(figure: Figure) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and _CONTROL.search(text.get_text()):
            text.set_text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.get_text()))


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
