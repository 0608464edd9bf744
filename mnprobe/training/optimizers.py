"""Optimizers of joint training: parameter groups and learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from mnprobe.core.arrays import Array, Number, Whole, as_number, settle
from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import Lamb, learning_rate
from mnprobe.models.arp.optim import LambRule
from mnprobe.training.model import JointModel

__all__ = ["NamedOptimizer", "OptimizerConfig", "OptimizerSettings", "build_optimizers", "rate_at"]

Kind = Literal["adamw", "adam", "lamb"]
Schedule = Literal["cosine", "constant"]

_VIDEO_EMBEDDINGS = ("class_embedding", "positional_embedding", "temporal_positional_embedding")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule of one model.

    Raises:
        ConfigError: an unknown name, or a number out of range.
    """

    kind: Kind = "adamw"
    """"adamw" (decoupled decay), "adam" (decay as an L2 term of the gradient) or "lamb" (`models.arp.Lamb`)."""
    lr: Number = 1e-4
    """Peak learning rate."""
    rule: LambRule = "uncorrected"
    """Variant of LAMB, see `models.arp.Lamb`; ignored for other kinds."""
    betas: Array = (0.9, 0.999)
    weight_decay: Number = 0.0
    warmup: Whole = 0
    """Number of updates of the linear warm-up."""
    schedule: Schedule = "cosine"
    """Schedule after the warm-up: "cosine" decays to `floor`, "constant" stays at `lr`."""
    floor: Number = 0.01
    """Final value of the cosine, as a share of `lr`."""

    def __post_init__(self) -> None:
        settle(self, wholes=("warmup",), numbers=("lr", "weight_decay", "floor"))
        object.__setattr__(self, "betas", tuple(as_number(beta) for beta in self.betas))
        for name, known in (("kind", get_args(Kind)), ("rule", get_args(LambRule)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a number from 0, got {value!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be two numbers from 0 and below 1, got {self.betas!r}")
        if self.warmup < 0:
            raise ConfigError(f"warmup must be a number of updates from 0, got {self.warmup!r}")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor must lie in [0, 1], got {self.floor!r}")


@runtime_checkable
class OptimizerSettings(Protocol):
    """The part of a training configuration that `build_optimizers` uses."""

    @property
    def video(self) -> OptimizerConfig:
        """Optimizer of ViCLIP."""
        ...

    @property
    def policy(self) -> OptimizerConfig:
        """Optimizer of ARP."""
        ...

    @property
    def align(self) -> OptimizerConfig:
        """Optimizer of the alignment heads."""
        ...

    @property
    def text_share(self) -> float:
        """Learning rate of the text encoder relative to that of the video encoder; 0 freezes it."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedOptimizer:
    """The optimizer of one part of the joint model.

    Attributes:
        name: "viclip", "arp" or "heads".
        optimizer: each parameter group has a "name" and a "share", its factor on the part's learning rate.
        config: its configuration.
    """

    name: str
    optimizer: Optimizer
    config: OptimizerConfig

    def set_rate(self, update: int, updates: int) -> float:
        """Set the learning rate of every group for an update (from 0) of `updates`; return the rate of share 1."""
        rate = rate_at(self.config, update, updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate


def rate_at(config: OptimizerConfig, update: int, updates: int) -> float:
    """Learning rate at `update` (from 0) of `updates`: linear warm-up, then cosine or constant.

    The cosine is `models.arp.learning_rate`. For "lamb" it runs as in ARP's released training: its period is the number
    of all updates, counted from the end of the warm-up, so that training ends a little above the floor. For the other
    kinds it ends with the training.

    Source: specs/arp.md section 9.

    >>> config = OptimizerConfig(lr=1.0, warmup=10)
    >>> rate_at(config, 0, 100), rate_at(config, 10, 100), round(rate_at(config, 100, 100), 4)
    (0.1, 1.0, 0.01)
    """
    if not 0 <= update <= updates:
        raise ConfigError(f"update must lie between 0 and the number of all updates ({updates}), got {update!r}")
    period = updates if config.kind == "lamb" else updates - config.warmup
    floor = config.floor if config.schedule == "cosine" else 1.0
    return learning_rate(update, peak=config.lr, warmup=config.warmup, period=max(period, 1), floor=floor)


def build_optimizers(model: JointModel, config: OptimizerSettings) -> list[NamedOptimizer]:
    """Build the optimizers of the parts of `model`, in the order viclip, arp, heads.

    The video model has up to four groups: video and text encoder, each with and without weight decay (`no_decay`). Its
    `temp` is in no group, because the temperature is fixed. The policy and the heads have one group each.

    With `config.text_share` 0 the text encoder is frozen (requires_grad is False). Call this before the model is
    wrapped in DistributedDataParallel.

    Raises:
        ConfigError: `text_share` is not a number of at least 0.
    Source: specs/viclip.md sections 9 and 10; specs/arp.md section 9.
    """
    share = config.text_share
    if not (share >= 0 and math.isfinite(share)):
        raise ConfigError(f"text_share must be a number from 0, got {share!r}")
    optimizers: list[NamedOptimizer] = []
    if model.viclip is not None:
        model.viclip.text_encoder.requires_grad_(share > 0)
        groups = _groups("video", model.viclip.vision_encoder, 1.0, config.video.weight_decay)
        if share > 0:
            groups += _groups("text", model.viclip.text_encoder, share, config.video.weight_decay)
        optimizers.append(_named("viclip", groups, config.video))
    for name, part, settings in (("arp", model.arp, config.policy), ("heads", model.heads, config.align)):
        if part is not None:
            group = {"name": name, "share": 1.0, "params": list(part.parameters())}
            optimizers.append(_named(name, [group], settings))
    return optimizers


def _groups(name: str, encoder: nn.Module, share: float, decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without: vectors, scalars, position and class embeddings."""
    decaying: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for path, parameter in encoder.named_parameters():
        free = parameter.ndim <= 1 or path in _VIDEO_EMBEDDINGS
        (exempt if free else decaying).append(parameter)
    return [
        {"name": name, "share": share, "params": decaying, "weight_decay": decay},
        {"name": f"{name}-no-decay", "share": share, "params": exempt, "weight_decay": 0.0},
    ]


def _named(name: str, groups: list[dict[str, Any]], config: OptimizerConfig) -> NamedOptimizer:
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.kind == "lamb":
        optimizer: Optimizer = Lamb(groups, rule=config.rule, **options)
    else:
        optimizer = (AdamW if config.kind == "adamw" else Adam)(groups, fused=True, **options)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["share"]
    return NamedOptimizer(name=name, optimizer=optimizer, config=config)
