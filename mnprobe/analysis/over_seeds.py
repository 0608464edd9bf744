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
    groups = table.groupby(list(key), sort=False, dropna=False)
    meant = [name for name in _MEANT if name in table]
    made = table[~table.duplicated(list(key))].reset_index(drop=True)
    made[meant] = groups[meant].mean().to_numpy()
    return made.assign(n_trainings=groups.size().to_numpy(), sd_trainings=groups["value"].std(ddof=1).to_numpy())


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
