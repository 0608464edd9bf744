import json

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.tables.alignment import settle
from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features, write_features
from mnprobe.probe import load_pair, read_alignment

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
    code, out, err = run_align(run, capsys, "--wide")
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


def test_of_many_measurements_a_summary_is_printed_and_all_with_wide(run, capsys):
    rng = np.random.default_rng(1)
    with open_features(run.features("arp", "demos", 0)) as store:
        ids = {name: store.episodes[name] for name in ("id", "instruction", "task")}
    for model, side in (("viclip", "understanding"), ("pixels", "understanding"), ("arp", "execution")):
        for step in (5, 10, 15, 20):
            layers = {side[0]: rng.normal(size=(24, 5)).astype(np.float32)}
            path = run.features(model, "demos", step)
            write_features(path, layers=layers, episodes=ids, model=model, side=side, step=step, trained=True)
    chosen = ["--source", "demos", "--holdout"]
    code, out, err = run_align(run, capsys, *chosen, "episodes", "--no-shuffled")
    assert (code, out.count(" x arp "), "--wide" in out) == (0, 10, False)  # so many are printed one by one
    code, out, err = run_align(run, capsys, *chosen, "both")
    shown = [line.split()[:4] for line in out.splitlines() if " x arp " in line]
    assert shown == [["viclip", "x", "arp", "20"]] * 2  # episodes and instructions held out
    assert max(len(line) for line in out.splitlines() if " x arp " in line) <= 100
    assert "2 of 30 measurements: each pair's last checkpoint, without the controls pixels and shuffled." in out
    few = err.splitlines()
    code, out, err = run_align(run, capsys, *chosen, "both", "--wide")
    assert (out.count(" x arp "), "--wide" in out) == (30, False)
    assert 0 < len(few) < len(err.splitlines())


def test_two_layers_of_e_are_measured_as_named_pairs(run, capsys):
    """The screen points, six tokens by stage and view, are put side by side; the layer e stays what is shown."""
    path = run.features("arp", "demos", 0)
    ids = {"id": [f"t/0/episode{i}" for i in range(24)], "instruction": [f"do {i % 6}" for i in range(24)]}
    rng = np.random.default_rng(1)
    tokens = {"e": rng.normal(size=(24, 5, 5)), "screen": rng.normal(size=(24, 6, 5))}
    write_features(path, layers=tokens, episodes=ids, model="arp", side="execution", trained=False)
    arguments = ["--source", "demos", "--holdout", "episodes", "--no-shuffled"]
    both = ["--layer-e", "e", "--layer-e", "screen", *arguments, "--wide"]
    code, out, _ = run_align(run, capsys, *both)
    assert (code, "arp step 0 untrained [screen]" in out) == (0, True)
    table = read_alignment(run.results("alignment"))
    measured = set(zip(table["understanding"], table["layer_e"], table["pool_e"], strict=True))
    assert measured == {(u, *e) for u in ("viclip", "pixels") for e in (("e", "mean"), ("screen", "concat"))}
    shown, notes = settle(table)
    assert set(shown["layer_e"]) == {"e"}
    assert "layer_e e is shown; the table also has screen" in notes
    alone = read_alignment(run.results("alignment"))
    alone = alone[alone["layer_e"] == "screen"].reset_index(drop=True)
    run.results("alignment").unlink()
    run_align(run, capsys, "--layer-e", "screen", *arguments)
    pd.testing.assert_frame_equal(read_alignment(run.results("alignment")), alone)
    pair = load_pair(run.features("viclip", "demos", 0), path, layer_e="screen")
    assert pair.e.shape == (24, 30)
    np.testing.assert_array_equal(pair.e, tokens["screen"].reshape(24, 30).astype(np.float32))
    code, _, err = run_align(run, capsys, "--source", "demos-blank", "--layer-e", "e", "--layer-e", "screen")
    assert (code, "unknown layer 'screen'" in err) == (2, True)  # an older store, read as before without the option
    assert run_align(run, capsys, "--source", "demos-blank")[0] == 0


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


@pytest.fixture
def played(run):
    """The run with rollouts beside its demonstrations: 18 episodes of six instructions, every other round succeeds."""
    rng = np.random.default_rng(1)
    episodes = {"id": [f"t/0/episode{i}" for i in range(18)], "instruction": [f"do {i % 6}" for i in range(18)]}
    episodes |= {"task": ["t"] * 18, "success": [i // 6 % 2 for i in range(18)]}
    for model, side in (("viclip", "understanding"), ("arp", "execution")):
        path = run.features(model, "rollouts", 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        layer = {"u" if side == "understanding" else "e": rng.normal(size=(18, 5)).astype(np.float32)}
        write_features(path, layers=layer, episodes=episodes, model=model, side=side, source="rollouts", trained=False)
    return run


@pytest.mark.parametrize(
    ("fit_on", "source", "n_test"), [("auto", "demos", 18), ("demos", "demos", 18), ("own", "rollouts", 6)]
)
def test_heads_for_rollouts_come_from_where_they_are_asked_from(fit_on, source, n_test, played, capsys):
    code, out, err = run_align(played, capsys, "--no-shuffled", "--holdout", "episodes", "--fit-on", fit_on, "--wide")
    assert code == 0, err
    table = read_alignment(played.results("alignment"))
    rows = table[table["source_e"] == "rollouts"]
    assert set(rows["fit_source"]) == {source}
    assert set(rows["n_test"]) == {n_test}
    assert set(table[table["source_e"] != "rollouts"]["fit_source"]) == {"demos"}
    assert ("on rollouts, heads from demos" in out) == (source == "demos")


def test_outcomes_all_alike_are_one_message_and_what_was_measured_stays(played, capsys):
    assert run_align(played, capsys, "--no-shuffled")[0] == 0
    before = played.results("alignment").read_bytes()
    code, out, _ = run_align(played, capsys, "--split", "success", "--holdout", "episodes", "--draws", "2", "--wide")
    assert code == 0
    assert "execution (shared probe)" in out
    grown = read_alignment(played.results("alignment"))
    assert {"all", "execution-success", "execution-failure"} == set(grown["split"])
    path = played.features("arp", "rollouts", 0)
    with open_features(path) as file:
        episodes = file.episodes.assign(success=0)
        values = file.layer("e").values[:]
    write_features(
        path, layers={"e": values}, episodes=episodes, model="arp", side="execution", source="rollouts", trained=False
    )
    played.results("alignment").write_bytes(before)
    code, out, err = run_align(played, capsys, "--split", "success", "--holdout", "episodes")
    assert code == 2
    assert "0 successes and 18 failures among 18 episodes with known outcome; both are needed to compare" in err
    assert "Traceback" not in err + out
    assert played.results("alignment").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--fit-on", "demos", "--u", "a.h5", "--e", "b.h5"],
            "--fit-on demos finds the demonstrations' stores in a run",
        ),
        (["--pixel-components", "-1"], "pixel_components must be 0 (all pixels) or more, got -1"),
    ],
)
def test_where_heads_come_from_must_make_sense(arguments, text, run, capsys):
    code, _, err = run_align(run, capsys, *arguments)
    assert code == 2
    assert text in err
