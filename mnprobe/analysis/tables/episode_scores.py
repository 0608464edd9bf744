"""Mean score and weight of each episode over seeds and draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.errors import ProbeError
from mnprobe.probe.scores import HitScores, described_hits
from mnprobe.probe.splits import independent_units

__all__ = ["EpisodeScores", "current_hits", "episode_scores"]


@dataclass(frozen=True, kw_only=True)
class EpisodeScores:
    """Test episodes of one split, each once.

    Attributes:
        units: what an interval leaves out as a whole (`independent_units`), mostly the instructions.
        unit: its name.
        hits: expected hit of each as a query, u2e and e2u (n, 2), mean over seeds and draws.
        weights: how much each weighs in the split's Recall@1: the sum over draws of 1 / (queries of the draw).
        times: how many draws tested it.
        chance: exact chance of the split, mean of both directions, mean over draws.
        n_test: test episodes of one draw; n_draws, n_seeds: how many of them.
    """

    ids: NDArray[Any]
    instructions: NDArray[Any]
    tasks: NDArray[Any]
    units: NDArray[Any]
    unit: str
    hits: NDArray[np.float64]
    weights: NDArray[np.float64]
    times: NDArray[np.int64]
    chance: float
    n_test: int
    n_draws: int
    n_seeds: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of both directions, (n,)."""
        return np.asarray(self.hits.mean(1), dtype=np.float64)

    @property
    def recall(self) -> float:
        """Recall@1, mean of both directions: the value of the table."""
        return float(np.average(self.mean, weights=self.weights))


def episode_scores(scores: HitScores, split: str = "all") -> EpisodeScores:
    """Average seeds inside each draw, then draws; ProbeError when the split was not measured.

    The weighted mean of the result is the row with statistic "mean" of results/alignment.csv.
    """
    chosen = np.flatnonzero(scores.splits == split)
    if not len(chosen):
        have = ", ".join(sorted(set(scores.splits.tolist())))
        raise ProbeError(f"split {split!r} was not measured; there are {have}")
    total = np.zeros((len(scores.ids), 2))
    weights = np.zeros(len(scores.ids))
    times = np.zeros(len(scores.ids), dtype=np.int64)
    chances = []
    for draw in np.unique(scores.draws[chosen]):
        records = chosen[scores.draws[chosen] == draw]
        hits = scores.hits[records].astype(np.float64).mean(0)
        queries = ~np.isnan(hits).any(axis=1)
        share = queries / queries.sum()
        total += np.where(queries[:, None], hits, 0.0) * share[:, None]
        weights += share
        times += queries
        chances.append(scores.chance[records].mean())
    keep = weights > 0
    units, unit = independent_units(scores.ids, scores.instructions, scores.tasks)
    first = chosen[scores.draws[chosen] == scores.draws[chosen].min()]
    return EpisodeScores(
        ids=scores.ids[keep],
        instructions=scores.instructions[keep],
        tasks=scores.tasks[keep],
        units=units[keep],
        unit=unit,
        hits=total[keep] / weights[keep, None],
        weights=weights[keep],
        times=times[keep],
        chance=float(np.mean(chances)),
        n_test=int(scores.test[first[0]].sum()),
        n_draws=len(chances),
        n_seeds=len(np.unique(scores.seeds[chosen])),
    )


def current_hits(folder: Path, table: pd.DataFrame, *, splits: Sequence[str]) -> list[Path]:
    """Files of scores behind rows of `table` (with config_hash and features_hash) and hold all `splits`."""
    keys = set(map(tuple, table[["config_hash", "features_hash"]].drop_duplicates().to_numpy().tolist()))
    found = []
    for path, about in described_hits(folder):
        if (about["config_hash"], about["features_hash"]) in keys and set(splits) <= _splits(path):
            found.append(path)
    return found


def _splits(path: Path) -> set[str]:
    with np.load(path, allow_pickle=False) as file:
        return set(file["splits"].tolist())
