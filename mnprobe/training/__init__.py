"""Joint training, and a recorder for training loops of users.

Joint training minimizes L = L_AU + lambda_EE L_EE + lambda_align L_align.
"""

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
from mnprobe.training.optimizers import NamedOptimizer, OptimizerConfig, build_optimizers, rate_at
from mnprobe.training.recorder import FeatureRecorder, StepAlignment
from mnprobe.training.sampler import BatchLoader, BatchRows, BatchSampler, sample_noise, shard
from mnprobe.training.trainer import TrainResult, train

__all__ = [
    "PRESETS",
    "SOURCES",
    "BatchLoader",
    "BatchRows",
    "BatchSampler",
    "FeatureRecorder",
    "JointModel",
    "Language",
    "NamedOptimizer",
    "OptimizerConfig",
    "StepAlignment",
    "StepInputs",
    "StepOutput",
    "StepSettings",
    "TrainConfig",
    "TrainResult",
    "TrainingInputs",
    "build_optimizers",
    "gather_with_gradient",
    "mean_over_team",
    "prepare_inputs",
    "preset",
    "rate_at",
    "read_metrics",
    "sample_noise",
    "shard",
    "train",
]
