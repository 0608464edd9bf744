import pandas as pd
import pytest

from mnprobe.analysis.tables.alignment import (
    ALIGNMENT_COLUMNS,
    apply_where,
    headline,
    parse_where,
    read_alignment,
    settle,
    write_table,
)
from mnprobe.core.errors import ProbeError
from mnprobe.core.table import TableSchema


def test_a_table_comes_back_with_its_types(alignment_table, tmp_path):
    table = alignment_table(steps=(0, 10))
    write_table(table, tmp_path / "a.csv")
    back = read_alignment(tmp_path / "a.csv")
    assert list(back["step_e"]) == list(table["step_e"])
    assert back["value"].tolist() == pytest.approx(table["value"].astype(float).tolist(), abs=0)
    assert back["trained_e"].tolist() == [bool(cell) for cell in table["trained_e"]]
    assert back.loc[back["statistic"] == "seed", "ci_low"].isna().all()


def test_names_that_pandas_would_take_for_missing_stay_names(alignment_row, tmp_path):
    write_table(pd.DataFrame([alignment_row(execution="NA", understanding="None")]), tmp_path / "a.csv")
    back = read_alignment(tmp_path / "a.csv")
    assert (back.loc[0, "execution"], back.loc[0, "understanding"]) == ("NA", "None")


def test_an_absent_table_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(ProbeError, match=r"a\.csv is not there\. `mnprobe align --run x` writes it"):
        read_alignment(tmp_path / "a.csv", command="mnprobe align --run x")


def test_missing_columns_are_named(alignment_row, tmp_path):
    write_table(pd.DataFrame([alignment_row()]).drop(columns=["chance", "tau"]), tmp_path / "a.csv")
    with pytest.raises(ProbeError, match=r"lacks the columns tau, chance; it has understanding, "):
        read_alignment(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("value", "high", "row 2, column value: 'high' is no number"),
        ("n_test", "1O", "row 2, column n_test: '1O' is no number"),
        ("trained_u", "perhaps", "row 2, column trained_u: 'perhaps' is neither True nor False"),
    ],
)
def test_a_wrong_cell_is_named(alignment_row, tmp_path, column, cell, message):
    write_table(pd.DataFrame([alignment_row(**{column: cell})]), tmp_path / "a.csv")
    with pytest.raises(ProbeError, match=message):
        read_alignment(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"a,b\n", "holds no rows"),
        (b"a,b\n1\n", "row 2: 1 cells under 2 columns"),
        (b'a,b\n"1,2\n', "is not a CSV table"),
        (b"a,b\n\xff,2\n", "is not UTF-8 text"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ProbeError, match=message):
        TableSchema(name="x", columns=("a",)).read(tmp_path / "a.csv", command="mnprobe align")


def test_where_keeps_the_rows_that_match(alignment_row):
    table = pd.DataFrame([alignment_row(tau=tau, layer_e=layer) for tau in (0.1, 0.5) for layer in ("e", "norm")])
    kept = apply_where(table, parse_where(["tau=0.10", "layer_e=norm"]))
    assert kept[["tau", "layer_e"]].to_numpy().tolist() == [[0.1, "norm"]]


def test_where_on_the_understanding_layer_spares_the_pixels(alignment_row):
    rows = [alignment_row(layer_u="blocks.3"), alignment_row(), alignment_row(understanding="pixels", layer_u="pixels")]
    kept = apply_where(pd.DataFrame(rows), {"layer_u": "blocks.3"})
    assert kept["layer_u"].tolist() == ["blocks.3", "pixels"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["tau"], "must be column=value, got 'tau'"),
        (["colour=red"], "got 'colour=red'. Columns: understanding"),
        (["tau=1", "tau=2"], "names tau twice: '1' and '2'"),
    ],
)
def test_where_refuses_what_it_cannot_read(conditions, message):
    with pytest.raises(ProbeError, match=message):
        parse_where(conditions)


def test_where_says_what_there_is(alignment_row):
    table = pd.DataFrame([alignment_row(heads="mlp"), alignment_row()])
    with pytest.raises(ProbeError, match=r"no row has heads = 'lstm'; there are linear, mlp"):
        apply_where(table, {"heads": "lstm"})


def test_the_papers_way_is_chosen_and_said(alignment_row):
    rows, notes = settle(pd.DataFrame([alignment_row(layer_e=layer) for layer in ("blocks.1", "e", "norm")]))
    assert rows["layer_e"].tolist() == ["e"]
    assert notes == ["layer_e e is shown; the table also has blocks.1, norm"]


def test_a_choice_without_default_is_asked_for(alignment_row):
    with pytest.raises(ProbeError, match=r"differ in batch \(16, 32\)\. Choose one with --where batch=16"):
        settle(pd.DataFrame([alignment_row(batch=batch) for batch in (16, 32)]))


def test_the_headline_shows_chance_interval_and_n_and_only_columns_that_vary(alignment_table, tmp_path):
    write_table(alignment_table(steps=(0, 100)), tmp_path / "a.csv")
    table = headline(read_alignment(tmp_path / "a.csv"))
    assert {"value", "chance", "ci_low", "ci_high", "n_test", "n_groups", "n_gallery", "n_seeds"} <= set(table.columns)
    assert "tau" not in table.columns
    assert "source_e" in table.columns
    assert len(table) == 2 * 5 * 2  # holdouts x kinds x steps
    assert table["holdout"].tolist() == ["episodes"] * 10 + ["instructions"] * 10


def test_the_columns_are_those_of_the_contract():
    assert len(ALIGNMENT_COLUMNS) == len(set(ALIGNMENT_COLUMNS)) == 44
