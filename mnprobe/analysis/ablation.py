"""The ablation of the paper's section 4.5 (Table 3): what is paired, and at which temperature, each cell trained."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.analysis.ablation_cells import PAIRINGS, Cell
from mnprobe.analysis.ablation_plan import jobs_of
from mnprobe.analysis.ablation_run import CellResult, Shared, finished_rows, read_cell, run_cell
from mnprobe.analysis.ablation_study import FOLDER, RECORD, Study
from mnprobe.analysis.results import ABLATION_COLUMNS
from mnprobe.analysis.success_table import find_rollouts, success_table
from mnprobe.analysis.tables import write_table
from mnprobe.core.errors import MnprobeError
from mnprobe.core.files import write_text
from mnprobe.core.progress import progress
from mnprobe.core.rundir import RunDir
from mnprobe.features.recognition_table import PREDICTIONS, RECOGNITION
from mnprobe.probe.joint import prepare_inputs

__all__ = ["Ablation", "ablate"]

_INTERVALS = tuple(f"{end}_{side}" for side in ("understanding", "execution") for end in ("ci_low", "ci_high"))


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What there is now: the table, its rows (of every finished cell that was judged alike), and what became of each
    cell that was asked for."""

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
    """Train and judge every cell that is not finished; write results/ablation.csv after each.

    May be killed at any moment and called again: finished cells are kept, begun ones go on, with the same numbers as if
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
    write_text(shared.folder / RECORD, json.dumps(shared.asked["study"], indent=2, sort_keys=True) + "\n")
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
    """Decode the demonstrations once, before cells would do it one beside the other."""
    config = study.config
    prepare_inputs(
        study.dataset,
        viclip=config.viclip_config(),
        arp=config.arp_config(),
        cache=study.shared.cache,
        camera=config.camera,
        frames_rule=config.frames_rule,
        workers=1 if len(study.dataset) < 100 * workers else workers,  # they take seconds to start
        quiet=quiet,
        note=note,
    )


def _results(cells: Sequence[Cell], shared: Shared, jobs: int) -> Iterator[CellResult]:
    """What becomes of the cells, as they end."""
    if jobs == 1 or len(cells) < 2:
        yield from (run_cell(cell, shared) for cell in cells)
        return
    try:
        yield from _parallel(jobs, [(cell, shared) for cell in cells])
    except BrokenProcessPool as error:
        raise MnprobeError(
            f"a process died at its cell ({type(error).__name__}), as when memory runs out; give fewer --jobs. "
            "What is finished is kept: run the same command again to go on"
        ) from error


def _parallel(jobs: int, work: Sequence[tuple[Cell, Shared]]) -> Iterator[CellResult]:
    from joblib import Parallel, delayed  # only when processes are wanted

    try:
        parallel = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    except ValueError:  # a backend from outside that gives all at once, at the end
        parallel = Parallel(n_jobs=jobs, batch_size=1)
    yield from parallel(delayed(run_cell)(*one) for one in work)


def _write_table(study: Study) -> pd.DataFrame:
    """The rows of all finished cells that were judged alike, asked for now or before, by this command or another."""
    order = {"": 0} | {pairing: place for place, pairing in enumerate(PAIRINGS, start=1)}
    with study.run.alone("ablation"):  # of commands side by side, the last one finds the cells of all
        found = finished_rows(study.shared)
        found.sort(key=lambda row: (order[row["pairing"]], row["tau"] or 0.0, row["seed"]))
        table = pd.DataFrame(found, columns=[*ABLATION_COLUMNS, *_INTERVALS])
        if len(table):
            write_table(table, study.run.results("ablation"))
    return table


def _write_tables(home: RunDir) -> None:
    """The cells' own tables in one each, so that the folder can be looked at as any run."""
    with home.alone("tables"):
        for kind, name in ((RECOGNITION, "recognition"), (PREDICTIONS, "predictions")):
            table = kind.frame([])
            for path in sorted(home.path.glob(f"cells/*/{name}.csv")):
                table = kind.replace(table, kind.read(path))
            if len(table):
                kind.write(home.results(name), table)
        played = find_rollouts(home.rollouts)
        if played:
            write_table(success_table(played), home.results("success"))


def _recorded(study: Study) -> dict[str, Any]:
    judged = study.shared.evaluation
    return {
        "data": [str(path) for path in study.shared.data],
        "cells": [cell.name for cell in study.cells],
        "updates": study.config.updates,
        "episodes": judged.episodes,
        "tasks": list(judged.tasks),
        "world": judged.world,
        "max_steps": judged.max_steps,
        "held_out": study.n_held_out,
        "device": study.shared.device,
        "folder": FOLDER,
    }
