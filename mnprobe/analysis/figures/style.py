"""Figure style: colors, fonts, marks, and byte-identical PNG and SVG files."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnprobe.core.files import whole_file

__all__ = [
    "Look",
    "look",
    "metric_name",
    "part_name",
    "part_of",
    "series_name",
    "training_colors",
    "training_look",
    *("CONTEXT", "DPI", "GRAY", "INK", "LARGEST", "PALE", "PALETTE", "SavedFigure"),
    *("house_style", "new_figure", "quiet_axes", "save_figure", "save_png", "shorten", "text_width", "wrap"),
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito (2008), "Color universal design": eight colors that remain distinct for any kind of color vision.
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
GRAY = "#6B6B6B"  # chance, notes: 5.3:1 against white
CONTEXT = "#D9D9D9"  # grid and leader lines
PALE = "#E4E4E4"  # cells that do not pass, grid of horizontal panels

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
DPI = 150  # pixels per inch of figures
LARGEST = (1600, 1200)  # pixels, width and height, of a figure


@dataclass(frozen=True, kw_only=True)
class SavedFigure:
    """Paths of a figure in both formats."""

    png: Path
    svg: Path


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside this block in the style of mnprobe's figures; earlier settings are restored afterwards.

    >>> with house_style():
    ...     matplotlib.rcParams["svg.fonttype"]
    'none'
    """
    with matplotlib.style.context(_STYLE, after_reset=True):  # a user's matplotlibrc changes no figure
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with an Agg canvas, unknown to pyplot.

    >>> new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    figure = Figure(figsize=(width, height), dpi=DPI)  # as in the PNG: the width of small letters depends on it
    FigureCanvasAgg(figure)
    return figure


def wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Break `text` into lines that are at most `width` inches wide at `size` points, as measured in the figures' font.

    A word that is wider than a line is broken within.

    >>> wrap("one two three", 0.75, 9)
    ['one two', 'three']
    """
    return list(_wrapped(text, width, size, bold))


@lru_cache(maxsize=1024)
def _wrapped(text: str, width: float, size: float, bold: bool) -> tuple[str, ...]:
    with house_style():
        fits = _ruler(width, size, bold)
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
    return tuple(line for line in lines if line)


@lru_cache(maxsize=4096)
def shorten(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """`text` on one line; where it is wider than `width` inches at `size` points, its middle becomes an ellipsis.

    >>> short = shorten("one two three four five", 0.9, 9)
    >>> short.startswith("one"), "…" in short, short.endswith("five")
    (True, True, True)
    """
    line = " ".join(text.split())
    with house_style():
        fits = _ruler(width, size, bold)
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


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of one line of `text` in inches at `size` points."""
    with house_style():
        figure = new_figure(1, 1)
        artist = figure.text(0, 0, text, fontsize=size, fontweight="bold" if bold else "normal")
        return float(artist.get_window_extent().width) / figure.dpi


def _ruler(width: float, size: float, bold: bool) -> Callable[[str], bool]:
    figure = new_figure(1, 1)
    probe = figure.text(0, 0, "", fontsize=size, fontweight="bold" if bold else "normal")

    def fits(line: str) -> bool:
        probe.set_text(_CONTROL.sub("?", line))
        return (
            not line or float(probe.get_window_extent().width) <= 0.96 * width * figure.dpi
        )  # letters snap to pixels of other sizes

    return fits


def quiet_axes(axes: "Axes", values: Literal["x", "y"] = "y") -> None:
    """A pale grid behind the data across the axis of `values`; a horizontal panel (`values` x) has no ticks at rows."""
    axes.grid(axis=values, color=CONTEXT if values == "y" else PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.8)
    if values == "x":
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


def save_figure(figure: Figure, stem: Path) -> SavedFigure:
    """Write `figure` to `stem`.png (150 dots per inch, fewer where it would exceed `LARGEST`) and `stem`.svg.

    Each is written atomically. The same figure gives the same bytes: no dates, no random identifiers, no version in the
    metadata. Control characters in text, which SVG cannot hold, are shown as the replacement sign.
    """
    saved = SavedFigure(png=stem.with_name(stem.name + ".png"), svg=stem.with_name(stem.name + ".svg"))
    width, height = figure.get_size_inches()
    save_png(figure, saved.png, dpi=min(DPI, LARGEST[0] / width, LARGEST[1] / height))
    with house_style(), whole_file(saved.svg) as part:
        figure.savefig(part, format="svg", metadata={"Date": None, "Creator": None})
    return saved


def save_png(figure: Figure, path: Path, *, dpi: float = DPI) -> Path:
    """Write `figure` to the PNG file `path` only, for figures of photographs; the same bytes each time."""
    _printable(figure)
    with house_style(), whole_file(path) as part:
        figure.savefig(part, format="png", dpi=dpi, metadata={"Software": None})
    return path


def _printable(figure: Figure) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and _CONTROL.search(text.get_text()):
            text.set_text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.get_text()))


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType


@dataclass(frozen=True)
class Look:
    """Label, color, marker, line style, opacity of the interval's band, line width and marker size."""

    label: str
    color: str
    marker: str
    line: "LineStyleType"
    band: float = 0.08
    width: float = 1.6
    size: float = 5.0


_LOOKS = {
    "main": Look("demonstrations (the claim)", PALETTE["blue"], "o", "-", 0.18),
    "blank": Look("control: instruction blanked", PALETTE["vermillion"], "s", "--"),
    "pixels": Look("control: pixels instead of u", PALETTE["green"], "^", "-."),
    "rollouts": Look("control: the policy's own episodes", PALETTE["purple"], "D", (0, (5, 1))),
    "rollouts-blank": Look("control: own episodes, blanked", PALETTE["orange"], "P", (0, (3, 1, 1, 1))),
    "rollouts-pixels": Look("control: own episodes, pixels instead of u", PALETTE["green"], "v", ":"),
    "rollouts-shuffled": Look("control: own episodes, shuffled pairs", GRAY, "x", ":"),
    "shuffled": Look("control: shuffled pairs", GRAY, "X", ":"),
    "understanding-success": Look("understanding: recognised", PALETTE["blue"], "o", "-", 0.18),
    "understanding-failure": Look("understanding: not recognised", PALETTE["sky"], "o", "--"),
    "execution-success": Look("execution: carried out", PALETTE["vermillion"], "s", "-"),
    "execution-failure": Look("execution: not carried out", PALETTE["orange"], "s", "--"),
    "understanding-difference": Look("understanding: recognised minus not recognised", PALETTE["blue"], "o", "-", 0.18),
    "execution-difference": Look("execution: carried out minus not carried out", PALETTE["vermillion"], "s", "-", 0.15),
}
_METRICS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "adjusted_recall@1": "Recall@1 above chance, (R - c) / (1 - c)",
    "within_task_recall@1": "Recall@1 within tasks, mean over tasks",
    "success_minus_failure@1": "Recall@1, success minus failure",
    "within_task_success_minus_failure@1": "Recall@1 within tasks, success minus failure",
    "mi_bound": "bound on mutual information (nats)",
    "tied_share": "share of queries with ties",
}
# Where trainings are compared, color stands for the training: a panel per part, and in it a style per kind of line.
_PARTS = {
    "main": ("demos", "shown"),
    "blank": ("demos", "blank"),
    "pixels": ("demos", "pixels"),
    "shuffled": ("demos", "shuffled"),
    "rollouts": ("rollouts", "shown"),
    "rollouts-blank": ("rollouts", "blank"),
    "rollouts-pixels": ("rollouts", "pixels"),
    "rollouts-shuffled": ("rollouts", "shuffled"),
    "understanding-success": ("understanding", "success"),
    "understanding-failure": ("understanding", "failure"),
    "understanding-difference": ("understanding", "difference"),
    "execution-success": ("execution", "success"),
    "execution-failure": ("execution", "failure"),
    "execution-difference": ("execution", "difference"),
}
_PART_NAMES = {
    "demos": "Demonstrations",
    "rollouts": "The policy's own episodes",
    "understanding": "By whether the action was recognised",
    "execution": "By whether it was carried out",
}
_STYLES = {
    "shown": Look("instruction shown to the policy", "", "o", "-", 0.14, 2.0, 5.5),
    "blank": Look("control: instruction blanked", "", "s", "--", 0.07, 1.5, 4.5),
    "pixels": Look("control: pixels instead of u", "", "^", (0, (4, 1.5, 1, 1.5)), 0.0, 1.1, 4.0),
    "shuffled": Look("control: shuffled pairs", "", "x", ":", 0.0, 1.1, 4.0),
    "success": Look("success", "", "o", "-", 0.14, 2.0, 5.5),
    "failure": Look("failure", "", "s", "--", 0.07, 1.5, 4.5),
    "difference": Look("success minus failure", "", "o", "-", 0.14, 2.0, 5.5),
}
_COLORS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")


def metric_name(metric: str) -> str:
    """Name of a metric on an axis.

    >>> metric_name("recall@1")
    'Recall@1'
    """
    return _METRICS.get(metric, metric)


def series_name(series: str) -> str:
    """Name of a line in the legend; an unknown source has its own name.

    >>> series_name("blank")
    'control: instruction blanked'
    """
    return look(series).label


def look(series: str) -> Look:
    """Style of a line where one training is shown."""
    return _LOOKS.get(series, Look(shorten(f"features from {series}", 2.2, 8), PALETTE["black"], "v", "-"))


def part_of(series: str) -> str:
    """The panel that a line belongs to where trainings are compared: its source, or the side whose outcome it is.

    >>> part_of("blank"), part_of("execution-failure"), part_of("teleoperation")
    ('demos', 'execution', 'teleoperation')
    """
    return _PARTS.get(series, (series, ""))[0]


def part_name(part: str) -> str:
    """Name of a panel.

    >>> part_name("rollouts")
    "The policy's own episodes"
    """
    return _PART_NAMES.get(part, f"Features from {part}")


def training_colors(trainings: Sequence[str]) -> dict[str, str]:
    """A color for each training; up to seven remain distinct for any kind of color vision.

    >>> training_colors(["baseline", "joint"])
    {'baseline': '#0072B2', 'joint': '#D55E00'}
    """
    return {name: PALETTE[_COLORS[place % len(_COLORS)]] for place, name in enumerate(trainings)}


def training_look(series: str, color: str) -> Look:
    """Style of a line where trainings are compared; its label names the kind of line."""
    style = _STYLES[_PARTS.get(series, ("", "shown"))[1]]
    return replace(style, color=color)
