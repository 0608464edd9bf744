"""Curves, t-SNE and names where trainings are compared."""

import os
from pathlib import Path

import pytest

from mnprobe.analysis.draw_curve import draw_curve
from mnprobe.core.rundir import RunDir


@pytest.mark.skipif("LOOK" not in os.environ, reason="for a person's eyes: set LOOK to a folder")
def test_look(write_trained):
    out = Path(os.environ["LOOK"])
    for name, seeds in (("one", (0,)), ("three", (0, 1, 2))):
        run = RunDir(write_trained(out / name, seeds=seeds))
        files = {"recognition": run.results("recognition"), "success": run.results("success")}
        for split in ("all", "outcomes"):
            draw_curve(
                run.results("alignment"),
                stem=run.figures / ("curve" if split == "all" else "curve-outcomes"),
                table=run.results("curve" if split == "all" else "curve-outcomes"),
                split=split,
                **(files if split == "all" else {}),
            )
