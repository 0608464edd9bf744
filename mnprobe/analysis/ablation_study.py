"""An ablation that is ready to be begun: its demonstrations, world and weights looked at before hours are spent."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnprobe.analysis.ablation_cells import Cell
from mnprobe.analysis.ablation_run import Evaluation, Shared
from mnprobe.core.commands import command_of
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.provenance import canonical_json, differences
from mnprobe.core.rundir import RunDir
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.devices import resolve_device
from mnprobe.probe.joint import TrainConfig
from mnprobe.probe.joint.start import Start, start_from
from mnprobe.worlds import make_world

__all__ = ["FOLDER", "RECORD", "Study", "open_study"]

FOLDER = "ablation"
"""Of a run: a run of its own with the cells' checkpoints, episodes and tables, apart from the run's other trainings."""

RECORD = "study.json"
"""In that folder: what all its cells share."""

_TRAINED = "train"
_SHOWN = 6  # differences in an error


@dataclass(frozen=True, kw_only=True)
class Study:
    """An ablation that is ready to be begun or gone on with: everything that can be refused was looked at.

    Attributes:
        run: the run whose results/ablation.csv it makes.
        cells: the trainings.
        shared: what they have in common.
        dataset: the demonstrations that are trained on.
        config: settings of all cells, with the sizes that the models have.
        n_held_out: demonstrations that are recognised.
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
        run: run directory; cells lie in its folder `ablation`.
        cells: as `ablation_cells` makes them, from one base.
        data: folders of demonstrations with partitions train and test; by default the run's.
        tasks: that are trained and judged; by default all of the demonstrations.
        instructions: see `mnprobe.data.open_dataset`.
        episodes: played episodes of each task and cell, in new scenes, the same for every cell.
        world, world_options, max_steps: where they are played; see `mnprobe.worlds.rollout`.
        start_viclip, start_arp, language_weights, device, save_every: see `mnprobe.probe.joint.train`.

    Raises:
        ConfigError: no demonstrations, a world without these tasks, an ablation in this run that was begun otherwise.
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
    start = start_from(joint, viclip=start_viclip, arp=start_arp, language_weights=language_weights)
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
    _check_begun(shared)
    return Study(
        run=run, cells=tuple(cells), shared=shared, dataset=trained, config=start.config, n_held_out=len(held_out)
    )


def _partitions(folders: Sequence[Path], tasks: Sequence[str], instructions: Path | None) -> tuple[Dataset, Dataset]:
    """The demonstrations to train on and those held out."""
    wanted = list(tasks) or None
    whole = open_dataset(folders, tasks=wanted, instructions=instructions)
    judged = Evaluation(tasks=whole.tasks).partition
    for partition, use in ((_TRAINED, "trained on"), (judged, "recognised")):
        if partition not in whole.partitions:
            has = ", ".join(name or "none at all" for name in whole.partitions)
            raise DataError(
                f"{', '.join(map(str, folders))}: an ablation needs demonstrations of the partitions {_TRAINED} and "
                f"{judged}; there are none of {partition}, which are {use} (partitions: {has}). "
                f"`{command_of(folders[0], 'demos', **{partition: 5})}` makes some"
            )
    trained, held_out = (
        open_dataset(folders, partitions=[name], tasks=wanted, instructions=instructions) for name in (_TRAINED, judged)
    )
    absent = sorted(set(trained.tasks) ^ set(held_out.tasks))
    if absent:
        raise DataError(
            f"{', '.join(map(str, folders))}: task {absent[0]} has demonstrations in only one of the partitions "
            f"{_TRAINED} and {judged}. Choose the others with --task, or make some: mnprobe demos"
        )
    return trained, held_out


def _check_world(evaluation: Evaluation) -> None:
    evaluation.rollout_config()
    world = make_world(evaluation.world, **evaluation.world_options)
    try:
        evaluation.plan(world)
    finally:
        world.close()


def _study_of(start: Start, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """What is the same for every cell and must not change while it is under way."""
    base = {name: value for name, value in start.config.measurement().items() if name not in ("pairing", "tau", "seed")}
    data = {"fingerprint": dataset.fingerprint(), "episodes": len(dataset)}
    played = {
        "world": evaluation.world,
        "world_options": dict(evaluation.world_options),
        "max_steps": evaluation.max_steps,
    }
    return {"training": base, "start": start.origin, "data": data, "played": played}


def _check_begun(shared: Shared) -> None:
    path = shared.folder / RECORD
    if not path.is_file():
        return
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: damaged ({error}); remove {shared.folder} to begin anew") from error
    found = differences(recorded, shared.asked["study"])
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"the ablation in {shared.folder} was begun otherwise ({'; '.join(found[:_SHOWN])}{more}). Cells compare "
            "only when they share all but pairing and temperature: run it as it was begun, or give another --run, or "
            f"remove {shared.folder} to begin anew"
        )
