"""Models with seeded random weights: the step-0 control."""

from pathlib import Path

import torch

from mnprobe.core.registry import unknown_name
from mnprobe.core.seeds import check_seed
from mnprobe.models.arp import ARP, ARPConfig, save_arp
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

__all__ = ["PRESETS", "untrained_arp", "untrained_viclip", "write_untrained"]

PRESETS = {"viclip": ("tiny", "b16", "l14"), "arp": ("tiny", "arp", "arp_plus")}
"""Names of sizes, by model."""


def untrained_viclip(size: str | ViCLIPConfig, seed: int) -> ViCLIP:
    """Build a ViCLIP of a preset or configuration, with random weights from `seed`; ConfigError for an unknown preset.

    >>> untrained_viclip("tiny", 0).encode_video(torch.zeros(1, 4, 3, 96, 96)).shape
    torch.Size([1, 64])
    """
    config: ViCLIPConfig = getattr(ViCLIPConfig, _known("viclip", size))() if isinstance(size, str) else size
    return ViCLIP(config, generator=_generator(seed))


def untrained_arp(size: str | ARPConfig, seed: int) -> ARP:
    """Build an ARP of a preset or configuration, with random weights from `seed`; ConfigError for an unknown preset."""
    config: ARPConfig = getattr(ARPConfig, _known("arp", size))() if isinstance(size, str) else size
    policy = ARP(config)
    policy.init_weights(_generator(seed))
    return policy


def write_untrained(path: Path, model: str, preset: str, seed: int) -> None:
    """Write a step-0 checkpoint of `model` ("viclip" or "arp"); the same preset and seed give the same bytes."""
    origin = {"size": preset, "seed": str(seed)}
    if model == "viclip":
        viclip = untrained_viclip(preset, seed)
        save_checkpoint(path, viclip.state_dict(), model=model, config=viclip.config.to_dict(), step=0, extra=origin)
    elif model == "arp":
        save_arp(path, untrained_arp(preset, seed), step=0, extra=origin)
    else:
        raise unknown_name("model", model, list(PRESETS))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(check_seed(seed))


def _known(model: str, preset: str) -> str:
    if preset not in PRESETS[model]:
        raise unknown_name(f"preset of {model}", preset, list(PRESETS[model]))
    return preset
