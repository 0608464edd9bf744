import json

import pytest
from typer.testing import CliRunner

from mnprobe.cli.main import app, main
from mnprobe.core.rundir import RunDir

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "runs" / "first")


def test_it_writes_the_page_and_says_what_is_missing(run):
    result = runner.invoke(app, ["report", "--run", str(run.path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"run: {run.path}\n")
    assert f"no t-SNE yet: run `mnprobe tsne --run {run.path}`" in result.stdout
    assert run.report.read_text().startswith("<!DOCTYPE html>")


def test_json_is_one_document(run, tmp_path):
    result = runner.invoke(app, ["report", "--run", str(run.path), "--out", str(tmp_path / "r.html"), "--json"])
    found = json.loads(result.stdout)
    assert found["report"] == str(tmp_path / "r.html")
    assert found["bytes"] == (tmp_path / "r.html").stat().st_size
    assert {piece["what"] for piece in found["missing"]} >= {"alignment scores", "alignment curve", "t-SNE"}
    assert found["headline"] == []


def test_a_folder_that_is_no_run_is_one_message(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--run", str(tmp_path)])
    assert "not a run of mnprobe" in capsys.readouterr().err


def test_runs_are_set_side_by_side(run, tmp_path):
    other = RunDir.create(tmp_path / "runs" / "second", {"train": {"tau": 0.2}})
    out = tmp_path / "c.html"
    result = runner.invoke(app, ["report", "--compare", str(run.path), str(other.path), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["runs"] == {"first": str(run.path), "second": str(other.path)}
    assert found["settings"] == [{"setting": "train", "values": ["", "1 setting"]}]
    assert out.read_text().startswith("<!DOCTYPE html>")
    result = runner.invoke(app, ["report", "--run", str(run.path), "--compare", str(other.path)])
    assert result.stdout.startswith("runs: first, second\nsettings that differ: train\n")
    assert (run.path / "report-compare.html").is_file()


def test_runs_without_compare_are_refused(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run.path)])
    assert f"mnprobe report --compare {run.path}" in capsys.readouterr().err
