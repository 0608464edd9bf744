"""Joint training: L = L_AU + lambda_EE L_EE + lambda_align L_align, with the very heads and loss of the probe."""

from mnprobe.probe.joint.config import TrainConfig
from mnprobe.probe.joint.draws import Draw, Draws, part
from mnprobe.probe.joint.feed import Feed
from mnprobe.probe.joint.gather import gather_with_gradient, mean_over_team
from mnprobe.probe.joint.inputs import Language, TrainingInputs, prepare_inputs
from mnprobe.probe.joint.log import read_metrics
from mnprobe.probe.joint.loop import TrainResult, train
from mnprobe.probe.joint.noise import draw_noise
from mnprobe.probe.joint.objective import JointModel, StepInputs, StepOutput, StepSettings
from mnprobe.probe.joint.optimise import NamedOptimiser, OptimiserConfig, build_optimisers, rate_at
from mnprobe.probe.joint.presets import PRESETS, SOURCES, preset

__all__ = [
    "PRESETS",
    "SOURCES",
    "Draw",
    "Draws",
    "Feed",
    "JointModel",
    "Language",
    "NamedOptimiser",
    "OptimiserConfig",
    "StepInputs",
    "StepOutput",
    "StepSettings",
    "TrainConfig",
    "TrainResult",
    "TrainingInputs",
    "build_optimisers",
    "draw_noise",
    "gather_with_gradient",
    "mean_over_team",
    "part",
    "prepare_inputs",
    "preset",
    "rate_at",
    "read_metrics",
    "train",
]
