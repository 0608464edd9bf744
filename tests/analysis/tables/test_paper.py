"""Tables 1 to 3: ours are what was measured, the paper's are what it prints, and the two stay apart."""

import re

import pandas as pd
import pytest

from mnprobe.analysis.tables.paper import PAPER_HEAD, grid_of, grid_text, module_of, paper_table, shaped_table
from mnprobe.analysis.tables.progress import read_ablation, read_recognition, read_success
from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.core.rundir import RunDir
from mnprobe.data import TASKS


@pytest.mark.parametrize(("number", "methods"), [(1, 3), (2, 11)])
def test_the_papers_tables_are_whole(number, methods):
    table = paper_table(number)
    assert table["method"].nunique() == methods
    for _, rows in table.groupby("method"):
        assert set(rows["module"]) == {*TASKS, ""}


@pytest.mark.parametrize(
    ("number", "method", "printed"),
    [(1, "ViCLIP (fine-tuned)", 71.6), (1, "MN (Ours)", 74.9), (2, "ARP", 85.3), (2, "MN (Ours)", 88.8)],
)
def test_the_papers_averages_are_those_of_its_tasks(number, method, printed):
    rows = paper_table(number)[lambda table: table["method"] == method]
    assert rows.loc[rows["module"] == "", "mean_percent"].item() == printed
    assert rows.loc[rows["module"] != "", "mean_percent"].mean() == pytest.approx(printed, abs=0.1)


def test_table_3_and_4_of_the_paper():
    assert paper_table(3).groupby(["pairing", "temperature"]).size().eq(1).all()
    fourth = paper_table(4)
    assert fourth["variations"].sum() == 249
    assert dict(zip(fourth["module"], fourth["variations"], strict=True)) == {
        module: task.variations for module, task in TASKS.items()
    }
    with pytest.raises(ConfigError, match="the paper has Tables 1 to 4, got 5"):
        paper_table(5)
    with pytest.raises(ConfigError, match="'Stack Cats' is no task of the paper's; they are open drawer, "):
        module_of("Stack Cats")


def test_table_1_is_what_was_measured(one):
    table = shaped_table(one, 1)
    source = read_recognition(one.results("recognition"))
    ours = table.frame[table.frame["who"] == "ours"]
    assert list(dict.fromkeys(ours["column"])) == ["step 0, random weights", "baseline, step 2000", "joint, step 2000"]
    for _, row in ours.iterrows():
        training = row["training"] if row["step"] else "baseline"
        wanted = source[
            (source["training"] == training) & (source["step"] == row["step"]) & (source["task"] == row["task"])
        ]
        assert row["percent"] == pytest.approx(100 * wanted["top1"].item())
        assert (row["low"], row["high"]) == pytest.approx(
            (100 * wanted["ci_low"].item(), 100 * wanted["ci_high"].item())
        )
        assert row["n"] == wanted["n"].item()


def test_several_seeds_are_mean_and_spread(three):
    source = read_success(three.results("success"))
    frame = shaped_table(three, 2).frame
    joint = frame[(frame["column"] == "joint, step 2000") & (frame["task"] == "turn_tap")].iloc[0]
    here = source[(source["step"] == 2000) & (source["task"] == "turn_tap")]
    values = here.loc[here["model"].isin(["arp-joint", "arp-joint-seed1", "arp-joint-seed2"]), "value"]
    assert len(values) == joint["n_trainings"] == 3
    assert (joint["percent"], joint["sd"]) == pytest.approx((100 * values.mean(), 100 * values.std(ddof=1)))
    assert not frame["column"].str.contains("blank").any()


def test_the_papers_numbers_stand_in_columns_of_their_own(one):
    grid = grid_of(shaped_table(one, 2))
    assert grid.groups == (("ours (tabletop)", 5), (PAPER_HEAD, 3))
    assert grid.columns == ("task", "n", "step 0", "baseline, step 2000", "joint, step 2000", "task", "ARP", "MN")
    rows = {row[5]: row for row in grid.rows}
    assert len(grid.rows) == 19
    assert rows["Sort Shape"][0] == "put_shape_in_tray"  # the tabletop's stand-in
    assert rows["Sort Shape"][6:] == ("49.3 ± 6.1", "66.7 ± 10.1")
    assert rows["Sweep Dust"][:5] == ("\N{EN DASH}",) * 5
    assert rows["average (18)"][0] == "all tasks (5)"
    assert rows["average (18)"][6:] == ("85.3", "88.8")
    printed = {row["percent"] for _, row in shaped_table(one, 2).frame.query("who == 'paper'").iterrows()}
    assert printed == set(paper_table(2)[lambda table: table["method"].isin(["ARP", "MN (Ours)"])]["mean_percent"])


def test_table_3_sets_pairing_against_temperature(three):
    grid = grid_of(shaped_table(three, 3))
    assert [row[:2] for row in grid.rows] == [
        (pairing, tau) for pairing in ("episode", "instruction", "task") for tau in ("0.02", "0.1", "0.2")
    ]
    assert grid.rows[4] == (
        *("instruction", "0.1"),
        *("51.0 ± 0.0 [40, 60] n=60 \N{MULTIPLICATION SIGN} 3", "42.0 ± 2.0 [30, 50] n=60 \N{MULTIPLICATION SIGN} 3"),
        *("74.9", "88.8"),
    )


def test_an_ablation_without_intervals_and_with_a_baseline(tmp_path):
    rows = [("", "", 0.4, 0.3), ("instruction", "0.1", 0.5, 0.4), ("instruction", "0.5", 0.6, 0.4)]
    table = pd.DataFrame(rows, columns=["pairing", "tau", "understanding", "execution"])
    table = table.assign(training="x", seed=0, n_understanding=10, n_execution=20)
    run = RunDir.create(tmp_path / "run")
    run.results("ablation").parent.mkdir()
    table.to_csv(run.results("ablation"), index=False)
    assert read_ablation(run.results("ablation"))["ci_low_execution"].isna().all()
    rows = grid_of(shaped_table(run, 3)).rows
    assert rows[0] == ("none (baseline)", "\N{EN DASH}", "40.0 n=10", "30.0 n=20", "\N{EN DASH}", "\N{EN DASH}")
    assert ("instruction", "0.5", "60.0 n=10", "40.0 n=20", "\N{EN DASH}", "\N{EN DASH}") in rows
    assert ("instruction", "0.1", "50.0 n=10", "40.0 n=20", "74.9", "88.8") in rows


def test_text_has_both_heads_and_says_that_nothing_compares(one):
    lines = grid_text(shaped_table(one, 1)).split("\n")
    assert lines[0] == "Table 1. Action recognition, top-1 %"
    place = lines[1].index(PAPER_HEAD)
    assert lines[2].index("task", 5) == place
    assert lines[-1].endswith("no number of ours compares.")
    assert "Chance is 5.0 % (one of 20 instructions)." in lines


def test_a_narrow_text_has_ours_and_the_papers_columns_below_each_other(one):
    table = shaped_table(one, 1)
    whole, narrow = grid_text(table), grid_text(table, width=100)
    assert max(map(len, whole.split("\n"))) > 100
    assert max(map(len, narrow.split("\n"))) <= 100
    grid = grid_of(table)
    ours = grid.groups[0][1]
    for row in grid.rows:
        for cells in (row[:ours], row[ours:]):
            shown = set(cells) != {"\N{EN DASH}"}
            line = r" +".join(re.escape(cell) for cell in cells)
            assert bool(re.search(f"^{line}$", narrow, re.MULTILINE)) == shown
    assert grid_text(table, width=1000).split("\n")[:3] == whole.split("\n")[:3]


def test_what_is_not_there_or_damaged(one, tmp_path):
    run = RunDir.create(tmp_path / "run")
    assert shaped_table(run, 1) is None
    with pytest.raises(ConfigError, match="tables 1 to 3 can be shown, got 4"):
        shaped_table(run, 4)
    run.results("success").parent.mkdir()
    text = one.results("success").read_text().replace("arp-joint,2000", "arp-joint,many", 1)
    run.results("success").write_text(text)
    with pytest.raises(ProbeError, match=r"column step: 'many' is no number"):
        shaped_table(run, 2)
