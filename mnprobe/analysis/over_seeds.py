"""One line per training: the mean over trainings that differ in nothing but their seed, and their spread."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

__all__ = ["mean_over_seeds", "t_interval"]

_MEANT = ("value", "ci_low", "ci_high", "chance", "sd_seeds", "sd_draws")


def mean_over_seeds(table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Rows that agree in `key` become one; n_trainings and sd_trainings say how many they were and how far apart.

    `value` is their mean. `ci_low` and `ci_high` are the means of theirs: what another test set might give, not what
    another training might; the latter is `sd_trainings`, the standard deviation (divisor: one less) between them,
    NaN for one. Other columns are those of the first row. The order of first appearance stays.
    """
    rows = []
    for _, group in table.groupby(list(key), sort=False, dropna=False):
        row = group.iloc[0].copy()
        for column in _MEANT:
            if column in group:
                row[column] = pd.to_numeric(group[column]).mean()
        row["n_trainings"] = len(group)
        row["sd_trainings"] = float(group["value"].std(ddof=1)) if len(group) > 1 else math.nan
        rows.append(row)
    if not rows:
        return table.assign(n_trainings=pd.Series(dtype=int), sd_trainings=pd.Series(dtype=float))
    made = pd.DataFrame(rows)
    kinds = {name: kind for name, kind in table.dtypes.items() if name not in _MEANT}
    return made.astype(kinds | {"n_trainings": int, "sd_trainings": float}).reset_index(drop=True)


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent values; (NaN, NaN) for fewer than two.

    >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return math.nan, math.nan
    half = float(t.ppf(0.5 + confidence / 2, len(found) - 1)) * float(found.std(ddof=1)) / math.sqrt(len(found))
    return float(found.mean()) - half, float(found.mean()) + half
