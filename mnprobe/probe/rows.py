"""The tidy table results/alignment.csv: one row per measured number, written whole and read back exactly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.core.errors import ProbeError
from mnprobe.core.files import write_text

__all__ = ["COLUMNS", "IDENTITY", "TEXT", "TRUTH", "WHOLE", "read_alignment", "to_frame", "write_alignment"]

IDENTITY = (
    *("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "trained_u", "trained_e"),
    *(
        "layer_u",
        "layer_e",
        "pool_u",
        "pool_e",
        "heads",
        "pairing",
        "loss",
        "tau",
        "holdout",
        "split",
        "mode",
        "control",
        "fit_source",
    ),
)
"""Columns that say what was measured; rows that agree in all of them are the same measurement."""

COLUMNS = (
    *(name for name in IDENTITY if name != "fit_source"),
    *("metric", "direction", "statistic", "seed", "draw", "value", "ci_low", "ci_high", "sd_seeds", "sd_draws"),
    *("chance", "n_test", "n_groups", "n_gallery", "n_train", "n_train_groups", "n_seeds", "batch"),
    *("heads_file", "config_hash", "features_hash", "fit_source"),
)
"""All columns. `batch` is the batch asked for (all of n_train when that is less; log of the smaller of batch and
n_groups caps mi_bound). `fit_source` says on episodes of which source the heads were fitted: another than `source_u`
where training episodes of the demonstrations fit heads that rollouts test. `config_hash` stands for all settings of the
probe, `features_hash` for every number and label of the pair that was probed."""

TEXT = (
    *("understanding", "execution", "source_u", "source_e", "layer_u", "layer_e", "pool_u", "pool_e", "heads"),
    *("pairing", "loss", "holdout", "split", "mode", "control", "metric", "direction", "statistic"),
    *("heads_file", "config_hash", "features_hash", "fit_source"),
)
WHOLE = (
    *("step_u", "step_e", "seed", "draw", "n_test", "n_groups", "n_gallery", "n_train", "n_train_groups", "n_seeds"),
    "batch",
)
TRUTH = ("trained_u", "trained_e")
"""Columns of text, of whole numbers, of True or False; all others hold real numbers, NaN where a cell is empty."""


def to_frame(rows: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """Rows as a table with exactly `COLUMNS`, in this order and with fixed types, also when there are none."""
    frame = pd.DataFrame(list(rows), columns=pd.Index(COLUMNS))
    return frame.astype({column: _kind(column) for column in COLUMNS})


def write_alignment(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as CSV, whole or not at all; numbers keep every digit."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_alignment(path: Path) -> pd.DataFrame:
    """Read back what `write_alignment` wrote; ProbeError when the file holds something else."""
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "fit_source" not in cells.columns and "source_u" in cells.columns:
            cells["fit_source"] = cells["source_u"]  # tables of earlier versions: heads were fitted on the same source
        missing = [name for name in COLUMNS if name not in cells.columns]
        if missing:
            raise ProbeError(f"{path}: not an alignment table of mnprobe: it lacks {', '.join(missing)}. Remove it.")
        return to_frame([{name: _parsed(name, row[name]) for name in COLUMNS} for row in cells.to_dict("records")])
    except (ValueError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: cannot be read as an alignment table ({error}). Remove it.") from error


def _parsed(column: str, cell: str) -> Any:
    """A cell as written by `write_alignment`; float() gives every digit back."""
    if column in TEXT:
        return cell
    if column in TRUTH:
        if cell not in ("True", "False"):
            raise ValueError(f"column {column}: {cell!r} is neither True nor False")
        return cell == "True"
    if _kind(column) is np.int64:
        return int(cell)
    return float(cell) if cell else float("nan")


def _kind(column: str) -> Any:
    if column in TEXT:
        return object
    if column in TRUTH:
        return np.bool_
    return np.int64 if column in WHOLE else np.float64
