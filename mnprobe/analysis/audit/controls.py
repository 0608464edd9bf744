"""Claim and controls with paired differences: results/controls.csv (DESIGN 6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.statistics import PairedContrast, cluster_jackknife, holm, paired_contrast
from mnprobe.analysis.tables.episode_scores import EpisodeScores, episode_scores
from mnprobe.core.errors import ProbeError
from mnprobe.core.names import PIXELS
from mnprobe.core.table import TableSchema
from mnprobe.probe.scores import described_hits, read_hits

__all__ = ["CONTROLS", "CONTROL_COLUMNS", "PAIRED", "RISING", "controls_table", "score_difference"]

PAIRED = ("step-0", "blank", "pixels", "shuffled")
"""Controls on the very episodes of the claim: their difference to it is paired."""
RISING = ("main", "blank", "rollouts", "rollouts-blank")
"""Lines over training whose rise, last checkpoint minus first, is measured."""

_BEHIND = (
    *("understanding", "execution", "source_u", "source_e", "holdout", "mode", "config_hash", "step_u", "step_e"),
    *("layer_u", "layer_e", "pool_u", "pool_e", "control"),
)

CONTROL_COLUMNS = (
    *("understanding", "execution", "holdout", "series", "kind", "step", "step_first", "source_e", "value", "ci_low"),
    *("ci_high", "chance", "difference", "d_low", "d_high", "p", "p_holm", "family", "detectable", "n_test"),
    *("n_groups", "n_instructions", "n_draws", "n_seeds", "trained_u", "trained_e", "note"),
)
CONTROLS = TableSchema(
    name="controls",
    columns=CONTROL_COLUMNS,
    key=("understanding", "execution", "holdout", "series", "kind", "step", "source_e"),
    whole=("step", "step_first", "family", "n_test", "n_groups", "n_instructions", "n_draws", "n_seeds"),
    real=(*("value", "ci_low", "ci_high", "chance", "difference", "d_low", "d_high", "p", "p_holm", "detectable"),),
    truth=("trained_u", "trained_e"),
    nullable=("step_first", "family", "n_test", "n_groups", "n_instructions", "n_draws", "n_seeds"),
    command="audit",
)
"""results/controls.csv."""


def controls_table(table: pd.DataFrame, hits: Path, *, resamples: int = 1999) -> pd.DataFrame:
    """Levels of claim and controls at the last checkpoint, and rises over training, from alignment and kept scores.

    Rows of `kind` "level": `value` with its 95 % interval (cluster jackknife on the log-odds scale) and exact chance;
    `difference` is claim minus control on the same episodes, for PAIRED controls. Rows of `kind` "rise": `difference`
    is the last checkpoint minus the first, of one line; paired by episode where both have the same episodes, else by
    instruction. `p`: flips of whole instructions; `p_holm` corrects over all differences of the table.

    Args:
        table: results/alignment.csv as `read_alignment` gives it, with its column features_hash.
        hits: folder of the kept scores.
        resamples: of each test.

    Raises ProbeError as `curve_data` does.
    """
    points = curve_data(table).points
    key = ["understanding", "execution", "holdout", "series"]
    rows: list[dict[str, Any]] = []
    kept = _Kept(table, hits)
    for (understanding, execution, holdout), panel in points.groupby(key[:3], sort=False):
        names = {"understanding": understanding, "execution": execution, "holdout": holdout}
        claim_rows = panel[panel["series"] == "main"].sort_values("step", kind="stable")
        claim = None if claim_rows.empty else kept.scores(claim_rows.iloc[-1])
        for series, line in panel.groupby("series", sort=False):
            line = line.sort_values("step", kind="stable")
            last, first = line.iloc[-1], line.iloc[0]
            own = kept.scores(last)
            against = claim if series in PAIRED else None
            rows.append(_level(names, str(series), last, own, against, resamples))
            if series == "main" and first["step"] == 0 and len(line) > 1:
                rows.append(_level(names, "step-0", first, kept.scores(first), claim, resamples))
            if series in RISING and len(line) > 1:
                rows.append(_rise(names, str(series), first, last, kept.scores(first), own, resamples))
    out = pd.DataFrame(rows, columns=list(CONTROL_COLUMNS))
    p = out["p"].to_numpy(dtype=np.float64)
    out["p_holm"], out["family"] = holm(p), int((~np.isnan(p)).sum())
    return out


def score_difference(
    one: EpisodeScores, other: EpisodeScores, *, resamples: int = 1999, seed: int = 0
) -> PairedContrast:
    """Recall@1 of `one` minus that of `other`: by episode where both tested the same ones, else by instruction.

    Raises ProbeError when they share fewer than 2 instructions.
    """
    if np.array_equal(np.sort(one.ids), np.sort(other.ids)):
        first, second = np.argsort(one.ids), np.argsort(other.ids)
        return paired_contrast(
            one.mean[first],
            other.mean[second],
            one.units[first],
            weights=(one.weights[first] + other.weights[second]) / 2,
            shares=True,
            resamples=resamples,
            seed=seed,
            unit=one.unit,
        )
    shared = np.intersect1d(one.instructions, other.instructions)
    means, shares = zip(*(_by_instruction(scores, shared) for scores in (one, other)), strict=True)
    weights = (shares[0] / shares[0].sum() + shares[1] / shares[1].sum()) / 2 if len(shared) else np.zeros(0)
    return paired_contrast(means[0], means[1], shared, weights=weights, shares=True, resamples=resamples, seed=seed)


def _by_instruction(scores: EpisodeScores, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = np.array([scores.weights[scores.instructions == name].sum() for name in names])
    sums = np.array([(scores.weights * scores.mean)[scores.instructions == name].sum() for name in names])
    return sums / np.where(weights > 0, weights, 1.0), weights


class _Kept:
    """The kept scores of a run, found by what they are of; descriptions are read once."""

    def __init__(self, table: pd.DataFrame, hits: Path) -> None:
        measured = table[[*_BEHIND, "features_hash"]].drop_duplicates()
        current = set(measured.itertuples(index=False, name=None))
        self._paths: dict[tuple[Any, ...], list[Path]] = {}
        for path, about in described_hits(hits):
            key = tuple(about.get(name) for name in _BEHIND)
            if (*key, about.get("features_hash")) in current:
                self._paths.setdefault(key, []).append(path)

    def scores(self, row: "pd.Series[Any]") -> EpisodeScores | None:
        """Those behind a point of the curve; None where they were not kept."""
        series = str(row["series"])  # such as main, pixels, rollouts-pixels, shuffled, rollouts-shuffled
        kind = series.rpartition("-")[2]
        wanted = {name: row[name] for name in _BEHIND if name != "control"}
        wanted |= {"control": "shuffled" if kind == "shuffled" else "none"}
        wanted |= {"understanding": PIXELS} if kind == PIXELS else {}
        for path in self._paths.get(tuple(wanted[name] for name in _BEHIND), []):
            scores = read_hits(path)
            if "all" in scores.splits:
                return episode_scores(scores)
        return None


def _level(
    names: Mapping[str, Any],
    series: str,
    row: "pd.Series[Any]",
    own: EpisodeScores | None,
    claim: EpisodeScores | None,
    resamples: int,
) -> dict[str, Any]:
    cells = _cells(names, series, "level", row)
    if own is None:
        return cells | {"ci_low": row["ci_low"], "ci_high": row["ci_high"], "note": "scores were not kept"}
    interval = cluster_jackknife(own.hits, own.units, weights=own.weights, shares=True, unit=own.unit)
    cells |= {"ci_low": interval.low, "ci_high": interval.high, "note": interval.note or _unit_note(own.unit)}
    cells |= {"n_instructions": interval.n_clusters, "n_draws": own.n_draws}
    return cells if claim is None else cells | _compared(claim, own, resamples)


def _rise(
    names: Mapping[str, Any],
    series: str,
    first: "pd.Series[Any]",
    last: "pd.Series[Any]",
    start: EpisodeScores | None,
    end: EpisodeScores | None,
    resamples: int,
) -> dict[str, Any]:
    cells = _cells(names, series, "rise", last) | {"step_first": int(first["step"])}
    if start is None or end is None:
        return cells | {"difference": last["value"] - first["value"], "note": "scores were not kept"}
    return cells | _compared(end, start, resamples) | {"n_draws": end.n_draws}


def _compared(one: EpisodeScores, other: EpisodeScores, resamples: int) -> dict[str, Any]:
    try:
        found = score_difference(one, other, resamples=resamples)
    except ProbeError as error:
        return {"note": str(error)}
    return {
        "difference": found.value,
        "d_low": found.low,
        "d_high": found.high,
        "p": found.p,
        "detectable": found.detectable,
        "n_instructions": found.n_blocks,
        "note": found.note or _unit_note(one.unit),
    }


def _unit_note(unit: str) -> str:
    return (
        "" if unit == "instructions" else "all episodes have one instruction: the interval leaves out single episodes"
    )


def _cells(names: Mapping[str, Any], series: str, kind: str, row: "pd.Series[Any]") -> dict[str, Any]:
    kept: Sequence[str] = (
        "step",
        "source_e",
        "value",
        "chance",
        "n_test",
        "n_groups",
        "n_seeds",
        "trained_u",
        "trained_e",
    )
    return dict(names) | {"series": series, "kind": kind, "note": ""} | {name: row[name] for name in kept}
