"""The first table of a report and what to be careful about, from results/alignment.csv."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mnprobe.analysis.curve import CurveData, curve_data
from mnprobe.analysis.curve_looks import series_name
from mnprobe.analysis.report.parts import Headline
from mnprobe.analysis.tables import HOLDOUTS

__all__ = [
    "FEW_GROUPS",
    "FEW_SEEDS",
    "FEW_TEST",
    "STEP_0",
    "WIDE",
    "caveats",
    "headlines",
    "last_points",
    "summary",
]

STEP_0 = "step-0"
FEW_TEST = 50  # test episodes below which a score moves by 2 points and more with each episode
FEW_GROUPS = 8  # groups below which a cluster interval says little (specs: refuse below about 8)
FEW_SEEDS = 5  # probe seeds that DESIGN asks for
WIDE = 0.25  # width of a 95 % interval that leaves most conclusions open
_ROUNDING = 1e-9  # constant features score chance exactly, up to the last digits
_TIED = 0.05  # share of queries with ties that deserves a word


def last_points(table: pd.DataFrame) -> CurveData:
    """Recall@1 of all episodes as the curve draws it: the last checkpoint of each line, and step 0 of the claim."""
    data = curve_data(table)
    key = ["holdout", "understanding", "execution", "series"]
    points = data.points
    last = points.sort_values("step", kind="stable").groupby(key, sort=False).tail(1)
    start = points[(points["series"] == "main") & (points["step"] == 0) & ~points.index.isin(last.index)]
    both = pd.concat([last, start.assign(series=STEP_0)]).sort_index(kind="stable")
    claims_first = both["series"].map(
        lambda series: ["main", STEP_0].index(series) if series in ("main", STEP_0) else 2
    )
    order = both.assign(_p=both.groupby(key[:3], sort=False).ngroup(), _s=claims_first)
    return replace(data, points=order.sort_values(["_p", "_s"], kind="stable").drop(columns=["_p", "_s"]))


def headlines(points: pd.DataFrame) -> tuple[Headline, ...]:
    """One line per holdout and series of `last_points(...).points`."""
    places = points.groupby(["holdout", "understanding", "execution"], sort=False).ngroup()
    return tuple(_headline(row, int(place)) for (_, row), place in zip(points.iterrows(), places, strict=True))


def summary(points: pd.DataFrame) -> tuple[str, ...]:
    """What was measured, in sentences for people who were not there."""
    sentences = []
    for _, row in points[points["series"] == "main"].iterrows():
        interval = _interval(row)
        held = HOLDOUTS.get(row["holdout"], row["holdout"])
        models = " and ".join(
            str(row[side]) + ("" if row[trained] else " (random weights)")
            for side, trained in (("understanding", "trained_u"), ("execution", "trained_e"))
        )
        sentences.append(
            f"With {held} held out, the nearest neighbour across {models} is of the same group in "
            f"{100 * row['value']:.1f} % of the queries{interval}; {_against_chance(row)}."
        )
    return tuple(sentences)


def caveats(points: pd.DataFrame, table: pd.DataFrame, notes: Sequence[str] = ()) -> tuple[str, ...]:
    """What weakens the numbers of this very run; empty when nothing does."""
    found = []
    claim = points[points["series"] == "main"]
    untrained = [
        f"{row[side]} at step {row[f'step_{letter}']}"
        for _, row in claim.iterrows()
        for side, letter in (("understanding", "u"), ("execution", "e"))
        if not row[f"trained_{letter}"]
    ]
    if untrained:
        found.append(
            f"Random weights: {', '.join(dict.fromkeys(untrained))}. These numbers say what untrained networks "
            f"give; they are a "
            "control, not a finding."
        )
    for _, row in claim.iterrows():
        where = f"holdout {row['holdout']}"
        if row["n_test"] < FEW_TEST:
            found.append(
                f"Few samples ({where}): {row['n_test']:.0f} test episodes; one episode more or less moves the "
                f"score by "
                f"{100 / row['n_test']:.1f} points."
            )
        if row["n_groups"] < FEW_GROUPS:
            found.append(
                f"Few groups ({where}): {row['n_groups']:.0f}; an interval from fewer than {FEW_GROUPS} groups "
                f"says little."
            )
        if np.isfinite(row["ci_low"]) and row["ci_high"] - row["ci_low"] > WIDE:
            found.append(f"Wide interval ({where}): from {100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %.")
        if not np.isfinite(row["ci_low"]):
            found.append(f"No interval ({where}): the spread over samples is not known.")
        elif np.isfinite(row["chance"]) and _verdict(row) != "above chance":
            place = "includes" if _verdict(row) == "includes chance" else "lies below"
            found.append(f"Not above chance ({where}): the interval {place} {100 * row['chance']:.1f} %.")
        if np.isfinite(row["chance"]) and row["chance"] > 1.5 / row["n_groups"]:
            found.append(
                f"Uneven groups ({where}): chance is {100 * row['chance']:.1f} %, more than 1/groups = "
                f"{100 / row['n_groups']:.1f} %."
            )
        if row["n_seeds"] < FEW_SEEDS:
            found.append(f"Few probe seeds ({where}): {row['n_seeds']:.0f}; {FEW_SEEDS} or more show their spread.")
        found += _rivals(row, points[points["holdout"] == row["holdout"]])
    ties = table[(table["metric"] == "tied_share") & (table["statistic"] == "mean") & (table["control"] == "none")]
    if len(ties) and ties["value"].max() > _TIED:
        found.append(
            f"Ties: up to {100 * ties['value'].max():.1f} % of the queries have several equally near neighbours, of "
            f"which "
            f"chance decides. "
            "Collapsed or repeated features do this."
        )
    found += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return tuple(dict.fromkeys(found))


def _rivals(claim: pd.Series, points: pd.DataFrame) -> list[str]:
    """Controls that score as high as the claim, and those whose interval meets the claim's: they explain it as well."""
    same = (points["understanding"] == claim["understanding"]) & (points["execution"] == claim["execution"])
    controls = points[same & ~points["series"].isin(["main", "rollouts", "rollouts-pixels", "rollouts-shuffled"])]
    higher = controls["value"] >= claim["value"]
    meets = ~higher & (controls["ci_high"] >= claim["ci_low"])
    told = []
    if higher.any():
        told.append(
            f"A control scores as high (holdout {claim['holdout']}): {_listed(controls[higher])}; the claim "
            f"{100 * claim['value']:.1f} %. What the control has is enough for this score."
        )
    if meets.any():
        told.append(
            f"Not told apart from a control at this sample size (holdout {claim['holdout']}): the claim's interval, "
            f"{_range(claim)}, overlaps that of {_listed(controls[meets], intervals=True)}."
        )
    return told


def _listed(rows: pd.DataFrame, *, intervals: bool = False) -> str:
    return ", ".join(
        f"{_name(row['series']).removeprefix('control: ')} {100 * row['value']:.1f} %"
        + (f" ({_range(row)})" if intervals else "")
        for _, row in rows.iterrows()
    )


def _range(row: pd.Series) -> str:
    return f"{100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %"


def _headline(row: pd.Series, place: int) -> Headline:
    weights = {(True, True): "trained", (False, False): "both random"}
    one = "u random" if not row["trained_u"] else "e random"
    pixels = row["series"] in ("pixels", "rollouts-pixels")
    return Headline(
        what=_name(row["series"]),
        step=int(row["step"]),
        pair=f"{row['understanding']} and {row['execution']}"
        + (f" (mean of {row['n_trainings']} trainings)" if row["n_trainings"] > 1 else ""),
        place=place,
        holdout=str(row["holdout"]),
        holdout_words=HOLDOUTS.get(str(row["holdout"]), str(row["holdout"])),
        value=float(row["value"]),
        low=_finite(row["ci_low"]),
        high=_finite(row["ci_high"]),
        chance=_finite(row["chance"]),
        verdict=_verdict(row),
        n_test=_whole(row["n_test"]),
        n_groups=_whole(row["n_groups"]),
        n_gallery=_whole(row["n_gallery"]),
        n_seeds=_whole(row["n_seeds"]),
        sd_seeds="" if not np.isfinite(row["sd_seeds"]) else f"{row['sd_seeds'] * 100:.1f}",
        weights=("e trained" if row["trained_e"] else "e random")
        if pixels
        else weights.get((bool(row["trained_u"]), bool(row["trained_e"])), one),
        is_claim=row["series"] == "main",
    )


def _name(series: str) -> str:
    return "control: before training" if series == STEP_0 else series_name(series)


def _verdict(row: pd.Series) -> str:
    if not np.isfinite(row["chance"]) or not np.isfinite(row["ci_low"]):
        return "no interval"
    if row["ci_low"] > row["chance"] + _ROUNDING:
        return "above chance"
    return "below chance" if row["ci_high"] < row["chance"] - _ROUNDING else "includes chance"


def _against_chance(row: pd.Series) -> str:
    if not np.isfinite(row["chance"]):
        return "its chance level is not known"
    told = {"above chance": "the interval lies above it", "below chance": "the interval lies below it"}
    rest = told.get(_verdict(row), "the interval includes it")
    return f"chance is {100 * row['chance']:.1f} %" + (f", and {rest}" if np.isfinite(row["ci_low"]) else "")


def _interval(row: pd.Series) -> str:
    return (
        f" (95 % interval {100 * row['ci_low']:.1f} % to {100 * row['ci_high']:.1f} %)"
        if np.isfinite(row["ci_low"])
        else ""
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _whole(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else ""
