"""The episode loop: a policy acts in a world until the episode is over."""

from collections.abc import Callable
from dataclasses import dataclass

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.environment import MAX_STEPS, Environment, KeyPose, Observation, Reason
from mnprobe.worlds.policy import Policy

__all__ = ["Played", "play"]


@dataclass(frozen=True, kw_only=True)
class Played:
    """How an episode went: its instructions, the key poses executed, and how it ended (`reason`, never empty)."""

    instructions: tuple[str, ...]
    steps: int
    reason: Reason

    @property
    def success(self) -> bool:
        """Whether the task was solved."""
        return self.reason == "success"


def play(
    world: Environment,
    policy: Policy,
    begin: Callable[[], Observation],
    *,
    seed: int,
    max_steps: int = MAX_STEPS,
) -> Played:
    """Play one episode; `world.frames()` returns it afterwards.

    An action that is none (numbers that are not finite, a quaternion of another length than 1) ends the episode as
    "invalid action"; it is not executed and not counted.

    Args:
        world: where.
        policy: who.
        begin: resets the world.
        seed: of the policy's own draws.
        max_steps: key poses after which the episode is a failure, at most MAX_STEPS.

    Raises:
        ConfigError: for what cannot be asked of this world, or a policy that answers with anything but key poses.
    """
    if not 1 <= max_steps <= MAX_STEPS:
        raise ConfigError(f"an episode has 1 to {MAX_STEPS} steps, got max_steps {max_steps}")
    observation = begin()
    instructions = observation.instructions
    policy.start(observation, seed)
    for step in range(max_steps):
        pose = _sound(policy.act(observation), policy)
        if pose is None:
            return Played(instructions=instructions, steps=step, reason="invalid action")
        result = world.step(pose)
        observation = result.observation
        if result.done:
            return Played(instructions=instructions, steps=step + 1, reason=result.reason or "step limit")
    return Played(instructions=instructions, steps=max_steps, reason="step limit")


def _sound(pose: object, policy: Policy) -> KeyPose | None:
    """Return the pose with a quaternion of length exactly 1; None if it is not a pose."""
    if not isinstance(pose, KeyPose):
        raise ConfigError(f"policy {policy.name!r} answered with a {type(pose).__name__}; act() returns a KeyPose")
    try:
        return KeyPose.from_action(pose.to_action())
    except (ConfigError, ValueError):
        return None
