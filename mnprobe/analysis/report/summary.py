"""Summary tables of a report: the first table, audit, success, similarity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.audit.effects import from_intervals
from mnprobe.analysis.audit.findings import Finding, against_chance, audited_row, read_verdicts
from mnprobe.analysis.figures.curve_data import CurveData, curve_data
from mnprobe.analysis.figures.style import series_name
from mnprobe.analysis.report.data import Headline, Judgement, Table
from mnprobe.analysis.success.contrast import CONTRASTS, contrast_sentences
from mnprobe.analysis.success.figure import last_contrasts
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.analysis.tables.run_tables import VERDICT, RunTables
from mnprobe.core.commands import command_line
from mnprobe.core.errors import MnprobeError
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import UNREADABLE
from mnprobe.probe.config import read_settings

__all__ = [
    "CONDENSED",
    "FEW_GROUPS",
    "FEW_SEEDS",
    "FEW_TEST",
    "NOT_RECORDED",
    "STEP_0",
    "WIDE",
    "caveats",
    "condensed",
    "contrasts",
    "headlines",
    "judgements",
    "last_points",
    "probe_settings",
    "summary",
]

STEP_0 = "step-0"
FEW_TEST = 50  # test episodes below which a score moves by 2 points and more with each episode
FEW_GROUPS = 8  # groups below which a cluster interval says little (specs: refuse below about 8)
FEW_SEEDS = 5  # probe seeds that DESIGN asks for
WIDE = 0.25  # width of a 95 % interval that leaves most conclusions open
_TIED = 0.05  # share of queries with ties that deserves a word


def last_points(table: pd.DataFrame) -> CurveData:
    """Recall@1 of all episodes as the curve draws it: the last checkpoint of each line, and step 0 of the claim."""
    data = curve_data(table)
    key = ["holdout", "understanding", "execution", "series"]
    points = data.points
    last = points.sort_values("step", kind="stable").groupby(key, sort=False).tail(1)
    start = points[(points["series"] == "main") & (points["step"] == 0) & ~points.index.isin(last.index)]
    both = pd.concat([last, start.assign(series=STEP_0)]).sort_index(kind="stable")
    claims_first = both["series"].map(
        lambda series: ["main", STEP_0].index(series) if series in ("main", STEP_0) else 2
    )
    order = both.assign(_p=both.groupby(key[:3], sort=False).ngroup(), _s=claims_first)
    return replace(data, points=order.sort_values(["_p", "_s"], kind="stable").drop(columns=["_p", "_s"]))


def headlines(points: pd.DataFrame) -> tuple[Headline, ...]:
    """One line per holdout and series of `last_points(...).points`."""
    places = points.groupby(["holdout", "understanding", "execution"], sort=False).ngroup()
    return tuple(_headline(row, int(place)) for (_, row), place in zip(points.iterrows(), places, strict=True))


def summary(points: pd.DataFrame) -> tuple[str, ...]:
    """The claims in sentences, for readers without context."""
    sentences = []
    for _, row in points[points["series"] == "main"].iterrows():
        interval = _interval(row)
        held = HOLDOUTS.get(row["holdout"], row["holdout"])
        models = " and ".join(
            str(row[side]) + ("" if row[trained] else " (random weights)")
            for side, trained in (("understanding", "trained_u"), ("execution", "trained_e"))
        )
        sentences.append(
            f"With {held} held out, the nearest neighbour across {models} is of the same group in "
            f"{100 * row['value']:.1f} % of the queries{interval}; {_against_chance(row)}."
        )
    return tuple(sentences)


def caveats(
    points: pd.DataFrame, table: pd.DataFrame, notes: Sequence[str] = (), differences: pd.DataFrame | None = None
) -> tuple[str, ...]:
    """Limits of the numbers of this run; empty where there are none.

    Args:
        points, notes: of `last_points`.
        table: results/alignment.csv.
        differences: the paired differences of the audit, as `audited` gives them; None where there was none.
    """
    found = []
    claim = points[points["series"] == "main"]
    untrained = [
        f"{row[side]} at step {row[f'step_{letter}']}"
        for _, row in claim.iterrows()
        for side, letter in (("understanding", "u"), ("execution", "e"))
        if not row[f"trained_{letter}"]
    ]
    if untrained:
        found.append(
            f"Random weights: {', '.join(dict.fromkeys(untrained))}. These numbers say what untrained networks "
            f"give; they are a "
            "control, not a finding."
        )
    for _, row in claim.iterrows():
        where = f"holdout {row['holdout']}"
        if row["n_test"] < FEW_TEST:
            found.append(
                f"Few samples ({where}): {row['n_test']:.0f} test episodes; one episode more or less moves the "
                f"score by "
                f"{100 / row['n_test']:.1f} points."
            )
        if row["n_groups"] < FEW_GROUPS:
            found.append(
                f"Few groups ({where}): {row['n_groups']:.0f}; an interval from fewer than {FEW_GROUPS} groups "
                f"says little."
            )
        if np.isfinite(row["ci_low"]) and row["ci_high"] - row["ci_low"] > WIDE:
            found.append(f"Wide interval ({where}): from {100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %.")
        if not np.isfinite(row["ci_low"]):
            found.append(f"No interval ({where}): the spread over samples is not known.")
        elif np.isfinite(row["chance"]) and _verdict(row) != "above chance":
            place = "includes" if _verdict(row) == "includes chance" else "lies below"
            found.append(f"Not above chance ({where}): the interval {place} {100 * row['chance']:.1f} %.")
        if np.isfinite(row["chance"]) and row["chance"] > 1.5 / row["n_groups"]:
            found.append(
                f"Uneven groups ({where}): chance is {100 * row['chance']:.1f} %, more than 1/groups = "
                f"{100 / row['n_groups']:.1f} %."
            )
        if row["n_seeds"] < FEW_SEEDS:
            found.append(f"Few probe seeds ({where}): {row['n_seeds']:.0f}; {FEW_SEEDS} or more show their spread.")
        found += _rivals(row, points[points["holdout"] == row["holdout"]], differences)
    ties = table[(table["metric"] == "tied_share") & (table["statistic"] == "mean") & (table["control"] == "none")]
    if len(ties) and ties["value"].max() > _TIED:
        found.append(
            f"Ties: up to {100 * ties['value'].max():.1f} % of the queries have several equally near neighbours, of "
            f"which "
            f"chance decides. "
            "Collapsed or repeated features do this."
        )
    found += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return tuple(dict.fromkeys(found))


def _rivals(claim: pd.Series, points: pd.DataFrame, differences: pd.DataFrame | None) -> list[str]:
    """Controls that the claim is not above, by `decide`.

    From the audit's difference on the same episodes, where there is one; else from both levels, taken as independent,
    simultaneous over all controls.
    """
    same = (points["understanding"] == claim["understanding"]) & (points["execution"] == claim["execution"])
    controls = points[same & ~points["series"].isin(["main", "rollouts", "rollouts-pixels", "rollouts-shuffled"])]
    decisions = []
    for _, control in controls.iterrows():
        paired = audited_row(differences, control, "level")
        decisions.append(_above(claim, control, len(controls)) if paired is None else str(paired["decision"]))
    higher = np.array([decision in ("less", "none") for decision in decisions], dtype=bool)
    meets = np.array([decision == "undecided" for decision in decisions], dtype=bool)
    sentences = []
    if higher.any():
        sentences.append(
            f"A control scores as high (holdout {claim['holdout']}): {_listed(controls[higher])}; the claim "
            f"{100 * claim['value']:.1f} %. What the control has is enough for this score."
        )
    if meets.any():
        sentences.append(
            f"Not told apart from a control at this sample size (holdout {claim['holdout']}): the claim "
            f"{100 * claim['value']:.1f} % ({_range(claim)}), {_listed(controls[meets], intervals=True)}."
        )
    return sentences


def _above(claim: pd.Series, control: pd.Series, comparisons: int) -> str:
    """Whether the claim is above a control; "unknown" where either has no interval."""
    before, after = ((float(row["value"]), float(row["ci_low"]), float(row["ci_high"])) for row in (control, claim))
    if not np.isfinite((before, after)).all():
        return "less" if after[0] <= before[0] else "unknown"
    degrees = max(float(min(claim["n_groups"], control["n_groups"])) - 1, 1.0)
    return from_intervals(before, after, n="", degrees=degrees).over(comparisons).decision


def _listed(rows: pd.DataFrame, *, intervals: bool = False) -> str:
    return ", ".join(
        f"{_name(row['series']).removeprefix('control: ')} {100 * row['value']:.1f} %"
        + (f" ({_range(row)})" if intervals else "")
        for _, row in rows.iterrows()
    )


def _range(row: pd.Series) -> str:
    return f"{100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %"


def _headline(row: pd.Series, place: int) -> Headline:
    weights = {(True, True): "trained", (False, False): "both random"}
    one = "u random" if not row["trained_u"] else "e random"
    pixels = row["series"] in ("pixels", "rollouts-pixels")
    return Headline(
        what=_name(row["series"]),
        step=int(row["step"]),
        pair=f"{row['understanding']} and {row['execution']}"
        + (f" (mean of {row['n_trainings']} trainings)" if row["n_trainings"] > 1 else ""),
        place=place,
        holdout=str(row["holdout"]),
        holdout_words=HOLDOUTS.get(str(row["holdout"]), str(row["holdout"])),
        value=float(row["value"]),
        low=_finite(row["ci_low"]),
        high=_finite(row["ci_high"]),
        chance=_finite(row["chance"]),
        verdict=_verdict(row),
        n_test=_whole(row["n_test"]),
        n_groups=_whole(row["n_groups"]),
        n_gallery=_whole(row["n_gallery"]),
        n_seeds=_whole(row["n_seeds"]),
        sd_seeds="" if not np.isfinite(row["sd_seeds"]) else f"{row['sd_seeds'] * 100:.1f}",
        weights=("e trained" if row["trained_e"] else "e random")
        if pixels
        else weights.get((bool(row["trained_u"]), bool(row["trained_e"])), one),
        is_claim=row["series"] == "main",
    )


def _name(series: str) -> str:
    return "control: before training" if series == STEP_0 else series_name(series)


_AGAINST_CHANCE = {
    "above": "above chance",
    "below": "below chance",
    "not shown": "includes chance",
    "unknown": "no interval",
}


def _verdict(row: pd.Series) -> str:
    return _AGAINST_CHANCE[against_chance(row)]


def _against_chance(row: pd.Series) -> str:
    if not np.isfinite(row["chance"]):
        return "its chance level is not known"
    words = {"above chance": "the interval lies above it", "below chance": "the interval lies below it"}
    rest = words.get(_verdict(row), "the interval includes it")
    return f"chance is {100 * row['chance']:.1f} %" + (f", and {rest}" if np.isfinite(row["ci_low"]) else "")


def _interval(row: pd.Series) -> str:
    return (
        f" (95 % interval {100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %)"
        if np.isfinite(row["ci_low"])
        else ""
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _whole(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else ""


_TOPICS = ("leak", "shuffled", "instruction", "rise", "chance", "pixels", "task", "rollouts", "known instructions")
_LEADING = ("instruction", "rise", "chance")
_Cells = dict[str, Callable[[dict[str, str]], str]]


def judgements(run: RunDir | RunTables, problems: list[str]) -> tuple[Judgement, ...]:
    """The verdicts of results/verdict.csv, gathered by pair and holdout; those with an alarm first."""
    try:
        table = RunTables.load(run).table(VERDICT)
    except MnprobeError as error:
        problems.append(f"No verdict: {error}")
        return ()
    if table is None:
        return ()
    order = {topic: place for place, topic in enumerate(_TOPICS)}
    panels: dict[tuple[str, str, str], list[Finding]] = {}
    for one in read_verdicts(table):
        panels.setdefault((one.understanding, one.execution, one.holdout), []).append(one)
    found = []
    for (understanding, execution, holdout), unordered in panels.items():
        lines = sorted(unordered, key=lambda one: (not one.alarm, order.get(one.topic, 99)))
        found.append(
            Judgement(
                pair=f"{understanding} and {execution}",
                holdout=HOLDOUTS.get(holdout, holdout),
                leading=next((one for topic in _LEADING for one in lines if one.topic == topic), lines[0]),
                findings=tuple(lines),
            )
        )
    return tuple(sorted(found, key=lambda one: (not one.alarms, one.holdout == "both")))


def contrasts(run: RunDir | RunTables, problems: list[str]) -> tuple[str, ...]:
    """Success against failure, where it is nearest one half or at the end, in sentences; empty where not contrasted."""
    try:
        tables = RunTables.load(run)
        table = tables.table(CONTRASTS)
        return () if table is None else contrast_sentences(last_contrasts(table, chosen=tables.half_steps))
    except MnprobeError as error:
        problems.append(f"No contrast of success and failure: {error}")
        return ()


def condensed(run: RunDir | RunTables, name: str) -> Table | None:
    """One of `CONDENSED` as a table of text, or None where the run does not have it."""
    maker, cells = CONDENSED[name]
    tables = RunTables.load(run)
    path = tables.run.results(name)
    if not path.is_file():
        return None
    empty = Table(name=f"{name}.csv", command=command_line(maker, run=tables.run.path))
    try:
        table = tables.cells(path).frame()
        lines = [{str(key): str(cell) for key, cell in row.items()} for row in table.to_dict("records")]
        rows = [tuple(make(line) for make in cells.values()) for line in lines]
    except (*UNREADABLE, KeyError):
        return None  # the list of all results says what is wrong with the file
    shown = tuple(dict.fromkeys(rows))
    return Table(name=empty.name, columns=tuple(cells), rows=shown, total=len(shown), command=empty.command)


def _text(*names: str, between: str = " ") -> Callable[[dict[str, str]], str]:
    return lambda row: between.join(row[name] for name in names if row[name])


def _percent(name: str) -> Callable[[dict[str, str]], str]:
    return lambda row: _share(row[name])


def _condensed_range(low: str, high: str, *, signed: bool = False) -> Callable[[dict[str, str]], str]:
    def make(row: dict[str, str]) -> str:
        one, other = (_share(row[name], signed=signed) for name in (low, high))
        return f"{one} to {other}" if one and other else ""

    return make


def _points(name: str) -> Callable[[dict[str, str]], str]:
    return lambda row: _share(row[name], signed=True)


def _share(cell: str, *, signed: bool = False) -> str:
    if not cell:
        return ""
    value = 100 * float(cell)
    if value != value:
        return ""
    return f"{value:+z.1f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.1f}"


def _rounded(name: str, digits: int = 3) -> Callable[[dict[str, str]], str]:
    return lambda row: f"{float(row[name]):.{digits}g}" if row[name] else ""


def _place(row: dict[str, str]) -> str:
    return f"{row['understanding']} and {row['execution']}"


_SUCCESS: _Cells = {
    "models": _place,
    "source": _text("source_e"),
    "step": _text("step_e"),
    "held out": _text("holdout"),
    "outcomes of": _text("side"),
    "probes": _text("mode"),
    "episodes": _text("where"),
    "success %": _percent("success"),
    "95 % interval": _condensed_range("success_low", "success_high"),
    "chance %": _percent("success_chance"),
    "failure %": _percent("failure"),
    "95 % interval ": _condensed_range("failure_low", "failure_high"),
    "chance % ": _percent("failure_chance"),
    "difference, points": _points("difference"),
    "95 % interval  ": _condensed_range("ci_low", "ci_high", signed=True),
    "p (Holm)": _rounded("p_holm"),
    "would have been seen, points": _percent("detectable"),
    "n success": _text("n_success"),
    "n failure": _text("n_failure"),
    "instructions": _text("n_instructions"),
    "draws": _text("n_draws"),
    "note": _text("note"),
}
_CONTROLS: _Cells = {
    "models": _place,
    "held out": _text("holdout"),
    "row": _text("series"),
    "what": _text("kind"),
    "step": _text("step"),
    "Recall@1 %": _percent("value"),
    "95 % interval": _condensed_range("ci_low", "ci_high"),
    "chance %": _percent("chance"),
    "difference, points": _points("difference"),
    "95 % interval ": _condensed_range("d_low", "d_high", signed=True),
    "p (Holm)": _rounded("p_holm"),
    "would have been seen, points": _percent("detectable"),
    "n": _text("n_test"),
    "groups": _text("n_groups"),
    "note": _text("note"),
}
_LEAKAGE: _Cells = {
    "models": _place,
    "sources": _text("source_u", "source_e", between=", "),
    "steps": _text("step_u", "step_e", between=", "),
    "held out": _text("holdout"),
    "outcomes": _text("split"),
    "verdict": _text("verdict"),
    "kept apart": _text("kept_apart"),
    "n train": _text("n_train"),
    "n test": _text("n_test"),
    "episodes in both": _text("shared_episodes"),
    "instructions in both": _text("shared_instructions"),
    "tasks in both": _text("shared_tasks"),
    "near-copies u": _text("close_u"),
    "near-copies e": _text("close_e"),
}
_DECOMPOSITION: _Cells = {
    "models": _place,
    "source": _text("source_e"),
    "step": _text("step_e"),
    "held out": _text("holdout"),
    "quantity": _text("quantity"),
    "factor": _text("factor"),
    "%": _percent("value"),
    "95 % interval": _condensed_range("ci_low", "ci_high"),
    "chance %": _percent("chance"),
    "n": _text("n_test"),
    "groups": _text("n_groups"),
    "seeds": _text("n_seeds"),
    "note": _text("note"),
}
_SIMILARITY: _Cells = {
    "index": _text("index"),
    "models": _place,
    "source": _text("source_e"),
    "steps": _text("step_u", "step_e", between=", "),
    "layers": _text("layer_u", "layer_e", between=", "),
    "value": _rounded("value", 4),
    "null mean": _rounded("null_mean", 4),
    "calibrated level": _rounded("null_95", 4),
    "p": _rounded("p"),
    "p among all cells": _rounded("p_max"),
    "n": _text("n"),
    "groups": _text("n_groups"),
    "permuted": _text("permute"),
    "permutations": _text("permutations"),
    "seed": _text("seed"),
}
CONDENSED: dict[str, tuple[str, _Cells]] = {
    "success_contrast": ("success", _SUCCESS),
    "controls": ("audit", _CONTROLS),
    "leakage": ("audit", _LEAKAGE),
    "decomposition": ("audit", _DECOMPOSITION),
    "similarity": ("compare", _SIMILARITY),
}
"""Tables that the page shows cut to size: the command that makes each, and its columns."""


NOT_RECORDED = "not recorded"

_OF_ROWS = {
    "source_u": "source of u",
    "layer_u": "layer of u",
    "pool_u": "pooling of u",
    "source_e": "source of e",
    "layer_e": "layer of e",
    "pool_e": "pooling of e",
    "fit_source": "heads fitted on episodes of",
    "pairing": "pairing (what counts as a group)",
    "holdout": "held out",
    "split": "episodes",
    "mode": "probe of success and failure",
    "heads": "heads",
    "loss": "loss",
    "tau": "temperature tau",
    "batch": "batch",
}
"""Columns of the table that say how a row was measured; they are known also where run.toml says nothing."""

_RECORDED = {
    "fit.dim": "width of the shared space (dim)",
    "optimiser": "optimiser",
    "fit.lr": "learning rate (lr)",
    "fit.decay": "learning rate falls to zero (decay)",
    "fit.ridge": "variance of noise in lengths (ridge)",
    "optimiser_steps": "optimiser steps",
    "fit.epochs": "passes over the training episodes (epochs)",
    "fit.weight_decay": "weight decay",
    "fit.standardise": "features standardised",
    "fit.early_stop": "early stop",
    "fit.depth": "layers of mlp heads (depth)",
    "seeds": "probe seeds",
    "control_seeds": "probe seeds of control pairs",
    "shuffled_seeds": "probe seeds of shuffled pairs",
    "splits": "random splits",
    "test_share": "share held out",
    "draws": "balanced draws of success and failure",
    "k": "neighbour counts of recall (k)",
    "exclude_own": "own episode left out",
    "gallery": "size of random galleries (0: all episodes)",
    "pixel_components": "principal components of pixels",
    "bound_draws": "batches behind the bound on mutual information",
    "revision": "revision of the measurement",
}
_OF_ROWS_TOO = ("fit.heads", "fit.tau", "fit.batch", "fit.positives", "fit.steps", "pairing", "asked")


def probe_settings(run: RunDir, table: pd.DataFrame) -> Table:
    """One row for each setting, one column for each config_hash of `table` in order of appearance.

    Of settings that run.toml does not hold (a table of an earlier version), the cells say "not recorded".
    """
    recorded = read_settings(run)
    keys = list(dict.fromkeys(table["config_hash"]))
    sections = {key: dict(_flat(recorded.get(key, {}))) for key in keys}
    extra = dict.fromkeys(name for section in sections.values() for name in section)
    rows = [
        (words, *(_values(table.loc[table["config_hash"] == key, column]) for key in keys))
        for column, words in _OF_ROWS.items()
    ]
    if table["fit_steps"].notna().any():
        fits = [_fits(table[table["config_hash"] == key]) for key in keys]
        rows += [
            ("optimiser steps that were run", *(steps for steps, _ in fits)),
            ("fits whose training loss was flat", *(flat for _, flat in fits)),
        ]
    names = _RECORDED | {name: name for name in extra if name not in _RECORDED and name not in _OF_ROWS_TOO}
    if not any(sections.values()):
        names = {"all other settings": "all other settings"}
    for name, words in names.items():
        cells = [section.get(name, "none" if section else NOT_RECORDED) for section in sections.values()]
        if any(cell != "none" for cell in cells):
            rows.append((words, *cells))
    columns = ("setting", *(f"config_hash {key}" for key in keys))
    return Table(name="settings", columns=columns, rows=tuple(rows), total=len(rows))


def _fits(rows: pd.DataFrame) -> tuple[str, str]:
    """Fewest and most steps of the fits behind these rows, and the share that converged; tables may not know."""
    known = rows[rows["fit_steps"].notna()]
    single = known[known["statistic"] == "seed"]
    if known.empty:
        return NOT_RECORDED, NOT_RECORDED
    counted = known if single.empty else single
    low, high = counted["fit_steps"].min(), counted["fit_steps"].max()
    return f"{low:.0f}" + (f" to {high:.0f}" if high > low else ""), f"{counted['fit_converged'].mean():.0%}"


def _values(column: "pd.Series[Any]") -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(column))


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        elif isinstance(value, bool):
            yield f"{place}{name}", "yes" if value else "no"
        else:
            yield f"{place}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
