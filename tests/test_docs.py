"""The documentation keeps its word: its code runs, its commands and names exist, its links lead somewhere."""

import doctest
import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

import mnprobe
from mnprobe.cli.main import COMMANDS, command_app, main
from mnprobe.probe import Items, hold_out, load_heads, read_hits

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
NEED_WEIGHTS = {"models"}  # pages whose code opens published weights
UsageError = typer.BadParameter.__base__  # typer has no public name for it
GROUPS = {"mnprobe.extractors", "mnprobe.indices", "mnprobe.policies", "mnprobe.worlds"}  # of entry points


def names(page):
    return page.relative_to(REPOSITORY).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def command_lines(page):
    """What readers are to type, as lists of words; what follows a # is for them alone."""
    lines = re.findall(r"^(?: {4}|\$ )(mnprobe .*)$", text_of(page), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(scope="module")
def builder():
    """docs/build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_build", REPOSITORY / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_and_anchors_lead_somewhere(builder, page):
    assert builder.broken(page) == []


def test_a_link_or_an_anchor_that_leads_nowhere_is_found(builder, tmp_path):
    (tmp_path / "there.md").write_text("# What `e` is\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#what-e-is) [b](there.md#twice-1) [c](https://x.org/#y) `[d](no.md)` [e](#own)\n\n# Own\n"
    )
    assert builder.broken(page) == []
    page.write_text("[a](absent.md) ![b](there.md#nothing) [c](#none)\n")
    assert [found.partition(":")[0] for found in builder.broken(page)] == ["absent.md", "there.md#nothing", "#none"]


def test_the_examples_of_the_builder_hold(builder):
    assert doctest.testmod(builder) == (0, 2)


def test_the_index_of_the_docs_leads_to_every_page(builder):
    index = REPOSITORY / "docs" / "README.md"
    reached = {link.partition("#")[0] for link in builder.links(text_of(index))}
    assert {page.name for page in PAGES if page.parent == index.parent} - {"README.md"} <= reached


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_in_the_text_can_be_given(page):
    for name, *words in command_lines(page):
        command = typer.main.get_command(command_app(name))
        if words == ["..."]:
            continue
        try:
            with command.make_context(f"mnprobe {name}", list(words)):
                pass
        except typer.Exit:  # --help
            pass
        except UsageError as error:
            pytest.fail(f"mnprobe {name} {' '.join(words)}: {error.format_message()}")


def test_a_command_that_cannot_be_given_is_noticed():
    with pytest.raises(UsageError, match="no-such-option"):
        typer.main.get_command(command_app("align")).make_context("align", ["--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_in_running_text_exist(page):
    assert set(re.findall(r"`mnprobe ([a-z]+)", text_of(page))) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_names_in_the_text_can_be_imported(page):
    for name in set(re.findall(r"`(mnprobe(?:\.\w+)+)\b", text_of(page))) - GROUPS:
        assert resolved(name) is not None, name


def resolved(name):
    """What a dotted name names: something in a module, else a module; None where it names nothing."""
    found = mnprobe
    done = "mnprobe"
    for part in name.split(".")[1:]:
        done = f"{done}.{part}"
        found = getattr(found, part, None)
        if found is None:
            try:
                found = importlib.import_module(done)
            except ModuleNotFoundError:
                return None
    return found


def test_every_command_has_its_function_in_the_reference(builder):
    """The table of docs/api.md: each command once, each name public, documented and in the reference."""
    part = (
        text_of(REPOSITORY / "docs" / "api.md").partition("## The function behind each command")[2].partition("## ")[0]
    )
    table, last = {}, None
    for command, functions in re.findall(r"^\| (?:`mnprobe (\w+)` )?\| ([^|]*) \|", part, re.MULTILINE):
        last = command or last
        table.setdefault(last, []).extend(re.findall(r"`(mnprobe\.[\w.]+)`", functions))
    assert list(table) == list(COMMANDS)
    for command, functions in table.items():
        assert functions or command == "demo"
        for name in functions:
            assert resolved(name).__doc__, name
            assert builder.reference_url(name), (
                f"{name} is not in the reference; is it in an __all__ of docs/build.py's DOORS?"
            )


def plugins(folder, entries):
    """Files and entry points as an installed package of a reader would have them."""
    (folder / "theirs-1.0.dist-info").mkdir()
    (folder / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    found = [re.match(r'\[project\.entry-points\."([\w.]+)"\]\n(.*)', entry, re.DOTALL).groups() for entry in entries]
    listed = "\n".join(f"[{group}]\n{lines.replace(chr(34), '')}" for group, lines in found)
    (folder / "theirs-1.0.dist-info" / "entry_points.txt").write_text(listed)


def run_code(page, folder, monkeypatch):
    """The Python of a page from top to bottom; blocks that begin with a file's name are files beside it."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    plugins(folder, blocks(page, "toml"))
    script = []
    for block in blocks(page, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            (folder / named.group(1)).write_text(block)
        else:
            script.append(block)
    (folder / "page.py").write_text("\n".join(script))
    importlib.invalidate_caches()
    return runpy.run_path(str(folder / "page.py"), run_name="page")  # worker processes run a __main__ again


WITH_CODE = [page for page in PAGES if blocks(page, "python") and page.stem not in NEED_WEIGHTS]


@pytest.mark.usefixtures("short_fits")
@pytest.mark.parametrize("page", [page for page in WITH_CODE if page.stem != "tutorial"], ids=names)
def test_the_code_runs(page, tmp_path, monkeypatch, capsys):
    run_code(page, tmp_path, monkeypatch)


@pytest.mark.usefixtures("short_fits")
def test_the_tutorial_finds_what_was_planted_and_its_commands_do_the_same(tmp_path, monkeypatch, capsys):
    page = REPOSITORY / "docs" / "tutorial.md"
    told = run_code(page, tmp_path, monkeypatch)
    measured = told["rows"].query("metric == 'recall@1' and direction == 'mean' and statistic == 'mean'")

    noise = told["first"].query(
        "execution == 'noise' and metric == 'recall@1' and direction == 'mean' and statistic == 'mean'"
    )
    assert ((noise["ci_low"] < noise["chance"]) & (noise["chance"] < noise["ci_high"])).all()
    trained = measured.query("understanding == 'watcher' and step_e == 1000 and control == 'none'")
    assert len(trained) == 4  # blanked and not, both holdouts
    assert (trained["ci_low"] > 2 * trained["chance"]).all()
    others = measured.query("step_e == 0 or control == 'shuffled'")
    assert (others["ci_low"] < 1.5 * others["chance"]).all()

    said = {(finding.topic, finding.conclusion) for finding in told["audit"].findings if finding.holdout == "episodes"}
    planted = {("rise", "rises"), ("instruction", "rise survives"), ("pixels", "beyond pixels"), ("shuffled", "sound")}
    assert planted <= said
    assert not any(finding.alarm for finding in told["audit"].findings)
    sides = told["contrasts"].query("where == 'all'").set_index("side")
    assert sides.loc["execution", "ci_low"] > 0.2
    assert sides.loc["execution", "p_holm"] < 0.01
    assert sides.loc["understanding", "ci_low"] < 0 < sides.loc["understanding", "ci_high"]
    assert sides.loc["understanding", "p_holm"] > 0.05
    cells = told["drawn"][0].table.set_index("step_e")
    assert cells.loc[1000, "p_max"] < 0.05 < cells.loc[0, "p_max"]
    report = tmp_path / "runs" / "tutorial" / "report.html"
    assert report.stat().st_size > 10_000

    before = told["table"].read_bytes()
    report.unlink()
    for words in command_lines(page):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, (words, capsys.readouterr().err)
    assert told["table"].read_bytes() == before, "the commands measured something else than the Python beside them"
    assert report.exists()


def own_files(folder, golden):
    """Datasets under the names that docs/data.md uses: a LeRobot folder, LIBERO files, videos; and a video model."""
    import av
    import torch
    from transformers import VideoMAEConfig, VideoMAEModel

    shutil.copytree(golden / "lerobot" / "v30-h264", folder / "lerobot")
    shutil.copytree(golden / "hdf5" / "libero", folder / "libero")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoMAEModel(VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **sizes))
    model.save_pretrained(folder / "videomae")
    (folder / "videos").mkdir()
    rows = ["id,video,instruction,task,success,scene"]
    for number in range(8):
        with av.open(str(folder / "videos" / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for frame in range(10):
                image = np.full((32, 48, 3), 20 * frame + 5 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        text = ["open the door", "close the door"][number % 2]
        rows.append(f"v{number},{number}.mp4,{text},door,{number // 2 % 2},kitchen {number % 3}")
    (folder / "videos" / "episodes.csv").write_text("\n".join(rows) + "\n")


WAYS = {
    "A LeRobot dataset": ("lerobot", "videomae", "my-policy", [0, 50, 100], 5),
    "LIBERO files": ("libero", "viclip", "openvla", [30000], 10),
    "Videos beside a table, and": ("videos", "viclip", "my-network", [0], 8),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_from_files_to_a_report_runs_as_it_is_written(way, tmp_path, golden, monkeypatch, capsys):
    part = next(part for part in text_of(REPOSITORY / "docs" / "data.md").split("\n### ") if part.startswith(way))
    lines = [shlex.split(line) for line in re.findall(r"^ {4}((?:mnprobe|python) .*)$", part, re.MULTILINE)]
    assert len(lines) == 5
    own_files(tmp_path, golden)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for block in re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE):
        (tmp_path / re.match(r"# (\w+\.py)\n", block).group(1)).write_text(block)
    importlib.invalidate_caches()
    for program, *words in lines:
        if words[0] == "import":
            runpy.run_path("foreign.py")
        if program == "python":
            runpy.run_path(words[0], run_name="train")
            continue
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main(words + (["--steps", "10"] if words[0] == "align" else []))  # 400 steps for each fit take longest
        shown = capsys.readouterr()
        assert ended.value.code == 0, (words, shown.err)
        assert words[0] != "inspect" or f"{words[1]}: " in shown.out

    name, understanding, execution, steps, count = WAYS[way]
    run = tmp_path / "runs" / name
    assert (run / "report.html").stat().st_size > 10_000
    table = pd.read_csv(run / "results" / "alignment.csv")
    assert set(table["understanding"]) == {understanding}
    assert set(table["execution"]) == {execution}
    assert sorted(set(table["step_e"])) == steps
    written = [path for path in sorted((run / "results" / "hits").glob("*.npz")) if "none" in path.name]
    assert len(written) == len(steps)  # held-out episodes are drawn by seed and written down
    for path in written:
        scores = read_hits(path)
        assert len(scores.ids) == count
        items = Items.of(ids=scores.ids, instructions=scores.instructions, tasks=scores.tasks)
        assert set(scores.draws.tolist()) == {0, 1, 2}
        for draw, train, test in zip(scores.draws.tolist(), scores.train, scores.test, strict=True):
            part = hold_out(items, "episodes", seed=draw)
            assert (np.flatnonzero(train).tolist(), np.flatnonzero(test).tolist()) == (
                part.train.tolist(),
                part.test.tolist(),
            )
    for path in (run / "heads").glob("*.safetensors"):
        fitted_on = load_heads(path).fitted_on
        assert not set(fitted_on["train_ids"]) & set(fitted_on["test_ids"]["all"])
        assert len(fitted_on["train_ids"]) + len(fitted_on["test_ids"]["all"]) == count


def test_the_page_of_commands_is_what_the_commands_say():
    done = subprocess.run([sys.executable, "-m", "mnprobe.cli.page"], capture_output=True, text=True, check=True)
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert done.stdout == page, "make it again: .venv/bin/python -m mnprobe.cli.page > docs/cli.md"


def test_the_pages_become_html(builder, tmp_path):
    for page in PAGES:
        builder._page(page, tmp_path)
    api = (tmp_path / "docs" / "api.html").read_text(encoding="utf-8")
    assert '<a href="../reference/mnprobe/probe.html#align"><code>mnprobe.probe.align</code></a>' in api
    assert 'href="reading.html"' in (tmp_path / "docs" / "tutorial.html").read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "calibration.png").is_file()


def test_all_doors_of_the_reference_are_modules_with_names(builder):
    doors = [importlib.import_module(name) for name in builder.DOORS]
    assert not [text for door in doors for text in builder._undocumented(door)]
    assert mnprobe in doors
