"""Whole trainings by name, and where each number of the paper's comes from."""

from collections.abc import Mapping
from dataclasses import replace

from mnprobe.core.registry import unknown_name
from mnprobe.models.arp import ARPConfig
from mnprobe.probe.joint.config import TrainConfig
from mnprobe.probe.joint.optimise import OptimiserConfig

__all__ = ["PRESETS", "SOURCES", "preset"]

_TABLETOP = (-0.1, -0.3, 0.7, 0.5, 0.3, 1.3)  # metres; where the tabletop's things are: a cube of 60 cm

_TINY = TrainConfig(
    viclip="tiny",
    arp=replace(ARPConfig.tiny(), bounds=_TABLETOP),
    updates=1000,
    batch=16,
    clips=48,
    understanding_share=0.2,
    temperature=0.05,
    text_share=1.0,
    video=OptimiserConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=50, floor=0.02),
    policy=OptimiserConfig(kind="adamw", lr=3e-3, weight_decay=1e-4, warmup=50, floor=0.02),
    align=OptimiserConfig(kind="adamw", lr=1e-3, weight_decay=0.0, warmup=50, floor=0.02),
    clip_norm=1.0,
    augment="none",
    colour_noise=False,
)

PRESETS: Mapping[str, TrainConfig] = {
    "tiny": _TINY,
    "small": replace(_TINY.with_updates(10_000), augment="shift"),
    "paper": TrainConfig(
        viclip="l14",
        arp="arp",
        updates=80_000,
        batch=192,
        clips=None,
        understanding_share=0.2,
        lambda_ee=1.0,
        lambda_align=0.5,
        pairing="instruction",
        positives="diagonal",
        tau=0.1,
        heads="linear",
        dim=1024,
        temperature=0.05,
        text_share=0.05,
        video=OptimiserConfig(
            kind="adamw", lr=1e-5, betas=(0.9, 0.98), weight_decay=0.2, warmup=2000, schedule="cosine", floor=0.01
        ),
        policy=OptimiserConfig(
            kind="lamb",
            lr=1.25e-5 * 192,
            rule="capped",
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            warmup=2000,
            schedule="cosine",
            floor=0.01,
        ),
        align=OptimiserConfig(kind="adam", lr=1e-4, weight_decay=0.0, warmup=0, schedule="constant"),
        clip_norm=None,
        augment="se3",
        colour_noise=True,
        precision="bf16",
        recompute=True,
        checkpoints=10_000,
    ),
}
"""tiny: minutes on two CPU cores; small: an hour on them, or minutes on a GPU; paper: the paper's own settings."""

SOURCES: Mapping[str, str] = {
    "viclip": "ViCLIP-L-14 of InternVid (paper 4.1 and C.1 name ViCLIP and its reference; specs/viclip.md 1)",
    "arp": "ARP with the multi-view transformer, 8 layers of width 128, MLP 512 (paper, table 5)",
    "updates": "80,000 train iterations (paper, table 5)",
    "batch": "96*2 = 192 (paper, table 5 and C.3)",
    "clips": "as many as transitions: the paper gives one batch size (C.3); our reading",
    "understanding_share": "20 % (paper, C.3: learning frequency); every fifth update is our reading",
    "lambda_ee": "1 (paper, 4.1)",
    "lambda_align": "0.5 (paper, 4.1)",
    "pairing": "same language instruction (paper, 4.1)",
    "positives": "the diagonal (paper, equation 2 as printed)",
    "tau": "0.1 (paper, 4.1)",
    "heads": "two linear layers (paper, 4.1)",
    "dim": "1024 (paper, 4.1)",
    "temperature": "0.05, fixed (paper, C.1)",
    "text_share": "5 % of the video encoder's rate (paper, 4.1)",
    "video.lr": "1e-5 (paper, 4.1)",
    "video.kind": "paper silent; AdamW as in ViCLIP's own training (specs/viclip.md 9)",
    "video.betas": "paper silent; (0.9, 0.98) as in ViCLIP's own training (specs/viclip.md 9)",
    "video.weight_decay": "paper silent; 0.2 as in ViCLIP's own training (specs/viclip.md 9)",
    "video.schedule": "paper silent; cosine down to 1 % as in ViCLIP's own training, with the policy's warm-up",
    "policy.kind": "LAMB (paper, table 5)",
    "policy.rule": "paper silent; the rule that the released ARP was trained with (specs/arp.md 9)",
    "policy.lr": "1.25e-5 (paper, table 5) per sample of the batch (specs/arp.md 9): 2.4e-3",
    "policy.betas": "(0.9, 0.999), as in ARP's own training (specs/arp.md 9)",
    "policy.weight_decay": "1e-4, as in ARP's own training (specs/arp.md 9)",
    "policy.schedule": "cosine (paper, table 5) to 1 % after 2,000 updates of warm-up (specs/arp.md 9)",
    "align.lr": "1e-4 (paper, 4.1)",
    "align.kind": "paper silent; Adam without decay at a constant rate, as in the probe",
    "augment": "shift by up to 12.5 % of the scene, yaw by up to 45 degrees, as in ARP's own training (specs/arp.md 2)",
    "colour_noise": "on, as in ARP's own training (specs/arp.md 2)",
    "camera": "videos from a front-facing perspective (paper, 4.1)",
    "frames_rule": "paper silent; the middle of equal parts, ViCLIP's rule for evaluation (specs/viclip.md 6)",
    "clip_norm": "none: neither ViCLIP's nor ARP's own training clips (specs/viclip.md 9, specs/arp.md 9)",
    "precision": "bfloat16 as in ViCLIP's own training; ARP's used float16 with a scaler (specs/arp.md 9)",
    "recompute": "paper silent; two GPUs of 80 GB could not hold it otherwise; ViCLIP's own training does it",
    "checkpoints": "evaluation every 10,000 iterations (paper, table 5)",
    "language_seed": "only without --language-weights; the paper's policy reads CLIP RN50 (specs/arp.md 11)",
    "seed": "paper silent",
}
"""Where each number of the preset "paper" comes from, by the name of the option."""


def preset(name: str) -> TrainConfig:
    """The training of this name.

    >>> preset("paper").policy.lr
    0.0024000000000000002

    Raises: ConfigError for an unknown name, with the nearest one.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]
