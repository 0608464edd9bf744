"""How each line of an alignment curve looks and what it is called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mnprobe.analysis.figures import GREY, PALETTE, shorten

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

__all__ = ["Look", "look", "metric_name", "part_name", "part_of", "series_name", "training_colours", "training_look"]


@dataclass(frozen=True)
class Look:
    """Label, colour, marker, line style, opacity of the interval's band, width of the line and size of its markers."""

    label: str
    colour: str
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
    "rollouts-shuffled": Look("control: own episodes, shuffled pairs", GREY, "x", ":"),
    "shuffled": Look("control: shuffled pairs", GREY, "X", ":"),
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
# Where trainings are compared, colour tells the training: a panel per part, and in it a style per kind of line.
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
_COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")


def metric_name(metric: str) -> str:
    """How a metric is called on an axis.

    >>> metric_name("recall@1")
    'Recall@1'
    """
    return _METRICS.get(metric, metric)


def series_name(series: str) -> str:
    """How a line is called in the legend; a source that is not known keeps its own name.

    >>> series_name("blank")
    'control: instruction blanked'
    """
    return look(series).label


def look(series: str) -> Look:
    """How a line looks where one training is shown."""
    return _LOOKS.get(series, Look(shorten(f"features from {series}", 2.2, 8), PALETTE["black"], "v", "-"))


def part_of(series: str) -> str:
    """The panel that a line belongs to where trainings are compared: its source, or the side whose outcome it is.

    >>> part_of("blank"), part_of("execution-failure"), part_of("teleoperation")
    ('demos', 'execution', 'teleoperation')
    """
    return _PARTS.get(series, (series, ""))[0]


def part_name(part: str) -> str:
    """How a panel is called.

    >>> part_name("rollouts")
    "The policy's own episodes"
    """
    return _PART_NAMES.get(part, f"Features from {part}")


def training_colours(trainings: Sequence[str]) -> dict[str, str]:
    """A colour for each training, told apart by any kind of colour vision up to seven.

    >>> training_colours(["baseline", "joint"])
    {'baseline': '#0072B2', 'joint': '#D55E00'}
    """
    return {name: PALETTE[_COLOURS[place % len(_COLOURS)]] for place, name in enumerate(trainings)}


def training_look(series: str, colour: str) -> Look:
    """How a line looks where trainings are compared; the label says what kind of line it is."""
    style = _STYLES[_PARTS.get(series, ("", "shown"))[1]]
    return replace(style, colour=colour)
