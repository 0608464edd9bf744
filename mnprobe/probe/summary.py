"""Printed summary of an alignment table: one line per measurement."""

import math
from typing import Any

import pandas as pd

from mnprobe.core.table import text_table

__all__ = ["people_table"]

_HEADER = (
    "pair",
    "held out",
    "split",
    "control",
    "R@1",
    "95 % interval",
    "chance",
    "lift",
    "u->e",
    "e->u",
    "n",
    "groups",
)
_CONTRAST_HEADER = ("pair", "held out", "success minus failure of", "where", "R@1", "95 % interval", "n")
_CONTRASTS = {"success_minus_failure@1": "all", "within_task_success_minus_failure@1": "within tasks"}


def people_table(frame: pd.DataFrame) -> str:
    """Recall@1 of every measurement in plain text; R@1 is the mean of both directions, lift is R@1 over chance.

    Models with random weights are marked 'untrained'; values that ties decide are marked with their share. Where
    success and failure were measured, a second table gives their paired difference, over all episodes and within tasks.
    """
    means = frame[(frame["statistic"] == "mean") & (frame["metric"] == "recall@1")]
    keys = [
        *("understanding", "step_u", "trained_u", "layer_u", "pool_u", "execution", "step_e", "trained_e"),
        *("layer_e", "pool_e", "source_e", "holdout", "split", "mode", "control", "heads", "pairing", "loss", "tau"),
        *("fit_source", "config_hash"),
    ]
    ties = frame[(frame["statistic"] == "mean") & (frame["metric"] == "tied_share") & (frame["direction"] == "mean")]
    tied = {tuple(row[key] for key in keys): float(row["value"]) for _, row in ties.iterrows()}
    lines: list[tuple[str, ...]] = []
    for key, rows in means.groupby(keys, sort=False):
        values = {str(row["direction"]): row for _, row in rows.iterrows()}
        row = values["mean"]
        mark = f" ({tied[key]:.0%} ties)" if tied.get(key, 0.0) >= 0.01 else ""
        split = str(row["split"]) + (" (shared probe)" if row["mode"] == "shared-probe" else "")
        lines.append(
            (
                f"{_side(row, 'u')} x {_side(row, 'e')}",
                str(row["holdout"]),
                split,
                "-" if row["control"] == "none" else str(row["control"]),
                f"{row['value']:.3f}{mark}",
                "none" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
                f"{row['chance']:.3f}",
                f"{row['value'] / row['chance']:.1f}x",
                f"{values['u2e']['value']:.3f}",
                f"{values['e2u']['value']:.3f}",
                str(row["n_test"]),
                str(row["n_groups"]),
            )
        )
    contrasts = _contrasts(frame)
    return text_table(_HEADER, lines) + (f"\n\n{text_table(_CONTRAST_HEADER, contrasts)}" if contrasts else "")


def _contrasts(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Success minus failure of each side: over all test episodes, and inside tasks."""
    lines: list[tuple[str, ...]] = []
    for name, where in _CONTRASTS.items():
        rows = frame[(frame["metric"] == name) & (frame["direction"] == "mean") & (frame["statistic"] == "mean")]
        for _, row in rows.iterrows():
            side = str(row["split"]).removesuffix("-success")
            number = "2 x " + (f"{row['n_test']}" if where == "all" else f"{row['n_test']} in {row['n_groups']} tasks")
            lines.append(
                (
                    f"{_side(row, 'u')} x {_side(row, 'e')}",
                    str(row["holdout"]),
                    side + (" (shared probe)" if row["mode"] == "shared-probe" else ""),
                    where,
                    f"{row['value']:+.3f}",
                    "none" if math.isnan(row["ci_low"]) else f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}",
                    number,
                )
            )
    return lines


def _side(row: "pd.Series[Any]", side: str) -> str:
    model = row["understanding" if side == "u" else "execution"]
    source = f" on {row['source_e']}" if side == "e" and row["source_e"] != "demos" else ""
    if side == "e" and row["fit_source"] != row["source_u"]:
        source += f", heads from {row['fit_source']}"
    layer = f" [{row[f'layer_{side}']}]" if row[f"layer_{side}"] != side else ""
    return f"{model} step {row[f'step_{side}']}{'' if row[f'trained_{side}'] else ' untrained'}{layer}{source}"
