"""Initial weights of a training, and activation checkpointing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mnprobe.core.errors import ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.seeds import derived_seed
from mnprobe.features.inputs import language_encoder_for
from mnprobe.features.selection import inspect_checkpoint
from mnprobe.models.arp import load_arp
from mnprobe.models.clip import PolicyLanguage
from mnprobe.models.untrained import untrained_arp, untrained_viclip
from mnprobe.models.viclip import ViCLIP, load_viclip
from mnprobe.probe.heads import AlignmentHeads
from mnprobe.training.config import TrainConfig
from mnprobe.training.model import JointModel

__all__ = ["InitialModels", "check_initial_weights", "initial_models", "recompute_blocks"]


def recompute_blocks(viclip: ViCLIP) -> None:
    """Enable activation checkpointing in every block of the video encoder.

    Numbers, gradients and weight names do not change; an update takes about a third more time. ViCLIP's own training
    does the same (specs/viclip.md section 2).

    Raises:
        ConfigError: with stochastic depth, whose random numbers would differ in the second pass.
    """
    if viclip.config.stochastic_depth > 0:
        raise ConfigError(
            f"recompute does not go with a stochastic depth of {viclip.config.stochastic_depth}: the second pass would "
            "leave out other tokens. Set one of them to 0"
        )
    for block in viclip.vision_encoder.transformer.resblocks:
        block.__dict__["forward"] = partial(_twice, block.forward)


def _twice(forward: Callable[..., Tensor], x: Tensor, **options: Any) -> Tensor:
    out: Tensor = checkpoint(forward, x, use_reentrant=False, **options)
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialModels:
    """The models at step 0.

    Attributes:
        config: configuration of the training, with the actual model sizes.
        model: the models and heads, on the CPU, in training mode.
        language: the policy's language encoder; None without a policy.
        origin: source of the initial weights of each part, for provenance and to identify the training.
        trained: by part, whether the initial weights were trained before.
    """

    config: TrainConfig
    model: JointModel
    language: PolicyLanguage | None
    origin: dict[str, Any]
    trained: dict[str, bool]


def check_initial_weights(config: TrainConfig, viclip: Path | None, arp: Path | None, language: Path | None) -> None:
    """Raise ConfigError when weights of a side are given that is not trained."""
    for side, path, option, used in (
        ("execution", viclip, "--viclip", config.trains_viclip),
        ("understanding", arp, "--arp", config.trains_arp),
        ("understanding", language, "--language-weights", config.trains_arp),
    ):
        if path is not None and not used:
            raise ConfigError(f"{option} {path}: only the {side} side is trained, which does not use it; leave it out")


def initial_models(
    config: TrainConfig,
    *,
    viclip: Path | None = None,
    arp: Path | None = None,
    language_weights: Path | None = None,
) -> InitialModels:
    """Build the models of a training; sizes come from weights files where given, else from `config`.

    Random initial weights come from the seed, with a separate stream per model: a model that is trained alone starts
    from the same weights as in a joint training.

    Raises:
        CheckpointError: a missing, damaged or foreign file, or a language encoder that does not fit the policy.
        ConfigError: a file of a side that is not trained.
    """
    check_initial_weights(config, viclip, arp, language_weights)
    origin: dict[str, Any] = {}
    trained: dict[str, bool] = {}
    video = policy = language = heads = None
    if config.trains_viclip:
        drawn = derived_seed(config.seed, "viclip")
        video = load_viclip(viclip) if viclip is not None else untrained_viclip(config.viclip_config(), drawn)
        origin["viclip"], trained["viclip"] = _origin(viclip)
        with torch.no_grad():
            video.temp.fill_(config.temperature)  # the encoder of the training; no optimizer updates it
        config = replace(config, viclip=video.config)
    if config.trains_arp:
        drawn = derived_seed(config.seed, "arp")
        policy = load_arp(arp) if arp is not None else untrained_arp(config.arp_config(), drawn)
        origin["arp"], trained["arp"] = _origin(arp)
        config = replace(config, arp=policy.config)
        language = language_encoder_for(
            policy.config, weights=language_weights, seed=config.language_seed, checkpoint=arp
        )
        origin["language"] = language.describe()
    if video is not None and policy is not None and config.aligns:
        heads = AlignmentHeads(
            video.config.embed_dim,
            policy.config.width,
            dim=config.dim,
            kind=config.heads,
            depth=config.head_depth,
            generator=torch.Generator().manual_seed(derived_seed(config.seed, "heads")),
        )
    if video is not None and config.recompute:
        recompute_blocks(video)
    model = JointModel(viclip=video, arp=policy, heads=heads).train()
    return InitialModels(config=config, model=model, language=language, origin=origin, trained=trained)


def _origin(path: Path | None) -> tuple[str, bool]:
    if path is None:
        return "seed", False
    return f"sha256:{sha256_file(path)}", inspect_checkpoint(path).trained
