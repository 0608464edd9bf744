"""The report's answers: planted effects are found, their absence is said, and too few episodes are called too few."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mnprobe.analysis.audit.controls import CONTROL_COLUMNS, CONTROLS
from mnprobe.analysis.audit.effects import Difference
from mnprobe.analysis.audit.finding_text import answer, message
from mnprobe.analysis.audit.findings import Effect, Finding, findings, verdicts
from mnprobe.analysis.figures.curve_data import OUTCOMES, curve_data
from mnprobe.analysis.report import gather, write_report
from mnprobe.analysis.report.render import read_piece
from mnprobe.analysis.tables.alignment import HOLDOUTS, read_alignment, write_table
from mnprobe.analysis.tables.rollouts import SUCCESS, find_rollouts, success_table
from mnprobe.core.rundir import RunDir
from mnprobe.features.half_success import HALF_SUCCESS
from mnprobe.worlds.outcomes import read_played, write_outcomes

EVIL = '<script>hacked=1</script><img src=x onerror="hacked=1">'


@cache
def _by_question(run):
    problems = []
    found = {one.question.removeprefix("Does ").removesuffix("?"): one for one in findings(run, problems)}
    assert problems == []
    return found


def test_a_rise_is_found_in_each_source_with_and_without_the_instruction(one):
    found = _by_question(one)["alignment rise with training"]
    assert found.short == "Mixed: of 8 comparisons, yes in 6, cannot be told in 2."  # each simultaneous over the 8
    assert {row.difference.comparisons for row in found.rows} == {8}
    assert len(found.rows) == 2 * 4 * 2  # trainings, sources shown and blanked, holdouts
    assert len(found.leading) == 2 * 4
    blank = next(row for row in found.rows if row.subject == "joint" and row.where.endswith("blanked"))
    table = pd.read_csv(one.results("alignment"))
    here = table[
        (table["execution"] == "arp-joint")
        & (table["source_e"] == "demos-blank")
        & (table["holdout"] == "episodes")
        & (table["statistic"] == "mean")
    ].set_index("step_e")["value"]
    assert (blank.difference.before, blank.difference.after) == pytest.approx((here[0], here[2000]))
    assert blank.chance == 0.125
    assert "how far another seed would differ was not measured" in found.note


def _with_controls(run, low, high):
    """results/controls.csv of `run` with one paired rise: joint, demonstrations, new episodes."""
    table = curve_data(read_alignment(run.results("alignment"))).points
    line = table[(table["series"] == "main") & (table["holdout"] == "episodes") & (table["execution"] == "arp-joint")]
    first, last = (line.sort_values("step").iloc[end] for end in (0, -1))
    names = ("understanding", "execution", "holdout", "series", "step", "value", "chance", "n_test", "n_groups")
    row = dict.fromkeys(CONTROL_COLUMNS, np.nan) | {name: last[name] for name in names} | {"kind": "rise"}
    row |= {"step_first": first["step"], "difference": last["value"] - first["value"], "d_low": low, "d_high": high}
    row |= {"detectable": 0.03, "n_instructions": 20, "source_e": "demos", "note": ""}
    row |= {"trained_u": True, "trained_e": True, "ci_low": 0.1, "ci_high": 0.9}
    CONTROLS.write(run.results("controls"), pd.DataFrame([row], columns=list(CONTROL_COLUMNS)))
    return row


def test_a_rise_that_the_audit_paired_is_decided_by_the_audit(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))

    def shown():
        rows = _by_question(RunDir(run.path))["alignment rise with training"].rows
        return next(
            row.difference
            for row in rows
            if (row.subject, row.where, row.held_out) == ("joint", "demonstrations", HOLDOUTS["episodes"])
        )

    alone = shown()
    assert alone.basis == "from both intervals, not paired"
    row = _with_controls(run, alone.value - 0.001, alone.value + 0.001)
    _by_question.cache_clear()
    paired = shown()
    assert (paired.low, paired.high) == (row["d_low"], row["d_high"])
    assert (paired.comparisons, paired.seen) == (1, 0.03)
    said = [one.conclusion for one in verdicts(CONTROLS.read(run.results("controls"))) if one.topic == "rise"]
    assert said == [{"more": "rises", "less": "falls", "none": "flat"}[paired.decision]]
    CONTROLS.write(run.results("controls"), CONTROLS.read(run.results("controls")).assign(value=0.123))  # another run's
    _by_question.cache_clear()
    assert repr(shown()) == repr(alone)  # since Python 3.13, NaN differs from NaN


def test_successes_are_told_apart_from_failures_also_within_tasks(one):
    found = _by_question(one)["Do successes align better than failures"]
    assert found.short == "Mixed: of 4 comparisons, yes in 2, cannot be told in 2."
    plain = found.rows[0]
    assert (plain.difference.before, plain.difference.after, plain.difference.value) == (0.5, 0.7, 0.2)
    within = [row for row in found.rows if row.where.endswith("within tasks")]
    assert {answer(row.difference) for row in within} == {"cannot be told from n = 20 test episodes on each side"}


def test_a_side_without_probes_of_its_own_is_answered_under_the_shared_probe(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))
    table = read_alignment(run.results("alignment"))
    carried_out = table[table["split"].str.startswith("execution")]
    recognized = carried_out.assign(split=carried_out["split"].str.replace("execution", "understanding"))
    weaker = recognized.assign(mode="shared-probe", value=recognized["value"] / 2)
    rest = table.drop(carried_out.index)
    write_table(
        pd.concat([rest, recognized, weaker, carried_out.assign(mode="shared-probe")]), run.results("alignment")
    )
    rows = _by_question(run)["Do successes align better than failures"].rows
    told = {row.where: row.difference.value for row in rows if row.subject == "baseline"}
    assert told == {
        "actions recognised or not (rollouts, step 2000)": pytest.approx(0.2),
        "actions carried out or not (rollouts, step 2000, one probe for both)": pytest.approx(0.2),
        "actions recognised or not (rollouts, step 2000), within tasks": pytest.approx(0.02),
        "actions carried out or not (rollouts, step 2000, one probe for both), within tasks": pytest.approx(0.02),
    }
    assert len(rows) == 8
    assert {row.difference.comparisons for row in rows} == {8}
    drawn = curve_data(read_alignment(run.results("alignment")), split=OUTCOMES)
    assert "execution outcomes: measured under one probe shared by successes and failures" in drawn.notes


JOINT = ("joint training align the two models better", "joint training help recognition")
JOINT += ("joint training help execution",)


@pytest.mark.parametrize("lift", [1.0, 0.0])
def test_one_pair_of_trainings_gives_no_answer_whatever_it_shows(write_trained, tmp_path, lift):
    run = RunDir(write_trained(tmp_path / "run", lift=lift, seed=4))
    found = _by_question(run)
    for question in JOINT:
        one = found[question]
        assert (one.short, one.conclusion, one.trainings) == ("One pair, no answer.", "one pair", 1)
        assert "judged over seed pairs alone" in one.note
        assert "95 % interval within the pair" in one.sentence
        assert not {"yes (", "no ("} & {words for row in one.rows for words in (answer(row.difference),)}
        for row in one.rows:
            assert answer(row.difference) == "one pair, no answer"
            assert np.isnan([row.difference.low, row.difference.high]).all()
    (row,) = found["joint training help recognition"].rows
    within = row.difference.shown
    assert (within[0] > 0) == (lift == 1.0)  # by itself, this interval would have answered
    assert row.difference.basis.endswith("decides nothing: 60 episodes, paired")
    assert row.difference.n == "1 seed pair on 60 episodes"
    assert row.chance == pytest.approx(1 / 20)
    page = write_report(run).path.read_text(encoding="utf-8")
    assert page.count("One pair, no answer.") == 3


@pytest.mark.parametrize(("lift", "short"), [(1.0, "Yes."), (0.0, "Cannot be told.")])
def test_ten_pairs_of_trainings_find_what_was_planted(write_trained, tmp_path, lift, short):
    found = _by_question(RunDir(write_trained(tmp_path / "run", seeds=tuple(range(10)), lift=lift, seed=4)))
    one = found["joint training help recognition"]
    assert (one.short, one.trainings, one.note) == (short, 10, "")
    assert one.rows[0].difference.n == "10 seed pairs on 60 episodes"
    assert found[JOINT[0]].trainings == 10


def test_two_pairs_have_one_degree_of_freedom(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run", seeds=(0, 1), lift=1.0, seed=4))
    for question in JOINT:
        one = _by_question(run)[question]
        assert one.short == "Cannot be told."
        assert "one degree of freedom" in one.note
    table = curve_data(read_alignment(run.results("alignment"))).each
    line = table[(table["series"] == "main") & (table["holdout"] == "episodes") & (table["step"] == 2000)]
    values = line.pivot_table(index="training_seed", columns="training", values="value")
    gaps = (values["joint"] - values["baseline"]).to_numpy()
    row = _by_question(run)[JOINT[0]].rows[0].difference
    assert row.value == pytest.approx(gaps.mean())
    wide = t.ppf(1 - 0.025 / 4, 1) * gaps.std(ddof=1) / np.sqrt(2)
    assert row.high - row.value >= wide - 1e-12  # the error of the episodes is the least that it is taken to be


def test_a_pair_that_was_stopped_while_it_played_is_left_out(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run", seeds=(0, 1, 2)))
    whole = _by_question(run)["joint training help execution"]
    assert whole.trainings == 3
    place = run.rollouts / "arp-joint-seed2" / "step_00002000"
    write_outcomes(place, read_played(place)[:7])
    more = run.rollouts / "arp-joint" / "step_00002000"  # further episodes, as at the checkpoint nearest one half
    played = read_played(more)
    write_outcomes(more, [*played, *(replace(one, id=f"{one.id}0{place}") for place, one in enumerate(played))])
    SUCCESS.write(run.results("success"), success_table(find_rollouts(run.rollouts)))
    _by_question.cache_clear()
    left = _by_question(run)["joint training help execution"]
    assert left.trainings == 2
    first = left.leading[0].difference
    assert first.n == "2 seed pairs on 60 episodes"
    shares = [
        [np.mean([one.success for one in read_played(run.rollouts / name / "step_00002000")[:60]]) for name in pair]
        for pair in (("arp-baseline", "arp-joint"), ("arp-baseline-seed1", "arp-joint-seed1"))
    ]
    assert first.value == pytest.approx(np.diff(shares, axis=1).mean())


def test_seeds_that_only_one_training_has_are_no_pairs(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run", seeds=(0, 1, 2)))
    table = read_alignment(run.results("alignment"))
    write_table(table[~table["execution"].isin(["arp-joint-seed1", "arp-joint-seed2"])], run.results("alignment"))
    found = _by_question(run)[JOINT[0]]
    assert (found.short, found.trainings) == ("One pair, no answer.", 1)
    both = table[(table["source_e"] == "demos") & (table["holdout"] == "episodes") & (table["step_e"] == 2000)]
    both = both[(both["statistic"] == "mean") & (both["control"] == "none") & (both["understanding"] != "pixels")]
    values = both.set_index("execution")["value"]
    assert found.rows[0].difference.before == pytest.approx(values["arp-baseline"])  # not the mean of three
    assert found.rows[0].difference.after == pytest.approx(values["arp-joint"])


def test_execution_is_paired_by_scene_and_blanked_policies_stand_beside(one):
    found = _by_question(one)["joint training help execution"]
    assert [row.where for row in found.rows] == [
        "closed-loop success (tabletop)",
        "closed-loop success (tabletop), instruction blanked",
    ]
    played = {
        entry.model: np.array([outcome.success for outcome in entry.outcomes])
        for entry in find_rollouts(one.rollouts)
        if entry.step == 2000
    }
    for row, blank in zip(found.rows, ("", "-blank"), strict=True):
        gaps = played[f"arp-joint{blank}"] - played[f"arp-baseline{blank}"]
        assert row.difference.value == pytest.approx(gaps.mean())
        assert row.difference.basis.endswith("60 episodes, paired")


def test_success_is_pooled_over_trainings_with_their_spread_in_the_interval(three, one):
    success = _by_question(three)["Do successes align better than failures"].rows[0].difference
    single = _by_question(one)["Do successes align better than failures"].rows[0].difference
    assert success.n == "3 trainings on 20 test episodes on each side"
    error = (single.over(1).high - single.value) / t.ppf(0.975, single.degrees)  # planted alike in each training
    wide = t.ppf(1 - 0.025 / single.comparisons, 2) * error / np.sqrt(3)
    assert (success.value, success.high - success.value) == pytest.approx((single.value, wide))


def test_success_is_judged_where_each_policy_succeeds_nearest_one_half(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run", seeds=(0, 1, 2)))
    table = read_alignment(run.results("alignment"))
    planted = table["metric"].eq("success_minus_failure@1") & table["execution"].eq("arp-baseline-seed1")
    table.loc[planted & (table["step_e"] == 500), "value"] = 0.35
    write_table(table, run.results("alignment"))
    chosen = [("arp-baseline", 1000), ("arp-baseline-seed1", 500), ("arp-baseline-seed2", 777)]
    rows = [
        {"world": "tabletop", "model": name, "step": step, "value": 0.5, "n": 60, "candidates": ""}
        for name, step in chosen
    ]
    HALF_SUCCESS.write(run.results("half_success"), HALF_SUCCESS.frame(rows))
    base, joint = _by_question(run)["Do successes align better than failures"].rows[:2]
    assert base.where == "actions carried out or not (rollouts, steps 1000, 500, 2000)"  # 777 was not measured
    assert base.difference.value == pytest.approx((0.2 + 0.35 + 0.2) / 3)
    assert joint.where == "actions carried out or not (rollouts, step 2000)"
    HALF_SUCCESS.write(run.results("half_success"), HALF_SUCCESS.frame([*rows[:2], rows[2] | {"step": 200}]))
    _by_question.cache_clear()
    base = _by_question(run)["Do successes align better than failures"].rows[0]
    assert base.where == "actions carried out or not (rollouts, steps 1000, 500, 200, nearest one half)"


def test_without_paired_outcomes_the_intervals_are_used(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))
    run.results("predictions").unlink()
    (row,) = _by_question(run)["joint training help recognition"].rows
    assert row.difference.basis.endswith("from both intervals, not paired")


def test_what_was_not_measured_is_said(tmp_path, alignment_table):
    run = RunDir.create(tmp_path / "run")
    found = findings(run)
    assert [one.short for one in found] == ["Not measured."] * 5
    assert "`mnprobe recognize` does" in found[3].sentences[0]
    write_table(alignment_table(steps=(0, 1000)), run.results("alignment"))
    found = findings(run)
    assert found[0].rows[0].subject == "viclip and arp"
    assert found[2].sentences == ("The run does not hold both a baseline and a joint training.",)


def test_damaged_tables_leave_their_question_open_and_say_so(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))
    run.results("recognition").write_text("a\n1\n")
    problems = []
    assert len(findings(run, problems)) == 4
    (problem,) = problems
    assert "lacks the columns model, training" in problem
    assert any("No Table 1" in problem for problem in gather(run).problems)


def test_the_page_has_its_sections_in_order_and_shows_success(one):
    source = write_report(one).path.read_text(encoding="utf-8")
    places = [source.index(f'id="{name}"') for name in _SECTIONS]
    assert places == sorted(places)
    names = re.findall(r'<[a-z]+[^<>]* id="([^"]*)"', source)
    assert sorted(names) == sorted(set(names))  # a link leads to one place
    for words in (
        "Does alignment rise with training?",
        "Table 2. Embodied execution",
        "paper, on RLBench",
        "success.csv",
    ):
        assert words in source


_SECTIONS = (
    *("overview", "alignment", "result", "answers", "outcomes", "controls", "verdicts", "models", "tsne"),
    *("similarity", "ablation", "method", "caveats", "data", "weights", "tables", "provenance", "glossary"),
)


def test_names_from_tables_stay_text(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))
    for name, column in (("recognition", "task"), ("success", "task"), ("success", "world"), ("ablation", "pairing")):
        table = pd.read_csv(run.results(name))
        table[column] = table[column].replace(table[column].iloc[0], EVIL)
        write_table(table, run.results(name))
    source = write_report(run).path.read_text(encoding="utf-8")
    own = f"<script>{read_piece('page.js')}</script>"
    assert source.count(own) == 1
    assert "<script>" not in source.replace(own, "")
    assert 'onerror="hacked' not in source
    assert source.count("&lt;script&gt;hacked=1&lt;/script&gt;") >= 4


def _told(topic, *rows):
    """The message of comparisons, each a place with the interval of its difference."""
    effects = tuple(
        Effect(
            subject=f"training {number}",
            where=where,
            difference=Difference(before=0.2, after=0.3, value=0.1, low=low, high=high, n="40", basis="b"),
            leads=True,
        )
        for number, (where, low, high) in enumerate(rows)
    )
    return message(Finding(topic=topic, conclusion="any", rows=effects, trainings=1))


UP, OPEN, FLAT, DOWN = (0.1, 0.3), (-0.1, 0.3), (-0.01, 0.02), (-0.3, -0.1)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ({"demonstrations": UP}, "Alignment rises on demonstrations"),
        (
            {
                "demonstrations": UP,
                "demonstrations, instruction blanked": UP,
                "own episodes": UP,
                "own episodes, instruction blanked": UP,
            },
            "Alignment rises on demonstrations and on own episodes, with the instruction blanked too",
        ),
        (
            {"demonstrations": OPEN, "own episodes": UP, "own episodes, instruction blanked": OPEN},
            "Alignment rises on own episodes; with the instruction blanked that is not shown",
        ),
        ({"demonstrations": OPEN, "own episodes": OPEN}, "Whether alignment rises is undecided"),
        ({"demonstrations": OPEN, "own episodes": FLAT}, "Whether alignment rises is undecided"),
        ({"demonstrations": FLAT}, "Alignment does not rise with training"),
        ({"demonstrations": FLAT, "own episodes": DOWN}, "Alignment does not rise with training"),
        ({"demonstrations": DOWN}, "Alignment falls with training"),
    ],
)
def test_the_title_of_the_curve_says_where_alignment_rises(rows, wanted):
    assert _told("rise with training", *((where, *ends) for where, ends in rows.items())) == wanted


def test_a_rise_in_one_training_alone_is_not_said_of_all():
    both = ("demonstrations", *UP), ("demonstrations", *OPEN)
    assert _told("rise with training", *both) == "Alignment rises in some comparisons only"


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        ([UP, UP], "Successes align better than failures"),
        ([DOWN], "Failures align better than successes"),
        ([FLAT], "Successes and failures align alike"),
        ([OPEN], "Undecided whether successes align better than failures"),
        ([OPEN, FLAT], "Undecided whether successes align better than failures"),
        ([UP, OPEN], "Successes and failures differ in some comparisons only"),
    ],
)
def test_the_title_of_success_says_what_the_intervals_say(ends, wanted):
    assert _told("success", *(("anywhere", *one) for one in ends)) == wanted


def test_there_is_no_message_without_a_comparison_or_for_other_questions():
    assert _told("success") == ""
    assert _told("joint execution", ("anywhere", *UP)) == ""


def test_no_printed_interval_leaves_what_a_difference_of_shares_can_be():
    made = Difference(before=0.2, after=1.0, value=0.8, low=-1.3, high=1.046, n="4", basis="b")
    assert made.shown == (-1.0, 1.0)
    assert all(np.isnan(replace(made, low=np.nan, high=np.nan).shown))
