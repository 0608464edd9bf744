"""Published studies: what is copied, and pages whose numbers are those of the tables."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnprobe.analysis.report import publish
from mnprobe.analysis.report.publish import ANSWERS, answers_block, publish_run, wrong_numbers
from mnprobe.cli.main import app
from mnprobe.cli.study import STUDIES
from mnprobe.core.errors import ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.rundir import RunDir

FIXTURE = Path(__file__).parent / "published"
REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES += sorted((REPOSITORY / "reports").rglob("*.md"))
RECOGNITION = "published: study recognition top1 model=viclip-joint step=2000 task=all_tasks"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_numbers_in_the_pages_are_those_of_the_published_tables(page):
    assert wrong_numbers(page.read_text(encoding="utf-8"), REPOSITORY / "reports") == []


def test_published_studies_are_whole():
    for about in (REPOSITORY / "reports").glob("*/published.json"):
        said = json.loads(about.read_text(encoding="utf-8"))
        found = {p.relative_to(about.parent).as_posix() for p in about.parent.rglob("*") if p.is_file() and p != about}
        assert set(said["files"]) == found
        assert {name: sha256_file(about.parent / name) for name in found} == said["files"]
        assert (about.parent / "report.html").stat().st_size <= publish.LIMIT
        assert said["command"].startswith("mnprobe demo")
        assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in said["commit"])


def test_a_run_is_copied_with_its_answers_and_again_in_place(write_trained, tmp_path):
    run = RunDir(write_trained(tmp_path / "run"))
    run.record("demo", {"command": "mnprobe demo --run runs/demo", "commit": ["c0ffee"]})
    run.figures.mkdir()
    for name in ("curve.png", "curve.svg", "curve.json", "notes.txt"):
        (run.figures / name).write_text("{}")
    folder = tmp_path / "reports" / "study"
    done = CliRunner().invoke(app, ["report", "--run", str(run.path), "--publish", str(folder)])
    assert done.exit_code == 0, done.output
    said = json.loads((folder / "published.json").read_text())
    assert (said["command"], said["commit"]) == ("mnprobe demo --run runs/demo", ["c0ffee"])
    tables = {f"results/{path.name}" for path in (run.path / "results").glob("*.csv")}
    others = {
        "report.html",
        "run.toml",
        "results/answers.csv",
        *(f"figures/curve.{end}" for end in ("png", "svg", "json")),
    }
    assert set(said["files"]) == tables | others
    for name in tables:
        assert (folder / name).read_bytes() == (run.path / name).read_bytes()
    joint = ANSWERS.read(folder / "results" / "answers.csv")
    joint = joint[joint["question"] == "Does joint training help recognition?"]
    assert joint["short"].tolist() == ["One pair, no answer."]
    assert joint[["low", "high"]].isna().all(axis=None)
    assert joint[["within_low", "within_high"]].notna().all(axis=None)
    assert "within the pair | 1 seed pair on 60 episodes |" in answers_block(folder)
    page = f"<!-- published: study answers -->\n{answers_block(folder)}\n<!-- end -->"
    assert wrong_numbers(page, folder.parent) == []
    publish_run(run, folder)
    assert set(json.loads((folder / "published.json").read_text())["files"]) == set(said["files"])


def test_what_cannot_be_published_leaves_everything_as_it_was(write_trained, tmp_path, monkeypatch):
    run = RunDir(write_trained(tmp_path / "run"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="holds something that is no published study"):
        publish_run(run, mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    monkeypatch.setattr(publish, "LIMIT", 1000)
    with pytest.raises(ConfigError, match=r"a published one may have 0\.001 MB"):
        publish_run(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    shutil.rmtree(run.path / "results")
    with pytest.raises(ConfigError, match="has no results to publish"):
        publish_run(run, tmp_path / "new")


@pytest.mark.parametrize("text", ["62 %", " 62.5 %", "0.62", "0.625", "62.50 points", "1"])
def test_numbers_that_agree_with_the_fixture(text):
    assert wrong_numbers(f"It was <!-- {RECOGNITION} -->{text}<!-- end -->.", FIXTURE) == []


@pytest.mark.parametrize(
    ("mark", "text", "problem"),
    [
        (RECOGNITION, "64 %", "the page says 64 %, the table 62.50"),
        (RECOGNITION, "0.63.", "there must be one number, got '0.63.'"),
        (RECOGNITION.replace("2000", "9"), "62 %", "0 rows of .* fit"),
        (RECOGNITION.replace(" step=2000", ""), "62 %", "2 rows of .* fit"),
        (RECOGNITION.replace("top1", "top9"), "62 %", "has no column top9"),
        (RECOGNITION.replace("study", "other"), "62 %", "recognition.csv"),
        ("published: study answers", "| question |", "the table is not that of"),
        ("published: study", "62 %", "a marker is"),
    ],
)
def test_numbers_that_do_not_are_named(mark, text, problem):
    (found,) = wrong_numbers(f"It was <!-- {mark} -->{text}<!-- end -->.", FIXTURE)
    assert re.search(problem, found)


def test_the_table_of_answers_is_that_of_the_fixture():
    page = (FIXTURE / "page.md").read_text(encoding="utf-8")
    assert wrong_numbers(page, FIXTURE) == []
    (found,) = wrong_numbers(page.replace("+41.5", "+42.5"), FIXTURE)
    assert "results/answers.csv" in found
    assert wrong_numbers(f"`<!-- {RECOGNITION} -->9<!-- end -->`", FIXTURE) == []  # in code


def test_the_page_that_fixes_the_studies_says_their_sizes_and_seeds():
    page = (REPOSITORY / "docs" / "study.md").read_text(encoding="utf-8")
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:3]]
        for line in page.splitlines()
        if line.startswith("|") and len(cells := line.strip("| ").split("|")) >= 3
    }
    for place, name in enumerate(("quick", "reference")):
        study = STUDIES[name]
        shares = ", ".join(f"{100 * share:g}" for share in study.checkpoints or ())
        assert (
            rows["demonstrations an instruction"][place] == f"{study.train} train, {study.val} val, {study.test} test"
        )
        assert rows["checkpoints, in shares of the updates"][place] == f"{shares} %"
        assert rows["own episodes"][place].startswith(f"{6 * study.episodes}")
        assert rows["at the checkpoint nearest one half"][place].startswith(f"{6 * (study.half_episodes or 0)} in all")
        assert f"{study.updates:,} updates" in rows["trainings"][place]
        assert rows["probe seeds"][place] == str(study.probe_seeds)
        seeds = [f"{study.scene_seed + part:,}" for part in (0, 1_000_000, 2_000_000)]
        assert rows["scene seeds, train / val / test"][place] == "from " + " / ".join(seeds)
        last = study.first_seed + study.seeds - 1
        own = rows["training seeds"][place]
        assert own == (str(study.first_seed) if study.seeds == 1 else f"{study.first_seed} to {last}")
