import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mnprobe.analysis.report.explorer import explorer
from mnprobe.cli.main import app, main
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features

pytestmark = pytest.mark.usefixtures("short_fits")

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    """A run with ten episodes of two instructions on both sides, at steps 0 and 10, without outcomes."""
    folder = RunDir.create(tmp_path / "runs" / "first")
    generator = np.random.default_rng(0)
    episodes = {
        "id": [f"t/0/episode{i}" for i in range(10)],
        "task": ["t"] * 10,
        "instruction": ["push" if i % 2 else "pull" for i in range(10)],
        "partition": ["test" if i < 6 else "train" for i in range(10)],
    }
    for model, side, layer in (("viclip", "understanding", "u"), ("arp", "execution", "e")):
        for step in (0, 10):
            layers = {layer: generator.standard_normal((10, 6)), "extra": generator.standard_normal((10, 3))}
            path = folder.features(model, "demos", step)
            write_features(path, layers=layers, episodes=episodes, model=model, side=side, step=step, trained=step > 0)
    return folder


def _json(run, *options):
    result = runner.invoke(app, ["tsne", "--run", str(run.path), "--iterations", "20", *map(str, options), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_ten_episodes_work_and_both_perplexities_are_said(run):
    found = _json(run)
    (panel,) = found["panels"]
    assert (panel["n_points"], panel["n_episodes"]) == (20, 10)
    assert (panel["perplexity_asked"], panel["perplexity"]) == (30.0, pytest.approx(19 / 3))
    assert "perplexity 6.33 (30 asked for)" in found["caption"]
    for name in ("figures/tsne.png", "figures/tsne.svg", "figures/tsne.json", "results/tsne.csv"):
        assert (run.path / name).stat().st_size > 0


def test_text_names_the_run_first(run):
    result = runner.invoke(app, ["tsne", "--run", str(run.path), "--iterations", "20"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"run: {run.path}\n")


def test_every_option_arrives(run, tmp_path):
    options = ["--space", "raw", "--partition", "test", "--perplexity", "1.5", "--seed", "7", "--step", "0"]
    options += ["--layer-u", "extra", "--pool-u", "first", "--pool-e", "last", "--colour", "task", "--jobs", "1"]
    found = _json(run, *options, "--out", tmp_path / "mine")
    assert [panel["title"] for panel in found["panels"]] == ["u before the heads", "e before the heads"]
    assert found["panels"][0]["subtitle"] == "viclip at step 0, random weights (extra, first)"
    assert found["panels"][1]["subtitle"] == "arp at step 0, random weights (e, last)"
    assert {(panel["n_points"], panel["perplexity"], panel["seed"]) for panel in found["panels"]} == {(6, 1.5, 7)}
    assert found["png"] == str(tmp_path / "mine.png")
    command = json.loads((tmp_path / "mine.json").read_text())["command"]
    for words in ("--space raw", "--partition test", "--perplexity 1.5", "--seed 7", "--step 0", "--layer-u extra"):
        assert words in command
    assert "--colour task" in command


def test_a_column_of_an_imported_table_colours_the_map_and_filters_in_the_report(tmp_path):
    folder = tmp_path / "runs" / "theirs"
    table = pd.DataFrame({"id": [f"e{number}" for number in range(12)]})
    table = table.assign(instruction=["push", "pull"] * 6, scene=["kitchen", "garage", "kitchen"] * 4)
    table.to_csv(tmp_path / "episodes.csv", index=False)
    for side in ("understanding", "execution"):
        np.save(tmp_path / f"{side}.npy", np.random.default_rng(0).normal(size=(12, 5)))
        words = ["import", str(tmp_path / f"{side}.npy"), "--episodes", str(tmp_path / "episodes.csv")]
        result = runner.invoke(app, [*words, "--side", side, "--name", f"{side}-model", "--run", str(folder)])
        assert result.exit_code == 0, result.output
    run = RunDir(folder)
    _json(run, "--color", "scene")
    assert "colour = scene" in json.loads((run.figures / "tsne.json").read_text())["title"]
    assert pd.read_csv(run.results("tsne"))["scene"].tolist() == 2 * table["scene"].tolist()
    payload = json.loads(explorer(run, []).payload)
    assert [(one["name"], one["values"]) for one in payload["columns"]] == [("scene", table["scene"].tolist())]


def test_two_checkpoints_make_two_panels(run):
    assert [panel["title"] for panel in _json(run, "--step", 0, "--step", 10)["panels"]] == ["step 0", "step 10"]


def test_a_named_training_arrives(tmp_path):
    folder = RunDir.create(tmp_path / "runs" / "two")
    generator = np.random.default_rng(0)
    episodes = {"id": [f"t/0/episode{i}" for i in range(10)], "task": ["t"] * 10}
    episodes["instruction"] = ["push" if i % 2 else "pull" for i in range(10)]
    for training in ("baseline", "joint"):
        for model, side, layer in (("viclip", "understanding", "u"), ("arp", "execution", "e")):
            name = f"{model}-{training}"
            layers = {layer: generator.standard_normal((10, 6))}
            path = folder.features(name, "demos", 5)
            write_features(path, layers=layers, episodes=episodes, model=name, side=side, step=5, trained=True)
    assert [panel["title"] for panel in _json(folder)["panels"]] == ["baseline, step 5", "joint, step 5"]
    (panel,) = _json(folder, "--training", "joint")["panels"]
    assert panel["subtitle"] == "viclip-joint at step 5 (u); arp-joint at step 5 (e)"
    assert "--training joint" in json.loads((folder.figures / "tsne.json").read_text())["command"]


def test_named_heads_arrive(run):
    from mnprobe.probe.heads import AlignmentHeads, save_heads

    save_heads(run.heads / "named.safetensors", AlignmentHeads(6, 6, 4), {"train_ids": ["t/0/episode0"]})
    options = ["--heads", run.heads / "named.safetensors"]
    assert "fitted on 1 of these 10 episodes" in _json(run, *options)["caption"]
    (panel,) = _json(run, *options, "--partition", "held-out")["panels"]
    assert panel["n_episodes"] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "neither"], "space must be shared, raw or both, got 'neither'"),
        (["--series", "--space", "raw"], "--series shows the shared space of one run"),
        (["--perplexity", "0"], "perplexity must be at least 1, got 0.0"),
        (["--colour", "blue"], "colour must be auto, instruction or task, got 'blue'"),
        (["--layer-e", "ee"], "unknown layer 'ee'"),
        (["--source", "rollouts"], "`mnprobe extract --run"),
    ],
)
def test_refusals_are_one_message_and_code_2(run, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["tsne", "--run", str(run.path), *options])
    assert message in capsys.readouterr().err


@pytest.fixture
def long_run(run):
    """The run with a third step, 20."""
    for path in sorted(run.path.glob("features/*/demos/step_00000010.h5")):
        from mnprobe.features import open_features

        with open_features(path) as file:
            layers = {name: file.layer(name).pooled("mean") + 0.1 for name in file.layers}
            episodes = {name: file.episodes[name].tolist() for name in ("id", "task", "instruction", "partition")}
            model, side = file.model, file.side
        target = run.features(model, "demos", 20)
        write_features(target, layers=layers, episodes=episodes, model=model, side=side, step=20, trained=True)
    return run


@pytest.fixture
def heads(tmp_path):
    """Heads that were fitted on all episodes, so that no test has to fit any."""
    from mnprobe.probe.heads import AlignmentHeads, save_heads

    path = tmp_path / "heads.safetensors"
    save_heads(path, AlignmentHeads(6, 6, 4), {"train_ids": [f"t/0/episode{i}" for i in range(10)]})
    return ["--heads", path]


def test_three_steps_make_a_series_and_two_do_not(long_run, heads):
    assert "series" not in _json(long_run, *heads, "--step", 0)
    assert "series" not in _json(long_run, *heads, "--no-series")
    assert "series" not in _json(long_run, "--space", "raw")
    found = _json(long_run, *heads)["series"]
    assert [(one["training"], one["step"]) for one in found["maps"]] == [("", 0), ("", 10), ("", 20)]
    assert found["maps"][0]["moved"] is None
    assert {quality["points"] for quality in found["maps"][0]["qualities"]} == {"all", "fitted"}
    for name in ("figures/tsne-series.png", "figures/tsne-series.svg", "figures/tsne-series.html"):
        assert (long_run.path / name).stat().st_size > 0
    for name in ("figures/tsne-purity.png", "results/tsne-series.csv", "results/map-quality.csv"):
        assert (long_run.path / name).stat().st_size > 0
    assert "--series" in json.loads((long_run.figures / "tsne-series.json").read_text())["command"]


def test_two_steps_make_no_series_unless_asked(run, heads, tmp_path):
    assert "series" not in _json(run, *heads)
    found = _json(run, *heads, "--series", "--seed", 3, "--out", tmp_path / "mine")["series"]
    assert [one["step"] for one in found["maps"]] == [0, 10]
    assert "seed 3" in found["caption"]
    assert "(10 iterations)" in found["caption"]  # half of those of the first map
    assert found["page"] == str(tmp_path / "mine-series.html")
    assert found["quality"] == str(tmp_path / "mine-quality.csv")
    (one,) = _json(run, *heads, "--series", "--step", 10)["series"]["maps"]
    assert one["step"] == 10
