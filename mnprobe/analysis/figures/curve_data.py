"""Data of the alignment curve: rows of the table as lines (paper, Figure 3)."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from mnprobe.analysis.tables.alignment import HOLDOUTS, SPLITS, apply_where, in_order, mean_over_seeds, settle
from mnprobe.core.commands import option_line
from mnprobe.core.errors import ProbeError
from mnprobe.core.names import BLANK, PIXELS, ModelName
from mnprobe.core.table import TableSchema

__all__ = ["CURVE", "DIFFERENCE", "OUTCOMES", "SHARED_PROBE", "CurveData", "curve_data"]

DIFFERENCE = "success_minus_failure@1"  # ends the names of metrics that are differences of recall
SHARED_PROBE = "shared-probe"  # mode: one probe for successes and failures
OUTCOMES = "outcomes"  # the four success and failure settings in place of the controls

_COLUMNS = (
    *("holdout", "understanding", "execution", "series", "step", "step_u", "step_e", "value", "ci_low", "ci_high"),
    *("sd_seeds", "sd_draws", "chance", "n_test", "n_groups", "n_gallery", "n_train", "n_seeds", "trained_u"),
    *("trained_e", "metric", "direction", "split", "source_u", "source_e", "layer_u", "layer_e", "pool_u", "pool_e"),
    *("heads", "pairing", "loss", "tau", "batch", "mode", "config_hash"),
    *("training", "n_trainings", "sd_trainings"),
)
CURVE = TableSchema(
    name="curve",
    columns=_COLUMNS,
    key=("holdout", "understanding", "execution", "series", "step"),
    whole=(
        *("step", "step_u", "step_e", "n_test", "n_groups", "n_gallery", "n_train", "n_seeds", "batch"),
        "n_trainings",
    ),
    real=("value", "ci_low", "ci_high", "sd_seeds", "sd_draws", "chance", "tau", "sd_trainings"),
    truth=("trained_u", "trained_e"),
    command="curve",
)
"""results/curve*.csv: the points of a curve."""
_ONE = tuple(name for name in _COLUMNS if name not in ("n_trainings", "sd_trainings"))  # of a single training
_ROLES = ("main", "blank", PIXELS, "rollouts", "rollouts-blank", "rollouts-pixels", "rollouts-shuffled", "shuffled")


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """The rows to draw: one per point, with `series` (its line), `step` (its place on the axis) and its numbers.

    Trainings that differ in their seed alone are one line: `points` holds their means (see `mean_over_seeds`) and
    `each` the single ones (same keys, column `training_seed`), also where there is but one. `axis` says what `step`
    counts; `seeds` holds the single probe seeds behind each point (same keys, column `seed`); `notes` are sentences
    about what was chosen or is missing.
    """

    points: pd.DataFrame
    seeds: pd.DataFrame
    each: pd.DataFrame
    axis: str
    notes: tuple[str, ...]
    metric: str
    direction: str
    split: str

    @property
    def trainings(self) -> pd.DataFrame:
        """The single trainings of points that have several."""
        return self.each[self.each.duplicated(_POINT, keep=False)].reset_index(drop=True)

    @property
    def compared(self) -> tuple[str, ...]:
        """The compared trainings, baseline first; empty for fewer than two."""
        found = in_order(name for name in self.points["training"] if name)
        return tuple(found) if len(found) > 1 else ()

    @property
    def single(self) -> bool:
        """True when every line has but one checkpoint: points are drawn, no lines."""
        return bool(self.points.groupby(["understanding", "execution"])["step"].nunique().max() == 1)


def curve_data(
    table: pd.DataFrame,
    *,
    metric: str = "recall@1",
    split: str = "all",
    direction: str = "mean",
    where: Mapping[str, str] | None = None,
) -> CurveData:
    """Choose from results/alignment.csv the rows that make a curve.

    Args:
        table: what `read_alignment` gives.
        metric: a value of the column `metric`.
        split: a value of the column `split`, or 'outcomes' for the four success and failure settings side by side.
        direction: 'u2e', 'e2u' or 'mean'.
        where: further conditions, column to value, where the table holds several ways of measuring.
    Raises:
        ProbeError: when a wanted value is not in the table, or several measurements claim one point.
    """
    wanted = {"metric": metric, "direction": direction} | ({} if split == OUTCOMES else {"split": split})
    rows = apply_where(table, wanted | dict(where or {}))
    rows, notes = _settle_sides(_outcome_rows(rows)) if split == OUTCOMES else settle(rows)
    if split == "all":
        rows = rows.assign(series=_series(rows))
    else:
        rows, more = _outcome_series(rows)
        notes += more
    rows = rows[rows["series"] != ""]
    if not (rows["understanding"] != PIXELS).any():
        raise ProbeError(
            f"the table has no {metric} of a model pair to draw for split {split!r}; only controls are there"
        )
    rows, axis, more = _on_axis(rows)
    means = rows[rows["statistic"] == "mean"]
    _refuse_doubles(means)
    rows = _without_seeds(rows)
    means = rows[rows["statistic"] == "mean"]
    single = means
    order = {name: place for place, name in enumerate(HOLDOUTS)}
    means = mean_over_seeds(means, _POINT)
    means, single = (
        rows.assign(
            _h=rows["holdout"].map(order),
            _t=rows["training"].map(in_order(rows["training"]).index),
            _s=rows["series"].map(_rank),
        ).sort_values(["_h", "_t", "understanding", "execution", "_s", "step"], kind="stable")
        for rows in (means, single)
    )
    each = single[[*_ONE, "training_seed"]].reset_index(drop=True)
    return CurveData(
        points=means[list(_COLUMNS)].reset_index(drop=True),
        seeds=rows[rows["statistic"] == "seed"][[*_ONE, "seed", "draw"]].reset_index(drop=True),
        each=each,
        axis=axis,
        notes=(*notes, *more, *_missing(means)),
        metric=metric,
        direction=direction,
        split=split,
    )


_POINT = ["holdout", "understanding", "execution", "series", "step"]


def _without_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `training` and `training_seed`; models of one training that has several seeds lose them in their names."""
    pairs = rows[["understanding", "execution"]].drop_duplicates()
    taken = {(u, e): (ModelName.parse(str(u)), ModelName.parse(str(e))) for u, e in pairs.itertuples(index=False)}
    shared = pd.Series([(u.without_seed, e.without_seed) for u, e in taken.values()]).value_counts()
    places = list(zip(rows["understanding"], rows["execution"], strict=True))

    def name(place: tuple[str, str], side: int) -> str:
        found = taken[place]
        several = shared[(found[0].without_seed, found[1].without_seed)] > 1
        return found[side].without_seed if several else place[side]

    seeds = [taken[place][1].seed if taken[place][1].seed is not None else taken[place][0].seed for place in places]
    return rows.assign(
        training=[taken[place][1].training or taken[place][0].training for place in places],
        training_seed=[0 if seed is None else seed for seed in seeds],
        understanding=[name(place, 0) for place in places],
        execution=[name(place, 1) for place in places],
    )


def _outcome_rows(rows: pd.DataFrame) -> pd.DataFrame:
    found = rows[rows["split"].isin([name for name in SPLITS if name != "all"]) & (rows["control"] == "none")]
    if found.empty:
        raise ProbeError(
            "the table has no success or failure rows. `mnprobe align --split success` measures them "
            "where outcomes are known"
        )
    return found


def _settle_sides(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Settle recognition and execution apart: where only one of them fails in what heads are fitted on, only it has
    probes of each outcome alone, and the other is measured under one shared probe.
    """
    kept, notes = [], []
    for side, found in rows.groupby(rows["split"].str.partition("-")[0], sort=False):
        settled, told = settle(found)
        kept.append(settled)
        notes += told
        if set(settled["mode"]) == {SHARED_PROBE}:
            notes.append(f"{side} outcomes: measured under one probe shared by successes and failures")
    return pd.concat(kept), list(dict.fromkeys(notes))


def _series(rows: pd.DataFrame) -> pd.Series:
    """The line each row belongs to; '' for rows that are drawn nowhere.

    Pixels and shuffled pairs of the policy's own episodes are lines where trainings are compared: there, each source
    has a panel of its own.
    """
    base = _main_source(rows)
    names = {base: "main", f"{base}-blank": "blank", "rollouts": "rollouts", "rollouts-blank": "rollouts-blank"}
    panels = len({ModelName.parse(str(model)).training for model in rows["execution"].unique()} - {""}) > 1

    def role(row: pd.Series) -> str:
        source = str(names.get(row["source_e"], row["source_e"]))
        before = {"main": "", "rollouts": "rollouts-"} if panels else {"main": ""}
        if row["understanding"] == PIXELS:
            return f"{before[source]}{PIXELS}" if source in before and row["control"] == "none" else ""
        if row["control"] != "none":
            return f"{before[source]}{row['control']}" if source in before else ""
        return source

    return rows.apply(role, axis=1)


def _outcome_series(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Lines by outcome: by execution in the policy's own episodes, where there are any, else in the demonstrations.

    By recognition in the demonstrations first. Notes name another source where one is drawn.
    """
    plain = (rows["understanding"] != PIXELS) & (rows["control"] == "none") & ~rows["source_e"].str.endswith(BLANK)
    rows = rows[plain]
    kept, notes = [], []
    for split, found in rows.groupby("split", sort=False):
        sources = list(found["source_e"].unique())
        first = "rollouts" if str(split).startswith("execution") else "demos"
        source = first if first in sources else sources[0]
        if source != "demos":
            notes.append(f"{str(split).partition('-')[0]} outcomes: measured on {source}")
        kept.append(found[found["source_e"] == source])
    chosen = pd.concat(kept) if kept else rows
    difference = chosen["metric"].str.endswith(DIFFERENCE)
    names = chosen["split"].where(~difference, chosen["split"].str.replace("-success", "-difference"))
    return chosen.assign(series=names), list(dict.fromkeys(notes))


def _main_source(rows: pd.DataFrame) -> str:
    sources = [source for source in rows["source_e"].unique() if not source.endswith(BLANK) and source != "rollouts"]
    return "demos" if "demos" in sources or not sources else str(sources[0])


def _rank(series: str) -> int:
    known = (*_ROLES, *SPLITS)
    return known.index(series) if series in known else len(_ROLES) - 1


def _on_axis(rows: pd.DataFrame) -> tuple[pd.DataFrame, str, list[str]]:
    """Give each row its place `step`; where both models have several checkpoints, keep one partner per step."""
    kept, axes, notes = [], [], []
    mains = rows[rows["understanding"] != PIXELS]
    for _, pair in mains.groupby(["understanding", "execution"], sort=False):
        understanding, execution = str(pair["understanding"].iloc[0]), str(pair["execution"].iloc[0])
        steps = pair.loc[pair["series"] != "", ["step_u", "step_e"]].drop_duplicates()
        place = "step_u" if steps["step_e"].nunique() == 1 and steps["step_u"].nunique() > 1 else "step_e"
        if place == "step_u":
            kept.append(pair.assign(step=pair["step_u"]))
            axes.append(f"training step of {understanding} ({execution} stays at step {steps['step_e'].iloc[0]})")
        else:
            partner, how = _partners(steps)
            if len(partner) < len(steps):
                notes.append(f"{understanding} and {execution}: both have several checkpoints; shown is {how}")
            kept.append(pair[pair["step_u"] == pair["step_e"].map(partner)].assign(step=lambda rows: rows["step_e"]))
            axes.append(_axis_name(understanding, execution, partner))
        pixels = rows[(rows["understanding"] == PIXELS) & (rows["execution"] == execution)]
        kept.append(pixels.assign(understanding=understanding, step=pixels[place]))
    return pd.concat(kept), axes[0] if len(set(axes)) == 1 else "training step", notes


def _partners(steps: pd.DataFrame) -> tuple[pd.Series, str]:
    """One understanding step for each execution step: its equal where all have one, else the last."""
    if steps["step_e"].is_unique:
        return steps.set_index("step_e")["step_u"], "the one pairing there is"
    equal = steps[steps["step_u"] == steps["step_e"]]
    if equal["step_e"].nunique() == steps["step_e"].nunique():
        return equal.set_index("step_e")["step_u"], "equal steps together"
    last = steps["step_u"].max()
    fixed = steps[steps["step_u"] == last]
    return fixed.set_index("step_e")["step_u"], f"the understanding model at its last step {last}"


def _axis_name(understanding: str, execution: str, partner: pd.Series) -> str:
    if (partner.to_numpy() == partner.index.to_numpy()).all() and len(partner) > 1:
        return "training step of both models"
    if partner.nunique() == 1:
        return f"training step of {execution} ({understanding} stays at step {partner.iloc[0]})"
    return f"training step of {execution}"


def _refuse_doubles(means: pd.DataFrame) -> None:
    key = ["understanding", "execution", "series", "holdout", "step"]
    for _, rows in means[means.duplicated(key, keep=False)].groupby(key, sort=False):
        differ = [
            name for name in _COLUMNS if name in rows and name != "value" and rows[name].nunique(dropna=False) > 1
        ]
        name = next((name for name in differ if name not in ("ci_low", "ci_high", "sd_seeds", "sd_draws")), None)
        first = rows.iloc[0]
        way = f"choose with {option_line(where=f'{name}={first[name]}')}" if name else "align again into a new table"
        raise ProbeError(
            f"{len(rows)} measurements claim the same point ({first['understanding']} and {first['execution']}, "
            f"{first['series']}, holdout {first['holdout']}, step {first['step']}); they differ in "
            f"{', '.join(differ) or 'nothing but the value'}: {way}"
        )


def _missing(means: pd.DataFrame) -> list[str]:
    """Controls of DESIGN 6 that the table does not have."""
    if not {"main", "rollouts"} & set(means["series"]):  # lines by outcome
        return []
    names = {
        "blank": "instruction blanked",
        PIXELS: "pixels instead of u",
        "rollouts": "the policy's own episodes",
        "shuffled": "shuffled pairs",
    }
    absent = [text for name, text in names.items() if name not in set(means["series"])]
    if not (means["step_e"] == 0).any():
        absent.append("step 0")
    return [f"controls not measured: {', '.join(absent)}"] if absent else []
