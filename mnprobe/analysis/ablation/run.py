"""One cell of an ablation: training, recognition and rollouts in one process."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnprobe.analysis.ablation.grid import Cell
from mnprobe.analysis.tables.rollouts import ALL_TASKS, Rollouts, success_table
from mnprobe.core.errors import MnprobeError
from mnprobe.core.files import write_text
from mnprobe.core.names import model_of_training, step_name
from mnprobe.core.proportions import mean_interval
from mnprobe.core.provenance import config_hash, now
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import torch_threads
from mnprobe.data import open_dataset
from mnprobe.features.recognition.config import RecognitionConfig
from mnprobe.features.recognition.evaluate import recognize
from mnprobe.training import train
from mnprobe.worlds.environment import MAX_STEPS
from mnprobe.worlds.rollout import RolloutConfig, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan

__all__ = ["CellResult", "Evaluation", "Shared", "finished_rows", "read_cell", "run_cell"]

_RECORD = "cell.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of every cell: the same held-out demonstrations, scenes and seeds.

    Attributes:
        tasks: the tasks that means are taken over; each counts alike.
        episodes: played episodes of each task, in new scenes.
        world, world_options: where they are played.
        max_steps: key poses after which an episode is a failure.
        partition: of the demonstrations for recognition.
    """

    tasks: tuple[str, ...]
    episodes: int = 25
    world: str = "tabletop"
    world_options: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int = MAX_STEPS
    partition: str = "test"

    @property
    def plan(self) -> RolloutPlan:
        """The episodes that are played."""
        return RolloutPlan(tasks=self.tasks, episodes=self.episodes)

    def rollout_config(self, **player: Any) -> RolloutConfig:
        """Models and scenes of the rollouts; `player` identifies the policy. ConfigError for invalid settings."""
        return RolloutConfig(world=self.world, world_options=self.world_options, max_steps=self.max_steps, **player)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self)) | {"tasks": list(self.tasks), "world_options": dict(self.world_options)}


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all cells have in common; it travels between processes.

    Attributes:
        folder: the run that holds the cells' checkpoints and episodes.
        cache: the decoded demonstrations.
        data: folders of demonstrations.
        partition: of those that are trained on.
        instructions: in place of the dataset's, if any.
        starts: weights that `train` starts from, by its argument.
        device: where it is computed.
        save_every: updates between two saved states.
        evaluation: of every cell.
        asked: all settings that decide the numbers, without the cell's own.
    """

    folder: Path
    cache: Path
    data: tuple[Path, ...]
    partition: str
    instructions: Path | None
    starts: Mapping[str, Path | None]
    device: str
    save_every: int
    evaluation: Evaluation
    asked: Mapping[str, Any]

    def home(self, cell: Cell) -> Path:
        """Folder of the cell's own tables and record."""
        return self.folder / "cells" / cell.name

    def digest(self, cell: Cell) -> str:
        """Hash of everything that decides the cell's numbers."""
        return config_hash({"asked": dict(self.asked), "cell": cell.config.measurement()})


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What became of a cell: `row` of the table, or the `error` that ended it.

    `status` is "kept" when it was finished before.
    """

    name: str
    status: Literal["kept", "done", "failed"]
    row: Mapping[str, Any] | None = None
    error: str = ""
    seconds: float = 0.0


def read_cell(cell: Cell, shared: Shared) -> CellResult | None:
    """What was recorded of a cell that is finished, with these very settings; None otherwise."""
    content = _read(shared.home(cell) / _RECORD)
    if content.get("config_hash") != shared.digest(cell):
        return None
    return CellResult(name=cell.name, status="kept", row=content["row"])


def finished_rows(shared: Shared) -> list[dict[str, Any]]:
    """Rows of all finished cells with this evaluation, requested now or before."""
    found = [_read(path) for path in sorted(shared.folder.glob(f"cells/*/{_RECORD}"))]
    return [content["row"] for content in found if content.get("evaluation") == shared.asked["evaluation"]]


def run_cell(cell: Cell, shared: Shared) -> CellResult:
    """Train, recognise, play; continues where it stopped. One thread, so that it is reproducible.

    What mnprobe refuses, a loss that is no number for one, ends this cell alone: the result tells it.
    """
    began = time.perf_counter()
    try:
        with torch_threads(1):
            row = _measured(cell, shared)
    except MnprobeError as error:
        return CellResult(name=cell.name, status="failed", error=str(error), seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    evaluation = shared.asked["evaluation"]
    content = {
        "config_hash": shared.digest(cell),
        "evaluation": evaluation,
        "row": row,
        "seconds": seconds,
        "at": now(),
    }
    write_text(shared.home(cell) / _RECORD, json.dumps(content, indent=2, allow_nan=False))
    return CellResult(name=cell.name, status="done", row=row, seconds=seconds)


def _read(path: Path) -> dict[str, Any]:
    """A record; nothing where there is none or it is damaged: then the cell finds out what of it is finished."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("row"), dict) else {}


def _measured(cell: Cell, shared: Shared) -> dict[str, Any]:
    evaluation = shared.evaluation
    run = RunDir(shared.folder)
    trained = train(
        cell.config,
        open_dataset(
            shared.data, partitions=[shared.partition], tasks=evaluation.tasks, instructions=shared.instructions
        ),
        run,
        name=cell.name,
        device=shared.device,
        cache=shared.cache,
        save_every=shared.save_every,
        start_viclip=shared.starts["start_viclip"],
        start_arp=shared.starts["start_arp"],
        language_weights=shared.starts["language_weights"],
    )
    step = trained.steps[-1]
    viclip, arp = (run.checkpoint(model_of_training(part, cell.name), step) for part in ("viclip", "arp"))
    found = _recognized(cell, shared, viclip, step) | _played(cell, shared, arp, step)
    tau = "" if cell.tau is None else cell.tau
    return {"pairing": cell.pairing or "", "tau": tau, "training": cell.name, "seed": cell.seed} | found


def _recognized(cell: Cell, shared: Shared, checkpoint: Path, step: int) -> dict[str, Any]:
    """Top-1 among all instructions of the dataset, as a mean over tasks."""
    found = recognize(
        shared.data,
        RecognitionConfig(
            checkpoints=(checkpoint,),
            name=f"viclip-{cell.name}",
            step=step,
            partitions=(shared.evaluation.partition,),
            instructions=shared.instructions,
            camera=cell.config.camera,
            frames_rule=cell.config.frames_rule,
            device=shared.device,
        ),
        out=shared.home(cell),
    ).rows
    rows = found[found["task"].isin(shared.evaluation.tasks)]
    return _told("understanding", float(rows["top1"].mean()), rows["correct"].tolist(), rows["n"].tolist())


def _played(cell: Cell, shared: Shared, checkpoint: Path, step: int) -> dict[str, Any]:
    """Closed-loop success, as a mean over tasks."""
    evaluation, weights = shared.evaluation, shared.starts["language_weights"]
    spoken = {"language_weights": str(weights)} if weights else {"language_seed": cell.config.language_seed}
    model = f"arp-{cell.name}"
    written = rollout(
        RunDir(shared.folder).rollouts / model / step_name(step),
        evaluation.rollout_config(
            policy="arp", policy_options={"device": shared.device, **spoken}, checkpoint=checkpoint, step=step
        ),
        evaluation.plan,
        workers=0,
    )
    played = Rollouts(world=evaluation.world, model=model, step=step, outcomes=written.outcomes)
    table = success_table([played])
    rows, mean = table[table["task"] != ALL_TASKS], table[table["task"] == ALL_TASKS].iloc[0]
    return _told("execution", float(mean["value"]), rows["successes"].tolist(), rows["n"].tolist())


def _told(side: str, value: float, right: Sequence[int], n: Sequence[int]) -> dict[str, Any]:
    low, high = mean_interval(right, n)
    return {side: value, f"n_{side}": int(sum(n)), f"ci_low_{side}": low, f"ci_high_{side}": high}
