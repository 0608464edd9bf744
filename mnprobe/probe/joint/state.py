"""Where a training stands: its recorded configuration, and the state that it goes on from."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.files import whole_file, write_text
from mnprobe.core.provenance import canonical_json, config_hash, differences, now, versions

__all__ = [
    "CONFIG_NAME",
    "STATE_NAME",
    "TrainState",
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
    """What a training needs to go on, beside its configuration: no random state is among it.

    Attributes:
        update: updates done.
        model: weights of all parts, by the names of the joint model.
        optimisers: by optimiser, its `state_dict`.
        own_updates: by part ("viclip", "arp", "heads"), the steps that its optimiser made.
        window: sums and counts of the losses since the last row of the table.
        latest: the last means that went into the table, by name.
        seconds: time spent in updates, and in waiting for data, over all processes that worked on it one after another.
    """

    update: int
    model: Mapping[str, Tensor]
    optimisers: Mapping[str, dict[str, Any]]
    own_updates: dict[str, int]
    window: dict[str, tuple[float, int]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"total": 0.0, "waiting": 0.0})


def write_record(folder: Path, asked: Mapping[str, Any]) -> None:
    """Record in `folder` what is asked of the training that begins there."""
    made = {"at": now(), **versions("torch", "numpy")}
    write_text(folder / CONFIG_NAME, json.dumps({"asked": asked, "made": made}, indent=2, allow_nan=False))


def matches_record(folder: Path, asked: Mapping[str, Any], *, name: str) -> bool:
    """Whether a training was begun in `folder`, with this very configuration.

    Raises ConfigError, with what differs, when it was begun with another one.
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
    """Write the state, whole or not at all, with the hash of the configuration that it belongs to."""
    content = {"format": _FORMAT, "config_hash": config_hash(dict(asked)), **vars(state)}
    with whole_file(folder / STATE_NAME) as part:
        torch.save(content, part)


def drop_state(folder: Path) -> None:
    """Remove the state of a finished training, which is the larger part of its folder."""
    (folder / STATE_NAME).unlink(missing_ok=True)


def load_state(folder: Path, asked: Mapping[str, Any], *, device: str) -> TrainState | None:
    """The state in `folder`, its tensors on `device`; None when there is none. Nothing in the file is run.

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
    """Put weights and optimiser states back.

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
