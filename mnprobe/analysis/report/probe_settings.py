"""How the numbers of results/alignment.csv were measured: one column of settings for each config_hash of the table."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from mnprobe.analysis.report.parts import Table
from mnprobe.core.rundir import RunDir
from mnprobe.probe.settings import read_settings

__all__ = ["NOT_RECORDED", "probe_settings"]

NOT_RECORDED = "not recorded"

_OF_ROWS = {
    "source_u": "source of u",
    "layer_u": "layer of u",
    "pool_u": "pooling of u",
    "source_e": "source of e",
    "layer_e": "layer of e",
    "pool_e": "pooling of e",
    "fit_source": "heads fitted on episodes of",
    "pairing": "pairing (what counts as a group)",
    "holdout": "held out",
    "split": "episodes",
    "mode": "probe of success and failure",
    "heads": "heads",
    "loss": "loss",
    "tau": "temperature tau",
    "batch": "batch",
}
"""Columns of the table that say how a row was measured; they are known also where run.toml says nothing."""

_RECORDED = {
    "fit.dim": "width of the shared space (dim)",
    "optimiser": "optimiser",
    "fit.lr": "learning rate (lr)",
    "optimiser_steps": "optimiser steps",
    "fit.epochs": "passes over the training episodes (epochs)",
    "fit.weight_decay": "weight decay",
    "fit.standardise": "features standardised",
    "fit.early_stop": "early stop",
    "fit.depth": "layers of mlp heads (depth)",
    "seeds": "probe seeds",
    "control_seeds": "probe seeds of control pairs",
    "shuffled_seeds": "probe seeds of shuffled pairs",
    "splits": "random splits",
    "test_share": "share held out",
    "draws": "balanced draws of success and failure",
    "k": "neighbour counts of recall (k)",
    "exclude_own": "own episode left out",
    "pixel_components": "principal components of pixels",
    "bound_draws": "batches behind the bound on mutual information",
    "revision": "revision of the measurement",
}
_OF_ROWS_TOO = ("fit.heads", "fit.tau", "fit.batch", "fit.positives", "fit.steps", "pairing", "asked")


def probe_settings(run: RunDir, table: pd.DataFrame) -> Table:
    """One row for each setting, one column for each config_hash of `table` in order of appearance.

    Of settings that run.toml does not hold (a table of an earlier version), the cells say "not recorded".
    """
    recorded = read_settings(run)
    keys = list(dict.fromkeys(table["config_hash"]))
    sections = {key: dict(_flat(recorded.get(key, {}))) for key in keys}
    extra = dict.fromkeys(name for section in sections.values() for name in section)
    rows = [
        (words, *(_values(table.loc[table["config_hash"] == key, column]) for key in keys))
        for column, words in _OF_ROWS.items()
    ]
    names = _RECORDED | {name: name for name in extra if name not in _RECORDED and name not in _OF_ROWS_TOO}
    if not any(sections.values()):
        names = {"all other settings": "all other settings"}
    for name, words in names.items():
        cells = [section.get(name, "none" if section else NOT_RECORDED) for section in sections.values()]
        if any(cell != "none" for cell in cells):
            rows.append((words, *cells))
    columns = ("setting", *(f"config_hash {key}" for key in keys))
    return Table(name="settings", columns=columns, rows=tuple(rows), total=len(rows))


def _values(column: "pd.Series[Any]") -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(column))


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        elif isinstance(value, bool):
            yield f"{place}{name}", "yes" if value else "no"
        else:
            yield f"{place}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
