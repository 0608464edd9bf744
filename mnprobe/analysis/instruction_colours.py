"""Colours for instructions: one hue per task, one shade per variation, and a number that needs no colour."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import seaborn
from matplotlib.colors import to_hex

from mnprobe.analysis.figures import PALETTE

__all__ = ["MOST_INSTRUCTIONS", "Kind", "kinds"]

MOST_INSTRUCTIONS = 80  # above this many, colours stand for tasks
_FEW = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
_SATURATION = 0.85
_DARK, _LIGHT, _MIDDLE = 0.38, 0.80, 0.58


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one colour stands for: one instruction, or (instruction None) a task with its `count` instructions."""

    number: int
    task: str
    instruction: str | None
    colour: str
    count: int = 1


def kinds(pairs: Sequence[tuple[str, str]], *, by: str = "auto") -> list[Kind]:
    """Numbered colours for the (task, instruction) pairs that occur, sorted by task and instruction.

    Up to seven instructions take colours that any eye tells apart (Okabe and Ito); more take one hue per task (evenly
    spaced on a perceptual circle) and one lightness per instruction. `by` is 'instruction', 'task', or 'auto': by
    task where there are more than 80 instructions.

    >>> [(kind.number, kind.instruction) for kind in kinds([("b", "lift"), ("a", "push"), ("b", "lift")])]
    [(1, 'push'), (2, 'lift')]
    """
    unique = sorted(set(pairs), key=lambda pair: (_natural(pair[0]), _natural(pair[1])))
    tasks = list(dict.fromkeys(task for task, _ in unique))
    if by == "task" or (by == "auto" and len(unique) > MOST_INSTRUCTIONS):
        counts = [sum(1 for task, _ in unique if task == name) for name in tasks]
        colours = (
            _FEW if len(tasks) <= len(_FEW) else tuple(_shades(place, len(tasks), 1)[0] for place in range(len(tasks)))
        )
        return [
            Kind(number=place + 1, task=task, instruction=None, colour=colours[place], count=counts[place])
            for place, task in enumerate(tasks)
        ]
    if len(unique) <= len(_FEW):
        chosen = list(_FEW[: len(unique)])
    else:
        chosen = []
        for place, task in enumerate(tasks):
            chosen += _shades(place, len(tasks), sum(1 for name, _ in unique if name == task))
    return [
        Kind(number=place + 1, task=task, instruction=instruction, colour=chosen[place])
        for place, (task, instruction) in enumerate(unique)
    ]


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts 'task 2' before 'task 10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _shades(place: int, tasks: int, count: int) -> list[str]:
    steps = [_MIDDLE] if count == 1 else [_DARK + (_LIGHT - _DARK) * i / (count - 1) for i in range(count)]
    hue = (place / tasks + 0.03) % 1.0
    return [to_hex(seaborn.husl_palette(1, h=hue, s=_SATURATION, l=lightness)[0]) for lightness in steps]
