"""Worlds: the environment protocol, the embedded tabletop, the live RLBench."""

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
    default_tasks,
    make_world,
    suite_tasks,
)
from mnprobe.worlds.outcomes import Outcome
from mnprobe.worlds.policy import POLICIES, Policy, PolicySpec, make_policy
from mnprobe.worlds.rollout import RolloutConfig, WrittenRollout, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan

__all__ = [
    "MAX_STEPS",
    "POLICIES",
    "WORLDS",
    "DemosConfig",
    "Environment",
    "KeyPose",
    "Observation",
    "Outcome",
    "Policy",
    "PolicySpec",
    "Reason",
    "RolloutConfig",
    "RolloutPlan",
    "Situation",
    "StepResult",
    "TaskInfo",
    "WrittenDemos",
    "WrittenRollout",
    "default_tasks",
    "make_policy",
    "make_world",
    "rollout",
    "suite_tasks",
    "write_demos",
]
