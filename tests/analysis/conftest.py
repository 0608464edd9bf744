"""Synthetic alignment tables and feature pairs that follow the contracts, for the tests of figures and report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.tables import ALIGNMENT_COLUMNS


def _row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(ALIGNMENT_COLUMNS, "")
    row |= {"understanding": "viclip", "execution": "arp", "source_u": "demos", "source_e": "demos"}
    row |= {"step_u": 0, "step_e": 0, "trained_u": True, "trained_e": True, "layer_u": "u", "layer_e": "e"}
    row |= {"pool_u": "mean", "pool_e": "mean", "heads": "linear", "pairing": "instruction", "loss": "diagonal"}
    row |= {"tau": 0.1, "holdout": "episodes", "split": "all", "mode": "own-probe", "control": "none"}
    row |= {"metric": "recall@1", "direction": "mean", "statistic": "mean", "seed": -1, "draw": -1, "value": 0.5}
    row |= {"ci_low": 0.4, "ci_high": 0.6, "sd_seeds": 0.01, "chance": 0.125, "n_test": 40, "n_groups": 8}
    row |= {"n_gallery": 40, "n_train": 160, "n_train_groups": 8, "n_seeds": 5, "batch": 32, "config_hash": "c0ffee"}
    return row | changes


def _table(
    steps: tuple[int, ...] = (0, 1000, 2000, 4000, 8000),
    *,
    controls: bool = True,
    holdouts: tuple[str, ...] = ("episodes", "instructions"),
    seed: int = 0,
) -> pd.DataFrame:
    """What `mnprobe align` would write: rising alignment, its controls, one mean row and five seed rows per point."""
    generator = np.random.default_rng(seed)
    kinds: list[tuple[dict[str, object], float]] = [({}, 1.0)]
    if controls:
        kinds += [
            ({"source_e": "demos-blank"}, 0.45),
            ({"understanding": "pixels", "layer_u": "pixels", "step_u": 0, "trained_u": False}, 0.6),
            ({"source_e": "rollouts", "source_u": "rollouts"}, 0.8),
            ({"control": "shuffled"}, 0.0),
        ]
    rows = []
    for holdout in holdouts:
        chance = 0.125 if holdout == "episodes" else 0.2
        for change, share in kinds:
            for step in steps:
                height = 0.75 if holdout == "episodes" else 0.35
                value = chance + share * (height - chance) * (0.35 + 0.65 * (1 - np.exp(-step / 2000)))
                point: dict[str, object] = {"step_u": step, "step_e": step, "trained_e": step > 0, "chance": chance}
                point |= {"holdout": holdout} | change
                values = np.clip(value + 0.02 * generator.standard_normal(5), 0, 1)
                for seed_number, one in enumerate(values):
                    for direction in ("u2e", "e2u", "mean"):
                        single: dict[str, object] = {"statistic": "seed", "seed": seed_number, "value": one}
                        single |= {"direction": direction, "ci_low": "", "ci_high": "", "sd_seeds": ""}
                        rows.append(_row(**(point | single)))
                for direction in ("u2e", "e2u", "mean"):
                    mean = float(values.mean())
                    summary = {"value": mean, "ci_low": max(mean - 0.09, 0), "ci_high": min(mean + 0.09, 1)}
                    rows.append(_row(**(point | {"direction": direction} | summary)))
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def alignment_row() -> Callable[..., dict[str, object]]:
    """Makes one row of alignment.csv; arguments replace its cells."""
    return _row


@pytest.fixture(scope="session")
def alignment_table() -> Callable[..., pd.DataFrame]:
    """Makes a whole alignment table; see `_table`."""
    return _table


@pytest.fixture
def write_alignment(tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    """Writes a table to results/alignment.csv of a run under the test's folder, and gives the run's folder."""

    def write(table: pd.DataFrame, name: str = "run") -> Path:
        run = tmp_path / name
        (run / "results").mkdir(parents=True, exist_ok=True)
        (run / "run.toml").write_text('[run]\ncreated = "2025-01-01T00:00:00+00:00"\n')
        table.to_csv(run / "results" / "alignment.csv", index=False)
        return run

    return write
