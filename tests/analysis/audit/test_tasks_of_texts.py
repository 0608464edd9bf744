"""A run in which nothing but the instruction names the task: what is told about tasks, and what is not."""

import numpy as np
import pytest

from mnprobe.analysis.audit.run import audit_run
from mnprobe.analysis.success.contrast import contrast_sentences, write_contrasts
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features
from mnprobe.probe import AlignConfig, FitConfig, StoredPair, align_stores

FIT = FitConfig(dim=8, steps=60, lr=1e-2)


@pytest.fixture
def run(tmp_path):
    """Four texts of twelve episodes, half of which failed and carry nothing; tasks are the texts with dashes."""
    draw = np.random.default_rng(0)
    texts = [f"do thing {number % 4}" for number in range(48)]
    success = np.arange(48) // 4 % 2
    u = np.eye(4)[np.arange(48) % 4] + 0.1 * draw.normal(size=(48, 4))
    e = np.where(success[:, None], u + 0.1 * draw.normal(size=(48, 4)), draw.normal(size=(48, 4)))
    episodes = {
        "id": [f"e{number}" for number in range(48)],
        "instruction": texts,
        "task": [text.replace(" ", "-") for text in texts],
        "success": success,
    }
    run = RunDir.create(tmp_path / "run")
    paths = run.features("watcher", "demos", 0), run.features("policy", "demos", 10)
    write_features(paths[0], model="watcher", side="understanding", layers={"u": u}, episodes=episodes)
    write_features(paths[1], model="policy", side="execution", step=10, layers={"e": e}, episodes=episodes)
    for split in ("all", "success"):
        config = AlignConfig(
            fit=FIT, seeds=1, splits=1, draws=2, holdout="episodes", shuffled=False, split=split, modes=("own-probe",)
        )
        rows, _ = align_stores(
            [StoredPair(*paths)],
            config,
            table=run.results("alignment"),
            heads=run.heads,
            hits=run.path / "results" / "hits",
            quiet=True,
        )
    assert any("not compared within tasks: nothing but the instruction" in note for note in rows.attrs["notes"])
    assert not rows["metric"].str.startswith("within_task").any()
    return run


def test_what_is_told_within_tasks(run):
    audit = audit_run(run, seeds=1, resamples=99, quiet=True)
    assert (
        "watcher with policy: the decomposition by task cannot be made: nothing but the instruction names the task"
        in audit.notes
    )
    parts = audit.decomposition
    (row,) = parts[parts["factor"] == "task"].to_dict("records")
    assert (row["quantity"], row["note"]) == ("right", "cannot be told: nothing but the instruction names the task")
    assert np.isnan(row["value"])
    assert set(parts["factor"]) == {"task", "instruction"}
    assert not any(finding.topic == "task" for finding in audit.findings)

    table = write_contrasts(
        run.results("alignment"), run.path / "results" / "hits", run.results("success_contrast"), resamples=99
    )
    inside = table[table["where"] == "within tasks"]
    assert inside[["success", "failure", "difference", "ci_low"]].isna().all().all()
    assert set(inside["note"]) == {"cannot be told: nothing but the instruction names the task"}
    assert table.loc[table["where"] == "all", "difference"].notna().all()
    told = " ".join(contrast_sentences(table))
    assert "within tasks it could not be tested (cannot be told: nothing but the instruction names the task)" in told
