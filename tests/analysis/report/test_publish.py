"""Published studies: what is copied, and pages whose numbers are those of the tables."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mnprobe.analysis.report import publish
from mnprobe.analysis.report.publish import (
    ANSWERS,
    PICTURE_OF,
    PUBLISHED,
    answers_block,
    answers_lines,
    publish_run,
    rewritten,
    wrong_numbers,
)
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


@pytest.mark.parametrize("study", sorted((REPOSITORY / "reports").glob("*/")), ids=lambda study: study.name)
def test_the_curve_of_a_published_study_is_made_again_bit_for_bit(study, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(study / "results", tmp_path / "run" / "results")
    shutil.copy(study / "run.toml", tmp_path / "run")
    (tmp_path / "run" / "results" / "curve.csv").unlink()
    done = CliRunner().invoke(app, ["curve", "--run", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    made = tmp_path / "run" / "results" / "curve.csv"
    assert made.read_bytes() == (study / "results" / "curve.csv").read_bytes()


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


def test_an_old_page_is_rewritten_and_then_agrees():
    page = (FIXTURE / "page.md").read_text(encoding="utf-8")
    assert rewritten(page, FIXTURE) == page
    old = page.replace("+41.5", "+42.5").replace("62.5 %", "61.0 %").replace("No. |", "Yes. |")
    assert rewritten(old, FIXTURE) == page
    signed = f"<!-- {RECOGNITION.replace('top1', 'top5')} -->+0.1 points<!-- end -->"
    with pytest.raises(ConfigError, match="there must be one number"):
        rewritten(f"<!-- {RECOGNITION} -->many<!-- end -->", FIXTURE)
    code = f"`<!-- {RECOGNITION} -->9<!-- end -->`"
    assert rewritten(code, FIXTURE) == code
    assert wrong_numbers(signed, FIXTURE)
    with pytest.raises(ConfigError, match="has no column"):
        rewritten(signed, FIXTURE)


def test_five_lines_tell_the_answers_and_how_the_study_was_made(tmp_path):
    study = tmp_path / "reports" / "study"
    shutil.copytree(FIXTURE / "study", study)
    lines = answers_lines(study).split("\n")
    assert len(lines) == 5
    assert lines[0] == (
        "- Does alignment rise with training? **Yes.** (first of them: baseline, demonstrations: +41.5 points, "
        "interval +30.0 to +53.0; n = 288 test episodes in 36 groups)"
    )
    assert lines[-1] == "- Does joint training help execution? **Not measured.**"
    (study / PUBLISHED).write_text('{"command": "mnprobe demo"}')
    assert answers_lines(study).endswith("Made by `mnprobe demo`; the whole report is `reports/study/report.html`.")


def test_a_study_that_is_not_published_has_a_sentence_and_any_picture(tmp_path):
    page = (
        "<!-- published: soon lines -->\nold\n<!-- end -->\n<!-- published: soon picture -->\n![x](a.png)\n<!-- end -->"
    )
    assert "soon lines: the text is not that of" in wrong_numbers(page, tmp_path / "reports")[0]
    new = rewritten(page, tmp_path / "reports")
    assert "*The study `soon` is not published yet.*" in new
    assert wrong_numbers(new, tmp_path / "reports") == []


@pytest.fixture
def home(tmp_path):
    """A repository with a published study and a page with an old number and a picture."""
    study = tmp_path / "reports" / "study"
    shutil.copytree(FIXTURE / "study", study)
    (study / "report.html").write_text("<h1>report</h1>")
    (tmp_path / "docs").mkdir()
    page = (FIXTURE / "page.md").read_text(encoding="utf-8").replace("+41.5", "+42.5")
    (tmp_path / "README.md").write_text(page + PICTURE)
    return tmp_path


PICTURE = "<!-- published: study picture -->\n![x](screen.png)\n<!-- end -->\n"


def test_the_script_rewrites_a_repository_and_says_what_needs_a_browser(home, script):
    said = script.rewrite(home, program=None)
    assert said[0] == "README.md: rewritten"
    assert "screen.png: LEFT AS IT IS, there is no Chromium on the PATH" in said[1]
    assert len(said) == 2
    assert (home / "README.md").read_text() == (FIXTURE / "page.md").read_text() + PICTURE


def test_a_picture_is_the_first_screen_of_its_report(home, script):
    program = script.browser()
    if program is None:
        pytest.skip("no Chromium on the PATH: no report is photographed")
    said = script.rewrite(home, program=program)
    assert said == ["README.md: rewritten", "screen.png: photographed from reports/study/report.html"]
    report = home / "reports" / "study" / "report.html"
    with Image.open(home / "screen.png") as image:
        assert image.size == (1280, 800)
        assert image.info[PICTURE_OF] == sha256_file(report)
    assert wrong_numbers(PICTURE, home / "reports") == []
    report.write_text("<h1>another</h1>")
    (problem,) = wrong_numbers(PICTURE, home / "reports")
    assert "screen.png does not show" in problem
    assert "`make readme` makes it again" in problem


@pytest.fixture(scope="module")
def script():
    """docs/readme.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_readme", REPOSITORY / "docs" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
