"""Legend of a t-SNE: columns grouped by task, colors of instructions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import seaborn
from matplotlib.colors import to_hex

from mnprobe.analysis.figures.style import PALETTE, shorten, wrap

__all__ = ["MOST_INSTRUCTIONS", "SWATCH", "Kind", "LegendLine", "kinds", "pack"]

MOST_INSTRUCTIONS = 80  # above this many, colors stand for tasks
_FEW = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
_SATURATION = 0.85
_DARK, _LIGHT, _MIDDLE = 0.38, 0.80, 0.58


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The meaning of one color: one instruction, or (instruction None) a task with its `count` instructions."""

    number: int
    task: str
    instruction: str | None
    color: str
    count: int = 1


def kinds(pairs: Sequence[tuple[str, str]], *, by: str = "auto") -> list[Kind]:
    """Numbered colors for the (task, instruction) pairs that occur, sorted by task and instruction.

    Up to seven instructions take colors that remain distinct for any color vision (Okabe and Ito); more take one hue
    per task (evenly spaced on a perceptual circle) and one lightness per instruction. `by` is 'instruction', 'task', or
    'auto': by task where there are more than 80 instructions.

    >>> [(kind.number, kind.instruction) for kind in kinds([("b", "lift"), ("a", "push"), ("b", "lift")])]
    [(1, 'push'), (2, 'lift')]
    """
    unique = sorted(set(pairs), key=lambda pair: (_natural(pair[0]), _natural(pair[1])))
    tasks = list(dict.fromkeys(task for task, _ in unique))
    if by == "task" or (by == "auto" and len(unique) > MOST_INSTRUCTIONS):
        counts = [sum(1 for task, _ in unique if task == name) for name in tasks]
        colors = (
            _FEW if len(tasks) <= len(_FEW) else tuple(_shades(place, len(tasks), 1)[0] for place in range(len(tasks)))
        )
        return [
            Kind(number=place + 1, task=task, instruction=None, color=colors[place], count=counts[place])
            for place, task in enumerate(tasks)
        ]
    if len(unique) <= len(_FEW):
        chosen = list(_FEW[: len(unique)])
    else:
        chosen = []
        for place, task in enumerate(tasks):
            chosen += _shades(place, len(tasks), sum(1 for name, _ in unique if name == task))
    return [
        Kind(number=place + 1, task=task, instruction=instruction, color=chosen[place])
        for place, (task, instruction) in enumerate(unique)
    ]


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts 'task 2' before 'task 10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _shades(place: int, tasks: int, count: int) -> list[str]:
    steps = [_MIDDLE] if count == 1 else [_DARK + (_LIGHT - _DARK) * i / (count - 1) for i in range(count)]
    hue = (place / tasks + 0.03) % 1.0
    return [to_hex(seaborn.husl_palette(1, h=hue, s=_SATURATION, l=lightness)[0]) for lightness in steps]


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_WIDEST = 2.45  # inches of an instruction on one line
_WHOLE = 16  # lines: a task with more may go on in the next column
_GAP = 0.28  # inches between columns
SWATCH = 0.13  # inches of a color mark with its gap


@dataclass(frozen=True, kw_only=True)
class LegendLine:
    """One line of text: `left` and `width` in inches, `row` counted from the top."""

    text: str
    row: int
    left: float
    width: float
    color: str | None = None
    header: bool = False


@dataclass(frozen=True)
class _Text:
    text: str
    color: str | None = None
    header: bool = False


def pack(kinds: Sequence[Kind], width: float, figure: "Figure") -> list[LegendLine]:
    """Pack legend entries into as many columns as fit into `width` inches, keeping tasks together.

    Columns are as short as possible. `figure` is only used to measure text.
    """
    blocks = _blocks(kinds)
    widest = max(_measure(line, figure) for block in blocks for line in block)
    wide = widest + _GAP
    columns = max(1, int((width + _GAP) // wide))
    total = sum(len(block) for block in blocks)
    height = max(-(-total // columns), *(len(block) for block in blocks if len(block) <= _WHOLE), 1)
    while (placed := _fill(blocks, columns, height)) is None:
        height += 1
    return [
        LegendLine(text=line.text, row=row, left=column * wide, width=widest, color=line.color, header=line.header)
        for line, column, row in placed
    ]


def _blocks(kinds: Sequence[Kind]) -> list[list[_Text]]:
    if all(kind.instruction is None for kind in kinds):
        named = [(kind, shorten(kind.task, 2, 7) or "(no task)") for kind in kinds]
        return [[_Text(f"{kind.number}  {name} ({kind.count} instructions)", kind.color)] for kind, name in named]
    tasks: dict[str, list[_Text]] = {}
    for kind in kinds:
        block = tasks.setdefault(kind.task, [_Text(shorten(kind.task, _WIDEST, 7) or "(no task)", header=True)])
        first, *rest = wrap(kind.instruction or "", _WIDEST, 7) or ["(no instruction)"]
        block.append(_Text(f"{kind.number}  {first}", kind.color))
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
    return wide + (SWATCH if line.color else 0)
