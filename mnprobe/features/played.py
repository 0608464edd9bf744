"""Features e that a policy gave while it played, written as extraction does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team, torch_threads
from mnprobe.data import Episode, RLBenchEpisode
from mnprobe.features.extraction import Extracted, Job, extracted, played_jobs, run_job
from mnprobe.features.extractors.arp import ARPExtractor, as_tokens
from mnprobe.features.extractors.base import EpisodeFeatures
from mnprobe.features.policy import BLANKED, SHOWN
from mnprobe.features.selection import CheckpointChoice, CheckpointQuery, select_checkpoints
from mnprobe.worlds.rollout import played_fact, trace_facts
from mnprobe.worlds.trace import Trace, read_trace, trace_path

__all__ = ["PlayedFeatures"]


class PlayedFeatures:
    """The stores of e, and of e without the instruction, of the episodes that ARP checkpoints of a run play.

    They are the stores that `extract` with the source "rollouts" and the model "arp" writes afterwards, with and
    without `blank_instruction`: `extract` then keeps them. Values are the states that the policy had (`ARPPlayer`),
    computed on one thread for one key-to-key step at a time; with other batches the last digits differ. Episodes
    without a valid trace, which were played before or elsewhere, are extracted from their images in the same way.

    Args:
        run: run directory.
        options: options of the policy; of these, the ones that the extractor has.
        note: called with messages for the user.
    """

    layers = ARPExtractor.default_layers
    """Layers to be traced while playing."""

    def __init__(self, run: RunDir, options: Mapping[str, Any], *, note: Callable[[str], None] | None = None) -> None:
        self._run = run
        self._options = {name: value for name, value in options.items() if name in ARPExtractor.option_defaults}
        self._device = str(options.get("device", "cpu"))
        self._note = note

    def check(self, players: Sequence[tuple[CheckpointChoice, Path]]) -> None:
        """Check, before episodes are played, that every player is a checkpoint of the run and no store is in the way.

        Args:
            players: each with the folder of its episodes, which may be missing.
        Raises: ConfigError, and FeatureError for stores of another configuration.
        """
        known = select_checkpoints(self._run, CheckpointQuery(purpose="extract", models=("arp",)))
        weights = {(choice.sha256, choice.step) for choice in known}
        for player, folder in players:
            if (player.sha256, player.step) not in weights:
                raise ConfigError(
                    f"--features: {player.path} is no ARP checkpoint of run {self._run.path} at step {player.step}, so "
                    f"features of its episodes have no place. Leave --features out, and extract them with "
                    f"`{command_line('extract', run=self._run.path, source='rollouts', data=folder)}`"
                )
        played_jobs(self._run, [folder for _, folder in players], options=self._options, device=self._device)

    def write(self, folder: Path, *, quiet: bool = True) -> list[Extracted]:
        """Write the two stores of the episodes in `folder`, of which finished ones are kept.

        Raises: as `extract`.
        """
        done = []
        for choice, job in played_jobs(
            self._run, [folder], options=self._options, device=self._device, note=self._note
        ):
            job = replace(job, given=partial(_given, folder, job, BLANKED if choice.id.blank else SHOWN))
            with torch_threads(1):
                status = run_job(job, Team(), quiet=quiet, note=self._note)
            done.append(extracted(choice, job, status))
        return done


def _given(folder: Path, job: Job, variant: str, episode: Episode) -> EpisodeFeatures | None:
    """Return the features of a traced episode; None where its trace is missing, or is of another episode."""
    if not isinstance(episode, RLBenchEpisode):
        return None
    path = trace_path(folder, episode.task, episode.number)
    trace = read_trace(path, trace_facts(played_fact(episode.folder), job.ran)) if path.is_file() else None
    states = {} if trace is None else {name: trace.arrays.get(f"{variant}/{name}") for name in job.asked["layers"]}
    if trace is None or any(values is None for values in states.values()) or not _is_recorded(trace, episode):
        return None
    steps = len(episode.steps())
    return EpisodeFeatures(
        layers={name: as_tokens(list(values[:steps])) for name, values in states.items() if values is not None}
    )


def _is_recorded(trace: Trace, episode: RLBenchEpisode) -> bool:
    """Whether the frames before each key-to-key step are those that the policy saw, act for act."""
    rows = [step.observed for step in episode.steps()]
    recorded = np.concatenate(
        [episode.gripper_pose[rows], episode.gripper_open[rows, None], episode.gripper_joint_positions[rows]], axis=1
    )
    return 0 < len(rows) <= len(trace.seen) and np.array_equal(recorded, trace.seen[: len(rows)])
