"""Findings in words: sentences, short answers and notes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.analysis.audit.effects import MARGIN, SEEDS, Difference

if TYPE_CHECKING:
    import pandas as pd

    from mnprobe.analysis.audit.findings import Effect, Finding

__all__ = [
    *("ENDS", "QUESTIONS", "answer", "message", "missed", "note", "p_words", "sentences", "short_answer", "unsaid"),
]

QUESTIONS = {
    "rise with training": "Does alignment rise with training?",
    "success": "Do successes align better than failures?",
    "joint alignment": "Does joint training align the two models better?",
    "joint recognition": "Does joint training help recognition?",
    "joint execution": "Does joint training help execution?",
}
"""Topics that are about a whole run, each with its question."""

_JOINT = ("baseline", "joint")
ENDS = {
    "rise with training": ("step 0", "last step"),
    "success": ("failures", "successes"),
    "joint alignment": _JOINT,
    "joint recognition": _JOINT,
    "joint execution": _JOINT,
}
"""Names of the two things that a question compares, the earlier or lower one first."""

_MISSING = {
    "alignment": "Alignment has not been measured: `mnprobe align` does.",
    "one checkpoint": "Only one checkpoint, or none at step 0, was measured: there is nothing to compare.",
    "outcomes": "Success and failure were not told apart: `mnprobe align --split success` does, where outcomes are "
    "known.",
    "two trainings": "The run does not hold both a baseline and a joint training.",
    "recognition": "Recognition has not been measured: `mnprobe recognize` does.",
    "execution": "Closed-loop success has not been measured: `mnprobe rollout` does.",
    "one step": "The run does not hold both a baseline and a joint training at one step.",
}
_ONE_PAIR = "one pair, no answer"
_ANSWERS = {"more": "yes", "none": "no", "less": "no, the reverse", "undecided": "cannot be told"}
_COMMANDS = {
    "blank": "`mnprobe extract --blank-instruction`",
    "step-0": "`mnprobe init`, then `mnprobe extract`",
}
_CONTROL_NAMES = {"blank": "the control with the instruction blanked", "step-0": "the checkpoint before training"}


def sentences(finding: "Finding") -> tuple[str, ...]:
    """A finding in words: one sentence, or one for each place where a question was measured."""
    if finding.written:
        return (finding.written,)
    if finding.topic not in QUESTIONS:
        return (_SENTENCES[finding.topic](finding),)
    if not finding.rows:
        return (_MISSING[finding.facts["missing"]],)
    places = list(dict.fromkeys(row.where for row in finding.leading))
    return tuple(_compared(where, [row for row in finding.leading if row.where == where]) for where in places)


def short_answer(finding: "Finding") -> str:
    """The answer to a question in a few words; of other findings the conclusion.

    One word where all leading comparisons agree, else how many say what.
    """
    if finding.topic not in QUESTIONS:
        return finding.conclusion
    if not finding.rows:
        return "Not measured."
    found = [_words(row.difference) for row in finding.leading]
    counts = {words: found.count(words) for words in (*_ANSWERS.values(), _ONE_PAIR) if words in found}
    if len(counts) == 1:
        (name,) = counts
        return f"{name[0].upper()}{name[1:]}."
    listed = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return f"Mixed: of {len(found)} comparisons, {listed}."


def message(finding: "Finding") -> str:
    """The answer to the question on the rise, or on success, as the title of a figure; "" where nothing was measured.

    By the same comparisons as `short_answer`: what is said of a place holds for every training measured there.
    """
    if not finding.rows or finding.topic not in _MESSAGES:
        return ""
    told = _MESSAGES[finding.topic]
    found = {row.difference.decision for row in finding.leading}
    if len(found) == 1 and (finding.topic == "success" or found != {"more"}):
        return told[found.pop()]
    if finding.topic == "success":
        return told["mixed"] if found & {"more", "less"} else told["undecided"]
    places: dict[str, set[str]] = {}
    for row in finding.leading:
        places.setdefault(row.where, set()).add(row.difference.decision)
    rises = [where for where, decisions in places.items() if decisions == {"more"}]
    if not rises:
        return told["mixed"] if "more" in found else told["undecided" if "undecided" in found else "none"]
    shown = [where for where in rises if not where.endswith(_BLANKED)]
    if not shown:
        return f"Alignment rises on {' and on '.join(rises)}"
    text = f"Alignment rises on {' and on '.join(shown)}"
    controls = [places[where + _BLANKED] for where in shown if where + _BLANKED in places]
    if not controls:
        return text
    if all(decisions == {"more"} for decisions in controls):
        return f"{text}, with the instruction blanked too"
    return f"{text}; with the instruction blanked that is not shown{'' if len(shown) == 1 else ' everywhere'}"


_BLANKED = ", instruction blanked"
_MESSAGES = {
    "rise with training": {
        "undecided": "Whether alignment rises is undecided",
        "none": "Alignment does not rise with training",
        "less": "Alignment falls with training",
        "mixed": "Alignment rises in some comparisons only",
    },
    "success": {
        "more": "Successes align better than failures",
        "undecided": "Undecided whether successes align better than failures",
        "none": "Successes and failures align alike",
        "less": "Failures align better than successes",
        "mixed": "Successes and failures differ in some comparisons only",
    },
}


def _words(difference: Difference) -> str:
    return _ONE_PAIR if difference.one_seed else _ANSWERS[difference.decision]


def note(finding: "Finding") -> str:
    """What the comparisons of a question leave open."""
    if not finding.rows:
        return ""
    pieces = []
    if finding.topic == "success":
        pieces.append(
            "Failures cluster in hard tasks; within tasks, that is taken out. Both sides have equally many test "
            "episodes of the same instructions."
        )
    if finding.topic.startswith("joint"):
        pieces.append(_PAIRS_TOLD.get(finding.trainings, ""))
    elif finding.trainings == 1:
        pieces.append("One training each: how far another seed would differ was not measured.")
    elif finding.trainings < SEEDS:
        pieces.append("Two seeds of each training: too few for an interval over trainings.")
    return " ".join(filter(None, pieces))


_PAIRS_TOLD = {
    1: "What joint training does is judged over seed pairs alone (a baseline and a joint training of one seed): one "
    "pair may say the opposite of the next. Here there is one: its difference is shown, and no answer given.",
    2: "Two seed pairs: Student's t has one degree of freedom, and nearly any interval from it leaves the answer open.",
}


def answer(difference: Difference) -> str:
    """Whether it is a rise: 'yes', 'no', 'no, the reverse', or that it cannot be told; its decision in words.

    'one pair, no answer' where the question is about any seed and only one pair of trainings was measured.
    """
    words = _words(difference)
    return f"{words} from n = {difference.n}" if words == _ANSWERS["undecided"] else words


def unsaid(difference: Difference) -> str:
    """What an undecided difference leaves unsaid, see `missed`; "" where it is decided, or not known."""
    return missed(difference.seen) if difference.decision == "undecided" else ""


def missed(seen: float) -> str:
    """Which difference would have been seen with 80 % power; "" if not known.

    >>> missed(0.12), missed(1.4)
    ('one of 12 points would mostly have been seen', 'even one of 100 points would often have been missed')
    """
    if not math.isfinite(seen):
        return ""
    if seen > 1:
        return "even one of 100 points would often have been missed"
    return f"one of {100 * seen:.0f} points would mostly have been seen"


def _compared(where: str, rows: "Sequence[Effect]") -> str:
    pieces = []
    for row in rows:
        made = row.difference
        ends = f"{100 * made.value:+z.1f} points"
        if np.isfinite(made.before) and np.isfinite(made.after):
            ends = f"{100 * made.before:.1f} % to {100 * made.after:.1f} %, {ends}"
        low, high = made.shown
        if np.isfinite(low):
            inside = " within the pair" if made.one_seed else ""
            ends += f", 95 % interval{inside} {100 * low:+z.1f} to {100 * high:+z.1f}"
            ends += f" over {made.comparisons} comparisons" if made.comparisons > 1 and not made.one_seed else ""
        if unsaid(made):
            ends += f"; {unsaid(made)}"
        pieces.append(f"{row.subject}: {answer(made)} ({ends})")
    counts = ", ".join(dict.fromkeys(row.difference.n for row in rows))
    held = "".join(dict.fromkeys(f"; held out: {row.held_out}" for row in rows if row.held_out))
    bases = ", ".join(dict.fromkeys(row.difference.basis for row in rows))
    levels = sorted({f"{100 * row.chance:.1f}" for row in rows if np.isfinite(row.chance)})
    chance = f"; chance {' to '.join(dict.fromkeys((levels[0], levels[-1])))} %" if levels else ""
    return f"{where[0].upper()}{where[1:]}{held}. {'; '.join(pieces)}. n = {counts}{chance}; {bases}."


def _leak(finding: "Finding") -> str:
    row = finding.facts["row"]
    if finding.conclusion == "broken":
        return (
            f"Training and test set share what holding out {finding.holdout} keeps apart "
            f"({row['shared_episodes']} episodes, {row['shared_instructions']} instructions, "
            f"{row['shared_tasks']} tasks): no score of this holdout is to be read."
        )
    return (
        f"Up to {finding.facts['copies']} of {row['n_test']} test episodes have a near-copy among the training "
        f"episodes (holdout {finding.holdout}): part of the score may be memory."
    )


def _shuffled(finding: "Finding") -> str:
    row = finding.facts["row"]
    level = f"{_percent(row['value'])} (95 % interval {_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
    if finding.conclusion == "broken":
        return (
            f"Heads fitted on shuffled pairs score above chance: {level}, chance {_percent(row['chance'])}. Something "
            "leaks, or the labels are wrong. Read no other number before this is found."
        )
    return f"Shuffled pairs are not above chance, as it must be: {level}, chance {_percent(row['chance'])}."


def _chance(finding: "Finding") -> str:
    row = finding.facts["row"]
    chance = f"chance {_percent(row['chance'])}, {row['n_test']:.0f} test episodes"
    if finding.conclusion == "above":
        return f"The two sides agree above chance: {_level(row)}, {chance}."
    if finding.conclusion == "below":
        return f"Agreement is below chance: {_level(row)}, {chance}. Look for a mistake."
    return f"No agreement above chance is shown: {_level(row)}, {chance}."


def _rise(finding: "Finding") -> str:
    row = finding.facts["row"]
    span = f"from step {row['step_first']:.0f} to {row['step']:.0f}"
    words = {
        "rises": f"The score on demonstrations rises {span}",
        "falls": f"The score on demonstrations falls {span}",
        "flat": f"The score on demonstrations stays the same {span}, within {100 * MARGIN:g} points",
        "not shown": f"No rise of the score on demonstrations is shown {span}",
    }
    return f"{words[finding.conclusion]}: {_difference(row)}."


def _instruction(finding: "Finding") -> str:
    facts, conclusion = finding.facts, finding.conclusion
    if conclusion == "untested" and facts["missing"]:
        return (
            "Whether the score comes from the instruction that the policy is given cannot be said: "
            + " and ".join(f"{_CONTROL_NAMES[name]} is missing ({_COMMANDS[name]})" for name in facts["missing"])
            + "."
        )
    levels = (
        f"{_percent(facts['claim']['value'])} after training, {_percent(facts['start']['value'])} with random weights, "
        f"{_percent(facts['blank']['value'])} with the instruction blanked"
    )
    if conclusion == "untested":
        return (
            "Whether the rise on demonstrations comes from the instruction cannot be said: the blanked control has "
            f"one checkpoint only ({levels})."
        )
    if conclusion in _INSTRUCTION_RISES:
        how = _INSTRUCTION_RISES[conclusion]
        return f"The rise on demonstrations {how} ({_difference(facts['blanked'])}); {levels}."
    flat = {"none": "as high", "less": "higher", "undecided": "not shown to be lower"}[facts["rise"]]
    if conclusion == "score explained":
        return (
            "The score on demonstrations is explained by the instruction given to the policy, not by its training: "
            f"before training it is {flat}, and without the instruction it drops by {_difference(facts['blank'])}; "
            f"{levels}."
        )
    return (
        f"The score on demonstrations is not shown to come from training the policy (before training it is {flat}) "
        f"nor from the instruction (blanking it changes {_difference(facts['blank'])}); {levels}."
    )


_INSTRUCTION_RISES = {
    "rise survives": "is not explained by the instruction given to the policy alone: with the instruction blanked the "
    "score rises too",
    "rise perhaps explained": "may be explained by the instruction given to the policy: with the instruction blanked "
    "no rise is shown",
    "rise explained": "is explained by the instruction given to the policy: with the instruction blanked the score "
    "does not rise",
}


def _pixels(finding: "Finding") -> str:
    row = finding.facts["row"]
    words = {
        "more": "The understanding model adds to what pixels give",
        "none": "Pixels score as high as the understanding model: this score needs no understanding",
        "less": "Pixels score higher than the understanding model: this score needs no understanding",
        "undecided": "The understanding model is not told apart from pixels at this sample size",
    }
    return f"{words[row['decision']]}: {_percent(row['value'])} with pixels, {_difference(row)}."


def _task(finding: "Finding") -> str:
    claim, oracle = _level(finding.facts["row"]), _percent(finding.facts["oracle"])
    if finding.conclusion == "beyond task":
        return f"The score is more than knowing the task alone gives ({oracle}): {claim}."
    return (
        f"Knowing the task and nothing else would score {oracle} on this test set: {claim} shows no more than the task."
    )


def _rollouts(finding: "Finding") -> str:
    row, blanked, place = finding.facts["row"], finding.facts["blanked"], "On the policy's own episodes"
    if finding.conclusion == "not shown":
        return f"{place} no rise is shown: {_difference(row)}."
    text = f"{place} the score rises with training ({_difference(row)})"
    if finding.conclusion == "shown":
        return f"{text}; with the instruction blanked it was not measured."
    if finding.conclusion == "survives":
        return f"{text}, and with the instruction blanked too ({_difference(blanked)})."
    return f"{text}, but with the instruction blanked no rise is shown ({_difference(blanked)})."


def _known(finding: "Finding") -> str:
    row = finding.facts["row"]
    level = f"({_percent(row['value'])}, chance {_percent(row['chance'])})"
    if finding.conclusion == "known only":
        return (
            "What the two sides share is tied to instructions the heads have seen: on new instructions the score is "
            f"not above chance {level}."
        )
    text = f"What the two sides share carries over to instructions the heads have never seen {level}"
    return f"{text}." if finding.conclusion == "carries over" else f"{text}, but not further than the task does."


def _contrast(finding: "Finding") -> str:
    facts, row, inside = finding.facts, finding.facts["row"], finding.facts["inside"]
    where = (
        f"{finding.understanding} with {finding.execution} ({facts['source_e']}, step {row['step_e']}; "
        f"{finding.holdout} held out; {facts['side']}, {facts['mode'].replace('-', ' ')})"
    )
    if finding.conclusion == "untested":
        return f"{where}: success and failure cannot be compared: {row['note']}."
    size = _contrast_size(row)
    if finding.conclusion == "none":
        return f"{where}: success and failure align alike, within {100 * MARGIN:g} points: {size}."
    if finding.conclusion == "undecided":
        seen = missed(float(row["seen"]))
        return f"{where}: no difference between success and failure is shown: {size}{f'; {seen}' if seen else ''}."
    text = f"{where}: successes align {finding.conclusion} than failures: {size}"
    if inside is None or not np.isfinite(inside["low"]):
        reason = "" if inside is None else str(inside["note"])
        reason = f" ({reason})" if reason.startswith("cannot be told") else ""
        return f"{text}; within tasks it could not be tested{reason}."
    if inside["decision"] == finding.conclusion:
        return f"{text}; within tasks too: {_contrast_size(inside)}."
    return f"{text}; within tasks it is not shown: {_contrast_size(inside)}; which tasks are hard may explain it."


def _contrast_size(row: "pd.Series[Any]") -> str:
    """Difference, the interval that decides, and p."""
    among = f" over {row['comparisons']} comparisons" if row["comparisons"] > 1 else ""
    text = f"{100 * row['difference']:+z.1f} points ({100 * row['low']:+z.1f} to {100 * row['high']:+z.1f}{among})"
    return text + (f", {p_words(row['p_holm'])}" if np.isfinite(row["p_holm"]) else "")


def p_words(p: float) -> str:
    """A p-value in words; from 0.05 on it says nothing.

    >>> p_words(0.2), p_words(0.04), p_words(0.0002)
    ('n.s.', 'p 0.04', 'p < 0.001')
    """
    return "n.s." if p >= 0.05 else "p < 0.001" if p < 0.001 else f"p {p:.2g}"


_SENTENCES: Mapping[str, "Callable[[Finding], str]"] = {
    "leak": _leak,
    "shuffled": _shuffled,
    "chance": _chance,
    "rise": _rise,
    "instruction": _instruction,
    "pixels": _pixels,
    "task": _task,
    "rollouts": _rollouts,
    "known instructions": _known,
    "success contrast": _contrast,
}


def _difference(row: "pd.Series[Any]") -> str:
    """The difference with the interval that decides, and what an undecided one leaves unsaid."""
    text = f"{100 * row['difference']:+z.1f} points"
    if not np.isfinite(row["low"]):
        return text
    among = f" over {row['comparisons']} comparisons" if row["comparisons"] > 1 else ""
    text += f" ({100 * row['low']:+z.1f} to {100 * row['high']:+z.1f}{among})"
    left = missed(float(row["seen"])) if row["decision"] == "undecided" else ""
    return f"{text}; {left}" if left else text


def _level(row: "pd.Series[Any]") -> str:
    return f"{_percent(row['value'])} ({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
