"""Proof that training and test sets share nothing that the holdout keeps apart: results/leakage.csv."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.probe.hits import HitScores
from mnprobe.probe.pairs import Pair

__all__ = ["CLOSE", "LEAKAGE_COLUMNS", "leakage_table", "twins"]

CLOSE = 0.9999
"""Rows with a cosine above this, after standardising by the training set, count as near-duplicates."""

_KEPT_APART = {"episodes": ("episodes",), "instructions": ("episodes", "instructions")}
_KEPT_APART["tasks"] = ("episodes", "instructions", "tasks")
_BLOCK = 2048

LEAKAGE_COLUMNS = (
    *("understanding", "execution", "source_u", "source_e", "step_u", "step_e", "holdout", "split", "mode"),
    *("partitions", "n_train", "n_test", "shared_episodes", "shared_instructions", "shared_tasks", "kept_apart"),
    *("equal_u", "equal_e", "close_u", "close_e", "verdict"),
)


def leakage_table(scores: Sequence[HitScores], pairs: Sequence[Pair | None]) -> pd.DataFrame:
    """One row per measurement and split: what training and test share, in the worst of all its partitions.

    The partitions are those that the heads were fitted and tested on, as they were recorded, not drawn again.

    - `shared_episodes`, `shared_instructions`, `shared_tasks`: how many are on both sides. `kept_apart` names those
      that must be 0 under this holdout (episodes: the ids; instructions: those too; tasks: all three).
    - `equal_u`, `equal_e`: test rows of which an exact copy is among the training rows of the same side.
    - `close_u`, `close_e`: test rows with a training row at cosine above 0.9999 after standardising by the training
      set (equal ones included). -1 where features were not given.
    - `verdict`: "overlap" where something that must be 0 is not, "near-duplicates" where copies are found, else
      "clean".

    Args:
        scores: measurements, from `read_hits`.
        pairs: the features of each, rows in the order of its episodes; None where copies need not be looked for.
    """
    rows = [row for one, pair in zip(scores, pairs, strict=True) for row in _rows(one, pair)]
    table = pd.DataFrame(rows, columns=list(LEAKAGE_COLUMNS))
    return table.sort_values(list(LEAKAGE_COLUMNS[:9]), kind="stable", ignore_index=True)


def twins(train: NDArray[Any], test: NDArray[Any], *, close: float = CLOSE) -> tuple[int, int]:
    """How many test rows have an exact copy among the training rows, and how many a near one.

    Near: cosine above `close` after standardising with the training mean and deviation (columns that are constant in
    training are centred only), or equal.

    >>> twins(np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]), np.array([[1.0, 2.0], [5.0, 5.0]]))
    (1, 1)
    """
    known = {row.tobytes() for row in np.ascontiguousarray(train)}
    equal = np.array([row.tobytes() in known for row in np.ascontiguousarray(test)], dtype=np.bool_)
    mean, deviation = train.astype(np.float64).mean(0), train.astype(np.float64).std(0)
    scale = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-12), deviation, 1.0)
    one, other = (_unit((rows.astype(np.float64) - mean) / scale) for rows in (train, test))
    near = equal.copy()
    for start in range(0, len(other), _BLOCK):
        part = slice(start, start + _BLOCK)
        near[part] |= (other[part] @ one.T).max(axis=1, initial=-1.0) > close
    return int(equal.sum()), int(near.sum())


def _rows(scores: HitScores, pair: Pair | None) -> list[dict[str, Any]]:
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
        overlap = any(shared[name] for name in _KEPT_APART[holdout])
        rows.append(
            base
            | {
                "holdout": holdout,
                "split": split,
                "partitions": len(parts),
                "kept_apart": ", ".join(_KEPT_APART[holdout]),
            }
            | {"n_train": int(parts[0][0].sum()), "n_test": int(parts[0][1].sum())}
            | {f"shared_{name}": count for name, count in shared.items()}
            | dict(zip(("equal_u", "equal_e", "close_u", "close_e"), copies.tolist(), strict=True))
            | {"verdict": "overlap" if overlap else "near-duplicates" if copies.max() > 0 else "clean"}
        )
    return rows


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0), dtype=np.float64)
