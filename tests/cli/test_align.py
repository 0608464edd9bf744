import json

import numpy as np
import pytest

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features
from mnprobe.probe import read_alignment

QUICK = ["--seeds", "1", "--splits", "1", "--dim", "4", "--steps", "1"]


@pytest.fixture
def run(tmp_path):
    """A run with one checkpoint of each side, a blanked control and pixels; 24 episodes of 6 instructions."""
    run = RunDir.create(tmp_path / "first")
    rng = np.random.default_rng(0)
    ids = {"id": [f"t/0/episode{i}" for i in range(24)], "instruction": [f"do {i % 6}" for i in range(24)]}
    for model, side, source in (
        ("viclip", "understanding", "demos"),
        ("pixels", "understanding", "demos"),
        ("arp", "execution", "demos"),
        ("arp", "execution", "demos-blank"),
    ):
        layers = {"u" if side == "understanding" else "e": rng.normal(size=(24, 5)).astype(np.float32)}
        if model == "arp":
            layers["blocks.0"] = rng.normal(size=(24, 7)).astype(np.float32)
        header = {"model": model, "side": side, "source": source, "trained": False}
        path = run.features(model, source, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, layers=layers, episodes=ids | {"task": ["t"] * 24}, **header)
    return run


def align(*arguments):
    main(["align", *map(str, arguments)])


def run_align(run, capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        align("--run", run.path, *QUICK, *arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_run_is_measured_into_its_table(run, capsys):
    code, out, err = run_align(run, capsys)
    assert code == 0
    assert f"run: {run.path} (3 pairs of feature stores)" in out
    assert "viclip step 0 untrained x arp step 0 untrained on demos-blank" in out
    assert f"wrote {run.results('alignment')}" in out
    assert "note: viclip step 0 x arp step 0" in err
    table = read_alignment(run.results("alignment"))
    pairs = set(zip(table["understanding"], table["source_e"], strict=True))
    assert pairs == {("viclip", "demos"), ("viclip", "demos-blank"), ("pixels", "demos")}
    assert not table["trained_u"].any()
    named = set(table["heads_file"]) - {""}
    assert len(named) == 6  # three pairs, two holdouts
    assert all((run.path / name).is_file() for name in named)


def test_json_is_one_document_and_nothing_else(run, capsys):
    code, out, _ = run_align(run, capsys, "--json", "--holdout", "episodes", "--no-shuffled")
    document = json.loads(out)
    assert code == 0
    assert document["table"] == str(run.results("alignment"))
    assert {row["holdout"] for row in document["rows"]} == {"episodes"}
    assert {row["control"] for row in document["rows"]} == {"none"}


@pytest.mark.parametrize(
    ("arguments", "column", "value"),
    [
        (["--tau", "0.5"], "tau", 0.5),
        (["--loss", "multi"], "loss", "multi"),
        (["--heads", "mlp"], "heads", "mlp"),
        (["--pairing", "episode"], "pairing", "episode"),
        (["--holdout", "instructions"], "holdout", "instructions"),
        (["--layer-e", "blocks.0"], "layer_e", "blocks.0"),
        (["--pool-e", "last"], "pool_e", "last"),
        (["--batch", "9"], "batch", 9),
    ],
)
def test_options_arrive_in_the_table(arguments, column, value, run, tmp_path, capsys):
    stores = ["--u", run.features("viclip", "demos", 0), "--e", run.features("arp", "demos", 0)]
    out = tmp_path / "own.csv"
    more = [] if "--holdout" in arguments else ["--holdout", "episodes"]
    with pytest.raises(SystemExit) as ended:
        align(*stores, *QUICK, "--no-shuffled", "--out", out, *more, *arguments)
    assert ended.value.code == 0, capsys.readouterr().err
    assert set(read_alignment(out)[column]) == {value}
    assert not run.results("alignment").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--split", "success"], "execution outcomes: 0 of 24 episodes known; give --outcomes to mnprobe extract"),
        (["--holdout", "tasks"], "holding out tasks needs at least 2 tasks"),
        (["--k", "one"], "--k must be whole numbers with commas, such as 1,5,10; got 'one'"),
        (["--u", "a.h5"], "--e is missing"),
        (["--layer-e", "norm"], "norm"),
        (["--steps", "3", "--epochs", "3"], "give steps or epochs, not both"),
        (["--mode", "none"], "--mode must be own-probe, shared-probe or both, got 'none'"),
    ],
)
def test_what_cannot_be_measured_is_one_message(arguments, text, run, capsys):
    code, out, err = run_align(run, capsys, *arguments)
    assert code == 2
    assert text in err
    assert "Traceback" not in err + out
