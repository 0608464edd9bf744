import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mnprobe.analysis.success.contrast import read_contrasts
from mnprobe.cli.main import app
from mnprobe.features import write_features
from mnprobe.probe import read_alignment
from mnprobe.worlds.outcomes import SUCCESS

runner = CliRunner()
FIT = ["--dim", "8", "--steps", "15", "--lr", "0.01", "--seeds", "1", "--jobs", "1", "--k", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the policy's own episodes at two checkpoints, measured whole and by outcome."""
    folder = tmp_path_factory.mktemp("success") / "first"
    folder.mkdir()
    (folder / "run.toml").write_text("")
    names = np.repeat(np.arange(9), 12)
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(9, 5))[names]
    success = np.tile([1, 0], len(names) // 2)
    episodes = {
        "id": [f"t{k // 3}/{k}/episode{i}" for i, k in enumerate(names)], "task": [f"t{k // 3}" for k in names],
        "instruction": [f"do {k}" for k in names], "success": success.tolist(),
    }  # fmt: skip
    for source, number in (("demos", 0), ("demos-blank", 1), ("rollouts", 2)):
        for step in (0, 100):
            for side, model, layer in (("understanding", "viclip", "u"), ("execution", "arp", "e")):
                if side == "understanding" and source == "demos-blank":
                    continue
                noise = np.random.default_rng([number, step, len(layer + model)]).normal(size=(len(names), 5))
                noise = noise * np.where(success == 1, 0.4, 1.2)[:, None] * (2 if step == 0 else 1)
                path = folder / "features" / model / source / f"step_{step:08d}.h5"
                outcomes = episodes | ({} if source == "rollouts" else {"success": [1] * len(names)})
                write_features(
                    path, layers={layer: (latent + noise).astype(np.float32)}, episodes=outcomes, model=model,
                    side=side, source=source, step=step, trained=step > 0,
                )  # fmt: skip
    for more in ([], ["--split", "success", "--fit-on", "own", "--draws", "3", "--mode", "own-probe", "--no-shuffled"]):
        result = runner.invoke(app, ["align", "--run", str(folder), *FIT, *more])
        assert result.exit_code == 0, result.output
    assert "success_contrast.csv; `mnprobe success` draws them" in result.stdout
    return folder


def _json(*arguments):
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_checkpoint_nearest_one_half_is_measured_and_shown(run, tmp_path):
    home = tmp_path / "run"
    shutil.copytree(run, home)
    head = {"world": "tabletop", "task": "all tasks", "model": "arp", "n": 108, "successes": 54, "repeats": 1}
    head |= dict.fromkeys(("ci_low", "ci_high", "sd_repeats", "mean_steps"), 0.0)
    head |= dict.fromkeys(("step_limit", "unreachable_pose", "collision", "invalid_action"), 0)
    SUCCESS.write(
        home / "results" / "success.csv", SUCCESS.frame([head | {"step": s, "value": 0.5 + s / 300} for s in (0, 100)])
    )
    last = _json("success", "--run", home, "--resamples", 99)
    assert "step 100" in " ".join(last["sentences"])
    half = _json("success", "--run", home, "--resamples", 99, "--step", "half")
    assert "step 0;" in " ".join(half["sentences"])
    assert "step 0, nearest one half" in " ".join(half["answer"]["sentences"])
    again = _json("success", "--run", home, "--resamples", 99)  # chosen by now
    assert again["sentences"] == half["sentences"]
    named = _json("success", "--run", home, "--resamples", 99, "--step", 100)
    assert named["sentences"] == last["sentences"]
    wrong = runner.invoke(app, ["success", "--run", str(home), "--step", "7"])
    assert "no contrast of success and failure at step 7; there are steps 0, 100" in str(wrong.exception)
    for step, steps in (("half", {0}), ("100", {100})):
        table = tmp_path / f"{step}.csv"
        chosen = ["--source", "rollouts", "--model", "arp", "--step", step, "--out", str(table)]
        done = runner.invoke(app, ["align", "--run", str(home), *FIT, "--no-shuffled", *chosen])
        assert done.exit_code == 0, done.output
        assert set(read_alignment(table)["step_e"]) == steps


def test_success_writes_table_and_figure(run, tmp_path):
    found = _json("success", "--run", run, "--resamples", 99, "--source", "rollouts", "--out", tmp_path / "mine")
    assert {row["source_e"] for row in found["rows"]} == {"rollouts"}
    assert (tmp_path / "mine.svg").stat().st_size > 0
    assert len(found["sentences"]) == 2
    note = json.loads((tmp_path / "mine.json").read_text())
    for word in ("--resamples 99", "--source rollouts", f"--run {run}"):
        assert word in note["command"]
    lines = runner.invoke(app, ["success", "--run", str(run), "--resamples", "19"]).stdout.splitlines()
    assert lines[0] == f"run: {run}"
    assert (run / "figures" / "success.png").is_file()


def test_audit_writes_everything_and_says_it_in_words(run):
    found = _json("audit", "--run", run, "--seeds", 1, "--resamples", 99)
    for name in ("leakage", "controls", "decomposition", "verdict"):
        assert (run / "results" / f"{name}.csv").stat().st_size > 0
    for path in found["figures"]:
        assert (run / "figures" / path.rsplit("/", 1)[1]).stat().st_size > 0
    assert {row["verdict"] for row in found["leakage"]} == {"clean"}
    assert all(row["close_u"] >= 0 for row in found["leakage"])  # rollouts with heads from demonstrations too
    assert {row["kind"] for row in found["controls"]} == {"level", "rise"}
    assert {"shuffled", "chance", "rise", "instruction", "task", "rollouts", "known instructions"} <= {
        one["topic"] for one in found["findings"]
    }
    # the first checkpoint, blanked and shuffled rows are compared on the very episodes of the claim
    paired = [row for row in found["controls"] if row["series"] in ("step-0", "blank", "shuffled")]
    assert all(row["p"] is not None for row in paired if row["kind"] == "level")
    quick = runner.invoke(app, ["audit", "--run", str(run), "--no-decomposition", "--seeds", "1", "--resamples", "19"])
    assert "wrote" in quick.stdout
    assert "decomposition.png" not in quick.stdout


def test_one_number_has_one_interval(run):
    """alignment.csv, success_contrast.csv and controls.csv come to their intervals by different roads."""
    alignment = read_alignment(run / "results" / "alignment.csv")
    means = alignment[(alignment["statistic"] == "mean") & (alignment["direction"] == "mean")]
    key = ["holdout", "mode", "source_e", "step_e", "fit_source"]

    def same(value, low, high, **where):
        cells = means
        for name, wanted in where.items():
            cells = cells[cells[name] == wanted]
        assert len(cells) == 1
        one = cells.iloc[0]
        np.testing.assert_allclose([one["value"], one["ci_low"], one["ci_high"]], [value, low, high], atol=1e-6)

    contrasts = read_contrasts(run / "results" / "success_contrast.csv")
    prefix = {"all": "", "within tasks": "within_task_"}
    for _, row in contrasts.iterrows():
        base = {name: row[name] for name in key} | {"control": "none", "split": f"{row['side']}-success"}
        metric = prefix[row["where"]] + "success_minus_failure@1"
        same(row["difference"], row["ci_low"], row["ci_high"], **base, metric=metric)
        for name in ("success", "failure"):
            base["split"] = f"{row['side']}-{name}"
            metric = prefix[row["where"]] + "recall@1"
            same(row[name], row[f"{name}_low"], row[f"{name}_high"], **base, metric=metric)
    controls = pd.read_csv(run / "results" / "controls.csv")
    controls = controls[(controls["kind"] == "level") & controls["series"].isin(["main", "blank", "rollouts"])]
    assert len(controls) == 6
    for _, row in controls.iterrows():
        base = {name: row[name] for name in ("holdout", "source_e")} | {"step_e": row["step"], "split": "all"}
        same(row["value"], row["ci_low"], row["ci_high"], **base, control="none", metric="recall@1")


def test_without_kept_scores_the_command_that_keeps_them_is_named(run, tmp_path, capsys):
    from mnprobe.cli.main import main

    (tmp_path / "results").mkdir()
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "results" / "alignment.csv").write_bytes((run / "results" / "alignment.csv").read_bytes())
    for command in ("audit", "success"):
        with pytest.raises(SystemExit, match="2"):
            main([command, "--run", str(tmp_path)])
        assert "`mnprobe align" in capsys.readouterr().err
