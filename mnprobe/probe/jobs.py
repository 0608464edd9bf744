"""One unit of probe work: fit heads on one training set, score them on one or several test sets."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.core.errors import TooFewSamples
from mnprobe.probe._arrays import torch_threads
from mnprobe.probe.bound import held_out_bound
from mnprobe.probe.components import principal_components, widen
from mnprobe.probe.config import AlignConfig, Control
from mnprobe.probe.fit import FitResult, Validation, fit_heads
from mnprobe.probe.heads import AlignmentHeads, save_heads
from mnprobe.probe.items import Items
from mnprobe.probe.join import PIXELS
from mnprobe.probe.pairs import Pair
from mnprobe.probe.retrieval import DirectionRecall, recall_at_k
from mnprobe.probe.shuffled import shuffled_groups

__all__ = ["DIRECTIONS", "Job", "Record", "check_groups", "fit_key", "run_jobs"]

DIRECTIONS = ("u2e", "e2u")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train on `train` (with true or shuffled pairs) by one seed, and test on each of `tests` (split name -> rows)."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    tests: Mapping[str, NDArray[np.int64]]
    seed: int
    draw: int
    control: Control = "none"
    heads_file: Path | None = None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one job measured on one test set; every list holds u2e and e2u."""

    split: str
    seed: int
    draw: int
    recall: dict[int, list[float]]
    chance: dict[int, list[float]]
    tied: list[float]
    bound: list[float]
    hits: dict[int, list[NDArray[np.float64]]]  # one number per row of the pair; NaN where it was no query
    n_test: int
    n_groups: int
    n_gallery: int
    n_train: int
    n_train_groups: int
    ended: str


def check_groups(items: Items, rows: NDArray[np.int64], config: AlignConfig, where: str) -> None:
    """Retrieval among one group is always right: refuse test and training sets of fewer than two groups."""
    groups = np.unique(items.groups(config.pairing)[rows])
    if len(groups) < 2:
        raise TooFewSamples(
            f"{where}: {len(rows)} episodes of {len(groups)} {config.pairing}s; telling {config.pairing}s apart needs "
            "at least 2 of them"
        )


def fit_key(pair: Pair, job: Job, config: AlignConfig) -> str:
    """Stands for everything that the heads depend on: jobs of one key, of whichever pairs, need one fit."""
    total = hashlib.sha256()
    for rows in (job.train, job.validation):
        for array in (pair.u[rows], pair.e[rows]):
            total.update(repr((array.shape, array.dtype.str)).encode())
            total.update(np.ascontiguousarray(array).data)
        total.update("\0".join(map(str, pair.items.groups(config.pairing)[rows])).encode())
    draw = job.draw if job.control == "shuffled" else -1  # decides how pairs are shuffled, and nothing else
    total.update(repr((job.control, job.seed, draw, pair.origin_u.model == PIXELS)).encode())
    return total.hexdigest()


def run_jobs(work: Sequence[tuple[Pair, Job]], config: AlignConfig) -> list[list[Record]]:
    """Fit once for jobs of one `fit_key`, and score each, in one torch thread; the same numbers in any process."""
    with torch_threads(1):
        result = _fit(*work[0], config)
        found = []
        for pair, job in work:
            if job.heads_file is not None:
                save_heads(job.heads_file, result.heads, job.fitted_on)
            found.append([_score(pair, job, config, result, split, rows) for split, rows in job.tests.items()])
        return found


def _fit(pair: Pair, job: Job, config: AlignConfig) -> FitResult:
    groups = pair.items.groups(config.pairing)
    labels = groups[job.train]
    labels_e = shuffled_groups(labels, seed=1000 * job.draw + job.seed) if job.control == "shuffled" else labels
    held = job.validation
    u, u_held = (torch.from_numpy(pair.u[rows]) for rows in (job.train, held))
    few = None
    if pair.origin_u.model == PIXELS and 0 < config.pixel_components < u.shape[1]:
        few = principal_components(u, config.pixel_components)  # of raw pixels, training episodes only
        u, u_held = few.of(u), few.of(u_held)
    result = fit_heads(
        u,
        pair.e[job.train],
        labels,
        labels_e,
        config=config.fit,
        seed=job.seed,
        validation=Validation(u_held, pair.e[held], groups[held], groups[held]) if config.fit.early_stop else None,
    )
    return result if few is None else replace(result, heads=widen(result.heads, few))


def _score(pair: Pair, job: Job, config: AlignConfig, result: FitResult, split: str, rows: NDArray[np.int64]) -> Record:
    groups = pair.items.groups(config.pairing)
    z_u, z_e = _map(result.heads, pair, rows)
    ids = pair.items.ids[rows]
    found = recall_at_k(
        z_u, z_e, groups[rows], groups[rows], k=config.k, exclude_own=config.exclude_own, ids_u=ids, ids_e=ids
    )
    bound = held_out_bound(
        z_u,
        z_e,
        groups[rows],
        groups[rows],
        tau=config.fit.tau,
        batch=config.fit.batch,
        draws=config.bound_draws,
        seed=job.seed,
    )
    sides = (found.u2e, found.e2u)
    return Record(
        split=split,
        seed=job.seed,
        draw=job.draw,
        recall={k: [side.recall(k) for side in sides] for k in config.k},
        chance={k: [side.chance[k] for side in sides] for k in config.k},
        tied=[side.tied_share for side in sides],
        bound=[bound.u2e, bound.e2u],
        hits={k: [_spread_out(side, k, rows, len(pair.items)) for side in sides] for k in config.k},
        n_test=len(rows),
        n_groups=len(np.unique(groups[rows])),
        n_gallery=found.u2e.n_gallery,
        n_train=len(job.train),
        n_train_groups=len(np.unique(groups[job.train])),
        ended=result.ended,
    )


def _map(heads: AlignmentHeads, pair: Pair, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        z_u, z_e = heads(torch.from_numpy(pair.u[rows]), torch.from_numpy(pair.e[rows]))
    return z_u, z_e


def _spread_out(side: DirectionRecall, k: int, rows: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    values = np.full(total, np.nan)
    values[rows[side.queries]] = side.hits[k]
    return values
