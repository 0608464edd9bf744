import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from mnprobe.cli.main import app

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    """A run with a table of one measurement at two steps."""
    folder = tmp_path / "runs" / "first"
    (folder / "results").mkdir(parents=True)
    (folder / "run.toml").write_text("")
    from mnprobe.analysis.tables.alignment import ALIGNMENT_COLUMNS

    base = dict.fromkeys(ALIGNMENT_COLUMNS, "") | {
        "understanding": "viclip", "execution": "arp", "source_u": "demos", "source_e": "demos", "layer_u": "u",
        "layer_e": "e", "pool_u": "mean", "pool_e": "mean", "heads": "linear", "pairing": "instruction",
        "loss": "diagonal", "tau": 0.1, "holdout": "episodes", "split": "all", "mode": "own-probe", "control": "none",
        "metric": "recall@1", "direction": "mean", "statistic": "mean", "seed": -1, "draw": -1, "chance": 0.1,
        "n_test": 20, "n_groups": 10, "n_gallery": 20, "n_train": 80, "n_train_groups": 10, "n_seeds": 5, "batch": 16,
        "step_u": 0, "trained_u": True, "trained_e": True, "config_hash": "abc",
    }  # fmt: skip
    rows = [
        base | {"step_e": step, "layer_e": layer, "direction": way, "metric": metric, "value": 0.3 + step / 100}
        for step in (0, 10)
        for layer in ("e", "norm")
        for way in ("mean", "u2e")
        for metric in ("recall@1", "recall@5")
    ]
    pd.DataFrame(rows).to_csv(folder / "results" / "alignment.csv", index=False)
    return folder


def _json(*arguments):
    result = runner.invoke(app, ["curve", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_writes_into_the_run(run):
    result = runner.invoke(app, ["curve", "--run", str(run)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"run: {run}\n")
    for name in ("figures/curve.png", "figures/curve.svg", "results/curve.csv"):
        assert (run / name).stat().st_size > 0


def test_json_is_one_document_with_the_points(run):
    found = _json("--run", run)
    assert [point["value"] for point in found["points"]] == [0.3, 0.4]
    assert found["single_checkpoint"] is False
    assert "layer_e e is shown; the table also has norm" in found["notes"]


def test_every_option_arrives(run, tmp_path):
    options = ["--metric", "recall@5", "--direction", "u2e", "--where", "layer_e=norm", "--out", tmp_path / "mine"]
    found = _json("--run", run, *options, "--log-steps", "--split", "all")
    for point in found["points"]:
        assert (point["metric"], point["direction"], point["layer_e"]) == ("recall@5", "u2e", "norm")
    assert found["table"] == str(tmp_path / "mine.csv")
    assert (tmp_path / "mine.png").is_file()
    note = json.loads((tmp_path / "mine.json").read_text())
    for word in ("--metric recall@5", "--direction u2e", "--where layer_e=norm", "--log-steps", "--split all"):
        assert word in note["command"]


def test_another_table_can_be_named(run, tmp_path):
    other = tmp_path / "other.csv"
    pd.read_csv(run / "results" / "alignment.csv").assign(value=0.9).to_csv(other, index=False)
    assert {point["value"] for point in _json("--run", run, "--alignment", other)["points"]} == {0.9}


def test_a_run_without_measurements_names_the_command(run, capsys):
    from mnprobe.cli.main import main

    (run / "results" / "alignment.csv").unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["curve", "--run", str(run)])
    assert f"`mnprobe align --run {run}` writes it" in capsys.readouterr().err
