"""The main job from end to end: on demonstrations written here, and on the real ones where they are."""

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mnprobe.cli.main import main
from mnprobe.cli.study import STUDIES
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features, verify
from mnprobe.models.arp import ARPConfig
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIPConfig

REACH_TARGET = Path(__file__).resolve().parents[2] / "docs" / "examples" / "reach_target.csv"


def demo(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["demo", "--steps", "3", *map(str, arguments)])
    return end.value.code


def check(run, *, episodes):
    stores = {(piece.model, piece.source): piece.path for piece in run.feature_files()}
    assert set(stores) == {("arp", "demos"), ("arp", "demos-blank"), ("pixels", "demos"), ("viclip", "demos")}
    for path in stores.values():
        verify(path)
        with open_features(path) as store:
            assert len(store) == episodes
            assert not store.trained
            assert store.step == 0
    with run.results("alignment").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "recall@1" and row["statistic"] == "mean"]
    assert {row["control"] for row in rows} == {"none", "shuffled"}
    assert {row["source_e"] for row in rows} == {"demos", "demos-blank"}
    assert {row["understanding"] for row in rows} == {"viclip", "pixels"}
    for row in rows:
        assert 0 <= float(row["value"]) <= 1
        assert 0 < float(row["chance"]) <= 1
        assert int(row["n_test"]) > 0
    for name in ("curve", "tsne", "tsne-raw"):
        assert (run.figures / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (run.figures / f"{name}.svg").read_text()[:2000]
    page = run.report.read_text(encoding="utf-8")
    assert "random weights" in page
    return page


@pytest.fixture
def written(tmp_path, write_demo):
    """Eight short episodes of four instructions in two tasks."""
    root = tmp_path / "demos"
    for number in range(8):
        task, variation = ("open_drawer", "slide_block_to_color_target")[number % 2], number // 2 % 2
        write_demo(root, task, variation, "train", number, f"{task} {variation}", 6 + number, images="keyframes")
    return root


def ended(text):
    """The lines of finished stages, without those about a stage that takes longer than a minute."""
    return [line for line in text.splitlines() if " s by the clock, " in line]


def on_a_terminal(*arguments):
    """Exit code and text of a demo on a terminal of its own, without its colors and movements of the cursor."""
    own, theirs = pty.openpty()
    words = [sys.executable, "-m", "mnprobe", "demo", "--steps", "3", *map(str, arguments)]
    size = {"TERM": "xterm", "COLUMNS": "110", "LINES": "30"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | size)
    os.close(theirs)
    told = b""
    while True:
        try:
            piece = os.read(own, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        told += piece
    os.close(own)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.decode()).replace("\r\n", "\n").replace(
        "\r", "\n"
    )


def test_demonstrations_become_a_report_and_a_second_run_keeps_everything(tmp_path, written, capfd):
    run = RunDir(tmp_path / "run")
    assert demo("--run", run.path, "--data", written, "--seed", 5) == 0
    page = check(run, episodes=8)
    assert "slide_block_to_color_target 1" in page
    assert run.config["init"]["seed"] == 5
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.h5")}
    table = run.results("alignment").read_bytes()
    told = capfd.readouterr()
    assert told.err == ""
    lines = ended(told.out)
    assert [re.match(r"stage (\d) of 8 \(([a-z ]+)\): ", line)[2] for line in lines] == [
        *("random models", "features", "instruction blank", "pixels", "alignment", "audit", "figures", "report")
    ]
    assert lines[0].endswith("; 2 models, random weights")
    assert "compare left out, see " in lines[5]
    assert "Does alignment rise with training? " in told.out
    assert told.out.splitlines()[-2:] == [f"report: {run.report} (open it in a browser)", f"logs: {run.path / 'logs'}"]
    logs = run.path / "logs"
    assert ended((logs / "demo.log").read_text()) == lines
    assert len(list(logs.iterdir())) == 13
    for log in logs.glob("*-*.log"):
        assert log.read_text().startswith(f"$ mnprobe {log.stem.rpartition('-')[0]} --run {run.path}")

    code, shown = on_a_terminal("--run", run.path, "--data", written, "--seed", 5, "--side-by-side", 1)
    assert code == 0, shown
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*.h5")} == before
    assert run.results("alignment").read_bytes() == table
    assert any("kept" in log.read_text() for log in logs.glob("extract-*.log"))
    bar = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    row = re.compile(rf"(\d)/7 ([a-z ]+?) +{bar}{{10}} (\d+ (?:s|min))( (?! *left).*)?$")
    rows = [row.match(line.strip()) for line in shown.splitlines()]
    assert [(found[1], found[2]) for found in rows if found] == [
        *(("1", "features"), ("2", "instruction blank"), ("3", "pixels")),
        *(("4", "alignment"), ("5", "audit"), ("6", "figures"), ("7", "report")),
    ], shown
    assert re.search(rf"^ +all stages +[{bar}\W]{{10}} \d+ (s|min) left +output: ", shown, re.MULTILINE)
    assert "report of " in shown
    assert shown.rstrip().splitlines()[-2].strip() == f"report: {run.report} (open it in a browser)"

    run.results("alignment").write_text("damaged")
    assert demo("--run", run.path, "--data", written) == 2
    told = capfd.readouterr().err
    (log,) = logs.glob("align-*.log")
    assert (
        f"stage 4 of 7 (alignment): `mnprobe align --run {run.path} --steps 3` failed with exit code 2. Its last lines:"
        in told
    )
    assert f"    {log.read_text().splitlines()[-1]}\n" in told
    assert f"all of them: {log}\n" in told


def test_the_golden_weights_do_the_main_job_on_real_demonstrations(tmp_path, golden, rlbench_data, capsys):
    run = RunDir.create(tmp_path / "run")
    sizes = json.loads((golden / "viclip-tiny" / "config.json").read_text())
    vision, text = sizes["vision"], sizes["text"]
    viclip = ViCLIPConfig(
        **{name: vision[name] for name in ("image_size", "patch_size", "width", "layers", "heads")},
        frames=vision["num_frames"],
        embed_dim=vision["output_dim"],
        text_context=text["context_length"],
        vocabulary=text["vocab_size"],
        **{f"text_{name}": text[name] for name in ("width", "layers", "heads")},
    )
    sizes = json.loads((golden / "arp-tiny" / "full_arp.json").read_text())
    vision, policy = sizes["mvt"], sizes["policy"]
    arp = ARPConfig(
        image_size=vision["img_size"],
        patch_size=vision["img_patch_size"],
        vision_width=vision["attn_dim"],
        vision_heads=vision["attn_heads"],
        vision_head_width=vision["attn_dim_head"],
        vision_depth=vision["depth"],
        language_length=vision["lang_len"],
        language_width=vision["lang_dim"],
        width=policy["n_embd"],
        heads=policy["n_head"],
        cross_blocks=policy["cross_blocks"],
        self_blocks=policy["self_blocks"],
        render_radius=sizes["render_radius"],
    )
    files = {
        "viclip": golden / "viclip-tiny" / "weights.safetensors",
        "arp": golden / "arp-tiny" / "full_arp.safetensors",
    }
    for model, config in (("viclip", viclip), ("arp", arp)):
        weights = {name: tensor.float() for name, tensor in load_file(files[model]).items()}
        save_checkpoint(run.checkpoint(model, 0), weights, model=model, config=config.to_dict(), step=0)
    assert demo("--run", run.path, "--data", rlbench_data, "--instructions", REACH_TARGET, "--side-by-side", 1) == 0
    page = check(run, episodes=10)
    assert "open the middle drawer" in page
    assert "reach the red target" in page


def test_instructions_that_the_data_do_not_hold_are_asked_for(tmp_path, rlbench_data, capsys):
    assert demo("--run", tmp_path / "run", "--data", rlbench_data / "rlbench-native") == 2
    told = capsys.readouterr().err
    assert "variation_descriptions.pkl" in told
    assert "instead of a list of str" in told
    assert "--instructions" in told


TINY_STUDY = ["--task", "tap_puck", "--task", "push_puck_left", "--train", 1, "--val", 2, "--test", 2, "--updates", 5]
TINY_STUDY += ["--episodes", 1, "--half-episodes", 2, "--side-by-side", 1]


def test_without_data_the_whole_study_runs_on_the_tabletop(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(STUDIES, "quick", replace(STUDIES["quick"], max_variations=2, max_steps=3))
    run = RunDir(tmp_path / "run")
    assert demo("--run", run.path, *TINY_STUDY) == 0
    printed = capsys.readouterr().out
    told = ended(printed)
    models = {"arp-baseline", "arp-joint", "viclip-baseline", "viclip-joint"}
    assert {piece.model for piece in run.checkpoints()} == models
    assert {piece.step for piece in run.checkpoints("arp-joint")} == {0, 2, 3, 5}
    found = {(piece.model, piece.source, piece.step) for piece in run.feature_files()}
    for step in (0, 2, 3, 5):
        for model in models:
            sources = ["demos", "rollouts"]
            sources += [f"{source}-blank" for source in sources] if model.startswith("arp") else []
            assert {(model, source, step) for source in sources} <= found
    with open_features(run.features("viclip-joint", "demos", 5)) as store:
        assert set(store.episodes["partition"]) == {"val", "test"}
    recognised = read(run.results("recognition"))
    assert {row["model"] for row in recognised} == {"viclip-baseline", "viclip-joint"}
    assert {row["model"] for row in read(run.results("success"))} == {"arp-baseline", "arp-joint"}
    rows = [row for row in read(run.results("alignment")) if row["statistic"] == "mean"]
    pairs = {(row["understanding"], row["execution"]) for row in rows if row["source_e"] == "demos"}
    assert {("viclip-baseline", "arp-baseline"), ("viclip-joint", "arp-joint")} <= pairs
    assert ("viclip-baseline", "arp-joint") not in pairs
    results = [line.rpartition("; about ")[2].partition("; ")[2].partition("; ")[0] for line in told[:-1]]
    assert results[0] == f"{len(read(run.demos / 'outcomes.csv'))} demonstrations"
    assert results[1] == "2 trainings, 5 updates"
    assert re.fullmatch(r"success \d+ %", results[2])
    assert re.fullmatch(r"recognition \d+ %", results[3])
    assert re.fullmatch(r"\d+ feature files", results[4])
    assert re.fullmatch(r"Recall@1 \d+ %, chance \d+ %", results[5])
    assert re.fullmatch(r"\d+ figures", results[8])
    assert "Does joint training help execution? " in printed
    levels = [row for row in read(run.results("controls")) if row["kind"] == "level" and row["ci_low"]]
    assert {"rollouts", "rollouts-pixels", "rollouts-shuffled"} <= {row["series"] for row in levels}
    for row in levels:  # each with an interval of its own scores
        assert float(row["ci_low"]) - 1e-9 <= float(row["value"]) <= float(row["ci_high"]) + 1e-9, row
    assert (run.figures / "tsne-series.png").stat().st_size > 5000
    page = run.report.read_text(encoding="utf-8")
    for question in ("Does alignment rise with training?", "Does joint training help execution?"):
        assert question in page
    assert run.config["demo"]["study"] == "quick"
    assert run.config["demo"]["seed"] == run.config["train-joint"]["config"]["seed"] == 20
    chosen = read(run.results("half_success"))
    assert [row["model"] for row in chosen] == ["arp-baseline", "arp-joint"]
    counts = {
        (row["model"], row["step"]): row["n"] for row in read(run.results("success")) if row["task"] == "all tasks"
    }
    for row in chosen:
        assert (row["candidates"], row["n"]) == ("0 2 3 5", "2")
        assert counts.pop((row["model"], row["step"])) == "4"
    assert set(counts.values()) == {"2"}
    assert [re.match(r"stage (\d+ of 10) \(([a-z ]+)\): ", line)[2] for line in told] == [
        *("demonstrations", "training", "own episodes", "features", "own features"),
        *("alignment", "outcomes", "audit", "figures", "report"),
    ]
    assert "One pair, no answer." in page


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", ".", "--updates", 3], "--updates belongs to the study on the tabletop: leave out --data"),
        (["--data", ".", "--task", "turn_tap"], "--task belongs to the study"),
        (["--outcomes", "successful"], "give --data as well"),
        (["--val", 0], "--val must be at least 1, got 0"),
        (["--side-by-side", 0], "--side-by-side must be at least 1, got 0"),
        (["--task", "turn_tab"], "unknown task 'turn_tab'"),
    ],
)
def test_contradictions_are_refused_before_anything_is_made(tmp_path, capsys, arguments, message):
    assert demo("--run", tmp_path / "run", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "demos").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_reaches_the_commands_and_says_how_to_go_on(tmp_path, sent, code):
    words = [sys.executable, "-m", "mnprobe", "demo", "--run", "run", *map(str, TINY_STUDY), "--train", "500"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run" / "logs"
    while not list(state.glob(".demos-*.progress")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    _, told = process.communicate()
    assert process.returncode == code
    assert "What was finished is kept: run the same command again to go on" in told
    (log,) = state.glob("demos-*.log")
    assert log.read_text().endswith("interrupted. What was finished is kept: run the same command again to go on\n")
    assert not list(state.glob(".*"))
    assert not left_behind(tmp_path)


def left_behind(folder):
    """Processes that work in a folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text())
    return found
