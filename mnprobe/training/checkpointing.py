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
from mnprobe.core.files import locked, whole_file, write_text
from mnprobe.core.provenance import canonical_json, config_hash, differences, now, versions
from mnprobe.core.rundir import RunDir, step_name
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
    "matches_record",
    "restore",
    "save_state",
    "write_record",
]

CONFIG_NAME = "config.json"
STATE_NAME = "state.pt"
_FORMAT = "mnprobe.training/1"
_SHOWN = 8  # differences listed in an error


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


def write_record(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write the requested configuration of a new training to `folder`."""
    made = {"at": now(), **versions("torch", "numpy")}
    write_text(folder / CONFIG_NAME, json.dumps({"asked": asked, "made": made}, indent=2, allow_nan=False))


def matches_record(folder: Path, asked: Mapping[str, Any], *, name: str) -> bool:
    """Return whether `folder` holds a training with exactly this configuration.

    Raises ConfigError, listing the differences, when its configuration is another one.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return False
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["asked"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as the record of a training ({error!r}); {_way_out(folder)}"
        ) from None
    found = differences(recorded, json.loads(canonical_json(dict(asked))))
    if found:
        shown = "\n".join(f"  {text}" for text in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"training {name!r} in {folder} was begun with another configuration:\n{shown}{more}\n"
            f"Run it with the options that it was begun with, or {_way_out(folder)}"
        )
    return True


def save_state(folder: Path, state: TrainState, asked: Mapping[str, Any]) -> None:
    """Write the state atomically, with the hash of its configuration."""
    content = {"format": _FORMAT, "config_hash": config_hash(dict(asked)), **vars(state)}
    with whole_file(folder / STATE_NAME) as part:
        torch.save(content, part)


def drop_state(folder: Path) -> None:
    """Remove the state of a finished training; it takes most of the space in the folder."""
    (folder / STATE_NAME).unlink(missing_ok=True)


def load_state(folder: Path, asked: Mapping[str, Any], *, device: str) -> TrainState | None:
    """Load the state in `folder`, tensors on `device`; None when there is none. No code in the file is executed.

    Raises CheckpointError for a damaged file or one of another training.
    """
    path = folder / STATE_NAME
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
    if content["config_hash"] != config_hash(dict(asked)):
        raise CheckpointError(
            f"{path}: belongs to another configuration than {folder / CONFIG_NAME} records; {_anew()}"
        )
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


def _way_out(folder: Path) -> str:
    return f"give the new one a --name of its own, or remove {folder} and its checkpoints to begin anew"


def _anew() -> str:
    return "remove it, and the same command trains from the start and writes the same checkpoints again"


_RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Keeper:
    """Write and check the checkpoints and result files of one training.

    Attributes:
        run: the run directory.
        name: name of the training; models are stored as `viclip-<name>` and `arp-<name>`.
        folder: folder of the training, `training/<name>` of the run.
        start: the models that are written to checkpoints.
        asked: the requested configuration, as recorded.
    """

    run: RunDir
    name: str
    folder: Path
    start: Start
    asked: Mapping[str, Any]

    @property
    def parts(self) -> tuple[str, ...]:
        """Models of which checkpoints are written."""
        model = self.start.model
        return tuple(name for name, part in (("viclip", model.viclip), ("arp", model.arp)) if part is not None)

    def files(self, step: int) -> tuple[Path, ...]:
        """Checkpoint files of one step."""
        return tuple(self.run.checkpoint(f"{part}-{self.name}", step) for part in self.parts)

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
        """Raise CheckpointError when a checkpoint of `steps` is missing or belongs to another training."""
        digest = config_hash(dict(self.asked))
        for step in steps:
            for path in self.files(step):
                if not path.is_file():
                    raise CheckpointError(f"{path}: is missing, but its training wrote it. {self._way_out()}")
                found = read_metadata(path).get("config_hash")
                if found != digest:
                    raise CheckpointError(
                        f"{path}: is of another training (configuration {found}, this one is {digest}). "
                        f"{self._way_out()}"
                    )

    def check_no_foreign_checkpoints(self) -> None:
        """Raise ConfigError when checkpoints exist under this name without a record of a training."""
        for part in self.parts:
            held = self.run.checkpoints(f"{part}-{self.name}")
            if held:
                raise ConfigError(
                    f"{held[0].path.parent} holds {len(held)} checkpoints, but {self.folder} has no record of their "
                    "training, so they would be overwritten. Give the training another --name, or remove them"
                )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record that the training is finished."""
        content = {"config_hash": config_hash(dict(self.asked)), **result}
        write_text(self.folder / _RESULT_NAME, json.dumps(content, indent=2, allow_nan=False))

    def finished(self) -> dict[str, Any] | None:
        """Return the record of `finish`; None when the training is not finished."""
        path = self.folder / _RESULT_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({error}). {self._way_out()}") from error
        if not isinstance(content, dict) or content.get("config_hash") != config_hash(dict(self.asked)):
            raise CheckpointError(f"{path}: belongs to another configuration. {self._way_out()}")
        return content

    def _learnt(self, part: str, own_updates: Mapping[str, int]) -> bool:
        return self.start.trained[part] or own_updates.get(part, 0) > 0

    def _extra(self, part: str, own_updates: Mapping[str, int]) -> dict[str, str]:
        return {
            "training": self.name,
            "config_hash": config_hash(dict(self.asked)),
            "updates": str(own_updates.get(part, 0)),
        }

    def _check_finite(self, weights: Mapping[str, Tensor], part: str, step: int) -> None:
        try:
            check_finite(weights, path=self.run.checkpoint(f"{part}-{self.name}", step))
        except CheckpointError as error:
            raise TrainingError(
                f"training {self.name!r} has diverged at step {step}: {error} Nothing was written; checkpoints of "
                "earlier steps are kept. Lower the learning rate or clip gradients, under another --name"
            ) from error

    def _way_out(self) -> str:
        return f"To train anew, remove {self.folder} and the checkpoints of {self.name!r}, or give another --name"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock `folder` for training; it is created if needed, and the lock is freed when the process ends.

    Raises ConfigError when another process holds the lock.
    """
    with locked(
        folder / ".lock",
        refuse=lambda who: ConfigError(
            f"{folder}: another process is training into this folder{who}; wait for it, or give this training a --name "
            "of its own"
        ),
    ):
        yield
