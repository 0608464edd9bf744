"""Curves, t-SNE and names where trainings are compared."""

import numpy as np
import pytest

from mnprobe.analysis.figures.curve import curve_caption, curve_figure
from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.figures.style import training_colours
from mnprobe.analysis.tables.alignment import read_alignment
from mnprobe.analysis.tables.progress import recognition_progress, success_progress
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.inputs import tsne_inputs
from mnprobe.analysis.tsne.maps import draw_tsne
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.rundir import RunDir

TEN = [("open_drawer", f"open the {place} drawer") for place in ("bottom", "middle", "top")]
TEN += [("turn_tap", "turn left tap"), ("turn_tap", "turn right tap")]
QUICK = TsneConfig(iterations=60, exaggeration_iterations=40)


def test_each_training_has_a_colour_and_each_source_a_panel(one):
    table = read_alignment(one.results("alignment"))
    data = curve_data(table)
    assert data.compared == ("baseline", "joint")
    figure = curve_figure(data)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"{source}; held out: {holdout}"
        for source in ("Demonstrations", "The policy's own episodes")
        for holdout in ("episodes", "instructions")
    ]
    colours = training_colours(data.compared)
    plain = (table["statistic"] == "mean") & (table["metric"] == "recall@1") & (table["split"] == "all")
    for axes, (source, holdout) in zip(
        figure.axes, [(s, h) for s in ("demos", "rollouts") for h in ("episodes", "instructions")], strict=True
    ):
        drawn = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        assert len(drawn) == 8  # two trainings, each with shown, blanked, pixels, shuffled
        for training, colour in colours.items():
            rows = table[plain & (table["execution"] == f"arp-{training}") & (table["holdout"] == holdout)]
            wanted = {
                "instruction shown to the policy": (rows["source_e"] == source)
                & (rows["understanding"] != "pixels")
                & (rows["control"] == "none"),
                "control: instruction blanked": rows["source_e"] == f"{source}-blank",
                "control: pixels instead of u": (rows["understanding"] == "pixels") & (rows["source_e"] == source),
                "control: shuffled pairs": (rows["control"] == "shuffled") & (rows["source_e"] == source),
            }
            for label, chosen in wanted.items():
                (line,) = [one for one in drawn if one.get_label() == label and one.get_color() == colour]
                np.testing.assert_array_equal(line.get_xydata(), rows.loc[chosen, ["step_e", "value"]].to_numpy(float))
        assert axes.xaxis.get_major_formatter()(0, 0) == "0\nuntrained"
        assert axes.xaxis.get_major_formatter()(1000, 0) != "1000\nuntrained"


def test_seeds_of_a_training_are_averaged_and_their_spread_shown(three):
    table = read_alignment(three.results("alignment"))
    data = curve_data(table)
    assert data.compared == ("baseline", "joint")
    assert set(data.points["execution"]) == {"arp-baseline", "arp-joint"}
    assert set(data.points["n_trainings"]) == {3}
    here = (data.points["training"] == "joint") & (data.points["series"] == "main") & (data.points["step"] == 2000)
    point = data.points[here & (data.points["holdout"] == "episodes")].iloc[0]
    rows = table[
        (table["statistic"] == "mean")
        & (table["step_e"] == 2000)
        & (table["source_e"] == "demos")
        & (table["holdout"] == "episodes")
        & (table["understanding"].str.startswith("viclip-joint"))
        & (table["control"] == "none")
        & (table["split"] == "all")
    ]
    assert len(rows) == 3
    assert point["value"] == pytest.approx(rows["value"].mean(), abs=1e-12)
    assert (point["ci_low"], point["ci_high"]) == pytest.approx((rows["ci_low"].mean(), rows["ci_high"].mean()))
    assert point["sd_trainings"] == pytest.approx(np.std(rows["value"], ddof=1))
    marks = [line for line in curve_figure(data).axes[0].lines if line.get_label() == "_trainings"]
    drawn = np.concatenate([line.get_xydata() for line in marks])
    assert {tuple(xy) for xy in rows[["step_e", "value"]].to_numpy()} <= {tuple(xy) for xy in drawn}
    assert "mean of up to 3 trainings with other seeds" in curve_caption(data)


def test_recognition_and_success_stand_below_over_the_same_steps(one):
    data = curve_data(read_alignment(one.results("alignment")))
    progress = [
        recognition_progress(one.results("recognition"), ["viclip"]),
        success_progress(one.results("success"), ["arp"], untrained={("joint", 0)}),
    ]
    figure = curve_figure(data, progress=progress)
    upper, lower = figure.axes[:4], figure.axes[4:]
    assert [axes.get_title(loc="left") for axes in lower] == [
        "Recognition, top-1, mean over tasks (demos, test)",
        "Success, mean over tasks (tabletop)",
    ]
    assert {axes.get_xlim() for axes in lower} == {axes.get_xlim() for axes in upper}
    success = progress[1].points
    joint = success[(success["training"] == "joint") & ~success["blank"]]
    (line,) = [
        line
        for line in lower[1].lines
        if line.get_label() == "instruction shown to the policy" and line.get_color() == "#D55E00"
    ]
    np.testing.assert_array_equal(line.get_xydata(), joint[["step", "value"]].to_numpy(float))
    assert joint["trained"].tolist() == [False, True, True, True, True]
    assert success[success["training"] == "baseline"]["trained"].all()
    assert recognition_progress(one.results("recognition"), ["clip"]) is None
    assert success_progress(one.path / "absent.csv", ["arp"]) is None


def test_outcomes_of_trainings_stand_in_a_panel_of_their_own(one):
    figure = curve_figure(curve_data(read_alignment(one.results("alignment")), split="outcomes"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["By whether it was carried out; held out: episodes"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:4] == ["baseline", "joint", "success", "failure"]


@pytest.mark.parametrize("name", ["one", "three"])
def test_nothing_leaves_the_figure(name, request):
    run = request.getfixturevalue(name)
    table = read_alignment(run.results("alignment"))
    progress = [recognition_progress(run.results("recognition"), ["viclip"])]
    for data in (curve_data(table), curve_data(table[table["holdout"] == "episodes"])):
        figure = curve_figure(data, progress=progress)
        figure.canvas.draw()
        ink = figure.get_tightbbox(figure.canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert min(ink.x0, ink.y0) >= 0
        assert ink.x1 <= width
        assert ink.y1 <= height


@pytest.fixture(scope="module")
def mirrored(write_pair, tmp_path_factory):
    """A run with features of baseline and joint training at steps 0 and 100, the former with an instruction more."""
    run = RunDir.create(tmp_path_factory.mktemp("mirrored") / "run")
    for place, training in enumerate(("baseline", "joint")):
        for step in (0, 100):
            write_pair(
                run.path,
                TEN[: 5 - place],
                each=4,
                step=step,
                trained=step > 0,
                noise=1.0 - 0.7 * place,
                understanding=f"viclip-{training}",
                execution=f"arp-{training}",
            )
    return run


def test_baseline_stands_beside_joint_with_the_same_episodes(mirrored, tmp_path):
    inputs = tsne_inputs(mirrored)
    assert [given.title for given in inputs] == ["baseline, step 100", "joint, step 100"]
    assert [given.pair.execution for given in inputs] == ["arp-baseline", "arp-joint"]
    assert inputs[0].pair.episodes["id"].tolist() == inputs[1].pair.episodes["id"].tolist()
    assert len(inputs[0].pair) == 16
    drawn = draw_tsne(inputs, stem=tmp_path / "tsne", table=tmp_path / "tsne.csv", config=QUICK)
    for panel in drawn.panels:
        made = panel.embedding
        assert f"{panel.title}: trustworthiness {made.trustworthiness:.3f}" in drawn.caption
        assert f"points {panel.purity:.2f} (k = 7)" in drawn.caption.partition(panel.title)[2]


def test_trainings_can_be_named(mirrored):
    assert [given.title for given in tsne_inputs(mirrored, trainings=["joint"])] == [""]
    both = tsne_inputs(mirrored, trainings=["joint", "baseline"], steps=[0, 100])
    assert [given.title for given in both] == [
        "joint, step 0",
        "joint, step 100",
        "baseline, step 0",
        "baseline, step 100",
    ]
    with pytest.raises(
        FeatureError, match="no features of training 'wide' from source 'demos'; there are baseline, joint"
    ):
        tsne_inputs(mirrored, trainings=["wide"])
    with pytest.raises(ConfigError, match="--training chooses both models"):
        tsne_inputs(mirrored, trainings=["joint"], execution=["arp-joint"])


def test_a_training_that_is_behind_is_not_set_beside_the_other(write_pair, tmp_path):
    run = RunDir.create(tmp_path / "run")
    for training, step in (("baseline", 100), ("joint", 50)):
        write_pair(run.path, TEN, each=2, step=step, understanding=f"viclip-{training}", execution=f"arp-{training}")
    with pytest.raises(FeatureError, match="of several models: viclip-baseline, viclip-joint"):
        tsne_inputs(run)


def test_the_first_seed_stands_for_its_training(write_pair, tmp_path):
    run = RunDir.create(tmp_path / "run")
    for name in ("baseline-seed2", "baseline-seed1", "joint-seed2", "joint-seed1"):
        write_pair(run.path, TEN, each=2, step=9, understanding=f"viclip-{name}", execution=f"arp-{name}")
    inputs = tsne_inputs(run)
    assert [given.pair.execution for given in inputs] == ["arp-baseline-seed1", "arp-joint-seed1"]
    assert [given.title for given in inputs] == ["baseline-seed1, step 9", "joint-seed1, step 9"]
