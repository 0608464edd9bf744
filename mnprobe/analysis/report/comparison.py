"""Report section that compares several runs."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.figures.layout import FigureLayout, panel_title
from mnprobe.analysis.figures.style import PALETTE, house_style, quiet_axes, shorten
from mnprobe.analysis.report.collect import gather
from mnprobe.analysis.report.data import Figure, Headline, ReportData
from mnprobe.analysis.report.explorer import policy
from mnprobe.analysis.report.render import render_page
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, MnprobeError
from mnprobe.core.files import write_text
from mnprobe.core.names import ModelName
from mnprobe.core.provenance import now
from mnprobe.core.rundir import RunDir
from mnprobe.probe.config import SETTINGS_SECTION

__all__ = [
    "KeyRow",
    "Side",
    "SideBySide",
    "SideCurve",
    "differing",
    "set_side_by_side",
    "side_curves",
    "side_figure",
    "write_side_by_side",
]

if TYPE_CHECKING:
    from matplotlib.figure import Figure as DrawnFigure


_COLORS = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv"


@dataclass(frozen=True, kw_only=True)
class SideCurve:
    """One line: the claim of one run's training under one holdout (`points`: step, value, ci_low, ci_high, chance)."""

    run: str
    training: str
    holdout: str
    points: pd.DataFrame


def side_curves(run: RunDir | RunTables, label: str, problems: list[str]) -> list[SideCurve]:
    """The lines of one run; what cannot be read is added to `problems`."""
    try:
        table = RunTables.load(run).alignment
        if table is None:
            return []
        data = curve_data(table)
    except MnprobeError as error:
        problems.append(f"No curve of {label}: {error}")
        return []
    claim = data.points[data.points["series"] == "main"]
    return [
        SideCurve(
            run=label,
            training=str(rows["training"].iloc[0]) or f"{understanding} and {execution}",
            holdout=str(holdout),
            points=rows.sort_values("step"),
        )
        for (holdout, understanding, execution), rows in claim.groupby(
            ["holdout", "understanding", "execution"], sort=False
        )
    ]


def side_figure(curves: Sequence[SideCurve]) -> "DrawnFigure":
    """One panel per holdout; runs differ in color and marker, trainings in their dashes."""
    holdouts = list(dict.fromkeys(curve.holdout for curve in curves))
    runs = list(dict.fromkeys(curve.run for curve in curves))
    trainings = list(dict.fromkeys(curve.training for curve in curves))
    with house_style():
        layout = FigureLayout([3.75] * len(holdouts), [2.95])
        lines = {}
        for column, holdout in enumerate(holdouts):
            axes = layout.panel(0, column)
            quiet_axes(axes)
            panel_title(axes, f"{HOLDOUTS.get(holdout, holdout)} held out", width=3.75, size=9)
            for curve in (curve for curve in curves if curve.holdout == holdout):
                number, kind = runs.index(curve.run), trainings.index(curve.training)
                color = _COLORS[number % len(_COLORS)]
                steps = curve.points["step"].to_numpy(dtype=float)
                low, high, value, chance = (
                    100 * curve.points[name].to_numpy(dtype=float) for name in ("ci_low", "ci_high", "value", "chance")
                )
                axes.fill_between(steps, low, high, color=color, alpha=0.13, linewidth=0)
                (line,) = axes.plot(
                    steps, value, _DASHES[kind % len(_DASHES)], color=color, linewidth=1.6,
                    marker=_MARKERS[number % len(_MARKERS)], markersize=4,
                    label=shorten(f"{curve.run}: {curve.training}", 3.75, 8),
                )  # fmt: skip
                axes.plot(steps, chance, ":", color=color, linewidth=1.2, zorder=1)
                lines[curve.run, curve.training] = line
            axes.set_ylim(0, 100)
            axes.set_xlabel("training step", fontsize=8)
            axes.tick_params(labelsize=8)
            if column == 0:
                axes.set_ylabel("Recall@1 (%)", fontsize=8)
        layout.legend(list(lines.values()))
        return layout.finish()


_LONG = 90  # letters of a setting's value; longer ones are cut and identified by a hash
_SKIPPED = ("run.created", "extract.asked")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of the comparison, under the name that the page gives it."""

    label: str
    data: ReportData


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """One line of key numbers: what was measured, and what each run has for it (None where it has nothing)."""

    what: str
    training: str
    holdout: str
    cells: tuple[Headline | None, ...]
    is_claim: bool


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """All that the page of several runs says; `answers` and `settings` are lines of a name and a text per run."""

    sides: tuple[Side, ...]
    rows: tuple[KeyRow, ...]
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    verdicts: tuple[tuple[str, tuple[str, ...]], ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    command: str
    created: str
    figure: Figure | None = None
    problems: tuple[str, ...] = field(default_factory=tuple)


def set_side_by_side(runs: Sequence[RunDir]) -> SideBySide:
    """Collect what several runs have measured. Raises ConfigError for fewer than two, or for one named twice."""
    if len(runs) < 2:
        raise ConfigError(f"--compare needs two runs or more, got {len(runs)}")
    places = [run.path.resolve() for run in runs]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigError(f"--compare: {twice} is named twice; name different runs")
    names = [run.name for run in runs]
    labels = [name if names.count(name) == 1 else str(run.path) for run, name in zip(runs, names, strict=True)]
    sides: list[Side] = []
    curves: list[SideCurve] = []
    problems: list[str] = []
    for run, label in zip(runs, labels, strict=True):
        tables = RunTables.load(run)
        sides.append(Side(label=label, data=gather(tables, explore=False)))
        curves += side_curves(tables, label, problems)
    command = command_line("report", compare=[str(run.path) for run in runs])
    return SideBySide(
        sides=tuple(sides),
        rows=_rows(sides),
        answers=_answers(sides),
        verdicts=_verdicts(sides),
        settings=differing([_comparable(run.config) for run in runs]),
        command=command,
        created=now(),
        figure=_figure(curves, command),
        problems=tuple(problems),
    )


def write_side_by_side(runs: Sequence[RunDir], path: Path | None = None) -> tuple[Path, SideBySide]:
    """Write the page of several runs to `path` (report-compare.html in the first run), atomically."""
    found = set_side_by_side(runs)
    target = path or runs[0].path / "report-compare.html"
    write_text(target, render_page("side_by_side.html", policy=policy(), found=found))
    return target, found


def differing(configs: Sequence[Mapping[str, object]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Settings that are not the same in all: ('section.name', the value of each; '' where one has none).

    A section that some do not have at all is one line that counts its settings.

    >>> differing([{"a": {"seed": 1, "tau": 0.1}}, {"a": {"seed": 2, "tau": 0.1}, "b": {"c": 1, "d": 2}}])
    (('a.seed', ('1', '2')), ('b', ('', '2 settings')))
    """
    found = []
    for section in dict.fromkeys(name for config in configs for name in config):
        flat = [dict(_flat(config[section], section)) if section in config else {} for config in configs]
        if not all(flat):
            counts = [f"{len(one)} setting{'s' * (len(one) > 1)}" if one else "" for one in flat]
            found.append((section, tuple(counts)))
            continue
        for name in dict.fromkeys(name for one in flat for name in one):
            values = tuple(one.get(name, "") for one in flat)
            if len(set(values)) > 1 and name not in _SKIPPED:
                found.append((name, tuple(_short(value) for value in values)))
    return tuple(found)


def _comparable(config: Mapping[str, object]) -> dict[str, object]:
    """Settings of align by their place instead of their hash, so that those of two runs can be set side by side."""
    found = dict(config)
    sections = found.pop(SETTINGS_SECTION, None)
    for place, section in enumerate(sections.values() if isinstance(sections, dict) else ()):
        found[f"{SETTINGS_SECTION} {place + 1}" if place else SETTINGS_SECTION] = section
    return found


def _flat(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _flat(one, f"{place}.{name}" if place else str(name))
    else:
        yield place, value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _short(value: str) -> str:
    if len(value) <= _LONG:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{value[:_LONG]}... ({len(value)} letters, SHA-256 {digest})"


def _rows(sides: Sequence[Side]) -> tuple[KeyRow, ...]:
    """Lines of the headlines that mean the same in several runs, by holdout, training and what was measured."""
    tables = [_keyed(side.data.headline) for side in sides]
    keys = dict.fromkeys(key for table in tables for key in table)
    found = []
    for key in keys:
        cells = tuple(table.get(key) for table in tables)
        line = next(cell for cell in cells if cell is not None)
        found.append(
            KeyRow(what=line.what, training=key[1], holdout=line.holdout_words, cells=cells, is_claim=line.is_claim)
        )
    order = list(dict.fromkeys((row.holdout, row.training) for row in found))
    return tuple(sorted(found, key=lambda row: order.index((row.holdout, row.training))))


def _keyed(lines: Sequence[Headline]) -> dict[tuple[str, str, str], Headline]:
    """Lines by (holdout, training, what); by the models' names where a run has several pairs of one training."""
    models = {line.pair: line.pair.partition(" and ")[2].partition(" ")[0] for line in lines}
    trainings = {pair: ModelName.parse(model).training or "" for pair, model in models.items()}
    known = list(trainings.values())
    names = {pair: name if known.count(name) == 1 else pair for pair, name in trainings.items()}
    return {(line.holdout, names[line.pair], line.what): line for line in lines}


def _answers(sides: Sequence[Side]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    tables = [{found.question: found.short for found in side.data.findings} for side in sides]
    questions = dict.fromkeys(question for table in tables for question in table)
    return tuple((question, tuple(table.get(question, "") for table in tables)) for question in questions)


def _verdicts(sides: Sequence[Side]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The leading sentence of each audit, by holdout and training."""
    tables = []
    for side in sides:
        table: dict[str, str] = {}
        for found in side.data.judgements:
            training = ModelName.parse(found.pair.partition(" and ")[2]).training or found.pair
            place = "both holdouts" if found.holdout == "both" else f"{found.holdout} held out"
            table.setdefault(f"{training}, {place}", " ".join([*found.alarms, found.sentence]))
        tables.append(table)
    names = dict.fromkeys(name for table in tables for name in table)
    return tuple((name, tuple(table.get(name, "") for table in tables)) for name in names)


def _figure(curves: Sequence[SideCurve], command: str) -> Figure | None:
    if not curves:
        return None
    out = io.BytesIO()
    drawn = side_figure(curves)
    drawn.savefig(out, format="png", dpi=150, metadata={"Software": None})
    width, height = (round(inches * 150) for inches in drawn.get_size_inches())
    return Figure(
        name="side-by-side",
        title="Recall@1 over training, every run",
        caption="One colour per run, one line per training; bands: 95 % intervals over instructions; dotted: exact "
        "chance of each run's test set. Numbers of different worlds or data are not to be set against each other.",
        command=command,
        image=base64.b64encode(out.getvalue()).decode("ascii"),
        width=width,
        height=height,
    )
