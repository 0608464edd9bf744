import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mnprobe.cli.main import app, main
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    """A run of 36 episodes of 12 instructions in 3 tasks, steps 0 and 10, two layers on each side."""
    folder = RunDir.create(tmp_path / "runs" / "first")
    generator = np.random.default_rng(0)
    latent = generator.standard_normal((36, 4))
    episodes = {
        "id": [f"t/{i // 3}/episode{i}" for i in range(36)],
        "task": [f"t{i // 12}" for i in range(36)],
        "instruction": [f"do {i // 3}" for i in range(36)],
        "partition": ["test" if i % 3 else "train" for i in range(36)],
    }
    for model, side, layer in (("viclip", "understanding", "u"), ("arp", "execution", "e")):
        for step in (0, 10):
            values = (step / 5) * latent @ generator.standard_normal((4, 6)) + generator.standard_normal((36, 6))
            layers = {layer: values, "blocks.0": generator.standard_normal((36, 6))}
            path = folder.features(model, "demos", step)
            write_features(path, layers=layers, episodes=episodes, model=model, side=side, step=step, trained=step > 0)
    return folder


def _json(*options):
    result = runner.invoke(app, ["compare", *map(str, options), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_both_usual_indices_layer_by_layer(run):
    found = _json("--run", run.path, "--permutations", "99", "--k", 5)
    assert [item["index"] for item in found["comparisons"]] == ["debiased_cka", "mutual_knn"]
    cells = found["comparisons"][0]["cells"]
    assert [(cell["layer_u"], cell["layer_e"]) for cell in cells] == [
        ("blocks.0", "blocks.0"),
        ("blocks.0", "e"),
        ("u", "blocks.0"),
        ("u", "e"),
    ]
    assert {cell["permute"] for cell in cells} == {"instructions"}
    assert [cell["best"] for cell in cells] == [False, False, False, True]
    assert json.loads(found["comparisons"][1]["cells"][0]["options"]) == {"k": 5, "outside": False}
    for name in ("figures/similarity-debiased-cka-layers.svg", "figures/similarity-mutual-knn-layers.png"):
        assert (run.path / name).stat().st_size > 0
    assert found["table"] == str(run.path / "results" / "similarity.csv")


def test_text_names_the_run_and_the_best_cell_and_a_second_time_keeps_the_cells(run):
    options = ["compare", "--run", str(run.path), "--index", "cka", "--permutations", "99"]
    result = runner.invoke(app, options)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"run: {run.path}\n")
    assert "linear CKA: viclip step 10 u with arp step 10 e" in result.stdout
    assert "among all 4 cells p_max 0.01" in result.stdout
    assert "cells kept from before" not in result.stdout
    assert "cells kept from before" in runner.invoke(app, options).stdout


def test_every_option_arrives(run, tmp_path):
    options = ["--run", run.path, "--grid", "checkpoints", "--index", "rsa", "--option", "distance=euclidean"]
    options += ["--option", "correlation=pearson", "--layer-u", "blocks.0", "--pool-u", "first", "--pool-e", "last"]
    options += ["--partition", "test", "--permute", "within-task", "--permutations", "39", "--seed", "7", "--jobs", "1"]
    options += ["--understanding", "viclip", "--execution", "arp", "--source", "demos", "--out", tmp_path / "mine"]
    found = _json(*options)
    (item,) = found["comparisons"]
    cell = item["cells"][2]
    assert json.loads(cell["options"]) == {"distance": "euclidean", "correlation": "pearson"}
    expected = {"grid": "checkpoints", "step_u": 10, "step_e": 0, "layer_u": "blocks.0", "layer_e": "e"}
    expected |= {"pool_u": "first", "pool_e": "last", "permute": "within-task", "permutations": 39, "seed": 7, "n": 24}
    assert {name: cell[name] for name in expected} == expected
    assert found["table"] == str(tmp_path / "mine" / "similarity.csv")
    assert item["png"] == str(tmp_path / "mine" / "similarity-rsa-checkpoints.png")
    command = json.loads((tmp_path / "mine" / "similarity-rsa-checkpoints.json").read_text())["command"]
    for words in ("--option distance=euclidean", "--permute within-task", "--seed 7", "--partition test"):
        assert words in command


def test_named_files_need_no_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    u, e = run.features("viclip", "demos", 0), run.features("arp", "demos", 10)
    found = _json("--u", u, "--e", e, "--index", "mutual_knn", "--outside-group", "--k", 4, "--permutations", "39")
    (item,) = found["comparisons"]
    assert {(cell["step_u"], cell["step_e"]) for cell in item["cells"]} == {(0, 10)}
    assert json.loads(item["cells"][0]["options"]) == {"k": 4, "outside": True}
    assert (tmp_path / "results" / "similarity.csv").is_file()


def test_the_list_gives_every_definition():
    found = {item["name"]: item for item in json.loads(runner.invoke(app, ["compare", "--list", "--json"]).stdout)}
    assert {"debiased_cka", "mutual_knn", "cknna", "pwcca", "procrustes_distance", "infonce"} <= set(found)
    assert found["procrustes_distance"]["direction"] == "lower is more alike"
    assert "Song et al. 2012" in found["debiased_cka"]["source"]
    text = runner.invoke(app, ["compare", "--list"]).stdout
    assert "unchanged by: linear, orthogonal, scale, translation" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "cca2"], "unknown similarity index 'cca2'"),
        (["--permute", "blocks"], "permute must be one of free, within-task"),
        (["--permutations", "9"], "permutations must be at least 19"),
        (["--grid", "steps"], "grid must be layers or checkpoints"),
        (["--option", "k=3"], "--option belongs to one index, but 2 are compared"),
        (["--index", "cka", "--k", "3"], "--k is for indices of neighbours"),
        (["--index", "cka", "--outside-group"], "--outside-group is for indices of neighbours"),
        (["--index", "svcca", "--option", "variance=high"], "--option variance must be a number, got 'high'"),
        (["--u", "a.h5"], "--e is missing"),
        (["--source", "rollouts"], "`mnprobe extract --run"),
    ],
)
def test_refusals_are_one_message_and_code_2(run, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--run", str(run.path), *options])
    assert message in capsys.readouterr().err
