import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.figures.metadata import read_note
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.inputs import series_inputs, tsne_inputs
from mnprobe.analysis.tsne.maps import movement, quality_table, series_coordinates, tsne_series
from mnprobe.analysis.tsne.series import draw_tsne_series, purity_figure, series_figure, shown_steps
from mnprobe.analysis.tsne.slider import MOST_POINTS, series_slider, slider_page
from mnprobe.core.errors import FeatureError
from mnprobe.core.rundir import RunDir

pytestmark = pytest.mark.usefixtures("short_fits")

EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">\u2028'&"
PAIRS = [(task, f"{task} {i}") for task in ("open", "push") for i in range(3)]
QUICK = TsneConfig(iterations=60, exaggeration_iterations=40, warm_iterations=30, perplexity=6)
STEPS = (0, 10, 20, 30)


def _write(write_pair, folder, pairs, steps=STEPS, trainings=("baseline", "joint"), heads=True, each=4):
    """A run in which a training drifts from step to step; step 30 repeats step 20, and step 0 is shared by all."""
    from mnprobe.features import open_features, write_features
    from mnprobe.probe.heads import AlignmentHeads, save_heads

    run = RunDir.create(folder)
    source = RunDir.create(folder.with_name(f"{folder.name}-planted"))
    files = write_pair(source.path, pairs, each=each)
    for number, training in enumerate(trainings):
        generator = np.random.default_rng(number)
        for path, model in zip(files, ("viclip", "arp"), strict=True):
            with open_features(path) as file:
                layer = "u" if model == "viclip" else "e"
                values, side = file.layer(layer).pooled("mean"), file.side
                episodes = {name: file.episodes[name].tolist() for name in ("id", "task", "instruction", "partition")}
            for step in steps:
                if step not in (0, 30):
                    values = values + 0.3 * generator.standard_normal(values.shape)
                target = run.features(f"{model}-{training}", "demos", step)
                layers = {layer: values.astype(np.float32)}
                name = f"{model}-{training}"
                write_features(
                    target, layers=layers, episodes=episodes, model=name, side=side, step=step, trained=step > 0
                )
    if heads:
        save_heads(run.path / "h.safetensors", AlignmentHeads(24, 12, 8), {"train_ids": episodes["id"][: each * 4]})
    return run


@pytest.fixture(scope="module")
def run(write_pair, tmp_path_factory):
    return _write(write_pair, tmp_path_factory.mktemp("series") / "run", PAIRS)


@pytest.fixture(scope="module")
def series(run):
    return tsne_series(series_inputs(run, heads=run.path / "h.safetensors"), config=QUICK)


def test_every_checkpoint_of_every_training_has_a_map_of_the_same_points(series):
    wanted = [(training, step) for training in ("baseline", "joint") for step in STEPS]
    assert [(item.training, item.step) for item in series.maps] == wanted
    ids = [item.panel.points[["id", "side"]].to_numpy().tolist() for item in series.maps]
    assert all(one == ids[0] for one in ids)
    for item in series.maps:
        spots = item.panel.embedding.coordinates
        np.testing.assert_allclose(spots.mean(axis=0), 0, atol=1e-12)
        assert np.sqrt((spots**2).sum(axis=1).mean()) == pytest.approx(1, abs=1e-12)
        assert item.panel.purity_of == "held-out"
    assert (series.trainings, series.steps) == (["baseline", "joint"], list(STEPS))


def test_a_checkpoint_equal_to_the_one_before_keeps_the_map(series):
    for training in series.trainings:
        before, after = series.at(training, 20), series.at(training, 30)
        np.testing.assert_array_equal(before.panel.embedding.coordinates, after.panel.embedding.coordinates)
        assert after.moved == 0
        assert f"{training} at step 30" in after.panel.subtitle
        assert before.panel.qualities == after.panel.qualities
    first, other = series.at("baseline", 0), series.at("joint", 0)  # both trainings start from the same weights
    np.testing.assert_array_equal(first.panel.embedding.coordinates, other.panel.embedding.coordinates)
    assert set(other.panel.points["model"]) == {"viclip-joint", "arp-joint"}
    assert series.at("joint", 7) is None


def test_warm_maps_move_less_than_cold_ones_and_are_as_trustworthy(run, series):
    inputs = series_inputs(run, heads=run.path / "h.safetensors", trainings=["joint"], steps=[0, 10, 20])
    config = replace(QUICK, iterations=300, exaggeration_iterations=250, warm_iterations=250)
    warm = tsne_series(inputs, config=config).maps
    cold = [tsne_series({"joint": [given]}, config=config).maps[0] for given in inputs["joint"]]
    spots = [item.panel.embedding.coordinates for item in cold]
    apart = [movement(spots[0], spots[1]), movement(spots[1], spots[2])]
    assert warm[1].moved + warm[2].moved < sum(apart)
    for one, other in zip(warm, cold, strict=True):
        assert one.panel.embedding.trustworthiness > other.panel.embedding.trustworthiness - 0.02
    pair = [item.panel.embedding.coordinates for item in warm[:2]]
    assert warm[1].moved == pytest.approx(np.linalg.norm(pair[1] - pair[0], axis=1).mean(), abs=1e-9)


def test_the_same_seed_gives_the_same_files_and_another_does_not(run, tmp_path):
    inputs = series_inputs(run, trainings=["joint"], steps=[0, 10], heads=run.path / "h.safetensors")
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        drawn = draw_tsne_series(inputs, folder=folder, tables=folder, config=QUICK, command="x")
        files = [drawn.figure.png, drawn.figure.svg, drawn.purity.png, drawn.page, drawn.table, drawn.quality]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    other = tsne_series(inputs, config=replace(QUICK, seed=1)).maps[0].panel.embedding
    assert not np.array_equal(other.coordinates, drawn.series.maps[0].panel.embedding.coordinates)


def test_tables_hold_what_was_drawn_with_the_columns_of_the_table_of_one_picture(run, series, tmp_path):
    drawn = draw_tsne_series(
        series_inputs(run, heads=run.path / "h.safetensors"), folder=tmp_path, tables=tmp_path, config=QUICK
    )
    table = pd.read_csv(drawn.table, keep_default_na=False, converters={"x": float, "y": float})
    first = ["panel", "side", "model", "id", "task", "instruction", "partition", "success", "fitted", "x", "y"]
    assert table.columns[: len(first)].tolist() == first
    assert table.columns[-1] == "training"
    for item in drawn.series.maps:
        rows = table[table["panel"] == f"{item.training}, step {item.step}"]
        assert set(rows["step"]) == {item.step}
        np.testing.assert_array_equal(rows[["x", "y"]], item.panel.embedding.coordinates)
    quality = pd.read_csv(drawn.quality)
    assert len(quality) == 8 * 3  # all, held-out, fitted
    row = quality[(quality["training"] == "joint") & (quality["step"] == 10) & (quality["points"] == "held-out")]
    assert row["purity"].item() == series.at("joint", 10).panel.purity
    note = read_note(tmp_path / "tsne-series")
    assert note is not None
    assert len(note.facts["panels"]) == 8
    assert "fitted on 16 of these 24 episodes" in note.caption
    assert "each later one from the map before, shrunk (30 iterations)" in note.caption
    moved = [item.moved for item in drawn.series.maps if item.step]
    assert f"points move by {min(moved):.2f} to {max(moved):.2f} of it" in note.caption
    assert (tmp_path / "map-quality.csv").is_file()


def test_the_figure_has_steps_as_columns_trainings_as_rows_and_one_scale(series):
    figure = series_figure(series, title="t", caption="c")
    assert len(figure.axes) == 8
    for axes, item in zip(figure.axes, series.maps, strict=True):
        for points, side in zip(axes.collections, ("understanding", "execution"), strict=True):
            here = (item.panel.points["side"] == side).to_numpy()
            np.testing.assert_array_equal(points.get_offsets(), item.panel.embedding.coordinates[here])
            assert axes.get_xlim() == axes.get_ylim() == figure.axes[0].get_xlim()
        (text,) = axes.texts
        assert f"purity {item.panel.purity:.2f}" in text.get_text()
    places = [axes.get_position() for axes in figure.axes]
    assert len({round(place.x0, 6) for place in places}) == 4
    assert len({round(place.y0, 6) for place in places}) == 2


@pytest.mark.parametrize("trainings", [("joint",), ("a_very_long_name_of_a_training_" * 4, "b")])
def test_nothing_leaves_the_figures_and_a_missing_checkpoint_is_said(series, trainings):
    maps = [replace(item, training=trainings[0]) for item in series.maps[:4]]
    if len(trainings) == 2:
        maps += [replace(item, training="b") for item in series.maps[4:6]]
    cut = replace(series, maps=tuple(maps))
    figure = series_figure(cut, title="title " * 30, caption="c " * 200)
    said = [text.get_text() for axes in figure.axes for text in axes.texts].count("no checkpoint")
    assert said == 2 * (len(trainings) - 1)
    for one in (figure, purity_figure(quality_table(cut), title="title " * 30, caption="c " * 200)):
        one.canvas.draw()
        ink, (wide, high) = one.get_tightbbox(one.canvas.get_renderer()), one.get_size_inches()
        assert min(ink.x0, ink.y0) >= 0
        assert ink.x1 <= wide
        assert ink.y1 <= high


def test_purity_is_drawn_over_steps_beside_chance_with_held_out_points_apart(series):
    table = quality_table(series)
    figure = purity_figure(table, title="t", caption="c")
    own, across, trusted = figure.axes
    assert [axes.get_title(loc="left") for axes in (own, trusted)] == [
        "Neighbours of either model",
        "Trustworthiness of the map",
    ]
    for axes, column in ((own, "purity"), (across, "across"), (trusted, "trustworthiness")):
        for training in series.trainings:
            for group in ("held-out", "fitted"):
                (line,) = [line for line in axes.lines if line.get_label() == f"{training} {group}"]
                rows = table[(table["training"] == training) & (table["points"] == group)]
                np.testing.assert_array_equal(line.get_ydata(), rows[column])
                np.testing.assert_array_equal(line.get_xdata(), rows["step"])
    chance = [line.get_ydata()[0] for line in own.lines if line.get_label() == "_chance"]
    assert set(chance) == set(table.loc[table["points"] != "all", "purity_chance"])


def test_only_episodes_that_all_checkpoints_have_are_shown(run):
    inputs = series_inputs(run, heads=run.path / "h.safetensors", steps=[0, 10])
    given = inputs["joint"][1]
    order = np.argsort(given.pair.episodes["id"].to_numpy())[::-1].copy()[2:]
    other = given.pair.take(order)
    mixed = inputs | {"joint": [inputs["joint"][0], replace(given, pair=other)]}
    found = tsne_series(mixed, config=QUICK)
    assert {len(item.panel.points) for item in found.maps} == {44}
    assert len({tuple(item.panel.points["id"]) for item in found.maps}) == 1
    alone = other.take((other.episodes["id"] == other.episodes["id"][0]).to_numpy())
    strange = replace(alone, items=replace(alone.items, ids=np.array(["nobody"], dtype=object)))
    with pytest.raises(FeatureError, match="the checkpoints to show share no episode"):
        tsne_series({"": [inputs["joint"][0], replace(given, pair=strange)]}, config=QUICK)
    renamed = replace(
        given.pair, items=replace(given.pair.items, instructions=np.full(len(given.pair), "something else"))
    )
    with pytest.raises(FeatureError, match=r"'open 0' in one checkpoint and 'something else' in arp-joint at step 10"):
        tsne_series({"": [inputs["joint"][0], replace(given, pair=renamed)]}, config=QUICK)


def test_partitions_arrive(run):
    inputs = series_inputs(run, heads=run.path / "h.safetensors", steps=[0, 10])
    assert {len(item.panel.points) for item in tsne_series(inputs, partition="held-out", config=QUICK).maps} == {16}
    test = tsne_series(inputs, partition="test", config=QUICK)
    assert {name for item in test.maps for name in item.panel.points["partition"]} == {"test"}


def test_checkpoints_are_found_by_training_and_cut_to_steps(run, write_pair, tmp_path):
    found = series_inputs(run)
    assert {name: [given.pair.origin_e.step for given in some] for name, some in found.items()} == {
        "baseline": list(STEPS),
        "joint": list(STEPS),
    }
    assert list(series_inputs(run, trainings=["joint"], steps=[20, 0])) == ["joint"]
    only = series_inputs(run, understanding="viclip-joint", execution="arp-joint", steps=[20, 0])
    assert [given.pair.origin_e.step for given in only["joint"]] == [0, 20]
    with pytest.raises(FeatureError, match="no execution features at step 7"):
        series_inputs(run, steps=[7])
    plain = RunDir.create(tmp_path / "plain")
    for step in (0, 5):
        write_pair(plain.path, PAIRS, each=2, step=step)
    shutil.copy(plain.features("arp", "demos", 5), tmp_path / "keep.h5")
    assert [given.pair.origin_e.step for given in series_inputs(plain)[""]] == [0, 5]
    assert [given.pair.origin_e.step for given in tsne_inputs(plain)] == [5]


def test_steps_are_thinned_evenly():
    assert shown_steps([0, 1, 2]) == [0, 1, 2]
    assert shown_steps(list(range(100)), 4) == [0, 33, 66, 99]


def test_no_checkpoint_at_all_is_said(tmp_path):
    with pytest.raises(FeatureError, match="there is no checkpoint to show"):
        draw_tsne_series({}, folder=tmp_path, tables=tmp_path)


@pytest.fixture(scope="module")
def hostile(write_pair, tmp_path_factory):
    pairs = [(f"task{EVIL}", f"do {i} {EVIL}") for i in range(3)] + [("b", f"b {i}") for i in range(3)]
    run = _write(write_pair, tmp_path_factory.mktemp("evil") / "run", pairs, steps=(0, 10, 20), trainings=("joint",))
    return tsne_series(series_inputs(run, heads=run.path / "h.safetensors"), config=QUICK)


def test_no_text_becomes_markup(hostile):
    slider = series_slider(series_coordinates(hostile), quality_table(hostile), note=EVIL)
    assert slider.markup.count("<script") == slider.markup.count("</script") == 1
    assert "<img" not in slider.markup
    page = slider_page(slider, EVIL)
    assert "<img" not in page
    assert page.count("<script") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    inert = re.search(r'<script type="application/json">(.*?)</script>', slider.markup, re.DOTALL)
    assert inert is not None
    data = json.loads(inert[1])
    assert data["points"]["instruction"][0] == f"do 0 {EVIL}"
    assert data["steps"] == [0, 10, 20]


def test_the_slider_holds_the_coordinates_to_a_thousandth_and_stays_small(series):
    slider = series_slider(series_coordinates(series), quality_table(series))
    data = json.loads(re.search(r'json">(.*?)</script>', slider.markup, re.DOTALL)[1])
    furthest = max(np.abs(item.panel.embedding.coordinates).max() for item in series.maps)
    for training in data["trainings"]:
        for step, shown in zip(data["steps"], training["maps"], strict=True):
            item = series.at(training["name"], step)
            spots = np.array(shown["xy"]).reshape(-1, 2) * (1, -1) * furthest / 960
            np.testing.assert_allclose(spots, item.panel.embedding.coordinates, atol=furthest / 1000)
            assert shown["pale"] == "".join(str(int(fitted)) for fitted in item.panel.points["fitted"])
    assert len(slider.fragment) < 60_000


def test_a_training_without_a_checkpoint_has_no_map_there(series):
    cut = replace(series, maps=series.maps[:6])
    slider = series_slider(series_coordinates(cut), quality_table(cut))
    data = json.loads(re.search(r'json">(.*?)</script>', slider.markup, re.DOTALL)[1])
    assert [shown is None for shown in data["trainings"][1]["maps"]] == [False, False, True, True]


def test_too_many_points_are_thinned_by_episodes(series):
    table = series_coordinates(replace(series, maps=series.maps[:1]))
    many = pd.concat([table.assign(id=table["id"] + f"/{i}") for i in range(80)])
    slider = series_slider(many, quality_table(series))
    data = json.loads(re.search(r'json">(.*?)</script>', slider.markup, re.DOTALL)[1])
    assert len(data["points"]["id"]) <= MOST_POINTS < len(many)
    assert "1500 of 1920 episodes are shown, evenly chosen." in slider.markup


DRIVE = """<script>
const root = document.querySelector('.mnprobe-tsne-series'), range = root.querySelector('input');
const seen = () => [root.querySelector('output').textContent, root.querySelector('.ts-mark').style.transform,
  root.querySelectorAll('.ts-mark:not(.ts-off)').length, root.querySelector('svg[role=img]').ariaLabel];
const told = [seen()];
range.focus(); range.value = 0; range.dispatchEvent(new Event('input')); told.push(seen());
const [task, model] = root.querySelectorAll('select');
task.value = '1'; task.dispatchEvent(new Event('change')); told.push(seen());
model.value = 'execution'; model.dispatchEvent(new Event('change')); told.push(seen());
const play = root.querySelector('button');
play.click(); const playing = play.textContent; play.click();
const focusable = [...root.querySelectorAll('button, input, select')].every(n => n.tabIndex === 0 && !n.disabled);
document.body.dataset.told = JSON.stringify({ told, playing, stopped: play.textContent, focusable,
  title: document.title, wide: document.documentElement.scrollWidth, images: document.images.length });
</script>"""


def test_the_slider_works_in_a_browser(hostile, tmp_path):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    slider = series_slider(series_coordinates(hostile), quality_table(hostile))
    page = tmp_path / "page.html"
    head = '<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>mine</title>'
    page.write_text(f"{head}<body>{slider.fragment}{DRIVE}</body>", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [program, *flags, "--window-size=500,900", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[-2000:]
    from html import unescape

    told = json.loads(unescape(found[1]))
    last, first, task, model = told["told"]
    assert (last[0], first[0]) == ("step 20", "step 0")
    assert last[1] != first[1]
    assert "t-SNE of joint, step 0: trustworthiness" in first[3]
    assert (last[2], task[2], model[2]) == (48, 24, 12)
    assert (told["playing"], told["stopped"], told["focusable"]) == ("Pause", "Play", True)
    assert (told["title"], told["images"]) == ("mine", 0)
    assert told["wide"] <= 500


def test_the_policy_of_the_page_lets_its_own_script_run_and_nothing_else(series, tmp_path):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    page = tmp_path / "page.html"
    slider = series_slider(series_coordinates(series), quality_table(series))
    page.write_text(slider_page(slider, "mine").replace("</body>", "<script>document.title='x'</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [program, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>mine</title>" in done.stdout
    assert done.stdout.count('class="ts-mark') == 96
