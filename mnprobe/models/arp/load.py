"""Reading and writing the weights of ARP: the published files and our own."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.model import ARP
from mnprobe.models.loading import (
    check_strict,
    detect_model,
    load_into,
    on_meta,
    read_config,
    read_metadata,
    read_state_dict,
    save_checkpoint,
    shapes_of,
)

__all__ = ["ZeroGateWarning", "load_arp", "recognise_arp", "save_arp"]


class ZeroGateWarning(UserWarning):
    """All modulation layers of a loaded policy are exactly zero: its screen-point states do not depend on the image."""


def load_arp(
    path: str | Path,
    config: ARPConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> ARP:
    """A policy with the weights of a file, in `eval` mode.

    Args:
        path: a published file (`arp_model_80000.pth`, `arp_plus_model_70000.pth`; weights under "model_state") or
            another with their names, or a checkpoint of mnprobe.
        config: sizes and settings. By default those in the file, or the released variant of equal sizes. If given, it
            replaces the file's own; its sizes must match.
        device: target device. Its weights are float32; use `torch.autocast` for less.
    Raises:
        CheckpointError: a missing, damaged or refused file, another model's file, sizes of no released variant without
            `config`, missing, unexpected, misshapen or non-finite weights.
    Warns:
        ZeroGateWarning: all modulation layers are zero although the file is not marked as untrained.
    """
    path = Path(path)
    stored = read_config(path, model="arp")
    state = read_state_dict(path)
    if config is None and stored is not None:
        try:
            config = ARPConfig.from_dict(stored)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its configuration cannot be used: {error}") from error
    if config is None:
        config = recognise_arp(state, path=path)
    policy = _empty(config)
    load_into(policy, state, path=path, model="arp", dtype=torch.float32, device=device)
    if policy.zero_gates() and read_metadata(path).get("trained") != "false":
        warnings.warn(
            f"{path}: all modulation layers (adaLN_modulation) are exactly zero. The conditioned blocks do nothing, "
            "and the screen-point states are constants that know nothing of the image: do not use the 'screen' tap.",
            ZeroGateWarning,
            stacklevel=2,
        )
    return policy.eval()


def recognise_arp(found: Mapping[str, Tensor], *, path: str | Path) -> ARPConfig:
    """The released variant (`arp` or `arp_plus`) whose names and shapes `found` has.

    The weights do not show whether a norm precedes the modulation; the variant determines it.

    Raises:
        CheckpointError: another model's weights; or ARP weights of other sizes, which need a configuration.
    """
    variants = {"arp": ARPConfig.arp(), "arp_plus": ARPConfig.arp_plus()}
    expected = {name: shapes_of(_empty(config)) for name, config in variants.items()}
    if detect_model(found) != "arp":
        check_strict(expected["arp"], found, path=path, model="arp")
    # Decided by the two differing sizes, so that a damaged file of a variant gets a specific error.
    marks = {name: (_blocks(shapes), _upsampler(shapes), _width(shapes)) for name, shapes in expected.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    mark = (_blocks(shapes), _upsampler(shapes), _width(shapes))
    for name, config in variants.items():
        if marks[name] == mark:
            return config
    raise CheckpointError(
        f"{path}: ARP weights, but of neither released variant: found {mark[0]} blocks, {mark[1]} channels in the "
        f"heatmap head and width {mark[2]}; "
        + "; ".join(f"{name} has {blocks}, {channels} and {width}" for name, (blocks, channels, width) in marks.items())
        + ". Give the configuration they were made with: --config FILE.json, or load_arp(path, config=ARPConfig(...))."
    )


def save_arp(
    path: str | Path,
    policy: ARP,
    *,
    step: int,
    metrics: Mapping[str, float] | None = None,
    trained: bool | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a policy's weights with its configuration as safetensors, atomically; `load_arp` reads them.

    Args:
        path: file to write.
        policy: any device; its own configuration is stored.
        step: optimiser steps so far, 0 for fresh weights.
        metrics: numbers measured at this step.
        trained: whether the weights are trained; by default whether `step` is above 0.
        extra: more metadata, text only.
    """
    config = policy.config.to_dict()
    save_checkpoint(
        path, policy.state_dict(), model="arp", config=config, step=step, metrics=metrics, trained=trained, extra=extra
    )


def _empty(config: ARPConfig) -> ARP:
    """Build a policy on the meta device."""
    with on_meta():
        return ARP(config)


def _blocks(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return len({name.split(".")[2] for name in shapes if name.startswith("policy.blocks.")})


def _upsampler(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return _first(shapes, "policy.token_predictors.1.upsample.net_out.0.weight")


def _width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return _first(shapes, "policy.final_ln.weight")


def _first(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    shape = shapes.get(name, ())
    return shape[0] if shape else 0
