"""What the numbers say, in plain words: each sentence follows from a rule that anyone can check against the tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.probe.join import PIXELS

__all__ = ["MARGIN", "Finding", "relation", "verdicts"]

MARGIN = 0.05
"""Differences that lie within 5 points with 95 % confidence count as the same."""
_LEVEL = 0.05
_COMMANDS = {
    "blank": "`mnprobe extract --blank-instruction`",
    "step-0": "`mnprobe init`, then `mnprobe extract`",
    "pixels": "`mnprobe extract --model pixels`",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
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


def relation(difference: float, low: float, high: float, p: float) -> str:
    """How two scores relate: "more", "less", "same" or "open".

    "more" and "less": p (corrected) below 0.05. "same": not so, and the 95 % interval lies within 5 points of zero.
    "open": neither; too few data to say. "unknown": no difference was measured.

    >>> relation(0.2, 0.1, 0.3, 0.01), relation(0.0, -0.02, 0.02, 0.9), relation(0.1, -0.1, 0.3, 0.4)
    ('more', 'same', 'open')
    """
    if not np.isfinite(difference) or not np.isfinite(p):
        return "unknown"
    if p < _LEVEL:
        return "more" if difference > 0 else "less"
    return "same" if low >= -MARGIN and high <= MARGIN else "open"


def verdicts(
    controls: pd.DataFrame, leakage: pd.DataFrame | None = None, decomposition: pd.DataFrame | None = None
) -> tuple[Finding, ...]:
    """Conclusions from results/controls.csv (and leakage.csv, decomposition.csv beside it), alarms first.

    The rules, for every pair and holdout. `more`, `less`, `same`, `open` are those of `relation`, on corrected p.

    - leak: a row of the leakage table says "overlap" (broken); or, of a claim at its last checkpoint, "near-duplicates"
      (an alarm where they are more than 5 % of the test episodes). At step 0 and with the instruction blanked a policy
      may well be blind to what differs, so that its features repeat; pixels are no claim.
    - shuffled: the interval of shuffled pairs lies above chance (broken), or not (sound).
    - chance: the claim's interval lies above chance (above), below it (below), or holds it (not shown).
    - rise: last checkpoint minus first of the claim: more (rises), less (falls), same (flat), open (not shown).
    - instruction: why the claim is as high as it is. Needs the claim, step 0 and the blanked control; else "untested".
        - the claim rises, the blanked score does not (same or less): "rise explained" by the instruction. Where the
          blanked rise is open: "rise perhaps explained".
        - the claim rises, and so does the blanked score: "rise survives".
        - the claim does not rise and blanking lowers it: "score explained" by the instruction: a policy with random
          weights passes it on.
        - the claim does not rise and blanking does not lower it: "nothing from training": neither instruction nor
          training is behind it.
    - pixels: claim minus pixels: more (beyond pixels), same or less (pixels suffice), open (not told apart).
    - rollouts: rise on the policy's own episodes: shown and blanked too (survives), shown but not blanked (with the
      instruction only), not shown.
    - task: the claim's interval against what knowing the task alone would score (oracle): above it (beyond task), or
      not (task suffices).
    - known instructions: above chance on new episodes but not on new instructions (known only), or on both: the claim
      on new instructions lies above what the task alone would score (carries over), or not (the task carries over).
    """
    found: list[Finding] = []
    if leakage is not None:
        found += _leaks(leakage)
    for values, panel in controls.groupby(["understanding", "execution", "holdout"], sort=False):
        where = _Panel(str(values[0]), str(values[1]), str(values[2]), panel)
        for part in (_shuffled, _chance, _rise, _instruction, _pixels, _rollouts):
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

    def related(self, series: str, kind: str) -> str:
        row = self.row(series, kind)
        return "unknown" if row is None else relation(*(float(row[name]) for name in _DIFFERENCE))

    def say(self, topic: str, conclusion: str, sentence: str, *, alarm: bool = False) -> Finding:
        return Finding(
            topic=topic,
            conclusion=conclusion,
            understanding=self.understanding,
            execution=self.execution,
            holdout=self.holdout,
            sentence=sentence,
            alarm=alarm,
        )


_FEW_COPIES = 0.05  # of the test episodes
_DIFFERENCE = ("difference", "d_low", "d_high", "p_holm")


def _leaks(table: pd.DataFrame) -> Iterator[Finding]:
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
    blanked = table["source_e"].str.endswith("-blank")
    return (table["step_e"] == last) & ~blanked & (table["understanding"] != PIXELS) & (table["split"] == "all")


def _shuffled(panel: _Panel) -> Iterator[Finding]:
    row = panel.row("shuffled", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    level = f"{_percent(row['value'])} (95 % interval {_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    if row["ci_low"] > row["chance"]:
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


def _chance(panel: _Panel) -> Iterator[Finding]:
    row = panel.row("main", "level")
    if row is None or not np.isfinite(row["ci_low"]):
        return
    level = f"{_percent(row['value'])} ({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    chance = f"chance {_percent(row['chance'])}, {_number(row['n_test'])} test episodes"
    if row["ci_low"] > row["chance"]:
        yield panel.say("chance", "above", f"The two sides agree above chance: {level}, {chance}.")
    elif row["ci_high"] < row["chance"]:
        yield panel.say(
            "chance", "below", f"Agreement lies below chance: {level}, {chance}. Look for a mistake.", alarm=True
        )
    else:
        yield panel.say("chance", "not shown", f"No agreement above chance is shown: {level}, {chance}.")


def _rise(panel: _Panel) -> Iterator[Finding]:
    row = panel.row("main", "rise")
    if row is None:
        return
    how = panel.related("main", "rise")
    span = f"from step {_number(row['step_first'])} to {_number(row['step'])}"
    words = {
        "more": ("rises", f"The score on demonstrations rises {span}: {_difference(row)}."),
        "less": ("falls", f"The score on demonstrations falls {span}: {_difference(row)}."),
        "same": ("flat", f"The score on demonstrations stays the same {span}, within 5 points: {_difference(row)}."),
        "open": (
            "not shown",
            f"No rise of the score on demonstrations is shown {span}: {_difference(row)}{_seen(row)}.",
        ),
    }
    if how in words:
        yield panel.say("rise", *words[how])


def _instruction(panel: _Panel) -> Iterator[Finding]:
    claim, blank, start = panel.row("main", "level"), panel.row("blank", "level"), panel.row("step-0", "level")
    if claim is None:
        return
    rise, lowered, blank_rise = (
        panel.related("main", "rise"),
        panel.related("blank", "level"),
        panel.related("blank", "rise"),
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
        elif blank_rise == "open":
            yield panel.say(
                "instruction",
                "rise perhaps explained",
                "The rise on demonstrations may be explained by the instruction given to the policy: with the "
                f"instruction blanked no rise is shown ({_difference(blanked)}{_seen(blanked)}); {levels}.",
            )
        else:
            yield panel.say(
                "instruction",
                "rise explained",
                "The rise on demonstrations is explained by the instruction given to the policy: with the instruction "
                f"blanked the score does not rise ({_difference(blanked)}); {levels}.",
            )
        return
    flat = {"same": "as high", "less": "higher", "open": "not shown to be lower"}[rise]
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


def _pixels(panel: _Panel) -> Iterator[Finding]:
    row, how = panel.row("pixels", "level"), panel.related("pixels", "level")
    if row is None or how == "unknown":
        return
    words = {
        "more": ("beyond pixels", "The understanding model adds to what pixels give"),
        "same": (
            "pixels suffice",
            "Pixels score as high as the understanding model: this score needs no understanding",
        ),
        "less": (
            "pixels suffice",
            "Pixels score higher than the understanding model: this score needs no understanding",
        ),
        "open": ("not told apart", "The understanding model is not told apart from pixels at this sample size"),
    }
    conclusion, text = words[how]
    tail = _seen(row) if how == "open" else ""
    yield panel.say("pixels", conclusion, f"{text}: {_percent(row['value'])} with pixels, {_difference(row)}{tail}.")


def _task(panel: _Panel, parts: pd.DataFrame) -> Iterator[Finding]:
    row = panel.row("main", "level")
    oracle = _oracle(parts, panel.understanding, panel.execution, panel.holdout)
    if row is None or not np.isfinite(row["ci_low"]) or not np.isfinite(oracle):
        return
    claim = f"{_percent(row['value'])} ({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    if row["ci_low"] > oracle:
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


def _rollouts(panel: _Panel) -> Iterator[Finding]:
    row, how = panel.row("rollouts", "rise"), panel.related("rollouts", "rise")
    if row is None or how == "unknown":
        return
    blanked = panel.row("rollouts-blank", "rise")
    place = "On the policy's own episodes"
    if how != "more":
        tail = _seen(row) if how == "open" else ""
        yield panel.say("rollouts", "not shown", f"{place} no rise is shown: {_difference(row)}{tail}.")
    elif blanked is None or panel.related("rollouts-blank", "rise") == "unknown":
        yield panel.say(
            "rollouts",
            "shown",
            f"{place} the score rises with training ({_difference(row)}); with the instruction blanked it was not "
            "measured.",
        )
    elif panel.related("rollouts-blank", "rise") == "more":
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


def _known(understanding: str, execution: str, rows: pd.DataFrame, parts: pd.DataFrame | None) -> Iterator[Finding]:
    claims = rows[(rows["series"] == "main") & (rows["kind"] == "level")]
    found = {str(row["holdout"]): row for _, row in claims.iterrows()}
    if not {"episodes", "instructions"} <= set(found):
        return
    above = {name: bool(row["ci_low"] > row["chance"]) for name, row in found.items()}
    panel = _Panel(understanding, execution, "both", rows)
    new = found["instructions"]
    if above["episodes"] and not above["instructions"]:
        yield panel.say(
            "known instructions",
            "known only",
            "What the two sides share is tied to instructions the heads have seen: on new instructions the score is "
            f"not above chance ({_percent(new['value'])}, chance {_percent(new['chance'])}).",
        )
    elif above["episodes"] and new["ci_low"] <= _oracle(parts, understanding, execution, "instructions"):
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
    text = f"{100 * row['difference']:+.1f} points"
    if np.isfinite(row["d_low"]):
        text += f" ({100 * row['d_low']:+.1f} to {100 * row['d_high']:+.1f})"
    return text


def _seen(row: "pd.Series[Any]") -> str:
    """What the open difference leaves unsaid: which one would have been seen, or that the correction hides this one."""
    if row["d_low"] > 0 or row["d_high"] < 0:
        return (
            f"; the interval alone leaves 0 out, but p = {row['p_holm']:.2f} after correction over {row['family']:.0f} "
            "differences: with so few instructions the exact test cannot say more"
        )
    if not np.isfinite(row["detectable"]):
        return ""
    return f"; one of {100 * row['detectable']:.0f} points would mostly have been seen"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:.0f}"
