"""CSV tables of a finished run, made by an earlier version: read and written again, bytes and values are the same."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.audit.controls import CONTROLS
from mnprobe.analysis.audit.leakage import LEAKAGE
from mnprobe.analysis.audit.run import DECOMPOSITION
from mnprobe.analysis.figures.curve_data import CURVE
from mnprobe.analysis.tables.rollouts import SUCCESS
from mnprobe.analysis.tables.run_tables import VERDICT
from mnprobe.analysis.tsne.maps import MAP_QUALITY, POINTS
from mnprobe.core.errors import FeatureError, ProbeError
from mnprobe.core.table import TableSchema, fitted_table, shorten_pairs, text_table, unshared
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION
from mnprobe.probe.results import ALIGNMENT

GOLDEN = Path(__file__).parents[1] / "golden" / "run-tables"
SCHEMAS = {
    schema.stem: schema
    for schema in (
        *(ALIGNMENT, CONTROLS, CURVE, DECOMPOSITION, LEAKAGE, MAP_QUALITY, PREDICTIONS, RECOGNITION, SUCCESS, VERDICT),
        POINTS,
    )
} | {"tsne-raw": POINTS, "tsne-series": POINTS}
DEMO = TableSchema(
    name="demo",
    columns=("name", "n", "m", "x", "t"),
    key=("name",),
    whole=("n", "m"),
    real=("x",),
    truth=("t",),
    nullable=("m",),
    defaults={"m": "n"},
    command="align",
    error=FeatureError,
)


def test_every_golden_table_has_its_schema():
    assert sorted(SCHEMAS) == sorted(path.stem for path in GOLDEN.glob("*.csv"))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_table_of_an_earlier_version_is_written_again_with_the_same_bytes(name, tmp_path):
    source = GOLDEN / f"{name}.csv"
    table = SCHEMAS[name].read(source)
    SCHEMAS[name].write(tmp_path / source.name, table)
    assert (tmp_path / source.name).read_bytes() == source.read_bytes()
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table) > 0
    unknown = [name for name in SCHEMAS[name].unknown if name not in rows[0]]  # later versions know them
    assert [*rows[0], *unknown] == list(table.columns)
    assert table[unknown].isna().all(axis=None)
    for column in rows[0]:
        cells = [row[column] for row in rows]
        values = table[column].tolist()
        if table[column].dtype == bool:
            assert cells == [str(value) for value in values]
        elif table[column].dtype == np.int64:
            assert [int(cell) for cell in cells] == values
        elif table[column].dtype == np.float64:
            np.testing.assert_array_equal([float(cell or "nan") for cell in cells], values)  # every digit
        else:
            assert cells == values


@pytest.mark.parametrize("name", sorted({"alignment", "predictions", "recognition"}))
def test_a_writer_goes_on_with_the_same_table(name):
    path = GOLDEN / f"{name}.csv"
    pd.testing.assert_frame_equal(SCHEMAS[name].read_or_empty(path), SCHEMAS[name].read(path))


def test_each_type_is_read_by_its_rule(tmp_path):
    path = tmp_path / "demo.csv"
    path.write_text('name,n,m,x,t\nNA,5.0,,0.1000000000000000055511151231257827,TRUE\n"a, ""b""",-1,7,,0\n')
    table = DEMO.read(path)
    assert table["name"].tolist() == ["NA", 'a, "b"']
    assert (table["n"].tolist(), table["n"].dtype) == ([5, -1], np.int64)
    np.testing.assert_array_equal(table["m"], [np.nan, 7.0])
    np.testing.assert_array_equal(table["x"], [0.1, np.nan])
    assert (table["t"].tolist(), table["t"].dtype) == ([True, False], np.bool_)
    path.write_text("\ufeffname,n,x,t,own\nb,2,1e-3,False,9\n")  # an earlier version's, saved by a spreadsheet
    table = DEMO.read(path)
    assert table.to_dict("list") == {"name": ["b"], "n": [2], "m": [2], "x": [0.001], "t": [False]}
    pd.testing.assert_frame_equal(DEMO.read_or_empty(path), table)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("a,1.5,1,1,True", "row 2, column n: '1.5' is no whole number"),
        ("a,,1,1,True", "row 2, column n: '' is no whole number"),
        ("a,1,1,1_0,True", "row 2, column x: '1_0' is no number"),
        ("a,inf,1,1,True", "row 2, column n: 'inf' is no whole number"),
        ("a,1,1,1,yes", "row 2, column t: 'yes' is neither True nor False"),
        ("a,1,1,1", "row 2: 4 cells under 5 columns"),
    ],
)
def test_a_cell_that_is_not_of_its_type_is_refused_by_reader_and_writer(cells, message, tmp_path):
    path = tmp_path / "demo.csv"
    path.write_text(f"name,n,m,x,t\n{cells}\n")
    with pytest.raises(FeatureError, match=f"demo.csv, {message}"):
        DEMO.read(path)
    with pytest.raises(FeatureError, match=rf"cannot be read as a table of demo \({message}\)\. Remove it"):
        DEMO.read_or_empty(path)


def test_only_the_schema_s_columns_are_written(tmp_path):
    table = DEMO.frame([{"name": "a", "n": 1, "m": 2, "x": 0.5, "t": True}])
    for wrong in (table[["name", "n", "m", "t", "x"]], table.drop(columns="x"), table.assign(own=1)):
        with pytest.raises(ValueError, match="a table of demo has the columns name, n, m, x, t, got "):
            DEMO.write(tmp_path / "demo.csv", wrong)
    assert not list(tmp_path.iterdir())


def test_a_writer_does_not_go_on_with_a_table_that_lacks_what_nothing_else_says(tmp_path):
    path = tmp_path / "alignment.csv"
    ALIGNMENT.read(GOLDEN / "alignment.csv").drop(columns=["fit_source", "features_hash"]).to_csv(path, index=False)
    table = ALIGNMENT.read(path)
    assert (table["fit_source"] == table["source_u"]).all()
    assert set(table["features_hash"]) == {""}
    with pytest.raises(ProbeError, match=r"not a table of alignment: it lacks features_hash\. Remove it"):
        ALIGNMENT.read_or_empty(path)


CELLS = [
    ("task", "viclip 0 (untrained)", "n"),
    ("open drawer", "6.7 [0.3, 29.8]", "15"),
    ("[bold]x[/bold] :smile:", "", "1" * 300),  # neither markup nor an emoji, and no line is cut
    ("schieße", "100.0 [20.7, 100.0]", "-"),
]


@pytest.mark.parametrize("gap", [2, 3])
def test_a_text_table_is_aligned_and_changes_no_cell(gap, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    widths = [max(map(len, column)) for column in zip(*CELLS, strict=True)]
    by_hand = [(" " * gap).join(map(str.ljust, line, widths)).rstrip() for line in CELLS]
    assert text_table(CELLS[0], CELLS[1:], gap=gap).split("\n") == by_hand
    assert text_table((), CELLS, gap=gap).split("\n") == by_hand
    assert text_table((), []) == ""
    assert text_table(("a", "b"), [], gap=gap) == f"a{' ' * gap}b"


def test_a_text_table_counts_a_wide_character_as_two_columns():
    assert text_table((), [("引き出し", "a"), ("12345678", "b")]).split("\n") == ["引き出し  a", "12345678  b"]


def test_columns_of_a_text_table_that_do_not_fit_follow_under_the_first_one():
    rows = [("model", "aaaa", "bbbb", "cccccccccccc"), ("arp", "1", "2", "3")]
    assert text_table(rows[0], rows[1:], width=17).split("\n\n") == [
        "model  aaaa  bbbb\narp    1     2",
        "model  cccccccccccc\narp    3",
    ]
    assert text_table(rows[0], rows[1:], width=16).count("\n\n") == 2


def test_heads_above_the_heads_span_their_columns():
    text = text_table(("a", "b", "c"), [("1", "2", "3")], gap=3, groups=(("", 1), ("a long name", 1), ("x", 1)))
    assert text.split("\n") == ["    a long name   x", "a   b             c", "1   2             3"]
    text = text_table(("aaaa", "bbbb", "c"), [("1", "2", "3")], groups=(("two", 2), ("one", 1)))
    assert text.split("\n") == ["two         one", "aaaa  bbbb  c", "1     2     3"]


def test_a_fitted_table_says_once_what_all_rows_share_and_names_what_it_leaves_out():
    rows = [("viclip", "7", "episodes", "0.500"), ("arp", "7", "episodes", "0.250")]
    columns = ("model", "n", "held out", "score")
    assert fitted_table(columns, rows, width=None) == text_table(columns, rows)
    assert fitted_table(columns, rows, width=60).split("\n") == [
        "in all rows: n 7, held out episodes",
        *("model   score", "viclip  0.500", "arp     0.250"),
    ]
    assert fitted_table(columns, rows[:1], width=60) == text_table(columns, rows[:1])
    narrow = fitted_table(columns, [*rows, ("cnn", "8", "episodes", "0.1")], width=14, spare=("score", "n"))
    assert narrow.split("\n")[-1] == "not shown: score"
    assert max(map(len, narrow.split("\n")[:-1])) <= 14
    assert fitted_table(columns, [], width=60) == text_table(columns, [])


@pytest.mark.parametrize(
    ("names", "short", "shared"),
    [
        (["viclip-joint", "viclip-baseline"], ["joint", "baseline"], "viclip-…"),
        (["a step 1", "b step 1"], ["a", "b"], "… step 1"),
        (["x-a-y", "x-b-y"], ["a", "b"], "x-…-y"),
        (["x a-y", "x b y"], ["a-y", "b y"], "x …"),
        (["one", "two"], ["one", "two"], ""),
        (["same", "same"], ["same", "same"], ""),
        (["arp", "arp step 9"], ["arp", "arp step 9"], ""),
        (["a a", "a"], ["a a", "a"], ""),
    ],
)
def test_names_lose_what_all_share_and_stay_different(names, short, shared):
    assert unshared(names) == (short, shared)
    assert len(set(short)) == len(set(names))


def test_pairs_have_one_name_where_one_tells_them_apart():
    seeds = [(f"viclip-{name}", f"arp-{name}") for name in ("joint", "baseline", "joint-seed1")]
    assert shorten_pairs(seeds) == (["joint", "baseline", "joint-seed1"], "pairs: viclip-… x arp-…")
    crossed = [("viclip-joint", "arp-joint"), ("viclip-baseline", "arp-joint"), ("viclip-joint", "arp-baseline")]
    assert shorten_pairs(crossed)[0] == ["joint x joint", "baseline x joint", "joint x baseline"]
    assert shorten_pairs([("u", "e"), ("u", "e")]) == (["u x e", "u x e"], "")
    assert shorten_pairs([("u-1", "e"), ("u-2", "e")]) == (["1", "2"], "pairs: u-… x e")
