"""Which policies, at which checkpoints, a rollout means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir
from mnprobe.features.checkpoints import inspect_checkpoint, step_in_name

__all__ = ["PlayerChoice", "choose_players"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class PlayerChoice:
    """A policy with its weights; `name` is what its episodes are filed under."""

    name: str
    step: int = 0
    checkpoint: Path | None = None


def choose_players(
    run: RunDir | None,
    policy: str,
    checkpoints: Sequence[Path],
    *,
    name: str | None = None,
    models: Sequence[str] = (),
    blank: bool = False,
) -> list[PlayerChoice]:
    """From a policy's name and files to what plays.

    For "arp" without files: all ARP checkpoints of the run, or those of `models` ("arp-joint"). Other policies play
    with the given files, or without any.
    With `blank`, the name gets "-blank", so that a policy that is told nothing does not lie among those that are.

    Raises:
        ConfigError: weights that are not ARP's, none where they are needed, two files of one step, or a name that is no
            folder's.
        CheckpointError: a file that cannot be read.
    """
    if models and (policy != "arp" or checkpoints):
        raise ConfigError("--model chooses among the run's ARP checkpoints: leave out --checkpoint, play --policy arp")
    if policy == "arp":
        choices = [_arp_file(path, name or "arp") for path in checkpoints] or _arp_of_run(run, name, models)
    else:
        own = name or policy.rpartition(":")[2]
        choices = [PlayerChoice(name=own, step=step_in_name(path) or 0, checkpoint=path) for path in checkpoints]
        choices = choices or [PlayerChoice(name=own)]
    if blank:
        choices = [PlayerChoice(name=f"{c.name}-blank", step=c.step, checkpoint=c.checkpoint) for c in choices]
    seen: dict[tuple[str, int], PlayerChoice] = {}
    for choice in choices:
        if not _NAME.fullmatch(choice.name):
            raise ConfigError(f"{choice.name!r} cannot name a folder; give letters, digits, . _ - with --name")
        other = seen.setdefault((choice.name, choice.step), choice)
        if other is not choice:
            raise ConfigError(
                f"two checkpoints would be step {choice.step} of {choice.name!r}: {other.checkpoint} and "
                f"{choice.checkpoint}. Play them apart, with --name"
            )
    return choices


def _arp_file(path: Path, name: str) -> PlayerChoice:
    info = inspect_checkpoint(path)
    if info.kind != "arp":
        raise ConfigError(f"--checkpoint {path}: weights of {info.kind or 'no known model'}; --policy arp needs ARP's")
    return PlayerChoice(name=name, step=info.step, checkpoint=path)


def _arp_of_run(run: RunDir | None, name: str | None, models: Sequence[str]) -> list[PlayerChoice]:
    pieces = [piece for piece in run.checkpoints() if inspect_checkpoint(piece.path).kind == "arp"] if run else []
    if not pieces:
        where = f"run {run.path} has no checkpoints of ARP" if run else "there is no run"
        raise ConfigError(
            f"--policy arp needs weights, and {where}. Give --checkpoint FILE, or play with --policy expert or random"
        )
    known = sorted({piece.model for piece in pieces})
    for model in models:
        if model not in known:
            raise unknown_name("ARP model of the run", model, known)
    pieces = [piece for piece in pieces if not models or piece.model in models]
    return [PlayerChoice(name=name or piece.model, step=piece.step, checkpoint=piece.path) for piece in pieces]
