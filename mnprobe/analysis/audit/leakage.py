"""Leakage table: overlap and copies between training and test sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.arrays import Array, as_array, as_matrix, as_positive
from mnprobe.core.errors import FeatureError
from mnprobe.core.table import TableSchema
from mnprobe.probe.pairs import FeaturePair
from mnprobe.probe.scores import HitScores
from mnprobe.probe.splits import NO_OVERLAP, forbidden_overlap

__all__ = ["CLOSE", "LEAKAGE", "LEAKAGE_COLUMNS", "leakage_table", "twins"]

CLOSE = 0.0125
"""A test row nearer to a training row than this share of what training rows around keep from each other is a copy."""

_NEAR = 5  # training rows around a test row whose own spacing is looked at
_CHANCE = 0.05  # near copies that independent rows may be expected to give, in all test rows together
_SAME = 2e-6  # of the size of a row: rows of float32 that are nearer are equal up to rounding
_SAMPLE = 400  # training rows that the dimension is estimated from
_BLOCK = 2048

Rows = NDArray[np.float64]

LEAKAGE_COLUMNS = (
    *("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "holdout", "split", "mode"),
    *("partitions", "n_train", "n_test", "shared_episodes", "shared_instructions", "shared_tasks", "kept_apart"),
    *("equal_u", "equal_e", "close_u", "close_e", "verdict"),
)
LEAKAGE = TableSchema(
    name="leakage",
    columns=LEAKAGE_COLUMNS,
    key=LEAKAGE_COLUMNS[:9],
    whole=(
        *("step_u", "step_e", "partitions", "n_train", "n_test", "shared_episodes", "shared_instructions"),
        *("shared_tasks", "equal_u", "equal_e", "close_u", "close_e"),
    ),
    command="audit",
)
"""results/leakage.csv."""


def leakage_table(scores: Sequence[HitScores], pairs: Sequence[FeaturePair | None]) -> pd.DataFrame:
    """One row per measurement and split: what training and test share, in the worst of all its partitions.

    The partitions are those that the heads were fitted and tested on, as they were recorded, not drawn again.

    - `shared_episodes`, `shared_instructions`, `shared_tasks`: how many are on both sides. `kept_apart` names those
      that must be 0 under this holdout, by the rule of the split itself (`mnprobe.probe.splits.forbidden_overlap`):
      ids always, instructions or tasks where these are held out. New tasks may be described in words of known ones:
      those are counted, and no overlap.
    - `equal_u`, `equal_e`: test rows of which an exact copy is among the training rows of the same side.
    - `close_u`, `close_e`: test rows with a near copy among the training rows, by the space that the rows live in
      (equal ones included; see `twins`). -1 where features were not given.
    - `verdict`: "overlap" where something that must be 0 is not, "near-duplicates" where copies are found, else
      "clean".

    Args:
        scores: measurements, from `read_hits`.
        pairs: the features of each, rows in the order of its episodes; None where copies need not be looked for.
    """
    rows = [row for one, pair in zip(scores, pairs, strict=True) for row in _rows(one, pair)]
    table = pd.DataFrame(rows, columns=list(LEAKAGE_COLUMNS))
    return table.sort_values(list(LEAKAGE_COLUMNS[:9]), kind="stable", ignore_index=True)


def twins(train: Array, test: Array, *, close: float = CLOSE) -> tuple[int, int]:
    """How many test rows have an exact copy among the training rows (N, D), and how many a near one or an exact one.

    Near copies are found relative to the space of the rows, whatever its width, scale and offset. Rows are
    standardized with the training mean and deviation. A test row is a near copy where its distance to the nearest
    training row is below r times the spacing there: the median, over the 5 nearest training rows, of the distance of
    each to its own nearest other training row (rows that are equal up to rounding are one). Of independent rows in d
    dimensions a share of about r^d falls below that by chance, so r is `close`, but in low dimensions no more than lets
    0.05 of all test rows together be expected: (0.05 / test rows)^(1 / d), with d estimated from the training rows. In
    one dimension only copies that agree to about six digits can be distinguished from chance.

    Where all training rows are equal (collapsed features), these features cannot tell one row from another, and
    nothing is counted.

    Raises FeatureError for arrays that are none, of different widths, or hold NaN or infinity.

    Source of d: the ratio of the distances to the second and first neighbour (Facco et al. 2017, Scientific Reports 7),
    by its median.

    >>> twins(np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]), np.array([[1.0, 2.0], [5.0, 5.0]]))
    (1, 1)
    """
    close = as_positive(close, "close")
    digits = max(_digits(train, "train"), _digits(test, "test"))
    known, rows = as_matrix(train, "train") + 0.0, as_matrix(test, "test") + 0.0  # -0 becomes 0
    if known.shape[1] != rows.shape[1]:
        raise FeatureError(f"train and test must have one width, got {known.shape[1]} and {rows.shape[1]}")
    if len(known) > 1 and not (known != known[0]).any():
        return 0, 0
    copies = {row.tobytes() for row in known}
    equal = np.array([row.tobytes() in copies for row in rows], dtype=np.bool_)
    near = equal | _near(*_standardized(known, rows, digits), close)
    return int(equal.sum()), int(near.sum())


def _digits(values: Array, name: str) -> float:
    """The relative rounding of the numbers as they were given."""
    kind = as_array(values, name).dtype
    return float(np.finfo(kind if kind.kind == "f" else np.float64).eps)


def _standardized(train: Rows, test: Rows, digits: float) -> tuple[Rows, Rows]:
    """Both by the mean and deviation of training; a column that is constant there up to rounding by its size."""
    power = np.frexp(np.maximum(np.abs(train).max(axis=0), np.abs(test).max(axis=0)))[1]
    one, other = np.ldexp(train, -power), np.ldexp(test, -power)  # exact, and squares stay in range
    mean = one.mean(axis=0)
    middle = one - mean
    middle -= middle.mean(axis=0)
    deviation = np.sqrt((middle**2).mean(axis=0))
    moves = deviation > 16 * digits * np.abs(mean)
    unit = np.where(moves, deviation, np.maximum(np.abs(mean), 2.0**-20))
    return middle / unit, (other - mean) / unit


def _near(train: Rows, test: Rows, close: float) -> NDArray[np.bool_]:
    found = np.zeros(len(test), dtype=np.bool_)
    if len(train) < 2:
        return found
    size = float(np.sqrt((train**2).sum(axis=1).mean()))
    same = _SAME * size
    sample = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(np.int64))
    first, second = _spacing(train, sample, same)
    finite = np.isfinite(second)
    ratio = float(np.median(np.log(second[finite] / first[finite]))) if finite.any() else 0.0
    dimension = max(1.0, np.log(2.0) / ratio) if ratio > 0 else np.inf if finite.any() else 1.0
    share = min(close, (_CHANCE / len(test)) ** (1.0 / dimension))
    count = min(_NEAR, len(train))
    around = np.empty((len(test), count), dtype=np.int64)
    for start in range(0, len(test), _BLOCK):
        part = slice(start, start + _BLOCK)
        square = _squares(test[part], train)
        around[part] = np.argpartition(square, count - 1, axis=1)[:, :count]
    distance = np.linalg.norm(test[:, None] - train[around], axis=2).min(axis=1)
    candidates = np.flatnonzero(distance < share * 4 * float(np.abs(train).max()) * np.sqrt(train.shape[1]))
    if not len(candidates):
        return found
    rows, place = np.unique(around[candidates], return_inverse=True)
    spacing = _spacing(train, rows, same)[0][place.reshape(len(candidates), count)]
    found[candidates] = distance[candidates] < share * np.median(spacing, axis=1)
    return found


def _spacing(train: Rows, rows: NDArray[np.int64], same: float) -> tuple[Rows, Rows]:
    """Distances of some training rows to the nearest and second nearest that differ from them; infinite for none."""
    first, second = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance = np.sqrt(_squares(train[rows[part]], train))
        distance[distance <= same] = np.inf
        count = min(2, distance.shape[1])
        nearest = np.partition(distance, count - 1, axis=1)[:, :count]
        first[part], second[part] = nearest[:, 0], nearest[:, count - 1]
    return first, second


def _squares(one: Rows, other: Rows) -> Rows:
    square = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    return np.asarray(np.maximum(square, 0.0))


def _rows(scores: HitScores, pair: FeaturePair | None) -> list[dict[str, Any]]:
    holdout = str(scores.about["holdout"])
    base = {name: scores.about[name] for name in LEAKAGE_COLUMNS if name in scores.about}
    labels = {"episodes": scores.ids, "instructions": scores.instructions, "tasks": scores.tasks}
    rows = []
    for split in dict.fromkeys(scores.splits.tolist()):
        chosen = np.flatnonzero(scores.splits == split)
        different: dict[bytes, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {
            scores.train[k].tobytes() + scores.test[k].tobytes(): (scores.train[k], scores.test[k]) for k in chosen
        }
        parts = list(different.values())
        shared = {
            name: max(len(np.intersect1d(values[train], values[test])) for train, test in parts)
            for name, values in labels.items()
        }
        copies = np.full(4, -1)
        if pair is not None:
            found = [(twins(pair.u[train], pair.u[test]), twins(pair.e[train], pair.e[test])) for train, test in parts]
            copies = np.array([[u[0], e[0], u[1], e[1]] for u, e in found]).max(axis=0)
        rule = {"ids": scores.ids, "instructions": scores.instructions, "tasks": scores.tasks}
        overlap = any(forbidden_overlap(holdout, train, test, **rule) for train, test in parts)
        rows.append(
            base
            | {
                "holdout": holdout,
                "split": split,
                "partitions": len(parts),
                "kept_apart": ", ".join(NO_OVERLAP[holdout]),
            }
            | {"n_train": int(parts[0][0].sum()), "n_test": int(parts[0][1].sum())}
            | {f"shared_{name}": count for name, count in shared.items()}
            | dict(zip(("equal_u", "equal_e", "close_u", "close_e"), copies.tolist(), strict=True))
            | {"verdict": "overlap" if overlap else "near-duplicates" if copies.max() > 0 else "clean"}
        )
    return rows
