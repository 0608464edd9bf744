"""Every sentence of the verdict, on tables with a planted cause."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mnprobe.analysis.audit.controls import CONTROL_COLUMNS
from mnprobe.analysis.audit.findings import control_decisions, verdicts
from mnprobe.analysis.statistics import detectable_difference

MORE, LESS, NONE, UNDECIDED = (
    (0.3, 0.2, 0.4, 0.01),
    (-0.3, -0.4, -0.2, 0.01),
    (0.0, -0.02, 0.02, 0.9),
    (0.1, -0.1, 0.3, 0.4),
)


def row(series, kind, how=None, *, holdout="episodes", value=0.8, low=0.7, high=0.9, chance=0.1):
    difference, d_low, d_high, p = how or (np.nan,) * 4
    return dict.fromkeys(CONTROL_COLUMNS, np.nan) | {
        "understanding": "viclip", "execution": "arp", "holdout": holdout, "series": series, "kind": kind, "step": 8000,
        "step_first": 0, "source_e": "demos", "value": value, "ci_low": low, "ci_high": high, "chance": chance,
        "difference": difference, "d_low": d_low, "d_high": d_high, "p": p, "p_holm": p, "family": 9,
        "detectable": 0.12, "n_test": 40, "n_groups": 8, "note": "",
    }  # fmt: skip


def table(*rows):
    return pd.DataFrame(rows, columns=list(CONTROL_COLUMNS))


def conclusion(topic, *rows, **other):
    found = [one for one in verdicts(table(*rows), **other) if one.topic == topic]
    assert len(found) <= 1
    return (found[0].conclusion, found[0].sentence, found[0].alarm) if found else None


@pytest.mark.parametrize("p", [0.001, 0.2, np.nan])
@pytest.mark.parametrize(
    ("numbers", "name"), [(MORE, "rises"), (LESS, "falls"), (NONE, "flat"), (UNDECIDED, "not shown")]
)
def test_no_p_decides(numbers, name, p):
    assert conclusion("rise", row("main", "level"), row("main", "rise", (*numbers[:3], p)))[0] == name


def test_a_difference_without_an_interval_was_not_measured():
    for numbers in ((np.nan,) * 4, (0.1, np.nan, np.nan, 0.01)):
        assert conclusion("rise", row("main", "level"), row("main", "rise", numbers)) is None


def test_shuffled_pairs():
    bad = conclusion("shuffled", row("shuffled", "level", value=0.3, low=0.2, high=0.4))
    assert bad[0] == "broken"
    assert bad[2]
    assert "Read no other number" in bad[1]
    good = conclusion("shuffled", row("shuffled", "level", value=0.1, low=0.05, high=0.15))
    assert good[:1] == ("sound",)
    assert "10.0 % (95 % interval 5.0 % to 15.0 %), chance 10.0 %" in good[1]
    assert conclusion("shuffled", row("shuffled", "level", low=np.nan)) is None


@pytest.mark.parametrize(
    ("low", "high", "name", "alarm"),
    [(0.2, 0.4, "above", False), (0.01, 0.05, "below", True), (0.05, 0.3, "not shown", False)],
)
def test_against_chance(low, high, name, alarm):
    found = conclusion("chance", row("main", "level", value=(low + high) / 2, low=low, high=high))
    assert (found[0], found[2]) == (name, alarm)
    assert "chance 10.0 %, 40 test episodes" in found[1]


@pytest.mark.parametrize(
    ("how", "name", "words"),
    [
        (MORE, "rises", "rises from step 0 to 8000: +30.0 points (+20.0 to +40.0)"),
        (LESS, "falls", "falls from step 0"),
        (NONE, "flat", "stays the same from step 0 to 8000, within 5 points"),
        (UNDECIDED, "not shown", "one of 12 points would mostly have been seen"),
    ],
)
def test_rises(how, name, words):
    found = conclusion("rise", row("main", "rise", how))
    assert found[0] == name
    assert words in found[1]


def instruction(rise, lowered, blank_rise):
    rows = [row("main", "level"), row("step-0", "level", rise, value=0.5), row("blank", "level", lowered, value=0.3)]
    rows += [row("main", "rise", rise)] + ([row("blank", "rise", blank_rise)] if blank_rise else [])
    return conclusion("instruction", *rows)


@pytest.mark.parametrize(
    ("rise", "lowered", "blank_rise", "name", "words"),
    [
        (MORE, MORE, NONE, "rise explained", "is explained by the instruction given to the policy: with"),
        (MORE, MORE, LESS, "rise explained", "does not rise (-30.0 points"),
        (MORE, MORE, UNDECIDED, "rise perhaps explained", "may be explained by the instruction"),
        (MORE, MORE, MORE, "rise survives", "with the instruction blanked the score rises too"),
        (MORE, NONE, None, "untested", "the blanked control has one checkpoint only"),
        (NONE, MORE, NONE, "score explained", "before training it is as high, and without the instruction it drops by"),
        (LESS, MORE, NONE, "score explained", "before training it is higher"),
        (UNDECIDED, MORE, UNDECIDED, "score explained", "before training it may be as high"),
        (NONE, NONE, NONE, "nothing from training", "nor the instruction is shown"),
        (UNDECIDED, UNDECIDED, UNDECIDED, "nothing from training", "nor the instruction is shown"),
    ],
)
def test_why_the_claim_is_as_high_as_it_is(rise, lowered, blank_rise, name, words):
    found = instruction(rise, lowered, blank_rise)
    assert found[0] == name
    assert words in found[1]


def test_missing_controls_are_named_with_their_commands():
    found = conclusion("instruction", row("main", "level"), row("main", "rise", MORE), row("step-0", "level", MORE))
    assert found[0] == "untested"
    assert "`mnprobe extract --blank-instruction`" in found[1]
    assert "`mnprobe init`" not in found[1]
    both = conclusion("instruction", row("main", "level"))
    assert "`mnprobe init`" in both[1]


@pytest.mark.parametrize(
    ("how", "name", "words"),
    [
        (MORE, "beyond pixels", "adds to what pixels give"),
        (NONE, "pixels suffice", "Pixels score as high"),
        (LESS, "pixels suffice", "Pixels score higher"),
        (UNDECIDED, "not told apart", "not told apart from pixels"),
    ],
)
def test_pixels(how, name, words):
    found = conclusion("pixels", row("pixels", "level", how))
    assert found[0] == name
    assert words in found[1]
    assert conclusion("pixels", row("pixels", "level")) is None


@pytest.mark.parametrize(
    ("how", "blank", "name", "words"),
    [
        (MORE, MORE, "survives", "with the instruction blanked too"),
        (MORE, NONE, "with the instruction only", "but with the instruction blanked no rise is shown"),
        (MORE, None, "shown", "it was not measured"),
        (
            UNDECIDED,
            MORE,
            "not shown",
            "no rise is shown: +10.0 points (-12.9 to +32.9 over 2 comparisons); one of 13 p",
        ),
        (LESS, MORE, "not shown", "no rise is shown: -30.0 points"),
    ],
)
def test_the_policys_own_episodes(how, blank, name, words):
    rows = [row("rollouts", "rise", how)] + ([row("rollouts-blank", "rise", blank)] if blank else [])
    found = conclusion("rollouts", *rows)
    assert found[0] == name
    assert words in found[1]


def test_known_instructions():
    old = row("main", "level")
    weak = row("main", "level", holdout="instructions", value=0.1, low=0.02, high=0.2)
    strong = row("main", "level", holdout="instructions", low=0.5)
    assert conclusion("known instructions", old, weak)[0] == "known only"
    assert conclusion("known instructions", old, strong)[0] == "carries over"
    for oracle, name in ((0.3, "carries over"), (0.6, "the task carries over")):
        parts = pd.DataFrame(
            [{"understanding": "viclip", "execution": "arp", "holdout": "instructions", "quantity": "oracle",
              "factor": "task", "value": oracle}]
        )  # fmt: skip
        assert conclusion("known instructions", old, strong, decomposition=parts)[0] == name
    assert conclusion("known instructions", row("main", "level", low=0.05), weak) is None
    assert conclusion("known instructions", old) is None


@pytest.mark.parametrize(("oracle", "name"), [(0.3, "beyond task"), (0.75, "task suffices"), (1.0, "task suffices")])
def test_the_task_alone(oracle, name):
    parts = pd.DataFrame(
        [{"understanding": "viclip", "execution": "arp", "holdout": "episodes", "quantity": "oracle", "factor": "task",
          "value": oracle}]
    )  # fmt: skip
    found = conclusion("task", row("main", "level"), decomposition=parts)
    assert found[0] == name
    assert f"{100 * oracle:.1f} %" in found[1]


def test_leaks_come_first():
    base = {"understanding": "viclip", "execution": "arp", "shared_episodes": 3, "shared_instructions": 1,
            "shared_tasks": 1, "n_test": 40, "close_u": 5, "close_e": 0}  # fmt: skip
    base |= {"source_e": "demos", "step_e": 10, "split": "all"}
    leakage = pd.DataFrame(
        [base | {"holdout": "episodes", "verdict": "overlap"},
         base | {"holdout": "tasks", "verdict": "near-duplicates"},
         base | {"holdout": "tasks", "verdict": "near-duplicates", "step_e": 0, "close_e": 40},
         base | {"holdout": "tasks", "verdict": "near-duplicates", "source_e": "demos-blank", "close_e": 40},
         base | {"holdout": "tasks", "verdict": "near-duplicates", "understanding": "pixels", "close_e": 40},
         base | {"holdout": "instructions", "verdict": "clean"}]
    )  # fmt: skip
    found = verdicts(table(row("main", "level")), leakage)
    assert [(one.conclusion, one.holdout) for one in found[:2]] == [
        ("broken", "episodes"),
        ("near-duplicates", "tasks"),
    ]
    assert "no score of this holdout is to be read" in found[0].sentence
    assert "Up to 5 of 40 test episodes" in found[1].sentence
    assert [one.alarm for one in found] == [True, True, *[False] * (len(found) - 2)]
    few = verdicts(table(row("main", "level")), leakage[1:2].assign(close_u=2))
    assert [one.alarm for one in few if one.conclusion == "near-duplicates"] == [False]


def test_the_interval_is_simultaneous_over_what_the_sentences_of_a_pair_and_holdout_rest_on():
    # alone +1 to +19 excludes 0; over 3 comparisons of 21 equal instructions it does not: 9 points times
    # t(1 - 0.025 / 3, 20) / t(0.975, 20) to each side. The claim, shuffled pairs and another holdout count for nothing.
    close = (0.1, 0.01, 0.19, 0.001)
    rows = [row("main", "level"), row("main", "rise", close), row("shuffled", "level", close)]
    rows += [row("main", "rise", MORE, holdout="tasks")]
    assert conclusion("rise", *rows[:3])[:2] == (
        "rises",
        "The score on demonstrations rises from step 0 to 8000: +10.0 points (+1.0 to +19.0).",
    )
    panel = [*rows, row("pixels", "level", MORE), row("blank", "level", NONE)]
    made = table(*panel)
    made["n_instructions"], made["detectable"] = 21, np.nan
    decided = control_decisions(made)
    assert decided["comparisons"].tolist() == [3, 3, 3, 1, 3, 3]
    reach = 0.09 * t.ppf(1 - 0.025 / 3, 20) / t.ppf(0.975, 20)
    assert decided.loc[1, ["low", "high"]].tolist() == pytest.approx([0.1 - reach, 0.1 + reach])
    assert decided["decision"].tolist() == ["undecided", "undecided", "undecided", "more", "more", "none"]
    told = [one for one in verdicts(made) if (one.topic, one.holdout) == ("rise", "episodes")]
    assert told[0].conclusion == "not shown"
    assert "+10.0 points (-1.3 to +21.3 over 3 comparisons)." in told[0].sentence


def test_unequal_instructions_are_worth_fewer():
    # 9 instructions that are worth 5 equal ones: the interval and what was detectable say so together
    error, degrees = 0.05, 4.0
    half = t.ppf(0.975, degrees) * error
    made = table(*[row(series, "rise", (0.2, 0.2 - half, 0.2 + half, 0.5)) for series in ("main", "blank")])
    made["n_instructions"], made["detectable"] = 9, detectable_difference(error, degrees + 1)
    decided = control_decisions(made)
    wide = t.ppf(1 - 0.0125, degrees) * error
    assert decided["low"].tolist() == pytest.approx([0.2 - wide] * 2, abs=1e-6)
    assert decided["seen"].tolist() == pytest.approx([detectable_difference(error, 5, level=0.025)] * 2, abs=1e-6)
