import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mnprobe.cli.main import app
from mnprobe.features import write_features

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
    assert {row["kind"] for row in found["controls"]} == {"level", "rise"}
    assert {"shuffled", "chance", "rise", "instruction", "task", "rollouts", "known instructions"} <= {
        one["topic"] for one in found["findings"]
    }
    # the first checkpoint, blanked and shuffled rows are compared on the very episodes of the claim
    paired = [row for row in found["controls"] if row["series"] in ("step-0", "blank", "shuffled")]
    assert all(row["p"] is not None for row in paired if row["kind"] == "level")
    quick = runner.invoke(app, ["audit", "--run", str(run), "--no-decomposition", "--resamples", "19"])
    assert "wrote" in quick.stdout
    assert "decomposition.png" not in quick.stdout


def test_without_kept_scores_the_command_that_keeps_them_is_named(run, tmp_path, capsys):
    from mnprobe.cli.main import main

    (tmp_path / "results").mkdir()
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "results" / "alignment.csv").write_bytes((run / "results" / "alignment.csv").read_bytes())
    for command in ("audit", "success"):
        with pytest.raises(SystemExit, match="2"):
            main([command, "--run", str(tmp_path)])
        assert "`mnprobe align" in capsys.readouterr().err
