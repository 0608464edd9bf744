"""The measurement: probe pairs of models, held-out retrieval with controls, one tidy row per number."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.core.arrays import Number, Whole, as_positive, as_whole
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.progress import progress
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.hits import hit_scores, hits_name, write_hits
from mnprobe.probe.jobs import Job, Record, fit_key, run_jobs
from mnprobe.probe.measure import contrast_rows, measured_rows
from mnprobe.probe.pairs import Pair
from mnprobe.probe.plan import NoOutcomes, Unit, plan_units
from mnprobe.probe.rows import IDENTITY, to_frame

__all__ = ["align", "align_into", "in_order"]

Keep = Callable[[pd.DataFrame, pd.DataFrame], None]
"""Saves: given the whole table of this command, and those of its rows that were measured since the last call."""


@dataclass(frozen=True)
class _Work:
    """A unit of one pair, and what its rows have in common."""

    pair: Pair
    unit: Unit
    base: dict[str, Any]


def align(
    pairs: Pair | Sequence[Pair],
    config: AlignConfig | None = None,
    *,
    n_jobs: Whole = 1,
    previous: pd.DataFrame | None = None,
    heads: Path | None = None,
    hits: Path | None = None,
    on_rows: Callable[[pd.DataFrame], None] | None = None,
    every: Number = 0.0,
    quiet: bool = True,
) -> pd.DataFrame:
    """Measure how far u and e of each pair agree: fit T_u and T_e, then bidirectional Recall@k on held-out episodes.

    Args:
        pairs: what to probe, from `pair_arrays` or `pair_files`.
        config: all settings; by default those of DESIGN 6: episodes and instructions held out side by side, 5 probe
            seeds, 3 random splits, the control with shuffled pairs.
        n_jobs: processes (joblib, loky); -1 for one per core. The numbers do not depend on it.
        previous: an earlier result. Measurements in it with the same settings and features are kept, others of the same
            name are replaced, all else stays.
        heads: folder for the heads of the first seed and split of each measurement; none are written when not given.
        hits: folder for the score of every test episode (`read_hits`), one file per measurement; none when not given.
        on_rows: called with the whole table each time a measurement is finished, to save it.
        every: seconds that pass at least between two such calls; the last one, also of an interrupted run, has all.
        quiet: show no progress on standard error.

    Returns:
        A table with the columns of `mnprobe.probe.rows.COLUMNS`; `frame.attrs["notes"]` lists in words what was left
        out and which intervals are not to be relied on.

    Raises:
        TooFewSamples: nothing can be measured, or a holdout asked for by name cannot; says how many there are.
        ProbeError: success and failure were asked for but outcomes are not known for any pair.
        ConfigError: the same pair is given twice, or a number of processes or seconds is impossible.

    >>> import numpy as np
    >>> from mnprobe.probe import FitConfig, pair_arrays
    >>> x = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    >>> config = AlignConfig(fit=FitConfig(dim=8, steps=2), seeds=1, splits=1, shuffled=False, holdout="episodes")
    >>> table = align(pair_arrays(x, x, [f"do {i % 4}" for i in range(24)]), config)
    >>> sorted(table["direction"].unique())
    ['e2u', 'mean', 'u2e']
    """
    n_jobs = as_whole(n_jobs, "n_jobs", least=-1)
    if not n_jobs:
        raise ConfigError("n_jobs must be a number of processes, or -1 for one per core, got 0")
    every = as_positive(every, "every", zero=True)

    def keep(frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        if on_rows is not None:
            on_rows(frame)

    chosen = [pairs] if isinstance(pairs, Pair) else list(pairs)
    return align_into(
        keep,
        chosen,
        config or AlignConfig(),
        n_jobs=n_jobs,
        previous=previous,
        heads=heads,
        hits=hits,
        every=every,
        quiet=quiet,
    )


def align_into(
    keep: Keep,
    chosen: Sequence[Pair],
    config: AlignConfig,
    *,
    n_jobs: int,
    previous: pd.DataFrame | None,
    heads: Path | None,
    hits: Path | None,
    every: float,
    quiet: bool,
) -> pd.DataFrame:
    """As `align`, for tables that others may change meanwhile: `keep` is told which rows are new."""
    notes: list[str] = []
    work = _all_planned(chosen, config, heads, notes)
    _refuse_doubles(work)
    frame, todo = _resume(previous, work, hits)
    tasks = _tasks(todo, config)
    table = _Table(frame, keep, every)
    with progress("aligning (fits)", len(tasks), quiet=quiet) as advance, closing(table):
        found: list[dict[int, list[Record]]] = [{} for _ in todo]
        for task, results in zip(tasks, _run(todo, tasks, config, n_jobs), strict=True):
            advance()
            for (place, number), records in zip(task, results, strict=True):
                found[place][number] = records
                if len(found[place]) == len(todo[place].unit.jobs):
                    ordered = [record for number in sorted(found[place]) for record in found[place][number]]
                    item = todo[place]
                    table.add(_rows(item, ordered, config, notes))
                    if hits is not None:
                        scores = hit_scores(item.base, item.pair.items, item.unit.jobs, ordered)
                        write_hits(hits / hits_name(item.base, item.unit.splits), scores)
                    found[place] = {}
            table.save()
    frame = table.frame
    frame.attrs["notes"] = list(dict.fromkeys(notes))
    return frame


class _Table:
    """The growing table: rows wait until it is time to save, as sorting and writing it costs more than a fit."""

    def __init__(self, frame: pd.DataFrame, keep: Keep, every: float) -> None:
        self.frame = in_order(frame)
        self._keep = keep
        self._every = every
        self._waiting: list[pd.DataFrame] = []
        self._saved = time.monotonic()

    def add(self, rows: pd.DataFrame) -> None:
        self._waiting.append(rows)

    def save(self, *, now: bool = False) -> None:
        if not self._waiting or not (now or time.monotonic() - self._saved >= self._every):
            return
        fresh = pd.concat(self._waiting, ignore_index=True)
        self._waiting = []
        self.frame = in_order(self.frame, fresh)
        self._keep(self.frame, fresh)
        self._saved = time.monotonic()

    def close(self) -> None:
        self.save(now=True)


def _all_planned(pairs: Sequence[Pair], config: AlignConfig, heads: Path | None, notes: list[str]) -> list[_Work]:
    """The work of all pairs; of several, those whose outcomes cannot be compared are left out with a note.

    (Demonstrations have no failures, while the policy's own episodes beside them have.)
    """
    work: list[_Work] = []
    refusals: list[NoOutcomes | TooFewSamples] = []
    left_out = 0
    for pair in pairs:
        if pair.is_control and config.split != "all" and not all(one.is_control for one in pairs):
            left_out += 1
            continue
        try:
            work += _planned(pair, config, heads, notes)
        except (NoOutcomes, TooFewSamples) as error:
            if config.split == "all" or len(pairs) == 1:
                raise
            refusals.append(type(error)(f"{_where(pair)}left out. {error}"))
    if refusals and not work:
        told = "\n  ".join(map(str, refusals))
        raise type(refusals[0])(f"none of {len(refusals)} pairs can be measured:\n  {told}")
    notes += map(str, refusals)
    if left_out:
        notes.append(f"{left_out} control pairs (pixels, instruction blanked) are not split by success")
    return work


def _where(pair: Pair) -> str:
    u, e = pair.origin_u, pair.origin_e
    return f"{u.model} step {u.step} x {e.model} step {e.step} ({e.source}): "


def _planned(pair: Pair, config: AlignConfig, heads: Path | None, notes: list[str]) -> Iterator[_Work]:
    digest = pair.digest()
    u, e = pair.origin_u, pair.origin_e
    notes += pair.items.notes
    name = None if heads is None else heads / _heads_name(pair, config, digest)
    units, found = plan_units(pair.items, config, name, across=pair.across, control=pair.is_control)
    notes += [_where(pair) + note for note in found]
    for unit in units:
        base = {
            "understanding": u.model,
            "execution": e.model,
            "source_u": u.source,
            "source_e": e.source,
            "step_u": u.step,
            "step_e": e.step,
            "trained_u": u.trained,
            "trained_e": e.trained,
            "layer_u": u.layer,
            "layer_e": e.layer,
            "pool_u": u.pool,
            "pool_e": e.pool,
            "heads": config.fit.heads,
            "pairing": config.pairing,
            "loss": config.fit.positives,
            "tau": config.fit.tau,
            "holdout": unit.holdout,
            "mode": unit.mode,
            "control": unit.control,
            "fit_source": pair.fit_source or u.source,
            "batch": config.fit.batch,
            "config_hash": config.digest(),
            "features_hash": digest,
        }
        jobs = tuple(
            replace(job, fitted_on=_fitted_on(pair, config, base, job)) if job.heads_file else job for job in unit.jobs
        )
        yield _Work(pair, replace(unit, jobs=jobs), base)


def _heads_name(pair: Pair, config: AlignConfig, digest: str) -> str:
    """A file name that says what the heads were fitted on; `{holdout}` is filled in later."""
    parts = f"{pair.origin_u}__{pair.origin_e}__{config.pairing}-{config.fit.heads}"
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in parts)
    return f"{safe}-{{holdout}}-seed0-{digest[:8]}{config.digest()[:8]}.safetensors"


def _fitted_on(pair: Pair, config: AlignConfig, base: dict[str, Any], job: Job) -> dict[str, Any]:
    return base | {
        "config": config.measurement(),
        "origin_u": asdict(pair.origin_u),
        "origin_e": asdict(pair.origin_e),
        "seed": job.seed,
        "draw": job.draw,
        "train_ids": pair.items.ids[job.train].tolist(),
        "test_ids": {name: pair.items.ids[rows].tolist() for name, rows in job.tests.items()},
    }


_Task = tuple[tuple[int, int], ...]  # (place of the work, number of its job): one fit serves all of them


def _tasks(todo: Sequence[_Work], config: AlignConfig) -> list[_Task]:
    """The fits that are needed. Jobs with the same training set, labels and seed share one, also across pairs.

    So heads that demonstrations fit are fitted once for demonstrations and rollouts together.
    """
    shared: dict[str, list[tuple[int, int]]] = {}
    for place, item in enumerate(todo):
        for number, job in enumerate(item.unit.jobs):
            shared.setdefault(fit_key(item.pair, job, config), []).append((place, number))
    return [tuple(jobs) for jobs in shared.values()]


def _run(
    todo: Sequence[_Work], tasks: Sequence[_Task], config: AlignConfig, n_jobs: int
) -> Iterator[list[list[Record]]]:
    """Records of all tasks in their order, however many processes there are."""
    work = ([(todo[place].pair, todo[place].unit.jobs[number]) for place, number in task] for task in tasks)
    if n_jobs == 1 or len(tasks) < 2:
        for one in work:
            yield run_jobs(one, config)
        return
    from joblib import Parallel, delayed  # only when processes are wanted

    parallel = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator")
    yield from parallel(delayed(run_jobs)(one, config) for one in work)


def _rows(item: _Work, records: Sequence[Record], config: AlignConfig, notes: list[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    by_split = {split: [record for record in records if record.split == split] for split in item.unit.splits}
    file = next((job.heads_file for job in item.unit.jobs if job.heads_file is not None), None)
    for split, own in by_split.items():
        name = "" if file is None else f"{file.parent.name}/{file.name}"
        found, remarks = measured_rows(own, item.pair.items, config, item.base | {"split": split}, name)
        rows += found
        where = f"{item.base['understanding']} step {item.base['step_u']} x {item.base['execution']} step "
        where += f"{item.base['step_e']}, {item.unit.holdout} held out, {split}: "
        notes += [where + remark for remark in remarks if item.unit.control == "none"]
    for side in ("understanding", "execution"):
        names = (f"{side}-success", f"{side}-failure")
        if item.unit.control == "none" and all(name in by_split for name in names):
            bases = (item.base | {"split": names[0]}, item.base | {"split": names[1]})
            rows += contrast_rows(by_split[names[0]], by_split[names[1]], item.pair.items, bases)
    return to_frame(rows)


def _identities(frame: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[Any]":
    return frame[list(columns)].astype(str).agg("\0".join, axis=1)


def _resume(
    previous: pd.DataFrame | None, work: Sequence[_Work], hits: Path | None
) -> tuple[pd.DataFrame, list[_Work]]:
    """What is kept of an earlier table, and the work that is left."""
    if previous is None or previous.empty:
        return to_frame([]), list(work)
    columns = (*IDENTITY, "config_hash", "features_hash")
    whole, bare = _identities(previous, columns), _identities(previous, IDENTITY)
    todo: list[_Work] = []
    stale = pd.Series(False, index=previous.index)
    for item in work:
        cells = [item.base | {"split": split} for split in item.unit.splits]
        keys = {"\0".join(str(cell[column]) for column in columns) for cell in cells}
        files = [job.heads_file for job in item.unit.jobs if job.heads_file is not None]
        files += [] if hits is None else [hits / hits_name(item.base, item.unit.splits)]
        if keys <= set(whole) and all(file.is_file() for file in files):
            continue
        todo.append(item)
        stale |= bare.isin({"\0".join(str(cell[column]) for column in IDENTITY) for cell in cells})
    return previous[~stale].reset_index(drop=True), todo


def _refuse_doubles(work: Sequence[_Work]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for item in work:
        key = (*(item.base[name] for name in IDENTITY if name != "split"), item.unit.splits)
        if key in seen:
            base = item.base
            raise ConfigError(
                f"the same pair is given twice: {base['understanding']} step {base['step_u']} and "
                f"{base['execution']} step {base['step_e']}, layers {base['layer_u']!r} "
                f"and {base['layer_e']!r}. Give each pair its own names."
            )
        seen.add(key)


def in_order(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables as one, in an order that does not depend on which measurement was finished first."""
    frame = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    keys = [*IDENTITY, "config_hash", "metric", "direction", "statistic", "draw", "seed"]
    return frame.sort_values(keys, kind="stable", ignore_index=True)
