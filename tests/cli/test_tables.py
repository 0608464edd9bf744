import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from mnprobe.cli.main import app, main
from mnprobe.core.rundir import RunDir

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    """A run that has an ablation of one cell and nothing else."""
    folder = RunDir.create(tmp_path / "runs" / "first")
    folder.results("ablation").parent.mkdir()
    cell = {"pairing": "task", "tau": 0.2, "training": "task-0.2", "seed": 0, "understanding": 0.25, "execution": 0.5}
    pd.DataFrame([cell | {"n_understanding": 8, "n_execution": 6}]).to_csv(folder.results("ablation"), index=False)
    return folder


def test_all_that_exist_are_printed_and_the_others_named(run):
    result = runner.invoke(app, ["tables", "--run", str(run.path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"run: {run.path}\n\nTable 3. Ablation")
    assert "25.0 n=8" in result.stdout
    assert "paper, on RLBench" in result.stdout
    assert f"Table 1 is not measured yet: `mnprobe recognize --run {run.path}`" in result.stdout
    assert f"Table 2 is not measured yet: `mnprobe rollout --run {run.path}`" in result.stdout


def test_json_holds_one_row_per_number(run):
    result = runner.invoke(app, ["tables", "--run", str(run.path), "--number", "3", "--json"])
    found = json.loads(result.stdout)
    assert found["missing"] == []
    (table,) = found["tables"]
    ours = [row for row in table["rows"] if row["who"] == "ours"]
    assert [(row["column"], row["percent"], row["n"]) for row in ours] == [
        ("understanding", 25, 8),
        ("execution", 50, 6),
    ]
    assert len([row for row in table["rows"] if row["who"] == "paper"]) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--number", "1"], "Table 1: `mnprobe recognize --run"),
        (["--number", "4"], "tables 1 to 3 can be shown, got 4"),
    ],
)
def test_refusals_are_one_message_and_code_2(run, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["tables", "--run", str(run.path), *options])
    assert message in capsys.readouterr().err
