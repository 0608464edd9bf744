"""The alignment measurement on pairs of arrays and on stored features."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from mnprobe.core.arrays import Number, Whole, as_positive, as_whole
from mnprobe.core.cluster import on_workers, spread
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.files import update_table, whole_file
from mnprobe.core.names import PIXELS, LayerId
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash
from mnprobe.features import open_features
from mnprobe.probe.config import AlignConfig, check_settings, record_settings
from mnprobe.probe.outcome_balance import SETTINGS
from mnprobe.probe.pairs import Episodes, FeaturePair, PairRecipe, StoredPair, pair_across
from mnprobe.probe.results import (
    ALIGNMENT,
    HELD_OUT,
    HELD_OUT_FILE,
    IDENTITY,
    contrast_rows,
    convergence_note,
    measured_rows,
    to_frame,
    write_alignment,
)
from mnprobe.probe.runs import Job, NoOutcomes, Record, Unit, fit_key, plan_units, run_jobs
from mnprobe.probe.scores import hit_scores, hits_name, write_hits

__all__ = ["align", "align_into", "align_stores", "in_order"]

Save = Callable[[pd.DataFrame, pd.DataFrame], None]
"""Callback that saves: gets the table of this command, and its rows that were measured since the last call."""


@dataclass(frozen=True)
class _Work:
    """A unit of one pair, and the columns that all its rows share."""

    pair: FeaturePair
    unit: Unit
    base: dict[str, Any]


def align(
    pairs: FeaturePair | Sequence[FeaturePair],
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
        pairs: features to probe, from `pair_arrays` or `load_pair`.
        config: all settings; by default those of DESIGN 6: episodes and instructions held out, 5 probe
            seeds, 3 random splits, the control with shuffled pairs.
        n_jobs: processes; -1 for one per core. 1 leaves it to an enclosing `joblib.parallel_config`, whose back end
            (Dask, loky) is always used. The numbers do not depend on it.
        previous: an earlier result. Measurements with the same settings and features are not repeated, others of the
            same identity are replaced, all other rows remain.
        heads: folder for the heads of the first seed and split of each measurement; none are written when not given.
        hits: folder for the score of every test episode (`read_hits`), one file per measurement; none when not given.
        on_rows: called with the whole table after each measurement, to save it.
        every: minimum seconds between two such calls; the last call, also of an interrupted run, has all rows.
        quiet: show no progress on standard error.

    Returns:
        A table with the columns of `mnprobe.probe.results.COLUMNS`; `frame.attrs["notes"]` names what was left out,
        intervals that are not reliable, and fits whose training loss was not flat when they ended.

    Raises:
        TooFewSamples: nothing can be measured, or a holdout requested by name cannot; the message has the counts.
        ProbeError: success and failure were requested but outcomes are not known for any pair.
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

    def save(frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        if on_rows is not None:
            on_rows(frame)

    chosen = [pairs] if isinstance(pairs, FeaturePair) else list(pairs)
    config = config or AlignConfig()
    frame = align_into(
        save,
        chosen,
        config,
        n_jobs=n_jobs,
        previous=previous,
        heads=heads,
        hits=hits,
        every=every,
        quiet=quiet,
    )
    _note_convergence(frame, frame[frame["config_hash"] == config.digest()])
    return frame


def _note_convergence(frame: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Add to the notes of a table what there is to say about the convergence of the fits behind `rows`."""
    if note := convergence_note(rows):
        frame.attrs["notes"] = [*frame.attrs["notes"], note]


def align_into(
    save: Save,
    chosen: Sequence[FeaturePair],
    config: AlignConfig,
    *,
    n_jobs: int,
    previous: pd.DataFrame | None,
    heads: Path | None,
    hits: Path | None,
    every: float,
    quiet: bool,
    planned: Callable[[pd.DataFrame], None] | None = None,
    recipes: Mapping[int, PairRecipe] | None = None,
) -> pd.DataFrame:
    """As `align`, for tables that other processes may change: `save` also gets the new rows.

    `planned` is called with a table of `HELD_OUT` before the first fit. `recipes` say how workers of a cluster read the
    pairs themselves, by id() of the pair.
    """
    notes: list[str] = []
    work = _all_planned(chosen, config, heads, notes)
    _check_unique(work)
    if planned is not None:
        planned(_held_out(work))
    frame, todo = _resume(previous, work, hits)
    tasks = _tasks(todo, config)
    table = _Table(frame, save, every)
    with progress("aligning (fits)", len(tasks), quiet=quiet) as advance, closing(table):
        found: list[dict[int, list[Record]]] = [{} for _ in todo]
        for task, results in zip(tasks, _run(todo, tasks, config, n_jobs, recipes or {}), strict=True):
            advance()
            for (index, number), records in zip(task, results, strict=True):
                found[index][number] = records
                if len(found[index]) == len(todo[index].unit.jobs):
                    ordered = [record for number in sorted(found[index]) for record in found[index][number]]
                    item = todo[index]
                    table.add(_rows(item, ordered, config, notes))
                    if hits is not None:
                        scores = hit_scores(item.base, item.pair.items, item.unit.jobs, ordered)
                        write_hits(hits / hits_name(item.base, item.unit.splits), scores)
                    found[index] = {}
            table.save()
    frame = table.frame
    frame.attrs["notes"] = list(dict.fromkeys(notes))
    return frame


class _Table:
    """The growing table; rows are collected before saving, because sorting and writing cost more than a fit."""

    def __init__(self, frame: pd.DataFrame, save: Save, every: float) -> None:
        self.frame = in_order(frame)
        self._callback = save
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
        self._callback(self.frame, fresh)
        self._saved = time.monotonic()

    def close(self) -> None:
        self.save(now=True)


def _all_planned(
    pairs: Sequence[FeaturePair], config: AlignConfig, heads: Path | None, notes: list[str]
) -> list[_Work]:
    """The work of all pairs; of several, those whose outcomes cannot be compared are left out with a note.

    (Demonstrations have no failures, the policy's own episodes have.)
    """
    work: list[_Work] = []
    refusals: list[NoOutcomes | TooFewSamples] = []
    left_out = 0
    for pair in pairs:
        if pair.is_control and config.split != "all" and not all(pair.is_control for pair in pairs):
            left_out += 1
            continue
        try:
            work += _planned(pair, config, heads, notes)
        except (NoOutcomes, TooFewSamples) as error:
            if config.split == "all" or len(pairs) == 1:
                raise
            refusals.append(type(error)(f"{_where(pair)}left out. {error}"))
    if refusals and not work:
        reasons = "\n  ".join(map(str, refusals))
        raise type(refusals[0])(f"none of {len(refusals)} pairs can be measured:\n  {reasons}")
    notes += map(str, refusals)
    if left_out:
        notes.append(f"{left_out} control pairs (pixels, instruction blanked) are not split by success")
    return work


def _where(pair: FeaturePair) -> str:
    u, e = pair.origin_u, pair.origin_e
    return f"{u.model} step {u.step} x {e.model} step {e.step} ({e.source_name}): "


def _planned(pair: FeaturePair, config: AlignConfig, heads: Path | None, notes: list[str]) -> Iterator[_Work]:
    digest = pair.digest()
    u, e = pair.origin_u, pair.origin_e
    notes += pair.items.notes
    name = None if heads is None else heads / _heads_name(pair, config, digest)
    units, unit_notes = plan_units(pair.items, config, name, across=pair.across, control=pair.is_control)
    notes += [_where(pair) + note for note in unit_notes]
    for unit in units:
        base = {
            "understanding": u.model,
            "execution": e.model,
            "source_u": u.source_name,
            "source_e": e.source_name,
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
            "fit_source": pair.fit_source or u.source_name,
            "batch": config.fit.batch,
            "config_hash": config.digest(),
            "features_hash": digest,
        }
        jobs = tuple(
            replace(job, fitted_on=_fitted_on(pair, config, base, job)) if job.heads_file else job for job in unit.jobs
        )
        yield _Work(pair, replace(unit, jobs=jobs), base)


def _heads_name(pair: FeaturePair, config: AlignConfig, digest: str) -> str:
    """File name of heads, from the data they are fitted on; `{holdout}` is filled in later."""
    parts = f"{pair.origin_u.file_stem}__{pair.origin_e.file_stem}__{config.pairing}-{config.fit.heads}"
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in parts)
    return f"{safe}-{{holdout}}-seed0-{digest[:8]}{config.digest()[:8]}.safetensors"


def _fitted_on(pair: FeaturePair, config: AlignConfig, base: dict[str, Any], job: Job) -> dict[str, Any]:
    return base | {
        "config": config.measurement(),
        "origin_u": _origin(pair.origin_u),
        "origin_e": _origin(pair.origin_e),
        "seed": job.seed,
        "draw": job.draw,
        "train_ids": pair.items.ids[job.train].tolist(),
        "test_ids": {name: pair.items.ids[rows].tolist() for name, rows in job.tests.items()},
    }


def _origin(layer: LayerId) -> dict[str, Any]:
    names = ("model", "source_name", "step", "trained", "training", "layer", "pool")
    return {name.removesuffix("_name"): getattr(layer, name) for name in names}


def _held_out(work: Sequence[_Work]) -> pd.DataFrame:
    """The sets of all draws, as a table of `HELD_OUT`; those of success and failure are left out."""
    found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for item in work:
        if item.unit.splits != ("all",) or item.unit.control != "none":
            continue
        items = item.pair.items
        labels = [column.tolist() for column in (items.ids, items.instructions, items.tasks, items.partitions)]
        names = (item.base["config_hash"], item.base["source_e"], config_hash(labels), item.unit.holdout)
        if names in found:
            continue
        common = dict(zip(HELD_OUT.key, names, strict=True))
        found[names] = [
            common | {"draw": job.draw, "set": name, "id": one}
            for job in item.unit.jobs
            if job.seed == 0
            for name, rows in (("train", job.train), ("validation", job.validation), ("test", job.tests["all"]))
            for one in items.ids[rows].tolist()
        ]
    return HELD_OUT.frame([row for rows in found.values() for row in rows])


_Task = tuple[tuple[int, int], ...]  # (index of the work, number of its job): one fit for all of them


def _tasks(todo: Sequence[_Work], config: AlignConfig) -> list[_Task]:
    """The fits that are needed. Jobs with the same training set, labels and seed share one, also across pairs.

    So heads of demonstrations are fitted once for demonstrations and rollouts together.
    """
    shared: dict[str, list[tuple[int, int]]] = {}
    for index, item in enumerate(todo):
        for number, job in enumerate(item.unit.jobs):
            shared.setdefault(fit_key(item.pair, job, config), []).append((index, number))
    return [tuple(jobs) for jobs in shared.values()]


def _run(
    todo: Sequence[_Work],
    tasks: Sequence[_Task],
    config: AlignConfig,
    n_jobs: int,
    recipes: Mapping[int, PairRecipe],
) -> Iterator[list[list[Record]]]:
    """Records of all tasks in their order, wherever they are fitted (`spread`).

    On a cluster a pair is sent once, or read there where `recipes` tell how, by id() of the pair.
    """
    spots = [[todo[index] for index, _ in task] for task in tasks]
    jobs = [[todo[index].unit.jobs[number] for index, number in task] for task in tasks]
    if not on_workers():
        calls = [
            ([(item.pair, job) for item, job in zip(*one, strict=True)], config)
            for one in zip(spots, jobs, strict=True)
        ]
        yield from spread(run_jobs, calls, n_jobs=n_jobs)
        return
    shared = {id(item.pair): item.pair for item in todo}
    given = {key: recipes.get(key, pair) for key, pair in shared.items()}
    calls_apart = [
        (config, own, *(given[id(item.pair)] for item in items)) for items, own in zip(spots, jobs, strict=True)
    ]
    sent = [pair for key, pair in shared.items() if key not in recipes]
    for own, (records, files) in zip(jobs, spread(_run_apart, calls_apart, shared=sent), strict=True):
        for number, content in files.items():
            path = own[number].heads_file
            assert path is not None
            with whole_file(path) as part:
                part.write_bytes(content)
        yield records


def _run_apart(config: AlignConfig, jobs: Sequence[Job], *pairs: Any) -> tuple[list[list[Record]], dict[int, bytes]]:
    """As `run_jobs`, where the run's folder may not be: the files of heads come back as bytes, by number of the job."""
    torch.set_num_threads(1)  # a worker may fit in several threads, none of which may give back what another needs
    found = [pair.load() if isinstance(pair, PairRecipe) else pair for pair in pairs]
    with TemporaryDirectory(prefix="mnprobe-") as folder:
        paths = {number: Path(folder) / f"{number}.safetensors" for number, job in enumerate(jobs) if job.heads_file}
        own = [replace(job, heads_file=paths.get(number)) for number, job in enumerate(jobs)]
        records = run_jobs(list(zip(found, own, strict=True)), config)
        return records, {number: path.read_bytes() for number, path in paths.items()}


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


def _identities(frame: pd.DataFrame, columns: Sequence[str]) -> Any:
    return frame[list(columns)].astype(str).agg("\0".join, axis=1)


def _resume(
    previous: pd.DataFrame | None, work: Sequence[_Work], hits: Path | None
) -> tuple[pd.DataFrame, list[_Work]]:
    """The valid rows of an earlier table, and the remaining work."""
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


def _check_unique(work: Sequence[_Work]) -> None:
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


_SAVE_EVERY = 5.0  # seconds; a killed run loses at most what was measured in them


def align_stores(
    stored: Sequence[StoredPair],
    config: AlignConfig | None = None,
    *,
    table: Path,
    heads: Path | None = None,
    hits: Path | None = None,
    layer_u: str | None = None,
    layer_e: str | Sequence[str] | None = None,
    pool_u: str | None = None,
    pool_e: str | None = None,
    episodes: Episodes = "equal",
    n_jobs: int = 1,
    shared_files: bool = False,
    quiet: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure pairs of feature stores and write the result to `table` (CSV), atomically.

    It is written every few seconds, and at the end, also when the run is interrupted.

    `held_out.csv` in the folder `hits` tells which episodes were held out in which draw (`HELD_OUT`).

    If `table` is in a run, the settings are recorded in its run.toml under [align].

    Rows in `table` with the same settings and features are not measured again; rows of the same measurement with other
    settings or features are replaced; all other rows remain. With several layers in `layer_e` every
    pair is measured on each of them. See `align` and `load_pair` for the other arguments and the errors.

    With `shared_files` the workers of a cluster read the stores themselves, by the paths that this machine has; else
    features are sent to each worker once.

    Returns the rows of these pairs and settings, and the whole table; the first has `attrs["notes"]`.
    """
    config = config or AlignConfig()

    @cache
    def recipe(path_u: Path, path_e: Path, layer: str | None) -> PairRecipe:
        with open_features(path_u) as file_u:
            control = file_u.model == PIXELS
        return PairRecipe(
            path_u,
            path_e,
            layer_u=None if control else layer_u,
            layer_e=layer,
            pool_u="mean" if control else pool_u,
            pool_e=pool_e,
            episodes=episodes,
        )

    @cache  # demonstrations that fit the heads for rollouts are measured themselves as well
    def read(path_u: Path, path_e: Path, layer: str | None) -> FeaturePair:
        return recipe(path_u, path_e, layer).read()

    pairs: list[FeaturePair] = []
    recipes: dict[int, PairRecipe] = {}
    several: Sequence[str | None] = [layer_e] if layer_e is None or isinstance(layer_e, str) else layer_e
    for layer in dict.fromkeys(several or [None]):
        for item in stored:
            pair, made = read(item.u, item.e, layer), recipe(item.u, item.e, layer)
            if item.fit_u is not None and item.fit_e is not None:
                pair = pair_across(read(item.fit_u, item.fit_e, layer), pair)
                made = replace(made, fit=recipe(item.fit_u, item.fit_e, layer))
            pairs.append(pair)
            if shared_files:
                recipes[id(pair)] = made.for_workers(pair)
    check_settings(table)
    record = cache(lambda: record_settings(table, config, pairs, episodes="all" if episodes == "equal" else episodes))
    on_disk = _TableOnDisk(table)
    sets: list[pd.DataFrame] = []

    @cache
    def record_sets() -> None:
        if hits is not None:
            _record_sets(hits / HELD_OUT_FILE, sets[0], on_disk.table)

    def save(frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        record()
        on_disk.save(frame, fresh)
        record_sets()

    measured = align_into(
        save,
        pairs,
        config,
        n_jobs=n_jobs,
        previous=on_disk.table,
        heads=heads,
        hits=hits,
        every=_SAVE_EVERY,
        quiet=quiet,
        planned=sets.append,
        recipes=recipes,
    )
    with suppress(OSError):  # the rows are saved; a run that cannot be written to is no error
        record()
        record_sets()
    on_disk.table.attrs["notes"] = measured.attrs["notes"]
    return _rows_of_call(measured, pairs, config), on_disk.table


def _record_sets(path: Path, sets: pd.DataFrame, measured: pd.DataFrame) -> None:
    """Add `sets` to the table of held-out episodes, without those of settings that are no longer measured."""

    def change(old: pd.DataFrame) -> pd.DataFrame:
        return HELD_OUT.replace_rows(old[old["config_hash"].isin(measured["config_hash"])], sets)

    if len(sets):
        HELD_OUT.update(path, change)


class _TableOnDisk:
    """The table on disk, which other commands may change during the measurement.

    Their rows are preserved, except those of measurements that this command finishes later.

    Attributes:
        table: the table as last read or written here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state(path)  # before reading, so that later writes are seen as new
        self.table = ALIGNMENT.read_or_empty(path)
        self._initial: set[_Key] | None = set(_keys(self.table, _MEASUREMENT))

    def save(self, frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        """Write the rows in `fresh`, and remove the initial rows that are not in `frame`, which are no longer valid."""
        stale: set[_Key] = set()
        if self._initial is not None:
            stay = set(_keys(frame, _MEASUREMENT)).difference(_keys(fresh, _MEASUREMENT))
            stale, self._initial = self._initial.difference(stay), None
        done = set(_keys(fresh, IDENTITY))

        def change(table: pd.DataFrame) -> pd.DataFrame:
            keys = zip(_keys(table, _MEASUREMENT), _keys(table, IDENTITY), strict=True)
            stays = [measurement not in stale and identity not in done for measurement, identity in keys]
            return in_order(table[np.array(stays, dtype=bool)], fresh)

        def write(path: Path, table: pd.DataFrame) -> None:
            write_alignment(path, table)
            self._state = _state(path)

        self.table = update_table(self._path, self._read, change, write)

    def _read(self, path: Path) -> pd.DataFrame:
        """The current table; read again only if another process has written it."""
        if _state(path) == self._state:
            return self.table
        return ALIGNMENT.read_or_empty(path)


_Key = tuple[object, ...]
_MEASUREMENT = (*IDENTITY, "config_hash", "features_hash")


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> list[_Key]:
    return list(table[list(columns)].itertuples(index=False, name=None))


def _state(path: Path) -> tuple[int, ...]:
    """A value that changes whenever the file is written; empty without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _rows_of_call(table: pd.DataFrame, pairs: Sequence[FeaturePair], config: AlignConfig) -> pd.DataFrame:
    wanted = {_key(pair) for pair in pairs}
    names = ["understanding", "source_u", "step_u", "layer_u", "pool_u"]
    names += ["execution", "source_e", "step_e", "layer_e", "pool_e", "features_hash", "fit_source"]
    own = np.array([key in wanted for key in table[names].itertuples(index=False, name=None)], dtype=bool)
    rows = table[own & (table["config_hash"] == config.digest())]
    rows = rows[rows["holdout"].isin(config.holdouts)]
    splits = SETTINGS if config.split == "success" else (config.split,)
    rows = rows[rows["split"].isin(splits)]
    if config.split != "all":
        rows = rows[rows["mode"].isin(config.modes)]
    if not config.shuffled:
        rows = rows[rows["control"] == "none"]
    rows = rows.reset_index(drop=True)
    rows.attrs["notes"] = table.attrs["notes"]
    _note_convergence(rows, rows)
    return rows


def _key(pair: FeaturePair) -> tuple[object, ...]:
    u, e = pair.origin_u, pair.origin_e
    sides = ((origin.model, origin.source_name, origin.step, origin.layer, origin.pool) for origin in (u, e))
    return (*next(sides), *next(sides), pair.digest(), pair.fit_source or u.source_name)
