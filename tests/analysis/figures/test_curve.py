import hashlib

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.figures.curve import curve_caption, curve_figure, draw_curve
from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.figures.metadata import read_note
from mnprobe.analysis.figures.style import series_name
from mnprobe.analysis.tables.alignment import SPLITS, read_alignment, write_table
from mnprobe.core.errors import ProbeError


@pytest.fixture
def table(alignment_table, tmp_path):
    def read(source=None, **options):
        write_table(alignment_table(**options) if source is None else pd.DataFrame(source), tmp_path / "a.csv")
        return read_alignment(tmp_path / "a.csv")

    return read


def _drawn(axes, label):
    return [line.get_xydata() for line in axes.lines if line.get_label() == label]


def test_every_line_is_what_the_table_says(table):
    source = table()
    data = curve_data(source)
    figure = curve_figure(data)
    for axes, holdout in zip(figure.axes, ["episodes", "instructions"], strict=True):
        rows = source[
            (source["statistic"] == "mean") & (source["direction"] == "mean") & (source["holdout"] == holdout)
        ]
        wanted = {
            "main": (rows["source_e"] == "demos") & (rows["understanding"] == "viclip") & (rows["control"] == "none"),
            "blank": rows["source_e"] == "demos-blank",
            "pixels": rows["understanding"] == "pixels",
            "rollouts": rows["source_e"] == "rollouts",
            "shuffled": rows["control"] == "shuffled",
        }
        for series, chosen in wanted.items():
            (line,) = _drawn(axes, series_name(series))
            np.testing.assert_array_equal(line, rows.loc[chosen, ["step_e", "value"]].to_numpy(float))


def test_the_band_is_the_interval_of_the_table(table):
    data = curve_data(table(controls=False, holdouts=("episodes",)))
    (axes,) = curve_figure(data).axes
    corners = axes.collections[0].get_paths()[0].vertices
    for _, point in data.points.iterrows():
        here = corners[corners[:, 0] == point["step"], 1]
        assert (here.min(), here.max()) == (point["ci_low"], point["ci_high"])


def test_the_chance_line_is_the_chance_of_each_panel(table):
    figure = curve_figure(curve_data(table()))
    assert [_drawn(axes, "_chance")[0][0, 1] for axes in figure.axes] == [0.125, 0.2]


def test_step_zero_is_hollow_and_its_level_is_drawn(table):
    data = curve_data(table(controls=False, holdouts=("episodes",)))
    (axes,) = curve_figure(data).axes
    start = data.points.iloc[0]
    np.testing.assert_array_equal(_drawn(axes, "_untrained")[0], [[0, start["value"]]])
    assert _drawn(axes, "_step 0")[0][0, 1] == start["value"]
    assert "random weights (untrained): arp at step 0." in curve_caption(data)


def test_one_checkpoint_gives_points_with_error_bars_and_says_so(table):
    data = curve_data(table(steps=(0,)))
    assert data.single
    figure = curve_figure(data)
    assert "There is one checkpoint only" in curve_caption(data)
    for axes, holdout in zip(figure.axes, ["episodes", "instructions"], strict=True):
        points = data.points[data.points["holdout"] == holdout]
        for place, (_, point) in enumerate(points.iterrows()):
            assert _drawn(axes, series_name(point["series"]))[0].tolist() == [[point["value"], place]]
        bars = [line[:, 0].tolist() for line in _drawn(axes, "_ci")]
        assert bars == points[["ci_low", "ci_high"]].to_numpy().tolist()
        seeds = data.seeds[data.seeds["holdout"] == holdout]
        assert sorted(np.concatenate(_drawn(axes, "_seeds"))[:, 0]) == sorted(seeds["value"])


@pytest.mark.parametrize("direction", ["u2e", "e2u"])
def test_the_direction_arrives(table, direction):
    data = curve_data(table(steps=(0, 10)), direction=direction)
    assert set(data.points["direction"]) == {direction}


def test_the_metric_arrives_with_its_own_axis(alignment_row, table):
    rows = [alignment_row(metric=metric, value=value) for metric, value in [("mi_bound", 1.7), ("recall@1", 0.5)]]
    data = curve_data(table(rows), metric="mi_bound")
    assert data.points["value"].tolist() == [1.7]
    (axes,) = curve_figure(data).axes
    assert axes.get_xlabel() == "bound on mutual information (nats), mean of both directions"
    assert axes.get_xlim()[1] > 1.7


def test_log_steps_arrives(table):
    data = curve_data(table(holdouts=("episodes",)))
    assert curve_figure(data, log_steps=True).axes[0].get_xscale() == "symlog"
    assert curve_figure(data).axes[0].get_xscale() == "linear"


def test_outcomes_show_the_four_settings(alignment_row, table):
    names = [name for name in SPLITS if name != "all"]
    rows = [alignment_row(split=name, value=0.1 * place) for place, name in enumerate(names)]
    data = curve_data(
        table([*rows, alignment_row(), alignment_row(split=names[0], control="shuffled")]), split="outcomes"
    )
    assert data.points[["series", "value"]].to_numpy().tolist() == [[n, 0.1 * i] for i, n in enumerate(names)]


def test_outcomes_of_the_policys_own_episodes_are_drawn_and_named(alignment_row, table):
    own = {"source_u": "rollouts", "source_e": "rollouts", "split": "execution-success"}
    data = curve_data(table([alignment_row(), alignment_row(**own, value=0.3)]), split="outcomes")
    assert data.points[["series", "value"]].to_numpy().tolist() == [["execution-success", 0.3]]
    both = [alignment_row(**own, value=0.3), alignment_row(split="execution-success", value=0.4)]
    both += [alignment_row(**own | {"split": "understanding-success"}, value=0.5)]
    both += [alignment_row(split="understanding-success", value=0.6)]
    data = curve_data(table(both), split="outcomes")
    assert dict(zip(data.points["series"], data.points["value"], strict=True)) == {
        "understanding-success": 0.6,
        "execution-success": 0.3,
    }
    assert "execution outcomes: measured on rollouts" in data.notes
    assert "understanding outcomes: measured on rollouts" not in data.notes


def test_a_difference_is_drawn_as_one_against_none(alignment_row, table):
    rows = [
        alignment_row(metric="success_minus_failure@1", split="execution-success", step_e=step, chance=0.0, value=-0.2)
        for step in (0, 10)
    ]
    data = curve_data(table(rows), metric="success_minus_failure@1", split="outcomes")
    assert data.points["series"].unique().tolist() == ["execution-difference"]
    figure = curve_figure(data)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["execution: carried out minus not carried out", "no difference"]
    assert figure.axes[0].get_ylim()[0] < -0.2
    assert "chance" not in curve_caption(data)


def test_the_bound_on_information_names_its_cap(alignment_row, table):
    data = curve_data(table([alignment_row(metric="mi_bound", chance="", n_groups=8)]), metric="mi_bound")
    assert "It cannot exceed log B = 2.08 nats" in curve_caption(data)


def test_outcomes_without_outcomes_name_the_command(alignment_row, table):
    with pytest.raises(ProbeError, match="`mnprobe align --split success` measures them"):
        curve_data(table([alignment_row()]), split="outcomes")


def test_one_split_arrives(alignment_row, table):
    rows = [alignment_row(split=split, value=value) for split, value in [("all", 0.5), ("execution-failure", 0.2)]]
    assert curve_data(table(rows), split="execution-failure").points["value"].tolist() == [0.2]


def test_an_unknown_split_says_which_there_are(alignment_row, table):
    with pytest.raises(ProbeError, match="no row has split = 'failure'; there are all"):
        curve_data(table([alignment_row()]), split="failure")


def test_missing_controls_are_said(table):
    data = curve_data(table(controls=False, steps=(10, 20)))
    assert (
        "controls not measured: instruction blanked, pixels instead of u, the policy's own episodes, " in data.notes[0]
    )
    assert data.notes[0].endswith("shuffled pairs, step 0")


def test_only_the_understanding_model_is_trained(alignment_row, table):
    rows = [alignment_row(step_u=step, step_e=500, value=step / 100) for step in (0, 10, 20)]
    data = curve_data(table(rows))
    assert data.points["step"].tolist() == [0, 10, 20]
    assert data.axis == "training step of viclip (arp stays at step 500)"


def test_a_grid_of_checkpoints_is_cut_to_equal_steps_and_says_so(alignment_row, table):
    rows = [alignment_row(step_u=u, step_e=e, value=(u + e) / 100) for u in (0, 10) for e in (0, 10)]
    data = curve_data(table(rows))
    assert data.points[["step_u", "step_e"]].to_numpy().tolist() == [[0, 0], [10, 10]]
    assert any("both have several checkpoints; shown is equal steps together" in note for note in data.notes)


def test_a_grid_without_equal_steps_keeps_the_last_understanding_model(alignment_row, table):
    rows = [alignment_row(step_u=u, step_e=e) for u in (1, 2) for e in (10, 20)]
    data = curve_data(table(rows))
    assert data.points[["step_u", "step_e"]].to_numpy().tolist() == [[2, 10], [2, 20]]


def test_pixels_stand_beside_every_checkpoint(alignment_row, table):
    rows = [alignment_row(step_u=7, step_e=e) for e in (0, 10)]
    rows += [alignment_row(understanding="pixels", layer_u="pixels", step_e=e, value=0.2) for e in (0, 10)]
    data = curve_data(table(rows))
    assert data.points.loc[data.points["series"] == "pixels", "step"].tolist() == [0, 10]
    assert set(data.points["understanding"]) == {"viclip"}


def test_two_policies_get_a_row_of_panels_each(alignment_row, table):
    rows = [alignment_row(execution=name, step_e=step) for name in ("arp", "arp_plus") for step in (0, 10)]
    figure = curve_figure(curve_data(table(rows)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "viclip with arp; held out: episodes",
        "viclip with arp_plus; held out: episodes",
    ]


def test_two_measurements_of_one_point_are_refused(alignment_row, table):
    with pytest.raises(
        ProbeError, match=r"2 measurements claim the same point .*differ in n_train: choose with --where"
    ):
        curve_data(table([alignment_row(n_train=10), alignment_row(n_train=20)]))


@pytest.mark.parametrize("control", ["shuffled", "none"])
def test_only_controls_is_refused(alignment_row, table, control):
    with pytest.raises(ProbeError, match="only controls are there"):
        curve_data(table([alignment_row(understanding="pixels", control=control)]))


def test_files_are_the_same_bytes_each_time_and_the_csv_is_what_is_drawn(write_alignment, alignment_table, tmp_path):
    run = write_alignment(alignment_table())
    digests = []
    for name in ("a", "b"):
        drawn = draw_curve(
            run / "results" / "alignment.csv",
            stem=tmp_path / name,
            table=tmp_path / f"{name}.csv",
            command="mnprobe curve",
        )
        files = (drawn.figure.png, drawn.figure.svg, drawn.table, tmp_path / f"{name}.json")
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    written = pd.read_csv(tmp_path / "a.csv", converters={"value": float})
    assert written["value"].tolist() == drawn.data.points["value"].tolist()
    assert len(written) == 2 * 5 * 5
    note = read_note(tmp_path / "a")
    assert note is not None
    assert note.command == "mnprobe curve"
    assert note.caption == curve_caption(drawn.data)


def test_nothing_leaves_the_figure(table, alignment_row):
    long = "a_very_long_name_without_any_break_" * 6
    named = [alignment_row(understanding=long, execution=long, source_e=long, step_e=step) for step in (0, 10)]
    for data in (
        curve_data(table()),
        curve_data(table(steps=(0,))),
        curve_data(table(named)),
        curve_data(table(named[:1])),
    ):
        figure = curve_figure(data)
        figure.canvas.draw()
        ink = figure.get_tightbbox(figure.canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert ink.x0 >= 0
        assert ink.y0 >= 0
        assert ink.x1 <= width
        assert ink.y1 <= height
