"""What stands above, beside and below an alignment curve: titles, axis labels, counts and the caption."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mnprobe.analysis.curve import DIFFERENCE, CurveData
from mnprobe.analysis.curve_looks import metric_name

__all__ = ["axis_label", "curve_caption", "curve_title", "is_untrained", "n_text", "pairs_of", "span"]

_DIRECTIONS = {"u2e": "u to e", "e2u": "e to u", "mean": "mean of both directions"}


def curve_caption(data: CurveData) -> str:
    """What the figure shows, in sentences: quantity, n, chance, seeds, intervals, untrained models, what is missing."""
    points = data.points
    pairs = " and ".join(f"{u} with {e}" for u, e in pairs_of(points))
    main = points[points["series"].isin(["main"])] if "main" in set(points["series"]) else points
    parts = [
        f"{metric_name(data.metric)} ({_DIRECTIONS.get(data.direction, data.direction)}) of {pairs}.",
        f"{n_text(main)}; {span(main['n_seeds'])} probe seeds.",
        "Bars" if data.single else "Bands",
    ]
    parts[-1] += " are 95 % intervals (cluster jackknife: each instruction left out in turn)."
    if not data.trainings.empty:
        parts.append(
            f"Each line is the mean of up to {span(points['n_trainings'].max())} trainings with other seeds, drawn "
            "as small marks; intervals are the means of theirs and leave the spread between trainings out."
        )
    if points[["ci_low", "ci_high"]].isna().any(axis=None):
        parts.append("Where none is drawn, the table has no interval.")
    if data.single:
        parts.append("There is one checkpoint only: points instead of a line over training.")
    if data.metric == "mi_bound":
        most = main[["batch", "n_groups"]].min(axis=1).map(np.log)
        parts.append(f"It cannot exceed log B = {span(most, digits=2)} nats, one pair of each group in a batch.")
    untrained = _untrained(points)
    if untrained:
        parts.append(f"Hollow markers: random weights (untrained): {untrained}.")
    first = points.iloc[0]
    parts.append(
        f"Probe: {first['heads']} heads, pairing by {first['pairing']}, loss {first['loss']}, "
        f"tau {first['tau']:g}, layers {first['layer_u']} ({first['pool_u']}) and "
        f"{first['layer_e']} ({first['pool_e']})."
    )
    parts += [note[0].upper() + note[1:] + "." for note in data.notes]
    return " ".join(parts)


def curve_title(data: CurveData) -> str:
    """What the whole figure shows."""
    pairs = pairs_of(data.points)
    names = f"{pairs[0][0]} and {pairs[0][1]}" if len(pairs) == 1 else f"{len(pairs)} pairs of models"
    if data.single:
        first = data.points.iloc[0]
        steps = f" (u: step {first['step_u']}, e: step {first['step_e']})" if len(pairs) == 1 else ""
        return f"Alignment of {names} at one checkpoint{steps}"
    if data.compared:
        return f"Alignment over training: {_listed(data.compared)}"
    return f"Alignment of {names} over training"


def axis_label(data: CurveData) -> str:
    """Metric and direction."""
    return f"{metric_name(data.metric)}, {_DIRECTIONS.get(data.direction, data.direction)}"


def n_text(points: pd.DataFrame) -> str:
    """Test episodes, groups and chance of `points`."""
    chance = points["chance"].dropna() if not points["metric"].iloc[0].endswith(DIFFERENCE) else points["chance"][:0]
    level = f", chance {span(chance * 100, digits=1)} %" if len(chance) else ""
    return f"n = {span(points['n_test'])} test episodes in {span(points['n_groups'])} groups{level}"


def span(values: "pd.Series[float] | float", *, digits: int = 0) -> str:
    """'40', or '38 to 40' where it is not the same everywhere.

    >>> span(pd.Series([38, 40])), span(40)
    ('38 to 40', '40')
    """
    found = pd.Series(values)
    texts = [f"{value:.{digits}f}" for value in (found.min(), found.max())]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def is_untrained(points: pd.DataFrame) -> "pd.Series[bool]":
    """True where a model that takes part has random weights; pixels are no model."""
    pixels = points["series"].isin(["pixels", "rollouts-pixels"])
    return ~((points["trained_u"].astype(bool) | pixels) & points["trained_e"].astype(bool))


def pairs_of(points: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of models, in the order of the table."""
    return list(points[["understanding", "execution"]].drop_duplicates().itertuples(index=False, name=None))


def _untrained(points: pd.DataFrame) -> str:
    models = points[~points["series"].isin(["pixels", "rollouts-pixels"])]
    sides: Iterable[tuple[str, str, str]] = (
        ("understanding", "trained_u", "step_u"),
        ("execution", "trained_e", "step_e"),
    )
    found = []
    for side, trained, step in sides:
        for model, rows in models[~models[trained].astype(bool)].groupby(side):
            steps = ", ".join(str(value) for value in sorted(rows[step].unique()))
            found.append(f"{model} at step {steps}")
    return "; ".join(found)


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} beside {last}" if rest else last
