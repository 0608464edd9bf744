"""Joint training: L = L_AU + lambda_EE L_EE + lambda_align L_align."""

from mnprobe.training.config import PRESETS, SOURCES, TrainConfig, preset
from mnprobe.training.dataset import Language, TrainingInputs, prepare_inputs
from mnprobe.training.metrics_log import read_metrics
from mnprobe.training.model import (
    JointModel,
    StepInputs,
    StepOutput,
    StepSettings,
    gather_with_gradient,
    mean_over_team,
)
from mnprobe.training.optimizers import NamedOptimiser, OptimiserConfig, build_optimisers, rate_at
from mnprobe.training.sampler import Draw, Draws, Feed, draw_noise, part
from mnprobe.training.trainer import TrainResult, train

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
