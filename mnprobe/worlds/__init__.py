"""Where actions are carried out: the environment protocol, the embedded tabletop, the live RLBench."""

from mnprobe.worlds.demos import DemosConfig, WrittenDemos, write_demos
from mnprobe.worlds.environment import (
    MAX_STEPS,
    WORLDS,
    Environment,
    KeyPose,
    Observation,
    Reason,
    Situation,
    StepResult,
    TaskInfo,
    make_world,
)

__all__ = [
    "MAX_STEPS",
    "WORLDS",
    "DemosConfig",
    "Environment",
    "KeyPose",
    "Observation",
    "Reason",
    "Situation",
    "StepResult",
    "TaskInfo",
    "WrittenDemos",
    "make_world",
    "write_demos",
]
