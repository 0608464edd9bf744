"""A legend of many instructions in columns: grouped by task, no task torn apart where that can be helped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnprobe.analysis.figures import shorten, wrap
from mnprobe.analysis.instruction_colours import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LegendLine", "pack"]

_WIDEST = 2.45  # inches of an instruction on one line
_WHOLE = 16  # lines: a task with more may go on in the next column
_GAP = 0.28  # inches between columns
_SWATCH = 0.13  # inches that a colour takes


@dataclass(frozen=True, kw_only=True)
class LegendLine:
    """One line of text: `left` in inches from the left edge, `row` counted from the top."""

    text: str
    row: int
    left: float
    colour: str | None = None
    header: bool = False


@dataclass(frozen=True)
class _Text:
    text: str
    colour: str | None = None
    header: bool = False


def pack(kinds: Sequence[Kind], width: float, figure: "Figure") -> list[LegendLine]:
    """Lay the legend out in as many columns as `width` (inches) takes, each as short as can be.

    `figure` is only used to measure text.
    """
    blocks = _blocks(kinds)
    wide = max(_measure(line, figure) for block in blocks for line in block) + _GAP
    columns = max(1, int((width + _GAP) // wide))
    total = sum(len(block) for block in blocks)
    height = max(-(-total // columns), *(len(block) for block in blocks if len(block) <= _WHOLE), 1)
    while (placed := _fill(blocks, columns, height)) is None:
        height += 1
    return [
        LegendLine(text=line.text, row=row, left=column * wide, colour=line.colour, header=line.header)
        for line, column, row in placed
    ]


def _blocks(kinds: Sequence[Kind]) -> list[list[_Text]]:
    if all(kind.instruction is None for kind in kinds):
        named = [(kind, shorten(kind.task, 2, 7) or "(no task)") for kind in kinds]
        return [[_Text(f"{kind.number}  {name} ({kind.count} instructions)", kind.colour)] for kind, name in named]
    tasks: dict[str, list[_Text]] = {}
    for kind in kinds:
        block = tasks.setdefault(kind.task, [_Text(shorten(kind.task, _WIDEST, 7) or "(no task)", header=True)])
        first, *rest = wrap(kind.instruction or "", _WIDEST, 7) or ["(no instruction)"]
        block.append(_Text(f"{kind.number}  {first}", kind.colour))
        block += [_Text(f"        {line}") for line in rest]
    return list(tasks.values())


def _fill(blocks: Sequence[Sequence[_Text]], columns: int, height: int) -> list[tuple[_Text, int, int]] | None:
    """Each line with its column and row, or None when `columns` of `height` lines are too few."""
    placed = []
    column = row = 0
    for block in blocks:
        if row and row + len(block) > height:
            column, row = column + 1, 0
        for line in block:
            if row == height:  # one task alone is taller than a column
                column, row = column + 1, 0
            placed.append((line, column, row))
            row += 1
    return placed if column < columns else None


def _measure(line: _Text, figure: "Figure") -> float:
    """Width of a line in inches."""
    artist = figure.text(0, 0, line.text, fontsize=7, fontweight="bold" if line.header else "normal")
    wide = float(artist.get_window_extent().width) / figure.dpi
    artist.remove()
    return wide + (_SWATCH if line.colour else 0)
