"""Traces of played episodes: states of the policy at each act, kept on disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mnprobe.core.errors import ConfigError
from mnprobe.core.files import whole_file
from mnprobe.core.provenance import canonical_json
from mnprobe.data import FrameData
from mnprobe.worlds.environment import KeyPose, Observation
from mnprobe.worlds.policy import Policy, TracedPolicy

__all__ = ["TRACES_FOLDER", "Trace", "Tracer", "check_traced", "read_trace", "trace_path", "write_trace"]

TRACES_FOLDER = ".traces"
"""Folder of the traces in a folder of rollouts; not part of the dataset."""

_SCHEMA = "mnprobe.trace/1"
_SEEN = "seen"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a policy saw and computed at each of the A acts of one episode.

    Attributes:
        seen: (A, 10) float64: gripper pose, gripper open and finger positions in the frame that the policy saw.
        arrays: by name, (A, ...) each.
    """

    seen: NDArray[np.float64]
    arrays: Mapping[str, NDArray[Any]]


class Tracer:
    """A policy that plays as the given one does, and keeps the trace of the present episode."""

    def __init__(self, policy: TracedPolicy, layers: Sequence[str]) -> None:
        self.name = policy.name
        self._policy = policy
        self._layers = tuple(layers)
        self._seen: list[NDArray[np.float64]] = []
        self._states: list[Mapping[str, NDArray[Any]]] = []

    def describe(self) -> dict[str, Any]:
        """As the policy."""
        return self._policy.describe()

    def start(self, observation: Observation, seed: int) -> None:
        """As the policy; the trace of the episode before is dropped."""
        self._seen, self._states = [], []
        self._policy.start(observation, seed)

    def act(self, observation: Observation) -> KeyPose:
        """As the policy."""
        pose, states = self._policy.act_traced(observation, self._layers)
        self._seen.append(seen_numbers(observation.frame))
        self._states.append(states)
        return pose

    def trace(self) -> Trace:
        """The trace of the episode so far, which has at least one act."""
        names = self._states[0]
        return Trace(
            seen=np.stack(self._seen),
            arrays={name: np.stack([state[name] for state in self._states]) for name in names},
        )


def seen_numbers(frame: FrameData) -> NDArray[np.float64]:
    """The numbers of a frame by which it is recognized among the recorded ones."""
    parts = (frame.gripper_pose, frame.gripper_open, frame.gripper_joint_positions)
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float64)


def check_traced(policy: Policy) -> TracedPolicy:
    """Return the policy; ConfigError where it does not give its states."""
    if not isinstance(policy, TracedPolicy):
        raise ConfigError(f"policy {policy.name!r} does not give its states (act_traced, computation); 'arp' does")
    return policy


def trace_path(folder: Path, task: str, number: int) -> Path:
    """File of the trace of one episode in a folder of rollouts."""
    return folder / TRACES_FOLDER / task / f"episode{number}.safetensors"


def write_trace(path: Path, trace: Trace, facts: Mapping[str, Any]) -> None:
    """Write a trace atomically, with `facts` about its origin as JSON values."""
    metadata = {"schema": _SCHEMA, "facts": canonical_json(dict(facts))}
    content = save({_SEEN: trace.seen, **{f"states/{name}": array for name, array in trace.arrays.items()}}, metadata)
    with whole_file(path) as part:
        part.write_bytes(content)


def read_trace(path: Path, facts: Mapping[str, Any]) -> Trace | None:
    """Read the trace that was written with the same facts; None where there is none, or a damaged one."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("schema") != _SCHEMA or json.loads(metadata["facts"]) != json.loads(
                canonical_json(dict(facts))
            ):
                return None
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    seen = arrays.pop(_SEEN, None)
    if seen is None or any(len(array) != len(seen) for array in arrays.values()):
        return None
    return Trace(seen=seen, arrays={name.removeprefix("states/"): array for name, array in arrays.items()})
