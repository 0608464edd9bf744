"""The verdict, the contrasts and the condensed tables of a report, and the page of several runs."""

import re

import pandas as pd
import pytest
import tomli_w

from mnprobe.analysis.report import gather, set_side_by_side, write_report, write_side_by_side
from mnprobe.analysis.report.comparison import differing
from mnprobe.analysis.report.summary import condensed, judgements
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.probe import AlignConfig, FitConfig, align_stores, join_stores

EVIL = '<img src=x onerror="hacked=1">'


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "first", {"train": {"seed": 3, "lambda_align": 0.5}})


def _verdict(topic, conclusion, sentence, *, holdout="episodes", alarm=False, execution="arp-joint"):
    found = {"topic": topic, "conclusion": conclusion, "understanding": "viclip-joint", "execution": execution}
    return found | {"holdout": holdout, "sentence": sentence, "alarm": alarm}


def _controls(**changes):
    row = {"understanding": "viclip", "execution": "arp", "holdout": "episodes", "series": "main", "kind": "level"}
    row |= {"step": 100, "value": 0.5, "ci_low": 0.4, "ci_high": 0.625, "chance": 0.125, "difference": -0.1}
    row |= {"d_low": -0.2, "d_high": 0.01, "p_holm": 0.0312, "detectable": 0.1, "n_test": 90, "n_groups": 15}
    return row | {"note": ""} | changes


def _text(run):
    source = write_report(run).path.read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", source).replace("\N{NO-BREAK SPACE}", " ").split())


def test_verdicts_lead_with_alarms_then_with_what_the_instruction_explains(run):
    rows = [
        _verdict("chance", "above", "It is above."),
        _verdict("instruction", "rise explained", "The rise is explained."),
        _verdict("leak", "broken", "Look here.", holdout="instructions", alarm=True),
        _verdict("chance", "above", "Above as well.", holdout="instructions"),
    ]
    write_table(pd.DataFrame(rows), run.results("verdict"))
    found = judgements(run, [])
    assert [(one.holdout, one.sentence, one.alarms) for one in found] == [
        ("new instructions", "Above as well.", ["Look here."]),
        ("new episodes of known instructions", "The rise is explained.", []),
    ]
    assert [row[0] for row in found[1].rows] == ["instruction", "chance"]
    text = _text(run)
    warned, scores = (
        text.index("Read first: Training and test set overlap."),
        text.index("Scores at the last checkpoint"),
    )
    assert warned < scores < text.index("Look here.") < text.index("The rise is explained.")
    assert "instruction: rise explained" in text


def test_condensed_numbers_carry_interval_chance_and_n(run):
    write_table(pd.DataFrame([_controls(), _controls(note=EVIL, difference="")]), run.results("controls"))
    table = condensed(run, "controls")
    line = dict(zip(table.columns, table.rows[0], strict=True))
    assert (line["Recall@1 %"], line["95 % interval"], line["chance %"]) == ("50.0", "40.0 to 62.5", "12.5")
    assert (line["difference, points"], line["95 % interval "]) == ("\N{MINUS SIGN}10.0", "\N{MINUS SIGN}20.0 to +1.0")
    assert (line["p (Holm)"], line["n"], line["groups"]) == ("0.0312", "90", "15")
    assert dict(zip(table.columns, table.rows[1], strict=True))["difference, points"] == ""
    source = write_report(run).path.read_text(encoding="utf-8")
    assert EVIL not in source
    assert "&lt;img src=x" in source


def test_what_is_missing_names_its_command_and_broken_tables_do_not_stop_the_page(run):
    text = _text(run)
    for words in (
        f"No verdict yet: where alignment was measured, run mnprobe audit --run {run.path}",
        f"Nothing was audited yet: where alignment was measured, run mnprobe audit --run {run.path}",
        f"run mnprobe align --run {run.path} --split success and then mnprobe success --run {run.path}",
        f"No heatmap yet: run mnprobe compare --run {run.path}",
        f"No t-SNE yet: run mnprobe tsne --run {run.path}",
    ):
        assert words in text, words
    for name in ("verdict", "controls", "leakage", "decomposition", "similarity", "success_contrast"):
        run.results(name).parent.mkdir(exist_ok=True)
        run.results(name).write_text("a,b\n1,2\n")
    data = gather(run)
    assert not data.condensed
    assert any("No verdict: " in problem for problem in data.problems)
    assert any("No contrast of success and failure: " in problem for problem in data.problems)
    assert "verdict.csv" in _text(run)


def test_seeds_and_hashes_are_told(run):
    write_table(pd.DataFrame({"a": [1]}), run.results("controls"))
    data = gather(run)
    assert data.seeds == (("train.seed", "3"),)
    assert [(name, len(digest)) for name, digest in data.hashes] == [("results/controls.csv", 64)]


def test_a_run_with_several_models_names_two_of_them_for_the_heatmap(run, write_pair, many_instructions):
    for training in ("baseline", "joint"):
        write_pair(run.path, many_instructions[:2], understanding=f"viclip-{training}", execution=f"arp-{training}")
    command = next(piece.command for piece in gather(run).missing if piece.what == "similarity heatmap")
    assert command == f"mnprobe compare --run {run.path} --understanding viclip-joint --execution arp-joint"


def test_settings_that_differ_are_listed_and_long_ones_are_told_apart():
    long = ["x" * 400, "x" * 399 + "y"]
    found = dict(differing([{"a": {"b": {"tau": 0.1}, "same": 1, "l": [text]}} for text in long]))
    assert set(found) == {"a.l"}
    assert len(set(found["a.l"])) == 2
    assert differing([{"a": {"x": 1}}, {"a": {"x": 1}}]) == ()
    assert differing([{"run": {"created": "today"}}, {"run": {"created": "tomorrow"}}]) == ()


def test_runs_side_by_side_keep_their_names_and_numbers(one, three, tmp_path):
    found = set_side_by_side([one, three])
    assert [side.label for side in found.sides] == [str(one.path), str(three.path)]  # both are called "run"
    claims = [row for row in found.rows if row.is_claim]
    assert [(row.training, row.holdout) for row in claims] == [
        ("baseline", "new episodes of known instructions"),
        ("joint", "new episodes of known instructions"),
        ("baseline", "new instructions"),
        ("joint", "new instructions"),
    ]
    for row in claims:
        for side, cell in zip(found.sides, row.cells, strict=True):
            assert cell in side.data.headline
            assert row.training in cell.pair
    assert len(found.answers) == 5
    path, _ = write_side_by_side([one, three], tmp_path / "c.html")
    source = path.read_text(encoding="utf-8")
    assert "<script" not in source
    assert source.count("data:image/png") == 1
    text = " ".join(re.sub(r"<[^>]+>", " ", source).split())
    assert "2 runs side by side" in text
    assert f"mnprobe report --compare {one.path} --compare {three.path}" in text


def test_an_empty_run_beside_another_is_no_error(one, run, tmp_path):
    (tmp_path / EVIL).mkdir()
    strange = RunDir.create(tmp_path / EVIL / "third")
    found = set_side_by_side([run, one, strange])
    assert all(row.cells[0] is None and row.cells[1] is not None for row in found.rows)
    path, _ = write_side_by_side([run, strange])
    assert path == run.path / "report-compare.html"
    source = path.read_text(encoding="utf-8")
    assert EVIL not in source
    assert f"mnprobe align --run {run.path}" in " ".join(re.sub(r"<[^>]+>", " ", source).split())


def test_one_run_cannot_be_set_beside_itself(run):
    with pytest.raises(ConfigError, match="two runs or more, got 1"):
        set_side_by_side([run])
    with pytest.raises(ConfigError, match="named twice"):
        set_side_by_side([run, RunDir(run.path / ".." / run.path.name)])


def _settings(run):
    return {row[0]: row[1:] for row in gather(run).probe.rows}


def test_every_setting_of_the_measurement_stands_in_the_page(run, write_pair, many_instructions):
    fit = FitConfig(dim=617, steps=2, lr=2.73e-3, batch=641, tau=0.1234)
    config = AlignConfig(fit=fit, seeds=2, splits=1, holdout="episodes", k=(1, 3))
    write_pair(run.path, many_instructions[:6])
    pairs, _ = join_stores([piece.path for piece in run.feature_files()])
    align_stores(pairs, config, table=run.results("alignment"), pool_u="max", pool_e="last", quiet=True)
    found = _settings(run)
    expected = {
        "pooling of u": "max",
        "pooling of e": "last",
        "held out": "episodes",
        "width of the shared space (dim)": "617",
        "learning rate (lr)": "0.00273",
        "optimiser": "Adam",
        "learning rate falls to zero (decay)": "yes",
        "variance of noise in lengths (ridge)": "0.01",
        "optimiser steps": "2",
        "optimiser steps that were run": "2",
        "fits whose training loss was flat": "0%",
        "batch": "641",
        "temperature tau": "0.1234",
        "loss": "diagonal",
        "heads": "linear",
        "probe seeds": "2",
        "random splits": "1",
        "share held out": "0.3",
        "neighbour counts of recall (k)": "1, 3",
    }
    assert {name: found[name] for name in expected} == {name: (value,) for name, value in expected.items()}
    text = _text(run)
    assert all(f"{name} {value}" in text for name, value in expected.items())
    assert f"config_hash {config.digest()}" in text


def test_settings_of_an_older_table_are_said_not_to_be_recorded(run, alignment_row):
    rows = [alignment_row(), alignment_row(config_hash=EVIL, tau=0.2)]
    write_table(pd.DataFrame(rows), run.results("alignment"))
    found = _settings(run)
    assert found["temperature tau"][1] == "0.2"
    assert found["all other settings"] == ("not recorded", "not recorded")
    run.record("align", {rows[0]["config_hash"]: {"fit": {"dim": 7, "strange": EVIL}, "k": [1]}})
    found = _settings(RunDir(run.path))
    assert found["width of the shared space (dim)"] == ("7", "not recorded")
    assert found["fit.strange"] == (EVIL, "not recorded")
    source = write_report(RunDir(run.path)).path.read_text(encoding="utf-8")
    assert EVIL not in source


@pytest.mark.parametrize("section", [3, [1], {"a": 1}])
def test_a_section_of_another_form_stops_no_report(run, alignment_row, section):
    run.record("other", {})
    run.config_path.write_text(tomli_w.dumps({"align": section}))
    write_table(pd.DataFrame([alignment_row()]), run.results("alignment"))
    assert _settings(RunDir(run.path))["all other settings"] == ("not recorded",)


def test_settings_of_align_are_set_side_by_side_whatever_their_hash(run, tmp_path):
    other = RunDir.create(tmp_path / "second", {"train": {"seed": 3, "lambda_align": 0.5}})
    for one, key, dim in ((run, "a" * 16, 4), (other, "b" * 16, 5)):
        one.record("align", {key: {"seeds": 2, "fit": {"dim": dim}}})
    assert set_side_by_side([run, other]).settings == (("align.fit.dim", ("4", "5")),)
