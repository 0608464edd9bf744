"""The tables of the audit, of success and of similarity, cut to what a reader compares: value, interval, chance, n."""

from collections.abc import Callable

import pandas as pd

from mnprobe.analysis.report.parts import Judgement, Table
from mnprobe.analysis.success_contrast import read_contrasts
from mnprobe.analysis.success_figure import last_contrasts
from mnprobe.analysis.success_words import contrast_sentences
from mnprobe.analysis.tables import HOLDOUTS, read_table
from mnprobe.core.commands import command_line
from mnprobe.core.errors import MnprobeError
from mnprobe.core.rundir import RunDir

__all__ = ["CONDENSED", "condensed", "contrasts", "judgements"]

_PAIR = ("understanding", "execution", "holdout")
_VERDICT = ("topic", "conclusion", "understanding", "execution", "holdout", "sentence", "alarm")
_TOPICS = ("leak", "shuffled", "instruction", "rise", "chance", "pixels", "task", "rollouts", "known instructions")
_LEADING = ("instruction", "rise", "chance")
_Cells = dict[str, Callable[[dict[str, str]], str]]


def judgements(run: RunDir, problems: list[str]) -> tuple[Judgement, ...]:
    """The verdicts of results/verdict.csv, gathered by pair and holdout; those with an alarm first."""
    path = run.results("verdict")
    if not path.is_file():
        return ()
    try:
        table = read_table(path, _VERDICT, command=command_line("audit", run=run.path))
    except MnprobeError as error:
        problems.append(f"No verdict: {error}")
        return ()
    order = {topic: place for place, topic in enumerate(_TOPICS)}
    found = []
    for values, rows in table.astype(str).groupby(list(_PAIR), sort=False):
        lines = sorted(rows.to_dict("records"), key=lambda row: (row["alarm"] != "True", order.get(row["topic"], 99)))
        leading = next((row for topic in _LEADING for row in lines if row["topic"] == topic), lines[0])
        found.append(
            Judgement(
                pair=f"{values[0]} and {values[1]}",
                holdout=HOLDOUTS.get(str(values[2]), str(values[2])),
                conclusion=leading["conclusion"],
                sentence=leading["sentence"],
                rows=tuple((row["topic"], row["conclusion"], row["sentence"], row["alarm"] == "True") for row in lines),
            )
        )
    return tuple(sorted(found, key=lambda one: (not one.alarms, one.holdout == "both")))


def contrasts(run: RunDir, problems: list[str]) -> tuple[str, ...]:
    """Success against failure at the last checkpoint, in sentences; empty where it was not contrasted."""
    if not run.results("success_contrast").is_file():
        return ()
    try:
        return contrast_sentences(last_contrasts(read_contrasts(run.results("success_contrast"))))
    except MnprobeError as error:
        problems.append(f"No contrast of success and failure: {error}")
        return ()


def condensed(run: RunDir, name: str) -> Table | None:
    """One of `CONDENSED` as a table of text, or None where the run does not have it."""
    maker, cells = CONDENSED[name]
    path = run.results(name)
    if not path.is_file():
        return None
    empty = Table(name=f"{name}.csv", command=command_line(maker, run=run.path))
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        lines = [{str(key): str(cell) for key, cell in row.items()} for row in table.to_dict("records")]
        rows = [tuple(make(line) for make in cells.values()) for line in lines]
    except (ValueError, KeyError, OSError):
        return None  # the list of all results says what is wrong with the file
    shown = tuple(dict.fromkeys(rows))
    return Table(name=empty.name, columns=tuple(cells), rows=shown, total=len(shown), command=empty.command)


def _text(*names: str, between: str = " ") -> Callable[[dict[str, str]], str]:
    return lambda row: between.join(row[name] for name in names if row[name])


def _percent(name: str) -> Callable[[dict[str, str]], str]:
    return lambda row: _share(row[name])


def _range(low: str, high: str, *, signed: bool = False) -> Callable[[dict[str, str]], str]:
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
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.1f}"


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
    "95 % interval": _range("success_low", "success_high"),
    "chance %": _percent("success_chance"),
    "failure %": _percent("failure"),
    "95 % interval ": _range("failure_low", "failure_high"),
    "chance % ": _percent("failure_chance"),
    "difference, points": _points("difference"),
    "95 % interval  ": _range("ci_low", "ci_high", signed=True),
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
    "95 % interval": _range("ci_low", "ci_high"),
    "chance %": _percent("chance"),
    "difference, points": _points("difference"),
    "95 % interval ": _range("d_low", "d_high", signed=True),
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
    "95 % interval": _range("ci_low", "ci_high"),
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
