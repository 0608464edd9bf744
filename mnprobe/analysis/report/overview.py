"""First screen of a report: one card per question, the alignment curve, warnings."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from mnprobe.analysis.audit.findings import Effect, Finding
from mnprobe.analysis.figures.curve_data import CurveData
from mnprobe.analysis.figures.style import series_name
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.analysis.tables.progress import Progress

__all__ = [
    *("Bar", "Card", "Plot", "PlotLine", "PlotPoint", "answer_cards", "answer_id", "plot_curve", "plot_progress"),
    "warning_lines",
]

MOST_BARS = 4
MOST_WARNINGS = 6
_WORDS = {"more": ("Yes", "✓"), "none": ("No", "✗"), "less": ("No, the reverse", "✗"), "undecided": ("Undecided", "?")}
_MIXED, _ONE_PAIR, _NOT_MEASURED = ("Mixed", "±"), ("One pair, no answer", "○"), ("Not measured", "-")
_KINDS = {_ONE_PAIR[0]: "undecided"}
_SHORTER = (("instruction blanked", "blanked"), ("actions ", ""), (" or not", ""), ("within tasks", "in tasks"))
_ORIGIN = re.compile(r" \([^()]*\)")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One comparison of a card: its interval in points, and where its parts lie between 0 and 100 % of the drawing."""

    label: str
    value: float
    low: float
    high: float
    left: float
    width: float
    dot: float
    open_left: bool
    open_right: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """A question with its answer in one word, its comparisons as drawn intervals, and what they rest on.

    `kind` is the answer as a CSS class: yes, no, undecided, mixed or missing; `zero` is the place of no difference in
    the drawing, in %; `evidence` the id of the full answer; `more` the number of comparisons not drawn.
    """

    question: str
    word: str
    sign: str
    kind: str
    evidence: str
    basis: str
    bars: tuple[Bar, ...] = ()
    zero: float = 50.0
    more: int = 0


def answer_cards(found: Iterable[Finding]) -> tuple[Card, ...]:
    """One card for each question of the study, in order."""
    return tuple(_card(one) for one in found if one.question)


def _card(found: Finding) -> Card:
    evidence = answer_id(found.topic)
    if not found.rows:
        return Card(
            question=found.question,
            word=_NOT_MEASURED[0],
            sign=_NOT_MEASURED[1],
            kind="missing",
            evidence=evidence,
            basis=found.sentence.replace("`", ""),
        )
    answers = {_WORDS[row.difference.decision] if not row.difference.one_seed else _ONE_PAIR for row in found.leading}
    word, sign = answers.pop() if len(answers) == 1 else _MIXED
    drawn = _drawn(found.leading)
    zero, bars = _bars(drawn)
    return Card(
        question=found.question,
        word=word,
        sign=sign,
        kind=_KINDS.get(word, word.partition(",")[0].lower()),
        evidence=evidence,
        basis=_basis(found, drawn[0]),
        bars=bars,
        zero=zero,
        more=len(found.leading) - len(drawn),
    )


def answer_id(topic: str) -> str:
    """The id of a question's full answer in the page.

    >>> answer_id("rise with training")
    'answer-rise-with-training'
    """
    return f"answer-{topic.replace(' ', '-')}"


def _drawn(rows: Sequence[Effect]) -> list[Effect]:
    """At most `MOST_BARS` comparisons, of the first training first."""
    first = [row for row in rows if row.subject == rows[0].subject]
    return (first + [row for row in rows if row.subject != rows[0].subject])[:MOST_BARS]


def _basis(found: Finding, row: Effect) -> str:
    each = f"{found.trainings} training{'s' if found.trainings != 1 else ''} each" if found.trainings else ""
    return "; ".join(filter(None, (f"n = {row.difference.n}", "" if row.difference.seeds else each)))


def _bars(rows: Sequence[Effect]) -> tuple[float, tuple[Bar, ...]]:
    """Place of zero and the bars, on one scale that shows each interval at least up to 60 points."""
    ends = [end for row in rows for end in row.difference.shown if math.isfinite(end)]
    values = [row.difference.value for row in rows if math.isfinite(row.difference.value)]
    low = max(min([*ends, *values, -0.1]), -0.6)
    high = min(max([*ends, *values, 0.1]), 0.6)

    def place(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    several = len({row.subject for row in rows}) > 1
    bars = []
    for row in rows:
        made, (start, end) = row.difference, row.difference.shown
        known = math.isfinite(start) and math.isfinite(end)
        left, right = (place(start), place(end)) if known else (place(made.value), place(made.value))
        label = _ORIGIN.sub("", row.where)
        for long, short in _SHORTER:
            label = label.replace(long, short)
        bars.append(
            Bar(
                label=f"{row.subject.partition(',')[0]}: {label}" if several else label,
                value=made.value,
                low=start,
                high=end,
                left=left,
                width=right - left,
                dot=place(made.value) if math.isfinite(made.value) else -100,
                open_left=known and start < low - 1e-9,
                open_right=known and end > high + 1e-9,
            )
        )
    return place(0.0), tuple(bars)


# ---- the curve --------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40
_SHOWN = ("main", "blank", "rollouts", "pixels", "shuffled")
_ROLE = {"main": "claim", "rollouts": "own"}


@dataclass(frozen=True, kw_only=True)
class PlotPoint:
    """One point: its place in the drawing and its numbers in words."""

    x: float
    y: float
    words: str


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    """One line of the curve: `style` is its CSS class (claim, claim-2, own, control-1 ...); `shown` at the start."""

    name: str
    style: str
    shown: bool
    points: tuple[PlotPoint, ...]
    path: str
    band: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A curve over training as geometry: places of lines and ticks in a drawing of `width` x `height`.

    `name` is the id of its figure; chance is -1, and its words empty, where there is none.
    """

    name: str
    title: str
    axis: str
    lines: tuple[PlotLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    chance: float
    chance_words: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def plot_curve(data: CurveData) -> Plot | None:
    """Geometry of the alignment curve of the first holdout, with intervals for claims; None where nothing is known.

    Claims are drawn for every training, controls and the policy's own episodes for the first one.
    """
    points = data.points[data.points["value"].notna()]
    if points.empty:
        return None
    points = points[points["holdout"] == points["holdout"].iloc[0]]
    first = points.iloc[0][["understanding", "execution"]].tolist()
    wanted = (points["series"] == "main") | (points[["understanding", "execution"]] == first).all(axis=1)
    points = points[wanted]
    groups = list(points.groupby(["understanding", "execution", "series"], sort=False))
    groups.sort(key=lambda group: (group[0][2] != "main", group[0][2] != "rollouts"))
    lines = []
    for (understanding, execution, series), rows in groups:
        name = series_name(str(series)).removeprefix("control: ")
        training = str(rows["training"].iloc[0]) or f"{understanding} and {execution}"
        role = _ROLE.get(str(series), "control")
        full = f"{training}: {name}" if role == "claim" else name
        lines.append(_Line(name=full, role=role, shown=str(series) in _SHOWN, rows=rows))
    return _plot("curve", _title(points), data.axis, lines)


def plot_progress(progress: Progress, *, name: str, axis: str) -> Plot | None:
    """Geometry of recognition or success over training, a line per training; None where nothing is known.

    Lines with the instruction blanked are controls.
    """
    points = progress.points[progress.points["value"].notna()].rename(columns={"n": "n_test"})
    if points.empty:
        return None
    lines = []
    for blank, training in sorted(set(zip(points["blank"], points["training"], strict=True))):
        rows = points[(points["training"] == training) & (points["blank"] == blank)]
        words = str(training) or "all models"
        words += ", instruction blanked" if blank else ""
        lines.append(_Line(name=words, role="control" if blank else "claim", shown=True, rows=rows))
    return _plot(name, progress.title, axis, lines)


@dataclass(frozen=True, kw_only=True)
class _Line:
    name: str
    role: str
    shown: bool
    rows: pd.DataFrame


def _plot(name: str, title: str, axis: str, given: Sequence[_Line]) -> Plot:
    points = pd.concat([line.rows for line in given])
    top = _top(points, pd.concat([line.rows for line in given if line.role == "claim"] or [points[:0]]))
    steps = sorted(int(step) for step in points["step"].unique())

    def across(step: float) -> float:
        span = steps[-1] - steps[0]
        share = (step - steps[0]) / span if span else 0.5
        return LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16)

    def up(value: float) -> float:
        return TOP + (1 - min(max(value / top, 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)

    lines, counts = [], {"claim": 0, "own": 0, "control": 0}
    for line in given:
        counts[line.role] += 1
        lines.append(
            _line(
                line.rows.sort_values("step", kind="stable"),
                name=line.name,
                style=f"{line.role}-{counts[line.role]}",
                shown=line.shown,
                across=across,
                up=up,
            )
        )
    chance = float(points["chance"].iloc[0])
    return Plot(
        name=name,
        title=title,
        axis=axis,
        lines=tuple(lines),
        x_ticks=tuple(_x_ticks(steps, across)),
        y_ticks=tuple((up(value), f"{100 * value:.0f}") for value in _y_ticks(top)),
        chance=up(chance) if math.isfinite(chance) else -1.0,
        chance_words=f"chance {100 * chance:.1f} %" if math.isfinite(chance) else "",
    )


def _line(
    rows: pd.DataFrame,
    *,
    name: str,
    style: str,
    shown: bool,
    across: Callable[[float], float],
    up: Callable[[float], float],
) -> PlotLine:
    places = [(across(row["step"]), row) for _, row in rows.iterrows()]
    points = tuple(PlotPoint(x=x, y=up(row["value"]), words=_words(name, row)) for x, row in places)
    limits = [(x, up(row["ci_low"]), up(row["ci_high"])) for x, row in places if math.isfinite(row["ci_low"])]
    edge = [(x, low) for x, low, _ in limits] + [(x, high) for x, _, high in reversed(limits)]
    return PlotLine(
        name=name,
        style=style,
        shown=shown,
        points=points,
        path=_path((point.x, point.y) for point in points),
        band=_path(edge) if style == "claim-1" and len(limits) > 1 else "",
    )


def _words(name: str, row: pd.Series) -> str:
    words = f"{name}, step {row['step']:.0f}: {100 * row['value']:.1f} %"
    if math.isfinite(row["ci_low"]):
        words += f", 95 % interval {100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f} %"
    chance = f", chance {100 * row['chance']:.1f} %" if math.isfinite(row["chance"]) else ""
    return f"{words}{chance}, n = {row['n_test']:.0f}"


def _path(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _title(points: pd.DataFrame) -> str:
    pairing, holdout = (str(points[name].iloc[0]) for name in ("pairing", "holdout"))
    return f"Recall@1 by {pairing}, {HOLDOUTS.get(holdout, holdout)}"


def _top(points: pd.DataFrame, claims: pd.DataFrame) -> float:
    largest = max(map(float, [points["value"].max(), *claims["ci_high"].dropna()]))
    return min(1.0, math.ceil(largest * 10 + 1e-9) / 10)


def _y_ticks(top: float) -> list[float]:
    step = 0.1 if top <= 0.5 else 0.2
    return [step * number for number in range(int(top / step + 1e-9) + 1)]


def _x_ticks(steps: Sequence[int], across: Callable[[float], float]) -> Iterator[tuple[float, str]]:
    """Steps whose labels do not overlap, from the last to the first."""
    free = math.inf
    for step in reversed(steps):
        half = 4.0 * len(str(step))
        if across(step) + half < free - 6:
            free = across(step) - half
            yield across(step), str(step)


# ---- warnings ---------------------------------------------------------------------------------------------------

_WHERE = re.compile(r"^(?P<kind>[^:(.]+?)(?: \([^)]*\))?(?:[:.].*)?$", re.DOTALL)


_ALARMS = {
    ("leak", "broken"): "Training and test set overlap",
    ("leak", "near-duplicates"): "Near copies of training episodes in the test set",
    ("shuffled", "broken"): "Shuffled pairs score above chance",
    ("chance", "below"): "The score is below chance",
}
_ONE_SEED = "One seed pair, whose interval decides nothing"


def warning_lines(caveats: Iterable[str], found: Iterable[Finding] = ()) -> tuple[str, ...]:
    """What a reader must know before reading a number, each kind in a few words and once.

    First the alarms among the findings, then that there is one seed pair only, then the caveats.

    >>> warning_lines(["Few groups (holdout episodes): 4; few.", "Few groups (holdout tasks): 3.", "Ties: up to 30 %."])
    ('Few groups', 'Ties')
    """
    findings = list(found)
    alarms = [
        _ALARMS.get((one.topic, one.conclusion), f"{one.topic}: {one.conclusion}") for one in findings if one.alarm
    ]
    seeds = [_ONE_SEED for one in findings for row in one.rows if row.difference.one_seed]
    kinds = [match["kind"] for caveat in caveats if (match := _WHERE.match(caveat))]
    return (*dict.fromkeys([*alarms, *seeds]), *list(dict.fromkeys(kinds))[:MOST_WARNINGS])
