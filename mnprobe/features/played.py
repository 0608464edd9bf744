"""The episodes that policies of a run played themselves, and which checkpoints belong to each folder of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir, step_of
from mnprobe.data import OUTCOMES_FILE
from mnprobe.features.plan import ModelChoice, choose_models
from mnprobe.worlds.rollout import read_rollout

__all__ = ["Played", "played_choices"]

_PIXELS = "pixels"


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes of one policy at one training step, and the models to extract from them."""

    folder: Path
    policy: ModelChoice
    choices: tuple[ModelChoice, ...]


def played_choices(run: RunDir, models: Sequence[str], say: Callable[[str], None]) -> list[Played]:
    """For each folder rollouts/<model>/step_<number> of a run: the ARP checkpoint that played, and its companions.

    Companions are the ViCLIP checkpoints of the same training and step; pixels of these episodes, when `models` names
    them. `models` are kinds ("arp", "viclip", "pixels") or names of models in the run; all checkpoints when empty.
    Which checkpoint played is told by the SHA-256 of its weights. Folders of other policies (the expert, an ARP that
    was told nothing, weights that are no longer in the run) are left out, and `say` is told why.

    Raises ConfigError when there are no such episodes, or a model is unknown or cannot be meant.
    """
    folders = [folder for folder in sorted(run.rollouts.glob("*/step_*")) if (folder / OUTCOMES_FILE).is_file()]
    checkpoints = choose_models(run, (), ()) if run.checkpoints() else []
    wanted = _wanted(models, checkpoints)
    by_weights: dict[str, list[ModelChoice]] = {}
    for choice in checkpoints:
        if choice.kind == "arp" and choice.checkpoint is not None:
            by_weights.setdefault(choice.checkpoint.sha256, []).append(choice)
    found: list[Played] = []
    taken: dict[tuple[str, int], Path] = {}
    for folder in folders:
        policy = _policy(folder, by_weights, say)
        if policy is None:
            continue
        choices = []
        for choice in (policy, *_companions(policy, checkpoints, _PIXELS in models, say)):
            if not wanted(choice):
                continue
            other = taken.setdefault((choice.folder, choice.step), folder)
            if other != folder:
                say(f"{folder}: {choice.name} is left out, as it is extracted from {other}; both would be one store")
                continue
            choices.append(choice)
        if choices:
            found.append(Played(folder=folder, policy=policy, choices=tuple(choices)))
    if not found:
        why = f"{len(folders)} folders hold none that a checkpoint of ARP played" if folders else "it has none"
        raise ConfigError(
            f"--source rollouts: episodes that the policies of run {run.path} played are needed, but {why}. "
            f"`{command_line('rollout', run=run.path)}` plays them; --data names others"
        )
    return found


def _wanted(models: Sequence[str], checkpoints: Sequence[ModelChoice]) -> Callable[[ModelChoice], bool]:
    known = {"arp", "viclip", _PIXELS, *(choice.name for choice in checkpoints)}
    for model in models:
        if model not in known:
            raise unknown_name("model of played episodes (give --data for any other):", model, sorted(known))
    return lambda choice: not models or choice.kind in models or choice.name in models


def _policy(folder: Path, by_weights: dict[str, list[ModelChoice]], say: Callable[[str], None]) -> ModelChoice | None:
    manifest = read_rollout(folder)
    policy = manifest.get("policy")
    policy = policy if isinstance(policy, dict) else {}
    if policy.get("from") != "arp" or policy.get("blank_instruction"):
        how = "an ARP that was told nothing" if policy.get("from") == "arp" else f"policy {policy.get('name')!r}"
        say(f"{folder}: was played by {how}, so it is left out")
        return None
    same = by_weights.get(str(manifest.get("checkpoint_sha256")), [])
    name, step = folder.parent.name, step_of(folder.name)
    for choice in (*(one for one in same if one.name == name), *same):
        if choice.step == step:
            return choice
    say(f"{folder}: was played by weights that the run has no longer, so it is left out")
    return None


def _companions(
    policy: ModelChoice, checkpoints: Sequence[ModelChoice], pixels: bool, say: Callable[[str], None]
) -> list[ModelChoice]:
    training = policy.training
    of_training = [one for one in checkpoints if one.kind == "viclip" and one.training == training]
    watching = [one for one in of_training if one.step == policy.step]
    if of_training and not watching:
        where = f" of training {training!r}" if training else ""
        say(f"{policy.name} step {policy.step}: no ViCLIP checkpoint{where} at this step watches its episodes")
    if pixels:
        watching.append(ModelChoice(kind=_PIXELS, name=_PIXELS, step=policy.step, beside=training))
    return watching
