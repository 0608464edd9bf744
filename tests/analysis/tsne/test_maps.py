import hashlib

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.manifold import trustworthiness

from mnprobe.analysis.figures.metadata import read_note
from mnprobe.analysis.figures.style import new_figure
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.figure import quality_line, tsne_figure
from mnprobe.analysis.tsne.inputs import find_heads, find_pairs, shared_space, tsne_inputs
from mnprobe.analysis.tsne.legend import kinds, pack
from mnprobe.analysis.tsne.maps import TsneInput, _panel, as_space, draw_tsne, tsne_panels
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features, write_features
from mnprobe.probe import load_pair

pytestmark = pytest.mark.usefixtures("short_fits")

TEN = [("open_drawer", f"open the {place} drawer") for place in ("bottom", "middle", "top")]
TEN += [("reach_target", "reach the red target"), ("reach_target", "reach the $x_1$ <b> & 'blue' target")]
QUICK = TsneConfig(iterations=60, exaggeration_iterations=40)


@pytest.fixture(scope="module")
def small(write_pair, tmp_path_factory):
    """A run with ten episodes of five instructions, at steps 0 and 100."""
    folder = tmp_path_factory.mktemp("tsne") / "small"
    RunDir.create(folder)
    write_pair(folder, TEN, each=2)
    write_pair(folder, TEN, each=2, step=100, trained=True)
    return RunDir(folder)


@pytest.fixture(scope="module")
def pair(small):
    return load_pair(*find_pairs(small, steps=[0])[0])


def _offsets(axes, side):
    (points,) = [item for item in axes.collections if item.get_label() == side]
    return points


def test_points_drawn_are_the_coordinates_with_the_color_of_their_instruction(pair):
    panels, _ = tsne_panels([TsneInput(pair=pair)], config=QUICK)
    (panel,) = panels
    axes = tsne_figure(panels, QUICK, title="t", caption="c").axes[0]
    named = {(kind.task, kind.instruction): kind.color for kind in kinds(TEN)}
    for side in ("understanding", "execution"):
        here = (panel.points["side"] == side).to_numpy()
        drawn = _offsets(axes, side)
        np.testing.assert_array_equal(drawn.get_offsets(), panel.embedding.coordinates[here])
        wanted = [named[key] for key in zip(panel.points["task"][here], panel.points["instruction"][here], strict=True)]
        assert [to_hex(color).upper() for color in drawn.get_facecolors()] == [color.upper() for color in wanted]
    markers = {side: len(_offsets(axes, side).get_paths()[0].vertices) for side in ("understanding", "execution")}
    assert markers["understanding"] != markers["execution"]


def test_trustworthiness_on_the_figure_is_that_of_the_shared_space(pair):
    panels, _ = tsne_panels([TsneInput(pair=pair)], config=QUICK)
    shared = shared_space(pair, heads=None)
    space = np.concatenate([shared.z_u, shared.z_e]).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(space, axis=1), 1, atol=1e-6)
    wanted = trustworthiness(space, panels[0].embedding.coordinates, n_neighbors=9)
    assert panels[0].embedding.trustworthiness == wanted
    figure = tsne_figure(panels, QUICK, title="t", caption="c")
    text = " ".join(item.get_text() for item in figure.axes[0].texts)
    for part in (f"trustworthiness {wanted:.3f} (k = 9)", "N = 20 points of 10 episodes", "(30 asked"):
        assert part in text.replace("\n", " ")
    assert "perplexity 6.33" in text.replace("\n", " ")
    assert "seed 0" in text.replace("\n", " ")


def test_purity_is_that_of_episodes_the_heads_were_not_fitted_on():
    rng = np.random.default_rng(0)
    labels, fitted = np.repeat(np.arange(5), 16), np.arange(80) % 2 == 0
    values = np.where(fitted[:, None], 50.0 * np.eye(5)[labels], 0.0) + 0.1 * rng.normal(size=(80, 5))
    points = pd.DataFrame({"id": [f"e{i}" for i in range(80)], "task": "t", "side": "u", "model": "m"})
    points["instruction"], points["partition"], points["success"] = labels.astype(str), "", 1
    found = {
        name: _panel(values[rows], points[rows].assign(fitted=mask[rows]), "t", "s", QUICK)
        for name, rows, mask in (
            ("held-out", np.ones(80, dtype=bool), fitted),
            ("fitted", fitted, fitted),
            ("", fitted, ~fitted),
        )
    }
    assert {panel.purity_of for panel in found.values()} == set(found)
    assert found["held-out"].purity < 0.5 < 0.95 < found["fitted"].purity == found[""].purity
    assert "instruction purity of held-out points 0." in quality_line(found["held-out"], QUICK)
    assert "instruction purity 1.00" in quality_line(found[""], QUICK)


def test_planted_instructions_lie_together_in_the_raw_picture(write_pair, tmp_path):
    paths = write_pair(tmp_path, [("task", f"do {i}") for i in range(8)], each=10, noise=0.3)
    given = load_pair(*paths)
    panels, notes = tsne_panels([TsneInput(pair=given)], space="raw", config=TsneConfig(perplexity=8))
    assert [panel.title for panel in panels] == ["u before the heads", "e before the heads"]
    assert min(panel.purity for panel in panels) > 0.95
    assert notes == []
    noise, _ = tsne_panels(
        [TsneInput(pair=load_pair(*write_pair(tmp_path / "noise", TEN, each=10, noise=99.0)))],
        space="raw",
        config=QUICK,
    )
    assert max(panel.purity for panel in noise) < 0.5


def test_before_and_after_the_maps_stand_in_one_figure_with_the_same_held_out_points(pair, tmp_path):
    from mnprobe.probe.heads import AlignmentHeads, save_heads

    save_heads(tmp_path / "h.safetensors", AlignmentHeads(24, 12, 8), {"train_ids": pair.episodes["id"].tolist()[:5]})
    given = TsneInput(pair=pair, heads=tmp_path / "h.safetensors", title="joint")
    drawn = draw_tsne([given], stem=tmp_path / "b", table=tmp_path / "b.csv", space="both", config=QUICK)
    before_u, before_e, after = drawn.panels
    titles = ["joint: u before the heads", "joint: e before the heads", "joint: z after the heads"]
    assert [panel.title for panel in drawn.panels] == titles
    assert after.points["fitted"].tolist() == before_u.points["fitted"].tolist() + before_e.points["fitted"].tolist()
    assert {panel.purity_of for panel in drawn.panels} == {"held-out"}
    alone, _ = tsne_panels([given], space="shared", config=QUICK)
    np.testing.assert_array_equal(after.embedding.coordinates, alone[0].embedding.coordinates)
    raw, _ = tsne_panels([given], space="raw", config=QUICK)
    np.testing.assert_array_equal(before_e.embedding.coordinates, raw[1].embedding.coordinates)
    assert "before and after the linear maps" in read_note(tmp_path / "b").title


def test_the_same_seed_gives_the_same_files(pair, tmp_path):
    digests = []
    for name in ("a", "b"):
        drawn = draw_tsne(
            [TsneInput(pair=pair)], stem=tmp_path / name, table=tmp_path / f"{name}.csv", config=QUICK, command="x"
        )
        files = [drawn.figure.png, drawn.figure.svg, drawn.table, tmp_path / f"{name}.json"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    table = pd.read_csv(tmp_path / "a.csv", converters={"x": float, "y": float})
    np.testing.assert_array_equal(table[["x", "y"]], drawn.panels[0].embedding.coordinates)
    note = read_note(tmp_path / "a")
    assert note is not None
    assert "these very 10 episodes, so closeness of u and e is no evidence" in note.caption


def test_another_seed_gives_another_layout(pair):
    from dataclasses import replace

    first, second = (tsne_panels([TsneInput(pair=pair)], config=replace(QUICK, seed=seed))[0][0] for seed in (0, 1))
    assert not np.array_equal(first.embedding.coordinates, second.embedding.coordinates)


def test_a_partition_is_all_that_is_shown_and_heads_are_fitted_on_the_rest(pair):
    panels, notes = tsne_panels([TsneInput(pair=pair)], partition="test", config=QUICK)
    assert set(panels[0].points["partition"]) == {"test"}
    assert len(panels[0].points) == 10
    assert notes[0] == "new heads, fitted on 5 other episodes"


def test_a_partition_by_another_name_is_left_out_of_the_fit_as_well(pair):
    with pytest.warns(UserWarning, match="partition 'Testing' is read as 'test'"):
        panels, notes = tsne_panels([TsneInput(pair=pair)], partition="Testing", config=QUICK)
    assert set(panels[0].points["partition"]) == {"test"}
    assert notes[0] == "new heads, fitted on 5 other episodes"


def test_columns_of_ones_own_can_be_what_colors_stand_for(small, tmp_path):
    paths = []
    for place, path in enumerate(find_pairs(small, steps=[0])[0]):
        with open_features(path) as file:
            table = file.episodes
            own = {"scene": ["x", "", "y", "x", "y"] * 2} if place == 0 else {"run": range(10)}
            layer = "ue"[place]
            paths.append(
                write_features(
                    tmp_path / f"{layer}.h5",
                    model=layer,
                    side=file.side,
                    layers={layer: file.layer(layer).pooled()},
                    episodes=table.assign(**own),
                )
            )
    given = TsneInput(pair=load_pair(*paths))
    assert given.pair.episodes["run"].tolist() == list(range(10))
    drawn = draw_tsne([given], stem=tmp_path / "s", table=tmp_path / "s.csv", config=QUICK, color="scene")
    assert read_note(tmp_path / "s").title.endswith("shape = model, colour = scene")
    table = pd.read_csv(tmp_path / "s.csv", keep_default_na=False)
    assert table["scene"].tolist() == ["x", "", "y", "x", "y"] * 4
    assert table["run"].tolist() == [*range(10)] * 2
    assert table["instruction"].tolist() == given.pair.episodes["instruction"].tolist() * 2
    assert drawn.panels[0].points["task"].nunique() == given.pair.episodes["task"].nunique()
    with pytest.raises(ConfigError, match="got 'operator'; your own columns are run, scene"):
        draw_tsne([given], stem=tmp_path / "t", table=tmp_path / "t.csv", config=QUICK, color="operator")


@pytest.mark.parametrize("column", ["instruction", "task", "partition"])
def test_sides_that_disagree_are_refused_and_other_data_noted(small, tmp_path, column):
    u, e = find_pairs(small, steps=[0])[0]
    with open_features(e) as file:
        table, values = file.episodes, file.layer("e").pooled()
    header = {"model": "arp", "side": "execution", "layers": {"e": values}, "data_fingerprint": "f" * 64}
    blank = write_features(tmp_path / "blank.h5", episodes=table.assign(**{column: ""}), **header)
    assert load_pair(u, blank).episodes[column].tolist() == table[column].tolist()
    other = table.assign(**{column: table[column].where(table.index != 3, "val" if column == "partition" else "other")})
    path = write_features(tmp_path / "other.h5", episodes=other, **header)
    with pytest.raises(FeatureError, match=rf"1 episodes .* have other {column}s: .*viclip.*other.h5"):
        load_pair(u, path)
    with open_features(u) as file:
        values = {"u": file.layer("u").pooled()}
        own = write_features(
            tmp_path / "u.h5",
            episodes=file.episodes,
            layers=values,
            model="v",
            side="understanding",
            data_fingerprint="a",
        )
    (note,) = load_pair(own, blank).items.notes
    assert "were made from other data (fingerprints a and ffffffffffff)" in note


def test_an_unknown_partition_says_which_there_are(pair):
    with pytest.raises(
        FeatureError, match=r"none of the 10 shared episodes is in partition 'val'; there are 'test', 'train'"
    ):
        tsne_panels([TsneInput(pair=pair)], partition="val", config=QUICK)


def test_held_out_needs_saved_heads(pair):
    with pytest.raises(ConfigError, match="--partition held-out needs saved heads"):
        tsne_panels([TsneInput(pair=pair)], partition="held-out", config=QUICK)


def test_one_instruction_alone_needs_the_raw_space(write_pair, tmp_path):
    given = load_pair(*write_pair(tmp_path, TEN[:1], each=6))
    with pytest.raises(
        TooFewSamples, match=r"6 episodes of one instruction, two instructions are needed\. Choose --space raw"
    ):
        tsne_panels([TsneInput(pair=given)], config=QUICK)
    assert len(tsne_panels([TsneInput(pair=given)], space="raw", config=QUICK)[0]) == 2


def test_saved_heads_are_used_and_named(small, pair, tmp_path, alignment_row):
    import torch

    from mnprobe.probe.heads import AlignmentHeads, save_heads

    heads = AlignmentHeads(24, 12, 7, generator=torch.Generator().manual_seed(3))
    fitted_on = {"train_ids": pair.episodes["id"].tolist()[:6]}
    save_heads(small.heads / "mine.safetensors", heads, fitted_on)
    rows = [
        alignment_row(statistic="seed", seed=seed, step_u=0, step_e=step, holdout=holdout, heads_file=file)
        for seed, step, holdout, file in [
            (1, 0, "episodes", "heads/later.safetensors"),
            (0, 0, "episodes", "heads/mine.safetensors"),
            (0, 0, "instructions", "heads/other.safetensors"),
            (0, 100, "episodes", "heads/wrong.safetensors"),
        ]
    ]
    write_table(pd.DataFrame(rows), small.results("alignment"))
    try:
        assert find_heads(small, pair) == small.heads / "mine.safetensors"
        (given,) = tsne_inputs(small, steps=[0])
        assert given.heads == small.heads / "mine.safetensors"
        shared = shared_space(given.pair, heads=given.heads)
        rest, notes = tsne_panels([given], partition="held-out", config=QUICK)
        all_of_them, _ = tsne_panels([given], config=QUICK)
    finally:
        small.results("alignment").unlink()
    assert shared.origin == (
        "heads of `mnprobe align`, fitted on 6 of these 10 episodes, whose closeness is no evidence; 4 held out"
    )
    assert rest[0].points["id"].unique().tolist() == pair.episodes["id"].tolist()[6:]
    assert notes[0] == "heads of `mnprobe align`, fitted on 6 other episodes"
    assert all_of_them[0].points["fitted"].tolist() == ([True] * 6 + [False] * 4) * 2
    figure = tsne_figure(all_of_them, QUICK, title="t", caption="c")
    pale = _offsets(figure.axes[0], "execution").get_facecolors()[:, 3]
    assert (pale[:6] < 0.5).all()
    assert (pale[6:] == 1).all()
    assert "paler: the heads were fitted on these" in [text.get_text() for text in figure.legends[0].texts]
    z = heads.map_u(torch.from_numpy(pair.u)).detach()
    np.testing.assert_allclose(shared.z_u, torch.nn.functional.normalize(z, dim=1), rtol=1e-6)
    assert find_heads(small, pair) is None


def test_heads_of_other_widths_are_refused(pair, tmp_path):
    from mnprobe.probe.heads import AlignmentHeads, save_heads

    save_heads(tmp_path / "h.safetensors", AlignmentHeads(3, 4, 5))
    with pytest.raises(ProbeError, match=r"widths \(3, 4\), these have \(24, 12\)"):
        shared_space(pair, heads=tmp_path / "h.safetensors")


def test_a_heads_file_outside_the_run_is_not_opened(small, pair, tmp_path, alignment_row):
    outside = tmp_path / "evil.safetensors"
    outside.write_bytes(b"")
    rows = [
        alignment_row(statistic="seed", seed=0, heads_file=name) for name in (str(outside), "../../evil.safetensors")
    ]
    write_table(pd.DataFrame(rows), small.results("alignment"))
    try:
        assert find_heads(small, pair) is None
    finally:
        small.results("alignment").unlink()


def test_episodes_are_joined_by_id_in_any_order(write_pair, tmp_path):
    from mnprobe.features import write_features

    u, _ = write_pair(tmp_path, TEN, each=2)
    ids = [f"{task}/{k}/episode{2 * k + i}" for k, (task, _) in enumerate(TEN) for i in range(2)]
    order = [*reversed(ids[2:]), "other/0/episode0"]
    values = np.array([[float(ids.index(name)) if name in ids else -1.0] for name in order], dtype=np.float32)
    path = write_features(
        tmp_path / "e.h5", model="arp", side="execution", episodes={"id": order}, layers={"e": values}
    )
    given = load_pair(u, path, episodes="shared")
    assert given.episodes["id"].tolist() == ids[2:]
    assert given.e[:, 0].tolist() == [float(i) for i in range(2, 10)]


def test_files_that_share_no_episode_are_refused(write_pair, tmp_path):
    u, _ = write_pair(tmp_path / "a", TEN[:2])
    _, e = write_pair(tmp_path / "b", TEN[3:])
    with pytest.raises(FeatureError, match="share no episode: the first ids are 'open_drawer/0/episode0'"):
        load_pair(u, e, episodes="shared")


def test_two_files_of_one_side_are_refused(write_pair, tmp_path):
    u, _ = write_pair(tmp_path, TEN)
    with pytest.raises(FeatureError, match="holds features of the understanding side; the execution side is needed"):
        load_pair(u, u)


def test_the_last_checkpoint_is_shown_unless_steps_are_named(small):
    assert [given.pair.origin_e.step for given in tsne_inputs(small)] == [100]
    both = tsne_inputs(small, steps=[0, 100])
    assert [(given.pair.origin_u.step, given.pair.origin_e.step, given.title) for given in both] == [
        (0, 0, "step 0"),
        (100, 100, "step 100"),
    ]
    assert both[0].pair.origin_u.title == "viclip at step 0, random weights"
    assert both[1].pair.origin_e.title == "arp at step 100"
    with pytest.raises(FeatureError, match=r"no execution features at step 7 \(demos\); it has 0, 100"):
        tsne_inputs(small, steps=[7])


def test_layers_pools_and_sources_arrive(small, write_pair, tmp_path):
    (given,) = tsne_inputs(small, layer_u="other", pool_u="first", pool_e="last")
    assert given.pair.u.shape == (10, 5)
    assert (given.pair.origin_u.layer, given.pair.origin_u.pool, given.pair.origin_e.pool) == ("other", "first", "last")
    with pytest.raises(FeatureError, match=r"from source 'rollouts'; there are .*`mnprobe extract --run"):
        tsne_inputs(small, source="rollouts")
    blank = RunDir.create(tmp_path / "blank")
    write_pair(blank.path, TEN, each=2)
    write_pair(blank.path, TEN, each=2, source="demos-blank", seed=5)
    (given,) = tsne_inputs(blank, source="demos-blank")
    assert (given.pair.origin_u.source_name, given.pair.origin_e.source_name) == ("demos", "demos-blank")


def test_several_models_must_be_chosen_from_and_pixels_only_when_named(write_pair, tmp_path):
    run = RunDir.create(tmp_path / "run")
    write_pair(run.path, TEN, each=2)
    write_pair(run.path, TEN, each=2, understanding="pixels")
    assert tsne_inputs(run)[0].pair.origin_u.model == "viclip"
    assert tsne_inputs(run, understanding=["pixels"])[0].pair.origin_u.model == "pixels"
    write_pair(run.path, TEN, each=2, execution="arp_plus")
    with pytest.raises(FeatureError, match=r"of several models: arp, arp_plus\. Choose one with --execution"):
        tsne_inputs(run)
    assert tsne_inputs(run, execution=["arp_plus"])[0].pair.origin_e.model == "arp_plus"


def test_feature_files_and_runs_can_stand_side_by_side(small, write_pair, tmp_path):
    u, e = write_pair(tmp_path / "mine", TEN, each=3, step=5, understanding="clip", execution="act")
    files = tsne_inputs(small, understanding=[str(u), str(u)], execution=[str(e), str(e)])
    assert [given.title for given in files] == ["clip and act, step 5"] * 2
    other = RunDir.create(tmp_path / "joint")
    write_pair(other.path, TEN, each=2)
    assert [given.title for given in tsne_inputs(small, compare=[other])] == ["small, step 100", "joint, step 0"]
    with pytest.raises(
        ConfigError, match="as many feature files with --understanding as with --execution, got 1 and 0"
    ):
        tsne_inputs(small, understanding=[str(u)])
    with pytest.raises(ConfigError, match="--step, --compare and --training choose files of runs"):
        tsne_inputs(small, understanding=[str(u)], execution=[str(e)], steps=[1])
    with pytest.raises(ConfigError, match="--execution takes one model name"):
        tsne_inputs(small, execution=["arp", "act"])


def test_a_run_without_features_names_the_command(tmp_path):
    with pytest.raises(FeatureError, match=r"has no features of the understanding side .*`mnprobe extract --run"):
        find_pairs(RunDir.create(tmp_path / "run"))


def test_a_space_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="space must be shared, raw or both, got 'neither'"):
        as_space("neither")


def test_colors_of_54_instructions_are_all_different_and_grouped_by_hue(many_instructions):
    named = kinds(many_instructions)
    assert [kind.number for kind in named] == list(range(1, 55))
    assert len({kind.color for kind in named}) == 54


def test_many_more_instructions_are_colored_by_task():
    pairs = [(f"task {i % 18}", f"do {i}") for i in range(249)]
    named = kinds(pairs)
    assert [kind.task for kind in named] == [f"task {i}" for i in range(18)]  # natural order
    assert sum(kind.count for kind in named) == 249
    assert len(kinds(pairs, by="instruction")) == 249
    assert [kind.instruction for kind in kinds(TEN, by="task")] == [None, None]


def test_the_legend_holds_every_instruction_once_and_keeps_tasks_whole(many_instructions):
    lines = pack(kinds(many_instructions), 8.3, new_figure(1, 1))
    numbers = [int(line.text.split()[0]) for line in lines if line.color]
    assert numbers == list(range(1, 55))
    assert sum(line.header for line in lines) == 18
    column = None
    for line in lines:
        column = line.left if line.header else column
        assert line.left == column
    assert len({(line.left, line.row) for line in lines}) == len(lines)


@pytest.mark.parametrize("space", ["shared", "raw"])
def test_no_legend_text_overlaps_and_nothing_leaves_the_figure_with_54_instructions(
    many_instructions, write_pair, tmp_path, space
):
    given = load_pair(*write_pair(tmp_path, many_instructions, each=2))
    config = TsneConfig(iterations=30, exaggeration_iterations=20)
    if space == "shared":  # random heads are enough for a layout
        from mnprobe.probe.heads import AlignmentHeads, save_heads

        save_heads(tmp_path / "h.safetensors", AlignmentHeads(24, 12, 8))
    inputs = [TsneInput(pair=given, heads=tmp_path / "h.safetensors" if space == "shared" else None)]
    panels, _ = tsne_panels(inputs, space=as_space(space), config=config)
    figure = tsne_figure(panels, config, title="t", caption="c " * 200)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
    assert len(boxes) > 54 + 18
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert width < 1 or height < 3  # line boxes may touch
    ink, (wide, high) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(ink.x0, ink.y0) >= 0
    assert ink.x1 <= wide
    assert ink.y1 <= high


def test_long_names_stay_inside(write_pair, tmp_path):
    long = "a_very_long_name_without_any_break_" * 6
    pairs = [(long, f"{long} {i}") for i in range(9)]
    given = load_pair(*write_pair(tmp_path, pairs, each=1, understanding=long, execution=f"{long}e"))
    panels, _ = tsne_panels([TsneInput(pair=given, title=long)], space="raw", config=QUICK)
    figure = tsne_figure(panels, QUICK, title="t", caption=long * 2)
    figure.canvas.draw()
    ink, (wide, high) = figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()
    assert min(ink.x0, ink.y0) >= 0
    assert ink.x1 <= wide
    assert ink.y1 <= high
