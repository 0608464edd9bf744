"""The first screen of a report: cards, geometry of the curve, warnings."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from mnprobe.analysis.audit.effects import Difference, over_seeds
from mnprobe.analysis.audit.findings import Effect, Finding
from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.report.collect import gather
from mnprobe.analysis.report.overview import answer_cards, plot_curve, warning_lines
from mnprobe.analysis.report.render import render, write_report
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.core.rundir import RunDir


@pytest.fixture
def points(tmp_path, alignment_table):
    """Points of a curve with these steps, as a run has them on disk; `cells` replaces whole columns."""

    def make(steps, **cells):
        run = RunDir.create(tmp_path / "points")
        write_table(alignment_table(steps=steps).assign(**cells), run.results("alignment"))
        return curve_data(RunTables.load(run).alignment)

    return make


def _effect(low, high, *, subject="baseline", where="demonstrations", leads=True):
    value = (low + high) / 2 if math.isfinite(low) else 0.25
    made = Difference(before=0.1, after=0.1 + value, value=value, low=low, high=high, n="90 test episodes", basis="")
    return Effect(subject=subject, where=where, difference=made, leads=leads)


def _card(*rows, topic="rise with training", trainings=1):
    (card,) = answer_cards([Finding(topic=topic, conclusion="", rows=rows, trainings=trainings)])
    return card


@pytest.mark.parametrize(
    ("ends", "word", "kind"),
    [
        ([(0.1, 0.3)], "Yes", "yes"),
        ([(-0.04, 0.03)], "No", "no"),
        ([(-0.4, -0.1)], "No, the reverse", "no"),
        ([(-0.3, 0.2)], "Undecided", "undecided"),
        ([(math.nan, math.nan)], "Undecided", "undecided"),
        ([(0.1, 0.3), (-0.3, 0.2)], "Mixed", "mixed"),
    ],
)
def test_a_card_answers_by_the_decision_rule(ends, word, kind):
    card = _card(*(_effect(*one) for one in ends))
    assert (card.word, card.kind) == (word, kind)


def test_rows_that_do_not_lead_do_not_answer():
    assert _card(_effect(0.1, 0.3), _effect(-0.4, 0.4, leads=False)).word == "Yes"


def test_one_seed_pair_is_no_answer_and_its_interval_is_only_drawn():
    pair = over_seeds([_effect(0.1, 0.3).difference], what="seed pairs")
    card = _card(Effect(subject="joint", where="demonstrations", difference=pair, leads=True), topic="joint alignment")
    assert (card.word, card.kind) == ("One pair, no answer", "undecided")
    assert (card.bars[0].low, card.bars[0].high) == (0.1, 0.3)
    assert "pair" in card.basis
    found = Finding(
        topic="joint alignment", conclusion="one pair", rows=(Effect(subject="j", where="d", difference=pair),)
    )
    assert warning_lines([], [found]) == ("One seed pair, whose interval decides nothing",)


def test_what_was_not_measured_says_what_measures_it():
    (card,) = answer_cards(
        [Finding(topic="joint recognition", conclusion="not measured", facts={"missing": "recognition"})]
    )
    assert (card.word, card.kind, card.bars) == ("Not measured", "missing", ())
    assert "mnprobe recognize" in card.basis


def test_bars_lie_where_their_numbers_are():
    card = _card(_effect(-0.1, 0.3), _effect(0.05, 0.15, where="own episodes, instruction blanked (tabletop)"))
    scale = 100 / 0.4  # from -10 to +30 points
    assert card.zero == pytest.approx(0.1 * scale)
    assert [bar.label for bar in card.bars] == ["demonstrations", "own episodes, blanked"]
    assert (card.bars[0].left, card.bars[0].width) == pytest.approx((0, 100))
    assert card.bars[1].left == pytest.approx(0.15 * scale)
    assert card.bars[1].dot == pytest.approx(0.2 * scale)


def test_intervals_beyond_the_drawing_say_that_they_go_on():
    (bar,) = _card(_effect(-0.9, 0.3)).bars
    assert (bar.left, bar.open_left, bar.open_right) == (0, True, False)


def test_at_most_four_comparisons_are_drawn_and_the_first_training_first():
    rows = [_effect(0.1, 0.2, subject=name, where=f"place {i}") for i in range(3) for name in ("baseline", "joint")]
    card = _card(*rows)
    assert [bar.label for bar in card.bars] == [
        "baseline: place 0",
        "baseline: place 1",
        "baseline: place 2",
        "joint: place 0",
    ]
    assert card.more == 2


def test_the_curve_is_drawn_to_scale_and_stays_inside(points):
    data = points((0, 250, 1000))
    plot = plot_curve(data)
    claim = next(line for line in plot.lines if line.style == "claim-1")
    rows = data.points[(data.points["series"] == "main") & (data.points["holdout"] == data.points["holdout"].iloc[0])]
    assert len(rows) == 3
    values, heights = rows["value"].tolist(), [point.y for point in claim.points]
    unit = (plot.bottom - plot.chance) / float(rows["chance"].iloc[0])
    assert heights == pytest.approx([plot.bottom - unit * value for value in values])
    xs = [point.x for point in claim.points]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(0.25)
    for line in plot.lines:
        for point in line.points:
            assert plot.left <= point.x <= plot.right
            assert plot.top <= point.y <= plot.bottom
    assert f"{100 * values[-1]:.1f} %" in claim.points[-1].words


def test_claims_are_shown_and_no_two_lines_look_alike(points):
    plot = plot_curve(points((0, 1000)))
    assert plot.lines[0].style == "claim-1"
    assert plot.lines[0].shown
    assert len({line.style for line in plot.lines}) == len(plot.lines)


def test_the_drawing_is_well_formed_and_names_stay_text(tmp_path, alignment_table):
    table = alignment_table(steps=(0, 1000)).replace({"execution": {"arp": "<b>&"}})
    run = RunDir.create(tmp_path / "run")
    write_table(table, run.results("alignment"))
    page = write_report(run).path.read_text(encoding="utf-8")
    drawing = page[page.index("<svg viewBox") : page.index("</svg>") + 6]
    assert ElementTree.fromstring(drawing).tag == "svg"
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_labels_of_steps_do_not_overlap(points):
    plot = plot_curve(points((0, 1, 2, 3, 1000)))
    places = [x for x, _ in plot.x_ticks]
    assert [words for _, words in plot.x_ticks] == ["1000", "3"]
    assert all(first - second > 10 for first, second in pairwise(places))


def test_no_points_no_curve(points):
    data = points((0, 1000))
    data.points["value"] = math.nan
    assert plot_curve(data) is None


def test_each_kind_of_warning_stands_once_and_alarms_lead():
    caveats = [
        "Few groups (holdout episodes): 4; few.",
        "Few groups (holdout tasks): 3.",
        "Ties: up to 30 %.",
        "One run.",
    ]
    leak = Finding(topic="leak", conclusion="broken", alarm=True)
    calm = Finding(topic="shuffled", conclusion="sound")
    wanted = ("Training and test set overlap", "Few groups", "Ties", "One run")
    assert warning_lines(caveats, [leak, calm, leak]) == wanted
    assert warning_lines([]) == ()


def test_a_table_without_chance_draws_no_chance(points):
    assert plot_curve(points((0, 1000), chance=math.nan)).chance_words == ""


def test_no_sentence_of_the_first_screen_is_long_and_no_bracket_stands_in_another(three, one):
    for run in (one, three):
        page = render(gather(run))
        screen = page[page.index("<body>") : page.index('<section id="alignment"')]
        screen = re.sub(r"<(style|script|title).*?</\1>", "", screen, flags=re.DOTALL)
        blocks = re.split(r"</?(?:p|li|h1|h2|h3|a|label|text|title|figcaption|span|nav|legend)\b[^>]*>", screen)
        texts = [" ".join(re.sub(r"<[^>]+>", " ", block).split()) for block in blocks]
        for sentence in re.split(r"(?<=[.!?])\s|\xb7", " | ".join(texts).replace("&nbsp;", " ")):
            for part in sentence.split("|"):
                assert len(part.split()) <= 20, part
                assert not re.search(r"\([^)]*\(", part)
