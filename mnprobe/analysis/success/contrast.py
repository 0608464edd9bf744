"""Success against failure: results/success_contrast.csv and its sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.audit.effects import decide_rows
from mnprobe.analysis.audit.findings import Finding
from mnprobe.analysis.statistics import OutcomeContrast, benjamini_hochberg, cluster_jackknife, holm, outcome_contrast
from mnprobe.analysis.tables.episode_scores import EpisodeScores, current_hits, episode_scores
from mnprobe.core.commands import command_of
from mnprobe.core.errors import ProbeError
from mnprobe.core.labels import encode_tuples
from mnprobe.core.table import TableSchema
from mnprobe.probe.results import read_alignment
from mnprobe.probe.scores import HitScores, read_hits
from mnprobe.probe.splits import unnamed_tasks

__all__ = [
    "CONTRASTS",
    "CONTRAST_COLUMNS",
    "contrast_findings",
    "contrast_sentences",
    "contrast_table",
    "read_contrasts",
    "write_contrasts",
]

_NAMES = (
    *("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "trained_u", "trained_e"),
    *("layer_u", "layer_e", "pool_u", "pool_e", "heads", "pairing", "loss", "tau", "batch", "holdout", "mode"),
    *("control", "fit_source"),
)
CONTRAST_COLUMNS = (
    *_NAMES,
    *("side", "where", "success", "success_low", "success_high", "success_chance"),
    *("failure", "failure_low", "failure_high", "failure_chance", "difference", "ci_low", "ci_high"),
    *("error", "p_blocks", "p_within", "p_holm", "p_bh", "p_within_holm", "family"),
    *("detectable", "n_test", "n_success", "n_failure", "n_instructions", "n_tasks", "n_draws", "n_seeds", "note"),
    *("config_hash", "features_hash"),
)
"""One row per pair, holdout, mode, side and place (`where`: over all episodes, or within tasks)."""

_COUNTS = ("n_test", "n_success", "n_failure", "n_instructions", "n_tasks", "n_draws", "n_seeds")
CONTRASTS = TableSchema(
    name="success contrast",
    columns=CONTRAST_COLUMNS,
    key=(*_NAMES, "side", "where", "config_hash", "features_hash"),
    whole=("step_u", "step_e", "batch", "family", *_COUNTS),
    real=(
        *("tau", "success", "success_low", "success_high", "success_chance", "failure", "failure_low", "failure_high"),
        *("failure_chance", "difference", "ci_low", "ci_high", "error", "p_blocks", "p_within", "p_holm", "p_bh"),
        *("p_within_holm", "detectable"),
    ),
    truth=("trained_u", "trained_e"),
    command="success",
)
"""results/success_contrast.csv."""

_NAN = float("nan")


def contrast_table(scores: Sequence[HitScores], *, resamples: int = 1999, seed: int = 0) -> pd.DataFrame:
    """Contrast success and failure of each side in each measurement, and correct p over the whole table.

    - `difference`: Recall@1 (mean of both directions) of successes less that of failures; equal test counts and equal
      instructions on both sides, mean over draws. `where` "within tasks": the mean over tasks of the difference inside.
    - `ci_low`, `ci_high`: 95 %, cluster jackknife over instructions with Student's t, those of results/alignment.csv.
      docs/statistics.md gives their coverage in simulations.
    - `p_blocks`: the two sides of whole instructions exchanged; `p_within`: outcomes exchanged among the episodes of
      each instruction. Both studentized, (b + 1) / (K + 1). `p_holm`, `p_bh` correct p_blocks over all rows of the
      table (`family` of them), `p_within_holm` the other.
    - `detectable`: the difference that these data would have shown at p < 0.05, uncorrected, in 80 of 100 cases.
    - `success_chance`, `failure_chance`: exact, of these very test sets; empty within tasks.
    """
    rows: list[dict[str, Any]] = []
    for one in scores:
        for side in ("understanding", "execution"):
            names = [f"{side}-{outcome}" for outcome in ("success", "failure")]
            if set(names) <= set(one.splits.tolist()):
                rows += _rows(one, side, [episode_scores(one, name) for name in names], resamples, seed)
    table = pd.DataFrame(rows, columns=list(CONTRAST_COLUMNS))
    blocks, within = (table[name].to_numpy(dtype=np.float64) for name in ("p_blocks", "p_within"))
    table["p_holm"], table["p_bh"], table["p_within_holm"] = holm(blocks), benjamini_hochberg(blocks), holm(within)
    table["family"] = int((~np.isnan(blocks)).sum())
    keys = ["understanding", "execution", "source_e", "holdout", "step_e", "step_u", "mode", "side", "where"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def write_contrasts(alignment: Path, hits: Path, target: Path, *, resamples: int = 1999) -> pd.DataFrame:
    """Compute the contrasts of all measurements of success and failure in `alignment`, and write them as CSV.

    Raises ProbeError when the table is missing, or no success and failure was measured with its scores kept.
    """
    if not alignment.is_file():
        raise ProbeError(f"{alignment} is not there. `{command_of(alignment, 'align', split='success')}` writes it")
    table = read_alignment(alignment)
    measured = table[table["split"].isin(["understanding-success", "execution-success"]) & (table["control"] == "none")]
    found = {
        path
        for side in ("understanding", "execution")
        for path in current_hits(hits, measured, splits=[f"{side}-success", f"{side}-failure"])
    }
    scores = [one for one in map(read_hits, sorted(found)) if one.about["control"] == "none"]
    if not scores:
        raise ProbeError(
            f"no scores of success and failure under {hits} belong to {alignment}. "
            f"`{command_of(alignment, 'align', split='success')}` measures and keeps them where outcomes are known"
        )
    contrasts = contrast_table(scores, resamples=resamples)
    CONTRASTS.write(target, contrasts)
    return contrasts


def read_contrasts(path: Path) -> pd.DataFrame:
    """Read back what `write_contrasts` wrote; ProbeError when the file is missing or holds something else."""
    return CONTRASTS.read(path)


def _rows(
    scores: HitScores, side: str, sides: Sequence[EpisodeScores], resamples: int, seed: int
) -> list[dict[str, Any]]:
    about = {"fit_source": scores.about["source_u"], **scores.about}  # scores of earlier versions do not say it
    base = {name: about[name] for name in (*_NAMES, "config_hash", "features_hash")}
    blocks = np.concatenate([one.instructions for one in sides])
    tasks = np.concatenate([one.tasks for one in sides])
    labels = np.concatenate([np.full(len(one.ids), place == 0) for place, one in enumerate(sides)])
    hits = np.concatenate([one.mean for one in sides])
    times = np.concatenate([one.times for one in sides])
    rows = []
    for where, weights in (
        ("all", np.concatenate([one.weights for one in sides])),
        ("within tasks", _task_weights(times, tasks, labels)),
    ):
        found: OutcomeContrast | None = None
        unnamed = unnamed_tasks(scores.instructions, scores.tasks) if where == "within tasks" else ""
        try:
            if unnamed:
                raise ProbeError(f"cannot be told: {unnamed}")
            found = outcome_contrast(hits, labels, blocks, weights=weights, shares=True, resamples=resamples, seed=seed)
        except ProbeError as error:
            note = str(error)
        else:
            note = found.note
        told = np.full_like(weights, _NAN) if unnamed else weights
        rows.append(
            base
            | {"side": side, "where": where}
            | _single("success", sides[0], told[labels], where)
            | _single("failure", sides[1], told[~labels], where)
            | _difference(found)
            | {"n_test": sides[0].n_test, "n_tasks": len(np.unique(tasks)), "n_draws": sides[0].n_draws}
            | {"n_seeds": sides[0].n_seeds, "note": note}
        )
    return rows


def _task_weights(times: np.ndarray, tasks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each query weighs one over the queries of its task and outcome, in all draws together."""
    codes = encode_tuples(labels, tasks)
    return np.asarray(times / np.bincount(codes, times)[codes], dtype=np.float64)


def _single(name: str, scores: EpisodeScores, weights: np.ndarray, where: str) -> dict[str, Any]:
    if np.isnan(weights).any():
        return dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_chance"), _NAN) | {
            f"n_{name}": len(scores.ids)
        }
    interval = cluster_jackknife(scores.hits, scores.units, weights=weights, shares=True, unit=scores.unit)
    return {
        name: float(np.average(scores.mean, weights=weights)),
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_chance": scores.chance if where == "all" else _NAN,
        f"n_{name}": len(scores.ids),
    }


def _difference(found: OutcomeContrast | None) -> dict[str, Any]:
    same = ("error", "p_blocks", "p_within", "detectable")
    names = {"difference": "value", "ci_low": "low", "ci_high": "high"} | {name: name for name in same}
    values = {column: _NAN if found is None else getattr(found, name) for column, name in names.items()}
    return values | {"n_instructions": 0 if found is None else found.n_blocks}


def contrast_findings(rows: pd.DataFrame) -> tuple[Finding, ...]:
    """One finding for each contrast over all episodes, with what remains of it within tasks.

    - "more" or "less" by `decide`, from the interval alone, which is simultaneous over all rows of the same pair of
      models, source and holdout (both sides, both modes, all episodes and within tasks). p (flips of whole
      instructions, Holm over the table) is given next to the interval and decides nothing.
    - "none": the interval is within 5 points. "undecided": none is shown, and the sentence gives the one that would
      have been seen in 80 of 100 cases. "untested": there is no interval.
    - Where a shown difference is not shown within tasks too, task difficulty may explain it, and the sentence says so.
    """
    key = ["understanding", "execution", "source_e", "holdout", "side", "mode"]
    found = []
    decided = decide_rows(
        rows, low="ci_low", high="ci_high", question=key[:4], leading=pd.Series(True, index=rows.index, dtype=bool)
    )
    for values, both in rows.join(decided).groupby(key, sort=False):
        every, inside = (both[both["where"] == where] for where in ("all", "within tasks"))
        if every.empty:
            continue
        names, row = dict(zip(key, map(str, values), strict=True)), every.iloc[0]
        found.append(
            Finding(
                topic="success contrast",
                conclusion=str(row["decision"]) if np.isfinite(row["low"]) else "untested",
                understanding=names["understanding"],
                execution=names["execution"],
                holdout=names["holdout"],
                facts=names | {"row": row, "inside": None if inside.empty else inside.iloc[0]},
            )
        )
    return tuple(found)


def contrast_sentences(rows: pd.DataFrame) -> tuple[str, ...]:
    """The sentences of `contrast_findings`, one or two for each contrast over all episodes."""
    return tuple(finding.sentence for finding in contrast_findings(rows))
