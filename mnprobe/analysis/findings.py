"""What came out, question by question, computed from a run's tables: differences with intervals, and plain verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from mnprobe.analysis.curve import DIFFERENCE, OUTCOMES, CurveData, curve_data
from mnprobe.analysis.differences import SEEDS, Difference, from_intervals, from_pairs, over_trainings
from mnprobe.analysis.results import read_predictions, read_recognition, read_success, settled_recognition
from mnprobe.analysis.success_table import ALL_TASKS, find_rollouts
from mnprobe.analysis.tables import HOLDOUTS, read_alignment
from mnprobe.analysis.trainings import named
from mnprobe.core.errors import MnprobeError, ProbeError
from mnprobe.core.rundir import RunDir

__all__ = ["Comparison", "Finding", "findings"]

_LINES = ("main", "blank", "rollouts", "rollouts-blank")
_LINE_NAMES = {
    "main": "demonstrations",
    "blank": "demonstrations, instruction blanked",
    "rollouts": "own episodes",
    "rollouts-blank": "own episodes, instruction blanked",
}


_SIDES = {"understanding": "actions recognised or not", "execution": "actions carried out or not"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison: `subject` (a training), `where` (what it was measured on), chance (NaN where there is none).

    `held_out` says what the test episodes are, where that makes a difference; `leads` that the answer in words is made
    of this comparison.
    """

    subject: str
    where: str
    difference: Difference
    held_out: str = ""
    chance: float = float("nan")
    leads: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A question, its answer in a few words and in sentences, and the comparisons it rests on.

    `before` and `after` name the two things compared. An answer without comparisons says what is missing.
    """

    question: str
    short: str
    sentences: tuple[str, ...]
    before: str = ""
    after: str = ""
    rows: tuple[Comparison, ...] = ()
    note: str = ""

    @property
    def leading(self) -> tuple[Comparison, ...]:
        """The comparisons that the answer in words is made of; all of them where none leads."""
        return tuple(row for row in self.rows if row.leads) or self.rows


def findings(run: RunDir, problems: list[str] | None = None) -> tuple[Finding, ...]:
    """The questions of the study with their answers, as far as the run has measured them.

    What cannot be read is added to `problems` and its question left open.
    """
    told: list[str] = [] if problems is None else problems
    table = _attempt(lambda: _alignment(run), told)
    data = _attempt(lambda: curve_data(table) if table is not None else None, told)
    makers: tuple[Callable[[], Finding], ...] = (
        lambda: _rise(data),
        lambda: _success(table),
        lambda: _aligned(data),
        lambda: _recognition(run),
        lambda: _execution(run),
    )
    made = []
    for maker in makers:
        found = _attempt(maker, told)
        if found is not None:
            made.append(found)
    return tuple(made)


_T = TypeVar("_T")


def _attempt(make: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return make()
    except MnprobeError as error:
        problems.append(f"Not answered: {error}")
        return None


def _alignment(run: RunDir) -> pd.DataFrame | None:
    path = run.results("alignment")
    return read_alignment(path) if path.is_file() else None


def _rise(data: CurveData | None) -> Finding:
    question = "Does alignment rise with training?"
    if data is None:
        return _open(question, "Alignment has not been measured: `mnprobe align` does.")
    points = data.points[data.points["series"].isin(_LINES)]
    rows = []
    for (holdout, understanding, execution, series), line in points.groupby(_LINE, sort=False):
        ordered = line.sort_values("step", kind="stable")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        if first["step"] == last["step"] or first["step"] != 0:
            continue
        rows.append(
            Comparison(
                subject=_subject(first["training"], understanding, execution),
                where=_LINE_NAMES[str(series)],
                held_out=HOLDOUTS.get(str(holdout), str(holdout)),
                difference=_between(data, first, last),
                chance=float(last["chance"]),
                leads=holdout == points["holdout"].iloc[0],
            )
        )
    if not rows:
        return _open(question, "Only one checkpoint, or none at step 0, was measured: there is nothing to compare.")
    return _finding(question, rows, before="step 0", after="last step", note=_seeds_note(data.points))


def _success(table: pd.DataFrame | None) -> Finding:
    question = "Do successes align better than failures?"
    missing = "Success and failure were not told apart: `mnprobe align --split success` does, where outcomes are known."
    if table is None:
        return _open(question, missing)
    try:
        parts = [
            ("", curve_data(table, metric=DIFFERENCE, split=OUTCOMES)),
            (", within tasks", curve_data(table, metric=f"within_task_{DIFFERENCE}", split=OUTCOMES)),
        ]
    except ProbeError:
        return _open(question, missing)
    levels = _attempt(lambda: curve_data(table, split=OUTCOMES), [])
    rows = []
    for words, data in parts:
        last = data.points.sort_values("step", kind="stable").groupby(_LINE, sort=False).tail(1)
        for _, row in last.sort_index().iterrows():
            side = str(row["series"]).partition("-")[0]
            rows.append(
                Comparison(
                    subject=_subject(row["training"], row["understanding"], row["execution"]),
                    where=f"{_SIDES.get(side, side)} ({row['source_e']}, step {row['step']}){words}",
                    held_out=HOLDOUTS.get(str(row["holdout"]), str(row["holdout"])),
                    difference=_gap(data, row, levels if not words else None),
                    leads=bool(row["holdout"] == data.points["holdout"].iloc[0]),
                )
            )
    return _finding(
        question,
        rows,
        before="failures",
        after="successes",
        note="Failures cluster in hard tasks; within tasks, that is taken out. Both sides have equally many test "
        "episodes of the same instructions. " + _seeds_note(parts[0][1].points),
    )


def _aligned(data: CurveData | None) -> Finding:
    question = "Does joint training align the two models better?"
    if data is None:
        return _open(question, "Alignment has not been measured: `mnprobe align` does.")
    if not {"baseline", "joint"} <= set(data.compared):
        return _open(question, "The run does not hold both a baseline and a joint training.")
    points = data.points[data.points["series"].isin(_LINES)]
    rows = []
    for (holdout, series), line in points.groupby(["holdout", "series"], sort=False):
        steps = set.intersection(*(set(line.loc[line["training"] == name, "step"]) for name in ("baseline", "joint")))
        if not steps:
            continue
        here = line[line["step"] == max(steps)].drop_duplicates("training").set_index("training", drop=False)
        rows.append(
            Comparison(
                subject=f"joint, step {max(steps)}",
                where=_LINE_NAMES[str(series)],
                held_out=HOLDOUTS.get(str(holdout), str(holdout)),
                difference=_between(data, here.loc["baseline"], here.loc["joint"]),
                chance=float(here.loc["joint", "chance"]),
                leads=holdout == points["holdout"].iloc[0],
            )
        )
    return _finding(question, rows, before="baseline", after="joint", note=_seeds_note(data.points))


def _recognition(run: RunDir) -> Finding:
    question = "Does joint training help recognition?"
    path = run.results("recognition")
    if not path.is_file():
        return _open(question, "Recognition has not been measured: `mnprobe recognize` does.")
    table, where = settled_recognition(read_recognition(path))
    table = table[table["task"] == ALL_TASKS].rename(columns={"top1": "value"})
    predictions = run.results("predictions")
    paired = None
    if predictions.is_file():
        found = read_predictions(predictions)
        source = str(table["source"].iloc[0])
        paired = found[found["source"] == source].rename(columns={"correct": "value"})
        if len(table["partition"]) and table["partition"].iloc[0] in set(paired["partition"]):
            paired = paired[paired["partition"] == table["partition"].iloc[0]]
    return _helped(question, table, paired, f"top-1 over all instructions ({where})")


def _execution(run: RunDir) -> Finding:
    question = "Does joint training help execution?"
    path = run.results("success")
    if not path.is_file():
        return _open(question, "Closed-loop success has not been measured: `mnprobe rollout` does.")
    table = read_success(path)
    world = table["world"].iloc[0]
    table = table[(table["task"] == ALL_TASKS) & (table["world"] == world)]
    played = [
        {"model": one.model, "step": one.step, "id": f"{end.id} {end.seed} {end.repeat}", "value": end.success}
        for one in find_rollouts(run.rollouts)
        if one.world == world
        for end in one.outcomes
    ]
    paired = pd.DataFrame(played, columns=["model", "step", "id", "value"])
    return _helped(question, table, paired, f"closed-loop success ({world})")


def _helped(question: str, table: pd.DataFrame, paired: pd.DataFrame | None, what: str) -> Finding:
    """Baseline against joint at the last step that both have: one row, and the instruction blanked beside it."""
    taken = [named(str(model)) for model in table["model"]]
    table = table.assign(
        training=[one.training for one in taken],
        seed=[one.seed or 0 for one in taken],
        blank=[one.blank for one in taken],
    )
    rows, fewest = [], SEEDS
    for blank, told in table.groupby("blank", sort=True):
        sides = [told[told["training"] == name] for name in ("baseline", "joint")]
        steps = set(sides[0]["step"]) & set(sides[1]["step"])
        if not steps:
            continue
        at = [side[side["step"] == max(steps)].set_index("seed") for side in sides]
        seeds = sorted(set(at[0].index) & set(at[1].index))
        if not seeds:
            continue
        before, after = (side.loc[seeds] for side in at)
        fewest = min(fewest, len(seeds))
        rows.append(
            Comparison(
                subject=f"joint, step {max(steps)}",
                where=what + (", instruction blanked" if blank else ""),
                difference=_matched(before, after, paired, max(steps)),
                chance=float(after["chance"].iloc[0]) if "chance" in after else float("nan"),
                leads=not blank,
            )
        )
    if not rows:
        return _open(question, "The run does not hold both a baseline and a joint training at one step.")
    return _finding(question, rows, before="baseline", after="joint", note=_note(fewest))


def _matched(before: pd.DataFrame, after: pd.DataFrame, paired: pd.DataFrame | None, step: int) -> Difference:
    """Over trainings where there are enough, else over the same episodes, else from the two intervals."""
    sampling = _sampled(before, after, paired, step)
    if len(before) < SEEDS:
        return sampling
    return over_trainings(before["value"].tolist(), after["value"].tolist(), sampling)


def _sampled(before: pd.DataFrame, after: pd.DataFrame, paired: pd.DataFrame | None, step: int) -> Difference:
    if paired is not None:
        here = paired[paired["step"] == step]
        first, second = (
            here[here["model"].isin(set(side["model"]))].groupby("id")["value"].mean() for side in (before, after)
        )
        if len(first) and first.index.equals(second.index):
            return from_pairs(first.tolist(), second.tolist())
    ends = [tuple(float(side[name].mean()) for name in ("value", "ci_low", "ci_high")) for side in (before, after)]
    return from_intervals(_three(ends[0]), _three(ends[1]), n=f"{after['n'].iloc[0]:.0f} episodes")


_LINE = ["holdout", "understanding", "execution", "series"]


def _between(data: CurveData, first: pd.Series, last: pd.Series) -> Difference:
    """From one point of the curve to another: over trainings where there are enough, else from their intervals."""
    n = f"{last['n_test']:.0f} test episodes in {last['n_groups']:.0f} groups"
    before, after = (_single(data, point) for point in (first, last))
    seeds = before.index.intersection(after.index)
    sampling = from_intervals(_limits(first), _limits(last), n=n)
    if len(seeds) < SEEDS:
        return sampling
    return over_trainings(before[seeds].tolist(), after[seeds].tolist(), sampling)


def _gap(data: CurveData, row: pd.Series, levels: CurveData | None) -> Difference:
    """A difference that the table holds, with the two levels it is between where these are known."""
    n = f"{row['n_test']:.0f} test episodes on each side"
    single = _single(data, row)
    side = str(row["series"]).partition("-")[0]
    ends = [float("nan"), float("nan")]
    if levels is not None:
        for place, outcome in enumerate(("failure", "success")):
            wanted = [*row[_LINE].tolist()[:3], f"{side}-{outcome}"]
            points = levels.points
            same = points[(points[_LINE] == wanted).all(axis=1) & (points["step"] == row["step"])]
            ends[place] = float(same["value"].iloc[0]) if len(same) else float("nan")
    made = Difference(
        before=ends[0],
        after=ends[1],
        value=float(row["value"]),
        low=float(row["ci_low"]),
        high=float(row["ci_high"]),
        n=n,
        basis="the interval is over instructions",
    )
    if len(single) < SEEDS:
        return made
    spread = over_trainings([0.0] * len(single), single.tolist(), made)
    return replace(spread, before=ends[0], after=ends[1])


def _single(data: CurveData, point: pd.Series) -> "pd.Series[float]":
    """Values of the single trainings behind a point, by seed."""
    rows = data.trainings
    same = (rows[_LINE] == point[_LINE].tolist()).all(axis=1) & (rows["step"] == point["step"])
    return pd.Series(rows.loc[same, "value"].to_numpy(), index=rows.loc[same, "training_seed"].to_numpy(), dtype=float)


def _limits(point: pd.Series) -> tuple[float, float, float]:
    return float(point["value"]), float(point["ci_low"]), float(point["ci_high"])


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    value, low, high = values
    return value, low, high


def _finding(question: str, rows: Sequence[Comparison], *, before: str, after: str, note: str) -> Finding:
    leading = [row for row in rows if row.leads] or list(rows)
    places = list(dict.fromkeys(row.where for row in leading))
    sentences = tuple(_sentence(where, [row for row in leading if row.where == where]) for where in places)
    return Finding(
        question=question,
        short=_short([row.difference.verdict for row in leading]),
        sentences=sentences,
        before=before,
        after=after,
        rows=tuple(rows),
        note=note.strip(),
    )


def _short(verdicts: Sequence[str]) -> str:
    """One word where all agree, else how many say what."""
    plain = [verdict if not verdict.startswith("cannot") else "cannot be told" for verdict in verdicts]
    counts = {name: plain.count(name) for name in ("yes", "no", "no, the reverse", "cannot be told") if name in plain}
    if len(counts) == 1:
        (name,) = counts
        return f"{name[0].upper()}{name[1:]}."
    told = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return f"Mixed: of {len(plain)} comparisons, {told}."


def _sentence(where: str, rows: Sequence[Comparison]) -> str:
    pieces = []
    for row in rows:
        made = row.difference
        ends = f"{100 * made.value:+.1f} points"
        if np.isfinite(made.before) and np.isfinite(made.after):
            ends = f"{100 * made.before:.1f} % to {100 * made.after:.1f} %, {ends}"
        if np.isfinite(made.low):
            ends += f", 95 % interval {100 * made.low:+.1f} to {100 * made.high:+.1f}"
        pieces.append(f"{row.subject}: {made.verdict} ({ends})")
    counts = ", ".join(dict.fromkeys(row.difference.n for row in rows))
    held = "".join(dict.fromkeys(f"; held out: {row.held_out}" for row in rows if row.held_out))
    bases = ", ".join(dict.fromkeys(row.difference.basis for row in rows))
    levels = sorted({f"{100 * row.chance:.1f}" for row in rows if np.isfinite(row.chance)})
    chance = f"; chance {' to '.join(dict.fromkeys((levels[0], levels[-1])))} %" if levels else ""
    return f"{where[0].upper()}{where[1:]}{held}. {'; '.join(pieces)}. n = {counts}{chance}; {bases}."


def _open(question: str, why: str) -> Finding:
    return Finding(question=question, short="Not measured.", sentences=(why,))


def _subject(training: object, understanding: object, execution: object) -> str:
    return str(training) or f"{understanding} and {execution}"


def _seeds_note(points: pd.DataFrame) -> str:
    return _note(int(points["n_trainings"].max()))


def _note(trainings: int) -> str:
    if trainings >= SEEDS:
        return ""
    if trainings == 1:
        return "One training each: how far another seed would differ was not measured."
    return "Two seeds of each training: too few for an interval over trainings."
