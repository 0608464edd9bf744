"""Probe runs: planning, fitting and scoring the jobs of a measurement."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.core.errors import ProbeError, TooFewSamples
from mnprobe.core.names import PIXELS
from mnprobe.core.runtime import torch_threads
from mnprobe.probe.config import AlignConfig, Control, Mode
from mnprobe.probe.fitting import FitResult, Validation, fit_heads
from mnprobe.probe.heads import AlignmentHeads, principal_components, save_heads, widen
from mnprobe.probe.mutual_information import held_out_bound
from mnprobe.probe.outcome_balance import SETTINGS, Setting, Side, balanced_draw, measurable_sides, shared_training
from mnprobe.probe.pairs import FeaturePair
from mnprobe.probe.retrieval import DirectionRecall, gallery_draws, gallery_size, recall_at_k
from mnprobe.probe.sampling import shuffled_groups
from mnprobe.probe.splits import (
    Holdout,
    Items,
    Partition,
    check_pairing,
    has_partitions,
    hold_out,
    shared_wordings,
    unnamed_tasks,
)

__all__ = ["DIRECTIONS", "Job", "NoOutcomes", "Record", "Unit", "check_groups", "fit_key", "plan_units", "run_jobs"]

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
    """Result of one job on one test set; every list has u2e and e2u."""

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
    fit_steps: int
    fit_lr: float
    converged: bool


def check_groups(items: Items, rows: NDArray[np.int64], config: AlignConfig, where: str) -> None:
    """Raise TooFewSamples for rows of fewer than two groups: retrieval among one group is always right."""
    groups = np.unique(items.groups(config.pairing)[rows])
    if len(groups) < 2:
        raise TooFewSamples(
            f"{where}: {len(rows)} episodes of {len(groups)} {config.pairing}s; telling {config.pairing}s apart needs "
            "at least 2 of them"
        )


def fit_key(pair: FeaturePair, job: Job, config: AlignConfig) -> str:
    """Hash of all data that the heads depend on: jobs with equal keys, of any pairs, share one fit."""
    total = hashlib.sha256()
    for rows in (job.train, job.validation):
        for array in (pair.u[rows], pair.e[rows]):
            total.update(repr((array.shape, array.dtype.str)).encode())
            total.update(np.ascontiguousarray(array).data)
        total.update("\0".join(map(str, pair.items.groups(config.pairing)[rows])).encode())
    draw = job.draw if job.control == "shuffled" else -1  # only the shuffling depends on the draw
    total.update(repr((job.control, job.seed, draw, pair.origin_u.model == PIXELS)).encode())
    return total.hexdigest()


def run_jobs(work: Sequence[tuple[FeaturePair, Job]], config: AlignConfig) -> list[list[Record]]:
    """Fit once for jobs of one `fit_key`, and score each, in one torch thread; the same numbers in any process."""
    with torch_threads(1):
        result = _fit(*work[0], config)
        records = []
        for pair, job in work:
            if job.heads_file is not None:
                save_heads(job.heads_file, result.heads, job.fitted_on)
            records.append([_score(pair, job, config, result, split, rows) for split, rows in job.tests.items()])
        return records


def _fit(pair: FeaturePair, job: Job, config: AlignConfig) -> FitResult:
    groups = pair.items.groups(config.pairing)
    labels = groups[job.train]
    labels_e = shuffled_groups(labels, seed=1000 * job.draw + job.seed) if job.control == "shuffled" else labels
    held = job.validation
    u, u_held = (torch.from_numpy(pair.u[rows]) for rows in (job.train, held))
    components = None
    if pair.origin_u.model == PIXELS and 0 < config.pixel_components < u.shape[1]:
        components = principal_components(u, config.pixel_components)  # of raw pixels, training episodes only
        u, u_held = components.of(u), components.of(u_held)
    result = fit_heads(
        u,
        pair.e[job.train],
        labels,
        labels_e,
        config=config.fit,
        seed=job.seed,
        validation=Validation(u_held, pair.e[held], groups[held], groups[held]) if config.fit.early_stop else None,
    )
    return result if components is None else replace(result, heads=widen(result.heads, components))


def _score(
    pair: FeaturePair, job: Job, config: AlignConfig, result: FitResult, split: str, rows: NDArray[np.int64]
) -> Record:
    groups = pair.items.groups(config.pairing)
    z_u, z_e = _map(result.heads, pair, rows)
    ids = pair.items.ids[rows]
    retrieval = recall_at_k(
        z_u,
        z_e,
        groups[rows],
        groups[rows],
        k=config.k,
        exclude_own=config.exclude_own,
        ids_u=ids,
        ids_e=ids,
        gallery=config.gallery,
        seed=job.draw,  # all probe seeds, and the control, meet the same galleries
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
    sides = (retrieval.u2e, retrieval.e2u)
    return Record(
        split=split,
        seed=job.seed,
        draw=job.draw,
        recall={k: [side.recall(k) for side in sides] for k in config.k},
        chance={k: [side.chance[k] for side in sides] for k in config.k},
        tied=[side.tied_share for side in sides],
        bound=[bound.u2e, bound.e2u],
        hits={k: [_per_episode(side, k, rows, len(pair.items)) for side in sides] for k in config.k},
        n_test=len(rows),
        n_groups=len(np.unique(groups[rows])),
        n_gallery=retrieval.u2e.n_gallery,
        n_train=len(job.train),
        n_train_groups=len(np.unique(groups[job.train])),
        fit_steps=result.steps_run,
        fit_lr=result.lr,
        converged=result.converged,
    )


def _map(heads: AlignmentHeads, pair: FeaturePair, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        z_u, z_e = heads(torch.from_numpy(pair.u[rows]), torch.from_numpy(pair.e[rows]))
    return z_u, z_e


def _per_episode(side: DirectionRecall, k: int, rows: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    values = np.full(total, np.nan)
    values[rows[side.queries]] = side.hits[k]
    return values


class NoOutcomes(ProbeError):
    """Success and failure were requested, but outcomes are unknown or all equal."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Fits that are measured, reported, saved and resumed together; `splits` are the rows of the table they fill."""

    holdout: Holdout
    splits: tuple[str, ...]
    mode: Mode
    control: Control
    jobs: tuple[Job, ...]


def plan_units(
    items: Items, config: AlignConfig, heads_file: Path | None, *, across: bool = False, control: bool = False
) -> tuple[list[Unit], list[str]]:
    """All units for one pair, and notes about what is left out and why.

    With `across`, training and test episodes are of two sources (see `pair_across`). A pair that is itself a `control`
    takes at most `config.control_seeds` probe seeds and has no control with shuffled pairs.

    Seeds and draws are crossed at one point only: every probe seed with the first draw, every further draw with the
    first seed. This separates their spreads with seeds + draws - 1 fits. With the default "both", a holdout that the
    data do not allow is left out with a note; if requested by name, it is an error.

    Raises TooFewSamples and ProbeError when nothing that was requested can be measured.
    """
    if control:
        config = replace(config, seeds=min(config.seeds, config.control_seeds), shuffled=False)
    check_pairing(items, config.pairing)
    units: list[Unit] = []
    notes: list[str] = []
    failures: list[TooFewSamples] = []
    for holdout in config.holdouts:
        path = None if heads_file is None else heads_file.with_name(heads_file.name.format(holdout=holdout))
        try:
            if config.split == "all":
                units += _plain_units(items, config, holdout, path, notes)
            else:
                units += _outcome_units(items, config, holdout, notes, across)
        except TooFewSamples as error:
            if config.holdout != "both":
                raise
            notes.append(f"{holdout} held out: left out. {error}")
            failures.append(error)
    if not units:
        reasons = "\n  ".join(str(error) for error in failures)
        raise TooFewSamples(f"nothing can be measured:\n  {reasons}")
    notes += _single_episode_notes(items, config, units)
    notes += _gallery_notes(config, units)
    return units, list(dict.fromkeys(notes))


def _single_episode_notes(items: Items, config: AlignConfig, units: Sequence[Unit]) -> list[str]:
    """A sentence for each holdout whose groups have one tested episode each: then only the own episode can be found."""
    if config.pairing == "episode":
        return []
    groups = items.groups(config.pairing)
    notes = []
    for holdout in dict.fromkeys(unit.holdout for unit in units):
        tested = [rows for unit in units if unit.holdout == holdout for job in unit.jobs for rows in job.tests.values()]
        if all(len(np.unique(groups[rows])) == len(rows) for rows in tested):
            notes.append(
                f"{holdout} held out: {len(tested[0])} groups of {len(tested[0])} tested episodes: every "
                f"{config.pairing} occurs once among them, so that recall by {config.pairing} is recall of the own "
                "episode. --pairing episode names it so; --pairing task asks whether the same task is found"
            )
    return notes


def _gallery_notes(config: AlignConfig, units: Sequence[Unit]) -> list[str]:
    """A sentence for each number of tested episodes that are ranked against random ones, not against all."""
    notes = []
    for unit in units:
        for tested in sorted({len(rows) for job in unit.jobs for rows in job.tests.values()}):
            size = gallery_size(config.gallery, tested)
            if size is not None:
                notes.append(
                    f"{unit.holdout} held out: {tested} tested episodes are ranked in {gallery_draws(size, tested)} "
                    f"random galleries of {size}: recall, chance and interval are of a gallery of this size "
                    "(n_gallery). --gallery chooses another, 0 takes all episodes"
                )
    return notes


def _plain_units(
    items: Items, config: AlignConfig, holdout: Holdout, heads_file: Path | None, notes: list[str]
) -> list[Unit]:
    fixed = holdout == "episodes" and has_partitions(items)
    partitions = [_partition(items, config, holdout, draw) for draw in range(1 if fixed else config.splits)]
    notes += [f"{holdout} held out: {partition.note}" for partition in partitions if partition.note]
    jobs = [
        Job(
            train=partitions[draw].train,
            validation=partitions[draw].validation,
            tests={"all": partitions[draw].test},
            seed=seed,
            draw=draw,
            heads_file=heads_file if (seed, draw) == (0, 0) else None,
        )
        for seed, draw in _crossed(config.seeds, len(partitions))
    ]
    true = Unit(holdout=holdout, splits=("all",), mode="own-probe", control="none", jobs=tuple(jobs))
    if not config.shuffled:
        return [true]
    return [true, _shuffled(true, config)]


def _shuffled(unit: Unit, config: AlignConfig) -> Unit:
    """Fits on shuffled pairs, with the test sets of the true pairs and fewer seeds, to compare the two."""
    repeated = [job for job in unit.jobs if job.seed < config.shuffled_seeds]
    jobs = tuple(replace(job, control="shuffled", heads_file=None) for job in repeated)
    return replace(unit, control="shuffled", jobs=jobs)


def _partition(items: Items, config: AlignConfig, holdout: Holdout, draw: int) -> Partition:
    share = 0.2 if config.fit.early_stop else 0.0
    partition = hold_out(items, holdout, seed=draw, test_share=config.test_share, validation_share=share)
    check_groups(items, partition.train, config, f"training set with {holdout} held out")
    check_groups(items, partition.test, config, f"test set with {holdout} held out")
    return partition


def _outcome_units(items: Items, config: AlignConfig, holdout: Holdout, notes: list[str], across: bool) -> list[Unit]:
    if config.fit.early_stop:
        raise ProbeError("early stopping takes a part of the few episodes that success and failure share: leave it off")
    sides, missing = measurable_sides(items, np.flatnonzero(items.partitions == "test") if across else None)
    wanted = [setting for setting in SETTINGS if config.split in ("success", setting)]
    if not sides or not any(setting.startswith(side) for setting in wanted for side in sides):
        relevant = [text for text in missing if any(setting.startswith(text.split()[0]) for setting in wanted)]
        raise NoOutcomes(f"--split {config.split} cannot be measured. " + ". ".join(relevant))
    notes += missing
    if unnamed := unnamed_tasks(items.instructions, items.tasks):
        notes.append(f"success and failure are not compared within tasks: {unnamed}")
    if holdout == "tasks" and (shared := shared_wordings(items)):
        notes.append(f"{holdout} held out: {shared}")
    units: list[Unit] = []
    errors: list[str] = []
    for mode in config.modes:
        try:
            units += _mode_units(items, config, holdout, mode, sides, wanted, notes, across)
        except TooFewSamples as error:
            errors.append(f"{mode}: {error}" if across else str(error))
    if not units:
        raise TooFewSamples("; ".join(dict.fromkeys(errors)))
    notes += [f"{holdout} held out, {error}" for error in errors]
    return units


def _mode_units(
    items: Items,
    config: AlignConfig,
    holdout: Holdout,
    mode: Mode,
    sides: Sequence[Side],
    wanted: Sequence[Setting],
    notes: list[str],
    across: bool,
) -> list[Unit]:
    """Units of one mode; a shared probe of another source is trained on its training episodes, whatever their outcome.

    Raises TooFewSamples when too few outcomes can be matched.
    """
    test_only = across and mode == "shared-probe"
    drawn = _drawn(items, config, holdout, sides, notes, test_only)
    wanted = [setting for setting in wanted if setting in drawn[0]]
    if not wanted:
        raise TooFewSamples(f"--split {config.split}: too few matched episodes with {holdout} held out")
    jobs: list[Job] = []
    empty = np.zeros(0, dtype=np.int64)
    for seed, draw in _crossed(config.seeds, config.draws):
        tests: dict[str, NDArray[np.int64]] = {setting: drawn[draw][setting].test for setting in wanted}
        if mode == "shared-probe":
            train = shared_training(items, holdout, drawn[draw])
            check_groups(items, train, config, f"training set of the shared probe, {holdout} held out")
            jobs.append(Job(train=train, validation=empty, tests=tests, seed=seed, draw=draw))
        else:
            jobs += [
                Job(train=found.train, validation=empty, tests={name: found.test}, seed=seed, draw=draw)
                for name, found in drawn[draw].items()
                if name in wanted
            ]
    unit = Unit(holdout=holdout, splits=tuple(wanted), mode=mode, control="none", jobs=tuple(jobs))
    if not config.shuffled or mode != "own-probe":
        return [unit]
    first = replace(unit, jobs=tuple(job for job in jobs if job.draw == 0))  # the first draw is enough to detect a leak
    return [unit, _shuffled(first, config)]


def _drawn(
    items: Items, config: AlignConfig, holdout: Holdout, sides: Sequence[Side], notes: list[str], test_only: bool
) -> list[dict[Setting, Partition]]:
    """All draws; a side whose outcomes cannot be matched is left out with a note, if the other one can."""
    able: list[Side] = []
    errors: list[TooFewSamples] = []
    for side in sides:
        try:
            _draw(items, config, holdout, [side], 0, test_only)
        except TooFewSamples as error:
            errors.append(error)
        else:
            able.append(side)
    if not able:
        raise TooFewSamples("; ".join(str(error) for error in errors))
    notes += [f"left out: {error}" for error in errors]
    return [_draw(items, config, holdout, able, draw, test_only) for draw in range(config.draws)]


def _draw(
    items: Items, config: AlignConfig, holdout: Holdout, sides: Sequence[Side], draw: int, test_only: bool
) -> dict[Setting, Partition]:
    drawn = balanced_draw(items, holdout, sides=sides, draw=draw, test_share=config.test_share, test_only=test_only)
    for setting, partition in drawn.items():
        if not test_only:
            check_groups(items, partition.train, config, f"training set of {setting}, {holdout} held out")
        check_groups(items, partition.test, config, f"test set of {setting}, {holdout} held out")
    return drawn


def _crossed(seeds: int, draws: int) -> list[tuple[int, int]]:
    return [(seed, 0) for seed in range(seeds)] + [(0, draw) for draw in range(1, draws)]
