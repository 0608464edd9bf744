"""Findings of a run: conclusions by fixed rules from its tables."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mnprobe.analysis.audit.effects import (
    MARGIN,
    SEEDS,
    Difference,
    decide_level,
    decide_rows,
    from_intervals,
    from_pairs,
    missed,
    over_trainings,
)
from mnprobe.analysis.figures.curve_data import DIFFERENCE, OUTCOMES, CurveData, curve_data
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.analysis.tables.progress import MEASURED_PREDICTIONS, MEASURED_RECOGNITION, settled_recognition
from mnprobe.analysis.tables.rollouts import ALL_TASKS, SUCCESS, find_rollouts
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.core.errors import MnprobeError, ProbeError
from mnprobe.core.names import BLANK, ModelName
from mnprobe.core.rundir import RunDir
from mnprobe.probe.pairs import PIXELS

__all__ = ["Comparison", "Conclusion", "Finding", "control_decisions", "findings", "verdicts"]

_COMMANDS = {
    "blank": "`mnprobe extract --blank-instruction`",
    "step-0": "`mnprobe init`, then `mnprobe extract`",
    "pixels": "`mnprobe extract --model pixels`",
}


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """One conclusion: about what (`topic`), which (`conclusion`, a fixed word), for which pair and holdout, in words.

    `alarm` is True where the reader must look before going on.
    """

    topic: str
    conclusion: str
    understanding: str
    execution: str
    holdout: str
    sentence: str
    alarm: bool = False


_DECIDING = (
    *(("main", "rise"), ("blank", "level"), ("blank", "rise"), ("pixels", "level")),
    *(("rollouts", "rise"), ("rollouts-blank", "rise")),
)
"""Series and kind of the differences that the sentences rest on: the leading comparisons of a pair and holdout."""


def control_decisions(controls: pd.DataFrame) -> pd.DataFrame:
    """What `decide` makes of each difference of results/controls.csv: DECISION_COLUMNS, row by row.

    One pair of models under one holdout is one question: where its score comes from. Its leading comparisons, up to
    six, are those that a sentence rests on: the rise of the claim, the claim with the instruction blanked and the rise
    that is left, the claim against pixels, and the rises on the policy's own episodes.
    """
    kinds = controls[["series", "kind"]].itertuples(index=False, name=None)
    return decide_rows(
        controls,
        low="d_low",
        high="d_high",
        question=("understanding", "execution", "holdout"),
        leading=pd.Series([kind in _DECIDING for kind in kinds], index=controls.index, dtype=bool),
    )


def verdicts(
    controls: pd.DataFrame, leakage: pd.DataFrame | None = None, decomposition: pd.DataFrame | None = None
) -> tuple[Conclusion, ...]:
    """Conclusions from results/controls.csv (and leakage.csv, decomposition.csv beside it), alarms first.

    The rules, for every pair and holdout. `more`, `less`, `none`, `undecided` are those of `decide`, of differences as
    in `control_decisions`, of levels on their own 95 % interval against a fixed number.

    - leak: a row of the leakage table says "overlap" (broken); or, of a claim at its last checkpoint, "near-duplicates"
      (an alarm where they are more than 5 % of the test episodes). At step 0 and with the instruction blanked a policy
      may well be blind to what differs, so that its features repeat; pixels are no claim.
    - shuffled: the interval of shuffled pairs lies above chance (broken), or not (sound).
    - chance: the claim's interval lies above chance (above), below it (below), or holds it (not shown).
    - rise: last checkpoint minus first of the claim: more (rises), less (falls), none (flat), undecided (not shown).
    - instruction: why the claim is as high as it is. Needs the claim, step 0 and the blanked control; else "untested".
        - the claim rises, the blanked score does not (none or less): "rise explained" by the instruction. Where the
          blanked rise is undecided: "rise perhaps explained".
        - the claim rises, and so does the blanked score: "rise survives".
        - the claim does not rise and blanking lowers it: "score explained" by the instruction: a policy with random
          weights passes it on.
        - the claim does not rise and blanking does not lower it: "nothing from training": neither instruction nor
          training is behind it.
    - pixels: claim minus pixels: more (beyond pixels), none or less (pixels suffice), undecided (not told apart).
    - rollouts: rise on the policy's own episodes: shown and blanked too (survives), shown but not blanked (with the
      instruction only), not shown.
    - task: the claim's interval against what knowing the task alone would score (oracle): above it (beyond task), or
      not (task suffices).
    - known instructions: above chance on new episodes but not on new instructions (known only), or on both: the claim
      on new instructions lies above what the task alone would score (carries over), or not (the task carries over).
    """
    found: list[Conclusion] = []
    if leakage is not None:
        found += _leaks(leakage)
    controls = controls.join(control_decisions(controls))
    for values, panel in controls.groupby(["understanding", "execution", "holdout"], sort=False):
        where = _Panel(str(values[0]), str(values[1]), str(values[2]), panel)
        for part in (_shuffled, _chance, _conclude_rise, _instruction, _pixels, _rollouts):
            found += part(where)
        if decomposition is not None:
            found += _task(where, decomposition)
    for values, both in controls.groupby(["understanding", "execution"], sort=False):
        found += _known(str(values[0]), str(values[1]), both, decomposition)
    return tuple(sorted(found, key=lambda one: not one.alarm))


@dataclass(frozen=True)
class _Panel:
    understanding: str
    execution: str
    holdout: str
    rows: pd.DataFrame

    def row(self, series: str, kind: str) -> "pd.Series[Any] | None":
        found = self.rows[(self.rows["series"] == series) & (self.rows["kind"] == kind)]
        return None if found.empty else found.iloc[0]

    def decided(self, series: str, kind: str) -> str:
        """By `decide`; "unknown" where no difference, or none with an interval, was measured."""
        row = self.row(series, kind)
        known = row is not None and np.isfinite(row[["difference", "low", "high"]].to_numpy(dtype=float)).all()
        return str(row["decision"]) if row is not None and known else "unknown"

    def say(self, topic: str, conclusion: str, sentence: str, *, alarm: bool = False) -> Conclusion:
        return Conclusion(
            topic=topic,
            conclusion=conclusion,
            understanding=self.understanding,
            execution=self.execution,
            holdout=self.holdout,
            sentence=sentence,
            alarm=alarm,
        )


_FEW_COPIES = 0.05  # of the test episodes


def _leaks(table: pd.DataFrame) -> Iterator[Conclusion]:
    for verdict in ("overlap", "near-duplicates"):
        rows = table[table["verdict"] == verdict]
        if verdict == "near-duplicates":
            rows = rows[_last_claims(table).loc[rows.index]]
        for values, same in rows.groupby(["understanding", "execution", "holdout"], sort=False):
            panel = _Panel(str(values[0]), str(values[1]), str(values[2]), same)
            first = same.iloc[0]
            if verdict == "overlap":
                yield panel.say(
                    "leak",
                    "broken",
                    f"Training and test set share what holding out {panel.holdout} keeps apart "
                    f"({first['shared_episodes']} episodes, {first['shared_instructions']} instructions, "
                    f"{first['shared_tasks']} tasks): no score of this holdout is to be read.",
                    alarm=True,
                )
            else:
                copies = same[["close_u", "close_e"]].max(axis=1)
                first = same.iloc[int(copies.to_numpy().argmax())]
                most = int(copies.max())
                yield panel.say(
                    "leak",
                    "near-duplicates",
                    f"Up to {most} of {first['n_test']} test episodes have a near-copy among the training episodes "
                    f"(holdout {panel.holdout}): part of the score may be memory.",
                    alarm=most > _FEW_COPIES * int(first["n_test"]),
                )


def _last_claims(table: pd.DataFrame) -> "pd.Series[bool]":
    """Rows of a claim at its last checkpoint, all test episodes together."""
    last = table.groupby(["understanding", "execution", "source_e"])["step_e"].transform("max")
    blanked = table["source_e"].str.endswith(BLANK)
    return (table["step_e"] == last) & ~blanked & (table["understanding"] != PIXELS) & (table["split"] == "all")


def _shuffled(panel: _Panel) -> Iterator[Conclusion]:
    row = panel.row("shuffled", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    level = f"{_percent(row['value'])} (95 % interval {_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    if decide_level(row["ci_low"], row["ci_high"], row["chance"]) == "more":
        yield panel.say(
            "shuffled",
            "broken",
            f"Heads fitted on shuffled pairs score above chance: {level}, chance {_percent(row['chance'])}. Something "
            "leaks, or the labels are wrong. Read no other number before this is found.",
            alarm=True,
        )
    else:
        yield panel.say(
            "shuffled",
            "sound",
            f"Shuffled pairs are not above chance, as it must be: {level}, chance {_percent(row['chance'])}.",
        )


def _chance(panel: _Panel) -> Iterator[Conclusion]:
    row = panel.row("main", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    level = f"{_percent(row['value'])} ({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    chance = f"chance {_percent(row['chance'])}, {_number(row['n_test'])} test episodes"
    decision = decide_level(row["ci_low"], row["ci_high"], row["chance"])
    if decision == "more":
        yield panel.say("chance", "above", f"The two sides agree above chance: {level}, {chance}.")
    elif decision == "less":
        yield panel.say(
            "chance", "below", f"Agreement lies below chance: {level}, {chance}. Look for a mistake.", alarm=True
        )
    else:
        yield panel.say("chance", "not shown", f"No agreement above chance is shown: {level}, {chance}.")


def _conclude_rise(panel: _Panel) -> Iterator[Conclusion]:
    row = panel.row("main", "rise")
    if row is None:
        return
    how = panel.decided("main", "rise")
    span = f"from step {_number(row['step_first'])} to {_number(row['step'])}"
    words = {
        "more": ("rises", f"The score on demonstrations rises {span}: {_difference(row)}."),
        "less": ("falls", f"The score on demonstrations falls {span}: {_difference(row)}."),
        "none": (
            "flat",
            f"The score on demonstrations stays the same {span}, within {100 * MARGIN:g} points: {_difference(row)}.",
        ),
        "undecided": (
            "not shown",
            f"No rise of the score on demonstrations is shown {span}: {_difference(row)}.",
        ),
    }
    if how in words:
        yield panel.say("rise", *words[how])


def _instruction(panel: _Panel) -> Iterator[Conclusion]:
    claim, blank, start = panel.row("main", "level"), panel.row("blank", "level"), panel.row("step-0", "level")
    if claim is None:
        return
    rise, lowered, blank_rise = (
        panel.decided("main", "rise"),
        panel.decided("blank", "level"),
        panel.decided("blank", "rise"),
    )
    missing = [name for name, known in (("blank", lowered), ("step-0", rise)) if known == "unknown"]
    if missing or blank is None or start is None:
        absent = missing or ["blank" if blank is None else "step-0"]
        yield panel.say(
            "instruction",
            "untested",
            "Whether the score comes from the instruction that the policy is told cannot be said: "
            + " and ".join(f"{_NAMES[name]} is missing ({_COMMANDS[name]})" for name in absent)
            + ".",
        )
        return
    levels = (
        f"{_percent(claim['value'])} after training, {_percent(start['value'])} with random weights, "
        f"{_percent(blank['value'])} with the instruction blanked"
    )
    blanked = panel.row("blank", "rise")
    if rise == "more":
        if blanked is None or blank_rise == "unknown":
            yield panel.say(
                "instruction",
                "untested",
                "Whether the rise on demonstrations comes from the instruction cannot be said: the blanked control has "
                f"one checkpoint only ({levels}).",
            )
        elif blank_rise == "more":
            yield panel.say(
                "instruction",
                "rise survives",
                "The rise on demonstrations is not explained by the instruction given to the policy alone: with the "
                f"instruction blanked the score rises too ({_difference(blanked)}); {levels}.",
            )
        elif blank_rise == "undecided":
            yield panel.say(
                "instruction",
                "rise perhaps explained",
                "The rise on demonstrations may be explained by the instruction given to the policy: with the "
                f"instruction blanked no rise is shown ({_difference(blanked)}); {levels}.",
            )
        else:
            yield panel.say(
                "instruction",
                "rise explained",
                "The rise on demonstrations is explained by the instruction given to the policy: with the instruction "
                f"blanked the score does not rise ({_difference(blanked)}); {levels}.",
            )
        return
    flat = {"none": "as high", "less": "higher", "undecided": "not shown to be lower"}[rise]
    if lowered == "more":
        yield panel.say(
            "instruction",
            "score explained",
            "The score on demonstrations is explained by the instruction given to the policy, not by its training: "
            f"before training it is {flat}, and without the instruction it drops by {_difference(blank)}; {levels}.",
        )
    else:
        yield panel.say(
            "instruction",
            "nothing from training",
            f"The score on demonstrations is not shown to come from training the policy (before training it is {flat}) "
            f"nor from the instruction (blanking it changes {_difference(blank)}); {levels}.",
        )


def _pixels(panel: _Panel) -> Iterator[Conclusion]:
    row, how = panel.row("pixels", "level"), panel.decided("pixels", "level")
    if row is None or how == "unknown":
        return
    words = {
        "more": ("beyond pixels", "The understanding model adds to what pixels give"),
        "none": (
            "pixels suffice",
            "Pixels score as high as the understanding model: this score needs no understanding",
        ),
        "less": (
            "pixels suffice",
            "Pixels score higher than the understanding model: this score needs no understanding",
        ),
        "undecided": ("not told apart", "The understanding model is not told apart from pixels at this sample size"),
    }
    conclusion, text = words[how]
    yield panel.say("pixels", conclusion, f"{text}: {_percent(row['value'])} with pixels, {_difference(row)}.")


def _task(panel: _Panel, parts: pd.DataFrame) -> Iterator[Conclusion]:
    row = panel.row("main", "level")
    oracle = _oracle(parts, panel.understanding, panel.execution, panel.holdout)
    if row is None or not np.isfinite(row["ci_low"]) or not np.isfinite(oracle):
        return
    claim = f"{_percent(row['value'])} ({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    if decide_level(row["ci_low"], row["ci_high"], oracle) == "more":
        yield panel.say(
            "task", "beyond task", f"The score is more than knowing the task alone gives ({_percent(oracle)}): {claim}."
        )
    else:
        yield panel.say(
            "task",
            "task suffices",
            f"Knowing the task and nothing else would score {_percent(oracle)} on this test set: {claim} shows no more "
            "than the task.",
        )


def _oracle(parts: pd.DataFrame | None, understanding: str, execution: str, holdout: str) -> float:
    """What knowing the task alone would score; NaN where that was not computed."""
    if parts is None:
        return float("nan")
    own = parts[(parts["quantity"] == "oracle") & (parts["factor"] == "task") & (parts["holdout"] == holdout)]
    own = own[(own["understanding"] == understanding) & (own["execution"] == execution)]
    return float(own.iloc[0]["value"]) if len(own) else float("nan")


def _rollouts(panel: _Panel) -> Iterator[Conclusion]:
    row, how = panel.row("rollouts", "rise"), panel.decided("rollouts", "rise")
    if row is None or how == "unknown":
        return
    blanked = panel.row("rollouts-blank", "rise")
    place = "On the policy's own episodes"
    if how != "more":
        yield panel.say("rollouts", "not shown", f"{place} no rise is shown: {_difference(row)}.")
    elif blanked is None or panel.decided("rollouts-blank", "rise") == "unknown":
        yield panel.say(
            "rollouts",
            "shown",
            f"{place} the score rises with training ({_difference(row)}); with the instruction blanked it was not "
            "measured.",
        )
    elif panel.decided("rollouts-blank", "rise") == "more":
        yield panel.say(
            "rollouts",
            "survives",
            f"{place} the score rises with training ({_difference(row)}), and with the instruction blanked too "
            f"({_difference(blanked)}).",
        )
    else:
        yield panel.say(
            "rollouts",
            "with the instruction only",
            f"{place} the score rises with training ({_difference(row)}), but with the instruction blanked no rise is "
            f"shown ({_difference(blanked)}).",
        )


def _known(understanding: str, execution: str, rows: pd.DataFrame, parts: pd.DataFrame | None) -> Iterator[Conclusion]:
    claims = rows[(rows["series"] == "main") & (rows["kind"] == "level")]
    found = {str(row["holdout"]): row for _, row in claims.iterrows()}
    if not {"episodes", "instructions"} <= set(found):
        return
    above = {name: decide_level(row["ci_low"], row["ci_high"], row["chance"]) == "more" for name, row in found.items()}
    panel = _Panel(understanding, execution, "both", rows)
    new, oracle = found["instructions"], _oracle(parts, understanding, execution, "instructions")
    if above["episodes"] and not above["instructions"]:
        yield panel.say(
            "known instructions",
            "known only",
            "What the two sides share is tied to instructions the heads have seen: on new instructions the score is "
            f"not above chance ({_percent(new['value'])}, chance {_percent(new['chance'])}).",
        )
    elif above["episodes"] and np.isfinite(oracle) and decide_level(new["ci_low"], new["ci_high"], oracle) != "more":
        yield panel.say(
            "known instructions",
            "the task carries over",
            "What the two sides share carries over to instructions the heads have never seen "
            f"({_percent(new['value'])}, chance {_percent(new['chance'])}), but not further than the task does.",
        )
    elif above["episodes"]:
        yield panel.say(
            "known instructions",
            "carries over",
            "What the two sides share carries over to instructions the heads have never seen "
            f"({_percent(new['value'])}, chance {_percent(new['chance'])}).",
        )


_NAMES = {"blank": "the control with the instruction blanked", "step-0": "the checkpoint before training"}


def _difference(row: "pd.Series[Any]") -> str:
    """The difference with the interval that decides, and what an undecided one leaves unsaid."""
    text = f"{100 * row['difference']:+.1f} points"
    if not np.isfinite(row["low"]):
        return text
    among = f" over {row['comparisons']} comparisons" if row["comparisons"] > 1 else ""
    text += f" ({100 * row['low']:+.1f} to {100 * row['high']:+.1f}{among})"
    unsaid = missed(float(row["seen"])) if row["decision"] == "undecided" else ""
    return f"{text}; {unsaid}" if unsaid else text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:.0f}"


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


def findings(run: RunDir | RunTables, problems: list[str] | None = None) -> tuple[Finding, ...]:
    """The questions of the study with their answers, as far as the run has measured them.

    What cannot be read is added to `problems` and its question left open.
    """
    told: list[str] = [] if problems is None else problems
    tables = RunTables.load(run)
    table = _attempt(lambda: tables.alignment, told)
    data = _attempt(lambda: curve_data(table) if table is not None else None, told)
    makers: tuple[Callable[[], Finding], ...] = (
        lambda: _rise(data),
        lambda: _success(table),
        lambda: _aligned(data),
        lambda: _recognition(tables),
        lambda: _execution(tables),
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


def _recognition(tables: RunTables) -> Finding:
    question = "Does joint training help recognition?"
    measured = tables.table(MEASURED_RECOGNITION)
    if measured is None:
        return _open(question, "Recognition has not been measured: `mnprobe recognize` does.")
    table, where = settled_recognition(measured)
    table = table[table["task"] == ALL_TASKS].rename(columns={"top1": "value"})
    found, paired = tables.table(MEASURED_PREDICTIONS), None
    if found is not None:
        source = str(table["source"].iloc[0])
        paired = found[found["source"] == source].rename(columns={"correct": "value"})
        if len(table["partition"]) and table["partition"].iloc[0] in set(paired["partition"]):
            paired = paired[paired["partition"] == table["partition"].iloc[0]]
    return _helped(question, table, paired, f"top-1 over all instructions ({where})")


def _execution(tables: RunTables) -> Finding:
    question = "Does joint training help execution?"
    table = tables.table(SUCCESS)
    if table is None:
        return _open(question, "Closed-loop success has not been measured: `mnprobe rollout` does.")
    world = table["world"].iloc[0]
    table = table[(table["task"] == ALL_TASKS) & (table["world"] == world)]
    played = [
        {"model": one.model, "step": one.step, "id": f"{end.id} {end.seed} {end.repeat}", "value": end.success}
        for one in find_rollouts(tables.run.rollouts)
        if one.world == world
        for end in one.outcomes
    ]
    paired = pd.DataFrame(played, columns=["model", "step", "id", "value"])
    return _helped(question, table, paired, f"closed-loop success ({world})")


def _helped(question: str, table: pd.DataFrame, paired: pd.DataFrame | None, what: str) -> Finding:
    """Baseline against joint at the last step that both have: one row, and the instruction blanked beside it."""
    taken = [ModelName.parse(str(model)) for model in table["model"]]
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
    degrees = max(float(min(first["n_groups"], last["n_groups"])) - 1, 1.0)
    sampling = from_intervals(_limits(first), _limits(last), n=n, degrees=degrees)
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
        degrees=max(float(row["n_groups"]) - 1, 1.0),
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
    """All intervals simultaneous over the leading comparisons, of which the answer in words is made."""
    comparisons = sum(row.leads for row in rows) or len(rows)
    rows = [replace(row, difference=row.difference.over(comparisons)) for row in rows]
    leading = [row for row in rows if row.leads] or rows
    places = list(dict.fromkeys(row.where for row in leading))
    sentences = tuple(_sentence(where, [row for row in leading if row.where == where]) for where in places)
    return Finding(
        question=question,
        short=_short([row.difference.decision for row in leading]),
        sentences=sentences,
        before=before,
        after=after,
        rows=tuple(rows),
        note=note.strip(),
    )


_ANSWERS = {"more": "yes", "none": "no", "less": "no, the reverse", "undecided": "cannot be told"}


def _short(decisions: Sequence[str]) -> str:
    """One word where all agree, else how many say what."""
    counts = {words: decisions.count(name) for name, words in _ANSWERS.items() if name in decisions}
    if len(counts) == 1:
        (name,) = counts
        return f"{name[0].upper()}{name[1:]}."
    told = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return f"Mixed: of {len(decisions)} comparisons, {told}."


def _sentence(where: str, rows: Sequence[Comparison]) -> str:
    pieces = []
    for row in rows:
        made = row.difference
        ends = f"{100 * made.value:+.1f} points"
        if np.isfinite(made.before) and np.isfinite(made.after):
            ends = f"{100 * made.before:.1f} % to {100 * made.after:.1f} %, {ends}"
        if np.isfinite(made.low):
            ends += f", 95 % interval {100 * made.low:+.1f} to {100 * made.high:+.1f}"
            ends += f" over {made.comparisons} comparisons" if made.comparisons > 1 else ""
        if made.missed:
            ends += f"; {made.missed}"
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
