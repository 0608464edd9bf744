"""Names of RLBench and PyRep that are used, imported at launch only."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import import_object

__all__ = ["Api", "load_api"]

_PLACES = {
    "pyrep": "pyrep:PyRep",
    "render_mode": "pyrep.const:RenderMode",
    "object_type": "pyrep.const:ObjectType",
    "shape": "pyrep.objects.shape:Shape",
    "path_error": "pyrep.errors:ConfigurationPathError",
    "ik_error": "pyrep.errors:IKError",
    "camera_config": "rlbench.observation_config:CameraConfig",
    "observation_config": "rlbench.observation_config:ObservationConfig",
    "arm": "rlbench.action_modes.arm_action_modes:EndEffectorPoseViaPlanning",
    "gripper": "rlbench.action_modes.gripper_action_modes:Discrete",
    "both": "rlbench.action_modes.action_mode:MoveArmThenGripper",
    "environment": "rlbench.environment:Environment",
    "task_class": "rlbench.backend.utils:task_file_to_task_class",
    "action_error": "rlbench.backend.exceptions:InvalidActionError",
    "task_error": "rlbench.backend.exceptions:TaskEnvironmentError",
}


@dataclass(frozen=True, kw_only=True)
class Api:
    """What is called, by what it is for. tests/worlds/rlbench/real_signatures.json lists the names and arguments."""

    pyrep: Callable[..., Any]
    render_mode: Any
    object_type: Any
    shape: Callable[..., Any]
    path_error: type[Exception]
    ik_error: type[Exception]
    camera_config: Callable[..., Any]
    observation_config: Callable[..., Any]
    arm: Any
    gripper: Callable[..., Any]
    both: Callable[..., Any]
    environment: Callable[..., Any]
    task_class: Callable[[str], Any]
    action_error: type[Exception]
    task_error: type[Exception]

    @property
    def unreachable(self) -> tuple[type[Exception], ...]:
        """What a planner or inverse kinematics raises."""
        return self.path_error, self.ik_error

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What the reference evaluators count as a failed episode of reward 0; anything else they let through."""
        return self.action_error, *self.unreachable


def load_api() -> Api:
    """Import all of it.

    Raises:
        ConfigError: naming what cannot be imported, or that this is upstream's RLBench, whose actions have 8 numbers.
            The mark is the method `action` of the arm mode: the forks' takes `ignore_collisions`, upstream's does
            not. The constructor is no mark: `collision_checking` is an argument of both.
    """
    api = Api(**{field.name: import_object(_PLACES[field.name], kind="part of RLBench") for field in fields(Api)})
    if "ignore_collisions" not in inspect.signature(api.arm.action).parameters:
        raise ConfigError(
            "this is upstream's RLBench, whose actions have 8 numbers; PerAct's, RVT's and ARP's have 9. "
            "Install the fork that docs/rlbench.md names"
        )
    return api
