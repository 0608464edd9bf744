"""The policy protocol, and two references: expert and random."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import Registry, import_object
from mnprobe.worlds.environment import Environment, KeyPose, Observation

__all__ = ["POLICIES", "ExpertPolicy", "Policy", "PolicySpec", "RandomPolicy", "TracedPolicy", "make_policy"]

POLICIES = Registry("policy", "mnprobe.policies")
POLICIES.add("expert", "mnprobe.worlds.policy:ExpertPolicy")
POLICIES.add("random", "mnprobe.worlds.policy:RandomPolicy")
POLICIES.add("arp", "mnprobe.features.policy:ARPPlayer")

RANDOM_BOUNDS = ((-0.3, -0.5, 0.77), (0.7, 0.5, 1.6))
"""Where the random policy sends the hand: lower and upper x y z in metres, the workspace above the table top."""


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """What a policy is built from, once per process.

    Attributes:
        world: the world it will play in, for references that need to know what no camera shows; a policy that is to
            be judged leaves it alone.
        checkpoint: weights file, or None.
        options: the policy's own, e.g. `blank_instruction` and `language_weights` of ARP.
    """

    world: Environment
    checkpoint: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Policy(Protocol):
    """A policy plays one episode at a time: `start`, then `act` until the episode ends.

    What it does must follow from the observations, the seed and what it was built from, so that an episode is the same
    whichever process plays it, and whichever was played before. A key pose with numbers that are not finite, or with a
    quaternion of another length than 1, ends the episode as "invalid action".
    """

    name: str

    def describe(self) -> dict[str, Any]:
        """Settings that decide the actions, besides the weights: configuration, options; JSON values."""

    def start(self, observation: Observation, seed: int) -> None:
        """An episode begins; all random draws of the policy in it follow from `seed`."""

    def act(self, observation: Observation) -> KeyPose:
        """Where to go next."""


@runtime_checkable
class TracedPolicy(Policy, Protocol):
    """A policy that also gives the states of its network while it plays; see `mnprobe.worlds.trace`."""

    def act_traced(
        self, observation: Observation, layers: Sequence[str]
    ) -> tuple[KeyPose, Mapping[str, np.ndarray[Any, Any]]]:
        """The key pose that `act` gives, and arrays by name: the states in `layers` that led to it, among others."""

    def computation(self) -> dict[str, Any]:
        """What decides the last digits of the states, such as device and versions; JSON values."""


class ExpertPolicy:
    """The world's own scripted expert; it stays where it is when its key poses are used up."""

    name = "expert"

    def __init__(self, spec: PolicySpec) -> None:
        _takes_nothing(self.name, spec)
        self._world = spec.world
        self._left: list[KeyPose] = []

    def describe(self) -> dict[str, Any]:
        """Return only its name; the world is described separately."""
        return {"policy": self.name}

    def start(self, observation: Observation, seed: int) -> None:
        """Ask the expert; ConfigError where the world has none."""
        self._left = list(self._world.expert())

    def act(self, observation: Observation) -> KeyPose:
        """The expert's next key pose; staying in place after the last."""
        return self._left.pop(0) if self._left else _stay(observation)


class RandomPolicy:
    """Uniform places above the table, the hand pointing down with any yaw, fingers open or closed by a coin."""

    name = "random"

    def __init__(self, spec: PolicySpec) -> None:
        _takes_nothing(self.name, spec)
        self._draws = np.random.default_rng(0)

    def describe(self) -> dict[str, Any]:
        """Where it may send the hand."""
        return {"policy": self.name, "bounds": [list(corner) for corner in RANDOM_BOUNDS]}

    def start(self, observation: Observation, seed: int) -> None:
        """Reset the random generator to `seed`."""
        self._draws = np.random.default_rng(seed)

    def act(self, observation: Observation) -> KeyPose:
        """A draw that does not look."""
        half = self._draws.uniform(0, math.pi)  # half of the yaw
        return KeyPose(
            position=self._draws.uniform(*RANDOM_BOUNDS),
            quaternion=np.array([math.cos(half), math.sin(half), 0.0, 0.0]),
            gripper_open=bool(self._draws.integers(2)),
        )


def make_policy(name: str, spec: PolicySpec) -> Policy:
    """Build "expert", "random", "arp", a plugin's, or what `package.module:factory` makes when called with `spec`.

    Raises ConfigError for an unknown name, and when what was made is no policy.
    """
    build = import_object(name, kind="policy") if ":" in name else POLICIES.load(name)
    if not callable(build):
        raise ConfigError(f"policy {name!r} is a {type(build).__name__}; a function or class that makes one is needed")
    policy: Policy = build(spec)
    missing = [member for member in ("name", "describe", "start", "act") if not hasattr(policy, member)]
    if missing:
        raise ConfigError(
            f"policy {name!r} made a {type(policy).__name__} without {', '.join(missing)}; "
            "a policy has name, describe(), start(observation, seed) and act(observation)"
        )
    return policy


def _stay(observation: Observation) -> KeyPose:
    frame = observation.frame
    pose = np.asarray(frame.gripper_pose, dtype=np.float64)
    return KeyPose(position=pose[:3], quaternion=pose[3:], gripper_open=bool(frame.gripper_open))


def _takes_nothing(name: str, spec: PolicySpec) -> None:
    if spec.checkpoint is not None:
        raise ConfigError(f"policy {name!r} has no weights, so --checkpoint {spec.checkpoint} is not for it")
    if spec.options:
        raise ConfigError(f"policy {name!r} has no options, got {', '.join(spec.options)}")
