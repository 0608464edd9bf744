"""Checkpoints of a training: state, resumption, and the finished models."""

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnprobe.core.errors import CheckpointError, ConfigError, TrainingError
from mnprobe.core.files import whole_file, write_text
from mnprobe.core.job import JobRecord, exclusive
from mnprobe.core.names import model_of_training, step_name
from mnprobe.core.provenance import canonical_json, now, versions
from mnprobe.core.rundir import RunDir
from mnprobe.models.arp import save_arp
from mnprobe.models.loading import check_finite, read_metadata, save_checkpoint
from mnprobe.probe.heads import save_heads
from mnprobe.training.initialization import Start

__all__ = [
    "CONFIG_NAME",
    "STATE_NAME",
    "Keeper",
    "TrainState",
    "alone_in",
    "drop_state",
    "load_state",
    "restore",
    "save_state",
    "training_job",
    "write_record",
]

CONFIG_NAME = "config.json"
STATE_NAME = "state.pt"
_FORMAT = "mnprobe.training/1"
_RESULT_NAME = "result.json"


@dataclass(kw_only=True)
class TrainState:
    """State from which a training resumes; it needs no random state (see `derived_seed`).

    Attributes:
        update: number of finished updates.
        model: weights of all parts, under the names of the joint model.
        optimisers: by optimiser, its `state_dict`.
        own_updates: number of optimiser steps of each part ("viclip", "arp", "heads").
        window: sums and counts of the losses since the last logged row.
        latest: the last logged means, by name.
        seconds: time spent in updates and in waiting for data, summed over all resumptions.
    """

    update: int
    model: Mapping[str, Tensor]
    optimisers: Mapping[str, dict[str, Any]]
    own_updates: dict[str, int]
    window: dict[str, tuple[float, int]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"total": 0.0, "waiting": 0.0})


def training_job(folder: Path, asked: Mapping[str, Any], *, name: str) -> JobRecord:
    """The training `name` in `folder`, by the configuration that is asked for."""
    return JobRecord(
        path=folder / CONFIG_NAME,
        entry="asked",
        config=asked,
        what=f"training {name!r}",
        remedy=f"give the new one a --name of its own, or remove {folder} and its checkpoints to start again",
        finished=(folder / _RESULT_NAME).is_file,
    )


def write_record(job: JobRecord) -> None:
    """Record the configuration of the training that starts now, with the versions that it starts with."""
    job.write({"made": {"at": now(), **versions("torch", "numpy")}}, sort_keys=False)


def save_state(job: JobRecord, state: TrainState) -> None:
    """Write the state atomically, with the hash of the configuration that it belongs to."""
    content = {"format": _FORMAT, "config_hash": job.digest, **vars(state)}
    with whole_file(job.path.with_name(STATE_NAME)) as part:
        torch.save(content, part)


def drop_state(folder: Path) -> None:
    """Remove the state of a finished training; it takes most of the space in the folder."""
    (folder / STATE_NAME).unlink(missing_ok=True)


def load_state(job: JobRecord, *, device: str) -> TrainState | None:
    """The state in the job's folder, its tensors on `device`; None when there is none. Nothing in the file is run.

    Raises CheckpointError for a damaged file or one of another training.
    """
    path = job.path.with_name(STATE_NAME)
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: holds more than numbers, so it is not read; {_anew()}") from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = str(error).split(". ")[0].split("\n")[0]
        raise CheckpointError(f"{path}: damaged or cut short ({reason}); {_anew()}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not the state of a training of this version; {_anew()}")
    job.check_digest(content.get("config_hash"), path, remedy=_anew(), error=CheckpointError)
    return TrainState(**{name: value for name, value in content.items() if name not in ("format", "config_hash")})


def restore(state: TrainState, model: nn.Module, optimisers: Mapping[str, Optimizer], *, folder: Path) -> None:
    """Restore weights and optimiser states.

    Raises CheckpointError when names or shapes do not fit.
    """
    try:
        model.load_state_dict(dict(state.model), strict=True)
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state.optimisers[name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder / STATE_NAME}: does not fit the models of its own configuration ({error}); {_anew()}"
        ) from error


def _anew() -> str:
    return "remove it, and the same command trains from the start and writes the same checkpoints again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Keeper:
    """Write and check the checkpoints and result files of one training.

    Attributes:
        run: the run they go into.
        name: of the training; models are filed as `viclip-<name>` and `arp-<name>`.
        folder: the training's own, `training/<name>` of the run.
        start: the models, which the files are written from.
        job: its configuration, and the one recorded in `folder`.
    """

    run: RunDir
    name: str
    folder: Path
    start: Start
    job: JobRecord

    @property
    def parts(self) -> tuple[str, ...]:
        """Models of which checkpoints are written."""
        model = self.start.model
        return tuple(name for name, part in (("viclip", model.viclip), ("arp", model.arp)) if part is not None)

    def files(self, step: int) -> tuple[Path, ...]:
        """Checkpoint files of one step."""
        return tuple(self.run.checkpoint(model_of_training(part, self.name), step) for part in self.parts)

    def heads(self, step: int) -> Path:
        """File of the trained heads of one step."""
        return self.folder / "heads" / f"{step_name(step)}.safetensors"

    def write(self, step: int, own_updates: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        """Write the checkpoints of `step`, each file atomically.

        Raises TrainingError, without writing, when weights are not finite.
        """
        viclip, arp, heads = self.start.model.viclip, self.start.model.arp, self.start.model.heads
        files = dict(zip(self.parts, self.files(step), strict=True))
        for part in self.parts:
            module = viclip if part == "viclip" else arp
            if module is not None:
                self._check_finite(module.state_dict(), part, step)
        if viclip is not None:
            save_checkpoint(
                files["viclip"],
                viclip.state_dict(),
                model="viclip",
                config=viclip.config.to_dict(),
                step=step,
                metrics=metrics,
                trained=self._learnt("viclip", own_updates),
                extra=self._extra("viclip", own_updates),
            )
        if arp is not None and self.start.language is not None:
            spoken = {"language": canonical_json(self.start.language.describe())}
            save_arp(
                files["arp"],
                arp,
                step=step,
                metrics=metrics,
                trained=self._learnt("arp", own_updates),
                extra=self._extra("arp", own_updates) | spoken,
            )
        if heads is not None:
            save_heads(self.heads(step), heads, {"training": self.name, "step": step})

    def check(self, steps: Sequence[int]) -> None:
        """Raise CheckpointError when a checkpoint of `steps` is missing or of another training."""
        for step in steps:
            for path in self.files(step):
                if not path.is_file():
                    raise CheckpointError(f"{path}: is missing, but its training wrote it; {self._way_out()}")
                self._check_digest(read_metadata(path).get("config_hash"), path)

    def check_no_foreign_checkpoints(self) -> None:
        """Raise ConfigError when checkpoints exist under this name without a record of a training."""
        for part in self.parts:
            held = self.run.checkpoints(model_of_training(part, self.name))
            if held:
                raise ConfigError(
                    f"{held[0].path.parent} holds {len(held)} checkpoints, but {self.folder} has no record of their "
                    "training, so they would be overwritten. Give the training another --name, or remove them"
                )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note that the training is finished."""
        content = {"config_hash": self.job.digest, **result}
        write_text(self.folder / _RESULT_NAME, json.dumps(content, indent=2, allow_nan=False))

    def finished(self) -> dict[str, Any] | None:
        """Return the record of `finish`; None when the training is not finished."""
        path = self.folder / _RESULT_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({error}); {self._way_out()}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: damaged (not an object); {self._way_out()}")
        self._check_digest(content.get("config_hash"), path)
        return content

    def _check_digest(self, found: Any, path: Path) -> None:
        self.job.check_digest(found, path, remedy=self._way_out(), error=CheckpointError)

    def _learnt(self, part: str, own_updates: Mapping[str, int]) -> bool:
        return self.start.trained[part] or own_updates.get(part, 0) > 0

    def _extra(self, part: str, own_updates: Mapping[str, int]) -> dict[str, str]:
        return {
            "training": self.name,
            "config_hash": self.job.digest,
            "updates": str(own_updates.get(part, 0)),
        }

    def _check_finite(self, weights: Mapping[str, Tensor], part: str, step: int) -> None:
        try:
            check_finite(weights, path=self.run.checkpoint(model_of_training(part, self.name), step))
        except CheckpointError as error:
            raise TrainingError(
                f"training {self.name!r} has diverged at step {step}: {error} Nothing was written; checkpoints of "
                "earlier steps are kept. Lower the learning rate or clip gradients, under another --name"
            ) from error

    def _way_out(self) -> str:
        return f"to train again, remove {self.folder} and the checkpoints of {self.name!r}, or give another --name"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock `folder` for training; it is created if needed, and the lock is freed when the process ends.

    Raises ConfigError when another process holds the lock.
    """
    with exclusive(
        folder / ".lock",
        folder,
        doing="training into this folder",
        remedy="wait for it, or give this training a --name of its own",
    ):
        yield
