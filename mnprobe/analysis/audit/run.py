"""`mnprobe audit` as a function: leakage, controls, decomposition, findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.audit.controls import CONTROLS, controls_table
from mnprobe.analysis.audit.decomposition import DECOMPOSITION_COLUMNS, decompose
from mnprobe.analysis.audit.figures import draw_controls, draw_decomposition
from mnprobe.analysis.audit.findings import Finding, verdict_table, verdicts
from mnprobe.analysis.audit.leakage import LEAKAGE, leakage_table
from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.figures.style import SavedFigure
from mnprobe.analysis.tables.run_tables import VERDICT, RunTables
from mnprobe.core.commands import command_line
from mnprobe.core.errors import FeatureError, ProbeError
from mnprobe.core.progress import progress
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema
from mnprobe.features import open_features
from mnprobe.probe.config import FitConfig, read_settings
from mnprobe.probe.heads import AlignmentHeads, load_heads
from mnprobe.probe.pairs import FeaturePair, StoredPair, join_stores, load_pair, pair_across
from mnprobe.probe.scores import HitScores, find_hits, read_hits
from mnprobe.probe.splits import unnamed_tasks

__all__ = ["DECOMPOSITION", "Audit", "audit_run"]

_SIDES = (("understanding", "u"), ("execution", "e"))
_ORIGIN = ("", "source", "step")  # the model's name is a column of its own
_PLACE = ("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "holdout")
DECOMPOSITION = TableSchema(
    name="decomposition",
    columns=(*_PLACE, *DECOMPOSITION_COLUMNS),
    key=(*_PLACE, "quantity", "factor"),
    whole=("step_u", "step_e", "n_test", "n_groups", "n_seeds"),
    real=("value", "ci_low", "ci_high", "chance"),
    command="audit",
)
"""results/decomposition.csv."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Tables and figures of an audit; `notes` say in words what was left out."""

    leakage: pd.DataFrame
    controls: pd.DataFrame
    decomposition: pd.DataFrame
    findings: tuple[Finding, ...]
    figures: tuple[SavedFigure, ...]
    notes: tuple[str, ...]


def audit_run(
    run: RunDir,
    *,
    seeds: int = 3,
    resamples: int = 1999,
    decomposed: bool = True,
    note: str = "",
    command: str | None = None,
    quiet: bool = False,
) -> Audit:
    """Check and explain what `mnprobe align` measured in a run.

    Writes results/leakage.csv, results/controls.csv, results/decomposition.csv, results/verdict.csv, and the figures
    controls and decomposition (PNG, SVG).

    Args:
        run: with results/alignment.csv, the kept scores (results/hits) and the feature stores.
        seeds: heads refitted for each factor that is removed.
        resamples: of each test.
        decomposed: fit and write the decomposition of the last checkpoint too.
        note: one more sentence for the captions, no full stop.
        command: how a person makes the figures again.
        quiet: no progress on standard error.

    Raises:
        ProbeError: no measurement of all episodes, or none whose scores were kept.
    """
    command = command or command_line(
        "audit", run=run.path, seeds=seeds, resamples=resamples, no_decomposition=not decomposed
    )
    path = run.results("alignment")
    table = RunTables.load(run).alignment
    if table is None:
        raise ProbeError(f"{path} is not there. `{command_line('align', run=run.path)}` writes it")
    hits = path.parent / "hits"
    current = set(zip(table["config_hash"], table["features_hash"], strict=True))
    kept = [read_hits(file) for file in find_hits(hits, control="none")] if hits.is_dir() else []
    kept = [one for one in kept if (one.about["config_hash"], one.about["features_hash"]) in current]
    if not kept:
        again = command_line("align", run=run.path)
        raise ProbeError(f"no scores under {hits} belong to {path}. `{again}` keeps them")
    notes: list[str] = []
    pairs = _pairs(run, kept, notes)
    leakage = leakage_table(kept, pairs)
    LEAKAGE.write(run.results("leakage"), leakage)
    controls = controls_table(table, hits, resamples=resamples)
    CONTROLS.write(run.results("controls"), controls)
    parts = pd.DataFrame(columns=list(DECOMPOSITION.columns))
    if decomposed:
        parts = _decomposition(run, table, kept, pairs, seeds, notes, quiet=quiet)
        DECOMPOSITION.write(run.results("decomposition"), parts)
    findings = verdicts(controls, leakage, parts)
    VERDICT.write(run.results("verdict"), verdict_table(findings))
    figures = [draw_controls(controls, findings, stem=run.figures / "controls", command=command, note=note)]
    if len(parts):
        figures.append(draw_decomposition(parts, stem=run.figures / "decomposition", command=command, note=note))
    return Audit(
        leakage=leakage,
        controls=controls,
        decomposition=parts,
        findings=findings,
        figures=tuple(figures),
        notes=tuple(dict.fromkeys(notes)),
    )


def _pairs(run: RunDir, kept: Sequence[HitScores], notes: list[str]) -> list[FeaturePair | None]:
    """The features behind kept scores, if they are still in the run as they were, joined as `mnprobe align` does."""
    paths = [piece.path for piece in run.feature_files()]
    stored: dict[tuple[object, ...], list[StoredPair]] = {}
    named = {path: _origin(path) for path in paths}
    demos = "demos" in {origin[1] for origin in named.values()}
    try:
        joined, _ = join_stores(paths, fit_on="demos" if demos else None)
    except FeatureError as error:
        notes.append(str(error))
        return [None] * len(kept)
    for one in joined:
        alone = StoredPair(one.u, one.e)
        stored.setdefault((*named[one.u], *named[one.e]), []).extend([one, alone] if one != alone else [alone])

    @cache
    def read(u: Path, e: Path, layers: tuple[str, str, str, str]) -> FeaturePair:
        names = dict(zip(("layer_u", "layer_e", "pool_u", "pool_e"), layers, strict=True))
        return load_pair(u, e, episodes="shared", **names)

    @cache
    def whole(one: StoredPair, layers: tuple[str, str, str, str]) -> FeaturePair:
        pair = read(one.u, one.e, layers)
        if one.fit_u is None or one.fit_e is None:
            return pair
        return pair_across(read(one.fit_u, one.fit_e, layers), pair)

    found: list[FeaturePair | None] = []
    for scores in kept:
        about = scores.about
        key = tuple(about[f"{name}_{side}"] if name else about[model] for model, side in _SIDES for name in _ORIGIN)
        layers = tuple(str(about[name]) for name in ("layer_u", "layer_e", "pool_u", "pool_e"))
        own = None
        for one in stored.get(key, []):
            try:
                pair = whole(one, layers)
            except FeatureError as error:
                notes.append(str(error))
                continue
            if pair.digest() == about["features_hash"] and np.array_equal(pair.items.ids, scores.ids):
                own = pair
                break
        if own is None:
            where = " x ".join(
                f"{about[model]} step {about[f'step_{side}']} on {about[f'source_{side}']}" for model, side in _SIDES
            )
            notes.append(f"features of {where} are not in the run as they were aligned: align them again")
        found.append(own)
    return found


def _origin(path: Path) -> tuple[str, str, int]:
    with open_features(path) as file:
        return file.model, file.source, file.step


def _decomposition(
    run: RunDir,
    table: pd.DataFrame,
    kept: list[HitScores],
    pairs: list[FeaturePair | None],
    seeds: int,
    notes: list[str],
    *,
    quiet: bool,
) -> pd.DataFrame:
    """The claim at its last checkpoint, for each pair of models and holdout, on the first partition."""
    points = curve_data(table).points
    claims = points[points["series"] == "main"].sort_values("step", kind="stable")
    claims = claims.groupby(["understanding", "execution", "holdout"], sort=False).tail(1)
    found: list[pd.DataFrame] = []
    names = (*_PLACE, "config_hash", "layer_u", "layer_e", "pool_u", "pool_e")
    with progress("decomposing", len(claims), quiet=quiet) as advance:
        for _, row in claims.iterrows():
            for scores, pair in zip(kept, pairs, strict=True):
                about = scores.about
                if pair is not None and "all" in scores.splits and all(about[name] == row[name] for name in names):
                    if unnamed := unnamed_tasks(pair.items.instructions, pair.items.tasks):
                        models = f"{about['understanding']} with {about['execution']}"
                        notes.append(f"{models}: the decomposition by task cannot be made: {unnamed}")
                    heads, fit = _heads(run, table, about, notes)
                    parts = decompose(
                        pair,
                        np.flatnonzero(scores.train[0]),
                        np.flatnonzero(scores.test[0]),
                        pairing=about["pairing"],
                        fit=fit,
                        heads=heads,
                        seeds=seeds,
                    )
                    found.append(parts.assign(**{name: about[name] for name in _PLACE}))
                    break
            advance()
    columns = list(DECOMPOSITION.columns)
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _heads(
    run: RunDir, table: pd.DataFrame, about: Any, notes: list[str]
) -> tuple[AlignmentHeads | None, FitConfig | None]:
    """The saved heads of the first seed and partition, and how they were fitted."""
    rows = table[(table["heads_file"] != "") & (table["split"] == "all") & (table["control"] == "none")]
    for name in (*_PLACE, "config_hash", "features_hash"):
        rows = rows[rows[name] == about[name]]
    for name in dict.fromkeys(rows["heads_file"]):
        path = run.path / str(name)
        if path.is_file() and path.resolve().is_relative_to(run.path.resolve()):
            heads = load_heads(path)
            config = heads.fitted_on.get("config")
            settings = config.get("fit", {}) if isinstance(config, dict) else {}
            return heads, FitConfig.of_record(settings)
    recorded = read_settings(run).get(str(about["config_hash"]), {}).get("fit")
    notes.append(
        "heads of the claim were not kept: the decomposition fits new ones with "
        + ("the same settings" if recorded else "the default settings")
    )
    return None, FitConfig.of_record(recorded) if recorded else None
