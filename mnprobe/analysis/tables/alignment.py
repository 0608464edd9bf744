"""Views of results/alignment.csv: filters, trainings, means over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from mnprobe.core.commands import option_line
from mnprobe.core.errors import ProbeError
from mnprobe.core.names import USUAL_LAYERS, Side
from mnprobe.core.table import write_table
from mnprobe.probe.results import COLUMNS, TRUTH, read_alignment

__all__ = [
    "ALIGNMENT_COLUMNS",
    "HOLDOUTS",
    "SPLITS",
    "apply_where",
    "headline",
    "in_order",
    "mean_over_seeds",
    "parse_where",
    "read_alignment",
    "settle",
    "t_interval",
    "write_table",
]

ALIGNMENT_COLUMNS = tuple(name for name in COLUMNS if name != "features_hash")
"""Columns read from the table of `mnprobe align`; the last one is needed only to continue a measurement."""

HOLDOUTS = {
    "episodes": "new episodes of known instructions",
    "instructions": "new instructions",
    "tasks": "new tasks",
}
SPLITS = {
    "all": "all test episodes",
    "understanding-success": "recognised",
    "understanding-failure": "not recognised",
    "execution-success": "carried out",
    "execution-failure": "not carried out",
}

# Settings of a measurement. Where a table holds several, the default is shown and the others can be selected.
_DEFAULTS: dict[str, str | None] = {
    "mode": "own-probe",
    "heads": "linear",
    "pairing": "instruction",
    "loss": "diagonal",
    "layer_u": USUAL_LAYERS[Side.UNDERSTANDING][0],
    "layer_e": USUAL_LAYERS[Side.EXECUTION][0],
    "pool_u": "mean",
    "pool_e": "mean",
    "tau": "0.1",
    "fit_source": "demos",
    "batch": None,
    "config_hash": None,
}
_SETUP = ("understanding", "execution", "source_u", "source_e", "control")


def parse_where(conditions: Sequence[str]) -> dict[str, str]:
    """Turn `column=value` conditions into a mapping.

    >>> parse_where(["layer_e=blocks.3", "tau=0.1"])
    {'layer_e': 'blocks.3', 'tau': '0.1'}

    Raises ProbeError for another form, an unknown column, or a column named twice.
    """
    found: dict[str, str] = {}
    for condition in conditions:
        column, sign, value = condition.partition("=")
        if not sign or column not in ALIGNMENT_COLUMNS:
            known = ", ".join(ALIGNMENT_COLUMNS)
            raise ProbeError(f"--where must be column=value, got {condition!r}. Columns: {known}")
        if column in found:
            raise ProbeError(f"--where names {column} twice: {found[column]!r} and {value!r}")
        found[column] = value
    return found


def apply_where(table: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """Keep the rows in which each named column has the named value; numbers are compared as numbers.

    Conditions on the layer or pooling of the understanding side leave the pixel control alone, which has other layers.
    Raises ProbeError, with the values that exist, when nothing is left.
    """
    for column, value in where.items():
        keep = _equals(table[column], value)
        if column in ("layer_u", "pool_u"):
            keep |= table["understanding"] == "pixels"
        if not keep.any():
            raise ProbeError(f"no row has {column} = {value!r}; there are {_listed(table[column])}")
        table = table[keep]
    return table


def settle(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave one way of measuring for each pair of models and features: the paper's, where there are several.

    Returns the rows that are left, and one sentence per choice that was made.
    Raises ProbeError when several remain and none of them is the default, with the `--where` that chooses.
    """
    notes: list[str] = []
    kept = []
    for _, rows in table.groupby(list(_SETUP), sort=False):
        for column, default in _DEFAULTS.items():
            values = rows[column].unique()
            if len(values) < 2:
                continue
            wanted = _equals(rows[column], default) if default is not None else None
            if wanted is None or not wanted.any():
                raise ProbeError(
                    f"the table holds several measurements that differ in {column} ({_listed(rows[column])}). "
                    f"Choose one with {option_line(where=f'{column}={_cell(values[0])}')}"
                )
            others = _listed(rows.loc[~wanted, column])
            note = f"{column} {default} is shown; the table also has {others}"
            if note not in notes:
                notes.append(note)
            rows = rows[wanted]
        kept.append(rows)
    return (pd.concat(kept) if kept else table), notes


def headline(table: pd.DataFrame, *, metric: str = "recall@1") -> pd.DataFrame:
    """The main table: one row per measurement, with chance, interval, n and seeds of each value.

    `table` is results/alignment.csv as `read_alignment` gives it. Only mean rows of `metric`, both directions
    averaged. Columns that say how it was measured appear only where they vary.
    """
    rows = table[(table["statistic"] == "mean") & (table["metric"] == metric) & (table["direction"] == "mean")]
    names = [
        *("understanding", "step_u", "source_u", "execution", "step_e", "source_e", "holdout", "split", "control"),
        *(name for name in _DEFAULTS if name != "config_hash"),
    ]
    always = ("understanding", "execution", "holdout")
    shown = [name for name in names if name in always or rows[name].nunique(dropna=False) > 1]
    numbers = ["value", "ci_low", "ci_high", "chance", "n_test", "n_groups", "n_gallery", "n_seeds", "sd_seeds"]
    ordered = rows.assign(_h=rows["holdout"].map({name: i for i, name in enumerate(HOLDOUTS)}))
    ordered = ordered.sort_values(["_h", "step_e", "step_u"], kind="stable")
    return ordered[[*shown, *numbers, *TRUTH]].reset_index(drop=True)


def _equals(column: pd.Series, value: str) -> pd.Series:
    if pd.api.types.is_bool_dtype(column):
        return column == (value.lower() in ("true", "1"))
    if pd.api.types.is_numeric_dtype(column):
        try:
            return pd.Series(np.isclose(column.astype(float), float(value), rtol=1e-9), index=column.index)
        except ValueError:
            return pd.Series(False, index=column.index)
    return column == value


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(column: pd.Series) -> str:
    return ", ".join(sorted({_cell(value) for value in column}))


_FIRST = ("baseline", "joint")


def in_order(trainings: Iterable[str]) -> list[str]:
    """Each training once: baseline, joint, then the others by name.

    >>> in_order(["wide", "joint", "baseline", "joint"])
    ['baseline', 'joint', 'wide']
    """
    found = set(trainings)
    return [name for name in _FIRST if name in found] + sorted(found - set(_FIRST))


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
