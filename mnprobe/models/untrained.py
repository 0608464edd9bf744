"""Models at step 0: the architectures at named sizes with seeded random weights, the control that every claim needs."""

from pathlib import Path

import torch

from mnprobe.core.registry import unknown_name
from mnprobe.models.arp import ARP, ARPConfig, save_arp
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

__all__ = ["SIZES", "untrained_arp", "untrained_viclip", "write_untrained"]

SIZES = {"viclip": ("tiny", "b16", "l14"), "arp": ("tiny", "arp", "arp_plus")}


def untrained_viclip(size: str, seed: int) -> ViCLIP:
    """ViCLIP of a named size with weights drawn from `seed`; ConfigError for an unknown size.

    >>> untrained_viclip("tiny", 0).encode_video(torch.zeros(1, 8, 3, 64, 64)).shape
    torch.Size([1, 64])
    """
    config: ViCLIPConfig = getattr(ViCLIPConfig, _known("viclip", size))()
    return ViCLIP(config, generator=torch.Generator().manual_seed(seed))


def untrained_arp(size: str, seed: int) -> ARP:
    """ARP of a named size with weights drawn from `seed`; ConfigError for an unknown size."""
    config: ARPConfig = getattr(ARPConfig, _known("arp", size))()
    policy = ARP(config)
    policy.init_weights(torch.Generator().manual_seed(seed))
    return policy


def write_untrained(path: Path, model: str, size: str, seed: int) -> None:
    """Write a step-0 checkpoint of `model` ("viclip" or "arp"); the same size and seed give the same bytes."""
    origin = {"size": size, "seed": str(seed)}
    if model == "viclip":
        viclip = untrained_viclip(size, seed)
        save_checkpoint(path, viclip.state_dict(), model=model, config=viclip.config.to_dict(), step=0, extra=origin)
    elif model == "arp":
        save_arp(path, untrained_arp(size, seed), step=0, extra=origin)
    else:
        raise unknown_name("model", model, list(SIZES))


def _known(model: str, size: str) -> str:
    if size not in SIZES[model]:
        raise unknown_name(f"size of {model}", size, list(SIZES[model]))
    return size
