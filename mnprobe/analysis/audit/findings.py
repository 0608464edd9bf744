"""Findings of a run: conclusions by fixed rules from its tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mnprobe.analysis.audit import finding_text
from mnprobe.analysis.audit.controls import CONTROLS
from mnprobe.analysis.audit.effects import (
    SEEDS,
    Difference,
    decide_level,
    decide_rows,
    from_intervals,
    from_pairs,
    over_seeds,
    over_trainings,
)
from mnprobe.analysis.figures.curve_data import DIFFERENCE, OUTCOMES, SHARED_PROBE, CurveData, curve_data
from mnprobe.analysis.tables.alignment import HOLDOUTS
from mnprobe.analysis.tables.progress import MEASURED_PREDICTIONS, MEASURED_RECOGNITION, settled_recognition
from mnprobe.analysis.tables.rollouts import ALL_TASKS, SUCCESS, find_rollouts
from mnprobe.analysis.tables.run_tables import VERDICT, RunTables
from mnprobe.core.errors import MnprobeError, ProbeError
from mnprobe.core.names import BLANK, PIXELS, ModelName
from mnprobe.core.rundir import RunDir

__all__ = [
    *("Effect", "Finding", "against_chance", "audited", "audited_row", "control_decisions", "findings"),
    *("joint_answers", "read_verdicts", "verdict_table", "verdicts"),
]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One comparison: `subject` (a training), `where` (what it was measured on), chance (NaN where there is none).

    `held_out` names the test episodes, where that makes a difference; `leads`: the answer in words is made of this
    comparison; `settled`: its interval is already simultaneous, over the comparisons of the audit.
    """

    subject: str
    where: str
    difference: Difference
    held_out: str = ""
    chance: float = float("nan")
    leads: bool = False
    settled: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One conclusion by a fixed rule, with the numbers behind it; `finding_text` puts it into words.

    Attributes:
        topic: what it is about: of a pair of models under one holdout "rise", "instruction", "chance", ... (rows of
            results/verdict.csv); of the whole run one of `finding_text.QUESTIONS`.
        conclusion: what the rule gives, a fixed word of the topic.
        understanding, execution, holdout: the pair of models and the holdout; "" where it is about several.
        alarm: must be read before any number is.
        rows: the comparisons that the answer to a question rests on.
        trainings: of which the fewest comparison is made; 0 where nothing was compared.
        facts: rows of tables and numbers that the sentence names.
        written: the sentence, where it was read from results/verdict.csv.
    """

    topic: str
    conclusion: str
    understanding: str = ""
    execution: str = ""
    holdout: str = ""
    alarm: bool = False
    rows: tuple[Effect, ...] = ()
    trainings: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    written: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """In words."""
        return finding_text.sentences(self)

    @property
    def sentence(self) -> str:
        """All sentences in one text."""
        return " ".join(self.sentences)

    @property
    def question(self) -> str:
        """The question that it answers; "" where it answers none."""
        return finding_text.QUESTIONS.get(self.topic, "")

    @property
    def short(self) -> str:
        """The answer in a few words."""
        return finding_text.short_answer(self)

    @property
    def note(self) -> str:
        """What the comparisons leave open; "" where there is nothing to add."""
        return finding_text.note(self)

    @property
    def leading(self) -> tuple[Effect, ...]:
        """The comparisons that the answer in words is made of; all of them where none leads."""
        return tuple(row for row in self.rows if row.leads) or self.rows

    @property
    def ends(self) -> tuple[str, str]:
        """Names of the two things compared."""
        return finding_text.ENDS.get(self.topic, ("", ""))


def verdict_table(found: Sequence[Finding]) -> pd.DataFrame:
    """Findings as the rows of results/verdict.csv."""
    return pd.DataFrame(
        [[getattr(finding, name) for name in VERDICT.columns] for finding in found], columns=list(VERDICT.columns)
    )


def read_verdicts(table: pd.DataFrame) -> tuple[Finding, ...]:
    """The rows of results/verdict.csv as findings, with the sentences that the file has."""
    return tuple(
        Finding(
            topic=str(row["topic"]),
            conclusion=str(row["conclusion"]),
            understanding=str(row["understanding"]),
            execution=str(row["execution"]),
            holdout=str(row["holdout"]),
            alarm=bool(row["alarm"]),
            written=str(row["sentence"]),
        )
        for _, row in table.iterrows()
    )


_DECIDING = (
    *(("main", "rise"), ("blank", "level"), ("blank", "rise"), ("pixels", "level")),
    *(("rollouts", "rise"), ("rollouts-blank", "rise")),
)
"""Series and kind of the differences that the sentences rest on: the leading comparisons of a pair and holdout."""


def control_decisions(controls: pd.DataFrame) -> pd.DataFrame:
    """Decide each difference of results/controls.csv: DECISION_COLUMNS, row by row.

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
) -> tuple[Finding, ...]:
    """Conclusions from results/controls.csv (and leakage.csv, decomposition.csv), alarms first.

    The rules, for every pair and holdout. `more`, `less`, `none`, `undecided` are those of `decide`, of differences as
    in `control_decisions`, of levels on their own 95 % interval against a fixed number.

    - leak: a row of the leakage table says "overlap" (broken); or, of a claim at its last checkpoint, "near-duplicates"
      (an alarm where they are more than 5 % of the test episodes). At step 0 and with the instruction blanked a policy
      may well be blind to what differs, so that its features repeat; pixels are no claim.
    - shuffled: the interval of shuffled pairs is above chance (broken), or not (sound).
    - chance: the claim's interval is above chance (above), below it (below), or includes it (not shown).
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
      on new instructions is above what the task alone would score (carries over), or not (the task carries over).
    """
    found: list[Finding] = []
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

    def finding(self, topic: str, conclusion: str, *, alarm: bool = False, **facts: Any) -> Finding:
        return Finding(
            topic=topic,
            conclusion=conclusion,
            understanding=self.understanding,
            execution=self.execution,
            holdout=self.holdout,
            alarm=alarm,
            facts=facts,
        )


_FEW_COPIES = 0.05  # of the test episodes


def _leaks(table: pd.DataFrame) -> Iterator[Finding]:
    for verdict in ("overlap", "near-duplicates"):
        rows = table[table["verdict"] == verdict]
        if verdict == "near-duplicates":
            rows = rows[_last_claims(table).loc[rows.index]]
        for values, same in rows.groupby(["understanding", "execution", "holdout"], sort=False):
            panel = _Panel(str(values[0]), str(values[1]), str(values[2]), same)
            if verdict == "overlap":
                yield panel.finding("leak", "broken", row=same.iloc[0], alarm=True)
            else:
                copies = same[["close_u", "close_e"]].max(axis=1)
                row = same.iloc[int(copies.to_numpy().argmax())]
                most = int(copies.max())
                alarm = most > _FEW_COPIES * int(row["n_test"])
                yield panel.finding("leak", "near-duplicates", row=row, copies=most, alarm=alarm)


def _last_claims(table: pd.DataFrame) -> "pd.Series[bool]":
    """Rows of a claim at its last checkpoint, all test episodes together."""
    last = table.groupby(["understanding", "execution", "source_e"])["step_e"].transform("max")
    blanked = table["source_e"].str.endswith(BLANK)
    return (table["step_e"] == last) & ~blanked & (table["understanding"] != PIXELS) & (table["split"] == "all")


def against_chance(row: "pd.Series[Any]") -> str:
    """Place of a level's interval: "above" chance, "below", "not shown" (it includes chance); "unknown" without one."""
    if not (np.isfinite(row["ci_low"]) and np.isfinite(row["chance"])):
        return "unknown"
    decision = decide_level(row["ci_low"], row["ci_high"], row["chance"])
    return {"more": "above", "less": "below"}.get(decision, "not shown")


def _shuffled(panel: _Panel) -> Iterator[Finding]:
    row = panel.row("shuffled", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    broken = against_chance(row) == "above"
    yield panel.finding("shuffled", "broken" if broken else "sound", row=row, alarm=broken)


def _chance(panel: _Panel) -> Iterator[Finding]:
    row = panel.row("main", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    conclusion = against_chance(row).replace("unknown", "not shown")
    yield panel.finding("chance", conclusion, row=row, alarm=conclusion == "below")


_RISES = {"more": "rises", "less": "falls", "none": "flat", "undecided": "not shown"}


def _conclude_rise(panel: _Panel) -> Iterator[Finding]:
    row, decision = panel.row("main", "rise"), panel.decided("main", "rise")
    if row is not None and decision in _RISES:
        yield panel.finding("rise", _RISES[decision], row=row)


def _instruction(panel: _Panel) -> Iterator[Finding]:
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
        yield panel.finding("instruction", "untested", missing=absent)
        return
    levels: dict[str, Any] = {"claim": claim, "start": start, "blank": blank}
    if rise == "more":
        blanked = panel.row("blank", "rise")
        if blanked is None or blank_rise == "unknown":
            yield panel.finding("instruction", "untested", missing=[], **levels)
            return
        survives = {"more": "rise survives", "undecided": "rise perhaps explained"}
        conclusion = survives.get(blank_rise, "rise explained")
        yield panel.finding("instruction", conclusion, blanked=blanked, **levels)
        return
    conclusion = "score explained" if lowered == "more" else "nothing from training"
    yield panel.finding("instruction", conclusion, rise=rise, **levels)


def _pixels(panel: _Panel) -> Iterator[Finding]:
    row, decision = panel.row("pixels", "level"), panel.decided("pixels", "level")
    if row is None or decision == "unknown":
        return
    names = {"more": "beyond pixels", "undecided": "not told apart"}
    yield panel.finding("pixels", names.get(decision, "pixels suffice"), row=row)


def _task(panel: _Panel, parts: pd.DataFrame) -> Iterator[Finding]:
    row = panel.row("main", "level")
    oracle = _oracle(parts, panel.understanding, panel.execution, panel.holdout)
    if row is None or not np.isfinite(row["ci_low"]) or not np.isfinite(oracle):
        return
    beyond = decide_level(row["ci_low"], row["ci_high"], oracle) == "more"
    yield panel.finding("task", "beyond task" if beyond else "task suffices", row=row, oracle=oracle)


def _oracle(parts: pd.DataFrame | None, understanding: str, execution: str, holdout: str) -> float:
    """What knowing the task alone would score; NaN where that was not computed."""
    if parts is None:
        return float("nan")
    own = parts[(parts["quantity"] == "oracle") & (parts["factor"] == "task") & (parts["holdout"] == holdout)]
    own = own[(own["understanding"] == understanding) & (own["execution"] == execution)]
    return float(own.iloc[0]["value"]) if len(own) else float("nan")


def _rollouts(panel: _Panel) -> Iterator[Finding]:
    row, decision = panel.row("rollouts", "rise"), panel.decided("rollouts", "rise")
    if row is None or decision == "unknown":
        return
    blanked, blank_rise = panel.row("rollouts-blank", "rise"), panel.decided("rollouts-blank", "rise")
    if decision != "more":
        conclusion = "not shown"
    elif blanked is None or blank_rise == "unknown":
        conclusion = "shown"
    else:
        conclusion = "survives" if blank_rise == "more" else "with the instruction only"
    yield panel.finding("rollouts", conclusion, row=row, blanked=blanked)


def _known(understanding: str, execution: str, rows: pd.DataFrame, parts: pd.DataFrame | None) -> Iterator[Finding]:
    claims = rows[(rows["series"] == "main") & (rows["kind"] == "level")]
    levels = {str(row["holdout"]): row for _, row in claims.iterrows()}
    if not {"episodes", "instructions"} <= set(levels) or against_chance(levels["episodes"]) != "above":
        return
    new, oracle = levels["instructions"], _oracle(parts, understanding, execution, "instructions")
    if against_chance(new) != "above":
        conclusion = "known only"
    elif np.isfinite(oracle) and decide_level(new["ci_low"], new["ci_high"], oracle) != "more":
        conclusion = "the task carries over"
    else:
        conclusion = "carries over"
    yield _Panel(understanding, execution, "both", rows).finding("known instructions", conclusion, row=new)


_LINES = ("main", "blank", "rollouts", "rollouts-blank")
_LINE_NAMES = {
    "main": "demonstrations",
    "blank": "demonstrations, instruction blanked",
    "rollouts": "own episodes",
    "rollouts-blank": "own episodes, instruction blanked",
}
_SIDES = {"understanding": "actions recognised or not", "execution": "actions carried out or not"}


def findings(run: RunDir | RunTables, problems: list[str] | None = None) -> tuple[Finding, ...]:
    """The questions of the study with their answers, as far as the run has measured them.

    What cannot be read is added to `problems` and its question left open.
    """
    noted: list[str] = [] if problems is None else problems
    tables = RunTables.load(run)
    table = _attempt(lambda: tables.alignment, noted)
    data = _attempt(lambda: curve_data(table) if table is not None else None, noted)
    makers: tuple[Callable[[], Finding], ...] = (
        lambda: _rise(data, tables),
        lambda: _success(table, tables),
        lambda: _aligned(data),
        lambda: _recognition(tables),
        lambda: _execution(tables),
    )
    made = []
    for maker in makers:
        found = _attempt(maker, noted)
        if found is not None:
            made.append(found)
    return tuple(made)


def joint_answers(run: RunDir | RunTables) -> tuple[Finding, ...]:
    """The questions on joint training that the run has measured, as `findings` answers them."""
    found = findings(run, [])
    return tuple(one for one in found if one.topic.startswith("joint") and one.rows)


_T = TypeVar("_T")


def _attempt(make: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return make()
    except MnprobeError as error:
        problems.append(f"Not answered: {error}")
        return None


def _rise(data: CurveData | None, tables: RunTables) -> Finding:
    """From the paired intervals of the audit, where there is one of the same difference; else from both intervals."""
    topic = "rise with training"
    if data is None:
        return _open(topic, "alignment")
    differences = audited(tables)
    points = data.points[data.points["series"].isin(_LINES)]
    rows = []
    for (holdout, understanding, execution, series), line in points.groupby(_LINE, sort=False):
        ordered = line.sort_values("step", kind="stable")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        if first["step"] == last["step"] or first["step"] != 0:
            continue
        paired = _paired_rise(differences, first, last)
        rows.append(
            Effect(
                subject=_subject(first["training"], understanding, execution),
                where=_LINE_NAMES[str(series)],
                held_out=HOLDOUTS.get(str(holdout), str(holdout)),
                difference=_between(data, first, last) if paired is None else paired,
                chance=float(last["chance"]),
                leads=holdout == points["holdout"].iloc[0],
                settled=paired is not None,
            )
        )
    return _finding(topic, rows, trainings=_trainings(data.each)) if rows else _open(topic, "one checkpoint")


def audited(tables: RunTables) -> pd.DataFrame | None:
    """The paired differences of results/controls.csv, joined with `control_decisions`; None where there is no table."""
    try:
        controls = tables.table(CONTROLS)
    except MnprobeError:  # the list of all results says what is wrong with the file
        return None
    if controls is None:
        return None
    found: pd.DataFrame = controls.join(control_decisions(controls)).dropna(subset=["low", "high"])
    return found


def audited_row(differences: pd.DataFrame | None, point: pd.Series, kind: str) -> "pd.Series[Any] | None":
    """The row of `audited` that belongs to a point of the curve, of one training; None where it has other numbers."""
    if differences is None or point["n_trainings"] != 1:
        return None
    same = differences[(differences[_LINE] == point[_LINE].tolist()).all(axis=1) & (differences["kind"] == kind)]
    same = same[(same["step"] == point["step"]) & ((same["value"] - point["value"]).abs() <= 1e-9)]
    return None if same.empty else same.iloc[0]


def _paired_rise(differences: pd.DataFrame | None, first: pd.Series, last: pd.Series) -> Difference | None:
    row = audited_row(differences, last, "rise")
    if row is None or row["step_first"] != first["step"]:
        return None
    return Difference(
        before=float(first["value"]),
        after=float(last["value"]),
        value=float(row["difference"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=f"{last['n_test']:.0f} test episodes in {last['n_groups']:.0f} groups",
        basis="paired over instructions, as in the audit",
        comparisons=int(row["comparisons"]),
        known_seen=float(row["seen"]),
    )


def _success(table: pd.DataFrame | None, tables: RunTables) -> Finding:
    """At the checkpoint of each policy whose success is nearest one half, where that was chosen; else at the last."""
    topic = "success"
    if table is None:
        return _open(topic, "outcomes")
    try:
        parts = [
            ("", curve_data(table, metric=DIFFERENCE, split=OUTCOMES)),
            (", within tasks", curve_data(table, metric=f"within_task_{DIFFERENCE}", split=OUTCOMES)),
        ]
    except ProbeError:
        return _open(topic, "outcomes")
    halves = {(_key(model), step) for model, step in tables.half_steps.items()}
    levels = _attempt(lambda: curve_data(table, split=OUTCOMES), [])
    rows = []
    for words, data in parts:
        for _, line in data.each.groupby(_LINE, sort=False):
            taken, at_half = _judged(line, halves)
            first = taken.iloc[0]
            side = str(first["series"]).partition("-")[0]
            steps = list(dict.fromkeys(taken["step"]))
            where = f"{'steps' if len(steps) > 1 else 'step'} {', '.join(map(str, steps))}"
            where += ", nearest one half" if at_half else ""
            where += ", one probe for both" if first["mode"] == SHARED_PROBE else ""
            single = [_gap(row, levels if not words else None) for _, row in taken.iterrows()]
            rows.append(
                Effect(
                    subject=_subject(first["training"], first["understanding"], first["execution"]),
                    where=f"{_SIDES.get(side, side)} ({first['source_e']}, {where}){words}",
                    held_out=HOLDOUTS.get(str(first["holdout"]), str(first["holdout"])),
                    difference=single[0] if len(single) == 1 else over_seeds(single, what="trainings"),
                    leads=bool(first["holdout"] == data.points["holdout"].iloc[0]),
                )
            )
    return _finding(topic, rows, trainings=_trainings(parts[0][1].each))


def _key(model: object, seed: int = 0) -> tuple[str, int]:
    """A model by its name without its seed, and that seed."""
    name = ModelName.parse(str(model))
    return name.without_seed, seed if name.seed is None else name.seed


def _judged(line: pd.DataFrame, halves: set[tuple[tuple[str, int], int]]) -> tuple[pd.DataFrame, bool]:
    """One row a training: where its success is nearest one half, if that was chosen and measured; else the last."""
    places = zip(line["execution"], line["training_seed"], line["step"], strict=True)
    half = line[[(_key(model, seed), step) in halves for model, seed, step in places]]
    rest = line[~line["training_seed"].isin(half["training_seed"])].sort_values("step", kind="stable")
    taken = pd.concat([half, rest.groupby("training_seed", sort=False).tail(1)])
    return taken.sort_values("training_seed", kind="stable"), rest.empty


_PAIRS = "seed pairs"
"""A baseline and a joint training of one seed: the unit of every question on joint training."""


def _aligned(data: CurveData | None) -> Finding:
    topic = "joint alignment"
    if data is None:
        return _open(topic, "alignment")
    if not {"baseline", "joint"} <= set(data.compared):
        return _open(topic, "two trainings")
    each = data.each[data.each["series"].isin(_LINES)]
    rows = []
    for (holdout, series), line in each.groupby(["holdout", "series"], sort=False):
        step, sides = _sides_at_last_step(line)
        if step is None:
            continue
        single = [_within(sides[0].loc[seed], sides[1].loc[seed]) for seed in sides[0].index]
        rows.append(
            Effect(
                subject=f"joint, step {step}",
                where=_LINE_NAMES[str(series)],
                held_out=HOLDOUTS.get(str(holdout), str(holdout)),
                difference=over_seeds(single, what=_PAIRS),
                chance=float(sides[1]["chance"].mean()),
                leads=holdout == data.points["holdout"].iloc[0],
            )
        )
    return _finding(topic, rows, trainings=_fewest(rows)) if rows else _open(topic, "one step")


def _sides_at_last_step(rows: pd.DataFrame) -> tuple[int | None, tuple[pd.DataFrame, pd.DataFrame]]:
    """Baseline and joint by seed (columns `training`, `training_seed`, `step`), of the seeds that have both there.

    The step is the last one at which a seed has both; None where no seed has.
    """
    keys = ["step", "training_seed"]
    first, second = (
        rows[rows["training"] == name].drop_duplicates(keys).set_index(keys, drop=False).sort_index()
        for name in ("baseline", "joint")
    )
    common = first.index.intersection(second.index)
    if not len(common):
        return None, (first[:0], second[:0])
    step = int(max(common.get_level_values("step")))
    here = common[common.get_level_values("step") == step]
    sides = [side.loc[here].droplevel("step") for side in (first, second)]
    return step, (sides[0], sides[1])


def _within(before: pd.Series, after: pd.Series) -> Difference:
    """One seed pair: the interval over test episodes, from those of both."""
    n = f"{after['n_test']:.0f} test episodes in {after['n_groups']:.0f} groups"
    degrees = max(float(min(before["n_groups"], after["n_groups"])) - 1, 1.0)
    return from_intervals(_limits(before), _limits(after), n=n, degrees=degrees)


def _fewest(rows: Sequence[Effect]) -> int:
    return min(row.difference.seeds for row in rows if row.leads or not any(one.leads for one in rows))


def _recognition(tables: RunTables) -> Finding:
    topic = "joint recognition"
    measured = tables.table(MEASURED_RECOGNITION)
    if measured is None:
        return _open(topic, "recognition")
    table, where = settled_recognition(measured)
    table = table[table["task"] == ALL_TASKS].rename(columns={"top1": "value"})
    found, paired = tables.table(MEASURED_PREDICTIONS), None
    if found is not None:
        source = str(table["source"].iloc[0])
        paired = found[found["source"] == source].rename(columns={"correct": "value"})
        if len(table["partition"]) and table["partition"].iloc[0] in set(paired["partition"]):
            paired = paired[paired["partition"] == table["partition"].iloc[0]]
    return _helped(topic, table, paired, f"top-1 over all instructions ({where})")


def _execution(tables: RunTables) -> Finding:
    topic = "joint execution"
    table = tables.table(SUCCESS)
    if table is None:
        return _open(topic, "execution")
    world = table["world"].iloc[0]
    table = table[(table["task"] == ALL_TASKS) & (table["world"] == world)]
    played = [
        {"model": one.model, "step": one.step, "id": f"{end.id} {end.seed} {end.repeat}", "value": end.success}
        for one in find_rollouts(tables.run.rollouts)
        if one.world == world
        for end in one.outcomes
    ]
    paired = pd.DataFrame(played, columns=["model", "step", "id", "value"])
    return _helped(topic, table, paired, f"closed-loop success ({world})")


def _helped(topic: str, table: pd.DataFrame, paired: pd.DataFrame | None, what: str) -> Finding:
    """Baseline against joint at the last step that both have, by seed: one row, and one with the instruction blanked.

    `paired` has the outcome (`value`) of each episode (`id`) of each `model` at each `step`, where that is known.
    """
    taken = [ModelName.parse(str(model)) for model in table["model"]]
    table = table.assign(
        training=[one.training for one in taken],
        training_seed=[one.seed or 0 for one in taken],
        blank=[one.blank for one in taken],
    )
    rows = []
    for blank, group in table.groupby("blank", sort=True):
        step, sides = _sides_at_last_step(group)
        if step is None:
            continue
        single = _pairs_of_episodes(*sides, paired, step)
        rows.append(
            Effect(
                subject=f"joint, step {step}",
                where=what + (", instruction blanked" if blank else ""),
                difference=over_seeds(single, what=_PAIRS),
                chance=float(sides[1]["chance"].iloc[0]) if "chance" in sides[1] else float("nan"),
                leads=not blank,
            )
        )
    return _finding(topic, rows, trainings=_fewest(rows)) if rows else _open(topic, "one step")


def _pairs_of_episodes(
    before: pd.DataFrame, after: pd.DataFrame, paired: pd.DataFrame | None, step: int
) -> list[Difference]:
    """The difference of each seed pair, episode by episode; from the intervals of the table where a seed has no such.

    All seeds are compared on the same episodes: those that both trainings of the first seed have at this step. A seed
    that does not have them all was stopped while it played, and is left out. More than these (further episodes at the
    checkpoint nearest one half) are left out as well.
    """
    if paired is not None:
        here = paired[paired["step"] == step].set_index("id")
        played = [[here.loc[here["model"] == name, "value"] for name in side["model"]] for side in (before, after)]
        of_pairs = list(zip(*played, strict=True))
        shared = of_pairs[0][0].index.intersection(of_pairs[0][1].index)
        whole = [(one, two) for one, two in of_pairs if shared.isin(one.index).all() and shared.isin(two.index).all()]
        if len(shared):
            return [from_pairs(one[shared].tolist(), two[shared].tolist()) for one, two in whole]
    return [
        from_intervals(
            *(
                _three([float(side.loc[seed, name]) for name in ("value", "ci_low", "ci_high")])
                for side in (before, after)
            ),
            n=f"{after.loc[seed, 'n']:.0f} episodes",
        )
        for seed in before.index
    ]


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


def _gap(row: pd.Series, levels: CurveData | None) -> Difference:
    """A difference of one training that the table holds, with the two levels it is between where these are known."""
    side = str(row["series"]).partition("-")[0]
    ends = [float("nan"), float("nan")]
    if levels is not None:
        for place, outcome in enumerate(("failure", "success")):
            wanted = [*row[_LINE].tolist()[:3], f"{side}-{outcome}"]
            each = levels.each
            same = each[(each[_LINE] == wanted).all(axis=1) & (each["step"] == row["step"])]
            same = same[(same["training_seed"] == row["training_seed"]) & (same["mode"] == row["mode"])]
            ends[place] = float(same["value"].iloc[0]) if len(same) else float("nan")
    return Difference(
        before=ends[0],
        after=ends[1],
        value=float(row["value"]),
        low=float(row["ci_low"]),
        high=float(row["ci_high"]),
        n=f"{row['n_test']:.0f} test episodes on each side",
        basis="the interval is over instructions",
        degrees=max(float(row["n_groups"]) - 1, 1.0),
    )


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


def _finding(topic: str, rows: Sequence[Effect], *, trainings: int) -> Finding:
    """All intervals simultaneous over the leading comparisons, of which the answer in words is made."""
    comparisons = sum(row.leads for row in rows) or len(rows)
    rows = [row if row.settled else replace(row, difference=row.difference.over(comparisons)) for row in rows]
    leading = [row.difference for row in rows if row.leads] or [row.difference for row in rows]
    decisions = {"one pair" if made.one_seed else made.decision for made in leading}
    conclusion = decisions.pop() if len(decisions) == 1 else "mixed"
    return Finding(topic=topic, conclusion=conclusion, rows=tuple(rows), trainings=trainings)


def _open(topic: str, missing: str) -> Finding:
    return Finding(topic=topic, conclusion="not measured", facts={"missing": missing})


def _subject(training: object, understanding: object, execution: object) -> str:
    return str(training) or f"{understanding} and {execution}"


def _trainings(each: pd.DataFrame) -> int:
    """The most trainings that differ in their seed alone."""
    return int(each.groupby("training")["training_seed"].nunique().max())
