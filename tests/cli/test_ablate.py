"""`mnprobe ablate` from the command line: every option arrives, a cell that breaks ends the command with code 2."""

import json

import pytest

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.worlds.demos import DemosConfig, write_demos

VIDEO = {"image_size": 16, "patch_size": 8, "frames": 2, "width": 16, "layers": 1, "heads": 2, "embed_dim": 8}
VIDEO |= {"text_context": 12, "text_width": 8, "text_layers": 1, "text_heads": 2}
POLICY = {"image_size": 28, "patch_size": 14, "vision_width": 16, "vision_heads": 2, "vision_head_width": 8}
POLICY |= {"vision_depth": 2, "language_length": 12, "language_width": 16, "width": 16, "heads": 2, "cross_blocks": 1}
POLICY |= {"self_blocks": 1, "render_radius": 0.096}
SETTINGS = {"viclip": VIDEO, "arp": POLICY, "batch": 4, "clips": 4, "understanding_share": 0.5, "dim": 8}
MICRO = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
SMALL = ["--updates", "2", "--episodes", "1", "--max-steps", "1", "--world-option", "image_size=24", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one demonstration for training and one held out of each of two instructions."""
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "run")
    options = {"image_size": 24, "renderer": "rays"}
    tasks = ("open_drawer", "push_buttons")
    demos = DemosConfig(options=options, tasks=tasks, variations=(0,), train=1, test=1)
    write_demos(run.demos, demos, workers=0, quiet=True)
    return run


@pytest.fixture
def command(run, capsys):
    """`ablate` on the run with these options: what it printed, and its message for people."""

    def call(*options, code=0):
        with pytest.raises(SystemExit) as end:
            main(["ablate", "--run", str(run.path), *MICRO, *SMALL, *options])
        shown = capsys.readouterr()
        assert (end.value.code or 0) == code, shown.err
        return shown.out, shown.err

    return call


def test_a_plan_lists_the_cells_and_writes_nothing(run, command):
    out, _ = command("--pairing", "task", "--tau", "0.1", "--tau", "0.5", "--seeds", "2", "--jobs", "3", "--dry-run")
    assert [line.split()[0] for line in out.splitlines()[1:7]] == [
        f"{kind}-seed{seed}" for seed in (0, 1) for kind in ("baseline", "pairing-task_tau-0.1", "pairing-task_tau-0.5")
    ]
    assert "12 updates are left; no training of these sizes was measured" in out
    plan = json.loads(command("--json", "--dry-run", "--jobs", "3")[0])
    assert (len(plan["rows"]), plan["updates"], plan["jobs"], plan["seconds"]) == (10, 20, 3, None)
    assert not (run.path / "ablation").exists()


def test_a_cell_that_breaks_is_told_at_the_end_and_the_others_are_finished(run, command):
    grid = ["--pairing", "task", "--tau", "1e-39", "--tau", "0.2", "--jobs", "1"]
    out, err = command(*grid, "--json", code=2)
    told = json.loads(out)
    assert [cell["status"] for cell in told["cells"]] == ["done", "failed", "done"]
    assert [row["training"] for row in told["rows"]] == ["baseline-seed0", "pairing-task_tau-0.2-seed0"]
    assert "ablation (cells): 3 to do" in err
    assert "mnprobe: 1 of 3 cells failed; the others are finished and kept:\n  pairing-task_tau-1e-39-seed0: " in err
    out, err = command("--pairing", "task", "--tau", "0.2", "--quiet")
    assert out.startswith("Table 3. Ablation")
    assert "paper, on RLBench" in out
    assert f"wrote {run.results('ablation')}" in out
    assert err == ""
    out, _ = command(*grid, "--dry-run")
    assert "pairing-task_tau-0.2-seed0    2 updates  finished" in out
    assert "s an update as in baseline-seed0" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairing", "tasks"], "unknown pairing 'tasks'"),
        (["--tau", "-1"], "--tau must be a positive number, got -1.0"),
        (["--set", "tau=0.2"], "--set tau: is an option of its own; write --tau"),
        (["--set", "seed=2"], "--set seed: is an option of its own; write --seeds"),
        (["--set", "lambda_align=0"], "every cell would be the baseline"),
        (["--tasks", "shut_drawer"], "shut_drawer"),
        (["--jobs", "0", "--dry-run"], "--jobs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message(command, options, message):
    out, err = command("--quiet", *options, code=2)
    assert message in err
    assert out == ""
