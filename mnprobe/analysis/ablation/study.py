"""Ablation study (paper, section 4.5, Table 3): plan, checks and execution."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.analysis.ablation.grid import PAIRINGS, Cell
from mnprobe.analysis.ablation.run import CellResult, Evaluation, Shared, finished_rows, read_cell, run_cell
from mnprobe.analysis.tables.progress import ABLATION
from mnprobe.analysis.tables.rollouts import SUCCESS, find_rollouts, success_table
from mnprobe.core.cluster import on_workers, spread
from mnprobe.core.commands import command_of
from mnprobe.core.errors import ConfigError, DataError, MnprobeError
from mnprobe.core.job import JobRecord
from mnprobe.core.progress import progress
from mnprobe.core.provenance import canonical_json
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import resolve_device
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION
from mnprobe.training import TrainConfig, prepare_inputs, read_metrics
from mnprobe.training.initialization import InitialModels, initial_models
from mnprobe.worlds import make_world
from mnprobe.worlds.parallel import default_workers

__all__ = ["FOLDER", "RECORD", "Ablation", "AblationPlan", "Study", "ablate", "jobs_of", "open_study", "plan_ablation"]

FOLDER = "ablation"
"""Of a run: a run of its own with the cells' checkpoints, episodes and tables, apart from the run's other trainings."""

RECORD = "study.json"
"""In that folder: what all its cells share."""

_TRAINED = "train"


@dataclass(frozen=True, kw_only=True)
class Study:
    """An ablation whose inputs are checked, ready to be started or continued.

    Attributes:
        run: the run whose results/ablation.csv it makes.
        cells: the trainings.
        shared: what they have in common.
        dataset: the demonstrations that are trained on.
        config: settings of all cells, with the sizes that the models have.
        n_held_out: demonstrations for recognition.
    """

    run: RunDir
    cells: tuple[Cell, ...]
    shared: Shared
    dataset: Dataset
    config: TrainConfig
    n_held_out: int


def open_study(
    run: RunDir,
    cells: Sequence[Cell],
    *,
    data: Sequence[Path] = (),
    tasks: Sequence[str] = (),
    instructions: Path | None = None,
    episodes: int = 25,
    world: str = "tabletop",
    world_options: Mapping[str, Any] | None = None,
    max_steps: int = 25,
    start_viclip: Path | None = None,
    start_arp: Path | None = None,
    language_weights: Path | None = None,
    device: str = "auto",
    save_every: int = 500,
) -> Study:
    """Look at all that an ablation needs, before hours are spent on it; nothing is written.

    Args:
        run: run directory; cells are in its folder `ablation`.
        cells: as `ablation_cells` makes them, from one base.
        data: folders of demonstrations with partitions train and test; by default the run's.
        tasks: to train and evaluate; by default all of the demonstrations.
        instructions: see `mnprobe.data.open_dataset`.
        episodes: played episodes of each task and cell, in new scenes, the same for every cell.
        world, world_options, max_steps: where they are played; see `mnprobe.worlds.rollout`.
        start_viclip, start_arp, language_weights, device, save_every: see `mnprobe.training.train`.

    Raises:
        ConfigError: no demonstrations, a world without these tasks, an ablation in this run with other settings.
        DataError: no partition train or test, or a task without held-out demonstrations.
        CheckpointError: weights that cannot be used.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("an ablation runs its cells side by side itself (--jobs); start it without torchrun")
    place = resolve_device(device)
    folders = tuple(data) or ((run.demos,) if run.demos.is_dir() else ())
    if not folders:
        raise ConfigError(f"no demonstrations: run {run.path} has no demos folder. Give their folder with --data")
    trained, held_out = _partitions(folders, tasks, instructions)
    evaluation = Evaluation(
        tasks=trained.tasks,
        episodes=episodes,
        world=world,
        world_options=dict(world_options or {}),
        max_steps=max_steps,
    )
    _check_world(evaluation)
    starts = {"start_viclip": start_viclip, "start_arp": start_arp, "language_weights": language_weights}
    joint = next(cell.config for cell in cells if cell.tau is not None)
    start = initial_models(joint, viclip=start_viclip, arp=start_arp, language_weights=language_weights)
    asked = {
        "study": _study_of(start, trained, evaluation),
        "evaluation": evaluation.to_dict() | {"data": held_out.fingerprint()},
    }
    shared = Shared(
        folder=run.path / FOLDER,
        cache=run.path / "cache",
        data=folders,
        partition=_TRAINED,
        instructions=instructions,
        starts=starts,
        device=place,
        save_every=save_every,
        evaluation=evaluation,
        asked=json.loads(canonical_json(asked)),
    )
    _job(shared).check()
    return Study(
        run=run, cells=tuple(cells), shared=shared, dataset=trained, config=start.config, n_held_out=len(held_out)
    )


def _partitions(folders: Sequence[Path], tasks: Sequence[str], instructions: Path | None) -> tuple[Dataset, Dataset]:
    """The demonstrations to train on and those held out."""
    wanted = list(tasks) or None
    whole = open_dataset(folders, tasks=wanted, instructions=instructions)
    test_partition = Evaluation(tasks=whole.tasks).partition
    for partition, use in ((_TRAINED, "trained on"), (test_partition, "recognised")):
        if partition not in whole.partitions:
            has = ", ".join(name or "none at all" for name in whole.partitions)
            raise DataError(
                f"{', '.join(map(str, folders))}: an ablation needs demonstrations of the partitions {_TRAINED} and "
                f"{test_partition}; there are none of {partition}, which are {use} (partitions: {has}). "
                f"`{command_of(folders[0], 'demos', **{partition: 5})}` makes some"
            )
    trained, held_out = (
        open_dataset(folders, partitions=[name], tasks=wanted, instructions=instructions)
        for name in (_TRAINED, test_partition)
    )
    absent = sorted(set(trained.tasks) ^ set(held_out.tasks))
    if absent:
        raise DataError(
            f"{', '.join(map(str, folders))}: task {absent[0]} has demonstrations in only one of the partitions "
            f"{_TRAINED} and {test_partition}. Choose the others with --task, or make some: mnprobe demos"
        )
    return trained, held_out


def _check_world(evaluation: Evaluation) -> None:
    evaluation.rollout_config()
    world = make_world(evaluation.world, **evaluation.world_options)
    try:
        evaluation.plan(world)
    finally:
        world.close()


def _study_of(start: InitialModels, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """What is the same for every cell and must not change while it is under way."""
    base = {name: value for name, value in start.config.measurement().items() if name not in ("pairing", "tau", "seed")}
    data = {"fingerprint": dataset.fingerprint(), "episodes": len(dataset)}
    played = {
        "world": evaluation.world,
        "world_options": dict(evaluation.world_options),
        "max_steps": evaluation.max_steps,
    }
    return {"training": base, "start": start.origin, "data": data, "played": played}


def _job(shared: Shared) -> JobRecord:
    return JobRecord(
        path=shared.folder / RECORD,
        config=shared.asked["study"],
        what="the ablation",
        remedy=f"give another --run, or remove {shared.folder} to start again, because cells compare only when they "
        "share all but pairing and temperature",
    )


_ALIKE = ("viclip", "arp", "batch", "clips", "understanding_share", "sides", "precision", "recompute")


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What is left to do.

    Attributes:
        rows: by cell: name, pairing, tau, seed, updates, done (updates made), status ("finished", "begun", "to do").
        updates: that are left, of all cells.
        seconds_per_update: as measured in `measured_in`, a finished training of these sizes; None where there is none.
        jobs: cells at once.
    """

    rows: tuple[dict[str, Any], ...]
    updates: int
    seconds_per_update: float | None
    measured_in: str
    jobs: int

    @property
    def seconds(self) -> float | None:
        """Estimated time of what is left, without the evaluation."""
        return None if self.seconds_per_update is None else self.updates * self.seconds_per_update / self.jobs


def plan_ablation(study: Study, *, jobs: int | None = None) -> AblationPlan:
    """Cells, what is left of them, and the time it takes, where a training of these sizes was measured before."""
    rows: list[dict[str, Any]] = []
    for cell in study.cells:
        folder = study.shared.folder / "training" / cell.name
        done = max((row[0] for row in read_metrics(folder / "metrics.csv")), default=0)
        finished = read_cell(cell, study.shared) is not None
        status = "finished" if finished else "begun" if folder.is_dir() else "to do"
        own: dict[str, Any] = {"name": cell.name, "pairing": cell.pairing or "", "tau": cell.tau, "seed": cell.seed}
        rows.append(own | {"updates": cell.config.updates, "done": done, "status": status})
    seconds, where = _measured(study)
    return AblationPlan(
        rows=tuple(rows),
        updates=sum(row["updates"] - row["done"] for row in rows),
        seconds_per_update=seconds,
        measured_in=where,
        jobs=jobs_of(jobs, study),
    )


def jobs_of(jobs: int | None, study: Study) -> int:
    """Number of parallel cells: `jobs`, else as in an enclosing `joblib.parallel_config`, else one per CPU or GPU.

    Raises ConfigError for fewer than one.
    """
    from joblib import effective_n_jobs

    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}")
    outer = int(effective_n_jobs(None))  # of an enclosing joblib.parallel_config
    own = default_workers() if study.shared.device == "cpu" else 1
    return min(len(study.cells), jobs or (outer if outer > 1 else own))


def _measured(study: Study) -> tuple[float | None, str]:
    """Seconds of an update in finished trainings of these sizes, of the ablation itself or else of the run."""
    asked = study.config.measurement()
    for root in (study.shared.folder, study.run.path):
        found = []
        for path in sorted(root.glob("training/*/result.json")):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                made = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["asked"]["training"]
                alike = all(made.get(name) == asked.get(name) for name in _ALIKE)
                if alike:
                    found.append((float(result["seconds"]) / int(result["updates"]), path.parent.name))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing was measured there
        if found:
            return sum(one for one, _ in found) / len(found), ", ".join(name for _, name in found[:2])
    return None, ""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The current table, its rows (of every finished cell with the same evaluation), and the outcome of each
    requested cell."""

    table: Path
    rows: pd.DataFrame
    cells: tuple[CellResult, ...]

    @property
    def failed(self) -> tuple[CellResult, ...]:
        """The cells that ended with an error."""
        return tuple(cell for cell in self.cells if cell.status == "failed")


def ablate(
    study: Study, *, jobs: int | None = None, quiet: bool = True, note: Callable[[str], None] | None = None
) -> Ablation:
    """Train and evaluate every cell that is not finished; write results/ablation.csv after each.

    Can be interrupted and called again: finished cells are kept, partial ones continue, with the same numbers as if
    they had not been stopped. A cell that fails does not stop the others. Under `joblib.parallel_config` the cells go
    where that says (Dask, Ray); by default into processes of this machine.

    Args:
        study: from `open_study`.
        jobs: cells at once, one thread each; by default one per processor, on a GPU one.
        quiet: show no progress.
        note: called with remarks for the user.

    Raises:
        ConfigError: fewer than one job.
        MnprobeError: processes that died, as when memory runs out; finished cells stay finished.
    """
    say = note or (lambda text: None)
    workers = jobs_of(jobs, study)
    shared = study.shared
    kept = {cell.name: read_cell(cell, shared) for cell in study.cells}
    to_do = [cell for cell in study.cells if kept[cell.name] is None]
    results = {name: found for name, found in kept.items() if found is not None}
    home = RunDir.create(shared.folder)
    _job(shared).write()
    study.run.record("ablate", _recorded(study))
    if to_do:
        _prepare(study, workers, quiet, note)
    with progress("ablation (cells)", len(study.cells), done=len(results), quiet=quiet) as advance:
        for result in _results(to_do, shared, workers):
            results[result.name] = result
            if result.status == "failed":
                say(f"{result.name} failed: {result.error}")
            else:
                _write_table(study)
            advance(note=result.name)
    rows = _write_table(study)
    _write_tables(home)
    return Ablation(
        table=study.run.results("ablation"), rows=rows, cells=tuple(results[cell.name] for cell in study.cells)
    )


def _prepare(study: Study, workers: int, quiet: bool, note: Callable[[str], None] | None) -> None:
    """Decode the demonstrations once, before cells would do it in parallel."""
    config = study.config
    prepare_inputs(
        study.dataset,
        viclip=config.viclip_config(),
        arp=config.arp_config(),
        cache=study.shared.cache,
        camera=config.camera,
        frames_rule=config.frames_rule,
        kept_views=config.kept_views,
        workers=1 if len(study.dataset) < 100 * workers else workers,  # they take seconds to start
        quiet=quiet,
        note=note,
    )


def _results(cells: Sequence[Cell], shared: Shared, jobs: int) -> Iterator[CellResult]:
    """What becomes of the cells, as they end."""
    if not on_workers() and (jobs == 1 or len(cells) < 2):
        yield from (run_cell(cell, shared) for cell in cells)
        return
    calls = [(cell, shared) for cell in cells]
    try:
        yield from spread(run_cell, calls, n_jobs=jobs, unordered=True, batch=1)
    except BrokenProcessPool as error:
        raise MnprobeError(
            f"a process died at its cell ({type(error).__name__}), as when memory runs out; give fewer --jobs. "
            "What is finished is kept: run the same command again to go on"
        ) from error


def _write_table(study: Study) -> pd.DataFrame:
    """The rows of all finished cells with the same evaluation, requested now or before, by this command or another."""
    order = {"": 0} | {pairing: place for place, pairing in enumerate(PAIRINGS, start=1)}
    with study.run.alone("ablation"):  # of commands side by side, the last one finds the cells of all
        found = finished_rows(study.shared)
        found.sort(key=lambda row: (order[row["pairing"]], row["tau"] or 0.0, row["seed"]))
        table = pd.DataFrame(found, columns=list(ABLATION.columns))
        if len(table):
            ABLATION.write(study.run.results("ablation"), table)
    return table


def _write_tables(home: RunDir) -> None:
    """The cells' own tables in one each, so that the folder can be looked at as any run."""
    with home.alone("tables"):
        for kind, name in ((RECOGNITION, "recognition"), (PREDICTIONS, "predictions")):
            table = kind.frame([])
            for path in sorted(home.path.glob(f"cells/*/{name}.csv")):
                table = kind.replace_rows(table, kind.read_or_empty(path))
            if len(table):
                kind.write(home.results(name), table)
        played = find_rollouts(home.rollouts)
        if played:
            SUCCESS.write(home.results("success"), success_table(played))


def _recorded(study: Study) -> dict[str, Any]:
    evaluation = study.shared.evaluation
    return {
        "data": [str(path) for path in study.shared.data],
        "cells": [cell.name for cell in study.cells],
        "updates": study.config.updates,
        "episodes": evaluation.episodes,
        "tasks": list(evaluation.tasks),
        "world": evaluation.world,
        "max_steps": evaluation.max_steps,
        "held_out": study.n_held_out,
        "device": study.shared.device,
        "folder": FOLDER,
    }
